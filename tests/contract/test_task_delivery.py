"""Section 1.3, to the agent: what a task may hold, how it arrives, and when it comes again."""

import asyncio
import json
import time
import uuid
from typing import Any

import pytest

from cluster.nodes import BEAT_S
from tests.contract.clusters import Clusters
from tests.contract.early import begun_early
from tests.contract.gateway import Agent, Entry, Gateway, error_of, log, new_task_id, task_result

pytestmark = pytest.mark.asyncio(loop_scope="session")

SKIPPED = "task skipped as duplicated (already completed)"
LOST = "lost: Redis came back without this task, it may have run"
RESTARTED = "agent restarted, the task may have run"
CANARY = "value-that-no-error-echoes"


async def results(agent: Agent, task_id: str) -> list[Entry]:
    return await agent.gateway.entries("agent_results", agent_id=agent.id, task_id=task_id)


async def only_result(agent: Agent, task_id: str, timeout_s: float = 10.0) -> Entry:
    return (await agent.gateway.entries_of("agent_results", 1, timeout_s, agent_id=agent.id, task_id=task_id))[0]


def is_our_end(entry: Entry, status: str, error_msg: str, error_code: str) -> bool:
    """Ends that we make: exit code -1, started at 0, finished now."""
    assert (entry["status"], entry["error_msg"], entry["error_code"]) == (status, error_msg, error_code), entry
    assert (entry["exit_code"], entry["started_at"]) == ("-1", "0")
    return abs(int(entry["finished_at"]) - time.time()) < 60


# ---- bytes


def odd_task(task_id: str) -> bytes:
    """JSON that no encoder would write the same way again."""
    return (
        b'\n {"zz_unknown" :[1, 1.50,1E3 , {"a":null}],\t"id"\r\n: "%b",'
        b'"command":"e\\u0063ho \\"h\xc3\xa9\\" \\/ \\ud83d\\ude00","timeout_sec":  60 ,"big":123456789012345678901234567890} '
    ) % task_id.encode()


async def test_a_task_is_delivered_byte_for_byte(gateway: Gateway) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    assert (await agent.post(odd_task(task_id))).status == 200
    frame = await agent.hear_bytes()
    assert odd_task(task_id) in frame
    message = json.loads(frame)
    assert message["type"] == "task"
    assert isinstance(message["message_id"], str)
    assert message.keys() == {"type", "message_id", "task"}


async def test_a_task_that_waited_is_delivered_byte_for_byte(gateway: Gateway) -> None:
    agent, task_id = await gateway.register(), new_task_id()
    await agent.post(odd_task(task_id))
    await agent.connect()
    assert odd_task(task_id) in await agent.hear_bytes()


async def test_a_batch_is_one_frame_byte_for_byte_and_in_order(gateway: Gateway) -> None:
    agent, ids = await gateway.agent(), [new_task_id() for _ in range(5)]
    tasks = [odd_task(task_id).strip() for task_id in ids]
    body = b" [ " + b" ,\n".join(tasks) + b"]"
    assert (await gateway.call("POST", f"/api/agents/{agent.id}/tasks/batch", body)).status == 200
    frame = await agent.hear_bytes()
    places = [frame.index(task) for task in tasks]
    assert places == sorted(places)
    message = json.loads(frame)
    assert message["type"] == "tasks_batch"
    assert [task["id"] for task in message["tasks"]] == ids


async def test_a_batch_that_waited_is_one_frame_too(gateway: Gateway) -> None:
    agent, ids = await gateway.register(), [new_task_id() for _ in range(5)]
    await gateway.call("POST", f"/api/agents/{agent.id}/tasks/batch", [{"id": task_id} for task_id in ids])
    await agent.connect()
    message = await agent.hear()
    assert message["type"] == "tasks_batch"
    assert [task["id"] for task in message["tasks"]] == ids


# ---- a TaskSpec

