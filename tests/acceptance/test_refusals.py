"""What `agent-server start` cannot run with is said in one line on standard error, with a non-zero exit, and leaves nothing behind."""

import socket
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.acceptance.fake_redis import FakeRedis
from tests.support.cluster_process import ClusterProcess, Section
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.required_redis import require_redis
from tests.support.said import Say

CANNOT_START, BAD_SETTINGS = 1, 2
AWAY_S = 10.0  # how long a configured Redis is waited for
SLACK_S = 4.0


async def refusal(cluster: ClusterProcess, exit_code: int) -> str:
    """The one line it ends with."""
    cluster.start()
    supervisor = cluster.supervisor
    await eventually(lambda: supervisor.poll() is None and f"it runs:\n{cluster.output()}", AWAY_S + SLACK_S)
    said = cluster.stderr.read_text()
    assert supervisor.returncode == exit_code, said
    assert "Traceback" not in said
    [line] = said.splitlines()
    assert line.startswith("agent-server: ")
    assert "ready" not in cluster.stdout.read_text()
    return line.removeprefix("agent-server: ")


async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    require_redis("6.2")
    with socket.create_server(("127.0.0.1", free_port())) as other:
        port = other.getsockname()[1]
        line = await refusal(ClusterProcess(tmp_path, port=port), CANNOT_START)
    assert f"port {port} on 127.0.0.1 is in use" in line
    assert "--port" in line


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"server": {"port": 70_000}}, ("server.port", "70000", "65535")),
        ({"agent": {"heartbeat_timeout": "soon"}}, ("agent.heartbeat_timeout", "soon")),
        ({"tasks": {"on_agent_restart": "retry"}}, ("tasks.on_agent_restart", "retry", "redeliver")),
        ({"auth": {"require_signature": True}}, ("auth.shared_secret",)),
        ({"redis": {"enabled": "perhaps"}}, ("redis.enabled", "perhaps")),
    ],
)
async def test_a_bad_value_is_told_with_its_key_and_what_is_allowed(
    tmp_path: Path, config: Mapping[str, Section], told: tuple[str, ...]
) -> None:
    line = await refusal(ClusterProcess(tmp_path, config=config), BAD_SETTINGS)
    assert not [word for word in told if word not in line], line


async def test_a_redis_that_is_too_old_is_refused(tmp_path: Path) -> None:
    async with FakeRedis("5.0.14") as redis:
        line = await refusal(ClusterProcess(tmp_path, redis_url=redis.url), CANNOT_START)
    assert "5.0.14" in line
    assert "6.2 or newer" in line


@pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)
async def test_a_redis_that_evicts_is_refused_unless_it_is_allowed(killable_redis: RedisServer, tmp_path: Path) -> None:
    assert killable_redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru") == b"+OK"
    line = await refusal(ClusterProcess(tmp_path / "refused", redis_url=killable_redis.url), CANNOT_START)
    assert "allkeys-lru" in line
    assert "redis.allow_eviction" in line
    allowed = {"redis": {"allow_eviction": True}}
    async with ClusterProcess(tmp_path / "allowed", redis_url=killable_redis.url, config=allowed) as cluster:
        await cluster.wait_ready(30.0)


async def test_a_redis_that_is_away_is_waited_for_and_then_told(tmp_path: Path, say: Say) -> None:
    address = f"127.0.0.1:{free_port()}"
    began_s = time.monotonic()
    line = await refusal(ClusterProcess(tmp_path, redis_url=f"redis://:hunter2@{address}/0"), CANNOT_START)
    took_s = time.monotonic() - began_s
    say(f"Redis away: told after {took_s:.1f} s")
    assert address in line
    assert "does not answer" in line
    assert "hunter2" not in line
    assert AWAY_S <= took_s <= AWAY_S + SLACK_S


@pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)
async def test_a_redis_that_comes_within_the_wait_is_used(killable_redis: RedisServer, tmp_path: Path) -> None:
    killable_redis.stop()
    async with ClusterProcess(tmp_path / "cluster", redis_url=killable_redis.url) as cluster:
        await eventually(lambda: "" if cluster.children() == [] else "children before there is a Redis")
        killable_redis.start()
        await cluster.wait_ready(30.0)
