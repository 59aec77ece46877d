import pytest

from node import frames
from tests.unit.node.frame_text import Frame, read_frames


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 1 << 20])
def test_a_text_frame_carries_its_payload_whole(size: int) -> None:
    assert list(read_frames(frames.text_frame(b"a" * size))) == [Frame(0x81, b"a" * size)]


@pytest.mark.parametrize(("size", "head"), [(125, 2), (126, 4), (65535, 4), (65536, 10)])
def test_a_length_takes_as_few_bytes_as_it_can(size: int, head: int) -> None:
    assert len(frames.text_frame(b"a" * size)) == head + size


def test_a_close_frame_carries_its_code() -> None:
    assert frames.close_frame(4409) == b"\x88\x02\x11\x39"


def test_no_code_is_answered_with_none() -> None:
    assert frames.close_frame(frames.close_code(b"")) == b"\x88\x00"


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 4409, 4999])
def test_a_peer_may_close_with_these(code: int) -> None:
    assert frames.close_code(code.to_bytes(2, "big") + "gr\u00fc\u00dfe".encode()) == code


def test_a_violation_tells_its_code() -> None:
    assert str(frames.Violation(1009)) == "closed with 1009"
