"""The rules of delivery against a plain model of them: one agent, two nodes, and whatever may happen between them.

Hypothesis makes up the stories: nodes crash, replies are lost, the agent's process restarts, routers sweep, results come twice. After
each step the mailbox, the records, what is owed and the feed must be what the model says; at the end each task has one end.
"""

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from cluster import messages, settings
from cluster.errors import TaskConflict
from cluster.mailbox import APPEND, OPEN, UNKNOWN, Accepted
from cluster.registry import EXPIRED, HAS_CANCELS, HAS_MAIL, TAKEN_OVER, Release, Renewal
from tests.integration.core import Core, Holder, a_post, a_result, ids, said
from tests.support.redis_server import RedisServer

OPEN_STATES = ("pending", "sent", "running")
LONG_AGO_MS = 3 * 24 * 3600 * 1000
TASKS = [f"81_1_{host}_x" for host in range(4)]
MAX_ATTEMPTS = 2

task_ids = st.sampled_from(TASKS)
lost = st.booleans()


@dataclass
class Task:
    """What the model knows of a task. `seq` 0: it was never posted, the agent brought its result."""

    seq: int = 0
    command: str = ""
    answer: str = "dispatched"
    state: str = "pending"
    epoch: int = 0
    incarnation: int | None = None
    attempts: int = 0
    cancel: int = 0
    by: str = ""
    is_owed: bool = False

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES


@dataclass
class Session(Holder):
    """A node's view of the agent; `incarnation` is the agent's process that it was claimed for."""

    incarnation: int = 0


@dataclass
class Model:
    """The rules, without Redis."""

    tasks: dict[str, Task] = field(default_factory=dict)
    owner: Session | None = None
    incarnation: int = 1
    seq: int = 0
    taken: int = 0
    cancels: int = 0
    feed: list[tuple[str, str, str]] = field(default_factory=list)
    offline_owed: set[int] = field(default_factory=set)
    offline: list[int] = field(default_factory=list)

    def mail(self) -> list[str]:
        """What is open, in order."""
        posted = [(task.seq, task_id) for task_id, task in self.tasks.items() if task.is_open]
        return [task_id for _, task_id in sorted(posted)]

    def end(self, task_id: str, status: str, by: str) -> None:
        task = self.tasks.setdefault(task_id, Task())
        task.state, task.by, task.cancel, task.is_owed = status, by, 0, True

    def own_end(self, agent_id: str, task_id: str, status: str) -> None:
        self.end(task_id, status, f"end:{agent_id}:{task_id}")

    def append(self, task_id: str, status: str, message_id: str) -> None:
        has_ended = any(task == task_id and how in messages.ENDS for task, how, _ in self.feed)
        if not has_ended and message_id not in [found for *_, found in self.feed]:
            self.feed.append((task_id, status, message_id))

    def pay(self) -> None:
        for task_id, task in self.tasks.items():
            if task.is_owed:
                self.append(task_id, task.state, task.by)
                task.is_owed = False
        self.offline += sorted(self.offline_owed)
        self.offline_owed = set()


