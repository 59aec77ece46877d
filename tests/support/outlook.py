"""What a control plane is left with when all is done: how executions went, and who is online, as the feeds tell it last.

Pure: judges the entries of a history. Progress counts a host by its latest end; so the last entry of an execution whose tasks have all
ended counts every host that had an accepted task, and says 100. Of an agent that is connected, the last word is never `offline`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from tests.support.history import History
from tests.support.recorder import AnyEvent, Entry


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


def _last_of(entries: Iterable[Entry], field: str) -> dict[str, Entry]:
    return {entry.fields[field]: entry for entry in entries}
