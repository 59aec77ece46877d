"""What there is, counted: agents, tasks that wait, feeds and how far behind their readers are."""

import asyncio

import pytest

from cluster.census import Census, Counted
from cluster.settings import Settings
from tests.integration.conftest import MakeCore
from tests.integration.core import Core


async def counted(core: Core) -> Counted:
    return await Census(core.store, core.registry, Settings()).take()


async def test_an_empty_cluster_has_nothing(core: Core) -> None:
    found = await counted(core)
    assert (found.agents, found.online, found.agents_with_pending, found.oldest_pending_s) == (0, 0, 0, 0)
    assert found.used_bytes > 0
    assert {name: feed.entries for name, feed in found.feeds.items()} == dict.fromkeys(found.feeds, 0)


async def test_agents_are_counted_in_all_shards(core: Core) -> None:
    for number in range(5):
        await core.connected(f"token-{number}")
    await core.agent("token-away")
    found = await counted(core)
    assert (found.agents, found.online) == (6, 5)


# ---- the oldest task that waits


async def test_a_task_waits_from_its_acceptance_until_it_is_handed_out(core: Core) -> None:
    holder = await core.connected()
    await core.post(holder.agent_id, "t1")
    await asyncio.sleep(0.05)
    found = await counted(core)
    assert found.agents_with_pending == 1
    assert 0.04 < found.oldest_pending_s < 10
    assert await core.take(holder) == ["t1"]
    found = await counted(core)
    assert (found.agents_with_pending, found.oldest_pending_s) == (0, 0)


async def test_the_oldest_of_many_agents_is_told(core: Core) -> None:
    first, second = await core.connected("token-1"), await core.connected("token-2")
    await core.post(first.agent_id, "a")
    await asyncio.sleep(0.3)
    await core.post(second.agent_id, "b")
    assert (await counted(core)).oldest_pending_s >= 0.3
    await core.take(first)
    found = await counted(core)
    assert (found.agents_with_pending, found.oldest_pending_s < 0.3) == (1, True)


async def test_what_ended_before_it_was_handed_out_waits_no_more(core: Core) -> None:
    agent_id = await core.agent()
    await core.post(agent_id, "old")
    await asyncio.sleep(0.3)
    await core.post(agent_id, "new")
    assert (await counted(core)).oldest_pending_s >= 0.3
    await core.mailbox.cancel(agent_id, ["old"])
    found = await counted(core)
    assert (found.agents_with_pending, found.oldest_pending_s < 0.3) == (1, True)
    await core.mailbox.cancel(agent_id, ["new"])
    assert ((found := await counted(core)).agents_with_pending, found.oldest_pending_s) == (0, 0)


async def test_a_forgotten_agents_tasks_wait_no_more(core: Core) -> None:
    agent_id = await core.agent()
    await core.post(agent_id, "t1")
    await core.registry.revoke(agent_id)
    assert ((found := await counted(core)).agents_with_pending, found.oldest_pending_s) == (0, 0)


async def test_a_task_posted_again_does_not_grow_younger(core: Core) -> None:
    agent_id = await core.agent()
    await core.post(agent_id, "t1")
    await asyncio.sleep(0.2)
    await core.post(agent_id, "t1")
    await core.post(agent_id, "t2")
    assert (await counted(core)).oldest_pending_s >= 0.2


# ---- feeds


async def test_a_reader_is_behind_by_its_first_unread_entry(core: Core) -> None:
    feed = Settings().result_stream.key
    await core.redis.xgroup_create(feed, "readers", id="0", mkstream=True)
    found = (await counted(core)).feeds["results"]
    assert (found.entries, found.groups, found.lag_s) == (0, 1, 0)
    for _ in range(2):
        await core.redis.xadd(feed, {"a": "b"})
        await asyncio.sleep(0.1)
    found = (await counted(core)).feeds["results"]
    assert found.entries == 2
    assert found.lag_s is not None
    assert 0.2 <= found.lag_s < 10
    assert found.lag_entries in (2, None)  # Redis 6.2 does not tell
    await core.redis.xreadgroup("readers", "one", {feed: ">"})
    assert (await counted(core)).feeds["results"].lag_s == 0


async def test_a_feed_that_is_no_stream_hides_no_other(core: Core) -> None:
    await core.redis.set(Settings().log_stream.key, "something else")
    found = await counted(core)
    assert set(found.feeds) == {"results", "status", "task_stats"}


@pytest.mark.parametrize("shards", [1, 4])
async def test_what_waits_is_found_in_each_shard(make_core: MakeCore, shards: int) -> None:
    core = await make_core(shards=shards)
    for number in range(6):
        await core.post(await core.agent(f"token-{number}"), f"t{number}")
    assert (await counted(core)).agents_with_pending == 6
