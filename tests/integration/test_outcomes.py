"""What agents say of tasks is settled and written once, in one step on a single Redis and in several where keys lie apart."""

import pytest

from cluster import mailbox
from cluster.errors import FeedBlocked, StoreUnavailable
from cluster.keys import RECORD_MS
from cluster.mailbox import APPEND, APPEND_ALONE, OPEN, UNKNOWN, WRITTEN_BEFORE
from cluster.outcomes import Told
from cluster.settings import ResultStream
from tests.integration.conftest import MakeCore
from tests.integration.core import SHARDS, Core, Holder, a_result, state_of, together
from tests.support.redis_server import RedisServer


@pytest.fixture(params=[1, SHARDS])
async def core(make_core: MakeCore, request: pytest.FixtureRequest) -> Core:
    return await make_core(shards=request.param)


@pytest.fixture
async def single(make_core: MakeCore) -> Core:
    return await make_core(shards=1)


async def handed(core: Core, *task_ids: str) -> Holder:
    """An agent to which these tasks were sent."""
    holder = await core.connected()
    await core.post(holder.agent_id, *task_ids)
    await core.take(holder)
    return holder


async def books(core: Core, holder: Holder) -> dict[str, str]:
    found: dict[str, str] = await core.redis.hgetall(core.keys.in_shard(core.keys.shard(holder.agent_id), "ledger"))
    return found


async def test_an_end_is_written_once_and_its_task_has_ended(core: Core) -> None:
    holder = await handed(core, "t1", "t2")
    end = a_result(holder.agent_id, "t1", error_msg="why", exit_code="3", error_code="4")
    assert await core.told(("end", end)) == [APPEND]
    for again in (end, a_result(holder.agent_id, "t1", "failed", message_id="another")):
        await core.told(("end", again))
    await core.pay_what_is_owed()
    assert await core.ends() == {"t1": ["success"]}
    assert await core.mail(holder.agent_id) == ["t2"]
    assert await core.redis.zcard(core.keys.in_shard(core.keys.shard(holder.agent_id), "due")) == 1
    state = await core.mailbox.look(holder.agent_id, "t1")
    assert state is not None
    assert (state.state, state.ended_by, state.exit_code) == ("success", end.message_id, 3)
    assert (state.error_msg, state.error_code) == ("why", 4)
    assert 0 < await core.redis.pttl(core.keys.task(holder.agent_id, "t1")) <= RECORD_MS
    assert (await books(core, holder))["ended"] == "1"


async def test_a_batch_that_was_not_answered_is_told_again_and_changes_nothing(core: Core) -> None:
    holder = await handed(core, "81_1_7_x")
    words = [
        ("life", a_result(holder.agent_id, "81_1_7_x")),
        ("progress", a_result(holder.agent_id, "81_1_7_x", "running", message_id="m1")),
        ("end", a_result(holder.agent_id, "81_1_7_x", "failed", message_id="m2")),
        ("progress", a_result(holder.agent_id, "81_1_7_x", "running", message_id="m3")),
    ]
    first = await core.told(*words)
    assert first[:3] == [OPEN, APPEND, APPEND]
    before = await core.feed()
    await core.told(*words)
    assert await core.feed() == before
    assert [(entry["message_id"], entry["status"]) for entry in before] == [("m1", "running"), ("m2", "failed")]
    assert [entry["progress"] for entry in before] == ["0", "100"]


async def test_the_hosts_of_an_execution_are_counted_one_by_one_within_a_batch(core: Core) -> None:
    agent_id = await core.agent()
    await core.feeds.expect([f"81_1_{host}_x" for host in range(1, 5)])
    statuses = ("success", "running", "failed", "success")
    words = [
        ("end" if status != "running" else "progress", a_result(agent_id, f"81_1_{host}_x", status))
        for host, status in enumerate(statuses, 1)
    ]
    await core.told(*words, ("end", a_result(agent_id, "82_1_1_x")))
    names = ("total_hosts", "success_hosts", "failed_hosts", "running_hosts", "pending_hosts", "progress")
    assert [tuple(int(entry[name]) for name in names) for entry in await core.feed()] == [
        (4, 1, 0, 0, 3, 25), (4, 1, 0, 1, 2, 25), (4, 1, 1, 1, 1, 50), (4, 2, 1, 1, 0, 75), (1, 1, 0, 0, 0, 100),
    ]  # fmt: skip
    await core.told(("end", a_result(agent_id, "81_1_2_y", message_id="m9")))
    assert (await core.feed())[-1]["progress"] == "100", "it was kept from batch to batch"


