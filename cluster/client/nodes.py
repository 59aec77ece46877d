"""Nodes as the API tells of them, and which agents would have to move for all nodes to hold as many. Asks the HTTP API, prints nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.client.api import Api
from cluster.client.outcome import NotFound
from cluster.client.tables import shown

READY, DRAINING = "ready", "draining"


@dataclass(frozen=True)
class Node:
    """A node, of the process that a boot names."""

    id: str
    state: str
    agents: int
    boot: str = ""
    supervisor: str = ""


def node_of(said: Mapping[str, Any]) -> Node:
    """A node from the API's answer."""
    return Node(said["id"], said["state"], said["agents"], said["boot"], said["supervisor"])


def all_of(api: Api) -> list[Node]:
    """All nodes. Raises: Failed."""
    return [node_of(said) for said in api.get("api", "nodes")["nodes"]]


def find(nodes: Sequence[Node], node_id: str) -> Node:
    """The node with this id. Raises: NotFound."""
    for node in nodes:
        if node.id == node_id:
            return node
    raise NotFound(f"no node '{shown(node_id)}' (nodes list shows all)")


def surplus(nodes: Sequence[Node]) -> dict[str, int]:
    """How many agents each ready node holds beyond its even share; nodes without any are left out."""
    ready = [node for node in nodes if node.state == READY]
    share = math.ceil(sum(node.agents for node in ready) / max(1, len(ready)))
    return {node.id: node.agents - share for node in ready if node.agents > share}


def part(over: Mapping[str, int], most: int) -> dict[str, int]:
    """At most so many of what each node holds too much, the fullest first."""
    taken: dict[str, int] = {}
    for node_id, agents in sorted(over.items(), key=lambda item: -item[1]):
        taken[node_id] = min(agents, most - sum(taken.values()))
    return {node_id: agents for node_id, agents in taken.items() if agents}
