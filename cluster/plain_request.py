"""Requests that came whole, in one piece, with nothing about them that needs thought: read at a glance, without the parser's callbacks.

Owns what counts as plain: a strict subset of what the parser and the checks of `cluster.http_protocol` let through, and read the same by
both. What is not plain is no fault: it is read by the parser. Pure; knows no route.

Plain is a POST of HTTP/1.1 to a path of unreserved characters, in printable ASCII, with one Host, one Content-Length that is the length of
the rest, no header twice, none that changes how the message or the connection goes on, and a head below every limit of sizes. So is the
head of a GET to such a path, in the same characters, with one Host, `Connection: Upgrade`, `Upgrade: websocket`, no body and nothing behind
it; other headers may come twice: who takes the upgrade judges them.
"""

import re
from string import ascii_letters, digits

MAX_HEADERS = 50  # and of bytes as many as the connection's limits call harmless
_PRINTABLE = bytes(range(0x20, 0x7F))
PATH_CHARS = (ascii_letters + digits + "._~/-").encode()  # of a path as it stands
_OF_NAMES = (ascii_letters + digits + "-").encode()
_NOT_PLAIN = frozenset(
    (b"transfer-encoding", b"upgrade", b"expect", b"te", b"trailer", b"keep-alive", b"proxy-connection")
)
_UPGRADE = re.compile(
    rb"GET /[A-Za-z0-9._~/-]*+ HTTP/1\.1\r\n(?:[A-Za-z0-9-]++: [!-~][ -~]*+(?<! )\r\n){1,%d}+\r\n" % MAX_HEADERS
)


def plain_request(
    data: bytes, max_head_bytes: int, max_body_bytes: int
) -> tuple[str, dict[bytes, bytes], bytes] | None:
    """(path, headers, body) of the plain request that these bytes are, no more and no less; None when they are none."""
    end = data.find(b"\r\n\r\n", 0, max_head_bytes)
    if end < 0 or not data.startswith(b"POST /"):
        return None
    first, *lines = data[:end].split(b"\r\n")
    path = first[5:-9]
    headers = _headers(lines)
    body = data[end + 4 :]
    if (
        headers is None
        or not first.endswith(b" HTTP/1.1")
        or path.translate(None, PATH_CHARS)
        or b"host" not in headers
        or headers.get(b"content-length") != b"%d" % len(body)
        or headers.get(b"connection", b"keep-alive") != b"keep-alive"
        or len(body) > max_body_bytes
        or not _NOT_PLAIN.isdisjoint(headers)
    ):
        return None
    return path.decode(), headers, body


def is_plain_upgrade(data: bytes, max_head_bytes: int) -> bool:
    """Whether these bytes are the head of a plain upgrade, no more and no less."""
    if len(data) > max_head_bytes or _UPGRADE.fullmatch(data) is None:
        return False
    low = data.lower()
    return (
        low.count(b"\r\nhost:") == low.count(b"\r\nconnection:") == low.count(b"\r\nupgrade:") == 1
        and b"\r\nconnection: upgrade\r\n" in low
        and b"\r\nupgrade: websocket\r\n" in low
        and b"\r\ncontent-length:" not in low
        and b"\r\ntransfer-encoding:" not in low
    )


def _headers(lines: list[bytes]) -> dict[bytes, bytes] | None:
    headers = {}
    for line in lines:
        name, _, value = line.partition(b": ")
        if value.strip() != value:
            return None
        headers[name.lower()] = value
    is_odd = (
        len(headers) != len(lines)
        or len(lines) > MAX_HEADERS
        or b"" in headers
        or b"" in headers.values()
        or b"".join(headers).translate(None, _OF_NAMES)
        or b"".join(headers.values()).translate(None, _PRINTABLE)
    )
    return None if is_odd else headers
