"""The four streams that control planes read, and the entries owed to them. To the field: the contract.

Owns the feeds, what keeps their entries unique, and an execution's progress; knows nothing of sockets or ownership. Rules:

- Every result, log line and status entry passes one check of what was seen: written once whichever process brings it, however often.
- An entry that is decided but not yet written is owed (`unfed`), until `paid` says that it is in its feed.
- All values are strings. A disabled feed takes everything and writes nothing.
- A feed whose key holds something else takes nothing (`FeedBlocked`), until that is gone; the other feeds go on.
"""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from cluster import messages, settings, task_trail
from cluster.ends import Ends
from cluster.keys import RECORD_MS, Keys
from cluster.redis_client import Store
from cluster.scripts import packed

GENERATION_MS = 3_600_000  # message ids are remembered for one to two of these
CALL_LINES = 1000  # log lines that one call of the script writes
EXECUTION_MS = 24 * 3_600_000
_HASH_BYTES = 8
_BLANK = blake2b(digest_size=_HASH_BYTES)  # to be copied: a new one costs five times as much


class ResultEntry(Struct, frozen=True, array_like=True, gc=False):
    """A result on its way to the feed. All strings; times: `started_at`, `finished_at` s, `received_at` ms. See _end_task.lua, _append_results.lua."""

    agent_id: str
    task_id: str
    status: str
    exit_code: str
    error_msg: str
    error_code: str
    started_at: str
    finished_at: str
    log_size: str
    log_pointer: str
    received_at: str
    message_id: str
    place: int = 0  # among what its node was told: what is paid later is paid in the order in which it was said
    is_counted: bool = True  # into its execution's progress

    @property
    def is_end(self) -> bool:
        """Whether it ends its task."""
        return self.status in messages.ENDS

    @property
    def owed_as(self) -> str:
        """The field of `unfed` that holds it while it is owed."""
        return f"r:{self.agent_id}:{self.task_id}"


class Offline(Struct, frozen=True, array_like=True, gc=False):
    """An ownership that ended, on its way to the status feed. See _let_go.lua. Times in ms."""

    agent_id: str
    name: str
    host_id: str
    reason: str
    heard_ms: str
    ended_ms: str
    hostname: str
    os: str
    arch: str
    epoch: str


result_entry = msgspec.json.Decoder(ResultEntry).decode
offline_entry = msgspec.json.Decoder(Offline).decode


class StatusEntry(Struct, frozen=True, gc=False):
    """One entry of the status feed. `fields` are pairs, flat; `kind`: see append_status.lua; those of kind `off` are owed."""

    agent_id: str
    epoch: str
    kind: str
    fields: tuple[str, ...]

    @property
    def owed_as(self) -> str:
        """The field of `unfed` that holds it while it is owed."""
        return f"s:{self.agent_id}:{self.epoch}"


