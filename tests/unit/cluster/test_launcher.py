"""The supervisor with real processes: its children are stubs, its Redis is a real one."""

import itertools
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from cluster.embedded import local_url
from tests.support.eventually import eventually_blocking
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.spawned import argv_of, children_of, is_running, spawn

HERE = Path(__file__).parent
ROOT = Path(__file__).parents[3]
QUICK = {"pace": {"first_s": 0.05, "longest_s": 0.2}}


class Event:
    """A line that a stub wrote."""

    def __init__(self, line: str) -> None:
        at, self.name, pid, self.what = line.split(" ", 3)
        self.at_s = float(at)
        self.pid = int(pid)


class Start:
    """A supervisor of our own, its orders to stubs, and what it says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.redis_port = free_port()  # nobody else's, so that whether it is kept does not depend on who else tests
        self.flags: dict[str, object] = {"server.host": "127.0.0.1", "cluster.nodes": 2}
        self.config: str | None = None
        self.timing: dict[str, object] = dict(QUICK)
        self.process: subprocess.Popen[bytes] | None = None
        self.children: set[int] = set()

    def order(self, name: str, what: str) -> None:
        (self.folder / name).write_text(what)

    def begin(self) -> None:
        flags = {"server.port": self.port, "cluster.data_dir": str(self.folder / "data"), **self.flags}
        order = {"flags": flags, "timing": self.timing, "config": self.config, "redis_port": self.redis_port}
        argv = [sys.executable, str(HERE / "stub_start.py"), json.dumps(order)]
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "STUB_FOLDER": str(self.folder)}
        for name in ("out", "err", "events"):
            (self.folder / name).write_text("")
        self.process = spawn(argv, cwd=self.folder, stdout=self.folder / "out", stderr=self.folder / "err", env=environ)

    def ready(self) -> "Start":
        self.begin()
        eventually_blocking(lambda: self.is_over() or ("ready " not in self.out() and "not ready: " + self.err()))
        return self

    def is_over(self) -> str | None:
        code = self.running.poll()
        if code is None:
            return None
        raise AssertionError(f"ended with {code}: {self.err()}")

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process
        return self.process

    def out(self) -> str:
        return (self.folder / "out").read_text()

    def err(self) -> str:
        return (self.folder / "err").read_text()

    def until_said(self, text: str) -> None:
        eventually_blocking(lambda: None if text in self.err() else f"not said: {text!r}, but: {self.err()!r}")

    def events(self, what: str = "", name: str = "") -> list[Event]:
        lines = (self.folder / "events").read_text().splitlines()
        found = [Event(line) for line in lines]
        return [event for event in found if event.what.startswith(what) and name in event.name]

    def pids(self) -> dict[str, int]:
        """Its children by name: those that the kernel knows, not those that it printed."""
        found = {}
        for child in children_of(self.running.pid):
            name = child.argv[child.argv.index("--id") + 1] if "--id" in child.argv else "redis"
            found[name] = child.pid
        self.children |= set(found.values())
        return found

    def send(self, number: signal.Signals) -> None:
        self.running.send_signal(number)

    def end(self, timeout_s: float = 10.0) -> int:
        """Waits for its end: the exit code."""
        return self.running.wait(timeout_s)

    def stop(self) -> int:
        self.send(signal.SIGTERM)
        return self.end()

    def survivors(self) -> list[int]:
        return [pid for pid in self.children if is_running(pid)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started = Start(tmp_path)
    yield started
    if started.process is not None and started.process.poll() is None:
        started.pids()
        started.process.kill()
        started.process.wait()
        eventually_blocking(started.survivors)


def asked(port: int, text: bytes = b"who") -> int:
    """The pid of the router that answers."""
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(text)
        return int(connection.recv(100))


def refuses(port: int) -> str | None:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError as error:
        return str(error)
    return None


def test_it_prints_where_everything_listens_and_then_that_it_is_ready(start: Start) -> None:
    lines = start.ready().out().splitlines()
    pids = start.pids()
    assert [line.split()[0] for line in lines] == ["process", "redis", "r1", "n1", "n2", "ready"]
    assert {line.split()[0]: int(line.split()[1]) for line in lines[1:-1]} == pids
    assert f"http://127.0.0.1:{start.port}, admin http://127.0.0.1:{start.port + 1000}" in lines[2]
    assert f"admin http://127.0.0.1:{start.port + 1001}" in lines[3]
    assert lines[-1] == f"ready http://127.0.0.1:{start.port}"
    assert asked(start.port) == pids["r1"]


def test_children_get_the_port_and_the_embedded_redis_by_their_environment(start: Start) -> None:
    start.port = 0
    start.ready()
    port = int(start.out().rpartition(":")[2])
    told = {event.what for event in start.events("port ")}
    redis = local_url(start.folder / "data")
    assert told == {f"port {port} redis {redis}"}


def test_an_admin_port_that_is_taken_gives_way_to_a_free_one(start: Start) -> None:
    with socket.create_server(("127.0.0.1", start.port + 1001)):
        start.ready()
    admin = {event.name: int(event.what.split()[1]) for event in start.events("admin")}
    assert admin["r1"] == start.port + 1000
    assert admin["n1"] != start.port + 1001
    assert f"admin http://127.0.0.1:{admin['n1']}" in start.out()


def test_processes_are_dealt_out_to_the_cpus(start: Start) -> None:
    start.ready()
    cpus = sorted(os.sched_getaffinity(0))
    given = {name: argv_of(pid) for name, pid in start.pids().items() if name != "redis"}
    assert {name: int(argv[argv.index("--cpu") + 1]) for name, argv in given.items()} == {
        name: cpus[number % len(cpus)] for number, name in enumerate(("r1", "n1", "n2"))
    }


def test_what_dies_is_started_again_and_nothing_else_is(start: Start) -> None:
    before = start.ready().pids()
    os.kill(before["n1"], signal.SIGKILL)
    eventually_blocking(lambda: len(start.events("ready", "n1")) < 2 and "one start of n1")
    after = start.pids()
    assert after["n1"] != before["n1"]
    assert {**after, "n1": 0} == {**before, "n1": 0}
    assert start.err().splitlines() == ["n1 was ended by SIGKILL; it starts again at once"]


def test_a_child_that_keeps_dying_is_started_with_growing_pauses(start: Start) -> None:
    start.timing = {"pace": {"first_s": 0.1, "longest_s": 0.3}}
    start.ready()
    start.order("n1", "die")
    os.kill(start.pids()["n1"], signal.SIGKILL)
    eventually_blocking(lambda: len(start.events("started", "n1")) < 7 and "fewer starts")
    starts = [event.at_s for event in start.events("started", "n1")][1:]
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert all(pause >= least for pause, least in zip(pauses, (0.1, 0.2, 0.3, 0.3), strict=False))
    said = [line.rpartition("; ")[2] for line in start.err().splitlines()]
    assert said[:5] == [
        "it starts again " + when for when in ("at once", "in 0.1 s", "in 0.2 s", "in 0.3 s", "in 0.3 s")
    ]


def test_a_redis_that_dies_comes_back_on_its_port(start: Start) -> None:
    before = start.ready().pids()
    os.kill(before["redis"], signal.SIGKILL)
    eventually_blocking(lambda: start.pids().get("redis", before["redis"]) == before["redis"] and "no new Redis")
    eventually_blocking(lambda: refuses(start.redis_port))
    assert {**start.pids(), "redis": 0} == {**before, "redis": 0}


def test_children_die_with_a_killed_supervisor_and_their_ports_are_free_at_once(start: Start) -> None:
    for name in ("n1", "r1"):
        start.order(name, "deaf")
    start.ready()
    assert set(start.pids()) == {"redis", "r1", "n1", "n2"}
    start.running.kill()
    start.end()
    start.ready()  # at once: nobody waited for the children to be gone
    assert f"redis://127.0.0.1:{start.redis_port}/0" in start.out()
    assert not [pid for pid in start.survivors() if pid not in start.pids().values()]


def test_stopping_drains_the_nodes_while_the_router_still_answers(start: Start) -> None:
    start.order("n2", "slow")
    start.ready().pids()
    assert start.stop() == 0
    ends = {event.name: event.at_s for event in start.events("ends")}
    asked_to_end = {event.name: event.at_s for event in start.events("asked to end")}
    assert max(asked_to_end["n1"], asked_to_end["n2"]) < ends["n2"] <= asked_to_end["r1"]
    assert not start.survivors()
    assert start.err() == ""


def test_a_child_that_does_not_stop_is_killed_within_the_budget(start: Start) -> None:
    start.timing["stop_s"] = 1.0
    start.order("n1", "deaf")
    start.ready().pids()
    began_s = time.monotonic()
    assert start.stop() == 0
    assert 0.8 <= time.monotonic() - began_s < 3
    assert not start.survivors()
    assert "n1 does not stop within 0.8 s and is killed" in start.err()
    assert start.events("asked to end", "r1")


def test_a_second_signal_ends_it_at_once(start: Start) -> None:
    start.timing["stop_s"] = 60.0
    start.order("n1", "deaf")
    start.ready().pids()
    start.send(signal.SIGINT)
    eventually_blocking(lambda: not start.events("asked to end", "n2") and "not stopping")
    start.send(signal.SIGINT)
    assert start.end() == 0
    assert not start.survivors()


def test_it_can_be_stopped_before_it_is_ready(start: Start) -> None:
    start.order("n1", "silent")
    start.begin()
    eventually_blocking(lambda: not start.events("admin", "n1") and "n1 did not start")
    start.pids()
    assert start.stop() == 0
    assert not start.survivors()
    assert start.out() == ""


def test_a_child_that_refuses_its_settings_ends_everything(start: Start) -> None:
    start.order("n2", "exit 2")
    start.begin()
    assert start.end() == 1
    assert start.err().splitlines()[-1] == "agent-server: port 1 will not do"
    assert len(start.events("started", "n2")) == 1
    assert start.out() == ""
    assert not [event.pid for event in start.events() if is_running(event.pid)]


def test_a_child_that_served_before_is_started_again_whatever_its_exit_code(start: Start) -> None:
    pids = start.ready().pids()
    start.order("n1", "exit 2")
    os.kill(pids["n1"], signal.SIGKILL)
    start.until_said("n1 ended with exit code 2 (port 1 will not do); it starts again in")
    start.order("n1", "")
    eventually_blocking(lambda: len(start.events("ready", "n1")) < 2 and "n1 not back")
    assert start.running.poll() is None


def test_a_restart_takes_one_process_at_a_time_nodes_first(start: Start) -> None:
    before = start.ready().pids()
    assert asked(start.port, b"restart") == before["r1"]
    start.until_said("nodes and router were restarted")
    steps = [(event.name, event.what) for event in start.events() if event.what in {"asked to end", "ends", "ready"}]
    each = ("asked to end", "ends", "ready")
    assert steps[-9:] == [(name, what) for name in ("n1", "n2", "r1") for what in each]
    after = start.pids()
    assert after["redis"] == before["redis"]
    assert not set(after.values()) & {before[name] for name in ("n1", "n2", "r1")}


def test_no_connection_attempt_is_lost_while_the_router_restarts(start: Start) -> None:
    start.ready()
    answers: list[int] = []
    is_over = threading.Event()

    def keep_asking() -> None:
        while not is_over.is_set():
            answers.append(asked(start.port))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    start.send(signal.SIGHUP)
    start.until_said("nodes and router were restarted")
    restarted = start.pids()["r1"]
    eventually_blocking(lambda: restarted not in answers and "no answer of the new router")
    is_over.set()
    asking.join()
    assert len(set(answers)) == 2


def test_a_restart_stops_at_a_process_that_does_not_come_back(start: Start) -> None:
    start.timing["ready_s"] = 0.3
    before = start.ready().pids()
    start.order("n1", "silent")
    start.send(signal.SIGHUP)
    start.until_said("the others go on as they are")
    after = start.pids()
    assert (after["n2"], after["r1"]) == (before["n2"], before["r1"])


def test_a_restart_with_settings_that_cannot_be_used_changes_nothing(start: Start) -> None:
    config = start.folder / "config.yaml"
    config.write_text("agent:\n  heartbeat_timeout: 60s\n")
    start.config = str(config)
    before = start.ready().pids()
    config.write_text("agent:\n  heartbeat_timeout: soon\n")
    start.send(signal.SIGHUP)
    start.until_said("not restarted")
    assert "agent.heartbeat_timeout: 'soon'" in start.err()
    assert start.pids() == before


def test_a_port_in_use_is_told_in_one_line(start: Start) -> None:
    with socket.create_server(("127.0.0.1", start.port)):
        start.begin()
        assert start.end() == 1
    expected = f"agent-server: port {start.port} on 127.0.0.1 is in use by another program: stop it, or choose another with --port"
    assert start.err().splitlines() == [expected]
    assert not start.events()


def test_a_second_start_on_the_same_data_directory_is_refused(start: Start, tmp_path: Path) -> None:
    start.ready()
    second = Start(tmp_path / "second")
    second.folder.mkdir()
    second.flags["cluster.data_dir"] = str(start.folder / "data")
    second.begin()
    assert second.end() == 1
    assert (
        second.err()
        == f"agent-server: the data directory {start.folder / 'data'} is in use by another agent-server (choose another --data-dir)\n"
    )
    assert not second.events()


def test_tls_is_refused(start: Start) -> None:
    start.flags |= {"server.tls_cert": "a.pem", "server.tls_key": "b.pem"}
    start.begin()
    assert start.end() == 1
    assert "put a load balancer in front" in start.err()
    assert len(start.err().splitlines()) == 1


def test_a_configured_redis_that_does_not_answer_is_given_some_time_and_then_named(start: Start) -> None:
    away = free_port()
    start.timing["redis_s"] = 0.5
    start.flags["redis.url"] = f"redis://:secret@127.0.0.1:{away}/0"
    start.begin()
    assert start.end() == 1
    assert f"127.0.0.1:{away}" in start.err()
    assert "does not answer" in start.err()
    assert "secret" not in start.err()
    assert len(start.err().splitlines()) == 1


def test_beside_a_configured_redis_it_needs_no_data_directory(start: Start, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        start.flags["redis.url"] = redis.url
        start.ready()
        assert set(start.pids()) == {"r1", "n1", "n2"}
        assert ["redis", "-", "-", redis.url] in [line.split() for line in start.out().splitlines()]
        assert not (start.folder / "data").exists()
        assert start.stop() == 0


def test_a_configured_redis_that_keeps_no_log_is_warned_of_once(start: Start, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        assert redis.command("CONFIG", "SET", "appendonly", "no") == b"+OK"
        start.flags["redis.url"] = redis.url
        start.ready()
        [line] = start.err().splitlines()
        assert f"{redis.address}/0 has appendonly no" in line
        assert start.stop() == 0


def test_it_stops_when_its_terminal_closes(start: Start) -> None:
    flags: Mapping[str, object] = {"server.port": 0, "cluster.data_dir": str(start.folder / "data"), **start.flags}
    order = json.dumps({"flags": flags, "timing": {}, "config": None, "redis_port": start.redis_port})
    (start.folder / "events").write_text("")
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(
            signal.SIGHUP, signal.SIG_DFL
        )  # under nohup it is ignored, and a closing terminal is meant to be no end
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "STUB_FOLDER": str(start.folder)}
        os.execve(sys.executable, [sys.executable, str(HERE / "stub_start.py"), order], environ)  # noqa: S606 - no shell is wanted
    said = b""
    while b"ready " not in said:
        said += os.read(terminal, 1000)
    start.children = {child.pid for child in children_of(pid)}
    os.close(terminal)
    eventually_blocking(lambda: os.waitpid(pid, os.WNOHANG) == (0, 0) and "it goes on")
    assert not start.survivors()
