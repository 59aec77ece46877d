"""The command line against one real cluster with reference agents, as an operator types it: what it prints, and how it ends."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.cluster_process import ROOT, ClusterProcess
from tests.support.eventually import eventually_blocking
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.required_redis import require_redis
from tests.support.spawned import spawn

SECRET = "the-secret-of-the-cluster"
AUTH = {"auth": {"shared_secret": SECRET, "require_signature": True}}
OURS = ("AGENT_SERVER_", "CONTROL_PLANE_", "AUTH_", "LOGGING_")
HERE = {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | {"PYTHONPATH": str(ROOT)}
PROGRAM = (sys.executable, "-m", "cluster")
LIMIT_S = 60.0
ID_CHARS = 36


class Ran(NamedTuple):
    """How a command line went."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.code == 0, self
        return json.loads(self.out)

    def words(self) -> str:
        """Of an error: one line, with nothing on stdout."""
        assert (self.out, self.err.count("\n"), self.err.startswith("agent-server: ")) == ("", 1, True), self
        return self.err.removeprefix("agent-server: ").rstrip("\n")


class Operator:
    """Types commands in the folder of a cluster's configuration."""

    def __init__(self, cluster: ClusterProcess) -> None:
        self.cluster = cluster
        self.folder = cluster.folder
        self._begun: list[subprocess.Popen[bytes]] = []

    def run(self, *words: str, **environ: str) -> Ran:
        ran = subprocess.run(
            [*PROGRAM, *words], cwd=self.folder, env=HERE | environ, capture_output=True, text=True, timeout=LIMIT_S,
            check=False,
        )  # fmt: skip
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def begin(self, *words: str) -> "subprocess.Popen[bytes]":
        with (self.folder / "begun.out").open("wb") as out, (self.folder / "begun.err").open("wb") as err:
            self._begun.append(subprocess.Popen([*PROGRAM, *words], cwd=self.folder, env=HERE, stdout=out, stderr=err))
        return self._begun[-1]

    def end(self) -> None:
        """Kills what was begun and has not ended."""
        for process in self._begun:
            process.kill()
            process.wait()

    def begun(self, kind: str = "out") -> str:
        return (self.folder / f"begun.{kind}").read_text()

    def agent(self, name: str, *words: str) -> "subprocess.Popen[bytes]":
        """The reference agent, by its command."""
        log = self.folder / f"{name}.log"
        argv = [*PROGRAM, "agent", "--name", name, "--state-dir", str(self.folder / name), *words]
        return spawn(argv, cwd=self.folder, stdout=log, stderr=log, env=HERE)

    def until(self, name: str, status: str) -> None:
        def wrong() -> str:
            said = self.run("agents", "list", "--json")
            states = {agent["name"]: agent["status"] for agent in json.loads(said.out or "[]")}
            return "" if states.get(name) == status else f"{states} {said.err}"

        eventually_blocking(wrong, LIMIT_S)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    require_redis("7.0")
    with RedisServer(tmp_path_factory.mktemp("redis"), version="7.0") as server:
        yield server


