"""A program that is missing is noticed where it matters."""

from pathlib import Path

import pytest

from tests.support.required_tool import require_tool


@pytest.fixture(autouse=True)
def _empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def test_a_laptop_without_it_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no this-is-no-program"):
        require_tool("this-is-no-program")


def test_ci_without_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception):
        require_tool("this-is-no-program")


def test_the_first_that_is_there_is_taken(tmp_path: Path) -> None:
    (tmp_path / "second-choice").write_text("")
    (tmp_path / "second-choice").chmod(0o700)
    assert require_tool("this-is-no-program", "second-choice") == str(tmp_path / "second-choice")
