"""`agent-server demo`, as a newcomer runs it: it tells what happens, checks it, and leaves nothing behind however it ends."""

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster_process import ROOT
from tests.support.eventually import eventually_blocking
from tests.support.required_redis import require_redis
from tests.support.spawned import spawn

DEMO = (sys.executable, "-m", "cluster", "demo")
LIMIT_S = 120.0
STEPS = [f"{number}/6  " for number in range(1, 7)]


class Demo:
    """One run of the command, in a folder for temporary files that is its alone."""

    def __init__(self, folder: Path, scratch: Path, *options: str) -> None:
        self.scratch = scratch
        self._out, self._err = folder / "out", folder / "err"
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)}
        argv = [*DEMO, *options]
        self.process: subprocess.Popen[bytes] = spawn(argv, cwd=folder, stdout=self._out, stderr=self._err, env=environ)

    def out(self) -> str:
        return self._out.read_text()

    def err(self) -> str:
        return self._err.read_text()

    def until_told(self, words: str) -> None:
        def wrong() -> str:
            assert words in self.out() or self.process.poll() is None, f"{self.out()}\n{self.err()}"
            return "" if words in self.out() else f"{words!r} was not told: {self.out()}"

        eventually_blocking(wrong, LIMIT_S)

    def ends_with(self) -> int:
        return self.process.wait(LIMIT_S)

    def processes(self) -> list[int]:
        """All that work in our folder: each process of the demo does, and what those start."""
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._holds(entry)]

    def _holds(self, process: Path) -> bool:
        try:
            return self.scratch in (process / "cwd").readlink().parents
        except OSError:  # it has ended
            return False

    def assert_nothing_is_left(self) -> None:
        assert (self.processes(), list(self.scratch.iterdir())) == ([], [])


@pytest.fixture
def demo(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Demo]:
    require_redis("6.2")
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:  # a short path: it holds Unix sockets
        demo = Demo(tmp_path, Path(scratch), *getattr(request, "param", ()))
        try:
            yield demo
        finally:
            demo.process.kill()
            demo.process.wait()
            eventually_blocking(demo.processes)


def test_it_tells_six_steps_each_as_promised_and_leaves_nothing(demo: Demo) -> None:
    assert demo.ends_with() == 0, f"{demo.out()}\n{demo.err()}"
    story = [
        *(STEPS[0], "serves at http://127.0.0.1:", "redis  pid ", "r1     pid ", "n1     pid ", "n2     pid "),
        *(STEPS[1], " * online"),
        *(STEPS[2], "POST 'fetch' to web-1\n", "web-1 | fetch: 1 of 4\n", "web-1 | fetch: 4 of 4\n"),
        *(STEPS[3], ": web-2 is dead\n", "web-2 * offline (", "accepted, and waits\n", "still pending"),
        *("web-2 * online\n", "web-2 | catch up: 3 of 3\n"),
        *(STEPS[4], "web-1 | deploy: 3 of 12\n", "is dead, and held ", "web-1 has dialled again", "deploy: success"),
        *("serves again, started anew as pid ", "web-2 | still here\n"),
        *(STEPS[5], "tasks accepted   10\n", "tasks ended      10 ", "log lines        35 ", "It was as told."),
    ]
    place = 0
    for words in story:
        place = demo.out().find(words, place) + 1
        assert place > 0, f"{words!r} is missing, or not in its place:\n{demo.out()}"
    assert demo.out().count("deploy: success") == 1
    assert "db-1  ! index is broken\n" in demo.out()
    assert "db-1  = check: failed, exit code 3\n" in demo.out()
    assert demo.out().replace("\n", "").isprintable()
    assert demo.err() == ""
    demo.assert_nothing_is_left()


@pytest.mark.parametrize("moment", [STEPS[0], "fetch: 1 of 4", "is dead, and held"])
def test_ctrl_c_leaves_nothing_at_any_moment(demo: Demo, moment: str) -> None:
    demo.until_told(moment)
    demo.process.send_signal(signal.SIGINT)
    assert demo.ends_with() == 130, demo.err()
    assert demo.err() == ""
    demo.assert_nothing_is_left()


def test_an_agent_that_does_not_come_back_is_told_and_fails_the_demo(demo: Demo) -> None:
    demo.until_told("web-2 is dead")
    [lock] = demo.scratch.glob("*/web-2/state/lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert demo.ends_with() == 1
    assert demo.err().startswith("agent-server: step 4 did not come out as told: web-2 has ended with exit code 1: ")
    assert demo.err().count("\n") == 1
    assert "It was as told" not in demo.out()
    assert STEPS[4] not in demo.out()
    demo.assert_nothing_is_left()


@pytest.mark.parametrize("demo", [("--keep",)], indirect=True)
def test_a_demo_that_is_kept_runs_on_until_ctrl_c(demo: Demo) -> None:
    demo.until_told("streams tail results")
    [command] = [line for line in demo.out().splitlines() if " tasks run web-1 --url " in line]
    argv = [*DEMO[:-1], *shlex.split(command)[1:]]
    ran = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert ran.stdout.startswith("hello\n")
    demo.process.send_signal(signal.SIGINT)
    assert demo.ends_with() == 0, demo.err()
    demo.assert_nothing_is_left()


def test_no_process_outlives_a_demo_that_is_killed(demo: Demo) -> None:
    demo.until_told("db-1 is held by")
    assert len(demo.processes()) >= 8  # redis, start, a router, two nodes, three agents
    demo.process.kill()
    demo.process.wait()
    eventually_blocking(demo.processes)
