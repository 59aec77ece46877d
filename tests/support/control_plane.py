"""The Django control plane as a client: it calls, signs when it has a secret, and repeats a POST until it is taken.

Owns how calls are made and taken down; knows nothing of what becomes of them (feed_reader.py reads the feeds). A repeated POST has the
same bytes, and so the same task id, which is what makes it harmless. Every attempt is recorded with its answer, also the one that got
none. Paths end with a slash, as Django's do.
"""

import asyncio
import hashlib
import hmac
import random
import time
import urllib.parse
from collections.abc import Mapping, Sequence

import msgspec

from tests.support.http_client import HttpClient, NoAnswer, Response
from tests.support.recorder import Answered, Posted, PostedTask, Recorder, digest

TaskLike = Mapping[str, object] | bytes
_COMES_BACK = frozenset({0, 502, 503, 504})


class NotAcceptedError(AssertionError):
    """A POST was repeated until the deadline and never taken."""


class ControlPlane:
    """Calls to one cluster, at one or several routers. `timeout_s` is Django's 10 s."""

    def __init__(
        self,
        *base_urls: str,
        recorder: Recorder | None = None,
        secret: str = "",
        timeout_s: float = 10.0,
        retry_s: float = 0.2,
        keep_alive: bool = False,
    ) -> None:
        self.recorder = recorder if recorder is not None else Recorder()
        self._clients = [HttpClient(url, keep_alive=keep_alive) for url in base_urls]
        self._secret = secret
        self._timeout_s, self._retry_s = timeout_s, retry_s

    async def close(self) -> None:
        """Close the connections kept alive."""
        for client in self._clients:
            await client.close()

    # ---- tasks ----

    async def post_task(
        self, agent: str | int, task: TaskLike, *, give_up_s: float = 60.0, everywhere: bool = False
    ) -> Response:
        """POST a task until it is answered with anything but "come back". `everywhere`: to all routers at once, each time.

        Raises: NotAcceptedError.
        """
        body = as_bytes(task)
        return await self._insist(f"/api/agents/{agent}/tasks/", body, str(agent), [body], give_up_s, everywhere)

    async def post_batch(
        self, agent: str | int, tasks: Sequence[TaskLike], *, give_up_s: float = 60.0, everywhere: bool = False
    ) -> Response:
        """POST several tasks for one agent in one call; otherwise as `post_task`."""
        bodies = [as_bytes(task) for task in tasks]
        body = b"[" + b",".join(bodies) + b"]"
        return await self._insist(f"/api/agents/{agent}/tasks/batch/", body, str(agent), bodies, give_up_s, everywhere)

    async def cancel(self, agent: str | int, task_id: str, *, give_up_s: float = 60.0) -> Response:
        """Cancel one task, insisting as `post_task` does."""
        path = f"/api/agents/{agent}/tasks/{urllib.parse.quote(task_id, safe='')}/cancel/"
        return await self._insist(path, b"", str(agent), [], give_up_s)

    async def cancel_batch(self, agent: str | int, task_ids: Sequence[str], *, give_up_s: float = 60.0) -> Response:
        """Cancel several."""
        body = msgspec.json.encode({"task_ids": task_ids})
        return await self._insist(f"/api/agents/{agent}/tasks/cancel/batch/", body, str(agent), [], give_up_s)

    # ---- agents ----

    async def control(self, agent: str | int, action: str, reason: str = "") -> Response:
        """One attempt."""
        return await self.call(
            "POST", f"/api/agents/{agent}/control/", msgspec.json.encode({"action": action, "reason": reason})
        )

    async def upgrade(self, agent: str | int, target_version: str, download_url: str) -> Response:
        """One attempt."""
        body = msgspec.json.encode({"target_version": target_version, "download_url": download_url})
        return await self.call("POST", f"/api/agents/{agent}/upgrade/", body)

    async def agents(self, query: str = "") -> Response:
        """The list of agents, one attempt."""
        return await self.call("GET", "/api/agents/" + (f"?{query}" if query else ""))

    async def agent(self, agent: str | int) -> Response:
        """One agent, one attempt."""
        return await self.call("GET", f"/api/agents/{agent}/")

    async def forget(self, agent: str | int) -> Response:
        """DELETE an agent, one attempt."""
        return await self.call("DELETE", f"/api/agents/{agent}/")

    async def metrics(self) -> Response:
        """One attempt."""
        return await self.call("GET", "/api/metrics/")

    # ---- one attempt ----

    async def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        target: str = "",
        tasks: Sequence[bytes] = (),
        router: int = 0,
    ) -> Response:
        """Make a call once, recorded. Status 0 stands for no answer, and its body says why."""
        call = self.recorder.new_name("call")
        posted = tuple(PostedTask(task_id_of(task), digest(task)) for task in tasks)
        self.recorder.add(Posted(call, method, path, target, posted))
        client = self._clients[router % len(self._clients)]
        headers = {"Content-Type": "application/json"} | self._signature(method, path, body)
        try:
            answer = await client.request(method, path, body=body, headers=headers, timeout_s=self._timeout_s)
        except NoAnswer as error:
            answer = Response(0, {}, str(error).encode())
        self.recorder.add(
            Answered(call, answer.status, "" if answer.status == 200 else answer.body.decode(errors="replace"))
        )
        return answer

    async def _insist(
        self, path: str, body: bytes, target: str, tasks: Sequence[bytes], give_up_s: float, everywhere: bool = False
    ) -> Response:
        deadline = time.monotonic() + give_up_s
        router = 0
        while True:
            answer = await self._attempt(path, body, target, tasks, router, everywhere)
            if answer.status not in _COMES_BACK:
                return answer
            if time.monotonic() > deadline:
                raise NotAcceptedError(
                    f"POST {path}: {answer.status} {answer.body.decode(errors='replace')} for {give_up_s:g} s"
                )
            router += 1
            await asyncio.sleep(self._retry_s)

    async def _attempt(
        self, path: str, body: bytes, target: str, tasks: Sequence[bytes], router: int, everywhere: bool
    ) -> Response:
        """The best of the answers: any that is not "come back"."""
        routers = range(len(self._clients)) if everywhere else (router,)
        calls = (self.call("POST", path, body, target=target, tasks=tasks, router=one) for one in routers)
        answers = await asyncio.gather(*calls)
        return next((answer for answer in answers if answer.status not in _COMES_BACK), answers[0])

    def _signature(self, method: str, path: str, body: bytes) -> dict[str, str]:
        return signature(self._secret, method, path, body, int(time.time())) if self._secret else {}


