"""One WebSocket connection as the Go agent's library makes it (RFC 6455, client side): light enough for hundreds in a process.

Owns the handshake, frames, masking, deflate and the socket; knows nothing of messages. Rules that differ from a polite client, and are
the point of it: it judges the answer to the handshake as Go does (an answer to its offer of deflate must carry both
no_context_takeover), checks no UTF-8, and can leave a connection open and unread for ever (`abandon`), which is what a Go agent does
with one it gave up. Pings are answered and are nobody's business.
"""

import asyncio
import base64
import hashlib
import os
import socket
import struct
import urllib.parse
import zlib
from collections.abc import Mapping
from typing import Protocol, cast

import msgspec

from tests.support.certificate import trust_for

NO_CLOSE_FRAME = 1006
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_OFFER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_TAIL = b"\x00\x00\xff\xff"
_CLOSED_BY_PEER = {7, 8, 9, 11}  # TCP_CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING


class HandshakeRefusedError(Exception):
    """The server answered the handshake, and not with an upgrade that Go would take; 0: there was no answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status


class Listener(Protocol):
    """Who is told what happens on a connection."""

    def on_open(self, connection: "Connection") -> None:
        """The upgrade was accepted; comes before any message."""

    def on_message(self, connection: "Connection", payload: bytes) -> None:
        """A whole message came."""

    def on_closed(self, connection: "Connection", code: int) -> None:
        """It is over, exactly once, after `on_open` only; not after `abandon`."""

    def on_stalled(self, connection: "Connection") -> None:
        """The peer does not take what was sent: bytes wait in this process."""

    def on_flowing(self, connection: "Connection") -> None:
        """Everything sent has left this process."""


class SocketOptions(msgspec.Struct, frozen=True):
    """How the socket is made. Small buffers bring a stall about sooner; 0 leaves the kernel's."""

    source_ip: str = ""
    send_buffer_bytes: int = 0
    receive_buffer_bytes: int = 0


