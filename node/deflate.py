"""permessage-deflate (RFC 7692), one way: what agents compress is inflated; what we send stays as it is, which is legal.

Pure. No context is kept between messages, on either side: a connection that negotiated it costs no memory while idle.
The Go client aborts unless the answer names both `no_context_takeover` parameters.
"""

import zlib

from cluster import close_codes
from node.frames import Violation

ANSWER = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"

# A sender cuts the first of these off (7.2.1). The second is an empty last block: only a stream that was whole ends in it.
_ENDINGS = b"\x00\x00\xff\xff\x01\x00\x00\xff\xff"
_WINDOW_BITS = frozenset(b"%d" % bits for bits in range(8, 16))


def is_acceptable(offers: bytes) -> bool:
    """Whether one of the offers in a Sec-WebSocket-Extensions header may be answered with `ANSWER` (7.1)."""
    return any(_may_be_answered(offer) for offer in offers.split(b","))


def _may_be_answered(offer: bytes) -> bool:
    name, *parameters = (part.strip() for part in offer.split(b";"))
    pairs = [tuple(part.strip() for part in parameter.partition(b"=")) for parameter in parameters]
    has_no_doubles = len({key for key, _, _ in pairs}) == len(pairs)
    return name == b"permessage-deflate" and has_no_doubles and all(_is_met(*pair) for pair in pairs)


def _is_met(key: bytes, equals: bytes, value: bytes) -> bool:
    """Whether `ANSWER` does justice to a parameter. `server_max_window_bits` would have to be named in it (7.1.2.1)."""
    if key == b"client_max_window_bits":
        return not equals or value.strip(b'"') in _WINDOW_BITS
    return key in (b"server_no_context_takeover", b"client_no_context_takeover") and not equals


def inflate(payload: bytes, max_bytes: int) -> bytes:
    """The message that was compressed; never makes more than a byte over `max_bytes`. Raises: Violation."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        message = stream.decompress(payload + _ENDINGS, max_bytes + 1)
    except zlib.error:
        raise Violation(close_codes.INVALID_DATA) from None
    if len(message) > max_bytes:
        raise Violation(close_codes.TOO_BIG)
    if not stream.eof:
        raise Violation(close_codes.INVALID_DATA)
    return message
