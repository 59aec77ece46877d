"""The simulated agent does what protocol.md says of the Go agent: sections 1.1 to 1.3, from its side, in scaled time."""

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from tests.support.agent_options import Options, Timings
from tests.support.agent_process import State
from tests.support.eventually import eventually
from tests.support.go_wire import SKIPPED, Outgoing, Task
from tests.support.recorder import (
    Acked,
    Closed,
    Delivered,
    Recorder,
    RefusedHandshake,
    Registered,
    Sent,
    Started,
    digest,
)
from tests.support.simulated_agent import SimulatedAgent, timings_with
from tests.support.simulated_fleet import Fleet
from tests.support.task_runner import Execution, quick
from tests.support.task_runner import Limits as TaskLimits
from tests.support.unacked import Limits, Outbox, Unacked
from tests.support.websocket_client import SocketOptions
from tests.unit.support.gateway import Gateway, running_gateway

FAST = Timings().scaled(0.01)
CALM = timings_with(
    FAST, read_deadline_s=60.0, write_deadline_s=60.0, handshake_timeout_s=10.0, register_timeout_s=30.0
)
UNHURRIED = timings_with(CALM, resend_after_s=Timings().resend_after_s)  # nothing is sent again within a test

Make = Callable[..., SimulatedAgent]


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with running_gateway() as running:
        yield running


@pytest.fixture
async def make(gateway: Gateway) -> AsyncIterator[Make]:
    """Makes started agents of this gateway."""
    made: list[SimulatedAgent] = []

    def start(timings: Timings = CALM, **how: Any) -> SimulatedAgent:
        agent = SimulatedAgent(gateway.http_url, token=how.pop("token", "s3cret"), timings=timings, **how)
        made.append(agent)
        agent.start()
        return agent

    yield start
    for agent in made:
        await agent.stop()


def forever(task: Task) -> Execution:
    return Execution(duration_s=3600)


def task_frame(task_id: str, **fields: Any) -> dict[str, Any]:
    return {"type": "task", "task": {"id": task_id, "type": "command", "command": "true", **fields}}


# ---- registration ----


async def test_it_registers_with_a_bearer_token_and_dials_exactly_what_it_was_told(
    gateway: Gateway, make: Make
) -> None:
    agent = make(host_id=7, name="web-7", labels={"zone": "a"})
    await agent.connected()
    [registration] = gateway.registrations
    assert registration.head.startswith("POST /api/agents/register/ HTTP/1.1\r\n")
    assert "Authorization: Bearer s3cret\r\n" in registration.head
    assert registration.body["name"] == "web-7"
    assert registration.body["host_id"] == 7
    assert registration.body["labels"] == {"zone": "a"}
    assert "token" not in registration.body
    [handshake] = gateway.handshakes
    assert handshake.path == "/ws/agent/some-id"
    assert handshake.headers["Sec-WebSocket-Protocol"] == "agent-token,s3cret"
    assert agent.agent_id == "id-1"


@pytest.mark.parametrize(
    "answer",
    [
        (200, "text/plain", b'{"id": "a", "ws_url": "ws://127.0.0.1:1/"}'),
        (200, "application/json", b'{"id": "a"}'),
        (200, "application/json", b'{"ws_url": "ws://127.0.0.1:1/"}'),
        (200, "application/json", b"not json"),
        (503, "application/json", b'{"id": "a", "ws_url": "ws://127.0.0.1:1/"}'),
    ],
)
async def test_without_an_id_and_an_address_it_never_dials(
    gateway: Gateway, make: Make, answer: tuple[int, str, bytes]
) -> None:
    gateway.answers = [answer]
    agent = make()
    await eventually(lambda: agent.state is not State.STRANDED)
    await asyncio.sleep(0.1)
    assert not gateway.handshakes
    assert len(gateway.registrations) == 1


async def test_a_content_type_with_a_charset_is_json(gateway: Gateway, make: Make) -> None:
    gateway.answers = [
        (200, "application/json; charset=utf-8", json.dumps({"id": "a", "ws_url": gateway.ws_url}).encode())
    ]
    await make().connected()


