"""What becomes of tasks that are posted is counted by task, and by why they were refused."""

from collections import Counter

import pytest

from cluster.acceptance import OUTCOMES, Acceptance
from cluster.errors import MailboxFull, TaskConflict, UnknownAgent
from cluster.settings import Tasks
from tests.integration.conftest import MakeCore
from tests.integration.core import a_post


async def test_every_posted_task_is_counted_once(make_core: MakeCore) -> None:
    core = await make_core(tasks=Tasks(max_open=3))
    counts = dict.fromkeys(OUTCOMES, 0)
    acceptance = Acceptance(core.mailbox, core.feeds, core.inbox, counts)
    agent_id = await core.agent()
    await acceptance.accept(a_post(agent_id, "t1", "t2", batch="b"))
    await acceptance.accept(a_post(agent_id, "t2", "t3", batch="b"))
    with pytest.raises(MailboxFull):
        await acceptance.accept(a_post(agent_id, "t4"))
    with pytest.raises(TaskConflict):
        await acceptance.accept(a_post(agent_id, "t1", command="another"))
    with pytest.raises(UnknownAgent):
        await acceptance.accept(a_post("nobody", "t1", "t5", batch="b"))
    assert +Counter(counts) == {"accepted": 3, "repeated": 1, "mailbox_full": 1, "conflict": 1, "unknown_agent": 2}
