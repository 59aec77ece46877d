"""What a task's record tells of its end, to whoever may ask for the task; and what it costs."""

from typing import Any

import pytest

from cluster import messages
from cluster.mailbox import TaskState
from cluster.reasons import LONGEST_CHARS
from tests.integration.core import Core, Holder

RESTARTED = "agent restarted, the task may have run"


async def told(core: Core, agent_id: str, task_id: str = "t1") -> TaskState:
    """What is told of a task that is known."""
    state = await core.mailbox.look(agent_id, task_id)
    assert state is not None
    return state


async def sent(core: Core, *task_ids: str, **fields: Any) -> Holder:
    """An agent that was handed these tasks."""
    holder = await core.connected()
    await core.post(holder.agent_id, *(task_ids or ("t1",)), **fields)
    await core.take(holder)
    return holder


def why(state: TaskState) -> tuple[str, int | None, str, int]:
    return state.state, state.exit_code, state.error_msg, state.error_code


async def test_an_open_task_has_no_end_to_tell(core: Core) -> None:
    holder = await sent(core)
    assert why(await told(core, holder.agent_id)) == ("sent", None, "", 0)


async def test_a_success_needs_no_reason(core: Core) -> None:
    holder = await sent(core)
    await core.result(holder.agent_id, "t1")
    state = await told(core, holder.agent_id)
    assert why(state) == ("success", 0, "", 0)
    assert (state.attempts, state.created_ms <= state.sent_ms <= state.ended_ms) == (1, True)


async def test_what_the_agent_says_of_a_failure_is_kept(core: Core) -> None:
    holder = await sent(core)
    await core.result(
        holder.agent_id, "t1", "failed", exit_code="3", error_msg="exit\nstatus 3, token=hush", error_code="1004"
    )
    assert why(await told(core, holder.agent_id)) == ("failed", 3, "exit status 3, token=***", 1004)


async def test_the_feed_has_the_whole_message_and_the_record_a_short_one(core: Core) -> None:
    holder = await sent(core)
    await core.result(holder.agent_id, "t1", "failed", exit_code="1", error_msg="x" * 60_000)
    assert len((await told(core, holder.agent_id)).error_msg) == LONGEST_CHARS
    assert len((await core.feed())[0]["error_msg"]) == 60_000


async def test_only_the_first_end_is_told(core: Core) -> None:
    holder = await sent(core)
    await core.result(holder.agent_id, "t1", "failed", exit_code="3", error_msg="first", message_id="m1")
    await core.result(holder.agent_id, "t1", "failed", exit_code="4", error_msg="second", message_id="m2")
    assert why(await told(core, holder.agent_id)) == ("failed", 3, "first", 0)


async def test_the_clusters_own_ends_say_why(core: Core) -> None:
    holder = await sent(core)
    again = await core.hold(await core.agent(), "n2")
    await core.mailbox.resume(again.agent_id, again.owner, again.claimed_at, phase="claim")
    assert why(await told(core, holder.agent_id)) == ("failed", -1, RESTARTED, 2001)


async def test_a_cancel_before_delivery_is_told_as_what_it_was(core: Core) -> None:
    agent_id = await core.agent()
    await core.post(agent_id, "t1")
    await core.mailbox.cancel(agent_id, ["t1"])
    state = await told(core, agent_id)
    assert why(state) == ("cancelled", -1, "cancelled before delivery", 0)
    assert state.is_cancel_asked


@pytest.mark.parametrize("status", ["cancelled", "success"])
async def test_that_a_cancel_was_asked_for_is_told_after_the_end_however_it_came(core: Core, status: str) -> None:
    holder = await sent(core, "t1", "t2")
    await core.mailbox.cancel(holder.agent_id, ["t1"])
    for task_id in ("t1", "t2"):
        await core.result(holder.agent_id, task_id, status)
    assert (await told(core, holder.agent_id)).is_cancel_asked
    assert not (await told(core, holder.agent_id, "t2")).is_cancel_asked


async def test_a_cancel_after_the_end_was_asked_for_in_vain_and_changes_nothing(core: Core) -> None:
    holder = await sent(core)
    await core.result(holder.agent_id, "t1")
    before = await core.record(holder.agent_id, "t1")
    await core.mailbox.cancel(holder.agent_id, ["t1"])
    assert await core.record(holder.agent_id, "t1") == before


async def test_an_ended_record_costs_less_than_half_of_an_open_one(core: Core) -> None:
    holder = await sent(core, command="x" * 200)
    key = core.keys.task(holder.agent_id, "t1")
    open_bytes = await core.redis.memory_usage(key)
    await core.result(holder.agent_id, "t1", "failed", exit_code="3", error_msg="exit status 3")
    assert await core.redis.memory_usage(key) < open_bytes / 2


@pytest.mark.parametrize("status", sorted(messages.ENDS))
async def test_an_end_of_a_task_that_nobody_knows_is_told_too(core: Core, status: str) -> None:
    agent_id = await core.agent()
    await core.result(agent_id, "t1", status, exit_code="7")
    assert why(await told(core, agent_id)) == (status, 7, "", 0)
