"""Section 1.3, from the agent: heartbeats, logs, results, acks; and how a connection ends."""

import asyncio
import json
import random
import time
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.contract.clusters import Clusters
from tests.contract.early import begun_early
from tests.contract.gateway import Agent, Gateway, log, new_task_id, task_result
from tests.contract.raw import CLOSE, CONTINUATION, FIN, PING, PONG, TEXT, upgraded
from tests.support.http_client import HttpClient
from tests.support.websocket_client import masked_frame

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 1 << 20
SYSTEM = {"cpu_usage": 12.5, "memory_usage": 40.0, "memory_total": 100, "memory_used": 40, "disk_usage": {"/": 5}}


async def results(agent: Agent, task_id: str) -> list[str]:
    """The statuses of a task in the feed."""
    found = await agent.gateway.entries("agent_results", agent_id=agent.id, task_id=task_id)
    return [entry["status"] for entry in found]


async def contents(agent: Agent) -> list[str]:
    return [entry["content"] for entry in await agent.gateway.entries("agent_logs", agent_id=agent.id)]


# ---- heartbeats


async def test_a_heartbeat_is_neither_acked_nor_answered_at_once(gateway: Gateway) -> None:
    agent = await gateway.agent()
    await agent.say(
        {"type": "heartbeat", "message_id": "h1", "payload": {"timestamp": 1700000000, "system": SYSTEM}},
        {"type": "heartbeat", "message_id": "h2", "payload": {}},
        {"type": "heartbeat", "payload": None},
        {"type": "heartbeat"},
    )
    await agent.hears_nothing_before("m1")


@begun_early
async def test_a_heartbeat_is_answered_with_a_data_frame_if_none_went_out_for_20_s(clusters: Clusters) -> None:
    async with clusters.gateway("default") as gateway:
        quiet, busy = await gateway.agent(), await gateway.agent()
        await asyncio.sleep(12.0)
        await busy.hears_nothing_before("m1")
        await asyncio.sleep(10.0)
        await quiet.say({"type": "heartbeat"})
        await busy.say({"type": "heartbeat"})
        answer = await quiet.hear()
        assert answer == {"type": "heartbeat", "ts": answer["ts"]}
        assert isinstance(answer["ts"], int)
        assert abs(answer["ts"] / 1000 - time.time()) < 5, "unix ms"
        await busy.hears_nothing_before("m2")


@begun_early
async def test_a_silent_agent_is_closed_with_4408_and_offline_within_the_heartbeat_timeout(clusters: Clusters) -> None:
    async with clusters.gateway("swift") as gateway:
        agent = await gateway.agent()
        began = time.monotonic()
        offline = (await gateway.entries_of("agent_status", 1, agent_id=agent.id, status="offline"))[0]
        assert 2.5 < time.monotonic() - began < 3.0 + 2.0 + 1.0, "3 s, 2 s, and one for a busy machine"
        assert offline["disconnect_reason"] == "heartbeat_timeout"
        assert await agent.close_code() == 4408
        await agent.is_shown("inactive")


SIGNS_OF_LIFE = {
    "heartbeat": {"type": "heartbeat"},
    "log": {"type": "log", "message_id": "m"},
    "unknown type": {"type": "of-the-future"},
}


@begun_early
async def test_any_valid_frame_is_a_sign_of_life(clusters: Clusters) -> None:
    """Of agents that must be heard every 3 s."""
    async with clusters.gateway("swift") as gateway:
        agents = [await gateway.agent() for _ in SIGNS_OF_LIFE]
        for _ in range(12):
            for agent, frame in zip(agents, SIGNS_OF_LIFE.values(), strict=True):
                await agent.say(frame)
            await asyncio.sleep(0.5)
        for agent in agents:
            assert await gateway.entries("agent_status", agent_id=agent.id, status="offline") == []
            await agent.is_shown("active")


# ---- what is acked


async def test_a_log_is_acked_once_it_is_in_its_feed(gateway: Gateway) -> None:
    agent = await gateway.agent()
    for number in range(20):
        await agent.say(log(f"m{number}", "1_1_1_x", f"line {number}"))
        assert await agent.hear() == {"type": "ack", "ack_id": f"m{number}"}
        assert (await contents(agent))[-1] == f"line {number}", "already there"


