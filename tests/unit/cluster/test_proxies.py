"""Whom the cluster believes about a client, and what it tells agents to dial."""

from collections.abc import MutableMapping
from typing import Any

import pytest

from cluster.errors import BadInput, ConfigError
from cluster.proxies import TrustedProxies, public_ws_base

Headers = list[tuple[bytes, bytes]]


async def seen(
    trusted: tuple[str, ...], peer: str | None, headers: Headers, kind: str = "http"
) -> MutableMapping[str, Any]:
    """The scope that reaches the application."""
    found: list[MutableMapping[str, Any]] = []

    async def application(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        found.append(scope)

    async def nothing(*_: Any) -> Any:
        return {}

    scope: dict[str, Any] = {
        "type": kind,
        "client": (peer, 4711) if peer else None,
        "scheme": "http" if kind == "http" else "ws",
        "headers": [(b"host", b"inner:8080"), *headers],
    }
    given = {**scope, "headers": list(scope["headers"])}
    await TrustedProxies(application, trusted)(given, nothing, nothing)
    assert given == scope  # what uvicorn keeps is not written to
    return found[0]


def forwarded_for(*lines: bytes) -> Headers:
    return [(b"x-forwarded-for", line) for line in lines]


ALL = [*forwarded_for(b"192.0.2.7"), (b"x-forwarded-proto", b"https"), (b"x-forwarded-host", b"agents.example")]


@pytest.mark.parametrize("peer", ["198.51.100.1", "10.1.0.1", "2001:db8::1", "unix", None])
async def test_a_peer_that_is_not_trusted_changes_nothing(peer: str | None) -> None:
    scope = await seen(("10.0.0.0/16", "127.0.0.1"), peer, ALL)
    assert scope["client"] == ((peer, 4711) if peer else None)
    assert (scope["scheme"], scope["headers"][0]) == ("http", (b"host", b"inner:8080"))


async def test_nobody_is_trusted_by_default() -> None:
    assert (await seen((), "127.0.0.1", ALL))["client"] == ("127.0.0.1", 4711)


@pytest.mark.parametrize("peer", ["10.0.3.4", "::ffff:10.0.3.4", "fd00::5", "127.0.0.1"])
async def test_a_trusted_peer_says_who_the_client_is(peer: str) -> None:
    scope = await seen(("10.0.0.0/16", "fd00::/8", "127.0.0.1"), peer, ALL)
    assert (scope["client"], scope["scheme"]) == (("192.0.2.7", 0), "https")
    assert [value for name, value in scope["headers"] if name == b"host"] == [b"agents.example"]


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        ([b"203.0.113.9, 192.0.2.7"], "192.0.2.7"),
        ([b"203.0.113.9, 192.0.2.7, 10.0.0.2"], "192.0.2.7"),
        ([b"203.0.113.9", b"192.0.2.7,10.0.0.2", b"10.0.0.3"], "192.0.2.7"),
        ([b"10.0.0.4, 10.0.0.3"], "10.0.0.4"),
        ([b"192.0.2.7:4711"], "192.0.2.7"),
        ([b"[2001:db8::7]:4711"], "2001:db8::7"),
        ([b"2001:db8::7"], "2001:db8::7"),
        ([b"::ffff:192.0.2.7"], "192.0.2.7"),
        ([b"192.0.2.7, unknown"], "10.0.0.1"),
        ([b"192.0.2.7, unknown, 10.0.0.2"], "10.0.0.2"),
        ([b""], "10.0.0.1"),
        ([b"<script>"], "10.0.0.1"),
        ([], "10.0.0.1"),
    ],
)
async def test_the_client_is_the_nearest_hop_that_is_not_a_trusted_proxy(lines: list[bytes], client: str) -> None:
    assert (await seen(("10.0.0.0/8",), "10.0.0.1", forwarded_for(*lines)))["client"][0] == client


@pytest.mark.parametrize(
    ("value", "kind", "scheme"),
    [
        (b"https", "http", "https"),
        (b"HTTPS", "http", "https"),
        (b"https", "websocket", "wss"),
        (b"wss", "websocket", "wss"),
        (b"wss", "http", "https"),
        (b"http", "websocket", "ws"),
        (b"https, http", "http", "http"),
        (b"gopher", "http", "http"),
        (b"", "websocket", "ws"),
    ],
)
async def test_the_scheme_is_the_nearest_proxys(value: bytes, kind: str, scheme: str) -> None:
    assert (await seen(("10.0.0.1",), "10.0.0.1", [(b"x-forwarded-proto", value)], kind))["scheme"] == scheme


