"""uvicorn's HTTP protocol, hardened: the limits and deadlines of a connection are kept, and who breaks them is told so.

Owns a connection until it is closed or upgraded. Knows no route, and no header that means something to the application. Overrides
internals of uvicorn's HttpToolsProtocol. llhttp below it refuses malformed lines, numbers and chunks by itself, and every doubtful pair
of Content-Length and Transfer-Encoding.

Rules:
- An application starts when its request's body is there as a whole: it never sees half a body, or a peer that leaves amid one.
- What came in one piece and is plain (cluster/plain_request.py) the parser does not see: a WebSocket's upgrade, and what a shortcut takes.
- A refusal stands behind the answers to what was asked before it on the same connection.
- One timer a connection, which looks at the clock and comes back; requests start none.

| waits for | at most | then |
| --- | --- | --- |
| a head | `head_timeout_s` from the connect, or from its first byte | 408, or a close when nothing was sent |
| a body | `body_timeout_s`, and what `min_body_bytes_per_s` allows for the bytes received | 408 |
| the next request | `idle_timeout_s` from the end of the answer | a close |
| a request, once the server stops | `last_call_s`: it may be on its way | a close |
| the peer to read | `write_stall_s` without a byte leaving | an abort |
"""

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import Callable
from typing import Any, NoReturn, cast

import httptools
from uvicorn._types import ASGI3Application, HTTPScope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from cluster import http_limits as limit
from cluster.exchange import Exchange
from cluster.http_limits import BodyBudget, HttpLimits, OpenHead
from cluster.lazy_protocol import LazyProtocol
from cluster.plain_request import is_plain_upgrade, plain_request
from cluster.refusal import Refusal, hang_up

__all__ = ["BodyBudget", "HttpLimits", "HttpProtocol", "Shortcut"]

log = logging.getLogger(__name__)

_LARGE_BODY_BYTES = 64 * 1024  # smaller ones are not worth a place in the budget


Shortcut = Callable[[Exchange], bool]


class _StopParserError(Exception):
    """Raised in a callback of the parser. What to answer is noted in the protocol."""


