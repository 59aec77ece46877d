"""A node without Redis, for the benchmark: what a frame in and its ack out cost in the node's own code.

`python -m node.bench_uplink --listen-fd N --ready-fd N [--cpu N]`. The HTTP protocol, the handshake, the link and the session are the
node's; whoever comes is let in. Left out is all that a message meets behind its session: the lane it waits in, the entry that is made of
it, the scripts and Redis, counters; so are claims, leases, deliveries and reports.
"""

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from cluster import messages, serving
from cluster.http_protocol import HttpLimits
from cluster.lab.bench import bare
from cluster.messages import LogLine, Result
from cluster.registry import Claim, Owner, Profile
from node.handshake import Handshake
from node.limits import Limits
from node.session import Patience, Session
from node.traffic import SENT, Flows, flows
from node.wheel import Wheel


class AtOnce:
    """Acks what comes, and does nothing else."""

    def __init__(self) -> None:
        self.received, self.sent = Flows(), flows(SENT)

    def on_log(self, session: Session, message_id: str, task_id: str, lines: list[LogLine]) -> None:
        """Lines of a task's output."""
        session.send(messages.ack(message_id), "ack")

    def on_result(self, session: Session, message_id: str, task_id: str, result: Result) -> None:
        """How a task went."""
        session.send(messages.ack(message_id), "ack")

    def on_sign_of_life(self, session: Session, task_ids: tuple[str, ...]) -> None:
        """Nobody asks."""

    def on_heartbeat(self, session: Session) -> None:
        """Nobody asks."""

    def on_attached(self, session: Session) -> None:
        """Nobody asks."""

    def on_flood(self, session: Session) -> None:
        """There is no limit."""

    def on_writable(self, session: Session) -> None:
        """Nothing waits."""

    def on_gone(self, session: Session) -> None:
        """Nobody asks."""

    def count(self, event: str) -> None:
        """Nobody asks."""

    def now_ms(self) -> int:
        """Nobody asks."""
        return 0


async def serve(listener: socket.socket, tell_ready: Callable[[], None]) -> None:
    """Serves until the process is ended."""
    crew, patience = AtOnce(), Patience()
    claim = Claim(Owner("bench", "0", 1), previous=None, incarnation=1, taken=0, unended=0, profile=Profile(""))

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        agent_id = scope["path"].rpartition("/")[2]
        session = Session(crew, Profile(agent_id), claim, "127.0.0.1", patience)
        scope["extensions"]["link"](session, "agent-token")

    server = serving.server(app, HttpLimits(), partial(Handshake, limits=Limits(), wheel=Wheel()))
    tell_ready()
    await server.serve_on([listener])


if __name__ == "__main__":
    bare.run(serve)
