import gc
import json
import logging
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

import pytest
from websockets.sync.client import connect

from node.handshake import MAX_EARLY_BYTES, Handshake
from node.limits import Limits
from node.socket import Link
from tests.support.eventually import eventually_blocking
from tests.unit.node.frame_text import CLOSE, CONTINUATION, PING, TEXT, VIOLATIONS, Frame, close, deflated, frame, text
from tests.unit.node.socket_server import IMPATIENT, LIMITS, Peer, Server, request, serving

MIB = 1 << 20


@pytest.fixture(scope="module", params=["hardened", "stock"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving(is_stock=request.param == "stock") as server:
        yield server


@pytest.fixture
def hardened() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def impatient() -> Iterator[Server]:
    with serving(IMPATIENT) as server:
        yield server


@pytest.fixture
def waiting_peer(impatient: Server, name: str) -> Iterator[Peer]:
    with Peer(impatient.port, request(f"/ws/agent/{name}")) as peer:
        yield peer.upgraded()


@pytest.fixture
def name() -> str:
    return f"{random.getrandbits(60):x}"


@pytest.fixture
def peer(server: Server, name: str) -> Iterator[Peer]:
    with Peer(server.port, request(f"/ws/agent/{name}")) as peer:
        yield peer.upgraded()


def ask(server: Server, data: bytes) -> tuple[int, bytes, bytes]:
    """Status, head and body of an answer after which the connection ends."""
    with Peer(server.port, data) as peer:
        head, _, body = peer.answer().partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head.lower()
    assert b"\r\nconnection: close" in head.lower()
    return int(head.split(b" ")[1]), head, body


def errors_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


# Handshakes


def test_a_handshake_is_answered_as_the_rfc_has_it(peer: Peer) -> None:
    assert b"\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in peer.head
    assert b"\r\nsec-websocket-protocol: agent-token\r\n" in peer.head
    assert b"extensions" not in peer.head


def test_the_app_is_told_what_was_asked(server: Server, name: str) -> None:
    with Peer(server.port, request(f"/ws/agent/{name}%20x/y?z=%20", user_agent="test")) as peer:
        peer.upgraded()
        scope = server.app.scopes[f"{name} x/y"]
    assert scope["type"] == "websocket"
    assert (scope["scheme"], scope["http_version"]) == ("ws", "1.1")
    assert (scope["raw_path"], scope["query_string"]) == (f"/ws/agent/{name}%20x/y".encode(), b"z=%20")
    assert scope["client"][0] == "127.0.0.1"
    assert scope["subprotocols"] == ["agent-token", "good"]
    assert (b"user-agent", b"test") in scope["headers"]


def test_tcp_is_told_to_be_quick_and_not_to_wait_for_ever(server: Server, peer: Peer, name: str) -> None:
    sock = server.link(name)._transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == LIMITS.unacknowledged_s * 1000


def test_an_app_refuses_with_an_answer_of_its_own(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    status, head, body = ask(server, request("/ws/agent/none"))
    assert (status, body) == (404, b'{"code":1003,"error":"unknown agent"}')
    assert b"content-type: application/json" in head
    assert b"retry-after: 5" in head
    assert not errors_of(caplog)


@pytest.mark.parametrize(
    ("data", "status", "code", "header"),
    [
        (request("/nowhere"), 404, 1003, b""),
        (request("/hi"), 404, 1003, b""),
        (request(method="PUT"), 405, 1002, b"allow: GET"),
        (request(sec_websocket_version="8"), 426, 1002, b"sec-websocket-version: 13"),
        (request(sec_websocket_version=None), 426, 1002, b"sec-websocket-version: 13"),
        (request(sec_websocket_key="short"), 400, 1002, b""),
        (request(sec_websocket_key=None), 400, 1002, b""),
        (request(host=None), 400, 1002, b""),
    ],
    ids=["path", "path of HTTP", "method", "version", "no version", "key", "no key", "no host"],
)
def test_what_is_no_handshake_is_refused_and_told_why(
    server: Server, data: bytes, status: int, code: int, header: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    answered, head, body = ask(server, data)
    assert answered == status
    assert json.loads(body)["code"] == code
    assert json.loads(body)["error"]
    assert header in head
    assert not errors_of(caplog)


def test_who_is_refused_before_the_app_hears_of_it_is_counted(hardened: Server) -> None:
    for data in (request("/ws/agent/none"), request(sec_websocket_key="short"), request(method="PUT")):
        ask(hardened, data)
    assert hardened.refused == ["malformed", "malformed"]


def test_who_is_refused_because_it_took_too_long_is_counted(impatient: Server) -> None:
    ask(impatient, request("/ws/agent/hang"))
    assert impatient.refused == ["timeout"]


def test_a_refusal_survives_what_is_still_unread(server: Server) -> None:
    status, _, _ = ask(server, request("/ws/agent/none") + b"\x00" * 300_000)
    assert status == 404


@pytest.mark.parametrize(
    ("offer", "is_taken"),
    [("permessage-deflate; client_max_window_bits", True), ("permessage-deflate; server_max_window_bits=9", False)],
)
def test_deflate_is_agreed_on_when_offered_well(server: Server, offer: str, is_taken: bool) -> None:
    with Peer(server.port, request(sec_websocket_extensions=offer)) as peer:
        answer = b"sec-websocket-extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        assert (answer in peer.upgraded().head) is is_taken


def test_deflate_may_be_switched_off() -> None:
    offering = request(sec_websocket_extensions="permessage-deflate")
    with serving(Limits(deflate=False)) as server, Peer(server.port, offering) as peer:
        assert b"extensions" not in peer.upgraded().head
        peer.send(frame(TEXT, deflated(b"a"), rsv=4))
        assert peer.close_code() == 1002


def test_an_app_that_takes_too_long_is_answered_for(impatient: Server, caplog: pytest.LogCaptureFixture) -> None:
    status, _, body = ask(impatient, request("/ws/agent/hang"))
    assert (status, json.loads(body)["code"]) == (503, 1001)
    eventually_blocking(lambda: impatient.uvicorn.server_state.tasks)
    assert not errors_of(caplog)


@pytest.mark.parametrize(
    ("kind", "is_raised"), [("raise", True), ("noattach", False), ("accepts", True), ("answered", True)]
)
def test_an_app_that_fails_is_500_and_logged_once(
    server: Server, kind: str, is_raised: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Also one that accepts in another way than with a session, or does when it has begun to refuse."""
    status, _, body = ask(server, request(f"/ws/agent/{kind}"))
    assert (status, json.loads(body)["code"]) == (500, 1001)
    assert [record.exc_info is not None for record in errors_of(caplog)] == [is_raised]


@pytest.mark.parametrize("kind", ["after", "closes"])
def test_an_app_that_fails_after_accepting_is_1011_and_logged_once(
    server: Server, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Peer(server.port, request(f"/ws/agent/{kind}")) as peer:
        assert peer.upgraded().close_code() == 1011
    assert len(errors_of(caplog)) == 1


def test_frames_that_come_before_the_101_are_kept(server: Server, name: str) -> None:
    server.do(server.app.gate.clear)
    with Peer(server.port, request(f"/ws/agent/slow-{name}")) as peer:
        eventually_blocking(lambda: f"slow-{name}" not in server.app.entered)
        peer.send(text(b"1"), text(b"2")[:3])
        eventually_blocking(lambda: not any(early_bytes(server)) and "nothing has come")
        server.do(server.app.gate.set)
        peer.upgraded().send(text(b"2")[3:])
        assert [peer.frame().payload for _ in range(2)] == [b"1", b"2"]


def test_frames_sent_together_with_the_handshake_are_kept(hardened: Server) -> None:
    with Peer(hardened.port, request() + text(b"early") + text(b"more")) as peer:
        assert [peer.upgraded().frame().payload for _ in range(1)] == [b"early"]
        assert peer.frame().payload == b"more"


def early_bytes(server: Server) -> list[int]:
    found = list(server.uvicorn.server_state.connections)
    return [len(each._early) for each in found if isinstance(each, Handshake)]


def test_what_is_kept_of_a_flood_before_the_101_is_bounded(hardened: Server) -> None:
    with Peer(hardened.port, request("/ws/agent/slow")) as peer:
        eventually_blocking(lambda: "slow" not in hardened.app.entered)
        flood = text(b"a" * 60_000) * 400
        peer.socket.settimeout(0.3)
        with suppress(TimeoutError):
            peer.send(flood)
        assert max(early_bytes(hardened)) <= MAX_EARLY_BYTES + 256 * 1024  # one read over it


def test_a_peer_that_leaves_amid_the_handshake_ends_its_session_too(hardened: Server) -> None:
    with Peer(hardened.port, request("/ws/agent/slow")):
        eventually_blocking(lambda: "slow" not in hardened.app.entered)
    eventually_blocking(lambda: hardened.uvicorn.server_state.connections)
    hardened.do(hardened.app.gate.set)
    session = hardened.session("slow")
    eventually_blocking(lambda: session.lost != 1)
    assert session.link is not None
    assert not session.link.is_open


# Messages


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, MIB, 8 * MIB])
def test_messages_of_all_lengths_come_back(peer: Peer, size: int) -> None:
    peer.send(text(b"a" * size))
    assert peer.frame() == Frame(0x81, b"a" * size)


def test_many_frames_in_one_segment_are_answered_in_order(peer: Peer) -> None:
    peer.send(*(text(b"%d" % number) for number in range(1000)))
    assert [peer.frame().payload for _ in range(1000)] == [b"%d" % number for number in range(1000)]


def test_frames_may_come_byte_by_byte(peer: Peer) -> None:
    for byte in text(b"hello" * 40) + frame(PING, b"p") + frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"z"):
        peer.send(bytes((byte,)))
    assert [peer.frame() for _ in range(3)] == [Frame(0x81, b"hello" * 40), Frame(0x8A, b"p"), Frame(0x81, b"z")]


def test_a_library_of_others_gets_along_with_us(server: Server) -> None:
    url = f"ws://127.0.0.1:{server.port}/ws/agent/library"
    with connect(url, subprotocols=["agent-token", "good"]) as client:  # type: ignore[list-item]
        assert client.subprotocol == "agent-token"
        assert client.protocol.extensions
        for number in range(100):
            client.send(f"m{number}\u00e4" * 30)
            assert client.recv() == f"m{number}\u00e4" * 30
        assert client.ping().wait(2)
    assert client.close_code == 1000


# Ends


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_a_violation_is_answered_with_its_code(server: Server, peer: Peer, name: str, violation: str) -> None:
    data, code = VIOLATIONS[violation]
    peer.send(text(b"first"))
    assert peer.frame().payload == b"first"
    peer.send(data)
    assert peer.close_code() == code
    peer.socket.close()
    session = server.session(name)
    eventually_blocking(lambda: session.lost != 1)
    assert session.messages == [b"first"]


@pytest.mark.parametrize(
    ("said", "code"),
    [(close(1000, b"bye"), 1000), (close(4000), 4000), (frame(CLOSE), None), (text(b"bye") + close(4403), 4403)],
    ids=["1000", "4000", "empty", "ours"],
)
def test_a_close_is_answered(peer: Peer, said: bytes, code: int | None) -> None:
    peer.send(said)
    assert peer.close_code() == code


def test_a_close_frame_survives_what_is_still_unread(peer: Peer) -> None:
    peer.send(frame(2, b"x") + b"\x00" * 300_000)
    assert peer.close_code() == 1003


def test_a_session_that_fails_is_1011_and_logged_once(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    peer.send(text(b"boom"), text(b"after"))
    assert peer.close_code() == 1011
    assert len(errors_of(caplog)) == 1


def test_a_silent_peer_is_pinged_and_kept(peer: Peer) -> None:
    assert [peer.any_frame() for _ in range(3)] == [Frame(0x89, b"")] * 3
    peer.send(text(b"still here"))
    assert peer.frame().payload == b"still here"


def test_a_peer_that_never_answers_a_close_is_dropped(peer: Peer) -> None:
    peer.send(text(b"bye"))
    assert peer.frame().code == 4403
    assert peer.rest() == b""


def test_a_reset_is_noticed(server: Server, peer: Peer, name: str) -> None:
    session = server.session(name)
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.socket.close()
    eventually_blocking(lambda: session.lost != 1)
    assert session.link is not None
    assert session.link.close_code == 1006


def test_a_flood_that_nobody_reads_is_cut_at_once(server: Server, peer: Peer, name: str) -> None:
    peer.send(text(b"flood400"))
    session = server.session(name)
    eventually_blocking(lambda: session.lost != 1)
    assert session.link is not None
    assert session.link.close_code == 4413


def test_a_large_frame_that_nobody_reads_is_cut_in_time(impatient: Server, waiting_peer: Peer, name: str) -> None:
    session, link = impatient.session(name), impatient.link(name)
    impatient.do(link.send, b"a" * (8 * MIB))
    assert not link.writable
    eventually_blocking(lambda: session.lost != 1)
    assert link.close_code == 4413


def test_a_large_frame_that_is_read_arrives_whole(server: Server, peer: Peer, name: str) -> None:
    server.do(server.link(name).send, b"a" * (8 * MIB))
    assert peer.frame() == Frame(0x81, b"a" * (8 * MIB))
    eventually_blocking(lambda: not server.link(name).writable)


def test_a_pause_keeps_the_rest_and_what_comes_after_it(server: Server, peer: Peer, name: str) -> None:
    link = server.link(name)
    peer.send(text(b"1"), text(b"pause"), text(b"2"), text(b"3"))
    assert peer.frame().payload == b"1"
    eventually_blocking(lambda: not link._intake.holds and "not paused")
    peer.send(text(b"4"))
    assert server.session(name).messages == [b"1", b"pause"]
    server.do(link.resume)
    assert [peer.frame().payload for _ in range(3)] == [b"2", b"3", b"4"]


def test_a_pause_beyond_its_patience_is_1011(waiting_peer: Peer) -> None:
    waiting_peer.send(text(b"pause"), text(b"a"))
    assert waiting_peer.close_code() == 1011


# The server


def test_a_stop_says_1012_to_all_and_503_to_newcomers() -> None:
    slow = request("/ws/agent/slow")
    with serving() as server, Peer(server.port, request()) as peer, Peer(server.port, slow) as newcomer:
        peer.upgraded()
        eventually_blocking(lambda: "slow" not in server.app.entered)
        server.uvicorn.should_exit = True
        assert peer.frame().code == 1012
        peer.send(close(1012))
        assert peer.rest() == b""
        assert newcomer.answer().startswith(b"HTTP/1.1 503 ")


def test_a_stop_is_not_held_up_by_peers_that_say_nothing() -> None:
    with serving() as server:
        peers = [Peer(server.port, request()).upgraded() for _ in range(10)]
        server.stop()
        for peer in peers:
            assert peer.close_code() == 1012
            peer.socket.close()


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def living(server: Server) -> list[object]:
    """The handshakes and links of this server."""
    found = gc.get_objects()
    links = [each for each in found if type(each) is Link and each.wheel is server.wheel]
    return [*links, *(each for each in found if type(each) is Handshake and each._wheel is server.wheel)]


def test_nothing_is_left_behind_not_even_for_the_collector(
    impatient: Server, no_collector: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Of handshakes accepted, refused, failed and abandoned, and of links that ended in every way."""
    for logger in ("node.handshake", "node.socket"):
        caplog.set_level(logging.CRITICAL, logger)  # a record that is captured keeps the frames of its traceback
    paths = ["/ws/agent/a", "/ws/agent/none", "/ws/agent/raise", "/ws/agent/noattach", "/ws/agent/hang", "/nowhere"]
    endings = [close(1000), text(b"bye"), text(b"boom"), frame(2), b""]
    for path in paths:
        for ending in endings:
            with Peer(impatient.port, request(path)) as peer, suppress(ConnectionError):
                if path == "/ws/agent/a":
                    peer.upgraded()
                peer.send(ending)
    state = impatient.uvicorn.server_state
    eventually_blocking(lambda: len(state.connections) + len(state.tasks))
    impatient.app.sessions.clear()
    eventually_blocking(lambda: len(living(impatient)))
    assert impatient.wheel.room.held_bytes == 0
    assert not impatient.wheel._watched
