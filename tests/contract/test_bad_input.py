"""What no well-meaning client sends, through the public port: one case a row of what is refused, and how.

Everything goes to clusters that other tests use at the same time: whatever is sent here, the others must not notice.
"""

import asyncio
import json
import time
import zlib
from collections.abc import Mapping
from typing import Any

import pytest

from tests.contract.clusters import CONTROL_PLANE_TOKEN, SECRET, Clusters
from tests.contract.early import begun_early
from tests.contract.gateway import Agent, Gateway, Refused, error_of, log, new_task_id, new_token, said_by, task_result
from tests.contract.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DEFLATED,
    FIN,
    PING,
    TEXT,
    answer_to,
    asked,
    handshake,
    opened,
    request,
    text_frame,
    upgraded,
)
from tests.support.websocket_client import masked_frame

pytestmark = pytest.mark.asyncio(loop_scope="session")

KIB, MIB = 1 << 10, 1 << 20
REGISTER = "/api/agents/register"
NOBODY = "00000000-0000-4000-8000-000000000000"
CANARY = "canary-that-no-error-echoes"


async def refused(gateway: Gateway, sent: bytes, status: int) -> str:
    """The error; the connection is closed within a second of it."""
    answer, is_closed = await asked(gateway.port, sent)
    assert is_closed
    return error_of(answer, status, {408: 1004}.get(status, 1002))


# ---- HTTP: sizes

HEADS: Mapping[str, tuple[int, Mapping[str, str], str]] = {
    "a header line over 8 KiB": (431, {"X-Long": "x" * (8 * KIB)}, ""),
    "a header name over 8 KiB": (431, {"x" * (8 * KIB): "1"}, ""),
    "over 100 headers": (431, {f"X-{number}": "1" for number in range(101)}, ""),
    "a head over 16 KiB": (431, {f"X-{number}": "x" * 6 * KIB for number in range(3)}, ""),
    "a path over 8 KiB": (414, {}, "/" + "x" * 8 * KIB),
    "a query over 8 KiB": (414, {}, "/api/agents?q=" + "x" * 8 * KIB),
    "32 MiB of header": (431, {"X-Long": "x" * (32 * MIB)}, ""),
}


@pytest.mark.parametrize("case", HEADS)
async def test_a_request_with_too_large_a_head(gateway: Gateway, case: str) -> None:
    status, headers, path = HEADS[case]
    await refused(gateway, request("GET", path or "/api/agents", headers), status)


@pytest.mark.parametrize("case", HEADS)
async def test_a_handshake_with_too_large_a_head(gateway: Gateway, case: str) -> None:
    status, headers, path = HEADS[case]
    await refused(gateway, handshake(path or f"/ws/agent/{NOBODY}", headers=headers), status)


async def test_a_head_within_the_limits(gateway: Gateway) -> None:
    headers = {"X-Long": "x" * (7 * KIB), **{f"X-{number}": "1" for number in range(90)}}
    answer = await answer_to(gateway.port, request("GET", "/api/agents?q=" + "x" * (7 * KIB), headers))
    assert answer.status == 200


async def test_a_body_over_16_mib_is_refused_before_it_comes(gateway: Gateway) -> None:
    await refused(gateway, request("POST", REGISTER, {"Content-Length": str(16 * MIB + 1)}), 413)


async def test_a_body_over_server_max_body_is_refused_before_it_comes(tuned: Gateway) -> None:
    await refused(tuned, request("POST", REGISTER, {"Content-Length": str(64 * KIB + 1)}), 413)
    body = b'{"name": "' + b"x" * (64 * KIB - 12) + b'"}'
    assert len(body) == 64 * KIB
    assert (await tuned.call("POST", REGISTER, body)).status == 200


CHUNKED = b"POST /api/agents/register HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_endless_chunks_are_refused(tuned: Gateway) -> None:
    async with opened(tuned.port) as raw:
        raw.send(CHUNKED)
        answering = asyncio.create_task(raw.answer(), name="answer")
        sent = 0
        while not answering.done() and sent < 10 * MIB:
            raw.send(b"400\r\n" + b"x" * KIB + b"\r\n")
            sent += KIB
            await asyncio.sleep(0.0005)
        error_of(await answering, 413, 1002)
        await raw.ended(1.0)


