"""Moves agents to nodes that hold few: a slice at a time, each judged before the next one goes.

Knows no command. Rules:

- Agents are moved by closing their sockets; where they go is decided when they dial again: by the router, which hands them to the least
  loaded node of its machine, or by a load balancer in front. So the first slice is small, and what does not help is not gone on with.
- A slice is judged when as many agents are there as before, or `BACK_S` later: agents wait up to 30 s before they dial.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from cluster.client.api import Api
from cluster.client.nodes import all_of, part, surplus

FIRST = 10  # agents of the first slice
SLICE_S = 10.0  # what a slice takes at the pace
BACK_S = 45.0
POLL_S = 0.5
HELPS = 0.25  # the share of a slice that has to stay away from where it was


@dataclass(frozen=True)
class Moved:
    """What became of it: how many were moved, how many too many are left, and whether moving helped."""

    agents: int
    left: int
    helps: bool


class Rebalancing:
    """One run."""

    def __init__(self, api: Api, per_s: float, say: Callable[[str], None]) -> None:
        self._api = api
        self._per_s = per_s
        self._say = say

    def run(self) -> Moved:
        """Until nothing is left, or moving does not help. Raises: Failed."""
        over, moved, most = surplus(all_of(self._api)), 0, FIRST
        while over:
            before, going = sum(over.values()), part(over, most)
            self._move(going)
            over = surplus(all_of(self._api))
            moved += sum(going.values())
            gained = before - sum(over.values())
            self._say(f"moved {moved}, {sum(over.values())} left")
            if gained < HELPS * sum(going.values()):
                return Moved(moved, sum(over.values()), helps=False)
            most = max(FIRST, int(self._per_s * SLICE_S))
        return Moved(moved, 0, helps=True)

    def _move(self, going: dict[str, int]) -> None:
        """Has these go, and waits until they are somewhere."""
        agents = sum(node.agents for node in all_of(self._api))
        pace = self._per_s / len(going)
        for node_id, count in going.items():
            self._api.post("api", "nodes", node_id, "move", body={"agents": count, "per_second": pace})
        time.sleep(max(going.values()) / pace + 2 * POLL_S)  # a node tells of its agents once a second
        until_s = time.monotonic() + BACK_S
        while sum(node.agents for node in all_of(self._api)) < agents and time.monotonic() < until_s:
            time.sleep(POLL_S)
        time.sleep(2 * POLL_S)
