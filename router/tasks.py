"""The control plane's calls about tasks: post one or a batch, show one, cancel one or many.

Rules: what is answered 200 is in the mailbox; a repeated call changes nothing and is answered as the first one was
(cluster/acceptance.py).
"""

import contextlib
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from cluster import messages, task_trail
from cluster.acceptance import Acceptance
from cluster.errors import BadInput, StoreUnavailable, UnknownAgent, UnknownTask
from cluster.feeds import Feeds
from cluster.inbox import Inbox
from cluster.mailbox import Cancelled, Mailbox, TaskState
from cluster.messages import CancelBatch
from cluster.registry import Registry
from cluster.replies import json_reply
from router import posting

CANCELS = 1000  # in one script call

logger = logging.getLogger(__name__)


class TaskCalls:
    """Starlette endpoints."""

    def __init__(
        self, registry: Registry, mailbox: Mailbox, feeds: Feeds, inbox: Inbox, acceptance: Acceptance
    ) -> None:
        self._registry = registry
        self._mailbox = mailbox
        self._feeds = feeds
        self._inbox = inbox
        self._acceptance = acceptance

    # ---- accepting

    async def post(self, request: Request) -> Response:
        """One task."""
        agent_id = await self._registry.resolve(request.path_params["agent"])
        post = posting.single(agent_id, await request.body())
        return json_reply(posting.told_single(post, await self._acceptance.accept(post)))

    async def post_batch(self, request: Request) -> Response:
        """Many tasks for one agent: all or none."""
        agent_id = await self._registry.resolve(request.path_params["agent"])
        post = posting.batch(agent_id, await request.body())
        return json_reply(posting.told_batch(post, await self._acceptance.accept(post)))

    # ---- looking

    async def show(self, request: Request) -> Response:
        """One task: its state, how often and when it was sent, what ended it, how and why."""
        agent_id = await self._registry.resolve(request.path_params["agent"])
        task_id = request.path_params["task_id"]
        messages.checked_task_id(task_id, "task_id")
        task = await self._mailbox.look(agent_id, task_id)
        if task is None:
            raise UnknownTask("no such task")
        return json_reply({"task_id": task_id, "agent_id": agent_id, **_shown(task)})

    # ---- cancelling

    async def cancel(self, request: Request) -> Response:
        """One task; the body does not matter."""
        agent_id = await self._registry.resolve(request.path_params["agent"])
        task_id = request.path_params["task_id"]
        messages.checked_task_id(task_id, "task_id")
        outcome = (await self._cancel(agent_id, [task_id]))[0]
        if isinstance(outcome, UnknownTask):
            raise outcome
        return json_reply({"task_id": task_id, "agent_id": agent_id, **outcome})

    async def cancel_batch(self, request: Request) -> Response:
        """Many tasks of one agent, each for itself."""
        agent_id = await self._registry.resolve(request.path_params["agent"])
        body: CancelBatch = messages.decoded(CancelBatch, await request.body())
        if not body.task_ids:
            raise BadInput("task_ids: at least one")
        if len(body.task_ids) > messages.MAX_TASKS:
            raise BadInput(f"task_ids: at most {messages.MAX_TASKS}")
        for task_id in body.task_ids:
            messages.checked_task_id(task_id, "task_ids[...]")
        outcomes = await self._cancel(agent_id, body.task_ids)
        results = [
            {"task_id": task_id, "status": "failed", "error": str(outcome)}
            if isinstance(outcome, UnknownTask)
            else {"task_id": task_id, **outcome}
            for task_id, outcome in zip(body.task_ids, outcomes, strict=True)
        ]
        failed = sum("error" in result for result in results)
        return json_reply(
            {
                "agent_id": agent_id,
                "task_count": len(results),
                "success_count": len(results) - failed,
                "failed_count": failed,
                "results": results,
            }
        )

    async def _cancel(self, agent_id: str, task_ids: Sequence[str]) -> list[dict[str, Any] | UnknownTask]:
        if await self._registry.profile(agent_id) is None:
            raise UnknownAgent("no such agent")
        outcomes: list[Cancelled] = []
        for start in range(0, len(task_ids), CANCELS):
            outcomes += await self._mailbox.cancel(agent_id, task_ids[start : start + CANCELS])
        if task_trail.is_followed():
            for task_id in task_ids:
                task_trail.tell("cancel asked", agent_id, task_id)
        await self._follow_up(agent_id, task_ids, outcomes)
        return [_answer(outcome) for outcome in outcomes]

    async def _follow_up(self, agent_id: str, task_ids: Sequence[str], outcomes: list[Cancelled]) -> None:
        """Ends are written, the owner is rung, and what only the agent may know is passed on to it."""
        owner = next((outcome.owner for outcome in outcomes if outcome.owner is not None), None)
        unknown = [task_id for task_id, o in zip(task_ids, outcomes, strict=True) if o.outcome == "unknown"]
        with contextlib.suppress(StoreUnavailable):  # ends are owed, cancels are kept
            if owner is not None:
                await self._inbox.ring([(owner, agent_id)])
            await self._feeds.pay_results([outcome.entry for outcome in outcomes if outcome.entry])
        if owner is not None and unknown:
            frame = messages.cancel_task(unknown[0]) if len(unknown) == 1 else messages.cancel_tasks_batch(unknown)
            await self._inbox.send(owner, agent_id, frame)


def _answer(outcome: Cancelled) -> dict[str, Any] | UnknownTask:
    if outcome.outcome == "unknown" and outcome.owner is None:
        return UnknownTask("no such task")
    if outcome.outcome in ("unknown", "kept"):
        return {"status": "cancelled", "source": "websocket" if outcome.owner else "pending_store"}
    return {"status": outcome.status or "cancelled", "source": "pending_store"}


def _shown(task: TaskState) -> dict[str, Any]:
    return {
        "status": task.state,
        "attempts": task.attempts,
        "created_at": _rfc3339(task.created_ms),
        "sent_at": _rfc3339(task.sent_ms),
        "ended_at": _rfc3339(task.ended_ms),
        "ended_by": task.ended_by,
        "exit_code": task.exit_code,
        "error_msg": task.error_msg,
        "error_code": task.error_code,
        "cancel_requested": task.is_cancel_asked,
    }


def _rfc3339(at_ms: int) -> str | None:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z" if at_ms else None
