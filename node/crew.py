"""Where a session's events go: the one place that knows all of a node's rooms. Decides nothing."""

import asyncio

from cluster import close_codes
from cluster.messages import LogLine, Result
from cluster.redis_client import Store
from node.delivery import Courier
from node.frames import NO_CLOSE
from node.presence import Presence
from node.reports import Reports
from node.session import Session
from node.traffic import SENT, Flows, flows
from node.uplink import Uplink

EVENTS = (
    "log", "log_late", "result_end", "result_progress", "result_lost", "result_alone", "result_not_written",
    "task_sent", "task_redelivered", "sign_of_life", "heartbeat", "ignored", "malformed", "without_message_id", "without_content", "stale_note", "lease_lost", "flood",
    "connected", "disconnected", "refused_queue", "refused_token", "refused_contested", "refused_draining",
    "refused_unavailable", "refused_full", "refused_origin", "refused_unknown", "refused_malformed", "refused_timeout",
)  # fmt: skip
DROPPED = "dropped"  # without a close frame
CLOSES = (*close_codes.NAMES.values(), DROPPED, "other")  # how connections end


class NodeCrew:
    """What a node's sessions hand their events to."""

    def __init__(self, store: Store, events: dict[str, int]) -> None:
        self._store = store
        self._events = events
        self.closed = dict.fromkeys(CLOSES, 0)
        self.received, self.sent = Flows(), flows(SENT)
        self.uplink: Uplink
        self.presence: Presence
        self.courier: Courier
        self.reports: Reports

    def on_attached(self, session: Session) -> None:
        """A claimed agent is connected."""
        self.count("connected")
        self.presence.start(session, session.previous)
        self.reports.on_start(session, is_takeover=session.previous is not None)
        self.courier.start(session)

    def on_gone(self, session: Session) -> None:
        """A connection is gone."""
        self.count("disconnected")
        self.closed[_name_of(session.close_code)] += 1
        self.reports.on_gone(session)
        self.presence.end(session)

    def on_log(self, session: Session, message_id: str, task_id: str, lines: list[LogLine]) -> None:
        """Lines of a task's output."""
        self.uplink.put_log(session, message_id, task_id, lines)

    def on_result(self, session: Session, message_id: str, task_id: str, result: Result) -> None:
        """How a task goes, or went."""
        self.uplink.put_result(session, message_id, task_id, result)

    def on_sign_of_life(self, session: Session, task_ids: tuple[str, ...]) -> None:
        """The agent has these tasks."""
        self.count("sign_of_life")
        self.uplink.put_sign_of_life(session, task_ids)

    def on_heartbeat(self, session: Session) -> None:
        """The agent lives, and said how its host is."""
        self._events["heartbeat"] += 1
        self.reports.on_heartbeat(session)

    def on_flood(self, session: Session) -> None:
        """An agent sends too fast: its reading was stopped, and goes on a second later."""
        self.count("flood")
        asyncio.get_running_loop().call_later(1.0, _resume, session)

    def on_writable(self, session: Session) -> None:
        """A slow reader has caught up."""
        self.courier.ring(session)

    def count(self, event: str, times: int = 1) -> None:
        """So many more of one of EVENTS."""
        self._events[event] += times

    def now_ms(self) -> int:
        """The time on Redis's clock."""
        return self._store.now_ms()


def _name_of(close_code: int) -> str:
    return DROPPED if close_code == NO_CLOSE else close_codes.NAMES.get(close_code, "other")


def _resume(session: Session) -> None:
    if session.link is not None:
        session.link.resume()
