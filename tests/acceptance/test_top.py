"""`top` against a real cluster: on a terminal, and elsewhere."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.cluster_process import ROOT, ClusterProcess
from tests.support.eventually import eventually_blocking
from tests.support.ports import free_port
from tests.support.pseudo_terminal import PseudoTerminal
from tests.support.required_redis import require_redis

OURS = ("AGENT_SERVER_", "CONTROL_PLANE_", "AUTH_", "LOGGING_")
HERE = {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | {"PYTHONPATH": str(ROOT)}
TOP = (sys.executable, "-m", "cluster", "top")
LIMIT_S = 30.0
BEGIN, END = "\x1b[?1049h", "\x1b[?25h\x1b[?1049l"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcess]:
    require_redis("6.2")
    cluster = ClusterProcess(tmp_path_factory.mktemp("cluster"))
    cluster.start()
    try:
        asyncio.run(cluster.wait_ready(LIMIT_S))
        yield cluster
    finally:
        asyncio.run(cluster.kill_and_wait())


def top(cluster: ClusterProcess, *words: str) -> PseudoTerminal:
    return PseudoTerminal([*TOP, "--interval", "0.3", *words], cwd=cluster.folder, env=HERE)


def until_drawn(terminal: PseudoTerminal, text: str, times: int = 1) -> None:
    eventually_blocking(lambda: "" if terminal.written().count(text) >= times else f"? {terminal.written()!r}", LIMIT_S)


def last_page(terminal: PseudoTerminal) -> list[str]:
    return [line.split("\x1b")[0] for line in terminal.written().rpartition("\x1b[H")[2].split("\r\n")]


def test_elsewhere_it_prints_one_snapshot(cluster: ClusterProcess) -> None:
    ran = subprocess.run([*TOP], cwd=cluster.folder, env=HERE, capture_output=True, text=True, check=True)
    assert (ran.stderr, "\x1b" in ran.stdout) == ("", False)
    assert {line.split()[0] for line in ran.stdout.splitlines() if line} >= {"agents", "n1", "n2", "results"}
    ran = subprocess.run([*TOP, "--json"], cwd=cluster.folder, env=HERE, capture_output=True, text=True, check=True)
    said = json.loads(ran.stdout)
    assert [(node["id"], node["state"]) for node in said["nodes"]] == [("n1", "ready"), ("n2", "ready")]
    assert all(node["messages_per_s"] is not None and node["memory_bytes"] > 2**20 for node in said["nodes"])
    assert said["redis"]["ops_per_s"] >= 0 < said["redis"]["memory_bytes"]
    assert said["tasks"] == {
        "accepted_per_s": 0.0, "ended_per_s": 0.0, "open": 0, "pending": 0, "oldest_pending_s": 0.0,
        "pending_is_more": False,
    }  # fmt: skip


@pytest.mark.parametrize(("end", "code"), [("q", 0), ("\x03", 130)])
def test_it_draws_again_and_again_until_it_is_told_to_end(cluster: ClusterProcess, end: str, code: int) -> None:
    with top(cluster) as terminal:
        until_drawn(terminal, "FEED", times=3)
        assert terminal.attributes() != terminal.before
        terminal.type(end)
        assert terminal.process.wait(LIMIT_S) == code
        until_drawn(terminal, END)
        assert (terminal.written().count(BEGIN), terminal.written().endswith(END)) == (1, True)
        assert terminal.attributes() == terminal.before


def test_a_signal_leaves_the_terminal_as_it_was(cluster: ClusterProcess) -> None:
    with top(cluster) as terminal:
        until_drawn(terminal, "FEED")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.process.wait(LIMIT_S) == 130
        until_drawn(terminal, END)
        assert terminal.attributes() == terminal.before


def test_ctrl_z_gives_the_terminal_back_and_fg_takes_it_again(cluster: ClusterProcess) -> None:
    with top(cluster) as terminal:
        until_drawn(terminal, "FEED")
        terminal.process.send_signal(signal.SIGTSTP)
        until_drawn(terminal, END)
        eventually_blocking(lambda: "" if terminal.attributes() == terminal.before else "not given back", LIMIT_S)
        terminal.process.send_signal(signal.SIGCONT)
        until_drawn(terminal, BEGIN, times=2)
        terminal.type("q")
        assert terminal.process.wait(LIMIT_S) == 0
        assert terminal.attributes() == terminal.before


def test_a_window_that_becomes_small_shows_less_and_never_wraps(cluster: ClusterProcess) -> None:
    with top(cluster, "--interval", "3600") as terminal:
        until_drawn(terminal, "FEED", times=2)
        terminal.resize(5, 20)
        terminal.process.send_signal(signal.SIGWINCH)
        until_drawn(terminal, "more lines")
        page = last_page(terminal)
        assert (len(page), max(map(len, page)) < 20) == (5, True)
        terminal.type("q")
        assert terminal.process.wait(LIMIT_S) == 0


def test_while_redis_is_away_it_says_so_under_its_last_figures(cluster: ClusterProcess) -> None:
    with top(cluster) as terminal:
        until_drawn(terminal, "FEED")
        os.kill(cluster.redis_pid(), signal.SIGSTOP)
        try:
            until_drawn(terminal, "these are the last figures")
            assert any(line.startswith("n1") for line in last_page(terminal))
        finally:
            os.kill(cluster.redis_pid(), signal.SIGCONT)
        terminal.type("q")
        assert terminal.process.wait(LIMIT_S) == 0


def test_a_redis_that_is_not_there_is_one_line_and_no_terminal_is_taken(cluster: ClusterProcess) -> None:
    with top(cluster, "--redis-url", f"redis://127.0.0.1:{free_port()}") as terminal:
        assert terminal.process.wait(LIMIT_S) == 1
        until_drawn(terminal, "does not answer (--redis-url says where")
        assert (BEGIN in terminal.written(), terminal.written().count("\n")) == (False, 1)
