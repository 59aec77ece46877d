"""What simulated agents say is what a node reads; what they are told is counted, in whatever pieces it comes."""

import asyncio
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from cluster import messages
from cluster.lab.bench import traffic
from cluster.lab.bench.agent_link import AgentLink
from node.frames import PING_FRAME, text_frame
from node.reader import Deaf, Reader


class Heard(Deaf):
    """A session that keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[messages.AgentMessage] = []

    def on_message(self, payload: bytes) -> None:
        self.messages.append(messages.agent_message(payload))


def read_by_a_node(*frames: bytes) -> list[messages.AgentMessage]:
    heard = Heard()
    Reader(heard, heard, 1 << 20, is_deflated=False).feed(b"".join(frames), 1000)
    return heard.messages


@pytest.mark.parametrize("kind", ["result", "log", "heartbeat"])
def test_a_node_understands_what_a_simulated_agent_says(kind: str) -> None:
    says = traffic.Agents(7)
    make = says.maker(kind, 3)
    first, second = read_by_a_node(make(4), make(4))
    assert first.type == second.type == {"result": "task_result"}.get(kind, kind)
    if kind == "heartbeat":
        assert messages.heartbeat(first.payload).system
        return
    assert first.message_id != second.message_id
    assert messages.execution_of(first.task_id or "")[1] == str(traffic.host_of(4))
    if kind == "log":
        assert first.task_id == second.task_id
        assert [line.stream for line in first.logs or ()] == ["stdout"] * 3
    else:
        assert first.task_id != second.task_id
        assert first.result is not None
        assert first.result.status == "success"


def test_two_processes_of_agents_never_say_the_same_id() -> None:
    ids = {message.message_id for tag in (1, 2) for message in read_by_a_node(traffic.Agents(tag).result(1))}
    assert len(ids) == 2


def test_a_router_takes_the_tasks_of_the_simulated_control_plane() -> None:
    tasks = traffic.Tasks()
    posted = messages.new_tasks(tasks.batch(3, 12345, 100))
    assert len({task.id for task in posted}) == 100
    assert messages.new_task(tasks.one(3, 12345)).timeout_s == 600


def test_a_task_that_arrives_tells_when_it_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    task = messages.new_task(traffic.Tasks().one(3, 5_000_000))
    monkeypatch.setattr(traffic, "time", SimpleNamespace(monotonic_ns=lambda: 7_000_000))
    assert traffic.late_us(task.id.encode()) == 2000


class Owner:
    """Counts what its links tell it."""

    def __init__(self) -> None:
        self.acks = 0
        self.tasks: list[bytes] = []
        self.lost = 0

    def on_acks(self, link: AgentLink, count: int) -> None:
        self.acks += count

    def on_task(self, link: AgentLink, payload: bytes) -> None:
        self.tasks.append(payload)

    def on_lost(self, link: AgentLink) -> None:
        self.lost += 1


class Wire:
    """What a link writes."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.written += b"closed"


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64, 10_000])
async def test_a_link_counts_frames_whatever_pieces_they_come_in(piece: int) -> None:
    owner, wire = Owner(), Wire()
    link = AgentLink(1, owner, b"GET")
    link.connection_made(cast("asyncio.Transport", wire))
    task = messages.task("t1", b'{"id":"t1","command":"' + b"x" * 70_000 + b'"}')
    frames = [text_frame(messages.ack("m1")), text_frame(messages.heartbeat_answer(1)), PING_FRAME, text_frame(task)]
    said = b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + b"".join(frames) + text_frame(messages.ack("m2"))
    for start in range(0, len(said), piece):
        link.data_received(said[start : start + piece])
    assert await link.opened == 101
    assert (owner.acks, owner.tasks) == (2, [task])
    assert wire.written == b"GET\x8a\x80\0\0\0\0"


async def test_a_link_that_is_refused_says_how_and_hangs_up() -> None:
    wire = Wire()
    link = AgentLink(1, Owner(), b"")
    link.connection_made(cast("asyncio.Transport", wire))
    link.data_received(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
    assert await link.opened == 503
    assert wire.written == b"closed"


def test_bodies_are_json() -> None:
    assert len(msgspec.json.decode(traffic.Tasks().batch(1, 2, 3))) == 3