FULL: dict[str, Any] = {
    "name": "n",
    "type": "script",
    "command": "c",
    "script_type": "bash",
    "work_dir": "/",
    "run_as": "root",
    "execution_id": "e",
    "step_id": "s",
    "parent_task_id": "p",
    "args": ["a"],
    "env": {"A": "1"},
    "timeout_sec": 1,
    "host_id": 7,
    "retry_count": 2,
    "is_retry": True,
    "file_transfer": {
        "remote_path": "/r",
        "download_url": "http://x",
        "checksum": "c",
        "auth_headers": {"A": "b"},
        "bandwidth_limit": 1,
        "size": 2**63 - 1,
    },
}


@pytest.mark.parametrize("kind", ["script", "command", "file_transfer"])
async def test_a_full_task_passes(gateway: Gateway, kind: str) -> None:
    agent = await gateway.agent()
    task = FULL | {"id": new_task_id(), "type": kind}
    assert await agent.post_and_take(task) == task


async def test_null_is_absent_everywhere_in_a_task(gateway: Gateway) -> None:
    agent = await gateway.agent()
    task = dict.fromkeys(FULL) | {"id": new_task_id()}
    assert await agent.post_and_take(task) == task
    task = {"id": new_task_id(), "file_transfer": dict.fromkeys(FULL["file_transfer"])}
    assert await agent.post_and_take(task) == task


STRINGS = ("name", "type", "command", "script_type", "work_dir", "run_as", "execution_id", "step_id", "parent_task_id")
WRONG = [
    *((field, "7") for field in STRINGS),
    ("name", f'["{CANARY}"]'),
    ("command", "true"),
    *((field, wrong) for field in ("timeout_sec", "host_id", "retry_count") for wrong in ("3.5", "1.0", "1e2", '"1"')),
    ("timeout_sec", "9223372036854775808"),
    ("host_id", "-9223372036854775809"),
    ("is_retry", "1"),
    ("is_retry", '"true"'),
    ("args", f'"{CANARY}"'),
    ("args", "[1]"),
    ("args", "{}"),
    ("env", '{"A": 1}'),
    ("env", f'["{CANARY}"]'),
    ("file_transfer", f'"{CANARY}"'),
    ("file_transfer", '{"remote_path": 1}'),
    ("file_transfer", '{"download_url": 1}'),
    ("file_transfer", '{"checksum": 1}'),
    ("file_transfer", '{"auth_headers": {"Authorization": 1}}'),
    ("file_transfer", f'{{"auth_headers": "{CANARY}"}}'),
    ("file_transfer", f'{{"bandwidth_limit": "{CANARY}"}}'),
    ("file_transfer", '{"size": 1.5}'),
]


@pytest.mark.parametrize(("field", "wrong"), WRONG)
async def test_a_wrong_type_is_400_and_names_the_field(gateway: Gateway, field: str, wrong: str) -> None:
    """Passed on, it would make the agent drop its connection at every delivery."""
    agent = await gateway.register()
    refusal = await agent.post(f'{{"id": "{new_task_id()}", "{field}": {wrong}}}'.encode())
    error = error_of(refusal, 400, 1002)
    assert field in error
    assert CANARY not in error


@pytest.mark.parametrize("body", [b"{}", b'{"id": null}', b'{"id": ""}', b'{"id": 7}', b'{"id": ["x"]}'])
async def test_a_task_needs_an_id(gateway: Gateway, body: bytes) -> None:
    agent = await gateway.register()
    assert "id" in error_of(await agent.post(body), 400, 1002)


# ---- the other frames


async def test_a_control_order_arrives(gateway: Gateway) -> None:
    agent = await gateway.agent()
    for action in ("start", "stop", "restart"):
        await gateway.call("POST", f"/api/agents/{agent.id}/control", {"action": action, "reason": "because"})
        assert await agent.hear() == {"type": "control", "payload": {"action": action, "reason": "because"}}


async def test_an_upgrade_order_arrives(gateway: Gateway) -> None:
    agent = await gateway.agent()
    order = {"target_version": "2.0", "download_url": "http://x/y", "md5_hash": "m", "sha256_hash": "s"}
    await gateway.call("POST", f"/api/agents/{agent.id}/upgrade", order)
    assert await agent.hear() == {"type": "upgrade", "payload": order}


