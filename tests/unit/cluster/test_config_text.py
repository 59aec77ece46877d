"""Settings as text: what is written reads as the same settings, and holds no secret."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import pytest

from cluster import config_text, environment, settings
from cluster.config import load
from tests.support.config_text import GO_FILE, SECRET, from_file
from tests.unit.cluster.test_environment import sample

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("nowhere")


def changed() -> dict[str, object]:
    """Every key at something else than its default, but for secrets; as flags."""
    flags: dict[str, object] = {name: sample(name)[0] for name, key in settings.keys().items() if not key.is_secret}
    fitting = {"auth.require_signature": False, "control_plane.url": "http://a", "agent.forget_after": "2m"}
    feeds = {f"{name}.key": name for name in ("log_stream", "result_stream", "status_stream", "task_stats_stream")}
    return {**flags, **fitting, **feeds, "redis.enabled": True}


@pytest.mark.parametrize(
    "text", ["", GO_FILE.replace("server-auth-token", ""), "agent: {heartbeat_timeout: 3.0000015}"]
)
def test_what_is_shown_loads_as_the_same_settings(text: str) -> None:
    loaded = from_file(text)
    assert from_file(config_text.as_yaml(loaded)).settings == loaded.settings


def test_every_key_that_was_changed_is_shown_as_it_is() -> None:
    loaded = load(environ={}, flags=changed())
    assert from_file(config_text.as_yaml(loaded)).settings == loaded.settings


def test_it_is_told_where_each_value_comes_from() -> None:
    loaded = from_file(
        "server:\n  port: 1\n  host: a\n", {"AGENT_SERVER_HOST": "b", "AGENT_SERVER_REDIS_URL": "redis://h"},
        {"logging.level": "debug"},
    )  # fmt: skip
    origins = config_text.origins(loaded)
    assert list(origins) == list(settings.keys())
    told = {name: origin for name, origin in origins.items() if origin != "default"}
    assert told == {
        "server.host": "AGENT_SERVER_HOST",
        "server.port": "given.yaml:2",
        "logging.level": "flag",
        "redis.enabled": "redis.url, AGENT_SERVER_REDIS_URL",
        "redis.url": "AGENT_SERVER_REDIS_URL",
    }


def test_the_variables_mean_the_same_settings() -> None:
    loaded = load(environ={}, flags=changed())
    lines = config_text.as_environment(loaded).splitlines()
    given = subprocess.run(
        ["env", "-i", "sh", "-c", "set -a\n" + "\n".join(lines) + "\nenv -0"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    environ = dict(variable.split("=", 1) for variable in given.split("\0") if variable)
    assert load(environ=environ).settings == loaded.settings
    assert len(lines) == len(settings.keys())


def test_what_is_at_its_default_is_a_comment() -> None:
    text = config_text.as_environment(from_file("server: {port: 81}"))
    assert [line for line in text.splitlines() if not line.startswith("# ")] == ["AGENT_SERVER_SERVER_PORT=81"]


@pytest.mark.parametrize("name", [name for name, key in settings.keys().items() if key.is_secret])
def test_no_text_holds_a_secret_only_that_there_is_one(name: str) -> None:
    secret = f"redis://me:{SECRET}@h:1/0" if name.endswith("url") else SECRET
    environ = {environment.name_of(name): secret, "AGENT_SERVER_REDIS_ENABLED": "true"}
    loaded = load(environ=environ | {"CONTROL_PLANE_URL": f"http://me:{SECRET}@h"})
    texts = (config_text.as_yaml(loaded), config_text.as_environment(loaded), str(config_text.values(loaded)))
    assert not any(SECRET in text for text in texts)
    assert "***" in texts[0]
    assert f"# {environment.name_of(name)}=  # a secret, given by {environment.name_of(name)}" in texts[1]


def test_the_explanation_is_the_example_and_is_accepted() -> None:
    text = config_text.explained()
    assert text == (ROOT / "configs" / "config.yaml.example").read_text(encoding="utf-8")
    loaded = from_file(text)
    assert (loaded.warnings, msgspec.structs.replace(loaded.settings, cluster=settings.Cluster())) == (
        (), settings.Settings(),
    )  # fmt: skip


def test_a_wheel_brings_the_explanation_and_what_is_exported_but_nobody_s_secrets(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("cluster", "node", "router", "configs", "deploy"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "deploy" / "kubernetes" / "overlays" / "ha" / "secrets.env").write_text(SECRET)
    argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(argv, cwd=source, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        assert packed.read("cluster/config.yaml.example").decode() == config_text.explained()
    assert {"cluster/cli.py", "cluster/scripts/claim.lua", "cluster/py.typed", "node/app.py", "router/app.py"} <= names
    assert {"cluster/deploy/systemd/agent-server.service", "cluster/deploy/kubernetes/base/node.yaml"} <= names
    assert not [name for name in names if name.endswith("secrets.env") or name.startswith(("deploy/", "configs/"))]
