"""The bytes of WebSocket frames (RFC 6455, section 5): how ours are built, and what the peer's may look like.

Pure: knows no socket, no session, no clock. What the peer may not send is a `Violation`, which names the close code
that answers it. Reading whole frames off a connection is `node/socket.py`'s, inflating them `node/deflate.py`'s.
"""

from cluster import close_codes
from cluster.errors import PeerError

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN, DEFLATED, RESERVED, OPCODE = 0x80, 0x40, 0x30, 0x0F
MASKED = 0x80
MAX_CONTROL_BYTES = 125
NO_CODE = 1005  # the peer's close frame was empty (RFC 6455, 7.1.5)
NO_CLOSE = 1006  # there was none

WHOLE_TEXT = FIN | TEXT
PING_FRAME = bytes((FIN | PING, 0))

# What a close frame may carry, besides 3000 to 4999 (RFC 6455, 7.4, and the registry that it opens).
_STANDARD_CODES = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014))
_SHORT_HEADS = tuple(bytes((WHOLE_TEXT, length)) for length in range(MAX_CONTROL_BYTES + 1))


class Violation(PeerError):
    """The peer broke the protocol or one of our limits; `code` is what it is told."""

    def __init__(self, code: int) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


def text_frame(payload: bytes) -> bytes:
    """One whole text message, as a server sends it: unmasked, in one frame."""
    length = len(payload)
    if length <= MAX_CONTROL_BYTES:
        return _SHORT_HEADS[length] + payload
    if length < 1 << 16:
        return b"\x81\x7e" + length.to_bytes(2, "big") + payload
    return b"\x81\x7f" + length.to_bytes(8, "big") + payload


def close_frame(code: int) -> bytes:
    """A close frame without a reason: agents read none. `NO_CODE` gives the empty one."""
    return bytes((FIN | CLOSE, 0)) if code == NO_CODE else bytes((FIN | CLOSE, 2)) + code.to_bytes(2, "big")


def pong_frame(payload: bytes) -> bytes:
    """The answer to a ping that carried this payload."""
    return bytes((FIN | PONG, len(payload))) + payload


def check_head(first: int, second: int, *, in_message: bool, is_deflated: bool) -> None:
    """Judges a frame by its first two bytes; `in_message`: fragments of an unfinished message came before it.

    Raises: Violation.
    """
    opcode = first & OPCODE
    if second < MASKED or first & RESERVED or (first & DEFLATED and not (is_deflated and TEXT <= opcode <= BINARY)):
        raise Violation(close_codes.PROTOCOL_ERROR)
    if opcode >= CLOSE:
        if opcode > PONG or second > (MASKED | MAX_CONTROL_BYTES) or not first & FIN:
            raise Violation(close_codes.PROTOCOL_ERROR)
    elif opcode > BINARY or (opcode == CONTINUATION) is not in_message:
        raise Violation(close_codes.PROTOCOL_ERROR)
    elif opcode == BINARY:
        raise Violation(close_codes.UNSUPPORTED_DATA)


def check_utf8(payload: bytes) -> None:
    """Raises: Violation."""
    try:
        str(payload, "utf-8")
    except UnicodeDecodeError:
        raise Violation(close_codes.INVALID_DATA) from None


def close_code(payload: bytes) -> int:
    """The code that a peer's close frame carries, or `NO_CODE`. Raises: Violation."""
    if not payload:
        return NO_CODE
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not (code in _STANDARD_CODES or 3000 <= code < 5000):
        raise Violation(close_codes.PROTOCOL_ERROR)
    check_utf8(payload[2:])
    return code
