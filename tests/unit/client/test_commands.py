"""What command lines are made into, and entries of feeds into lines."""

import pytest

from cluster.client.commands_streams import as_line
from cluster.client.commands_tasks import task
from cluster.errors import ConfigError


def test_one_word_is_a_line_and_several_are_a_command_with_its_arguments() -> None:
    assert task(["a | b"], "shell")["command"] == "a | b"
    assert task(["echo", "a  b"], "shell")["command"] == "echo 'a  b'"
    python = task(["print(1)", "x"], "python")
    assert (python["command"], python["args"]) == ("print(1)", ["x"])
    with pytest.raises(ConfigError, match="expected -- and what to run"):
        task([], "shell")


def test_entries_for_people_and_for_programs() -> None:
    fields = {"task_id": "t", "status": "failed", "exit_code": "3", "error_msg": "no\x07"}
    assert as_line("results", "0-1", fields, as_json=False).endswith("  t  failed  exit 3  no\\x07")
    assert as_line("logs", "x", {"task_id": "t", "content": "c", "stream": "stderr"}, as_json=False) == "x  t ! c"
    assert as_line("results", "0-1", {"a": "ü"}, as_json=True) == '{"id": "0-1", "a": "ü"}'
