"""Who an agent is and who owns it: profiles, claims, leases.

Owns the keys `owners`, `agent`, `agents`, `lease` and `deadlines`; knows nothing of tasks or sockets. Rules:

- Ownership is compared and changed inside scripts only. An epoch is given out once, even after Redis came back empty.
- The lease's expiry is the heartbeat timeout and the only authority on whether an agent lives; times are Redis's, ages are ours.
- Ending an ownership owes the status feed an `offline` entry in the same script; whoever ended it writes it, the reaper what is left.
"""

import itertools
import re
import secrets
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from cluster import security
from cluster.batching import Batcher
from cluster.errors import BadInput, Refused, UnknownAgent, WrongToken
from cluster.hosts import NO_SUCH_HOST, Hosts
from cluster.keys import Keys
from cluster.redis_client import Store
from cluster.redis_line import Command
from cluster.scripts import packed

CONNECT_WITHIN_S = 600  # a new registration that does not connect is forgotten after this long
_REFERENCE = re.compile(r"[A-Za-z0-9._-]{1,64}")
PAGE = 500  # profiles read in one round trip

Item = TypeVar("Item")
Reply = TypeVar("Reply")
_encode = msgspec.json.encode


class Owner(Struct, frozen=True, gc=False):
    """A claim: which process of which node holds the agent, and the claim's fencing number."""

    node: str
    boot: str
    epoch: int

    def __str__(self) -> str:
        return f"{self.node}:{self.boot}:{self.epoch}"

    @classmethod
    def parse(cls, text: bytes) -> "Owner | None":
        """The owner that a key holds; None when it holds none, or what is no owner."""
        try:
            node, boot, epoch = text.decode().split(":")
            return Owner(node, boot, int(epoch))
        except ValueError:
            return None


_NOBODY = Owner("", "", 0)


class Profile(Struct, frozen=True, gc=False):
    """What is known of an agent. `host_id` is 0 when it has none; `labels` and `system` are JSON; times in unix ms, 0 = never."""

    id: str
    name: str = ""
    host_id: int = 0
    labels: Raw = Raw(b"{}")
    system: Raw = Raw(b"{}")
    hostname: str = ""
    os: str = ""
    arch: str = ""
    token_hash: str = ""
    incarnation: int = 0
    registered_ms: int = 0
    heard_ms: int = 0
    owner: Owner | None = None


class Registered(Struct, frozen=True):
    """The answer to a registration."""

    id: str
    is_new: bool
    incarnation: int
    kept_host_id: bool


class Bid(Struct, frozen=True, gc=False):
    """A session that wants to own its agent. `force`: however often it was taken over of late.

    `token_hash`: of the token that it shows; "" where a session that was let in before bids again.
    """

    agent_id: str
    node: str
    boot: str
    address: str
    token_hash: str
    force: bool = False


class Claim(Struct, frozen=True):
    """A claim that was granted. `taken`: the mailbox cursor at that moment; `unended`: tasks up to there that have not ended.

    `profile`: of the agent, as it was then, without the claim.
    """

    owner: Owner
    previous: Owner | None
    incarnation: int
    taken: int
    unended: int
    profile: Profile


class Contested(Struct, frozen=True):
    """A claim that was not granted: too many takeovers, as by hosts that share a token. `address` is the holder's.

    `is_first`: of those within the same 30 s.
    """

    address: str
    holder: Owner
    is_first: bool


ClaimOutcome = Claim | Contested | UnknownAgent | Refused | WrongToken


class Renewal(Struct, frozen=True, gc=False):
    """One agent whose lease is to live on: the ms since it was heard, and the cancels its session knows of."""

    agent_id: str
    owner: str
    age_ms: int
    cancels: str


# Why a lease was not renewed: another owns it, nobody does, the agent is not known, it was forgotten.
TAKEN_OVER, EXPIRED, UNKNOWN, REVOKED = -1, -2, -3, -4
HAS_MAIL, HAS_CANCELS = 1, 2  # what waits for an agent whose lease was renewed


# The fields of `agent` that make a profile, in the order in which they are read.
_PROFILE = (
    "token_hash", "name", "host_id", "labels", "system", "hostname", "os", "arch", "incarnation", "registered", "last_seen",
)  # fmt: skip


