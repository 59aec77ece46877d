"""The checker finds each way of breaking a promise in a hand-made history, and leaves alone what a correct cluster may do."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.checker import Rules, Verdict, check
from tests.support.recorder import (
    Acked,
    Answered,
    AnyEvent,
    Continued,
    Delivered,
    Dialled,
    Entry,
    Event,
    GroupRead,
    Opened,
    Posted,
    PostedTask,
    Recorder,
    Registered,
    Sent,
    Started,
    Stopped,
    fingerprint,
    load,
)

OWN_END = "end:a1:t1"


class Story:
    """A history told event by event, a tenth of a second apart; what is not said is as it would be with one agent, `a1` on `c1`."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self.now_s = 1000.0
        self.entry_number = 0
        self.add(Registered, host="host-1", incarnation=1, agent="a1", host_id=7, status=200)
        self.connect("c1")

    def add(self, kind: type[Event], **what: Any) -> None:
        self.now_s += 0.1
        self.events.append(kind(at_s=self.now_s, **what))  # type: ignore[arg-type]

    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    def connect(self, connection: str, agent: str = "a1") -> None:
        self.add(Dialled, agent=agent, connection=connection)
        self.add(Opened, agent=agent, connection=connection)

    def post(self, *task_ids: str, status: int = 200, target: str = "a1", digest: str = "d") -> None:
        call = f"call-{len(self.events)}"
        tasks = tuple(PostedTask(task_id, digest) for task_id in task_ids)
        self.add(Posted, call=call, method="POST", path="/", target=target, tasks=tasks)
        self.add(Answered, call=call, status=status)

    def deliver(self, task_id: str = "t1", connection: str = "c1", agent: str = "a1", digest: str = "d") -> None:
        self.add(Delivered, agent=agent, connection=connection, task_id=task_id, digest=digest)

    def run(self, task_id: str = "t1", incarnation: int = 1) -> None:
        self.add(Started, agent="a1", incarnation=incarnation, task_id=task_id)

    def send_log(self, message_id: str, *lines: str, task_id: str = "t1", connection: str = "c1") -> None:
        what = {"type": "log", "task_id": task_id, "lines": lines or ("hello",)}
        self.add(Sent, agent="a1", connection=connection, message_id=message_id, **what)

    def send_result(
        self, message_id: str, status: str = "success", task_id: str = "t1", connection: str = "c1", **what: Any
    ) -> None:
        what |= {"type": "task_result", "task_id": task_id, "status": status}
        self.add(Sent, agent="a1", connection=connection, message_id=message_id, **what)

    def ack(self, message_id: str, connection: str = "c1") -> None:
        self.add(Acked, agent="a1", connection=connection, message_id=message_id)

    def result_entry(
        self, message_id: str, status: str = "success", task_id: str = "t1", agent: str = "a1", **fields: str
    ) -> None:
        self.entry("results", message_id=message_id, status=status, task_id=task_id, agent_id=agent, **fields)

    def log_entry(self, message_id: str, content: str = "hello", task_id: str = "t1", agent: str = "a1") -> None:
        self.entry("logs", message_id=message_id, content=content, task_id=task_id, agent_id=agent)

    def entry(self, feed: str, **fields: str) -> None:
        self.entry_number += 1
        self.add(Entry, feed=feed, entry_id=f"5-{self.entry_number}", fields=fields)

    def whole_task(self, task_id: str = "t1") -> None:
        """From its posting to its last ack."""
        self.post(task_id)
        self.deliver(task_id)
        self.run(task_id)
        self.send_log(f"log-{task_id}", task_id=task_id)
        self.log_entry(f"log-{task_id}", task_id=task_id)
        self.ack(f"log-{task_id}")
        self.send_result(f"result-{task_id}", task_id=task_id)
        self.result_entry(f"result-{task_id}", task_id=task_id)
        self.ack(f"result-{task_id}")

    def verdict(self, **rules: Any) -> Verdict:
        return check(self.events, Rules(**rules))

    def wrong(self, **rules: Any) -> list[str]:
        """The sorts of violations found."""
        return [line.partition(":")[0] for line in self.verdict(**rules).violations]


@pytest.fixture
def story() -> Story:
    return Story()


