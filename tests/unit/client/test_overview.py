"""Rates of two looks, and their figures as text."""

from typing import Any

import msgspec

from cluster.client.looks import Look, NodeLook, RedisLook, Waiting
from cluster.client.overview import figures, lines
from cluster.groups import Feed, Group
from cluster.ledger import Books

REDIS = RedisLook("7.0.15", 12 << 20, 0, 220, 0.0004)
NODE = NodeLook("n1", "boot", "ready", 2, 3, "web", 44 << 20, 100.0)


def look(at_s: float, **changes: Any) -> Look:
    plain = Look(at_s, [NODE], 3, 2, Books(accepted=10, ended=10), Waiting(0, 0.0, False), {}, REDIS)
    return msgspec.structs.replace(plain, **changes)


def test_a_rate_is_what_was_added_by_the_time_that_passed() -> None:
    books = Books(accepted=30, ended=20, open=10)
    node = msgspec.structs.replace(NODE, messages=150.0)
    said = figures(look(100.0), look(102.0, books=books, nodes=[node]))
    assert (said["tasks"]["accepted_per_s"], said["tasks"]["ended_per_s"], said["tasks"]["open"]) == (10.0, 5.0, 10)
    assert said["nodes"][0]["messages_per_s"] == 25.0


def test_what_nobody_knows_is_none_and_a_dash() -> None:
    restarted = msgspec.structs.replace(NODE, boot="another", messages=5.0, memory_bytes=None)
    unreachable = msgspec.structs.replace(NODE, id="n2", messages=None)
    said = figures(look(0.0), look(2.0, nodes=[restarted, unreachable]))
    assert [node["messages_per_s"] for node in said["nodes"]] == [None, None]
    assert said["nodes"][0]["memory_bytes"] is None
    [row] = [line for line in lines(said) if line.startswith("n1")]
    assert row.split() == ["n1", "ready", "2", "-", "3", "%", "-", "web"]


def test_a_redis_that_came_back_empty_has_no_rate() -> None:
    said = figures(look(0.0), look(2.0, books=Books()))
    assert (said["tasks"]["accepted_per_s"], said["tasks"]["ended_per_s"]) == (None, None)


def rate(before: Feed, now: Feed) -> object:
    said = figures(look(0.0, feeds={"logs": before}), look(2.0, feeds={"logs": now}))
    return said["feeds"][0]["per_s"]


def test_a_feed_s_rate_is_what_redis_counted_also_while_it_is_trimmed() -> None:
    assert rate(Feed("a", 10, "1-0", "10-0", 10), Feed("a", 5, "26-0", "30-0", 30)) == 10.0


def test_where_redis_does_not_count_a_feed_s_rate_is_its_growth_until_it_is_trimmed() -> None:
    assert rate(Feed("a", 10, "1-0", "10-0"), Feed("a", 30, "1-0", "30-0")) == 10.0
    assert rate(Feed("a"), Feed("a", 4, "1-0", "4-0")) == 2.0
    assert rate(Feed("a", 10, "1-0", "10-0"), Feed("a", 30, "5-0", "34-0")) is None


def test_a_page_has_everything_on_it_within_80_columns() -> None:
    django = Group("django", 2, "7-0", 100, 1000, True, 75.0)
    other = Group("other", 0, "9-0", 0, 0, False, 0.0)
    feeds = {
        "results": Feed("agent_results", 120, "1-0", "9-0", 120, (django, other)),
        "logs": Feed("agent_logs", is_stream=False),
    }
    page = lines(figures(look(0.0), look(2.0, feeds=feeds, waiting=Waiting(7, 200.0, True))))
    assert page == [
        "agents  2 online of 3",
        "tasks   0.0/s accepted, 0.0/s ended, 0 open, 7+ pending, the oldest for 3m+",
        "redis   7.0.15, 12.0 MiB, 220 ops/s, 0.4 ms",
        "",
        "NODE  STATE  AGENTS  MSG/S  CPU  MEMORY    MACHINE",
        "n1    ready  2       0.0    3 %  44.0 MiB  web",
        "",
        "FEED     ENTRIES    PER S  GROUP   LAG    BEHIND  PENDING",
        "results  120        -      django  1000+  1m      100",
        "                           other   0      0s      0",
        "logs     no stream  -      -       -      -       -",
    ]


def test_a_name_cannot_move_the_cursor() -> None:
    feeds = {"logs": Feed("a", 1, "1-0", "1-0", 1, (Group("\x1b[2J", 0, "0-0", 0, 1, False, 1.0),))}
    assert "\x1b" not in "".join(lines(figures(look(0.0), look(2.0, feeds=feeds))))
