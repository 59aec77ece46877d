"""The agent's life against a small server: it registers, connects, works, and comes back whatever is done to it."""

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError
from cluster.lab import agent as agent_module
from cluster.lab.agent import EXIT_FAILURE, EXIT_USAGE, RESTART, Agent, OneLine, options_from, run_agent
from cluster.lab.backoff import LONGEST_RETRY_AFTER_S, Backoff
from cluster.lab.connection import dialled
from cluster.lab.options import AgentOptions, Timings
from cluster.lab.registration import register
from cluster.lab.state import State
from cluster.lab.trouble import Trouble
from cluster.lab.vitals import Vitals, identity
from tests.support.ports import free_port
from tests.unit.support.gateway import Gateway, running_gateway

FAST = Timings(backoff_first_s=0.02, backoff_longest_s=0.1, resend_first_s=0.1, kill_s=0.3, flush_s=0.5)
ROOT = Path(__file__).parents[3]


class Agents:
    """Starts agents of a gateway, all with one state folder."""

    def __init__(self, gateway: Gateway, folder: Path) -> None:
        self.gateway, self.folder = gateway, folder
        self.lives: list[asyncio.Task[int]] = []

    def options(self, **fields: Any) -> AgentOptions:
        given = {"url": self.gateway.http_url, "name": "web-1", "token": "s3cret", "timings": FAST}
        return AgentOptions(**{**given, "state_dir": self.folder, **fields})

    async def start(self, **fields: Any) -> Agent:
        made: asyncio.Future[Agent] = asyncio.get_running_loop().create_future()

        async def live() -> int:
            options = self.options(**fields)
            with State(options.folder) as state:
                made.set_result(Agent(options, state))
                return await made.result().run()

        self.lives.append(asyncio.create_task(live(), name="agent under test"))
        return await made

    async def connected(self, **fields: Any) -> Agent:
        agent = await self.start(**fields)
        await self.gateway.until(lambda: len(self.gateway.of("heartbeat")) > 0)
        return agent

    async def ended(self) -> int:
        """The exit code of the newest."""
        return await asyncio.wait_for(self.lives[-1], 10)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with running_gateway() as running:
        yield running


@pytest.fixture
async def agents(gateway: Gateway, tmp_path: Path) -> AsyncIterator[Agents]:
    agents = Agents(gateway, tmp_path / "state")
    yield agents
    for life in agents.lives:
        life.cancel()
    await asyncio.gather(*agents.lives, return_exceptions=True)


def task(task_id: str, text: str = "echo hello", **fields: Any) -> dict[str, Any]:
    return {"id": task_id, "type": "script", "command": text, **fields}


def acked(gateway: Gateway) -> list[str]:
    return [message["ack_id"] for message in gateway.of("ack")]


# ---- registering and connecting


async def test_it_registers_with_its_token_and_tells_who_it_is(gateway: Gateway, agents: Agents) -> None:
    await agents.connected(labels={"env": "prod"}, host_id=7)
    (registration,) = gateway.registrations
    assert "Authorization: Bearer s3cret" in registration.head
    assert "s3cret" not in json.dumps(registration.body)
    assert registration.body["name"] == "web-1"
    assert (registration.body["labels"], registration.body["host_id"]) == ({"env": "prod"}, 7)
    assert registration.body["system"]["os"] == "linux"
    assert registration.body["system"]["ips"] == ["127.0.0.1"]
    assert gateway.handshakes[0].headers["Sec-WebSocket-Protocol"] == "agent-token, s3cret"


async def test_a_token_that_the_server_made_is_kept_for_the_next_start(gateway: Gateway, agents: Agents) -> None:
    status, kind, body = gateway.good_answer()
    gateway.answers.append((status, kind, json.dumps(json.loads(body) | {"token": "made-by-server"}).encode()))
    agent = await agents.connected(token="")
    assert gateway.handshakes[0].headers["Sec-WebSocket-Protocol"] == "agent-token, made-by-server"
    agent.stop()
    await agents.ended()
    await agents.start(token="")
    await gateway.until(lambda: len(gateway.handshakes) == 2)
    assert "Authorization: Bearer made-by-server" in gateway.registrations[1].head


