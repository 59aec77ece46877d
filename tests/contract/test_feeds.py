"""Section 3: what stands in the four feeds, to the field."""

import asyncio
import json
import time
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.contract.clusters import Clusters
from tests.contract.early import begun_early
from tests.contract.gateway import Agent, Entry, Gateway, log, new_number, new_task_id, said_by, task_result
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

COUNTS = ("total_hosts", "success_hosts", "failed_hosts", "running_hosts", "pending_hosts", "progress")
RESULT_FIELDS = {"task_id", "execution_id", "agent_id", "host_id", "status", "exit_code", "error_msg", "error_code"}
RESULT_FIELDS |= {"started_at", "finished_at", "log_size", "log_pointer", "received_at", "message_id", *COUNTS}


async def only(gateway: Gateway, feed: str, **match: str) -> Entry:
    entries = await gateway.entries(feed, **match)
    assert len(entries) == 1, entries
    return entries[0]


def is_now_ms(text: str) -> bool:
    return abs(int(text) / 1000 - time.time()) < 60


def is_now_s(text: str) -> bool:
    return abs(int(text) - time.time()) < 60


# ---- results


async def test_a_result_has_all_fields(gateway: Gateway) -> None:
    agent, execution = await gateway.agent(), new_number()
    task_id = f"{execution}_2_{agent.host_id}_abc"
    said = {
        "exit_code": 3,
        "log": "x" * 50,
        "log_size": 50,
        "log_pointer": "somewhere",
        "error_msg": "bad",
        "error_code": 7,
    }
    await agent.say(task_result("m1", task_id, "failed", started_at=1700000000, finished_at=1700000012, **said))
    await agent.hear_acks(1)
    entry = await only(gateway, "agent_results", task_id=task_id)
    assert is_now_ms(entry["received_at"])
    assert entry == {
        "task_id": task_id,
        "execution_id": str(execution),
        "agent_id": agent.id,
        "host_id": str(agent.host_id),
        "status": "failed",
        "exit_code": "3",
        "error_msg": "bad",
        "error_code": "7",
        "started_at": "1700000000",
        "finished_at": "1700000012",
        "log_size": "50",
        "log_pointer": "somewhere",
        "received_at": entry["received_at"],
        "message_id": "m1",
        "total_hosts": "1",
        "success_hosts": "0",
        "failed_hosts": "1",
        "running_hosts": "0",
        "pending_hosts": "0",
        "progress": "100",
    }


@pytest.mark.parametrize("status", ["success", "failed", "cancelled", "pending", "running"])
async def test_ints_that_are_absent_are_0_and_texts_empty(gateway: Gateway, status: str) -> None:
    agent, task_id = await gateway.agent(), f"no-execution-{new_number()}"
    await agent.say({"type": "task_result", "message_id": "m1", "task_id": task_id, "result": {"status": status}})
    await agent.hear_acks(1)
    entry = await only(gateway, "agent_results", task_id=task_id)
    assert entry.keys() == RESULT_FIELDS
    ints = ("execution_id", "host_id", "exit_code", "error_code", "started_at", "finished_at", "log_size", *COUNTS)
    assert {name: entry[name] for name in ints} == dict.fromkeys(ints, "0")
    assert {name: entry[name] for name in ("error_msg", "log_pointer")} == {"error_msg": "", "log_pointer": ""}


BIG = 2**63 - 1


@pytest.mark.parametrize(
    ("task_id", "execution", "host"),
    [
        ("12_1_7_x", "12", "7"),
        (f"{BIG}_1_{BIG}_x", str(BIG), str(BIG)),
        (f"{BIG + 1}_1_{BIG + 1}_x", "0", "0"),
        ("abc_1_7_x", "0", "7"),
        ("12_1_abc_x", "12", "0"),
        ("12_1", "12", "0"),
        ("12", "12", "0"),
        ("-12_1_-7_x", "0", "0"),
        ("1.5_1_7.0_x", "0", "0"),
        ("_1__x", "0", "0"),
        ("12_1_7_x_y_z", "12", "7"),
    ],
)
async def test_execution_and_host_come_from_the_task_id(
    gateway: Gateway, task_id: str, execution: str, host: str
) -> None:
    agent = await gateway.agent()
    await agent.end(task_id)
    entry = await only(gateway, "agent_results", agent_id=agent.id)
    assert (entry["execution_id"], entry["host_id"]) == (execution, host)


