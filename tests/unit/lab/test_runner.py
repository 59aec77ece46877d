"""Tasks as real processes: what they are given, what they leave, how they end."""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cluster.lab import command, output, runner
from cluster.lab.output import OutputLine
from cluster.lab.runner import AGENT_STOPPED, CANCELLED, Outcome, Stop
from cluster.lab.trouble import BAD_TASK, FAILED_HERE, NOT_FOUND, TIMED_OUT
from cluster.lab.wire import End
from cluster.messages import TaskSpec
from tests.support.eventually import eventually
from tests.support.spawned import is_running

KILL_S = 0.2
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


class Host:
    """Runs tasks, and keeps what they write."""

    def __init__(self) -> None:
        self.lines: list[OutputLine] = []
        self.stop: Stop = asyncio.get_running_loop().create_future()

    async def keep(self, lines: list[OutputLine]) -> bool:
        self.lines += lines
        return True

    async def run(self, text: str = "", **fields: Any) -> End:
        task = msgspec.convert({"id": "t", "type": "script", "command": text, **fields}, TaskSpec)
        return await asyncio.wait_for(runner.run(task, self.stop, self.keep, KILL_S), 20)

    def said(self, stream: str = "stdout") -> list[str]:
        return [line.content for line in self.lines if line.stream == stream]

    async def cut_short(self, outcome: Outcome, text: str, **fields: Any) -> End:
        """Runs a task that says something first, and ends it then."""
        run = asyncio.create_task(self.run(text, **fields))
        await eventually(lambda: "" if self.lines else "it says nothing")
        self.stop.set_result(outcome)
        return await run

    def pids(self) -> list[int]:
        """What the task said, as process ids."""
        return [int(content) for content in self.said()]


