"""Frames as a client writes them, right or wrong, and as it reads them. Independent of the code under test."""

import zlib
from collections.abc import Iterator
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
MASK = b"\x01\x02\x03\x04"


class Frame(NamedTuple):
    first: int
    payload: bytes

    @property
    def opcode(self) -> int:
        return self.first & 0x0F

    @property
    def code(self) -> int | None:
        return int.from_bytes(self.payload[:2], "big") if self.payload else None


def masked(payload: bytes, mask: bytes = MASK) -> bytes:
    key = int.from_bytes((mask * (len(payload) // 4 + 1))[: len(payload)], "big")
    return (int.from_bytes(payload, "big") ^ key).to_bytes(len(payload), "big")


def length_of(size: int, mask_bit: int) -> bytes:
    if size < 126:
        return bytes((mask_bit | size,))
    if size < 65536:
        return bytes((mask_bit | 126,)) + size.to_bytes(2, "big")
    return bytes((mask_bit | 127,)) + size.to_bytes(8, "big")


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, is_masked: bool = True) -> bytes:
    first = bytes((fin << 7 | rsv << 4 | opcode,))
    if not is_masked:
        return first + length_of(len(payload), 0) + payload
    return first + length_of(len(payload), 0x80) + MASK + masked(payload)


def text(payload: bytes) -> bytes:
    return frame(TEXT, payload)


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


def deflated(message: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return (stream.compress(message) + stream.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


def read_frames(data: bytes) -> Iterator[Frame]:
    """The frames of a server, which have no mask. A rest is an error: what was written must be whole."""
    while data:
        size, head = data[1], 2
        if size == 126:
            size, head = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, head = int.from_bytes(data[2:10], "big"), 10
        assert len(data) >= head + size, "a frame is cut off"
        yield Frame(data[0], data[head : head + size])
        data = data[head + size :]


# What a peer may not send, and the code that answers it. `deflate` is not negotiated here.
VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "a binary frame": (frame(BINARY, b"x"), 1003),
    "an unmasked frame": (frame(TEXT, b"x", is_masked=False), 1002),
    "an unmasked ping without payload": (b"\x89\x00", 1002),
    "RSV1 without an extension": (frame(TEXT, b"x", rsv=4), 1002),
    "RSV2": (frame(TEXT, b"x", rsv=2), 1002),
    "RSV3 on a control frame": (frame(PING, rsv=1), 1002),
    "opcode 3": (frame(3), 1002),
    "opcode 7": (frame(7, b"x"), 1002),
    "opcode 11": (frame(11), 1002),
    "opcode 15": (frame(15, b"x"), 1002),
    "a fragmented ping": (frame(PING, fin=False), 1002),
    "a ping of 126 bytes": (frame(PING, b"a" * 126), 1002),
    "a close of 126 bytes": (close(1000, b"a" * 124), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "a message within a message": (frame(TEXT, b"a", fin=False) + text(b"b"), 1002),
    "RSV1 on a continuation": (frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b", rsv=4), 1002),
    "a binary frame within a message": (frame(TEXT, b"a", fin=False) + frame(BINARY, b"b"), 1002),
    "no UTF-8": (text(b"\xff\xfe"), 1007),
    "half of a surrogate pair": (text(b"\xed\xa0\x80"), 1007),
    "no UTF-8 once joined": (frame(TEXT, b"a\xc3", fin=False) + frame(CONTINUATION, b"("), 1007),
    "a cut character at the end": (text(b"a\xc3"), 1007),
    "16 bits for a short length": (b"\x81\xfe\x00\x05" + MASK + b"aaaaa", 1002),
    "64 bits for a short length": (b"\x81\xff" + (5).to_bytes(8, "big") + MASK + b"aaaaa", 1002),
    "the highest bit of a length": (b"\x81\xff\x80" + b"\x00" * 7 + MASK, 1002),
    "a length beyond the limit": (b"\x81\xff" + (1 << 40).to_bytes(8, "big") + MASK, 1009),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "close code 999": (close(999), 1002),
    "close code 1004": (close(1004), 1002),
    "close code 1005": (close(1005), 1002),
    "close code 1006": (close(1006), 1002),
    "close code 1015": (close(1015), 1002),
    "close code 2999": (close(2999), 1002),
    "close code 5000": (close(5000), 1002),
    "a close reason that is no UTF-8": (close(1000, b"\xff"), 1007),
}
