"""What is read at a glance is read as the parser reads it, and what is not plain is left to the parser."""

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.plain_request import MAX_HEADERS, is_plain_upgrade, plain_request

HOST = b"Host: test"


def post(*lines: bytes, path: bytes = b"/api/x", body: bytes = b"abc", length: bytes = b"") -> bytes:
    head = [b"POST %b HTTP/1.1" % path, b"Content-Length: " + (length or b"%d" % len(body)), *lines]
    return b"\r\n".join([*head, b"", body])


def read(data: bytes) -> tuple[str, dict[bytes, bytes], bytes] | None:
    return plain_request(data, 4096, 1000)


class Parsed:
    """One message as the parser of the protocol reads it."""

    def __init__(self, data: bytes, found: "list[Parsed] | None" = None) -> None:
        if found is not None:  # for who is told by an exception
            found.append(self)
        self.url, self.body, self.whole = b"", b"", 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.whole += 1


def test_a_plain_request_is_read() -> None:
    path, headers, body = read(post(HOST, b"X-Odd_: a b") or b"") or ("", {}, b"")
    assert (path, headers, body) == ("", {}, b""), "an underscore is not plain"
    assert read(post(HOST, b"X-Two: a  b", b"Connection: keep-alive")) == (
        "/api/x",
        {b"content-length": b"3", b"host": b"test", b"x-two": b"a  b", b"connection": b"keep-alive"},
        b"abc",
    )


NOT_PLAIN = {
    "another method": b"PUT" + post(HOST)[4:],
    "HTTP/1.0": post(HOST).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/2.0": post(HOST).replace(b"HTTP/1.1", b"HTTP/2.0"),
    "two blanks before the version": post(HOST).replace(b" HTTP", b"  HTTP"),
    "a query": post(HOST, path=b"/api?x=1"),
    "an escape": post(HOST, path=b"/api%20x"),
    "an absolute target": post(HOST, path=b"http://test/api"),
    "a byte over 127 in the path": post(HOST, path=b"/\xff"),
    "no Host": post(b"X: y"),
    "two Hosts": post(HOST, b"host: other"),
    "no length": post(HOST).replace(b"Content-Length: 3\r\n", b""),
    "two lengths": post(HOST, b"Content-Length: 3"),
    "a signed length": post(HOST, length=b"+3"),
    "a length with a zero before it": post(HOST, length=b"03"),
    "a length over the body": post(HOST, length=b"4"),
    "a length below the body": post(HOST, length=b"2"),
    "another request behind it": post(HOST) + post(HOST),
    "chunks": post(HOST, b"Transfer-Encoding: chunked"),
    "an upgrade": post(HOST, b"Connection: Upgrade", b"Upgrade: websocket"),
    "the last request, as a proxy says it": post(HOST, b"Proxy-Connection: close"),
    "the last request": post(HOST, b"Connection: close"),
    "who waits for 100": post(HOST, b"Expect: 100-continue"),
    "a body over the limit": post(HOST, body=b"x" * 1001),
    "a head over the limit": post(HOST, b"X: " + b"y" * 4096),
    "many headers": post(HOST, *[b"X-%d: y" % n for n in range(MAX_HEADERS)]),
    "half a head": post(HOST)[:40],
    "LF alone": post(HOST).replace(b"\r\n", b"\n"),
    "LF alone behind a header": post(HOST, b"X: y\nZ: z"),
    "CR alone behind a header": post(HOST, b"X: y\rZ: z"),
    "NUL in a value": post(HOST, b"X: a\0b"),
    "a tab": post(HOST, b"X: a\tb"),
    "a byte over 127 in a value": post(HOST, b"X: \xff"),
    "an empty value": post(HOST, b"X: "),
    "no blank behind the colon": post(HOST, b"X:y"),
    "a blank before the colon": post(HOST, b"X : y"),
    "a blank at the end": post(HOST, b"X: y "),
    "two blanks behind the colon": post(HOST, b"X:  y"),
    "a folded header": post(HOST, b"X: y", b" z"),
    "a header without a name": post(HOST, b": y"),
    "a header without a colon": post(HOST, b"X"),
    "nothing": b"",
}


@pytest.mark.parametrize("case", NOT_PLAIN)
def test_what_is_not_plain_is_left_to_the_parser(case: str) -> None:
    assert read(NOT_PLAIN[case]) is None


PIECES = st.one_of(
    st.binary(max_size=3),
    st.sampled_from(
        [b"\r\n", b": ", b" ", b"\r", b"\n", b"\r\n\r\n", b"\r\nContent-Length: 1", b"\r\nContent-Length: 11", b"\r\nHost: y", b"/", b"\t"]
    ),
)  # fmt: skip
WHOLE = post(HOST, b"Accept: */*", b"X-Timestamp: 1700000000", b"Connection: keep-alive", body=b'{"id": "x"}')


@given(
    at=st.integers(0, len(WHOLE)),
    cut=st.integers(0, 3),
    put=PIECES,
)
@example(at=0, cut=0, put=b"")
def test_whatever_is_taken_for_plain_is_read_the_same_by_the_parser(at: int, cut: int, put: bytes) -> None:
    data = WHOLE[:at] + put + WHOLE[at + cut :]
    request = read(data)
    if request is None:
        return
    path, headers, body = request
    parsed = Parsed(data)
    assert (parsed.url.decode(), parsed.headers, parsed.body) == (path, list(headers.items()), body)
    assert parsed.whole == 1
    assert parsed.parser.should_keep_alive()
    assert not parsed.parser.should_upgrade()


