"""How tasks are accepted, wherever they come from: posted to a router, or fetched by a node.

Owns the steps and their order; knows neither callers nor sockets. Rules:

- What is accepted is in the mailbox; the same task again changes nothing and is answered as the first time.
- The doorbell comes after the mailbox and may be lost. Where an agent was found last, it is rung in the same breath: right behind the
  mailbox, on the same connection, so never before it. Who is held elsewhere by now is rung there, once the mailbox has said so.
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping, Sequence

from cluster import task_trail
from cluster.batching import Batcher
from cluster.errors import MailboxFull, PeerError, StoreUnavailable, TaskConflict, UnknownAgent
from cluster.feeds import Feeds
from cluster.inbox import Inbox
from cluster.mailbox import Accepted, Mailbox, Post
from cluster.redis_line import Command
from cluster.registry import Owner

REFUSED = {UnknownAgent: "unknown_agent", MailboxFull: "mailbox_full", TaskConflict: "conflict"}
OUTCOMES = ("accepted", "repeated", *REFUSED.values())
PATIENCE_S = 0.1  # behind a call that a distant Redis has not answered: three in a row are to take less than a call may
FOLLOW_S = 0.1  # that an answer waits for the count, which goes on without it
FOUND = 50_000  # agents of which it is remembered where they were found last

logger = logging.getLogger(__name__)

Outcome = Accepted | UnknownAgent | MailboxFull | TaskConflict


class Acceptance:
    """Puts tasks into mailboxes, rings their owners, and has their hosts counted."""

    def __init__(self, mailbox: Mailbox, feeds: Feeds, inbox: Inbox, counts: dict[str, int]) -> None:
        """`counts`: by OUTCOMES."""
        self._mailbox = mailbox
        self._feeds = feeds
        self._inbox = inbox
        self._counts = counts
        self._found: dict[str, Owner] = {}
        self._behind: set[asyncio.Task[None]] = set()
        self._posts: Batcher[Post, Outcome] = Batcher(
            "enqueue",
            self._enqueue,
            weigh=lambda post: sum([len(task.json) for task in post.tasks]),
            patience_s=PATIENCE_S,
            follow=self._follow,
        )

    async def accept(self, post: Post) -> Accepted:
        """Accepts these tasks, all or none. Raises: UnknownAgent, MailboxFull, TaskConflict, StoreUnavailable."""
        outcome = await self.put(post)
        if isinstance(outcome, PeerError):
            raise outcome
        return outcome

    def put(self, post: Post) -> asyncio.Future[Outcome]:
        """As `accept`, for who does not await: a refusal is a result."""
        return self._posts.put(post)

    async def has_room(self, agent_id: str) -> bool:
        """Whether another task would be taken just now. Raises: StoreUnavailable."""
        return await self._mailbox.has_room(agent_id)

    # ---- the steps

    async def _enqueue(self, posts: list[Post]) -> list[Outcome]:
        rung = {post.agent_id: owner for post in posts if (owner := self._found.get(post.agent_id)) is not None}
        outcomes = await self._mailbox.enqueue(posts, lambda of_shard: self._doorbells(of_shard, rung))
        held = {
            post.agent_id: outcome.owner
            for post, outcome in zip(posts, outcomes, strict=True)
            if isinstance(outcome, Accepted) and outcome.owner != rung.get(post.agent_id)
        }
        if held:
            self._on_missed(held)
        return outcomes

    def _doorbells(self, posts: Sequence[Post], found: Mapping[str, Owner]) -> list[Command]:
        agents = dict.fromkeys(post.agent_id for post in posts)
        return self._inbox.rings((found[agent_id], agent_id) for agent_id in agents if agent_id in found)

    def _on_missed(self, held: Mapping[str, Owner | None]) -> None:
        """These agents were not where they were rung, or nowhere: who is held elsewhere is rung there, now and from now on."""
        owners = [(owner, agent_id) for agent_id, owner in held.items() if owner is not None]
        for agent_id in held:
            self._found.pop(agent_id, None)
        self._found.update((agent_id, owner) for owner, agent_id in owners)
        while len(self._found) > FOUND:
            del self._found[next(iter(self._found))]
        if owners:
            self._begin("ring", self._ring(owners))  # no answer waits for it

    async def _ring(self, owners: Sequence[tuple[Owner, str]]) -> None:
        with contextlib.suppress(StoreUnavailable):  # renewal finds the mail
            await self._inbox.ring(owners)

    async def _follow(self, posts: list[Post], outcomes: Sequence[Outcome]) -> None:
        """What is counted of them."""
        task_ids: list[str] = []
        is_followed = task_trail.is_followed()
        for post, outcome in zip(posts, outcomes, strict=True):
            if isinstance(outcome, PeerError):
                self._counts[REFUSED[type(outcome)]] += len(post.tasks)
                continue
            self._counts["accepted"] += outcome.new
            self._counts["repeated"] += len(post.tasks) - outcome.new
            task_ids += [task.id for task in post.tasks]
            if is_followed:
                for task in post.tasks:
                    task_trail.tell("accepted", post.agent_id, task.id, status=outcome.status)
        if task_ids:
            counting = self._begin("expect", self._expect(task_ids))
            await asyncio.wait([counting], timeout=FOLLOW_S)
            if counting.done():
                counting.result()

    def _begin(self, name: str, call: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Does this behind the mailbox, whether or not somebody waits for it."""
        task = asyncio.create_task(call, name=name)
        self._behind.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, call: asyncio.Task[None]) -> None:
        """What was late, and failed, nobody hears of."""
        self._behind.discard(call)
        _ = call.cancelled() or call.exception()

    async def _expect(self, task_ids: Sequence[str]) -> None:
        """Raises: StoreUnavailable: who posted asks again, and they are counted then. Nothing else is a task's fault."""
        try:
            await self._feeds.expect(task_ids)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - such as a key of another type: a host is counted with its first result too
            logger.warning("hosts of an execution are not counted yet: %s", error)
