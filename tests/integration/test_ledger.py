"""The ledger: right at any moment of the work, and when a key is broken on purpose it names whose."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from cluster import ledger as ledger_module
from cluster import settings
from cluster.ledger import Books, Finding, Ledger, Report
from cluster.registry import Release
from tests.integration.conftest import MakeCore
from tests.integration.core import Core, Holder, a_result

FEED = "agent_results"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks again at once, and after a moment calls what is owed overdue."""
    monkeypatch.setattr(ledger_module, "LOOK_S", 0.02)
    monkeypatch.setattr(ledger_module, "OVERDUE_MS", 200)


async def check(core: Core, *, is_deep: bool = False) -> Report:
    return await Ledger(core.store, FEED).check(is_deep=is_deep)


async def books(core: Core) -> Books:
    return await Ledger(core.store).books()


@pytest.fixture
async def holder(core: Core) -> Holder:
    """An agent with two ended and three open tasks, of which one was sent."""
    holder = await core.connected()
    await core.post(holder.agent_id, "done-1", "done-2", "sent")
    await core.take(holder)
    for task_id in ("done-1", "done-2"):
        assert await core.result(holder.agent_id, task_id)
    await core.post(holder.agent_id, "waits-1", "waits-2")
    return holder


# ---- what adds up


async def test_an_empty_cluster_adds_up(core: Core) -> None:
    report = await check(core, is_deep=True)
    assert report == Report(Books(), [], 0, 0)
    assert report.is_right


async def test_work_adds_up(core: Core, holder: Holder) -> None:
    report = await check(core, is_deep=True)
    assert report.is_right, report
    assert report.books == Books(accepted=5, ended=2, open=3, owed=2, written=2)
    assert (report.task_looks, report.agent_looks) == (3 + 3 + 5, 3), (
        "due, mailbox and records; owners, deadlines, directory"
    )


Step = Callable[[Core, Holder], Awaitable[object]]


async def _expire(core: Core, holder: Holder) -> None:
    await core.redis.zadd(
        core.keys.in_shard(core.keys.shard(holder.agent_id), "due"), {f"{holder.agent_id}:waits-1": 1}
    )
    await core.mailbox.end_due(10)


async def _restart(core: Core, holder: Holder) -> None:
    await core.agent()
    again = await core.hold(holder.agent_id)
    await core.mailbox.resume(again.agent_id, again.owner, again.claimed_at, phase="claim")


ENDS: dict[str, tuple[Step, int, int]] = {  # what is done: how many tasks end, how many entries are owed
    "a result that is not written yet": (lambda core, h: core.settle(h.agent_id, "sent"), 1, 1),
    "the same result again": (lambda core, h: core.result(h.agent_id, "done-1"), 0, 0),
    "a result of no task": (lambda core, h: core.settle(h.agent_id, "never posted"), 0, 1),
    "a cancel before delivery": (lambda core, h: core.mailbox.cancel(h.agent_id, ["waits-1"]), 1, 1),
    "a cancel after delivery": (lambda core, h: core.mailbox.cancel(h.agent_id, ["sent"]), 0, 0),
    "a task that expires": (_expire, 1, 1),
    "an agent that was restarted": (_restart, 1, 1),
    "an agent that goes": (lambda core, h: core.release(h), 0, 1),
    "an agent that is forgotten": (lambda core, h: core.registry.revoke(h.agent_id), 3, 4),
}


@pytest.mark.parametrize("what", ENDS)
async def test_whatever_ends_is_counted_in_the_step_that_ends_it_and_paid_once(
    core: Core, holder: Holder, what: str
) -> None:
    step, ends, owes = ENDS[what]
    await step(core, holder)
    after = await books(core)
    assert (after.ended, after.open, after.owed, after.waiting) == (2 + ends, 3 - ends, 2 + owes, owes)
    assert after.is_right, after
    await core.pay_what_is_owed()
    paid = await books(core)
    assert (paid.written, paid.waiting, paid.is_right) == (2 + owes, 0, True)
    assert (await check(core, is_deep=True)).is_right


async def test_tasks_that_are_refused_or_known_are_not_counted(make_core: MakeCore) -> None:
    core = await make_core(tasks=settings.Tasks(max_open=2))
    agent_id = await core.agent()
    await core.post(agent_id, "1", "2")
    await core.post(agent_id, "1")
    with pytest.raises(AssertionError, match="2 open tasks"):
        await core.post(agent_id, "3")
    assert (await books(core)).accepted == 2


async def test_books_are_opened_on_what_is_there(core: Core, holder: Holder) -> None:
    """Of a cluster that was there before there were books."""
    for shard in range(core.keys.shards):
        await core.redis.delete(core.keys.in_shard(shard, "ledger"))
    assert await books(core) == Books(accepted=3, open=3)
    await core.result(holder.agent_id, "sent")
    assert await books(core) == Books(accepted=3, ended=1, open=2, owed=1, written=1)


# ---- what is broken on purpose: the check names the id

Break = Callable[[Core, Holder], Awaitable[object]]


def _of_shard(core: Core, holder: Holder, name: str) -> str:
    return core.keys.in_shard(core.keys.shard(holder.agent_id), name)


def _mail(core: Core, holder: Holder) -> str:
    return core.keys.of_agent("mail", holder.agent_id)


def _lease(core: Core, holder: Holder) -> str:
    return core.keys.of_agent("lease", holder.agent_id)


async def _lose_mail_and_due(core: Core, holder: Holder) -> None:
    await core.redis.zrem(_mail(core, holder), "waits-1")
    await core.redis.zrem(_of_shard(core, holder, "due"), f"{holder.agent_id}:waits-1")