async def test_a_result_is_acked_once_it_is_in_its_feed(gateway: Gateway) -> None:
    agent = await gateway.agent()
    for number in range(20):
        task_id = new_task_id()
        await agent.say(task_result(f"m{number}", task_id))
        assert await agent.hear() == {"type": "ack", "ack_id": f"m{number}"}
        assert await results(agent, task_id) == ["success"], "already there"


@pytest.mark.parametrize("absent", [{}, {"message_id": None}, {"message_id": ""}], ids=["omitted", "null", "empty"])
async def test_without_a_message_id_logs_and_results_are_dropped_and_never_acked(
    gateway: Gateway, absent: dict[str, Any]
) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    for message in (log("", task_id, "line"), task_result("", task_id)):
        del message["message_id"]
        await agent.say(message | absent)
    await agent.hears_nothing_before("m1")
    assert await contents(agent) == ["a sentinel"]
    assert await results(agent, task_id) == []


LINE = {"content": "line"}
EMPTY = {
    "a log without a task": {"type": "log", "logs": [LINE]},
    "a log of an empty task": {"type": "log", "task_id": "", "logs": [LINE]},
    "a log without lines": {"type": "log", "task_id": "1_1_1_x"},
    "a log of null lines": {"type": "log", "task_id": "1_1_1_x", "logs": None},
    "a log of no lines": {"type": "log", "task_id": "1_1_1_x", "logs": []},
    "a result without a result": {"type": "task_result", "task_id": "1_1_1_x"},
    "a result of null": {"type": "task_result", "task_id": "1_1_1_x", "result": None},
    "a result without a task": {"type": "task_result", "result": {"status": "success"}},
}


@pytest.mark.parametrize("message", EMPTY.values(), ids=EMPTY)
async def test_what_lacks_its_content_is_acked_and_dropped(gateway: Gateway, message: dict[str, Any]) -> None:
    agent = await gateway.agent()
    await agent.say({**message, "message_id": "m1"})
    assert await agent.hear() == {"type": "ack", "ack_id": "m1"}
    for feed in ("agent_logs", "agent_results"):
        assert await gateway.entries(feed, agent_id=agent.id) == []


@pytest.mark.parametrize("where", ["message", "result"])
async def test_a_result_may_name_its_task_in_either_place(gateway: Gateway, where: str) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    message = task_result("m1", task_id)
    del (message if where == "result" else message["result"])["task_id"]
    await agent.say(message)
    assert await agent.hear_acks(1) == ["m1"]
    assert await results(agent, task_id) == ["success"]


async def test_null_is_absent(gateway: Gateway) -> None:
    agent = await gateway.agent()
    fields = ("ack_id", "task", "tasks", "task_ids", "result", "payload", "progress", "ts", "request_id", "error")
    line = dict.fromkeys(("timestamp", "level", "stream", "task_id", "host_id", "host_name")) | {"content": "line"}
    await agent.say(dict.fromkeys(fields) | {"type": "log", "message_id": "m1", "task_id": "1_1_1_x", "logs": [line]})
    assert await agent.hear_acks(1) == ["m1"]
    texts = ("exit_code", "log", "log_size", "log_pointer", "started_at", "finished_at", "error_msg", "error_code")
    task_id = new_task_id()
    result = dict.fromkeys(texts) | {"task_id": task_id, "status": "success"}
    await agent.say({"type": "task_result", "message_id": "m2", "task_id": task_id, "result": result})
    assert await agent.hear_acks(1) == ["m2"]
    assert await contents(agent) == ["line"]
    assert await results(agent, task_id) == ["success"]


async def test_unknown_fields_and_types_are_ignored(gateway: Gateway) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    await agent.say({"type": "of-the-future", "message_id": "m0"}, {"message_id": "m1"}, {})
    await agent.say({**log("m2", task_id, "line", unknown={"a": [1]}), "unknown": 1})
    await agent.say({**task_result("m3", task_id, unknown=[None]), "unknown": None})
    assert sorted(await agent.hear_acks(2)) == ["m2", "m3"]
    assert await contents(agent) == ["line"]