@pytest.mark.parametrize(
    ("said", "pointer"),
    [
        ({"log_size": 5}, "redis:job_logs/{}@"),
        ({"log_size": 5, "log_pointer": ""}, "redis:job_logs/{}@"),
        ({"log_size": 5, "log_pointer": "elsewhere"}, "elsewhere"),
        ({"log_pointer": "elsewhere"}, "elsewhere"),
        ({"log_size": 0}, ""),
        ({}, ""),
    ],
)
async def test_a_log_pointer_is_made_where_a_size_came_without_one(
    gateway: Gateway, said: dict[str, Any], pointer: str
) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    await agent.end(task_id, **said)
    assert (await only(gateway, "agent_results", task_id=task_id))["log_pointer"] == pointer.format(task_id)


async def test_an_end_that_we_make_says_so(gateway: Gateway) -> None:
    agent, task_id = await gateway.register(), new_task_id()
    await agent.post({"id": task_id})
    await gateway.call("POST", f"/api/agents/{agent.id}/tasks/{task_id}/cancel")
    entry = await only(gateway, "agent_results", task_id=task_id)
    assert entry.keys() == RESULT_FIELDS
    assert (entry["status"], entry["exit_code"], entry["started_at"]) == ("cancelled", "-1", "0")
    assert is_now_s(entry["finished_at"])
    assert entry["agent_id"] == agent.id


# ---- progress


def counts(entry: Entry) -> tuple[int, ...]:
    """(total, success, failed, running, pending, progress)"""
    return tuple(int(entry[name]) for name in COUNTS)


async def test_progress_counts_an_executions_hosts(gateway: Gateway) -> None:
    agent, execution = await gateway.agent(), new_number()
    ids = [f"{execution}_1_{host}_x" for host in (1, 2, 3, 4)]
    for task_id in ids:
        await agent.post_and_take({"id": task_id})
    await agent.end(ids[0], "running")
    await agent.end(ids[0], "success")
    await agent.end(ids[1], "failed")
    await agent.end(ids[2], "cancelled")
    await agent.end(ids[3], "success")
    found = [counts(entry) for entry in await gateway.entries("agent_results", execution_id=str(execution))]
    assert found == [
        (4, 0, 0, 1, 3, 0),
        (4, 1, 0, 0, 3, 25),
        (4, 1, 1, 0, 2, 50),
        (4, 1, 2, 0, 1, 75),
        (4, 2, 2, 0, 0, 100),
    ]


async def test_total_is_the_distinct_hosts_with_an_accepted_task(gateway: Gateway) -> None:
    first, second, execution = await gateway.agent(), await gateway.register(), new_number()
    for step in (1, 2):
        await first.post_and_take({"id": f"{execution}_{step}_1_x"})
    batch = [{"id": f"{execution}_1_{host}_x"} for host in (2, 3)]
    assert (await gateway.call("POST", f"/api/agents/{second.id}/tasks/batch", batch)).status == 200
    await first.end(f"{execution}_1_1_x")
    assert counts(await only(gateway, "agent_results", execution_id=str(execution))) == (3, 1, 0, 0, 2, 33)


async def test_each_host_counts_by_its_latest_end(gateway: Gateway) -> None:
    agent, execution = await gateway.agent(), new_number()
    for step, status in ((1, "failed"), (2, "success"), (3, "cancelled")):
        await agent.post_and_take({"id": f"{execution}_{step}_1_x"})
        await agent.end(f"{execution}_{step}_1_x", status)
    found = [counts(entry) for entry in await gateway.entries("agent_results", execution_id=str(execution))]
    assert found == [(1, 0, 1, 0, 0, 100), (1, 1, 0, 0, 0, 100), (1, 0, 1, 0, 0, 100)]


async def test_progress_is_kept_for_24_h_without_reading_the_stream_back(trampled: Gateway) -> None:
    """A stream that was deleted takes no progress with it."""
    agent, execution = await trampled.agent(), new_number()
    for host in (1, 2):
        await agent.post_and_take({"id": f"{execution}_1_{host}_x"})
    await agent.end(f"{execution}_1_1_x")
    await trampled.redis.delete("agent_results")
    await agent.end(f"{execution}_1_2_x")
    assert counts(await only(trampled, "agent_results", execution_id=str(execution))) == (2, 2, 0, 0, 0, 100)
    left_s = await trampled.redis.ttl(f"agsrv:{{agent_results}}:execution:{execution}")
    assert abs(left_s - 24 * 3600) < 60


