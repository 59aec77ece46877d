"""The ledger knows which tasks were accepted, in whichever attempt, and which of them have ended."""

from tests.support.ledger import Ledger
from tests.support.recorder import Answered, Entry, Posted, PostedTask, Recorder


def post(recorder: Recorder, call: str, status: int, *task_ids: str) -> None:
    recorder.add(Posted(call, "POST", "/", tasks=tuple(PostedTask(task_id, "") for task_id in task_ids)))
    recorder.add(Answered(call, status))


def end(recorder: Recorder, task_id: str, status: str = "success", feed: str = "results") -> None:
    recorder.add(Entry(feed, "1-0", {"task_id": task_id, "status": status}))


def test_a_task_is_open_from_its_acceptance_to_its_end() -> None:
    recorder = Recorder()
    ledger = Ledger(recorder)
    post(recorder, "c1", 200, "t1", "t2")
    assert ledger.open() == {"t1", "t2"}
    end(recorder, "t1")
    assert ledger.open() == {"t2"}
    assert "1 of 2 tasks" in ledger.unfinished()
    end(recorder, "t2", "failed")
    assert not ledger.unfinished()
    assert ledger.accepted() == 2


def test_a_task_that_was_refused_is_not_waited_for_and_one_that_was_repeated_counts_once() -> None:
    recorder = Recorder()
    ledger = Ledger(recorder)
    post(recorder, "c1", 503, "t1")
    assert not ledger.unfinished()
    post(recorder, "c2", 200, "t1")
    post(recorder, "c3", 200, "t1")
    assert ledger.accepted() == 1


def test_progress_and_what_other_feeds_say_ends_nothing() -> None:
    recorder = Recorder()
    ledger = Ledger(recorder)
    post(recorder, "c1", 200, "t1")
    end(recorder, "t1", "running")
    end(recorder, "t1", feed="status")
    assert ledger.open() == {"t1"}
