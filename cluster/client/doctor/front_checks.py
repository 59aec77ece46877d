"""Checks of the path from outside: what agents and the control plane meet on their way here, through whatever proxies stand in it.

A handshake is made against `/ws/probe`, which a node accepts for anybody and which does nothing: its 101, with the right
Sec-WebSocket-Accept and the node's own first message behind it, cannot come from anyone who did not let the upgrade pass. No agent is
registered: that message tells what a registration that came the same way would be told to dial.
"""

import asyncio
import http.client
import json
import socket
import ssl
import time
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus, WebSocketException

from cluster.client.doctor.finding import Finding, broken, ok, unchecked, warning
from cluster.client.doctor.patient import Patient
from cluster.client.doctor.web import LONGEST_S, Answer, connection_to, context, parts_of, why

DAY_S = 86_400
NEAR_DAYS = 21
PING_S = 20.0  # what is silent for so long is pinged by the node; a Go agent beats as often
ENOUGH_S = 22.0
NOBODY = "/api/agents/00000000-0000-4000-8000-000000000000/tasks/batch"
_UPGRADE_FIX = (
    "let the proxy pass WebSockets: nginx proxy_http_version 1.1, proxy_set_header Upgrade $http_upgrade and"
    " Connection upgrade; the whole is in deploy/"
)
_IDLE_FIX = "raise it above 20 s, better 90: HAProxy timeout tunnel, nginx proxy_read_timeout of /ws/, idle timeout of a cloud's"


async def certificate(patient: Patient) -> Finding:
    """Valid for this name, for long enough."""
    parts = parts_of(patient.url)
    if parts.scheme != "https":
        return unchecked(f"{patient.url} is without TLS")
    try:
        left_s = await asyncio.to_thread(_left_s, parts.hostname or "", parts.port or 443)
    except ssl.SSLCertVerificationError as error:
        return broken(
            why(error),
            "renew it, for this name and with its whole chain; or let this machine trust who signed it (SSL_CERT_FILE)",
        )
    except (OSError, ValueError) as error:
        return broken(why(error), "give --url as agents dial it, and see that what speaks TLS there is up")
    says = f"valid for {parts.hostname}, {left_s / DAY_S:.0f} days more"
    return (
        warning(says, "renew it: agents stay away from the day on which it ends")
        if left_s < NEAR_DAYS * DAY_S
        else ok(says)
    )


def _left_s(host: str, port: int) -> float:
    with (
        socket.create_connection((host, port), LONGEST_S) as plain,
        context().wrap_socket(plain, server_hostname=host) as wrapped,
    ):
        told = wrapped.getpeercert() or {}
    return ssl.cert_time_to_seconds(str(told["notAfter"])) - time.time()


async def upgrade(patient: Patient) -> Finding:
    """A WebSocket reaches a node."""
    try:
        hello = await _hello(patient)
    except InvalidStatus as error:
        return _refused(error.response.status_code, bytes(error.response.body or b""))
    except InvalidMessage:
        return broken("the handshake is answered with what is no HTTP/1.1", _UPGRADE_FIX)
    except ConnectionClosed:
        return broken("the upgrade is accepted, and nothing of the node comes behind it", _UPGRADE_FIX)
    except (OSError, WebSocketException, TimeoutError, ValueError) as error:
        return broken(
            f"no WebSocket to {patient.url}: {why(error)}", "look whether the server runs, and whether --url is right"
        )
    return ok(f"a WebSocket reaches a node, which answers ({hello.get('type', '?')})")


async def _hello(patient: Patient) -> dict[str, object]:
    """What a node says to whoever dials the probe. Raises: OSError, WebSocketException, TimeoutError, ValueError."""
    async with asyncio.timeout(3 * LONGEST_S), await _dialled(patient) as socket:
        hello = json.loads(await socket.recv())
    return hello if isinstance(hello, dict) else {}


def _refused(status: int, body: bytes) -> Finding:
    says = f"the handshake is answered with {status}"
    error = str(Answer(body=body).object.get("error", ""))
    match status:
        case 503:
            return broken(f"{says} ({error or 'no reason'})", "start a node, and let /ws/ be routed to nodes")
        case 404 if error == "no such path":
            return unchecked("the node that answers is too old for this check; the upgrade itself reached it")
        case 404 | 405 | 426 | 400:
            return broken(f"{says}, as a plain request is: the upgrade is stripped on its way", _UPGRADE_FIX)
    return broken(f"{says}, not by a node", _UPGRADE_FIX)