# ---- logs


async def test_a_log_line_is_an_entry(gateway: Gateway) -> None:
    agent, execution = await gateway.agent(), new_number()
    task_id = f"{execution}_1_7_x"
    line = {"timestamp": 1700000000, "level": "info", "stream": "stderr", "host_id": 8, "host_name": "web-1"}
    message = log("m1", task_id, "hello", **line)
    message["logs"][0]["task_id"] = "another"
    await agent.say(message)
    await agent.hear_acks(1)
    assert await only(gateway, "agent_logs", agent_id=agent.id) == {
        "execution_id": str(execution),
        "task_id": task_id,
        "agent_id": agent.id,
        "content": "hello",
        "timestamp": "1700000000",
        "message_id": "m1",
        "stream": "stderr",
        "level": "info",
        "host_id": "8",
        "host_name": "web-1",
    }


@pytest.mark.parametrize("absent", [{}, {"level": "", "stream": "", "host_name": ""}, {"level": None, "host_id": None}])
async def test_what_is_empty_is_left_out(gateway: Gateway, absent: dict[str, Any]) -> None:
    agent = await gateway.agent()
    await agent.say(log("m1", "abc", "hello", **absent))
    await agent.hear_acks(1)
    entry = await only(gateway, "agent_logs", agent_id=agent.id)
    assert entry.keys() == {"execution_id", "task_id", "agent_id", "content", "timestamp", "message_id"}
    assert is_now_s(entry["timestamp"]), "ours, in s"


@pytest.mark.parametrize(
    ("task_id", "execution", "host"),
    [
        ("12_1_7_x", "12", "7"),
        ("abc_1_7_x", "abc", "7"),
        ("abc", "abc", None),
        ("_1_0_x", "", None),
        ("1_2_y_x", "1", None),
    ],
)
async def test_execution_and_host_of_a_line(gateway: Gateway, task_id: str, execution: str, host: str | None) -> None:
    agent = await gateway.agent()
    await agent.say(log("m1", task_id, "hello"))
    await agent.hear_acks(1)
    entry = await only(gateway, "agent_logs", agent_id=agent.id)
    assert (entry["execution_id"], entry.get("host_id")) == (execution, host)


async def test_each_line_of_a_message_is_an_entry_of_its_own_in_order(gateway: Gateway) -> None:
    agent = await gateway.agent()
    lines = [f"line {number}" for number in range(50)]
    await agent.say(log("m1", "1_1_1_x", *lines))
    await agent.hear_acks(1)
    assert [entry["content"] for entry in await gateway.entries("agent_logs", agent_id=agent.id)] == lines


@pytest.mark.parametrize("content", ["", " ", "a\nb\r\n", "\x1b[31mred\x1b[0m", "\u202ereversed", "päth €😀", "\x00"])
async def test_content_is_data(gateway: Gateway, content: str) -> None:
    agent = await gateway.agent()
    await agent.say(log("m1", "1_1_1_x", content))
    await agent.hear_acks(1)
    assert (await only(gateway, "agent_logs", agent_id=agent.id))["content"] == content


# ---- status


async def statuses(agent: Agent) -> list[str]:
    return [entry["status"] for entry in await agent.gateway.entries("agent_status", agent_id=agent.id)]


async def wait_for(agent: Agent, *expected: str) -> list[Entry]:
    """The entries of an agent, which are these and no others."""
    entries = await agent.gateway.entries_of("agent_status", len(expected), agent_id=agent.id)
    assert [entry["status"] for entry in entries] == list(expected)
    return entries


SYSTEM = {"hostname": "h", "os": "linux", "arch": "amd64", "ips": ["10.0.0.1"]}


async def test_a_registration_is_active_with_its_event(gateway: Gateway) -> None:
    agent = await gateway.register(name="web-1", system=SYSTEM)
    entry = (await wait_for(agent, "active"))[0]
    assert is_now_ms(entry.pop("timestamp"))
    assert is_now_ms(entry.pop("last_heartbeat"))
    assert entry == {
        "agent_id": agent.id,
        "agent_name": "web-1",
        "host_id": str(agent.host_id),
        "status": "active",
        "event": "registered",
        "hostname": "h",
        "os": "linux",
        "arch": "amd64",
    }


