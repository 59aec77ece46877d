"""What agents say of their tasks, from the batch in which it waits to the results feed: settled, and written once.

Owns in how many steps that is done; knows neither sessions nor acks. Rules:

- On a single Redis it is one script: nothing is owed in between, and what an agent said is written, or nothing has happened.
- Where the keys of agents and those of the feed may lie apart (several shards), one script settles and owes the ends, another appends, and
  whoever has time marks them as paid; if that never happens, a router's reaper finds them (cluster/debts.py).
- So it is too while the feed takes nothing: what agents said ends their tasks all the same, and the feed gets it later.
- A batch that was not answered is said again as it was: writing twice is harmless.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from itertools import chain

import msgspec
from msgspec import Struct
from msgspec.structs import astuple, replace

from cluster import reasons
from cluster.errors import FeedBlocked, StoreUnavailable
from cluster.feeds import EXECUTION_MS, GENERATION_MS, Feeds, ResultEntry, result_values
from cluster.keys import RECORD_MS
from cluster.mailbox import APPEND, APPEND_ALONE, STRANGERS, WRITTEN_BEFORE, Mailbox, Said
from cluster.redis_client import Store
from cluster.scripts import packed

_encode = msgspec.json.encode


class Told(Struct, frozen=True, gc=False):
    """What an agent says of a task. `kind`: see cluster/mailbox.py, Said; of a sign of life the entry names the task."""

    kind: str
    entry: ResultEntry

    @property
    def is_end(self) -> bool:
        """Whether it ends its task."""
        return self.kind in ("end", "lost")


class Outcomes:
    """Everything that is said of tasks."""

    def __init__(self, store: Store, mailbox: Mailbox, feeds: Feeds) -> None:
        self._store = store
        self._mailbox = mailbox
        self._feeds = feeds
        self._in_one_step = store.keys.shards == 1 and feeds.results.enabled
        self._paid: list[ResultEntry] = []  # and still noted as owed
        self._has_paid = asyncio.Event()

    async def write(self, told: Sequence[Told], *, is_again: bool = False) -> list[int]:
        """The verdict on each: `APPEND` or `APPEND_ALONE`, and it is in the feed; else not to be written. Raises: StoreUnavailable.

        `is_again`: the last call did not hear its answer; what it wrote is told of as if this one had.
        """
        if self._in_one_step:
            with contextlib.suppress(FeedBlocked):
                return await self._in_a_step(told, is_again=is_again)
        return await self._in_two_steps(told)

    async def _in_a_step(self, told: Sequence[Told], *, is_again: bool) -> list[int]:
        *of_mailboxes, ledger = self._mailbox.settle_keys(0)
        keys = [*of_mailboxes, *self._feeds.result_keys, ledger]
        arg = packed(list(chain.from_iterable(map(_values, told))))
        with self._store.of_feed(self._feeds.results.key):
            reply: list[int] = await self._store.run(
                "tell", keys, arg, STRANGERS, RECORD_MS, GENERATION_MS, EXECUTION_MS
            )
        *verdicts, new = reply
        if is_again:
            new += verdicts.count(WRITTEN_BEFORE)
            verdicts = [APPEND if verdict == WRITTEN_BEFORE else verdict for verdict in verdicts]
        entries = [item.entry for item, verdict in zip(told, verdicts, strict=True) if is_written(item, verdict)]
        self._feeds.note_written(entries, new)
        return verdicts

    async def _in_two_steps(self, told: Sequence[Told]) -> list[int]:
        verdicts = await self._mailbox.settle([said(item) for item in told])
        entries = [
            replace(item.entry, is_counted=False) if verdict == APPEND_ALONE else item.entry
            for item, verdict in zip(told, verdicts, strict=True)
            if is_written(item, verdict)
        ]
        await self._feeds.append_results(entries)
        self._paid += [entry for entry in entries if entry.is_end]
        self._has_paid.set()
        return verdicts

    async def pay(self) -> None:
        """Marks what is in its feed as paid, for ever; what Redis does not take, a reaper finds. Nobody waits for it."""
        while True:
            await self._has_paid.wait()
            self._has_paid.clear()
            paid, self._paid = self._paid, []
            with contextlib.suppress(StoreUnavailable):
                await self._feeds.paid(paid)


def is_written(told: Told, verdict: int) -> bool:
    """Whether this verdict says that it is in the feed, or belongs there."""
    return told.kind != "life" and verdict in (APPEND, APPEND_ALONE)


def _values(told: Told) -> tuple[object, ...]:
    if told.kind == "life":
        return ("", "", "0", "0", *astuple(told.entry), told.kind, "")
    why = reasons.short(told.entry.error_msg) if told.entry.error_msg else ""
    return (*result_values(told.entry), told.kind, why)


def said(told: Told) -> Said:
    """As a script is told of it that settles, and does not append."""
    entry = told.entry
    if not told.is_end:
        return Said(entry.agent_id, entry.task_id, told.kind, entry.status, entry.message_id)
    owed = _encode(entry).decode()
    why = reasons.short(entry.error_msg)
    return Said(
        entry.agent_id, entry.task_id, told.kind, entry.status, entry.message_id, owed, entry.exit_code, why, entry.error_code
    )  # fmt: skip
