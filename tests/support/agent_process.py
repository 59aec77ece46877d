"""One life of the Go agent's process: registers, dials, runs tasks, sends, and forgets everything when it ends.

Owns what the process holds in memory; the outbox outlives it and is lent by the host (simulated_agent.py). What is said here is
protocol.md, sections 1.1 to 1.3, from the agent's side:

| it sees | it does |
| --- | --- |
| start | registers; without an id and a `ws_url` it never dials, and stays stranded until the process is started anew |
| 401, 403, 404 to a handshake | registers again at once, for ever; when that fails it is stranded |
| any other end of a handshake or connection | waits 5, 10, 20, 30, 30 .. s, without jitter, whatever Retry-After or the close code say |
| a frame it cannot decode, or no data for 60 s (pings are none) | gives the connection up: leaves it open and unread, and connects anew |
| a write that stands for 10 s | the same; what had not left goes to the outbox under new ids while the old ones are still resent |

The protocol leaves open what a doubled message is called; new ids are the harder case for the server, and the reason why they matter.
"""

import asyncio
import enum
import random
import time
import uuid
from collections.abc import Callable

import msgspec

from tests.support import recorder as events
from tests.support.agent_options import Identity, Options, Timings
from tests.support.agent_registration import register
from tests.support.go_wire import (
    SKIPPED,
    Incoming,
    LogLine,
    Outgoing,
    Result,
    Task,
    UndecodableError,
    decode,
    encode,
    with_id,
)
from tests.support.recorder import Recorder, digest, fingerprints
from tests.support.task_runner import Behaviour, Execution, TaskRunner
from tests.support.unacked import Outbox, Unacked
from tests.support.websocket_client import Connection, HandshakeRefusedError, dial

_REGISTERS_AGAIN = frozenset({401, 403, 404})
_REPLAY_BATCH = 100


class State(enum.Enum):
    """Where the process is."""

    REGISTERING = "registering"
    DIALLING = "dialling"
    CONNECTED = "connected"
    WAITING = "waiting"  # backing off
    STRANDED = "stranded"  # connects no more until it is started anew
    DEAD = "dead"


