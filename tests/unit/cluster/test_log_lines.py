"""One log record, one line; nothing of it is a secret, and nothing of it moves a cursor."""

import itertools
import json
import logging
import os
import sys
from types import TracebackType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.log_lines import MAX_CHARS, Fields, JsonLines, Redaction, TextLines, printable

SECRET = 'correct "horse"\\battery/é'
HOSTILE = 'a\r\nb\tc\x00\x1b[31md\x7f\x85\u2028\u202e\u2066\u200f\ufeff\ud800\U000e0041"\\'
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def record(message: object = "text", *args: object, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("node.session", level, "/srv/node/session.py", 42, message, args, None, "on_message")
    made.__dict__.update(extra)
    return made


def raised(error: BaseException) -> ExcInfo:
    try:
        raise error
    except type(error):
        info = sys.exc_info()
        assert info[0] is not None
        assert info[1] is not None
        return info[0], info[1], info[2]


def fields(report_caller: bool = True) -> Fields:
    return Fields("n1", [SECRET, "hunter22"], report_caller=report_caller)


def as_json(made: logging.LogRecord, report_caller: bool = True) -> dict[str, Any]:
    line = JsonLines(fields(report_caller)).format(made)
    assert line.isprintable()
    parsed = json.loads(line)
    assert isinstance(parsed, dict)
    return parsed


def as_text(made: logging.LogRecord, report_caller: bool = True) -> str:
    line = TextLines(fields(report_caller)).format(made)
    assert line.isprintable()
    return line


def test_a_record_is_a_json_object_with_the_fields_of_the_table() -> None:
    made = record(
        "sent %d tasks", 3, agent_id="a1", task_id="7_s_1_x", node="n2", count=5, ratio=0.5, is_new=True, nothing=None
    )
    made.created = 1_700_000_000.1239
    assert as_json(made) == {
        "@timestamp": "2023-11-14T22:13:20.123Z",
        "log.level": "info",
        "message": "sent 3 tasks",
        "log.logger": "node.session",
        "ecs.version": "8.11.0",
        "service.name": "agent-server",
        "process.name": "n1",
        "process.pid": os.getpid(),
        "log.origin.file.name": "session.py",
        "log.origin.file.line": 42,
        "log.origin.function": "on_message",
        "agent_id": "a1",
        "task_id": "7_s_1_x",
        "node": "n2",
        "count": 5,
        "ratio": 0.5,
        "is_new": True,
        "nothing": None,
    }


def test_the_caller_is_left_out_when_nobody_wants_it() -> None:
    assert not [name for name in as_json(record(), report_caller=False) if name.startswith("log.origin")]
    assert "session.py" not in as_text(record(), report_caller=False)


@pytest.mark.parametrize(
    ("level", "name"), [(10, "debug"), (20, "info"), (30, "warn"), (40, "error"), (50, "fatal"), (25, "level 25")]
)
def test_levels_have_go_s_names(level: int, name: str) -> None:
    assert as_json(record(level=level))["log.level"] == name


def test_an_exception_is_told_with_its_cause() -> None:
    outer = ValueError("outer")
    outer.__cause__ = KeyError("inner")
    told = as_json(record(exc_info=raised(outer)))
    assert (told["error.type"], told["error.message"]) == ("ValueError", "outer")
    assert told["error.stack_trace"].startswith("KeyError: 'inner'\n")
    assert told["error.stack_trace"].endswith("ValueError: outer")


@pytest.mark.parametrize("info", [None, (None, None, None)])
def test_no_exception_is_no_field(info: object) -> None:
    assert not [name for name in as_json(record(exc_info=info)) if name.startswith("error")]


def test_a_stack_is_told_without_an_exception() -> None:
    assert as_json(record(stack_info="Stack (most recent call last):\n  here"))["error.stack_trace"].endswith("here")


def test_an_extra_takes_no_field_of_ours() -> None:
    extra: dict[str, Any] = {"log.level": "fatal", "process.name": "other"}
    assert as_json(record(**extra))["log.level"] == "info"


def test_hostile_text_stays_on_its_line_and_is_not_lost() -> None:
    told = as_json(record(HOSTILE, agent_id=HOSTILE, labels={HOSTILE: [HOSTILE]}, exc_info=raised(ValueError(HOSTILE))))
    assert told["message"] == told["agent_id"] == told["error.message"] == HOSTILE
    assert told["labels"] == {HOSTILE: [HOSTILE]}
    as_text(record(HOSTILE, agent_id=HOSTILE, labels={HOSTILE: [HOSTILE]}, exc_info=raised(ValueError(HOSTILE))))


@given(st.text(st.characters(), max_size=50))
def test_any_text_is_one_printable_line_and_reads_as_itself(text: str) -> None:
    assert as_json(record("%s", text, name_of_host=text))["name_of_host"] == text
    named: dict[str, Any] = {f"name of {text}": text}
    as_text(record("%s", text, **named))


def test_text_that_people_can_read_stays_readable() -> None:
    assert printable("Grüße, 你好 🎉") == "Grüße, 你好 🎉"
    assert printable("a\nb\x1b[0m\u202e\U000e0041") == r"a\nb\u001b[0m\u202e\udb40\udc41"


def test_a_line_for_people() -> None:
    made = record("sent %d", 3, level=30, agent_id="a1", name_of="two words", empty="", labels={"a": 1}, quoted='a="b"')
    made.created = 1_700_000_000.0
    assert as_text(made) == (
        "2023-11-14T22:13:20.000Z WARN  n1 node.session: sent 3 (session.py:42)"
        ' agent_id=a1 name_of="two words" empty="" labels={"a": 1} quoted="a=\\"b\\""'
    )


TELLTALES = {
    "text": record(f"token {SECRET}"),
    "argument": record("token %s", SECRET),
    "list": record("tokens %s", [SECRET]),
    "repr": record("tokens %r", {"token": SECRET}),
    "json": record("json %s", json.dumps(SECRET)),
    "json not ascii": record("json %s", json.dumps(SECRET, ensure_ascii=False)),
    "url": record("url redis://:%s@h", "correct%20%22horse%22%5Cbattery%2F%C3%A9"),
    "extra": record(token=SECRET),
    "nested": record(headers={"Authorization": [f"Bearer {SECRET}"]}),
    "key": record(headers={SECRET: 1}),
    "name": record(**{SECRET: 1}),
    "bytes": record(raw=SECRET.encode()),
    "deep": record(deep=[[[[[[SECRET]]]]]]),
    "object": record(error=ValueError(SECRET)),
    "exception": record(exc_info=raised(ValueError(SECRET))),
    "repr in a trace": record(exc_info=raised(KeyError(SECRET))),
    "stack": record(stack_info=SECRET),
    "where the text is cut": record("x" * (MAX_CHARS - 5) + SECRET),
}


@pytest.mark.parametrize("where", list(TELLTALES))
def test_a_known_secret_never_appears(where: str) -> None:
    for lines in (JsonLines, TextLines):
        line = lines(fields()).format(TELLTALES[where])
        assert "***" in line
        assert "horse" not in line
        assert "correct" not in line


def test_a_secret_that_begins_another_does_not_uncover_its_rest() -> None:
    assert Redaction(["hunter", "hunter22", ""])("hunter22 hunter") == "*** ***"


def test_without_secrets_texts_stay_as_they_are() -> None:
    assert Redaction([])("any text") == "any text"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Unprintable(), "<unprintable Unprintable>"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (2**63 - 1, 2**63 - 1),
        (2**64, "0x10000000000000000"),
        (b"\xff\x00", "\\xff\x00"),
        ((1, "a"), [1, "a"]),
        ({1: None}, {"1": None}),
        ([[[[["deep"]]]]], [[[["['deep']"]]]]),
    ],
    ids=itertools.count(),
)
def test_any_value_can_be_told(value: object, told: object) -> None:
    assert as_json(record(value=value))["value"] == told


def test_values_are_bounded() -> None:
    told = as_json(record("x" * 10**6, many=list(range(10**5)), huge=10 ** (10**5), loop=ring()))
    assert told["message"] == "x" * MAX_CHARS + "... (1000000 characters)"
    assert told["many"] == list(range(64))
    assert len(told["huge"]) < MAX_CHARS + 100


def ring() -> list[object]:
    made: list[object] = []
    made.append(made)
    return made


@pytest.mark.parametrize(
    "made", [record("%d", "x"), record("%s %s", 1), record("%s", Unprintable()), record(Unprintable())]
)
def test_a_record_that_does_not_fit_together_is_told_all_the_same(made: logging.LogRecord) -> None:
    assert as_json(made)["message"]
    assert as_text(made)


def test_an_exception_without_a_readable_text_is_told_by_its_type() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    told = as_json(record(exc_info=raised(Odd())))
    assert told["error.type"] == "Odd"
    assert told["error.message"] == "<unprintable Odd>"
