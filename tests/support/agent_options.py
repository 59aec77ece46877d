"""What a simulated agent is started with: who it is, how long it waits for what, and what it does differently from others.

The timings are the Go agent's (protocol.md, sections 1.1 to 1.3); tests scale them.
"""

from typing import Any

import msgspec

from tests.support.task_runner import Limits as TaskLimits
from tests.support.unacked import Limits as UnackedLimits
from tests.support.websocket_client import SocketOptions


class Timings(msgspec.Struct, frozen=True):
    """The Go agent's, in seconds."""

    register_timeout_s: float = 30.0
    handshake_timeout_s: float = 10.0
    backoff_s: tuple[float, ...] = (5.0, 10.0, 20.0, 30.0)
    heartbeat_s: float = 30.0
    resend_after_s: tuple[float, ...] = (3.0, 6.0, 12.0, 24.0, 48.0, 78.0, 108.0, 138.0)
    unacked_age_s: float = 600.0
    read_deadline_s: float = 60.0
    write_deadline_s: float = 10.0
    finished_for_s: float = 300.0
    outbox_age_s: float = 86_400.0
    replay_pause_s: float = 0.1

    def scaled(self, factor: float) -> "Timings":
        """All of them times this. Against a cluster use `returning`: its 20 s of silence would break a shorter read deadline."""
        times = msgspec.structs.asdict(self)
        return Timings(**{name: _times(value, factor) for name, value in times.items()})

    def returning(self, factor: float) -> "Timings":
        """Only the back-off times this: agents that are back sooner, and otherwise the Go agent's."""
        return msgspec.structs.replace(self, backoff_s=_times(self.backoff_s, factor))


def _times(times_s: Any, factor: float) -> Any:
    return tuple(time_s * factor for time_s in times_s) if isinstance(times_s, tuple) else times_s * factor


class Identity(msgspec.Struct, frozen=True):
    """Who the agent says it is."""

    base_url: str
    token: str
    name: str
    host_id: int = 0
    labels: dict[str, str] = {}


class Options(msgspec.Struct, frozen=True):
    """What agents differ in. `doubles_results`: each result goes out under two ids. `reports_running`: a result `running` first.

    `keeps_sent` is what `resend_everything` needs. `outbox_keeps_acked`: a new process replays even what was acked.
    """

    doubles_results: bool = False
    reports_running: bool = False
    offers_deflate: bool = False
    keeps_sent: bool = False
    outbox_keeps_acked: bool = False
    socket: SocketOptions = SocketOptions()
    tasks: TaskLimits = TaskLimits()
    unacked: UnackedLimits = UnackedLimits()