class HttpProtocol(LazyProtocol):
    """For uvicorn's `http=`, as `functools.partial(HttpProtocol, limits=...)`."""

    cycle: RequestResponseCycle | None  # type: ignore[assignment]  # uvicorn begins with None, and so do its scopes
    scope: HTTPScope | None  # type: ignore[assignment]

    # How every connection begins.
    _held_bytes = 0  # of the budget of bodies
    _timer: asyncio.TimerHandle | None = None
    _since_s = 0.0  # when what is waited for began
    _turn: tuple[RequestResponseCycle, ASGI3Application] | None = None  # could start, but for its body
    _running: RequestResponseCycle | None = None  # the last that was started
    _verdict: Refusal | None = None  # why a callback stopped the parser
    _refusal: Refusal | None = None  # to be said once the running application has answered
    _fed_bytes = 0  # since everything was whole: at least the size of an open head
    _open: tuple[object, OpenHead | None] = (None, None)  # the unfinished message's scope; None: in its body
    _body_moved = False
    _gap_bytes = 0  # of an open body, since some of it came: chunk extensions, trailers
    _unsent_bytes = 0  # at the timer's last look
    _unsent_since_s = 0.0
    _user_timeout_s = 0.0
    _is_last_call = False

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: HttpLimits,
        bodies: BodyBudget | None = None,
        shortcut: Shortcut | None = None,
    ) -> None:
        """`shortcut` is shown each whole request whose turn it is: True, it answers it; else the application does."""
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._harmless_bytes = limits.harmless_bytes
        self._bodies = bodies
        self._shortcut = shortcut

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since_s = self.loop.time()
        self._timer = self.loop.call_later(self._limits.wake_s, self._on_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        running = self._running
        if running is not None and not running.response_complete:  # uvicorn told the newest of the pipeline only
            running.disconnected = True
            running.message_event.set()
        self._forget()

    def eof_received(self) -> None:
        if self._turn is not None or self._in_head():
            self._refuse(limit.CUT_SHORT)

    def shutdown(self) -> None:
        """Called by uvicorn when it stops: what is under way, or comes at once, is the last that is answered here."""
        self._is_last_call = True
        if self._is_idle():
            self.loop.call_later(self._limits.last_call_s, self._end_idle)
        else:
            super().shutdown()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _end_idle(self) -> None:
        if self in self.connections and self._is_idle():
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._set_user_timeout(self._limits.write_stall_s)

    def resume_writing(self) -> None:
        self._unsent_bytes = 0
        self._since_s = self.loop.time()
        super().resume_writing()

    def _leave(self) -> None:
        """The connection goes on without this protocol."""
        self._forget()
        self.connections.discard(self)
        self.parser = None  # type: ignore[assignment]

    def _forget(self) -> None:
        """Stops the clock and drops what refers back here, or holds half a body, so that it is freed now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._give_back_body()
        self.pipeline.clear()
        self._turn = self._running = self.cycle = None

    def _set_user_timeout(self, timeout_s: float) -> None:
        """How long sent bytes may stay unacknowledged or a window closed: TCP_USER_TIMEOUT, tcp(7). 0 = the system's.

        Set once an answer does not fit on its way: few connections ever come to that.
        """
        if timeout_s == self._user_timeout_s:
            return
        self._user_timeout_s = timeout_s
        with contextlib.suppress(OSError):  # not TCP, or gone already
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(timeout_s * 1000))

    # What comes in

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None or self._is_taken(data):
            return
        self._fed_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._on_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            log.debug("%s: the parser stopped", self.client, exc_info=True)
            self._refuse(self._verdict or limit.MALFORMED)
        else:
            cycle = self.cycle
            if cycle is None or cycle.more_body or cycle.scope is not self.scope:
                self._on_unfinished(data)
            else:
                self._fed_bytes = 0

    def _is_taken(self, data: bytes) -> bool:
        """Whether this was a whole request that needs no parser. If not, nothing has happened, and the parser gets it."""
        if self._fed_bytes or self._is_last_call or not self._is_idle():
            return False
        if self.ws_protocol_class is not None and is_plain_upgrade(data, self._harmless_bytes):
            self._upgrade(data)
            return True
        return self._shortcut is not None and self._is_posted(data)

    def _is_posted(self, data: bytes) -> bool:
        request = plain_request(data, self._harmless_bytes, min(self._limits.max_body_bytes, _LARGE_BODY_BYTES))
        if request is None or self.flow.write_paused:
            return False
        path, headers, body = request
        cycle = self._cycle_of(
            {
                "type": "http", "method": "POST", "path": path, "headers": list(headers.items()),
                "client": self.client, "scheme": self.scheme,
            }
        )  # fmt: skip
        cycle.body, cycle.more_body = bytearray(body), False
        return self._shortcut is not None and self._shortcut(Exchange(cycle)) and self._hold(cycle)

    def _cycle_of(self, scope: dict[str, Any]) -> RequestResponseCycle:
        return RequestResponseCycle(
            scope=cast("HTTPScope", scope),
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=True,
            on_response=self.on_response_complete,
        )

    def _hold(self, cycle: RequestResponseCycle) -> bool:
        self.scope, self.cycle, self._running = cycle.scope, cycle, cycle
        return True

    def on_headers_complete(self) -> None:
        if self._fed_bytes > self._harmless_bytes or len(self.headers) > self._limits.max_headers:
            self._check_sizes()
        names = [name for name, _ in self.headers]
        if names.count(b"host") != 1:
            self._check_host(names)
        if self.parser.should_upgrade():
            self._check_upgrade(names)
            return  # data_received goes on with it
        if b"content-length" in names:
            if self._content_length(names) > self._limits.max_body_bytes:
                self._stop(limit.LARGE_BODY)
        elif b"transfer-encoding" in names:
            self._check_coding(names)
        super().on_headers_complete()
        if self._is_last_call:
            self.cycle.keep_alive = False  # type: ignore[union-attr]
        if self.scope["http_version"] not in ("1.1", "1.0"):  # type: ignore[index]
            self._stop(limit.VERSION)
        if len(self.pipeline) > self._limits.max_pipelined:
            self._stop(limit.PIPELINE)
        self.headers = []  # for trailers, which are none of the request's headers

    def on_chunk_header(self) -> None:
        """Called by the parser behind the size of a chunk."""
        self._body_moved = True

    def on_body(self, body: bytes) -> None:
        self._body_moved = True
        received = self.cycle.body  # type: ignore[union-attr]
        received += body
        if len(received) > _LARGE_BODY_BYTES:
            self._on_large_body(len(received), len(body))

    def on_message_complete(self) -> None:
        cycle = self.cycle
        if cycle is None or cycle.scope is not self.scope:
            return  # an upgrade
        cycle.more_body = False
        cycle.message_event.set()
        if self._turn is not None:
            (cycle, app), self._turn = self._turn, None
            self._run(cycle, app)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Called when it is a request's turn: with its head, or, behind others, when they are answered."""
        if not cycle.more_body:
            self._run(cycle, app)
            return
        self._turn = (cycle, app)
        if cycle.waiting_for_100_continue:
            cycle.waiting_for_100_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _run(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        if self._shortcut is None or self.flow.write_paused or not self._shortcut(Exchange(cycle)):
            super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._since_s = self.loop.time()
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._give_back_body()
        if self._refusal is not None:
            self._hang_up(self._refusal)

    # Checks of a whole head, for what looks unusual

    def _stop(self, refusal: Refusal) -> NoReturn:
        self._verdict = refusal
        raise _StopParserError

    def _check_sizes(self) -> None:
        refusal = self._limits.refusal_of(self.url, self.headers)
        if refusal is not None:
            self._stop(refusal)

    def _check_host(self, names: list[bytes]) -> None:
        """RFC 9112, 3.2. Health checks of load balancers still come in HTTP/1.0 and without one."""
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._stop(limit.VERSION)
        if version == "1.1" or b"host" in names:
            self._stop(limit.HOST)

    def _check_upgrade(self, names: list[bytes]) -> None:
        is_odd = self.parser.get_http_version() != "1.1" or self.parser.get_method() == b"CONNECT"
        if self._is_websocket():
            has_body = b"transfer-encoding" in names or self._content_length(names) > 0
            is_odd = is_odd or has_body or self._is_answering()
        if is_odd:
            self._stop(limit.UPGRADE)

    def _check_coding(self, names: list[bytes]) -> None:
        """RFC 9112, 6.1: another coding would reach the application undecoded, and HTTP/1.0 knows none."""
        coding = self.headers[names.index(b"transfer-encoding")][1].strip().lower()
        is_chunked = coding == b"chunked" and names.count(b"transfer-encoding") == 1
        if not is_chunked or self.parser.get_http_version() != "1.1":
            self._stop(limit.CODING)

    def _content_length(self, names: list[bytes]) -> int:
        return int(self.headers[names.index(b"content-length")][1]) if b"content-length" in names else 0

    # Messages that come in pieces

    def _in_head(self) -> bool:
        return self.scope is not None and (self.cycle is None or self.cycle.scope is not self.scope)

    def _on_unfinished(self, data: bytes) -> None:
        if self._in_head():
            self._on_part_of_head(data)
        elif self.cycle is not None and self.cycle.more_body:
            self._on_part_of_body(len(data))

    def _on_part_of_head(self, data: bytes) -> None:
        scope, head = self._open
        if scope is not self.scope or head is None:
            head = OpenHead(self._limits)
            self._open = (self.scope, head)
            if self.cycle is not None:  # the connection's first head counts from the connect
                self._since_s = self.loop.time()
        refusal = head.fed(data, self.url, self.headers)
        if refusal is not None:
            self._refuse(refusal)

    def _on_part_of_body(self, fed_bytes: int) -> None:
        scope, head = self._open
        if scope is not self.scope or head is not None:
            self._open = (self.scope, None)
            self._since_s = self.loop.time()
            self._body_moved = True  # the head was of this piece, and has been judged
        self._gap_bytes = 0 if self._body_moved else self._gap_bytes + fed_bytes
        self._body_moved = False
        if self._gap_bytes > self._limits.max_head_bytes or len(self.headers) > self._limits.max_headers:
            self._refuse(limit.LARGE_HEAD)

    def _on_large_body(self, size: int, added: int) -> None:
        if size > self._limits.max_body_bytes:
            self._stop(limit.LARGE_BODY)
        if self._bodies is not None:
            self._held_bytes += added
            if not self._bodies.take(added):
                self._stop(limit.MANY_BODIES)

    def _give_back_body(self) -> None:
        if self._bodies is not None and self._held_bytes:
            self._bodies.give_back(self._held_bytes)
            self._held_bytes = 0

    # Upgrades

    def _is_websocket(self) -> bool:
        """Whether a WebSocket is asked for, and we have one. That Connection names the upgrade, the parser has seen."""
        asked = b",".join(value for name, value in self.headers if name == b"upgrade").lower()
        return self.ws_protocol_class is not None and b"websocket" in [token.strip() for token in asked.split(b",")]

    def _on_upgrade(self, rest: bytes) -> None:
        if self._is_websocket():
            self._upgrade(self._head(), rest)
        else:
            self._ignore_upgrade(rest)

    def _upgrade(self, head: bytes, early: bytes = b"") -> None:
        """The connection goes over to uvicorn's `ws` class, with what came behind the head."""
        self._leave()
        self._set_user_timeout(0)  # the new owner knows how patient it is
        make = cast("Any", self.ws_protocol_class)
        protocol = make(config=self.config, server_state=self.server_state, app_state=self.app_state)
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        protocol.data_received(head)
        if early and not self.transport.is_closing():
            protocol.data_received(early)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """RFC 9110, 7.8: what is not on offer is ignored. The parser believed in it, so it gets the request once more."""
        head = self._head(without=b"upgrade")
        del self.parser
        self._fed_bytes = 0
        self.data_received(head + rest)

    def _head(self, without: bytes = b"") -> bytes:
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/1.1"]
        lines += [name + b": " + value for name, value in self.headers if name != without]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    # Refusals

    def _is_answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _refuse(self, refusal: Refusal) -> None:
        if self._refusal is not None or self.transport.is_closing():
            return
        if not self._is_answering():
            self._hang_up(refusal)
            return
        if self.pipeline and self.pipeline[0][0].more_body:  # the refused one itself; all before it are whole
            self.pipeline.popleft()
        self._refusal = refusal
        self.flow.pause_reading()

    def _hang_up(self, refusal: Refusal) -> None:
        log.debug("%s is refused: %d %s", self.client, refusal.status, refusal.error)
        self._leave()
        hang_up(self.transport, refusal, cast("set[object]", self.connections))

    # Deadlines

    def _on_timer(self) -> None:
        now_s = self.loop.time()
        left_s = self._left_s(now_s)
        self._timer = self.loop.call_later(min(max(left_s, 0.0), self._limits.wake_s), self._on_timer)
        if self._has_stalled(now_s):
            self.transport.abort()
        elif left_s <= 0:
            self._give_up()

    def _left_s(self, now_s: float) -> float:
        """How long the peer may still take for what it has to send. While there is something to read for it, it may wait."""
        limits = self._limits
        if self._is_answering() or self.transport.is_closing() or self.transport.get_write_buffer_size():
            return math.inf
        if self._turn is not None:
            allowed_s = limits.body_timeout_s + len(self._turn[0].body) / limits.min_body_bytes_per_s
        elif self.cycle is None or self._in_head():
            allowed_s = limits.head_timeout_s
        else:
            allowed_s = limits.idle_timeout_s
        return self._since_s + allowed_s - now_s

    def _give_up(self) -> None:
        if self._turn is not None:
            self._refuse(limit.SLOW_BODY)
        elif self._in_head():
            self._refuse(limit.SLOW_HEAD)
        else:
            self.transport.close()

    def _has_stalled(self, now_s: float) -> bool:
        """Whether the peer has left our answer unread for too long."""
        unsent = self.transport.get_write_buffer_size()
        if not unsent or not self._unsent_bytes or unsent < self._unsent_bytes:
            self._unsent_bytes, self._unsent_since_s = unsent, now_s
            return False
        return now_s - self._unsent_since_s >= self._limits.write_stall_s