async def test_a_body_that_does_not_come_is_408(tuned: Gateway) -> None:
    """`server.read_timeout` is 2 s here."""
    await refused(tuned, request("POST", REGISTER, {"Content-Length": "100"}, b'{"name"'), 408)


async def test_a_body_that_is_cut_short_is_400(gateway: Gateway) -> None:
    async with opened(gateway.port) as raw:
        raw.send(request("POST", REGISTER, {"Content-Length": "100"}, b'{"name"'))
        raw.writer.write_eof()
        error_of(await raw.answer(), 400, 1002)
        await raw.ended(1.0)


# ---- HTTP: time


@begun_early
async def test_an_idle_connection_is_closed_within_10_s(clusters: Clusters) -> None:
    async with clusters.gateway("default") as gateway, opened(gateway.port) as raw:
        began = time.monotonic()
        await raw.ended(13.0)
        assert time.monotonic() - began > 1.0


@begun_early
async def test_a_trickled_head_is_cut_within_10_s(clusters: Clusters) -> None:
    async with clusters.gateway("default") as gateway, opened(gateway.port) as raw:
        answering = asyncio.create_task(raw.answer(13.0), name="answer")
        for number in range(60):
            raw.send(b"GET /api/agents HTTP/1.1\r\nHost: x\r\nX-Slow: "[number : number + 1] or b"x")
            await asyncio.wait([answering], timeout=0.25)
            if answering.done():
                break
        error_of(await answering, 408, 1004)
        await raw.ended(1.0)


@begun_early
async def test_a_trickled_handshake_is_cut_within_10_s(clusters: Clusters) -> None:
    async with clusters.gateway("default") as gateway, opened(gateway.port) as raw:
        answering = asyncio.create_task(raw.answer(13.0), name="answer")
        raw.send(handshake(f"/ws/agent/{NOBODY}").removesuffix(b"\r\n"))
        while not answering.done():
            await asyncio.wait([answering], timeout=0.5)
            raw.send(b"x" if answering.done() else b"X-Slow: x\r\n")
        error_of(await answering, 408, 1004)


# ---- HTTP: broken

LINE, HOST, END = b"POST /api/agents/register HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n"
TWO = b'{"name": "a"}'
BROKEN = {
    "Transfer-Encoding and Content-Length": LINE
    + HOST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two Content-Lengths": LINE + HOST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "the same Content-Length twice": LINE + HOST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a Content-Length list": LINE + HOST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a negative Content-Length": LINE + HOST + b"Content-Length: -2\r\n\r\n{}",
    "a signed Content-Length": LINE + HOST + b"Content-Length: +2\r\n\r\n{}",
    "a Content-Length in hex": LINE + HOST + b"Content-Length: 0x2\r\n\r\n{}",
    "a huge Content-Length": LINE + HOST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n{}",
    "a chunk size that is none": CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    "a negative chunk size": CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n",
    "a chunk size of many digits": CHUNKED + b"f" * 20 + b"\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"2\r\n{}xx\r\n0\r\n\r\n",
    "another coding": LINE + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": LINE + HOST + b"Transfer-Encoding: magic\r\n\r\n",
    "NUL in a header": LINE + HOST + b"X-Nul: a\0b\r\n\r\n",
    "NUL in the path": b"GET /api/\0agents HTTP/1.1\r\nHost: x\r\n\r\n",
    "a blank in the path": b"GET /api/agents /x HTTP/1.1\r\nHost: x\r\n\r\n",
    "a blank before the colon": LINE + b"Host : x\r\n\r\n",
    "a folded header": LINE + HOST + b"X-Folded: a\r\n b\r\n\r\n",
    "a header without a colon": LINE + HOST + b"X-None\r\n\r\n",
    "a header without a name": LINE + HOST + b": x\r\n\r\n",
    "LF only": b"GET /api/agents HTTP/1.1\nHost: x\n\n",
    "CR only": b"GET /api/agents HTTP/1.1\rHost: x\r\r",
    "HTTP/0.9": b"GET /api/agents\r\n\r\n",
    "HTTP/2.0": b"GET /api/agents HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/1.9": b"GET /api/agents HTTP/1.9\r\nHost: x\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no Host": b"GET /api/agents HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /api/agents HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "no method": b"/api/agents HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 32,
    "noise": bytes(range(256)),
    "an upgrade in HTTP/1.0": handshake("", first_line=f"GET /ws/agent/{NOBODY} HTTP/1.0"),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_broken_http_is_400_and_closed(gateway: Gateway, case: str) -> None:
    await refused(gateway, BROKEN[case], 400)


# ---- HTTP: methods and paths


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", REGISTER, "POST"),
        ("GET", REGISTER, "POST"),
        ("DELETE", REGISTER.rstrip("/"), "POST"),
        ("PUT", "/api/agents", "GET"),
        ("POST", "/api/agents", "GET"),
        ("PATCH", f"/api/agents/{NOBODY}", "GET"),
        ("GET", f"/api/agents/{NOBODY}/tasks", "POST"),
        ("DELETE", f"/api/agents/{NOBODY}/tasks/batch", "POST"),
        ("GET", f"/api/agents/{NOBODY}/tasks/batch", "POST"),
        ("GET", f"/api/agents/{NOBODY}/tasks/x/cancel", "POST"),
        ("GET", f"/api/agents/{NOBODY}/tasks/cancel/batch", "POST"),
        ("POST", f"/api/agents/{NOBODY}/tasks/x", "GET"),
        ("GET", f"/api/agents/{NOBODY}/control/", "POST"),
        ("POST", "/api/metrics", "GET"),
        ("GET", "/api/self/control", "POST"),
    ],
)
async def test_a_wrong_method_is_405_with_allow(gateway: Gateway, method: str, path: str, allowed: str) -> None:
    answer = await gateway.call(method, path)
    error_of(answer, 405, 1002)
    assert allowed in answer.headers["allow"].replace(" ", "").split(",")


