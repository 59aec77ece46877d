"""What `export` writes: as good as what it is made from, with the settings in use, and with secrets in one place."""

import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate.utils as kubernetes_schemas
import pytest
import yaml

from cluster import cli, config, service
from cluster.config import Loaded
from tests.support.config_text import SECRET
from tests.support.kustomize import kustomize
from tests.support.required_tool import require_tool

PASSWORD = "pass-word-of-the-redis"
TEXT = f"""
server: {{port: 81, max_body: 32MiB, public_url: "wss://me:{SECRET}@agents"}}
auth: {{require_signature: true, shared_secret: "{SECRET} $HOME \\\\"}}
logging: {{level: warn, dir: /var/log/here}}
tasks: {{ttl: 2h}}
"""
REDIS = f"redis: {{url: 'redis://:{PASSWORD}@store:6379/1'}}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def exported(kind: str, text: str = TEXT + REDIS) -> Path:
    Path("config.yaml").write_text(text)
    assert cli.run(["export", kind, "--output", "out"]) == 0
    return Path("out")


def variables(path: Path) -> dict[str, str]:
    """As systemd and compose read them."""
    rows = re.findall(r"^(\w+)=(?:'(.*)'|(.*))$", path.read_text(), re.MULTILINE)
    return {name: quoted or plain for name, quoted, plain in rows}


def assert_kept(loaded: Loaded) -> None:
    """The settings in use, as far as they are not of this machine."""
    settings = loaded.settings
    assert loaded.warnings == ()
    assert (settings.server.max_body_bytes, settings.tasks.ttl_s, settings.logging.level) == (32 << 20, 7200, "warn")
    assert (settings.auth.require_signature, settings.auth.shared_secret) == (True, f"{SECRET} $HOME \\")
    assert settings.server.public_url == f"wss://me:{SECRET}@agents"
    assert settings.logging.dir == ""


@pytest.mark.parametrize("kind", ["systemd", "compose", "kubernetes"])
def test_secrets_are_in_the_files_for_them_which_only_their_owner_reads(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = exported(kind)
    holders = {
        path for path in out.rglob("*") if path.is_file() and re.search(f"{SECRET}|{PASSWORD}", path.read_text())
    }
    private = {path for path in out.rglob("*") if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077 == 0}
    said = capsys.readouterr()
    assert {path.name for path in holders} == {"secrets.env"}
    assert holders <= private <= {*out.rglob("secrets.env"), *out.rglob(".env")}
    assert all(f"secrets are in {path}, which you alone can read" in said.err for path in private)
    assert (SECRET in said.out + said.err, PASSWORD in said.out + said.err) == (False, False)
    assert "left out, as they belong to this machine: logging.dir" in said.err


@pytest.mark.parametrize("kind", ["systemd", "compose", "kubernetes"])
def test_nothing_is_overwritten(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    (exported(kind) / "mine").write_text("")
    capsys.readouterr()
    assert cli.run(["export", kind, "--output", "out"]) == 2
    assert capsys.readouterr().err == "agent-server: --output out: is there already, and not empty\n"


def test_systemd_understands_the_units_and_the_program_the_settings() -> None:
    out = exported("systemd")
    assert_kept(loaded := config.load(str(out / "config.yaml"), environ=variables(out / "secrets.env")))
    assert (loaded.settings.server.port, PASSWORD in loaded.settings.redis.url) == (81, True)
    for path in out.glob("agent-server*"):
        path.write_text(path.read_text().replace("/opt/agent-server/bin/agent-server", shutil.which("true") or ""))
    for unit in ("agent-server.service", "agent-server-node@81.service", "agent-server-router@81.service"):
        done = subprocess.run(
            [require_tool("systemd-analyze"), "verify", "--man=no", unit], cwd=out, check=False, capture_output=True,
            text=True, env={"SYSTEMD_UNIT_PATH": f"{out.absolute()}:", "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")


def test_the_compose_file_starts_processes_of_these_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = exported("compose") / "docker"
    password = variables(folder / ".env")["REDIS_PASSWORD"]
    assert re.fullmatch(r"[0-9a-f]{64}", password)
    content: dict[str, Any] = yaml.safe_load((folder / "compose.yaml").read_text())
    processes = {name: one for name, one in content["services"].items() if "env_file" in one}
    assert set(processes) == {"node1", "node2", "router1"}
    assert not any("build" in one for one in content["services"].values())
    Path("config.yaml").unlink()  # a container has none
    for name, one in processes.items():
        role, *arguments = one["command"]
        given = {key: text for file in one["env_file"] for key, text in variables(folder / file).items()}
        decided = {key: re.sub(r"\$\{[^}]+\}", password, text) for key, text in one["environment"].items()}
        with monkeypatch.context() as patch:
            for key, text in {**given, **decided}.items():
                patch.setenv(key, text)
            options = service.parse(role, arguments)
        assert (options.id, options.loaded.settings.server.port) == (name, 8080)
        assert options.loaded.settings.redis.url == f"redis://:{password}@redis:6379/0"
        assert_kept(options.loaded)
    for volume in content["services"]["haproxy"]["volumes"]:
        source = volume.split(":")[0]
        assert source == "./certs" or (folder / source).is_file()


@pytest.mark.parametrize(("redis", "overlay"), [(REDIS, "ha"), ("", "single")])
def test_kubernetes_takes_the_manifests_and_the_program_the_settings(redis: str, overlay: str) -> None:
    out = exported("kubernetes", TEXT + redis)
    [filled] = out.rglob("secrets.env")
    assert filled.parent.name == overlay
    done = subprocess.run([*kustomize(), str(filled.parent)], check=True, capture_output=True, text=True)
    objects = [found for found in yaml.safe_load_all(done.stdout) if found]
    for found in objects:
        if found["kind"] != "ServiceMonitor":
            kubernetes_schemas.validate(found, "1.33", strict=True)
    [text] = [
        one["data"]["config.yaml"] for one in objects if one["kind"] == "ConfigMap" and "config.yaml" in one["data"]
    ]
    Path("pod.yaml").write_text(text)
    given = dict(line.split("=", 1) for line in filled.read_text().splitlines())
    assert_kept(loaded := config.load("pod.yaml", environ=given))
    assert (loaded.settings.server.port, loaded.settings.redis.enabled) == (8080, True)
    assert loaded.settings.server.admin_host == "0.0.0.0"


def test_without_a_secret_nothing_asks_for_one() -> None:
    out = exported("kubernetes", REDIS)
    settings = config.load(
        str(out / "overlays/ha/config.yaml"), environ={"AGENT_SERVER_REDIS_URL": "redis://h"}
    ).settings
    assert not settings.auth.require_signature


def test_what_no_file_of_variables_can_hold_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text('auth: {shared_secret: "it\'s"}')
    assert cli.run(["export", "systemd"]) == 2
    assert capsys.readouterr().err == (
        "agent-server: AGENT_SERVER_AUTH_SHARED_SECRET: a value with a single quote cannot be exported\n"
    )
    assert not Path("agent-server-systemd").exists()


def test_a_place_that_cannot_be_written_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text("")
    Path("file").write_text("")
    assert cli.run(["export", "systemd", "--output", "file/x"]) == 2
    assert capsys.readouterr().err == "agent-server: --output file/x: Not a directory\n"
