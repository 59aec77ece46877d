"""How far behind consumer groups are: the same words on a Redis that tells a lag (7.0) and on one that does not (6.2)."""

from cluster import groups
from cluster.groups import Feed, Group
from tests.integration.core import Core

FEED = "agent_logs"


async def write(core: Core, first: int, last: int) -> None:
    pipe = core.redis.pipeline(transaction=False)
    for ms in range(first, last + 1):
        pipe.xadd(FEED, {"n": ms}, id=f"{ms}-0")
    await pipe.execute()


async def only(core: Core, most: int = groups.COUNTED) -> Group:
    (group,) = (await groups.look(core.store, FEED, most)).groups
    return group


async def test_a_group_lags_by_what_it_was_not_handed(core: Core) -> None:
    await write(core, 1, 50)
    await core.redis.xgroup_create(FEED, "readers", "0")
    await core.redis.xreadgroup("readers", "c", {FEED: ">"}, count=20)
    await core.redis.xack(FEED, "readers", "1-0", "2-0")
    group = await only(core)
    assert (group.name, group.consumers, group.last_delivered) == ("readers", 1, "20-0")
    assert (group.lag, group.is_more, group.pending) == (30, False, 18)


async def test_it_is_behind_by_the_age_of_the_oldest_entry_it_was_not_handed(core: Core) -> None:
    now_ms = core.store.now_ms()
    for ago_s in (500, 300, 100):
        await core.redis.xadd(FEED, {"n": 1}, id=f"{now_ms - ago_s * 1000}-0")
    await core.redis.xgroup_create(FEED, "readers", "0")
    await core.redis.xreadgroup("readers", "c", {FEED: ">"}, count=1)
    assert 300 <= (await only(core)).behind_s < 310


async def test_who_had_everything_neither_lags_nor_is_behind(core: Core) -> None:
    await write(core, 1, 10)
    await core.redis.xgroup_create(FEED, "readers", "$")
    group = await only(core)
    assert (group.lag, group.behind_s, group.is_more) == (0, 0.0, False)


async def test_a_lag_that_redis_does_not_tell_is_counted_up_to_a_bound(core: Core) -> None:
    """A group made in the middle, and an entry that was deleted behind it: no version tells a lag then."""
    await write(core, 1, 2500)
    await core.redis.xgroup_create(FEED, "readers", "100-0")
    await core.redis.xdel(FEED, "2000-0")
    assert "lag" not in (said := (await core.redis.xinfo_groups(FEED))[0]) or said["lag"] is None
    assert ((await only(core)).lag, (await only(core)).is_more) == (2399, False)
    assert ((await only(core, 2000)).lag, (await only(core, 2000)).is_more) == (2000, True)
    assert ((await only(core, 2399)).lag, (await only(core, 2399)).is_more) == (2399, False)


async def test_what_was_trimmed_is_no_lag(core: Core) -> None:
    await write(core, 1, 50)
    await core.redis.xgroup_create(FEED, "readers", "0")
    await core.redis.xtrim(FEED, minid="41-0", approximate=False)
    assert (await only(core)).lag == 10


async def test_a_feed_tells_its_length_and_ends(core: Core) -> None:
    await write(core, 3, 7)
    feed = await groups.look(core.store, FEED)
    assert (feed.length, feed.first_id, feed.last_id, feed.groups) == (5, "3-0", "7-0", ())
    assert feed.added in {5, None}


async def test_a_feed_that_is_missing_is_empty_and_what_is_no_stream_is_told(core: Core) -> None:
    assert await groups.look(core.store, FEED) == Feed(FEED)
    await core.redis.set(FEED, "somebody's")
    assert await groups.look(core.store, FEED) == Feed(FEED, is_stream=False)


async def test_entries_are_counted_between_ids(core: Core) -> None:
    await write(core, 1, 2500)
    assert await groups.count(core.store, FEED, "-", "(2001-0", 10_000) == (2000, "2000-0")
    assert await groups.count(core.store, FEED, "(5-0", "+", 3) == (3, "8-0")
    assert await groups.count(core.store, FEED, "(2500-0", "+", 3) == (0, "")
