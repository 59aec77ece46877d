"""Whether the control plane wants an agent here: `control_plane.verify_registration`.

Owns how often it is asked, and what is remembered; knows neither HTTP nor Redis. Rules:

- A known token is asked for once in `REMEMBERED_S` a process, whatever came of it: a storm of agents that come back does not hammer the
  control plane. An unknown one is asked for each time it comes.
- Equal questions at one time are one. After a call that failed, known tokens, which pass then, are not asked for during `QUIET_S`, so
  that a fleet does not wait for a control plane that is away.
- Nothing here keeps a token: answers are remembered by agent id.
"""

import asyncio
import enum

import msgspec
from msgspec import Raw

from cluster.control_plane import ControlPlane, Trouble
from cluster.http_call import NoAnswer
from cluster.messages import MALFORMED

REMEMBERED_S = 300.0
REMEMBERED = 50_000  # agents; the oldest answers go
AT_ONCE = 16  # calls
TURN_S = 5.0  # what a registration waits for its turn; with the call it leaves Redis 10 of the 25 s
QUIET_S = 5.0
SHOWN_BYTES = 64 << 10  # of a larger registration little more than the token is shown
OUTCOMES = ("accepted", "refused", "not_asked", "remembered")

_encode = msgspec.json.encode
_fields = msgspec.json.Decoder(dict[str, Raw]).decode


class Verdict(enum.Enum):
    """What the control plane says of a registration."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    NOT_ASKED = "not_asked"  # it could not be


class Verification:
    """What one process asked the control plane about agents."""

    def __init__(self, plane: ControlPlane, counts: dict[str, int]) -> None:
        """`counts`: by OUTCOMES."""
        self._plane = plane
        self._counts = counts
        self._remembered: dict[str, tuple[float, Verdict]] = {}
        self._asking: dict[str, asyncio.Task[Verdict]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._quiet_until = 0.0
        self._trouble = Trouble("registrations are not verified", QUIET_S)

    async def of(self, agent_id: str, registration: bytes, *, is_known: bool) -> Verdict:
        """The verdict on this registration (see `shown`), within 15 s."""
        remembered = self._recall(agent_id) if is_known else None
        if remembered is not None:
            self._counts["remembered"] += 1
            return remembered
        asking = self._asking.get(agent_id)
        if asking is None:
            asking = asyncio.create_task(self._ask(agent_id, registration, is_known=is_known), name="verify")
            self._asking[agent_id] = asking
            asking.add_done_callback(lambda _: self._asking.pop(agent_id, None))
        return await asyncio.shield(asking)  # who hangs up does not end it for the others

    def _recall(self, agent_id: str) -> Verdict | None:
        until_s, verdict = self._remembered.get(agent_id, (0.0, Verdict.NOT_ASKED))
        return verdict if asyncio.get_running_loop().time() < until_s else None

    async def _ask(self, agent_id: str, registration: bytes, *, is_known: bool) -> Verdict:
        verdict = Verdict.NOT_ASKED
        if await self._has_turn():
            try:
                if not (is_known and asyncio.get_running_loop().time() < self._quiet_until):
                    verdict = await self._call(registration)
                    if is_known or verdict is Verdict.ACCEPTED:
                        self._remember(agent_id, verdict)
            finally:
                self._turns.release()
        self._counts[verdict.value] += 1
        return verdict

    async def _has_turn(self) -> bool:
        try:
            async with asyncio.timeout(TURN_S):
                return await self._turns.acquire()
        except TimeoutError:
            return False

    async def _call(self, registration: bytes) -> Verdict:
        loop = asyncio.get_running_loop()
        try:
            is_accepted = await self._plane.accepts(registration)
        except NoAnswer as error:
            self._quiet_until = loop.time() + QUIET_S
            self._trouble.begin(error, loop.time())
            return Verdict.NOT_ASKED
        self._trouble.end(loop.time())
        return Verdict.ACCEPTED if is_accepted else Verdict.REFUSED

    def _remember(self, agent_id: str, verdict: Verdict) -> None:
        self._remembered.pop(agent_id, None)
        self._remembered[agent_id] = (asyncio.get_running_loop().time() + REMEMBERED_S, verdict)
        if len(self._remembered) > REMEMBERED:
            del self._remembered[next(iter(self._remembered))]


def shown(body: bytes, token: str) -> bytes:
    """A registration as the control plane is shown it: what the agent sent, with its token in the body."""
    try:
        body.decode()  # fields that nobody here reads were not looked at yet
        said = _fields(body or b"{}")
    except MALFORMED:
        said = {}
    if len(body) > SHOWN_BYTES:
        said = {name: said[name] for name in ("name", "host_id") if len(said.get(name, b"")) in range(1, SHOWN_BYTES)}
    return _encode({**said, "token": token})
