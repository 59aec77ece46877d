"""A finished history, put in order for judging: by task, by message, by connection, by feed.

Owns no judgement (checker.py has it). A feed's entries stand in the order of their stream ids, each once, however many readers
recorded them.
"""

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from tests.support.go_wire import ENDS
from tests.support.recorder import (
    Acked,
    Answered,
    AnyEvent,
    Continued,
    Delivered,
    Dialled,
    Entry,
    GroupRead,
    Opened,
    Posted,
    Registered,
    Sent,
    Started,
)


class TaskHistory(msgspec.Struct):
    """What is known of one task id."""

    posted: list[tuple[Posted, str]] = []  # attempts, each with the digest of the task's bytes
    accepted_s: float | None = None
    ends: list[Entry] = []
    deliveries: list[Delivered] = []
    runs: list[Started] = []
    end_known_s: float = float("inf")  # from then on everybody could know that it has ended


class MessageHistory(msgspec.Struct):
    """What is known of one message id: the message, and the connections it was sent on, with when it first was on each."""

    sent: Sent
    on: dict[str, float] = {}


class ConnectionHistory(msgspec.Struct):
    """One connection: when it was dialled and opened, and the messages sent on it, each once, in order."""

    agent: str
    dialled_s: float
    opened_s: float = float("inf")
    sent: dict[str, None] = {}


class History:
    """Everything, indexed."""

    def __init__(self, events: Iterable[AnyEvent]) -> None:
        self.tasks: dict[str, TaskHistory] = defaultdict(TaskHistory)
        self.messages: dict[str, MessageHistory] = {}
        self.connections: dict[str, ConnectionHistory] = {}
        self.agents: set[str] = set()
        self.agents_of_host: dict[str, set[str]] = defaultdict(set)
        self.answers: dict[str, Answered] = {}
        self.acks: list[Acked] = []
        self.deliveries: list[Delivered] = []
        self.continued_s: dict[str, list[float]] = defaultdict(list)
        self.feeds: dict[str, list[Entry]] = {}
        self.group_reads: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._entries: dict[tuple[str, str], Entry] = {}
        for event in events:
            self._take(event)
        self._sort_feeds()
        self._judge_acceptance()
        self._find_ends()

    def is_own(self, entry: Entry) -> bool:
        """Whether the cluster wrote this entry of its own accord."""
        message_id = entry.fields.get("message_id", "")
        return not message_id or message_id.startswith("end:")

    def may_have_taken(self, posted: Posted) -> bool:
        """Whether an attempt was accepted, or nobody can say."""
        answer = self.answers.get(posted.call)
        return answer is None or answer.status in {0, 200} or answer.status >= 500

    def just_continued(self, delivered: Delivered, within_s: float) -> bool:
        """Whether the agent had not been reading, so that the frame may be much older than the moment it was read."""
        opened_s = self.connections[delivered.connection].opened_s if delivered.connection in self.connections else 0.0
        moments = self.continued_s.get(delivered.agent, ())
        return any(opened_s <= moment <= delivered.at_s <= moment + within_s for moment in moments)

    # ---- indexing ----

    def _take(self, event: AnyEvent) -> None:  # noqa: C901, PLR0912  one case a kind
        match event:
            case Posted():
                for task in (task for task in event.tasks if task.task_id):
                    self.tasks[task.task_id].posted.append((event, task.digest))
            case Answered():
                self.answers[event.call] = event
            case Registered() if event.agent:
                self.agents.add(event.agent)
                self.agents_of_host[str(event.host_id)].add(event.agent)
            case Dialled():
                self.connections[event.connection] = ConnectionHistory(event.agent, event.at_s)
            case Opened() if event.connection in self.connections:
                self.connections[event.connection].opened_s = event.at_s
            case Sent():
                self._take_sent(event)
            case Acked():
                self.acks.append(event)
            case Delivered():
                self.deliveries.append(event)
                self.tasks[event.task_id].deliveries.append(event)
            case Started():
                self.tasks[event.task_id].runs.append(event)
            case Continued():
                self.continued_s[event.agent].append(event.at_s)
            case Entry():
                self._entries.setdefault((event.feed, event.entry_id), event)
            case GroupRead():
                self.group_reads[event.feed, event.group].add(event.entry_id)
            case _:
                pass

    def _take_sent(self, event: Sent) -> None:
        message = self.messages.setdefault(event.message_id, MessageHistory(event))
        message.on.setdefault(event.connection, event.at_s)
        connection = self.connections.setdefault(
            event.connection, ConnectionHistory(event.agent, event.at_s, event.at_s)
        )
        connection.sent.setdefault(event.message_id)

    def _sort_feeds(self) -> None:
        for entry in sorted(self._entries.values(), key=lambda entry: entry_number(entry.entry_id)):
            self.feeds.setdefault(entry.feed, []).append(entry)

    def _judge_acceptance(self) -> None:
        for task in self.tasks.values():
            answers = (self.answers.get(posted.call) for posted, _ in task.posted)
            task.accepted_s = min((answer.at_s for answer in answers if answer and answer.status == 200), default=None)

    def _find_ends(self) -> None:
        """A task's end is known once its entry was read, or the agent was told that its result is safe."""
        for entry in self.feeds.get("results", ()):
            if entry.fields.get("status") in ENDS:
                task = self.tasks[entry.fields.get("task_id", "")]
                task.ends.append(entry)
                task.end_known_s = min(task.end_known_s, entry.at_s)
        for ack in self.acks:
            message = self.messages.get(ack.message_id)
            if message and message.sent.status in ENDS and not message.sent.is_spurious:
                task = self.tasks[message.sent.task_id]
                task.end_known_s = min(task.end_known_s, ack.at_s)


def entry_number(entry_id: str) -> tuple[int, int]:
    """A stream id as it sorts."""
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence or 0)