@pytest.mark.parametrize(("hosts", "is_wide"), [(64, False), (65, True), (600, True)])
async def test_the_hosts_of_a_large_execution_are_found_without_reading_all(
    single: Core, hosts: int, *, is_wide: bool
) -> None:
    agent_id = await single.agent()
    for start in range(1, hosts + 1, 50):
        batch = range(start, min(start + 50, hosts + 1))
        await single.told(*(("end", a_result(agent_id, f"81_1_{host}_x")) for host in batch))
    encoding = await single.redis.object("encoding", single.feeds.result_keys[-1] + "81")
    assert (encoding == "hashtable") == is_wide
    last = (await single.feed())[-1]
    assert (last["total_hosts"], last["success_hosts"], last["progress"]) == (str(hosts), str(hosts), "100")


async def test_lost_ends_a_task_that_nobody_knows_and_no_other(core: Core) -> None:
    holder = await handed(core, "known")
    words = [
        ("lost", a_result(holder.agent_id, task_id, "failed", message_id=f"end:{holder.agent_id}:{task_id}"))
        for task_id in ("known", "forgotten")
    ]
    assert await core.told(*words) == [0, APPEND]
    assert await core.ends() == {"forgotten": ["failed"]}


async def test_of_too_many_strangers_entries_are_written_and_nothing_else(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "STRANGERS", 2)
    monkeypatch.setattr("cluster.outcomes.STRANGERS", 2)
    agent_id = await core.agent()
    words = [("end", a_result(agent_id, f"81_1_{n}_x")) for n in range(4)]
    assert await core.told(*words) == [APPEND, APPEND, APPEND_ALONE, APPEND_ALONE]
    assert await core.told(("life", a_result(agent_id, "81_1_3_x"))) == [UNKNOWN]
    assert [bool(await core.record(agent_id, f"81_1_{n}_x")) for n in range(4)] == [True, True, False, False]
    assert [entry["total_hosts"] for entry in await core.feed()] == ["1", "2", "0", "0"]


async def test_of_ends_at_once_from_everywhere_one_is_written(make_core: MakeCore) -> None:
    nodes = [await make_core(shards=1) for _ in range(3)]
    holder = await handed(nodes[0], "t1")
    ends = [a_result(holder.agent_id, "t1", message_id=f"m{n}") for n in range(30)]
    verdicts = await together(*(nodes[n % 3].told(("end", end)) for n, end in enumerate(ends)))
    assert sum(verdict == APPEND for (verdict,) in verdicts) == 1
    assert await nodes[0].ends() == {"t1": ["success"]}


# ---- in one step


async def test_in_one_step_nothing_is_owed(single: Core) -> None:
    holder = await handed(single, "t1")
    assert await single.told(("end", a_result(holder.agent_id, "t1"))) == [APPEND]
    assert await single.owed(holder.agent_id) == {}
    assert single.feeds.ends.by_reason["success", "agent"] == 1
    assert await books(single, holder) == {"accepted": "1", "ended": "1"}


async def test_what_the_cluster_ended_and_owes_is_not_written_twice(single: Core) -> None:
    holder = await single.connected()
    await single.post(holder.agent_id, "t1")
    (dropped,) = await single.mailbox.cancel(
        holder.agent_id, ["t1"]
    )  # whoever asked for it dies before it writes the entry
    end = a_result(holder.agent_id, "t1", "failed", message_id=f"end:{holder.agent_id}:t1")
    assert await single.told(("lost", end)) == [APPEND]
    await single.feeds.pay_results([dropped.entry])
    assert [len(ends) for ends in (await single.ends()).values()] == [1]
    assert await single.owed(holder.agent_id) == {}


