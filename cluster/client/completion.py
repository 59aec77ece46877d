"""What a shell is offered for a word that is being typed: agents, nodes and tasks of the cluster that is meant.

Rules: a shell waits for it, so what is not known within `WAIT_S` is not offered; and whatever goes wrong, nothing is said.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import Any

import typer

from cluster.client import agents as known
from cluster.client.api import Api
from cluster.client.options import Cluster, cluster_of

WAIT_S = 0.5
WORDS = "words behind --"  # in a context's meta: what stands there is nobody's to complete
TASKS = 100  # newest of an agent

Offers = list[tuple[str, str]]  # a word, and what a shell may show beside it


def agents(ctx: typer.Context, incomplete: str) -> Offers:
    """Names; and once a word is begun, ids and host ids."""

    def found(cluster: Cluster) -> Offers:
        listed = _api(cluster).get("api", "agents")["agents"]
        offers = [(agent["name"], agent["status"]) for agent in listed]
        if incomplete:
            offers += [(agent["id"], agent["name"]) for agent in listed]
            offers += [(str(agent["host_id"]), agent["name"]) for agent in listed if agent["host_id"]]
        return offers

    return _offered(ctx, incomplete, found)


def agent_ids(ctx: typer.Context, incomplete: str) -> Offers:
    """Ids alone."""
    return _offered(
        ctx,
        incomplete,
        lambda cluster: [(agent["id"], agent["name"]) for agent in _api(cluster).get("api", "agents")["agents"]],
    )


def nodes(ctx: typer.Context, incomplete: str) -> Offers:
    """Ids of nodes."""
    return _offered(
        ctx,
        incomplete,
        lambda cluster: [(node["id"], node["state"]) for node in _api(cluster).get("api", "nodes")["nodes"]],
    )


def tasks(ctx: typer.Context, incomplete: str) -> Offers:
    """Tasks of the agent that stands before; without one, of all agents: those that ended last, and open ones."""
    from cluster.client.recent import recent_tasks  # noqa: PLC0415 - others have no use for Redis's driver, nor time for it

    reference = ctx.params.get("agent")

    def found(cluster: Cluster) -> Offers:
        agent_id = known.find(_api(cluster), [reference])[0].id if reference else ""
        return recent_tasks(cluster.settings, agent_id, TASKS)

    return _offered(ctx, incomplete, found)


def _api(cluster: Cluster) -> Api:
    return Api(cluster.url, cluster.settings.auth.shared_secret, WAIT_S)


def _offered(ctx: typer.Context, incomplete: str, find: Callable[[Cluster], Offers]) -> Offers:
    if WORDS in ctx.meta:
        return []
    found: list[tuple[str, str]] = []

    def run() -> None:
        with contextlib.suppress(Exception):
            found.extend(find(_meant(ctx.params)))

    thread = threading.Thread(target=run, name="completion", daemon=True)
    thread.start()
    thread.join(WAIT_S)
    return list(_fitting(list(found), incomplete, ctx.params))


def _meant(params: dict[str, Any]) -> Cluster:
    return cluster_of(params.get("config"), params.get("url"), params.get("redis_url"), params.get("data_dir"))


def _fitting(offers: Offers, incomplete: str, params: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Each word once, without those that a shell would split, and those that were typed already."""
    typed = params.get("references") or ()
    words = {word: about for word, about in reversed(offers) if word.startswith(incomplete) and word not in typed}
    return [(word, about) for word, about in reversed(words.items()) if word.isprintable() and " " not in word]