def offline_status(offline: Offline) -> StatusEntry:
    """The status entry of an ownership that ended."""
    known = (("hostname", offline.hostname), ("os", offline.os), ("arch", offline.arch))
    fields = (
        *identity(offline.agent_id, offline.name, offline.host_id),
        *("status", "offline", "last_heartbeat", offline.heard_ms, "timestamp", offline.ended_ms),
        *("disconnect_reason", offline.reason, "disconnect_time", str(int(offline.ended_ms) // 1000)),
        *(part for pair in known if pair[1] for part in pair),
    )
    return StatusEntry(offline.agent_id, offline.epoch, "off", fields)


def identity(agent_id: str, name: str, host_id: str) -> tuple[str, ...]:
    """The fields with which every status entry begins."""
    return ("agent_id", agent_id, "agent_name", name, "host_id", host_id or "0")


def number(value: float) -> str:
    """A float as Go's shortest form writes it: `1500`, `12.5`."""
    return str(int(value)) if value == int(value) else repr(value)


def result_values(entry: ResultEntry) -> tuple[object, ...]:
    """What a script that appends is told of it: see _append_results.lua."""
    message = "" if entry.is_end else _hash("m", entry.agent_id, entry.message_id)
    return message, end_mark(entry.agent_id, entry.task_id), *messages.execution_of(entry.task_id), *astuple(entry)


def _hash(*parts: str) -> str:
    """63 bits of a message's identity, in decimal: Redis keeps such members as integers."""
    state = _BLANK.copy()
    state.update("\0".join(parts).encode())
    return str(int.from_bytes(state.digest()) >> 1)


def end_mark(agent_id: str, task_id: str) -> str:
    """What the results feed remembers of a task whose end it has."""
    return _hash("t", agent_id, task_id)


LogSlice = tuple[str, list[list[str]]]


def _slices_of(logs: Iterable[tuple[str, str, list[list[str]]]]) -> Iterator[LogSlice]:
    """Each message, or as many parts of it as it takes; each part has an identity of its own."""
    for agent_id, message_id, lines in logs:
        yield _hash("m", agent_id, message_id), lines[:CALL_LINES]
        for start in range(CALL_LINES, len(lines), CALL_LINES):
            yield _hash("m", agent_id, message_id, str(start)), lines[start : start + CALL_LINES]


def _calls_of(slices: Iterable[LogSlice]) -> Iterator[list[LogSlice]]:
    """Slices put together for one call of the script, which must not keep Redis for long."""
    call: list[LogSlice] = []
    lines = 0
    for item in slices:
        if call and lines + len(item[1]) > CALL_LINES:
            yield call
            call, lines = [], 0
        call.append(item)
        lines += len(item[1])
    if call:
        yield call


def _log_values(call: Iterable[LogSlice]) -> list[str | int]:
    """What the script that appends is told, all in one list: see append_logs.lua."""
    values: list[str | int] = []
    for identity, lines in call:
        values += (identity, sum(map(len, lines)) + len(lines))
        for line in lines:
            values.append(len(line))
            values += line
    return values


class Feeds:
    """Appends to the four feeds, and pays what is owed to them."""

    def __init__(self, store: Store, config: settings.Settings) -> None:
        self._store = store
        self._keys: Keys = store.keys
        self.results = config.result_stream
        self.logs = config.log_stream
        self.status = config.status_stream
        self.stats = config.task_stats_stream
        self.ends = Ends()

    # ---- results

    async def append_results(self, entries: Sequence[ResultEntry]) -> None:
        """Writes results; those that are there already, or come after their task's end, are left out. Raises: StoreUnavailable."""
        if not self.results.enabled or not entries:
            return
        values = list(chain.from_iterable(map(result_values, entries)))
        with self._store.of_feed(self.results.key):
            written = await self._store.run(
                "append_results", self.result_keys, packed(values), GENERATION_MS, EXECUTION_MS
            )
        self.note_written(entries, int(written))

    def note_written(self, entries: Sequence[ResultEntry], new: int) -> None:
        """These are in their feed; so many of them were not before."""
        self.ends.note_results(entries, len(entries) - new)
        if task_trail.is_followed():
            for entry in entries:
                task_trail.tell("written", entry.agent_id, entry.task_id, status=entry.status)

    @property
    def result_keys(self) -> list[str]:
        """The keys of a script that appends results."""
        return [*self._seen_keys(self.results.key), self._executions]

    async def expect(self, task_ids: Iterable[str]) -> None:
        """Counts accepted tasks into their executions' hosts. Raises: StoreUnavailable."""
        items = [item for item in dict.fromkeys(map(messages.execution_of, task_ids)) if item[0] != "0"]
        if items and self.results.enabled:
            await self._store.run("expect", [self._executions], packed(items), EXECUTION_MS)

    @property
    def _executions(self) -> str:
        return self._keys.of_feed(self.results.key, "execution:")

    # ---- logs

    async def append_logs(self, messages_: Sequence[tuple[str, str, list[list[str]]]]) -> None:
        """Writes log messages: (agent id, message id, the fields of each line as flat pairs). Raises: StoreUnavailable."""
        if not self.logs.enabled or not messages_:
            return
        with self._store.of_feed(self.logs.key):
            for items in _calls_of(_slices_of(messages_)):
                keys = self._seen_keys(self.logs.key)
                written = await self._store.run("append_logs", keys, packed(_log_values(items)), GENERATION_MS)
                self.ends.note_logs(len(items) - int(written))

    def _seen_keys(self, feed: str) -> list[str]:
        return [feed, *(self._keys.of_feed(feed, name) for name in ("seen", "seen:0", "seen:1"))]

    # ---- status and statistics

    async def append_status(self, entries: Sequence[StatusEntry]) -> None:
        """Writes status entries, each kind once an epoch where epochs count. Raises: StoreUnavailable."""
        if not self.status.enabled or not entries:
            return
        items = [(e.agent_id, e.epoch, e.kind, *e.fields) for e in entries]
        with self._store.of_feed(self.status.key):
            await self._store.run("append_status", [self.status.key, self._epochs], packed(items))

    async def append_stats(self, entries: Sequence[tuple[str, ...]]) -> None:
        """Writes statistics, each a tuple of flat pairs. Raises: StoreUnavailable."""
        if not self.stats.enabled or not entries:
            return
        with self._store.of_feed(self.stats.key):
            await self._store.ask(*(("XADD", self.stats.key, "*", *fields) for fields in entries), may_repeat=False)

    @property
    def _epochs(self) -> str:
        return self._keys.of_feed(self.status.key, "epochs")

    async def forget_agents(self, agent_ids: Sequence[str]) -> None:
        """Drops what the status feed remembers of these agents. Raises: StoreUnavailable."""
        if agent_ids:
            async with self._store.session() as client:
                await client.hdel(self._epochs, *agent_ids)

    # ---- what is owed

    async def pay_results(self, owed: Sequence[bytes]) -> None:
        """Writes results that a script said are owed (JSON), and marks them paid. Raises: StoreUnavailable."""
        entries = [result_entry(raw) for raw in owed]
        await self.append_results(entries)
        await self.paid(entries)

    async def pay_offline(self, owed: Sequence[bytes]) -> None:
        """Writes offline entries that a script said are owed (JSON), and marks them paid. Raises: StoreUnavailable."""
        entries = [offline_status(offline_entry(raw)) for raw in owed if raw]
        await self.append_status(entries)
        await self.paid(entries)

    async def paid(self, entries: Iterable[ResultEntry | StatusEntry]) -> None:
        """Marks owed entries as written. From now on an ended task's record has its TTL. Raises: StoreUnavailable."""
        shards: dict[int, list[str]] = {}
        for entry in entries:
            shards.setdefault(self._keys.shard(entry.agent_id), []).append(entry.owed_as)
        for shard, fields in shards.items():
            keys = [self._keys.in_shard(shard, name) for name in ("unfed", "task:", "ledger")]
            await self._store.run("fed", keys, packed(fields), RECORD_MS)