class Connection(asyncio.Protocol):
    """An open connection, or one on the way to it. Made by `dial`."""

    def __init__(self, listener: Listener, request: bytes, key: bytes) -> None:
        self._listener = listener
        self._request = request
        self._accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()  # noqa: S324  RFC 6455 asks for it
        self.upgraded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._parts: list[bytes] = []
        self._part_is_deflated = False
        self._deflates = False
        self._is_open = False
        self._is_reading = True
        self._code = NO_CLOSE_FRAME
        self.is_gone = False  # the socket is closed, here

    # ---- what the agent does ----

    def send(self, payload: bytes) -> None:
        """Write a text message. A connection that is gone swallows it."""
        if self._deflates:
            packer = zlib.compressobj(1, zlib.DEFLATED, -15)
            self._write(0x40 | _TEXT, (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4])
        else:
            self._write(_TEXT, payload)

    def close(self, code: int = 1000) -> None:
        """Say goodbye and close the socket once it is said."""
        if self._transport is not None:
            self._write(_CLOSE, struct.pack("!H", code))
            self._transport.close()

    def reset(self) -> None:
        """RST: what a killed process or a cut line looks like."""
        if self._transport is not None:
            raw = None if self._transport.is_closing() else self._transport.get_extra_info("socket")
            if raw is not None:  # uvloop has none once the peer has closed, and does not call that closing yet
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    async def gone(self, within_s: float) -> None:
        """Wait until the socket is closed, here; by force at the deadline, since a peer that reads nothing holds up a goodbye."""
        deadline = asyncio.get_running_loop().time() + within_s
        while not self.is_gone:
            if asyncio.get_running_loop().time() > deadline:
                self.reset()
            await asyncio.sleep(0.001)

    def abandon(self) -> None:
        """Leave the socket open, unread and unwritten; nothing more is told of it."""
        self._is_open = False
        self.stop_reading()

    def stop_reading(self) -> None:
        """From now on the peer's frames pile up, here, in the kernel, and then at the peer."""
        self._is_reading = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def start_reading(self) -> None:
        """Read again, beginning with what has piled up."""
        self._is_reading = True
        self._parse()
        if self._is_reading and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def is_closed_by_peer(self) -> bool:
        """Whether the peer has closed or reset the socket; seen also while nothing is read."""
        if self._transport is None or self._transport.is_closing():
            return True
        raw: socket.socket | None = self._transport.get_extra_info("socket")
        return raw is None or raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _CLOSED_BY_PEER

    # ---- what the socket does ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one, and does not say so
        self._transport.set_write_buffer_limits(high=0)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self.upgraded.done():
            self._read_answer()
        self._parse()

    def eof_received(self) -> None:
        self._fail_handshake(0, "closed during the handshake")

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_gone = True
        self._fail_handshake(0, str(exc or "closed during the handshake"))
        was_open, self._is_open = self._is_open, False
        if was_open:
            self._listener.on_closed(self, self._code)

    def pause_writing(self) -> None:
        if self._is_open:
            self._listener.on_stalled(self)

    def resume_writing(self) -> None:
        if self._is_open:
            self._listener.on_flowing(self)

    # ---- handshake ----

    def _read_answer(self) -> None:
        head, end, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not end:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        words = first.split(" ", 2)
        status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        if wrong := self._wrong_with(status, headers):
            self._fail_handshake(status if status != 101 else 0, wrong)
            return
        self._buffer = bytearray(rest)
        self._is_open = True
        self.upgraded.set_result(None)
        self._listener.on_open(self)

    def _wrong_with(self, status: int, headers: Mapping[str, str]) -> str:
        """What Go's client would not take."""
        if status != 101:
            return "no upgrade"
        if headers.get("upgrade", "").lower() != "websocket" or "upgrade" not in headers.get("connection", "").lower():
            return "101 without Upgrade: websocket and Connection: Upgrade"
        if headers.get("sec-websocket-accept") != self._accept:
            return "wrong Sec-WebSocket-Accept"
        extension = headers.get("sec-websocket-extensions", "")
        self._deflates = "permessage-deflate" in extension
        if self._deflates and not all(word in extension for word in _OFFER.split("; ")):
            return "permessage-deflate without both no_context_takeover"
        return ""

    def _fail_handshake(self, status: int, reason: str) -> None:
        if not self.upgraded.done():
            self.upgraded.set_exception(HandshakeRefusedError(status, reason))
            self._abort()

    # ---- frames ----

    def _parse(self) -> None:
        """Take the whole frames off the buffer, for as long as somebody reads."""
        while self._is_open and self._is_reading:
            frame = _take_frame(self._buffer)
            if frame is None:
                return
            self._on_frame(*frame)

    def _on_frame(self, first: int, payload: bytes) -> None:
        opcode = first & 0x0F
        if opcode in {_TEXT, _BINARY, _CONTINUATION}:
            self._on_data(first, opcode, payload)
        elif opcode == _PING:
            self._write(_PONG, payload)
        elif opcode == _CLOSE:
            self._on_close_frame(payload)

    def _on_data(self, first: int, opcode: int, payload: bytes) -> None:
        if opcode != _CONTINUATION:
            self._part_is_deflated = bool(first & 0x40)
        self._parts.append(payload)
        if first & 0x80:
            whole, self._parts = b"".join(self._parts), []
            if self._part_is_deflated:
                whole = zlib.decompressobj(-15).decompress(whole + _TAIL)
            self._listener.on_message(self, whole)

    def _on_close_frame(self, payload: bytes) -> None:
        """Answer it; closing the socket is the server's part, and its end is ours."""
        self._code = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else 1005
        self._write(_CLOSE, payload[:2])
        self._is_open = False
        self._listener.on_closed(self, self._code)

    def _write(self, first: int, payload: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(masked_frame(0x80 | first, payload))

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def dial(
    url: str,
    listener: Listener,
    *,
    headers: Mapping[str, str],
    timeout_s: float,
    offers_deflate: bool = False,
    options: SocketOptions | None = None,
) -> Connection:
    """Open a connection to exactly this URL. Raises: HandshakeRefusedError."""
    parts = urllib.parse.urlsplit(url)
    key = base64.b64encode(os.urandom(16))
    request = _request(parts, key, {**headers, **({"Sec-WebSocket-Extensions": _OFFER} if offers_deflate else {})})
    connection = Connection(listener, request, key)
    try:
        async with asyncio.timeout(timeout_s):
            await _connect(connection, parts, options or SocketOptions())
            await connection.upgraded
    except TimeoutError as error:
        connection.reset()
        raise HandshakeRefusedError(0, f"no answer within {timeout_s:g} s") from error
    except OSError as error:
        raise HandshakeRefusedError(0, str(error)) from error
    except asyncio.CancelledError:
        connection.reset()
        raise
    finally:
        if not connection.upgraded.cancel() and not connection.upgraded.cancelled():
            connection.upgraded.exception()  # seen, also where a timeout came first
    return connection


def _request(parts: urllib.parse.SplitResult, key: bytes, headers: Mapping[str, str]) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"GET {target} HTTP/1.1", f"Host: {parts.netloc}", "User-Agent: Go-http-client/1.1", "Upgrade: websocket"]
    lines += ["Connection: Upgrade", f"Sec-WebSocket-Key: {key.decode()}", "Sec-WebSocket-Version: 13"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def _connect(connection: Connection, parts: urllib.parse.SplitResult, options: SocketOptions) -> None:
    loop, tls, host = asyncio.get_running_loop(), trust_for(parts.scheme), parts.hostname or ""
    raw = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        raw.setblocking(False)
        for name, value in (
            (socket.SO_SNDBUF, options.send_buffer_bytes),
            (socket.SO_RCVBUF, options.receive_buffer_bytes),
        ):
            if value:
                raw.setsockopt(socket.SOL_SOCKET, name, value)
        if options.source_ip:
            raw.bind((options.source_ip, 0))
        await loop.sock_connect(raw, (host, parts.port or (443 if tls else 80)))
        await loop.create_connection(lambda: connection, sock=raw, ssl=tls, server_hostname=host if tls else None)
    except BaseException:
        raw.close()
        raise


def masked_frame(first: int, payload: bytes) -> bytes:
    """A frame of a client: first byte as given, then the length, a mask and the masked payload."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = struct.pack("!BBH", first, 0xFE, size)
    else:
        head = struct.pack("!BBQ", first, 0xFF, size)
    mask = os.urandom(4)
    return head + mask + _masked(payload, mask)


def _masked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    whole = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(whole, "big")).to_bytes(size, "big")


def _take_frame(buffer: bytearray) -> tuple[int, bytes] | None:
    """The first byte and the payload of the first whole frame, taken off the buffer; None while it is not there."""
    if len(buffer) < 2:
        return None
    size, start = buffer[1] & 0x7F, 2
    for mark, width in ((126, 2), (127, 8)):
        if size == mark:
            if len(buffer) < 2 + width:
                return None
            size, start = int.from_bytes(buffer[2 : 2 + width], "big"), 2 + width
            break
    if len(buffer) < start + size:
        return None
    first, payload = buffer[0], bytes(buffer[start : start + size])
    del buffer[: start + size]
    return first, payload
