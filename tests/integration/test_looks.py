"""A look at a cluster, by what Redis holds of it; and at nodes, by what they say where they can be asked."""

import asyncio
import socket

import pytest

from cluster.client import looks
from cluster.nodes import Node, this_machine
from tests.integration.core import Core


async def test_agents_tasks_and_feeds_are_counted(core: Core) -> None:
    held = await core.connected("token-1")
    await core.agent("token-2", name="away")
    await core.post(held.agent_id, "t1", "t2")
    await core.redis.xadd("agent_logs", {"n": 1})
    look = await looks.take(core.store, core.settings)
    assert (look.agents_known, look.agents_online) == (2, 1)
    assert (look.books.accepted, look.books.ended, look.books.open) == (2, 0, 2)
    assert (look.waiting.tasks, look.waiting.is_more) == (2, False)
    assert look.feeds["logs"].length == 1
    assert set(look.feeds) == {"results", "logs", "status", "stats"}
    assert look.redis.memory_bytes > 0 < look.redis.round_trip_s


async def test_a_task_that_was_sent_is_open_and_not_pending(core: Core) -> None:
    held = await core.connected()
    await core.post(held.agent_id, "t1")
    await core.take(held)
    await core.post(held.agent_id, "t2")
    look = await looks.take(core.store, core.settings)
    assert (look.books.open, look.waiting.tasks) == (2, 1)
    assert 0 <= look.waiting.oldest_s < 60


async def test_of_many_open_tasks_some_are_looked_at(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "COUNTED", 4)
    agent_id = await core.agent()
    await core.post(agent_id, *(f"t{number}" for number in range(5)))
    look = await looks.take(core.store, core.settings)
    assert (look.waiting.tasks, look.waiting.is_more) == (1, True)  # one a shard


async def served(says: bytes) -> asyncio.Server:
    """An admin port that says this."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(says), says))
        await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("says", "is_here", "messages"),
    [
        (
            (
                b'agent_server_messages_received_total{type="log"} 3.0\n'
                b'agent_server_messages_sent_total{type="ack"} 2.0\nagent_server_flood_pauses_total 9.0\n'
            ),
            True,
            5.0,
        ),
        (
            b'agent_server_messages_received_total{type="log"} 3.0\n',
            False,
            None,
        ),  # the loopback of another machine is not ours
        (b"agent_server_other 3.0\n", True, None),
        (b"{ nonsense", True, None),
    ],
)
async def test_a_node_s_messages_are_what_its_admin_port_tells(
    core: Core, says: bytes, is_here: bool, messages: float | None
) -> None:
    async with await served(says) as server:
        admin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        machine = this_machine() if is_here else "another"
        await core.nodes.announce(Node("n1", "boot", "ready", admin=admin, machine=machine, pid=1), is_entering=True)
        [node] = (await looks.take(core.store, core.settings)).nodes
    assert (node.id, node.messages, node.memory_bytes is not None) == ("n1", messages, is_here)


async def test_a_node_that_does_not_answer_in_time_is_shown_without_its_messages(core: Core) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        admin = f"http://127.0.0.1:{mute.getsockname()[1]}"
        await core.nodes.announce(Node("n1", "boot", "ready", admin=admin, machine=this_machine()), is_entering=True)
        [node] = (await looks.take(core.store, core.settings)).nodes
    assert (node.state, node.messages) == ("ready", None)
