"""How long feeds remember: what a consumer still needs stays, what nobody needs goes, and no key grows without bound."""

import asyncio
import logging
from typing import Any

import pytest

from cluster import trimming
from cluster.errors import FeedBlocked
from cluster.settings import LogStream, ResultStream, StatusStream, TaskStatsStream
from cluster.trimming import PENDING_MS, Trimmer
from tests.integration.conftest import MakeCore
from tests.integration.core import Core

RESULTS = "agent_results"
NODE = 100  # entries that approximate trimming may leave
OLD_MS = 25 * 3600 * 1000
AGING = ("agent_logs", "agent_status", "agent_task_stats")


async def trimmed(make_core: MakeCore, entries: int, keep: int, **more: Any) -> tuple[Core, Trimmer]:
    """A feed of results with so many entries, `1-0` the oldest, and its trimmer."""
    core = await make_core(result_stream=ResultStream(keep=keep, **more))
    await write(core, RESULTS, range(1, entries + 1))
    return core, Trimmer(core.store, core.settings)


async def write(core: Core, feed: str, at_ms: range) -> None:
    pipe = core.redis.pipeline(transaction=False)
    for ms in at_ms:
        pipe.xadd(feed, {"n": ms}, id=f"{ms}-0")
    await pipe.execute()


async def left(core: Core, feed: str = RESULTS) -> list[int]:
    return [int(entry["n"]) for entry in await core.feed(feed)]


async def read(core: Core, group: str, count: int, *, acked: int = 0) -> None:
    """A group reads so many entries, and acks the first ones of them."""
    entries = await core.redis.xreadgroup(group, "consumer", {RESULTS: ">"}, count=count)
    ids = [entry_id for entry_id, _ in entries[0][1]]
    assert len(ids) == count
    if acked:
        await core.redis.xack(RESULTS, group, *ids[:acked])


async def unread_for(core: Core, group: str, first: int, last: int, idle_ms: int) -> None:
    """These entries were delivered that long ago, and never acked."""
    ids = [f"{n}-0" for n in range(first, last + 1)]
    await core.redis.xclaim(RESULTS, group, "consumer", 0, ids, idle=idle_ms, justid=True)


async def pending(core: Core, group: str) -> int:
    return int((await core.redis.xpending(RESULTS, group))["pending"])


# ---- a key that is no stream ----


@pytest.mark.parametrize("blocked", [RESULTS, *AGING])
async def test_a_feed_that_is_no_stream_keeps_none_of_the_others_from_being_trimmed(
    make_core: MakeCore, blocked: str
) -> None:
    core, trimmer = await trimmed(make_core, 5 * NODE, 10)
    for feed in AGING:
        await write(core, feed, range(1, 5 * NODE))
    await core.redis.set(blocked, "somebody's")
    assert await trimmer.trim()
    for feed in {RESULTS, *AGING} - {blocked}:
        assert len(await left(core, feed)) <= NODE + 10


# ---- results ----


@pytest.mark.parametrize(
    ("entries", "keep", "oldest"), [(50, 20, 31), (20, 20, 1), (5, 20, 1), (21, 20, 2), (30, 1, 30)]
)
async def test_without_groups_the_newest_are_kept(make_core: MakeCore, entries: int, keep: int, oldest: int) -> None:
    core, trimmer = await trimmed(make_core, entries, keep)
    assert await trimmer.trim() == oldest - 1
    assert await left(core) == list(range(oldest, entries + 1))


async def test_with_nothing_to_keep_the_last_one_stays(make_core: MakeCore) -> None:
    core, trimmer = await trimmed(make_core, 30, 0)
    await trimmer.trim()
    assert await left(core) == [30]


async def test_what_every_group_was_delivered_and_acked_goes(make_core: MakeCore) -> None:
    core, trimmer = await trimmed(make_core, 50, 20)
    for group in ("one", "two"):
        await core.redis.xgroup_create(RESULTS, group, "0")
        await read(core, group, 50, acked=50)
    await trimmer.trim()
    assert await left(core) == list(range(31, 51))


async def test_what_some_group_was_not_delivered_stays(make_core: MakeCore) -> None:
    core, trimmer = await trimmed(make_core, 50, 20)
    for group, delivered in (("fast", 50), ("slow", 10)):
        await core.redis.xgroup_create(RESULTS, group, "0")
        await read(core, group, delivered, acked=delivered)
    assert await trimmer.trim() == 10
    assert await left(core) == list(range(11, 51))


