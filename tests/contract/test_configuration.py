"""Section 4: where settings come from, what is said of them, and what some of them do.

What is said is asked of `config check`; limits, keys and timeouts are tested where they bite.
"""

import asyncio
import io
import json
import os
import sys
from collections.abc import Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

from cluster import cli
from tests.contract.clusters import Clusters
from tests.contract.gateway import Gateway, log, said_by
from tests.support.cluster_process import ROOT
from tests.support.config_text import GO_FILE

pytestmark = pytest.mark.asyncio(loop_scope="session")

OURS = ("AGENT_SERVER_", "CONTROL_PLANE_", "AUTH_", "LOGGING_")
CANARY = "canary-that-nobody-may-see"


class Said(NamedTuple):
    """What a command line answered."""

    code: int
    out: str
    err: str


def run(*arguments: str, cwd: Path, environ: Mapping[str, str] | None = None) -> Said:
    """A command line to its end, without the start of a process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        chdir(cwd),
        mock.patch.dict(os.environ, plain(environ), clear=True),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        return Said(cli.run(arguments), out.getvalue(), err.getvalue())


async def run_as_process(*arguments: str, cwd: Path) -> Said:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cluster", *arguments),
        cwd=cwd,
        env=plain({"PYTHONPATH": str(ROOT)}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30.0):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    return Said(await process.wait(), out.decode(), err.decode())


def plain(environ: Mapping[str, str] | None) -> dict[str, str]:
    """The environment of the tests, without settings but these."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | dict(environ or {})


def check(folder: Path, text: str = "", environ: Mapping[str, str] | None = None, *arguments: str) -> Said:
    """`config check` of a file with this text."""
    (folder / "given.yaml").write_text(text)
    return run("config", "check", "--config", "given.yaml", *arguments, cwd=folder, environ=environ)


def one_line(said: Said) -> str:
    """Of an error: exit 2, one line, no traceback."""
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err.strip()


# ---- where they come from


@pytest.mark.parametrize("folder", [".", "configs", "config"])
async def test_the_file_is_looked_for(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "config.yaml").write_text("server: {port: 1234}")
    said = await run_as_process("config", "check", cwd=tmp_path)
    assert said.code == 0, said
    assert str(Path(folder) / "config.yaml") in said.out