async def test_cancels_arrive(gateway: Gateway) -> None:
    agent, ids = await gateway.agent(), [new_task_id() for _ in range(3)]
    for task_id in ids:
        await agent.post_and_take({"id": task_id})
    await gateway.call("POST", f"/api/agents/{agent.id}/tasks/{ids[0]}/cancel")
    assert await agent.hear() == {"type": "cancel_task", "task_id": ids[0]}
    await agent.end(ids[0], "cancelled")
    await gateway.call("POST", f"/api/agents/{agent.id}/tasks/cancel/batch", {"task_ids": ids[1:]})
    message = await agent.hear()
    assert message["type"] == "cancel_tasks_batch"
    assert sorted(message["task_ids"]) == sorted(ids[1:])


async def test_no_frame_to_an_agent_has_a_wrong_type(gateway: Gateway) -> None:
    """Go drops its connection on one: no field of the table is anything but what the table says, and none is null."""
    kinds: dict[str, type] = {
        "type": str,
        "message_id": str,
        "ack_id": str,
        "task": dict,
        "tasks": list,
        "task_id": str,
    }
    kinds |= {"task_ids": list, "payload": dict, "ts": int}
    agent, task_id = await gateway.agent(), new_task_id()
    path = f"/api/agents/{agent.id}"
    await agent.post({"id": task_id})
    await gateway.call("POST", f"{path}/tasks/batch", [{"id": new_task_id()}])
    await gateway.call("POST", f"{path}/tasks/{task_id}/cancel")
    await gateway.call("POST", f"{path}/control", {"action": "restart", "reason": None})
    await gateway.call("POST", f"{path}/upgrade", {"target_version": "2", "download_url": "u", "md5_hash": None})
    await agent.say(task_result("m1", task_id))
    for message in [await agent.hear() for _ in range(6)]:
        for field, value in message.items():
            assert type(value) is kinds[field], message
        for value in message.get("payload", {}).values():
            assert isinstance(value, str), message


# ---- what waits


async def test_what_was_never_sent_goes_at_once_and_in_order(gateway: Gateway) -> None:
    agent, ids = await gateway.register(), [new_task_id() for _ in range(30)]
    for task_id in ids:
        assert (await agent.post({"id": task_id})).status == 200
    await agent.connect()
    assert [(await agent.hear())["task"]["id"] for _ in ids] == ids


async def test_tasks_of_an_agent_that_is_connected_come_in_order(gateway: Gateway) -> None:
    agent, ids = await gateway.agent(), [new_task_id() for _ in range(30)]
    for task_id in ids:
        assert (await agent.post({"id": task_id})).status == 200
    assert [(await agent.hear())["task"]["id"] for _ in ids] == ids


# ---- when a task comes again


async def reconnect(agent: Agent) -> None:
    """The same process: no registration in between."""
    await agent.disconnect()
    await agent.connect()


async def restart(agent: Agent) -> None:
    """A new process: it always registers first."""
    await agent.disconnect()
    await agent.gateway.register(agent.token, name=agent.name, host_id=agent.host_id)
    await agent.connect()


@begun_early
async def test_a_task_is_never_sent_again_after_its_end(clusters: Clusters) -> None:
    """Neither to the same process nor to a new one, nor when it is posted again."""
    async with clusters.gateway("brief") as gateway:
        agents = [await gateway.agent() for _ in range(2)]
        ids = [new_task_id() for _ in agents]
        for agent, task_id in zip(agents, ids, strict=True):
            await agent.post_and_take({"id": task_id, "timeout_sec": 60})
            await agent.end(task_id)
        await reconnect(agents[0])
        await restart(agents[1])
        await asyncio.sleep(4.0)  # the grace is 3 s
        for agent, task_id in zip(agents, ids, strict=True):
            assert (await agent.post({"id": task_id, "timeout_sec": 60})).status == 200
            await agent.post_sentinel()
            assert [entry["status"] for entry in await results(agent, task_id)] == ["success"]


