"""`nodes ...`: which nodes there are, let one go of its agents, take it back, spread agents evenly."""

import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from cluster import ports
from cluster.client import completion
from cluster.client.api import Api
from cluster.client.nodes import DRAINING, READY, all_of, find, surplus
from cluster.client.options import AsJson, ConfigFile, Url, cluster_of, put, put_json, say
from cluster.client.outcome import PARTLY, TIMEOUT, Failed, NotFound
from cluster.client.rebalancing import Rebalancing
from cluster.client.tables import age, table
from cluster.errors import ConfigError

app = typer.Typer(help="Look at nodes, drain them, spread agents over them.", rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NODE", help="Its id.", autocompletion=completion.nodes)]
MaybeName = Annotated[str, typer.Argument(metavar="[NODE]", help="Its id.", autocompletion=completion.nodes)]
Rate = Annotated[float, typer.Option(metavar="N", min=0.01, max=100_000, help="Agents a second.")]
IsSelf = Annotated[
    bool, typer.Option("--self", help="The node of this machine, by its admin port: for a hook that runs beside it.")
]
AdminPort = Annotated[int | None, typer.Option(metavar="PORT", help="Of --self; else 1000 above server.port.")]
IsDry = Annotated[bool, typer.Option("--dry-run", help="Print the plan, and move nobody.")]

_HEADS = ("NODE", "STATE", "SINCE", "AGENTS", "CPU", "MACHINE", "ADDRESS")
_POLL_S = 0.5
_GRACE_S = 30.0
_SELF_S = 60.0


@app.command("list")
def list_(config: ConfigFile = None, url: Url = None, as_json: AsJson = False) -> None:
    """List nodes, with their agents.

    Dead ones are listed as long as agents of theirs are nowhere else.
    """
    found = cluster_of(config, url).api().get("api", "nodes")["nodes"]
    if as_json:
        put_json(found)
    elif found:
        put(table(_HEADS, map(_row, found)))
    else:
        say("no nodes")


@app.command()
def drain(
    node: MaybeName = "",
    config: ConfigFile = None,
    url: Url = None,
    rate: Rate = 500.0,
    of_this_machine: IsSelf = False,
    admin_port: AdminPort = None,
) -> None:
    """Let a node go of its agents; it takes none until `undrain`.

    The node stays up. A restart ends a drain.
    """
    if of_this_machine is bool(node):
        raise ConfigError("nodes drain: NODE, or --self")
    cluster = cluster_of(config, url)
    if of_this_machine:
        port = admin_port or cluster.settings.server.port + ports.ADMIN_ABOVE
        _drain_by_admin_port(f"http://127.0.0.1:{port}")
        say("drained")
        return
    api = cluster.api()
    before = all_of(api)
    agents = find(before, node).agents
    if not any(other.state == READY and other.id != node for other in before):
        say("no other node is ready: its agents wait until one is")
    api.post("api", "nodes", node, "drain", body={"per_second": rate})
    _await_drained(api, node, agents / rate + _GRACE_S)
    say(f"{node} is drained: {agents} agents were let go, and it takes no new ones")


@app.command()
def undrain(node: Name, config: ConfigFile = None, url: Url = None) -> None:
    """Take agents again."""
    api = cluster_of(config, url).api()
    find(all_of(api), node)
    api.post("api", "nodes", node, "undrain")
    until_s = time.monotonic() + _GRACE_S
    while find(all_of(api), node).state != READY:
        if time.monotonic() > until_s:
            raise Failed(f"{node} does not take agents: its log says why", TIMEOUT)
        time.sleep(_POLL_S)
    say(f"{node} takes agents")


@app.command()
def rebalance(config: ConfigFile = None, url: Url = None, rate: Rate = 50.0, is_dry: IsDry = False) -> None:
    """Move agents from full nodes to those that joined.

    Their sockets are closed, and they dial again.
    """
    api = cluster_of(config, url).api()
    over = surplus(all_of(api))
    if not over:
        say("nothing to move: no node holds more than its share")
        return
    put(table(("FROM", "AGENTS"), sorted(over.items())))
    say(f"{sum(over.values())} agents, about {max(1, round(sum(over.values()) / rate))} s at {rate:g}/s")
    if is_dry:
        return
    moved = Rebalancing(api, rate, say).run()
    if not moved.helps:
        raise Failed(
            f"stopped: of {moved.agents} agents that were moved too few went elsewhere; a load balancer in front decides"
            " where they dial, or the other nodes are on machines that this one's router does not reach",
            PARTLY,
        )
    say(f"done: {moved.agents} agents moved")


def _drain_by_admin_port(url: str) -> None:
    try:
        Api(url, timeout_s=_SELF_S).post("drain")
    except NotFound:
        raise Failed(f"{url} is not a node's admin port: give --admin-port, or name a NODE") from None


def _await_drained(api: Api, node: str, timeout_s: float) -> None:
    """Returns once it holds nobody. Raises: Failed."""
    until_s, told = time.monotonic() + timeout_s, None
    while True:
        time.sleep(_POLL_S)
        now = find(all_of(api), node)
        if now.state == DRAINING and not now.agents:
            return
        if time.monotonic() > until_s:
            raise Failed(f"{node} is {now.state} and still holds {now.agents} agents after {timeout_s:.0f} s", TIMEOUT)
        if now.agents != told:
            told = now.agents
            say(f"{node}: {now.agents} agents left")


def _row(said: dict[str, Any]) -> tuple[object, ...]:
    since = age(said["since"], datetime.now(UTC)) if said["since"] else "-"
    cpu = f"{said['cpu_percent']} %"
    return said["id"], said["state"], since, said["agents"], cpu, said["machine"] or "-", said["address"] or "-"