async def test_coming_is_online_and_going_is_offline(gateway: Gateway) -> None:
    agent = await (await gateway.register(name="web-1", system=SYSTEM)).connect()
    await wait_for(agent, "active", "online")
    await agent.disconnect()
    _, online, offline = await wait_for(agent, "active", "online", "offline")
    for entry in (online, offline):
        assert is_now_ms(entry.pop("timestamp"))
        assert is_now_ms(entry.pop("last_heartbeat"))
    identity = {"agent_id": agent.id, "agent_name": "web-1", "host_id": str(agent.host_id)}
    known = identity | {"hostname": "h", "os": "linux", "arch": "amd64"}
    assert online == known | {"status": "online"}
    assert is_now_s(offline.pop("disconnect_time"))
    assert offline == known | {"status": "offline", "disconnect_reason": "websocket_closed"}


async def test_an_agent_that_goes_as_soon_as_it_came_is_told_online_and_then_offline(gateway: Gateway) -> None:
    for _ in range(5):
        agent = await gateway.agent()
        await agent.disconnect()
        await wait_for(agent, "active", "online", "offline")


async def test_a_host_id_that_nobody_said_is_0(gateway: Gateway) -> None:
    agent = await gateway.agent(host_id=0)
    for entry in await wait_for(agent, "active", "online"):
        assert entry["host_id"] == "0"


async def test_a_lost_connection_is_offline_as_well(gateway: Gateway) -> None:
    agent = await gateway.agent()
    agent.socket.transport.abort()
    offline = (await gateway.entries_of("agent_status", 1, agent_id=agent.id, status="offline"))[0]
    assert offline["disconnect_reason"] == "websocket_closed"


async def test_a_takeover_writes_neither_online_nor_offline(gateway: Gateway) -> None:
    agent = await gateway.agent()
    await wait_for(agent, "active", "online")
    for _ in range(3):
        await agent.connect()
    await agent.post_sentinel()
    await agent.disconnect()
    await wait_for(agent, "active", "online", "offline")


async def test_a_forgotten_agent_is_offline_as_revoked(gateway: Gateway) -> None:
    agent = await gateway.agent()
    await wait_for(agent, "active", "online")
    await gateway.call("DELETE", f"/api/agents/{agent.id}")
    entries = await wait_for(agent, "active", "online", "offline")
    assert entries[2]["disconnect_reason"] == "revoked"


@begun_early
async def test_agents_of_a_node_that_drains_are_offline_as_drained(clusters: Clusters) -> None:
    """Closed with 1012, and all of it is written before the end. The Redis is one that the configuration names."""
    with RedisServer(clusters.folder / "redis-that-stays", version="7.0") as server:
        cluster = await clusters.start("drained", redis_url=server.url)
        redis: Any = Redis.from_url(server.url, decode_responses=True, protocol=2)
        async with Gateway(cluster) as gateway, redis:
            agent = await gateway.agent()

            async def not_online() -> bool:
                return agent.id not in [
                    e["agent_id"] for _, e in await redis.xrange("agent_status") if e["status"] == "online"
                ]

            await eventually(not_online)
            stopping = asyncio.create_task(cluster.stop(), name="stop")
            assert await agent.close_code() == 1012
            await stopping
            entries = [entry for _, entry in await redis.xrange("agent_status") if entry["agent_id"] == agent.id]
            assert [entry["status"] for entry in entries] == ["active", "online", "offline"]
            assert entries[2]["disconnect_reason"] == "drained"


HEARD = {
    "cpu_usage": 12.5,
    "memory_usage": 40.5,
    "memory_total": 100,
    "memory_used": 40,
    "disk_usage": {"/": 5},
    "load_avg": [0.5, 1, 1.5],
    "uptime": 99,
}


