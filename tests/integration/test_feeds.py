"""The four streams that control planes read: every field of each, each entry once, whichever process brings it however often."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cluster import feeds as feeds_module
from cluster.debts import AGE_S, Debts
from cluster.errors import FeedBlocked, StoreUnavailable
from cluster.feeds import CALL_LINES, GENERATION_MS, StatusEntry, identity, number
from cluster.settings import LogStream, ResultStream, StatusStream, TaskStatsStream
from tests.integration.conftest import MakeCore
from tests.integration.core import Core, a_result, said, state_of, together
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer

DAY_MS = 24 * 3600 * 1000
RESULT_FIELDS = {
    "task_id", "execution_id", "agent_id", "host_id", "status", "exit_code", "error_msg", "error_code", "started_at",
    "finished_at", "log_size", "log_pointer", "received_at", "total_hosts", "success_hosts", "failed_hosts",
    "running_hosts", "pending_hosts", "progress", "message_id",
}  # fmt: skip
HOSTS = ("total_hosts", "success_hosts", "failed_hosts", "running_hosts", "pending_hosts", "progress")


async def append(
    core: Core, task_id: str, status: str = "success", message_id: str = "", **more: Any
) -> dict[str, str]:
    """The newest entry of the results feed after this one was appended."""
    await core.feeds.append_results([a_result("agent-1", task_id, status, message_id=message_id, **more)])
    found: dict[str, str] = (await core.redis.xrevrange("agent_results", count=1))[0][1]
    return found


def counts(entry: dict[str, str]) -> tuple[int, ...]:
    """total, success, failed, running, pending, progress."""
    return tuple(int(entry[name]) for name in HOSTS)


# ---- results ----


async def test_a_result_has_all_its_fields_as_strings(core: Core) -> None:
    await core.feeds.expect(["81_2_7_abc"])
    entry = await append(
        core, "81_2_7_abc", "failed", "m1", exit_code="-9", error_msg="why \u00e9\n\0", error_code="42", started_at="5",
        finished_at="7", log_size="10", log_pointer="redis:job_logs/x@", received_at="1700000000123",
    )  # fmt: skip
    assert entry == {
        "task_id": "81_2_7_abc", "execution_id": "81", "agent_id": "agent-1", "host_id": "7", "status": "failed",
        "exit_code": "-9", "error_msg": "why \u00e9\n\0", "error_code": "42", "started_at": "5", "finished_at": "7",
        "log_size": "10", "log_pointer": "redis:job_logs/x@", "received_at": "1700000000123", "total_hosts": "1",
        "success_hosts": "0", "failed_hosts": "1", "running_hosts": "0", "pending_hosts": "0", "progress": "100",
        "message_id": "m1",
    }  # fmt: skip


@pytest.mark.parametrize("task_id", ["t1", "abc_1_x_y", "81", "_", "9" * 30 + "_1"])
async def test_all_fields_are_there_also_when_the_task_id_tells_nothing(core: Core, task_id: str) -> None:
    entry = await append(core, task_id)
    assert entry.keys() == RESULT_FIELDS
    assert (entry["execution_id"], entry["host_id"]) == ("81" if task_id == "81" else "0", "0")


async def test_an_execution_of_63_bits_is_kept_to_the_digit(core: Core) -> None:
    entry = await append(core, "9223372036854775807_1_9223372036854775806_x")
    assert (entry["execution_id"], entry["host_id"]) == ("9223372036854775807", "9223372036854775806")


async def test_a_message_is_written_once_whoever_brings_it_however_often(make_core: MakeCore) -> None:
    nodes = [await make_core() for _ in range(3)]
    entries = [a_result("agent-1", f"t{n}") for n in range(5)]
    await together(*(node.feeds.append_results(entries) for node in nodes for _ in range(5)))
    await nodes[0].feeds.append_results(entries * 2)
    assert sorted(entry["task_id"] for entry in await nodes[0].feed()) == [f"t{n}" for n in range(5)]


async def test_a_message_twice_in_one_batch_is_written_once(core: Core) -> None:
    await core.feeds.append_results([a_result("agent-1", "t1", "running", message_id="m1")] * 2)
    assert len(await core.feed()) == 1


async def test_the_same_message_id_of_another_agent_is_another_message(core: Core) -> None:
    for agent_id in ("agent-1", "agent-2"):
        await core.feeds.append_results([a_result(agent_id, "t1", "running", message_id="m1")])
    assert len(await core.feed()) == 2


async def test_a_task_has_one_end_and_nothing_after_it(core: Core) -> None:
    await core.feeds.append_results(
        [
            a_result("agent-1", "t1", "running", message_id="m1"),
            a_result("agent-1", "t1", "success", message_id="m2"),
            a_result("agent-1", "t1", "running", message_id="m3"),
            a_result("agent-1", "t1", "failed", message_id="m4"),
        ]
    )
    await core.feeds.append_results([a_result("agent-1", "t1", "failed", message_id="m5")])
    assert [(entry["status"], entry["message_id"]) for entry in await core.feed()] == [
        ("running", "m1"), ("success", "m2"),
    ]  # fmt: skip


async def test_the_same_task_id_of_another_agent_is_another_task(core: Core) -> None:
    for agent_id in ("agent-1", "agent-2"):
        await core.feeds.append_results([a_result(agent_id, "t1", message_id=f"m-{agent_id}")])
    assert len(await core.feed()) == 2


async def test_results_keep_the_order_in_which_they_come(core: Core) -> None:
    entries = [a_result("agent-1", f"t{n}") for n in range(500)]
    for start in range(0, 500, 100):
        await core.feeds.append_results(entries[start : start + 100])
    assert [entry["task_id"] for entry in await core.feed()] == [f"t{n}" for n in range(500)]


async def test_a_large_batch_is_written_whole(core: Core) -> None:
    """Lua unpacks some 8,000 values at the most."""
    await core.feeds.append_results([a_result("agent-1", f"{n % 300}_1_{n}_x") for n in range(5000)])
    assert await core.redis.xlen("agent_results") == 5000


async def generation_began_ago(core: Core, feed: str, generations: int) -> None:
    """What was remembered until now was remembered so many generations ago."""
    clock = core.keys.of_feed(feed, "seen")
    now = core.store.now_ms() // GENERATION_MS
    sets = [core.keys.of_feed(feed, f"seen:{n}") for n in (0, 1)]
    members = {m for key in sets for m in await core.redis.smembers(key)}
    await core.redis.delete(*sets)
    await core.redis.sadd(sets[(now - generations) % 2], *members)
    await core.redis.set(clock, now - generations)


@pytest.mark.parametrize(("generations", "is_remembered"), [(1, True), (2, False), (3, False), (1000, False)])
async def test_a_message_is_remembered_for_one_to_two_generations(
    core: Core, generations: int, is_remembered: bool
) -> None:
    await append(core, "t1", "running", "m1")
    await generation_began_ago(core, "agent_results", generations)
    await append(core, "t1", "running", "m1")
    assert (len(await core.feed()) == 1) == is_remembered


async def test_what_is_remembered_is_bounded_by_two_generations(core: Core) -> None:
    for _ in range(4):
        await core.feeds.append_results([a_result("agent-1", f"t{n}", "running") for n in range(50)])
        await generation_began_ago(core, "agent_results", 1)
    await append(core, "x", "running")
    sizes = [await core.redis.scard(core.keys.of_feed("agent_results", f"seen:{n}")) for n in (0, 1)]
    assert sum(sizes) <= 101


async def test_an_entry_that_is_not_to_be_counted_leaves_no_execution_behind(core: Core) -> None:
    assert counts(await append(core, "81_1_7_a", is_counted=False)) == (0, 0, 0, 0, 0, 0)
    assert not await core.redis.exists(core.keys.of_feed("agent_results", "execution:81"))


# ---- a key that is no stream ----


@pytest.mark.parametrize("blocked", ["agent_results", "agent_logs", "agent_status", "agent_task_stats"])
async def test_a_feed_that_is_no_stream_is_named_and_written_once_that_is_gone(
    core: Core, caplog: pytest.LogCaptureFixture, blocked: str
) -> None:
    owed = await core.release(await core.connected())
    writes: dict[str, Callable[[], Awaitable[None]]] = {
        "agent_results": lambda: core.feeds.append_results([a_result("agent-1", "81_1_1_x")]),
        "agent_logs": lambda: core.feeds.append_logs([("agent-1", "m1", [["content", "x"]])]),
        "agent_status": lambda: core.feeds.pay_offline([owed]),
        "agent_task_stats": lambda: core.feeds.append_stats([("agent_id", "agent-1")]),
    }
    await core.redis.set(blocked, "somebody's")
    for feed, write in writes.items():
        if feed != blocked:
            await write()
    for _ in range(3):
        with pytest.raises(FeedBlocked, match=blocked):
            await writes[blocked]()
    assert [blocked in line for line in caplog.messages if "not a stream" in line] == [True]
    assert await core.redis.get(blocked) == "somebody's"
    await core.redis.delete(blocked)
    await writes[blocked]()
    assert [len(await core.feed(feed)) for feed in writes] == [1, 1, 1, 1]


async def test_what_a_blocked_feed_is_owed_stays_owed_and_the_other_is_paid(core: Core) -> None:
    holder = await core.connected()
    await core.post(holder.agent_id, "t1")
    await core.take(holder)
    await core.settle(holder.agent_id, "t1")
    await core.release(holder)
    await core.redis.set("agent_results", "somebody's")
    debts = Debts(core.store, core.feeds)
    await debts.pay(0.0)
    with pytest.raises(FeedBlocked):
        await debts.pay(AGE_S)
    assert [entry["status"] for entry in await core.feed("agent_status")] == ["offline"]
    assert list(await core.owed(holder.agent_id)) == [f"r:{holder.agent_id}:t1"]
    await core.redis.delete("agent_results")
    await debts.pay(2 * AGE_S)
    assert await core.ends() == {"t1": ["success"]}
    assert await core.owed(holder.agent_id) == {}


# ---- progress ----


async def test_an_execution_counts_its_hosts_by_their_latest_end(core: Core) -> None:
    await core.feeds.expect([f"81_1_{host}_x" for host in range(1, 5)])
    assert counts(await append(core, "81_1_1_x", "success")) == (4, 1, 0, 0, 3, 25)
    assert counts(await append(core, "81_1_2_x", "failed")) == (4, 1, 1, 0, 2, 50)
    assert counts(await append(core, "81_1_3_x", "running")) == (4, 1, 1, 1, 1, 50)
    assert counts(await append(core, "81_1_3_x", "cancelled", "m2")) == (4, 1, 2, 0, 1, 75)
    assert counts(await append(core, "81_1_4_x", "success")) == (4, 2, 2, 0, 0, 100)


async def test_a_retry_on_a_host_takes_the_place_of_what_failed_there(core: Core) -> None:
    await core.feeds.expect(["81_1_7_a", "81_1_8_a"])
    assert counts(await append(core, "81_1_7_a", "failed")) == (2, 0, 1, 0, 1, 50)
    await core.feeds.expect(["81_1_7_b"])
    assert counts(await append(core, "81_1_7_b", "success")) == (2, 1, 0, 0, 1, 50)
    assert counts(await append(core, "81_1_8_a", "success")) == (2, 2, 0, 0, 0, 100)


@pytest.mark.parametrize("status", ["running", "pending"])
async def test_a_step_that_begins_after_anothers_end_takes_nothing_back(core: Core, status: str) -> None:
    await core.feeds.expect(["81_1_7_a", "81_2_7_b", "81_1_8_a"])
    await append(core, "81_1_7_a", "success")
    assert counts(await append(core, "81_2_7_b", status)) == (2, 1, 0, 0, 1, 50)
    assert counts(await append(core, "81_2_7_b", "failed", "m2")) == (2, 0, 1, 0, 1, 50)


async def test_two_steps_on_one_host_are_one_host(core: Core) -> None:
    await core.feeds.expect(["81_1_7_a", "81_2_7_b"])
    assert counts(await append(core, "81_1_7_a")) == (1, 1, 0, 0, 0, 100)
    assert counts(await append(core, "81_2_7_b")) == (1, 1, 0, 0, 0, 100)


async def test_an_end_before_its_task_was_counted_counts_its_host_once(core: Core) -> None:
    assert counts(await append(core, "81_1_7_a")) == (1, 1, 0, 0, 0, 100)
    await core.feeds.expect(["81_1_7_a", "81_1_8_a"])
    assert counts(await append(core, "81_1_8_a")) == (2, 2, 0, 0, 0, 100)


async def test_expecting_a_task_twice_counts_its_host_once(core: Core) -> None:
    for _ in range(3):
        await core.feeds.expect(["81_1_7_a"])
    assert counts(await append(core, "81_1_7_a"))[0] == 1


async def test_a_message_that_is_not_written_counts_nothing(core: Core) -> None:
    await core.feeds.expect(["81_1_7_a", "81_1_8_a"])
    await append(core, "81_1_7_a", "success", "m1")
    await append(core, "81_1_7_a", "failed", "m2")
    await append(core, "81_1_7_a", "success", "m1")
    assert counts(await append(core, "81_1_8_a", "failed", "m3")) == (2, 1, 1, 0, 0, 100)


async def test_progress_is_rounded_down(core: Core) -> None:
    await core.feeds.expect([f"81_1_{host}_x" for host in range(1, 4)])
    assert [(await append(core, f"81_1_{host}_x"))["progress"] for host in range(1, 4)] == ["33", "66", "100"]


async def test_executions_do_not_mix(core: Core) -> None:
    await core.feeds.expect(["81_1_7_a", "82_1_7_a", "82_1_8_a"])
    await core.feeds.append_results([a_result("agent-1", "81_1_7_a"), a_result("agent-1", "82_1_7_a")])
    assert [counts(entry) for entry in await core.feed()] == [(1, 1, 0, 0, 0, 100), (2, 1, 0, 0, 1, 50)]


async def test_a_task_without_an_execution_has_no_progress(core: Core) -> None:
    await core.feeds.expect(["t1", "abc_1_7"])
    assert counts(await append(core, "abc_1_7")) == (0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("status", ["", "queued", "SUCCESS"])
async def test_a_status_that_nobody_knows_is_passed_on_and_counts_nothing(core: Core, status: str) -> None:
    await core.feeds.expect(["81_1_7_a"])
    assert (await append(core, "81_1_7_a", status))["status"] == status
    assert counts(await append(core, "81_1_7_a", "success", "m2")) == (1, 1, 0, 0, 0, 100)


async def test_an_execution_is_remembered_a_day_after_its_last_change(core: Core) -> None:
    key = core.keys.of_feed("agent_results", "execution:81")
    await core.feeds.expect(["81_1_7_a"])
    assert DAY_MS - 5000 < await core.redis.pttl(key) <= DAY_MS
    await core.redis.pexpire(key, 1000)
    await append(core, "81_1_7_a")
    assert await core.redis.pttl(key) > DAY_MS - 5000


# ---- logs ----


def a_line(content: str) -> list[str]:
    return ["execution_id", "81", "task_id", "t1", "agent_id", "agent-1", "content", content, "timestamp", "5"]


async def test_each_line_is_an_entry_and_a_message_is_written_once(make_core: MakeCore) -> None:
    nodes = [await make_core() for _ in range(2)]
    log = [("agent-1", "m1", [a_line("a"), a_line("b")]), ("agent-1", "m2", [a_line("c")])]
    await together(*(node.feeds.append_logs(log) for node in nodes for _ in range(5)))
    entries = await nodes[0].feed("agent_logs")
    assert [entry["content"] for entry in entries] == ["a", "b", "c"]
    assert entries[0] == {
        "execution_id": "81", "task_id": "t1", "agent_id": "agent-1", "content": "a", "timestamp": "5",
    }  # fmt: skip


async def test_a_log_message_twice_in_one_call_is_written_once(core: Core) -> None:
    await core.feeds.append_logs([("agent-1", "m1", [a_line("a")])] * 2)
    assert len(await core.feed("agent_logs")) == 1


async def test_logs_and_results_remember_their_messages_apart(core: Core) -> None:
    await append(core, "t1", "running", "m1")
    await core.feeds.append_logs([("agent-1", "m1", [a_line("a")])])
    assert len(await core.feed("agent_logs")) == 1


async def test_a_message_of_many_lines_is_written_whole_in_order_and_once(core: Core) -> None:
    lines = [a_line(str(n)) for n in range(2 * CALL_LINES + 1)]
    for _ in range(2):
        await core.feeds.append_logs([("agent-1", "m0", [a_line("first")]), ("agent-1", "m1", lines)])
    contents = [entry["content"] for entry in await core.feed("agent_logs")]
    assert contents == ["first", *map(str, range(2 * CALL_LINES + 1))]


async def test_a_line_of_five_mib_is_written(core: Core) -> None:
    await core.feeds.append_logs([("agent-1", "m1", [a_line("\u00e9" * (5 << 19))])])
    assert len((await core.feed("agent_logs"))[0]["content"]) == 5 << 19


@pytest.mark.parametrize("content", ["", "\0", "a\r\nb", '"\\', "\U0001f600", "\x1b[31m", "\u202e", "{}", "[]", "\x7f"])
async def test_a_line_is_stored_as_it_is(core: Core, content: str) -> None:
    await core.feeds.append_logs([("agent-1", "m1", [a_line(content)])])
    assert (await core.feed("agent_logs"))[0]["content"] == content


# ---- status ----


def a_status(kind: str, epoch: int, status: str = "", agent_id: str = "agent-1") -> StatusEntry:
    fields = (
        *identity(agent_id, "web", "7"),
        "status",
        status or {"on": "online", "off": "offline"}.get(kind, "active"),
    )
    return StatusEntry(agent_id, str(epoch), kind, fields)


async def statuses(core: Core) -> list[str]:
    return [entry["status"] for entry in await core.feed("agent_status")]


async def test_a_takeover_is_told_only_where_the_agent_is_not_said_to_be_online(core: Core) -> None:
    """A node that died right after a claim took its `online` with it."""
    await core.feeds.append_status([a_status("over", 3, "online"), a_status("over", 4, "online")])
    assert await statuses(core) == ["online"]
    await core.feeds.append_status(
        [a_status("off", 4), a_status("over", 6, "online"), a_status("on", 5), a_status("off", 5)]
    )
    assert await statuses(core) == ["online", "offline", "online"]


async def test_offline_is_told_once_an_epoch(make_core: MakeCore) -> None:
    routers = [await make_core() for _ in range(4)]
    await routers[0].feeds.append_status([a_status("on", 5)])
    await together(*(router.feeds.append_status([a_status("off", 5)]) for router in routers for _ in range(3)))
    assert await statuses(routers[0]) == ["online", "offline"]


async def test_a_late_online_of_an_epoch_that_is_over_is_not_told(core: Core) -> None:
    await core.feeds.append_status([a_status("on", 5), a_status("off", 5), a_status("on", 5)])
    assert await statuses(core) == ["online", "offline"]


@pytest.mark.parametrize("kind", ["on", "off"])
async def test_nothing_of_an_older_epoch_is_told_after_a_newer_one(core: Core, kind: str) -> None:
    await core.feeds.append_status([a_status("on", 6)])
    await core.feeds.append_status([a_status(kind, 5)])
    assert await statuses(core) == ["online"]


async def test_online_is_told_again_while_its_epoch_lasts_and_after_a_newer_claim(core: Core) -> None:
    await core.feeds.append_status([a_status("on", 5)] * 3)
    await core.feeds.append_status([a_status("off", 5)])
    await core.feeds.append_status([a_status("on", 6)])
    assert await statuses(core) == ["online", "online", "online", "offline", "online"]


async def test_an_epoch_that_was_never_online_may_still_go_offline(core: Core) -> None:
    await core.feeds.append_status([a_status("off", 5)])
    assert await statuses(core) == ["offline"]


async def test_epochs_of_milliseconds_are_told_apart(core: Core) -> None:
    now_ms = core.store.now_ms()
    await core.feeds.append_status([a_status("off", now_ms), a_status("on", now_ms + 1), a_status("off", now_ms)])
    assert await statuses(core) == ["offline", "online"]


async def test_a_registration_is_told_whatever_the_epoch(core: Core) -> None:
    await core.feeds.append_status([a_status("on", 5), a_status("off", 5), a_status("any", 0), a_status("any", 0)])
    assert await statuses(core) == ["online", "offline", "active", "active"]


async def test_agents_do_not_mix(core: Core) -> None:
    await core.feeds.append_status([a_status("off", 9), a_status("on", 5, agent_id="agent-2")])
    assert await statuses(core) == ["offline", "online"]


async def test_what_is_remembered_of_a_forgotten_agent_goes(core: Core) -> None:
    await core.feeds.append_status([a_status("on", 9), a_status("on", 9, agent_id="agent-2")])
    await core.feeds.forget_agents(["agent-1", "nobody"])
    await core.feeds.forget_agents([])
    assert list(await core.redis.hgetall(core.keys.of_feed("agent_status", "epochs"))) == ["agent-2"]


async def test_an_ownership_that_ended_is_told_with_all_its_fields(core: Core) -> None:
    await core.agent(host_id=7, hostname="web-1", os="linux", arch="arm64")
    holder = await core.connected()
    await core.agent(host_id=7, hostname="web-1", os="linux", arch="arm64")
    owed = await core.release(holder, "heartbeat_timeout", age_ms=60_000)
    await core.feeds.pay_offline([owed])
    (entry,) = await core.feed("agent_status")
    ended_ms = int(entry["timestamp"])
    assert abs(ended_ms - core.store.now_ms()) < 5000
    assert entry == {
        "agent_id": holder.agent_id, "agent_name": "web", "host_id": "7", "status": "offline",
        "last_heartbeat": str(ended_ms - 60_000), "timestamp": str(ended_ms), "disconnect_reason": "heartbeat_timeout",
        "disconnect_time": str(ended_ms // 1000), "hostname": "web-1", "os": "linux", "arch": "arm64",
    }  # fmt: skip
    assert await core.owed(holder.agent_id) == {}


async def test_what_is_not_known_of_an_agent_is_left_out_of_its_end(core: Core) -> None:
    owed = await core.release(await core.connected())
    await core.feeds.pay_offline([owed, b""])
    (entry,) = await core.feed("agent_status")
    assert entry["host_id"] == "0"
    assert not {"hostname", "os", "arch"} & entry.keys()


# ---- statistics ----


async def test_statistics_are_written_as_they_are_told(core: Core) -> None:
    await core.feeds.append_stats([("agent_id", "agent-1", "total", "5"), ("agent_id", "agent-2", "total", "0")])
    assert await core.feed("agent_task_stats") == [
        {"agent_id": "agent-1", "total": "5"}, {"agent_id": "agent-2", "total": "0"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"), [(1500.0, "1500"), (12.5, "12.5"), (0, "0"), (0.1, "0.1"), (100.0, "100"), (2 / 3, repr(2 / 3))]
)
def test_a_number_is_written_as_go_writes_it(value: float, text: str) -> None:
    assert number(value) == text


# ---- settings ----


async def test_feeds_have_the_names_that_the_configuration_gives_them(make_core: MakeCore) -> None:
    core = await make_core(
        log_stream=LogStream(key="l"), result_stream=ResultStream(key="r"), status_stream=StatusStream(key="s"),
        task_stats_stream=TaskStatsStream(key="t"),
    )  # fmt: skip
    await write_all(core)
    assert [await core.redis.xlen(key) for key in "lrst"] == [1, 1, 1, 1]
    assert not await core.redis.exists("agent_logs", "agent_results", "agent_status", "agent_task_stats")


async def write_all(core: Core) -> None:
    await core.feeds.expect(["81_1_7_a"])
    await core.feeds.append_results([a_result("agent-1", "81_1_7_a")])
    await core.feeds.append_logs([("agent-1", "m1", [a_line("x")])])
    await core.feeds.append_status([a_status("on", 1)])
    await core.feeds.append_stats([("agent_id", "agent-1")])


async def test_a_disabled_feed_takes_everything_and_writes_nothing(make_core: MakeCore) -> None:
    core = await make_core(
        log_stream=LogStream(enabled=False), result_stream=ResultStream(enabled=False),
        status_stream=StatusStream(enabled=False), task_stats_stream=TaskStatsStream(enabled=False),
    )  # fmt: skip
    before = await core.redis.keys("*")
    await write_all(core)
    assert await core.redis.keys("*") == before


async def test_without_a_feed_of_results_a_task_ends_all_the_same_and_nothing_stays_owed(make_core: MakeCore) -> None:
    core = await make_core(result_stream=ResultStream(enabled=False), status_stream=StatusStream(enabled=False))
    holder = await core.connected()
    await core.post(holder.agent_id, "t1", "t2")
    assert await core.result(holder.agent_id, "t1")
    (cancelled,) = await core.mailbox.cancel(holder.agent_id, ["t2"])
    await core.feeds.pay_results([cancelled.entry])
    await core.feeds.pay_offline([await core.release(holder)])
    assert await core.owed(holder.agent_id) == {}
    assert await state_of(core.mailbox, holder.agent_id, "t1") == "success"


async def test_nothing_to_write_asks_redis_nothing(core: Core) -> None:
    await core.redis.config_resetstat()
    for write in (core.feeds.append_results, core.feeds.append_status, core.feeds.append_stats, core.feeds.append_logs):
        await write([])
    await core.feeds.expect([])
    await core.feeds.paid([])
    assert set(await core.redis.info("commandstats")) <= {"cmdstat_config|resetstat", "cmdstat_config", "cmdstat_info"}


# ---- what is owed ----


async def test_what_a_dead_writer_left_is_written_once_with_its_own_fields(make_core: MakeCore) -> None:
    routers = [await make_core() for _ in range(3)]
    core = routers[0]
    holder = await core.connected()
    await core.mailbox.settle([said(a_result(holder.agent_id, "t1", message_id="m1", error_msg="é", exit_code="3"))])
    await core.release(holder, "node_lost")
    await together(*(router.pay_what_is_owed() for router in routers))
    (result,) = await core.feed()
    assert (result["task_id"], result["message_id"], result["error_msg"], result["exit_code"]) == ("t1", "m1", "é", "3")
    assert [entry["disconnect_reason"] for entry in await core.feed("agent_status")] == ["node_lost"]
    assert await core.owed(holder.agent_id) == {}


async def test_what_is_owed_is_left_to_its_writer_for_some_seconds(core: Core) -> None:
    holder = await core.connected()
    debts = Debts(core.store, core.feeds)
    await core.settle(holder.agent_id, "t1")
    assert await debts.pay(100.0) == 0
    assert await debts.pay(100.0 + AGE_S - 0.1) == 0
    assert await core.feed() == []
    assert await debts.pay(100.0 + AGE_S) == 1
    assert await debts.pay(100.0 + 2 * AGE_S) == 0


async def test_what_cannot_be_read_keeps_nothing_else_from_being_paid(
    core: Core, caplog: pytest.LogCaptureFixture
) -> None:
    """A router ended over such an entry, and so did every router after it."""
    holder = await core.connected()
    await core.settle(holder.agent_id, "t1")
    unfed = core.keys.in_shard(core.keys.shard(holder.agent_id), "unfed")
    strange = {
        "r:a:t": "no JSON",
        "s:a:1": '["a"]',
        "r:a:u": '["a","u","success","","","","","","","","soon","m"]',
        "x": "[]",
    }
    await core.redis.hset(unfed, mapping=strange)
    debts = Debts(core.store, core.feeds)
    assert [await debts.pay(now_s) for now_s in (0.0, AGE_S, 2 * AGE_S)] == [0, 1, 0]
    assert await core.ends() == {"t1": ["success"]}
    assert await core.redis.hgetall(unfed) == strange
    assert caplog.text.count("cannot be read") == len(strange), "each is told once"


async def test_an_entry_that_is_owed_anew_is_left_to_its_writer_again(core: Core) -> None:
    holder = await core.connected()
    debts = Debts(core.store, core.feeds)
    await core.settle(holder.agent_id, "t1")
    await debts.pay(0.0)
    await core.result(holder.agent_id, "t1")
    await debts.pay(1.0)
    await core.settle(holder.agent_id, "t2")
    assert await debts.pay(AGE_S) == 0
    assert await debts.pay(AGE_S + AGE_S) == 1


async def test_what_an_agent_said_is_paid_in_its_order(core: Core) -> None:
    agents = [await core.agent(f"token-{n}") for n in range(3)]
    for n in range(30):
        await core.settle(agents[n % 3], f"t{n}", received_at=str(1000 + n))
    await core.pay_what_is_owed()
    entries = await core.feed()
    for n, agent_id in enumerate(agents):
        assert [e["task_id"] for e in entries if e["agent_id"] == agent_id] == [f"t{m}" for m in range(n, 30, 3)]


async def test_what_an_agent_said_in_one_millisecond_is_paid_in_its_order(core: Core) -> None:
    agent_id = await core.agent()
    batch = [said(a_result(agent_id, f"t{n:02}", place=n)) for n in range(40)]
    await core.mailbox.settle(batch)
    await core.pay_what_is_owed()
    assert [entry["task_id"] for entry in await core.feed()] == [f"t{n:02}" for n in range(40)]


async def test_much_that_is_owed_is_paid_page_by_page(core: Core) -> None:
    agent_id = await core.agent()
    await core.mailbox.settle([said(a_result(agent_id, f"t{n}")) for n in range(3000)])
    debts = Debts(core.store, core.feeds)
    now_s, paid = 0.0, 0
    while paid < 3000:
        now_s += AGE_S
        assert now_s < 100 * AGE_S
        paid += await debts.pay(now_s)
    assert await core.redis.xlen("agent_results") == 3000
    assert await core.owed(agent_id) == {}
    for _ in range(3):
        await debts.pay(now_s)
    assert not [shard.seen_s for shard in debts._shards if shard.seen_s]


async def test_a_writer_and_the_router_together_write_once(make_core: MakeCore) -> None:
    node, router = await make_core(), await make_core()
    holder = await node.connected()
    for n in range(30):
        await node.settle(holder.agent_id, f"t{n}")
    await together(*(node.result(holder.agent_id, f"t{n}") for n in range(30)), router.pay_what_is_owed())
    await router.pay_what_is_owed()
    assert {task: len(ends) for task, ends in (await node.ends()).items()} == {f"t{n}": 1 for n in range(30)}


async def test_an_end_that_the_feed_has_seen_already_is_paid_without_a_second_entry(core: Core) -> None:
    """A failover of the agent's slot may have forgotten the first end; the feed has not."""
    holder = await core.connected()
    await core.post(holder.agent_id, "t1")
    await core.result(holder.agent_id, "t1")
    await core.redis.delete(core.keys.task(holder.agent_id, "t1"))
    await core.settle(holder.agent_id, "t1", status="failed", message_id="m2")
    await core.pay_what_is_owed()
    assert await core.ends() == {"t1": ["success"]}
    assert await core.owed(holder.agent_id) == {}