@begun_early
async def test_after_a_reconnect_only_tasks_without_a_sign_of_life_come_again_after_the_grace(
    clusters: Clusters,
) -> None:
    async with clusters.gateway("brief") as gateway:
        agent = await gateway.agent()
        silent, acked, logged, running, batched = ids = [new_task_id() for _ in range(5)]
        bodies = {task_id: odd_task(task_id) for task_id in ids}
        for task_id in ids[:4]:
            await agent.post(bodies[task_id])
            acked_as = (await agent.hear())["message_id"]
            if task_id == acked:
                await agent.say({"type": "ack", "ack_id": acked_as})
        batch = [{"id": batched, "timeout_sec": 60}, {"id": new_task_id(), "timeout_sec": 60}]
        await gateway.call("POST", f"/api/agents/{agent.id}/tasks/batch", batch)
        await agent.say({"type": "ack", "ack_id": (await agent.hear())["message_id"]})
        await agent.say(log("m1", logged, "line"), task_result("m2", running, "running"))
        assert sorted(await agent.hear_acks(2)) == ["m1", "m2"]
        await reconnect(agent)
        began = time.monotonic()
        await agent.post_sentinel()
        assert bodies[silent] in await agent.hear_bytes()
        assert 2.0 < time.monotonic() - began < 3.0 + 5.0, "3 s, and some for a busy machine"
        await agent.post_sentinel()
        assert await results(agent, silent) == []


@begun_early
async def test_a_cancel_replaces_redelivery_and_is_told_on_every_session(clusters: Clusters) -> None:
    async with clusters.gateway("brief") as gateway:
        agent, task_id = await gateway.agent(), new_task_id()
        await agent.post_and_take({"id": task_id, "timeout_sec": 60})
        await agent.disconnect()
        answer = await gateway.call("POST", f"/api/agents/{agent.id}/tasks/{task_id}/cancel")
        assert answer.status == 200
        await agent.connect()
        assert await agent.hear() == {"type": "cancel_task", "task_id": task_id}
        await agent.disconnect()
        await agent.connect()
        assert await agent.hear() == {"type": "cancel_task", "task_id": task_id}
        assert (await only_result(agent, task_id))["status"] == "cancelled"
        await agent.post_sentinel()


@begun_early
async def test_a_registration_after_sending_fails_tasks_that_may_have_run(clusters: Clusters) -> None:
    async with clusters.gateway("default") as gateway:
        agent = await gateway.agent()
        silent, running, replayed, waiting = [new_task_id() for _ in range(4)]
        for task_id in (silent, running, replayed):
            await agent.post_and_take({"id": task_id})
        await agent.say(log("m1", running, "line"))
        await agent.hear_acks(1)
        await agent.disconnect()
        await agent.post({"id": waiting})
        await restart_only(agent)
        assert (await agent.hear())["task"]["id"] == waiting
        await agent.end(replayed)  # from the outbox
        for task_id in (silent, running):
            assert is_our_end(await only_result(agent, task_id), "failed", RESTARTED, "2001")
        assert (await only_result(agent, replayed))["status"] == "success"
        await agent.post_sentinel()


async def restart_only(agent: Agent) -> None:
    await agent.gateway.register(agent.token, name=agent.name, host_id=agent.host_id)
    await agent.connect()


@begun_early
async def test_tasks_are_redelivered_to_a_new_process_where_that_is_wished(clusters: Clusters) -> None:
    """Until `max_attempts`, here two: that ends nothing."""
    async with clusters.gateway("tuned") as gateway:
        agent, task_id = await gateway.agent(), new_task_id()
        await agent.post_and_take({"id": task_id})
        await restart(agent)
        assert (await agent.hear())["task"]["id"] == task_id
        await restart(agent)
        await asyncio.sleep(4.0)  # a redelivery comes after 2 s
        await agent.post_sentinel()
        assert await gateway.entries("other_results", task_id=task_id) == []
        await agent.end(task_id)
        assert len(await gateway.entries("other_results", task_id=task_id)) == 1


