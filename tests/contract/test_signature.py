"""Section 2: signed calls, where `auth.require_signature` asks for them (here with a clock skew of 60 s)."""

import hashlib
import hmac
import json
import time
from collections.abc import Mapping

import pytest

from tests.contract.clusters import SECRET
from tests.contract.gateway import Gateway, error_of, found_in, log, new_task_id, new_token
from tests.support.http_client import Response

pytestmark = pytest.mark.asyncio(loop_scope="session")

NOBODY = "00000000-0000-4000-8000-000000000000"


def signature(method: str, path: str, body: bytes = b"", timestamp: str = "", secret: str = SECRET) -> dict[str, str]:
    """As protocol.md spells it; `path` is what is signed."""
    timestamp = timestamp or str(int(time.time()))
    text = f"{timestamp}\n{method}\n{path}\n".encode() + body
    return {"X-Timestamp": timestamp, "X-Signature": hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()}


async def signed_call(gateway: Gateway, method: str, path: str, body: object = None) -> Response:
    raw = b"" if body is None else json.dumps(body).encode()
    return await gateway.call(method, path, raw, signature(method, path, raw))


CALLS = [
    ("GET", "/api/agents", None),
    ("GET", "/api/agents/{}", None),
    ("POST", "/api/agents/{}/tasks", {"id": "t1"}),
    ("POST", "/api/agents/{}/tasks/batch", [{"id": "t2"}]),
    ("POST", "/api/agents/{}/tasks/t1/cancel", None),
    ("POST", "/api/agents/{}/tasks/cancel/batch", {"task_ids": ["t1"]}),
    ("POST", "/api/agents/{}/control", {"action": "restart"}),
    ("POST", "/api/agents/{}/upgrade", {"target_version": "1", "download_url": "u"}),
    ("GET", "/api/nodes", None),
    ("POST", "/api/nodes/n9/drain", {}),
    ("POST", "/api/nodes/n9/undrain", None),
    ("POST", "/api/nodes/n9/move", {"agents": 1}),
    ("GET", "/api/self", None),
    ("GET", "/api/metrics", None),
    ("POST", "/api/self/control", {"action": "stop"}),
    ("POST", "/api/self/upgrade", {}),
    ("DELETE", "/api/agents/{}", None),
]


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(("method", "path", "body"), CALLS)
async def test_a_call_needs_a_signature(signed: Gateway, method: str, path: str, body: object, slash: str) -> None:
    """Over the path with its slash as it was sent."""
    token = new_token()
    agent = (await signed.call("POST", "/api/agents/register", {"token": token})).json()
    assert isinstance(agent, dict)
    await signed.dial(f"ws://127.0.0.1:{signed.port}/ws/agent/{agent['id']}", ["agent-token", token])
    path = path.replace("{}", agent["id"]) + slash
    error_of(await signed.call(method, path, body), 403, 1002)
    other_slash = path.rstrip("/") + ("" if slash else "/")
    raw = b"" if body is None else json.dumps(body).encode()
    error_of(await signed.call(method, path, raw, signature(method, other_slash, raw)), 403, 1002)
    answer = await signed_call(signed, method, path, body)
    otherwise = {"/api/self/control": 400, "/api/self/upgrade": 501}
    assert answer.status == (404 if "/n9/" in path else otherwise.get(path.rstrip("/"), 200)), answer


async def test_an_unknown_path_is_refused_before_it_is_looked_for(signed: Gateway) -> None:
    error_of(await signed.call("GET", "/nowhere"), 403, 1002)
    error_of(await signed_call(signed, "GET", "/nowhere"), 404, 1003)


async def test_registration_and_websocket_are_not_signed(signed: Gateway) -> None:
    for path in ("/api/agents/register", "/api/agents/register/"):
        token = new_token()
        answer = await signed.call("POST", path, {"token": token})
        assert answer.status == 200
        agent = answer.json()
        assert isinstance(agent, dict)
        socket = await signed.dial(f"ws://127.0.0.1:{signed.port}/ws/agent/{agent['id']}", ["agent-token", token])
        await socket.send(json.dumps(log("m1", "1_1_1_x", "line")))
        assert json.loads(await socket.recv()) == {"type": "ack", "ack_id": "m1"}


PATH = "/api/agents/"
GOOD = "the good one"


