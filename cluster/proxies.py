"""Who the client is and how it reached us, when trusted proxies stand between: addresses, schemes and hosts from X-Forwarded-*.

Owns the rule whom to believe, and the base of the WebSocket URLs that agents are told to dial. Knows no framework: plain ASGI.
Rules: a header of a peer that is not trusted changes nothing; of a list, the entry that the nearest trusted proxy wrote counts (the
rightmost), as everything to the left of it may have been sent by the client; a value that makes no sense is as good as none.
"""

import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import lru_cache
from typing import Any

from cluster.errors import BadInput, ConfigError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PEERS = 1024  # that are remembered: control planes and proxies are few, and ask often

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Headers = list[tuple[bytes, bytes]]

# RFC 3986, 3.2: a name or an address in brackets, and a port. No user, no percent-encoding; names also with `_`, as in containers.
_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,255})(?::(?P<port>[0-9]{1,5}))?")
_HOST6 = re.compile(r"\[(?P<name>[0-9A-Fa-f:.]{2,45})\](?::(?P<port>[0-9]{1,5}))?")
_BASE_URL = re.compile(r"(?P<scheme>[A-Za-z]+)://(?P<host>[^/?#]+)(?P<path>[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)")
_IS_SECURE = {"http": False, "ws": False, "https": True, "wss": True}


class TrustedProxies:
    """ASGI middleware: rewrites client, scheme and host of what comes through a trusted proxy."""

    def __init__(self, app: App, trusted: Iterable[str]) -> None:
        """`trusted` are addresses or networks. Raises: ConfigError."""
        self._app = app
        self._networks = [_network(text) for text in trusted]
        self._trusts_peer = lru_cache(PEERS)(lambda peer: self._trusts(_address(peer)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection or request."""
        await self._app(self.seen(scope), receive, send)

    def seen(self, scope: Scope) -> Scope:
        """The scope, as it is to be believed."""
        if scope["type"] in ("http", "websocket") and self._trusts_peer(_peer(scope)):
            return {**scope, **self._forwarded(scope)}
        return scope

    def _trusts(self, address: _Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)

    def _forwarded(self, scope: Scope) -> dict[str, Any]:
        """What of the scope is to be replaced."""
        headers: _Headers = list(scope["headers"])
        changed: dict[str, Any] = {}
        if (client := self._client(_entries(headers, b"x-forwarded-for"))) is not None:
            changed["client"] = (str(client), 0)
        is_secure = _IS_SECURE.get(_last(_entries(headers, b"x-forwarded-proto")).lower())
        if is_secure is not None:
            changed["scheme"] = ("ws" if scope["type"] == "websocket" else "http") + ("s" if is_secure else "")
        host = _last(_entries(headers, b"x-forwarded-host"))
        if _is_host(host):
            changed["headers"] = [(b"host", host.encode()), *(item for item in headers if item[0] != b"host")]
        return changed

    def _client(self, hops: list[str]) -> _Address | None:
        """The first hop, from our end, that is not a trusted proxy; the farthest when all are."""
        found = None
        for hop in reversed(hops):
            address = _address(_without_port(hop))
            if address is None:
                break
            found = address
            if not self._trusts(address):
                break
        return found


def public_ws_base(scope: Scope, public_url: str) -> str:
    """What to put before the path of a WebSocket URL: "ws://host[:port]", "wss://...", with the path prefix of `public_url`, if any.

    `public_url` wins when it is set; else it is the scheme and Host of the request. Raises: BadInput, ConfigError.
    """
    if public_url:
        return _configured_base(public_url)
    return ("wss://" if _IS_SECURE[scope["scheme"]] else "ws://") + _requested_host(scope)


def _configured_base(public_url: str) -> str:
    found = _BASE_URL.fullmatch(public_url)
    is_secure = _IS_SECURE.get(found["scheme"].lower()) if found else None
    if found is None or is_secure is None or not _is_host(found["host"]):
        raise ConfigError("server.public_url: expected http(s):// or ws(s)://, a host, and at most a port and a path")
    return ("wss://" if is_secure else "ws://") + found["host"] + found["path"].rstrip("/")


def _requested_host(scope: Scope) -> str:
    host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
    if not host and scope.get("server"):  # HTTP/1.0 may leave it out
        host = _authority(*scope["server"])
    if not _is_host(host):
        raise BadInput("Host is not a host name or address with an optional port")
    return host


def _authority(name: str, port: int | None) -> str:
    bracketed = f"[{name}]" if ":" in name else name
    return bracketed if port is None else f"{bracketed}:{port}"


def _is_host(text: str) -> bool:
    """Whether this can stand in a URL as its host and port."""
    found = _HOST.fullmatch(text) or _HOST6.fullmatch(text)
    if found is None or int(found["port"] or 0) > 65535:
        return False
    return found.re is _HOST or _address(found["name"]) is not None


def _entries(headers: _Headers, name: bytes) -> list[str]:
    """The entries of a comma-separated header, over all its lines."""
    lines = [value.decode("latin-1") for key, value in headers if key == name]
    return [entry.strip() for line in lines for entry in line.split(",")]


def _last(entries: list[str]) -> str:
    return entries[-1] if entries else ""


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _without_port(hop: str) -> str:
    """Some proxies append the client's port: `192.0.2.1:4711`, `[2001:db8::1]:4711`."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _address(text: str) -> _Address | None:
    """An address, as IPv4 when it is one that a dual-stack socket shows as IPv6. A zone (`%eth0`) says nothing to others."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _network(text: str) -> _Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(f"server.trusted_proxies: {text!r} is neither an address nor a network") from None
