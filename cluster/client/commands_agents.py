"""`status` and `agents ...`: who is there."""

from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from cluster.client import agents as known
from cluster.client import completion
from cluster.client.options import AsJson, ConfigFile, DataDir, RedisUrl, Url, cluster_of, put, put_json, say
from cluster.client.tables import age, labels, pairs, shown, table
from cluster.errors import ConfigError

app = typer.Typer(help="Look at agents, or forget them.", rich_markup_mode=None)

Reference = Annotated[
    str, typer.Argument(metavar="AGENT", help="Its id, its host id or its name.", autocompletion=completion.agents)
]
References = Annotated[
    list[str], typer.Argument(metavar="AGENT...", help="Ids, host ids or names.", autocompletion=completion.agents)
]
State = Annotated[
    str,
    typer.Option("--status", metavar="STATUS", help="online or offline.", autocompletion=lambda: ("online", "offline")),
]
Label = Annotated[str, typer.Option(metavar="KEY[=VALUE]", help="Those that bear this label.")]
Node = Annotated[str, typer.Option(metavar="NODE", help="Those that this node holds.", autocompletion=completion.nodes)]
Search = Annotated[str, typer.Option(metavar="TEXT", help="Those with this in their name, hostname or id.")]

IsCheck = Annotated[
    bool, typer.Option("--check", help="Ask Redis whether all adds up, and name what does not; exit code 1 then.")
]
IsDeep = Annotated[
    bool, typer.Option("--deep", help="As --check, over every record that is kept and what the feed remembers.")
]

_STATES = {"active": "online", "inactive": "offline"}  # the API's words, and ours
_HEADS = ("NAME", "STATUS", "HEARD", "HOST ID", "NODE", "ID", "OS", "LABELS")


def status(
    config: ConfigFile = None,
    url: Url = None,
    as_json: AsJson = False,
    is_check: IsCheck = False,
    is_deep: IsDeep = False,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Show whether the cluster answers, and its agents and nodes.

    With --check: whether every task is accounted for.
    """
    if is_check or is_deep:
        from cluster.client import commands_check  # noqa: PLC0415 - the driver takes longer to import than the rest

        commands_check.check(cluster_of(config, url, redis_url, data_dir), is_deep=is_deep, as_json=as_json)
        return
    api = cluster_of(config, url).api()
    counts = api.get("api", "metrics")
    held = Counter(agent["node"] for agent in api.get("api", "agents", query={"status": "active"})["agents"])
    nodes = [{"id": node, "agents": count} for node, count in sorted(held.items())]
    if as_json:
        put_json({"url": api.url, **counts, "nodes": nodes})
        return
    total, online, offline = (counts[f"agents_{name}"] for name in ("total", "online", "offline"))
    put(pairs({"server": api.url, "agents": f"{total} ({online} online, {offline} offline)"}))
    if nodes:
        put("\n" + table(("NODE", "AGENTS"), [(node["id"], node["agents"]) for node in nodes]))


@app.command("list")
def list_(
    config: ConfigFile = None,
    url: Url = None,
    as_json: AsJson = False,
    state: State = "",
    label: Label = "",
    node: Node = "",
    search: Search = "",
) -> None:
    """List agents: live ones first, then by when they were last heard."""
    asked = next((word for word, ours in _STATES.items() if state in {word, ours}), state)
    if asked and asked not in _STATES:
        raise ConfigError("--status: online or offline")
    query = {"status": asked, "label": label, "node": node, "q": search}
    api = cluster_of(config, url).api()
    found = api.get("api", "agents", query={name: value for name, value in query.items() if value})["agents"]
    if as_json:
        put_json(found)
    elif found:
        put(table(_HEADS, map(_row, found)))
    else:
        say("no agents" + (" like this" if any(query.values()) else " yet"))


@app.command()
def show(reference: Reference, config: ConfigFile = None, url: Url = None, as_json: AsJson = False) -> None:
    """Show all that is known of an agent."""
    api = cluster_of(config, url).api()
    [agent] = known.find(api, [reference])
    said = api.get("api", "agents", agent.id)
    if as_json:
        put_json(said)
        return
    own = {name.replace("_", " "): value for name, value in said.items() if name not in {"labels", "system", "status"}}
    system = said.get("system") or {}
    rest = {f"system {name}": value for name, value in system.items() if name not in said}
    put(pairs({"name": own.pop("name"), "status": _state(said), **own, "labels": labels(said["labels"]), **rest}))


@app.command()
def forget(references: References, config: ConfigFile = None, url: Url = None, as_json: AsJson = False) -> None:
    """Forget agents, and refuse their tokens.

    Their connections are closed, and their open tasks end.
    """
    api = cluster_of(config, url).api()
    found = known.find(api, references)
    for agent in found:
        said = api.call("DELETE", "api", "agents", agent.id)
        if as_json:
            put_json(said)
        else:
            say(f"{shown(agent.name)} ({agent.id}) is forgotten, and its token refused")


def _row(said: dict[str, Any]) -> tuple[object, ...]:
    heard = age(said["last_heartbeat"], datetime.now(UTC))
    host = said["host_id"] or "-"
    system = "/".join(filter(None, (said["os"], said["arch"]))) or "-"
    return said["name"], _state(said), heard, host, said["node"] or "-", said["id"], system, labels(said["labels"])


def _state(said: dict[str, Any]) -> str:
    return _STATES.get(said["status"], str(said["status"]))
