import itertools
import tracemalloc
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.frames import Violation
from node.reader import Deaf, Reader
from tests.unit.node.frame_text import CLOSE, CONTINUATION, PING, PONG, TEXT, VIOLATIONS, close, deflated, frame, text

MIB = 1 << 20


class Heard:
    """All that a reader says, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, bytes | int]] = []

    def on_message(self, payload: bytes) -> None:
        self.events.append(("message", payload))

    def on_ping(self, payload: bytes) -> None:
        self.events.append(("ping", payload))

    def on_close(self, code: int) -> None:
        self.events.append(("close", code))


def reader_of(heard: Heard, *, max_bytes: int = MIB, is_deflated: bool = True) -> Reader:
    return Reader(heard, heard, max_bytes, is_deflated=is_deflated)


def heard_of(
    pieces: Sequence[bytes], *, is_deflated: bool = True, max_bytes: int = MIB
) -> list[tuple[str, bytes | int]]:
    """What comes of these reads; a violation is the last of it."""
    heard = Heard()
    reader = reader_of(heard, max_bytes=max_bytes, is_deflated=is_deflated)
    try:
        for piece in pieces:
            reader.feed(piece, 1 << 30)
    except Violation as violation:
        heard.events.append(("violation", violation.code))
    return heard.events


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(at % (len(data) + 1) for at in cuts), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]


def whole(payload: str) -> bytes:
    return text(payload.encode())


def compressed(payload: str) -> bytes:
    return frame(TEXT, deflated(payload.encode()), rsv=4)


def split_with_a_ping(payload: str) -> bytes:
    data = payload.encode()
    half = len(data) // 2
    return frame(TEXT, data[:half], fin=False) + frame(PING, b"mid") + frame(CONTINUATION, data[half:])


def split_and_compressed(payload: str) -> bytes:
    data = deflated(payload.encode())
    parts = [frame(CONTINUATION, bytes((byte,)), fin=False) for byte in data[1:]]
    return frame(TEXT, data[:1], fin=False, rsv=4) + b"".join(parts) + frame(CONTINUATION)


def ping(payload: str) -> bytes:
    return frame(PING, payload.encode()[:125])


def pong(payload: str) -> bytes:
    return frame(PONG, payload.encode()[:125])


SHAPES: list[Callable[[str], bytes]] = [whole, compressed, split_with_a_ping, split_and_compressed, ping, pong]
PAYLOADS = st.text(max_size=300) | st.sampled_from(["a" * 125, "b" * 126, "c" * 65535, "\u00e4" * 40000])
SEQUENCES = st.lists(st.tuples(st.sampled_from(SHAPES), PAYLOADS), max_size=8)
CUTS = st.lists(st.integers(min_value=0, max_value=1 << 20), max_size=20)


def expected(sequence: Sequence[tuple[Callable[[str], bytes], str]]) -> list[tuple[str, bytes | int]]:
    events: list[tuple[str, bytes | int]] = []
    for shape, payload in sequence:
        data = payload.encode()
        if shape is ping:
            events.append(("ping", data[:125]))
        elif shape is split_with_a_ping:
            events += [("ping", b"mid"), ("message", data)]
        elif shape is not pong:
            events.append(("message", data))
    return events


@given(SEQUENCES, CUTS)
def test_however_frames_are_cut_the_same_messages_come_out(
    sequence: Sequence[tuple[Callable[[str], bytes], str]], cuts: Sequence[int]
) -> None:
    data = b"".join(shape(payload) for shape, payload in sequence)
    assert heard_of(cut(data, cuts)) == expected(sequence)


@given(st.sampled_from(sorted(VIOLATIONS)), CUTS)
def test_however_a_violation_is_cut_it_is_answered_the_same(name: str, cuts: Sequence[int]) -> None:
    data, code = VIOLATIONS[name]
    heard = heard_of(cut(whole("before") + data, cuts), is_deflated=False)
    assert heard == [("message", b"before"), ("violation", code)]


@given(SEQUENCES, CUTS, st.lists(st.integers(min_value=1, max_value=3), min_size=1))
def test_however_passes_are_bounded_the_same_messages_come_out(
    sequence: Sequence[tuple[Callable[[str], bytes], str]], cuts: Sequence[int], bounds: Sequence[int]
) -> None:
    heard = Heard()
    reader = reader_of(heard)
    for piece in cut(b"".join(shape(payload) for shape, payload in sequence), cuts):
        reader.feed(piece, bounds[0])
        while reader.has_rest:
            reader.feed(b"", bounds[-1])
    assert heard.events == expected(sequence)


@given(st.binary(max_size=300), st.booleans())
def test_whatever_comes_nothing_but_a_violation_is_raised(data: bytes, is_deflated: bool) -> None:
    heard_of([data], is_deflated=is_deflated)


@given(st.binary(min_size=2, max_size=2), st.binary(max_size=200))
def test_a_wrong_head_is_refused_before_its_payload_is_there(head: bytes, rest: bytes) -> None:
    at_once, later = heard_of([head], is_deflated=False), heard_of([head, rest], is_deflated=False)
    assert at_once == later[: len(at_once)]


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_is_named_by_its_code(name: str) -> None:
    data, code = VIOLATIONS[name]
    assert heard_of([data], is_deflated=False)[-1] == ("violation", code)


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_that_comes_byte_by_byte_is_named_by_its_code(name: str) -> None:
    data, code = VIOLATIONS[name]
    assert heard_of([bytes((byte,)) for byte in data], is_deflated=False)[-1] == ("violation", code)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, MIB])
def test_messages_of_all_lengths_come_whole(size: int) -> None:
    assert heard_of([text(b"a" * size)]) == [("message", b"a" * size)]


@pytest.mark.parametrize(
    "data",
    [
        text(b"a" * (MIB + 1)),
        frame(TEXT, b"a" * 600_000, fin=False) + frame(CONTINUATION, b"a" * 600_000),
        frame(TEXT, deflated(b"a" * (MIB + 1)), rsv=4),
        frame(TEXT, deflated(b"a" * (MIB + 1))[:9], fin=False, rsv=4)
        + frame(CONTINUATION, deflated(b"a" * (MIB + 1))[9:]),
    ],
    ids=["in one frame", "joined", "inflated", "joined and inflated"],
)
def test_more_than_a_message_may_hold_is_too_big(data: bytes) -> None:
    assert heard_of([data]) == [("violation", 1009)]


def test_more_than_a_message_may_hold_is_too_big_over_several_reads_too() -> None:
    pieces = [frame(TEXT, b"a" * 600_000, fin=False), frame(CONTINUATION, b"a" * 600_000)]
    assert heard_of(pieces) == [("violation", 1009)]


def test_the_limit_itself_may_be_reached_in_parts_with_a_ping_between() -> None:
    data = frame(TEXT, b"a" * (MIB - 1), fin=False) + frame(PING, b"x" * 125) + frame(CONTINUATION, b"a")
    assert heard_of([data]) == [("ping", b"x" * 125), ("message", b"a" * MIB)]


def test_a_frame_beyond_the_limit_is_refused_by_its_head_alone() -> None:
    assert heard_of([text(b"a" * (MIB + 1))[:14]]) == [("violation", 1009)]


def test_thousands_of_tiny_fragments_are_one_message() -> None:
    data = frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"a", fin=False) * 16_000 + frame(CONTINUATION)
    assert heard_of([data]) == [("message", b"a" * 16_001)]


def test_deflated_garbage_is_invalid_data() -> None:
    assert heard_of([frame(TEXT, b"\xff\xff\xff", rsv=4)]) == [("violation", 1007)]


def test_deflated_text_must_be_utf8_too() -> None:
    assert heard_of([frame(TEXT, deflated(b"\xff\xfe"), rsv=4)]) == [("violation", 1007)]


def test_a_plain_message_may_follow_a_deflated_one() -> None:
    assert heard_of([compressed("a"), whole("b")]) == [("message", b"a"), ("message", b"b")]


def test_a_close_tells_its_code() -> None:
    assert heard_of([close(4000, b"bye"), frame(CLOSE)]) == [("close", 4000), ("close", 1005)]


def test_once_halted_the_rest_is_kept() -> None:
    heard = Heard()
    reader = reader_of(heard)
    reader.is_halted = True
    assert reader.feed(whole("a") + whole("b"), 99)
    assert heard.events == [("message", b"a")]
    reader.is_halted = False
    assert not reader.feed(b"", 99)
    assert heard.events == [("message", b"a"), ("message", b"b")]


def test_what_is_kept_while_halted_is_read_in_order() -> None:
    heard = Heard()
    reader = reader_of(heard)
    reader.feed(whole("a")[:3], 99)
    for piece in (whole("a")[3:], whole("b"), whole("c")[:4]):
        reader.keep(piece)
    assert reader.has_rest
    assert reader.feed(whole("c")[4:], 99) is False
    assert heard.events == [("message", b"a"), ("message", b"b"), ("message", b"c")]


def test_a_deaf_listener_may_take_over_between_two_messages() -> None:
    heard = Heard()
    reader = reader_of(heard)
    heard.on_ping = lambda _: setattr(reader, "listener", Deaf())  # type: ignore[method-assign, assignment]
    reader.feed(whole("a") + frame(PING) + whole("b"), 99)
    assert heard.events == [("message", b"a")]


def test_what_is_held_and_what_is_missing_is_known() -> None:
    reader = reader_of(Heard())
    assert (reader.held_bytes, reader.missing_bytes) == (0, 0)
    reader.feed(frame(TEXT, b"a" * 100, fin=False) + frame(CONTINUATION, b"b" * 1000)[:208], 99)
    assert (reader.held_bytes, reader.missing_bytes) == (101 + 208, 1008 - 208)
    reader.forget()
    assert (reader.held_bytes, reader.missing_bytes) == (0, 0)


def test_a_large_frame_grows_in_place() -> None:
    reader = reader_of(Heard(), max_bytes=32 * MIB)
    reader.feed(text(b"a" * (32 * MIB))[: 1 << 16], 99)
    tail = reader._tail
    for _ in range(100):
        assert reader.feed(b"a" * (1 << 16), 99)
        assert reader._tail is tail  # a copy with each piece would cost the square of its length


def test_a_large_frame_takes_little_more_than_twice_its_length() -> None:
    size = 16 * MIB
    data = text(b"a" * size)
    pieces = [data[at : at + 65536] for at in range(0, len(data), 65536)]
    reader = reader_of(Heard(), max_bytes=size)
    tracemalloc.start()
    for piece in pieces:
        reader.feed(piece, 99)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2.3 * size
