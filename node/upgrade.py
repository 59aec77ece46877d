"""The HTTP of a WebSocket handshake (RFC 6455, section 4): what a request must be, and the bytes of the two answers.

Pure. Gets the head of a request that was found to be HTTP: no folded lines, nothing that is none. What it may not be is a `Refusal`, with
the status that answers it.
"""

import binascii
import hashlib
from collections.abc import Iterable
from http import HTTPStatus
from urllib.parse import unquote

import httptools
import msgspec
from msgspec import Struct

from cluster.errors import PeerError
from cluster.plain_request import PATH_CHARS
from node import deflate

JSON_BODY = (b"content-type", b"application/json")

Headers = Iterable[tuple[bytes, bytes]]
Values = dict[bytes, list[bytes]]

_ACCEPT_SALT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: "
_OURS = (b"content-length", b"connection", b"transfer-encoding")


class Refusal(PeerError):
    """The request is no handshake. Its text goes into the answer's body."""

    def __init__(self, status: int, error: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(error)
        self.status = status
        self.headers = headers


class Upgrade(Struct, frozen=True):
    """A request that may be accepted."""

    path: str  # percent-decoded
    raw_path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    values: Values
    key: bytes

    def subprotocols(self) -> list[str]:
        """As offered, in order."""
        offers = [offer.strip() for offer in b",".join(self.values.get(b"sec-websocket-protocol", ())).split(b",")]
        return [offer.decode("latin-1") for offer in offers if offer]

    def offers_deflate(self) -> bool:
        """Whether permessage-deflate is asked for in a way that we can answer."""
        return any(deflate.is_acceptable(offers) for offers in self.values.get(b"sec-websocket-extensions", ()))


def read_upgrade(head: bytes) -> Upgrade:
    """Takes a request's head, without the empty line that ends it. Raises: Refusal."""
    request, *lines = head.split(b"\r\n")
    method, _, rest = request.partition(b" ")
    headers, values = _headers(lines)
    if method != b"GET":
        raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "a handshake is a GET", (b"allow", b"GET"))
    _check_framing(values)
    _check_version(values)
    key = _key(values)
    path, raw_path, query = _target(rest.rpartition(b" ")[0])
    return Upgrade(path, raw_path, query, headers, values, key)


def _headers(lines: list[bytes]) -> tuple[list[tuple[bytes, bytes]], Values]:
    """As they came, but for the names, which are in lower case; and what each name has for values."""
    headers: list[tuple[bytes, bytes]] = []
    values: Values = {}
    for line in lines:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip()
        headers.append((name, value))
        values.setdefault(name, []).append(value)
    return headers, values


def _check_framing(values: Values) -> None:
    if len(values.get(b"host", ())) != 1:
        raise Refusal(HTTPStatus.BAD_REQUEST, "Host: exactly one is needed")
    if b"transfer-encoding" in values or any(value != b"0" for value in values.get(b"content-length", ())):
        raise Refusal(HTTPStatus.BAD_REQUEST, "a handshake has no body")


def _check_version(values: Values) -> None:
    if values.get(b"sec-websocket-version") != [b"13"]:
        wanted = ((b"sec-websocket-version", b"13"), (b"upgrade", b"websocket"))
        raise Refusal(HTTPStatus.UPGRADE_REQUIRED, "Sec-WebSocket-Version: only 13 is spoken here", *wanted)


def _key(values: Values) -> bytes:
    keys = values.get(b"sec-websocket-key", ())
    try:
        if len(keys) == 1 and len(binascii.a2b_base64(keys[0], strict_mode=True)) == 16:
            return keys[0]
    except binascii.Error:
        pass
    raise Refusal(HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Key: 16 bytes in base64, once, are needed")


def _target(target: bytes) -> tuple[str, bytes, bytes]:
    """Path, the same as it was sent, and query; of an absolute target too (RFC 9112, 3.2.2)."""
    if target.startswith(b"/ws/") and not target.translate(None, PATH_CHARS):
        return target.decode("ascii"), target, b""
    try:
        url = httptools.parse_url(target)
        if url.path and url.path.startswith(b"/"):
            return unquote(url.path.decode("ascii")), url.path, url.query or b""
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
        pass
    raise Refusal(HTTPStatus.BAD_REQUEST, "the path cannot be read")


def switching(key: bytes, subprotocol: str | None, *, deflated: bool) -> bytes:
    """The 101. `subprotocol` is one of those offered."""
    accept = binascii.b2a_base64(hashlib.sha1(key + _ACCEPT_SALT, usedforsecurity=False).digest())
    lines = [_SWITCHING, accept.strip(), b"\r\n"]
    if subprotocol is not None:
        lines += b"sec-websocket-protocol: ", subprotocol.encode("latin-1"), b"\r\n"
    if deflated:
        lines += b"sec-websocket-extensions: ", deflate.ANSWER, b"\r\n"
    return b"".join((*lines, b"\r\n"))


def refusal(status: int, headers: Headers, body: bytes) -> bytes:
    """Any other answer, whole; the connection ends with it."""
    kept = [(name, value) for name, value in headers if name.lower() not in _OURS]
    return _head(status, [*kept, (b"content-length", b"%d" % len(body)), (b"connection", b"close")]) + body


def error_body(code: int, error: str) -> bytes:
    """The body of an answer that says what is wrong."""
    return msgspec.json.encode({"code": code, "error": error})


def _head(status: int, headers: Headers) -> bytes:
    lines = [b"HTTP/1.1 %d %s\r\n" % (status, _phrase(status)), *(b"%s: %s\r\n" % header for header in headers)]
    return b"".join((*lines, b"\r\n"))


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b"Unknown"
