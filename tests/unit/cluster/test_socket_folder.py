"""Where a launcher's Unix sockets lie, and what becomes of the folders of launchers that were killed."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cluster.socket_folder import folder_of_sockets

ROOT = Path(__file__).parents[3]
HOLD = """
from cluster.socket_folder import folder_of_sockets
with folder_of_sockets(None) as folder:
    print(folder, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, here and in processes that are started."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


class Holder:
    """Another process that holds a folder."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        self.folder = Path(self._process.stdout.readline().strip())

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def test_it_lies_in_the_data_directory_and_goes_with_its_context(place: Path) -> None:
    (place / "run").mkdir()
    (place / "run" / "n1.sock").touch()
    with folder_of_sockets(str(place)) as folder:
        assert (folder, list(folder.iterdir())) == (place / "run", [])
    assert not folder.exists()


@pytest.mark.parametrize("data_dir", [None, "/" + "x" * 90])
def test_without_a_short_data_directory_it_is_a_temporary_one_for_this_user_alone(
    place: Path, data_dir: str | None
) -> None:
    with folder_of_sockets(data_dir) as folder:
        assert folder.parent == place
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not list(place.iterdir())


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_holds_is_not() -> None:
    killed, alive = Holder(), Holder()
    try:
        (killed.folder / "n1.sock").touch()
        killed.kill()
        assert killed.folder.exists()
        with folder_of_sockets(None) as ours, folder_of_sockets(None):
            assert ours.exists()
            assert not killed.folder.exists()
            assert alive.folder.exists()
    finally:
        alive.kill()


def test_folders_that_are_not_known_to_be_ours_stay(place: Path) -> None:
    elsewhere = place / "elsewhere"
    for folder in (elsewhere, place / "agent-server-demo-1"):
        folder.mkdir()
    (elsewhere / "owner").touch()
    (place / "agent-server-link").symlink_to(elsewhere)
    (place / "agent-server-file").touch()
    before = sorted(place.rglob("*"))
    with folder_of_sockets(None):
        pass
    assert sorted(place.rglob("*")) == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a folder away")
def test_folders_of_another_user_stay(place: Path) -> None:
    theirs = place / "agent-server-theirs"
    theirs.mkdir()
    (theirs / "owner").touch()
    os.chown(theirs, 65534, 65534)
    with folder_of_sockets(None):
        assert theirs.exists()