async def test_its_heartbeat_tells_how_the_host_fares(gateway: Gateway, agents: Agents) -> None:
    await agents.connected()
    payload = gateway.of("heartbeat")[0]["payload"]
    assert abs(payload["timestamp"] - time.time()) < 60
    assert {"cpu_usage", "memory_usage", "memory_total", "memory_used", "disk_usage", "load_avg", "uptime"} <= {
        *payload["system"]
    }


async def test_a_registration_that_fails_is_repeated(gateway: Gateway, agents: Agents) -> None:
    gateway.answers += [(503, "application/json", b'{"error": "no"}'), (200, "text/html", b"<html>"), (400, "x", b"")]
    await agents.connected()
    assert len(gateway.registrations) == 4


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_who_is_unknown_registers_again(gateway: Gateway, agents: Agents, status: int) -> None:
    gateway.refusals.append((status, {}))
    await agents.connected()
    assert len(gateway.registrations) == 2


@pytest.mark.parametrize("status", [400, 429, 500, 503])
async def test_any_other_refusal_is_no_reason_to_register(gateway: Gateway, agents: Agents, status: int) -> None:
    gateway.refusals += [(status, {})] * 2
    await agents.connected()
    assert (len(gateway.registrations), len(gateway.handshakes)) == (1, 3)


async def test_the_log_holds_what_a_refusal_says_in_one_short_line(
    gateway: Gateway, agents: Agents, caplog: pytest.LogCaptureFixture
) -> None:
    long_one = json.dumps({"error": "too\nmuch " + "x" * 10_000}).encode()
    gateway.answers += [(400, "application/json", long_one), (502, "text/html", b"<html>"), (500, "x", b'{"error": 5}')]
    gateway.refusals.append((503, {}))
    await agents.connected()
    said = [record.getMessage().split("; next attempt")[0] for record in caplog.records]
    first, *others = [line for line in said if "the server answers" in line]
    assert first.startswith("registration: the server answers 400: too much xxx")
    assert len(first) < 300
    assert others == [
        "registration: the server answers 502",
        "registration: the server answers 500",
        "connection: the server answers 503: no",
    ]


@pytest.mark.parametrize("is_given", [True, False])
async def test_a_token_that_is_refused_is_told_once_with_the_way_out(
    gateway: Gateway, agents: Agents, caplog: pytest.LogCaptureFixture, *, is_given: bool
) -> None:
    with State(agents.folder) as state:
        state.keep_token("kept")
    gateway.answers += [(403, "application/json", b'{"code": 1002, "error": "this token was revoked"}')] * 3
    await agents.connected(token="given" if is_given else "")
    said = [
        record.getMessage().split("; next attempt")[0] for record in caplog.records if record.levelname == "WARNING"
    ]
    bare = "registration: the server answers 403: this token was revoked"
    way_out = "this needs another --token" if is_given else f"for a new agent remove {agents.folder}, or give --token"
    assert said == [f"{bare}; {way_out}", bare, bare]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_that_nothing_listens_is_said_in_these_words(agents: Agents, host: str) -> None:
    where = f"{host}:{free_port()}"
    with pytest.raises(Trouble, match=f"^registration: nothing listens at http://{where}$"):
        register(agents.options(url=f"http://{where}/path"), "s3cret")
    with pytest.raises(Trouble, match=f"^connection: nothing listens at ws://{where}$"):
        async with dialled(f"ws://me:s3cret@{where}/ws/agent/x", "s3cret", FAST):
            pytest.fail("somebody listens")


async def test_it_comes_no_sooner_than_it_was_asked_to(gateway: Gateway, agents: Agents) -> None:
    gateway.refusals.append((503, {"Retry-After": "1"}))
    await agents.connected()
    assert gateway.dialled_s[1] - gateway.dialled_s[0] >= 1.0


