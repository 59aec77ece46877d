"""What checks make of what Redis and nodes say."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cluster.client.doctor import clock_checks, node_checks, redis_checks, signature_checks
from cluster.client.doctor.examination import CHECKS, counted, examine, is_well, told
from cluster.client.doctor.finding import Checked, Finding, Verdict, broken, ok
from cluster.client.doctor.patient import Patient
from cluster.client.doctor.redis_says import RedisSays
from cluster.nodes import DRAINING, READY, Node
from cluster.settings import Redis, Settings
from tests.support.ports import free_port

WELL: dict[str, Any] = {
    "redis_version": "7.0.15",
    "aof_enabled": 1,
    "maxmemory_policy": "noeviction",
    "used_memory": 100 << 20,
    "maxmemory": 1 << 30,
}
Check = Callable[[Patient], Awaitable[Finding]]


def patient(settings: Settings | None = None, **said: Any) -> Patient:
    redis = RedisSays(**{"info": WELL, "is_cluster_here": True, "round_trips_ms": [1.0], **said})
    return Patient(settings or Settings(), redis, f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize(
    ("check", "info", "verdict", "words"),
    [
        (redis_checks.version, {}, Verdict.OK, "7.0.15"),
        (redis_checks.version, {"redis_version": "6.0.16"}, Verdict.BROKEN, "6.0.16"),
        (redis_checks.version, {"redis_version": ""}, Verdict.UNCHECKED, "does not tell"),
        (redis_checks.persistence, {}, Verdict.OK, "append-only"),
        (redis_checks.persistence, {"aof_enabled": 0}, Verdict.BROKEN, "lost"),
        (redis_checks.persistence, {"aof_last_write_status": "err"}, Verdict.BROKEN, "aof_last_write_status"),
        (redis_checks.eviction, {}, Verdict.OK, "noeviction"),
        (redis_checks.eviction, {"maxmemory_policy": "volatile-ttl"}, Verdict.BROKEN, "volatile-ttl"),
        (redis_checks.memory, {}, Verdict.OK, "924 MiB left"),
        (redis_checks.memory, {"used_memory": 900 << 20}, Verdict.WARNING, "full"),
        (redis_checks.memory, {"used_memory": 1000 << 20}, Verdict.BROKEN, "full"),
        (redis_checks.memory, {"maxmemory": 0, "total_system_memory": 8 << 30}, Verdict.OK, "no maxmemory"),
        (redis_checks.latency, {}, Verdict.OK, "round trip 1.00 ms"),
        (redis_checks.latency, {"latest_fork_usec": 900_000}, Verdict.WARNING, "fork 900 ms"),
    ],
)
async def test_a_check_judges_what_redis_says(check: Check, info: dict[str, Any], verdict: Verdict, words: str) -> None:
    finding = await check(patient(info={**WELL, **info}))
    assert finding.verdict is verdict, finding
    assert words in finding.says
    assert bool(finding.fix) is (verdict in {Verdict.WARNING, Verdict.BROKEN})


async def test_appendfsync_no_is_a_warning() -> None:
    finding = await redis_checks.persistence(patient(config={"appendfsync": "no"}))
    assert finding.verdict is Verdict.WARNING


async def test_eviction_that_was_allowed_is_a_warning() -> None:
    settings = Settings(redis=Redis(allow_eviction=True))
    finding = await redis_checks.eviction(patient(settings, info={"maxmemory_policy": "allkeys-lru"}))
    assert finding.verdict is Verdict.WARNING


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        ((), Verdict.BROKEN),
        ((DRAINING, DRAINING), Verdict.BROKEN),
        ((READY,), Verdict.WARNING),
        ((READY, READY), Verdict.OK),
    ],
)
async def test_agents_need_a_node_that_is_ready_and_better_two(states: tuple[str, ...], verdict: Verdict) -> None:
    nodes = [Node(f"n{number}", "boot", state) for number, state in enumerate(states)]
    assert (await node_checks.alive(patient(nodes=nodes))).verdict is verdict


async def test_a_redis_of_another_prefix_is_broken() -> None:
    assert "no cluster" in (await node_checks.alive(patient(is_cluster_here=False))).says


async def test_nodes_of_two_versions_are_told() -> None:
    nodes = [Node("n1", "boot", version="1.0"), Node("n2", "boot", version="1.1")]
    finding = await node_checks.versions(patient(nodes=nodes))
    assert (finding.verdict, finding.says) == (Verdict.WARNING, "1 nodes of 1.0, 1 nodes of 1.1")


@pytest.mark.parametrize(
    ("ahead_ms", "verdict"),
    [(100.0, Verdict.OK), (-5_000.0, Verdict.WARNING), (301_000.0, Verdict.BROKEN), (-301_000.0, Verdict.BROKEN)],
)
async def test_a_clock_beyond_what_signatures_bear_is_broken(ahead_ms: float, verdict: Verdict) -> None:
    assert (await clock_checks.redis_clock(patient(clock_ahead_ms=ahead_ms))).verdict is verdict


async def test_without_redis_and_server_every_check_comes_to_a_verdict_and_only_what_is_broken_is() -> None:
    nobody = Patient(Settings(), RedisSays(error="Redis does not answer"), f"http://127.0.0.1:{free_port()}")
    checked = await examine(nobody)
    assert [one.check for one in checked] == [name for name, _ in CHECKS]
    assert {one.check for one in checked if one.finding.verdict is Verdict.BROKEN} <= {"redis", "upgrade", "port"}
    assert not [one for one in checked if "mistake of this command" in one.finding.says]
    assert not is_well(checked)


async def test_a_check_that_fails_of_a_mistake_is_not_checked_and_hides_no_other() -> None:
    async def mistaken(_: Patient) -> Finding:
        raise KeyError("x")

    async def well(_: Patient) -> Finding:
        return ok("well")

    checked = await examine(patient(), [("a", mistaken), ("b", well)])
    assert [one.finding.verdict for one in checked] == [Verdict.UNCHECKED, Verdict.OK]
    assert counted(checked) == "1 ok, 1 not checked"


def test_what_is_told_can_neither_begin_a_line_nor_move_a_cursor() -> None:
    text = told([Checked("a", broken("x\n\x1b[2J", "do\nthis", "and\rthat"))])
    assert [line.strip() for line in text.splitlines()] == [r"broken  a  x\n\x1b[2J", r"fix: do\nthis", r"and\rthat"]


async def test_the_vector_shows_no_secret() -> None:
    finding = await signature_checks.vector(Patient(Settings(), RedisSays(), "http://h", secret="hush-hush"))
    assert finding.verdict is Verdict.OK
    assert "hush-hush" not in str(finding)
    assert signature_checks.vector_of("").signature in str(finding)
    assert signature_checks.vector_of("hush-hush").signature in str(finding)