async def test_a_group_that_has_read_nothing_holds_everything(make_core: MakeCore) -> None:
    """As the control plane makes it: MKSTREAM, from the beginning."""
    core, trimmer = await trimmed(make_core, 50, 20)
    await core.redis.xgroup_create(RESULTS, "new", "0", mkstream=True)
    assert await trimmer.trim() == 0
    assert len(await left(core)) == 50


async def test_a_group_that_begins_at_the_end_holds_nothing_back(make_core: MakeCore) -> None:
    core, trimmer = await trimmed(make_core, 50, 20)
    await core.redis.xgroup_create(RESULTS, "new", "$")
    await trimmer.trim()
    assert await left(core) == list(range(31, 51))


async def test_what_was_delivered_lately_and_not_acked_stays(make_core: MakeCore) -> None:
    core, trimmer = await trimmed(make_core, 50, 20)
    await core.redis.xgroup_create(RESULTS, "group", "0")
    await read(core, "group", 50, acked=7)
    await unread_for(core, "group", 8, 50, PENDING_MS - 5000)
    assert await trimmer.trim() == 7
    assert await left(core) == list(range(8, 51))
    assert await pending(core, "group") == 43


async def test_what_was_delivered_long_ago_and_never_acked_goes_and_is_pending_no_more(make_core: MakeCore) -> None:
    """The real consumer never acks; its list of pending entries would grow for ever."""
    core, trimmer = await trimmed(make_core, 50, 20)
    await core.redis.xgroup_create(RESULTS, "group", "0")
    await read(core, "group", 50)
    await unread_for(core, "group", 1, 50, PENDING_MS)
    assert await trimmer.trim() == 30
    assert await left(core) == list(range(31, 51))
    assert await pending(core, "group") == 20


async def test_one_entry_that_is_pending_lately_holds_what_came_after_it(make_core: MakeCore) -> None:
    core, trimmer = await trimmed(make_core, 50, 20)
    await core.redis.xgroup_create(RESULTS, "group", "0")
    await read(core, "group", 50)
    await unread_for(core, "group", 1, 50, PENDING_MS)
    await unread_for(core, "group", 12, 12, 1000)
    await trimmer.trim()
    assert (await left(core))[0] == 12


async def test_pending_entries_that_are_gone_already_are_pending_no_more(make_core: MakeCore) -> None:
    core, trimmer = await trimmed(make_core, 50, 20)
    await core.redis.xgroup_create(RESULTS, "group", "0")
    await read(core, "group", 50)
    await core.redis.xdel(RESULTS, *(f"{n}-0" for n in range(1, 11)))
    await unread_for(core, "group", 11, 50, PENDING_MS)
    await trimmer.trim()
    assert await pending(core, "group") == 20


async def test_much_goes_page_by_page_and_a_pass_is_bounded(
    make_core: MakeCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trimming, "PAGE", 10)
    monkeypatch.setattr(trimming, "PAGES", 5)
    core, trimmer = await trimmed(make_core, 200, 20)
    await core.redis.xgroup_create(RESULTS, "group", "0")
    await read(core, "group", 200)
    await unread_for(core, "group", 1, 200, PENDING_MS)
    dropped = [await trimmer.trim() for _ in range(5)]
    assert dropped == [50, 50, 50, 30, 0]
    assert (await left(core), await pending(core, "group")) == (list(range(181, 201)), 20)


async def test_entries_of_one_millisecond_are_told_apart(make_core: MakeCore) -> None:
    core, trimmer = await trimmed(make_core, 0, 3)
    for n in range(8):
        await core.redis.xadd(RESULTS, {"n": n}, id=f"5-{n}")
    await core.redis.xgroup_create(RESULTS, "group", "0")
    await read(core, "group", 4, acked=4)
    await trimmer.trim()
    assert await left(core) == [4, 5, 6, 7]


async def test_no_entry_is_lost_to_a_consumer_that_reads_while_it_is_trimmed(make_core: MakeCore) -> None:
    core, trimmer = await trimmed(make_core, 0, 5)
    await core.redis.xgroup_create(RESULTS, "group", "0", mkstream=True)
    seen: list[int] = []

    async def consume() -> None:
        while len(seen) < 150:
            for _, entries in await core.redis.xreadgroup("group", "consumer", {RESULTS: ">"}, count=7, block=100):
                seen.extend(int(fields["n"]) for _, fields in entries)
                await core.redis.xack(RESULTS, "group", *[entry_id for entry_id, _ in entries])

    consuming = asyncio.create_task(consume())
    for n in range(150):
        await core.redis.xadd(RESULTS, {"n": n})
        if n % 10 == 0:
            await trimmer.trim()
    await asyncio.wait_for(consuming, 10)
    assert seen == list(range(150))
    await trimmer.trim()
    assert await core.redis.xlen(RESULTS) == 5


