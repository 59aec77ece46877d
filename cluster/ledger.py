"""Whether everything adds up: accepted = ended + open, owed = written + waiting; and if not, which ids are out of step.

Owns the key `ledger` and the judgement; changes nothing but books that are missing, which it opens. Rules:

- The scripts count in the step in which they change a task or an entry: at any moment the books are right to one, or something is wrong.
- A walk names what is out of step: mailboxes, due tasks, owed entries and ownerships in slices; every record, by SCAN, only where the
  books are off or when it is asked for. All keys of a task are read in one moment, so that work under way looks like nothing wrong.
- What looks wrong is looked at again before it is said: what time mends (an expired lease, an entry of a writer that died) is mended.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from msgspec import Struct

from cluster.feeds import GENERATION_MS, end_mark, offline_entry
from cluster.keys import Keys
from cluster.redis_client import Store
from cluster.scripts import packed

PAGE = 500  # looked at in one call
PAUSE_S = 0.002  # between calls: others work
OVERDUE_MS = 15_000  # an entry is paid by a reaper 5 s after it was seen, at the next of its passes
LOOKS, LOOK_S = 3, 3.0  # how often what looks wrong is looked at again, and how far apart
MARGIN_MS = 300_000
OPEN = frozenset(("pending", "sent", "running"))


class Books(Struct, frozen=True):
    """What was counted since the books were opened, and what is there now."""

    accepted: int = 0
    ended: int = 0
    open: int = 0
    owed: int = 0
    written: int = 0
    waiting: int = 0
    tasks_off: int = 0  # tasks that do not add up
    entries_off: int = 0  # entries that do not

    @property
    def is_right(self) -> bool:
        """Whether all adds up."""
        return not self.tasks_off and not self.entries_off


class Finding(Struct, frozen=True, order=True):
    """Something out of step. `task_id` is "" where it is about an agent's ownership."""

    what: str
    agent_id: str
    task_id: str = ""


class Report(Struct, frozen=True):
    """What a check found, and how often it looked: an open task and an agent that is online stand in several keys."""

    books: Books
    findings: list[Finding]
    task_looks: int
    agent_looks: int

    @property
    def is_right(self) -> bool:
        """Whether nothing is out of step."""
        return self.books.is_right and not self.findings


class _Seen(NamedTuple):
    """What the keys said of a task in one moment."""

    state: str
    ended_ms: int
    in_mailbox: bool
    is_due: bool
    is_owed: bool
    lives_ms: int


Task = tuple[str, str]  # agent id, task id
Item = TypeVar("Item")
Judge = Callable[[Sequence[Item]], Awaitable[dict[Item, str]]]


