"""Keys: spelled once, in the right slot, and never somebody else's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from cluster.keys import Keys

FEEDS = ("agent_results", "agent_logs", "agent_status", "agent_task_stats")
OTHERS = ("agent:pending_tasks:", "agent:tasks:", "agent:task_ack:", "agent-server:acks:")  # Django's, the Go server's
agent_ids = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
task_ids = st.text(min_size=1, max_size=40)


def slots(*keys: str) -> set[int]:
    return {key_slot(key.encode()) for key in keys}


def shard_keys(keys: Keys, shard: int) -> list[str]:
    return [keys.in_shard(shard, name) for name in ("owners", "agents", "deadlines", "due", "unfed", "ledger")]


@pytest.mark.parametrize("shards", [1, 64])
@given(agent_id=agent_ids, task_id=task_ids)
def test_all_keys_of_an_agent_lie_in_one_slot(shards: int, agent_id: str, task_id: str) -> None:
    keys = Keys("agsrv:", shards)
    own = [keys.of_agent(name, agent_id) for name in ("agent", "lease", "mail")]
    assert len(slots(*own, keys.task(agent_id, task_id), *shard_keys(keys, keys.shard(agent_id)))) == 1


@pytest.mark.parametrize("feed", FEEDS)
def test_what_belongs_to_a_feed_lies_in_its_slot(feed: str) -> None:
    keys = Keys("agsrv:", 1)
    names = ("seen", "seen:0", "seen:1", "epochs", "execution:81")
    assert len(slots(feed, *(keys.of_feed(feed, name) for name in names))) == 1


@given(node_id=agent_ids)
def test_a_nodes_announcement_and_its_inbox_lie_in_one_slot(node_id: str) -> None:
    keys = Keys("agsrv:", 1)
    assert len(slots(keys.node(node_id), keys.inbox(node_id))) == 1


@given(one=st.tuples(agent_ids, task_ids), other=st.tuples(agent_ids, task_ids))
def test_no_two_tasks_share_a_record(one: tuple[str, str], other: tuple[str, str]) -> None:
    keys = Keys("agsrv:", 1)
    assert (keys.task(*one) == keys.task(*other)) == (one == other)


@given(agent_id=agent_ids, task_id=task_ids)
def test_a_tasks_record_is_the_stem_with_the_task_behind_it(agent_id: str, task_id: str) -> None:
    """Scripts are given the stem, and add the task id themselves."""
    keys = Keys("agsrv:", 64)
    assert keys.task(agent_id, task_id) == keys.task(agent_id, "") + task_id


@given(agent_id=agent_ids)
def test_one_shard_takes_every_agent(agent_id: str) -> None:
    assert Keys("agsrv:", 1).shard(agent_id) == 0


def test_an_agents_shard_never_changes() -> None:
    """Literals of today: another shard would be an empty mailbox."""
    keys = Keys("agsrv:", 64)
    assert [keys.shard(agent_id) for agent_id in ("a", "041efc53-7aab-85fd-9e42-3fa916b9c566")] == [3, 60]


def test_agents_spread_over_the_shards() -> None:
    keys = Keys("agsrv:", 64)
    shards = [keys.shard(f"agent-{n}") for n in range(6400)]
    assert set(shards) == set(range(64))
    assert max(map(shards.count, range(64))) < 200


def test_our_keys_meet_nobody_elses() -> None:
    keys = Keys("agsrv:", 2)
    ours = [
        keys.meta, keys.nodes, keys.node("n1"), keys.inbox("n1"), keys.host("7"), keys.task("a", "t"),
        *shard_keys(keys, 1), *(keys.of_agent(name, "a") for name in ("agent", "lease", "mail")),
        *(keys.of_feed(feed, "seen") for feed in FEEDS),
    ]  # fmt: skip
    assert len(set(ours)) == len(ours)
    assert not [key for key in ours if not key.startswith("agsrv:") or key.startswith(OTHERS) or key in FEEDS]


def test_two_prefixes_share_nothing() -> None:
    one, other = Keys("one:", 1), Keys("two:", 1)
    assert not {one.meta, one.nodes, one.task("a", "t")} & {other.meta, other.nodes, other.task("a", "t")}
