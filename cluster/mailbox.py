"""An agent's tasks, from their acceptance to their end. The rules of delivery live here and in the scripts it calls.

Owns the keys `mail`, `task`, `due`; knows nothing of sockets. Rules, by the names of the delivery model:

- mark: a task is marked sent, under the owner's epoch, before its frame is written; refused or unanswered, nothing is written.
- seq: `take` hands out what was never sent, in order; a cursor in the agent's key says how far that went.
- spurious, fact: settling judges by task; the first real end wins, whichever epoch brings it.
- owed: whatever ends a task owes its entry to the feed in the same script, or puts it there (cluster/outcomes.py).
- cancel: a cancel of a sent task is kept in its record, told on every session, and replaces redelivery.
- truth: only a task never sent ends as "expired before delivery". attempts: running out of them ends nothing.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import chain
from typing import Any

from msgspec import Struct
from msgspec.structs import astuple

from cluster import settings
from cluster.errors import MailboxFull, TaskConflict, UnknownAgent
from cluster.keys import RECORD_MS, Keys
from cluster.messages import NewTask
from cluster.redis_client import Store
from cluster.redis_line import Command
from cluster.registry import Owner, by_shard
from cluster.scripts import packed

UNSAID_WORK_S = 2 * 3600  # how long a task may work that says no timeout
TAKE_TASKS = 1000
TAKE_BYTES = 1 << 20
STRANGERS = 10_000  # messages of one agent about tasks that nobody knows, for as long as a record lives, that leave one
_BLANK = blake2b(digest_size=16)  # to be copied: a new one costs five times as much
_TOLD = ("state", "attempts", "created", "sent", "ended", "by", "exit_code", "error_msg", "error_code", "cancel")


class Post(Struct, frozen=True):
    """Tasks that one call brings for one agent. `batch` names the call that is to reach the agent as one frame, "" = single."""

    agent_id: str
    batch: str
    tasks: Sequence[NewTask]


class Accepted(Struct, frozen=True):
    """A Post that was taken: how it was first answered, who is to be rung, how many tasks are new."""

    status: str
    owner: Owner | None
    new: int


class Taken(Struct, frozen=True, gc=False):
    """A task handed out for writing: its place in the mailbox, the batch it came in ("" = single), its JSON.

    `created_ms` is when it was accepted; 0 = handed out before, or not known.
    """

    id: str
    seq: int
    batch: str
    json: bytes
    created_ms: int = 0


class Take(Struct, frozen=True, gc=False):
    """A session asks for what waits beyond its cursor, and for cancels beyond those it knows of."""

    agent_id: str
    owner: str
    cursor: int
    cancels: str


class Delivery(Struct, frozen=True):
    """What a session is to write: tasks in order, then cancels. Once it is written, `cursor` and `cancels` are what it knows."""

    tasks: list[Taken]
    cancelled: list[str]
    cancels: str
    more: bool
    cursor: int


class Resumed(Struct, frozen=True):
    """What becomes of tasks handed to earlier sessions: results owed for those that ended, those to write once more.

    `go_on` is the place in the mailbox behind which to ask again; 0 = that was all.
    """

    owed: list[bytes]
    tasks: list[Taken]
    go_on: int


class Said(Struct, frozen=True, array_like=True, gc=False):
    """What an agent says of a task. `kind`: `end`, `progress`, `life`, or `lost`: an end of ours for a task without a record.

    Of an end: `entry`, its owed form as JSON, and how its record tells it: `error_msg` is short (cluster/reasons.py). See settle.lua.
    """

    agent_id: str
    task_id: str
    kind: str
    status: str = ""
    message_id: str = ""
    entry: str = ""
    exit_code: str = "0"
    error_msg: str = ""
    error_code: str = "0"


APPEND = 1  # the verdict on an `end` or `progress` that is to be written; 0: acked only
APPEND_ALONE = 2  # the same, where the agent spoke of too many tasks that nobody knows: it is to leave nothing behind but its entry
WRITTEN_BEFORE = 3  # by the same message, where ends are written in the step that settles them
OPEN, UNKNOWN = 0, -1  # the verdicts on `life`, beside the ms at which the task ended


class Cancelled(Struct, frozen=True):
    """What a cancel did. `outcome`: `unknown`, `ended` (with the status), `dropped` (owes `entry`), `kept` (tell the owner)."""

    outcome: str
    status: str = ""
    owner: Owner | None = None
    entry: bytes = b""


class TaskState(Struct, frozen=True):
    """What a record says of a task. `state`: pending, sent, running or how it ended; times in unix ms, 0 = not yet, or not known.

    `ended_by` is the message that ended it: an agent's message id, or `end:<agent>:<task>` for an end of the cluster's own.
    `exit_code` is None as long as it is open; `error_msg` is the short form. `is_cancel_asked`: somebody asked for its end while it was open.
    """

    state: str
    attempts: int
    created_ms: int
    sent_ms: int
    ended_ms: int
    ended_by: str
    exit_code: int | None
    error_msg: str
    error_code: int
    is_cancel_asked: bool


class Mailbox:
    """All agents' tasks."""

    def __init__(self, store: Store, config: settings.Tasks) -> None:
        self._store = store
        self._keys: Keys = store.keys
        self._config = config
        self._ttl_ms = int(config.ttl_s * 1000)
        self._grace_ms = int(config.result_grace_s * 1000)

    # ---- accepting

    async def enqueue(
        self, posts: Sequence[Post], behind: Callable[[Sequence[Post]], Sequence[Command]] = lambda _: ()
    ) -> list[Accepted | UnknownAgent | MailboxFull | TaskConflict]:
        """Accepts tasks, all of a Post or none; the same id with the same bytes again changes nothing. Raises: StoreUnavailable.

        `behind`: what is sent right behind these tasks, whatever becomes of them; it may be sent twice.
        """
        return await by_shard(
            self._keys,
            posts,
            lambda post: post.agent_id,
            lambda shard, of_shard: self._enqueue(shard, of_shard, behind),
        )

    async def _enqueue(
        self, shard: int, posts: list[Post], behind: Callable[[Sequence[Post]], Sequence[Command]]
    ) -> list[Accepted | UnknownAgent | MailboxFull | TaskConflict]:
        names = ("owners", "due", "agent:", "mail:", "task:", "pending", "ledger")
        keys = [self._keys.in_shard(shard, name) for name in names]
        arg = packed(
            [(post.agent_id, post.batch, *chain.from_iterable(map(_accepted_form, post.tasks))) for post in posts]
        )
        replies = await self._store.run("enqueue", keys, arg, self._ttl_ms, self._config.max_open, behind=behind(posts))
        return [self._answer(reply) for reply in replies]

    def _answer(self, reply: list[bytes]) -> Accepted | UnknownAgent | MailboxFull | TaskConflict:
        match reply:
            case [b"ok", status, owner, new]:
                return Accepted(status.decode(), Owner.parse(owner), int(new))
            case [b"unknown"]:
                return UnknownAgent("no such agent")
            case [b"full"]:
                return MailboxFull(f"this agent has {self._config.max_open} open tasks")
            case [_, task_id]:
                return TaskConflict(f"task id {task_id.decode()} was used before, with other contents")
        raise ValueError(reply)

    # ---- delivering

    async def take(self, takes: Sequence[Take]) -> list[Delivery | None]:
        """Marks and hands out what was never sent; None for a session that owns its agent no more. Raises: StoreUnavailable."""
        return await by_shard(self._keys, takes, lambda take: take.agent_id, self._take)

    async def _take(self, shard: int, takes: list[Take]) -> list[Delivery | None]:
        keys = [self._keys.in_shard(shard, "owners"), self._keys.in_shard(shard, "due")]
        for take in takes:
            keys += [self._keys.of_agent(name, take.agent_id) for name in ("agent", "mail", "cancels")]
            keys.append(self._keys.task(take.agent_id, ""))
        keys.append(self._keys.in_shard(shard, "pending"))
        arg = packed([(take.agent_id, take.owner, str(take.cursor), take.cancels) for take in takes])
        replies = await self._store.run("take", keys, arg, TAKE_TASKS, TAKE_BYTES, self._grace_ms)
        return [_delivery(reply) for reply in replies]

    async def resume(
        self, agent_id: str, owner: str, cursor: int, *, phase: str, again: bool = False, after: int = 0
    ) -> Resumed:
        """After a claim (`phase`: `claim`, later `grace`): what becomes of tasks up to its cursor, a slice a call.

        `again` also hands out what this epoch was handed in a call whose reply was lost. Raises: StoreUnavailable.
        """
        shard = self._keys.shard(agent_id)
        keys = [self._keys.in_shard(shard, name) for name in ("owners", "due", "unfed")]
        keys += [self._keys.of_agent(name, agent_id) for name in ("agent", "mail", "cancels")]
        keys += [self._keys.task(agent_id, ""), self._keys.in_shard(shard, "ledger")]
        reply = await self._store.run(
            "resume", keys, agent_id, owner, cursor, phase, int(again), self._config.on_agent_restart,
            self._config.max_attempts, self._grace_ms, after, TAKE_TASKS, TAKE_BYTES,
        )  # fmt: skip
        return Resumed([], [], 0) if reply[0] == b"lost" else Resumed(list(reply[1]), _tasks(reply[3:]), int(reply[2]))

    # ---- ending

    async def settle(self, said: Sequence[Said]) -> list[int]:
        """The verdict on each: `APPEND`, `APPEND_ALONE` or 0; on `life`: `OPEN`, `UNKNOWN` or the ms at which the task ended. Raises: StoreUnavailable."""
        return await by_shard(self._keys, said, lambda item: item.agent_id, self._settle)

    async def _settle(self, shard: int, said: list[Said]) -> list[int]:
        values = list(chain.from_iterable(map(astuple, said)))
        return list(await self._store.run("settle", self.settle_keys(shard), packed(values), STRANGERS, RECORD_MS))

    def settle_keys(self, shard: int) -> list[str]:
        """The keys of a script that settles: first those of mailboxes, last the books."""
        names = ("unfed", "due", "mail:", "cancels:", "task:", "strangers", "ledger")
        return [self._keys.in_shard(shard, name) for name in names]

    async def cancel(self, agent_id: str, task_ids: Sequence[str]) -> list[Cancelled]:
        """Ends what was never sent, remembers the wish for what was. Raises: StoreUnavailable."""
        keys = self._task_keys(self._keys.shard(agent_id), [(agent_id, task_id) for task_id in task_ids])
        replies = await self._store.run("cancel", keys, packed([(agent_id, task_id) for task_id in task_ids]))
        return [_cancelled(reply) for reply in replies]

    async def end_due(self, limit: int) -> list[bytes]:
        """Ends tasks whose time has come, at most `limit` a shard: the results owed. Raises: StoreUnavailable."""
        owed: list[bytes] = []
        for shard in range(self._keys.shards):
            async with self._store.session() as client:
                now_ms = self._store.now_ms()
                due = self._keys.in_shard(shard, "due")
                members = await client.zrangebyscore(due, "-inf", now_ms, start=0, num=limit)
            items = [tuple(member.decode().split(":", 1)) for member in members]
            if items:
                keys = self._task_keys(shard, items)
                owed += [
                    e for e in await self._store.run("due", keys, packed(items), self._ttl_ms, self._grace_ms) if e
                ]
        return owed

    def _task_keys(self, shard: int, items: Sequence[tuple[str, ...]]) -> list[str]:
        keys = [self._keys.in_shard(shard, name) for name in ("owners", "due", "unfed")]
        for agent_id, task_id in items:
            keys += [self._keys.of_agent(name, agent_id) for name in ("agent", "mail", "cancels")]
            keys.append(self._keys.task(agent_id, task_id))
        return [*keys, self._keys.in_shard(shard, "ledger")]

    # ---- looking

    async def has_room(self, agent_id: str) -> bool:
        """Whether another task would be taken. Raises: StoreUnavailable."""
        async with self._store.session() as client:
            return bool(await client.zcard(self._keys.of_agent("mail", agent_id)) < self._config.max_open)

    async def look(self, agent_id: str, task_id: str) -> TaskState | None:
        """All that may be told of a task, without what it is to do; None when it is not known. Raises: StoreUnavailable."""
        async with self._store.session() as client:
            values = await client.hmget(self._keys.task(agent_id, task_id), *_TOLD)
        return _task_state([bytes(value or b"").decode(errors="replace") for value in values])


