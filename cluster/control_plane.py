"""The one place that talks to the control plane: what it is asked, and how its answers are understood.

Owns paths, bearer and bounds of the calls; knows neither agents' connections nor what follows from an answer. Rules:

- Registrations: only 403 with `{"refused": true}` refuses, only 200 or 201 with a JSON object vouches. Anything else is `NoAnswer`:
  it could not be asked.
- Tasks: 200 is a task, 204 and 404 are none, anything else is `NoAnswer`.
- Tokens go into requests, and into nothing else.
"""

import logging
from urllib.parse import quote

import msgspec

from cluster import settings
from cluster.http_call import Answer, NoAnswer, Server

REGISTER = "/api/agents/register/"
ASK_S = 10.0  # of the 25 s that a registration is held; its agent's client waits 30
VERDICT_BYTES = 1 << 20

logger = logging.getLogger(__name__)
_encode = msgspec.json.encode


class ControlPlane:
    """The control plane of `control_plane.url`."""

    def __init__(self, config: settings.ControlPlane, max_task_bytes: int) -> None:
        self._server = Server(config.url)
        self._headers = {"Authorization": f"Bearer {config.token}"} if config.token else {}
        self._timeout_s = config.timeout_s
        self._scope = config.scope
        self._max_task_bytes = max_task_bytes

    async def accepts(self, registration: bytes) -> bool:
        """Whether the agent of this registration may be here. Takes `ASK_S` at the most. Raises: NoAnswer, it could not be asked."""
        answer = await self._server.post(
            REGISTER,
            registration,
            self._headers,
            within_s=min(self._timeout_s, ASK_S),
            max_bytes=VERDICT_BYTES,
        )
        said = _object(answer)
        refuses = said is not None and said.get("refused") is True
        if answer.status == 403 and refuses:
            return False
        if answer.status not in (200, 201):
            raise NoAnswer(f"it answers {answer.status}")
        if said is None or refuses:
            raise NoAnswer(f"it answers {answer.status} with a body that vouches for nobody")
        return True

    async def next_task(self, agent_id: str, host_id: int) -> bytes | None:
        """A task for this agent, as it was written; None: there is none. Raises: NoAnswer, AnswerTooLarge."""
        asked = {"host_id": host_id or None, "scope": self._scope or None}
        answer = await self._server.post(
            f"/api/agents/{quote(agent_id, safe='')}/next-task/",
            _encode({name: value for name, value in asked.items() if value is not None}),
            self._headers,
            within_s=self._timeout_s,
            max_bytes=self._max_task_bytes,
        )
        if answer.status == 200:
            return answer.body
        if answer.status in (204, 404):
            return None
        raise NoAnswer(f"it answers {answer.status}")


class Trouble:
    """Says once that the control plane is of no help, and once that it is again."""

    def __init__(self, meaning: str, calm_s: float) -> None:
        """`meaning`: what does not go on meanwhile; `calm_s`: how long after the last failure an answer counts as recovery."""
        self._meaning = meaning
        self._calm_s = calm_s
        self._failed_s: float | None = None

    def begin(self, reason: NoAnswer, now_s: float) -> None:
        """A call failed."""
        if self._failed_s is None:
            logger.warning("the control plane cannot be asked, %s: %s", self._meaning, reason)
        self._failed_s = now_s

    def end(self, now_s: float) -> None:
        """A call was answered."""
        if self._failed_s is not None and now_s - self._failed_s >= self._calm_s:
            self._failed_s = None
            logger.warning("the control plane answers again")


def _object(answer: Answer) -> dict[str, object] | None:
    try:
        return msgspec.json.decode(answer.body, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