class Delivery(RuleBasedStateMachine):
    """Each rule asks Redis and the model, and compares."""

    url: str
    on_restart: str
    runner: asyncio.Runner
    numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        tasks = settings.Tasks(on_agent_restart=self.on_restart, max_attempts=MAX_ATTEMPTS)
        self.core = Core(
            self.url, f"rules-{next(self.numbers)}:", tasks=tasks,
            result_stream=settings.ResultStream(key=f"results-{next(self.numbers)}"),
            status_stream=settings.StatusStream(key=f"status-{next(self.numbers)}"),
        )  # fmt: skip
        self.model = Model()
        self.sessions: list[Session] = []
        self.said: list[tuple[str, str, str]] = []  # task, status, message id: what the agent may say again
        self.run(self.core.start())
        self.agent_id: str = self.run(self.core.agent())

    def run(self, asked: Any) -> Any:
        return self.runner.run(asked)

    def session(self, which: int) -> Session:
        return self.sessions[which % len(self.sessions)]

    def owns(self, session: Session) -> bool:
        return self.model.owner is session

    # ---- the control plane and the routers

    @rule(task_id=task_ids, command=st.sampled_from(["a", "a", "a", "b"]))
    def post(self, task_id: str, command: str) -> None:
        (outcome,) = self.run(self.core.mailbox.enqueue([a_post(self.agent_id, task_id, command=command)]))
        known = self.model.tasks.get(task_id)
        if known is not None and known.seq and known.command != command:
            assert isinstance(outcome, TaskConflict)
            return
        if known is None:
            self.model.seq += 1
            answer = "dispatched" if self.model.owner else "pending"
            self.model.tasks[task_id] = Task(self.model.seq, command, answer)
        owner = self.model.owner and self.model.owner.owner
        assert isinstance(outcome, Accepted)
        assert (outcome.status, outcome.new) == (self.model.tasks[task_id].answer, int(known is None))
        assert (str(outcome.owner) if outcome.owner else None) == owner

    @rule(task_id=task_ids)
    def cancel(self, task_id: str) -> None:
        (outcome,) = self.run(self.core.mailbox.cancel(self.agent_id, [task_id]))
        task = self.model.tasks.get(task_id)
        if task is None:
            assert outcome.outcome == "unknown"
        elif not task.is_open:
            assert (outcome.outcome, outcome.status) == ("ended", task.state)
        elif task.state == "pending":
            assert outcome.outcome == "dropped"
            self.model.own_end(self.agent_id, task_id, "cancelled")
        else:
            assert outcome.outcome == "kept"
            if not task.cancel:
                self.model.cancels += 1
                task.cancel = self.model.cancels

    @rule(task_id=task_ids)
    def its_time_has_come(self, task_id: str) -> None:
        self.run(self.make_overdue(task_id))
        owed = self.run(self.core.mailbox.end_due(10))
        task = self.model.tasks.get(task_id)
        assert len(owed) == int(task is not None and task.is_open)
        if owed:
            self.model.own_end(self.agent_id, task_id, "failed")

    async def make_overdue(self, task_id: str) -> None:
        shard = self.core.keys.shard(self.agent_id)
        record = self.core.keys.task(self.agent_id, task_id)
        if await self.core.redis.hexists(record, "sent"):
            await self.core.redis.hset(record, "sent", self.core.store.now_ms() - LONG_AGO_MS)
        await self.core.redis.zadd(self.core.keys.in_shard(shard, "due"), {f"{self.agent_id}:{task_id}": 1})

    @rule()
    def what_is_owed_is_paid(self) -> None:
        self.run(self.core.pay_what_is_owed())
        self.model.pay()

    @precondition(lambda self: self.model.owner is not None)
    @rule()
    def the_lease_runs_out(self) -> None:
        session = self.model.owner
        assert session is not None
        self.run(self.core.redis.delete(self.core.keys.of_agent("lease", self.agent_id)))
        self.ended(session, Release(self.agent_id, session.owner, "heartbeat_timeout", 60_000, if_expired=True))

    def ended(self, session: Session, release: Release) -> None:
        (owed,) = self.run(self.core.registry.release([release]))
        assert bool(owed) == self.owns(session)
        if owed:
            self.model.owner = None
            self.model.offline_owed.add(session.epoch)

    # ---- the agent

    @rule()
    def a_new_process_registers(self) -> None:
        self.run(self.core.agent())
        self.model.incarnation += 1

    @rule(node=st.sampled_from(["n1", "n2"]))
    def it_connects(self, node: str) -> None:
        claim = self.run(self.core.claim(self.agent_id, node))
        model = self.model
        session = Session(
            self.agent_id, str(claim.owner), claim.owner.epoch, claim.taken, claim.taken, claim.unended,
            incarnation=model.incarnation,
        )  # fmt: skip
        assert (str(claim.previous) if claim.previous else None) == (model.owner and model.owner.owner)
        assert not self.sessions or session.epoch > max(other.epoch for other in self.sessions)
        unended = [task for task in model.tasks.values() if task.is_open and task.seq <= model.taken]
        assert (claim.incarnation, claim.taken, claim.unended) == (model.incarnation, model.taken, len(unended))
        self.sessions.append(session)
        model.owner = session

    @rule(task_id=task_ids, status=st.sampled_from(["success", "failed", "cancelled"]), stop=st.integers(0, 3))
    def it_says_how_a_task_ended(self, task_id: str, status: str, stop: int) -> None:
        self.say(task_id, status, f"m{len(self.said)}", stop)

    @rule(task_id=task_ids, stop=st.integers(0, 3))
    def it_says_that_a_task_runs(self, task_id: str, stop: int) -> None:
        self.say(task_id, "running", f"m{len(self.said)}", stop)

    @precondition(lambda self: self.said)
    @rule(which=st.integers(0, 1000), stop=st.integers(0, 3))
    def it_says_something_again(self, which: int, stop: int) -> None:
        self.say(*self.said[which % len(self.said)], stop)

    def say(self, task_id: str, status: str, message_id: str, stop: int) -> None:
        """The node that hears it dies after settling (1) or after appending (2), or not at all."""
        self.said.append((task_id, status, message_id))
        entry = a_result(self.agent_id, task_id, status, message_id=message_id)
        (verdict,) = self.run(self.core.mailbox.settle([said(entry, "end" if entry.is_end else "progress")]))
        assert verdict == self.verdict(task_id, status, message_id)
        if verdict != APPEND or stop == 1:
            return
        self.run(self.core.feeds.append_results([entry]))
        self.model.append(task_id, status, message_id)
        if entry.is_end and stop != 2:
            self.run(self.core.feeds.paid([entry]))
            self.model.tasks[task_id].is_owed = False

    def verdict(self, task_id: str, status: str, message_id: str) -> int:
        task = self.model.tasks.get(task_id)
        if status not in messages.ENDS:
            if task is not None and task.is_open:
                task.state = "running"
            return int(task is None or task.is_open or task.is_owed)
        if task is None or task.is_open:
            self.model.end(task_id, status, message_id)
            return APPEND
        return int(task.by == message_id and task.is_owed)

    @rule(task_id=task_ids)
    def it_gives_a_sign_of_life(self, task_id: str) -> None:
        verdict = self.run(self.core.settle(self.agent_id, task_id, "life"))
        task = self.model.tasks.get(task_id)
        if task is None:
            assert verdict == UNKNOWN
        elif task.is_open:
            task.state = "running"
            assert verdict == OPEN
        else:
            assert verdict > 0

    # ---- the nodes

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, 1000), is_lost=lost)
    def a_session_takes(self, which: int, is_lost: bool) -> None:
        session = self.session(which)
        before = (session.cursor, session.cancels)
        delivery = self.run(self.core.deliver(session))
        if is_lost:
            session.cursor, session.cancels = before
        if not self.owns(session):
            assert delivery is None
            return
        tasks, cancelled = self.taken(session, *before)
        assert (ids(delivery.tasks), sorted(delivery.cancelled)) == (tasks, cancelled)
        assert (delivery.cancels, delivery.more) == (str(self.model.cancels), False)

    def taken(self, session: Session, cursor: int, cancels: str) -> tuple[list[str], list[str]]:
        """What the session is to be handed: tasks in order, and cancels."""
        model, out = self.model, []
        after = min(cursor, model.taken)
        for task_id in model.mail():
            task = model.tasks[task_id]
            if task.seq <= after:
                continue
            if task.state == "pending":
                task.state, task.epoch, task.incarnation, task.attempts = "sent", session.epoch, session.incarnation, 1
                out.append(task_id)
            elif task.state == "sent" and task.epoch == session.epoch:
                out.append(task_id)
            model.taken = max(model.taken, task.seq)
        wished = [task_id for task_id, task in model.tasks.items() if task.cancel > int(cancels)]
        return out, sorted(wished)

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, 1000), phase=st.sampled_from(["claim", "grace"]), again=st.booleans())
    def a_session_resumes(self, which: int, phase: str, again: bool) -> None:
        session = self.session(which)
        resumed = self.run(
            self.core.mailbox.resume(self.agent_id, session.owner, session.claimed_at, phase=phase, again=again)
        )
        tasks, ends = self.resumed(session, phase, again) if self.owns(session) else ([], 0)
        assert (ids(resumed.tasks), len(resumed.owed), resumed.go_on) == (tasks, ends, 0)

    def resumed(self, session: Session, phase: str, again: bool) -> tuple[list[str], int]:
        """The tasks that go once more, and how many end."""
        out, ends = [], 0
        for task_id in self.model.mail():
            task = self.model.tasks[task_id]
            if task.seq > session.claimed_at:
                continue
            is_other = task.epoch != session.epoch
            restarted = task.incarnation is not None and task.incarnation != session.incarnation
            due = is_other and (restarted if phase == "claim" else not restarted and task.state == "sent")
            if due and (task.cancel or (restarted and self.on_restart == "fail")):
                self.model.own_end(self.agent_id, task_id, "cancelled" if task.cancel else "failed")
                ends += 1
            elif due and task.attempts < MAX_ATTEMPTS:
                task.state, task.epoch, task.incarnation = "sent", session.epoch, session.incarnation
                task.attempts += 1
                out.append(task_id)
            elif again and task.state == "sent" and not is_other:
                out.append(task_id)
        return out, ends

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, 1000))
    def a_session_renews(self, which: int) -> None:
        session = self.session(which)
        (outcome,) = self.run(self.core.registry.renew([Renewal(self.agent_id, session.owner, 0, session.cancels)]))
        if self.owns(session):
            has_mail = any(task.is_open and task.seq > self.model.taken for task in self.model.tasks.values())
            assert outcome == has_mail * HAS_MAIL + (session.cancels != str(self.model.cancels)) * HAS_CANCELS
        else:
            assert outcome == (TAKEN_OVER if self.model.owner else EXPIRED)

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, 1000))
    def a_socket_closes(self, which: int) -> None:
        session = self.session(which)
        self.ended(session, Release(self.agent_id, session.owner, "websocket_closed", 0))

    # ---- what must be so after each step

    @invariant()
    def redis_holds_what_the_model_says(self) -> None:
        self.run(self.compare())

    async def compare(self) -> None:
        model, core, agent_id = self.model, self.core, self.agent_id
        shard = core.keys.shard(agent_id)
        pipe = core.redis.pipeline(transaction=False)
        pipe.zrange(core.keys.of_agent("mail", agent_id), 0, -1)
        pipe.hkeys(core.keys.in_shard(shard, "unfed"))
        pipe.hget(core.keys.in_shard(shard, "owners"), agent_id)
        pipe.xlen(core.feeds.status.key)
        pipe.xrange(core.feeds.results.key)
        for task_id in model.tasks:
            pipe.hmget(core.keys.task(agent_id, task_id), "state", "by", "attempts")
            pipe.pttl(core.keys.task(agent_id, task_id))
        mail, owed, owner, offline, results, *records = await pipe.execute()
        assert mail == model.mail()
        assert sorted(owed) == sorted(
            [f"r:{agent_id}:{task_id}" for task_id, task in model.tasks.items() if task.is_owed]
            + [f"s:{agent_id}:{epoch}" for epoch in model.offline_owed]
        )
        assert (owner, offline) == (model.owner and model.owner.owner, len(model.offline))
        for task, (state, by, attempts), ttl_ms in zip(model.tasks.values(), records[::2], records[1::2], strict=True):
            assert (state, by or "", int(attempts or 0)) == (task.state, task.by, task.attempts)
            assert (ttl_ms == -1) == (task.is_open or task.is_owed)
        self.compare_feed([(entry["task_id"], entry["status"], entry["message_id"]) for _, entry in results])

    def compare_feed(self, found: list[tuple[str, str, str]]) -> None:
        assert sorted(found) == sorted(self.model.feed)
        for task_id in TASKS:
            told = [status for task, status, _ in found if task == task_id]
            assert not [status for status in told[:-1] if status in messages.ENDS], "something stands after an end"

    def teardown(self) -> None:
        """Whatever happened: in the end each task that was accepted has one end."""
        try:
            for task_id in TASKS:
                self.its_time_has_come(task_id)
            self.what_is_owed_is_paid()
            self.run(self.compare())
            ends = [task for task, status, _ in self.model.feed if status in messages.ENDS]
            assert sorted(ends) == sorted(self.model.tasks)
        finally:
            self.run(self.core.close())


@pytest.mark.parametrize("on_restart", ["fail", "redeliver"])
def test_redis_delivers_by_the_rules(redis_server: RedisServer, on_restart: str, is_long: bool) -> None:
    length = hypothesis.settings(
        max_examples=200 if is_long else 12, stateful_step_count=60 if is_long else 40, deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    with asyncio.Runner() as runner:
        values = {"url": redis_server.url, "on_restart": on_restart, "runner": runner}
        run_state_machine_as_test(type("DeliveryOn", (Delivery,), values), settings=length)
