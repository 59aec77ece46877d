"""`restart`: all processes of a running `start`, one after the other, watched until each is back."""

import time
from typing import Annotated, Any

import typer

from cluster.client.api import Api
from cluster.client.nodes import READY, Node, all_of
from cluster.client.options import ConfigFile, Url, cluster_of, say
from cluster.client.outcome import TIMEOUT, ComeBack, Failed

Patience = Annotated[
    float, typer.Option("--timeout", metavar="S", min=1, help="Give up when nothing has changed for so long.")
]

_POLL_S = 0.2


def restart(config: ConfigFile = None, url: Url = None, timeout_s: Patience = 60.0) -> None:
    """Restart the processes of a running `start` one by one.

    Agents dial again, and no call fails.
    """
    api = cluster_of(config, url).api()
    watch = _Watch(api, timeout_s)
    api.post("api", "self", "control", body={"action": "restart"})
    watch.run()


class _Watch:
    """Which processes are not back yet: those that the router's supervisor ran when it was asked."""

    def __init__(self, api: Api, timeout_s: float) -> None:
        self._api = api
        self._timeout_s = timeout_s
        self._began_s = time.monotonic()
        self._router: dict[str, Any] = api.get("api", "self")
        self._waiting = {node.id: node.boot for node in all_of(api) if node.supervisor == self._router["supervisor"]}
        self._last: dict[str, str] = {}

    def run(self) -> None:
        """Until all are back. Raises: Failed."""
        say(f"{len(self._waiting) + 1} processes: {', '.join([*self._waiting, self._router['id']])}")
        changed_s = time.monotonic()
        while self._waiting or self._router:
            if self._look():
                changed_s = time.monotonic()
            elif time.monotonic() - changed_s > self._timeout_s:
                names = ", ".join([*self._waiting, *([self._router["id"]] if self._router else [])])
                raise Failed(
                    f"not restarted, and nothing has changed for {self._timeout_s:g} s: {names}; the log says why",
                    TIMEOUT,
                )
            time.sleep(_POLL_S)
        say(f"all are back after {time.monotonic() - self._began_s:.1f} s")

    def _look(self) -> bool:
        """Whether something has changed. While the router restarts nobody may answer."""
        try:
            found = {node.id: node for node in all_of(self._api)}
            router = self._api.get("api", "self")
        except ComeBack:
            return False
        changes = [self._look_at(node_id, found.get(node_id)) for node_id in list(self._waiting)]
        return self._look_at_router(router) or any(changes)

    def _look_at(self, node_id: str, node: Node | None) -> bool:
        is_back = node is not None and node.boot != self._waiting[node_id] and node.state == READY
        state = "back" if is_back else node.state if node else "gone"
        if self._last.get(node_id, READY) == state:
            return False
        self._last[node_id] = state
        self._tell(node_id, state)
        if is_back:
            del self._waiting[node_id]
        return True

    def _look_at_router(self, router: dict[str, Any]) -> bool:
        """Behind a load balancer another router may answer."""
        if not self._router or router["id"] != self._router["id"] or router["boot"] == self._router["boot"]:
            return False
        self._tell(router["id"], "back")
        self._router = {}
        return True

    def _tell(self, name: str, state: str) -> None:
        say(f"{time.monotonic() - self._began_s:5.1f} s  {name}: {state}")