def test_a_good_history_passes_with_its_counts(story: Story) -> None:
    for number in range(3):
        story.whole_task(f"t{number}")
    assert story.wrong(is_ordered=True) == []
    assert story.verdict().counts == {
        "tasks accepted": 3,
        "of them ended": 3,
        "of them open": 0,
        "runs": 3,
        "deliveries": 3,
        "messages sent": 6,
        "acks checked": 6,
        "logs entries": 3,
        "results entries": 3,
        "connections": 1,
    }
    story.verdict().require()


def test_a_verdict_says_what_is_wrong_and_how_much_was_looked_at(story: Story) -> None:
    story.post("t1")
    with pytest.raises(
        AssertionError, match=r"1 violations \(1 x lost\) in 1 tasks accepted.*\nlost: task t1 was accepted \(call-"
    ):
        story.verdict().require()


# ---- promise 1 ----


def test_an_accepted_task_without_an_end_is_lost(story: Story) -> None:
    story.post("t1")
    assert story.wrong() == ["lost"]


def test_an_accepted_task_may_be_open(story: Story) -> None:
    story.post("t1")
    assert story.wrong(open_tasks=frozenset({"t1"})) == []


def test_a_task_cannot_be_open_and_ended(story: Story) -> None:
    story.whole_task()
    assert story.wrong(open_tasks=frozenset({"t1"})) == ["open and ended"]


@pytest.mark.parametrize("status", [0, 503])
def test_a_task_that_nobody_knows_to_be_accepted_may_be_lost_or_end(story: Story, status: int) -> None:
    story.post("t1", status=status)
    assert story.wrong() == []
    story.deliver()
    story.result_entry(OWN_END, "failed")
    assert story.wrong() == []


def test_each_task_of_a_batch_must_end(story: Story) -> None:
    story.post("t1", "t2")
    story.result_entry(OWN_END, "failed")
    assert story.wrong() == ["lost"]


def test_two_terminal_entries_of_a_task(story: Story) -> None:
    story.whole_task()
    story.result_entry(OWN_END, "failed")
    assert story.wrong() == ["ended twice"]


def test_progress_before_the_end_is_no_second_end(story: Story) -> None:
    story.post("t1")
    story.send_result("p1", "running")
    story.result_entry("p1", "running")
    story.ack("p1")
    story.result_entry(OWN_END, "failed")
    assert story.wrong() == []


def test_progress_after_the_end(story: Story) -> None:
    story.whole_task()
    story.send_result("p1", "running")
    story.result_entry("p1", "running")
    assert story.wrong() == ["after its end"]


def test_two_runs_of_a_task(story: Story) -> None:
    story.whole_task()
    story.run(incarnation=2)
    assert story.wrong() == ["ran again"]


def test_a_task_may_run_as_often_as_redelivery_was_asked_for(story: Story) -> None:
    story.whole_task()
    story.run(incarnation=2)
    assert story.wrong(max_runs=2) == []


@pytest.mark.parametrize("text", ["task expired before delivery", "cancelled before delivery"])
def test_a_task_that_ran_cannot_have_ended_before_delivery(story: Story, text: str) -> None:
    story.post("t1")
    story.run()
    story.result_entry(OWN_END, "failed", error_msg=text)
    assert story.wrong() == ["ran again"]


def test_a_refused_task_that_is_delivered(story: Story) -> None:
    story.post("t1", status=400)
    story.deliver()
    assert story.wrong() == ["refused and taken"]


def test_a_refused_task_that_was_accepted_before_is_no_refused_task(story: Story) -> None:
    story.whole_task()
    story.post("t1", status=409, digest="other")
    assert story.wrong() == []


# ---- promise 2: acked means written ----


def test_an_acked_result_that_is_not_in_the_feed(story: Story) -> None:
    story.send_result("m1", task_id="unknown")
    story.ack("m1")
    assert story.wrong() == ["acked and not written"]


def test_an_acked_progress_that_is_not_in_the_feed(story: Story) -> None:
    story.send_result("m1", "running")
    story.ack("m1")
    assert story.wrong() == ["acked and not written"]


def test_an_acked_log_that_is_not_in_the_feed(story: Story) -> None:
    story.send_log("m1")
    story.ack("m1")
    assert story.wrong() == ["acked and not written"]


def test_an_acked_log_of_which_a_line_is_missing(story: Story) -> None:
    story.send_log("m1", "one", "two")
    story.log_entry("m1", "one")
    story.ack("m1")
    assert story.wrong() == ["acked and not written"]


