"""What a history says of the ids in a violation: the lines to read first when a promise was broken."""

import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from tests.support.recorder import AnyEvent, Fault

_LINES = 5
_EVENTS = 60
_ID = re.compile(r"[0-9a-f]{32}|\d+_\d+_\d+_[0-9a-f]+|connection-\d+-\d+")


def excerpts(events: Iterable[AnyEvent], wrong: Sequence[str]) -> Iterator[str]:
    """The first of these lines, each with the events that name what it names, and with what the test did to the cluster."""
    told = [(event, msgspec.json.encode(event).decode()) for event in events]
    for line in wrong[:_LINES]:
        yield line
        names = set(_ID.findall(line))
        concerned = [text for event, text in told if isinstance(event, Fault) or any(name in text for name in names)]
        yield from (f"    {text[:600]}" for text in concerned[:_EVENTS])