async def _lose_owed(core: Core, holder: Holder) -> None:
    await core.settle(holder.agent_id, "sent")
    await core.redis.hdel(_of_shard(core, holder, "unfed"), f"r:{holder.agent_id}:sent")


async def _lose_entry(core: Core, holder: Holder) -> None:
    await core.settle(holder.agent_id, "sent")
    await core.feeds.paid([a_result(holder.agent_id, "sent")])


async def _never_pay(core: Core, holder: Holder) -> None:
    await core.settle(holder.agent_id, "sent")
    await asyncio.sleep(0.3)


async def _never_tell(core: Core, holder: Holder) -> None:
    await core.release(holder)
    await asyncio.sleep(0.3)


async def _lose_due(core: Core, holder: Holder) -> None:
    await core.redis.zrem(_of_shard(core, holder, "due"), f"{holder.agent_id}:waits-1")


BREAKS: dict[str, tuple[Break, str]] = {  # how it is broken: whose, behind it the task that must be named
    "in a mailbox, without a record": (
        lambda core, h: core.redis.delete(core.keys.task(h.agent_id, "waits-1")), "waits-1",
    ),
    "open, without a place in its mailbox": (lambda core, h: core.redis.zrem(_mail(core, h), "waits-1"), "waits-1"),
    "open, without a place in its mailbox ": (_lose_mail_and_due, "waits-1"),
    "open, without a time at which it must end": (_lose_due, "waits-1"),
    "ended, and its entry is neither written nor owed": (_lose_owed, "sent"),
    "ended, paid for, and not in the feed": (_lose_entry, "sent"),
    "ended, and its entry is owed for too long": (_never_pay, "sent"),
    "offline, and its entry is owed for too long": (_never_tell, ""),
    "due, without a task": (
        lambda core, h: core.redis.zadd(_of_shard(core, h, "due"), {f"{h.agent_id}:ghost": 9e12}), "ghost",
    ),
    "ended, and still in its mailbox": (lambda core, h: core.redis.zadd(_mail(core, h), {"done-1": 1}), "done-1"),
    "ended, and still due": (
        lambda core, h: core.redis.zadd(_of_shard(core, h, "due"), {f"{h.agent_id}:done-1": 9e12}), "done-1",
    ),
    "open, though its end is owed to the feed": (
        lambda core, h: core.redis.hset(_of_shard(core, h, "unfed"), f"r:{h.agent_id}:sent", "[]"), "sent",
    ),
    "owned, and its lease has run out": (lambda core, h: core.redis.delete(_lease(core, h)), ""),
    "owned, and its lease is another's": (lambda core, h: core.redis.set(_lease(core, h), "n9:boot:1", px=60_000), ""),
    "a lease without an owner": (lambda core, h: core.redis.hdel(_of_shard(core, h, "owners"), h.agent_id), ""),
    "owned, without a deadline": (lambda core, h: core.redis.zrem(_of_shard(core, h, "deadlines"), h.agent_id), ""),
}  # fmt: skip


@pytest.mark.parametrize("what", BREAKS)
async def test_what_is_out_of_step_is_named(core: Core, holder: Holder, what: str) -> None:
    other = await core.connected("token-2", "n2")
    await core.post(other.agent_id, "waits-1")
    harm, task_id = BREAKS[what]
    await harm(core, holder)
    report = await check(core, is_deep=what.startswith("ended, paid"))
    assert Finding(what.strip(), holder.agent_id, task_id) in report.findings, report
    assert {finding.agent_id for finding in report.findings} == {holder.agent_id}
    assert not report.is_right


async def test_what_left_no_trace_is_still_missed(core: Core, holder: Holder) -> None:
    """Nothing is left to be named, and the books say that a task is gone."""
    await _lose_mail_and_due(core, holder)
    await core.redis.delete(core.keys.task(holder.agent_id, "waits-1"))
    report = await check(core)
    assert not report.findings
    assert (report.books.tasks_off, report.books.entries_off, report.is_right) == (1, 0, False)


async def test_what_time_mends_is_not_said(core: Core, holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that died: its agent's lease has run out, and the reaper comes in a moment."""
    monkeypatch.setattr(ledger_module, "LOOK_S", 0.1)
    await core.redis.delete(_lease(core, holder))
    checking = asyncio.create_task(check(core))
    await asyncio.sleep(0.15)
    await core.registry.release([Release(holder.agent_id, holder.owner, "node_lost", 0, if_expired=True)])
    await core.pay_what_is_owed()
    assert (await checking).is_right


# ---- under load


@pytest.fixture
async def working(core: Core) -> AsyncIterator[asyncio.Event]:
    """Agents whose tasks are posted, taken, cancelled and ended without a pause, until the event is set."""
    is_over = asyncio.Event()

    async def work(number: int) -> None:
        chance, count = random.Random(number), 0
        holder = await core.connected(f"worker-{number}", f"n{number % 2}")
        while not is_over.is_set():
            ids = [f"{number}_{count + n}" for n in range(chance.randint(1, 5))]
            count += len(ids)
            await core.post(holder.agent_id, *ids)
            if chance.random() < 0.3:
                await core.mailbox.cancel(holder.agent_id, ids[:1])
            for task_id in await core.take(holder):
                await core.result(holder.agent_id, task_id, chance.choice(["success", "failed", "running"]))
            if chance.random() < 0.2:
                holder = await core.hold(holder.agent_id, f"n{chance.randint(0, 1)}")

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(work(number))
        await asyncio.sleep(0.1)
        yield is_over
        is_over.set()


async def test_at_any_moment_of_the_work_it_adds_up(
    core: Core, working: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "OVERDUE_MS", 60_000)  # nobody pays here what a cancel owes
    for _ in range(10):
        report = await check(core, is_deep=True)
        assert report.is_right, report
    assert report.books.accepted > 100
