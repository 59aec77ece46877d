"""`streams ...`: the feeds that control planes read: as they grow, how far behind their readers are, cut by hand."""

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster import kinds
from cluster.client import completion
from cluster.client.ends import counted
from cluster.client.options import FEEDS, AsJson, Cluster, ConfigFile, DataDir, RedisUrl, cluster_of, put, put_json, say
from cluster.client.outcome import Failed
from cluster.client.tables import shown, table
from cluster.errors import ConfigError

if TYPE_CHECKING:
    from cluster.client.streams import Entry

app = typer.Typer(help="Look at the feeds that control planes read.", rich_markup_mode=None)

Feed = Annotated[
    str, typer.Argument(metavar="FEED", help="results, logs, status or stats.", autocompletion=lambda: tuple(FEEDS))
]
Lines = Annotated[int, typer.Option("--lines", "-n", metavar="N", min=0, help="How many of the past to begin with.")]
Follow = Annotated[bool, typer.Option("--follow/--no-follow", help="Go on with what comes.")]
Task = Annotated[
    str, typer.Option("--task", metavar="TASK", help="Entries of this task alone.", autocompletion=completion.tasks)
]
AgentId = Annotated[
    str,
    typer.Option(
        "--agent", metavar="ID", help="Entries of this agent alone; its id.", autocompletion=completion.agent_ids
    ),
]

MaxLen = Annotated[int | None, typer.Option("--max-len", metavar="N", min=0, help="Leave the newest N entries.")]
MaxAge = Annotated[str, typer.Option("--max-age", metavar="DURATION", help="Leave what is younger: 30m, 24h, 7d.")]
IsDry = Annotated[bool, typer.Option("--dry-run", help="Say how many entries would go, and cut none.")]
IsForced = Annotated[bool, typer.Option("--force", help="Also what a consumer group still needs.")]

Shape = Callable[[Mapping[str, str]], str]
_PAST = 10
_LAG_HEADS = ("FEED", "ENTRIES", "GROUP", "CONSUMERS", "LAST DELIVERED", "LAG", "BEHIND", "PENDING")


