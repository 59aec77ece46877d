"""The mailbox on a real Redis against the plain model of its rules (mailbox_model.py): the same steps, the same answers, the same feed.

Steps are those of nodes and routers, with what befalls them: a reply is lost (the script ran, the caller does not know), a node dies between
settling and appending or between appending and paying, sessions that lost their agent go on, the agent's process starts anew, the window of
the feed's dedupe passes, Redis fails over to a replica that had not heard of an end. In the end all is brought to rest and judged: each
accepted task has ended once, and nothing is left behind. Regressions stand at the end of the file. `--long` looks further.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import pytest
import uvloop
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster import mailbox, settings
from cluster.errors import MailboxFull, TaskConflict
from cluster.feeds import result_entry
from cluster.mailbox import APPEND, UNSAID_WORK_S, WRITTEN_BEFORE, Accepted, Delivery, Post, Said, Take, Taken
from cluster.messages import new_task
from cluster.registry import EXPIRED, HAS_CANCELS, HAS_MAIL, TAKEN_OVER, Release, Renewal
from tests.integration.core import Core, a_result, said
from tests.integration.mailbox_model import Agent, Entry, Held, Model, Room, Task
from tests.support.machines import Machines
from tests.support.redis_server import RedisServer

Result = TypeVar("Result")
Run = Callable[[Coroutine[Any, Any, Any]], Any]

MAX_OPEN = 6
OLD_MS = 3 * 24 * 3600 * 1000  # over the ttl and the grace
TASKS = ("t1", "t2", "t3", "t4", "t5")
STATUSES = st.sampled_from(["success", "failed", "cancelled", "running", "running"])
AGENTS = st.integers(0, 1)
WORDS = st.tuples(AGENTS, st.sampled_from(TASKS), STATUSES, st.sampled_from(["1", "2", "same"]), st.booleans())
ROOMS = st.sampled_from([Room(2, 1 << 20), Room(3, 1 << 20), Room(1000, 40), Room(1000, 1 << 20)])


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.run


def contents_of(task_id: str, variant: int) -> str:
    return json.dumps({"id": task_id, "command": "x" * variant})


class MailboxMachine(RuleBasedStateMachine):
    """Two agents, whatever sessions they had, and what was settled and is not written yet."""

    def __init__(self, run: Run, redis: RedisServer) -> None:
        super().__init__()
        self._run = run
        self._url = redis.url
        self._patch = pytest.MonkeyPatch()

    @initialize(
        on_restart=st.sampled_from(["fail", "redeliver"]),
        max_attempts=st.integers(1, 3),
        room=ROOMS,
        stage=st.integers(0, 4),
    )
    def begin(self, on_restart: str, max_attempts: int, room: Room, stage: int) -> None:
        self._patch.setattr(mailbox, "TAKE_TASKS", room.tasks)
        self._patch.setattr(mailbox, "TAKE_BYTES", room.size_bytes)
        prefix = f"test-{uuid.uuid4().hex[:12]}:"
        tasks = settings.Tasks(max_open=MAX_OPEN, max_attempts=max_attempts, on_agent_restart=on_restart)
        self.core = Core(
            self._url, prefix, shards=1, tasks=tasks,
            result_stream=settings.ResultStream(key=f"{prefix}results"),
            status_stream=settings.StatusStream(key=f"{prefix}status"),
        )  # fmt: skip
        self.model = Model(MAX_OPEN, max_attempts, on_restart, room)
        self.sessions: dict[str, list[Held]] = {}
        self.lost_resumes: dict[tuple[str, str], int] = {}  # (owner, phase): where the call began whose reply was lost
        self.hands: list[tuple[Entry, str]] = []  # what is settled, and the step that comes next
        self.written: set[tuple[str, str]] = set()
        self._run(self._begin())
        for number in (0, 1):
            self._advance(number, stage)

    def _advance(self, number: int, stage: int) -> None:
        """Stories begin where others would only come to late: tasks wait, were handed out, or were to an earlier session or process."""
        if stage > 0:
            self.posts(number, [("t1", 0), ("t2", 0), ("t3", 0)], is_batch=number == 1)
        if stage > 1:
            self.takes(number, [0], is_lost=False)
            self.takes(number, [0], is_lost=stage == 2)
        if stage > 3:
            self.agent_starts_anew(number)
        if stage > 2:
            self.claims(number, "n1")

    async def _begin(self) -> None:
        await self.core.start()
        for token in ("token-1", "token-2"):
            agent_id = await self.core.agent(token)
            self.model.agents[agent_id] = Agent(agent_id)
            self.sessions[agent_id] = []
        self.ids = list(self.sessions)
        for agent in self.model.agents.values():
            for node in ("n1", "n2"):  # two at once, so that there is somebody to be late
                await self._claim(agent, node)

    def teardown(self) -> None:
        if hasattr(self, "core"):
            try:
                self._run(self._rest())
            finally:
                self._run(self.core.close())
        self._patch.undo()

    def agent(self, number: int) -> Agent:
        return self.model.agents[self.ids[number]]

    def session(self, number: int, back: int) -> Held | None:
        """The newest session of an agent, or one before it."""
        held = self.sessions[self.ids[number]]
        return held[-1 - back] if back < len(held) else None

    def do(self, step: Coroutine[Any, Any, Result]) -> Result:
        result: Result = self._run(step)
        return result

    # ---- accepting

    @rule(number=AGENTS, tasks=st.lists(st.tuples(st.sampled_from(TASKS), st.sampled_from([0, 0, 0, 30])), min_size=1, max_size=4,
          unique_by=lambda task: task[0]), is_batch=st.booleans())  # fmt: skip
    def posts(self, number: int, tasks: list[tuple[str, int]], is_batch: bool) -> None:
        agent, batch = self.agent(number), uuid.uuid4().hex if is_batch else ""
        posted = [(task_id, contents_of(task_id, variant)) for task_id, variant in tasks]
        post = Post(agent.id, batch, [new_task(contents.encode()) for _, contents in posted])
        expected = self.model.enqueue(agent, batch, posted)
        (outcome,) = self.do(self.core.mailbox.enqueue([post]))
        if isinstance(outcome, Accepted):
            assert (outcome.status, str(outcome.owner or ""), outcome.new) == expected
        else:
            assert {"conflict": TaskConflict, "full": MailboxFull}[str(expected[0])] is type(outcome)

    # ---- sessions

    @rule(number=AGENTS, node=st.sampled_from(["n1", "n2"]))
    def claims(self, number: int, node: str) -> None:
        self.do(self._claim(self.agent(number), node))

    async def _claim(self, agent: Agent, node: str) -> None:
        before = agent.owner
        claim = await self.core.claim(agent.id, node)
        held, unended = self.model.claim(agent, str(claim.owner), claim.owner.epoch)
        assert str(claim.previous or "") == before
        assert (claim.incarnation, claim.taken, claim.unended) == (held.incarnation, held.claimed_at, unended)
        assert all(claim.owner.epoch > other.epoch for other in self.sessions[agent.id])
        self.sessions[agent.id].append(held)

    @rule(number=AGENTS)
    def agent_starts_anew(self, number: int) -> None:
        self.do(self.core.agent(f"token-{number + 1}"))
        self.agent(number).incarnation += 1

    @rule(number=AGENTS, back=st.integers(0, 2), lease=st.sampled_from(["closed", "runs out", "lives"]))
    def ends(self, number: int, back: int, lease: str) -> None:
        """A socket closes, or a router looks whether the lease has run out."""
        held = self.session(number, back)
        if held is not None:
            owed = self.do(self._release(held, lease))
            assert bool(owed) == (lease != "lives" and self.model.release(held)), "fence"

    async def _release(self, held: Held, lease: str) -> bytes:
        if lease == "runs out" and held.agent.owner == held.owner:
            await self.core.redis.delete(self.core.keys.of_agent("lease", held.agent.id))
        release = Release(held.agent.id, held.owner, "websocket_closed", 0, if_expired=lease != "closed")
        (owed,) = await self.core.registry.release([release])
        return owed

    @rule(number=AGENTS, back=st.integers(0, 2))
    def renews(self, number: int, back: int) -> None:
        held = self.session(number, back)
        if held is not None:
            renewal = Renewal(held.agent.id, held.owner, 0, str(held.cancels))
            (outcome,) = self.do(self.core.registry.renew([renewal]))
            assert outcome == _renewed(held)

    # ---- delivering

    @rule(first=AGENTS, backs=st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=1, max_size=2), is_lost=st.booleans())
    def takes(self, first: int, backs: list[int], is_lost: bool) -> None:
        sessions = [held for n, back in enumerate(backs) if (held := self.session((first + n) % 2, back))]
        deliveries = self.do(self._take(sessions))
        for held, delivery in zip(sessions, deliveries, strict=True):
            if delivery is not None and not is_lost:
                self._writes(held, delivery)

    async def _take(self, sessions: Sequence[Held]) -> list[Delivery | None]:
        asked = [Take(held.agent.id, held.owner, held.cursor, str(held.cancels)) for held in sessions]
        deliveries = await self.core.mailbox.take(asked)
        for delivery, expected in zip(deliveries, self.model.take(sessions), strict=True):
            if delivery is None or expected is None:
                assert (delivery, expected) == (None, None), "fence"
                continue
            tasks, cancelled, more = expected
            self._are_handed_out(delivery.tasks, tasks)
            assert (delivery.cancelled, delivery.more) == (cancelled, more)
        return deliveries

    def _writes(self, held: Held, delivery: Delivery) -> None:
        """As the courier does it, once the reply is there."""
        held.cursor = delivery.cursor
        held.cancels = int(delivery.cancels)
        self.written |= {(held.agent.id, task.id) for task in delivery.tasks}

    @rule(
        number=AGENTS,
        back=st.sampled_from([0, 0, 0, 1]),
        phase=st.sampled_from(["claim", "grace"]),
        is_lost=st.booleans(),
    )
    def resumes(self, number: int, back: int, phase: str, is_lost: bool) -> None:
        held = self.session(number, back)
        if held is not None:
            self.do(self._resume(held, phase, is_lost=is_lost))

    async def _resume(self, held: Held, phase: str, *, is_lost: bool = False) -> None:
        after = self.lost_resumes.pop((held.owner, phase), None)
        again, after = after is not None, after or 0
        while True:
            ends, tasks, go_on = self.model.resume(held, phase, again=again, after=after)
            resumed = await self.core.mailbox.resume(
                held.agent.id, held.owner, held.claimed_at, phase=phase, again=again, after=after
            )
            assert [_owed_text(raw) for raw in resumed.owed] == [
                (e.task_id, e.status, e.text, e.message_id) for e in ends
            ]
            self._are_handed_out(resumed.tasks, tasks)
            assert resumed.go_on == go_on
            if is_lost:
                self.lost_resumes[held.owner, phase] = after
                return
            self.written |= {(held.agent.id, task.id) for task in resumed.tasks}
            if not go_on:
                return
            again, after = False, go_on

    def _are_handed_out(self, tasks: Sequence[Taken], expected: Sequence[Task]) -> None:
        assert [(task.id, task.seq, task.batch, task.json.decode()) for task in tasks] == [
            (task.id, task.seq, task.batch, task.contents) for task in expected
        ]

    # ---- ending

    @rule(words=st.lists(WORDS, min_size=1, max_size=3))
    def agents_tell(self, words: list[tuple[int, str, str, str, bool]]) -> None:
        """One batch of a node's lane, settled and appended in one step."""
        items = [self._item(*word) for word in words]
        expected = [self.model.tells(entry, item.kind) for entry, item in items]
        verdicts = self.do(self.core.told(*((item.kind, _as_result(entry)) for entry, item in items)))
        assert [0 if verdict == WRITTEN_BEFORE else min(verdict, 2) for verdict in verdicts] == expected

    @rule(words=st.lists(WORDS, min_size=1, max_size=3))
    def agents_say(self, words: list[tuple[int, str, str, str, bool]]) -> None:
        """One batch of a node's lane: settled, and to be appended."""
        items = [self._item(*word) for word in words]
        expected = [self.model.says(entry, item.kind) for entry, item in items]
        verdicts = self.do(self.core.mailbox.settle([item for _, item in items]))
        assert [min(verdict, 2) for verdict in verdicts] == expected
        for (entry, item), verdict in zip(items, verdicts, strict=True):
            if item.kind != "life" and verdict == APPEND:
                self.hands.append((entry, "append"))

    def _item(self, number: int, task_id: str, status: str, message: str, is_life: bool) -> tuple[Entry, Said]:
        agent_id = self.ids[number]
        message_id = message if message == "same" else f"{task_id}-{status}-{message}"
        entry = Entry(agent_id, task_id, status, message_id)
        if is_life:
            return entry, Said(agent_id, task_id, "life")
        return entry, said(_as_result(entry), "end" if entry.is_end else "progress")

    @precondition(lambda self: self.hands)
    @rule(place=st.integers(0, 9))
    def node_goes_on(self, place: int) -> None:
        self.do(self._go_on(place % len(self.hands)))

    async def _go_on(self, place: int) -> None:
        """One step with what was settled: appended, then paid. Whoever does not know that it was done does it again."""
        entry, step = self.hands.pop(place)
        if step == "append":
            self.model.append(entry)
            await self.core.feeds.append_results([_as_result(entry)])
            if entry.is_end:
                self.hands.insert(place, (entry, "pay"))
        else:
            self.model.paid(entry)
            await self.core.feeds.paid([_as_result(entry)])

    @precondition(lambda self: self.hands)
    @rule(place=st.integers(0, 9), is_repeated=st.booleans())
    def node_dies_or_tries_again(self, place: int, is_repeated: bool) -> None:
        entry, _ = self.hands.pop(place % len(self.hands))
        if is_repeated:
            self.hands.append((entry, "append"))

    @rule(number=AGENTS, task_id=st.sampled_from(TASKS))
    def cancels(self, number: int, task_id: str) -> None:
        agent = self.agent(number)
        expected = self.model.cancel(agent, task_id)
        (done,) = self.do(self.core.mailbox.cancel(agent.id, [task_id]))
        assert (done.outcome, done.status) == expected
        assert str(done.owner or "") == (agent.owner if done.outcome in ("kept", "unknown") else "")

    @rule(number=AGENTS, task_id=st.sampled_from(TASKS), is_old=st.booleans())
    def is_due(self, number: int, task_id: str, is_old: bool) -> None:
        task = self.agent(number).tasks.get(task_id)
        if task is not None and task.is_open:
            self.do(self._due(self.agent(number), task, is_old=is_old))

    async def _due(self, agent: Agent, task: Task, *, is_old: bool) -> None:
        if is_old and task.is_sent:
            task.is_old = True
            await self.core.redis.hset(
                self.core.keys.task(agent.id, task.id), "sent", self.core.store.now_ms() - OLD_MS
            )
        await self.core.redis.zadd(self.core.keys.in_shard(0, "due"), {f"{agent.id}:{task.id}": 1})
        expected = self.model.due(agent, task)
        owed = [_owed_text(raw) for raw in await self.core.mailbox.end_due(100)]
        assert owed == ([(task.id, expected.status, expected.text, expected.message_id)] if expected else [])

    @rule()
    def router_pays(self) -> None:
        self.do(self._pay())

    async def _pay(self) -> None:
        entries = list(self.model.owed.values())
        await self.core.pay_what_is_owed()
        self.model.offline += sorted(self.model.offline_owed)
        self.model.offline_owed.clear()
        for entry in entries:
            self.model.append(entry)
            self.model.paid(entry)

    # ---- faults of the store

    def is_quiet(self) -> bool:
        return not self.hands and not self.model.owed

    def is_agreed(self) -> bool:
        """No record has forgotten an end that only the feed remembers: nothing keeps a second one out once both have."""
        ends = self.model.seen_ends
        tasks = [(agent.id, task) for agent in self.model.agents.values() for task in agent.mail()]
        return self.is_quiet() and not any((agent_id, task.id) in ends for agent_id, task in tasks)

    @precondition(is_agreed)
    @rule()
    def feed_forgets_messages(self) -> None:
        names = [self.core.keys.of_feed(self.core.feeds.results.key, name) for name in ("seen:0", "seen:1")]
        self.do(self.core.redis.delete(*names))
        self.model.forgets_messages()

    @rule(number=AGENTS, task_id=st.sampled_from(TASKS))
    def fails_over(self, number: int, task_id: str) -> None:
        agent = self.agent(number)
        task = agent.tasks.get(task_id)
        is_fed = task is not None and not task.is_open and not task.is_owed and task.contents is not None
        if task is not None and is_fed and (agent.id, task_id) in self.model.seen_ends:
            self.do(self._fail_over(agent, task))

    async def _fail_over(self, agent: Agent, task: Task) -> None:
        self.model.failover(agent, task)
        record, keys = self.core.keys.task(agent.id, task.id), self.core.keys
        await self.core.redis.hdel(record, "by", "ended", "cancel")
        fields = {"state": "sent", "epoch": 0, "incarnation": agent.incarnation, "attempts": 1, "json": task.contents}
        came = {"work": UNSAID_WORK_S * 1000, "batch": "", "sent": self.core.store.now_ms()}
        await self.core.redis.hset(record, mapping={**fields, **came})
        await self.core.redis.persist(record)
        await self.core.redis.zadd(keys.of_agent("mail", agent.id), {task.id: task.seq})

    # ---- what always holds

    @invariant()
    def redis_holds_what_the_model_says(self) -> None:
        if hasattr(self, "model"):
            self._keeps_the_promises()
            self.do(self._compare())

    def _keeps_the_promises(self) -> None:
        ended: set[tuple[str, str]] = set()
        for entry in self.model.feed:
            task = (entry.agent_id, entry.task_id)
            assert task not in ended, "one end, and nothing after it"
            ended |= {task} if entry.is_end else set()
            assert "before delivery" not in entry.text or task not in self.written, "truth"

    async def _compare(self) -> None:
        keys, agents = self.core.keys, self.model.agents.values()
        records = [(agent, task) for agent in agents for task in agent.tasks.values()]
        pipe = self.core.redis.pipeline(transaction=False)
        pipe.hkeys(keys.in_shard(0, "unfed"))
        pipe.xrange(self.core.feeds.results.key)
        pipe.xlen(self.core.feeds.status.key)
        for agent in agents:
            pipe.zrange(keys.of_agent("mail", agent.id), 0, -1)
            pipe.zrange(keys.of_agent("cancels", agent.id), 0, -1)
        for agent, task in records:
            pipe.hmget(keys.task(agent.id, task.id), "state", "by", "attempts")
            pipe.pttl(keys.task(agent.id, task.id))
        owed, feed, offline, *rest = await pipe.execute()
        assert sorted(owed) == sorted(
            [f"r:{agent_id}:{task_id}" for agent_id, task_id in self.model.owed]
            + [f"s:{agent_id}:{epoch}" for agent_id, epoch in self.model.offline_owed]
        )
        found = [Entry(e["agent_id"], e["task_id"], e["status"], e["message_id"]) for _, e in feed]
        assert _by_task(found) == _by_task(self.model.feed), "what one call pays for several tasks has no order here"
        assert offline == len(self.model.offline)
        for agent, mail, cancels in zip(agents, rest[:4:2], rest[1:4:2], strict=True):
            assert mail == [task.id for task in agent.mail()]
            assert cancels == sorted(agent.cancels, key=agent.cancels.__getitem__)
        for (_, task), found, ttl_ms in zip(records, rest[4::2], rest[5::2], strict=True):
            assert found == [task.state, task.by or None, str(task.attempts) if task.attempts else None]
            assert (ttl_ms == -1) == (task.is_open or task.is_owed), "kept, and not for ever"

    async def _rest(self) -> None:
        """Everything comes to rest: what waits is delivered and answered, what is owed is paid."""
        while self.hands:
            await self._go_on(0)
        for agent in self.model.agents.values():
            claim = await self.core.claim(agent.id)
            held, _ = self.model.claim(agent, str(claim.owner), claim.owner.epoch)
            await self._deliver_all(held)
            for task in agent.mail():
                entry = Entry(agent.id, task.id, "success", f"last-{task.id}")
                self.model.says(entry, "end")
                assert await self.core.mailbox.settle([said(_as_result(entry))]) == [APPEND]
        await self._pay()
        await self._nothing_is_left()

    async def _deliver_all(self, held: Held) -> None:
        """As the courier does it: again while there is more."""
        for _ in range(len(TASKS) + 2):
            (delivery,) = await self._take([held])
            assert delivery is not None
            self._writes(held, delivery)
            if not delivery.more:
                return
        raise AssertionError("there is always more")

    async def _nothing_is_left(self) -> None:
        await self._compare()
        for agent in self.model.agents.values():
            ended = {entry.task_id for entry in self.model.feed if entry.is_end and entry.agent_id == agent.id}
            assert ended == set(agent.tasks)
        assert not await self.core.redis.exists(*(self.core.keys.in_shard(0, name) for name in ("due", "unfed")))