async def idle(patient: Patient) -> Finding:
    """How long a silent connection lives. An agent and its node say something every 15 to 20 s."""
    if not patient.idle_s:
        return unchecked(
            f"--idle-s {ENOUGH_S:g} holds a connection idle for so long, which is when nodes ping and agents have beaten"
        )
    try:
        async with asyncio.timeout(3 * LONGEST_S):
            socket = await _dialled(patient)
    except (OSError, WebSocketException, TimeoutError):
        return unchecked("no WebSocket could be opened")
    async with socket:
        began_s = time.monotonic()
        is_alive = await _survives(socket, patient.idle_s)
        lived_s = time.monotonic() - began_s
    if not is_alive:
        return broken(
            f"an idle connection is cut after {lived_s:.1f} s; agents are heard every 15 to 20 s, so it is cut again and again",
            _IDLE_FIX,
        )
    if patient.idle_s < ENOUGH_S:
        return warning(
            f"an idle connection lives for {patient.idle_s:g} s; more was not tried", f"try --idle-s {ENOUGH_S:g}"
        )
    return ok(f"an idle connection lives for {patient.idle_s:g} s, and the node's ping at {PING_S:g} s keeps it")


async def _survives(socket: ClientConnection, idle_s: float) -> bool:
    try:
        await socket.recv()  # the node's hello
        try:
            async with asyncio.timeout(idle_s):
                await socket.recv()
        except TimeoutError:
            async with asyncio.timeout(LONGEST_S):
                await (await socket.ping())
            return True
    except (ConnectionClosed, TimeoutError):
        return False
    return True


async def ws_url(patient: Patient) -> Finding:
    """What a registration that comes this way is told to dial."""
    try:
        hello = await _hello(patient)
    except (OSError, WebSocketException, TimeoutError, ValueError):
        return unchecked("no WebSocket reaches a node that would tell")
    said = str(hello.get("ws_url", ""))
    parts, told = parts_of(patient.url), urlsplit(said)
    wanted = "wss" if parts.scheme == "https" else "ws"
    if told.scheme != wanted:
        return broken(
            f"agents that register over {parts.scheme} are told to dial {told.scheme}://{told.netloc}",
            "let the proxy set X-Forwarded-Proto, and name it in server.trusted_proxies; or set server.public_url",
        )
    if not patient.settings.server.public_url and told.netloc != parts.netloc:
        return warning(
            f"agents are told to dial {told.netloc}, and came to {parts.netloc}",
            "let the proxy keep Host (or set X-Forwarded-Host, trusted), or set server.public_url",
        )
    return ok(f"agents are told to dial {told.scheme}://{told.netloc}{told.path.partition('/ws/')[0]}")


async def body_limit(patient: Patient) -> Finding:
    """A request as large as server.max_body is taken. It is announced and never sent."""
    size = patient.settings.server.max_body_bytes
    try:
        status = await asyncio.to_thread(_announced, patient.url, size)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return unchecked(why(error))
    if status == 413:
        return broken(
            f"a request of {size >> 10} KiB, which server.max_body allows, is refused with 413 on its way",
            "raise the proxy's limit: nginx client_max_body_size 16m; or lower server.max_body to it",
        )
    return ok(f"a request of {size >> 10} KiB is not refused for its size")


def _announced(url: str, size: int) -> int:
    """The first status that a request of this size is answered with: 100, when its body is wanted."""
    parts = parts_of(url)
    connection = connection_to(parts, is_trusted=False)
    try:
        connection.putrequest("POST", parts.path + NOBODY, skip_accept_encoding=True)
        for name, value in (
            ("Content-Type", "application/json"),
            ("Content-Length", str(size)),
            ("Expect", "100-continue"),
        ):
            connection.putheader(name, value)
        connection.endheaders()
        with connection.sock.makefile("rb") as lines:
            return int(lines.readline(200).split(b" ", 2)[1])
    except IndexError:
        raise ValueError("no HTTP") from None
    except TimeoutError:  # it waits for the body, and says nothing: it would take it
        return 100
    finally:
        connection.close()


async def _dialled(patient: Patient) -> ClientConnection:
    parts = parts_of(patient.url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    return await connect(
        f"{scheme}://{parts.netloc}{parts.path}/ws/probe",
        compression=None,
        proxy=None,
        open_timeout=2 * LONGEST_S,
        close_timeout=1.0,
        ping_interval=None,
        ssl=context(is_trusted=False) if scheme == "wss" else None,
    )
