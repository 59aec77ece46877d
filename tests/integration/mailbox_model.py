"""The rules of delivery as a plain model: no Redis, no clock, one step at a time. What test_mailbox_machine.py holds the scripts against.

The rules by name: see cluster/mailbox.py. Besides those: kept (a record answers resends itself, whatever the dedupe remembers), late
(nothing stands after a task's end), unknown (a result without a record is written, and leaves one), guard (the feed refuses a second end).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cluster.messages import ENDS

OPEN = ("pending", "sent", "running")
BIG = 1 << 40


@dataclass
class Task:
    """A record. `contents` None: a result came for a task that nobody had posted."""

    id: str
    state: str
    seq: int = 0
    contents: str | None = None
    batch: str = ""
    answer: str = "dispatched"
    epoch: int = 0
    incarnation: int | None = None
    attempts: int = 0
    is_sent: bool = False
    is_old: bool = False
    wants_end: bool = False
    by: str = ""
    is_owed: bool = False

    @property
    def is_open(self) -> bool:
        return self.state in OPEN


@dataclass
class Held:
    """What a session knows."""

    agent: "Agent"
    owner: str
    epoch: int
    incarnation: int
    claimed_at: int
    cursor: int
    cancels: int = 0


@dataclass
class Agent:
    """An agent's keys."""

    id: str
    incarnation: int = 1
    seq: int = 0
    taken: int = 0
    cancel_count: int = 0
    owner: str = ""
    tasks: dict[str, Task] = field(default_factory=dict)
    cancels: dict[str, int] = field(default_factory=dict)

    def mail(self, after: int = 0, upto: int = BIG) -> list[Task]:
        """What has not ended, in order."""
        tasks = [task for task in self.tasks.values() if task.is_open and after < task.seq <= upto]
        return sorted(tasks, key=lambda task: task.seq)


@dataclass
class Room:
    """What a call may hand out."""

    tasks: int
    size_bytes: int


@dataclass(frozen=True)
class Entry:
    """A line of the feed."""

    agent_id: str
    task_id: str
    status: str
    message_id: str
    text: str = ""

    @property
    def is_end(self) -> bool:
        return self.status in ENDS