# ---- by age ----


@pytest.mark.parametrize("feed", AGING)
async def test_logs_status_and_statistics_go_by_age(core: Core, feed: str) -> None:
    now_ms = core.store.now_ms()
    await write(core, feed, range(now_ms - OLD_MS, now_ms - OLD_MS + 3 * NODE))
    await write(core, feed, range(now_ms - 3600_000, now_ms - 3600_000 + 50))
    dropped = await Trimmer(core.store, core.settings).trim()
    found = await left(core, feed)
    assert 2 * NODE <= dropped <= 3 * NODE
    assert found[-50:] == list(range(now_ms - 3600_000, now_ms - 3600_000 + 50))
    assert len(found) <= NODE + 50


async def test_ages_are_the_configurations(make_core: MakeCore) -> None:
    core = await make_core(log_stream=LogStream(max_age_s=60), status_stream=StatusStream(max_age_s=7200))
    now_ms = core.store.now_ms()
    for feed in ("agent_logs", "agent_status"):
        await write(core, feed, range(now_ms - 3600_000, now_ms - 3600_000 + 2 * NODE))
    await Trimmer(core.store, core.settings).trim()
    assert len(await left(core, "agent_logs")) <= NODE
    assert len(await left(core, "agent_status")) == 2 * NODE


async def test_groups_of_logs_do_not_hold_them(core: Core) -> None:
    await write(core, "agent_logs", range(1, 3 * NODE))
    await core.redis.xgroup_create("agent_logs", "group", "0")
    await Trimmer(core.store, core.settings).trim()
    assert len(await left(core, "agent_logs")) <= NODE


async def test_an_expiry_that_others_set_stays(core: Core) -> None:
    await write(core, "agent_status", range(1, 3 * NODE))
    await core.redis.expire("agent_status", 1000)
    await Trimmer(core.store, core.settings).trim()
    assert await core.redis.ttl("agent_status") > 900


# ---- the cap ----


@pytest.mark.parametrize("feed", [RESULTS, *AGING])
async def test_at_max_len_the_oldest_go_unread_or_not_and_it_is_said(
    make_core: MakeCore, caplog: pytest.LogCaptureFixture, feed: str
) -> None:
    core = await make_core(
        result_stream=ResultStream(max_len=50), log_stream=LogStream(max_len=50), status_stream=StatusStream(max_len=50),
        task_stats_stream=TaskStatsStream(max_len=50),
    )  # fmt: skip
    now_ms = core.store.now_ms()
    await write(core, feed, range(now_ms, now_ms + 5 * NODE))
    await core.redis.xgroup_create(feed, "unread", "0")
    with caplog.at_level(logging.ERROR, "cluster.trimming"):
        trimmer = Trimmer(core.store, core.settings)
        dropped = await trimmer.trim()
    assert trimmer.over_max_len == dropped > 0
    found = await left(core, feed)
    assert found == list(range(now_ms + dropped, now_ms + 5 * NODE))
    assert 50 <= len(found) <= 50 + NODE
    assert feed in caplog.text
    assert str(dropped) in caplog.text


async def test_below_max_len_nothing_is_said(core: Core, caplog: pytest.LogCaptureFixture) -> None:
    await write(core, RESULTS, range(1, 50))
    with caplog.at_level(logging.ERROR, "cluster.trimming"):
        await Trimmer(core.store, core.settings).trim()
    assert not caplog.records


# ---- what others do to these keys ----


async def test_missing_feeds_are_normal(core: Core) -> None:
    assert await Trimmer(core.store, core.settings).trim() == 0
    assert not await core.redis.exists(RESULTS, *AGING)


async def test_disabled_feeds_are_left_alone(make_core: MakeCore) -> None:
    core = await make_core(result_stream=ResultStream(enabled=False, keep=1), log_stream=LogStream(enabled=False))
    for feed in (RESULTS, "agent_logs"):
        await write(core, feed, range(1, 3 * NODE))
    assert await Trimmer(core.store, core.settings).trim() == 0