class AgentProcess:
    """From start to end of a process. Its state is there to be looked at; what happens to it comes from SimulatedAgent."""

    def __init__(
        self,
        identity: Identity,
        behaviour: Behaviour,
        *,
        timings: Timings,
        options: Options,
        outbox: Outbox,
        recorder: Recorder,
        incarnation: int,
    ) -> None:
        self.state = State.REGISTERING
        self.agent_id = ""
        self.ws_url = ""
        self.incarnation = incarnation
        self.registrations = 0
        self.dials = 0
        self.left: list[Connection] = []  # connections it gave up, or was told to close, and never closed
        self._identity, self._timings, self._options = identity, timings, options
        self._outbox, self._recorder = outbox, recorder
        self._loop = asyncio.get_running_loop()
        self.unacked = Unacked(timings.resend_after_s, timings.unacked_age_s, options.unacked.unacked)
        self.tasks = TaskRunner(
            behaviour,
            self,
            later=self._later,
            now_s=self._loop.time,
            wall_s=lambda: int(time.time()),
            limits=msgspec.structs.replace(options.tasks, remembered_s=timings.finished_for_s),
        )
        self._connection: Connection | None = None
        self._connection_name = ""
        self._lost: asyncio.Future[None] | None = None
        self._heard_s = 0.0
        self._stall: object = None  # while something written has not left: that stall
        self._unflushed: list[Outgoing] = []
        self._resend_at_s: float | None = None
        self._sent: list[Outgoing] = []
        self._running = asyncio.Event()  # not set: frozen
        self._running.set()
        self._held: list[Callable[[], None]] = []  # timers that went off while frozen
        self._life: asyncio.Task[None] | None = None

    # ---- what is done to the process ----

    def start(self) -> None:
        """Begin to live."""
        self._outbox.reissue(self._loop.time(), _new_id)
        self._life = self._loop.create_task(self._live(), name=f"agent {self._identity.name} #{self.incarnation}")

    def die(self, *, resets: bool) -> None:
        """End at once: memory is gone, and the kernel closes every socket, or resets it."""
        self.state = State.DEAD
        connection, self._connection = self._connection, None
        if self._life is not None:
            self._life.cancel()
        if connection is not None:
            self._recorder.add(events.Closed(self.agent_id, self._connection_name, 0, "the process ended"))
            connection.reset() if resets else connection.close()
        for old in self.left:
            old.reset()
        self.left = [connection] if connection is not None else []
        self._held.clear()

    async def ended(self) -> None:
        """Wait until nothing of it is left in the event loop. Raises: whatever broke the simulation itself."""
        for last in self.left:
            await last.gone(within_s=1.0)
        if self._life is not None:
            await asyncio.wait({self._life})
            if not self._life.cancelled():
                self._life.result()

    def freeze(self) -> None:
        """SIGSTOP: reads nothing, sends nothing, times nothing."""
        if self._running.is_set():
            self._running.clear()
            self.stop_reading()

    def thaw(self) -> None:
        """SIGCONT: everything that fell due happens now."""
        if not self._running.is_set():
            self._running.set()
            held, self._held = self._held, []
            for callback in held:
                self._fire(callback)
            self.start_reading()

    def stop_reading(self) -> None:
        """Leave what the server sends in the socket; everything else goes on."""
        self._recorder.add(events.Stopped(self.agent_id))
        if self._connection is not None:
            self._connection.stop_reading()

    def start_reading(self) -> None:
        """Read again."""
        self._recorder.add(events.Continued(self.agent_id))
        if self._connection is not None:
            self._connection.start_reading()

    def cut(self) -> None:
        """The connection is reset under a living process."""
        if self._connection is not None:
            self._connection.reset()

    def abandon(self) -> None:
        """Give the connection up, as after a deadline: it stays open and unread."""
        if self._connection is not None:
            self._give_up("abandoned")

    def send_raw(self, payload: bytes) -> None:
        """Write this frame, whatever it is; it is not recorded."""
        if self._connection is not None:
            self._connection.send(payload)

    def resend_everything(self, times: int, order: random.Random | None = None) -> int:
        """Send all it ever sent so many times more, shuffled when an order is given. Returns how many frames that is."""
        again = self._sent[:] * times
        if order is not None:
            order.shuffle(again)
        for message in again:
            self._transmit(message)
        return len(again)

    def send_log(self, task_id: str, *lines: str) -> str:
        """Send one message with these lines. Returns its id."""
        now_s = int(time.time())
        host_id, host_name = self._identity.host_id, self._identity.name
        logs = tuple(LogLine(now_s, "info", line, "stdout", task_id, host_id, host_name) for line in lines)
        return self._post(Outgoing("log", _new_id(), _now_ms(), task_id, logs=logs))

    def send_result(self, result: Result) -> str:
        """Send a result. Returns its id."""
        return self._post(Outgoing("task_result", _new_id(), _now_ms(), result.task_id, result=result))

    # ---- how tasks go: told by the runner ----

    def on_started(self, task: Task) -> None:
        self._recorder.add(events.Started(self.agent_id, self.incarnation, task.id or ""))
        if self._options.reports_running:
            self.send_result(Result(task.id or "", "running", 0, started_at=int(time.time())))

    def on_line(self, task: Task, line: str) -> None:
        self.send_log(task.id or "", line)

    def on_ended(self, task: Task, execution: Execution, lines: list[str], started_at_s: int) -> None:
        log = "".join(f"{line}\n" for line in lines)
        result = Result(
            task.id or "",
            execution.outcome,
            execution.exit_code,
            log=log,
            log_size=len(log.encode()),
            started_at=started_at_s,
            finished_at=int(time.time()),
            error_msg=execution.error_msg,
        )
        for _ in range(2 if self._options.doubles_results else 1):
            self.send_result(result)

    def on_skipped(self, task: Task) -> None:
        self.send_result(Result(task.id or "", "cancelled", -1, error_msg=SKIPPED))

    # ---- registering and dialling ----

    async def _live(self) -> None:
        failures = 0
        is_welcome = await self._register()
        while is_welcome:
            status = await self._connect()
            if status in _REGISTERS_AGAIN:
                is_welcome = await self._register()
                continue
            failures = 0 if status == 101 else failures
            self.state = State.WAITING
            await asyncio.sleep(self._timings.backoff_s[min(failures, len(self._timings.backoff_s) - 1)])
            await self._running.wait()
            failures += 1
        self.state = State.STRANDED

    async def _register(self) -> bool:
        """Whether it may dial now."""
        self.state = State.REGISTERING
        self.registrations += 1
        source_ip = self._options.socket.source_ip
        known = await register(self._identity, timeout_s=self._timings.register_timeout_s, source_ip=source_ip)
        await self._running.wait()
        self.agent_id, self.ws_url = known.agent_id, known.ws_url
        name, host_id = self._identity.name, self._identity.host_id
        self._recorder.add(events.Registered(name, self.incarnation, self.agent_id, host_id, known.status, known.error))
        return bool(self.agent_id and self.ws_url)

    async def _connect(self) -> int:
        """Dial, and stay for as long as it lasts. Returns the status of the handshake's answer, 0 without one."""
        self.state = State.DIALLING
        self.dials += 1
        self._connection_name = self._recorder.new_name("connection")
        self._lost = self._loop.create_future()
        self._recorder.add(events.Dialled(self.agent_id, self._connection_name))
        try:
            await dial(
                self.ws_url,
                self,
                headers={"Sec-WebSocket-Protocol": f"agent-token,{self._identity.token}"},
                timeout_s=self._timings.handshake_timeout_s,
                offers_deflate=self._options.offers_deflate,
                options=self._options.socket,
            )
        except HandshakeRefusedError as error:
            self._recorder.add(events.RefusedHandshake(self.agent_id, self._connection_name, error.status, str(error)))
            await self._running.wait()
            return error.status
        await self._lost
        await self._running.wait()
        return 101

    # ---- the connection: told by it ----

    def on_open(self, connection: Connection) -> None:
        if self.state is State.DEAD:
            connection.reset()
            return
        self._connection = connection
        self.state = State.CONNECTED
        self._heard_s = self._loop.time()
        self._recorder.add(events.Opened(self.agent_id, self._connection_name))
        if not self._running.is_set():
            connection.stop_reading()
        self._later(self._timings.read_deadline_s, lambda: self._check_read_deadline(connection))
        self._later(self._timings.heartbeat_s, lambda: self._heartbeat(connection))
        self._later(0, lambda: self._replay(connection, self._outbox.to_replay()))
        self._resend_at_s = None
        self._plan_resend()

    def on_message(self, connection: Connection, payload: bytes) -> None:
        if connection is not self._connection:
            return
        self._heard_s = self._loop.time()
        try:
            message, tasks = decode(payload)
        except UndecodableError as error:
            self._give_up(f"cannot decode: {error}")
            return
        self._obey(message, tasks)

    def on_closed(self, connection: Connection, code: int) -> None:
        if connection is self._connection:
            self._detach(code, "")

    def on_stalled(self, connection: Connection) -> None:
        if connection is self._connection and self._stall is None:
            stall = self._stall = object()
            self._later(self._timings.write_deadline_s, lambda: self._check_write_deadline(stall))

    def on_flowing(self, connection: Connection) -> None:
        self._stall = None
        self._unflushed.clear()

    def _obey(self, message: Incoming, tasks: list[tuple[Task, bytes]]) -> None:
        agent, connection, kind = self.agent_id, self._connection_name, message.type or ""
        if kind == "ack":
            self._recorder.add(events.Acked(agent, connection, message.ack_id or ""))
            self.unacked.acked(message.ack_id or "")
            self._outbox.acked(message.ack_id or "")
        elif kind in {"task", "tasks_batch"}:
            for task, raw in tasks:
                self._recorder.add(events.Delivered(agent, connection, task.id or "", digest(raw)))
                self.tasks.take(task)
        elif kind in {"cancel_task", "cancel_tasks_batch"}:
            for task_id in (message.task_id, *(message.task_ids or ())):
                if task_id:
                    self._recorder.add(events.Told(agent, connection, kind, task_id))
                    self.tasks.cancel(task_id)
        else:
            self._recorder.add(events.Told(agent, connection, kind))

    def _detach(self, code: int, reason: str) -> None:
        """The process has done with this connection; the socket may live on."""
        assert self._connection is not None
        self._recorder.add(events.Closed(self.agent_id, self._connection_name, code, reason))
        self.left = [old for old in (*self.left, self._connection) if not old.is_gone]
        self._connection = self._stall = None
        self._unflushed.clear()
        self.state = State.WAITING
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    def _give_up(self, reason: str) -> None:
        assert self._connection is not None
        self._connection.abandon()
        self._detach(0, reason)

    def _check_read_deadline(self, connection: Connection) -> None:
        if connection is not self._connection:
            return
        left_s = self._heard_s + self._timings.read_deadline_s - self._loop.time()
        if left_s > 0:
            self._later(left_s, lambda: self._check_read_deadline(connection))
        else:
            self._give_up("read deadline")

    def _check_write_deadline(self, stall: object) -> None:
        if stall is not self._stall:
            return
        for message in self._unflushed:
            if message.type != "heartbeat":
                self._outbox.add(with_id(message, _new_id()), self._loop.time())
        self._give_up("write deadline")

    # ---- sending ----

    def _post(self, message: Outgoing) -> str:
        """Send a message for the first time, or keep it for the next connection."""
        if not self._running.is_set():
            self._held.append(lambda: self._post_held(message))
        elif self._connection is None:
            self._outbox.add(message, self._loop.time())
        else:
            self._transmit_and_watch(message)
        return message.message_id

    def _post_held(self, message: Outgoing) -> None:
        self._post(message)

    def _transmit_and_watch(self, message: Outgoing) -> None:
        if self._options.keeps_sent:
            self._sent.append(message)
        self.unacked.sent(message, self._loop.time())
        self._transmit(message)
        self._plan_resend()

    def _transmit(self, message: Outgoing) -> None:
        if self._connection is None:
            return
        self._recorder.add(
            events.Sent(
                self.agent_id,
                self._connection_name,
                message.message_id,
                message.type,
                message.task_id,
                message.status,
                fingerprints(line.content for line in message.logs),
                message.is_spurious,
            )
        )
        self._connection.send(encode(message))
        if self._stall is not None:
            self._unflushed.append(message)

    def _replay(self, connection: Connection, messages: list[Outgoing]) -> None:
        """Send the outbox in batches; it keeps its messages until they are acked."""
        if connection is not self._connection:
            return
        for message in messages[:_REPLAY_BATCH]:
            self._transmit_and_watch(message)
        if rest := messages[_REPLAY_BATCH:]:
            self._later(self._timings.replay_pause_s, lambda: self._replay(connection, rest))

    def _plan_resend(self) -> None:
        due_s = self.unacked.next_due_s()
        if due_s is not None and (self._resend_at_s is None or due_s < self._resend_at_s):
            self._resend_at_s = due_s
            self._later(due_s - self._loop.time(), self._resend)

    def _resend(self) -> None:
        self._resend_at_s = None
        if self._connection is not None:
            for message in self.unacked.take_due(self._loop.time()):
                self._transmit(message)
            self._plan_resend()

    def _heartbeat(self, connection: Connection) -> None:
        if connection is not self._connection:
            return
        system = {
            "hostname": self._identity.name,
            "os": "linux",
            "arch": "amd64",
            "cpu_usage": 12.5,
            "memory_usage": 40.0,
        }
        system |= {
            "memory_total": 8_000_000_000,
            "memory_used": 3_200_000_000,
            "load_avg": [0.1, 0.2, 0.3],
            "uptime": 1000,
        }
        payload = {"timestamp": int(time.time()), "system": system}
        self._transmit(Outgoing("heartbeat", _new_id(), _now_ms(), payload=payload))
        self._later(self._timings.heartbeat_s, lambda: self._heartbeat(connection))

    # ---- time ----

    def _later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._loop.call_later(max(0.0, delay_s), self._fire, callback)

    def _fire(self, callback: Callable[[], None]) -> None:
        """A timer went off. A dead process has none, and a frozen one learns of them when it goes on."""
        if not self._running.is_set():
            self._held.append(callback)
        elif self.state is not State.DEAD:
            callback()


def _new_id() -> str:
    return uuid.UUID(int=random.getrandbits(128), version=4).hex


def _now_ms() -> int:
    return int(time.time() * 1000)
