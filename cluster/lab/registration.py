"""`POST /api/agents/register/`: tells the server who we are, and learns where to connect.

Blocks: for a thread. Rules: the token travels in the Authorization header, which follows no redirect; a server that made a token tells
it once, and it is ours from then on. Whatever goes wrong is `Trouble`: come back later.
"""

import contextlib
import urllib.error
from typing import Any

import msgspec

from cluster.lab import calls, vitals, wire
from cluster.lab.options import AgentOptions
from cluster.lab.trouble import Trouble
from cluster.messages import MALFORMED

PATH = "/api/agents/register/"
_MOST_BYTES = 1 << 20


class Registered(msgspec.Struct, frozen=True):
    """What the server answers. `token`: only where it made one."""

    id: str
    ws_url: str
    token: str | None = None


def register(options: AgentOptions, token: str) -> Registered:
    """One attempt. Raises: Trouble."""
    secrets = {"Authorization": f"Bearer {token}"} if token else {}
    call = calls.request(options.url.rstrip("/") + PATH, secrets, wire.encode(_body(options)))
    try:
        with calls.opener(follows_redirects=False).open(call, timeout=options.timings.register_s) as answer:
            registered = msgspec.json.decode(answer.read(_MOST_BYTES), type=Registered)
    except urllib.error.HTTPError as error:
        raise _refused(error) from None
    except (*calls.FAILURES, *MALFORMED) as error:
        raise Trouble(f"registration: {calls.failure(error, options.url)}") from None
    if not token and not registered.token:
        raise Trouble("registration: the server made no token")
    return registered


def _body(options: AgentOptions) -> dict[str, Any]:
    body = {"name": options.name, "labels": options.labels, "system": vitals.identity(options.url)}
    return body | ({"host_id": options.host_id} if options.host_id else {})


def _refused(error: urllib.error.HTTPError) -> Trouble:
    body = b""
    with error, contextlib.suppress(*calls.FAILURES):
        body = error.read(_MOST_BYTES)
    return Trouble(
        f"registration: {wire.refusal(error.code, body)}",
        retry_after_s=calls.retry_after_s(error.headers),
        is_barred=error.code == 403,
    )
