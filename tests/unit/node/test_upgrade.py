import pytest

from node import upgrade
from node.upgrade import Refusal

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, 1.3
GOOD = {
    b"host": b"example.org",
    b"upgrade": b"websocket",
    b"connection": b"keep-alive, Upgrade",
    b"sec-websocket-key": KEY,
    b"sec-websocket-version": b"13",
}


def head(target: bytes = b"/ws", method: bytes = b"GET", **changed: bytes | None) -> bytes:
    """A head with these headers, `None` leaves one out."""
    headers = GOOD | {name.replace("_", "-").encode(): value for name, value in changed.items()}
    lines = [method + b" " + target + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in headers.items() if value is not None]
    return b"\r\n".join(lines)


def refused(request: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        upgrade.read_upgrade(request)
    return caught.value


def test_a_handshake_is_read() -> None:
    request = upgrade.read_upgrade(head(b"/ws/agent/a%20b?x=1"))
    assert (request.path, request.raw_path, request.query) == ("/ws/agent/a b", b"/ws/agent/a%20b", b"x=1")
    assert (b"host", b"example.org") in request.headers
    assert request.key == KEY


def test_an_absolute_target_is_read() -> None:
    assert upgrade.read_upgrade(head(b"http://example.org/ws")).path == "/ws"


@pytest.mark.parametrize("value", [b"agent-token,t0k3n", b"agent-token, t0k3n", b" agent-token ,,t0k3n,"])
def test_subprotocols_come_in_order_and_without_blanks(value: bytes) -> None:
    request = upgrade.read_upgrade(head(sec_websocket_protocol=value))
    assert request.subprotocols() == ["agent-token", "t0k3n"]


def test_no_subprotocol_is_fine() -> None:
    assert upgrade.read_upgrade(head()).subprotocols() == []


def test_deflate_is_found_among_extensions() -> None:
    assert upgrade.read_upgrade(head(sec_websocket_extensions=b"foo, permessage-deflate")).offers_deflate()
    assert not upgrade.read_upgrade(head(sec_websocket_extensions=b"foo")).offers_deflate()


def test_another_method_is_405_and_told_which_is_allowed() -> None:
    refusal = refused(head(method=b"POST"))
    assert refusal.status == 405
    assert (b"allow", b"GET") in refusal.headers


@pytest.mark.parametrize("version", [None, b"8", b"13, 8", b""])
def test_another_version_is_426_and_told_which_is_spoken(version: bytes | None) -> None:
    refusal = refused(head(sec_websocket_version=version))
    assert refusal.status == 426
    assert (b"sec-websocket-version", b"13") in refusal.headers


@pytest.mark.parametrize("key", [None, b"", b"short", KEY[:-1], KEY + b"=", b"dGhlIHNhbXBsZSBub25jZQ!!", b"\xff" * 24])
def test_a_key_that_is_not_16_bytes_in_base64_is_400(key: bytes | None) -> None:
    assert refused(head(sec_websocket_key=key)).status == 400


def test_two_keys_are_400() -> None:
    assert refused(head() + b"\r\nsec-websocket-key: " + KEY).status == 400


def test_a_missing_or_doubled_host_is_400() -> None:
    assert refused(head(host=None)).status == 400
    assert refused(head() + b"\r\nhost: other").status == 400


def test_a_body_is_400() -> None:
    assert refused(head(content_length=b"5")).status == 400
    assert refused(head(transfer_encoding=b"chunked")).status == 400
    assert upgrade.read_upgrade(head(content_length=b"0")).path == "/ws"


@pytest.mark.parametrize("target", [b"", b"*", b"ws", b"/\xff", b"http://"])
def test_a_target_without_a_readable_path_is_400(target: bytes) -> None:
    assert refused(head(target)).status == 400


def test_the_answer_proves_that_the_key_was_read() -> None:
    answer = upgrade.switching(KEY, "agent-token", deflated=False)
    assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
    assert b"\r\nsec-websocket-protocol: agent-token\r\n" in answer
    assert b"extensions" not in answer
    assert answer.endswith(b"\r\n\r\n")


def test_the_answer_to_deflate_names_both_sides() -> None:
    answer = upgrade.switching(KEY, None, deflated=True)
    assert b"permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n" in answer
    assert b"sec-websocket-protocol" not in answer


def test_a_refusal_frames_its_own_body() -> None:
    answer = upgrade.refusal(599, [(b"Content-Length", b"7"), (b"Connection", b"keep-alive"), (b"x", b"y")], b"body")
    assert answer == b"HTTP/1.1 599 Unknown\r\nx: y\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody"
