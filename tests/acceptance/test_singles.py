"""`agent-server node` and `agent-server router` run singly, against a configured Redis."""

import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.agent_options import Timings
from tests.support.checker import check
from tests.support.cluster_process import Section
from tests.support.control_plane import ControlPlane, new_task
from tests.support.eventually import eventually
from tests.support.feed_reader import FeedReader
from tests.support.ledger import Ledger
from tests.support.ports import free_port
from tests.support.recorder import Recorder
from tests.support.redis_server import RedisServer
from tests.support.said import Say
from tests.support.service_process import Role, ServiceProcess
from tests.support.simulated_agent import SimulatedAgent

with_redis = pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)

NOT_READY_S = 15.0  # Redis may be away for 5 s before a process says so


@with_redis
@pytest.mark.parametrize("role", ["node", "router"])
async def test_it_waits_for_redis_not_ready_and_never_ends_of_it(
    role: Role, killable_redis: RedisServer, tmp_path: Path
) -> None:
    killable_redis.stop()
    async with ServiceProcess(role, tmp_path / "single", redis_url=killable_redis.url) as service:
        await eventually(lambda: _lives(service), 20.0)
        assert await service.health("/readyz") == 503
        killable_redis.start()
        await service.wait_ready()
        pid = service.process.pid
        killable_redis.kill()
        await eventually(lambda: _ready(service), NOT_READY_S)
        assert await service.health("/livez") == 200
        killable_redis.start()
        await service.wait_ready()
        assert service.process.pid == pid
        await service.stop()


@with_redis
async def test_it_warns_once_of_a_redis_that_forgets_when_it_restarts(
    killable_redis: RedisServer, tmp_path: Path
) -> None:
    assert killable_redis.command("CONFIG", "SET", "appendonly", "no") == b"+OK"
    async with ServiceProcess("router", tmp_path / "single", redis_url=killable_redis.url) as router:
        await router.wait_ready()
        assert router.stderr.read_text().count("has appendonly no") == 1
        await router.stop()


@with_redis
@pytest.mark.parametrize("role", ["node", "router"])
async def test_once_it_serves_it_says_where_in_one_line(
    role: Role, killable_redis: RedisServer, tmp_path: Path
) -> None:
    quiet: dict[str, Section] = {"logging": {"level": "warn"}}
    async with ServiceProcess(role, tmp_path / "web-1", redis_url=killable_redis.url, config=quiet) as service:
        await service.wait_ready()
        expected = f"agent-server: {role} web-1 serves {service.url}, admin http://127.0.0.1:{service.admin_port}\n"
        await eventually(lambda: service.stderr.read_text() != expected and service.output())
        await service.stop()


async def _lives(service: ServiceProcess) -> str:
    return "" if await service.health("/livez") == 200 else service.output()


async def _ready(service: ServiceProcess) -> str:
    return "" if await service.health("/readyz") == 503 else "it is ready without a Redis"


@with_redis
async def test_a_router_without_redis_refuses_calls_and_says_when_to_come_back(
    killable_redis: RedisServer, tmp_path: Path
) -> None:
    killable_redis.stop()
    async with ServiceProcess("router", tmp_path / "r", redis_url=killable_redis.url) as router:
        await eventually(lambda: _lives(router), 20.0)
        control_plane = ControlPlane(router.url)
        answer = await control_plane.call("POST", "/api/agents/x/tasks/", b'{"id": "1_1_1_x"}')
        assert answer.status == 503, answer
        assert int(answer.headers["retry-after"]) > 0
        await router.stop()


@with_redis
async def test_a_node_whose_id_is_taken_refuses_and_the_first_serves_on(
    killable_redis: RedisServer, tmp_path: Path
) -> None:
    async with ServiceProcess("node", tmp_path / "first", redis_url=killable_redis.url, name="one") as first:
        await first.wait_ready()
        async with ServiceProcess("node", tmp_path / "second", redis_url=killable_redis.url, name="one") as second:
            assert await second.ended(20.0) == 1
            [line] = [line for line in second.stderr.read_text().splitlines() if "one" in line]
            assert "belongs to another live process" in line
            assert "Traceback" not in second.output()
        assert await first.health("/readyz") == 200


async def test_without_a_redis_that_is_configured_it_says_what_to_set(tmp_path: Path) -> None:
    none = {"redis": {"enabled": False, "url": ""}}
    async with ServiceProcess("node", tmp_path / "single", redis_url="", config=none) as node:
        assert await node.ended() == 1
        [line] = node.stderr.read_text().splitlines()
        assert line.startswith("agent-server: a single node or router needs a Redis: ")
        assert not [word for word in ("--redis-url", "AGENT_SERVER_REDIS_URL", "redis.enabled") if word not in line]


@pytest.mark.parametrize("flag", ["--port", "--admin-port"])
async def test_a_port_in_use_is_told_with_the_flag_that_chooses_another(flag: str, tmp_path: Path) -> None:
    async with _with_a_port_taken(flag, tmp_path / "single") as (node, port):
        assert await node.ended() == 1
        why = f"cannot listen on 127.0.0.1:{port}: Address already in use (choose another {flag})"
        assert node.stderr.read_text() == f"agent-server: {why}\n"


@contextlib.asynccontextmanager
async def _with_a_port_taken(flag: str, folder: Path) -> AsyncIterator[tuple[ServiceProcess, int]]:
    node = ServiceProcess("node", folder, redis_url=f"redis://127.0.0.1:{free_port()}/0")
    port = node.port if flag == "--port" else node.admin_port
    with socket.create_server(("127.0.0.1", port)):
        async with node:
            yield node, port


@with_redis
async def test_a_node_and_a_router_of_their_own_are_a_cluster(
    killable_redis: RedisServer, tmp_path: Path, say: Say
) -> None:
    url, recorder = killable_redis.url, Recorder()
    ledger = Ledger(recorder)
    async with (
        ServiceProcess("node", tmp_path / "n", redis_url=url) as node,
        ServiceProcess("router", tmp_path / "r", redis_url=url) as router,
        FeedReader(url, recorder) as reader,
    ):
        await node.wait_ready()
        await router.wait_ready()
        agent = SimulatedAgent(node.url, token="t", host_id=5, recorder=recorder, timings=Timings())
        agent.start()
        await agent.connected()
        control_plane = ControlPlane(router.url, recorder=recorder)
        for _ in range(10):
            assert (await control_plane.post_task(5, new_task(5))).status == 200
        await eventually(lambda: ledger.unfinished() or (agent.unacked and "messages are not acked"), 20.0)
        await reader.caught_up()
        node_s, router_s = await node.stop(), await router.stop()
        await agent.stop()
    say(f"a node with one agent stopped after {node_s:.2f} s, the router after {router_s:.2f} s")
    verdict = check(recorder.events)
    say(str(verdict))
    verdict.require()
