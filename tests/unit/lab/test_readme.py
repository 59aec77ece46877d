"""What the page on agents shows and the code says are the same."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from msgspec.json import encode as packed

from cluster import messages
from cluster.lab import trouble

PAGE = (Path(__file__).parents[3] / "cluster/lab/README.md").read_text()


def shown_frames() -> dict[str, bytes]:
    """The frames of the page's block of JSON, by type."""
    block = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert block
    return {json.loads(line)["type"]: line.encode() for line in block[1].splitlines()}


def made_again(kind: str, frame: bytes) -> bytes:
    """The frame that the server makes of what this one says."""
    said = json.loads(frame)
    makers: dict[str, Callable[[], bytes]] = {
        "task": lambda: messages.task(said["task"]["id"], packed(said["task"])),
        "tasks_batch": lambda: messages.tasks_batch(said["message_id"], [packed(task) for task in said["tasks"]]),
        "cancel_task": lambda: messages.cancel_task(said["task_id"]),
        "cancel_tasks_batch": lambda: messages.cancel_tasks_batch(said["task_ids"]),
        "ack": lambda: messages.ack(said["ack_id"]),
        "control": lambda: messages.control(**said["payload"]),
        "upgrade": lambda: messages.upgrade(messages.Upgrade(**said["payload"])),
        "heartbeat": lambda: messages.heartbeat_answer(said["ts"]),
    }
    return makers[kind]()


def test_the_frames_on_the_page_are_those_that_the_server_makes() -> None:
    shown = shown_frames()
    assert {kind: made_again(kind, frame) for kind, frame in shown.items()} == shown
    assert len(shown) == 8


def test_every_task_on_the_page_is_one_that_the_server_takes() -> None:
    shown = shown_frames()
    tasks = [json.loads(shown["task"])["task"], *json.loads(shown["tasks_batch"])["tasks"]]
    assert [messages.new_task(json.dumps(task).encode()).id for task in tasks] == ["7_1_1_a", "7_1_1_b", "7_1_1_c"]


def test_the_page_has_every_error_code_with_its_meaning() -> None:
    said = re.findall(r"^\| (\d+) \| [A-Z_]+ \| (.*) \|$", trouble.__doc__ or "", re.MULTILINE)
    assert len(said) == 5
    assert all(f"| {code} | {meaning} |" in PAGE for code, meaning in said)