class Overdue(Struct, frozen=True, gc=False):
    """An agent whose lease should have run out, and the ms since it was heard."""

    agent_id: str
    owner: Owner
    silent_ms: int


class Release(Struct, frozen=True, gc=False):
    """An ownership that ends. `if_expired` ends it only when its lease has run out."""

    agent_id: str
    owner: str
    reason: str
    age_ms: int
    if_expired: bool = False


class Registry:
    """Profiles and ownership of all agents."""

    def __init__(self, store: Store, heartbeat_timeout_s: float, forget_after_s: float, max_takeovers: int) -> None:
        self._store = store
        self._keys: Keys = store.keys
        self.timeout_ms = int(heartbeat_timeout_s * 1000)
        self._forget_ms = int(forget_after_s * 1000)
        self._max_takeovers = max_takeovers
        self.hosts = Hosts(store, self.timeout_ms)
        self._marks = itertools.count(secrets.randbits(32))
        self._profiles: Batcher[str, Profile | None] = Batcher("profiles", self.profiles)
        self._registrations: Batcher[tuple[str, ...], list[Any]] = Batcher("register", self._register)

    # ---- who it is

    def id_of(self, token: str) -> str:
        """The id of the agent with this token."""
        return security.agent_id(self._store.id_key, token)

    async def is_known(self, token: str) -> bool:
        """Whether an agent has this token. Raises: Refused when it was revoked; StoreUnavailable."""
        try:
            await self.credentials(self.id_of(token))
        except UnknownAgent:
            return False
        return True

    async def register(
        self, token: str, name: str, host_id: int, labels: dict[str, str], system: dict[str, Any], *, may_be_new: bool
    ) -> Registered:
        """Writes a profile and counts a new process of the agent.

        Raises: UnknownAgent when the token is new and `may_be_new` is false; Refused when it was revoked; StoreUnavailable.
        """
        agent_id = self.id_of(token)
        seen = [name, _encode(labels).decode(), _encode(system).decode()]
        seen += [str(system.get(field) or "") for field in ("hostname", "os", "arch")]
        reply = await self._registrations.put((agent_id, security.token_hash(token), str(int(may_be_new)), *seen))
        if reply[0] == b"revoked":
            raise Refused("this token was revoked")
        if reply[0] == b"unknown":
            raise UnknownAgent("unknown token")
        is_given = await self.hosts.give(agent_id, host_id, reply[3])
        return Registered(agent_id, bool(reply[2]), reply[1], not is_given)

    async def _register(self, items: Sequence[tuple[str, ...]]) -> list[list[Any]]:
        return await by_shard(self._keys, items, lambda item: item[0], self._register_in)

    async def _register_in(self, shard: int, items: list[tuple[str, ...]]) -> list[list[Any]]:
        keys = [self._keys.in_shard(shard, name) for name in ("agents", "agent:")]
        return list(await self._store.run("register", keys, packed(items), CONNECT_WITHIN_S * 1000))

    async def profile(self, agent_id: str) -> Profile | None:
        """One profile with its owner; None when there is no such agent."""
        return await self._profiles.submit(agent_id)

    async def profiles(self, agent_ids: Sequence[str]) -> list[Profile | None]:
        """The profiles of these agents, None for those that are not known."""
        found: list[Profile | None] = []
        for start in range(0, len(agent_ids), PAGE):
            found += await self._page(agent_ids[start : start + PAGE])
        return found

    async def _page(self, agent_ids: Sequence[str]) -> list[Profile | None]:
        commands: list[Command] = []
        for agent_id in agent_ids:
            commands += (
                ("HMGET", self._keys.of_agent("agent", agent_id), *_PROFILE),
                ("PTTL", self._keys.of_agent("lease", agent_id)),
                ("HGET", self._of(agent_id, "owners"), agent_id),
            )
        rows = await self._store.ask(*commands)
        now_ms = self._store.now_ms()
        return [
            self._profile(agent_id, rows[3 * n], rows[3 * n + 1], rows[3 * n + 2], now_ms) if rows[3 * n][0] else None
            for n, agent_id in enumerate(agent_ids)
        ]

    def _profile(
        self, agent_id: str, row: list[bytes | None], left_ms: int, owner: bytes | None, now_ms: int
    ) -> Profile:
        token_hash, name, host_id, labels, system, hostname, os, arch, incarnation, registered, last_seen = row
        return Profile(
            id=agent_id,
            name=_text(name),
            host_id=_number(host_id),
            labels=Raw(labels or b"{}"),
            system=Raw(system or b"{}"),
            hostname=_text(hostname),
            os=sys.intern(_text(os)),
            arch=sys.intern(_text(arch)),
            token_hash=_text(token_hash),
            incarnation=_number(incarnation),
            registered_ms=_number(registered),
            heard_ms=now_ms + left_ms - self.timeout_ms if left_ms > 0 else _number(last_seen),
            owner=Owner.parse(owner) if owner else None,
        )

    async def put_back(self, profiles: Sequence[Profile]) -> None:
        """Writes profiles of connected agents into a Redis that forgot them; not of those that were revoked. Raises: StoreUnavailable."""
        await self._store.agree()
        keys = [self._keys.of_agent("agent", profile.id) for profile in profiles]
        async with self._store.session() as client:
            pipe = client.pipeline(transaction=False)
            for key in keys:
                pipe.hexists(key, "revoked")
            revoked = await pipe.execute()
            for key, profile, is_revoked in zip(keys, profiles, revoked, strict=True):
                if not is_revoked:
                    pipe.hset(key, mapping=_fields(profile))
                    pipe.hsetnx(key, "incarnation", str(profile.incarnation))
                    if profile.host_id:
                        pipe.set(self._keys.host(str(profile.host_id)), profile.id, nx=True)
            await pipe.execute()

    async def credentials(self, agent_id: str) -> Profile:
        """The profile, or why there is none. Raises: UnknownAgent, Refused, StoreUnavailable."""
        profile = await self._profiles.submit(agent_id)
        if profile is None:
            async with self._store.session() as client:
                if await client.hexists(self._keys.of_agent("agent", agent_id), "revoked"):
                    raise Refused("this agent was revoked")
            raise UnknownAgent("no such agent")
        return profile

    async def resolve(self, reference: str) -> str:
        """The agent id behind an id or a host id (all digits). Raises: BadInput, UnknownAgent, StoreUnavailable."""
        if _REFERENCE.fullmatch(reference) is None:
            raise BadInput("agent id: 1 to 64 of A-Z a-z 0-9 . _ -")
        if not reference.isdigit():
            return reference
        agent_id = await self.hosts.agent_of(int(reference))
        if agent_id is None:
            raise UnknownAgent(NO_SUCH_HOST)
        return agent_id

    async def ids(self) -> list[str]:
        """All agents in the directory."""
        async with self._store.session() as client:
            pipe = client.pipeline(transaction=False)
            for shard in range(self._keys.shards):
                pipe.zrange(self._keys.in_shard(shard, "agents"), 0, -1)
            return [agent_id.decode() for page in await pipe.execute() for agent_id in page]

    async def count(self) -> tuple[int, int]:
        """(agents known, agents online)."""
        async with self._store.session() as client:
            pipe = client.pipeline(transaction=False)
            for shard in range(self._keys.shards):
                pipe.zcard(self._keys.in_shard(shard, "agents"))
                pipe.hlen(self._keys.in_shard(shard, "owners"))
            counts = await pipe.execute()
        return sum(counts[::2]), sum(counts[1::2])

    async def held(self) -> dict[tuple[str, str], int]:
        """How many agents the claims of each process hold: by node and boot. Raises: StoreUnavailable."""
        held: Counter[tuple[str, str]] = Counter()
        async with self._store.session() as client:
            for shard in range(self._keys.shards):
                async for _, value in client.hscan_iter(self._keys.in_shard(shard, "owners"), count=PAGE):
                    if owner := Owner.parse(value):
                        held[owner.node, owner.boot] += 1
        return held

    async def owner(self, agent_id: str) -> Owner | None:
        """Who owns the agent now."""
        async with self._store.session() as client:
            return Owner.parse(await client.hget(self._of(agent_id, "owners"), agent_id) or b"")

    # ---- who owns it

    async def claim(self, claims: Sequence[Bid]) -> list[ClaimOutcome]:
        """Makes sessions the owners of their agents; the newest wins. Who is not let in changes nothing."""
        return await by_shard(self._keys, claims, lambda bid: bid.agent_id, self._claim)

    async def _claim(self, shard: int, items: list[Bid]) -> list[ClaimOutcome]:
        keys = [self._keys.in_shard(shard, name) for name in ("owners", "deadlines", "agents")]
        for bid in items:
            keys += [self._keys.of_agent(name, bid.agent_id) for name in ("agent", "lease", "mail")]
        replies = await self._store.run(
            "claim", keys, packed([_texts(bid, next(self._marks)) for bid in items]),
            self.timeout_ms, self._forget_ms, self._max_takeovers, *_PROFILE,
        )  # fmt: skip
        return [self._claimed(item, reply) for item, reply in zip(items, replies, strict=True)]

    def _claimed(self, item: Bid, reply: list[Any]) -> ClaimOutcome:
        match reply:
            case [b"ok", epoch, previous, incarnation, taken, unended, row]:
                owner = Owner(item.node, item.boot, int(epoch))
                profile = self._profile(item.agent_id, row, 0, None, 0)
                return Claim(owner, Owner.parse(previous), int(incarnation), int(taken), int(unended), profile)
            case [b"contested", address, holder, is_first]:
                return Contested(address.decode(), Owner.parse(holder) or _NOBODY, is_first == b"1")
            case [b"revoked"]:
                return Refused("this agent was revoked")
            case [b"wrong token"]:
                return WrongToken("wrong or no token")
        return UnknownAgent("no such agent")

    async def renew(self, renewals: Sequence[Renewal]) -> list[int]:
        """Prolongs leases from when each agent was last heard; the reason for each that is lost (< 0), else flags of what waits."""
        return await by_shard(self._keys, renewals, lambda item: item.agent_id, self._renew)

    async def _renew(self, shard: int, items: list[Renewal]) -> list[int]:
        keys = [self._keys.in_shard(shard, "owners"), self._keys.in_shard(shard, "deadlines")]
        for item in items:
            keys += [self._keys.of_agent(name, item.agent_id) for name in ("lease", "mail", "agent")]
        arg = packed([(item.agent_id, item.owner, str(item.age_ms), item.cancels) for item in items])
        return list(await self._store.run("renew", keys, arg, self.timeout_ms))

    async def release(self, releases: Sequence[Release]) -> list[bytes]:
        """Ends ownerships that are still theirs. For each: the offline entry owed to the status feed, b"" when nothing ended."""
        return await by_shard(self._keys, releases, lambda item: item.agent_id, self._release)

    async def _release(self, shard: int, items: list[Release]) -> list[bytes]:
        keys = [self._keys.in_shard(shard, name) for name in ("owners", "deadlines", "agents", "unfed")]
        for item in items:
            keys += [self._keys.of_agent("agent", item.agent_id), self._keys.of_agent("lease", item.agent_id)]
        keys.append(self._keys.in_shard(shard, "ledger"))
        arg = packed([(i.agent_id, i.owner, i.reason, str(i.age_ms), str(int(i.if_expired))) for i in items])
        return list(await self._store.run("release", keys, arg, self._forget_ms))

    async def overdue(self, limit: int) -> list[Overdue]:
        """Owned agents whose deadline has passed, at most `limit` a shard. Whether the lease has run out, release sees."""
        found: list[Overdue] = []
        ownerless: list[Release] = []
        now_ms = self._store.now_ms()
        async with self._store.session() as client:
            for shard in range(self._keys.shards):
                deadlines, owners = (self._keys.in_shard(shard, name) for name in ("deadlines", "owners"))
                late = await client.zrangebyscore(deadlines, "-inf", now_ms, start=0, num=limit, withscores=True)
                values = await client.hmget(owners, [agent_id for agent_id, _ in late]) if late else []
                for (agent_id, deadline_ms), value in zip(late, values, strict=True):
                    silent_ms = max(0, now_ms - int(deadline_ms) + self.timeout_ms)
                    if owner := Owner.parse(value or b""):
                        found.append(Overdue(agent_id.decode(), owner, silent_ms))
                    else:
                        ownerless.append(
                            Release(agent_id.decode(), _text(value), "heartbeat_timeout", silent_ms, if_expired=True)
                        )
        await self.release(ownerless)  # drops their deadlines, but for those that were claimed meanwhile
        return found

    # ---- who is gone

    async def forget_stale(self, limit: int) -> list[str]:
        """Drops agents that stayed away too long; returns their ids."""
        dropped: list[str] = []
        for shard in range(self._keys.shards):
            agents = self._keys.in_shard(shard, "agents")
            async with self._store.session() as client:
                now_ms = self._store.now_ms()
                ids = [i.decode() for i in await client.zrangebyscore(agents, "-inf", now_ms, start=0, num=limit)]
            if not ids:
                continue
            keys = [self._keys.in_shard(shard, "owners"), agents]
            for agent_id in ids:
                keys += [self._keys.of_agent("agent", agent_id), self._keys.of_agent("mail", agent_id)]
            hosts = await self._store.run(
                "forget", keys, packed([[i] for i in ids]), CONNECT_WITHIN_S * 1000, self._forget_ms
            )
            for agent_id, host in zip(ids, hosts, strict=True):
                if host != b"-":
                    await self.hosts.free(host, agent_id)
                    dropped.append(agent_id)
        return dropped

    async def revoke(self, agent_id: str) -> tuple[Owner | None, bytes, list[bytes]]:
        """Forgets an agent and refuses its token: (its owner, the offline entry owed, the results owed).

        Raises: UnknownAgent, StoreUnavailable.
        """
        shard = self._keys.shard(agent_id)
        keys = [self._keys.in_shard(shard, name) for name in ("owners", "deadlines", "agents", "unfed", "due")]
        keys += [self._keys.of_agent(name, agent_id) for name in ("agent", "lease", "mail", "cancels")]
        keys += [self._keys.task(agent_id, ""), self._keys.in_shard(shard, "ledger")]
        reply = await self._store.run("revoke", keys, agent_id)
        if reply[0] == b"unknown":
            raise UnknownAgent("no such agent")
        await self.hosts.free(reply[3], agent_id)
        return Owner.parse(reply[1]), reply[2], reply[4:]

    # ---- shards

    def _of(self, agent_id: str, name: str) -> str:
        return self._keys.in_shard(self._keys.shard(agent_id), name)