async def test_one_path_allows_both_of_its_methods(gateway: Gateway) -> None:
    answer = await gateway.call("PATCH", f"/api/agents/{NOBODY}")
    error_of(answer, 405, 1002)
    assert {"GET", "DELETE"} <= set(answer.headers["allow"].replace(" ", "").split(","))


@pytest.mark.parametrize(
    "path",
    ["/", "/nowhere", "/api", "/api/agents/x/y", "/api//agents", "/API/agents", "/metrics", "/livez", "/ws", "//"],
)
async def test_an_unknown_path_is_404(gateway: Gateway, path: str) -> None:
    error_of(await gateway.call("GET", path), 404, 1003)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/agents//"),
        ("GET", "/api/metrics//"),
        ("GET", f"/api/agents/{NOBODY}//"),
        ("POST", f"{REGISTER}//"),
    ],
)
async def test_two_slashes_at_the_end_are_an_unknown_path_and_no_redirect(
    gateway: Gateway, method: str, path: str
) -> None:
    error_of(await gateway.call(method, path), 404, 1003)


@pytest.mark.parametrize("path", ["/", "/ws", "/ws/agent", "/ws/agent/", "/ws/agent/x/y", "/api/agents", "/ws/other/x"])
async def test_an_unknown_path_of_a_websocket_is_404(gateway: Gateway, path: str) -> None:
    async with opened(gateway.port) as raw:
        raw.send(handshake(path, protocol="agent-token, x"))
        error_of(await raw.answer(), 404, 1003)


async def test_the_agents_path_without_an_upgrade_is_no_server_error(gateway: Gateway) -> None:
    answer = await gateway.call("GET", f"/ws/agent/{NOBODY}")
    assert answer.status in {400, 404, 426}, answer


# ---- HTTP: ids

BAD_AGENTS = {
    "65 characters": "x" * 65,
    "../": "..%2F..%2Fx",
    "braces": "%7B%7D",
    "a star": "*",
    "a colon": "a:b",
    "a blank": "a%20b",
    "NUL": "a%00b",
    "CR LF": "a%0D%0Ab",
    "double encoding": "a%252Fb",
    "a letter beyond ASCII": "%C3%A4",
    "no UTF-8": "%FF",
    "a host id of 40 digits": "9" * 40,
}
AGENT_CALLS = [
    ("GET", "", None),
    ("DELETE", "", None),
    ("POST", "/tasks", b'{"id": "x"}'),
    ("POST", "/tasks/batch", b'[{"id": "x"}]'),
    ("POST", "/tasks/x/cancel", b""),
    ("POST", "/tasks/cancel/batch", b'{"task_ids": ["x"]}'),
    ("POST", "/control", b'{"action": "restart"}'),
    ("POST", "/upgrade", b'{"target_version": "1", "download_url": "u"}'),
]