@begun_early
async def test_with_an_interval_of_0_each_heartbeat_is_online(clusters: Clusters) -> None:
    """With what it said of its host."""
    async with clusters.gateway("swift") as gateway:
        agent = await gateway.agent(system=SYSTEM)
        await wait_for(agent, "active", "online")
        await agent.say({"type": "heartbeat", "payload": {"timestamp": 1, "system": HEARD}})
        await wait_for(agent, "active", "online", "online")
        await agent.say({"type": "heartbeat"})
        entries = await wait_for(agent, "active", "online", "online", "online")
        assert json.loads(entries[2]["system"]) == {
            "cpu_usage": 12.5,
            "memory": {"usage": 40.5, "total": 100, "used": 40},
            "disk": {"/": 5},
            "load_avg": {"1m": 0.5, "5m": 1, "15m": 1.5},
            "uptime": 99,
        }
        assert (entries[2]["hostname"], entries[2]["os"], entries[2]["arch"]) == ("h", "linux", "amd64")
        await agent.disconnect()


@begun_early
async def test_by_default_a_heartbeat_is_not_reported_before_30_s(clusters: Clusters) -> None:
    async with clusters.gateway("default") as gateway:
        agent = await gateway.agent()
        await wait_for(agent, "active", "online")
        began = time.monotonic()
        for _ in range(5):
            await agent.say({"type": "heartbeat", "payload": {"system": HEARD}})
        entries = await gateway.entries_of("agent_status", 3, 40.0, agent_id=agent.id)
        assert 25 < time.monotonic() - began < 35
        assert (entries[2]["status"], json.loads(entries[2]["system"])["uptime"]) == ("online", 99)


# ---- statistics


async def test_statistics_count_since_the_connection_began_and_are_written_at_its_end(gateway: Gateway) -> None:
    agent = await gateway.agent()
    ends = [("success", 10, 12), ("success", 10, 11), ("failed", 0, 0), ("cancelled", 10, 10)]
    for status, started_at, finished_at in ends:
        await agent.end(new_task_id(), status, started_at=started_at, finished_at=finished_at)
    await agent.end(new_task_id(), "running")
    await agent.disconnect()
    entry = (await gateway.entries_of("agent_task_stats", 1, agent_id=agent.id))[0]
    assert is_now_ms(entry.pop("timestamp"))
    expected = {"total": "4", "success": "2", "failed": "1", "cancelled": "1"}
    assert entry == {"agent_id": agent.id, **expected, "avg_duration_ms": "1000", "success_rate": "50"}
    await agent.connect()
    for status in ("success", "success", "failed"):
        await agent.end(new_task_id(), status, started_at=10, finished_at=11)
    await agent.disconnect()
    entry = (await gateway.entries_of("agent_task_stats", 2, agent_id=agent.id))[1]
    assert (entry["total"], entry["avg_duration_ms"]) == ("3", "1000")
    assert float(entry["success_rate"]) == pytest.approx(200 / 3)


async def test_statistics_are_written_every_push_interval_for_agents_that_changed(tuned: Gateway) -> None:
    """Here each second."""
    agent = await tuned.agent()
    for total in (1, 2):
        await agent.end(new_task_id(), started_at=10, finished_at=10 + total)
        entries = await tuned.entries_of("other_stats", total, agent_id=agent.id)
        assert entries[-1]["total"] == str(total)
    assert [entry["avg_duration_ms"] for entry in entries] == ["1000", "1500"]
    await agent.disconnect()
    assert len(await tuned.entries("other_stats", agent_id=agent.id)) == 2, "nothing had changed"


async def test_an_agent_that_ended_nothing_has_no_statistics(gateway: Gateway) -> None:
    agent, other = await gateway.agent(), await gateway.agent()
    await agent.say(log("m1", "1_1_1_x", "line"))
    await agent.hear_acks(1)
    await agent.disconnect()
    await other.end(new_task_id())
    await other.disconnect()
    await gateway.entries_of("agent_task_stats", 1, agent_id=other.id)
    assert await gateway.entries("agent_task_stats", agent_id=agent.id) == []


# ---- other keys, and none


async def test_feeds_have_the_keys_that_are_configured(tuned: Gateway) -> None:
    agent, task_id = await tuned.agent(), new_task_id()
    await agent.say(log("m1", task_id, "line"))
    assert await agent.hear_acks(1) == ["m1"]
    await agent.end(task_id)
    assert len(await tuned.entries("other_logs", agent_id=agent.id)) == 1
    assert len(await tuned.entries("other_results", agent_id=agent.id)) == 1
    await tuned.entries_of("other_status", 2, agent_id=agent.id)
    await agent.disconnect()
    await tuned.entries_of("other_stats", 1, agent_id=agent.id)
    ours = ("agent_logs", "agent_results", "agent_status", "agent_task_stats")
    assert await tuned.redis.exists(*ours) == 0


