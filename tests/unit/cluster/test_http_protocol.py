"""Real uvicorn servers in threads, raw sockets as clients: what the HTTP protocol takes, refuses, and when it loses patience."""

import asyncio
import contextlib
import functools
import gc
import logging
import re
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self, cast

import msgspec
import pytest
import uvicorn
import uvloop

from cluster.exchange import Exchange
from cluster.http_protocol import BodyBudget, HttpLimits, HttpProtocol, Shortcut
from tests.support.eventually import eventually_blocking

HOST = b"Host: test\r\n"
LIMITS = HttpLimits(
    max_body_bytes=1_000_000,
    head_timeout_s=0.4,
    body_timeout_s=0.4,
    idle_timeout_s=0.6,
    write_stall_s=0.4,
    max_pipelined=8,
)
PATIENT = replace(LIMITS, write_stall_s=5)
LARGE_ANSWER = b"x" * 32_000_000
TOLD_OF_THE_END: list[str] = []
TAKEN: set[asyncio.Task[None]] = set()
USER_TIMEOUTS: list[int] = []


async def application(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    """Tells what it got."""
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    if scope["path"] == "/slow":
        await asyncio.sleep(0.1)
    if scope["path"] == "/wait":
        TOLD_OF_THE_END.append((await receive())["type"])
        return
    headers = [f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in scope["headers"]]
    told = {
        "path": scope["path"],
        "type": message["type"],
        "size": len(body),
        "end": body[-8:].decode(),
        "headers": headers,
    }
    answer = LARGE_ANSWER if scope["path"] == "/large" else msgspec.json.encode(told)
    length = (b"content-length", b"%d" % len(answer))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": answer})


class TellUpgrade(asyncio.Protocol):
    """In the place of uvicorn's WebSocket protocol: sends back what it was given, in brackets, and closes."""

    def __init__(self, config: uvicorn.Config, server_state: Any, app_state: dict[str, Any]) -> None:
        self.state = server_state

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        USER_TIMEOUTS.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"[" + data + b"]")
        asyncio.get_running_loop().call_later(0.1, self.transport.close)


class Served:
    """A uvicorn server in a thread of its own, and what it complained of."""

    def __init__(
        self,
        limits: HttpLimits = LIMITS,
        *,
        bodies: BodyBudget | None = None,
        ws: Any = TellUpgrade,
        shortcut: Shortcut | None = None,
        loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
    ) -> None:
        self.protocols: weakref.WeakSet[HttpProtocol] = weakref.WeakSet()
        self.complaints: list[str] = []
        bound = socket.create_server(("127.0.0.1", 0))
        self.listener = socket.socket(fileno=bound.detach())  # says that it is TCP, for which asyncio sets TCP_NODELAY
        self.port = self.listener.getsockname()[1]
        http = functools.partial(self._protocol, limits=limits, bodies=bodies, shortcut=shortcut)
        self.server = uvicorn.Server(
            uvicorn.Config(application, http=http, ws=ws, lifespan="off", log_config=None, access_log=False)  # type: ignore[arg-type]
        )
        self.loop = loop()
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(str(context)))
        self._log = _Complaints(self.complaints)
        self._thread = threading.Thread(target=self._run)

    def _protocol(self, *args: Any, **kwargs: Any) -> HttpProtocol:
        protocol = HttpProtocol(*args, **kwargs)
        self.protocols.add(protocol)
        return protocol

    def _run(self) -> None:
        self.loop.run_until_complete(self.server.serve(sockets=[self.listener]))
        self.loop.close()

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    def ask(self, question: Callable[[], object]) -> object:
        """Asks within the server's thread."""

        async def asked() -> object:
            return question()

        return asyncio.run_coroutine_threadsafe(asked(), self.loop).result(5)

    def __enter__(self) -> Self:
        logging.getLogger("uvicorn.error").addHandler(self._log)
        self._thread.start()
        eventually_blocking(lambda: not self.server.started and "not started")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        assert not self.complaints

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(10)
        logging.getLogger("uvicorn.error").removeHandler(self._log)
        assert not self._thread.is_alive()


