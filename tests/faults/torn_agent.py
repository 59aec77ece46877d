"""One agent process that holds several connections at once, as a Go agent does that gave one up and dialled again.

Owns what such a process remembers: the tasks it has had, and the messages that are not acked. Every task ends as soon as it is
delivered, its result goes out on the connection that brought it, and again on the newest one until it is acked. Whatever happens is
recorded as a simulated agent's would be.
"""

import time
import uuid

from tests.support import recorder as events
from tests.support.agent_options import Identity
from tests.support.agent_registration import register
from tests.support.go_wire import SKIPPED, Outgoing, Result, Task, UndecodableError, decode, encode
from tests.support.recorder import Recorder, digest
from tests.support.websocket_client import Connection, dial


class Line:
    """One of its connections, from the dialling to the end."""

    def __init__(self, agent: "TornAgent", name: str) -> None:
        self.name = name
        self.dialled_s = time.monotonic()
        self.opened_s = float("inf")
        self.close_code = 0  # 0 while it is open
        self.delivered = 0  # tasks that it brought
        self._agent = agent
        self._connection: Connection | None = None

    @property
    def is_open(self) -> bool:
        """Whether it was opened and has not ended."""
        return self._connection is not None and not self.close_code

    def send(self, message: Outgoing) -> None:
        """Write a message, if it is open."""
        if self._connection is not None and self.is_open:
            self._agent.recorder.add(
                events.Sent(
                    self._agent.agent_id, self.name, message.message_id, message.type, message.task_id, message.status,
                    is_spurious=message.is_spurious,
                )
            )  # fmt: skip
            self._connection.send(encode(message))

    def reset(self) -> None:
        """Cut it."""
        if self._connection is not None:
            self._connection.reset()

    # ---- told by the connection

    def on_open(self, connection: Connection) -> None:
        self._connection = connection
        self.opened_s = time.monotonic()
        self._agent.recorder.add(events.Opened(self._agent.agent_id, self.name))

    def on_message(self, connection: Connection, payload: bytes) -> None:
        self._agent.on_message(self, payload)

    def on_closed(self, connection: Connection, code: int) -> None:
        self.close_code = code
        self._agent.recorder.add(events.Closed(self._agent.agent_id, self.name, code))

    def on_stalled(self, connection: Connection) -> None: ...

    def on_flowing(self, connection: Connection) -> None: ...


class TornAgent:
    """The process. Dial with `dial`; look at the connections in `lines`."""

    def __init__(self, identity: Identity, recorder: Recorder) -> None:
        self.identity = identity
        self.recorder = recorder
        self.agent_id = ""
        self.lines: list[Line] = []
        self.unacked: dict[str, Outgoing] = {}
        self.unreadable: list[str] = []
        self._had: set[str] = set()

    async def register(self) -> None:
        """As the process does once, when it starts. Raises: AssertionError."""
        known = await register(self.identity, timeout_s=30.0, source_ip="")
        assert known.agent_id, known
        self.agent_id = known.agent_id
        self.recorder.add(events.Registered(self.identity.name, 1, self.agent_id, self.identity.host_id, known.status))

    async def dial(self, base_url: str) -> Line:
        """Connect to this node, whatever else is open. Raises: HandshakeRefusedError."""
        line = Line(self, self.recorder.new_name("connection"))
        self.lines.append(line)
        self.recorder.add(events.Dialled(self.agent_id, line.name))
        url = f"{base_url.replace('http', 'ws', 1)}/ws/agent/{self.agent_id}"
        headers = {"Sec-WebSocket-Protocol": f"agent-token,{self.identity.token}"}
        await dial(url, line, headers=headers, timeout_s=10.0)
        return line

    def open_lines(self) -> list[Line]:
        """Those that the server has not closed."""
        return [line for line in self.lines if line.is_open]

    def resend(self) -> None:
        """What is not acked goes out again, on whatever is open."""
        for line in self.open_lines():
            for message in list(self.unacked.values()):
                line.send(message)

    def on_message(self, line: Line, payload: bytes) -> None:
        """Told by a line."""
        try:
            message, tasks = decode(payload)
        except UndecodableError as error:
            self.unreadable.append(str(error))
            return
        if message.type == "ack":
            self.recorder.add(events.Acked(self.agent_id, line.name, message.ack_id or ""))
            self.unacked.pop(message.ack_id or "", None)
        for task, raw in tasks:
            self.recorder.add(events.Delivered(self.agent_id, line.name, task.id or "", digest(raw)))
            line.delivered += 1
            self._take(line, task)

    def _take(self, line: Line, task: Task) -> None:
        task_id = task.id or ""
        if task_id in self._had:
            result = Result(task_id, "cancelled", -1, error_msg=SKIPPED)
        else:
            self._had.add(task_id)
            self.recorder.add(events.Started(self.agent_id, 1, task_id))
            result = Result(task_id, "success", 0)
        message = Outgoing("task_result", uuid.uuid4().hex, int(time.time() * 1000), task_id, result=result)
        self.unacked[message.message_id] = message
        line.send(message)
