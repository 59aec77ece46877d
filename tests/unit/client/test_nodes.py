"""What is to be moved between nodes, and when moving is not gone on with."""

import itertools
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.client.api import Api
from cluster.client.nodes import Node, find, part, surplus
from cluster.client.outcome import NotFound
from cluster.client.rebalancing import FIRST, Moved, Rebalancing


def nodes(**agents: int) -> list[Node]:
    return [Node(name, "ready", count) for name, count in agents.items()]


@pytest.mark.parametrize(
    ("held", "over"),
    [
        ({"a": 60, "b": 0}, {"a": 30}),
        ({"a": 30, "b": 30, "c": 0}, {"a": 10, "b": 10}),
        ({"a": 31, "b": 30}, {}),
        ({"a": 5}, {}),
        ({}, {}),
        ({"a": 0, "b": 0}, {}),
        ({"a": 100, "b": 5, "c": 0}, {"a": 65}),
    ],
)
def test_what_a_node_holds_beyond_its_share_is_too_much(held: Mapping[str, int], over: Mapping[str, int]) -> None:
    assert surplus(nodes(**held)) == over


def test_nodes_that_take_no_agents_have_no_share() -> None:
    assert surplus([*nodes(a=60, b=0), Node("c", "draining", 0), Node("d", "dead", 40)]) == {"a": 30}


def test_a_part_takes_from_the_fullest_first() -> None:
    assert part({"a": 5, "b": 20}, 22) == {"b": 20, "a": 2}
    assert part({"a": 5, "b": 20}, 10) == {"b": 10}


def test_a_node_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound, match="no node 'c'"):
        find(nodes(a=1), "c")


class FakeApi:
    """Nodes whose moved agents dial again: `where` says which node takes each."""

    def __init__(self, where: str, **agents: int) -> None:
        self.held = dict(agents)
        self.where = where
        self.moves: list[tuple[str, int, float]] = []

    def get(self, *_: str) -> Any:
        said = {"state": "ready", "boot": "", "supervisor": ""}
        return {"nodes": [{"id": name, "agents": count, **said} for name, count in self.held.items()]}

    def post(self, *parts: str, body: Mapping[str, Any]) -> None:
        node = parts[2]
        self.moves.append((node, body["agents"], body["per_second"]))
        for _ in range(body["agents"]):
            self.held[node] -= 1
            to = min(self.held, key=lambda name: self.held[name]) if self.where == "least loaded" else node
            self.held[to] += 1


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes when somebody waits."""
    passed = itertools.count()
    clock = SimpleNamespace(sleep=lambda _: next(passed), monotonic=lambda: next(passed))
    monkeypatch.setattr("cluster.client.rebalancing.time", clock)


def run(api: FakeApi, per_s: float = 20.0) -> Moved:
    return Rebalancing(cast("Api", api), per_s, lambda _: None).run()


def test_the_first_slice_is_small_and_the_others_keep_the_pace() -> None:
    api = FakeApi("least loaded", a=900, b=0)
    assert run(api) == Moved(450, 0, helps=True)
    assert api.held == {"a": 450, "b": 450}
    assert api.moves[0] == ("a", FIRST, 20.0)
    assert {agents for _, agents, _ in api.moves[1:-1]} == {200}


def test_nodes_that_are_too_full_share_the_pace() -> None:
    api = FakeApi("least loaded", a=15, b=15, c=0)
    assert run(api).helps
    assert api.moves == [("a", 5, 10.0), ("b", 5, 10.0)]


def test_agents_that_come_back_to_where_they_were_are_left_alone() -> None:
    api = FakeApi("a load balancer", a=900, b=0)
    assert run(api) == Moved(FIRST, 450, helps=False)
    assert api.moves == [("a", FIRST, 20.0)]
