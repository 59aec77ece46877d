"""The read path: bytes as they come, in any pieces, to whole text messages for a session (RFC 6455, sections 5 and 6).

Owns the unfinished frame and the unfinished message of one connection, and nothing else: knows no transport, no clock and
no answers. What the peer may not send is raised as a `Violation`, and ends the reading for good.
"""

from typing import Protocol

from websockets.speedups import apply_mask

from cluster import close_codes
from node import frames
from node.deflate import inflate
from node.frames import CLOSE, DEFLATED, FIN, MASKED, OPCODE, PING, PONG, WHOLE_TEXT, Violation
from node.room import LARGE_BYTES


class Listener(Protocol):
    """Whoever wants the messages."""

    def on_message(self, payload: bytes) -> None:
        """One whole text message, valid UTF-8."""


class Control(Protocol):
    """Whoever answers control frames."""

    def on_ping(self, payload: bytes) -> None:
        """To be answered with the same."""

    def on_close(self, code: int) -> None:
        """The peer's last frame; `frames.NO_CODE` where it carried none."""


class Deaf:
    """Whoever listens once nobody wants to."""

    __slots__ = ()

    def on_message(self, payload: bytes) -> None:
        """Drops it."""

    def on_ping(self, payload: bytes) -> None:
        """Leaves it unanswered."""

    def on_close(self, code: int) -> None:
        """Is closed already."""


class Reader:
    """Reads for one connection. `listener` may be exchanged, and `is_halted` set, at any time, also from within a call."""

    __slots__ = ("_control", "_is_deflated", "_max_bytes", "_need", "_parts", "_tail", "is_halted", "listener")

    def __init__(self, listener: Listener, control: Control, max_message_bytes: int, *, is_deflated: bool) -> None:
        self.listener = listener
        self.is_halted = False
        self._control = control
        self._max_bytes = max_message_bytes
        self._is_deflated = is_deflated
        self._tail: bytearray | None = None  # an unfinished frame, or what came while halted
        self._need = 0  # how long the tail must be for another look at it to make sense
        self._parts: bytearray | None = None  # first byte and payloads of an unfinished message

    @property
    def has_rest(self) -> bool:
        """Whether there is something to read without new bytes: a pass ended before its frames did."""
        return self._tail is not None and len(self._tail) >= self._need

    @property
    def held_bytes(self) -> int:
        """What is kept of unfinished frames and messages."""
        return (len(self._tail) if self._tail else 0) + (len(self._parts) if self._parts else 0)

    @property
    def missing_bytes(self) -> int:
        """What is still to come of the frame under way, as far as it is known."""
        return max(0, self._need - len(self._tail)) if self._tail is not None else 0

    def keep(self, data: bytes) -> None:
        """Puts bytes aside, for a later `feed`."""
        if self._tail is None:
            self._tail, self._need = bytearray(), 0
        self._tail += data

    def forget(self) -> None:
        """Drops all that is unfinished."""
        self._tail = self._parts = None

    def let_go(self) -> None:
        """Holds nobody any more: whoever owns this reader listens to it, and would else be freed by the collector alone."""
        self.listener = self._control = Deaf()

    def feed(self, data: bytes | bytearray, max_frames: int) -> bool:  # noqa: C901, PLR0912, PLR0915 - the hot path
        """Hands over what is complete, until halted or for so many frames, and keeps the rest.

        True: there is a rest, or an unfinished message. Raises: Violation.
        """
        if self._tail is not None:
            self._tail += data
            if len(self._tail) < self._need:
                return True
            data, self._tail = self._tail, None
        pos, end = 0, len(data)
        max_bytes = self._max_bytes if self._parts is None else self._max_payload_bytes()
        while True:
            have = end - pos
            if have < 6:  # the shortest frame of a client: head, mask, no payload
                need = 2 if have < 2 else 6
                if have >= 2:
                    self._check_head(data[pos], data[pos + 1])
                break
            first = data[pos]
            length = data[pos + 1]
            if first != WHOLE_TEXT or length < MASKED or self._parts is not None:
                self._check_head(first, length)
            if length < 0xFE:
                length -= MASKED
                body = pos + 6
            elif length == 0xFE:
                if have < 8:
                    need = 8
                    break
                length = data[pos + 2] << 8 | data[pos + 3]
                body = pos + 8
                if length < 126:
                    raise Violation(close_codes.PROTOCOL_ERROR)
            else:
                if have < 14:
                    need = 14
                    break
                length = int.from_bytes(data[pos + 2 : pos + 10], "big")
                body = pos + 14
                if length < 1 << 16 or length >> 63:
                    raise Violation(close_codes.PROTOCOL_ERROR)
            if length > max_bytes and first & OPCODE < CLOSE:
                raise Violation(close_codes.TOO_BIG)
            stop = body + length
            if stop > end:
                need = stop - pos
                break
            masked = data[body:stop] if length < LARGE_BYTES else memoryview(data)[body:stop]
            payload = apply_mask(masked, data[body - 4 : body])
            pos = stop
            if first == WHOLE_TEXT:
                if not payload.isascii():
                    frames.check_utf8(payload)
                self.listener.on_message(payload)
            else:
                self._on_other(first, payload)
                max_bytes = self._max_payload_bytes()
            max_frames -= 1
            if self.is_halted or not max_frames:
                need = 0
                break
        if pos < end:
            self._tail = bytearray(memoryview(data)[pos:])
            self._need = need
            return True
        return self._parts is not None

    def _check_head(self, first: int, second: int) -> None:
        frames.check_head(first, second, in_message=self._parts is not None, is_deflated=self._is_deflated)

    def _max_payload_bytes(self) -> int:
        """How long the next data frame may be."""
        return self._max_bytes - (len(self._parts) - 1 if self._parts else 0)

    def _on_other(self, first: int, payload: bytes) -> None:
        opcode = first & OPCODE
        if opcode == PING:
            self._control.on_ping(payload)
        elif opcode == CLOSE:
            self._control.on_close(frames.close_code(payload))
        elif opcode != PONG:
            self._on_fragment(first, payload)

    def _on_fragment(self, first: int, payload: bytes) -> None:
        """A part of a message, or a whole one that is compressed."""
        if self._parts is None and first & FIN:
            self._on_whole(first, payload)
            return
        if self._parts is None:
            self._parts = bytearray((first,))
        self._parts += payload
        if first & FIN:
            parts, self._parts = self._parts, None
            self._on_whole(parts[0], bytes(memoryview(parts)[1:]))

    def _on_whole(self, first: int, payload: bytes) -> None:
        message = inflate(payload, self._max_bytes) if first & DEFLATED else payload
        frames.check_utf8(message)
        self.listener.on_message(message)