def test_what_is_not_acked_may_be_missing(story: Story) -> None:
    story.send_log("m1")
    story.send_result("m2", task_id="unknown")
    assert story.wrong() == []


def test_an_acked_result_is_excused_when_its_task_ended_otherwise(story: Story) -> None:
    story.whole_task()
    story.send_result("m2", "failed")
    story.ack("m2")
    assert story.wrong() == []


def test_an_acked_progress_is_excused_when_its_task_has_ended(story: Story) -> None:
    story.whole_task()
    story.send_result("m2", "running")
    story.ack("m2")
    assert story.wrong() == []


def test_skipped_as_duplicated_is_acked_and_never_written(story: Story) -> None:
    story.post("t1")
    story.send_result("m1", "cancelled", is_spurious=True)
    story.ack("m1")
    story.result_entry(OWN_END, "failed")
    assert story.wrong() == []


def test_skipped_as_duplicated_ends_nothing(story: Story) -> None:
    story.post("t1")
    story.send_result("m1", "cancelled", is_spurious=True)
    story.result_entry("m1", "cancelled")
    assert story.wrong() == ["not as sent"]


def test_a_log_line_of_a_task_that_ended_long_ago_is_acked_and_dropped(story: Story) -> None:
    story.whole_task()
    story.wait(901.0)
    story.send_log("m2")
    story.ack("m2")
    assert story.wrong() == []


def test_a_log_line_of_a_task_that_ended_a_while_ago_is_not_excused(story: Story) -> None:
    story.whole_task()
    story.wait(600.0)
    story.send_log("m2")
    story.ack("m2")
    assert story.wrong() == ["acked and not written"]


def test_messages_that_say_nothing_are_acked_and_dropped(story: Story) -> None:
    story.send_log("m1", task_id="")
    story.send_result("m2", task_id="")
    story.send_result("m3", status="")
    story.add(Sent, agent="a1", connection="c1", message_id="m4", type="log", task_id="t1")
    for number in range(1, 5):
        story.ack(f"m{number}")
    assert story.wrong() == []


def test_a_feed_that_was_not_read_says_nothing(story: Story) -> None:
    story.send_log("m1")
    story.ack("m1")
    assert story.wrong(feeds=frozenset({"results"})) == []


def test_an_ack_of_what_was_never_sent(story: Story) -> None:
    story.ack("m1")
    assert story.wrong() == ["from nowhere"]


# ---- promise 2: once, as sent ----


def test_a_result_that_stands_twice(story: Story) -> None:
    story.send_result("m1", "running")
    story.result_entry("m1", "running")
    story.result_entry("m1", "running")
    assert story.wrong() == ["doubled"]


def test_a_log_line_that_stands_twice(story: Story) -> None:
    story.send_log("m1", "one", "two")
    for content in ("one", "two", "one"):
        story.log_entry("m1", content)
    assert story.wrong() == ["doubled"]


def test_an_end_of_the_clusters_own_that_stands_twice(story: Story) -> None:
    story.result_entry(OWN_END, "failed")
    story.result_entry(OWN_END, "failed")
    assert story.wrong() == ["ended twice", "doubled"]


def test_an_offline_that_stands_twice(story: Story) -> None:
    for _ in range(2):
        story.entry("status", agent_id="a1", status="offline", message_id="offline:a1:5")
    assert story.wrong() == ["doubled"]


def test_equal_lines_of_one_message_are_no_doubles(story: Story) -> None:
    story.send_log("m1", "same", "same")
    story.log_entry("m1", "same")
    story.log_entry("m1", "same")
    story.ack("m1")
    assert story.wrong() == []


def test_lines_of_a_message_in_the_wrong_order(story: Story) -> None:
    story.send_log("m1", "one", "two")
    story.log_entry("m1", "two")
    story.log_entry("m1", "one")
    assert story.wrong() == ["not as sent"]


def test_a_line_that_was_changed(story: Story) -> None:
    story.send_log("m1", fingerprint("x" * 100))
    story.log_entry("m1", fingerprint("x" * 99 + "y"))
    assert story.wrong() == ["not as sent"]