@pytest.mark.parametrize("name", ["default", "tuned"])
async def test_our_own_keys_have_our_prefix(clusters: Clusters, name: str) -> None:
    prefix = {"default": "agsrv:", "tuned": "mine:"}[name]
    feeds = {"agent_logs", "agent_results", "agent_status", "agent_task_stats"}
    feeds |= {"other_logs", "other_results", "other_status", "other_stats"}
    async with clusters.gateway(name) as gateway:
        await (await gateway.agent()).post_sentinel()
        others = {key async for key in gateway.redis.scan_iter() if not key.startswith(prefix)}
        assert others <= feeds


async def test_a_disabled_feed_settles_and_acks_and_writes_nothing(small: Gateway) -> None:
    agent, task_id = await small.agent(), new_task_id()
    await agent.post_and_take({"id": task_id})
    await agent.say(log("m1", task_id, "line"))
    assert await agent.hear_acks(1) == ["m1"]
    await agent.end(task_id)
    answer = (await small.call("POST", f"/api/agents/{agent.id}/tasks/{task_id}/cancel")).json()
    assert isinstance(answer, dict)
    assert answer["status"] == "success", "settled"
    await agent.post_sentinel()
    await agent.disconnect()
    feeds = ("agent_logs", "agent_results", "agent_status", "agent_task_stats")
    assert await small.redis.exists(*feeds) == 0


# ---- others use these keys


async def test_a_stream_that_somebody_deletes_is_written_again(trampled: Gateway) -> None:
    agent = await trampled.agent()
    for feed in ("agent_logs", "agent_results", "agent_status"):
        await trampled.redis.delete(feed)
        task_id = new_task_id()
        await agent.say(log(f"of {feed}", task_id, feed))
        assert await agent.hear_acks(1) == [f"of {feed}"]
        await agent.end(task_id)
        assert len(await trampled.entries("agent_logs", content=feed)) == 1
        assert len(await trampled.entries("agent_results", task_id=task_id)) == 1
    other = await trampled.agent()
    await trampled.entries_of("agent_status", 2, agent_id=other.id)


@begun_early
async def test_a_feed_that_somebody_makes_no_stream_of_waits_unacked_until_it_may_be_written(
    clusters: Clusters,
) -> None:
    """Not a process ends over it, and the other feeds go on."""
    cluster = await clusters.start("blocked")
    async with Gateway(cluster) as gateway:
        before = {**cluster.nodes(), **cluster.routers()}
        agent, task_id = await gateway.agent(), new_task_id()
        await gateway.redis.set("agent_results", "somebody's")
        await agent.say(task_result("m1", task_id), log("m2", task_id, "another feed"))
        assert await agent.hear_acks(1) == ["m2"]
        await asyncio.sleep(6.0)  # trimming comes every 5 s
        await agent.post_sentinel()
        assert {**cluster.nodes(), **cluster.routers()} == before
        assert [line for line in said_by(cluster).splitlines() if "agent_results" in line and "not a stream" in line]
        await gateway.redis.delete("agent_results")
        assert await agent.hear_acks(1) == ["m1"]
        assert [entry["status"] for entry in await gateway.entries("agent_results", task_id=task_id)] == ["success"]


async def test_djangos_entries_and_expiry_stay_as_they_are(trampled: Gateway) -> None:
    key = "agent_status"
    theirs = await trampled.redis.xadd(key, {"agent_id": "of-django", "status": "offline", "reason": "theirs"})
    await trampled.redis.expire(key, 86400)
    agent = await trampled.agent()
    await trampled.entries_of(key, 2, agent_id=agent.id)
    assert await trampled.redis.xrange(key, theirs, theirs)
    assert 0 < await trampled.redis.ttl(key) <= 86400
    await trampled.redis.persist(key)


