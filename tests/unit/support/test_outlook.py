"""What the feeds say last is held against what has happened."""

from tests.support.outlook import shown_offline, unfinished_executions
from tests.support.recorder import Answered, AnyEvent, Entry, Posted, PostedTask


def accepted(*task_ids: str) -> list[AnyEvent]:
    tasks = tuple(PostedTask(task_id, "") for task_id in task_ids)
    return [Posted("c1", "POST", "/", tasks=tasks), Answered("c1", 200)]


def result(entry_id: str, *, total: int, success: int, failed: int = 0, progress: int = 100) -> Entry:
    counts = {"total_hosts": total, "success_hosts": success, "failed_hosts": failed, "progress": progress}
    fields = {"execution_id": "7", "task_id": "t", "status": "success", **{k: str(v) for k, v in counts.items()}}
    return Entry("results", entry_id, fields)


def test_an_execution_whose_hosts_have_all_ended_is_well() -> None:
    ends = [result("1-0", total=2, success=1, progress=50), result("2-0", total=2, success=1, failed=1)]
    assert not list(unfinished_executions([*accepted("7_1_1_a", "7_1_2_b", "7_1_2_c"), *ends]))


def test_an_execution_that_counts_too_few_hosts_or_ends_is_told() -> None:
    posts = accepted("7_1_1_a", "7_1_2_b")
    for last in (
        result("1-0", total=1, success=1),
        result("1-0", total=2, success=1, progress=50),
        result("1-0", total=3, success=3),
        result("1-0", total=2, success=2, progress=99),
    ):
        [told] = unfinished_executions([*posts, last])
        assert told.startswith("execution 7: ")


def test_an_agent_that_is_connected_is_not_called_offline_last() -> None:
    story = [
        Entry("status", f"{n}-0", {"agent_id": "a1", "status": status})
        for n, status in enumerate(("offline", "online"))
    ]
    assert not list(shown_offline(story, ["a1"]))
    [told] = shown_offline(story[:1], ["a1"])
    assert "offline" in told
    [told] = shown_offline(story, ["a2"])
    assert "nothing" in told
