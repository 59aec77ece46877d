"""`POST /api/agents/register`: answered by routers and nodes alike.

Rules: a known token is never refused, because an agent whose registration fails stays away until its process is restarted - unless the
control plane, where it is asked, refuses it (cluster/verification.py); its agent is not forgotten. Redis away: the request is held, then
503. New agents are taken at a bounded pace an address; who comes too fast waits, then 429.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from cluster import messages, security
from cluster.batching import Batcher
from cluster.errors import BadInput, Refused, StoreUnavailable, TooManyNew, UnknownAgent
from cluster.feeds import Feeds, StatusEntry, identity
from cluster.messages import Registration
from cluster.proxies import Scope, public_ws_base
from cluster.redis_client import Store
from cluster.registry import Registered, Registry
from cluster.replies import json_reply
from cluster.verification import Verdict, Verification, shown

HOLD_S = 25.0  # the agent's client waits 30
TELL_S = 2.0
AT_ONCE = 128  # registrations that talk to Redis, and share its calls; a storm waits its turn
RETRY_S = 0.5
NEW_BURST, NEW_PER_S = 10_000, 100  # new agents of one address
ADDRESSES = 10_000  # of which a pace is remembered
NAME_CHARS, LABELS, SYSTEM_BYTES = 256, 100, 16 << 10  # what is kept of a profile; the rest is cut, not refused
PATHS = frozenset(("/api/agents/register", "/api/agents/register/"))
REFUSED = {Refused: "refused", UnknownAgent: "refused", TooManyNew: "too_many_new", StoreUnavailable: "redis_away"}
EVENTS = ("new", "known", "host_id_refused", *dict.fromkeys(REFUSED.values()))

Profile = tuple[str, int, dict[str, str], dict[str, Any]]  # name, host id or 0, labels, system: as they are kept
IsGone = Callable[[], Awaitable[bool]]  # whether who asked has hung up

logger = logging.getLogger(__name__)
_encode = msgspec.json.encode


class Pace:
    """How many new agents each address may still bring: a bucket that fills with time."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}

    def allows(self, address: str, now_s: float) -> bool:
        """Takes one from the address's bucket, if there is one."""
        left, since_s = self._buckets.pop(address, (float(NEW_BURST), now_s))
        left = min(NEW_BURST, left + (now_s - since_s) * NEW_PER_S)
        self._buckets[address] = (max(left - 1, 0.0) if left >= 1 else left, now_s)
        if len(self._buckets) > ADDRESSES:
            del self._buckets[next(iter(self._buckets))]
        return left >= 1

    def give_back(self, address: str) -> None:
        """What was taken was not needed."""
        if (bucket := self._buckets.get(address)) is not None:
            self._buckets[address] = (bucket[0] + 1, bucket[1])


class Asked(Struct, frozen=True):
    """A registration that is asked for as it should be."""

    body: bytes
    token: str
    is_made: bool  # the token: by us
    name: str  # as it came
    profile: Profile
    address: str
    ws_base: str  # see public_ws_base


