"""How tasks are accepted, wherever they come from: posted to a router, or fetched by a node.

Owns the steps and their order; knows neither callers nor sockets. Rules: what is accepted is in the mailbox; the same task again changes
nothing and is answered as the first time. The doorbell comes after the mailbox and may be lost.
"""

import asyncio
import contextlib
from collections.abc import Sequence

from cluster import task_trail
from cluster.batching import Batcher
from cluster.errors import MailboxFull, PeerError, StoreUnavailable, TaskConflict, UnknownAgent
from cluster.feeds import Feeds
from cluster.inbox import Inbox
from cluster.mailbox import Accepted, Mailbox, Post
from cluster.registry import Owner

REFUSED = {UnknownAgent: "unknown_agent", MailboxFull: "mailbox_full", TaskConflict: "conflict"}
OUTCOMES = ("accepted", "repeated", *REFUSED.values())
PATIENCE_S = 0.1  # behind a call that a distant Redis has not answered: three in a row are to take less than a call may
FOLLOW_S = 0.5  # that an answer waits for the doorbell and the count, which go on without it


class Acceptance:
    """Puts tasks into mailboxes, rings their owners, and has their hosts counted."""

    def __init__(self, mailbox: Mailbox, feeds: Feeds, inbox: Inbox, counts: dict[str, int]) -> None:
        """`counts`: by OUTCOMES."""
        self._mailbox = mailbox
        self._feeds = feeds
        self._inbox = inbox
        self._counts = counts
        self._posts: Batcher[Post, Accepted | UnknownAgent | MailboxFull | TaskConflict] = Batcher(
            "enqueue",
            mailbox.enqueue,
            weigh=lambda post: sum(len(task.json) for task in post.tasks),
            patience_s=PATIENCE_S,
        )
        self._rings: Batcher[tuple[Owner, str], None] = Batcher("ring", self._ring, patience_s=PATIENCE_S)
        self._expected: Batcher[Sequence[str], None] = Batcher("expect", self._expect, patience_s=PATIENCE_S)

    async def accept(self, post: Post) -> Accepted:
        """Accepts these tasks, all or none. Raises: UnknownAgent, MailboxFull, TaskConflict, StoreUnavailable."""
        outcome = await self._posts.submit(post)
        if isinstance(outcome, PeerError):
            self._counts[REFUSED[type(outcome)]] += len(post.tasks)
            raise outcome
        self._counts["accepted"] += outcome.new
        self._counts["repeated"] += len(post.tasks) - outcome.new
        if task_trail.is_followed():
            for task in post.tasks:
                task_trail.tell("accepted", post.agent_id, task.id, status=outcome.status)
        follow = [asyncio.create_task(self._expected.submit([task.id for task in post.tasks]), name="expect")]
        if outcome.owner is not None:
            follow.append(asyncio.create_task(self._rings.submit((outcome.owner, post.agent_id)), name="ring"))
        await _follow(follow)
        return outcome

    async def has_room(self, agent_id: str) -> bool:
        """Whether another task would be taken just now. Raises: StoreUnavailable."""
        return await self._mailbox.has_room(agent_id)

    async def _ring(self, owners: list[tuple[Owner, str]]) -> list[None]:
        with contextlib.suppress(StoreUnavailable):  # renewal finds the mail
            await self._inbox.ring(list(dict.fromkeys(owners)))
        return [None] * len(owners)

    async def _expect(self, posts: list[Sequence[str]]) -> list[None]:
        await self._feeds.expect([task_id for post in posts for task_id in post])
        return [None] * len(posts)


async def _follow(calls: list[asyncio.Task[None]]) -> None:
    """Waits for them, but not for long: what is late is done all the same."""
    done, late = await asyncio.wait(calls, timeout=FOLLOW_S)
    for call in late:
        call.add_done_callback(lambda call: call.cancelled() or call.exception())
    for call in done:
        call.result()
