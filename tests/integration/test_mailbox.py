"""The rules of delivery on a real Redis: what is accepted is handed out in order, marked first, and ends once.

A node that crashes here is one whose take nobody answers; a Redis that loses its last second is one whose keys are put back by hand.
"""

import json
from typing import Any

import pytest
from redis.exceptions import ResponseError

from cluster import mailbox, settings
from cluster.errors import MailboxFull, TaskConflict, UnknownAgent
from cluster.keys import RECORD_MS
from cluster.ledger import Ledger
from cluster.mailbox import (
    APPEND,
    APPEND_ALONE,
    OPEN,
    TAKE_BYTES,
    TAKE_TASKS,
    UNKNOWN,
    UNSAID_WORK_S,
    Cancelled,
    Delivery,
    Post,
    Resumed,
    Said,
    Take,
)
from cluster.messages import NewTask
from cluster.registry import Owner
from tests.integration.conftest import MakeCore
from tests.integration.core import Core, Holder, a_post, a_result, ids, said, state_of, together

TTL_MS = 24 * 3600 * 1000
GRACE_MS = 600 * 1000
REDELIVER = settings.Tasks(on_agent_restart="redeliver", max_attempts=3)


async def due_in_ms(core: Core, agent_id: str, task_id: str) -> float | None:
    """When the task must have ended, from now; None when nothing is due."""
    score = await core.redis.zscore(core.keys.in_shard(core.keys.shard(agent_id), "due"), f"{agent_id}:{task_id}")
    return None if score is None else score - core.store.now_ms()


async def make_due(core: Core, agent_id: str, task_id: str) -> None:
    """The sweep looks at this task now."""
    await core.redis.zadd(core.keys.in_shard(core.keys.shard(agent_id), "due"), {f"{agent_id}:{task_id}": 1})


async def sent_ago(core: Core, agent_id: str, task_id: str, ago_s: float) -> None:
    """The task was sent that long ago, and the sweep looks at it."""
    sent_ms = core.store.now_ms() - int(ago_s * 1000)
    await core.redis.hset(core.keys.task(agent_id, task_id), "sent", sent_ms)
    await make_due(core, agent_id, task_id)


async def last_heard_ago(core: Core, holder: Holder, ago_s: float) -> None:
    """The agent is offline, and was heard that long ago."""
    await core.release(holder, age_ms=int(ago_s * 1000))


async def ttl_ms(core: Core, agent_id: str, task_id: str) -> int:
    return int(await core.redis.pttl(core.keys.task(agent_id, task_id)))


def entries(owed: list[bytes]) -> list[tuple[str, ...]]:
    """(task, status, exit code, message, error code) of results that are owed."""
    return [tuple(json.loads(raw)[1:6]) for raw in owed]


async def resume(core: Core, holder: Holder, phase: str, **more: Any) -> Resumed:
    return await core.mailbox.resume(holder.agent_id, holder.owner, holder.claimed_at, phase=phase, **more)


async def restarted(core: Core, agent_id: str, node: str = "n2") -> Holder:
    """The agent's process died; a new one registers and connects."""
    await core.agent()
    return await core.hold(agent_id, node)


# ---- accepting ----


async def test_a_task_is_pending_for_an_agent_that_is_away_and_dispatched_for_one_that_is_online(core: Core) -> None:
    agent_id = await core.agent()
    away = await core.post(agent_id, "t1")
    holder = await core.hold(agent_id)
    online = await core.post(agent_id, "t2")
    assert (away.status, away.owner, away.new) == ("pending", None, 1)
    assert (online.status, str(online.owner), online.new) == ("dispatched", holder.owner, 1)
    assert await core.mail(agent_id) == ["t1", "t2"]


async def test_the_same_task_again_changes_nothing_and_is_answered_as_the_first_time(core: Core) -> None:
    agent_id = await core.agent()
    first = await core.post(agent_id, "t1")
    before = await core.record(agent_id, "t1")
    await core.hold(agent_id)
    again = await core.post(agent_id, "t1")
    assert (again.status, again.new) == (first.status, 0)
    assert await core.record(agent_id, "t1") == before
    assert await core.mail(agent_id) == ["t1"]


@pytest.mark.parametrize("state", ["sent", "running", "success", "fed"])
async def test_the_same_task_again_is_answered_as_the_first_time_whatever_became_of_it(core: Core, state: str) -> None:
    holder = await core.connected()
    await core.post(holder.agent_id, "t1")
    await core.take(holder)
    if state == "running":
        await core.settle(holder.agent_id, "t1", "life")
    elif state == "success":
        await core.settle(holder.agent_id, "t1")
    elif state == "fed":
        await core.result(holder.agent_id, "t1")
    await core.release(holder)
    again = await core.post(holder.agent_id, "t1")
    assert (again.status, again.new) == ("dispatched", 0)
    assert await core.take(await core.hold(holder.agent_id)) == []


@pytest.mark.parametrize("has_ended", [False, True])
async def test_the_same_id_with_other_bytes_is_a_conflict_and_changes_nothing(core: Core, has_ended: bool) -> None:
    agent_id = await core.agent()
    await core.post(agent_id, "t1", command="a")
    if has_ended:
        await core.result(agent_id, "t1")
    before = await core.record(agent_id, "t1")
    (outcome,) = await core.mailbox.enqueue([a_post(agent_id, "t1", command="b")])
    assert isinstance(outcome, TaskConflict)
    assert await core.record(agent_id, "t1") == before


async def test_the_same_id_is_another_task_for_another_agent(core: Core) -> None:
    one, other = await core.agent("token-1"), await core.agent("token-2")
    assert (await core.post(one, "t1", command="a")).new == 1
    assert (await core.post(other, "t1", command="b")).new == 1


async def test_a_batch_is_taken_whole_or_not_at_all(core: Core) -> None:
    agent_id = await core.agent()
    await core.post(agent_id, "t2", command="other bytes")
    (outcome,) = await core.mailbox.enqueue([a_post(agent_id, "t1", "t2", "t3", batch="b1")])
    assert isinstance(outcome, TaskConflict)
    assert "t2" in str(outcome)
    assert await core.mail(agent_id) == ["t2"]
    assert await core.record(agent_id, "t1") == {}


async def test_a_repeated_batch_takes_only_what_is_new(core: Core) -> None:
    agent_id = await core.agent()
    await core.post(agent_id, "t1", "t2", batch="b1")
    assert (await core.post(agent_id, "t1", "t2", "t3", batch="b2")).new == 1
    assert await core.mail(agent_id) == ["t1", "t2", "t3"]


