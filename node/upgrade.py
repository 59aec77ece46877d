"""The HTTP of a WebSocket handshake (RFC 6455, section 4): what a request must be, and the bytes of the two answers.

Pure. Gets the head of a request that an HTTP parser has taken apart and put together again: names in lower case, no
folded lines, nothing that is no HTTP. What it may not be is a `Refusal`, with the status that answers it.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import unquote

import httptools
import msgspec

from cluster.errors import PeerError
from node import deflate

JSON_BODY = (b"content-type", b"application/json")

Headers = Iterable[tuple[bytes, bytes]]

_ACCEPT_SALT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_OURS = (b"content-length", b"connection", b"transfer-encoding")


class Refusal(PeerError):
    """The request is no handshake. Its text goes into the answer's body."""

    def __init__(self, status: int, error: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(error)
        self.status = status
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A request that may be accepted."""

    path: str  # percent-decoded
    raw_path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    key: bytes

    def subprotocols(self) -> list[str]:
        """As offered, in order."""
        offers = [offer.strip() for offer in b",".join(_values(self.headers, b"sec-websocket-protocol")).split(b",")]
        return [offer.decode("latin-1") for offer in offers if offer]

    def offers_deflate(self) -> bool:
        """Whether permessage-deflate is asked for in a way that we can answer."""
        return any(deflate.is_acceptable(offers) for offers in _values(self.headers, b"sec-websocket-extensions"))


def read_upgrade(head: bytes) -> Upgrade:
    """Takes a request's head, without the empty line that ends it. Raises: Refusal."""
    request, *lines = head.split(b"\r\n")
    method, _, rest = request.partition(b" ")
    pairs = [line.partition(b":") for line in lines]
    headers = [(name.lower(), value.strip()) for name, _, value in pairs]
    _check_method(method)
    _check_framing(headers)
    _check_version(headers)
    key = _key(headers)
    path, raw_path, query = _target(rest.rpartition(b" ")[0])
    return Upgrade(path, raw_path, query, headers, key)


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def _check_method(method: bytes) -> None:
    if method != b"GET":
        raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "a handshake is a GET", (b"allow", b"GET"))


def _check_framing(headers: Headers) -> None:
    if len(_values(headers, b"host")) != 1:
        raise Refusal(HTTPStatus.BAD_REQUEST, "Host: exactly one is needed")
    if _values(headers, b"transfer-encoding") or any(value != b"0" for value in _values(headers, b"content-length")):
        raise Refusal(HTTPStatus.BAD_REQUEST, "a handshake has no body")


def _check_version(headers: Headers) -> None:
    if _values(headers, b"sec-websocket-version") != [b"13"]:
        wanted = ((b"sec-websocket-version", b"13"), (b"upgrade", b"websocket"))
        raise Refusal(HTTPStatus.UPGRADE_REQUIRED, "Sec-WebSocket-Version: only 13 is spoken here", *wanted)


def _key(headers: Headers) -> bytes:
    keys = _values(headers, b"sec-websocket-key")
    try:
        if len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == 16:
            return keys[0]
    except binascii.Error:
        pass
    raise Refusal(HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Key: 16 bytes in base64, once, are needed")


def _target(target: bytes) -> tuple[str, bytes, bytes]:
    """Path, the same as it was sent, and query; of an absolute target too (RFC 9112, 3.2.2)."""
    try:
        url = httptools.parse_url(target)
        if url.path and url.path.startswith(b"/"):
            return unquote(url.path.decode("ascii")), url.path, url.query or b""
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
        pass
    raise Refusal(HTTPStatus.BAD_REQUEST, "the path cannot be read")


def switching(key: bytes, subprotocol: str | None, headers: Headers, *, deflated: bool) -> bytes:
    """The 101. `subprotocol` is one of those offered."""
    accept = base64.b64encode(hashlib.sha1(key + _ACCEPT_SALT, usedforsecurity=False).digest())
    answer = [(b"upgrade", b"websocket"), (b"connection", b"Upgrade"), (b"sec-websocket-accept", accept)]
    if subprotocol is not None:
        answer.append((b"sec-websocket-protocol", subprotocol.encode("latin-1")))
    if deflated:
        answer.append((b"sec-websocket-extensions", deflate.ANSWER))
    return _head(HTTPStatus.SWITCHING_PROTOCOLS, [*answer, *headers])


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
