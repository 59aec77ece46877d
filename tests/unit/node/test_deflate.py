import tracemalloc
import zlib

import pytest

from node import deflate
from node.frames import Violation
from tests.unit.node.frame_text import deflated

PMD = "permessage-deflate"


@pytest.mark.parametrize(
    "offers",
    [
        PMD,
        f"{PMD}; client_max_window_bits",
        f"{PMD}; client_max_window_bits=10",
        f'{PMD}; client_max_window_bits="15"',
        f"{PMD}; server_no_context_takeover; client_no_context_takeover",
        f"x-webkit-deflate-frame, {PMD}",
        f"{PMD}; server_max_window_bits=10, {PMD}",
    ],
)
def test_an_offer_that_our_answer_meets_is_taken(offers: str) -> None:
    assert deflate.is_acceptable(offers.encode())


@pytest.mark.parametrize(
    "offers",
    [
        "",
        "x-webkit-deflate-frame",
        f"{PMD}; server_max_window_bits=10",
        f"{PMD}; unheard_of",
        f"{PMD}; client_max_window_bits=7",
        f"{PMD}; client_max_window_bits=",
        f"{PMD}; server_no_context_takeover=1",
        f"{PMD}; client_no_context_takeover; client_no_context_takeover",
    ],
)
def test_an_offer_that_our_answer_does_not_meet_is_left(offers: str) -> None:
    assert not deflate.is_acceptable(offers.encode())


@pytest.mark.parametrize("message", [b"", b"a", b"abc" * 999, bytes(range(256)) * 50])
def test_what_was_deflated_comes_out_again(message: bytes) -> None:
    assert deflate.inflate(deflated(message), 1 << 20) == message


def test_a_stream_may_mark_its_last_block() -> None:
    stream = zlib.compressobj(wbits=-15)
    assert deflate.inflate(stream.compress(b"abc" * 9) + stream.flush(zlib.Z_FINISH), 100) == b"abc" * 9


def test_the_limit_is_the_last_length_that_passes() -> None:
    assert deflate.inflate(deflated(b"a" * 5000), 5000) == b"a" * 5000
    with pytest.raises(Violation, match="1009"):
        deflate.inflate(deflated(b"a" * 5001), 5000)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = deflated(b"\x00" * (32 << 20))
    tracemalloc.start()
    with pytest.raises(Violation, match="1009"):
        deflate.inflate(bomb, 1 << 20)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 4 << 20


@pytest.mark.parametrize("payload", [b"\xff\xff\xff", b"not deflate"])
def test_what_is_no_deflate_is_invalid_data(payload: bytes) -> None:
    with pytest.raises(Violation, match="1007"):
        deflate.inflate(payload, 1 << 20)


def test_half_a_stream_is_invalid_data() -> None:
    whole = deflated(bytes(range(256)) * 20)
    for end in range(1, len(whole) - 1):
        with pytest.raises(Violation, match="1007"):
            deflate.inflate(whole[:end], 1 << 20)
