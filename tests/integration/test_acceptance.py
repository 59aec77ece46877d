"""How tasks are accepted: in the mailbox first, then the doorbell where the agent is, once a node."""

import asyncio

import pytest

from cluster.acceptance import OUTCOMES, Acceptance
from cluster.errors import MailboxFull, StoreUnavailable, TaskConflict, UnknownAgent
from cluster.inbox import Note
from cluster.mailbox import Accepted
from cluster.nodes import READY, Node
from cluster.redis_line import Command
from tests.integration.core import Core, a_post


class Taker:
    """An Acceptance of its own, and what it counts."""

    def __init__(self, core: Core) -> None:
        self.counts = dict.fromkeys(OUTCOMES, 0)
        self.acceptance = Acceptance(core.mailbox, core.feeds, core.inbox, self.counts)

    async def post(self, agent_id: str, *task_ids: str) -> Accepted:
        return await self.acceptance.accept(a_post(agent_id, *task_ids))


@pytest.fixture
async def nodes(core: Core) -> Core:
    """Two nodes live."""
    for node in ("n1", "n2"):
        assert await core.nodes.announce(Node(node, f"boot-{node}", READY))
    return core


async def rung(core: Core, node: str) -> list[str]:
    """Which agents a node was told of, in order."""
    return [note.agent_id for note in (await core.inbox.read(node, "0"))[1] if note.kind == "ring"]


async def entries(core: Core, node: str) -> int:
    return int(await core.redis.xlen(core.keys.inbox(node)))


async def test_each_task_rings_where_its_agent_is(nodes: Core) -> None:
    taker, holder = Taker(nodes), await nodes.connected()
    for n in range(3):
        assert (await taker.post(holder.agent_id, f"t{n}")).new == 1
    assert await rung(nodes, "n1") == [holder.agent_id] * 3
    assert await nodes.mail(holder.agent_id) == ["t0", "t1", "t2"]


async def test_the_doorbell_of_an_agent_that_was_found_before_goes_in_the_call_that_accepts(
    nodes: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    taker, holder = Taker(nodes), await nodes.connected()
    await taker.post(holder.agent_id, "t1")
    asked, ask = list[list[str]](), nodes.store.ask

    async def noting(*commands: Command, may_repeat: bool = True, minded: int | None = None) -> list[object]:
        asked.append([str(command[0]) for command in commands])
        return await ask(*commands, may_repeat=may_repeat, minded=minded)

    monkeypatch.setattr(nodes.store, "ask", noting)
    await taker.post(holder.agent_id, "t2")
    assert asked[0] == ["EVALSHA", "XADD"]
    assert not [call for call in asked[1:] if "XADD" in call]


async def test_an_agent_that_moved_is_rung_where_it_is_now(nodes: Core) -> None:
    taker, holder = Taker(nodes), await nodes.connected()
    await taker.post(holder.agent_id, "t1")
    await nodes.claim(holder.agent_id, "n2")
    await taker.post(holder.agent_id, "t2")
    assert await rung(nodes, "n2") == [holder.agent_id]
    before = await entries(nodes, "n1")
    await taker.post(holder.agent_id, "t3")
    assert await rung(nodes, "n2") == [holder.agent_id] * 2
    assert await entries(nodes, "n1") == before, "where it was is forgotten"


async def test_an_agent_that_went_is_rung_no_more_and_again_once_it_is_back(nodes: Core) -> None:
    taker, holder = Taker(nodes), await nodes.connected()
    await taker.post(holder.agent_id, "t1")
    await nodes.release(holder)
    assert (await taker.post(holder.agent_id, "t2")).status == "pending"
    before = await entries(nodes, "n1")
    await taker.post(holder.agent_id, "t3")
    assert await entries(nodes, "n1") == before
    await nodes.claim(holder.agent_id, "n1")
    assert (await taker.post(holder.agent_id, "t4")).status == "dispatched"
    assert await entries(nodes, "n1") == before + 1


async def test_posts_that_come_together_ring_a_node_once(nodes: Core) -> None:
    taker = Taker(nodes)
    holders = [await nodes.connected(f"token-{n}") for n in range(20)]
    before = await entries(nodes, "n1")
    await asyncio.gather(*(taker.post(holder.agent_id, "t1") for holder in holders))
    assert await entries(nodes, "n1") == before + 1
    assert sorted(await rung(nodes, "n1")) == sorted(holder.agent_id for holder in holders)
    await asyncio.gather(*(taker.post(holder.agent_id, "t2") for holder in holders))
    assert len(await rung(nodes, "n1")) == 2 * len(holders)


async def test_what_is_refused_harms_nobody_who_was_posted_with_it(nodes: Core) -> None:
    taker, holder = Taker(nodes), await nodes.connected()
    await taker.post(holder.agent_id, "t1")
    outcomes = await asyncio.gather(
        taker.post("nobody", "t1"),
        taker.acceptance.accept(a_post(holder.agent_id, "t1", command="another")),
        taker.post(holder.agent_id, "t1"),
        taker.post(holder.agent_id, "t2"),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [UnknownAgent, TaskConflict, Accepted, Accepted]
    assert {outcome: n for outcome, n in taker.counts.items() if n} == {
        "accepted": 2,
        "repeated": 1,
        "unknown_agent": 1,
        "conflict": 1,
    }
    assert await nodes.mail(holder.agent_id) == ["t1", "t2"]


async def test_a_refusal_of_one_who_does_not_await_is_a_result(nodes: Core) -> None:
    assert isinstance(await Taker(nodes).acceptance.put(a_post("nobody", "t1")), UnknownAgent | MailboxFull)


async def test_a_task_that_was_not_counted_is_not_said_to_be_accepted(
    nodes: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller asks again, and it is counted then; in the mailbox it is once."""
    taker, holder = Taker(nodes), await nodes.connected()

    async def away(_: object) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(nodes.feeds, "expect", away)
        with pytest.raises(StoreUnavailable):
            await taker.post(holder.agent_id, "t1")
    assert (await taker.post(holder.agent_id, "t1")).new == 0
    assert await nodes.mail(holder.agent_id) == ["t1"]


async def test_a_ring_of_a_node_that_knows_one_agent_a_note_reaches_the_first(nodes: Core) -> None:
    """Nodes of an earlier version read `agent` alone; the others' mail is found by renewal."""
    holders = [await nodes.connected(f"token-{n}") for n in range(3)]
    owners = [owner for holder in holders if (owner := await nodes.registry.owner(holder.agent_id)) is not None]
    await nodes.inbox.ring([(owner, holder.agent_id) for owner, holder in zip(owners, holders, strict=True)])
    [(_, fields)] = await nodes.redis.xrevrange(nodes.keys.inbox("n1"), count=1)
    assert fields["agent"] == holders[0].agent_id
    assert (await nodes.inbox.read("n1", "0"))[1][-3:] == [Note("ring", holder.agent_id) for holder in holders]