class RegistrationEndpoint:
    """Reads registrations and answers them; `register` is the Starlette endpoint."""

    def __init__(
        self, store: Store, registry: Registry, feeds: Feeds,
        *, public_url: str, is_open: bool, counts: dict[str, int], verification: Verification | None = None,
    ) -> None:  # fmt: skip
        """`counts`: by EVENTS; `verification`: where the control plane is to be asked."""
        self._store = store
        self._registry = registry
        self._feeds = feeds
        self._public_url = public_url
        self._is_open = is_open
        self._counts = counts
        self._verification = verification
        self._pace = Pace()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._entries: Batcher[StatusEntry, None] = Batcher("registered", self._append)

    async def register(self, request: Request) -> Response:
        """Registers, and tells where to connect."""
        asked = self.read(request.scope, await request.body())
        return json_reply(await self.answer(asked, request.is_disconnected))

    def read(self, scope: Scope, body: bytes) -> Asked:
        """What a request asks for. Raises: BadInput, ConfigError."""
        base = public_ws_base(scope, self._public_url)
        said: Registration = messages.decoded(Registration, body)
        token, is_made = _token(scope, said)
        address = scope["client"][0] if scope.get("client") else ""
        return Asked(body, token, is_made, said.name or "", _profile(said), address, base)

    async def answer(self, asked: Asked, is_gone: IsGone) -> dict[str, str]:
        """Registers, and says where to connect. Raises: Refused, UnknownAgent, TooManyNew, StoreUnavailable."""
        try:
            registered = await self._held(asked, is_gone)
        except tuple(REFUSED) as error:
            self._counts[_refusal(error)] += 1
            raise
        async with self._turns:
            await self._tell(registered, asked.profile)
        answer = {
            "id": registered.id,
            "name": asked.name,
            "status": "active",
            "ws_url": f"{asked.ws_base}/ws/agent/{registered.id}",
        }
        return {**answer, "token": asked.token} if asked.is_made else answer

    async def _held(self, asked: Asked, is_gone: IsGone) -> Registered:
        """Registers; while Redis is away, or this address brings too many new agents, the caller waits.

        One that has hung up is not registered later: it would count as a new process of the agent.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + HOLD_S
        may_be_new: bool | None = None
        while True:
            try:
                if may_be_new is None:
                    may_be_new = await self._may_be_new(asked.token, asked.body)
                async with self._turns:
                    return await self._register(asked, may_be_new=may_be_new)
            except (StoreUnavailable, TooManyNew):
                if loop.time() + RETRY_S > deadline or await is_gone():
                    raise
            await asyncio.sleep(RETRY_S)

    async def _may_be_new(self, token: str, body: bytes) -> bool:
        """Whether an unknown token makes an agent. Raises: Refused, when the control plane wants no agent with this token."""
        if self._verification is None:
            return self._is_open
        async with self._turns:  # given back while the control plane thinks
            is_known = await self._registry.is_known(token)
        verdict = await self._verification.of(self._registry.id_of(token), shown(body, token), is_known=is_known)
        if verdict is Verdict.REFUSED:
            raise Refused("the control plane refuses this token")
        return verdict is Verdict.ACCEPTED or self._is_open

    async def _register(self, asked: Asked, *, may_be_new: bool) -> Registered:
        is_free = may_be_new and self._pace.allows(asked.address, asyncio.get_running_loop().time())
        is_new = False
        try:
            registered = await self._registry.register(asked.token, *asked.profile, may_be_new=is_free)
            is_new = registered.is_new
        except UnknownAgent:
            if may_be_new:
                raise TooManyNew("too many new agents from this address") from None
            raise
        finally:
            if is_free and not is_new:
                self._pace.give_back(asked.address)
        return registered

    async def _append(self, entries: list[StatusEntry]) -> list[None]:
        await self._feeds.append_status(entries)
        return [None] * len(entries)

    async def _tell(self, registered: Registered, profile: Profile) -> None:
        """The counts, the log's line and the status feed's entry, which says what the profile does."""
        name, host_id, _, system = profile
        fields = {"agent_id": registered.id, "host_id": host_id}
        if registered.kept_host_id:
            self._counts["host_id_refused"] += 1
            logger.warning("host_id belongs to another agent that is online; it stays there", extra=fields)
        newness = "new" if registered.is_new else "known"
        self._counts[newness] += 1
        logger.info("registered, %s", newness, extra=fields)
        now_ms = str(self._store.now_ms())
        host = "" if registered.kept_host_id else str(host_id or "")
        known = [(field, str(system.get(field) or "")) for field in ("hostname", "os", "arch")]
        entry = (
            *identity(registered.id, name, host),
            *("status", "active", "event", "registered", "last_heartbeat", now_ms, "timestamp", now_ms),
            *(part for pair in known if pair[1] for part in pair),
        )
        told = self._entries.put(StatusEntry(registered.id, "0", "any", entry))
        timer = told.get_loop().call_later(TELL_S, _give_up, told)  # asyncio's timeout costs three times as much
        try:
            await told
        except (StoreUnavailable, TimeoutError):
            logger.warning("the status feed misses a registration", extra=fields)
        finally:
            timer.cancel()


def _give_up(told: asyncio.Future[None]) -> None:
    if not told.done():
        told.set_exception(TimeoutError())


def _refusal(error: Exception) -> str:
    return next(name for kind, name in REFUSED.items() if isinstance(error, kind))


def _token(scope: Scope, body: Registration) -> tuple[str, bool]:
    """(the agent's token, whether we made it). A token in the body wins over the header's."""
    header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, bearer = header.decode("latin-1").partition(" ")
    token = (body.token or "").strip() or (bearer.strip() if scheme.lower() == "bearer" else "")
    if token and not security.is_token(token):
        raise BadInput("token: 1 to 256 of A-Z a-z 0-9 ! # $ % & ' * + - . ^ _ | ~")
    return (token, False) if token else (security.new_token(), True)


def _profile(body: Registration) -> Profile:
    system = body.system or {}
    if len(_encode(system)) > SYSTEM_BYTES:
        system = {name: str(system.get(name, ""))[:NAME_CHARS] for name in ("hostname", "os", "arch")}
    labels = {key[:NAME_CHARS]: (value or "")[:NAME_CHARS] for key, value in list((body.labels or {}).items())[:LABELS]}
    return (body.name or "")[:NAME_CHARS], max(body.host_id or 0, 0), labels, system