DROPPED: dict[str, dict[str, Any] | str] = {
    "without_message_id": {"type": "log", "task_id": "1_1_1_x", "logs": [LINE]},
    "without_content": {"type": "log", "message_id": "m0"},
    "malformed": "no message",
    "unknown_type": {"type": "of-the-future"},
}


@pytest.mark.parametrize("event", DROPPED)
async def test_what_is_dropped_is_counted(gateway: Gateway, event: str) -> None:
    agent, before = await gateway.agent(), await counted(gateway, event)
    await agent.say(*[DROPPED[event]] * 3)
    await agent.say(log("sentinel", "1_1_1_x", "line"))
    while (await agent.hear())["ack_id"] != "sentinel":
        pass
    assert await counted(gateway, event) - before == 3


async def counted(gateway: Gateway, event: str) -> int:
    """What the nodes' metrics say of it; their admin ports follow the router's, which is 1000 above the public one."""
    total = 0
    for port in (gateway.port + 1001, gateway.port + 1002):
        answer = await HttpClient(f"http://127.0.0.1:{port}").request("GET", "/metrics")
        lines = answer.body.decode().splitlines()
        name = f'agent_server_messages_dropped_total{{reason="{event}"}} '
        total += sum(int(float(line.removeprefix(name))) for line in lines if line.startswith(name))
    return total


# ---- what comes again


async def test_a_message_that_comes_again_is_acked_and_not_written(gateway: Gateway) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    await agent.say(*[log("m1", task_id, "line")] * 2, *[task_result("m2", task_id, "running")] * 2)
    assert sorted(await agent.hear_acks(4)) == ["m1", "m1", "m2", "m2"]
    await agent.say(log("m1", task_id, "line"), task_result("m2", task_id, "running"))
    assert sorted(await agent.hear_acks(2)) == ["m1", "m2"]
    assert await contents(agent) == ["line"]
    assert await results(agent, task_id) == ["running"]


async def test_a_message_that_comes_again_on_another_connection_is_acked_and_not_written(gateway: Gateway) -> None:
    """Three connections in a row, over both nodes."""
    agent, task_id = await gateway.register(), new_task_id()
    for _ in range(3):
        await agent.connect()
        await agent.say(log("m1", task_id, "line"), task_result("m2", task_id, "running"))
        assert sorted(await agent.hear_acks(2)) == ["m1", "m2"]
    assert await contents(agent) == ["line"]
    assert await results(agent, task_id) == ["running"]


async def test_message_ids_are_each_agents_own(gateway: Gateway) -> None:
    for agent in [await gateway.agent() for _ in range(2)]:
        await agent.say(log("the-same-id", "1_1_1_x", "line"))
        assert await agent.hear_acks(1) == ["the-same-id"]
        assert await contents(agent) == ["line"]


@pytest.mark.parametrize("status", ["success", "failed", "cancelled"])
async def test_a_second_end_of_a_task_is_acked_and_not_written_whatever_its_id(gateway: Gateway, status: str) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    await agent.say(task_result("m1", task_id, status))
    for number, again in enumerate((status, "success", "failed", "cancelled")):
        await agent.say(task_result(f"again{number}", task_id, again))
    assert await agent.hear_acks(5) == ["m1", "again0", "again1", "again2", "again3"]
    assert await results(agent, task_id) == [status]


async def test_two_ends_in_one_batch_make_one_entry(gateway: Gateway) -> None:
    agent, ids = await gateway.agent(), [new_task_id() for _ in range(50)]
    for number, task_id in enumerate(ids):
        await agent.say(task_result(f"a{number}", task_id), task_result(f"b{number}", task_id))
    assert len(await agent.hear_acks(100)) == 100
    for task_id in ids:
        assert await results(agent, task_id) == ["success"]


async def test_progress_after_the_end_is_acked_and_not_written(gateway: Gateway) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    await agent.end(task_id)
    await agent.say(task_result("late", task_id, "running"))
    assert await agent.hear_acks(1) == ["late"]
    assert await results(agent, task_id) == ["success"]