async def test_feeds_and_groups_may_come_and_go_while_they_are_trimmed(make_core: MakeCore) -> None:
    core, trimmer = await trimmed(make_core, 0, 2)
    stop = asyncio.Event()

    async def disturb() -> None:
        while not stop.is_set():
            await write(core, RESULTS, range(1, 21))
            await core.redis.xgroup_create(RESULTS, "group", "0", mkstream=True)
            await core.redis.xreadgroup("group", "consumer", {RESULTS: ">"}, count=5)
            await core.redis.xgroup_destroy(RESULTS, "group")
            await core.redis.delete(RESULTS)

    disturbing = asyncio.create_task(disturb())
    for _ in range(50):
        await trimmer.trim()
    stop.set()
    await disturbing


async def test_two_routers_may_trim_at_once(make_core: MakeCore) -> None:
    core, one = await trimmed(make_core, 500, 20)
    other = Trimmer((await make_core()).store, core.settings)
    await core.redis.xgroup_create(RESULTS, "group", "0")
    await read(core, "group", 500, acked=500)
    dropped = await asyncio.gather(one.trim(), other.trim())
    assert sum(dropped) == 480
    assert await left(core) == list(range(481, 501))


# ---- by hand ----


@pytest.mark.parametrize(("max_len", "gone"), [(0, 50), (20, 30), (50, 0), (99, 0)])
async def test_a_cut_to_a_length_takes_the_oldest(make_core: MakeCore, max_len: int, gone: int) -> None:
    core, trimmer = await trimmed(make_core, 50, 1000)
    plan = await trimmer.planned(RESULTS, max_len=max_len)
    assert (plan.entries, plan.left, plan.needed) == (gone, 50 - gone, {})
    assert len(await left(core)) == 50
    assert await trimmer.cut(plan) == gone
    assert await left(core) == list(range(gone + 1, 51))


async def test_a_cut_by_age_takes_what_is_older(make_core: MakeCore) -> None:
    core, trimmer = await trimmed(make_core, 50, 1000)
    now_ms = core.store.now_ms()
    await core.redis.xadd(RESULTS, {"n": 51}, id=f"{now_ms - 50_000}-0")
    plan = await trimmer.planned(RESULTS, max_age_s=60.0)
    assert (plan.entries, plan.left) == (50, 1)
    assert await trimmer.cut(plan) == 50
    assert await left(core) == [51]


async def test_a_cut_tells_what_groups_need_of_it(make_core: MakeCore) -> None:
    core, trimmer = await trimmed(make_core, 50, 1000)
    for group in ("ahead", "behind", "busy"):
        await core.redis.xgroup_create(RESULTS, group, "0")
    await read(core, "ahead", 50, acked=50)
    await read(core, "behind", 20, acked=20)
    await read(core, "busy", 50, acked=10)
    assert (await trimmer.planned(RESULTS, max_len=20)).needed == {"behind": 10, "busy": 20}
    assert (await trimmer.planned(RESULTS, max_len=40)).needed == {}
    await unread_for(core, "busy", 11, 50, PENDING_MS + 1000)
    assert (await trimmer.planned(RESULTS, max_len=20)).needed == {"behind": 10}


async def test_what_comes_after_the_plan_is_not_cut(make_core: MakeCore) -> None:
    core, trimmer = await trimmed(make_core, 50, 1000)
    plan = await trimmer.planned(RESULTS, max_len=20)
    await write(core, RESULTS, range(51, 101))
    assert await trimmer.cut(plan) == 30
    assert await left(core) == list(range(31, 101))


async def test_a_cut_takes_what_is_gone_off_the_pending_lists(make_core: MakeCore) -> None:
    core, trimmer = await trimmed(make_core, 50, 1000)
    await core.redis.xgroup_create(RESULTS, "busy", "0")
    await read(core, "busy", 50)
    await trimmer.cut(await trimmer.planned(RESULTS, max_len=20))
    assert await pending(core, "busy") == 20


async def test_a_large_feed_is_cut_some_at_a_time(make_core: MakeCore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimming, "PAGE", 7)
    monkeypatch.setattr(trimming, "PAGES", 1)
    core, trimmer = await trimmed(make_core, 50, 1000)
    assert await trimmer.cut(await trimmer.planned(RESULTS, max_len=5)) == 45
    assert await left(core) == [46, 47, 48, 49, 50]


async def test_what_is_no_stream_is_not_cut(make_core: MakeCore) -> None:
    core, trimmer = await trimmed(make_core, 0, 10)
    await core.redis.set(RESULTS, "somebody's")
    with pytest.raises(FeedBlocked):
        await trimmer.planned(RESULTS, max_len=0)