async def test_a_registration_that_is_not_answered_in_time_has_failed(gateway: Gateway, make: Make) -> None:
    gateway.is_silent = True
    agent = make(FAST)
    await eventually(lambda: agent.state is not State.STRANDED)
    [failed] = agent.recorder.of(Registered)
    assert "no answer within 0.3 s" in failed.error


async def test_a_stranded_agent_comes_back_with_a_new_process(gateway: Gateway, make: Make) -> None:
    gateway.answers = [(503, "application/json", b"{}")]
    agent = make()
    await eventually(lambda: agent.state is not State.STRANDED)
    agent.restart_process()
    await agent.connected()


# ---- dialling ----


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refused_agent_registers_again_at_once_and_for_ever(gateway: Gateway, make: Make, status: int) -> None:
    gateway.refusals = [(status, {})] * 40
    agent = make(timings_with(CALM, backoff_s=(3600.0,)))
    await agent.connected()
    assert len(gateway.registrations) == 41
    assert agent.agent_id == "id-41"


async def test_a_registration_that_fails_after_a_refusal_ends_all_attempts(gateway: Gateway, make: Make) -> None:
    gateway.answers = [gateway.good_answer(), (500, "application/json", b"{}")]
    gateway.refusals = [(404, {})]
    agent = make()
    await eventually(lambda: agent.state is not State.STRANDED)
    await asyncio.sleep(0.2)
    assert len(gateway.registrations) == 2
    assert len(gateway.handshakes) == 1


async def test_on_anything_else_it_backs_off_further_each_time_and_ignores_retry_after(
    gateway: Gateway, make: Make
) -> None:
    gateway.refusals = [
        (503, {"Retry-After": "3600"}),
        (500, {}),
        (302, {"Location": "/"}),
        (429, {"Retry-After": "0"}),
        (503, {}),
    ]
    await make().connected()
    gaps_s = [after - before for before, after in itertools.pairwise(gateway.dialled_s)]
    assert all(gap_s >= wait_s for gap_s, wait_s in zip(gaps_s, (0.05, 0.1, 0.2, 0.3, 0.3), strict=True)), gaps_s
    assert len(gateway.registrations) == 1


async def test_a_connection_that_came_about_makes_it_back_off_from_the_beginning(gateway: Gateway, make: Make) -> None:
    gateway.refusals = [(503, {})] * 2
    agent = make(timings_with(CALM, backoff_s=(0.01, 0.02, 3600.0)))
    for expected in (1, 2, 3):
        await gateway.until(lambda expected=expected: len(gateway.connections) == expected)  # type: ignore[misc]
        await agent.connected()
        agent.cut()
    assert len(gateway.handshakes) >= 5


def test_its_back_off_is_the_go_agents() -> None:
    assert Timings().backoff_s == (5.0, 10.0, 20.0, 30.0)
    assert Timings().returning(0.1).backoff_s == (0.5, 1.0, 2.0, 3.0)
    assert Timings().returning(0.1).read_deadline_s == 60.0


async def test_it_ignores_close_codes(gateway: Gateway, make: Make) -> None:
    agent = make()
    for code in (1000, 1012, 4403, 4409):
        await agent.connected()
        seen = len(gateway.handshakes)
        await gateway.connection.close(code)
        await gateway.until(lambda seen=seen: len(gateway.handshakes) > seen)  # type: ignore[misc]
    await agent.connected()
    assert len(gateway.registrations) == 1
    assert [closed.code for closed in agent.recorder.of(Closed)] == [1000, 1012, 4403, 4409]


