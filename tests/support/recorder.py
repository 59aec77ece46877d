"""The history of a test run: what was posted and answered, what agents were sent and sent themselves, and what the feeds hold.

Owns the kinds of events and their writing as JSON lines; judges nothing (checker.py does). Times are seconds of the machine's monotonic
clock, so that histories of several processes on one machine can be put together. Texts longer than 64 characters are kept as a
fingerprint, which is all that a comparison needs.

| kind | what happened |
| --- | --- |
| posted, answered | one attempt of a control plane's call, and what came back (status 0: nothing) |
| registered, dialled, opened, refused, closed | the life of an agent's connections |
| sent, acked | a message an agent wrote, each time it did; an ack it read |
| delivered, told | a task it read; another frame it read |
| started | a run of a task began on a host |
| stopped, continued | an agent stopped reading, and reads again: what it reads then may have been sent long before |
| entry, group_read | an entry of a feed, as a plain reader found it; one that a group was handed |
| fault | what the test did to the cluster |
"""

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

_KEPT_CHARS = 64
Kind = TypeVar("Kind", bound="Event")


class Event(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="kind"):
    """Anything that happened, and when: now, unless another time is given."""

    at_s: float = msgspec.field(default_factory=time.monotonic)


class PostedTask(msgspec.Struct, frozen=True, gc=False):
    """A task as it was posted: its id, and a digest of its bytes."""

    task_id: str
    digest: str


class Posted(Event, tag="posted", frozen=True, gc=False):
    """An attempt of a call was made. `target` is the id in the path; `tasks` what it would have taken."""

    call: str
    method: str
    path: str
    target: str = ""
    tasks: tuple[PostedTask, ...] = ()


class Answered(Event, tag="answered", frozen=True, gc=False):
    """What came back of an attempt; status 0 and the reason when nothing did."""

    call: str
    status: int
    error: str = ""


class Registered(Event, tag="registered", frozen=True, gc=False):
    """A registration; without an agent it failed. `incarnation` counts the processes on this host, from 1."""

    host: str
    incarnation: int
    agent: str = ""
    host_id: int = 0
    status: int = 0
    error: str = ""


class Dialled(Event, tag="dialled", frozen=True, gc=False):
    """An agent began a handshake. `connection` is unique in the history."""

    agent: str
    connection: str


class Opened(Event, tag="opened", frozen=True, gc=False):
    """The handshake was answered with 101."""

    agent: str
    connection: str


class RefusedHandshake(Event, tag="refused", frozen=True, gc=False):
    """The handshake was answered otherwise; 0: not at all."""

    agent: str
    connection: str
    status: int
    error: str = ""


class Closed(Event, tag="closed", frozen=True, gc=False):
    """A connection ended for the agent: the close code it was told (1006: none), or 0 and why it gave up."""

    agent: str
    connection: str
    code: int
    reason: str = ""


class Sent(Event, tag="sent", frozen=True, gc=False):
    """An agent wrote a message. `status` of a result; `lines` of a log; `is_spurious`: "skipped as duplicated"."""

    agent: str
    connection: str
    message_id: str
    type: str
    task_id: str = ""
    status: str = ""
    lines: tuple[str, ...] = ()
    is_spurious: bool = False


class Acked(Event, tag="acked", frozen=True, gc=False):
    """An agent read an ack."""

    agent: str
    connection: str
    message_id: str


class Delivered(Event, tag="delivered", frozen=True, gc=False):
    """An agent read a task; `digest` of its bytes."""

    agent: str
    connection: str
    task_id: str
    digest: str


class Told(Event, tag="told", frozen=True, gc=False):
    """An agent read another frame: a cancel (`task_id`), a heartbeat, a control or an upgrade."""

    agent: str
    connection: str
    type: str
    task_id: str = ""


class Started(Event, tag="started", frozen=True, gc=False):
    """A run began."""

    agent: str
    incarnation: int
    task_id: str


class Stopped(Event, tag="stopped", frozen=True, gc=False):
    """From now on this agent reads nothing."""

    agent: str


class Continued(Event, tag="continued", frozen=True, gc=False):
    """It reads again."""

    agent: str


class Entry(Event, tag="entry", frozen=True, gc=False):
    """An entry of a feed: `results`, `logs`, `status` or `task_stats`, whatever their keys are."""

    feed: str
    entry_id: str
    fields: dict[str, str]


class GroupRead(Event, tag="group_read", frozen=True, gc=False):
    """A consumer group was handed this entry."""

    feed: str
    group: str
    entry_id: str


class Fault(Event, tag="fault", frozen=True, gc=False):
    """What the test did, in its own words."""

    text: str


AnyEvent = (
    Posted
    | Answered
    | Registered
    | Dialled
    | Opened
    | RefusedHandshake
    | Closed
    | Sent
    | Acked
    | Delivered
    | Told
    | Started
    | Stopped
    | Continued
    | Entry
    | GroupRead
    | Fault
)
_DECODER: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


class Recorder:
    """Takes down events in order. One for all agents and clients of a process."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self._named = 0

    def add(self, event: AnyEvent) -> None:
        """Take down an event."""
        self.events.append(event)

    def fault(self, text: str) -> None:
        """Take down what the test does to the cluster."""
        self.add(Fault(text))

    def forget(self) -> None:
        """Begin a new history with agents that are known and connected; names go on being unique."""
        self.events = [event for event in self.events if isinstance(event, Registered | Dialled | Opened | Closed)]

    def new_name(self, of: str) -> str:
        """A name no other thing in this history has, in whichever process it is recorded."""
        self._named += 1
        return f"{of}-{os.getpid()}-{self._named}"

    def of(self, kind: type[Kind]) -> list[Kind]:
        """The events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def save(self, path: Path) -> None:
        """Write the history, one JSON object a line."""
        encode = msgspec.json.Encoder().encode
        with path.open("wb") as file:
            file.writelines(encode(event) + b"\n" for event in self.events)


def load(*paths: Path) -> list[AnyEvent]:
    """Histories of one or several processes of this machine, put together by time. Raises: msgspec.DecodeError."""
    return sorted((event for path in paths for event in _read(path)), key=lambda event: event.at_s)


def _read(path: Path) -> Iterator[AnyEvent]:
    with path.open("rb") as file:
        yield from map(_DECODER.decode, file)


def digest(payload: bytes) -> str:
    """A short name of these bytes."""
    return hashlib.blake2b(payload, digest_size=8).hexdigest()


def fingerprint(text: str) -> str:
    """The text itself when it is short, else its length and digest."""
    if len(text) <= _KEPT_CHARS:
        return text
    return f"#{len(text)}:{digest(text.encode(errors='surrogatepass'))}"


def fingerprints(texts: Iterable[str]) -> tuple[str, ...]:
    """Of each of them."""
    return tuple(fingerprint(text) for text in texts)