def test_waits_grow_to_a_limit_and_are_blurred_beyond_it() -> None:
    backoff = Backoff(1.0, 30.0)
    waits = [backoff.next_s() for _ in range(200)]
    assert 0.5 <= waits[0] <= 1.5
    assert 1.0 <= waits[1] <= 3.0
    assert 15 <= min(waits[10:]) < 20
    assert 40 < max(waits[10:]) <= 45
    backoff.reset()
    assert backoff.next_s() <= 1.5
    assert backoff.next_s(retry_after_s=20) >= 20
    assert backoff.next_s(retry_after_s=1e9) <= LONGEST_RETRY_AFTER_S + 45


@pytest.mark.parametrize("code", [1000, 1012, 4409])
async def test_a_closed_connection_is_dialled_again_without_registering(
    gateway: Gateway, agents: Agents, code: int
) -> None:
    await agents.connected()
    await gateway.connection.close(code)
    await gateway.until(lambda: len(gateway.connections) == 2)
    assert len(gateway.registrations) == 1


async def test_a_server_that_is_silent_is_left(gateway: Gateway, agents: Agents) -> None:
    await agents.connected(timings=Timings(read_deadline_s=0.1, backoff_first_s=0.02))
    await gateway.until(lambda: len(gateway.connections) == 2)


async def test_a_frame_that_makes_no_sense_is_no_reason_to_hang_up(gateway: Gateway, agents: Agents) -> None:
    await agents.connected()
    for frame in ("", "[]", "{", '{"type": 1}', '{"type":"later"}', '{"type":"task","task":{"id":5}}'):
        await gateway.connection.send(frame)
    await gateway.connection.send(b"\xff")
    await gateway.tell(type="task", message_id="m", task=task("t"))
    await gateway.until(lambda: gateway.statuses == ["success"])
    assert len(gateway.connections) == 1


# ---- tasks


async def test_a_task_is_acked_run_and_reported(gateway: Gateway, agents: Agents) -> None:
    await agents.connected()
    await gateway.tell(type="task", message_id="m", task=task("t"))
    await gateway.until(lambda: gateway.statuses == ["success"])
    assert acked(gateway) == ["m"]
    (log,) = gateway.of("log")
    assert [line["content"] for line in log["logs"]] == ["hello"]
    assert gateway.of("task_result")[0]["result"]["log_size"] == 6


async def test_a_batch_is_acked_as_one_and_run_task_by_task(gateway: Gateway, agents: Agents) -> None:
    await agents.connected()
    await gateway.tell(type="tasks_batch", message_id="b", tasks=[task("t1"), task("t2", "exit 1")])
    await gateway.until(lambda: len(gateway.statuses) == 2)
    assert acked(gateway) == ["b"]
    assert {result["task_id"]: result["result"]["status"] for result in gateway.of("task_result")} == {
        "t1": "success",
        "t2": "failed",
    }


async def test_cancels_end_tasks(gateway: Gateway, agents: Agents, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "agent")
    await agents.connected()
    await gateway.tell(type="tasks_batch", message_id="b", tasks=[task(name, "sleep 60") for name in "abc"])
    await gateway.until(lambda: acked(gateway) == ["b"])
    await gateway.tell(type="cancel_task", task_id="a")
    await gateway.tell(type="cancel_tasks_batch", task_ids=["b", "c"])
    await gateway.until(lambda: gateway.statuses == ["cancelled"] * 3)
    said = {record.getMessage() for record in caplog.records}
    assert {f"task {name}: cancelled" for name in "abc"} <= said


async def test_what_is_not_acked_is_sent_again_under_its_id(gateway: Gateway, agents: Agents) -> None:
    gateway.acks = False
    await agents.connected()
    await gateway.tell(type="task", message_id="m", task=task("t", "true"))
    await gateway.until(lambda: len(gateway.of("task_result")) >= 2)
    assert len({message["message_id"] for message in gateway.of("task_result")}) == 1


