"""What the feeds say last is held against what has happened."""

import msgspec
import pytest

from tests.support.outlook import declared_dead, offline_after_s, shown_offline, unfinished_executions
from tests.support.recorder import Answered, AnyEvent, Closed, Continued, Entry, Opened, Posted, PostedTask, Stopped


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


WALL_AHEAD_S = 1_000_000.0
CONNECTED: list[AnyEvent] = [Opened("a1", "c1", at_s=100.0), Closed("a1", "c1", 1006, at_s=200.0)]


def offline(at_s: float, agent: str = "a1", reason: str = "websocket_closed") -> Entry:
    told_ms = str(int((at_s + WALL_AHEAD_S) * 1000))
    fields = {"agent_id": agent, "status": "offline", "timestamp": told_ms, "disconnect_reason": reason}
    return Entry("status", f"{told_ms}-0", fields)


def test_an_agent_that_is_connected_is_not_declared_offline() -> None:
    [told] = declared_dead([*CONNECTED, offline(150.0)], WALL_AHEAD_S)
    assert told.startswith("declared dead: agent a1 ")
    [told] = declared_dead([*CONNECTED, Opened("a1", "c2", at_s=210.0), offline(250.0)], WALL_AHEAD_S)
    assert told


@pytest.mark.parametrize("at_s", [100.5, 199.0, 230.0])
def test_one_that_has_just_come_or_gone_or_is_away_is(at_s: float) -> None:
    assert not list(declared_dead([*CONNECTED, offline(at_s), offline(150.0, "a2")], WALL_AHEAD_S))


def test_a_lease_that_ran_out_is_not_excused_by_the_close_that_follows() -> None:
    assert list(declared_dead([*CONNECTED, offline(199.9, reason="heartbeat_timeout")], WALL_AHEAD_S))


def test_when_an_agent_was_told_to_be_offline_is_found() -> None:
    told = [msgspec.structs.replace(offline(150.0), at_s=at_s) for at_s in (90.0, 107.0, 109.0)]
    assert offline_after_s(told, "a1", 100.0) == 7.0
    assert offline_after_s(told, "a2", 100.0) is None


def test_one_that_stands_still_is() -> None:
    still: list[AnyEvent] = [Stopped("a1", at_s=140.0), Continued("a1", at_s=160.0)]
    assert not list(declared_dead([*CONNECTED, *still, offline(150.0)], WALL_AHEAD_S))
    assert list(declared_dead([*CONNECTED, *still, offline(170.0)], WALL_AHEAD_S))
