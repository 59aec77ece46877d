"""The control plane's calls about agents: list, show, forget, order; and how many there are."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response

from cluster import close_codes, messages
from cluster.errors import BadInput, NotConnected, UnknownAgent
from cluster.feeds import Feeds
from cluster.inbox import Inbox
from cluster.messages import Control, Upgrade
from cluster.registry import Owner, Profile, Registry
from cluster.replies import json_reply

ACTIONS = ("start", "stop", "restart")


class AgentCalls:
    """Starlette endpoints."""

    def __init__(
        self,
        registry: Registry,
        feeds: Feeds,
        inbox: Inbox,
        now_ms: Callable[[], int],
        is_alive: Callable[[Owner], bool],
    ) -> None:
        """`is_alive`: whether the process of a claim is in the node directory."""
        self._registry = registry
        self._feeds = feeds
        self._inbox = inbox
        self._now_ms = now_ms
        self._is_alive = is_alive

    # ---- looking

    async def list(self, request: Request) -> Response:
        """All agents, live ones first, then by their newest heartbeat; filtered and paged when asked to."""
        profiles = [profile for profile in await self._registry.profiles(await self._registry.ids()) if profile]
        found = sorted(filter(_filter_of(request), profiles), key=_live_first)
        start, limit = _whole(request, "cursor", 0), _whole(request, "limit", 0)
        page = found[start : start + limit] if limit else found[start:]
        answer: dict[str, Any] = {"agents": [_summary(profile) for profile in page]}
        if start + len(page) < len(found):
            answer["next_cursor"] = str(start + len(page))
        return json_reply(answer)

    async def one(self, request: Request) -> Response:
        """Shows or forgets one agent."""
        return await (self._forget(request) if request.method == "DELETE" else self._show(request))

    async def _show(self, request: Request) -> Response:
        profile = await self._profile(request)
        return json_reply(_summary(profile) | {"system": profile.system, "incarnation": profile.incarnation})

    async def metrics(self, _: Request) -> Response:
        """How many there are."""
        total, online = await self._registry.count()
        now_ms = self._now_ms()
        counts = {"agents_total": total, "agents_online": online, "agents_offline": max(total - online, 0)}
        return json_reply({"now_unix_ms": now_ms, **counts})

    async def _profile(self, request: Request) -> Profile:
        profile = await self._registry.profile(await self._registry.resolve(request.path_params["agent"]))
        if profile is None:
            raise UnknownAgent("no such agent")
        return profile

    # ---- forgetting

    async def _forget(self, request: Request) -> Response:
        """Its socket is closed, its token refused, its open tasks end."""
        agent_id = await self._registry.resolve(request.path_params["agent"])
        owner, offline, results = await self._registry.revoke(agent_id)
        if owner is not None:
            await self._inbox.close([(owner, agent_id)], close_codes.REVOKED)
        await self._feeds.pay_results(results)
        await self._feeds.pay_offline([offline] if offline else [])
        await self._feeds.forget_agents([agent_id])
        return json_reply({"agent_id": agent_id, "status": "forgotten"})

    # ---- ordering

    async def control(self, request: Request) -> Response:
        """Starts, stops or restarts the agent's program; delivered within 10 s or not at all."""
        order: Control = messages.decoded(Control, await request.body())
        if order.action not in ACTIONS:
            raise BadInput(f"action: one of {', '.join(ACTIONS)}")
        await self._order(request, messages.control(order.action, order.reason or ""))
        return json_reply({"message": "control command sent to agent", "status": "success"})

    async def upgrade(self, request: Request) -> Response:
        """Replaces the agent's program; delivered within 10 s or not at all."""
        order: Upgrade = messages.decoded(Upgrade, await request.body())
        for field in ("target_version", "download_url"):
            if not getattr(order, field):
                raise BadInput(f"{field}: required")
        await self._order(request, messages.upgrade(order))
        return json_reply({"message": "upgrade command sent to agent", "status": "success"})

    async def _order(self, request: Request, frame: bytes) -> None:
        profile = await self._profile(request)
        if profile.owner is None or not self._is_alive(profile.owner):
            raise NotConnected("the agent is not connected")
        await self._inbox.send(profile.owner, profile.id, frame)


def _summary(profile: Profile) -> dict[str, Any]:
    seen_ms = profile.heard_ms or profile.registered_ms
    return {
        "id": profile.id,
        "name": profile.name,
        "status": "active" if profile.owner else "inactive",
        "last_heartbeat": datetime.fromtimestamp(seen_ms / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
        "host_id": profile.host_id,
        "node": profile.owner.node if profile.owner else "",
        "labels": Raw(profile.labels),
        "hostname": profile.hostname,
        "os": profile.os,
        "arch": profile.arch,
    }


def _live_first(profile: Profile) -> tuple[bool, int, str]:
    return profile.owner is None, -(profile.heard_ms or profile.registered_ms), profile.id


def _filter_of(request: Request) -> Callable[[Profile], bool]:
    """What the query asks for: `status`, `node`, `label` (key=value, or key alone), `q` (part of name, hostname or id)."""
    query = request.query_params
    status, node, label, text = (query.get(name, "") for name in ("status", "node", "label", "q"))
    if status not in ("", "active", "inactive"):
        raise BadInput("status: active or inactive")
    key, is_pair, value = label.partition("=")

    def matches(profile: Profile) -> bool:
        labels = messages.labels(profile.labels) if key else {}
        return (
            (not status or (status == "active") is (profile.owner is not None))
            and (not node or (profile.owner is not None and profile.owner.node == node))
            and (not key or (key in labels and (not is_pair or labels[key] == value)))
            and (not text or text.casefold() in f"{profile.name}\n{profile.hostname}\n{profile.id}".casefold())
        )

    return matches


def _whole(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadInput(f"{name}: a whole number")
    return int(text)