async def test_what_happened_while_it_was_offline_is_told_when_it_is_back(gateway: Gateway, agents: Agents) -> None:
    await agents.connected(timings=Timings(backoff_first_s=0.6))
    await gateway.tell(type="task", message_id="m", task=task("t", "echo before; sleep 0.3; echo after"))
    await gateway.until(lambda: bool(gateway.of("log")))
    await gateway.connection.close(1012)
    await gateway.until(lambda: gateway.statuses == ["success"])
    assert [line["content"] for log in gateway.of("log") for line in log["logs"]] == ["before", "after"]


async def test_what_was_not_acked_survives_the_process(gateway: Gateway, agents: Agents) -> None:
    gateway.acks = False
    agent = await agents.connected()
    await gateway.tell(type="task", message_id="m", task=task("t"))
    await gateway.until(lambda: bool(gateway.statuses))
    agent.stop()
    await agents.ended()
    gateway.acks = True
    before = len(gateway.received)
    await agents.start()
    await gateway.until(lambda: len(gateway.received) >= before + 3)
    again = {message["message_id"] for message in gateway.received[before:] if message["type"] != "heartbeat"}
    assert again == {message["message_id"] for message in gateway.of("log") + gateway.of("task_result")}
    await gateway.tell(type="task", message_id="m2", task=task("t"))  # and it still knows that the task has ended
    await gateway.until(lambda: len(acked(gateway)) == 2)
    assert len({message["message_id"] for message in gateway.of("task_result")}) == 1


# ---- the end


async def test_a_stopped_agent_reports_what_it_ends_and_says_goodbye(gateway: Gateway, agents: Agents) -> None:
    agent = await agents.connected(max_tasks=1)
    await gateway.tell(type="tasks_batch", message_id="b", tasks=[task("a", "sleep 60"), task("b")])
    await gateway.until(lambda: bool(acked(gateway)))
    agent.stop()
    assert await agents.ended() == 0
    assert [result["result"]["error_msg"] for result in gateway.of("task_result")] == ["agent stopped"] * 2
    await gateway.until(lambda: gateway.ended == [1000])


async def test_an_agent_stops_while_the_server_is_away(gateway: Gateway, agents: Agents) -> None:
    gateway.is_silent = True
    agent = await agents.start()
    await gateway.until(lambda: bool(gateway.registrations))
    agent.stop()
    assert await agents.ended() == 0


@pytest.mark.parametrize(("action", "exit_code"), [("stop", 0), ("restart", RESTART)])
async def test_it_stops_and_restarts_when_it_is_asked_to(
    gateway: Gateway, agents: Agents, action: str, exit_code: int
) -> None:
    await agents.connected()
    await gateway.tell(type="upgrade", payload={"target_version": "2", "download_url": "http://x"})
    await gateway.tell(type="control", payload={"action": "start", "reason": ""})
    await gateway.tell(type="control", payload={"action": action, "reason": "a test"})
    assert await agents.ended() == exit_code


async def test_agents_of_one_loop_stop_together_and_leave_signals_to_the_process(
    gateway: Gateway, agents: Agents, tmp_path: Path
) -> None:
    stop, signalled, loop = asyncio.Event(), asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, signalled.set)
    try:
        for name in ("one", "two"):
            options = agents.options(name=name, token=name, state_dir=tmp_path / name)
            agents.lives.append(asyncio.create_task(run_agent(options, stop), name=name))
        await gateway.until(lambda: len(gateway.of("heartbeat")) == 2)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(signalled.wait(), 10)
        assert not any(life.done() for life in agents.lives)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
    stop.set()
    assert await asyncio.wait_for(asyncio.gather(*agents.lives), 10) == [0, 0]


