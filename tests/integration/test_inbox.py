"""A node's inbox: notes arrive in order while the node lives, and nowhere else."""

import asyncio

import pytest

from cluster import close_codes
from cluster import inbox as inbox_module
from cluster.errors import NotConnected
from cluster.inbox import ORDER_MS, READ_NOTES, Note
from cluster.nodes import READY, Node
from cluster.registry import Owner
from tests.integration.core import Core

NODE = Node("n1", "boot-1", READY)
OWNER = Owner("n1", "boot-1", 7)


@pytest.fixture
async def node(core: Core) -> Core:
    """A process whose node lives."""
    assert await core.nodes.announce(NODE)
    return core


async def notes(core: Core, after: str = "0") -> list[Note]:
    return (await core.inbox.read("n1", after))[1]


async def test_a_ring_names_its_agent(node: Core) -> None:
    await node.inbox.ring([(OWNER, "agent-1"), (OWNER, "agent-2")])
    assert await notes(node) == [Note("ring", "agent-1"), Note("ring", "agent-2")]


async def test_all_agents_of_a_node_are_rung_in_one_entry(node: Core) -> None:
    before = await node.redis.xlen(node.keys.inbox("n1"))
    await node.inbox.ring([(OWNER, f"agent-{n}") for n in range(300)])
    assert await node.redis.xlen(node.keys.inbox("n1")) == before + 1
    assert await notes(node) == [Note("ring", f"agent-{n}") for n in range(300)]


async def test_a_close_is_for_one_claim(node: Core) -> None:
    await node.inbox.close([(OWNER, "agent-1")], close_codes.REPLACED)
    assert await notes(node) == [Note("close", "agent-1", 7, b"4409")]


async def test_a_frame_is_for_one_claim_and_good_for_ten_seconds(node: Core) -> None:
    frame = b'{"type":"control"}\x00\xff'
    await node.inbox.send(OWNER, "agent-1", frame)
    (note,) = await notes(node)
    assert (note.kind, note.agent_id, note.epoch, note.data) == ("send", "agent-1", 7, frame)
    assert abs(note.deadline_ms - node.store.now_ms() - ORDER_MS) < 5000


async def test_notes_to_many_nodes_each_reach_their_own(node: Core) -> None:
    await node.nodes.announce(Node("n2", "boot-2", READY))
    await node.inbox.ring([(OWNER, "agent-1"), (Owner("n2", "boot-2", 1), "agent-2")])
    assert [note.agent_id for note in await notes(node)] == ["agent-1"]
    assert [note.agent_id for note in (await node.inbox.read("n2", "0"))[1]] == ["agent-2"]


async def test_reading_goes_on_from_the_last_id_and_in_order(node: Core) -> None:
    for n in range(READ_NOTES + 10):
        await node.inbox.ring([(OWNER, f"agent-{n}")])
    last, first = await node.inbox.read("n1", "0")
    _, second = await node.inbox.read("n1", last)
    assert [note.agent_id for note in (*first, *second)] == [f"agent-{n}" for n in range(READ_NOTES + 10)]


async def test_what_is_no_note_is_left_out(node: Core) -> None:
    """A node ended over such an entry, with all its connections."""
    for fields in (
        {"epoch": "x"},
        {"kind": b"\xff"},
        {"kind": "close", "data": "soon"},
        {"kind": "close", "data": "99999"},
    ):
        await node.redis.xadd(node.keys.inbox("n1"), {"agent": "agent-1", **fields})
    await node.inbox.ring([(OWNER, "agent-1")])
    assert await notes(node) == [Note("ring", "agent-1")]


async def test_what_was_read_once_may_be_read_again(node: Core) -> None:
    """No entry hangs between delivered and read: a lost reply loses nothing."""
    await node.inbox.ring([(OWNER, "agent-1")])
    assert await notes(node) == await notes(node)


async def test_a_reader_hears_a_note_as_it_comes(node: Core) -> None:
    last, _ = await node.inbox.read("n1", "0")
    reading = asyncio.create_task(node.inbox.read("n1", last))
    await node.inbox.ring([(OWNER, "agent-1")])
    assert (await asyncio.wait_for(reading, 5))[1] == [Note("ring", "agent-1")]


async def test_a_reader_of_nothing_comes_back_with_the_same_place(node: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "BLOCK_MS", 10)
    last, _ = await node.inbox.read("n1", "0")
    assert await node.inbox.read("n1", last) == (last, [])


async def test_nothing_is_put_into_the_inbox_of_a_node_that_is_gone(core: Core) -> None:
    await core.inbox.ring([(OWNER, "agent-1")])
    await core.inbox.close([(OWNER, "agent-1")], close_codes.REVOKED)
    with pytest.raises(NotConnected):
        await core.inbox.send(OWNER, "agent-1", b"x")
    assert not await core.redis.exists(core.keys.inbox("n1"))


async def test_a_new_process_does_not_read_what_was_meant_for_its_predecessor(node: Core) -> None:
    await node.inbox.ring([(OWNER, "agent-1")])
    await node.redis.delete(node.keys.node("n1"))
    await node.nodes.enter(Node("n1", "boot-2", READY))
    await node.inbox.ring([(OWNER, "agent-2")])
    assert [note.agent_id for note in await notes(node)] == ["agent-2"]


async def test_a_node_that_stalls_keeps_what_came_for_it(node: Core) -> None:
    await node.inbox.ring([(OWNER, "agent-1")])
    assert await node.nodes.announce(NODE)
    assert len(await notes(node)) == 1
    assert await node.redis.pttl(node.keys.inbox("n1")) > 50_000


async def test_an_inbox_that_redis_lost_is_there_again_after_a_beat(node: Core) -> None:
    await node.redis.delete(node.keys.inbox("n1"))
    assert await node.nodes.announce(NODE)
    await node.inbox.ring([(OWNER, "agent-1")])
    assert len(await notes(node)) == 1


async def test_an_inbox_is_bounded_and_the_oldest_go(node: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "MAX_NOTES", 100)
    for n in range(500):
        await node.inbox.ring([(OWNER, f"agent-{n}")])
    assert await node.redis.xlen(node.keys.inbox("n1")) <= 200
    assert (await notes(node))[-1].agent_id == "agent-499"


async def test_what_was_read_is_trimmed_and_what_was_not_stays(node: Core) -> None:
    for n in range(500):
        await node.inbox.ring([(OWNER, f"agent-{n}")])
    last, read = await node.inbox.read("n1", "0")
    await node.inbox.trim("n1", last)
    await node.inbox.ring([(OWNER, "agent-500")])
    _, rest = await node.inbox.read("n1", last)
    assert rest[-1].agent_id == "agent-500"
    assert len(read) + len(rest) == 501
    assert await node.redis.xlen(node.keys.inbox("n1")) < 200


async def test_no_notes_are_no_call(core: Core) -> None:
    await core.inbox.ring([])
    await core.inbox.close([], close_codes.REPLACED)
