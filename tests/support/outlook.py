"""What a control plane is left with when all is done: how executions went, and who is online, as the feeds tell it last.

Pure: judges the entries of a history. Progress counts a host by its latest end; so the last entry of an execution whose tasks have all
ended counts every host that had an accepted task, and says 100. Of an agent that is connected, the last word is never `offline`; and it
is not declared so while it is connected, unless it stood still.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from tests.support.history import History
from tests.support.recorder import AnyEvent, Closed, Continued, Entry, Opened, Stopped

_LEASE_ENDED = {"heartbeat_timeout", "node_lost"}
_APART_S = 2.0  # within which the two ends of a connection may learn of its end


def unfinished_executions(events: Iterable[AnyEvent]) -> Iterator[str]:
    """Executions whose last entry does not say that all of it has ended."""
    history = History(events)
    hosts: dict[str, set[str]] = defaultdict(set)
    for task_id, task in history.tasks.items():
        execution, _, host, *_ = (*task_id.split("_"), "", "")
        if task.accepted_s is not None:
            hosts[execution].add(host)
    for execution, entry in _last_of(history.feeds.get("results", ()), "execution_id").items():
        fields = entry.fields
        ended = int(fields["success_hosts"]) + int(fields["failed_hosts"])
        is_whole = ended == int(fields["total_hosts"]) == len(hosts[execution]) and fields["progress"] == "100"
        if execution in hosts and not is_whole:
            counted = f"{ended} of {fields['total_hosts']} hosts ended, progress {fields['progress']}"
            yield f"execution {execution}: {counted}, and all tasks of its {len(hosts[execution])} hosts have ended"


def shown_offline(events: Iterable[AnyEvent], connected: Iterable[str]) -> Iterator[str]:
    """Agents that are connected, and of whom the status feed says otherwise."""
    last = _last_of(History(events).feeds.get("status", ()), "agent_id")
    for agent in connected:
        if agent not in last or last[agent].fields["status"] == "offline":
            yield f"agent {agent} is connected, the status feed says {last[agent].fields if agent in last else 'nothing'}"


def declared_dead(events: Iterable[AnyEvent], wall_ahead_s: float) -> Iterator[str]:
    """Agents that were declared offline while they were connected and well. `wall_ahead_s`: the time of day less the history's clock."""
    events = list(events)
    connected, still = _connected(events), _stood_still(events)
    told = {entry.entry_id: entry.fields for entry in events if isinstance(entry, Entry) and entry.feed == "status"}
    for entry_id, fields in told.items():
        at_s, agent = int(fields["timestamp"]) / 1000 - wall_ahead_s, fields["agent_id"]
        if fields["status"] != "offline" or _within(still[agent], at_s, _APART_S):
            continue
        if _is_connected(connected[agent], at_s, fields["disconnect_reason"]):
            yield f"declared dead: agent {agent} by {entry_id} ({fields['disconnect_reason']}), while it was connected"


def offline_after_s(events: Iterable[AnyEvent], agent: str, since_s: float) -> float | None:
    """How long after this moment an agent was told to be offline; None when it was not."""
    told = (event for event in events if isinstance(event, Entry) and event.feed == "status")
    theirs = (entry.at_s - since_s for entry in told if _says(entry, agent, "offline") and entry.at_s >= since_s)
    return next(theirs, None)


def _says(entry: Entry, agent: str, status: str) -> bool:
    return entry.fields["agent_id"] == agent and entry.fields["status"] == status


def _connected(events: Iterable[AnyEvent]) -> dict[str, list[tuple[float, float]]]:
    """Of each agent: from the opening of each of its connections to its end, or for ever."""
    opened = [event for event in events if isinstance(event, Opened)]
    ended_s = {event.connection: event.at_s for event in events if isinstance(event, Closed)}
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for event in opened:
        spans[event.agent].append((event.at_s, ended_s.get(event.connection, float("inf"))))
    return spans


def _stood_still(events: Iterable[AnyEvent]) -> dict[str, list[tuple[float, float]]]:
    """Of each agent: from each time that it stopped until it went on, or for ever."""
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        if isinstance(event, Stopped):
            spans[event.agent].append((event.at_s, float("inf")))
        elif isinstance(event, Continued) and spans[event.agent]:
            spans[event.agent][-1] = (spans[event.agent][-1][0], event.at_s)
    return spans


def _is_connected(spans: Iterable[tuple[float, float]], at_s: float, reason: str) -> bool:
    """A lease that runs out under a connection closes it; any other end begins with the connection, which the agent may see later."""
    late_s = 0.0 if reason in _LEASE_ENDED else _APART_S
    return any(began_s + _APART_S <= at_s <= ended_s - late_s for began_s, ended_s in spans)


def _within(spans: Iterable[tuple[float, float]], at_s: float, margin_s: float) -> bool:
    return any(began_s - margin_s <= at_s <= ended_s + margin_s for began_s, ended_s in spans)


def _last_of(entries: Iterable[Entry], field: str) -> dict[str, Entry]:
    return {entry.fields[field]: entry for entry in entries}


def connection_gaps_s(events: Iterable[AnyEvent]) -> list[float]:
    """From each end of a connection to the next one's beginning."""
    closed_s: dict[str, float] = {}
    gaps: list[float] = []
    for event in events:
        if isinstance(event, Closed):
            closed_s[event.agent] = event.at_s
        elif isinstance(event, Opened) and event.agent in closed_s:
            gaps.append(event.at_s - closed_s.pop(event.agent))
    return gaps
