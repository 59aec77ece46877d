"""`streams lag` and `streams trim` on a real Redis, as they are typed."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from cluster import cli
from tests.support.redis_server import RedisServer

Type = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator["redis.Redis"]:
    """A cluster's Redis with 50 results: `django` had 20 of them, `billing` all."""
    with redis.Redis(port=redis_server.port, decode_responses=True, protocol=2) as client:
        client.hset("agsrv:meta", "shards", "1")
        for ms in range(1, 51):
            client.xadd("agent_results", {"n": ms}, id=f"{ms}-0")
        for group in ("billing", "django"):
            client.xgroup_create("agent_results", group, "0")
        client.xreadgroup("billing", "b1", {"agent_results": ">"}, noack=True)
        client.xreadgroup("django", "d1", {"agent_results": ">"}, count=20)
        client.xack("agent_results", "django", *[f"{ms}-0" for ms in range(1, 11)])
        yield client


@pytest.fixture
def type_(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Type:
    """Types a command: exit code, what it printed, what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENT_SERVER_REDIS_URL", redis_server.url)

    def typed(*words: str) -> tuple[int, str, str]:
        code = cli.run(["streams", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return typed


def test_lag_is_told_by_feed_and_group(store: "redis.Redis", type_: Type) -> None:
    code, out, err = type_("lag")
    assert (code, err) == (0, "")
    head, *rows = [line.split() for line in out.splitlines()]
    assert head == ["FEED", "ENTRIES", "GROUP", "CONSUMERS", "LAST", "DELIVERED", "LAG", "BEHIND", "PENDING"]
    assert rows[0] == ["results", "50", "billing", "1", "50-0", "0", "0s", "0"]
    assert [*rows[1][:4], rows[1][5]] == ["django", "1", "20-0", "30", "10"]
    assert rows[2] == ["logs", "0", *"------"]
    [results, *_] = json.loads(type_("lag", "--json")[1])
    billing, django = results["groups"]
    assert (results["feed"], results["stream"], results["entries"]) == ("results", "agent_results", 50)
    assert (billing["lag"], billing["behind_s"], django["lag"], django["lag_is_more"]) == (0, 0, 30, False)
    assert (django["group"], django["last_delivered"], django["pending"]) == ("django", "20-0", 10)
    assert django["behind_s"] > 10**9  # the ids of this feed are of 1970


def test_a_dry_run_says_how_many_would_go_and_cuts_none(store: "redis.Redis", type_: Type) -> None:
    code, out, err = type_("trim", "results", "--max-len", "45", "--dry-run")
    assert (code, out) == (0, "agent_results: 5 entries would go, 45 stay\n")
    assert err == ""
    code, out, err = type_("trim", "results", "--max-len", "15", "--dry-run")
    assert (code, out) == (0, "agent_results: 35 entries would go, 15 stay\n")
    assert "still need entries that would go (django 25)" in err
    assert store.xlen("agent_results") == 50


def test_what_a_group_needs_is_not_cut_unless_it_is_forced(store: "redis.Redis", type_: Type) -> None:
    code, out, err = type_("trim", "results", "--max-len", "15")
    assert (code, out, err.count("\n"), "--force" in err) == (1, "", 1, True)
    assert store.xlen("agent_results") == 50
    assert type_("trim", "results", "--max-len", "15", "--force") == (
        0,
        "agent_results: 35 entries gone, 15 stay\n",
        "",
    )
    assert store.xlen("agent_results") == 15


def test_what_nobody_needs_is_cut(store: "redis.Redis", type_: Type) -> None:
    code, out, _ = type_("trim", "results", "--max-len", "49", "--json")
    wanted: dict[str, Any] = {"feed": "results", "stream": "agent_results", "dry_run": False, "entries": 1}
    assert (code, json.loads(out)) == (0, {**wanted, "left": 49, "needed": {}})
    store.xadd("agent_logs", {"n": 1}, id="1-0")
    assert type_("trim", "logs", "--max-age", "1d") == (0, "agent_logs: 1 entry gone, 0 stay\n", "")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("results", 2, "streams trim: --max-len or --max-age"),
        ("results --max-len 1 --max-age 1d", 2, "streams trim: --max-len or --max-age"),
        ("results --max-age soon", 2, "--max-age: a duration such as 30m, 24h, 7d"),
        ("nothing --max-len 1", 2, "FEED: one of results, logs, status, stats"),
        ("stats --max-len 0", 1, "agent_task_stats is not a stream (at redis://"),
    ],
)
def test_a_slip_cuts_nothing(store: "redis.Redis", type_: Type, words: str, code: int, said: str) -> None:
    store.set("agent_task_stats", "somebody's")
    ended, out, err = type_("trim", *words.split())
    assert (ended, out, err.count("\n"), said in err) == (code, "", 1, True), err
    assert store.xlen("agent_results") == 50


def test_a_redis_without_a_cluster_is_told(type_: Type, redis_server: RedisServer) -> None:
    code, _, err = type_("lag")
    assert (code, "this Redis holds no cluster" in err) == (1, True)