@pytest.mark.parametrize("case", BAD_AGENTS)
async def test_a_bad_agent_id_is_400_and_makes_no_key(gateway: Gateway, case: str) -> None:
    """With a slash in it, it may also be another path, and unknown; digits alone may be an unknown host id."""
    allowed = {400, 404} if "%2F" in BAD_AGENTS[case] or BAD_AGENTS[case].isdigit() else {400}
    keys = await keys_of(gateway)
    for method, path, body in AGENT_CALLS:
        answer = await gateway.call(method, f"/api/agents/{BAD_AGENTS[case]}{path}", body)
        assert answer.status in allowed, (method, path, answer)
    answer = await answer_to(gateway.port, handshake(f"/ws/agent/{BAD_AGENTS[case]}", protocol="agent-token, x"))
    assert answer.status in allowed, answer
    assert not {key for key in await keys_of(gateway) - keys if "x" * 65 in key or "a:b" in key or "*" in key}


async def keys_of(gateway: Gateway) -> set[str]:
    return {key async for key in gateway.redis.scan_iter(count=1000)}


BAD_TASKS = {
    "empty": "",
    "201 characters": "x" * 201,
    "NUL": "a\0b",
    "LF": "a\nb",
    "CR LF": "a\r\nb",
    "ESC": "a\x1b[31m",
    "DEL": "a\x7f",
    "a bidi mark": "a\u202eb",
    "a lone surrogate": "a\ud800b",
}


@pytest.mark.parametrize("case", BAD_TASKS)
async def test_a_bad_task_id_is_400(gateway: Gateway, case: str) -> None:
    agent = await gateway.agent()
    task = {"id": BAD_TASKS[case]}
    path = f"/api/agents/{agent.id}/tasks"
    assert "id" in error_of(await gateway.call("POST", path, task), 400, 1002)
    assert "id" in error_of(await gateway.call("POST", f"{path}/batch", [{"id": "good"}, task]), 400, 1002)
    error_of(await gateway.call("POST", f"{path}/cancel/batch", {"task_ids": ["good", BAD_TASKS[case]]}), 400, 1002)
    if case not in {"empty", "a lone surrogate"}:
        escaped = "".join(f"%{byte:02X}" for byte in BAD_TASKS[case].encode())
        answer = await gateway.call("POST", f"{path}/{escaped}/cancel")
        assert answer.status in ({400, 404} if "\n" in BAD_TASKS[case] else {400}), (
            "a line end is of no path that we know"
        )
    await agent.post_sentinel()


# ---- HTTP: bodies

NO_JSON = {
    "no JSON": b"{name: a}",
    "half of it": b'{"name": "a"',
    "more behind it": b'{"name": "a"} x',
    "no UTF-8": b'{"name": "\xff"}',
    "UTF-16": '{"name": "a"}'.encode("utf-16"),
    "a mark of byte order": b'\xef\xbb\xbf{"name": "a"}',
    "NaN": b'{"host_id": NaN}',
    "a bare control character": b'{"name": "a\nb"}',
    "100,000 brackets": b"[" * 100_000,
    "100,000 brackets in an unknown field": b'{"unknown": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "an array": b'["a"]',
    "a string": b'"a"',
    "a number": b"7",
    "null": b"null",
}


