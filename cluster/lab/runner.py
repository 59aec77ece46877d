"""Runs one task, whatever its type, until it ends, is stopped, or its time is up.

Owns the way from a TaskSpec to its `End`; knows neither the server nor other tasks. A task always ends, and always in an `End`:

| what happened | status | exit_code | error_msg |
| --- | --- | --- | --- |
| it exited with 0, the file is in its place | success | 0 | |
| it exited with n, or was killed by a signal n | failed | n, 128 + n | exit status n, killed by signal n |
| `timeout_sec` passed | failed | -1 | timed out after n s |
| a cancel | cancelled | -1 | cancelled |
| the agent was stopped | failed | -1 | agent stopped |
| it cannot be carried out | failed | -1 | what is wrong with it |
"""

import asyncio
import threading
import time
from functools import partial
from typing import Any, NamedTuple

from cluster.lab import calls, download
from cluster.lab.command import command_of
from cluster.lab.output import Keep, Output
from cluster.lab.process import Process
from cluster.lab.trouble import BAD_TASK, FAILED_HERE, TIMED_OUT, TaskFault
from cluster.lab.wire import End
from cluster.messages import TaskSpec


class Outcome(NamedTuple):
    """How it went."""

    status: str
    exit_code: int = -1
    error_msg: str = ""
    error_code: int = 0


Stop = asyncio.Future[Outcome]  # set from outside: the task is to end, in this way

SUCCESS = Outcome("success", 0)
CANCELLED = Outcome("cancelled", error_msg="cancelled")
AGENT_STOPPED = Outcome("failed", error_msg="agent stopped")


async def run(task: TaskSpec, stop: Stop, keep: Keep, kill_s: float) -> End:
    """Runs the task; its output goes to `keep` while it comes."""
    started_at = int(time.time())
    output = Output(keep)
    try:
        outcome = await _run(task, stop, output, kill_s)
    except TaskFault as fault:
        outcome = Outcome("failed", error_msg=str(fault), error_code=fault.code)
    except OSError as error:
        outcome = Outcome("failed", error_msg=_told(error), error_code=FAILED_HERE)
    finally:
        await output.finish()
    return end_of(task.id or "", outcome, started_at, output.size_bytes)


def end_of(task_id: str, outcome: Outcome, started_at: int = 0, log_size: int = 0) -> End:
    """The result of a task that ends now. `started_at` 0: it never ran."""
    return End(
        task_id=task_id,
        status=outcome.status,
        exit_code=outcome.exit_code,
        log_size=log_size,
        started_at=started_at,
        finished_at=int(time.time()),
        error_msg=outcome.error_msg,
        error_code=outcome.error_code,
    )


async def _run(task: TaskSpec, stop: Stop, output: Output, kill_s: float) -> Outcome:
    kind = task.type or ("file_transfer" if task.file_transfer else "command")
    if kind == "file_transfer":
        return await _transfer(task, stop, output)
    if kind in {"script", "command"}:
        return await _execute(task, stop, output, kill_s)
    raise TaskFault(f"type: {kind!r} is none of command, file_transfer, script", BAD_TASK)


async def _execute(task: TaskSpec, stop: Stop, output: Output, kill_s: float) -> Outcome:
    with command_of(task) as command:
        try:
            process = Process(command, output)
        except ValueError as error:  # a NUL in an argument, or in the environment
            raise TaskFault(f"the task cannot be started: {error}", BAD_TASK) from None
        cut_short = await _cut_short(process.exited, stop, task.timeout_sec or 0)
        if cut_short is not None:
            await process.kill(kill_s)
            return cut_short
    return _exited(process.exited.result())


async def _transfer(task: TaskSpec, stop: Stop, output: Output) -> Outcome:
    order = download.order_of(task)
    given_up = threading.Event()
    fetch = partial(download.fetch, order, given_up)
    fetching = asyncio.create_task(calls.in_thread("download", fetch), name=f"download for {task.id}")
    cut_short = await _cut_short(fetching, stop, task.timeout_sec or 0)
    if cut_short is not None:
        given_up.set()
        fetching.cancel()
        order.part.unlink(missing_ok=True)
        return cut_short
    size_bytes = fetching.result()
    download.put_in_place(order)
    await output.write("stdout", f"{size_bytes} bytes came to {order.target}")
    return SUCCESS


async def _cut_short(work: asyncio.Future[Any], stop: Stop, timeout_s: int) -> Outcome | None:
    """Waits for the work. None when it is done; else how it is to end before."""
    await asyncio.wait((work, stop), timeout=timeout_s if timeout_s > 0 else None, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        return None
    if stop.done():
        return stop.result()
    return Outcome("failed", error_msg=f"timed out after {timeout_s} s", error_code=TIMED_OUT)


def _exited(exit_code: int) -> Outcome:
    if exit_code == 0:
        return SUCCESS
    if exit_code > 0:
        return Outcome("failed", exit_code, f"exit status {exit_code}")
    return Outcome("failed", 128 - exit_code, f"killed by signal {-exit_code}")


def _told(error: OSError) -> str:
    path = f": {error.filename}" if isinstance(error.filename, str) else ""
    return f"{error.strerror or type(error).__name__}{path}"