def signature(secret: str, method: str, path: str, body: bytes, timestamp_s: int) -> dict[str, str]:
    """The headers of a signed call (protocol.md, section 2)."""
    plain = urllib.parse.unquote(path.partition("?")[0])
    text = f"{timestamp_s}\n{method}\n{plain}\n".encode() + body
    return {"X-Timestamp": str(timestamp_s), "X-Signature": hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()}


def as_bytes(task: TaskLike) -> bytes:
    """A task as it will be posted, and delivered, byte for byte."""
    return task if isinstance(task, bytes) else msgspec.json.encode(task)


def task_id_of(task: bytes) -> str:
    """The id in a task's bytes; "" when there is none to be found."""
    try:
        return str(msgspec.json.decode(task).get("id") or "")
    except (msgspec.MsgspecError, AttributeError, UnicodeDecodeError):
        return ""


def new_task(host_id: int = 0, *, execution_id: int = 1, step_id: int = 1, **fields: object) -> dict[str, object]:
    """A task with a fresh id of the control plane's form, `{execution_id}_{step_id}_{host_id}_{random}`."""
    task_id = f"{execution_id}_{step_id}_{host_id}_{random.getrandbits(64):016x}"
    return {"id": task_id, "name": "a task", "type": "command", "command": "true", "timeout_sec": 60} | fields