@pytest.mark.parametrize("case", NO_JSON)
async def test_a_body_that_is_no_json_object_is_400_everywhere(gateway: Gateway, case: str) -> None:
    agent = await gateway.register()
    path = f"/api/agents/{agent.id}"
    for call in (REGISTER, f"{path}/tasks", f"{path}/control", f"{path}/upgrade", f"{path}/tasks/cancel/batch"):
        error_of(await gateway.call("POST", call, NO_JSON[case]), 400, 1002)
    error_of(await gateway.call("POST", "/api/self/control", NO_JSON[case]), 400, 1002)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("name", 7),
        ("name", [CANARY]),
        ("token", 7),
        ("labels", [CANARY]),
        ("labels", {"a": 1}),
        ("labels", CANARY),
        ("system", CANARY),
        ("system", [CANARY]),
        ("host_id", CANARY),
        ("host_id", 1.5),
        ("host_id", True),
        ("host_id", 2**63),
        ("host_id", int("9" * 4000)),
    ],
)
async def test_a_wrong_type_in_a_registration_is_400_and_names_the_field(
    gateway: Gateway, field: str, wrong: object
) -> None:
    body = b'{"%b": %b}' % (field.encode(), b"9" * 4000 if isinstance(wrong, int) and wrong > 2**70 else encoded(wrong))
    error = error_of(await gateway.call("POST", REGISTER, body), 400, 1002)
    assert field in error
    assert CANARY not in error
    assert "999" not in error


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("call", "body", "field"),
    [
        ("control", {"action": 7}, "action"),
        ("control", {"action": CANARY}, "action"),
        ("control", {"action": "restart", "reason": [CANARY]}, "reason"),
        ("upgrade", {"target_version": [CANARY], "download_url": "u"}, "target_version"),
        ("upgrade", {"target_version": "1", "download_url": "u", "md5_hash": 7}, "md5_hash"),
        ("tasks/cancel/batch", {"task_ids": CANARY}, "task_ids"),
        ("tasks/cancel/batch", {"task_ids": ["a", 7]}, "task_ids"),
        ("tasks/batch", [{"id": "a"}, {"id": "b", "env": {"A": [CANARY]}}], "env"),
    ],
)
async def test_a_wrong_type_in_a_call_is_400_and_names_the_field(
    gateway: Gateway, call: str, body: object, field: str
) -> None:
    agent = await gateway.agent()
    error = error_of(await gateway.call("POST", f"/api/agents/{agent.id}/{call}", body), 400, 1002)
    assert field in error
    assert CANARY not in error


# ---- handshakes


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"Sec-WebSocket-Key": ""}, 400),
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Sec-WebSocket-Key": "x" * 24}, 400),
        ({"Sec-WebSocket-Key": None}, 400),
        ({"Sec-WebSocket-Version": "12"}, 426),
        ({"Sec-WebSocket-Version": ""}, 426),
        ({"Sec-WebSocket-Version": None}, 426),
        ({"Content-Length": "5"}, 400),
        ({"Host": None}, 400),
    ],
)
async def test_a_bad_handshake(gateway: Gateway, changed: dict[str, str | None], status: int) -> None:
    agent = await gateway.register()
    leave_out = [name for name, value in changed.items() if value is None]
    headers = {name: value for name, value in changed.items() if value is not None}
    path, offer = f"/ws/agent/{agent.id}", f"agent-token, {agent.token}"
    sent = handshake(path, protocol=offer, leave_out=leave_out, headers=headers)
    answer, is_closed = await asked(gateway.port, sent)
    error_of(answer, status, 1002)
    assert is_closed
    if status == 426:
        assert answer.headers["sec-websocket-version"] == "13"


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD"])
async def test_a_handshake_is_a_get(gateway: Gateway, method: str) -> None:
    sent = handshake("", first_line=f"{method} /ws/agent/{NOBODY} HTTP/1.1")
    answer = await answer_to(gateway.port, sent)
    error_of(answer, 405, 1002)
    assert answer.headers["allow"] == "GET"


async def test_a_bad_token_is_refused_within_50_ms_and_without_a_write(gateway: Gateway) -> None:
    agent = await gateway.register()
    url = f"ws://127.0.0.1:{gateway.port}/ws/agent/{agent.id}"
    times_s = []
    async with gateway.redis.monitor() as monitor:
        for _ in range(10):
            began = time.monotonic()
            with pytest.raises(Refused) as refusal:
                await gateway.dial(url, ["agent-token", "wrong"])
            times_s.append(time.monotonic() - began)
            assert refusal.value.status == 401
        await gateway.redis.echo(CANARY)
        commands = []
        async with asyncio.timeout(10.0):
            while CANARY not in (command := (await monitor.next_command())["command"]):
                commands.append(command)
    ours = [command for command in commands if agent.id in command]
    assert ours
    # What a script does is shown beside its call.
    assert {command.split()[0].upper() for command in ours} <= {"EVALSHA", "HGET", "HMGET", "HEXISTS", "EXISTS"}
    assert min(times_s) < 0.05, "of ten: the machine may be busy"


# ---- frames