class _Complaints(logging.Handler):
    def __init__(self, complaints: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.complaints = complaints

    def emit(self, record: logging.LogRecord) -> None:
        self.complaints.append(record.getMessage())


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


def answers_in(data: bytes) -> list[Answer]:
    """All whole responses; informational ones have no body."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(re.fullmatch(r"HTTP/1\.1 (\d\d\d) .*", first)[1])  # type: ignore[index]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = int(headers.get("content-length", 0))
        found.append(Answer(status, headers, data[:size]))
        data = data[size:]
    return found


class Client(socket.socket):
    """A raw connection."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self.settimeout(5)
        self.connect(("127.0.0.1", served.port))

    def say(self, *pieces: bytes) -> None:
        """Sends them one by one; a server that has hung up is no news."""
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                self.sendall(piece)
                if len(pieces) > 1:
                    time.sleep(0.004)

    def hear(self) -> bytes:
        """All until the server closes."""
        heard = b""
        while data := self.recv(1 << 20):
            heard += data
        return heard

    def hear_answer(self) -> Answer:
        """One answer, and not a byte more."""
        heard = b""
        while not heard.endswith(b"\r\n\r\n"):
            heard += self._some(1)
        size = int((re.search(rb"content-length: (\d+)", heard) or [b"", b"0"])[1])
        body = bytearray()
        while len(body) < size:
            body += self._some(min(1 << 20, size - len(body)))
        return answers_in(heard + body)[0]

    def _some(self, size: int) -> bytes:
        data = self.recv(size)
        assert data, "closed amid an answer"
        return data


def talk(served: Served, *pieces: bytes) -> list[Answer]:
    with Client(served) as client:
        client.say(*pieces)
        return answers_in(client.hear())


def get(path: str = "/", *lines: bytes) -> bytes:
    return b"GET %s HTTP/1.1\r\n%s%s\r\n" % (path.encode(), HOST, b"".join(line + b"\r\n" for line in lines))


def post(body: bytes, *lines: bytes) -> bytes:
    lines = lines or (b"Content-Length: %d" % len(body),)
    return b"POST / HTTP/1.1\r\n%s%s\r\n%s" % (HOST, b"".join(line + b"\r\n" for line in lines), body)


def chunked(*chunks: bytes) -> bytes:
    return post(b"".join(chunks), b"Transfer-Encoding: chunked")


LAST = b"Connection: close"
WEBSOCKET = (b"Connection: Upgrade", b"Upgrade: websocket")


def take_everything(exchange: Exchange) -> bool:
    """A shortcut that answers as the application does."""
    task = asyncio.get_running_loop().create_task(exchange._cycle.run_asgi(cast("Any", application)))
    TAKEN.add(task)
    task.add_done_callback(TAKEN.discard)
    return True


@pytest.fixture(scope="module", params=[None, take_everything, lambda _: False], ids=["app", "shortcut", "declined"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with Served(shortcut=request.param) as server:
        yield server


@pytest.fixture(scope="module", params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def served_by_any_loop(request: pytest.FixtureRequest) -> Iterator[Served]:
    with Served(loop=request.param) as server:
        yield server


@dataclass(frozen=True)
class Bad:
    name: str
    request: bytes
    status: int


MALFORMED = [
    Bad("content-length and chunked", post(b"0\r\n\r\n", b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400),
    Bad("chunked and content-length", post(b"0\r\n\r\n", b"Transfer-Encoding: chunked", b"Content-Length: 5"), 400),
    Bad("two lengths", post(b"abc", b"Content-Length: 3", b"Content-Length: 4"), 400),
    Bad("two equal lengths", post(b"abc", b"Content-Length: 3", b"Content-Length: 3"), 400),
    Bad("a list of lengths", post(b"abc", b"Content-Length: 3, 3"), 400),
    Bad("a signed length", post(b"abc", b"Content-Length: +3"), 400),
    Bad("a negative length", post(b"abc", b"Content-Length: -3"), 400),
    Bad("an endless length", post(b"abc", b"Content-Length: " + b"9" * 40), 400),
    Bad("a blank before the colon", post(b"abc", b"Content-Length : 3"), 400),
    Bad("a chunk size in words", chunked(b"three\r\nabc\r\n"), 400),
    Bad("a chunk longer than its size", chunked(b"2\r\nabc\r\n0\r\n\r\n"), 400),
    Bad("an endless chunk size", chunked(b"f" * 40 + b"\r\n"), 400),
    Bad("chunks ended by LF", chunked(b"3\nabc\n0\n\n"), 400),
    Bad("another coding", post(b"", b"Transfer-Encoding: gzip"), 400),
    Bad("another coding below chunked", post(b"0\r\n\r\n", b"Transfer-Encoding: gzip, chunked"), 400),
    Bad("chunked twice", post(b"0\r\n\r\n", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
    Bad("chunked in HTTP/1.0", b"POST / HTTP/1.0\r\n%sTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % HOST, 400),
    Bad("NUL in a value", get("/", b"A: b\0c"), 400),
    Bad("NUL in a name", get("/", b"A\0: b"), 400),
    Bad("NUL in the path", get("/\0"), 400),
    Bad("a byte over 127 in the path", b"GET /\xff HTTP/1.1\r\n%s\r\n" % HOST, 400),
    Bad("CR in a value", get("/", b"A: b\rX: c"), 400),
    Bad("LF alone", b"GET / HTTP/1.1\nHost: test\n\n", 400),
    Bad("LF alone behind a header", b"GET / HTTP/1.1\r\nHost: test\nA: b\r\n\r\n", 400),
    Bad("a folded header", get("/", b"A: b", b" c"), 400),
    Bad("HTTP/0.9", b"GET /\r\n\r\n", 400),
    Bad("HTTP/0.9 by name", b"GET / HTTP/0.9\r\n%s\r\n" % HOST, 400),
    Bad("HTTP/2.0 by name", b"GET / HTTP/2.0\r\n%s\r\n" % HOST, 400),
    Bad("HTTP/2 at once", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    Bad("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    Bad("no host", b"GET / HTTP/1.1\r\nA: b\r\n\r\n", 400),
    Bad("two hosts", get("/", b"Host: other"), 400),
    Bad("two hosts in HTTP/1.0", b"GET / HTTP/1.0\r\n%s%s\r\n" % (HOST, HOST), 400),
    Bad(
        "an upgrade of HTTP/1.0",
        b"GET /ws/ HTTP/1.0\r\n%sConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" % HOST,
        400,
    ),
    Bad("an upgrade with a body", post(b"abc", *WEBSOCKET, b"Content-Length: 3"), 400),
    Bad("an upgrade with chunks", post(b"0\r\n\r\n", *WEBSOCKET, b"Transfer-Encoding: chunked"), 400),
    Bad("CONNECT", b"CONNECT test:80 HTTP/1.1\r\n%s\r\n" % HOST, 400),
    Bad("an unknown method", b"BREW / HTTP/1.1\r\n%s\r\n" % HOST, 400),
    Bad("a header without a colon", get("/", b"nothing"), 400),
    Bad("a length over the limit", post(b"", b"Content-Length: 1000001"), 413),
    Bad("chunks over the limit", chunked(*[b"10000\r\n" + b"x" * 0x10000 + b"\r\n"] * 17), 413),
]

TOO_LARGE = [
    Bad("a path over 8 KiB", get("/" + "a" * 8192), 414),
    Bad("a query over 8 KiB", get("/?" + "a" * 8192), 414),
    Bad("a header over 8 KiB", get("/", b"A: " + b"b" * 8192), 431),
    Bad("a header's name over 8 KiB", get("/", b"A" * 8192 + b": b"), 431),
    Bad("101 headers", get("/", *[b"A: b"] * 100), 431),
    Bad("50,000 headers", get("/", *[b"A: b"] * 50_000), 431),
    Bad("a head over 16 KiB", get("/", *[b"A: " + b"b" * 4000] * 5), 431),
    Bad("a header of 4 MB", get("/", b"A: " + b"b" * 4_000_000), 431),
    Bad("a path without an end", b"GET /" + b"a" * 9000, 414),
    Bad("a header without an end", b"GET / HTTP/1.1\r\nA: " + b"b" * 9000, 431),
    Bad("a header whose end is not known yet", b"GET / HTTP/1.1\r\nA: " + b"b" * 9000 + b"\r\n", 431),
    Bad(
        "a head without an end",
        b"GET / HTTP/1.1\r\n" + b"A: bbbbbb\r\n" * 99 + (b"B: " + b"c" * 8000 + b"\r\n") * 2,
        431,
    ),
    Bad("blanks without an end", b"GET  " + b" " * 20_000, 431),
    Bad("a chunk extension without an end", chunked(b"1;a=" + b"b" * 600_000), 431),
    Bad("a trailer without an end", chunked(b"0\r\n", b"A: " + b"b" * 600_000), 431),
    Bad("trailers without an end", chunked(b"0\r\n", b"A: b\r\n" * 100_000), 431),
]

AS_UPGRADE = [
    replace(bad, request=bad.request.replace(b"\r\n", b"\r\n" + b"\r\n".join(WEBSOCKET) + b"\r\n", 1))
    for bad in TOO_LARGE[:7]
]


def name_of(bad: Bad) -> str:
    return bad.name


def assert_refused(answer: Answer, status: int) -> None:
    assert answer.status == status
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"code": {408: 1004}.get(status, 1002), "error": answer.json()["error"]}
    assert answer.json()["error"]


@pytest.mark.parametrize("bad", [*MALFORMED, *TOO_LARGE], ids=name_of)
def test_what_is_no_request_of_ours_is_refused_and_closed_within_a_second(served_by_any_loop: Served, bad: Bad) -> None:
    began = time.monotonic()
    answers = talk(served_by_any_loop, bad.request)
    assert time.monotonic() - began < 1
    assert_refused(answers[0], bad.status)
    assert len(answers) == 1


@pytest.mark.parametrize("bad", AS_UPGRADE, ids=name_of)
def test_an_upgrades_head_is_judged_before_it_is_passed_on(served: Served, bad: Bad) -> None:
    assert_refused(talk(served, bad.request)[0], bad.status)


@pytest.mark.parametrize("bad", TOO_LARGE[:10], ids=name_of)
def test_a_head_that_comes_in_pieces_is_judged_as_one(served: Served, bad: Bad) -> None:
    size = 3_000
    pieces = [bad.request[at : at + size] for at in range(0, min(len(bad.request), 30_000), size)]
    assert_refused(talk(served, *pieces)[0], bad.status)


def test_the_largest_head_is_taken(served: Served) -> None:
    largest = get("/" + "a" * 8191, b"A: " + b"b" * 7900, LAST)
    assert len(largest) < 16_400
    assert talk(served, largest)[0].status == 200
    pieces = [largest[at : at + 997] for at in range(0, len(largest), 997)]
    assert talk(served, *pieces)[0].status == 200


def test_a_hundred_headers_are_taken(served: Served) -> None:
    assert talk(served, get("/", *[b"A: b"] * 98, LAST))[0].status == 200


def test_http_1_0_may_leave_the_host_out(served: Served) -> None:
    assert talk(served, b"GET / HTTP/1.0\r\n\r\n")[0].status == 200


def test_a_refusal_survives_the_input_that_nobody_reads(served_by_any_loop: Served) -> None:
    with Client(served_by_any_loop) as client:
        client.say(post(b"", b"Content-Length: 50000000") + b"x" * 3_000_000)
        assert_refused(answers_in(client.hear())[0], 413)


def test_a_body_too_large_is_refused_before_it_is_asked_for(served: Served) -> None:
    answers = talk(served, post(b"", b"Content-Length: 1000001", b"Expect: 100-continue"))
    assert [answer.status for answer in answers] == [413]


def test_a_body_is_asked_for_when_the_client_expects_it(served: Served) -> None:
    with Client(served) as client:
        client.say(post(b"", b"Content-Length: 5", b"Expect: 100-continue", LAST))
        assert client.hear_answer().status == 100
        client.say(b"hello")
        assert client.hear_answer().json()["end"] == "hello"


def test_the_largest_body_is_taken_however_it_comes(served_by_any_loop: Served) -> None:
    body = b"x" * 1_000_000
    assert talk(served_by_any_loop, post(body, b"Content-Length: 1000000", LAST))[0].json()["size"] == 1_000_000
    pieces = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
    assert talk(served_by_any_loop, post(b"", b"Content-Length: 1000000", LAST), *pieces)[0].json()["size"] == 1_000_000
    chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
    lines = (b"Transfer-Encoding: chunked", LAST)
    assert talk(served_by_any_loop, post(b"", *lines), *chunks, b"0\r\n\r\n")[0].json()["size"] == 1_000_000


def test_trailers_are_no_headers(served: Served) -> None:
    lines = (b"Transfer-Encoding: chunked", LAST)
    told = talk(served, post(b"1;a=b\r\nx\r\n0\r\nHost: evil\r\nX-Signature: y\r\n\r\n", *lines))[0].json()
    assert told["headers"] == ["host: test", "transfer-encoding: chunked", "connection: close"]


def test_a_silent_connection_is_closed(served: Served) -> None:
    with Client(served) as client:
        began = time.monotonic()
        assert client.hear() == b""
        assert 0.3 < time.monotonic() - began < 1


@pytest.mark.parametrize("start", [b"GET /a", b"GET / HTTP/1.1\r\nHost: test\r\nA", b"GET / HTTP/1.1\r\nHost: te"])
def test_a_trickled_head_is_refused_in_time(served: Served, start: bytes) -> None:
    with Client(served) as client:
        began = time.monotonic()
        client.say(start)
        for _ in range(3):
            time.sleep(0.1)
            client.say(b"x")
        assert_refused(answers_in(client.hear())[0], 408)
        assert time.monotonic() - began < 1


def test_a_single_byte_of_a_head_is_refused_in_time(served: Served) -> None:
    assert_refused(talk(served, b"G")[0], 408)


def test_empty_lines_do_not_keep_a_connection(served: Served) -> None:
    with Client(served) as client:
        began = time.monotonic()
        client.say(*[b"\r\n"] * 50)
        assert client.hear() == b""
        assert time.monotonic() - began < 1


def test_an_idle_connection_is_closed_later_than_a_silent_one(served: Served) -> None:
    with Client(served) as client:
        client.say(get())
        assert client.hear_answer().status == 200
        began = time.monotonic()
        assert client.hear() == b""
        assert 0.5 < time.monotonic() - began < 1.2


def test_a_trickled_head_on_a_used_connection_has_its_own_time(served: Served) -> None:
    with Client(served) as client:
        client.say(get())
        client.hear_answer()
        time.sleep(0.2)
        began = time.monotonic()
        client.say(b"GET / HT")
        assert_refused(answers_in(client.hear())[0], 408)
        assert 0.3 < time.monotonic() - began < 1


@pytest.mark.parametrize(
    "request_", [post(b"abc", b"Content-Length: 9"), chunked(b"3\r\nabc\r\n")], ids=["length", "chunked"]
)
def test_a_body_that_does_not_come_is_refused_in_time(served_by_any_loop: Served, request_: bytes) -> None:
    began = time.monotonic()
    assert_refused(talk(served_by_any_loop, request_)[0], 408)
    assert 0.3 < time.monotonic() - began < 1


def test_a_body_that_keeps_coming_gets_its_time() -> None:
    with Served(replace(LIMITS, body_timeout_s=0.2, min_body_bytes_per_s=100_000)) as served, Client(served) as client:
        client.say(post(b"", b"Content-Length: 100000", LAST))
        for _ in range(10):
            time.sleep(0.05)
            client.say(b"x" * 10_000)
        assert client.hear_answer().json()["size"] == 100_000


def test_a_client_that_ends_early_is_told(served: Served) -> None:
    with Client(served) as client:
        client.say(post(b"abc", b"Content-Length: 9"))
        client.shutdown(socket.SHUT_WR)
        assert_refused(answers_in(client.hear())[0], 400)


def test_a_client_that_leaves_amid_its_body_is_forgotten_without_a_word(served: Served) -> None:
    for _ in range(20):
        client = Client(served)
        client.say(post(b"x" * 100_000, b"Content-Length: 900000"))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    eventually_blocking(lambda: served.connections, 2)
    assert not served.complaints


@pytest.mark.parametrize("behind", [b"", get("/slow")], ids=["alone", "with another behind it"])
def test_the_running_application_is_told_that_its_client_has_left(served: Served, behind: bytes) -> None:
    TOLD_OF_THE_END.clear()
    with Client(served) as client:
        client.say(get("/wait") + behind)
        time.sleep(0.05)
    eventually_blocking(lambda: TOLD_OF_THE_END != ["http.disconnect"] and "not told")


def test_pipelined_requests_are_answered_in_order(served_by_any_loop: Served) -> None:
    answers = talk(
        served_by_any_loop, get("/slow") + post(b"two") + get("/3") + chunked(b"1\r\n4\r\n0\r\n\r\n") + get("/5", LAST)
    )
    assert [(answer.json()["path"], answer.json()["end"]) for answer in answers] == [
        ("/slow", ""),
        ("/", "two"),
        ("/3", ""),
        ("/", "4"),
        ("/5", ""),
    ]


def test_a_pipelined_body_may_come_later(served: Served) -> None:
    with Client(served) as client:
        client.say(get("/slow") + post(b"he", b"Content-Length: 5", LAST), b"llo")
        assert [answer.json()["end"] for answer in answers_in(client.hear())] == ["", "hello"]


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (post(b"", b"Content-Length: 1000001"), 413),
        (chunked(b"x\r\n"), 400),
        (get("/" + "a" * 9000), 414),
        (get("/ws/x", *WEBSOCKET), 400),
        (b"GET / HTTP/2.0\r\n%s\r\n" % HOST, 400),
    ],
)
def test_a_refusal_waits_for_the_answers_before_it(served: Served, bad: bytes, status: int) -> None:
    answers = talk(served, get("/slow") + post(b"two") + bad + get("/never"))
    assert [answer.status for answer in answers] == [200, 200, status]
    assert answers[1].json()["end"] == "two"


def test_too_many_pipelined_requests_are_refused(served: Served) -> None:
    answers = talk(served, get("/slow") + get() * 30)
    assert [answer.status for answer in answers] == [200] * 9 + [400]


def test_an_upgrade_that_is_not_on_offer_is_ignored(served: Served) -> None:
    lines = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: x")
    with Client(served) as client:
        client.say(post(b"body", *lines, b"Content-Length: 4") + get("/next", LAST))
        assert [answer.json()["end"] for answer in answers_in(client.hear())] == ["body", ""]
    assert "websocket" not in talk(served, get("/", *lines, LAST))[0].json()["headers"]


def test_an_upgrade_goes_on_with_the_bytes_behind_it(served_by_any_loop: Served) -> None:
    with Client(served_by_any_loop) as client:
        client.say(get("/ws/x?y", *WEBSOCKET) + b"early")
        head = b"GET /ws/x?y HTTP/1.1\r\nhost: test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"
        assert client.hear() == b"[" + head + b"][early]"


def test_an_upgraded_connection_is_no_longer_watched(served: Served) -> None:
    with Client(served) as client:
        client.say(get("/ws/x", *WEBSOCKET))
        client.recv(1000)
        assert served.connections == 0


def test_without_websockets_their_upgrade_is_a_request_like_any_other() -> None:
    with Served(ws="none") as served:
        assert talk(served, get("/ws/x", *WEBSOCKET, b"A: b"), get("/", LAST))[0].json()["path"] == "/ws/x"


def stalled(served: Served) -> Client:
    client = Client(served)
    client.say(get("/large", LAST))
    eventually_blocking(lambda: served.connections != 1 and "nothing is sent")
    return client


def test_a_client_that_does_not_read_is_cut_off(served_by_any_loop: Served) -> None:
    with stalled(served_by_any_loop):
        eventually_blocking(lambda: served_by_any_loop.connections, 2)


def test_a_client_that_does_not_read_is_cut_off_without_the_kernels_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpProtocol, "_set_user_timeout", lambda *_: None)
    with Served() as served, stalled(served):
        eventually_blocking(lambda: served.connections, 2)


def test_a_client_that_does_not_read_does_not_keep_the_server() -> None:
    with Served() as served, stalled(served):
        began = time.monotonic()
        served.stop()
        assert time.monotonic() - began < 2


def test_a_client_that_reads_slowly_gets_all() -> None:
    with Served(replace(LIMITS, write_stall_s=1)) as served, stalled(served) as client:
        heard = 0
        while data := client.recv(1 << 20):
            heard += len(data)
            time.sleep(0.04)
        assert heard > len(LARGE_ANSWER)


def test_a_connection_is_not_idle_while_its_answer_is_read() -> None:
    with Served(replace(LIMITS, write_stall_s=2, idle_timeout_s=0.4)) as served, Client(served) as client:
        client.say(get("/large"))
        time.sleep(0.6)
        client.hear_answer()
        client.say(get("/", LAST))
        assert client.hear_answer().status == 200


def user_timeouts(served: Served) -> set[int]:
    sockets = [protocol.transport.get_extra_info("socket") for protocol in served.protocols if protocol._timer]
    return {sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) for sock in sockets}


def test_the_kernel_knows_the_deadline_of_a_large_answer_until_an_upgrade() -> None:
    USER_TIMEOUTS.clear()
    with Served(PATIENT) as served, Client(served) as client:
        client.say(get("/large"))
        eventually_blocking(lambda: served.ask(lambda: user_timeouts(served)) != {5000} and "not set")
        client.hear_answer()
        client.say(get("/ws/x", *WEBSOCKET))
        client.hear()
    assert USER_TIMEOUTS == [0]


def test_no_timer_is_left_of_a_request() -> None:
    with Served(loop=asyncio.new_event_loop) as served, Client(served) as client:
        for _ in range(200):
            client.say(get())
            client.hear_answer()
        timers = served.ask(lambda: len(served.loop._scheduled))  # type: ignore[attr-defined]
        assert isinstance(timers, int)
        assert timers < 8


@pytest.mark.parametrize(
    "last",
    [
        get("/", LAST),
        b"nonsense\r\n\r\n",
        post(b"x" * 99_000, b"Content-Length: 1000001"),
        post(b"x", b"Content-Length: 9"),
    ],
    ids=["answered", "refused", "too large", "late"],
)
def test_nothing_is_kept_of_a_connection(served: Served, last: bytes) -> None:
    talk(served, last)
    eventually_blocking(lambda: served.connections)
    served.ask(gc.disable)
    try:
        talk(served, last)
        eventually_blocking(lambda: served.connections or served.ask(lambda: len(served.protocols)), 2)
    finally:
        served.ask(gc.enable)


def test_large_bodies_share_a_budget() -> None:
    budget = BodyBudget(1_500_000)
    large = post(b"x" * 900_000, b"Content-Length: 1000000")
    with Served(bodies=budget) as served, Client(served) as first, Client(served) as second:
        first.say(large)
        eventually_blocking(lambda: budget.held_bytes < 800_000 and budget.held_bytes)
        second.say(large)
        refused = second.hear_answer()
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        first.say(b"x" * 100_000)
        assert first.hear_answer().json()["size"] == 1_000_000
        eventually_blocking(lambda: budget.held_bytes)


def test_who_holds_an_answer_knows_when_nobody_waits_for_it_any_more() -> None:
    held: list[Exchange] = []

    def hold(exchange: Exchange) -> bool:
        held.append(exchange)
        return True

    with Served(shortcut=hold) as served:

        def is_gone() -> bool:
            return asyncio.run_coroutine_threadsafe(held[0].is_gone(), served.loop).result(5)

        with Client(served) as client:
            client.say(post(b"a"))
            eventually_blocking(lambda: not held)
            assert not is_gone()
        eventually_blocking(lambda: not is_gone() and "still there")
