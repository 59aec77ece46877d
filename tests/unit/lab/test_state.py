"""The state folder: one agent at a time, and nothing in it that others may read."""

from pathlib import Path

import pytest

from cluster.errors import ConfigError, StartError
from cluster.lab.options import AgentOptions
from cluster.lab.state import State


def test_a_second_agent_of_the_same_folder_does_not_start(tmp_path: Path) -> None:
    with State(tmp_path), pytest.raises(StartError, match="another agent"), State(tmp_path):
        pass
    with State(tmp_path):
        pass


def test_a_token_is_kept_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    with State(tmp_path / "a") as state:
        assert state.read_token() == ""
        state.keep_token("s3cret")
    with State(tmp_path / "a") as state:
        assert state.read_token() == "s3cret"
        modes = [path.stat().st_mode & 0o077 for path in (state.folder, *state.folder.iterdir()) if path.name != "lock"]
    assert not any(modes)


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="state folder"), State(tmp_path / "file" / "below"):
        pass


def test_a_broken_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database" * 100)
    with pytest.raises(StartError, match="not a database"), State(tmp_path):
        pass


def test_a_name_makes_a_folder_of_its_own_wherever_it_points() -> None:
    folder = AgentOptions("http://h", "../../etc/x").folder
    assert folder.parent == Path.home() / ".local" / "state" / "agent-server"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"url": "ftp://h"}, "url"),
        ({"url": "localhost:8080"}, "url"),
        ({"name": ""}, "name"),
        ({"token": "a b"}, "token"),
        ({"max_tasks": 0}, "max_tasks"),
    ],
)
def test_options_that_cannot_work_are_named(fields: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=f"^{named}: "):
        AgentOptions(**{"url": "http://h", "name": "n", **fields})  # type: ignore[arg-type]


def test_a_token_does_not_show_when_options_are_printed() -> None:
    assert "s3cret" not in repr(AgentOptions("http://h", "n", token="s3cret"))