async def test_a_handshake_that_is_not_answered_ends_after_its_timeout(gateway: Gateway, make: Make) -> None:
    silent = await asyncio.start_server(_say_nothing, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{silent.sockets[0].getsockname()[1]}/"
    gateway.answers = [(200, "application/json", json.dumps({"id": "a", "ws_url": url}).encode())]
    agent = make(FAST)
    await eventually(lambda: len(agent.recorder.of(RefusedHandshake)) < 2)
    assert {refused.error for refused in agent.recorder.of(RefusedHandshake)} == {"0 no answer within 0.1 s"}
    await agent.stop()
    silent.close()


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.read()
    except OSError:
        return
    finally:
        writer.close()


async def test_deflate_is_offered_only_when_told_to(gateway: Gateway, make: Make) -> None:
    await make().connected()
    await make(options=Options(offers_deflate=True)).connected()
    plain, deflating = gateway.handshakes
    assert "Sec-WebSocket-Extensions" not in plain.headers
    assert "permessage-deflate" in deflating.headers["Sec-WebSocket-Extensions"]


async def test_it_speaks_deflate_when_both_sides_take_no_context_over() -> None:
    async with running_gateway(compression="deflate") as deflating:
        agent = SimulatedAgent(deflating.http_url, token="t", timings=UNHURRIED, options=Options(offers_deflate=True))
        agent.start()
        await agent.connected()
        await deflating.tell(**task_frame("t1", command="x" * 5000))
        await deflating.until(lambda: deflating.statuses == ["success"])
        await agent.stop()
        assert "client_no_context_takeover" in str(deflating.connection.response.headers)  # type: ignore[union-attr]


# ---- staying connected ----


async def test_it_heartbeats_at_its_interval(gateway: Gateway, make: Make) -> None:
    make(timings_with(CALM, heartbeat_s=0.03))
    await gateway.until(lambda: len(gateway.of("heartbeat")) >= 4)
    beat = gateway.of("heartbeat")[0]
    assert beat["payload"]["timestamp"] > 1_600_000_000
    assert beat["payload"]["system"]["memory_total"] > 0


async def test_pings_do_not_keep_a_connection_alive(gateway: Gateway, make: Make) -> None:
    agent = make(timings_with(CALM, read_deadline_s=0.3, backoff_s=(3600.0,)))
    await agent.connected()
    while not agent.recorder.of(Closed):
        await (await gateway.connection.ping())  # answered
        await asyncio.sleep(0.02)
    assert agent.recorder.of(Closed)[0].reason == "read deadline"


async def test_a_connection_it_gave_up_stays_open_until_the_server_closes_it(gateway: Gateway, make: Make) -> None:
    agent = make(timings_with(CALM, read_deadline_s=0.1, backoff_s=(3600.0,)))
    await agent.connected()
    await eventually(lambda: agent.is_connected)
    assert not gateway.ended
    assert agent.abandoned_open() == 1
    gateway.connection.transport.abort()
    await eventually(agent.abandoned_open)


async def test_data_keeps_a_connection_alive(gateway: Gateway, make: Make) -> None:
    agent = make(timings_with(CALM, read_deadline_s=1.0))
    await agent.connected()
    for _ in range(25):
        await gateway.tell(type="heartbeat", ts=1)
        await asyncio.sleep(0.05)
    assert not agent.recorder.of(Closed)


GARBAGE = [
    b"[]",
    b"nope",
    b'{"type": 1}',
    b'{"type": "task", "task": {"id": 5}}',
    b'{"type": "task", "task": {"id": "a", "timeout_sec": 3.5}}',
    b'{"type": "task", "task": {"id": "a", "timeout_sec": 3.0}}',
    b'{"type": "task", "task": {"id": "a", "timeout_sec": "3"}}',
    b'{"type": "task", "task": {"id": "a", "timeout_sec": 9223372036854775808}}',
    b'{"type": "task", "task": {"id": "a", "env": {"A": 1}}}',
    b'{"type": "task", "task": {"id": "a", "args": "ls"}}',
    b'{"type": "task", "task": {"id": "a", "is_retry": 1}}',
    b'{"type": "task", "task": {"id": "a", "file_transfer": {"size": "big"}}}',
    b'{"type": "tasks_batch", "tasks": [{"id": "a"}, {"id": 1}]}',
    b'{"type": "cancel_tasks_batch", "task_ids": "a"}',
    b'{"type": "heartbeat", "ts": "now"}',
    b'{"type": "heartbeat", "error": "bad"}',
    b'{"type": "control", "payload": []}',
]


@pytest.mark.parametrize("frame", GARBAGE, ids=bytes.decode)
async def test_a_frame_go_cannot_decode_makes_it_drop_the_connection(
    gateway: Gateway, make: Make, frame: bytes
) -> None:
    gateway.on_open = [frame]
    agent = make()
    await gateway.until(lambda: len(gateway.connections) >= 2)
    gateway.on_open = []
    assert "cannot decode" in agent.recorder.of(Closed)[0].reason
    assert not gateway.ended
    assert not agent.recorder.of(Started)


@pytest.mark.parametrize(
    "frame",
    [
        b'{"type": "novelty", "unheard": {"of": 1}}',
        b'{"type": null, "ts": null, "task": null, "tasks": null, "payload": null, "error": null}',
        b'{"type": "task", "task": {"id": "a", "env": null, "args": null, "timeout_sec": null, "new": 1, "command": "\\u4e2d"}}',
        b'{"type": "control", "payload": {"action": "restart"}}',
        b'{"type": "upgrade", "payload": {"target_version": "2"}}',
    ],
)
async def test_nulls_and_the_unknown_are_no_reason_to_drop(gateway: Gateway, make: Make, frame: bytes) -> None:
    gateway.on_open = [frame]
    agent = make(timings_with(UNHURRIED, heartbeat_s=0.05))
    await gateway.until(lambda: len(gateway.of("heartbeat")) >= 2)
    assert not agent.recorder.of(Closed)


# ---- acks, resends, the outbox ----


async def test_what_is_acked_is_sent_once(gateway: Gateway, make: Make) -> None:
    agent = make(FAST.returning(1.0))
    await agent.connected()
    agent.send_log("t1", "hello")
    await eventually(lambda: agent.unacked)
    await asyncio.sleep(0.15)
    assert len(gateway.of("log")) == 1
    assert len(agent.recorder.of(Acked)) == 1


async def test_what_is_not_acked_is_sent_nine_times_under_one_id_and_then_dropped(gateway: Gateway, make: Make) -> None:
    gateway.acks = False
    agent = make(CALM)
    await agent.connected()
    agent.send_log("t1", "hello")
    await eventually(lambda: agent.unacked)
    assert len({message["message_id"] for message in gateway.of("log")}) == 1
    await gateway.until(lambda: len(gateway.of("log")) == 9)
    assert agent.process.unacked.dropped == 1


def sent(number: int = 1) -> Outgoing:
    return Outgoing("log", f"m{number}", 0, "t")


def test_resends_come_after_3_to_138_seconds() -> None:
    unacked = Unacked(Timings().resend_after_s, 600.0, 5_000)
    unacked.sent(sent(), 0.0)
    came = []
    while (due_s := unacked.next_due_s()) is not None:
        came += [due_s] * len(unacked.take_due(due_s))
    assert came == [3, 6, 12, 24, 48, 78, 108, 138]
    assert not len(unacked)


def test_time_spent_disconnected_uses_up_no_resend() -> None:
    unacked = Unacked(Timings().resend_after_s, 600.0, 5_000)
    unacked.sent(sent(), 0.0)
    assert len(unacked.take_due(100.0)) == 1
    assert unacked.next_due_s() == 103.0


def test_after_ten_minutes_a_message_is_dropped() -> None:
    unacked = Unacked(Timings().resend_after_s, 600.0, 5_000)
    unacked.sent(sent(), 0.0)
    assert unacked.take_due(601.0) == []
    assert not len(unacked)


def test_at_most_5000_messages_wait_for_their_ack() -> None:
    unacked = Unacked(Timings().resend_after_s, 600.0, 5_000)
    for number in range(5_001):
        unacked.sent(sent(number), 0.0)
    assert len(unacked) == 5_000
    assert "m0" not in unacked
    assert "m1" in unacked


def test_an_outbox_over_2000_is_cut_to_its_newest_1000() -> None:
    outbox = Outbox(86_400.0, Limits())
    for number in range(2_001):
        outbox.add(sent(number), 0.0)
    assert [message.message_id for message in outbox.to_replay()] == [f"m{number}" for number in range(1_001, 2_001)]


def test_an_outbox_forgets_after_a_day() -> None:
    outbox = Outbox(86_400.0, Limits())
    outbox.add(sent(1), 0.0)
    outbox.add(sent(2), 50_000.0)
    outbox.reissue(90_000.0, iter(("new",)).__next__)
    assert [message.message_id for message in outbox.to_replay()] == ["new"]


async def test_what_is_made_while_disconnected_is_replayed_in_order_under_the_same_ids(
    gateway: Gateway, make: Make
) -> None:
    agent = make(UNHURRIED)
    await agent.connected()
    agent.cut()
    await eventually(lambda: agent.is_connected)
    made = [agent.send_log("t1", f"line {number}") for number in range(250)]
    assert not gateway.of("log")
    await gateway.until(lambda: len(gateway.of("log")) == 250)
    assert [message["message_id"] for message in gateway.of("log")] == made
    await eventually(lambda: agent.unacked)


async def test_an_outbox_that_was_replayed_and_not_acked_is_replayed_again(gateway: Gateway, make: Make) -> None:
    gateway.acks = False
    agent = make(UNHURRIED)
    await agent.connected()
    agent.cut()
    await eventually(lambda: agent.is_connected)
    made = agent.send_result("t1")
    await gateway.until(lambda: len(gateway.of("task_result")) == 1)
    agent.cut()
    await gateway.until(lambda: len(gateway.of("task_result")) == 2)
    assert {message["message_id"] for message in gateway.of("task_result")} == {made}


async def test_a_new_process_replays_the_outbox_under_new_ids_and_nothing_else(gateway: Gateway, make: Make) -> None:
    gateway.acks = False
    agent = make(UNHURRIED)
    await agent.connected()
    lost = agent.send_log("t1", "in memory only")
    await gateway.until(lambda: len(gateway.received) == 1)
    agent.cut()
    await eventually(lambda: agent.is_connected)
    kept = agent.send_log("t1", "in the file")
    agent.restart_process()
    await gateway.until(lambda: len(gateway.received) == 2)
    again = gateway.received[1]
    assert again["logs"][0]["content"] == "in the file"
    assert again["message_id"] not in {lost, kept}
    assert len(gateway.registrations) == 2
    assert agent.incarnation == 2


async def test_an_outbox_that_keeps_what_was_acked_sends_it_once_more_from_a_new_process(
    gateway: Gateway, make: Make
) -> None:
    agent = make(UNHURRIED, options=Options(outbox_keeps_acked=True))
    await agent.connected()
    agent.cut()
    await eventually(lambda: agent.is_connected)
    agent.send_result("t1")
    await gateway.until(lambda: len(gateway.statuses) == 1)
    await eventually(lambda: agent.unacked)
    agent.restart_process()
    await gateway.until(lambda: len(gateway.statuses) == 2)
    first, second = gateway.of("task_result")
    assert first["message_id"] != second["message_id"]


async def test_a_write_that_stands_too_long_doubles_what_had_not_left(gateway: Gateway, make: Make) -> None:
    gateway.reads.clear()
    gateway.acks = False
    narrow = Options(socket=SocketOptions(send_buffer_bytes=4096))
    agent = make(timings_with(UNHURRIED, write_deadline_s=0.2), options=narrow)
    await agent.connected()
    made = [agent.send_log("t1", f"{number}:" + "x" * 60_000) for number in range(40)]
    await eventually(lambda: not agent.recorder.of(Closed))
    assert agent.recorder.of(Closed)[0].reason == "write deadline"
    gateway.reads.set()
    await gateway.until(lambda: len(gateway.connections) >= 2 and bool(gateway.of("log")))
    await eventually(lambda: len([event for event in agent.recorder.of(Sent) if event.message_id not in made]) < 2)
    lines = [event.lines[0] for event in agent.recorder.of(Sent)]
    doubled = [event for event in agent.recorder.of(Sent) if event.message_id not in made]
    assert all(lines.count(event.lines[0]) >= 2 for event in doubled)
    assert len(agent.process.unacked) >= 40


async def test_one_result_can_go_out_under_two_ids(gateway: Gateway, make: Make) -> None:
    await make(UNHURRIED, options=Options(doubles_results=True)).connected()
    await gateway.tell(**task_frame("t1"))
    await gateway.until(lambda: len(gateway.statuses) == 2)
    first, second = gateway.of("task_result")
    assert first["message_id"] != second["message_id"]
    assert first["result"] == second["result"]


async def test_it_can_send_everything_again_in_any_order(gateway: Gateway, make: Make) -> None:
    agent = make(UNHURRIED, options=Options(keeps_sent=True))
    await agent.connected()
    made = [agent.send_log("t1", str(number)) for number in range(20)]
    await eventually(lambda: agent.unacked)
    assert agent.resend_everything(3, random.Random(1)) == 60
    await gateway.until(lambda: len(gateway.of("log")) == 80)
    ids = [message["message_id"] for message in gateway.of("log")]
    assert sorted(ids) == sorted(made * 4)
    assert ids[20:40] != made


# ---- tasks ----


async def test_a_task_sends_one_line_a_message_and_a_result_that_repeats_them(gateway: Gateway, make: Make) -> None:
    agent = make(UNHURRIED, host_id=9, name="web-9", run=quick(lines=3))
    await agent.connected()
    raw = '{"id": "1_2_9_ab",  "command":"ls","env":{"A":"b"}}'
    await gateway.connection.send('{"type": "task", "message_id": "x", "task": ' + raw + "}")
    await gateway.until(lambda: gateway.statuses == ["success"])
    assert [len(message["logs"]) for message in gateway.of("log")] == [1, 1, 1]
    line = gateway.of("log")[0]["logs"][0]
    assert line["content"] == "1_2_9_ab line 1"
    assert (line["host_id"], line["host_name"], line["stream"], line["task_id"]) == (9, "web-9", "stdout", "1_2_9_ab")
    result = gateway.of("task_result")[0]["result"]
    assert result["log"] == "1_2_9_ab line 1\n1_2_9_ab line 2\n1_2_9_ab line 3\n"
    assert result["log_size"] == len(result["log"])
    assert (result["exit_code"], result["task_id"]) == (0, "1_2_9_ab")
    assert result["started_at"] <= result["finished_at"]
    assert agent.recorder.of(Delivered)[0].digest == digest(raw.encode())


async def test_a_behaviour_decides_how_a_task_goes(gateway: Gateway, make: Make) -> None:
    await make(
        UNHURRIED, run=lambda task: Execution((f"{task.command}: not found",), 0.0, 127, "exit status 127")
    ).connected()
    await gateway.tell(**task_frame("t1"))
    await gateway.until(lambda: gateway.statuses == ["failed"])
    result = gateway.of("task_result")[0]["result"]
    assert (result["exit_code"], result["error_msg"], result["log"]) == (127, "exit status 127", "true: not found\n")


async def test_it_can_report_running_first(gateway: Gateway, make: Make) -> None:
    await make(UNHURRIED, options=Options(reports_running=True)).connected()
    await gateway.tell(**task_frame("t1"))
    await gateway.until(lambda: gateway.statuses == ["running", "success"])


async def test_five_tasks_run_at_once_and_the_rest_wait_in_order(gateway: Gateway, make: Make) -> None:
    agent = make(UNHURRIED, run=forever)
    await agent.connected()
    await gateway.tell(type="tasks_batch", tasks=[task_frame(f"t{number}")["task"] for number in range(8)])
    await eventually(lambda: len(agent.recorder.of(Delivered)) < 8)
    assert agent.process.tasks.running == ["t0", "t1", "t2", "t3", "t4"]
    assert agent.process.tasks.waiting == ["t5", "t6", "t7"]
    await gateway.tell(type="cancel_task", task_id="t2")
    await gateway.until(lambda: gateway.statuses == ["cancelled"])
    assert agent.process.tasks.running == ["t0", "t1", "t3", "t4", "t5"]


async def test_a_running_or_waiting_id_again_is_ignored_silently(gateway: Gateway, make: Make) -> None:
    agent = make(UNHURRIED, run=forever, options=Options(tasks=TaskLimits(at_once=1)))
    await agent.connected()
    for task_id in ("running", "waiting", "running", "waiting"):
        await gateway.tell(**task_frame(task_id))
    await eventually(lambda: len(agent.recorder.of(Delivered)) < 4)
    assert (agent.process.tasks.running, agent.process.tasks.waiting) == (["running"], ["waiting"])
    assert not gateway.received


async def test_a_finished_id_again_is_answered_as_skipped_and_does_not_run(gateway: Gateway, make: Make) -> None:
    agent = make(timings_with(UNHURRIED, finished_for_s=300.0))
    await agent.connected()
    await gateway.tell(**task_frame("t1"))
    await gateway.until(lambda: gateway.statuses == ["success"])
    await gateway.tell(**task_frame("t1"))
    await gateway.until(lambda: gateway.statuses == ["success", "cancelled"])
    assert gateway.of("task_result")[1]["result"]["error_msg"] == SKIPPED
    assert [event.is_spurious for event in agent.recorder.of(Sent) if event.type == "task_result"] == [False, True]
    assert len(agent.recorder.of(Started)) == 1


async def test_a_finished_id_is_forgotten_after_five_minutes(gateway: Gateway, make: Make) -> None:
    agent = make(timings_with(UNHURRIED, finished_for_s=0.05))
    await agent.connected()
    await gateway.tell(**task_frame("t1"))
    await gateway.until(lambda: gateway.statuses == ["success"])
    await asyncio.sleep(0.1)
    await gateway.tell(**task_frame("t1"))
    await gateway.until(lambda: gateway.statuses == ["success", "success"])
    assert len(agent.recorder.of(Started)) == 2


async def test_only_the_last_finished_ids_are_remembered(gateway: Gateway, make: Make) -> None:
    agent = make(timings_with(UNHURRIED, finished_for_s=300.0), options=Options(tasks=TaskLimits(remembered=2)))
    await agent.connected()
    for number in range(3):
        await gateway.tell(**task_frame(f"t{number}"))
        await gateway.until(lambda number=number: len(gateway.statuses) == number + 1)  # type: ignore[misc]
    await gateway.tell(**task_frame("t0"))
    await gateway.until(lambda: gateway.statuses == ["success"] * 4)
    assert TaskLimits().remembered == 1_000


async def test_a_cancel_ends_what_runs_or_waits_and_is_ignored_otherwise(gateway: Gateway, make: Make) -> None:
    agent = make(UNHURRIED, run=forever, options=Options(tasks=TaskLimits(at_once=1)))
    await agent.connected()
    await gateway.tell(type="tasks_batch", tasks=[{"id": "runs"}, {"id": "waits"}])
    await gateway.tell(type="cancel_tasks_batch", task_ids=["waits", "unknown", "runs"])
    await gateway.until(lambda: gateway.statuses == ["cancelled", "cancelled"])
    assert [message["task_id"] for message in gateway.of("task_result")] == ["waits", "runs"]
    await gateway.tell(type="cancel_task", task_id="runs")
    await gateway.tell(**task_frame("next"))
    await eventually(lambda: agent.process.tasks.running != ["next"])
    assert len(gateway.statuses) == 2


async def test_a_cancelled_task_says_nothing_more(gateway: Gateway, make: Make) -> None:
    await make(UNHURRIED, run=quick(lines=5, duration_s=0.2)).connected()
    await gateway.tell(**task_frame("t1"))
    await gateway.until(lambda: len(gateway.of("log")) == 2)
    await gateway.tell(type="cancel_task", task_id="t1")
    await gateway.until(lambda: gateway.statuses == ["cancelled"])
    said = len(gateway.of("log"))
    assert gateway.of("task_result")[0]["result"]["log"].count("\n") == said
    await asyncio.sleep(0.2)
    assert len(gateway.of("log")) == said < 5
    assert gateway.statuses == ["cancelled"]


async def test_a_new_process_knows_nothing_and_registers_first(gateway: Gateway, make: Make) -> None:
    agent = make(UNHURRIED)
    await agent.connected()
    await gateway.tell(**task_frame("t1"))
    await gateway.until(lambda: gateway.statuses == ["success"])
    agent.restart_process()
    await gateway.until(lambda: len(gateway.connections) == 2)
    assert len(gateway.registrations) == 2
    await gateway.tell(**task_frame("t1"))
    await gateway.until(lambda: gateway.statuses == ["success", "success"])
    assert [event.incarnation for event in agent.recorder.of(Started)] == [1, 2]


async def test_tasks_outlive_a_connection(gateway: Gateway, make: Make) -> None:
    agent = make(UNHURRIED, run=quick(lines=0, duration_s=0.2))
    await agent.connected()
    await gateway.tell(**task_frame("t1"))
    await eventually(lambda: not agent.process.tasks.running)
    agent.cut()
    await gateway.until(lambda: gateway.statuses == ["success"])
    assert len(gateway.connections) == 2


# ---- what a test does to it ----


async def test_a_killed_agent_resets_its_connection_and_stays_away(gateway: Gateway, make: Make) -> None:
    agent = make()
    await agent.connected()
    agent.kill()
    await gateway.until(lambda: gateway.ended == [1006])
    await asyncio.sleep(0.15)
    assert agent.state is State.DEAD
    assert len(gateway.connections) == 1


async def test_a_stopped_agent_says_goodbye(gateway: Gateway, make: Make) -> None:
    agent = make()
    await agent.connected()
    await agent.stop()
    await gateway.until(lambda: gateway.ended == [1000])


async def test_a_cut_agent_comes_back_by_itself_without_registering(gateway: Gateway, make: Make) -> None:
    agent = make()
    await agent.connected()
    agent.cut()
    await gateway.until(lambda: len(gateway.connections) == 2)
    assert gateway.ended == [1006]
    assert len(gateway.registrations) == 1


async def test_a_frozen_agent_reads_and_sends_nothing_until_it_is_thawed(gateway: Gateway, make: Make) -> None:
    agent = make(timings_with(UNHURRIED, heartbeat_s=0.02))
    await agent.connected()
    agent.freeze()
    agent.send_log("t0", "said while frozen")
    await asyncio.sleep(0.05)  # what had left before arrives
    before = len(gateway.received)
    await gateway.tell(**task_frame("t1"))
    await asyncio.sleep(0.2)
    assert len(gateway.received) == before
    assert not agent.recorder.of(Delivered)
    agent.thaw()
    await gateway.until(lambda: gateway.statuses == ["success"] and len(gateway.of("log")) == 3)


async def test_a_slow_reader_still_sends(gateway: Gateway, make: Make) -> None:
    agent = make(timings_with(UNHURRIED, heartbeat_s=0.02))
    await agent.connected()
    agent.stop_reading()
    await gateway.tell(**task_frame("t1"))
    before = len(gateway.received)
    await gateway.until(lambda: len(gateway.received) > before + 3)
    assert not agent.recorder.of(Delivered)
    agent.start_reading()
    await gateway.until(lambda: gateway.statuses == ["success"])


async def test_hundreds_of_agents_share_a_loop(gateway: Gateway) -> None:
    recorder = Recorder()
    async with Fleet(gateway.http_url, 200, recorder=recorder, timings=UNHURRIED) as fleet:
        await fleet.connected()
        for connection in gateway.connections:
            await connection.send(json.dumps({"type": "task", "task": {"id": f"t{id(connection)}"}}))
        await gateway.until(lambda: len(gateway.statuses) == 200)
        await fleet.settled()
    assert len(recorder.of(Acked)) == 600


def test_scaling_spares_nothing() -> None:
    for name, value in msgspec.structs.asdict(FAST).items():
        whole = getattr(Timings(), name)
        expected = tuple(one * 0.01 for one in whole) if isinstance(whole, tuple) else whole * 0.01
        assert value == pytest.approx(expected), name
