"""How a run ends: exit codes, words, and what is shown of many agents at once."""

import io

import pytest

from cluster.client.agents import Agent, agent_of, find, told_apart
from cluster.client.commands_streams import as_line
from cluster.client.commands_tasks import task
from cluster.client.outcome import Failed, NotFound
from cluster.client.running import End, end_of, exit_code, summary
from cluster.client.screen import Screen, bar, prefixes
from cluster.errors import ConfigError

GOOD, THREE, LATE = End("success", 0), End("failed", 3, "exit status 3"), End("failed", -1, "timed out", "1004")
LOST = End("failed", -1, "agent restarted, the task may have run", "2001")
ID = "e1e26efc-59a9-8de9-a0ac-8240c3868fd3"


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ([GOOD], 0),
        ([THREE], 3),
        ([LATE], 5),
        ([LOST], 1),
        ([End("failed", 300)], 1),
        ([End("cancelled", 0)], 1),
        ([GOOD, GOOD], 0),
        ([GOOD, THREE], 6),
        ([THREE, THREE], 1),
        ([LATE, LATE], 5),
        ([LATE, THREE], 1),
    ],
)
def test_exit_codes(ends: list[End], code: int) -> None:
    assert exit_code(ends) == code


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (THREE, "failed, exit code 3"),
        (LATE, "timed out: timed out"),
        (LOST, "failed: agent restarted, the task may have run"),
        (End("cancelled", -1, "cancelled"), "cancelled"),
        (End("failed", 1, "a\nb"), "failed, exit code 1: a\\nb"),
    ],
)
def test_an_end_in_words(end: End, words: str) -> None:
    assert end.words == words


def test_a_summary_counts_how_they_ended() -> None:
    assert summary([GOOD, THREE, GOOD, LATE]) == "4 agents: 2 succeeded, 1 failed, 1 timed out"


def test_an_entry_of_another_program_is_read_too() -> None:
    assert end_of({"status": "failed", "exit_code": "x"}) == End("failed", 0)


def test_one_word_is_a_line_and_several_are_a_command_with_its_arguments() -> None:
    assert task(["a | b"], "shell")["command"] == "a | b"
    assert task(["echo", "a  b"], "shell")["command"] == "echo 'a  b'"
    python = task(["print(1)", "x"], "python")
    assert (python["command"], python["args"]) == ("print(1)", ["x"])
    with pytest.raises(ConfigError, match="expected -- and what to run"):
        task([], "shell")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_drawn_on_a_terminal_alone() -> None:
    pipe, terminal = io.StringIO(), Terminal()
    for err in (pipe, terminal):
        screen = Screen(steps=2, out=io.StringIO(), err=err)
        screen.progress(1, 0)
        screen.finish()
    assert pipe.getvalue() == ""
    assert "1/2" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_the_bar_is_taken_away_for_a_line_and_comes_back_below() -> None:
    terminal = Terminal()
    screen = Screen(steps=2, out=terminal, err=terminal)
    screen.progress(1, 0)
    drawn = terminal.getvalue().removeprefix("\r\x1b[K")
    screen.line("x\x1b[2J", prefix="web-1 | ")
    assert terminal.getvalue().endswith(f"\r\x1b[Kweb-1 | x\\x1b[2J\n{drawn}")


def test_a_pipe_gets_lines_as_they_are() -> None:
    out, err = io.StringIO(), io.StringIO()
    screen = Screen(out=out, err=err)
    screen.line("a\x1b[2J")
    screen.line("oops", is_err=True)
    assert (out.getvalue(), err.getvalue()) == ("a\x1b[2J\n", "oops\n")


def test_a_bar_fits_into_its_line() -> None:
    assert bar(5, 1, 10, 80) == "[###############---------------] 5/10, 1 failed"
    assert len(bar(5, 0, 10, 12)) <= 12
    assert bar(5, 0, 10, 6) == "5/10"


def test_agents_of_one_name_are_told_apart() -> None:
    names = told_apart([Agent("11111111-a", "web"), Agent("22222222-b", "web"), Agent("3", "db\n")])
    assert list(names.values()) == ["web/11111111", "web/22222222", "db\\n"]
    assert prefixes(names)["3"] == "db\\n         | "


def test_entries_for_people_and_for_programs() -> None:
    fields = {"task_id": "t", "status": "failed", "exit_code": "3", "error_msg": "no\x07"}
    assert as_line("results", "0-1", fields, as_json=False).endswith("  t  failed  exit 3  no\\x07")
    assert as_line("logs", "x", {"task_id": "t", "content": "c", "stream": "stderr"}, as_json=False) == "x  t ! c"
    assert as_line("results", "0-1", {"a": "ü"}, as_json=True) == '{"id": "0-1", "a": "ü"}'


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
