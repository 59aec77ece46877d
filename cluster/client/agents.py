"""Which agents are meant: by id, by host id, by name, by label. Asks the HTTP API and prints nothing.

Rules: an id wins over a host id, and both over a name; a name that several agents bear is refused, with their ids.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.client.api import Api
from cluster.client.outcome import Failed, NotFound
from cluster.client.tables import shown

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9]{1,64}")  # or a host id
_NAMED = 5  # ids that an error names


@dataclass(frozen=True)
class Agent:
    """An agent as the API tells of it."""

    id: str
    name: str
    host_id: int = 0
    is_online: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


def agent_of(said: Mapping[str, Any]) -> Agent:
    """An agent from the API's answer."""
    return Agent(said["id"], said["name"], said["host_id"], said["status"] == "active", said["labels"])


def find(api: Api, references: Sequence[str]) -> list[Agent]:
    """The agents of these references, each once, in order. Raises: NotFound, Failed."""
    known = {reference: agent for reference in references if (agent := _by_id(api, reference))}
    names = [reference for reference in references if reference not in known]
    known.update(_by_name(api, names))
    return list({known[reference].id: known[reference] for reference in references}.values())


def chosen(api: Api, labels: Sequence[str]) -> list[Agent]:
    """All agents that bear all of these labels, `key=value` or `key` each. Raises: Failed."""
    query = {"label": labels[0]} if labels else None
    agents = map(agent_of, api.get("api", "agents", query=query)["agents"])
    return [agent for agent in agents if all(_bears(agent, label) for label in labels)]


def _bears(agent: Agent, label: str) -> bool:
    key, is_pair, value = label.partition("=")
    return key in agent.labels and (not is_pair or agent.labels[key] == value)


def _by_id(api: Api, reference: str) -> Agent | None:
    if _ID.fullmatch(reference) is None:
        return None
    try:
        return agent_of(api.get("api", "agents", reference))
    except NotFound:
        return None


def _by_name(api: Api, names: Sequence[str]) -> dict[str, Agent]:
    """One question, however many names."""
    if not names:
        return {}
    query = {"q": names[0]} if len(names) == 1 else None
    agents = [agent_of(said) for said in api.get("api", "agents", query=query)["agents"]]
    return {name: _only([agent for agent in agents if agent.name == name], name) for name in names}


def _only(bearers: Sequence[Agent], name: str) -> Agent:
    match bearers:
        case []:
            raise NotFound(f"no agent '{shown(name)}': no id, host id or name is like this (agents list shows all)")
        case [agent]:
            return agent
    ids = ", ".join(agent.id for agent in bearers[:_NAMED])
    raise Failed(f"{len(bearers)} agents are called '{shown(name)}': say which by id ({ids})")


def told_apart(agents: Iterable[Agent]) -> dict[str, str]:
    """What to call each agent, by its id: its name, with the head of its id where others bear it too."""
    agents = list(agents)
    names = [agent.name for agent in agents]
    return {
        agent.id: shown(agent.name if names.count(agent.name) == 1 else f"{agent.name}/{agent.id[:8]}")
        for agent in agents
    }
