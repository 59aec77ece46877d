"""A session without a network: a link that keeps what it was told, a wheel turned by hand, a crew that writes down what it hears."""

from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from cluster.messages import LogLine, Result
from cluster.registry import Claim, Owner, Profile
from node.session import Link, Patience, Session
from node.traffic import SENT, Flow, Flows, flows

AGENT = "041efc53-7aab-85fd-9e42-3fa916b9c566"
NOW_MS = 1_700_000_000_123
encode = msgspec.json.encode


@dataclass
class FakeWheel:
    """Seconds that pass when a test says so."""

    now: int = 0


def payloads_of(frames: bytes) -> list[bytes]:
    """The payloads of whole text frames without a mask (RFC 6455, 5.2)."""
    found = []
    while frames:
        extended = {126: 2, 127: 8}.get(frames[1], 0)
        start = 2 + extended
        size = int.from_bytes(frames[2:start]) if extended else frames[1]
        found.append(frames[start : start + size])
        frames = frames[start + size :]
    return found


@dataclass
class FakeLink:
    """A connection: `sent` are messages however they came, `frames` finished frames, `writes` the pieces in which both were written."""

    wheel: FakeWheel = field(default_factory=FakeWheel)
    heard: int = 0
    writable: bool = True
    is_open: bool = True
    is_paused: bool = False
    pauses: int = 0
    close_code: int = 0
    closed: list[int] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)
    writes: list[bytes] = field(default_factory=list)

    def send(self, payload: bytes) -> None:
        self.sent.append(payload)
        self.writes.append(payload)

    def send_frames(self, frames: bytes) -> None:
        self.frames.append(frames)
        self.sent += payloads_of(frames)
        self.writes.append(frames)

    def pause(self) -> None:
        self.is_paused = True
        self.pauses += 1

    def resume(self) -> None:
        self.is_paused = False

    def close(self, code: int) -> None:
        self.closed.append(code)
        self.is_open = False

    def abort(self) -> None:
        self.is_open = False


@dataclass
class FakeCrew:
    """What a session hands on: `calls` in order, each with its arguments; `counted` events."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    counted: list[str] = field(default_factory=list)
    received: Flows = field(default_factory=Flows)
    sent: dict[str, Flow] = field(default_factory=lambda: flows(SENT))

    def on_log(self, session: Session, message_id: str, task_id: str, lines: list[LogLine]) -> None:
        self.calls.append(("log", message_id, task_id, lines))

    def on_result(self, session: Session, message_id: str, task_id: str, result: Result) -> None:
        self.calls.append(("result", message_id, task_id, result))

    def on_sign_of_life(self, session: Session, task_ids: tuple[str, ...]) -> None:
        self.calls.append(("sign of life", task_ids))

    def on_heartbeat(self, session: Session) -> None:
        self.calls.append(("heartbeat", session.heartbeat))

    def on_attached(self, session: Session) -> None:
        self.calls.append(("attached",))

    def on_flood(self, session: Session) -> None:
        self.calls.append(("flood",))

    def on_writable(self, session: Session) -> None:
        self.calls.append(("writable",))

    def on_gone(self, session: Session) -> None:
        self.calls.append(("gone", session.age_ms))

    def count(self, event: str) -> None:
        self.counted.append(event)

    def now_ms(self) -> int:
        return NOW_MS


def a_claim(
    epoch: int = 5, *, node: str = "n1", previous: Owner | None = None, taken: int = 0, unended: int = 0
) -> Claim:
    return Claim(Owner(node, "boot", epoch), previous, 1, taken, unended, Profile(AGENT))


def a_session(
    crew: Any = None,
    link: FakeLink | None = None,
    *,
    agent_id: str = AGENT,
    claim: Claim | None = None,
    patience: Patience | None = None,
    profile: Profile | None = None,
    attached: bool = True,
) -> Session:
    """A session of an agent; with `attached` it has a link, which fakes and tests reach as `link_of(session)`."""
    session = Session(
        crew or FakeCrew(), profile or Profile(agent_id, "web"), claim or a_claim(), "192.0.2.1", patience or Patience()
    )
    if attached:
        session.attached(cast("Link", link or FakeLink()))
    return session


def link_of(session: Session) -> FakeLink:
    link: object = session.link
    assert isinstance(link, FakeLink)
    return link
