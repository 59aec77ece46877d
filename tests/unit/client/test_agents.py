"""Which agents are meant, and what each is called."""

import pytest

from cluster.client.agents import Agent, agent_of, find, told_apart
from cluster.client.outcome import Failed, NotFound
from cluster.client.screen import prefixes

ID = "e1e26efc-59a9-8de9-a0ac-8240c3868fd3"


def test_agents_of_one_name_are_told_apart() -> None:
    names = told_apart([Agent("11111111-a", "web"), Agent("22222222-b", "web"), Agent("3", "db\n")])
    assert list(names.values()) == ["web/11111111", "web/22222222", "db\\n"]
    assert prefixes(names)["3"] == "db\\n         | "


SAID = {"id": ID, "name": "web-1", "host_id": 7, "status": "active", "labels": {"env": "prod"}}


class Directory:
    """The API as far as agents are looked up, with two that are called `twin`."""

    def get(self, *parts: str, query: dict[str, str] | None = None) -> dict[str, object]:
        if len(parts) == 3:
            if parts[2] not in {ID, "7"}:
                raise NotFound("no such agent")
            return dict(SAID)
        return {"agents": [SAID, {**SAID, "id": "a", "name": "twin"}, {**SAID, "id": "b", "name": "twin"}]}


def test_an_agent_is_found_by_id_host_id_and_name_and_taken_once() -> None:
    assert find(Directory(), [ID, "7", "web-1"]) == [agent_of(SAID)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reference", "error", "words"),
    [
        ("nobody", NotFound, "no agent 'nobody'"),
        ("8", NotFound, "no agent '8'"),
        ("web", NotFound, "no agent 'web'"),
        ("twin", Failed, r"2 agents are called 'twin': say which by id \(a, b\)"),
    ],
)
def test_what_is_not_found_or_is_not_clear(reference: str, error: type[Failed], words: str) -> None:
    with pytest.raises(error, match=words):
        find(Directory(), [reference])  # type: ignore[arg-type]