@pytest.mark.parametrize(("ended_min_ago", "is_written"), [(14, True), (16, False)])
async def test_log_lines_of_a_task_that_ended_over_15_min_ago_are_acked_and_dropped(
    gateway: Gateway, ended_min_ago: int, is_written: bool
) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    await agent.end(task_id)
    record = f"agsrv:{{s0}}:task:{agent.id}:{task_id}"
    ended_ms = int(await gateway.redis.hget(record, "ended"))
    await gateway.redis.hset(record, "ended", ended_ms - ended_min_ago * 60_000)
    await agent.say(log("m1", task_id, "a late line"))
    assert await agent.hear_acks(1) == ["m1"]
    assert await contents(agent) == (["a late line"] if is_written else [])


async def test_ended_tasks_are_remembered_for_25_h(gateway: Gateway) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    await agent.post_and_take({"id": task_id})
    await agent.end(task_id)
    left_s = await gateway.redis.ttl(f"agsrv:{{s0}}:task:{agent.id}:{task_id}")
    assert abs(left_s - 25 * 3600) < 60


# ---- what is written


async def test_entries_appear_in_the_order_in_which_they_were_first_sent(gateway: Gateway) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    for number in range(400):
        await agent.say(log(f"l{number}", task_id, f"{number}a", f"{number}b"))
        await agent.say(task_result(f"r{number}", task_id, "running", log_size=number))
        if number % 7 == 3:
            await agent.say(log(f"l{number - 3}", task_id, f"{number - 3}a", f"{number - 3}b"))
    await agent.hear_acks(400 * 2 + 57)
    assert await contents(agent) == [f"{number}{half}" for number in range(400) for half in "ab"]
    sizes = [entry["log_size"] for entry in await gateway.entries("agent_results", agent_id=agent.id)]
    assert sizes == [str(number) for number in range(400)]


async def test_results_of_unknown_tasks_are_written(gateway: Gateway) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    await agent.end(task_id, "failed", exit_code=3)
    assert await results(agent, task_id) == ["failed"]


@pytest.mark.parametrize("status", ["pending", "running"])
async def test_progress_is_passed_on_and_ends_nothing(gateway: Gateway, status: str) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    await agent.post_and_take({"id": task_id})
    await agent.say(task_result("m1", task_id, status))
    assert await agent.hear_acks(1) == ["m1"]
    assert await results(agent, task_id) == [status]
    cancel = await gateway.call("POST", f"/api/agents/{agent.id}/tasks/{task_id}/cancel")
    assert cancel.json() == {"task_id": task_id, "agent_id": agent.id, "status": "cancelled", "source": "websocket"}
    assert await agent.hear() == {"type": "cancel_task", "task_id": task_id}
    await agent.end(task_id, "cancelled")
    assert await results(agent, task_id) == [status, "cancelled"]


@pytest.mark.parametrize("status", ["success", "failed", "cancelled"])
async def test_an_end_ends_the_task(gateway: Gateway, status: str) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    await agent.post_and_take({"id": task_id})
    await agent.end(task_id, status)
    answer = (await gateway.call("POST", f"/api/agents/{agent.id}/tasks/{task_id}/cancel")).json()
    assert isinstance(answer, dict)
    assert answer["status"] == status


async def test_we_never_write_a_running_entry_of_our_own(gateway: Gateway) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    assert (await agent.post({"id": task_id})).status == 200
    assert (await agent.hear())["task"]["id"] == task_id
    await agent.say({"type": "ack", "ack_id": task_id}, log("m1", task_id, "line"))
    await agent.hear_acks(1)
    await agent.post_sentinel()
    assert await results(agent, task_id) == []


async def test_an_agent_writes_in_its_own_name_only(gateway: Gateway) -> None:
    """And does not end a task of another."""
    other, liar, task_id = await gateway.agent(), await gateway.agent(), new_task_id()
    await other.post_and_take({"id": task_id})
    claims: dict[str, Any] = {"agent_id": other.id, "agent_name": other.name, "host_id": other.host_id}
    await liar.say({**log("m1", task_id, "line", agent_id=other.id), **claims})
    await liar.say({**task_result("m2", task_id, **claims), **claims})
    assert sorted(await liar.hear_acks(2)) == ["m1", "m2"]
    assert await contents(other) == []
    assert await contents(liar) == ["line"]
    assert await results(other, task_id) == []
    assert await results(liar, task_id) == ["success"]
    await other.end(task_id, "failed")
    assert await results(other, task_id) == ["failed"]


