"""The calls to the API about the tasks of a run: posted, looked at, cancelled. A call runs in a thread.

Rule: a post that got no answer is repeated with the same bytes, which changes nothing.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from cluster.client.api import Api
from cluster.client.job import Job
from cluster.client.outcome import INTERRUPTED, ComeBack, Failed

POSTS = 3  # attempts


class Orders:
    """What is asked of one server about one command. `spec`: the task, without its id."""

    def __init__(self, api: Api, spec: Mapping[str, Any]) -> None:
        self._api = api
        self._spec = spec

    @property
    def limit_s(self) -> float | None:
        """How long a task may run."""
        return self._spec.get("timeout_sec")

    async def post(self, job: Job, is_stopped: Callable[[], bool]) -> None:
        """Posts the task of a job, unless that is to stop. Raises: Failed."""
        said = await self._insist(job, {"id": job.task_id, **self._spec}, is_stopped)
        job.is_posted, job.is_waiting = True, said.get("status") == "pending"

    async def look(self, job: Job) -> dict[str, Any]:
        """How a task stands. Raises: Failed, NotFound."""
        said: dict[str, Any] = await self._call(job, "GET", job.task_id)
        return said

    async def cancel(self, job: Job) -> None:
        """Asks for its end. Raises: Failed."""
        await self._call(job, "POST", job.task_id, "cancel")

    async def _insist(self, job: Job, body: Mapping[str, Any], is_stopped: Callable[[], bool]) -> dict[str, Any]:
        for attempt in range(POSTS):
            if is_stopped():
                raise Failed("interrupted before it was posted", INTERRUPTED)
            try:
                said: dict[str, Any] = await self._call(job, "POST", body=body)
            except ComeBack:
                if attempt == POSTS - 1:
                    raise
                await asyncio.sleep(attempt + 0.5)
            else:
                return said
        raise AssertionError  # the last attempt returned or raised

    async def _call(self, job: Job, method: str, *parts: str, body: object = None) -> Any:
        call = partial(self._api.call, method, "api", "agents", job.agent.id, "tasks", *parts, body=body)
        return await asyncio.to_thread(call)