@pytest.fixture(scope="module")
def operator(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    cluster = ClusterProcess(tmp_path_factory.mktemp("cluster"), redis_url=redis.url, config=AUTH)
    operator = Operator(cluster)
    cluster.start()
    agents = []
    try:
        asyncio.run(cluster.wait_ready(LIMIT_S))
        agents = [
            operator.agent("web-1", "--host-id", "7", "--label", "env=prod"),
            operator.agent("web-2", "--label", "env=prod"),
            operator.agent("away", "--label", "env=test"),
        ]
        for name in ("web-1", "web-2", "away"):
            operator.until(name, "active")
        agents[2].terminate()
        agents[2].wait(20)
        operator.until("away", "inactive")
        yield operator
    finally:
        operator.end()
        for agent in agents:
            agent.kill()
            agent.wait()
        asyncio.run(cluster.kill_and_wait())


# ---- looking


def test_status_counts_agents_and_names_the_nodes_that_hold_them(operator: Operator) -> None:
    said = operator.run("status", "--json").json()
    assert (said["agents_total"], said["agents_online"], sum(node["agents"] for node in said["nodes"])) == (3, 2, 2)
    assert f"server  {operator.cluster.url}\nagents  3 (2 online, 1 offline)\n" in operator.run("status").out


def test_agents_are_listed_as_a_table_and_as_json(operator: Operator) -> None:
    head, *rows = operator.run("agents", "list").out.splitlines()
    assert head.split()[:3] == ["NAME", "STATUS", "HEARD"]
    assert {tuple(row.split()[:2]) for row in rows} == {("web-1", "online"), ("web-2", "online"), ("away", "offline")}
    listed = operator.run("agents", "list", "--label", "env=test", "--status", "offline", "--json").json()
    assert [agent["name"] for agent in listed] == ["away"]


def test_an_agent_is_shown_by_name_host_id_and_id(operator: Operator) -> None:
    said = operator.run("agents", "show", "7", "--json").json()
    assert (said["name"], said["labels"]) == ("web-1", {"env": "prod"})
    for reference in ("web-1", said["id"]):
        assert said["id"] in operator.run("agents", "show", reference).out


# ---- running


def test_a_run_shows_what_the_task_prints_and_ends_with_its_exit_code(operator: Operator) -> None:
    ran = operator.run("tasks", "run", "web-1", "--", "echo hello; echo oops >&2; exit 3")
    assert ran == Ran(3, "hello\n", "oops\nagent-server: web-1: failed, exit code 3\n")


def test_several_words_are_a_command_and_its_arguments(operator: Operator) -> None:
    assert operator.run("tasks", "run", "7", "--", "printf", "%s\n", "a  b", "$HOME") == Ran(0, "a  b\n$HOME\n", "")


def test_several_agents_have_their_names_before_their_lines(operator: Operator) -> None:
    ran = operator.run("tasks", "run", "--label", "env=prod", "--env", "A=1", "--", "echo $A; exit 0")
    assert (ran.code, sorted(ran.out.splitlines())) == (0, ["web-1 | 1", "web-2 | 1"])
    assert ran.err == "agent-server: 2 agents: 2 succeeded\n"


def test_some_that_fail_are_partly(operator: Operator, tmp_path: Path) -> None:
    ran = operator.run("tasks", "run", "--all", "--", f"mkdir {tmp_path / 'once'} 2>/dev/null")
    assert ran.code == 6
    assert "1 offline and left out" in ran.err
    assert ran.err.endswith("agent-server: 2 agents: 1 succeeded, 1 failed\n")


def test_programs_get_an_object_a_line(operator: Operator) -> None:
    ran = operator.run("tasks", "run", "web-1", "--script-type", "python", "--json", "--", "print('x')")
    line, end = map(json.loads, ran.out.splitlines())
    assert (line["type"], line["agent"], line["stream"], line["content"]) == ("log", "web-1", "stdout", "x")
    assert (end["type"], end["status"], end["exit_code"], end["task_id"]) == ("end", "success", 0, line["task_id"])
    assert (ran.code, ran.err) == (0, "")


def test_the_time_limit_ends_a_task(operator: Operator) -> None:
    ran = operator.run("tasks", "run", "web-1", "--timeout", "1", "--", "sleep", "60")
    assert (ran.code, ran.words()) == (5, "web-1: timed out after 1 s")


def test_ctrl_c_cancels_the_tasks(operator: Operator) -> None:
    run = operator.begin("tasks", "run", "web-1", "web-2", "--json", "--", "echo begun; sleep 600")
    eventually_blocking(lambda: "" if operator.begun().count("begun") == 2 else f"? {operator.begun('err')}", LIMIT_S)
    run.send_signal(signal.SIGINT)
    assert run.wait(LIMIT_S) == 130
    ends = [line for line in map(json.loads, operator.begun().splitlines()) if line["type"] == "end"]
    assert [end["status"] for end in ends] == ["cancelled", "cancelled"]
    assert "interrupted: cancelling 2 tasks" in operator.begun("err")


def test_a_redis_that_comes_back_costs_no_line(operator: Operator, redis: RedisServer) -> None:
    run = operator.begin("tasks", "run", "web-1", "--", "for i in $(seq 30); do echo $i; sleep 0.1; done")
    eventually_blocking(lambda: "" if "3\n" in operator.begun() else f"? {operator.begun('err')}", LIMIT_S)
    redis.stop()
    eventually_blocking(lambda: "" if "warning: Redis does not answer" in operator.begun("err") else "no word", LIMIT_S)
    redis.start()
    assert run.wait(LIMIT_S) == 0, operator.begun("err")
    assert operator.begun() == "".join(f"{number}\n" for number in range(1, 31))


# ---- one task


def test_a_waiting_task_is_shown_and_cancelled(operator: Operator) -> None:
    [posted] = operator.run("tasks", "run", "away", "--detach", "--json", "--", "true").json()
    task_id = posted["task_id"]
    said = operator.run("tasks", "show", "away", task_id, "--json").json()
    assert (said["status"], said["attempts"], said["sent_at"], said["ended_at"]) == ("pending", 0, None, None)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", said["created_at"])
    assert operator.run("tasks", "cancel", "away", task_id) == Ran(0, "", f"{task_id}: cancelled\n")
    assert operator.run("tasks", "cancel", "away", task_id).err == f"{task_id} has ended before: cancelled\n"
    said = operator.run("tasks", "show", "away", task_id, "--json").json()
    assert (said["status"], said["cancel_requested"], said["error_msg"]) == (
        "cancelled", True, "cancelled before delivery",
    )  # fmt: skip
    assert said["ended_by"] == f"end:{posted['agent_id']}:{task_id}"
    shown = operator.run("tasks", "show", "away", task_id).out
    assert "why         cancelled before delivery\n" in shown
    assert "ended by    the cluster\n" in shown
    assert "cancel      asked for\n" in shown


def test_a_task_that_ended_says_when_and_never_what_it_was(operator: Operator) -> None:
    [posted] = operator.run("tasks", "run", "web-1", "--detach", "--json", "--", "echo canary").json()

    def wrong() -> str:
        said = operator.run("tasks", "show", "web-1", posted["task_id"], "--json")
        return "" if '"status": "success"' in said.out else str(said)

    eventually_blocking(wrong, LIMIT_S)
    ran = operator.run("tasks", "show", "7", posted["task_id"], "--json")
    said = ran.json()
    assert said["created_at"] <= said["sent_at"] <= said["ended_at"]
    assert (said["attempts"], bool(said["ended_by"]), "canary" in ran.out) == (1, True, False)
    assert (said["exit_code"], said["error_msg"], said["cancel_requested"]) == (0, "", False)


def test_a_task_that_failed_says_why(operator: Operator) -> None:
    """Also where the feeds cannot be read: the API knows the end."""
    ran = operator.run("tasks", "run", "web-1", "--json", "--", "exit 3")
    task_id = json.loads(ran.out.splitlines()[-1])["task_id"]
    shown = operator.run("tasks", "show", "web-1", task_id).out
    assert "exit code   3\n" in shown
    assert "why         exit status 3\n" in shown


# ---- feeds


def test_a_feed_is_tailed(operator: Operator) -> None:
    operator.run("tasks", "run", "web-1", "--", "echo tailed")
    newest = operator.run("streams", "tail", "logs", "-n", "1", "--no-follow", "--json").json()
    assert newest["content"] == "tailed"
    assert operator.run("streams", "tail", "results", "-n", "1", "--no-follow").out.endswith("success\n")
    assert "web-1  online" in operator.run("streams", "tail", "status", "-n", "100", "--no-follow").out


def test_a_feed_is_followed_until_ctrl_c(operator: Operator) -> None:
    operator.run("tasks", "run", "web-1", "--", "echo before")
    tail = operator.begin("streams", "tail", "logs", "-n", "1")
    eventually_blocking(lambda: "" if operator.begun() else "nothing yet" + operator.begun("err"), LIMIT_S)
    operator.run("tasks", "run", "web-1", "--", "echo followed")
    eventually_blocking(lambda: "" if " | followed\n" in operator.begun() else f"? {operator.begun()}", LIMIT_S)
    tail.send_signal(signal.SIGINT)
    assert (tail.wait(LIMIT_S), operator.begun("err")) == (130, "")


def test_a_result_is_told_with_the_name_of_its_agent(operator: Operator) -> None:
    operator.run("tasks", "run", "web-2", "--", "exit 9")
    last = operator.run("streams", "tail", "results", "-n", "1", "--no-follow").out
    assert re.fullmatch(r"\S+ \S+  web-2  run-\S+  failed  exit 9  exit status 9\n", last)
    as_it_is = operator.run("streams", "tail", "results", "-n", "1", "--no-follow", "--json").json()
    assert "agent_name" not in as_it_is


def test_a_shell_is_offered_agents_nodes_and_tasks(operator: Operator) -> None:
    [posted] = operator.run("tasks", "run", "away", "--detach", "--json", "--", "true").json()
    wanted = {
        "agents show web": ["web-1", "web-2"],
        "agents show 7": ["7"],
        f"agents show {posted['agent_id'][:13]}": [posted["agent_id"]],
        "tasks run web-1 w": ["web-2"],
        "tasks run web-1 -- w": [],
        "nodes drain n": ["n1", "n2"],
        f"tasks show away {posted['task_id'][:6]}": [posted["task_id"]],
    }
    for typed, offered in wanted.items():
        words = f"agent-server {typed}"
        place = str(len(words.split()) - 1)

        def wrong(words: str = words, place: str = place, offered: list[str] = offered) -> str:
            """What a slow machine does not find out in time is not offered."""
            ran = operator.run(_AGENT_SERVER_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=place)
            assert (ran.code, ran.err) == (0, "")
            found = {
                word for word in ran.out.split() if word in offered or len(word) != ID_CHARS
            }  # an id may begin as a host id
            return "" if found == set(offered) else f"{words}: {ran.out.split()}, not {offered}"

        eventually_blocking(wrong, LIMIT_S)
    operator.run("tasks", "cancel", "away", posted["task_id"])


# ---- what goes wrong


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("agents show nobody", 3, "no agent 'nobody': no id, host id or name is like this (agents list shows all)"),
        ("agents forget nobody", 3, "no agent 'nobody'"),
        ("tasks run nobody -- true", 3, "no agent 'nobody'"),
        ("tasks show web-1 nothing", 3, "web-1 has no task 'nothing' (those that ended are known for 25 hours)"),
        ("tasks cancel away nothing", 3, "away has no task 'nothing'"),
        ("tasks cancel web-1 nothing", 3, "web-1 has no task 'nothing'"),
        ("tasks", 2, "Missing command (agent-server tasks --help says more)"),
        ("tasks run away -- true", 1, "offline: away (--queue lets tasks wait for agents that are offline)"),
        ("tasks run --label env=none -- true", 1, "no agent is online with this label"),
        ("tasks run web-1", 2, "expected -- and what to run"),
        ("tasks run -- true", 2, "expected agents, or --label, or --all"),
        ("agents list --url nowhere", 2, "--url: expected http://host:port or https://host"),
        ("status --url http://nowhere.invalid", 1, "no such host"),
        ("streams tail nothing", 2, "FEED: one of results, logs, status, stats"),
        ("streams tail logs --redis-url redis://127.0.0.1:9", 1, "127.0.0.1:9 does not answer (--redis-url says where the"),
    ],
)  # fmt: skip
def test_a_slip_is_one_line(operator: Operator, command: str, code: int, words: str) -> None:
    ran = operator.run(*command.split())
    assert ran.code == code, ran
    assert words in ran.words()


