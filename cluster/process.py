"""One run of a child process: its fork, its pipes, its signals, its end.

Must not know what the child does, nor when it is started again (`child`), nor settings, sockets or Redis. Rules:
- No child outlives its supervisor: the kernel kills it, also when the supervisor was killed with -9 (Linux).
- A child has a session of its own, so that Ctrl-C reaches the supervisor alone, which then stops its children in order.
- What a child prints passes on to our standard error in whole lines; its last line tells why it ended.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cluster.errors import StartError

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1  # prctl(2)
_LONGEST_LINE_BYTES = 64 * 1024
_REAP_S = 2.0  # between SIGKILL and the end of a process that is not stuck in the kernel


@dataclass(frozen=True)
class Program:
    """What to run: the name it has in our log, its arguments, environment and the file descriptors it inherits."""

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str]
    fds: tuple[int, ...] = ()


class Process:
    """One run of a program. `ready` tells whether it came to serve, `ended` its exit code (negative: the signal's number)."""

    def __init__(self, name: str, running: asyncio.subprocess.Process, output: "_Output") -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[bool] = loop.create_future()
        self.ended: asyncio.Future[int] = loop.create_future()
        self.name = name
        self.pid = running.pid
        self._running = running
        self._output = output
        self._watch = asyncio.create_task(self._reap(), name=f"reap {name}")

    @property
    def last_line(self) -> str:
        """What it printed last, if anything."""
        return self._output.last_line

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._running.send_signal(number)

    async def stop(self, grace_s: float) -> None:
        """Asks it to end, and makes it end after `grace_s`."""
        self.signal(signal.SIGTERM)
        await asyncio.wait({self.ended}, timeout=grace_s)
        if not self.ended.done():
            log.warning("%s does not stop within %.1f s and is killed", self.name, grace_s)
            await self.kill()

    async def kill(self) -> None:
        """Ends it without asking."""
        self.signal(signal.SIGKILL)
        await asyncio.wait({self.ended}, timeout=_REAP_S)

    def served(self) -> None:
        """Notes that it came to serve."""
        if not self.ready.done():
            self.ready.set_result(True)

    async def _reap(self) -> None:
        status = await self._running.wait()
        self._output.close()
        if not self.ready.done():
            self.ready.set_result(False)
        self.ended.set_result(status)


async def spawn(program: Program, *, tells_ready: bool = True) -> Process:
    """Starts a program. One that `tells_ready` gets `--ready-fd N` and writes `ready` there once it serves.

    Raises: StartError when it cannot be run at all.
    """
    out_end, out = os.pipe()
    ready_end, ready = os.pipe()
    told = ("--ready-fd", str(ready)) if tells_ready else ()
    try:
        running = await asyncio.create_subprocess_exec(
            *program.command,
            *told,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=dict(program.environ),
            pass_fds=(*program.fds, ready) if tells_ready else program.fds,
            start_new_session=True,
            preexec_fn=dies_with(os.getpid()),
        )
    except BaseException as error:
        os.close(out_end)
        os.close(ready_end)
        if isinstance(error, OSError):
            raise StartError(f"{program.name} cannot be started: {error}") from error
        raise
    finally:
        os.close(out)
        os.close(ready)
    process = Process(program.name, running, _Output(out_end))
    _await_ready(ready_end, process)
    return process


def dies_with(supervisor_pid: int) -> Callable[[], None] | None:
    """What a child runs between fork and exec, so that it dies with the thread of this process that starts it; None: cannot be had."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: a forked process should do next to nothing

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != supervisor_pid:  # it died between fork and prctl, and no signal will come
            os._exit(1)

    return in_child


def _await_ready(fd: int, process: Process) -> None:
    loop = asyncio.get_running_loop()

    def on_readable() -> None:
        loop.remove_reader(fd)
        said = os.read(fd, 16)
        os.close(fd)
        if said.startswith(b"ready"):
            process.served()

    loop.add_reader(fd, on_readable)


class _Output:
    """Passes a child's output on and remembers its last line."""

    def __init__(self, fd: int) -> None:
        self.last_line = ""
        self._fd = fd
        self._begun = b""
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self._read)

    def close(self) -> None:
        """Takes what is left in the pipe; a process further down may hold its other end, so no end of file is waited for."""
        while self._fd >= 0 and self._read():
            pass
        self._end()

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, _LONGEST_LINE_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._end()
            return False
        lines, _, self._begun = (self._begun + data).rpartition(b"\n")
        self._pass_on(lines)
        if len(self._begun) > _LONGEST_LINE_BYTES:
            self._pass_on(self._begun)
            self._begun = b""
        return True

    def _pass_on(self, lines: bytes) -> None:
        if not lines:
            return
        for line in reversed(lines.splitlines()):
            if line.strip():
                self.last_line = line.decode(errors="replace").strip()
                break
        with contextlib.suppress(OSError, ValueError):  # our own standard error is gone: nobody reads it
            sys.stderr.buffer.write(lines + b"\n")
            sys.stderr.buffer.flush()

    def _end(self) -> None:
        if self._fd < 0:
            return
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._pass_on(self._begun)
