"""How much of HTTP one connection may send and how long it may take, and what it is told beyond that.

Owns the numbers, the refusals and the counting of a head; pure, but for the budget that the connections of a process share.
Sizes of a header line count `name: value` and its line end, as they came; a path counts with its query.
"""

from dataclasses import dataclass
from functools import cached_property

from cluster.refusal import BAD_PARAMETER, NETWORK, TIMEOUT, Refusal

_KIB = 1024
_REQUEST_LINE_BYTES = 64  # what of a request line is not its path, with room

MALFORMED = Refusal(400, BAD_PARAMETER, "malformed HTTP request")
HOST = Refusal(400, BAD_PARAMETER, "exactly one Host header is required")
VERSION = Refusal(400, BAD_PARAMETER, "HTTP/1.1 or HTTP/1.0 is required")
CODING = Refusal(400, BAD_PARAMETER, "Transfer-Encoding may only be chunked, in HTTP/1.1")
UPGRADE = Refusal(
    400, BAD_PARAMETER, "an upgrade is a request of HTTP/1.1 without a body, and behind no unanswered one"
)
PIPELINE = Refusal(400, BAD_PARAMETER, "too many requests wait for their answers")
CUT_SHORT = Refusal(400, BAD_PARAMETER, "the request ended early")
SLOW_HEAD = Refusal(408, TIMEOUT, "the request's head did not arrive in time")
SLOW_BODY = Refusal(408, TIMEOUT, "the request's body did not arrive in time")
LARGE_BODY = Refusal(413, BAD_PARAMETER, "the request's body is too large")
LONG_PATH = Refusal(414, BAD_PARAMETER, "the request's path is too long")
LONG_HEADER = Refusal(431, BAD_PARAMETER, "a header is too long")
MANY_HEADERS = Refusal(431, BAD_PARAMETER, "too many headers")
LARGE_HEAD = Refusal(431, BAD_PARAMETER, "the request's head is too large")
MANY_BODIES = Refusal(503, NETWORK, "too many large requests at once", retry_after_s=1)

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class HttpLimits:
    """The limits of one connection."""

    max_head_bytes: int = 16 * _KIB
    max_header_line_bytes: int = 8 * _KIB
    max_headers: int = 100
    max_path_bytes: int = 8 * _KIB
    head_timeout_s: float = 10.0
    max_body_bytes: int = 16 * _KIB * _KIB
    body_timeout_s: float = 30.0
    min_body_bytes_per_s: int = 64 * _KIB  # a body that comes at least this fast gets longer
    idle_timeout_s: float = (
        75.0  # longer than load balancers keep a connection (60 s): who closes first loses no request
    )
    write_stall_s: float = 10.0
    last_call_s: float = 0.3  # who has connected to a server that stops may send for so long what is on its way
    max_pipelined: int = 64

    @cached_property
    def wake_s(self) -> float:
        """How often a connection's timer looks: no deadline may begin and end between two looks."""
        return min(self.head_timeout_s, self.body_timeout_s, self.idle_timeout_s, self.write_stall_s) / 2

    @cached_property
    def harmless_bytes(self) -> int:
        """A head of this size can break no limit but the number of headers."""
        return min(self.max_head_bytes, self.max_header_line_bytes, self.max_path_bytes)

    def refusal_of(self, url: bytes, headers: Headers) -> Refusal | None:
        """Why a whole head is refused."""
        lines = _line_sizes(headers)
        if len(url) > self.max_path_bytes:
            return LONG_PATH
        if len(lines) > self.max_headers:
            return MANY_HEADERS
        if max(lines, default=0) > self.max_header_line_bytes:
            return LONG_HEADER
        return LARGE_HEAD if len(url) + sum(lines) > self.max_head_bytes else None


class OpenHead:
    """Counts a head that comes in pieces: what the parser has reported of it, and the line that it has not."""

    __slots__ = ("_ended", "_limits", "_line_bytes")

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._line_bytes = 0
        self._ended = False

    def fed(self, piece: bytes, url: bytes, headers: Headers) -> Refusal | None:
        """Why a head is refused before its end. In front of it, the first piece may hold other messages."""
        limits = self._limits
        self._count(piece)
        if (refusal := limits.refusal_of(url, headers)) is not None:
            return refusal
        if self._line_bytes > max(limits.max_header_line_bytes, limits.max_path_bytes + _REQUEST_LINE_BYTES):
            return LONG_HEADER
        return LARGE_HEAD if sum(_line_sizes(headers)) + self._line_bytes > limits.max_head_bytes else None

    def _count(self, piece: bytes) -> None:
        """A line that has just ended counts as open: its header is reported when the next line begins."""
        start = piece.rfind(b"\n", 0, -1) + 1
        if start or self._ended:
            self._line_bytes = 0
        self._line_bytes += len(piece) - start
        self._ended = piece.endswith(b"\n")


def _line_sizes(headers: Headers) -> list[int]:
    return [len(name) + len(value) + len(b": \r\n") for name, value in headers]


class BodyBudget:
    """What the large bodies of all connections of a process may hold together."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0

    def take(self, size: int) -> bool:
        """Holds so many bytes more. False: that is too much; they are held all the same, until given back."""
        self.held_bytes += size
        return self.held_bytes <= self.max_bytes

    def give_back(self, size: int) -> None:
        """Holds so many bytes less."""
        self.held_bytes -= size