async def test_a_full_mailbox_takes_nothing_new_and_still_answers_for_what_it_holds(make_core: MakeCore) -> None:
    core = await make_core(tasks=settings.Tasks(max_open=3))
    holder = await core.connected()
    agent_id = holder.agent_id
    await core.post(agent_id, "t1", "t2")
    (outcome,) = await core.mailbox.enqueue([a_post(agent_id, "t3", "t4", batch="b1")])
    assert isinstance(outcome, MailboxFull)
    assert await core.mail(agent_id) == ["t1", "t2"]
    assert await core.mailbox.has_room(agent_id)
    await core.post(agent_id, "t3")
    assert (await core.post(agent_id, "t1")).new == 0
    assert not await core.mailbox.has_room(agent_id)
    await core.take(holder)
    assert isinstance((await core.mailbox.enqueue([a_post(agent_id, "t4")]))[0], MailboxFull)
    await core.result(agent_id, "t1")
    assert (await core.post(agent_id, "t4")).new == 1


async def test_a_mailbox_that_holds_more_than_it_now_may_still_answers_for_it(make_core: MakeCore) -> None:
    before = await make_core(tasks=settings.Tasks(max_open=3))
    agent_id = await before.agent()
    await before.post(agent_id, "t1", "t2", "t3")
    after = await make_core(tasks=settings.Tasks(max_open=1))
    assert (await after.post(agent_id, "t1")).new == 0


async def test_an_agent_that_is_not_known_gets_no_task_and_leaves_nothing_behind(core: Core) -> None:
    before = await core.redis.keys("*")
    (outcome,) = await core.mailbox.enqueue([a_post("nobody", "t1")])
    assert isinstance(outcome, UnknownAgent)
    assert await core.redis.keys("*") == before


async def test_posts_of_many_agents_are_answered_each_for_itself_in_their_order(core: Core) -> None:
    agents = [await core.agent(f"token-{n}") for n in range(6)]
    await core.post(agents[1], "t1", command="other bytes")
    posts = [a_post(agent_id, "t1") for agent_id in (*agents, "nobody")]
    outcomes = await core.mailbox.enqueue(posts)
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "Accepted", "TaskConflict", "Accepted", "Accepted", "Accepted", "Accepted", "UnknownAgent",
    ]  # fmt: skip


async def test_of_the_same_task_posted_at_once_everywhere_one_is_new(make_core: MakeCore) -> None:
    routers = [await make_core() for _ in range(3)]
    agent_id = await routers[0].agent()
    accepted = await together(*(router.post(agent_id, "t1") for router in routers for _ in range(10)))
    assert sum(outcome.new for outcome in accepted) == 1
    assert await routers[0].mail(agent_id) == ["t1"]


async def test_a_task_keeps_its_bytes(core: Core) -> None:
    text = (
        '{ "id":"t1", "command":"caf\\u00e9 \u00e9\\n\\u0000",\n "env": {}, "args": [], "x": 12345678901234567890.50 }'
    )
    holder = await core.connected()
    tasks = NewTask("t1", text, 0)
    await core.mailbox.enqueue([Post(holder.agent_id, "", [tasks])])
    delivery = await core.deliver(holder)
    assert delivery is not None
    assert delivery.tasks[0].json == text.encode()


@pytest.mark.parametrize(
    "task_id", ["a:b", "{s9}", "t'1", 'quote"back\\', "ü 任務", "*", "x" * 200, "-1", "0", "end:a:b"]
)
async def test_any_task_id_lives_its_whole_life(core: Core, task_id: str) -> None:
    holder = await core.connected()
    await core.post(holder.agent_id, task_id)
    assert await core.take(holder) == [task_id]
    (cancelled,) = await core.mailbox.cancel(holder.agent_id, [task_id])
    assert cancelled.outcome == "kept"
    await make_due(core, holder.agent_id, task_id)
    assert await core.mailbox.end_due(10) == []
    assert await core.result(holder.agent_id, task_id)
    assert await core.ends() == {task_id: ["success"]}
    assert await state_of(core.mailbox, holder.agent_id, task_id) == "success"


# ---- taking ----


async def test_what_was_never_sent_is_handed_out_in_mailbox_order_once(core: Core) -> None:
    holder = await core.connected()
    for task_id in ("t3", "t1", "t2"):
        await core.post(holder.agent_id, task_id)
    assert await core.take(holder) == ["t3", "t1", "t2"]
    assert await core.take(holder) == []
    await core.post(holder.agent_id, "t0")
    assert await core.take(holder) == ["t0"]


async def test_a_task_is_marked_before_it_is_handed_out(core: Core) -> None:
    holder = await core.connected()
    await core.post(holder.agent_id, "t1")
    await core.take(holder)
    record = await core.record(holder.agent_id, "t1")
    assert (record["state"], record["epoch"], record["attempts"], record["incarnation"]) == (
        "sent", str(holder.epoch), "1", "1",
    )  # fmt: skip
    assert abs(int(record["sent"]) - core.store.now_ms()) < 5000


async def test_a_take_whose_reply_was_lost_hands_out_the_same_again(core: Core) -> None:
    holder = await core.connected()
    await core.post(holder.agent_id, "t1", "t2", batch="b1")
    ask = Take(holder.agent_id, holder.owner, holder.cursor, "0")
    first = await core.mailbox.take([ask])
    await core.post(holder.agent_id, "t3")
    (again,) = await core.mailbox.take([ask])
    assert first[0] is not None
    assert again is not None
    assert (ids(first[0].tasks), ids(again.tasks)) == (["t1", "t2"], ["t1", "t2", "t3"])
    assert [await core.record(holder.agent_id, t) for t in ("t1", "t2")] == [
        {**await core.record(holder.agent_id, t), "attempts": "1"} for t in ("t1", "t2")
    ]


async def test_what_showed_a_sign_of_life_is_not_handed_out_again(core: Core) -> None:
    holder = await core.connected()
    await core.post(holder.agent_id, "t1", "t2", "t3")
    ask = Take(holder.agent_id, holder.owner, 0, "0")
    await core.mailbox.take([ask])
    await core.settle(holder.agent_id, "t1", "life")
    await core.result(holder.agent_id, "t2")
    (again,) = await core.mailbox.take([ask])
    assert again is not None
    assert ids(again.tasks) == ["t3"]


async def test_what_an_earlier_claim_was_handed_is_not_handed_out_by_take(core: Core) -> None:
    first = await core.connected()
    await core.post(first.agent_id, "t1")
    await core.take(first)
    await core.post(first.agent_id, "t2")
    assert await core.take(await core.hold(first.agent_id, "n2")) == ["t2"]


