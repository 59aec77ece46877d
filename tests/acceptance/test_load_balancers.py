"""Behind HAProxy and nginx, with the configurations of `deploy/`: agents and control plane share one TLS port."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import msgspec
import pytest

from tests.support.agent_options import Timings
from tests.support.certificate import Certificate, make_certificate
from tests.support.checker import check
from tests.support.cluster_process import Section
from tests.support.control_plane import ControlPlane, as_bytes, new_task
from tests.support.eventually import eventually
from tests.support.feed_reader import FeedReader
from tests.support.http_client import HttpClient
from tests.support.ledger import Ledger
from tests.support.load_balancer import Haproxy, LoadBalancer, Nginx, Upstream
from tests.support.recorder import Closed, Opened, Recorder, RefusedHandshake
from tests.support.redis_server import RedisServer
from tests.support.said import Say
from tests.support.service_process import Role, ServiceProcess
from tests.support.simulated_fleet import Fleet

AGENTS = 15  # behind each
SOON_BACK = Timings().returning(0.05)
RESTARTING = 1012
EVERY_S = 0.04  # a POST through each, while everything is restarted
NOTICED_S = 2.2  # after which a balancer uses a process again that is back: nginx leaves a router alone for 1 s, HAProxy asks each second

balancers = pytest.mark.parametrize("kind", [Haproxy, Nginx], ids=lambda kind: kind.name)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(autouse=True)
def _trusted(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.chain))


# ---- what is sent where, and what of it


class Echo:
    """Stands for a process behind the balancer: answers what it was asked, and is always ready."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._server: asyncio.Server | None = None

    @property
    def upstream(self) -> Upstream:
        """Its port, for everything."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return Upstream(port, port)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
        heads = dict(line.lower().split(": ", 1) for line in lines)
        body = msgspec.json.encode({"server": self.name, "line": first, "heads": heads})
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()


class Echoed(msgspec.Struct, frozen=True):
    server: str
    line: str
    heads: dict[str, str]


@contextlib.asynccontextmanager
async def echoing(kind: type[LoadBalancer], folder: Path, certificate: Certificate) -> AsyncIterator[LoadBalancer]:
    async with Echo("node") as node, Echo("router") as router:
        nodes, routers = [node.upstream] * 3, [router.upstream] * 2
        trusted = ["127.0.0.9"]
        async with kind(folder / kind.name, certificate, nodes=nodes, routers=routers, trusted=trusted) as balancer:
            yield balancer


async def asked(balancer: LoadBalancer, method: str, path: str, source_ip: str = "", **heads: str) -> Echoed:
    client = HttpClient(balancer.url, source_ip=source_ip or None)
    sent = {name.replace("_", "-"): value for name, value in heads.items()}
    answer = await client.request(method, path, headers=sent)
    assert answer.status == 200, answer
    return msgspec.json.decode(answer.body, type=Echoed)


@balancers
async def test_agents_go_to_nodes_and_everything_else_to_routers(
    kind: type[LoadBalancer], tmp_path: Path, certificate: Certificate
) -> None:
    async with echoing(kind, tmp_path, certificate) as balancer:
        went = {
            path: (await asked(balancer, method, path)).server
            for method, path in (
                ("GET", "/ws/agent/a"),
                ("POST", "/api/agents/register"),
                ("POST", "/api/agents/register/"),
                ("POST", "/api/agents/registers"),
                ("POST", "/api/agents/7/tasks/"),
                ("POST", "/api/agents/7/control/"),
                ("POST", "/api/self/control/"),
                ("GET", "/api/agents/"),
                ("GET", "/"),
            )
        }
    assert [path for path, server in went.items() if server == "node"] == list(went)[:3]


@balancers
async def test_what_a_client_says_of_its_way_here_is_believed_of_trusted_proxies_only(
    kind: type[LoadBalancer], tmp_path: Path, certificate: Certificate
) -> None:
    forged = {"X_Forwarded_For": "6.6.6.6, 192.0.2.7", "X_Forwarded_Proto": "http", "X_Forwarded_Host": "evil.example"}
    async with echoing(kind, tmp_path, certificate) as balancer:
        client = await asked(balancer, "GET", "/ws/agent/forger", "127.0.0.2", **forged, Forwarded="for=6.6.6.6")
        proxied = await asked(balancer, "GET", "/ws/agent/proxied", "127.0.0.9", **forged)
        lines = {path: await logged(balancer, path) for path in ("/ws/agent/forger", "/ws/agent/proxied")}
    assert client.heads["x-forwarded-for"] == "127.0.0.2"
    assert proxied.heads["x-forwarded-for"] == "192.0.2.7"
    assert "127.0.0.2" in lines["/ws/agent/forger"]
    assert "192.0.2.7" in lines["/ws/agent/proxied"]
    assert "6.6.6.6" not in "".join(lines.values())
    for heads in (client.heads, proxied.heads):
        assert heads["x-forwarded-proto"] == "https"
        assert heads["host"] == urlsplit(balancer.url).netloc
        assert not {"x-forwarded-host", "forwarded"} & heads.keys()


async def logged(balancer: LoadBalancer, path: str) -> str:
    """The line of the balancer's log about this request."""
    found: list[str] = []

    def missing() -> str:
        found[:] = [line for line in balancer.log.read_text().splitlines() if f" {path} " in line]
        return "" if found else f"no line about {path}"

    await eventually(missing, 5.0)
    return found[-1]