def _accepted_form(task: NewTask) -> tuple[str, str, str, str]:
    digest = _BLANK.copy()
    digest.update(task.json.encode())
    return task.id, task.json, digest.hexdigest(), str((task.timeout_s or UNSAID_WORK_S) * 1000)


def _task_state(values: Sequence[str]) -> TaskState | None:
    state, attempts, created_ms, sent_ms, ended_ms, by, exit_code, error_msg, error_code, cancel = values
    if not state:
        return None
    return TaskState(
        state,
        int(attempts or 0),
        created_ms=int(created_ms or 0),
        sent_ms=int(sent_ms or 0),
        ended_ms=int(ended_ms or 0),
        ended_by=by,
        exit_code=int(exit_code or 0) if ended_ms else None,
        error_msg=error_msg,
        error_code=int(error_code or 0),
        is_cancel_asked=cancel != "",
    )


def _delivery(reply: list[Any]) -> Delivery | None:
    if reply[0] == b"lost":
        return None
    _, cancels, more, cancelled, cursor, *tasks = reply
    ids = [task_id.decode() for task_id in cancelled]
    taken = [
        Taken(tasks[n].decode(), int(tasks[n + 1]), tasks[n + 2].decode(), tasks[n + 3], int(tasks[n + 4]))
        for n in range(0, len(tasks), 5)
    ]
    return Delivery(taken, ids, cancels.decode(), bool(more), int(cursor))


def _tasks(flat: list[bytes]) -> list[Taken]:
    return [
        Taken(flat[n].decode(), int(flat[n + 1]), flat[n + 2].decode(), flat[n + 3]) for n in range(0, len(flat), 4)
    ]


def _cancelled(reply: list[bytes]) -> Cancelled:
    outcome, value = reply[0].decode(), reply[1]
    match outcome:
        case "ended":
            return Cancelled(outcome, status=value.decode())
        case "dropped":
            return Cancelled(outcome, status="cancelled", entry=value)
    return Cancelled(outcome, owner=Owner.parse(value))
