"""A place without a configuration."""

from pathlib import Path

import pytest

from cluster import config_file


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and a search path that does not leave it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config_file, "FOLDERS", (".", "./configs", "./config", "./etc/agent-server"))
    return tmp_path