@app.command()
def tail(  # noqa: PLR0913, PLR0917 - an argument a flag
    feed: Feed,
    lines: Lines = _PAST,
    follow: Follow = True,
    task: Task = "",
    agent: AgentId = "",
    config: ConfigFile = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the newest entries of a feed, and those that come.

    Ctrl-C ends it.
    """
    cluster = cluster_of(config, None, redis_url, data_dir)
    _stream_of(cluster, feed)
    wanted = {name: value for name, value in (("task_id", task), ("agent_id", agent)) if value}
    asyncio.run(_tail(cluster, feed, lines, wanted, follow=follow, as_json=as_json))


@app.command()
def lag(
    config: ConfigFile = None, redis_url: RedisUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Show how far behind each consumer group of each feed is.

    LAG: entries that the group was not handed yet; BEHIND: the age of the oldest of them; PENDING: handed out, and not acked.
    Redis tells the lag from 7.0 on, and not in every case: else it is counted, and 100000+ is "or more".
    Who reads without a group (XREAD) is not known to Redis.
    """
    asyncio.run(_lag(cluster_of(config, None, redis_url, data_dir), as_json=as_json))


async def _lag(cluster: Cluster, *, as_json: bool) -> None:
    from cluster import groups  # noqa: PLC0415 - `start` has no use for Redis's driver
    from cluster.client import overview  # noqa: PLC0415
    from cluster.client.streams import cluster_store, reached  # noqa: PLC0415

    feeds = []
    async with cluster_store(await reached(cluster.settings)) as store:
        for name, section in FEEDS.items():
            stream = getattr(cluster.settings, section)
            if stream.enabled:
                said = overview.feed_figures(await groups.look(store, stream.key))
                feeds.append({"feed": name, **said})
    if as_json:
        put_json(feeds)
    else:
        put(table(_LAG_HEADS, [row for feed in feeds for row in overview.lag_rows(feed)]))


@app.command()
def trim(  # noqa: PLR0913, PLR0917 - an argument a flag
    feed: Feed,
    max_len: MaxLen = None,
    max_age: MaxAge = "",
    is_dry: IsDry = False,
    is_forced: IsForced = False,
    config: ConfigFile = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Cut the oldest entries of a feed, if no group needs them.

    A consumer group needs what it was not handed yet, and what it was handed within 15 minutes and has not acked.
    """
    if (max_len is None) is not bool(max_age):
        raise ConfigError("streams trim: --max-len or --max-age")
    cluster = cluster_of(config, None, redis_url, data_dir)
    asyncio.run(_trim(cluster, feed, max_len, _age_s(max_age), is_dry=is_dry, is_forced=is_forced, as_json=as_json))


async def _trim(
    cluster: Cluster, feed: str, max_len: int | None, max_age_s: float | None, *, is_dry: bool, is_forced: bool,
    as_json: bool,
) -> None:  # fmt: skip
    from cluster.client.streams import cluster_store, reached  # noqa: PLC0415
    from cluster.trimming import Trimmer  # noqa: PLC0415

    stream = _stream_of(cluster, feed)
    async with cluster_store(await reached(cluster.settings)) as store:
        trimmer = Trimmer(store, cluster.settings)
        plan = await trimmer.planned(stream.key, max_len=max_len, max_age_s=max_age_s)
        refused = "" if is_forced or not plan.needed else _refusal(plan.key, plan.needed)
        if refused and not is_dry:
            raise Failed(refused)
        gone = 0 if is_dry else await trimmer.cut(plan)
    if as_json:
        put_json({"feed": feed, "stream": plan.key, "dry_run": is_dry, "entries": plan.entries if is_dry else gone,
                  "left": plan.left, "needed": plan.needed})  # fmt: skip
    elif is_dry:
        put(f"{plan.key}: {counted(plan.entries, 'entry', 'entries')} would go, {plan.left} stay\n")
        if refused:
            say(refused)
    else:
        put(f"{plan.key}: {counted(gone, 'entry', 'entries')} gone, {plan.left} stay\n")


def _refusal(key: str, needed: Mapping[str, int]) -> str:
    wants = ", ".join(f"{shown(group)} {number}" for group, number in needed.items())
    return f"{key}: consumer groups still need entries that would go ({wants}); --force cuts them all the same"


def _age_s(text: str) -> float | None:
    if not text:
        return None
    try:
        age_s = kinds.seconds(text)
    except ValueError:
        age_s = -1.0
    if age_s < 0:
        raise ConfigError("--max-age: a duration such as 30m, 24h, 7d")
    return age_s


def _stream_of(cluster: Cluster, feed: str) -> Any:
    """The section of a feed that is written. Raises: ConfigError, Failed."""
    if feed not in FEEDS:
        raise ConfigError(f"FEED: one of {', '.join(FEEDS)}")
    stream = getattr(cluster.settings, FEEDS[feed])
    if not stream.enabled:
        raise Failed(f"the feed is switched off: {FEEDS[feed]}.enabled is false")
    return stream


async def _tail(
    cluster: Cluster, feed: str, lines: int, wanted: Mapping[str, str], *, follow: bool, as_json: bool
) -> None:
    from cluster.client.names import Names  # noqa: PLC0415 - `start` has no use for Redis's driver
    from cluster.client.streams import Streams, redis_of  # noqa: PLC0415

    stream = _stream_of(cluster, feed)
    streams, names = await Streams.open(cluster.settings), Names(redis_of(cluster.settings))
    try:
        past = await streams.last(stream.key, lines)
        if not past and not follow:
            say(f"nothing in {stream.key}")
        _put(feed, past, wanted, await names.of(past), as_json=as_json)
        while follow:
            came = await streams.read()
            _put(feed, came, wanted, await names.of(came), as_json=as_json)
    finally:
        await streams.close()
        await names.close()


def _put(
    feed: str, entries: "list[Entry]", wanted: Mapping[str, str], names: Mapping[str, str], *, as_json: bool
) -> None:
    for entry in entries:
        if all(entry.fields.get(name) == value for name, value in wanted.items()):
            name = names.get(entry.fields.get("agent_id", ""))
            told = {"agent_name": name} if name and not as_json else {}
            put(as_line(feed, entry.id, {**entry.fields, **told}, as_json=as_json) + "\n")


def as_line(feed: str, entry_id: str, fields: Mapping[str, str], *, as_json: bool) -> str:
    """One entry, for programs with all of its fields, for people in short."""
    if as_json:
        return json.dumps({"id": entry_id, **fields}, ensure_ascii=False)
    return f"{_time_of(entry_id)}  {shown(_SHAPES[feed](fields))}"


def _time_of(entry_id: str) -> str:
    """When it was written, by Redis's clock, in this machine's zone."""
    milliseconds = entry_id.partition("-")[0]
    at = datetime.fromtimestamp(int(milliseconds) / 1000, UTC).astimezone() if milliseconds.isdigit() else None
    return at.isoformat(" ", "milliseconds")[:23] if at else entry_id


def _result(fields: Mapping[str, str]) -> str:
    code = fields.get("exit_code", "0")
    words = [_agent(fields)] if "agent_id" in fields else []
    words += [fields.get("task_id", "?"), fields.get("status", "?")]
    words += [f"exit {code}"] if code != "0" else []
    words += [fields["error_msg"]] if fields.get("error_msg") else []
    return "  ".join(words)


def _log(fields: Mapping[str, str]) -> str:
    mark = "!" if fields.get("stream") == "stderr" else "|"
    return f"{fields.get('task_id', '?')} {mark} {fields.get('content', '')}"


def _status(fields: Mapping[str, str]) -> str:
    words = (_agent(fields), fields.get("status", "?"), fields.get("event", ""), fields.get("disconnect_reason", ""))
    return "  ".join(filter(None, words))


def _stats(fields: Mapping[str, str]) -> str:
    counts = (f"{name} {fields.get(name, '0')}" for name in ("total", "success", "failed", "cancelled"))
    return "  ".join((_agent(fields), *counts))


def _agent(fields: Mapping[str, str]) -> str:
    return fields.get("agent_name") or fields.get("agent_id", "?")


_SHAPES: Mapping[str, Shape] = {"results": _result, "logs": _log, "status": _status, "stats": _stats}