def test_a_wrong_url_says_that_nothing_listens(operator: Operator) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ran = operator.run("status", "--url", url)
    assert (ran.code, ran.words()) == (
        1, f"{url}: nothing listens there; is agent-server running? (--url says where it is)",
    )  # fmt: skip


def test_a_wrong_secret_is_refused(operator: Operator) -> None:
    ran = operator.run("tasks", "run", "web-1", "--", "true", AUTH_SHARED_SECRET="another-secret")
    assert (ran.code, SECRET in ran.err) == (4, False)
    assert "X-Signature does not match; is auth.shared_secret (AUTH_SHARED_SECRET) the server's?" in ran.words()


def test_no_secret_is_refused_with_what_to_set(operator: Operator, tmp_path: Path) -> None:
    ran = operator.run("status", "--url", operator.cluster.url, "--config", os.devnull)
    assert ran.code == 4
    assert "X-Timestamp and X-Signature are required; set AUTH_SHARED_SECRET to the server's secret" in ran.words()


def test_a_run_without_the_feeds_warns_and_still_knows_the_end(operator: Operator) -> None:
    ran = operator.run("tasks", "run", "web-1", "--redis-url", "redis://127.0.0.1:9", "--", "echo unseen; exit 3")
    assert (ran.code, ran.out) == (3, "")
    warning, end = ran.err.splitlines()
    assert re.fullmatch(r"agent-server: warning: no log lines: Redis at \S*127\.0\.0\.1:9 does not answer .*", warning)
    assert end == "agent-server: web-1: failed, exit code 3"


def test_redis_gone_is_said_by_whoever_needs_it(operator: Operator, redis: RedisServer) -> None:
    redis.stop()
    try:
        status, tail = operator.run("status"), operator.run("streams", "tail", "logs")
    finally:
        redis.start()
    assert (status.code, "Redis does not answer" in status.words()) == (1, True)
    assert (tail.code, f"{redis.address}/0 does not answer" in tail.words()) == (1, True)


def test_a_forgotten_agent_is_gone(operator: Operator) -> None:
    agent = operator.agent("brief")
    try:
        operator.until("brief", "active")
        ran = operator.run("agents", "forget", "brief")
        assert (ran.code, ran.out, "is forgotten" in ran.err) == (0, "", True)
        assert operator.run("agents", "show", "brief").code == 3
    finally:
        agent.kill()
        agent.wait()