async def test_a_group_made_before_the_first_entry_reads_everything(trampled: Gateway) -> None:
    """MKSTREAM, from 0."""
    await trampled.redis.delete("agent_results")
    await trampled.redis.xgroup_create("agent_results", "django", "0", mkstream=True)
    agent, ids = await trampled.agent(), [new_task_id() for _ in range(3)]
    for task_id in ids:
        await agent.end(task_id)
    read = await trampled.redis.xreadgroup("django", "reader", {"agent_results": ">"})
    assert [entry["task_id"] for _, entry in read[0][1] if entry["agent_id"] == agent.id] == ids
    await trampled.redis.xgroup_destroy("agent_results", "django")


@begun_early
async def test_results_are_trimmed_once_every_group_has_had_them(clusters: Clusters) -> None:
    """`keep` is 5 here; what is pending for less than 15 min stays, what nobody acks later goes all the same."""
    async with clusters.gateway("tuned") as gateway:
        key, redis = "other_results", gateway.redis
        agent, ids = await gateway.agent(), [new_task_id() for _ in range(20)]
        await redis.xgroup_create(key, "slow", "0", mkstream=True)
        for task_id in ids:
            await agent.end(task_id)
        await redis.xgroup_create(key, "quick", "$")
        await asyncio.sleep(6.0)  # trimming comes every 5 s
        assert len(await gateway.entries(key, agent_id=agent.id)) == 20, "not delivered to `slow`"
        read = (await redis.xreadgroup("slow", "reader", {key: ">"}, count=1000))[0][1]
        await asyncio.sleep(6.0)
        assert len(await gateway.entries(key, agent_id=agent.id)) == 20, "pending for less than 15 min"
        await redis.xclaim(key, "slow", "reader", 0, [entry_id for entry_id, _ in read], idle=16 * 60_000)
        await eventually(partial(kept_beyond, agent, key, ids, 5), 15.0, every_s=0.2)
        for group in ("slow", "quick"):
            await redis.xgroup_destroy(key, group)


@begun_early
async def test_without_groups_the_newest_results_stay(clusters: Clusters) -> None:
    async with clusters.gateway("trampled") as gateway:
        agent, ids = await gateway.agent(), [new_task_id() for _ in range(30)]
        for task_id in ids:
            await agent.end(task_id)
        await eventually(partial(kept_beyond, agent, "agent_results", ids, 10), 15.0, every_s=0.2)


async def kept_beyond(agent: Agent, key: str, ids: list[str], keep: int) -> str:
    """What of an agent's tasks should be gone from a feed; only the oldest may be."""
    kept = [entry["task_id"] for entry in await agent.gateway.entries(key, agent_id=agent.id)]
    assert kept == ids[len(ids) - len(kept) :]
    return "" if len(kept) <= keep else f"{len(kept)} entries"


@begun_early
async def test_a_feed_that_is_too_long_loses_its_oldest_entries_and_says_so(clusters: Clusters) -> None:
    """`max_len` is 200 here; Redis trims by nodes of 100 entries."""
    async with clusters.gateway("tuned") as gateway:
        agent = await gateway.agent()
        await agent.say(log("m1", "1_1_1_x", *(str(number) for number in range(1000))))
        assert await agent.hear_acks(1) == ["m1"]

        async def too_many() -> object:
            found: int = await gateway.redis.xlen("other_logs")
            return found > 300 and found

        await eventually(too_many, 15.0, every_s=0.2)
        kept = [entry["content"] for entry in await gateway.entries("other_logs", agent_id=agent.id)]
        assert kept == [str(number) for number in range(1000)][-len(kept) :], "the newest"
        assert len(kept) > 100
        output = gateway.cluster.stderr.read_text()
        assert any("other_logs" in line and '"error"' in line for line in output.splitlines())


@begun_early
async def test_logs_are_trimmed_by_age(clusters: Clusters) -> None:
    """`max_age` is 3 s here; Redis trims by nodes of 100 entries."""
    async with clusters.gateway("brief") as gateway:
        agent = await gateway.agent()
        await agent.say(log("m1", "1_1_1_x", *(str(number) for number in range(1000))))
        await agent.hear_acks(1)
        assert len(await gateway.entries("agent_logs", agent_id=agent.id)) == 1000

        async def too_many() -> object:
            found = len(await gateway.entries("agent_logs", agent_id=agent.id))
            return found > 100 and found

        await eventually(too_many, 20.0, every_s=0.2)