# ---- a rolling restart of everything


@pytest.fixture
def services(killable_redis: RedisServer, tmp_path: Path) -> Iterator[dict[str, ServiceProcess]]:
    """Three nodes and two routers, each a process of its own."""
    config: dict[str, Section] = {"server": {"trusted_proxies": ["127.0.0.1/32"]}, "tasks": {"redelivery_grace": "3s"}}
    roles: dict[str, Role] = {
        "node1": "node",
        "node2": "node",
        "node3": "node",
        "router1": "router",
        "router2": "router",
    }
    services = {
        name: ServiceProcess(role, tmp_path / name, redis_url=killable_redis.url, config=config)
        for name, role in roles.items()
    }
    for service in services.values():
        service.start()
    yield services
    for service in services.values():
        service.kill()


@pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)
async def test_behind_either_a_rolling_restart_of_all_loses_no_task_and_fails_no_post(
    killable_redis: RedisServer,
    services: dict[str, ServiceProcess],
    tmp_path: Path,
    certificate: Certificate,
    say: Say,
) -> None:
    recorder = Recorder()
    ledger = Ledger(recorder)
    places = {name: Upstream(service.port, service.admin_port) for name, service in services.items()}
    nodes, routers = ([place for name, place in places.items() if name.startswith(role)] for role in ("node", "router"))
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        for service in services.values():
            await service.wait_ready(30.0)
        fronts = [
            await enter(kind(tmp_path / kind.name, certificate, nodes=nodes, routers=routers))
            for kind in (Haproxy, Nginx)
        ]
        reader = await enter(FeedReader(killable_redis.url, recorder))
        fleets = [await enter(fleet(front, recorder)) for front in fronts]
        for one in fleets:
            await one.connected()
        is_over = asyncio.Event()
        posting = [
            asyncio.create_task(post_on(ControlPlane(front.url, recorder=recorder), front, is_over), name=front.name)
            for front in fronts
        ]
        for service in services.values():
            await service.stop()
            service.start()
            await service.wait_ready(30.0)
            await asyncio.sleep(NOTICED_S)
        is_over.set()
        statuses = {front.name: Counter(await posts) for front, posts in zip(fronts, posting, strict=True)}
        for front in fronts:
            say(
                f"{front.name}: rolling restart of 3 nodes and 2 routers, answers to POSTs {dict(statuses[front.name])}"
            )
        assert all(set(counted) == {200} for counted in statuses.values()), statuses
        for one in fleets:
            await one.connected()
        await eventually(ledger.unfinished, 30.0)
        for one in fleets:
            await one.settled()
        await reader.caught_up()
    assert {closed.code for closed in recorder.of(Closed) if not closed.reason} == {RESTARTING}
    moved = len(recorder.of(Opened)) - 2 * AGENTS
    say(f"{moved} connections moved")
    assert not recorder.of(RefusedHandshake)  # one that meets a node on its way out is tried at the next
    assert moved >= 2 * AGENTS  # each agent was on one of the nodes that were restarted
    verdict = check(recorder.events)
    say(str(verdict))
    verdict.require()


def fleet(front: LoadBalancer, recorder: Recorder) -> Fleet:
    first = first_host(front)
    return Fleet(front.url, AGENTS, recorder=recorder, prefix=front.name, first_host_id=first, timings=SOON_BACK)


def first_host(front: LoadBalancer) -> int:
    return 100 if front.name == "haproxy" else 200


async def post_on(control_plane: ControlPlane, front: LoadBalancer, is_over: asyncio.Event) -> list[int]:
    """One attempt a task, at an even pace, whatever becomes of the others; the statuses, 0 where no answer came."""
    async with asyncio.TaskGroup() as group:
        posts: list[asyncio.Task[int]] = []
        while not is_over.is_set():
            host = first_host(front) + len(posts) % AGENTS
            posts.append(group.create_task(post_once(control_plane, host)))
            await asyncio.sleep(EVERY_S)
    return [post.result() for post in posts]


async def post_once(control_plane: ControlPlane, host: int) -> int:
    task = as_bytes(new_task(host))
    path = f"/api/agents/{host}/tasks/"
    return (await control_plane.call("POST", path, task, target=str(host), tasks=[task])).status
