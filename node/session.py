"""One connection of one agent: what its messages mean. Pure: bytes in, calls to what it was given, frames out.

Knows no Redis, no HTTP, no event loop and no clock of its own: seconds are the link's. Rules:

- A message that is no JSON object, or has wrong types, is dropped and counted; `max_bad_frames` of them end the connection.
- Logs and results without a message id are dropped; with one but without content they are acked and dropped, as the Go server does.
- An agent speaks for itself alone: its own id is written, whatever its messages claim.
- Any byte that comes is a sign of life; an `ack`, a log line and a result are signs of life of a task.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from msgspec import Raw

from cluster import close_codes, messages
from cluster.messages import AgentMessage, LogLine, Result
from node.traffic import Flow, Flows

if TYPE_CHECKING:
    from cluster.registry import Claim, Profile

ANSWER_EVERY_S = 20  # an agent gives up a connection on which no data frame came for 60 s; pings do not count
HEARTBEAT_BYTES = 16 << 10  # what is kept of one
ID_CHARS = 256  # of a message or a task; a longer one is nobody's
FLOOD_S = 6  # seconds in a row over `max_messages_per_s` after which a connection ends; the link bears 8 s of pauses
KNOWN_BATCHES = 64  # batch frames whose acks are understood
SENT_TASKS = 1000  # of a session, that are known to have been sent and not to have ended


class Wheel(Protocol):
    """The process's coarse clock, in whole seconds."""

    @property
    def now(self) -> int:
        """Seconds since the process began."""


class Link(Protocol):
    """The connection underneath."""

    close_code: int
    heard: int
    writable: bool
    wheel: Wheel

    @property
    def is_open(self) -> bool:
        """Whether messages still go both ways."""

    def send(self, payload: bytes) -> None:
        """One text message."""

    def send_frames(self, frames: bytes) -> None:
        """Frames that were finished elsewhere, in one write."""

    def pause(self) -> None:
        """Stops reading; for too long, and the link closes."""

    def resume(self) -> None:
        """Reads on."""

    def close(self, code: int) -> None:
        """Says goodbye."""

    def abort(self) -> None:
        """Drops the connection."""


class Crew(Protocol):
    """What a session hands its events to. `received` and `sent` are counted by the types of node/traffic.py."""

    received: Flows
    sent: dict[str, Flow]

    def on_log(self, session: "Session", message_id: str, task_id: str, lines: list[LogLine]) -> None:
        """Lines of a task's output."""

    def on_result(self, session: "Session", message_id: str, task_id: str, result: Result) -> None:
        """How a task goes, or went."""

    def on_sign_of_life(self, session: "Session", task_ids: tuple[str, ...]) -> None:
        """The agent has these tasks."""

    def on_heartbeat(self, session: "Session") -> None:
        """The agent said how its host is."""

    def on_attached(self, session: "Session") -> None:
        """The connection is open."""

    def on_flood(self, session: "Session") -> None:
        """Reading was stopped, and is to go on in a second."""

    def on_writable(self, session: "Session") -> None:
        """A slow reader has caught up."""

    def on_gone(self, session: "Session") -> None:
        """The connection is gone."""

    def count(self, event: str) -> None:
        """One more of these events."""

    def now_ms(self) -> int:
        """The time on Redis's clock."""


class Patience(NamedTuple):
    """How much of what it should not send an agent may send. `max_messages_per_s` 0: any number."""

    max_bad_frames: int = 16
    max_messages_per_s: int = 0


class Tally:
    """Ends of tasks since the connection began. Durations in ms, of those that told both times."""

    __slots__ = ("cancelled", "changed", "duration_ms", "failed", "success", "timed")

    def __init__(self) -> None:
        self.success = self.failed = self.cancelled = self.timed = self.duration_ms = 0
        self.changed = False

    def count(self, status: str, duration_ms: int | None) -> None:
        """One more end."""
        setattr(self, status, getattr(self, status) + 1)
        if duration_ms is not None:
            self.timed += 1
            self.duration_ms += duration_ms
        self.changed = True