FRAMES = {
    "an unmasked frame": (1002, b"\x81\x02{}"),
    "an unmasked close": (1002, b"\x88\x02\x03\xe8"),
    "RSV1 without deflate": (1002, masked_frame(FIN | DEFLATED | TEXT, b"{}")),
    "RSV2": (1002, masked_frame(FIN | 0x20 | TEXT, b"{}")),
    "RSV3": (1002, masked_frame(FIN | 0x10 | TEXT, b"{}")),
    **{f"opcode {opcode}": (1002, masked_frame(FIN | opcode, b"")) for opcode in (3, 7, 11, 15)},
    "a continuation of nothing": (1002, masked_frame(FIN | CONTINUATION, b"x")),
    "a new message within one": (1002, masked_frame(TEXT, b"{") + masked_frame(FIN | TEXT, b"}")),
    "a ping in fragments": (1002, masked_frame(PING, b"x")),
    "a ping over 125 bytes": (1002, masked_frame(FIN | PING, b"x" * 126)),
    "a length of 64 bits with its sign": (1002, b"\x81\xff\x80" + b"\0" * 7 + b"mask"),
    "a length in too many bytes": (1002, b"\x81\xfe\x00\x02mask" + b"xx"),
    "a close of one byte": (1002, masked_frame(FIN | CLOSE, b"\x03")),
    "a close with 1005": (1002, masked_frame(FIN | CLOSE, b"\x03\xed")),
    "a close with 999": (1002, masked_frame(FIN | CLOSE, b"\x03\xe7")),
    "a binary frame": (1003, masked_frame(FIN | BINARY, b'{"type":"heartbeat"}')),
    "a binary frame in fragments": (1003, masked_frame(BINARY, b"{")),
    "text that is not UTF-8": (1007, text_frame(b'{"a":"\xff"}')),
    "UTF-8 that ends early": (1007, text_frame(b"\xe2\x82")),
    "a surrogate in UTF-8": (1007, text_frame(b'"\xed\xa0\x80"')),
    "fragments that are not UTF-8": (1007, masked_frame(TEXT, b'"\xe2') + masked_frame(FIN | CONTINUATION, b'x"')),
    "a close whose reason is not UTF-8": (1007, masked_frame(FIN | CLOSE, b"\x03\xe8\xff")),
    "a frame over 32 MiB": (1009, b"\x81\xff" + (32 * MIB + 1).to_bytes(8, "big") + b"mask"),
    "a frame of 2^62 bytes": (1009, b"\x81\xff" + (2**62).to_bytes(8, "big") + b"mask"),
}


async def close_code_for(gateway: Gateway, sent: bytes, headers: Mapping[str, str] | None = None) -> int:
    agent = await gateway.register()
    async with upgraded(gateway.port, f"/ws/agent/{agent.id}", agent.token, headers=headers) as raw:
        raw.send(sent)
        code = await raw.close_code()
        await raw.ended()
        return code


@pytest.mark.parametrize("case", FRAMES)
async def test_a_bad_frame_is_closed_with_its_code(gateway: Gateway, case: str) -> None:
    code, sent = FRAMES[case]
    assert await close_code_for(gateway, sent) == code