class Ledger:
    """The books of a cluster."""

    def __init__(self, store: Store, results_feed: str = "") -> None:
        """`results_feed`: where ends must be found, "" = nobody writes them."""
        self._store = store
        self._keys: Keys = store.keys
        self._feed = results_feed

    async def books(self) -> Books:
        """The sums of all shards, each of one moment. Raises: StoreUnavailable."""
        rows = [await self._row(shard) for shard in range(self._keys.shards)]
        accepted, ended, is_open, owed, written, waiting = (sum(column) for column in zip(*rows, strict=True))
        tasks_off = sum(abs(row[0] - row[1] - row[2]) for row in rows)
        entries_off = sum(abs(row[3] - row[4] - row[5]) for row in rows)
        return Books(accepted, ended, is_open, owed, written, waiting, tasks_off, entries_off)

    async def _row(self, shard: int) -> list[int]:
        keys = [self._keys.in_shard(shard, name) for name in ("due", "unfed", "ledger")]
        return list(await self._store.run("ledger", keys))

    async def check(self, *, is_deep: bool = False) -> Report:
        """Walks everything, and names what is out of step. Raises: StoreUnavailable."""
        await self._store.sync_clock()
        books = await self.books()
        is_deep = is_deep or not books.is_right
        judge_tasks = partial(self._judge_tasks, is_deep=is_deep)
        tasks, wrong_tasks = await _walked(self._tasks(is_deep=is_deep), judge_tasks)
        agents, wrong_agents = await _walked(self._agents(), self._judge_agents)
        _, wrong_offlines = await _walked(self._offlines(), self._judge_offlines)
        for _ in range(LOOKS if wrong_tasks or wrong_agents or wrong_offlines else 0):
            await asyncio.sleep(LOOK_S)
            wrong_tasks = await _still(wrong_tasks, judge_tasks)
            wrong_agents = await _still(wrong_agents, self._judge_agents)
            wrong_offlines = await _still(wrong_offlines, self._judge_offlines)
        findings = [Finding(what, *task) for task, what in wrong_tasks.items()]
        findings += [Finding(what, agent_id) for agent_id, what in wrong_agents.items()]
        findings += [Finding(what, _split(field[2:])[0]) for field, what in wrong_offlines.items()]
        return Report(await self.books(), sorted(findings), tasks, agents)

    # ---- tasks

    async def _tasks(self, *, is_deep: bool) -> AsyncIterator[list[Task]]:
        """Pages of all tasks that some key names; a task may come more than once."""
        for shard in range(self._keys.shards):
            async for members in self._scanned("zscan", self._keys.in_shard(shard, "due")):
                yield [_split(member) for member in members]
            async for fields in self._scanned("hscan", self._keys.in_shard(shard, "unfed")):
                yield [_split(field[2:]) for field in fields if field.startswith("r:")]
            async for ids in self._scanned("zscan", self._keys.in_shard(shard, "agents")):
                for agent_id in await self._with_mail(ids):
                    async for task_ids in self._scanned("zscan", self._keys.of_agent("mail", agent_id)):
                        yield [(agent_id, task_id) for task_id in task_ids]
            if is_deep:
                stem = self._keys.in_shard(shard, "task:")
                async for keys in self._scanned("scan", stem):
                    yield [_split(key.removeprefix(stem)) for key in keys]

    async def _with_mail(self, agent_ids: Sequence[str]) -> list[str]:
        async with self._store.session() as client:
            pipe = client.pipeline(transaction=False)
            for agent_id in agent_ids:
                pipe.exists(self._keys.of_agent("mail", agent_id))
            found = await pipe.execute()
        return [agent_id for agent_id, is_there in zip(agent_ids, found, strict=True) if is_there]

    async def _scanned(self, command: str, key: str) -> AsyncIterator[list[str]]:
        """The members of a key by ZSCAN or HSCAN, or the keys that begin with it by SCAN; a slice at a time."""
        cursor: Any = None
        while cursor != 0:
            async with self._store.session() as client:
                if command == "scan":
                    cursor, found = await client.scan(cursor or 0, match=f"{_literally(key)}*", count=PAGE)
                else:
                    cursor, found = await getattr(client, command)(key, cursor=cursor or 0, count=PAGE)
            names = [item[0] if isinstance(item, tuple) else item for item in found]
            for start in range(0, len(names), PAGE):
                yield [name.decode() for name in names[start : start + PAGE]]
            await asyncio.sleep(PAUSE_S)

    async def _judge_tasks(self, tasks: Sequence[Task], *, is_deep: bool) -> dict[Task, str]:
        """What is wrong with these tasks, all of one shard or of several."""
        wrong: dict[Task, str] = {}
        for shard, group in self._by_shard(tasks).items():
            seen = await self._look(shard, group)
            now_ms = self._store.now_ms()
            wrong.update({task: what for task, one in seen.items() if (what := _wrong(one, now_ms))})
            if is_deep and self._feed:
                written = [task for task, one in seen.items() if _is_remembered(one, now_ms)]
                wrong.update(dict.fromkeys(await self._not_in_feed(written), "ended, paid for, and not in the feed"))
        return wrong

    async def _look(self, shard: int, tasks: Sequence[Task]) -> dict[Task, _Seen]:
        keys = [self._keys.in_shard(shard, name) for name in ("due", "unfed")]
        for agent_id, task_id in tasks:
            keys += [self._keys.of_agent("mail", agent_id), self._keys.task(agent_id, task_id)]
        rows = await self._store.run("look", keys, packed(tasks))
        return {
            task: _Seen(state.decode(), int(ended), bool(mail), bool(due), bool(owed), lives_ms)
            for task, (state, ended, mail, due, owed, lives_ms) in zip(tasks, rows, strict=True)
        }

    async def _not_in_feed(self, tasks: Sequence[Task]) -> list[Task]:
        if not tasks:
            return []
        marks = [end_mark(*task) for task in tasks]
        async with self._store.session() as client:
            pipe = client.pipeline(transaction=False)
            for name in ("seen:0", "seen:1"):
                pipe.smismember(self._keys.of_feed(self._feed, name), marks)
            first, second = await pipe.execute()
        return [task for task, a, b in zip(tasks, first, second, strict=True) if not a and not b]

    def _by_shard(self, tasks: Iterable[Task]) -> dict[int, list[Task]]:
        groups: dict[int, list[Task]] = {}
        for task in dict.fromkeys(tasks):
            groups.setdefault(self._keys.shard(task[0]), []).append(task)
        return groups

    # ---- offline entries

    async def _offlines(self) -> AsyncIterator[list[str]]:
        """Pages of the fields that hold offline entries which are owed."""
        for shard in range(self._keys.shards):
            async for fields in self._scanned("hscan", self._keys.in_shard(shard, "unfed")):
                yield [field for field in fields if field.startswith("s:")]

    async def _judge_offlines(self, fields: Sequence[str]) -> dict[str, str]:
        wrong: dict[str, str] = {}
        for shard, group in self._by_shard(_split(field[2:]) for field in fields).items():
            names = [f"s:{agent_id}:{epoch}" for agent_id, epoch in group]
            async with self._store.session() as client:
                entries = await client.hmget(self._keys.in_shard(shard, "unfed"), names)
            for name, raw in zip(names, entries, strict=True):
                if raw and self._store.now_ms() - int(offline_entry(raw).ended_ms) > OVERDUE_MS:
                    wrong[name] = "offline, and its entry is owed for too long"
        return wrong

    # ---- ownership

    async def _agents(self) -> AsyncIterator[list[str]]:
        for shard in range(self._keys.shards):
            for command, name in (("hscan", "owners"), ("zscan", "deadlines"), ("zscan", "agents")):
                async for ids in self._scanned(command, self._keys.in_shard(shard, name)):
                    yield ids

    async def _judge_agents(self, agent_ids: Sequence[str]) -> dict[str, str]:
        wrong: dict[str, str] = {}
        for shard, group in self._by_shard((agent_id, "") for agent_id in agent_ids).items():
            owners, deadlines = (self._keys.in_shard(shard, name) for name in ("owners", "deadlines"))
            async with self._store.session() as client:
                pipe = client.pipeline(transaction=True)
                for agent_id, _ in group:
                    pipe.hget(owners, agent_id)
                    pipe.get(self._keys.of_agent("lease", agent_id))
                    pipe.zscore(deadlines, agent_id)
                rows = await pipe.execute()
            held = zip(group, rows[::3], rows[1::3], rows[2::3], strict=True)
            wrong.update({agent_id: what for (agent_id, _), *keys in held if (what := _wrong_ownership(*keys))})
        return wrong