@pytest.mark.parametrize("host", [b"", b"a b", b"a/b", b"user@host", b'a"b', b"host:99999", b"[::1", "hörst".encode()])
async def test_a_forwarded_host_that_makes_no_sense_is_as_good_as_none(host: bytes) -> None:
    scope = await seen(("10.0.0.1",), "10.0.0.1", [(b"x-forwarded-host", host)])
    assert (b"host", b"inner:8080") in scope["headers"]


async def test_a_lifespan_passes() -> None:
    assert (await seen(("10.0.0.1",), None, [], "lifespan"))["type"] == "lifespan"


@pytest.mark.parametrize("text", ["example.com", "10.0.0.0/33", "*", ""])
def test_trust_needs_addresses_or_networks(text: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.trusted_proxies"):
        TrustedProxies(None, [text])  # type: ignore[arg-type]


def requested(
    host: bytes | None, scheme: str = "http", server: tuple[str, int | None] | None = ("10.0.0.9", 8080)
) -> dict[str, Any]:
    return {"scheme": scheme, "headers": [(b"host", host)] if host is not None else [], "server": server}


@pytest.mark.parametrize(
    ("host", "scheme", "base"),
    [
        (b"agents.example", "http", "ws://agents.example"),
        (b"agents.example:8080", "https", "wss://agents.example:8080"),
        (b"192.0.2.1:8080", "ws", "ws://192.0.2.1:8080"),
        (b"[2001:db8::1]", "wss", "wss://[2001:db8::1]"),
        (b"[2001:db8::1]:8080", "http", "ws://[2001:db8::1]:8080"),
        (b"agent_server.internal.", "http", "ws://agent_server.internal."),
    ],
)
def test_the_base_is_what_the_client_has_reached_us_by(host: bytes, scheme: str, base: str) -> None:
    assert public_ws_base(requested(host, scheme), "") == base


def test_without_a_host_the_base_is_our_own_address() -> None:
    assert public_ws_base(requested(None), "") == "ws://10.0.0.9:8080"
    assert public_ws_base(requested(b"", server=("::1", 8080)), "") == "ws://[::1]:8080"


@pytest.mark.parametrize(
    "host",
    [
        b"a/b",
        b"a b",
        b"a@b",
        b"a?b",
        b"a#b",
        b"a\\b",
        b"a%2fb",
        b"a:b",
        b"a:",
        b"a:123456",
        b"a:65536",
        b"<a>",
        b'a"',
        b"a\r\nb",
        b"2001:db8::1",
        b"[2001:db8::1",
        b"[::1]x",
        b"[zz::1]",
        b"[1.2.3.4]:1:2",
        b"[fe80::1%25eth0]",
        b"h\xf6rst",
        b"a" * 256,
        b"a\n",
    ],
)
def test_a_host_with_no_business_in_a_url_is_refused_without_an_echo(host: bytes) -> None:
    with pytest.raises(BadInput) as caught:
        public_ws_base(requested(host), "")
    assert host.decode("latin-1") not in str(caught.value)


def test_no_host_and_no_address_is_refused() -> None:
    with pytest.raises(BadInput):
        public_ws_base(requested(None, server=None), "")


@pytest.mark.parametrize(
    ("public_url", "base"),
    [
        ("http://agents.example", "ws://agents.example"),
        ("https://agents.example/", "wss://agents.example"),
        ("HTTPS://agents.example:8443", "wss://agents.example:8443"),
        ("ws://[2001:db8::1]:8080/", "ws://[2001:db8::1]:8080"),
        ("wss://agents.example/fleet/a/", "wss://agents.example/fleet/a"),
    ],
)
def test_a_public_url_wins(public_url: str, base: str) -> None:
    assert public_ws_base(requested(b"evil/"), public_url) == base


@pytest.mark.parametrize(
    "public_url",
    [
        "agents.example",
        "ftp://a",
        "https://",
        "https://a?b",
        "https://a/#b",
        "https://u@a",
        "https://a/b c",
        "https://[a",
    ],
)
def test_a_public_url_that_is_none_is_an_error_of_the_configuration(public_url: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.public_url"):
        public_ws_base(requested(b"a"), public_url)