async def test_the_spurious_cancelled_is_acked_and_ends_nothing(gateway: Gateway) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    await agent.post_and_take({"id": task_id})
    await agent.end(task_id, "cancelled", error_msg=SKIPPED, exit_code=-1)
    assert await results(agent, task_id) == []
    await agent.end(task_id)
    assert [entry["status"] for entry in await results(agent, task_id)] == ["success"]


@begun_early
async def test_the_spurious_cancelled_is_a_sign_of_life(clusters: Clusters) -> None:
    async with clusters.gateway("brief") as gateway:
        agent, task_id = await gateway.agent(), new_task_id()
        await agent.post_and_take({"id": task_id, "timeout_sec": 60})
        await agent.end(task_id, "cancelled", error_msg=SKIPPED)
        await reconnect(agent)
        await asyncio.sleep(4.0)  # the grace is 3 s
        await agent.post_sentinel()


# ---- time


@begun_early
async def test_a_task_never_sent_expires_after_the_ttl(clusters: Clusters) -> None:
    async with clusters.gateway("brief") as gateway:
        agent, task_id = await gateway.register(), new_task_id()
        assert (await agent.post({"id": task_id})).status == 200
        began = time.monotonic()
        assert is_our_end(await only_result(agent, task_id), "failed", "expired before delivery", "1004")
        assert 2.5 < time.monotonic() - began < 3.0 + 5.0
        await agent.connect()
        await agent.post_sentinel()


@begun_early
async def test_a_task_whose_result_never_comes_fails_at_its_due_time(clusters: Clusters) -> None:
    """Also one that was only answered with the spurious `cancelled`. Its agent is away: 2 s of work, 1 s of grace."""
    async with clusters.gateway("brief") as gateway:
        agent, silent, skipped = await gateway.agent(), new_task_id(), new_task_id()
        for task_id in (silent, skipped):
            await agent.post_and_take({"id": task_id, "timeout_sec": 2})
        await agent.end(skipped, "cancelled", error_msg=SKIPPED)
        await agent.disconnect()
        began = time.monotonic()
        for task_id in (silent, skipped):
            entry = await only_result(agent, task_id)
            assert is_our_end(entry, "failed", entry["error_msg"], "1004")
            assert entry["error_msg"].startswith("no result")
        assert 1.5 < time.monotonic() - began < 3.0 + 5.0


async def test_a_task_may_be_ended_by_the_agent_that_returns_after_a_reconnect(gateway: Gateway) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    await agent.post_and_take({"id": task_id})
    await reconnect(agent)
    await agent.say(task_result(uuid.uuid4().hex, task_id))
    await agent.hear_acks(1)
    assert [entry["status"] for entry in await results(agent, task_id)] == ["success"]


# ---- a Redis that comes back empty


@begun_early
async def test_when_redis_comes_back_empty_agents_are_put_back_and_what_they_hold_ends_as_lost(
    clusters: Clusters,
) -> None:
    """Within 15 s; whatever comes of those tasks later is acked and not written. No process ends over it."""
    cluster = await clusters.start("emptied", nodes=2)
    async with Gateway(cluster) as gateway:
        before = {**cluster.nodes(), **cluster.routers()}
        agent = await gateway.agent()
        held, ended = new_task_id(agent.host_id), new_task_id(agent.host_id)
        for task_id in (held, ended):
            await agent.post_and_take({"id": task_id})
        await agent.end(ended)
        await asyncio.sleep(
            BEAT_S
        )  # the cluster is young: until then a process may not know the key that it is to put back
        await gateway.redis.flushall()
        assert is_our_end(await only_result(agent, held, 15.0), "failed", LOST, "1001")
        await agent.is_shown("active", 15.0)
        for task_id in (held, ended):
            await agent.end(task_id)
        assert len(await results(agent, held)) == 1
        again = await gateway.register(agent.token, host_id=agent.host_id)
        assert again.id == agent.id
        await agent.post_sentinel()
        assert {**cluster.nodes(), **cluster.routers()} == before
