"""Judges a finished history by promises 1 to 3 of the design: each task ends once, nothing acked is lost or doubled, one owner at a time.

Gives one line a violation, with the ids to look for in the history, and beside every zero how much was looked at. It accuses only where
no correct cluster could have left such a history:

- A frame that an agent reads after a task's end, or on a replaced connection, may have been on its way: `delivery_grace_s`. Longer for
  an agent that did not read, and to be set longer by a test that stops a node.
- Two messages are out of order only when the later one can have come from no connection on which the earlier one did not precede it. A
  connection that is cut may lose the first of two and the agent's timers bring it after the second; no server can know of that.
- An ack without an entry is excused by protocol.md, section 1.3: the task had ended by another message, "skipped as duplicated", a log
  line of a task that ended over 15 min ago, a message without task, lines or result.

| line begins with | promise |
| --- | --- |
| lost, ended twice, open and ended, ran again, refused and taken, after its end | 1: accepted = ended + open, one terminal entry, one run |
| acked and not written, doubled, out of order, not as sent, from nowhere, group missed | 2: acked means written, once, in order |
| sent after its end, sent to a replaced connection, misdelivered, bytes changed, overtaken | 3, and what the mailbox promises |
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import msgspec

from tests.support.go_wire import ENDS
from tests.support.history import ConnectionHistory, History, MessageHistory, TaskHistory
from tests.support.recorder import AnyEvent, Delivered, Entry

_NEVER_SENT = ("expired before delivery", "cancelled before delivery")
_ANSWERED = {"results": "task_result", "logs": "log"}


class Rules(msgspec.Struct, frozen=True):
    """What a test expects beyond the defaults.

    `open_tasks`: ids that may be without an end, because the test, or the mailboxes at its end, say so. `max_runs`: 1, or
    `tasks.max_attempts` where redelivery to a new process was asked for. `feeds`: which were read from their beginning to their end.
    `is_ordered`: first deliveries to an agent come in the order of posting, for tests whose agents lose no connection.
    """

    open_tasks: frozenset[str] = frozenset()
    max_runs: int = 1
    delivery_grace_s: float = 1.0
    late_log_s: float = 900.0
    feeds: frozenset[str] = frozenset({"results", "logs"})
    is_ordered: bool = False


class Verdict(msgspec.Struct, frozen=True):
    """What is wrong, one line each, and how much was looked at."""

    violations: list[str]
    counts: dict[str, int]

    def require(self) -> None:
        """Raises: AssertionError with the first violations, a count of each sort, and the counts."""
        if self.violations:
            raise AssertionError("\n".join([str(self), *self.violations[:20]]))

    def __str__(self) -> str:
        looked_at = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        sorts = Counter(line.partition(":")[0] for line in self.violations)
        wrong = ", ".join(f"{count} x {sort}" for sort, count in sorts.items())
        return f"{len(self.violations)} violations{f' ({wrong})' if wrong else ''} in {looked_at}"


def check(events: Iterable[AnyEvent], rules: Rules | None = None) -> Verdict:
    """Judge a history."""
    judge = _Judge(History(events), rules or Rules())
    return Verdict(list(judge.violations()), judge.counts())


class _Judge:
    def __init__(self, history: History, rules: Rules) -> None:
        self.history, self.rules = history, rules

    def violations(self) -> Iterator[str]:
        for task_id, task in self.history.tasks.items():
            yield from self._ends(task_id, task)
            yield from self._taken_though_refused(task_id, task)
            yield from self._runs(task_id, task)
        yield from self._after_end()
        yield from self._acks()
        for feed in sorted(self.rules.feeds & _ANSWERED.keys()):
            yield from self._entries(feed)
            yield from self._order(feed)
        yield from self._doubled_status()
        yield from self._groups()
        replaced_s = self._replaced()
        for delivered in self.history.deliveries:
            yield from self._delivery(delivered, replaced_s)
        if self.rules.is_ordered:
            yield from self._overtaken()

    def counts(self) -> dict[str, int]:
        accepted = [task for task in self.history.tasks.values() if task.accepted_s is not None]
        return {
            "tasks accepted": len(accepted),
            "of them ended": sum(bool(task.ends) for task in accepted),
            "of them open": sum(not task.ends for task in accepted),
            "runs": sum(len(task.runs) for task in self.history.tasks.values()),
            "deliveries": len(self.history.deliveries),
            "messages sent": len(self.history.messages),
            "acks checked": len(self.history.acks),
            **{f"{feed} entries": len(self.history.feeds.get(feed, ())) for feed in sorted(self.rules.feeds)},
            "connections": len(self.history.connections),
        }

    # ---- promise 1 ----

    def _ends(self, task_id: str, task: TaskHistory) -> Iterator[str]:
        is_lost = task.accepted_s is not None and not task.ends and "results" in self.rules.feeds
        if is_lost and task_id not in self.rules.open_tasks:
            yield f"lost: task {task_id} was accepted ({_calls(task)}), has no end and is not open"
        if len(task.ends) > 1:
            yield f"ended twice: task {task_id} by {', '.join(map(_named, task.ends))}"
        if task.ends and task_id in self.rules.open_tasks:
            yield f"open and ended: task {task_id} by {_named(task.ends[0])}"

    def _taken_though_refused(self, task_id: str, task: TaskHistory) -> Iterator[str]:
        is_refused = task.posted and not any(self.history.may_have_taken(posted) for posted, _ in task.posted)
        if is_refused and (task.deliveries or task.ends):
            yield f"refused and taken: task {task_id} was refused each time ({_calls(task)}), and was delivered or ended"

    def _runs(self, task_id: str, task: TaskHistory) -> Iterator[str]:
        if len(task.runs) > self.rules.max_runs:
            where = ", ".join(f"{run.agent}#{run.incarnation}" for run in task.runs)
            yield f"ran again: task {task_id} ran {len(task.runs)} times, on {where}"
        never_sent = [entry for entry in task.ends if _says_never_sent(entry)]
        if never_sent and task.runs:
            yield f"ran again: task {task_id} ran, and {_named(never_sent[0])} says it was never delivered"

    def _after_end(self) -> Iterator[str]:
        ended: dict[str, Entry] = {}
        for entry in self.history.feeds.get("results", ()):
            task_id = entry.fields.get("task_id", "")
            if entry.fields.get("status") in ENDS:
                ended.setdefault(task_id, entry)
            elif task_id in ended:
                yield f"after its end: task {task_id} has {_named(entry)} after {_named(ended[task_id])}"

    # ---- promise 2 ----

    def _acks(self) -> Iterator[str]:
        written = {feed: self._contents(feed) for feed in _ANSWERED}
        for message_id, last_s in {ack.message_id: ack.at_s for ack in self.history.acks}.items():
            message = self.history.messages.get(message_id)
            if message is None:
                yield f"from nowhere: an ack of message {message_id}, which was never sent"
            elif message.sent.type == "task_result" and "results" in self.rules.feeds:
                yield from self._acked_result(message_id, message, message_id in written["results"])
            elif message.sent.type == "log" and "logs" in self.rules.feeds:
                yield from self._acked_log(message_id, message, written["logs"].get(message_id, []), last_s)

    def _acked_result(self, message_id: str, message: MessageHistory, is_written: bool) -> Iterator[str]:
        sent = message.sent
        excused = sent.is_spurious or not sent.task_id or not sent.status or self.history.tasks[sent.task_id].ends
        if not is_written and not excused:
            yield f"acked and not written: result {message_id} ({sent.status}) of task {sent.task_id} by {sent.agent}"

    def _acked_log(
        self, message_id: str, message: MessageHistory, written: Sequence[str], acked_s: float
    ) -> Iterator[str]:
        sent = message.sent
        if not sent.task_id or not sent.lines or self._is_late(acked_s, sent.task_id):
            return
        if len(written) < len(sent.lines):
            missing = f"{len(written)} of {len(sent.lines)} lines written"
            yield f"acked and not written: log {message_id} of task {sent.task_id} by {sent.agent}, {missing}"

    def _is_late(self, acked_s: float, task_id: str) -> bool:
        ends = self.history.tasks[task_id].ends if task_id in self.history.tasks else []
        slack_s = 5.0  # the reader may have seen the end later than it was
        return bool(ends) and acked_s >= ends[0].at_s + self.rules.late_log_s - slack_s

    def _contents(self, feed: str) -> dict[str, list[str]]:
        """What each message has in a feed."""
        found: dict[str, list[str]] = defaultdict(list)
        for entry in self.history.feeds.get(feed, ()):
            found[entry.fields.get("message_id", "")].append(entry.fields.get("content", ""))
        return found

    def _entries(self, feed: str) -> Iterator[str]:
        """Each message once, as it was sent, by who sent it."""
        for message_id, contents in self._contents(feed).items():
            message = self.history.messages.get(message_id)
            if message is not None:
                yield from self._as_sent(feed, message_id, message, contents)
            elif message_id and len(contents) > 1 and feed == "results":
                yield f"doubled: message {message_id} stands {len(contents)} times in {feed}"
        for entry in self.history.feeds.get(feed, ()):
            yield from self._origin(feed, entry)

    def _as_sent(self, feed: str, message_id: str, message: MessageHistory, contents: Sequence[str]) -> Iterator[str]:
        lines = message.sent.lines if feed == "logs" else ("",)
        if len(contents) > len(lines):
            yield f"doubled: message {message_id} of {message.sent.agent} has {len(contents)} entries in {feed}, not {len(lines)}"
        elif feed == "logs" and tuple(contents) != lines[: len(contents)]:
            yield f"not as sent: log {message_id} of {message.sent.agent} reads {contents}, not {list(lines)}"

    def _origin(self, feed: str, entry: Entry) -> Iterator[str]:
        message = self.history.messages.get(entry.fields.get("message_id", ""))
        if message is None:
            is_known = entry.fields.get("agent_id") in self.history.agents
            if is_known and not (feed == "results" and self.history.is_own(entry)):
                yield f"from nowhere: {_named(entry)} in {feed} is of no message its agent sent"
            elif is_known and entry.fields.get("status") not in ENDS:
                yield f"from nowhere: {_named(entry)} is the cluster's own, and no end"
            return
        sent = message.sent
        claimed = {"agent_id": sent.agent, "task_id": sent.task_id} | (
            {"status": sent.status} if feed == "results" else {}
        )
        wrong = [name for name, value in claimed.items() if entry.fields.get(name) != value]
        if wrong or sent.type != _ANSWERED[feed]:
            yield f"not as sent: {_named(entry)} in {feed} differs from its message in {', '.join(wrong) or 'type'}"
        elif sent.is_spurious:
            yield f'not as sent: {_named(entry)} is "skipped as duplicated", which ends nothing and is never written'

    def _order(self, feed: str) -> Iterator[str]:
        """See the module's second rule. For each message: how far its predecessors on each of its connections reach in the feed."""
        places = self._places(feed)
        reach: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for name, connection in self.history.connections.items():
            furthest = (-1, "")
            for message_id in connection.sent:
                if message_id in places:
                    if self._can_have_come_by(name, message_id, places[message_id][2]):
                        reach[message_id].append(furthest)
                    furthest = max(furthest, (places[message_id][1], message_id))
        for message_id, furthest_on in reach.items():
            place, before = min(furthest_on)
            if place > places[message_id][0]:
                agent = self.history.messages[message_id].sent.agent
                yield f"out of order: in {feed}, {message_id} of {agent} stands before {before}, which was sent first"

    def _places(self, feed: str) -> dict[str, tuple[int, int, float]]:
        """First and last place of each message in a feed, and when it was first seen there."""
        places: dict[str, tuple[int, int, float]] = {}
        for place, entry in enumerate(self.history.feeds.get(feed, ())):
            message_id = entry.fields.get("message_id", "")
            first, _, seen_s = places.get(message_id, (place, place, entry.at_s))
            places[message_id] = (first, place, seen_s)
        return places

    def _can_have_come_by(self, connection: str, message_id: str, seen_s: float) -> bool:
        return self.history.messages[message_id].on[connection] <= seen_s

    def _doubled_status(self) -> Iterator[str]:
        for feed in ("status", "task_stats"):
            ids = Counter(entry.fields.get("message_id", "") for entry in self.history.feeds.get(feed, ()))
            yield from (
                f"doubled: message {name} stands {count} times in {feed}"
                for name, count in ids.items()
                if name and count > 1
            )

    def _groups(self) -> Iterator[str]:
        for (feed, group), seen in self.history.group_reads.items():
            missed = [entry for entry in self.history.feeds.get(feed, ()) if entry.entry_id not in seen]
            if missed and feed in self.rules.feeds:
                yield f"group missed: {group} was never handed {len(missed)} entries of {feed}, first {_named(missed[0])}"

    # ---- promise 3, and the mailbox ----

    def _replaced(self) -> dict[str, float]:
        """When each connection was replaced for certain: one that its agent began to dial after it was open, was open too."""
        by_agent: dict[str, list[tuple[str, ConnectionHistory]]] = defaultdict(list)
        for name, connection in self.history.connections.items():
            by_agent[connection.agent].append((name, connection))
        return {name: moment_s for named in by_agent.values() for name, moment_s in _replaced_among(named)}

    def _delivery(self, delivered: Delivered, replaced_s: dict[str, float]) -> Iterator[str]:
        task, grace_s = self.history.tasks[delivered.task_id], self.rules.delivery_grace_s
        where = f"task {delivered.task_id} to {delivered.agent} on {delivered.connection}"
        if not self.history.just_continued(delivered, grace_s):
            after_end_s = delivered.at_s - task.end_known_s
            if after_end_s > grace_s:
                yield f"sent after its end: {where}, {after_end_s:.1f} s after its end was known"
            after_replaced_s = delivered.at_s - replaced_s.get(delivered.connection, float("inf"))
            if after_replaced_s > grace_s:
                yield f"sent to a replaced connection: {where}, {after_replaced_s:.1f} s after the newer one was open"
        yield from self._as_posted(delivered, task, where)

    def _as_posted(self, delivered: Delivered, task: TaskHistory, where: str) -> Iterator[str]:
        taken = [(posted, digest) for posted, digest in task.posted if self.history.may_have_taken(posted)]
        if taken and delivered.digest not in {digest for _, digest in taken}:
            yield f"bytes changed: {where}, digest {delivered.digest}"
        targets = {posted.target for posted, _ in taken}
        agents = targets.union(*(self.history.agents_of_host.get(target, ()) for target in targets))
        if taken and delivered.agent not in agents:
            yield f"misdelivered: {where}, posted to {', '.join(sorted(targets))}"

    def _overtaken(self) -> Iterator[str]:
        """A task reached its agent although another, accepted before it was even posted, had not."""
        latest: dict[str, tuple[float, str]] = {}
        for delivered in self.history.deliveries:
            task = self.history.tasks[delivered.task_id]
            if task.deliveries[0] is not delivered or not task.posted:
                continue
            posted_s, overtaker = latest.get(delivered.agent, (float("-inf"), ""))
            if task.accepted_s is not None and task.accepted_s < posted_s:
                yield f"overtaken: task {delivered.task_id} of {delivered.agent} came after {overtaker}, which was posted later"
            latest[delivered.agent] = max((posted_s, overtaker), (task.posted[0][0].at_s, delivered.task_id))


def _replaced_among(named: list[tuple[str, ConnectionHistory]]) -> Iterator[tuple[str, float]]:
    """Of one agent: each connection, with the first opening among those dialled after it was open."""
    named = sorted(named, key=lambda pair: pair[1].dialled_s)
    dialled_s = [connection.dialled_s for _, connection in named]
    opened_s = [connection.opened_s for _, connection in named]
    first_open_from = [*accumulate((float("inf"), *reversed(opened_s)), min)][::-1]
    for name, connection in named:
        yield name, first_open_from[bisect_right(dialled_s, connection.opened_s)]


def _says_never_sent(entry: Entry) -> bool:
    return any(text in entry.fields.get("error_msg", "") for text in _NEVER_SENT)


def _named(entry: Entry) -> str:
    fields = entry.fields
    return f"{fields.get('status', 'entry')} {entry.entry_id} ({fields.get('message_id') or 'no message id'})"


def _calls(task: TaskHistory) -> str:
    return ", ".join(posted.call for posted, _ in task.posted)
