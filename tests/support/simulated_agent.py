"""A host with the Go agent on it, as protocol.md describes that agent: what tests start, kill, freeze and cut.

Owns what outlives the agent's process (its token, its outbox file, how often it was started); one life of the process is in
agent_process.py. Hundreds of these share an event loop: an agent is one task, one socket and a few timers.

    agent = SimulatedAgent(url, token="t1", recorder=recorder, run=quick(lines=3))
    agent.start()
    await agent.connected()
"""

import asyncio
import random

import msgspec

from tests.support.agent_options import Identity, Options, Timings
from tests.support.agent_process import AgentProcess, State
from tests.support.eventually import eventually
from tests.support.go_wire import Result
from tests.support.recorder import Recorder
from tests.support.task_runner import Behaviour, quick
from tests.support.unacked import Outbox


class SimulatedAgent:
    """A host and its agent. `run` decides what its tasks do; see Options for what agents differ in."""

    def __init__(
        self,
        base_url: str,
        *,
        token: str,
        name: str = "",
        host_id: int = 0,
        labels: dict[str, str] | None = None,
        recorder: Recorder | None = None,
        timings: Timings | None = None,
        run: Behaviour | None = None,
        options: Options | None = None,
    ) -> None:
        self.identity = Identity(base_url, token, name or f"host-{token}", host_id, labels or {})
        self.recorder = recorder if recorder is not None else Recorder()
        self.timings = timings or Timings()
        self.run = run or quick()
        self.options = options or Options()
        keeps_acked = self.options.outbox_keeps_acked
        self.outbox = Outbox(self.timings.outbox_age_s, self.options.unacked, keeps_acked=keeps_acked)
        self.incarnation = 0
        self._process: AgentProcess | None = None
        self._past: list[AgentProcess] = []

    # ---- its life ----

    def start(self) -> None:
        """Start the agent's process; it registers and connects by itself."""
        if self._process is not None:
            raise RuntimeError(f"{self.identity.name} runs already")
        self.incarnation += 1
        self._process = AgentProcess(
            self.identity,
            self.run,
            timings=self.timings,
            options=self.options,
            outbox=self.outbox,
            recorder=self.recorder,
            incarnation=self.incarnation,
        )
        self._process.start()

    async def connected(self, timeout_s: float = 30.0) -> None:
        """Wait until it is connected. Raises: AssertionError saying where it is instead."""
        await eventually(
            lambda: None if self.is_connected else f"{self.identity.name} is {self.state.value}", timeout_s
        )

    async def stop(self) -> None:
        """End the process with a goodbye, and wait until nothing of it is left."""
        self._end(resets=False)
        for process in self._past:
            await process.ended()
        self._past.clear()
        await asyncio.sleep(0)

    def kill(self) -> None:
        """The process is gone, its connection reset; `restart_process` brings a new one."""
        self._end(resets=True)

    def restart_process(self) -> None:
        """A new process: it knows nothing but the outbox file, registers, and replays the file under new ids."""
        self.kill()
        self.start()

    def cut(self) -> None:
        """Reset the connection; the process lives and comes back."""
        self.process.cut()

    def abandon(self) -> None:
        """Give the connection up and dial anew; the old one stays open, unread."""
        self.process.abandon()

    def freeze(self) -> None:
        """SIGSTOP: it reads nothing, sends nothing and times nothing, until `thaw`."""
        self.process.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.thaw()

    def stop_reading(self) -> None:
        """Leave what the server sends unread; heartbeats, logs and results go on."""
        self.process.stop_reading()

    def start_reading(self) -> None:
        """Read again."""
        self.process.start_reading()

    # ---- what it sends beside what its tasks do ----

    def send_log(self, task_id: str, *lines: str) -> str:
        """Send one message with these lines. Returns its id."""
        return self.process.send_log(task_id, *lines)

    def send_result(self, task_id: str, status: str = "success", *, exit_code: int = 0, error_msg: str = "") -> str:
        """Send a result. Returns its id."""
        return self.process.send_result(Result(task_id, status, exit_code, error_msg=error_msg))

    def send_raw(self, payload: bytes) -> None:
        """Write a text frame, whatever it is. Neither recorded nor sent again."""
        self.process.send_raw(payload)

    def resend_everything(self, times: int = 1, order: random.Random | None = None) -> int:
        """Send all this process ever sent so many times more; needs `Options.keeps_sent`. Returns the number of frames."""
        return self.process.resend_everything(times, order)

    # ---- how it is ----

    @property
    def process(self) -> AgentProcess:
        """The living process. Raises: RuntimeError."""
        if self._process is None:
            raise RuntimeError(f"{self.identity.name} is not running")
        return self._process

    @property
    def state(self) -> State:
        """Where the process is."""
        return self._process.state if self._process else State.DEAD

    @property
    def is_connected(self) -> bool:
        """Whether it holds a connection."""
        return self.state is State.CONNECTED

    @property
    def agent_id(self) -> str:
        """What the last registration said; "" without one."""
        return self._process.agent_id if self._process else ""

    @property
    def unacked(self) -> int:
        """Messages sent, or waiting in the outbox, that are not acked."""
        return (len(self._process.unacked) if self._process else 0) + len(self.outbox.to_replay())

    def abandoned_open(self) -> int:
        """Connections it gave up and the server has not closed: the agent never will."""
        return sum(not old.is_closed_by_peer() for old in self._process.left) if self._process else 0

    def _end(self, *, resets: bool) -> None:
        if self._process is not None:
            self._process.die(resets=resets)
            self._past.append(self._process)
            self._process = None


def timings_with(timings: Timings | None = None, **changed: float | tuple[float, ...]) -> Timings:
    """The Go agent's timings, or these, with some of them changed."""
    return msgspec.structs.replace(timings or Timings(), **changed)
