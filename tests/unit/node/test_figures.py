"""What a node tells of its sockets: who is not read from, who does not read, and what waits for them."""

from typing import cast

from cluster.metrics import Counters
from cluster.redis_client import Store
from node import figures
from node.crew import EVENTS, NodeCrew
from node.hub import Hub
from node.limits import Limits
from node.wheel import Wheel
from tests.support.prometheus import Scrape
from tests.unit.node.frame_text import text
from tests.unit.node.link_bench import KIB, SHORT, Bench


def told(wheel: Wheel) -> dict[str, float]:
    """The gauges about sockets, by name and reason."""
    counters, events = Counters(), dict.fromkeys(EVENTS, 0)
    figures.of_connections(counters, events, NodeCrew(cast("Store", None), events), Hub(), wheel)
    samples = Scrape(counters.render().decode()).samples
    names = {
        f"agent_server_{name}"
        for name in ("paused_sockets", "slow_readers", "slow_readers_buffer_bytes", "large_messages_buffer_bytes")
    }
    return {
        " ".join((one.name.removeprefix("agent_server_"), *one.labels.values())): one.value
        for one in samples
        if one.name in names and one.value
    }


def test_all_is_quiet_where_nothing_waits() -> None:
    assert told(Bench(SHORT).begin().wheel) == {}


def test_sockets_that_their_sessions_stopped_are_told() -> None:
    first = Bench(SHORT).begin()
    second = Bench(SHORT, beside=first).begin()
    for bench in (first, second):
        bench.link.pause()
    assert told(first.wheel) == {"paused_sockets backlog": 2}
    second.link.resume()
    assert told(first.wheel) == {"paused_sockets backlog": 1}


def test_large_frames_and_who_waits_for_their_room_are_told() -> None:
    first = Bench(limits := Limits(large_frames_bytes=100 * KIB)).begin()
    second = Bench(limits, beside=first).begin()
    for bench in (first, second):
        bench.link.data_received(text(b"a" * 500 * KIB)[: 90 * KIB])
    found = told(first.wheel)
    assert found == {"paused_sockets room": 1, "large_messages_buffer_bytes": 180 * KIB}


def test_who_does_not_read_is_told_with_what_waits() -> None:
    bench = Bench(SHORT).begin()
    bench.transport.peer_reads = False
    bench.link.send(b"a" * 70 * KIB)
    assert told(bench.wheel) == {
        "slow_readers": 1,
        "slow_readers_buffer_bytes": bench.transport.get_write_buffer_size(),
    }
    bench.transport.take(70 * KIB)
    assert told(bench.wheel) == {}


def test_who_has_gone_is_told_no_more() -> None:
    bench = Bench(SHORT).begin()
    bench.transport.peer_reads = False
    bench.link.send(b"a" * 70 * KIB)
    bench.transport.abort()
    bench.loop.settle()
    assert told(bench.wheel) == {}
