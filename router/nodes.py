"""An operator's calls about nodes: list them, drain one, take it back, have some of its agents dial again.

Rules: an order goes to the node's inbox and is answered at once; how far it has come, the list says. Repeated, it changes nothing, but
for a move, which is done again.
"""

import re
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from cluster import messages, nodes
from cluster.errors import BadInput, UnknownNode
from cluster.inbox import Inbox
from cluster.messages import NodeOrder
from cluster.nodes import Node, NodeDirectory
from cluster.registry import Registry
from cluster.replies import json_reply

PER_SECOND = 500.0  # sockets that a drain closes, unless it is told otherwise
_NODE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class NodeCalls:
    """Starlette endpoints."""

    def __init__(self, directory: NodeDirectory, registry: Registry, inbox: Inbox) -> None:
        self._directory = directory
        self._registry = registry
        self._inbox = inbox

    async def show(self, _: Request) -> Response:
        """All nodes that live, then those that died over agents which are not elsewhere yet."""
        living = await self._directory.all()
        online = (await self._registry.count())[1]
        dead = await self._dead(living) if online > sum(node.load for node in living) else []
        return json_reply({"nodes": [_summary(node) for node in [*living, *dead]]})

    async def _dead(self, living: list[Node]) -> list[Node]:
        known = {(node.id, node.boot) for node in living}
        held = await self._registry.held()
        return [
            Node(*place, state=nodes.DEAD, load=agents) for place, agents in sorted(held.items()) if place not in known
        ]

    async def drain(self, request: Request) -> Response:
        """The node takes no agents, and closes those it has, so many a second."""
        order: NodeOrder = messages.decoded(NodeOrder, await request.body() or b"{}")
        return await self._order(request, "drain", str(_pace(order)), "draining")

    async def undrain(self, request: Request) -> Response:
        """The node takes agents again."""
        return await self._order(request, "undrain", "", "ready")

    async def move(self, request: Request) -> Response:
        """The node closes some of its agents' sockets, so that they dial again."""
        order: NodeOrder = messages.decoded(NodeOrder, await request.body())
        if not order.agents or order.agents < 0:
            raise BadInput("agents: how many, at least 1")
        return await self._order(request, "move", f"{order.agents} {_pace(order)}", "moving")

    async def _order(self, request: Request, kind: str, data: str, status: str) -> Response:
        node_id = request.path_params["node"]
        if _NODE_ID.fullmatch(node_id) is None:
            raise BadInput("node id: 1 to 64 of A-Z a-z 0-9 . _ -")
        if all(node.id != node_id for node in await self._directory.all()):
            raise UnknownNode("no such node")
        await self._inbox.order(node_id, kind, data)
        return json_reply({"node": node_id, "status": status})


def _pace(order: NodeOrder) -> float:
    per_second = order.per_second or PER_SECOND
    if not 0.01 <= per_second <= 100_000:
        raise BadInput("per_second: 0.01 to 100000")
    return per_second


def _summary(node: Node) -> dict[str, Any]:
    since = datetime.fromtimestamp(node.since_ms / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
    return {
        "id": node.id,
        "state": node.state,
        "since": since if node.since_ms else None,
        "agents": node.load,
        "cpu_percent": node.cpu_percent,
        "machine": node.host,
        "address": node.address,
        "boot": node.boot,
        "supervisor": node.supervisor,
    }