# ---- large ones


async def test_a_line_of_5_mib_is_taken(gateway: Gateway) -> None:
    agent = await gateway.agent()
    line = "x" * (5 * MIB)
    await agent.say(log("m1", "1_1_1_x", line))
    assert await agent.hear_acks(1) == ["m1"]
    assert await contents(agent) == [line]
    for entry_id, entry in await gateway.redis.xrange("agent_logs"):
        if entry["agent_id"] == agent.id:
            await gateway.redis.xdel("agent_logs", entry_id)  # others read the whole feed


async def test_a_result_of_30_mib_is_taken_and_its_log_is_not_stored(gateway: Gateway) -> None:
    """5 MiB of output, each byte of it escaped."""
    agent, task_id = await gateway.agent(), new_task_id()
    head, tail = json.dumps(task_result("m1", task_id, log="#")).split("#")
    await agent.say(head + "\\u001b" * (5 * MIB) + tail)
    assert await agent.hear_acks(1) == ["m1"]
    entry = (await gateway.entries("agent_results", agent_id=agent.id, task_id=task_id))[0]
    assert len(json.dumps(entry)) < 1000


async def test_a_message_in_fragments_is_joined(gateway: Gateway) -> None:
    agent, payload = await gateway.register(), json.dumps(log("m1", "1_1_1_x", "a line in pieces")).encode()
    async with upgraded(gateway.port, f"/ws/agent/{agent.id}", agent.token) as raw:
        cuts = sorted(random.sample(range(1, len(payload)), 5))
        parts = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        for number, part in enumerate(parts):
            is_last = number == len(parts) - 1
            raw.send(masked_frame((FIN if is_last else 0) | (CONTINUATION if number else TEXT), part))
            if not is_last:
                raw.send(masked_frame(FIN | PING, b"between"))
                assert await raw.frame() == (FIN | PONG, b"between")
        assert await raw.text() == {"type": "ack", "ack_id": "m1"}
        assert await contents(agent) == ["a line in pieces"]


# ---- the end of a connection


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
async def test_a_close_is_answered_with_its_code(gateway: Gateway, code: int) -> None:
    agent = await gateway.register()
    async with upgraded(gateway.port, f"/ws/agent/{agent.id}", agent.token) as raw:
        raw.send(masked_frame(FIN | CLOSE, code.to_bytes(2, "big") + b"bye"))
        first, payload = await raw.frame()
        assert (first, payload[:2]) == (FIN | CLOSE, code.to_bytes(2, "big"))
        await raw.ended()


@begun_early
async def test_an_agent_that_leaves_tasks_unread_is_cut_after_8_s(clusters: Clusters) -> None:
    """4413; no close frame can say so, it would wait behind what is not read."""
    async with clusters.gateway("default") as gateway:
        agent = await gateway.register()
        async with upgraded(gateway.port, f"/ws/agent/{agent.id}", agent.token) as raw:
            raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
            began = time.monotonic()
            for _ in range(4):
                assert (await agent.post({"id": new_task_id(), "command": "x" * (4 * MIB)})).status == 200
            offline = await gateway.entries_of("agent_status", 1, 20.0, agent_id=agent.id, status="offline")
            assert offline[0]["disconnect_reason"] == "websocket_closed"
            assert 6.0 < time.monotonic() - began < 15.0


@begun_early
async def test_an_agent_that_floods_is_read_slower_and_closed_with_4429_when_it_goes_on(clusters: Clusters) -> None:
    async with clusters.gateway("tuned") as gateway:
        hasty, flooding = await gateway.agent(), await gateway.agent()
        began = time.monotonic()
        await hasty.say(*[log(f"m{number}", "1_1_1_x", "line") for number in range(60)])
        assert len(await hasty.hear_acks(60)) == 60, "nothing is lost"
        assert time.monotonic() - began > 1.0, "20 a second"
        flood = asyncio.create_task(flood_with_heartbeats(flooding), name="flood")
        assert await flooding.close_code(30.0) == 4429
        with pytest.raises(ConnectionClosed):
            await flood


async def flood_with_heartbeats(agent: Agent) -> None:
    while True:
        await agent.say(*[{"type": "heartbeat"}] * 25)
        await asyncio.sleep(0.1)