class Session:
    """An agent's connection, from its claim to its end."""

    __slots__ = (
        "_age_ms",
        "_answered",
        "_bad_frames",
        "_batches",
        "_crew",
        "_flooded_s",
        "_in_second",
        "_patience",
        "_second",
        "_sent",
        "address",
        "agent_id",
        "cancels",
        "claimed_at",
        "close_code",
        "cursor",
        "epoch",
        "heartbeat",
        "is_leaving",
        "link",
        "live",
        "owner",
        "previous",
        "profile",
        "reason",
        "since_ms",
        "tally",
        "unended",
    )

    def __init__(self, crew: Crew, profile: "Profile", claim: "Claim", address: str, patience: "Patience") -> None:
        self._crew = crew
        self.agent_id = profile.id
        self.profile = profile
        self.address = address
        self.own(claim)
        self.link: Link | None = None
        self.heartbeat = b""  # the newest one's payload
        self.live: dict[str, int] = {}  # tasks known to be open, and when that was asked
        self.tally: Tally | None = None
        self.reason = "websocket_closed"  # what its end will be called
        self.close_code = 0  # once it has ended
        self.since_ms = 0  # when it began
        self.is_leaving = False  # it is to be closed soon: nothing more is marked sent for it
        self._batches: dict[str, tuple[str, ...]] | None = None
        self._sent: dict[str, None] | None = None
        self._age_ms = 0
        self._answered = 0
        self._bad_frames = 0
        self._patience = patience
        self._second = self._in_second = self._flooded_s = 0

    def own(self, claim: "Claim") -> None:
        """Goes on under this claim."""
        self.previous = claim.previous  # who owned the agent before
        self.owner = str(claim.owner)
        self.epoch = claim.owner.epoch
        self.cursor = claim.taken  # how far the mailbox was handed out
        self.claimed_at = claim.taken  # how far it was before this claim
        self.unended = claim.unended  # tasks up to there that have not ended
        self.cancels = "0"  # how many cancels this session knows of, as the mailbox counts them

    @property
    def age_ms(self) -> int:
        """How long ago the agent was heard."""
        if self.link is None:
            return self._age_ms
        return (self.link.wheel.now - self.link.heard) * 1000

    # ---- the link's calls

    def attached(self, link: Link) -> None:
        """The connection is open."""
        self.link = link
        self._answered = link.wheel.now
        self.since_ms = self._crew.now_ms()
        self._crew.on_attached(self)

    def on_message(self, payload: bytes) -> None:
        """One whole text message."""
        if self._patience.max_messages_per_s:
            self._count_for_flood()
        try:
            message = messages.agent_message(payload)
        except messages.MALFORMED:
            self._crew.received.malformed.add(len(payload))
            self._on_bad_frame()
            return
        flow = self._crew.received[message.type]
        flow.messages += 1
        flow.size_bytes += len(payload)
        match message.type:
            case "log":
                self._on_log(message)
            case "task_result":
                self._on_result(message)
            case "heartbeat":
                self._on_heartbeat(message.payload)
            case "ack":
                self._on_ack(message.ack_id)
            case _:
                self._crew.count("ignored")

    def on_writable(self) -> None:
        """What had to wait for a slow reader may go on."""
        self._crew.on_writable(self)

    def on_lost(self) -> None:
        """The connection is gone; nothing comes after this."""
        self._age_ms = self.age_ms
        self.close_code = self.link.close_code if self.link is not None else 0
        self.link = None
        self._crew.on_gone(self)

    # ---- what the agent says

    def _on_log(self, message: AgentMessage) -> None:
        if not message.message_id:
            self._crew.count("without_message_id")
        elif not message.logs or not (_is_id(message.task_id) and _is_id(message.message_id)):
            self._ack_and_drop(message.message_id)
        else:
            self._crew.on_log(self, message.message_id, message.task_id or "", message.logs)

    def _on_result(self, message: AgentMessage) -> None:
        result = message.result
        if not message.message_id:
            self._crew.count("without_message_id")
        elif result is None or not (
            _is_id(task_id := message.task_id or result.task_id) and _is_id(message.message_id)
        ):
            self._ack_and_drop(message.message_id)
        else:
            self._crew.on_result(self, message.message_id, task_id or "", result)

    def _on_heartbeat(self, payload: Raw) -> None:
        said = bytes(payload)
        if said[:1] not in (b"{", b"n", b""):  # an object, null, or nothing
            self._on_bad_frame()
            return
        if len(said) <= HEARTBEAT_BYTES:
            self.heartbeat = said
        if self.link is not None and self.link.wheel.now - self._answered >= ANSWER_EVERY_S:
            self.send(messages.heartbeat_answer(self._crew.now_ms()), "heartbeat")
        self._crew.on_heartbeat(self)

    def _on_ack(self, ack_id: str | None) -> None:
        if _is_id(ack_id) and ack_id:
            batch = self._batches.pop(ack_id, None) if self._batches else None
            self._crew.on_sign_of_life(self, batch or (ack_id,))

    def _on_bad_frame(self) -> None:
        self._crew.count("malformed")
        self._bad_frames += 1
        if self._bad_frames >= self._patience.max_bad_frames:
            self.close(close_codes.POLICY_VIOLATION)

    def _count_for_flood(self) -> None:
        """Over the limit reading stops until the next second; who goes on for too long is closed."""
        limit, now = self._patience.max_messages_per_s, self.link.wheel.now if self.link else 0
        if now != self._second:
            is_next = now - self._second <= 2  # reading goes on a second later, which may be at the end of the next one
            self._flooded_s = self._flooded_s + 1 if is_next and self._in_second > limit else 0
            self._second, self._in_second = now, 0
        self._in_second += 1
        if self._flooded_s >= FLOOD_S:
            self.close(close_codes.FLOODS)
        elif self._in_second == limit + 1 and self.link is not None:
            self.link.pause()
            self._crew.on_flood(self)

    def _ack_and_drop(self, message_id: str) -> None:
        self._crew.count("without_content")
        self.send(messages.ack(message_id), "ack")

    # ---- what the agent is told

    @property
    def is_open(self) -> bool:
        """Whether it is connected, and nobody has said goodbye."""
        return self.link is not None and self.link.is_open

    @property
    def is_writable(self) -> bool:
        """Whether tasks may be handed to it: it is connected, and reads."""
        return self.link is not None and self.link.is_open and self.link.writable

    def send(self, payload: bytes, kind: str) -> None:
        """Writes one message, if the connection is still there; `kind`: see node/traffic.py."""
        if self.link is not None:
            self._answered = self.link.wheel.now
            self._crew.sent[kind].add(len(payload))
            self.link.send(payload)

    def send_frames(self, frames: bytes) -> None:
        """Writes frames that were finished elsewhere, in one piece, if the connection is still there."""
        if self.link is not None:
            self._answered = self.link.wheel.now
            self.link.send_frames(frames)

    def send_acks(self, frames: Sequence[bytes]) -> None:
        """Writes finished frames of acks, in one piece, if the connection is still there."""
        if self.link is not None:
            whole = b"".join(frames)
            self._answered = self.link.wheel.now
            self._crew.sent["ack"].add(len(whole), len(frames))
            self.link.send_frames(whole)

    def note_sent_frame(self, kind: str, size_bytes: int) -> None:
        """Counts a frame that goes out with others; `kind`: see node/traffic.py."""
        self._crew.sent[kind].add(size_bytes)

    def note_batch(self, message_id: str, task_ids: tuple[str, ...]) -> None:
        """Remembers whose sign of life the ack of a batch is."""
        if self._batches is None:
            self._batches = {}
        self._batches[message_id] = task_ids
        if len(self._batches) > KNOWN_BATCHES:
            del self._batches[next(iter(self._batches))]

    def note_sent(self, task_id: str) -> None:
        """Remembers a task that was written to the agent."""
        if self._sent is None:
            self._sent = {}
        self._sent[task_id] = None
        if len(self._sent) > SENT_TASKS:
            del self._sent[next(iter(self._sent))]

    def note_end(self, task_id: str) -> None:
        """The task has ended."""
        if self._sent is not None:
            self._sent.pop(task_id, None)

    @property
    def sent(self) -> tuple[str, ...]:
        """Tasks that were sent here and of which no end was seen, the newest of them."""
        return tuple(self._sent or ())

    def close(self, code: int, reason: str = "websocket_closed") -> None:
        """Closes the connection; `reason` is how the status feed will call its end."""
        self.reason = reason
        if self.link is not None:
            self.link.close(code)

    def abort(self) -> None:
        """Drops the connection without a word."""
        if self.link is not None:
            self.link.abort()


def _is_id(text: str | None) -> bool:
    return text is not None and 0 < len(text) <= ID_CHARS
