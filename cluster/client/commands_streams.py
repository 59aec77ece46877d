"""`streams tail`: the feeds that control planes read, as they grow."""

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.client.options import AsJson, Cluster, ConfigFile, DataDir, RedisUrl, cluster_of, put, say
from cluster.client.outcome import Failed
from cluster.client.tables import shown
from cluster.errors import ConfigError

if TYPE_CHECKING:
    from cluster.client.streams import Entry

app = typer.Typer(help="Look at the feeds that control planes read.", rich_markup_mode=None)

_FEEDS = ("results", "logs", "status", "stats")

Feed = Annotated[
    str, typer.Argument(metavar="FEED", help="results, logs, status or stats.", autocompletion=lambda: _FEEDS)
]
Lines = Annotated[int, typer.Option("--lines", "-n", metavar="N", min=0, help="How many of the past to begin with.")]
Follow = Annotated[bool, typer.Option("--follow/--no-follow", help="Go on with what comes.")]
Task = Annotated[str, typer.Option("--task", metavar="TASK", help="Entries of this task alone.")]
AgentId = Annotated[str, typer.Option("--agent", metavar="ID", help="Entries of this agent alone; its id.")]

Shape = Callable[[Mapping[str, str]], str]
_PAST = 10


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
    """Show the newest entries of a feed, and those that come, until Ctrl-C."""
    if feed not in _FEEDS:
        raise ConfigError(f"FEED: one of {', '.join(_FEEDS)}")
    cluster = cluster_of(config, None, redis_url, data_dir)
    wanted = {name: value for name, value in (("task_id", task), ("agent_id", agent)) if value}
    asyncio.run(_tail(cluster, feed, lines, wanted, follow=follow, as_json=as_json))


async def _tail(
    cluster: Cluster, feed: str, lines: int, wanted: Mapping[str, str], *, follow: bool, as_json: bool
) -> None:
    from cluster.client.streams import Streams  # noqa: PLC0415 - `start` has no use for Redis's driver

    stream = getattr(cluster.settings, _SECTIONS[feed])
    if not stream.enabled:
        raise Failed(f"the feed is switched off: {_SECTIONS[feed]}.enabled is false")
    streams = await Streams.open(cluster.settings)
    try:
        past = await streams.last(stream.key, lines)
        if not past and not follow:
            say(f"nothing in {stream.key}")
        _put(feed, past, wanted, as_json=as_json)
        while follow:
            _put(feed, await streams.read(), wanted, as_json=as_json)
    finally:
        await streams.close()


def _put(feed: str, entries: "list[Entry]", wanted: Mapping[str, str], *, as_json: bool) -> None:
    for entry in entries:
        if all(entry.fields.get(name) == value for name, value in wanted.items()):
            put(as_line(feed, entry.id, entry.fields, as_json=as_json) + "\n")


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
    words = [fields.get("task_id", "?"), fields.get("status", "?")]
    words += [f"exit {code}"] if code != "0" else []
    words += [fields["error_msg"]] if fields.get("error_msg") else []
    return "  ".join(words)


def _log(fields: Mapping[str, str]) -> str:
    mark = "!" if fields.get("stream") == "stderr" else "|"
    return f"{fields.get('task_id', '?')} {mark} {fields.get('content', '')}"


def _status(fields: Mapping[str, str]) -> str:
    name = fields.get("agent_name") or fields.get("agent_id", "?")
    words = (name, fields.get("status", "?"), fields.get("event", ""), fields.get("disconnect_reason", ""))
    return "  ".join(filter(None, words))


def _stats(fields: Mapping[str, str]) -> str:
    counts = (f"{name} {fields.get(name, '0')}" for name in ("total", "success", "failed", "cancelled"))
    return "  ".join((fields.get("agent_id", "?"), *counts))


_SHAPES: Mapping[str, Shape] = {"results": _result, "logs": _log, "status": _status, "stats": _stats}
_SECTIONS: Mapping[str, str] = {
    "results": "result_stream",
    "logs": "log_stream",
    "status": "status_stream",
    "stats": "task_stats_stream",
}