async def test_while_the_feed_takes_nothing_ends_are_owed_to_it(single: Core) -> None:
    """The task has ended when its agent said so, and not when its due time came."""
    holder = await handed(single, "t1")
    end = a_result(holder.agent_id, "t1")
    await single.redis.set("agent_results", "somebody's")
    for _ in range(2):
        with pytest.raises(FeedBlocked):
            await single.told(("end", end))
    assert await state_of(single.mailbox, holder.agent_id, "t1") == "success"
    assert list(await single.owed(holder.agent_id)) == [end.owed_as]
    await single.redis.delete("agent_results")
    assert await single.told(("end", end)) == [APPEND]
    await single.pay_what_is_owed()
    assert await single.ends() == {"t1": ["success"]}
    assert await single.owed(holder.agent_id) == {}


async def test_a_feed_that_is_switched_off_ends_tasks_and_writes_nothing(make_core: MakeCore) -> None:
    core = await make_core(shards=1, result_stream=ResultStream(enabled=False))
    holder = await handed(core, "t1")
    assert await core.outcomes.write([Told("end", a_result(holder.agent_id, "t1"))]) == [APPEND]
    assert await state_of(core.mailbox, holder.agent_id, "t1") == "success"
    assert await core.feed() == []


async def test_a_full_redis_takes_nothing_half(killable_redis: RedisServer, redis_prefix: str) -> None:
    core = Core(killable_redis.url, redis_prefix, shards=1)
    try:
        await core.start()
        holder = await handed(core, "81_1_7_x", "t2")
        await core.redis.config_set("maxmemory", "1")
        before = {key: await core.redis.dump(key) for key in await core.redis.keys("*")}
        words = [
            ("end", a_result(holder.agent_id, "81_1_7_x")),
            ("progress", a_result(holder.agent_id, "t2", "running")),
        ]
        for told in (words, words[1:], [("end", a_result(holder.agent_id, "stray"))]):
            with pytest.raises(StoreUnavailable, match="full"):
                await core.told(*told)
        assert {key: await core.redis.dump(key) for key in await core.redis.keys("*")} == before
        await core.redis.config_set("maxmemory", "0")
        assert await core.told(*words) == [APPEND, APPEND]
    finally:
        await core.close()


async def test_what_was_written_and_not_heard_of_is_told_of_when_it_is_said_again(single: Core) -> None:
    holder = await handed(single, "t1")
    told = [Told("end", a_result(holder.agent_id, "t1", message_id="m1"))]
    assert await single.outcomes.write(told) == [APPEND]  # say that nobody heard it
    assert await single.outcomes.write(told) == [WRITTEN_BEFORE]
    assert await single.outcomes.write(told, is_again=True) == [APPEND]
    another = [Told("end", a_result(holder.agent_id, "t1", message_id="m2"))]
    assert await single.outcomes.write(another, is_again=True) == [0]
    assert await single.ends() == {"t1": ["success"]}


async def test_an_execution_s_key_of_another_type_refuses_the_batch_before_any_of_it_is_written(core: Core) -> None:
    holder = await handed(core, "7_1_1_x")
    key = core.keys.of_feed("agent_results", "execution:6")
    await core.redis.set(key, "somebody's")
    words = [
        ("progress", a_result(holder.agent_id, "5_1_1_x", "running", message_id="m1")),
        ("end", a_result(holder.agent_id, "7_1_1_x")),
        ("end", a_result(holder.agent_id, "6_1_1_x")),
    ]
    for _ in range(2):
        with pytest.raises(FeedBlocked):
            await core.told(*words)
    assert await core.feed() == []
    await core.redis.delete(key)
    await core.told(*words)
    assert [entry["task_id"] for entry in await core.feed()] == ["5_1_1_x", "7_1_1_x", "6_1_1_x"]
    assert await core.mail(holder.agent_id) == []
    await core.pay_what_is_owed()
    assert (await books(core, holder))["ended"] == "1"
