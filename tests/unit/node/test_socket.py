import gc
import logging
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.limits import Limits
from node.socket import Link
from tests.unit.node.frame_text import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    VIOLATIONS,
    Frame,
    close,
    deflated,
    frame,
    text,
)
from tests.unit.node.link_bench import (
    KIB,
    SHORT,
    Bench,
    FakeLoop,
    FakeTransport,
    Recorder,
    echoing,
    large,
    numbered,
    on,
)


def failing(session: Recorder, payload: bytes) -> None:
    if payload == b"boom":
        raise ValueError(payload)


# Messages


def test_a_session_is_attached_before_anything_else() -> None:
    bench = Bench().begin()
    assert bench.session.calls == ["attached"]
    assert bench.session.link is bench.link
    assert bench.peers == {bench.link}


def test_messages_are_handed_over_and_answers_sent_in_order() -> None:
    bench = Bench(session=Recorder(echoing)).begin()
    bench.hear(*map(text, numbered(1000)))
    assert [frame.payload for frame in bench.said()] == numbered(1000)


def test_answers_of_one_read_leave_in_one_write() -> None:
    bench = Bench(session=Recorder(echoing)).begin()
    bench.hear(*map(text, numbered(100)))
    assert len(bench.transport.writes) == 1


def test_a_large_answer_does_not_overtake_small_ones() -> None:
    bench = Bench(session=Recorder(echoing)).begin()
    bench.hear(text(b"1"), text(b"a" * 100_000), text(b"2"))
    assert [len(frame.payload) for frame in bench.said()] == [1, 100_000, 1]


def test_finished_frames_are_sent_as_they_are() -> None:
    bench = Bench().begin()
    bench.link.send_frames(b"\x81\x01a\x81\x01b")
    assert bench.said() == [Frame(0x81, b"a"), Frame(0x81, b"b")]


def test_a_ping_is_answered_in_its_turn() -> None:
    bench = Bench(session=Recorder(echoing)).begin()
    bench.hear(text(b"a"), frame(PING, b"p"), text(b"b"))
    assert bench.said() == [Frame(0x81, b"a"), Frame(0x8A, b"p"), Frame(0x81, b"b")]


def test_what_came_before_the_session_is_handed_over_first_and_not_at_once() -> None:
    bench = Bench()
    bench.begin(text(b"early") + text(b"cut")[:3])
    assert bench.session.messages == []
    paused = [bench.transport.is_paused]
    bench.loop.settle()
    paused.append(bench.transport.is_paused)
    assert paused == [True, False]
    bench.hear(text(b"cut")[3:])
    assert bench.session.messages == [b"early", b"cut"]


def test_a_peer_with_a_backlog_gives_others_a_turn() -> None:
    bench = Bench(SHORT).begin()
    bench.link.data_received(b"".join(map(text, numbered(20))))
    seen = [len(bench.session.messages)]
    while len(bench.session.messages) < 20:
        assert bench.transport.is_paused
        bench.loop.turn()
        seen.append(len(bench.session.messages))
    assert seen == [8, 16, 20]
    assert not bench.transport.is_paused


SEGMENTS = st.lists(st.integers(min_value=1, max_value=400), min_size=1, max_size=30)
MOVES = st.lists(st.sampled_from(["read", "pause", "resume", "turn", "second"]), max_size=60)


@given(SEGMENTS, MOVES)
def test_however_reads_and_pauses_fall_messages_come_whole_and_in_order(lengths: list[int], moves: list[str]) -> None:
    bench = Bench(SHORT).begin()
    messages = [b"%d:" % number + b"x" * length for number, length in enumerate(lengths)]
    data = b"".join(map(text, messages))
    for move in moves:
        if move == "read" and not bench.transport.is_paused:
            bench.link.data_received(data[:97])
            data = data[97:]
        elif move == "pause":
            bench.link.pause()
        elif move == "resume":
            bench.link.resume()
        elif move == "turn":
            bench.loop.turn()
    bench.link.resume()
    bench.loop.settle()
    bench.hear(data)
    assert bench.session.messages == messages
    assert not bench.transport.is_paused


# Silence


def test_a_silent_peer_is_pinged_again_and_again_and_never_cut() -> None:
    bench = Bench(SHORT).begin()
    bench.loop.pass_time(41)
    assert bench.said() == [Frame(0x89, b"")] * 10
    assert bench.link.is_open


def test_a_peer_that_talks_is_not_pinged() -> None:
    bench = Bench(SHORT).begin()
    for _ in range(30):
        bench.hear(text(b"a"))
        bench.loop.pass_time(3)
    assert bench.said() == []


