"""How the Go agent registers, and what it understands of the answer.

Its token travels as `Authorization: Bearer`, none in the body. It reads an id only from a 200 of type application/json.
"""

import msgspec

from tests.support.agent_options import Identity
from tests.support.http_client import HttpClient, NoAnswer, Response

PATH = "/api/agents/register/"


class Outcome(msgspec.Struct, frozen=True):
    """What it knows afterwards: nothing, when the registration failed. Status 0: no answer, and why."""

    agent_id: str = ""
    ws_url: str = ""
    status: int = 0
    error: str = ""


class _Answer(msgspec.Struct):
    id: str | None = None
    ws_url: str | None = None


async def register(me: Identity, *, timeout_s: float, source_ip: str = "") -> Outcome:
    """One attempt."""
    client = HttpClient(me.base_url, source_ip=source_ip or None)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {me.token}"}
    try:
        answer = await client.request("POST", PATH, body=_body(me), headers=headers, timeout_s=timeout_s)
    except NoAnswer as error:
        return Outcome(error=str(error))
    return _understood(answer)


def _body(me: Identity) -> bytes:
    system = {"hostname": me.name, "os": "linux", "arch": "amd64", "ips": ["127.0.0.1"]}
    body: dict[str, object] = {"name": me.name, "labels": me.labels, "system": system}
    return msgspec.json.encode(body | ({"host_id": me.host_id} if me.host_id else {}))


def _understood(answer: Response) -> Outcome:
    media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if answer.status != 200 or media_type != "application/json":
        return Outcome(status=answer.status, error=answer.body.decode(errors="replace"))
    try:
        known = msgspec.json.decode(answer.body, type=_Answer)
    except msgspec.MsgspecError as error:
        return Outcome(status=answer.status, error=str(error))
    return Outcome(known.id or "", known.ws_url or "", answer.status)