@pytest.mark.parametrize(
    "written",
    [{"status": "failed"}, {"task_id": "t2"}, {"agent": "a2"}],
    ids=["status", "task", "another agent's name"],
)
def test_a_result_that_was_changed(story: Story, written: dict[str, str]) -> None:
    story.send_result("m1")
    story.result_entry("m1", **written)
    assert story.wrong() == ["not as sent"]


def test_a_message_in_the_wrong_feed(story: Story) -> None:
    story.send_log("m1", "")
    story.result_entry("m1", "")
    assert story.wrong() == ["not as sent"]


def test_an_entry_that_its_agent_never_sent(story: Story) -> None:
    story.log_entry("m9")
    story.result_entry("m9", "running")
    assert story.wrong() == ["from nowhere"] * 2


def test_entries_of_agents_that_nobody_recorded_pass(story: Story) -> None:
    story.log_entry("m9", agent="stranger")
    assert story.wrong() == []


def test_the_cluster_writes_no_running_of_its_own(story: Story) -> None:
    story.result_entry(OWN_END, "running")
    assert story.wrong() == ["from nowhere"]


def test_an_entry_that_two_readers_saw_is_one_entry(story: Story) -> None:
    story.whole_task()
    story.events += [event for event in story.events if isinstance(event, Entry)]
    assert story.wrong() == []


def test_an_entry_that_a_group_was_never_handed(story: Story) -> None:
    story.whole_task("t1")
    story.whole_task("t2")
    story.add(GroupRead, feed="results", group="django", entry_id="5-2")
    assert story.wrong() == ["group missed"]
    story.add(GroupRead, feed="results", group="django", entry_id="5-4")
    assert story.wrong() == []


# ---- promise 2: in order ----


def test_entries_against_the_order_of_sending(story: Story) -> None:
    story.send_log("m1")
    story.send_log("m2")
    story.log_entry("m2")
    story.log_entry("m1")
    assert story.wrong() == ["out of order"]


def test_the_order_of_results_is_judged_too(story: Story) -> None:
    story.send_result("m1", "running", task_id="u1")
    story.send_result("m2", "running", task_id="u2")
    story.result_entry("m2", "running", task_id="u2")
    story.result_entry("m1", "running", task_id="u1")
    assert story.wrong() == ["out of order"]


def test_feeds_have_no_order_among_each_other(story: Story) -> None:
    story.send_log("m1")
    story.send_result("m2", "running")
    story.result_entry("m2", "running")
    story.log_entry("m1")
    assert story.wrong() == []


def test_it_is_the_first_sending_that_counts(story: Story) -> None:
    for message_id in ("m1", "m2", "m2", "m1"):
        story.send_log(message_id)
    story.log_entry("m1")
    story.log_entry("m2")
    assert story.wrong() == []


def test_what_a_cut_connection_lost_may_come_after_what_was_sent_later(story: Story) -> None:
    story.send_log("m1")
    story.connect("c2")
    story.send_log("m2", connection="c2")
    story.send_log("m1", connection="c2")
    story.log_entry("m2")
    story.log_entry("m1")
    assert story.wrong() == []


def test_what_kept_its_order_on_every_connection_must_keep_it_in_the_feed(story: Story) -> None:
    for connection in ("c2", "c3"):
        story.connect(connection)
        story.send_log("m1", connection=connection)
        story.send_log("m2", connection=connection)
    story.log_entry("m2")
    story.log_entry("m1")
    assert story.wrong() == ["out of order"]


def test_a_resend_after_the_entry_is_no_excuse(story: Story) -> None:
    story.send_log("m1")
    story.send_log("m2")
    story.log_entry("m2")
    story.log_entry("m1")
    story.connect("c2")
    story.send_log("m2", connection="c2")
    assert story.wrong() == ["out of order"]


def test_two_agents_have_no_order_between_them(story: Story) -> None:
    story.add(Registered, host="host-2", incarnation=1, agent="a2", status=200)
    story.connect("d1", agent="a2")
    story.send_log("m1")
    story.add(Sent, agent="a2", connection="d1", message_id="n1", type="log", task_id="t1", lines=("hello",))
    story.log_entry("n1", agent="a2")
    story.log_entry("m1")
    assert story.wrong() == []


# ---- promise 3 ----


def test_a_task_sent_after_its_end(story: Story) -> None:
    story.whole_task()
    story.wait(2.0)
    story.deliver()
    assert story.wrong() == ["sent after its end"]