def test_a_request_that_nobody_has_changed_is_plain() -> None:
    assert read(WHOLE) is not None


# ---- upgrades

WEBSOCKET = (b"Upgrade: websocket", b"Connection: Upgrade")


def get(*lines: bytes, path: bytes = b"/ws/agent/x") -> bytes:
    return b"\r\n".join([b"GET %b HTTP/1.1" % path, *lines, b"", b""])


def is_read(data: bytes) -> bool:
    return is_plain_upgrade(data, 4096)


UPGRADE = get(HOST, *WEBSOCKET, b"Sec-WebSocket-Key: dGhlIHNhbXBsZQ==", b"Sec-WebSocket-Protocol: agent-token, a b")


@pytest.mark.parametrize("data", [UPGRADE, UPGRADE.lower().replace(b"get", b"GET").replace(b"http", b"HTTP")])
def test_a_plain_upgrade_is_known(data: bytes) -> None:
    assert is_read(data)


NO_PLAIN_UPGRADE = {
    "another method": b"PUT" + UPGRADE[3:],
    "HTTP/1.0": UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "a query": get(HOST, *WEBSOCKET, path=b"/ws?x=1"),
    "an escape": get(HOST, *WEBSOCKET, path=b"/ws%20x"),
    "an absolute target": get(HOST, *WEBSOCKET, path=b"http://test/ws"),
    "a byte over 127 in the path": get(HOST, *WEBSOCKET, path=b"/\xff"),
    "no Host": get(*WEBSOCKET),
    "two Hosts": get(HOST, *WEBSOCKET, b"host: other"),
    "no Upgrade": get(HOST, b"Connection: Upgrade"),
    "no Connection": get(HOST, b"Upgrade: websocket"),
    "another Upgrade": get(HOST, b"Connection: Upgrade", b"Upgrade: h2c"),
    "two Upgrades": get(HOST, *WEBSOCKET, b"Upgrade: h2c"),
    "one of two upgrades": get(HOST, b"Connection: Upgrade", b"Upgrade: websocket, h2c"),
    "two Connections": get(HOST, *WEBSOCKET, b"Connection: close"),
    "more of a connection": get(HOST, b"Connection: keep-alive, Upgrade", b"Upgrade: websocket"),
    "a length": get(HOST, *WEBSOCKET, b"Content-Length: 0"),
    "chunks": get(HOST, *WEBSOCKET, b"Transfer-Encoding: chunked"),
    "a frame behind it": UPGRADE + b"\x81\x80abcd",
    "half a head": UPGRADE[:-2],
    "a head over the limit": get(HOST, *WEBSOCKET, b"X: " + b"y" * 4096),
    "many headers": get(HOST, *WEBSOCKET, *[b"X-%d: y" % n for n in range(MAX_HEADERS)]),
    "LF alone": UPGRADE.replace(b"\r\n", b"\n"),
    "LF alone behind a header": get(HOST, *WEBSOCKET, b"X: y\nZ: z"),
    "CR alone behind a header": get(HOST, *WEBSOCKET, b"X: y\rZ: z"),
    "NUL in a value": get(HOST, *WEBSOCKET, b"X: a\0b"),
    "a tab": get(HOST, *WEBSOCKET, b"X: a\tb"),
    "a byte over 127 in a value": get(HOST, *WEBSOCKET, b"X: \xff"),
    "an empty value": get(HOST, *WEBSOCKET, b"X: "),
    "no blank behind the colon": get(HOST, *WEBSOCKET, b"X:y"),
    "a blank before the colon": get(HOST, *WEBSOCKET, b"X : y"),
    "a blank at the end": get(HOST, *WEBSOCKET, b"X: y "),
    "a folded header": get(HOST, *WEBSOCKET, b"X: y", b" z"),
    "a header without a name": get(HOST, *WEBSOCKET, b": y"),
    "a header without a colon": get(HOST, *WEBSOCKET, b"X"),
    "nothing": b"",
}


@pytest.mark.parametrize("case", NO_PLAIN_UPGRADE)
def test_what_is_no_plain_upgrade_is_left_to_the_parser(case: str) -> None:
    assert not is_read(NO_PLAIN_UPGRADE[case])


@given(
    at=st.integers(0, len(UPGRADE)),
    cut=st.integers(0, 3),
    put=PIECES,
)
def test_whatever_is_taken_for_a_plain_upgrade_the_parser_takes_for_one(at: int, cut: int, put: bytes) -> None:
    data = UPGRADE[:at] + put + UPGRADE[at + cut :]
    if not is_read(data):
        return
    found: list[Parsed] = []
    with pytest.raises(httptools.HttpParserUpgrade) as stopped:
        Parsed(data, found)
    names = [name for name, _ in found[0].headers]
    assert stopped.value.args[0] == len(data)
    assert (found[0].parser.get_method(), found[0].parser.get_http_version()) == (b"GET", "1.1")
    assert (names.count(b"host"), (b"upgrade", b"websocket") in [(n, v.lower()) for n, v in found[0].headers]) == (
        1,
        True,
    )
    assert not {b"content-length", b"transfer-encoding"} & set(names)
    assert b"\r\n".join(b"%b: %b" % header for header in found[0].headers).lower() in data.lower()
