"""One open WebSocket connection: whole text messages to a session, frames out, and how it all ends.

Owns states, pings and deadlines. Bytes become messages in `node/reader.py`, frames leave by `node/writer.py`, and
`node/intake.py` says whether there is reading at all.
Knows neither agents, nor JSON, nor HTTP: the upgrade is `node/handshake.py`'s. An idle link has no task, queue or timer.

| state | |
| --- | --- |
| OPEN | messages go both ways |
| CLOSING | our close frame is out, the peer's is awaited; messages are neither sent nor handed over |
| ENDING | nothing more is said, what comes is discarded: until the end of the peer's stream, `close_s` at the most |
| GONE | the connection is lost, and the session knows |

- Reading stops while the session says so, while large frames have no room, and for one turn of the loop after
  `pass_messages`. `stall_s` of that (see `node/intake.py`): 1011, as agents give up a write after 10 s, and double it.
- A peer that reads too slowly for `node/writer.py` is cut. No close frame says 4413: it would wait behind all the rest.
- Whether a silent peer lives is not judged here: it is pinged, and whoever judges looks at `heard`.
"""

import asyncio
import logging
from collections.abc import Callable, MutableSet
from typing import Any, Protocol

from cluster import close_codes
from node import frames
from node.frames import Violation, text_frame
from node.intake import ALL, ROOM, SESSION, TURN, Intake
from node.limits import Limits
from node.reader import Deaf, Reader
from node.room import LARGE_BYTES
from node.wheel import Wheel
from node.writer import Writer

__all__ = ["Limits", "Link", "Session", "Wheel", "text_frame"]

OPEN, CLOSING, ENDING, GONE = range(4)

logger = logging.getLogger(__name__)


class Session(Protocol):
    """What a link feeds. An exception out of it closes the link with 1011."""

    def attached(self, link: "Link") -> None:
        """The first of all calls."""

    def on_message(self, payload: bytes) -> None:
        """One whole text message, valid UTF-8. May call the link's `send`, `close`, `pause` at once."""

    def on_writable(self) -> None:
        """The link's `writable` was False, and is True again."""

    def on_lost(self) -> None:
        """The connection is gone; called exactly once, and nothing comes after it."""


