"""Checks of signatures: a vector for those who write the control plane, and one real call. No secret is ever shown.

The vector's timestamp is long past: what it signs is accepted nowhere.
"""

import time
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from cluster.client.doctor.finding import Finding, broken, ok, unchecked, warning
from cluster.client.doctor.patient import Patient
from cluster.client.doctor.web import Answer, asked
from cluster.security import Signer

EXAMPLE_SECRET: Final = "example-secret"  # noqa: S105 - published, for those who compare
TIMESTAMP: Final = "1700000000"
METHOD: Final = "POST"
PATH: Final = "/api/agents/7/tasks/"
BODY: Final = b'{"id":"7_1_1_a","type":"script","command":"uptime"}'
KNOWN: Final = "20676902680c33e664eccb0949554ef13b1ee8019892783973802790ea7a1f2b"  # of EXAMPLE_SECRET


class Vector(Struct, frozen=True):
    """What is signed, and the signature."""

    timestamp: str
    method: str
    path: str
    body: str
    secret: str  # which one: never the secret itself, unless it is the published one
    signature: str


def vector_of(secret: str) -> Vector:
    """The vector under this secret; under the published one, where there is none."""
    which = "auth.shared_secret (a weak one can be guessed from this)" if secret else f"the example {EXAMPLE_SECRET!r}"
    signature = Signer(secret or EXAMPLE_SECRET, 0).sign(TIMESTAMP, METHOD, PATH, BODY)
    return Vector(TIMESTAMP, METHOD, PATH, BODY.decode(), which, signature)


async def vector(patient: Patient) -> Finding:
    """Our own arithmetic, and what another implementation has to come to."""
    if Signer(EXAMPLE_SECRET, 0).sign(TIMESTAMP, METHOD, PATH, BODY) != KNOWN:
        return broken("this build signs wrongly", "install it anew: its HMAC-SHA256 is not the standard's")
    vectors = [vector_of("")] + ([vector_of(patient.secret)] if patient.secret else [])
    details = (
        f"timestamp {TIMESTAMP}, method {METHOD}, path {PATH}",
        f"body {BODY.decode()}",
        "signed: timestamp, method, path and body, joined by line feeds; HMAC-SHA256, lower-case hex",
        *(f"under {one.secret}: {one.signature}" for one in vectors),
    )
    return ok("signs as it should; to compare with the control plane:", *details)


async def signed_call(patient: Patient) -> Finding:
    """GET /api/metrics, signed: as the control plane calls."""
    if not patient.secret:
        return await _unsigned(patient)
    good = await _called(patient, patient.secret)
    if good.error:
        return unchecked(good.error)
    if good.status == 403:
        return _refused(str(good.object.get("error", "")))
    if good.status != 200:
        return broken(
            f"a signed call is answered with {good.status}",
            "the router's log says why; is --url a router's, or the proxy's?",
        )
    wrong = await _called(patient, patient.secret + "?")
    if wrong.status == 200:
        says = "a signed call is accepted, and one with a wrong signature too: the server does not check"
        fix = "set auth.require_signature: true (and the secret) for the routers, and restart them"
        return (broken if patient.settings.auth.require_signature else warning)(says, fix)
    return ok("a signed call is accepted, one with a wrong signature refused")


async def _unsigned(patient: Patient) -> Finding:
    plain = await asked("GET", patient.url, "/api/metrics", is_trusted=False)
    if plain.status == 403:
        fix = "set AUTH_SHARED_SECRET to the server's secret, or name its settings with --config"
        return broken("the server wants signatures, and no secret is configured here", fix)
    return unchecked(plain.error or "no auth.shared_secret: calls are not signed")


async def _called(patient: Patient, secret: str) -> Answer:
    now_s = str(int(time.time()))
    path = urlsplit(patient.url).path.rstrip("/") + "/api/metrics"
    signature = Signer(secret, 0).sign(now_s, "GET", path, b"")
    heads = {"X-Timestamp": now_s, "X-Signature": signature}
    return await asked("GET", patient.url, "/api/metrics", heads, is_trusted=False)


def _refused(error: str) -> Finding:
    if "skew" in error:
        return broken(f"a signed call is refused: {error}", "set the clocks of this machine and the server")
    return broken(
        f"a signed call is refused: {error or 'no reason given'}",
        "auth.shared_secret here is not the routers' (compare the vector's signature on both), or a proxy changes path or body",
    )