def test_what_is_handled_later_was_heard_when_it_came() -> None:
    bench = Bench(SHORT, Recorder(on(b"0", Link.pause))).begin()
    bench.hear(*map(text, numbered(4)))
    bench.loop.pass_time(2)
    bench.link.resume()
    bench.loop.settle()
    assert bench.session.messages == numbered(4)
    assert bench.wheel.now - bench.link.heard == 2


def test_the_ping_comes_so_long_after_the_last_byte() -> None:
    bench = Bench(SHORT).begin()
    bench.loop.pass_time(3)
    bench.hear(text(b"a"))
    counts = []
    for _ in range(5):
        bench.loop.pass_time(1)
        counts.append(len(bench.said()))
    assert counts == [0, 0, 0, 1, 0]


def test_any_byte_is_a_sign_of_life() -> None:
    bench = Bench(SHORT).begin()
    bench.loop.pass_time(3)
    assert bench.wheel.now - bench.link.heard == 3
    bench.hear(frame(PONG)[:1])
    assert bench.wheel.now - bench.link.heard == 0


# Ends


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_is_answered_and_nothing_after_it_is_heard(name: str) -> None:
    data, code = VIOLATIONS[name]
    bench = Bench().begin()
    bench.hear(text(b"before"), data, text(b"after"))
    bench.hear(text(b"later"))
    assert bench.session.messages == [b"before"]
    assert bench.said_codes() == [code]
    assert bench.transport.eof_written
    bench.transport.lose()
    assert bench.session.calls == ["attached", "lost"]


@pytest.mark.parametrize(
    ("said", "answer", "code"),
    [(close(1000, b"bye"), 1000, 1000), (close(4000), 4000, 4000), (frame(CLOSE), None, 1005)],
)
def test_a_peers_close_is_answered_with_its_own_code(said: bytes, answer: int | None, code: int) -> None:
    bench = Bench(session=Recorder(echoing)).begin()
    bench.hear(text(b"a"), said, text(b"after"))
    assert [frame.opcode for frame in bench.said()] == [TEXT, CLOSE]
    assert bench.session.messages == [b"a"]
    assert bench.transport.eof_written
    assert bench.link.close_code == code
    assert answer is None or answer == code


def test_our_close_waits_for_the_peers() -> None:
    bench = Bench(SHORT).begin()
    bench.link.close(4409)
    assert bench.said_codes() == [4409]
    assert not bench.link.is_open
    bench.hear(text(b"too late"), frame(PING), close(4409))
    assert bench.session.messages == []
    assert bench.said() == []
    assert bench.transport.eof_written


def test_a_peer_that_never_answers_a_close_is_dropped() -> None:
    bench = Bench(SHORT).begin()
    bench.link.close(4403)
    bench.loop.pass_time(4)
    assert bench.session.calls == ["attached", "lost"]
    assert bench.link.close_code == 4403


def test_a_peer_that_never_closes_its_side_is_dropped() -> None:
    bench = Bench(SHORT).begin()
    bench.hear(close(1000))
    assert not bench.transport.is_aborted
    bench.loop.pass_time(4)
    assert bench.session.calls == ["attached", "lost"]


def test_closing_twice_says_it_once() -> None:
    bench = Bench().begin()
    bench.link.close(4403)
    bench.link.close(1012)
    bench.link.shutdown()
    assert bench.said_codes() == [4403]


def test_a_close_while_paused_still_hears_the_peers() -> None:
    bench = Bench(session=Recorder(on(b"1", Link.pause))).begin()
    bench.hear(*map(text, numbered(4)), close(1000))
    bench.link.close(1012)
    bench.loop.settle()
    assert bench.session.messages == numbered(2)
    assert bench.said_codes() == [1012]
    assert bench.transport.eof_written


def test_a_session_may_close_amid_a_message() -> None:
    bench = Bench(session=Recorder(on(b"1", lambda link: link.close(4403)))).begin()
    bench.hear(*map(text, numbered(4)), close(4403))
    assert bench.session.messages == numbered(2)
    assert bench.said_codes() == [4403]
    assert bench.transport.eof_written


def test_a_session_may_abort_amid_a_message() -> None:
    def answer_and_abort(link: Link) -> None:
        link.send(b"unheard")
        link.abort()

    bench = Bench(session=Recorder(on(b"1", answer_and_abort))).begin()
    bench.hear(*map(text, numbered(4)))
    assert bench.session.messages == numbered(2)
    assert bench.session.calls == ["attached", "lost"]
    assert bench.said() == []


