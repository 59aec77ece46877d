"""Tasks that a shell is offered: what Redis knows of them. Agents and nodes are tried in tests/acceptance/test_command_line.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from cluster import cli
from cluster.client import agents, completion
from cluster.client.agents import Agent
from tests.support.redis_server import RedisServer

AGENT = "73d27679-412f-8f22-8ef8-ded32cabc90a"
Offered = Callable[[str], list[str]]


@pytest.fixture
def offered(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Offered:
    """What bash is offered for the last word, where `away` has two open tasks, and the feed the ends of three of two agents."""
    with redis.Redis(port=redis_server.port) as client:
        client.hset("agsrv:meta", "shards", "1")
        client.zadd(f"agsrv:{{s0}}:mail:{AGENT}", {"run-1": 1, "run-2": 2})
        for number, agent_id in enumerate((AGENT, "another", AGENT)):
            client.xadd("agent_results", {"agent_id": agent_id, "task_id": f"old-{number}", "status": "success"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENT_SERVER_REDIS_URL", redis_server.url)
    monkeypatch.setattr(completion, "WAIT_S", 30.0)  # what is tried here is not how fast this machine is
    monkeypatch.setattr(agents, "find", lambda _, references: [Agent(AGENT, references[0])])

    def typed(words: str) -> list[str]:
        monkeypatch.setenv("_AGENT_SERVER_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", f"agent-server {words}")
        monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
        with pytest.raises(SystemExit):
            cli.run([])
        return capsys.readouterr().out.split()

    return typed


def test_of_an_agent_its_open_tasks_and_those_that_ended_last(offered: Offered) -> None:
    assert offered("tasks show away run") == ["run-2", "run-1"]
    assert offered("tasks cancel away old") == ["old-2", "old-0"]


def test_of_a_feed_the_tasks_of_all_agents(offered: Offered) -> None:
    assert offered("streams tail logs --task old") == ["old-2", "old-1", "old-0"]


def test_a_name_that_a_shell_would_split_is_not_offered(offered: Offered, redis_server: RedisServer) -> None:
    redis_server.command("ZADD", f"agsrv:{{s0}}:mail:{AGENT}", 3, "run 3")
    assert offered("tasks show away run") == ["run-2", "run-1"]