def deflated(payload: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate; server_no_context_takeover; client_no_context_takeover"}


async def test_a_message_that_inflates_beyond_32_mib_is_1009(gateway: Gateway) -> None:
    bomb = masked_frame(FIN | DEFLATED | TEXT, deflated(b" " * (33 * MIB)))
    assert len(bomb) < 100 * KIB
    assert await close_code_for(gateway, bomb, DEFLATE) == 1009


async def test_a_message_that_does_not_inflate_is_1007(gateway: Gateway) -> None:
    assert await close_code_for(gateway, masked_frame(FIN | DEFLATED | TEXT, b"\xff" * 20), DEFLATE) == 1007


async def test_a_message_over_websocket_max_message_is_1009(tuned: Gateway) -> None:
    """64 KiB here; whole, or joined."""
    payload = b"x" * (64 * KIB + 1)
    assert await close_code_for(tuned, text_frame(payload)) == 1009
    parts = masked_frame(TEXT, payload[: 40 * KIB]) + masked_frame(FIN | CONTINUATION, payload[40 * KIB :])
    assert await close_code_for(tuned, parts) == 1009


async def test_a_message_of_websocket_max_message_is_taken(tuned: Gateway) -> None:
    agent = await tuned.agent()
    empty = json.dumps(log("m1", "1_1_1_x", ""))
    await agent.say(log("m1", "1_1_1_x", "x" * (64 * KIB - len(empty))))
    assert await agent.hear_acks(1) == ["m1"]


# ---- messages

RESULT: dict[str, Any] = {"task_id": "1_1_1_x", "status": "success"}
NO_MESSAGES: Mapping[str, str | Mapping[str, Any]] = {
    "no JSON": "{type: 1}",
    "half of it": '{"type": "heartbeat"',
    "nothing": "",
    "an array": "[]",
    "a string": '"heartbeat"',
    "a number": "7",
    "null": "null",
    "100,000 brackets": "[" * 100_000,
    "brackets in an unknown field": '{"x":' + "[" * 50_000 + "]" * 50_000 + "}",
    "a number of 4,000 digits": '{"type": "heartbeat", "ts": ' + "9" * 4000 + "}",
    "a number beyond 64 bits": {"type": "heartbeat", "ts": 2**63},
    "a type of the wrong type": {"type": 7},
    "a message_id of the wrong type": {**log("m1", "1_1_1_x", "line"), "message_id": 7},
    "an ack_id of the wrong type": {"type": "ack", "ack_id": 7},
    "a task_id of the wrong type": log("m1", "1_1_1_x", "line") | {"task_id": ["x"]},
    "a payload of the wrong type": {"type": "heartbeat", "payload": 7},
    "a ts of the wrong type": {"type": "heartbeat", "ts": "now"},
    "a request_id of the wrong type": {"type": "heartbeat", "request_id": 7},
    "an error of the wrong type": {"type": "heartbeat", "error": "bad"},
    "a code of the wrong type": {"type": "heartbeat", "error": {"code": "1"}},
    "logs of the wrong type": {"type": "log", "message_id": "m1", "task_id": "1_1_1_x", "logs": {"content": "x"}},
    "a line of the wrong type": {"type": "log", "message_id": "m1", "task_id": "1_1_1_x", "logs": ["x"]},
    "a content of the wrong type": log("m1", "1_1_1_x", "line") | {"logs": [{"content": 7}]},
    "a timestamp of the wrong type": log("m1", "1_1_1_x", "line", timestamp=1.5),
    "a result of the wrong type": {"type": "task_result", "message_id": "m1", "task_id": "x", "result": []},
    "a status of the wrong type": {"type": "task_result", "message_id": "m1", "result": RESULT | {"status": 7}},
    "an exit_code of the wrong type": {
        "type": "task_result",
        "message_id": "m1",
        "result": RESULT | {"exit_code": "0"},
    },
    "a started_at of the wrong type": {
        "type": "task_result",
        "message_id": "m1",
        "result": RESULT | {"started_at": 1.5},
    },
}


@pytest.mark.parametrize("case", NO_MESSAGES)
async def test_what_is_no_message_is_dropped_and_three_of_it_are_1008(tuned: Gateway, case: str) -> None:
    """`websocket.max_bad_frames` is 3 here."""
    agent = await tuned.agent()
    message = NO_MESSAGES[case]
    if isinstance(message, str) and len(message) > 60 * KIB:
        message = message.replace("[" * 50_000, "[" * 30_000).replace("]" * 50_000, "]" * 30_000)[: 60 * KIB]
    await agent.say(message, message)
    await agent.hears_nothing_before("sentinel")
    assert await tuned.entries("other_results", agent_id=agent.id) == []
    await agent.say(message)
    assert await agent.close_code() == 1008


async def test_by_default_16_are_1008(gateway: Gateway) -> None:
    agent = await gateway.agent()
    await agent.say(*["no message"] * 15)
    await agent.hears_nothing_before("sentinel")
    await agent.say("no message")
    assert await agent.close_code() == 1008


# ---- what is hostile, and data all the same

NAMES = {
    "CR LF": "web\r\n{}",
    "ANSI": "\x1b[2Jweb\x1b[31m",
    "bidi": "\u202eweb\u2066",
    "quotes": "web\"'\\",
    "NUL": "web\0",
    "a line separator": "web\u2028x\x85",
    "format characters": "%s%d{0}{name}",
}


@pytest.mark.parametrize("case", NAMES)
async def test_any_character_in_a_name_is_data(gateway: Gateway, case: str) -> None:
    name = NAMES[case]
    agent = await gateway.agent(name=name, labels={name: name}, system={"hostname": name})
    assert agent.name == name
    shown = (await gateway.call("GET", f"/api/agents/{agent.id}")).json()
    assert isinstance(shown, dict)
    assert (shown["name"], shown["labels"], shown["hostname"]) == (name, {name: name}, name)
    entries = await gateway.entries_of("agent_status", 2, agent_id=agent.id)
    assert {entry["agent_name"] for entry in entries} == {name}
    assert await agent.post_and_take({"id": new_task_id(), "name": name})


async def test_nothing_that_was_said_broke_a_line_of_our_log(gateway: Gateway) -> None:
    for name in NAMES.values():
        agent = await gateway.register(name=name, host_id=7)
        with pytest.raises(Refused):
            await gateway.dial(agent.ws_url, ["agent-token", "wrong"])
        await gateway.call("POST", f"/api/agents/{agent.id}/tasks", {"id": name})
        await gateway.call("GET", "/nowhere/%0D%0A%1B[31m")
    text = gateway.cluster.stderr.read_text()
    for line in text.removesuffix("\n").split("\n"):
        assert line.isprintable(), line
        json.loads(line)


# ---- secrets


async def meet(gateway: Gateway, sign: Mapping[str, str] | None = None) -> list[str]:
    """Bring secrets wherever one can stand, in good calls and in bad ones; returns them."""
    answer: Any = (await gateway.call("POST", REGISTER, {"name": "a"})).json()
    good, bad, other = f"good-{new_token()}", f"bad-{new_token()}", f"other-{new_token()}"
    agent = await gateway.agent(token=good)
    headers = {"auth_headers": {"Authorization": f"Bearer {other}"}}
    await gateway.call("POST", REGISTER, {"token": f"{bad}/@"})
    await gateway.call("POST", REGISTER, {"token": f"{bad}", "host_id": "x"})
    await gateway.call("POST", REGISTER, b'{"token": "' + bad.encode())
    await gateway.call("GET", f"/api/agents?token={bad}", headers={"Authorization": f"Bearer {bad}"})
    with pytest.raises(Refused):
        await gateway.dial(f"{agent.ws_url}?token={bad}", ["agent-token", bad])
    for task in (
        {"id": new_task_id(), "file_transfer": headers, "env": {"PASSWORD": other}},
        {"id": new_task_id(), "file_transfer": {"auth_headers": {"Authorization": [other]}}},
        {"id": new_task_id(), "file_transfer": {"auth_headers": other}},
        {"id": new_task_id(), "file_transfer": headers, "timeout_sec": other},
    ):
        answers = await agent.post(task)
        assert answers.status == 200 or other not in answers.body.decode()
    await agent.say(b'{"type": "log", "message_id": 7, "task_id": "%b"}' % bad.encode())
    await agent.say(log("m1", "1_1_1_x", f"a line with {other}"), task_result("m2", "1_1_1_x", log=other))
    lists = await asyncio.gather(*(gateway.call("GET", path) for path in lists_with(agent)))
    secrets = [good, bad, other, answer["token"]]
    assert not [secret for secret in secrets for shown in lists if secret in shown.body.decode()]
    return secrets


def lists_with(agent: Agent) -> tuple[str, ...]:
    return "/api/agents", f"/api/agents/{agent.id}", "/api/metrics", "/api/agents?q=good-", "/api/agents?q=bad-"


@pytest.mark.parametrize("name", ["default", "small"])
async def test_no_secret_is_in_a_log_or_a_list(clusters: Clusters, name: str) -> None:
    """`small` logs all it can."""
    async with clusters.gateway(name) as gateway:
        secrets = await meet(gateway)
        printed = said_by(gateway.cluster)
        assert not [secret for secret in secrets if secret in printed]


async def test_no_secret_is_in_a_metric(gateway: Gateway) -> None:
    secrets = await meet(gateway)
    for port in range(gateway.port + 1000, gateway.port + 1003):
        answer = await answer_to(port, request("GET", "/metrics"))
        assert answer.status == 200
        assert not [secret for secret in secrets if secret in answer.body.decode()]


async def test_no_secret_of_the_configuration_is_printed(signed: Gateway) -> None:
    await signed.call("GET", "/api/agents", headers={"X-Timestamp": "1", "X-Signature": SECRET})
    await signed.call("GET", f"/api/agents?secret={SECRET}")
    printed = said_by(signed.cluster)
    assert not [secret for secret in (SECRET, CONTROL_PLANE_TOKEN) if secret in printed]