@pytest.fixture
async def host() -> Host:
    return Host()


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
    """The files of scripts that are there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda: list(tmp_path.glob("agent-task-*"))


# ---- what a task is given


async def test_a_script_that_ends_well_is_a_success(host: Host) -> None:
    before = int(time.time())
    end = await host.run("echo one; echo two >&2; printf three")
    assert (end.status, end.exit_code, end.error_msg, end.error_code) == ("success", 0, "", 0)
    assert (host.said(), host.said("stderr")) == (["one", "three"], ["two"])
    assert end.log_size == len("one\ntwo\nthree")
    assert before <= end.started_at <= end.finished_at <= time.time()


async def test_an_exit_status_is_a_failure_that_names_it(host: Host) -> None:
    end = await host.run("exit 3")
    assert (end.status, end.exit_code, end.error_msg) == ("failed", 3, "exit status 3")


async def test_a_signal_is_a_failure_as_shells_number_it(host: Host) -> None:
    end = await host.run("kill -9 $$")
    assert (end.status, end.exit_code, end.error_msg) == ("failed", 137, "killed by signal 9")


@pytest.mark.parametrize("script_type", [None, "sh", "BASH"])
async def test_a_shell_script_gets_arguments_and_environment(host: Host, script_type: str | None) -> None:
    await host.run('echo "$2|$A|$B"', script_type=script_type, args=["x", "a b"], env={"A": "$HOME", "B": None})
    assert host.said() == ["a b|$HOME|"]


@pytest.mark.parametrize(("kind", "script_type"), [("script", "python"), ("command", "python3")])
async def test_python_gets_arguments_and_environment(host: Host, kind: str, script_type: str) -> None:
    text = "import os, sys; print(sys.argv[1:], os.environ['A'])"
    await host.run(text, type=kind, script_type=script_type, args=["a b"], env={"A": "1"})
    assert host.said() == ["['a b'] 1"]


async def test_what_python_prints_comes_while_it_runs(host: Host) -> None:
    end = await host.cut_short(CANCELLED, "import time; print('now'); time.sleep(60)", script_type="python")
    assert (end.status, host.said()) == ("cancelled", ["now"])


async def test_a_command_line_gets_its_arguments_as_further_words(host: Host) -> None:
    await host.run("echo one; echo two", type="command", args=["a  b", "$HOME", None])
    assert host.said() == ["one", "two a  b $HOME "]


async def test_a_script_may_be_longer_than_an_argument_may(host: Host, scripts: Callable[[], list[Path]]) -> None:
    end = await host.run("# " + "x" * 300_000 + "\necho done")
    assert (end.status, host.said()) == ("success", ["done"])
    assert not scripts()


async def test_a_task_runs_where_it_is_told_to(host: Host, tmp_path: Path) -> None:
    await host.run("pwd", work_dir=str(tmp_path))
    assert host.said() == [str(tmp_path)]


async def test_a_task_does_not_see_the_agents_token(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(command.TOKEN_VARIABLE, "s3cret")
    await host.run("env")
    assert not [line for line in host.said() if "s3cret" in line]


async def test_a_task_reads_nothing_from_the_agents_standard_input(host: Host) -> None:
    assert (await host.run("cat", timeout_sec=5)).status == "success"


@needs_root
async def test_run_as_becomes_that_user_with_its_groups_and_home(host: Host) -> None:
    end = await host.run("id -un; id -Gn; echo $USER", run_as="nobody", script_type="sh")
    assert (end.status, host.said()) == ("success", ["nobody", "nogroup", "nobody"])


async def test_run_as_needs_root(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    end = await host.run("id", run_as="root")
    assert (end.status, end.error_msg) == ("failed", "run_as: the agent does not run as root")


# ---- what cannot be carried out


@pytest.mark.parametrize(
    ("fields", "error_code", "error_msg"),
    [
        ({"type": "dance"}, BAD_TASK, "type: 'dance' is none of command, file_transfer, script"),
        ({"command": ""}, BAD_TASK, "command: required"),
        ({"script_type": "perl"}, BAD_TASK, "script_type: 'perl' is none of bash, python, python3, sh, shell"),
        ({"work_dir": "/nowhere"}, NOT_FOUND, "work_dir: no folder '/nowhere' on this host"),
        ({"run_as": "no one"}, NOT_FOUND, "run_as: no user 'no one' on this host"),
        ({"args": ["\0"]}, BAD_TASK, "the task cannot be started: embedded null byte"),
        ({"args": ["x" * 200_000]}, FAILED_HERE, "Argument list too long"),
    ],
)
async def test_a_task_that_cannot_be_carried_out_says_why(
    host: Host, fields: dict[str, Any], error_code: int, error_msg: str
) -> None:
    end = await host.run("true", **fields)
    assert (end.status, end.exit_code, end.error_code) == ("failed", -1, error_code)
    assert end.error_msg.startswith(error_msg)


async def test_an_interpreter_that_is_missing_is_named(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    end = await host.run("true", script_type="bash")
    assert (end.error_code, end.error_msg) == (FAILED_HERE, "script_type: there is no bash on this host")


# ---- ends from outside


async def test_a_cancel_ends_the_whole_group(host: Host, scripts: Callable[[], list[Path]]) -> None:
    end = await host.cut_short(CANCELLED, "sleep 60 & echo $!; wait")
    assert (end.status, end.exit_code, end.error_msg) == ("cancelled", -1, "cancelled")
    await eventually(lambda: [pid for pid in host.pids() if is_running(pid)])
    assert not scripts()


async def test_a_task_may_clean_up_when_it_is_cancelled(host: Host) -> None:
    end = await host.cut_short(CANCELLED, "trap 'echo bye; exit 0' TERM; echo ready; sleep 60 & wait")
    assert (end.status, host.said()) == ("cancelled", ["ready", "bye"])


async def test_who_ignores_sigterm_is_killed(host: Host) -> None:
    text = "import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid()); time.sleep(60)"
    end = await host.cut_short(CANCELLED, text, script_type="python")
    assert end.status == "cancelled"
    assert not is_running(host.pids()[0])


async def test_a_child_that_outlives_its_cancelled_parent_is_killed(host: Host) -> None:
    stubborn = f"{sys.executable} -c 'import os,signal,time; signal.signal(15,1); print(os.getpid(),flush=True); time.sleep(60)'"
    await host.cut_short(CANCELLED, f"{stubborn} & wait")
    await eventually(lambda: [pid for pid in host.pids() if is_running(pid)])


async def test_a_timeout_is_a_failure_that_says_so(host: Host) -> None:
    end = await host.run("echo $$; sleep 60", timeout_sec=1)
    assert (end.status, end.exit_code, end.error_msg, end.error_code) == (
        "failed",
        -1,
        "timed out after 1 s",
        TIMED_OUT,
    )
    assert not is_running(host.pids()[0])


async def test_tasks_of_an_agent_that_stops_fail(host: Host) -> None:
    end = await host.cut_short(AGENT_STOPPED, "echo on; sleep 60")
    assert (end.status, end.error_msg) == ("failed", "agent stopped")


async def test_a_daemon_that_a_task_leaves_behind_lives_on(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "SILENCE_S", 0.05)
    end = await host.run("sleep 60 & echo $!")
    assert end.status == "success"
    assert is_running(host.pids()[0])
    os.kill(host.pids()[0], 9)