def _fields(profile: Profile) -> dict[str, str | int | bytes]:
    return {
        "token_hash": profile.token_hash, "name": profile.name, "host_id": profile.host_id or "",
        "labels": bytes(profile.labels), "system": bytes(profile.system), "hostname": profile.hostname,
        "os": profile.os, "arch": profile.arch, "registered": profile.registered_ms,
    }  # fmt: skip


def _text(value: bytes | None) -> str:
    return value.decode(errors="replace") if value else ""


def _number(value: bytes | None) -> int:
    """0 for what is none, as where it is missing: one broken profile must not cost others theirs."""
    try:
        return int(value or 0)
    except ValueError:
        return 0


def _texts(bid: Bid, mark: int) -> tuple[str, ...]:
    """`mark`: the driver sends a call again whose connection broke; the script is to know it among this process's."""
    return bid.agent_id, bid.node, bid.boot, bid.address, str(int(bid.force)), str(mark), bid.token_hash


async def by_shard(
    keys: Keys,
    items: Iterable[Item],
    agent_of: Callable[[Item], str],
    call: Callable[[int, list[Item]], Awaitable[list[Reply]]],
) -> list[Reply]:
    """Calls once a shard with the items of its agents; the replies in the order of the items."""
    if keys.shards == 1:
        return await call(0, list(items))
    groups: dict[int, list[tuple[int, Item]]] = {}
    for place, item in enumerate(items):
        groups.setdefault(keys.shard(agent_of(item)), []).append((place, item))
    replies: dict[int, Reply] = {}
    for shard, group in groups.items():
        answers = await call(shard, [item for _, item in group])
        replies.update(zip((place for place, _ in group), answers, strict=True))
    return [replies[place] for place in sorted(replies)]
