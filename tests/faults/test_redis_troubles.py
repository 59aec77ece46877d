"""F7, F8, F9, F10, F12, F22: Redis hangs, cuts, answers late or not at all, is full, or forgets its scripts; the cluster goes on.

One cluster for all of them, with a proxy between it and Redis: none of these faults may leave anything behind. Its leases are short, 12 s,
so that agents which nobody can renew are soon declared dead by a cluster that does not know better.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from tests.faults.finding import Finding
from tests.faults.load import Load, Mixture, varied
from tests.faults.scene import LIVELY, SHORT_LEASES, Scene
from tests.support.control_plane import TaskLike, as_bytes, new_task
from tests.support.http_client import Response
from tests.support.recorder import Acked, Answered, Closed, Posted
from tests.support.redis_server import RedisServer, Version
from tests.support.slowness import slowness
from tests.support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSED_WITHIN_S = 3.0
BACK_S = 2.0
Trouble = Callable[[], Awaitable[None]]


class Troubled(Scene):
    """The scene, and what stands between it and its Redis."""

    proxy: TcpProxy


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(
    redis_version: Version, tmp_path_factory: pytest.TempPathFactory, is_long: bool
) -> AsyncIterator[Troubled]:
    folder, chance = tmp_path_factory.mktemp("troubles"), random.Random()
    redis = RedisServer(folder / "redis", version=redis_version, options=("--appendfsync", "no"))
    with redis:
        async with (
            TcpProxy(redis.port) as proxy,
            Troubled(
                folder, redis, agents=200 if is_long else 60, run=varied(chance), timings=LIVELY, config=SHORT_LEASES,
                redis_url=proxy.redis_url,
            ) as scene,
        ):  # fmt: skip
            scene.proxy = proxy
            yield scene


async def _under_load(
    scene: Scene, chance: random.Random, trouble: Trouble, *, count: int, per_s: float, lead_s: float = 1.0
) -> None:
    """Post so many tasks, and make trouble meanwhile."""
    load = Load(
        scene.control_plane, hosts=len(scene.fleet.agents), count=count, per_s=per_s, chance=chance, mixture=Mixture()
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        await asyncio.sleep(lead_s)
        await trouble()


def _load_of(scene: Scene, per_s: float) -> str:
    return f"{len(scene.fleet.agents)} agents, {per_s:g} tasks/s, leases of 12 s"


def _statuses(scene: Scene, since: int) -> Counter[int]:
    """What POSTs were answered since."""
    events = scene.recorder.events[since:]
    posts = {event.call for event in events if isinstance(event, Posted) and event.method == "POST"}
    return Counter(event.status for event in events if isinstance(event, Answered) and event.call in posts)


async def _post_once(scene: Scene, host: int, task: TaskLike | None = None) -> tuple[Response, float]:
    """One attempt, and the seconds it took."""
    body, began_s = as_bytes(task or new_task(host)), time.monotonic()
    path = f"/api/agents/{host}/tasks/"
    answer = await scene.control_plane.call("POST", path, body, target=str(host), tasks=[body])
    return answer, time.monotonic() - began_s


async def _refused_until(scene: Scene, until_s: float) -> list[float]:
    """POSTs while Redis takes none: each 503 with when to come back; how long each took."""
    took_s = []
    while time.monotonic() < until_s:
        answer, seconds = await _post_once(scene, 1)
        assert answer.status == 503, answer
        assert int(answer.headers["retry-after"]) > 0
        took_s.append(seconds)
        await asyncio.sleep(0.1)
    return took_s


async def _until_taken(scene: Scene) -> float:
    """How long until a POST is taken."""
    began_s = time.monotonic()
    while (await _post_once(scene, 1))[0].status != 200:
        assert time.monotonic() - began_s < 30.0, "no POST was taken"
        await asyncio.sleep(0.02)
    return time.monotonic() - began_s


def _refused(finding: Finding, took_s: list[float]) -> None:
    for seconds in took_s:
        finding.measured("a POST 503 with Retry-After after", seconds, f"<= {REFUSED_WITHIN_S:g} s")


def _nobody_lost_a_socket(scene: Scene, finding: Finding, closed_before: int) -> None:
    dropped = len(scene.recorder.of(Closed)) - closed_before
    finding.counted("sockets dropped", dropped, len(scene.fleet.agents), "0")
    assert not dropped


@pytest.mark.parametrize("how", ["SIGSTOP", "CLIENT PAUSE"])
async def test_a_redis_that_hangs_costs_503_and_nothing_else(
    scene: Troubled, chance: random.Random, finding: Finding, is_long: bool, how: str
) -> None:
    hangs_s, per_s = (30.0, 60.0) if is_long else (5.0 if how == "SIGSTOP" else 15.0, 50.0)
    finding.about("F7", f"Redis hangs {hangs_s:g} s ({how})", _load_of(scene, per_s))
    closed = len(scene.recorder.of(Closed))
    limit_s = BACK_S * await slowness()

    async def hang() -> None:
        scene.recorder.fault(f"Redis hangs: {how}")
        if how == "SIGSTOP":
            scene.redis.pause()
        else:
            scene.redis.command("CLIENT", "PAUSE", int(hangs_s * 1000), "ALL")
        took_s = await _refused_until(scene, time.monotonic() + hangs_s - REFUSED_WITHIN_S)
        if how == "SIGSTOP":
            scene.redis.resume()
        else:
            scene.redis.command("CLIENT", "UNPAUSE")
        finding.struck()
        _refused(finding, took_s)
        back_s = await _until_taken(scene)
        finding.measured("first POST taken", back_s, f"<= {BACK_S:g} s")
        assert max(took_s) <= REFUSED_WITHIN_S
        assert back_s <= limit_s

    await _under_load(scene, chance, hang, count=int(per_s * (3 if not is_long else 30)), per_s=per_s)
    _nobody_lost_a_socket(scene, finding, closed)
    await scene.judge(finding)


async def test_connections_that_redis_closes_are_made_anew(
    scene: Troubled, chance: random.Random, finding: Finding, is_long: bool
) -> None:
    kills, every_s, per_s = (15, 2.0, 100.0) if is_long else (5, 1.0, 50.0)
    finding.about("F8", f"`CLIENT KILL TYPE normal` every {every_s:g} s", _load_of(scene, per_s))
    closed = len(scene.recorder.of(Closed))

    async def kill() -> None:
        for _ in range(kills):
            scene.recorder.fault("CLIENT KILL TYPE normal")
            scene.redis.command("CLIENT", "KILL", "TYPE", "normal")
            finding.struck()
            await asyncio.sleep(every_s)

    await _under_load(scene, chance, kill, count=int(per_s * (1 + kills * every_s)), per_s=per_s)
    _nobody_lost_a_socket(scene, finding, closed)
    await scene.judge(finding)


async def test_what_was_done_and_whose_reply_was_lost_is_not_done_twice(
    scene: Troubled, chance: random.Random, finding: Finding, is_long: bool
) -> None:
    """Not only tasks: whatever the cluster asks of Redis, one reply in fifty never comes, and its connection ends with it."""
    count, per_s = (6_000, 150.0) if is_long else (600, 75.0)
    finding.about("F9", "replies of Redis lost after execution, 2 %", _load_of(scene, per_s))
    lost, closed = scene.proxy.lost, len(scene.recorder.of(Closed))
    scene.proxy.loses = 0.02

    async def wait() -> None: ...

    try:
        await _under_load(scene, chance, wait, count=count, per_s=per_s)
    finally:
        scene.proxy.loses = 0.0
    finding.struck(scene.proxy.lost - lost)
    assert finding.strikes
    _nobody_lost_a_socket(scene, finding, closed)
    await scene.judge(finding)


@pytest.mark.parametrize("added_ms", [50, 200, 1000])
async def test_a_slow_redis_makes_everything_slower_and_nothing_fail(
    scene: Troubled, finding: Finding, is_long: bool, added_ms: int
) -> None:
    seconds, per_s = (10, 100.0) if is_long else (4, 30.0)
    finding.about("F10", f"{added_ms} ms added to every reply of Redis", _load_of(scene, per_s))
    closed, hosts = len(scene.recorder.of(Closed)), len(scene.fleet.agents)
    tasks = [(1 + number % hosts, new_task(1 + number % hosts)) for number in range(int(seconds * per_s))]
    scene.proxy.delay_s = added_ms / 1000
    try:
        async with asyncio.TaskGroup() as group:
            posts = []
            for host, task in tasks:
                posts.append(group.create_task(_post_once(scene, host, task)))
                await asyncio.sleep(1 / per_s)
    finally:
        scene.proxy.delay_s = 0.0
    finding.struck()
    answers = [post.result() for post in posts]
    refused = [place for place, (answer, _) in enumerate(answers) if answer.status != 200]
    for place in refused:
        assert (await scene.control_plane.post_task(*tasks[place])).status == 200
    finding.measured("a POST takes, median", sorted(took_s for _, took_s in answers)[len(answers) // 2])
    finding.counted("answers other than 200", len(refused), len(answers), "0")
    _nobody_lost_a_socket(scene, finding, closed)
    await scene.judge(finding)
    assert not refused, answers[refused[0]]


async def test_a_full_redis_refuses_and_loses_nothing(
    scene: Troubled, chance: random.Random, finding: Finding, is_long: bool
) -> None:
    full_s, per_s = (20.0, 60.0) if is_long else (5.0, 50.0)
    finding.about("F12", f"`maxmemory` reached for {full_s:g} s", _load_of(scene, per_s))
    closed = len(scene.recorder.of(Closed))
    limit_s = BACK_S * await slowness()

    async def fill() -> None:
        scene.recorder.fault("Redis is full")
        scene.redis.command("CONFIG", "SET", "maxmemory", "1mb")
        filled_s = time.monotonic()
        took_s = await _refused_until(scene, time.monotonic() + full_s)
        acked = [event for event in scene.recorder.of(Acked) if event.at_s > filled_s + 1.0]
        scene.redis.command("CONFIG", "SET", "maxmemory", "0")
        finding.struck()
        back_s = await _until_taken(scene)
        _refused(finding, took_s)
        finding.measured("acks meanwhile", str(len(acked)), "0")
        finding.measured("first POST taken", back_s, f"<= {BACK_S:g} s")
        assert not acked
        assert back_s <= limit_s

    await _under_load(scene, chance, fill, count=int(per_s * (3 if not is_long else 30)), per_s=per_s)
    _nobody_lost_a_socket(scene, finding, closed)
    await scene.judge(finding)


async def test_scripts_that_redis_forgets_are_no_error(
    scene: Troubled, chance: random.Random, finding: Finding, is_long: bool
) -> None:
    flushes, per_s = (100, 150.0) if is_long else (30, 75.0)
    finding.about("F22", "`SCRIPT FLUSH` every 100 ms", _load_of(scene, per_s))
    closed, since = len(scene.recorder.of(Closed)), len(scene.recorder.events)

    async def flush() -> None:
        for _ in range(flushes):
            scene.redis.command("SCRIPT", "FLUSH")
            finding.struck()
            await asyncio.sleep(0.1)

    await _under_load(scene, chance, flush, count=int(per_s * flushes / 10), per_s=per_s, lead_s=0.1)
    statuses = _statuses(scene, since)
    finding.counted("answers other than 200", statuses.total() - statuses[200], statuses.total(), "0")
    _nobody_lost_a_socket(scene, finding, closed)
    await scene.judge(finding)
    assert statuses.keys() == {200}
