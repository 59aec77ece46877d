"""A child that is kept running: started, started again when it dies, restarted on request, stopped.

Owns when a run begins and ends. Must not know how a process is run (`process`), nor which program it is. Rules:
- Who dies is started again: at once, then with growing pauses, so that a broken child neither spins nor is given up.
- Exit code 2 (usage, configuration), or a StartError, before the child was ever ready will not heal by itself: keeping it fails.
- An end that was asked for is no death: `restart` pays no pause, `stop` is for good.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cluster.errors import StartError
from cluster.process import Process

log = logging.getLogger(__name__)

_EXIT_USAGE = 2
_REMIND_S = 10.0


@dataclass(frozen=True)
class Pace:
    """How fast a child that dies is started again: at once, then after `first_s`, doubling; anew once it lived for `steady_s`."""

    first_s: float = 0.5
    longest_s: float = 10.0
    steady_s: float = 30.0


class Backoff:
    """Says how long to wait before each restart."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._deaths = 0

    def delay_s(self, lived_s: float) -> float:
        """Seconds to wait after a run that lived for `lived_s`."""
        self._deaths = 1 if lived_s >= self._pace.steady_s else self._deaths + 1
        if self._deaths == 1:
            return 0.0
        doublings = min(self._deaths - 2, 32)
        return float(min(self._pace.first_s * 2**doublings, self._pace.longest_s))


class Child:
    """Keeps one program running until it is stopped."""

    def __init__(self, name: str, start: Callable[[], Awaitable[Process]], pace: Pace) -> None:
        self.name = name
        self.process: Process | None = None
        self._start = start
        self._backoff = Backoff(pace)
        self._ready = asyncio.Event()
        self._was_ready = False
        self._is_restarting = False
        self._is_stopping = False
        self._keeping: asyncio.Task[None] | None = None

    @property
    def pid_text(self) -> str:
        """The pid of the present run, for eyes."""
        return str(self.process.pid) if self.process else "-"

    def begin(self) -> None:
        """Starts it for the first time."""
        self._keeping = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def until_ready(self) -> None:
        """Returns once the present run, or one after it, serves.

        Raises: StartError when it refuses to run at all.
        """
        waiting = asyncio.create_task(self._ready.wait(), name=f"ready {self.name}")
        try:
            while not waiting.done():
                await self._until_failed_or(waiting)
        finally:
            waiting.cancel()

    async def until_failed(self) -> None:
        """Returns never; raises what ended the keeping of this child."""
        assert self._keeping is not None  # noqa: S101 - begun before it is watched
        await asyncio.shield(self._keeping)

    async def restart(self, stop_s: float, ready_s: float) -> bool:
        """Ends the present run and returns whether the next one served within `ready_s`."""
        self._ready.clear()
        self._is_restarting = True
        if self.process is not None:
            await self.process.stop(stop_s)
        try:
            await asyncio.wait_for(self._ready.wait(), ready_s)
        except TimeoutError:
            return False
        return True

    async def stop(self, grace_s: float) -> None:
        """Ends it for good: asked first, killed after `grace_s`."""
        self._is_stopping = True
        if self.process is not None:
            await self.process.stop(grace_s)
        if self._keeping is not None:
            self._keeping.cancel()  # it may be waiting for its next attempt, or be in the middle of one
            await asyncio.wait({self._keeping})

    def kill(self) -> None:
        """Ends it for good, now."""
        self._is_stopping = True
        if self.process is not None:
            self.process.signal(signal.SIGKILL)

    async def _until_failed_or(self, waiting: asyncio.Task[bool]) -> None:
        assert self._keeping is not None  # noqa: S101 - begun before it is waited for
        done, _ = await asyncio.wait({waiting, self._keeping}, timeout=_REMIND_S, return_when=asyncio.FIRST_COMPLETED)
        if self._keeping in done:
            self._keeping.result()
        if not done:
            log.warning("%s is not ready yet", self.name)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began_at = loop.time()
            why = await self._run()
            if self._is_stopping:
                return
            if self._is_restarting:
                self._is_restarting = False
                continue
            delay_s = self._backoff.delay_s(loop.time() - began_at)
            log.warning("%s %s; it starts again %s", self.name, why, f"in {delay_s:g} s" if delay_s else "at once")
            await asyncio.sleep(delay_s)

    async def _run(self) -> str:
        """One run, from its start to its end; says how it ended."""
        try:
            process = self.process = await self._start()
            await self._serve(process)
        except StartError as error:
            if not self._was_ready:
                raise
            return f"cannot start: {error}"
        return _how_it_ended(process)

    async def _serve(self, process: Process) -> None:
        await asyncio.wait({process.ready})
        if process.ready.result():
            self._was_ready = True
            self._is_restarting = False
            self._ready.set()
        await asyncio.wait({process.ended})
        self._ready.clear()
        if process.ended.result() == _EXIT_USAGE and not self._was_ready:
            raise StartError(process.last_line or f"{self.name} ended with exit code {_EXIT_USAGE}")


def _how_it_ended(process: Process) -> str:
    status = process.ended.result()
    if status < 0:
        return f"was ended by {_signal_name(-status)}"
    return f"ended with exit code {status}" + (f" ({process.last_line})" if status and process.last_line else "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