class Model:
    """Two agents' mailboxes and the feed of results."""

    def __init__(self, max_open: int, max_attempts: int, on_restart: str, room: Room) -> None:
        self.max_open = max_open
        self.max_attempts = max_attempts
        self.on_restart = on_restart
        self.room = room
        self.agents: dict[str, Agent] = {}
        self.owed: dict[tuple[str, str], Entry] = {}
        self.offline_owed: set[tuple[str, int]] = set()  # agent id, epoch
        self.offline: list[tuple[str, int]] = []
        self.feed: list[Entry] = []
        self.seen_messages: set[tuple[str, str]] = set()
        self.seen_ends: set[tuple[str, str]] = set()

    # ---- accepting

    def enqueue(self, agent: Agent, batch: str, posted: Sequence[tuple[str, str]]) -> tuple[object, ...]:
        """(status, owner, new), or why not."""
        known = [(agent.tasks[task_id], json) for task_id, json in posted if task_id in agent.tasks]
        for task, json in known:
            if task.contents not in (None, json):
                return "conflict", task.id
        new = [(task_id, json) for task_id, json in posted if task_id not in agent.tasks]
        if new and len(agent.mail()) + len(new) > self.max_open:
            return ("full",)
        answer = known[0][0].answer if known else ""
        if new:
            answer = "dispatched" if agent.owner else "pending"
        for task_id, json in new:
            agent.seq += 1
            agent.tasks[task_id] = Task(task_id, "pending", agent.seq, json, batch, answer)
        return answer, agent.owner, len(new)

    # ---- delivering

    def claim(self, agent: Agent, owner: str, epoch: int) -> tuple[Held, int]:
        """The session, and how many tasks earlier ones were handed."""
        agent.owner = owner
        held = Held(agent, owner, epoch, agent.incarnation, agent.taken, agent.taken)
        return held, len(agent.mail(upto=agent.taken))

    def release(self, held: Held) -> bool:
        """Whether that ended an ownership."""
        if held.agent.owner != held.owner:
            return False
        held.agent.owner = ""
        self.offline_owed.add((held.agent.id, held.epoch))
        return True

    def take(self, sessions: Sequence[Held]) -> list[tuple[list[Task], list[str], bool] | None]:
        """(tasks, cancelled, more) for each; None for one that owns its agent no more. All share the room."""
        room = Room(self.room.tasks, self.room.size_bytes)
        return [self._take(held, room) for held in sessions]

    def _take(self, held: Held, room: Room) -> tuple[list[Task], list[str], bool] | None:
        agent = held.agent
        if agent.owner != held.owner:
            return None
        if room.tasks <= 0 or room.size_bytes <= 0:
            return [], [], True
        ahead = agent.mail(after=min(held.cursor, agent.taken))
        waiting, more = ahead[: room.tasks], len(ahead) >= room.tasks
        waiting += _rest_of_batch(waiting, ahead) if more else []
        room.tasks -= len(waiting)
        out: list[Task] = []
        for task in waiting:
            if room.size_bytes <= 0 and not (out and task.batch and task.batch == out[-1].batch):
                more = True
                break
            if task.state == "pending":
                self._mark(task, held, attempts=1)
            if task.state == "sent" and task.epoch == held.epoch:
                out.append(task)
                room.size_bytes -= len(task.contents or "")
            agent.taken = max(agent.taken, task.seq)
        return (
            out,
            sorted((t for t, n in agent.cancels.items() if n > held.cancels), key=agent.cancels.__getitem__),
            more,
        )

    def _mark(self, task: Task, held: Held, attempts: int) -> None:
        task.state, task.epoch, task.incarnation, task.attempts = "sent", held.epoch, held.incarnation, attempts
        task.is_sent, task.is_old = True, False

    def resume(self, held: Held, phase: str, *, again: bool, after: int) -> tuple[list[Entry], list[Task], int]:
        """(ends, tasks to write once more, where to go on)."""
        ends: list[Entry] = []
        out: list[Task] = []
        if held.agent.owner != held.owner:
            return ends, out, 0
        size_bytes = 0
        for task in held.agent.mail(after, held.claimed_at):
            is_restarted = task.incarnation not in (None, held.incarnation)
            is_mine = task.epoch == held.epoch
            is_due = not is_mine and (is_restarted if phase == "claim" else not is_restarted and task.state == "sent")
            if is_due and is_restarted and self.on_restart == "fail":
                ends.append(self._end(held.agent, task, *_restarted(task)))
            elif is_due and task.wants_end:
                ends.append(self._end(held.agent, task, "cancelled", "cancelled before it was delivered again"))
            elif (again and is_mine and task.state == "sent") or (is_due and task.attempts < self.max_attempts):
                is_full = len(out) >= self.room.tasks or size_bytes >= self.room.size_bytes
                if is_full and not (task.batch and task.batch == out[-1].batch):
                    return ends, out, task.seq - 1
                if is_due:
                    self._mark(task, held, task.attempts + 1)
                out.append(task)
                size_bytes += len(task.contents or "")
        return ends, out, 0

    # ---- ending

    def _end(self, agent: Agent, task: Task, status: str, text: str, message_id: str = "") -> Entry:
        task.state, task.by, task.is_owed = status, message_id or f"end:{agent.id}:{task.id}", True
        agent.cancels.pop(task.id, None)
        entry = Entry(agent.id, task.id, status, task.by, text)
        self.owed[agent.id, task.id] = entry
        return entry

    def says(self, entry: Entry, kind: str) -> int:
        """The verdict; for a sign of life of what has ended, 2."""
        agent = self.agents[entry.agent_id]
        task = agent.tasks.get(entry.task_id)
        if kind == "end":
            if task is None:
                task = agent.tasks[entry.task_id] = Task(entry.task_id, "pending")
            if task.is_open:
                self._end(agent, task, entry.status, entry.text, entry.message_id)
                return 1
            return int(task.by == entry.message_id and task.is_owed)
        if task is None:
            return 1 if kind == "progress" else -1
        if task.is_open:
            task.state = "running"
        if kind == "progress":
            return int(task.is_open or task.is_owed)
        return 0 if task.is_open else 2

    def tells(self, entry: Entry, kind: str) -> int:
        """The same, and written in the same step: what ends here is not owed."""
        was_owed = (entry.agent_id, entry.task_id) in self.owed
        verdict = self.says(entry, kind)
        if kind != "life" and verdict == 1:
            self.append(entry)
        if not was_owed and (entry.agent_id, entry.task_id) in self.owed:
            self.paid(entry)
        return verdict

    def cancel(self, agent: Agent, task_id: str) -> tuple[str, str]:
        """(outcome, status)."""
        task = agent.tasks.get(task_id)
        if task is None:
            return "unknown", ""
        if task.state == "pending":
            self._end(agent, task, "cancelled", "cancelled before delivery")
            return "dropped", "cancelled"
        if not task.is_open:
            return "ended", task.state
        if not task.wants_end:
            task.wants_end = True
            agent.cancel_count += 1
            agent.cancels[task_id] = agent.cancel_count
        return "kept", ""

    def due(self, agent: Agent, task: Task) -> Entry | None:
        """The sweep looks at it."""
        if task.state == "pending":
            return self._end(agent, task, "failed", "expired before delivery")
        if task.is_open and (task.is_old or not task.is_sent):
            return self._end(agent, task, "failed", "no result" if agent.owner else "no result, agent lost")
        return None

    # ---- the feed

    def append(self, entry: Entry) -> bool:
        """Whether it is written: once a message, one end a task, nothing after it."""
        task, message = (entry.agent_id, entry.task_id), (entry.agent_id, entry.message_id)
        if task in self.seen_ends or (not entry.is_end and message in self.seen_messages):
            return False
        self.feed.append(entry)
        if entry.is_end:
            self.seen_ends.add(task)
        else:
            self.seen_messages.add(message)
        return True

    def paid(self, entry: Entry) -> None:
        """Nothing is owed of it any more."""
        self.owed.pop((entry.agent_id, entry.task_id), None)
        self.agents[entry.agent_id].tasks[entry.task_id].is_owed = False

    def forgets_messages(self) -> None:
        """The window of the dedupe has passed."""
        self.seen_messages.clear()
        self.seen_ends.clear()

    def failover(self, agent: Agent, task: Task) -> None:
        """The agent's keys are those of a replica that had not heard of the end; the feed's had."""
        task.state, task.by, task.epoch, task.incarnation, task.attempts = "sent", "", 0, agent.incarnation, 1
        task.is_sent, task.is_old, task.wants_end = True, False, False


def _rest_of_batch(waiting: Sequence[Task], ahead: Sequence[Task]) -> Iterator[Task]:
    batch = waiting[-1].batch
    for task in ahead[len(waiting) :]:
        if not batch or task.batch != batch:
            return
        yield task


def _restarted(task: Task) -> tuple[str, str]:
    if task.wants_end:
        return "cancelled", "cancelled, and the agent restarted"
    return "failed", "agent restarted, the task may have run"