def _as_result(entry: Entry) -> Any:
    return a_result(entry.agent_id, entry.task_id, entry.status, message_id=entry.message_id)


def _by_task(feed: Sequence[Entry]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    told: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for entry in feed:
        told.setdefault((entry.agent_id, entry.task_id), []).append((entry.status, entry.message_id))
    return told


def _renewed(held: Held) -> int:
    """What a renewal says."""
    agent = held.agent
    if agent.owner != held.owner:
        return TAKEN_OVER if agent.owner else EXPIRED
    return (bool(agent.mail(after=agent.taken)) and HAS_MAIL) + (held.cancels != agent.cancel_count and HAS_CANCELS)


def _owed_text(raw: bytes) -> tuple[str, str, str, str]:
    entry = result_entry(raw)
    return entry.task_id, entry.status, entry.error_msg, entry.message_id


def test_a_mailbox_does_as_its_model(machines: Machines, run: Run, redis_server: RedisServer) -> None:
    machines.run("a mailbox", lambda: MailboxMachine(run, redis_server), short=45, long=800, steps=30)


# ---- what it found


@pytest.fixture
async def core(redis_server: RedisServer, redis_prefix: str) -> AsyncIterator[Core]:
    core = Core(redis_server.url, redis_prefix)
    await core.start()
    yield core
    await core.close()


async def test_what_runs_already_does_not_hide_what_waits_behind_it(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signs of life came for a whole take of tasks that were never sent: the next take looked at the same place, for ever."""
    monkeypatch.setattr(mailbox, "TAKE_TASKS", 2)
    holder = await core.connected()
    await core.post(holder.agent_id, "t1", "t2", "t3")
    for task_id in ("t1", "t2"):
        await core.settle(holder.agent_id, task_id, "life")
    assert await core.take(holder) == []
    assert await core.take(holder) == ["t3"]


async def test_a_message_id_that_is_used_twice_costs_no_task_its_end(core: Core) -> None:
    """The feed knew the message already, and left out the end of another task that came under its id."""
    holder = await core.connected()
    await core.post(holder.agent_id, "t1", "t2")
    for task_id in ("t1", "t2"):
        assert await core.result(holder.agent_id, task_id, message_id="same")
    assert await core.ends() == {"t1": ["success"], "t2": ["success"]}