async def test_after_redis_lost_its_last_second_what_it_forgot_is_handed_out_again_and_nothing_is_left_out(
    core: Core,
) -> None:
    holder = await core.connected()
    agent_id = holder.agent_id
    await core.post(agent_id, "t1")
    await core.take(holder)
    agent_key = core.keys.of_agent("agent", agent_id)
    forgotten = await core.redis.hgetall(agent_key)
    await core.post(agent_id, "t2")
    await core.take(holder)
    assert holder.cursor == 2
    # Redis comes back as it was before t2: its task, its place in the mailbox and the cursor are gone
    await core.redis.delete(core.keys.task(agent_id, "t2"))
    await core.redis.zrem(core.keys.of_agent("mail", agent_id), "t2")
    await core.redis.hset(agent_key, mapping={"seq": forgotten["seq"], "taken": forgotten["taken"]})
    await core.post(agent_id, "t3")
    assert await core.take(holder) == ["t3"]
    await core.post(agent_id, "t4")
    assert await core.take(holder) == ["t4"]


async def test_a_lost_mark_is_made_again(core: Core) -> None:
    """The task is sent twice to the same process, which ignores the second one; better than never."""
    holder = await core.connected()
    agent_id = holder.agent_id
    await core.post(agent_id, "t1")
    record = await core.record(agent_id, "t1")
    await core.take(holder)
    await core.redis.delete(core.keys.task(agent_id, "t1"))
    await core.redis.hset(core.keys.task(agent_id, "t1"), mapping=record)
    await core.redis.hset(core.keys.of_agent("agent", agent_id), "taken", 0)
    assert await core.take(holder) == ["t1"]


async def test_a_take_is_bounded_by_tasks(core: Core) -> None:
    holder = await core.connected()
    names = [f"t{n:04}" for n in range(TAKE_TASKS + 10)]
    for start in range(0, len(names), 100):
        await core.mailbox.enqueue([a_post(holder.agent_id, name) for name in names[start : start + 100]])
    first = await core.deliver(holder)
    second = await core.deliver(holder)
    assert first is not None
    assert second is not None
    assert (len(first.tasks), first.more, len(second.tasks), second.more) == (TAKE_TASKS, True, 10, False)
    assert ids(first.tasks) + ids(second.tasks) == names