class Link(asyncio.Protocol):
    """One connection. Its methods belong to the loop's thread; none of them waits, or raises what the peer did."""

    __slots__ = (
        "_ending_s",  # seconds since CLOSING, or ENDING, began
        "_intake",
        "_is_watched",  # a deadline runs
        "_large_bytes",  # what the room was told that this link holds
        "_limits",
        "_peers",
        "_reader",
        "_session",
        "_state",
        "_transport",
        "_writer",
        "close_code",
        "heard",
        "wheel",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        session: Session,
        limits: Limits,
        wheel: Wheel,
        peers: MutableSet[Any],
        *,
        is_deflated: bool = False,
    ) -> None:
        """`peers` is where uvicorn looks for what to shut down. Nothing happens before `begin` or `begin_lost`."""
        self._transport = transport
        self._session = session
        self._limits = limits
        self._peers = peers
        self._intake = Intake(transport)
        self._reader = Reader(session, self, limits.max_message_bytes, is_deflated=is_deflated)
        self._writer = Writer(transport, limits.high_water_bytes)
        self._state = OPEN
        self._is_watched = False
        self._large_bytes = self._ending_s = 0
        self.wheel = wheel
        self.heard = wheel.now
        self.close_code = 0

    def begin(self, early: bytes = b"") -> None:
        """Tells the session; once the loop has turned, hands it what had come before it."""
        self._peers.add(self)
        self.wheel.add(self, self._limits.ping_s)
        high_bytes = self._limits.high_water_bytes
        self._transport.set_write_buffer_limits(high=high_bytes, low=high_bytes // 2)
        if early:
            self._reader.keep(early)
            self._yield()
        self._tell(self._session.attached, self)

    def begin_lost(self) -> None:
        """The connection was lost before its session came: it is told both, one after the other."""
        self._state = ENDING
        self._tell(self._session.attached, self)
        self.wheel.loop.call_soon(self.connection_lost, None)

    @property
    def is_open(self) -> bool:
        """Whether messages still go both ways."""
        return self._state == OPEN

    @property
    def writable(self) -> bool:
        """False while more than `high_water_bytes` wait for the peer: time to send no more tasks."""
        return self._writer.writable

    @property
    def holds(self) -> int:
        """Why it is not read from: reasons of `node/intake.py`."""
        return self._intake.holds

    @property
    def unread_bytes(self) -> int:
        """What waits for the peer."""
        return 0 if self._state == GONE else self._transport.get_write_buffer_size()

    # Reading

    def data_received(self, data: bytes) -> None:
        """One pass over what was read: its messages are handed over, and their answers leave in one write."""
        if self._state >= ENDING:
            return
        self.heard = self.wheel.now
        if self._is_watched:
            self._intake.on_read(len(data))
        reader, writer = self._reader, self._writer
        if reader.is_halted:
            reader.keep(data)
            self._weigh()
            return
        is_unfinished = True
        writer.gathered = []
        try:
            is_unfinished = reader.feed(data, self._limits.pass_messages)
        except Violation as violation:
            self._fail(violation.code)
        except Exception:
            logger.exception("a session failed")
            self._fail(close_codes.INTERNAL_ERROR)
        writer.flush()
        if is_unfinished or self._large_bytes or self._reader.is_halted:
            self._after_pass()

    def _after_pass(self) -> None:
        if self._state >= ENDING:
            self._reader.forget()
        self._weigh()
        if not self._intake.holds and self._reader.has_rest:
            self._yield()
        elif self._intake.holds:
            self._intake.stop()

    def on_ping(self, payload: bytes) -> None:
        """Called by the reader."""
        if self._state == OPEN:
            self._put(frames.pong_frame(payload))

    def on_close(self, code: int) -> None:
        """Called by the reader: the peer has said its last."""
        if self._state == OPEN:
            self.close_code = code
            self._put(frames.close_frame(code))
        self._end()

    # Pauses

    def pause(self) -> None:
        """Stops reading: what was read and not handed over is kept until `resume`. Twice is fine."""
        if self._state == OPEN:
            self._hold(SESSION)

    def resume(self) -> None:
        """Ends `pause`; hands nothing over before it returns. Without a pause it changes nothing."""
        self._release(SESSION)

    def on_room(self) -> None:
        """Called by the room: this link's large frame may go on."""
        self._release(ROOM)

    def missing_bytes(self) -> int:
        """Called by the room: what is still to come of the large frame."""
        return self._reader.missing_bytes

    def _weigh(self) -> None:
        """Tells the room what this link holds, where it counts."""
        held_bytes = self._reader.held_bytes
        if held_bytes <= LARGE_BYTES:
            held_bytes = 0
        before_bytes, self._large_bytes = self._large_bytes, held_bytes
        has_room = held_bytes == before_bytes or self.wheel.room.change(
            self, before_bytes, held_bytes, self._limits.large_frames_bytes
        )
        if not has_room:
            self._hold(ROOM)

    def _hold(self, reason: int) -> None:
        self._intake.hold(reason)
        self._reader.is_halted = True
        if reason != TURN:
            self._watch()
        if not self._writer.is_gathering:  # else once the pass is over
            self._intake.stop()

    def _release(self, reason: int) -> None:
        if not self._intake.holds & reason:
            return
        self._intake.free(reason)
        if self._intake.holds or self._state >= ENDING:
            return
        self._reader.is_halted = False
        if self._writer.is_gathering:
            return
        if self._reader.has_rest:
            self._yield()
        else:
            self._intake.start()

    def _yield(self) -> None:
        """Gives others a turn before what is left is read."""
        self._hold(TURN)
        self.wheel.loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._intake.free(TURN)
        if self._intake.holds or self._state >= ENDING:
            return
        self._reader.is_halted = False
        heard = self.heard
        self.data_received(b"")
        self.heard = heard  # a turn is no sign of life
        self._intake.start()

    # Writing

    def send(self, payload: bytes) -> None:
        """Sends one text message of valid UTF-8; nothing, once the link is closing."""
        if self._state == OPEN and not self._writer.put(text_frame(payload)):
            self._cut(close_codes.READS_TOO_SLOWLY)

    def send_frames(self, frames: bytes) -> None:
        """Sends frames that `text_frame` made, joined, in one write."""
        if self._state == OPEN:
            self._put(frames)

    def _put(self, data: bytes) -> None:
        if not self._writer.put(data):
            self._cut(close_codes.READS_TOO_SLOWLY)

    def pause_writing(self) -> None:
        self._writer.on_crowded()
        self._watch()

    def resume_writing(self) -> None:
        self._writer.on_drained()
        if self._state == OPEN:
            self._tell(self._session.on_writable)

    # Time

    def on_wheel(self) -> None:
        """Called by the wheel: pings a peer that was silent."""
        if self._state != OPEN:
            return
        quiet_s, ping_s = self.wheel.now - self.heard, self._limits.ping_s
        if quiet_s >= ping_s and self.writable:
            self._put(frames.PING_FRAME)
        self.wheel.add(self, ping_s - quiet_s if quiet_s < ping_s else ping_s)

    def on_watch(self) -> None:
        """Called by the wheel, every second while a deadline runs."""
        if self._state != OPEN:
            self._watch_ending()
        elif self._intake.stalled_s() > self._limits.stall_s:
            self._fail(close_codes.INTERNAL_ERROR)
        elif self._writer.stalled_s() > self._limits.stall_s:
            self._cut(close_codes.READS_TOO_SLOWLY)
        elif self.writable and self._intake.is_calm:
            self._is_watched = False
            self.wheel.unwatch(self)

    def _watch(self) -> None:
        self._is_watched = True
        self.wheel.watch(self)

    def _watch_ending(self) -> None:
        self._ending_s += 1
        if self._ending_s > self._limits.close_s:
            self._transport.abort()

    # Ending

    def close(self, code: int = close_codes.NORMAL) -> None:
        """Says so, and waits for the peer's answer for `close_s`. Nothing to close is fine."""
        if self._state != OPEN:
            return
        self.close_code = code
        self._put(frames.close_frame(code))
        if self._state == OPEN:
            self._enter(CLOSING)
            self._release(SESSION)

    def abort(self) -> None:
        """Drops the connection without a word."""
        if self._state != GONE:
            self._cut(self.close_code or frames.NO_CLOSE)

    def shutdown(self) -> None:
        """Called by uvicorn when it stops."""
        self.close(close_codes.RESTARTING)

    def _fail(self, code: int) -> None:
        """Says why, and listens no more."""
        if self._state == OPEN:
            self.close_code = code
            self._put(frames.close_frame(code))
        if self._state < ENDING:
            self._end()

    def _end(self) -> None:
        """Ends our side, and reads on: closing with unread input would send a reset, and destroy what we said last."""
        self._writer.flush()
        self._enter(ENDING)
        if self._transport.is_closing():
            return
        self._intake.start()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:  # TLS says a goodbye of its own, and discards input until the peer's
            self._transport.close()

    def _cut(self, code: int) -> None:
        self.close_code = code
        self._writer.drop()
        self._enter(ENDING)
        self._transport.abort()

    def _enter(self, state: int) -> None:
        self._state = state
        self._ending_s = 0
        self._reader.listener = Deaf()
        self._watch()
        if state == ENDING:
            self._forget_input()

    def _forget_input(self) -> None:
        self._intake.free(ALL)
        self._reader.is_halted = True
        self._reader.forget()
        self._weigh()

    def eof_received(self) -> None:
        self._enter(ENDING)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = GONE
        self._forget_input()
        self._peers.discard(self)
        self.wheel.unwatch(self)
        self.close_code = self.close_code or frames.NO_CLOSE
        try:
            self._session.on_lost()
        except Exception:
            logger.exception("a session failed")
        self._let_go()

    def _let_go(self) -> None:
        """The wheel, and whoever was slow to hear of it, may hold a link that is gone: it holds nobody."""
        self._transport = self._writer.transport = self._intake.transport = asyncio.Transport()
        self._reader.let_go()
        del self._session

    def _tell(self, call: Callable[..., None], *args: "Link") -> None:
        try:
            call(*args)
        except Exception:
            logger.exception("a session failed")
            self._fail(close_codes.INTERNAL_ERROR)