async def test_an_agent_that_is_told_to_stop_leaves_its_neighbours_alone(
    gateway: Gateway, agents: Agents, tmp_path: Path
) -> None:
    stop = asyncio.Event()
    for name in ("one", "two"):
        options = agents.options(name=name, token=name, state_dir=tmp_path / name)
        agents.lives.append(asyncio.create_task(run_agent(options, stop), name=name))
    await gateway.until(lambda: len(gateway.of("heartbeat")) == 2)
    await gateway.tell(type="control", payload={"action": "stop"})
    await asyncio.wait(agents.lives, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    assert (sum(life.done() for life in agents.lives), stop.is_set()) == (1, False)


# ---- as a program


async def run_main(gateway: Gateway, folder: Path, *more: str) -> asyncio.subprocess.Process:
    argv = ("-m", "cluster.lab.agent", "--url", gateway.http_url, "--name", "web-1", "--state-dir", str(folder), *more)
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "AGENT_TOKEN": "s3cret"}
    return await asyncio.create_subprocess_exec(sys.executable, *argv, env=environ, stderr=asyncio.subprocess.PIPE)


async def test_sigterm_ends_the_program_and_its_log_holds_no_secret(gateway: Gateway, tmp_path: Path) -> None:
    process = await run_main(gateway, tmp_path, "--label", "env=prod")
    await gateway.until(lambda: bool(gateway.of("heartbeat")), 20.0)
    await gateway.tell(type="task", message_id="m", task=task("t\n1", "echo command-secret"))
    await gateway.until(lambda: gateway.statuses == ["success"])
    process.terminate()
    _, said = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0, said
    assert b"connected" in said
    assert b"task t\\n1: success" in said
    assert b"secret" not in said
    assert b"s3cret" not in said


async def test_a_restart_is_the_same_process_with_the_same_command(gateway: Gateway, tmp_path: Path) -> None:
    process = await run_main(gateway, tmp_path)
    await gateway.until(lambda: bool(gateway.of("heartbeat")), 20.0)
    await gateway.tell(type="control", payload={"action": "restart"})
    await gateway.until(lambda: len(gateway.connections) == 2, 20.0)
    assert len(gateway.registrations) == 2
    process.terminate()
    _, said = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, said.count(b"registered as")) == (0, 2)


def test_a_command_line_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_TOKEN", "from-environment")
    options = options_from(
        ["--url", "http://h:1", "--name", "n", "--label", "a=b=c", "--label", "d=", "--host-id", "7"]
    )
    assert (options.labels, options.host_id, options.token) == ({"a": "b=c", "d": ""}, 7, "from-environment")
    assert options_from(["--url", "http://h:1", "--token", "given"]).token == "given"
    with pytest.raises(ConfigError, match="label"):
        options_from(["--url", "http://h:1", "--label", "a"])


def test_what_cannot_start_is_one_line_and_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "log_to_stderr", lambda: None)
    assert agent_module.main(["--url", "nowhere"]) == EXIT_USAGE
    with State(tmp_path):
        assert agent_module.main(["--url", "http://h:1", "--state-dir", str(tmp_path)]) == EXIT_FAILURE
    first, second = capsys.readouterr().err.splitlines()
    assert first == "agent: url: expected http://host:port or https://host"
    assert second.startswith("agent: another agent runs with the state folder")


def test_nothing_in_a_log_line_begins_another() -> None:
    record = logging.makeLogRecord({"msg": "%s\x1b[1m", "args": ("a\nb",)})
    assert OneLine("%(message)s").format(record) == "a\\nb\\x1b[1m"


# ---- the host


def test_cpu_usage_is_that_since_the_last_reading(tmp_path: Path) -> None:
    vitals = Vitals(tmp_path)
    (tmp_path / "stat").write_text("cpu  100 0 0 900 0 0 0 0 0 0\ncpu0 1\n")
    vitals.read()
    (tmp_path / "stat").write_text("cpu  150 0 0 950 0 0 0 0 0 0\ncpu0 1\n")
    assert vitals.read()["cpu_usage"] == 50.0


def test_a_host_without_proc_says_what_it_can(tmp_path: Path) -> None:
    assert {"hostname", "load_avg", "disk_usage"} == {*Vitals(tmp_path).read()}


def test_a_name_that_cannot_be_looked_up_is_no_reason_not_to_register() -> None:
    assert identity("http://name.invalid")["ips"] == []