async def test_a_take_is_bounded_by_bytes_but_for_its_last_task(core: Core) -> None:
    holder = await core.connected()
    half = "x" * (TAKE_BYTES // 2)
    for n in range(5):
        await core.post(holder.agent_id, f"t{n}", command=half)
    deliveries = [await core.deliver(holder) for _ in range(3)]
    assert [[ids(d.tasks), d.more] for d in deliveries if d] == [
        [["t0", "t1"], True],
        [["t2", "t3"], True],
        [["t4"], False],
    ]


async def test_a_slice_that_is_taken_again_does_not_set_the_mailbox_back(core: Core) -> None:
    """Or the next claim would take what was sent for what was not."""
    holder = await core.connected()
    for n in range(3):
        await core.post(holder.agent_id, f"t{n}", command="x" * (TAKE_BYTES // 2))
    while await core.take(holder):
        pass
    (again,) = await core.mailbox.take([Take(holder.agent_id, holder.owner, 0, "0")])
    assert again is not None
    assert ids(again.tasks) == ["t0", "t1"]
    claim = await core.claim(holder.agent_id, "n2")
    assert (claim.taken, claim.unended) == (3, 3)


async def test_a_batch_is_handed_out_in_one_piece_however_large(core: Core) -> None:
    holder = await core.connected()
    await core.post(holder.agent_id, *(f"t{n}" for n in range(4)), batch="b1", command="x" * (TAKE_BYTES // 2))
    await core.post(holder.agent_id, "t9")
    delivery = await core.deliver(holder)
    assert delivery is not None
    assert [(task.id, task.batch) for task in delivery.tasks] == [(f"t{n}", "b1") for n in range(4)]
    assert delivery.more
    assert await core.take(holder) == ["t9"]


async def test_a_batch_of_more_tasks_than_a_take_has_is_handed_out_in_one_piece(core: Core) -> None:
    """One frame for one batch call, as the Go server does."""
    holder = await core.connected()
    await core.post(holder.agent_id, "t0")
    names = [f"b{n:04}" for n in range(TAKE_TASKS + 10)]
    await core.post(holder.agent_id, *names, batch="b1")
    first = await core.deliver(holder)
    assert first is not None
    in_first = [task.id for task in first.tasks if task.batch]
    second = await core.take(holder) if first.more else []
    assert (in_first, second) in ((names, []), ([], names))


async def test_takes_of_many_agents_are_answered_in_their_order(core: Core) -> None:
    holders = [await core.connected(f"token-{n}") for n in range(8)]
    for n, holder in enumerate(holders):
        await core.post(holder.agent_id, f"t{n}")
    await core.hold(holders[3].agent_id, "n2")
    deliveries = await core.mailbox.take([Take(h.agent_id, h.owner, 0, "0") for h in holders])
    assert [d and ids(d.tasks) for d in deliveries] == [[f"t{n}"] if n != 3 else None for n in range(8)]


async def test_many_agents_with_much_mail_get_all_of_it_slice_by_slice(core: Core) -> None:
    holders = [await core.connected(f"token-{n}") for n in range(6)]
    for holder in holders:
        for n in range(4):
            await core.post(holder.agent_id, f"t{n}", command="x" * (TAKE_BYTES // 3))
    got: dict[str, list[str]] = {holder.agent_id: [] for holder in holders}
    waiting = holders
    for _ in range(50):
        asked = [Take(h.agent_id, h.owner, h.cursor, h.cancels) for h in waiting]
        left = []
        for holder, delivery in zip(waiting, await core.mailbox.take(asked), strict=True):
            assert delivery is not None
            got[holder.agent_id] += ids(delivery.tasks)
            holder.cursor = max([holder.cursor, *(task.seq for task in delivery.tasks)])
            left += [holder] if delivery.more else []
        waiting = left
        if not waiting:
            break
    assert list(got.values()) == [[f"t{n}" for n in range(4)]] * 6


async def test_a_session_that_lost_its_agent_is_handed_nothing_and_marks_nothing(core: Core) -> None:
    old = await core.connected()
    await core.hold(old.agent_id, "n2")
    await core.post(old.agent_id, "t1")
    before = await core.record(old.agent_id, "t1")
    assert await core.deliver(old) is None
    await core.release(await core.hold(old.agent_id, "n3"))
    assert await core.deliver(old) is None
    assert await core.record(old.agent_id, "t1") == before


# ---- resuming ----


async def handed(core: Core, *task_ids: str) -> Holder:
    """An agent whose first session was handed these tasks."""
    holder = await core.connected()
    await core.post(holder.agent_id, *task_ids)
    assert await core.take(holder) == list(task_ids)
    return holder


async def test_a_task_sent_to_an_earlier_process_of_the_agent_fails(core: Core) -> None:
    first = await handed(core, "t1", "t2")
    await core.settle(first.agent_id, "t2", "life")
    second = await restarted(core, first.agent_id)
    assert second.unended == 2
    resumed = await resume(core, second, "claim")
    assert entries(resumed.owed) == [
        (task_id, "failed", "-1", "agent restarted, the task may have run", "2001") for task_id in ("t1", "t2")
    ]
    assert (resumed.tasks, await core.mail(first.agent_id)) == ([], [])
    await core.feeds.pay_results(resumed.owed)
    assert await core.ends() == {"t1": ["failed"], "t2": ["failed"]}
    assert not await core.result(first.agent_id, "t1")


async def test_what_a_restarted_agents_outbox_brings_first_is_how_its_task_ended(core: Core) -> None:
    first = await handed(core, "t1")
    second = await restarted(core, first.agent_id)
    assert await core.result(first.agent_id, "t1")
    assert await resume(core, second, "claim") == Resumed([], [], 0)
    assert await core.ends() == {"t1": ["success"]}


async def test_a_task_that_was_never_sent_does_not_fail_with_a_restart(core: Core) -> None:
    holder = await handed(core, "t1")
    await core.post(holder.agent_id, "t2")
    second = await restarted(core, holder.agent_id)
    assert len((await resume(core, second, "claim")).owed) == 1
    assert await core.take(second) == ["t2"]


async def test_a_task_that_the_new_process_was_sent_does_not_fail(core: Core) -> None:
    first = await handed(core, "t1")
    await core.post(first.agent_id, "t2")
    second = await restarted(core, first.agent_id)
    assert await core.take(second) == ["t2"]
    assert [entry[0] for entry in entries((await resume(core, second, "claim")).owed)] == ["t1"]


async def test_a_task_that_went_out_between_the_registration_and_the_claim_went_to_the_old_process(core: Core) -> None:
    first = await core.connected()
    await core.post(first.agent_id, "t1")
    await core.agent()  # the new process registers while the old socket is still open
    await core.take(first)
    second = await core.hold(first.agent_id, "n2")
    resumed = await resume(core, second, "claim")
    assert [entry[0] for entry in entries(resumed.owed)] == ["t1"]


async def test_with_redeliver_a_task_goes_again_to_the_new_process(make_core: MakeCore) -> None:
    core = await make_core(tasks=REDELIVER)
    first = await handed(core, "t1", "t2", "t3")
    await core.settle(first.agent_id, "t2", "life")
    await core.result(first.agent_id, "t3")
    second = await restarted(core, first.agent_id)
    resumed = await resume(core, second, "claim")
    assert (ids(resumed.tasks), resumed.owed) == (["t1", "t2"], [])
    record = await core.record(first.agent_id, "t2")
    assert (record["state"], record["epoch"], record["incarnation"], record["attempts"]) == (
        "sent", str(second.epoch), "2", "2",
    )  # fmt: skip
    assert await resume(core, second, "claim") == Resumed([], [], 0)
    assert await resume(core, second, "grace") == Resumed([], [], 0)


async def test_after_a_reconnect_of_the_same_process_nothing_fails_and_what_lives_is_left_alone(core: Core) -> None:
    first = await handed(core, "t1", "t2")
    await core.settle(first.agent_id, "t1", "life")
    second = await core.hold(first.agent_id, "n2")
    assert await resume(core, second, "claim") == Resumed([], [], 0)
    resumed = await resume(core, second, "grace")
    assert (ids(resumed.tasks), resumed.owed) == (["t2"], [])


async def test_a_sign_of_life_within_the_grace_prevents_redelivery(core: Core) -> None:
    first = await handed(core, "t1", "t2", "t3")
    second = await core.hold(first.agent_id, "n2")
    await core.settle(first.agent_id, "t1", "life")
    await core.result(first.agent_id, "t2", "running")
    await core.result(first.agent_id, "t3", "success")
    assert await resume(core, second, "grace") == Resumed([], [], 0)


async def test_a_redelivered_task_is_marked_under_the_new_claim_and_goes_once(core: Core) -> None:
    first = await handed(core, "t1")
    second = await core.hold(first.agent_id, "n2")
    (task,) = (await resume(core, second, "grace")).tasks
    record = await core.record(first.agent_id, "t1")
    assert (record["epoch"], record["attempts"]) == (str(second.epoch), "2")
    assert task.json == b'{"id": "t1"}'
    assert await resume(core, second, "grace") == Resumed([], [], 0)


@pytest.mark.parametrize("phase", ["claim", "grace"])
async def test_a_redelivery_whose_reply_was_lost_is_handed_out_again(make_core: MakeCore, phase: str) -> None:
    core = await make_core(tasks=REDELIVER)
    first = await handed(core, "t1", "t2")
    second = await (restarted(core, first.agent_id) if phase == "claim" else core.hold(first.agent_id, "n2"))
    assert ids((await resume(core, second, phase)).tasks) == ["t1", "t2"]
    await core.settle(first.agent_id, "t1", "life")
    assert ids((await resume(core, second, phase, again=True)).tasks) == ["t2"]
    assert (await core.record(first.agent_id, "t2"))["attempts"] == "2"


async def test_what_was_handed_out_by_take_is_not_handed_out_by_resume(core: Core) -> None:
    first = await handed(core, "t1")
    second = await core.hold(first.agent_id, "n2")
    await core.post(first.agent_id, "t2")
    await core.take(second)
    for again in (False, True):
        assert "t2" not in ids((await resume(core, second, "grace", again=again)).tasks)


@pytest.mark.parametrize("phase", ["claim", "grace"])
async def test_running_out_of_attempts_stops_redelivery_and_ends_nothing(make_core: MakeCore, phase: str) -> None:
    core = await make_core(tasks=REDELIVER)
    agent_id = (await handed(core, "t1")).agent_id
    deliveries = 1
    for n in range(5):
        holder = await (restarted(core, agent_id, f"n{n}") if phase == "claim" else core.hold(agent_id, f"n{n}"))
        resumed = await resume(core, holder, phase)
        deliveries += len(resumed.tasks)
        assert resumed.owed == []
    assert deliveries == REDELIVER.max_attempts
    assert await core.mail(agent_id) == ["t1"]
    assert await core.result(agent_id, "t1")


@pytest.mark.parametrize("restart", [False, True], ids=["reconnect", "restart"])
async def test_a_cancel_replaces_redelivery(make_core: MakeCore, restart: bool) -> None:
    core = await make_core(tasks=REDELIVER)
    first = await handed(core, "t1")
    await core.mailbox.cancel(first.agent_id, ["t1"])
    second = await (restarted(core, first.agent_id) if restart else core.hold(first.agent_id, "n2"))
    resumed = await resume(core, second, "claim" if restart else "grace")
    assert [(entry[0], entry[1]) for entry in entries(resumed.owed)] == [("t1", "cancelled")]
    assert (resumed.tasks, await core.mail(first.agent_id)) == ([], [])


async def test_a_cancelled_task_of_a_restarted_agent_ends_cancelled(core: Core) -> None:
    first = await handed(core, "t1")
    await core.mailbox.cancel(first.agent_id, ["t1"])
    second = await restarted(core, first.agent_id)
    assert [entry[1] for entry in entries((await resume(core, second, "claim")).owed)] == ["cancelled"]


async def test_much_to_redeliver_comes_in_slices_each_task_once(core: Core) -> None:
    first = await core.connected()
    names = [f"t{n}" for n in range(7)]
    for name in names:
        await core.post(first.agent_id, name, command="x" * (TAKE_BYTES // 2))
    while await core.take(first):
        pass
    second = await core.hold(first.agent_id, "n2")
    got: list[list[str]] = []
    after = 0
    while True:
        resumed = await resume(core, second, "grace", after=after)
        got.append(ids(resumed.tasks))
        after = resumed.go_on
        if not after:
            break
    assert [name for part in got for name in part] == names
    assert max(map(len, got)) == 2


async def test_a_slice_whose_reply_was_lost_is_handed_out_again(core: Core) -> None:
    first = await core.connected()
    for n in range(5):
        await core.post(first.agent_id, f"t{n}", command="x" * (TAKE_BYTES // 2))
    while await core.take(first):
        pass
    second = await core.hold(first.agent_id, "n2")
    head = await resume(core, second, "grace")
    lost = await resume(core, second, "grace", after=head.go_on)
    again = await resume(core, second, "grace", after=head.go_on, again=True)
    assert (ids(head.tasks), ids(lost.tasks), ids(again.tasks)) == (["t0", "t1"], ["t2", "t3"], ["t2", "t3"])
    assert again.go_on == lost.go_on


async def test_a_session_that_lost_its_agent_resumes_nothing(core: Core) -> None:
    first = await handed(core, "t1")
    second = await restarted(core, first.agent_id, "n2")
    await core.hold(first.agent_id, "n3")
    for phase in ("claim", "grace"):
        assert await resume(core, second, phase) == Resumed([], [], 0)
    assert await core.mail(first.agent_id) == ["t1"]


# ---- cancelling ----


async def test_what_was_never_sent_ends_with_its_cancel(core: Core) -> None:
    holder = await core.connected()
    await core.post(holder.agent_id, "t1")
    (cancelled,) = await core.mailbox.cancel(holder.agent_id, ["t1"])
    assert (cancelled.outcome, cancelled.status) == ("dropped", "cancelled")
    assert entries([cancelled.entry]) == [("t1", "cancelled", "-1", "cancelled before delivery", "0")]
    assert await core.take(holder) == []
    await core.feeds.pay_results([cancelled.entry])
    assert await core.ends() == {"t1": ["cancelled"]}


@pytest.mark.parametrize("state", ["sent", "running"])
async def test_what_was_sent_is_told_on_every_session_until_it_ends(core: Core, state: str) -> None:
    holder = await handed(core, "t1")
    if state == "running":
        await core.settle(holder.agent_id, "t1", "life")
    (kept,) = await core.mailbox.cancel(holder.agent_id, ["t1"])
    assert kept == Cancelled("kept", owner=Owner.parse(holder.owner.encode()))
    assert (await told(core, holder), await told(core, holder)) == (["t1"], [])
    second = await core.hold(holder.agent_id, "n2")
    assert await told(core, second) == ["t1"]
    await core.result(holder.agent_id, "t1", "cancelled")
    assert await told(core, await core.hold(holder.agent_id, "n3")) == []


async def told(core: Core, holder: Holder) -> list[str]:
    """The cancels that one take hands out."""
    delivery = await core.deliver(holder)
    assert delivery is not None
    return delivery.cancelled


async def test_cancelling_twice_tells_once(core: Core) -> None:
    holder = await handed(core, "t1", "t2")
    for _ in range(2):
        await core.mailbox.cancel(holder.agent_id, ["t1"])
    assert await told(core, holder) == ["t1"]
    await core.mailbox.cancel(holder.agent_id, ["t1", "t2"])
    assert await told(core, holder) == ["t2"]


async def test_a_cancel_whose_reply_was_lost_is_told_again(core: Core) -> None:
    holder = await handed(core, "t1")
    await core.mailbox.cancel(holder.agent_id, ["t1"])
    ask = Take(holder.agent_id, holder.owner, holder.cursor, "0")
    assert [d and d.cancelled for d in (*await core.mailbox.take([ask]), *await core.mailbox.take([ask]))] == [
        ["t1"]
    ] * 2


async def test_a_task_that_has_ended_is_not_cancelled(core: Core) -> None:
    holder = await handed(core, "t1", "t2")
    await core.settle(holder.agent_id, "t1")
    await core.result(holder.agent_id, "t2", "failed")
    outcomes = await core.mailbox.cancel(holder.agent_id, ["t1", "t2"])
    assert [(o.outcome, o.status) for o in outcomes] == [("ended", "success"), ("ended", "failed")]
    assert await told(core, holder) == []


async def test_the_cancel_of_a_task_that_is_not_known_leaves_nothing_behind(core: Core) -> None:
    holder = await core.connected()
    assert await core.mailbox.cancel(holder.agent_id, ["x"]) == [
        Cancelled("unknown", owner=Owner.parse(holder.owner.encode()))
    ]
    await core.release(holder)
    assert (await core.mailbox.cancel(holder.agent_id, ["x"]))[0].owner is None
    assert core.keys.task(holder.agent_id, "x") not in await core.redis.keys("*")


async def test_cancels_are_answered_in_their_order(core: Core) -> None:
    holder = await handed(core, "sent")
    await core.post(holder.agent_id, "pending")
    await core.result(holder.agent_id, "ended")
    outcomes = await core.mailbox.cancel(holder.agent_id, ["ended", "unknown", "sent", "pending"])
    assert [o.outcome for o in outcomes] == ["ended", "unknown", "kept", "dropped"]


async def test_a_cancel_races_with_a_take_and_one_of_them_has_the_task(make_core: MakeCore) -> None:
    router, node = await make_core(), await make_core()
    holder = await node.connected()
    for n in range(50):
        task_id = f"t{n}"
        await router.post(holder.agent_id, task_id)
        taken, (cancelled,) = await together(node.take(holder), router.mailbox.cancel(holder.agent_id, [task_id]))
        assert (taken == [task_id]) == (cancelled.outcome == "kept")


# ---- settling ----


async def test_the_first_real_end_wins_and_later_ones_are_acked_and_not_written(core: Core) -> None:
    holder = await handed(core, "t1")
    assert await core.result(holder.agent_id, "t1", "success", message_id="m1")
    assert not await core.result(holder.agent_id, "t1", "failed", message_id="m2")
    assert not await core.result(holder.agent_id, "t1", "success", message_id="m1")
    assert await core.ends() == {"t1": ["success"]}
    assert await state_of(core.mailbox, holder.agent_id, "t1") == "success"


@pytest.mark.parametrize("state", ["pending", "sent", "running", "sent under an older claim", "redelivered"])
async def test_a_result_is_a_fact_whatever_state_and_epoch_its_task_is_in(core: Core, state: str) -> None:
    holder = await core.connected()
    await core.post(holder.agent_id, "t1")
    if state != "pending":
        await core.take(holder)
    if state == "running":
        await core.settle(holder.agent_id, "t1", "life")
    if state in ("sent under an older claim", "redelivered"):
        second = await core.hold(holder.agent_id, "n2")
        if state == "redelivered":
            await resume(core, second, "grace")
    assert await core.result(holder.agent_id, "t1")
    assert (await core.mail(holder.agent_id), await due_in_ms(core, holder.agent_id, "t1")) == ([], None)
    assert await core.ends() == {"t1": ["success"]}


async def test_an_end_is_owed_until_it_is_paid_and_its_resend_completes_it_once(core: Core) -> None:
    holder = await handed(core, "t1")
    entry = a_result(holder.agent_id, "t1")
    assert await core.mailbox.settle([said(entry)]) == [APPEND]  # and the node dies here
    assert list(await core.owed(holder.agent_id)) == [entry.owed_as]
    assert await core.result(holder.agent_id, "t1")
    assert await core.owed(holder.agent_id) == {}
    assert await core.ends() == {"t1": ["success"]}


async def test_another_end_does_not_take_the_place_of_one_that_is_owed(core: Core) -> None:
    holder = await handed(core, "t1")
    await core.settle(holder.agent_id, "t1", message_id="m1")
    assert await core.settle(holder.agent_id, "t1", status="failed", message_id="m2") == 0
    await core.pay_what_is_owed()
    assert await core.ends() == {"t1": ["success"]}


async def test_a_result_of_a_task_that_is_not_known_is_written_and_leaves_a_record(core: Core) -> None:
    agent_id = await core.agent()
    assert await core.result(agent_id, "stray", message_id="m1")
    assert not await core.result(agent_id, "stray", message_id="m2")
    assert await core.ends() == {"stray": ["success"]}
    assert 0 < await ttl_ms(core, agent_id, "stray") <= RECORD_MS


async def test_a_sign_of_life_of_a_task_that_is_not_known_leaves_nothing_behind(core: Core) -> None:
    agent_id = await core.agent()
    for kind in ("life", "progress"):
        await core.settle(agent_id, "stray", kind, status="running")
    assert await core.record(agent_id, "stray") == {}


async def test_progress_is_written_while_its_task_is_open_and_not_after_its_end(core: Core) -> None:
    holder = await handed(core, "t1")
    assert await core.result(holder.agent_id, "t1", "running", message_id="m1")
    assert await state_of(core.mailbox, holder.agent_id, "t1") == "running"
    assert await core.result(holder.agent_id, "t1", "success", message_id="m2")
    assert not await core.result(holder.agent_id, "t1", "running", message_id="m3")
    assert [entry["status"] for entry in await core.feed()] == ["running", "success"]


async def test_progress_of_a_task_that_is_not_known_is_written(core: Core) -> None:
    assert await core.result(await core.agent(), "stray", "running")


async def test_progress_and_end_of_one_batch_are_both_written_when_the_batch_is_tried_again(core: Core) -> None:
    """What is acked is in the feed: the end came after the progress, not before it."""
    holder = await handed(core, "t1")
    progress = a_result(holder.agent_id, "t1", "running", message_id="m1")
    end = a_result(holder.agent_id, "t1", "success", message_id="m2")
    batch = [said(progress, "progress"), said(end)]
    assert await core.mailbox.settle(batch) == [APPEND, APPEND]  # and Redis does not answer what comes next
    assert await core.mailbox.settle(batch) == [APPEND, APPEND]
    await core.feeds.append_results([progress, end])
    await core.feeds.paid([end])
    assert [entry["status"] for entry in await core.feed()] == ["running", "success"]
    assert await core.mailbox.settle(batch) == [0, 0]


async def test_a_sign_of_life_marks_a_task_running_and_says_how_it_stands(core: Core) -> None:
    holder = await handed(core, "t1")
    assert await core.settle(holder.agent_id, "t1", "life") == OPEN
    assert await state_of(core.mailbox, holder.agent_id, "t1") == "running"
    assert await core.settle(holder.agent_id, "stray", "life") == UNKNOWN
    await core.result(holder.agent_id, "t1")
    assert abs(await core.settle(holder.agent_id, "t1", "life") - core.store.now_ms()) < 5000
    assert await state_of(core.mailbox, holder.agent_id, "t1") == "success"


async def test_settling_many_is_answered_in_their_order(core: Core) -> None:
    holders = [await core.connected(f"token-{n}") for n in range(6)]
    for holder in holders[:3]:
        await core.post(holder.agent_id, "t1")
    life = [said(a_result(holder.agent_id, "t1"), "life") for holder in holders]
    assert await core.mailbox.settle(life) == [OPEN] * 3 + [UNKNOWN] * 3


async def test_of_ends_at_once_from_everywhere_one_is_written(make_core: MakeCore) -> None:
    nodes = [await make_core() for _ in range(3)]
    holder = await handed(nodes[0], "t1")
    statuses = ("success", "failed", "cancelled")
    written = await together(
        *(nodes[n % 3].result(holder.agent_id, "t1", statuses[n % 3], message_id=f"m{n}") for n in range(30))
    )
    assert written.count(True) == 1
    assert [len(ends) for ends in (await nodes[0].ends()).values()] == [1]


async def test_of_too_many_tasks_that_nobody_knows_results_are_written_and_leave_nothing_behind(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "STRANGERS", 3)
    holder, other = await core.connected(), await core.connected("token-2")
    said_of = [f"81_1_{n}_x" for n in range(5)]
    verdicts = [await core.settle(holder.agent_id, task_id) for task_id in said_of]
    assert verdicts == [APPEND] * 3 + [APPEND_ALONE] * 2
    assert await core.settle(holder.agent_id, "81_1_9_x", "progress", status="running") == APPEND_ALONE
    assert await core.pay_what_is_owed() == 5
    assert await core.ends() == {task_id: ["success"] for task_id in said_of}
    assert [bool(await core.record(holder.agent_id, task_id)) for task_id in said_of] == [True] * 3 + [False] * 2
    assert await core.owed(holder.agent_id) == {}
    counter = core.keys.in_shard(core.keys.shard(holder.agent_id), "strangers")
    assert RECORD_MS - 60_000 < await core.redis.pttl(counter) <= RECORD_MS
    await core.post(holder.agent_id, "known")
    assert await core.settle(holder.agent_id, "known") == APPEND
    assert await core.settle(other.agent_id, "t1") == APPEND
    await core.redis.delete(counter)
    assert await core.settle(holder.agent_id, "later") == APPEND


async def test_who_speaks_of_unknown_tasks_later_does_not_prolong_the_time_in_which_it_is_counted(
    make_core: MakeCore,
) -> None:
    core = await make_core(shards=1)
    first, other = await core.connected(), await core.connected("token-2")
    assert await core.settle(first.agent_id, "t1") == APPEND
    counter = core.keys.in_shard(0, "strangers")
    assert await core.redis.pexpire(counter, 60_000)
    said = [
        Said(agent_id, task_id, "progress", "running")
        for agent_id, task_id in ((first.agent_id, "t2"), (other.agent_id, "t1"), (first.agent_id, "t3"))
    ]
    assert await core.mailbox.settle(said) == [APPEND] * 3
    assert await core.mailbox.settle([Said(other.agent_id, "t2", "progress", "running")]) == [APPEND]
    assert 0 < await core.redis.pttl(counter) <= 60_000
    assert await core.redis.hgetall(counter) == {first.agent_id: "3", other.agent_id: "2"}


async def lost(core: Core, agent_id: str, task_id: str) -> int:
    """The verdict on an end of ours for a task that Redis is taken to have forgotten."""
    return await core.settle(agent_id, task_id, "lost", status="failed", message_id=f"end:{agent_id}:{task_id}")


async def test_a_task_that_redis_forgot_ends_as_lost_and_its_own_result_comes_too_late(core: Core) -> None:
    holder = await core.connected()
    assert [await lost(core, holder.agent_id, "t1") for _ in range(2)] == [APPEND, APPEND]  # owed until it is written
    assert await core.settle(holder.agent_id, "t1") == 0
    assert await core.pay_what_is_owed() == 1
    assert await lost(core, holder.agent_id, "t1") == 0
    assert not await core.result(holder.agent_id, "t1")
    assert await core.ends() == {"t1": ["failed"]}
    assert 0 < await ttl_ms(core, holder.agent_id, "t1") <= RECORD_MS


async def test_a_result_that_comes_first_wins_over_lost(core: Core) -> None:
    holder = await core.connected()
    assert await core.result(holder.agent_id, "t1")
    assert await lost(core, holder.agent_id, "t1") == 0
    assert await core.ends() == {"t1": ["success"]}


@pytest.mark.parametrize("state", ["pending", "sent", "running"])
async def test_what_redis_remembers_is_not_lost(core: Core, state: str) -> None:
    holder = await core.connected()
    await core.post(holder.agent_id, "t1")
    if state != "pending":
        await core.take(holder)
    if state == "running":
        await core.settle(holder.agent_id, "t1", "life")
    assert await lost(core, holder.agent_id, "t1") == 0
    assert (await core.record(holder.agent_id, "t1"))["state"] == state
    assert await core.mail(holder.agent_id) == ["t1"]
    assert await core.owed(holder.agent_id) == {}


# ---- what time ends ----


async def test_a_task_that_was_never_sent_expires_after_the_ttl(core: Core) -> None:
    agent_id = await core.agent()
    await core.post(agent_id, "t1")
    assert await due_in_ms(core, agent_id, "t1") == pytest.approx(TTL_MS, abs=5000)
    await make_due(core, agent_id, "t1")
    assert entries(await core.mailbox.end_due(10)) == [("t1", "failed", "-1", "expired before delivery", "1004")]
    assert await core.take(await core.hold(agent_id)) == []


@pytest.mark.parametrize(("timeout_s", "work_s"), [(0, UNSAID_WORK_S), (30, 30), (-5, UNSAID_WORK_S)])
async def test_a_task_that_was_sent_has_its_time_and_ten_minutes(core: Core, timeout_s: int, work_s: int) -> None:
    holder = await core.connected()
    await core.post(holder.agent_id, "t1", timeout_sec=timeout_s)
    await core.take(holder)
    assert await due_in_ms(core, holder.agent_id, "t1") == pytest.approx(work_s * 1000 + GRACE_MS, abs=5000)


async def test_a_task_waits_for_its_agent_as_long_as_that_is_online(core: Core) -> None:
    holder = await core.connected()
    await core.post(holder.agent_id, "t1", timeout_sec=30)
    await core.take(holder)
    await sent_ago(core, holder.agent_id, "t1", 3600)
    assert await core.mailbox.end_due(10) == []
    assert await due_in_ms(core, holder.agent_id, "t1") == pytest.approx(30_000 + GRACE_MS, abs=5000)


async def test_the_wait_for_an_agent_that_is_online_has_an_end(core: Core) -> None:
    holder = await core.connected()
    await core.post(holder.agent_id, "t1", timeout_sec=30)
    await core.take(holder)
    await sent_ago(core, holder.agent_id, "t1", (TTL_MS + GRACE_MS) / 1000 - 5)
    assert await core.mailbox.end_due(10) == []
    await sent_ago(core, holder.agent_id, "t1", (TTL_MS + GRACE_MS) / 1000 + 5)
    assert entries(await core.mailbox.end_due(10)) == [("t1", "failed", "-1", "no result", "1004")]


async def test_a_task_may_work_longer_than_the_ttl(core: Core) -> None:
    holder = await core.connected()
    two_days_s = 2 * 86_400
    await core.post(holder.agent_id, "t1", timeout_sec=two_days_s)
    await core.take(holder)
    await sent_ago(core, holder.agent_id, "t1", two_days_s)
    assert await core.mailbox.end_due(10) == []


@pytest.mark.parametrize("state", ["sent", "running"])
async def test_the_task_of_an_agent_that_never_returns_ends_at_its_time_after_that_was_heard(
    core: Core, state: str
) -> None:
    holder = await core.connected()
    await core.post(holder.agent_id, "t1", timeout_sec=30)
    await core.take(holder)
    if state == "running":
        await core.settle(holder.agent_id, "t1", "life")
    await last_heard_ago(core, holder, 600 + 30 - 5)
    await sent_ago(core, holder.agent_id, "t1", 3600)
    assert await core.mailbox.end_due(10) == []
    assert await due_in_ms(core, holder.agent_id, "t1") == pytest.approx(5000, abs=3000)
    await core.redis.hset(core.keys.of_agent("agent", holder.agent_id), "last_seen", core.store.now_ms() - 631_000)
    await make_due(core, holder.agent_id, "t1")
    assert entries(await core.mailbox.end_due(10)) == [("t1", "failed", "-1", "no result, agent lost", "1004")]


async def test_what_many_routers_end_at_once_ends_once(make_core: MakeCore) -> None:
    routers = [await make_core() for _ in range(4)]
    agent_id = await routers[0].agent()
    await routers[0].post(agent_id, *(f"t{n}" for n in range(20)))
    for n in range(20):
        await make_due(routers[0], agent_id, f"t{n}")

    async def sweep(router: Core) -> None:
        await router.feeds.pay_results(await router.mailbox.end_due(100))

    await together(*(sweep(router) for router in routers))
    assert await routers[0].ends() == {f"t{n}": ["failed"] for n in range(20)}


async def test_what_is_due_no_more_is_looked_at_no_more(core: Core) -> None:
    holder = await handed(core, "t1")
    await core.result(holder.agent_id, "t1")
    for task_id in ("t1", "unknown"):
        await make_due(core, holder.agent_id, task_id)
    assert await core.mailbox.end_due(10) == []
    assert await due_in_ms(core, holder.agent_id, "t1") is None
    assert await due_in_ms(core, holder.agent_id, "unknown") is None


async def test_a_sweep_ends_no_more_than_its_limit_a_shard(core: Core) -> None:
    agent_id = await core.agent()
    await core.post(agent_id, *(f"t{n}" for n in range(5)))
    for n in range(5):
        await make_due(core, agent_id, f"t{n}")
    assert [len(await core.mailbox.end_due(2)) for _ in range(4)] == [2, 2, 1, 0]


async def test_a_sign_of_life_of_a_task_whose_mark_redis_forgot_stops_no_sweep(make_core: MakeCore) -> None:
    """The record says pending, the agent has the task: it is not sent again, and neither sweep nor claim stumbles over it."""
    core = await make_core(tasks=REDELIVER)
    holder = await core.connected()
    await core.post(holder.agent_id, "t1")
    await core.settle(holder.agent_id, "t1", "life")
    assert await core.take(holder) == []
    for claim in (await core.hold(holder.agent_id, "n2"), await restarted(core, holder.agent_id)):
        for phase in ("claim", "grace"):
            assert (await resume(core, claim, phase)).owed == []
    await make_due(core, holder.agent_id, "t1")
    assert entries(await core.mailbox.end_due(10)) == [("t1", "failed", "-1", "no result", "1004")]


# ---- records ----


async def test_a_record_has_no_time_to_live_while_it_is_open_or_owed_and_25_h_after(core: Core) -> None:
    holder = await core.connected()
    await core.post(holder.agent_id, "t1")
    left = [await ttl_ms(core, holder.agent_id, "t1")]
    await core.take(holder)
    await core.settle(holder.agent_id, "t1", "life")
    left.append(await ttl_ms(core, holder.agent_id, "t1"))
    await core.settle(holder.agent_id, "t1")
    left.append(await ttl_ms(core, holder.agent_id, "t1"))
    assert left == [-1, -1, -1]
    await core.result(holder.agent_id, "t1")
    assert RECORD_MS - 5000 < await ttl_ms(core, holder.agent_id, "t1") <= RECORD_MS


@pytest.mark.parametrize("end", ["cancelled", "expired", "restarted", "revoked"])
async def test_the_clusters_own_ends_are_owed_and_then_remembered_too(core: Core, end: str) -> None:
    holder = await core.connected()
    agent_id = holder.agent_id
    await core.post(agent_id, "t1")
    match end:
        case "cancelled":
            await core.mailbox.cancel(agent_id, ["t1"])
        case "expired":
            await make_due(core, agent_id, "t1")
            await core.mailbox.end_due(10)
        case "restarted":
            await core.take(holder)
            await resume(core, await restarted(core, agent_id), "claim")
        case _:
            await core.registry.revoke(agent_id)
    assert await ttl_ms(core, agent_id, "t1") == -1
    assert await core.pay_what_is_owed() >= 1
    assert 0 < await ttl_ms(core, agent_id, "t1") <= RECORD_MS
    (entry,) = [e for e in await core.feed() if e["task_id"] == "t1"]
    assert (entry["exit_code"], entry["started_at"], entry["message_id"]) == ("-1", "0", f"end:{agent_id}:t1")
    assert abs(int(entry["finished_at"]) - core.store.now_ms() // 1000) < 5
    assert not await core.result(agent_id, "t1")


async def test_a_record_that_has_ended_keeps_no_tasks_bytes(core: Core) -> None:
    """They may hold secrets, and 25 h of them would fill Redis."""
    holder = await core.connected()
    await core.post(holder.agent_id, "t1", env={"PASSWORD": "hunter2"})
    await core.take(holder)
    await core.result(holder.agent_id, "t1")
    assert "hunter2" not in str(await core.record(holder.agent_id, "t1"))


async def test_nothing_is_left_of_a_task_but_its_record(core: Core) -> None:
    holder = await core.connected()
    await core.post(holder.agent_id, "t1")
    before = set(await core.redis.keys("*"))
    await core.take(holder)
    await core.mailbox.cancel(holder.agent_id, ["t1"])
    await core.result(holder.agent_id, "t1")
    after = set(await core.redis.keys("*"))
    assert core.keys.task(holder.agent_id, "t1") in after
    assert not [key for key in after - before if core.keys.prefix in key and "agent_results" not in key]
    assert (await core.mail(holder.agent_id), await core.owed(holder.agent_id)) == ([], {})


async def test_a_delivery_of_nothing_is_empty(core: Core) -> None:
    assert await core.deliver(await core.connected()) == Delivery([], [], "0", more=False, cursor=0)


async def test_a_mailbox_that_is_none_spoils_nobody_elses_tasks(make_core: MakeCore) -> None:
    """A batch is refused half-way: what it accepted until then must end some day, and is in the books."""
    core = await make_core(shards=1)
    one, spoilt, other = [await core.connected(f"token-{n}") for n in range(3)]
    await core.redis.set(core.keys.of_agent("mail", spoilt.agent_id), "of somebody else")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await core.mailbox.enqueue([a_post(holder.agent_id, "t1") for holder in (one, spoilt, other)])
    assert await core.mail(one.agent_id) == ["t1"]
    assert await core.redis.zrange(core.keys.in_shard(0, "due"), 0, -1) == [f"{one.agent_id}:t1"]
    await core.redis.delete(core.keys.of_agent("mail", spoilt.agent_id))
    assert (await Ledger(core.store).check(is_deep=True)).is_right