def test_after_the_end_nothing_is_sent_and_nothing_raises() -> None:
    bench = Bench().begin()
    bench.transport.lose()
    bench.link.send(b"a")
    bench.link.send_frames(b"\x81\x00")
    bench.link.pause()
    bench.link.resume()
    bench.link.close(1000)
    bench.link.abort()
    bench.link.data_received(text(b"a"))
    bench.loop.pass_time(60)
    assert bench.session.calls == ["attached", "lost"]
    assert bench.said() == []
    assert bench.peers == set()


def test_the_end_of_the_stream_is_the_end() -> None:
    bench = Bench().begin()
    bench.link.eof_received()
    bench.link.send(b"a")
    bench.transport.lose()
    assert (bench.said(), bench.link.close_code) == ([], 1006)


def test_a_reader_that_left_half_way_is_not_waited_for() -> None:
    bench = Bench(SHORT).begin()
    bench.transport.peer_reads = False
    bench.link.send(b"a" * 10 * KIB)
    bench.link.eof_received()
    bench.loop.pass_time(4)
    assert bench.session.calls == ["attached", "lost"]


def test_over_tls_the_transport_says_its_own_goodbye() -> None:
    bench = Bench(has_eof=False).begin()
    bench.hear(frame(2, b"binary"))
    assert bench.said_codes() == [1003]
    assert bench.transport.is_closed


def test_a_connection_lost_before_its_session_came_is_told_as_both() -> None:
    bench = Bench(session=Recorder())
    bench.link.begin_lost()
    assert bench.session.calls == ["attached"]
    assert not bench.link.is_open
    bench.link.send(b"a")
    bench.loop.settle()
    assert bench.session.calls == ["attached", "lost"]


# Our own faults


def logged_once(caplog: pytest.LogCaptureFixture) -> bool:
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    return len(errors) == 1 and errors[0].exc_info is not None


def test_an_exception_over_a_message_is_1011_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(session=Recorder(failing)).begin()
    bench.hear(text(b"a"), text(b"boom"), text(b"after"))
    bench.hear(text(b"later"))
    assert bench.said_codes() == [1011]
    assert bench.session.messages == [b"a", b"boom"]
    assert logged_once(caplog)


@pytest.mark.parametrize("name", ["attached", "on_writable", "on_lost"])
def test_an_exception_anywhere_else_harms_nobody(name: str, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise ValueError(name)

    session = Recorder()
    setattr(session, name, fail)
    bench = Bench(SHORT, session).begin()
    bench.transport.peer_reads = False
    bench.link.send(b"a" * 100 * KIB)
    bench.transport.take(100 * KIB)
    codes = bench.said_codes()
    bench.transport.lose()
    assert logged_once(caplog)
    assert codes == ([] if name == "on_lost" else [1011])
    assert (session.calls[-1:] == ["lost"]) is (name != "on_lost")


def test_a_link_that_is_gone_holds_nobody() -> None:
    bench = Bench().begin()
    bench.transport.lose()
    held = gc.get_referents(bench.link)
    assert bench.session not in held
    assert bench.transport not in held


def test_a_link_that_is_gone_is_freed_without_the_collector() -> None:
    """A process that freezes what it has would keep a cycle for ever."""

    def live() -> int:
        return sum(type(found) is Link for found in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = live()
        bench = Bench(SHORT, Recorder(echoing)).begin(text(b"early"))
        bench.hear(text(b"a"), large()[:-1])
        bench.link.pause()
        bench.transport.lose()
        bench.loop.pass_time(10)
        bench.session.link = None
        del bench.link
        assert live() == before
    finally:
        gc.enable()


# Deflate


def test_a_deflated_message_is_handed_over_and_answered_plain() -> None:
    bench = Bench(session=Recorder(echoing), is_deflated=True).begin()
    bench.hear(frame(TEXT, deflated(b"a" * 500), rsv=4))
    assert bench.said() == [Frame(0x81, b"a" * 500)]


# Cost


def test_an_idle_link_takes_less_than_a_kilobyte_of_its_own() -> None:
    limits, loop, count = Limits(), FakeLoop(), 1000
    wheel = loop.new_wheel()
    parts: Sequence[tuple[FakeTransport, Recorder]] = [(FakeTransport(loop), Recorder()) for _ in range(count)]
    peers: set[object] = set()
    links: list[Link] = []
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for transport, session in parts:
        link = Link(transport, session, limits, wheel, peers)
        transport.protocol = link
        link.begin()
        link.data_received(text(b"hello"))
        links.append(link)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / count < 1024


def test_an_idle_link_has_no_dict() -> None:
    assert not hasattr(Bench().begin().link, "__dict__")