def headers_of(case: str) -> Mapping[str, str]:
    now = int(time.time())
    good = signature("GET", PATH)
    cases = {
        GOOD: good,
        "59 s ago": signature("GET", PATH, timestamp=str(now - 50)),
        "in 59 s": signature("GET", PATH, timestamp=str(now + 50)),
        "nothing": {},
        "no timestamp": {"X-Signature": good["X-Signature"]},
        "no signature": {"X-Timestamp": good["X-Timestamp"]},
        "empty": {"X-Timestamp": "", "X-Signature": ""},
        "upper-case hex": good | {"X-Signature": good["X-Signature"].upper()},
        "cut": good | {"X-Signature": good["X-Signature"][:-1]},
        "longer": good | {"X-Signature": good["X-Signature"] + "0"},
        "no hex": good | {"X-Signature": "z" * 64},
        "not ASCII": good | {"X-Signature": "é" * 32},
        "another secret": signature("GET", PATH, secret="another"),
        "another method": signature("POST", PATH),
        "another path": signature("GET", PATH + "x"),
        "another body": signature("GET", PATH, b"body"),
        "another time": good | {"X-Timestamp": str(now - 1)},
        "70 s ago": signature("GET", PATH, timestamp=str(now - 70)),
        "in 70 s": signature("GET", PATH, timestamp=str(now + 70)),
        "milliseconds": signature("GET", PATH, timestamp=str(now * 1000)),
        "a float": signature("GET", PATH, timestamp=f"{now}.0"),
        "a sign": signature("GET", PATH, timestamp=f"+{now}"),
        "a word": signature("GET", PATH, timestamp="now"),
        "other digits": signature("GET", PATH, timestamp="\u0661\u0662"),
        "4,000 digits": signature("GET", PATH, timestamp="9" * 4000),
    }
    return {name: value.encode().decode("latin-1") for name, value in cases[case].items()}


@pytest.mark.parametrize("case", [GOOD, "59 s ago", "in 59 s"])
async def test_a_good_signature_is_taken_within_the_clock_skew(signed: Gateway, case: str) -> None:
    assert (await signed.call("GET", PATH, headers=headers_of(case))).status == 200


@pytest.mark.parametrize(
    "case",
    [
        *("nothing", "no timestamp", "no signature", "empty", "upper-case hex", "cut", "longer", "no hex", "not ASCII"),
        *("another secret", "another method", "another path", "another body", "another time"),
        *("70 s ago", "in 70 s", "milliseconds", "a float", "a sign", "a word", "other digits", "4,000 digits"),
    ],
)
async def test_a_bad_signature_is_403_with_one_line_why(signed: Gateway, case: str) -> None:
    error = error_of(await signed.call("GET", PATH, headers=headers_of(case)), 403, 1002)
    assert SECRET not in error


async def test_the_body_is_signed(signed: Gateway) -> None:
    path, body = f"/api/agents/{NOBODY}/tasks", b'{"id": "x"}'
    assert (await signed.call("POST", path, body, signature("POST", path, body))).status == 404
    for other in (b"", b'{"id": "y"}', body + b" "):
        error_of(await signed.call("POST", path, other, signature("POST", path, body)), 403, 1002)


async def test_the_query_is_not_signed(signed: Gateway) -> None:
    assert (await signed.call("GET", PATH + "?limit=1", headers=signature("GET", PATH))).status == 200
    error_of(await signed.call("GET", PATH + "?limit=1", headers=signature("GET", PATH + "?limit=1")), 403, 1002)


@pytest.mark.parametrize(("sent", "plain"), [("a%20b%2Fc", "a b/c"), ("%C3%A4", "ä"), ("a%252Fb", "a%2Fb")])
async def test_the_path_is_signed_percent_decoded(signed: Gateway, sent: str, plain: str) -> None:
    for path, status in ((plain, 404), (sent, 403)):
        headers = signature("POST", f"/api/agents/{NOBODY}/tasks/{path}/cancel")
        answer = await signed.call("POST", f"/api/agents/{NOBODY}/tasks/{sent}/cancel", headers=headers)
        assert answer.status == status, answer


async def test_a_refused_call_has_no_effect(signed: Gateway) -> None:
    token, task_id = new_token(), new_task_id()
    agent = (await signed.call("POST", "/api/agents/register", {"token": token})).json()
    assert isinstance(agent, dict)
    path = f"/api/agents/{agent['id']}"
    for method, call, body in (("POST", "/tasks", b'{"id": "%b"}' % task_id.encode()), ("DELETE", "", b"")):
        error_of(await signed.call(method, path + call, body, signature("PUT", path + call, body)), 403, 1002)
    error_of(await signed_call(signed, "POST", f"{path}/tasks/{task_id}/cancel"), 404, 1003)
    assert (await signed_call(signed, "GET", path)).status == 200


async def test_the_secret_is_never_printed_or_stored(signed: Gateway) -> None:
    outputs = [signed.cluster.stdout, signed.cluster.stderr]
    assert not [path for path in outputs if SECRET in path.read_text()]
    assert not found_in(signed.cluster.folder / "data", [SECRET])