def _wrong(seen: _Seen, now_ms: int) -> str:  # noqa: PLR0911 - a line a rule
    """What is out of step with a task; "" when nothing is."""
    if seen.state in OPEN:
        if not seen.in_mailbox:
            return "open, without a place in its mailbox"
        if not seen.is_due:
            return "open, without a time at which it must end"
        return "open, though its end is owed to the feed" if seen.is_owed else ""
    if not seen.state:
        if seen.in_mailbox:
            return "in a mailbox, without a record"
        return "due, without a task" if seen.is_due else ""
    if seen.in_mailbox or seen.is_due:
        return "ended, and still in its mailbox" if seen.in_mailbox else "ended, and still due"
    if seen.is_owed:
        return "ended, and its entry is owed for too long" if now_ms - seen.ended_ms > OVERDUE_MS else ""
    return "ended, and its entry is neither written nor owed" if seen.lives_ms == -1 else ""


def _is_remembered(seen: _Seen, now_ms: int) -> bool:
    """Whether its end was written so short a time ago that the feed must remember it."""
    is_paid = seen.state != "" and seen.state not in OPEN and not seen.is_owed and seen.lives_ms > 0
    return is_paid and now_ms - seen.ended_ms < GENERATION_MS - MARGIN_MS


def _wrong_ownership(owner: bytes | None, lease: bytes | None, deadline: float | None) -> str:
    if owner is None:
        if lease is not None:
            return "a lease without an owner"
        return "" if deadline is None else "a deadline without an owner"
    if lease is None:
        return "owned, and its lease has run out"
    if lease != owner:
        return "owned, and its lease is another's"
    return "owned, without a deadline" if deadline is None else ""


def _split(member: str) -> Task:
    agent_id, _, task_id = member.partition(":")
    return agent_id, task_id


async def _walked(pages: AsyncIterator[list[Item]], judge: Judge[Item]) -> tuple[int, dict[Item, str]]:
    """(how often was looked, what is wrong with which)."""
    looks = 0
    wrong: dict[Item, str] = {}
    async for page in pages:
        looks += len(page)
        wrong.update(await judge(page))
    return looks, wrong


async def _still(wrong: dict[Item, str], judge: Judge[Item]) -> dict[Item, str]:
    """Of these, what is wrong in the same way."""
    items = list(wrong)
    now: dict[Item, str] = {}
    for start in range(0, len(items), PAGE):
        now.update(await judge(items[start : start + PAGE]))
    return {item: what for item, what in now.items() if wrong[item] == what}


def _literally(text: str) -> str:
    """For a pattern of SCAN."""
    return "".join(f"\\{char}" if char in "\\*?[]^-" else char for char in text)