# ---- a Redis that comes and goes ----


async def test_scripts_that_redis_forgets_are_given_to_it_again(core: Core) -> None:
    holder = await core.connected()
    stop = asyncio.Event()

    async def forget() -> None:
        while not stop.is_set():
            await core.redis.script_flush()
            await asyncio.sleep(0.001)

    forgetting = asyncio.create_task(forget())
    for n in range(100):
        await core.post(holder.agent_id, f"t{n}")
        assert await core.take(holder) == [f"t{n}"]
        assert await core.result(holder.agent_id, f"t{n}")
    stop.set()
    await forgetting
    assert len(await core.feed()) == 100


async def test_a_redis_that_was_killed_has_what_it_acknowledged_and_writes_nothing_twice(
    killable_redis: RedisServer, killable_core: Core
) -> None:
    core = killable_core
    holder = await core.connected()
    await core.post(holder.agent_id, "t1", "t2", "t3")
    await core.take(holder)
    await core.result(holder.agent_id, "t1")
    await core.settle(holder.agent_id, "t2")
    killable_redis.kill()
    with pytest.raises(StoreUnavailable):
        await core.result(holder.agent_id, "t3")
    killable_redis.start()

    async def repeated() -> str:
        try:
            for task_id in ("t1", "t2", "t3"):
                await core.result(holder.agent_id, task_id)
        except StoreUnavailable as error:
            return str(error)
        return ""

    await eventually(repeated)
    assert await core.ends() == {"t1": ["success"], "t2": ["success"], "t3": ["success"]}
    assert str(await core.registry.owner(holder.agent_id)) == holder.owner


async def test_a_feed_that_was_deleted_is_made_again(core: Core) -> None:
    await append(core, "t1")
    await core.redis.delete("agent_results")
    assert (await append(core, "t2"))["task_id"] == "t2"


def test_the_identity_of_a_message_is_63_bits_that_no_parts_share() -> None:
    pairs = [("m", "a", "bc"), ("m", "ab", "c"), ("t", "a", "bc"), ("m", "a", "b", "c"), ("mabc",)]
    hashes = [feeds_module._hash(*parts) for parts in pairs]
    assert len(set(hashes)) == len(pairs)
    assert all(0 <= int(text) < 2**63 for text in hashes)