async def test_the_file_that_is_named_is_used_alone(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("server: {port: nonsense}")
    said = check(tmp_path, "server: {port: 1234}")
    assert said.code == 0, said
    assert "given.yaml" in said.out


async def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    bad, good = "server: {port: nonsense}", "server: {port: 1234}"
    assert (check(tmp_path, bad, {"AGENT_SERVER_PORT": "1234"})).code == 0
    assert "AGENT_SERVER_PORT" in one_line(check(tmp_path, good, {"AGENT_SERVER_PORT": "nonsense"}))


async def test_flags_go_before_both(tmp_path: Path) -> None:
    bad = {"AGENT_SERVER_PORT": "nonsense"}
    assert (check(tmp_path, "server: {port: nonsense}", bad, "--set", "server.port=1234")).code == 0
    good = {"AGENT_SERVER_PORT": "1234"}
    error = one_line(check(tmp_path, "server: {port: 1234}", good, "--set", "server.port=nonsense"))
    assert "flag" in error


@pytest.mark.parametrize(
    ("variable", "key"),
    [
        ("AGENT_SERVER_HOST", "server.host"),
        ("AGENT_SERVER_PORT", "server.port"),
        ("AUTH_REQUIRE_SIGNATURE", "auth.require_signature"),
        ("LOGGING_FORMAT", "logging.format"),
        ("LOGGING_REPORT_CALLER", "logging.report_caller"),
        ("AGENT_SERVER_SERVER_PORT", "server.port"),
        ("AGENT_SERVER_AGENT_HEARTBEAT_TIMEOUT", "agent.heartbeat_timeout"),
        ("AGENT_SERVER_TASK_STATS_STREAM_PUSH_INTERVAL", "task_stats_stream.push_interval"),
        ("AGENT_SERVER_REDIS_ENABLED", "redis.enabled"),
    ],
)
async def test_a_variable_sets_its_key(tmp_path: Path, variable: str, key: str) -> None:
    error = one_line(check(tmp_path, "", {variable: "no such value"}))
    assert key in error
    assert "'no such value'" in error
    assert variable in error


async def test_the_control_planes_variables_set_their_keys(tmp_path: Path) -> None:
    said = check(tmp_path, "", {f"CONTROL_PLANE_{name}": CANARY for name in ("URL", "TOKEN", "SCOPE")})
    assert said.code == 0, said
    for key in ("url", "token", "scope"):
        assert f"control_plane.{key}" in said.out
    assert CANARY not in said.out


@pytest.mark.parametrize("variable", ["AUTH_SHARED_SECRET", "AGENT_SERVER_AUTH_SHARED_SECRET"])
async def test_a_secret_comes_from_a_variable_or_a_file(tmp_path: Path, variable: str) -> None:
    (tmp_path / "secret").write_text(f"{CANARY}\n")
    text = "auth: {require_signature: true}"
    assert (check(tmp_path, text, {variable: CANARY})).code == 0
    assert (check(tmp_path, text, {f"{variable}_FILE": str(tmp_path / "secret")})).code == 0
    assert f"{variable}_FILE" in one_line(check(tmp_path, text, {f"{variable}_FILE": str(tmp_path / "absent")}))


async def test_a_service_link_of_kubernetes_is_ignored_with_a_warning(tmp_path: Path) -> None:
    said = check(tmp_path, "", {"AGENT_SERVER_PORT": "tcp://10.0.0.1:8080"})
    assert said.code == 0, said
    assert "warning: AGENT_SERVER_PORT" in said.out


# ---- what is said of them


async def test_a_file_of_the_go_server_is_taken_and_keys_without_effect_are_named(tmp_path: Path) -> None:
    said = check(tmp_path, GO_FILE)
    assert said.code == 0, said
    assert "warning" not in said.out
    for key in ("agent.task_queue_size", "log_stream.batch_size", "redis.max_idle"):
        assert f"without effect: {key}" in said.out
    assert "server-auth-token" not in said.out


async def test_an_unknown_key_is_a_warning_with_the_nearest_known_one(tmp_path: Path) -> None:
    said = check(tmp_path, "agent: {hartbeat_timeout: 60s}\nservr: {port: 1}")
    assert said.code == 0, said
    unknown_key, unknown_section = [line for line in said.out.splitlines() if line.startswith("warning")]
    assert "agent.hartbeat_timeout" in unknown_key
    assert "agent.heartbeat_timeout" in unknown_key
    assert "'servr'" in unknown_section
    assert "'server'" in unknown_section


@pytest.mark.parametrize(
    ("text", "key", "value", "allowed"),
    [
        ("server: {port: 70000}", "server.port", "70000", "65535"),
        ("server: {port: http}", "server.port", "'http'", "65535"),
        ("agent: {heartbeat_timeout: 1 parsec}", "agent.heartbeat_timeout", "'1 parsec'", "duration"),
        ("logging: {level: loud}", "logging.level", "'loud'", "debug"),
        ("tasks: {on_agent_restart: maybe}", "tasks.on_agent_restart", "'maybe'", "redeliver"),
        ("websocket: {enable_compression: perhaps}", "websocket.enable_compression", "'perhaps'", "true"),
        ("redis: {enabled: true, addr: here}", "redis.addr", "'here'", "host:port"),
    ],
)
async def test_a_bad_value_is_an_error_that_names_key_value_and_what_is_allowed(
    tmp_path: Path, text: str, key: str, value: str, allowed: str
) -> None:
    error = one_line(check(tmp_path, text))
    assert key in error
    assert value in error
    assert allowed in error


async def test_durations_are_numbers_of_seconds_or_have_units(tmp_path: Path) -> None:
    text = """
        agent: {heartbeat_timeout: 1m30s, cleanup_interval: 45, forget_after: 1d}
        websocket: {handshake_timeout: 3500ms}
        server: {read_timeout: '90', write_timeout: 12.5}
        tasks: {ttl: 1h, result_grace: 30s}
    """
    assert (check(tmp_path, text)).code == 0


async def test_without_redis_enabled_the_rest_of_redis_is_not_checked(tmp_path: Path) -> None:
    text = "redis: {enabled: false, addr: '', db: nonsense, pool_size: -1}"
    assert (check(tmp_path, text)).code == 0


@pytest.mark.parametrize(
    "text",
    [
        f"redis: {{url: 'redis://user:{CANARY}@host:port/x'}}",
        f"auth: {{shared_secret: [{CANARY}]}}",
        f"redis: {{enabled: true, password: {{a: {CANARY}}}}}",
        f"control_plane: {{url: 'ftp://user:{CANARY}@host', poll: true}}",
    ],
)
async def test_an_error_never_shows_a_secret(tmp_path: Path, text: str) -> None:
    assert CANARY not in one_line(check(tmp_path, text))


# ---- starting


async def test_signatures_without_a_secret_refuse_to_start(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("auth: {require_signature: true, shared_secret: ''}")
    error = one_line(await run_as_process("start", cwd=tmp_path))
    assert "auth.require_signature" in error
    assert "auth.shared_secret" in error


async def test_a_control_plane_url_alone_changes_nothing(signed: Gateway) -> None:
    """It is a port where nobody listens."""
    await signed.register()


# ---- the log


async def test_the_log_is_json_on_standard_error(gateway: Gateway) -> None:
    await gateway.agent()
    lines = gateway.cluster.stderr.read_text().splitlines()
    assert lines
    for line in lines:
        record = json.loads(line)
        assert {"@timestamp", "log.level", "message", "log.origin.file.name"} <= record.keys()
        assert record["log.level"] in {"info", "warn", "error"}


async def test_a_log_folder_that_cannot_be_written_is_a_warning_and_standard_error(small: Gateway) -> None:
    agent = await small.register()
    lines = [line for line in said_by(small.cluster).splitlines() if "/proc/cannot-be-written" in line]
    assert any("warn" in line for line in lines)
    assert agent.id in small.cluster.stderr.read_text()


async def test_the_log_goes_to_its_folder_in_its_format(clusters: Clusters) -> None:
    async with clusters.gateway("brief") as gateway:
        agent = await gateway.agent()
        files = list((gateway.cluster.folder / "logs").iterdir())
        assert files
        text = "".join(file.read_text() for file in files)
        assert agent.id in text
        assert not [line for line in text.splitlines() if line.startswith("{")], "text, not JSON"
        assert agent.id not in gateway.cluster.stderr.read_text()


async def test_levels_below_the_configured_one_are_not_said(trampled: Gateway) -> None:
    agent = await trampled.agent()
    await agent.say(log("m1", "1_1_1_x", "line"))
    await agent.hear_acks(1)
    assert agent.id not in said_by(trampled.cluster)