def test_an_ack_of_the_result_makes_the_end_known(story: Story) -> None:
    story.post("t1")
    story.send_result("m1")
    story.ack("m1")
    story.wait(2.0)
    story.deliver()
    story.result_entry("m1")
    assert story.wrong() == ["sent after its end"]


def test_a_task_that_was_on_its_way_when_it_ended_is_excused(story: Story) -> None:
    story.whole_task()
    story.deliver()
    assert story.wrong() == []


def test_a_test_may_allow_frames_more_time(story: Story) -> None:
    story.whole_task()
    story.wait(15.0)
    story.deliver()
    assert story.wrong(delivery_grace_s=20.0) == []


def test_what_a_frozen_agent_reads_late_is_excused(story: Story) -> None:
    story.add(Stopped, agent="a1")
    story.post("t1")
    story.result_entry(OWN_END, "failed")
    story.wait(30.0)
    story.add(Continued, agent="a1")
    story.deliver()
    assert story.wrong() == []


def test_having_been_frozen_excuses_nothing_on_a_newer_connection(story: Story) -> None:
    story.add(Stopped, agent="a1")
    story.whole_task()
    story.wait(30.0)
    story.add(Continued, agent="a1")
    story.connect("c2")
    story.deliver(connection="c2")
    assert story.wrong() == ["sent after its end"]


def test_a_task_sent_to_a_replaced_connection(story: Story) -> None:
    story.post("t1")
    story.connect("c2")
    story.wait(2.0)
    story.deliver(connection="c1")
    story.result_entry(OWN_END, "failed")
    assert story.wrong() == ["sent to a replaced connection"]


def test_the_newest_connection_gets_tasks_at_any_time(story: Story) -> None:
    story.connect("c2")
    story.wait(2.0)
    story.post("t1")
    story.deliver(connection="c2")
    story.result_entry(OWN_END, "failed")
    assert story.wrong() == []


def test_of_two_handshakes_at_once_neither_is_known_to_be_the_newer(story: Story) -> None:
    story.add(Dialled, agent="a1", connection="x")
    story.add(Dialled, agent="a1", connection="y")
    story.add(Opened, agent="a1", connection="y")
    story.add(Opened, agent="a1", connection="x")
    story.wait(2.0)
    story.post("t1")
    story.deliver(connection="x")
    story.result_entry(OWN_END, "failed")
    assert story.wrong() == []


def test_a_handshake_that_was_refused_replaces_nothing(story: Story) -> None:
    story.add(Dialled, agent="a1", connection="refused")
    story.wait(2.0)
    story.post("t1")
    story.deliver(connection="c1")
    story.result_entry(OWN_END, "failed")
    assert story.wrong() == []


def test_a_task_sent_to_another_agent(story: Story) -> None:
    story.post("t1", target="a2")
    story.deliver()
    story.result_entry(OWN_END, "failed")
    assert story.wrong() == ["misdelivered"]


def test_a_host_id_is_an_address_too(story: Story) -> None:
    story.post("t1", target="7")
    story.deliver()
    story.result_entry(OWN_END, "failed")
    assert story.wrong() == []


def test_a_task_whose_bytes_were_changed(story: Story) -> None:
    story.post("t1", digest="d")
    story.deliver(digest="e")
    story.result_entry(OWN_END, "failed")
    assert story.wrong() == ["bytes changed"]


def test_a_task_that_overtook_another(story: Story) -> None:
    story.post("t1")
    story.post("t2")
    story.deliver("t2")
    story.deliver("t1")
    open_tasks = frozenset({"t1", "t2"})
    assert story.wrong(open_tasks=open_tasks, is_ordered=True) == ["overtaken"]
    assert story.wrong(open_tasks=open_tasks) == []


# ---- the history as a file ----


def test_histories_of_several_processes_are_one_history(tmp_path: Path) -> None:
    told = Story()
    told.whole_task()
    told.add(GroupRead, feed="results", group="django", entry_id="5-2")
    for name, events in (("even", told.events[::2]), ("odd", told.events[1::2])):
        recorder = Recorder()
        recorder.events = events
        recorder.save(tmp_path / name)
    loaded = load(tmp_path / "odd", tmp_path / "even")
    assert loaded == told.events
    assert check(loaded).violations == []
