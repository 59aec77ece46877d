"""The wire: a task is checked as the Go agent decodes it, and what we send is what it can decode."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import messages
from cluster.errors import BadInput
from cluster.messages import CancelBatch, Control, Registration, Upgrade
from tests.support import go_wire

TEXTS = (
    "name", "type", "command", "script_type", "work_dir", "run_as", "execution_id", "step_id", "parent_task_id",
)  # fmt: skip
INTS = ("timeout_sec", "host_id", "retry_count")
TRANSFER_TEXTS = ("remote_path", "download_url", "checksum")
TRANSFER_INTS = ("bandwidth_limit", "size")
NO_TEXT: tuple[Any, ...] = (5, 1.5, True, [], {}, ["x"])
NO_INT: tuple[Any, ...] = ("5", 1.5, 3.0, True, [], {})
NO_TEXT_MAP: tuple[Any, ...] = ("x", 5, [], {"A": 1}, {"A": True}, {"A": ["x"]}, {"A": {}})
NO_TEXTS: tuple[Any, ...] = ("x", 5, {}, [1], ["x", 2], [["x"]], [True])

NO_TASK: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("id", *TEXTS), NO_TEXT), **dict.fromkeys(INTS, NO_INT), "is_retry": ("true", 1, 0, [], {}),
    "args": NO_TEXTS, "env": NO_TEXT_MAP, "file_transfer": ("x", 5, [], True),
}  # fmt: skip
NO_TRANSFER: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(TRANSFER_TEXTS, NO_TEXT), **dict.fromkeys(TRANSFER_INTS, NO_INT), "auth_headers": NO_TEXT_MAP,
}  # fmt: skip
WRONG = [
    *((name, wrong, name) for name, values in NO_TASK.items() for wrong in values),
    *(
        ("file_transfer", {name: wrong}, f"file_transfer.{name}")
        for name, values in NO_TRANSFER.items()
        for wrong in values
    ),
]


def task(**fields: Any) -> bytes:
    return json.dumps({"id": "t1", **fields}).encode()


def refusal(check: Callable[[bytes], object], body: bytes) -> str:
    with pytest.raises(BadInput) as refused:
        check(body)
    return str(refused.value)


# ---- one task ----


@pytest.mark.parametrize(("name", "value", "field"), WRONG, ids=[f"{name}={value!r}" for name, value, _ in WRONG])
def test_a_wrong_type_is_refused_and_its_field_named(name: str, value: Any, field: str) -> None:
    said = refusal(messages.new_task, task(**{name: value}))
    assert said.partition(":")[0].partition("[")[0] == field


@pytest.mark.parametrize("name", [*TEXTS, *INTS, "is_retry", "args", "env", "file_transfer"])
def test_null_is_absent(name: str) -> None:
    assert messages.new_task(task(**{name: None})).id == "t1"


@pytest.mark.parametrize("name", [*TRANSFER_TEXTS, *TRANSFER_INTS, "auth_headers"])
def test_null_is_absent_in_a_file_transfer(name: str) -> None:
    assert messages.new_task(task(file_transfer={name: None})).id == "t1"


def test_null_is_an_empty_text_in_args_and_env_as_it_is_for_go() -> None:
    body = task(args=["x", None], env={"A": None}, file_transfer={"auth_headers": {"X": None}})
    assert messages.new_task(body).json.encode() == body


@pytest.mark.parametrize("name", INTS)
@pytest.mark.parametrize("value", [-(2**63), 2**63 - 1])
def test_ints_reach_as_far_as_those_of_go(name: str, value: int) -> None:
    assert messages.new_task(task(**{name: value})).id == "t1"


@pytest.mark.parametrize("name", INTS)
@pytest.mark.parametrize("value", ["-9223372036854775809", "9223372036854775808", "1" * 4000, "1" * 5000, "1e3", "1.0"])
def test_what_go_cannot_hold_in_an_int_is_refused(name: str, value: str) -> None:
    body = b'{"id":"t1","%b":%b}' % (name.encode(), value.encode())
    said = refusal(messages.new_task, body)
    assert name in said
    assert value not in said


@pytest.mark.parametrize("name", [*TEXTS, *INTS, "is_retry", "args", "env", "file_transfer", "id"])
@pytest.mark.parametrize("fold", [str.upper, str.title], ids=["UPPER", "Title"])
def test_a_name_in_another_case_is_refused_because_go_would_take_it(name: str, fold: Callable[[str], str]) -> None:
    assert name in refusal(messages.new_task, task(**{fold(name): None}))


@pytest.mark.parametrize("name", ["Auth_Headers", "SIZE", "remote_Path"])
def test_a_name_in_another_case_is_refused_inside_a_file_transfer(name: str) -> None:
    assert name.lower() in refusal(messages.new_task, task(file_transfer={name: "x"}))


@pytest.mark.parametrize("name", ["\u017ftep_id", "wor\u212a_dir"], ids=["long s", "kelvin"])
def test_letters_that_go_folds_into_ascii_are_folded(name: str) -> None:
    assert "written in another case" in refusal(messages.new_task, task(**{name: "x"}))


def test_unknown_fields_pass_and_the_bytes_stay_as_they_were() -> None:
    body = b'{ "id" : "t1",\n "future": {"a": [1, 2.50, null]}, "command": "caf\\u00e9 \xc3\xa9" }'
    assert messages.new_task(body).json.encode() == body


@pytest.mark.parametrize("body", [b"", b" ", b"{", b'{"id":"t1"}x', b'{"id":"t1",}', b"{'id':'t1'}", b"nan", b"\x00"])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    assert refusal(messages.new_task, body) == "body is not valid JSON"


@pytest.mark.parametrize("body", [b"null", b"5", b'"t1"', b"[]", b'[{"id":"t1"}]', b"true"])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    assert refusal(messages.new_task, body).startswith("body: ")


@pytest.mark.parametrize("body", [b'{"id":"t1","command":"\xff"}', b'{"id":"\xc3"}', b'{"id":"t1","x":"\xed\xa0\x80"}'])
def test_what_is_not_utf8_is_refused(body: bytes) -> None:
    assert refusal(messages.new_task, body) == "body is not UTF-8"


def test_a_depth_bomb_is_refused() -> None:
    bomb = b'{"id":"t1","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert refusal(messages.new_task, bomb) == "body is not valid JSON"


def test_a_refusal_never_echoes_a_value() -> None:
    bodies = (
        task(env={"PASSWORD": "hunter2", "N": 1}), task(file_transfer={"auth_headers": {"Authorization": ["hunter2"]}}),
        task(name=["hunter2"]), task(timeout_sec="hunter2"), b'{"id":"hunter2', task(id="hunter2\n"),
    )  # fmt: skip
    assert not [said for said in (refusal(messages.new_task, body) for body in bodies) if "hunter2" in said]


@pytest.mark.parametrize("value", [None, ""])
def test_a_task_needs_an_id(value: str | None) -> None:
    assert refusal(messages.new_task, task(id=value)) == "id: required"
    assert refusal(messages.new_task, b"{}") == "id: required"


@pytest.mark.parametrize(
    "task_id", ["x" * 201, "a\nb", "a\0b", "\x7f", "a\x1b[0m", "a\u202eb", "\u200b", "a\u2028b", "\t"]
)
def test_a_task_id_is_of_1_to_200_printable_characters(task_id: str) -> None:
    assert refusal(messages.new_task, task(id=task_id)).startswith("id: ")


@pytest.mark.parametrize(
    "task_id",
    ["x", "x" * 200, "81_2_7_abc", "ä" * 200, "任務", "a b", "../{}*?", "a:b", 'quote"back\\slash', "_", "%2F"],
)
def test_any_printable_task_id_is_taken(task_id: str) -> None:
    assert messages.new_task(task(id=task_id)).id == task_id


@pytest.mark.parametrize(
    ("said", "meant"), [(None, 0), (0, 0), (-5, 0), (30, 30), (10**9 + 1, 10**9), (2**63 - 1, 10**9)]
)
def test_how_long_it_may_work_is_never_negative_nor_without_end(said: int | None, meant: int) -> None:
    assert messages.new_task(task(timeout_sec=said)).timeout_s == meant


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
field_names = st.sampled_from(
    [*TEXTS, *INTS, *TRANSFER_TEXTS, *TRANSFER_INTS, "args", "env", "file_transfer", "is_retry"]
)


@given(st.dictionaries(field_names | field_names.map(str.upper), json_values, max_size=4))
def test_whatever_is_accepted_is_decoded_by_an_agent(fields: dict[str, Any]) -> None:
    body = json.dumps({"id": "t1", **fields}).encode()
    try:
        accepted = messages.new_task(body)
    except BadInput:
        return
    _, tasks = go_wire.decode(messages.task(accepted.id, accepted.json.encode()))
    assert [raw for _, raw in tasks] == [body]


# ---- a batch ----


def test_a_batch_keeps_its_order_and_each_tasks_bytes() -> None:
    tasks = messages.new_tasks(b'[ {"id":"b" } ,{"id":"a", "x":1}]')
    assert [(t.id, t.json) for t in tasks] == [("b", '{"id":"b" }'), ("a", '{"id":"a", "x":1}')]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[]", "body: at least one task"),
        (b"{}", "body: Expected `array`"),
        (b"null", "body: Expected `array`"),
        (b"[", "body is not valid JSON"),
        (b'[{"id":"a"},{"id":"b","env":{"A":1}}]', "[1].env"),
        (b'[{"id":"a"},{}]', "[1].id: required"),
        (b'[{"id":"a"},5]', "[1].body"),
        (b'[{"id":"a"},null]', "[1].body"),
        (b'[{"id":"a"},{"id":"b","ENV":{}}]', "[1].env"),
        (b'[{"id":"a","name":"\xff"}]', "[0].body is not UTF-8"),
        (b'[{"id":"a"},{"id":"a","x":1}]', "[1].id: twice in the batch, with different contents"),
    ],
)
def test_one_bad_element_refuses_the_batch_and_is_named(body: bytes, said: str) -> None:
    assert refusal(messages.new_tasks, body).startswith(said)


def test_the_same_task_twice_in_a_batch_is_one_task() -> None:
    assert [t.id for t in messages.new_tasks(b'[{"id":"a"},{"id":"b"},{"id":"a"}]')] == ["a", "b"]


# ---- small bodies ----


@pytest.mark.parametrize("kind", [Control, Upgrade, CancelBatch, Registration])
def test_an_empty_body_is_an_empty_object(kind: type[msgspec.Struct]) -> None:
    assert messages.decoded(kind, b"") == kind()


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        (Registration, {"name": 5}, "name"),
        (Registration, {"labels": {"a": 1}}, "labels"),
        (Registration, {"labels": []}, "labels"),
        (Registration, {"system": "x"}, "system"),
        (Registration, {"host_id": "7"}, "host_id"),
        (Registration, {"host_id": 2**63}, "host_id"),
        (Registration, {"token": 5}, "token"),
        (Control, {"action": 1}, "action"),
        (Upgrade, {"target_version": 1}, "target_version"),
        (CancelBatch, {"task_ids": "x"}, "task_ids"),
        (CancelBatch, {"task_ids": [1]}, "task_ids"),
    ],
)
def test_a_wrong_type_in_a_small_body_is_named(kind: type, body: dict[str, Any], field: str) -> None:
    said = refusal(lambda raw: messages.decoded(kind, raw), json.dumps(body).encode())
    assert said.partition(":")[0].partition("[")[0] == field


def test_null_is_absent_and_unknown_fields_pass_in_a_registration() -> None:
    body = b'{"name":null,"token":null,"labels":{"a":null},"system":{"ips":["::1"],"x":1.5},"host_id":null,"z":{}}'
    assert messages.decoded(Registration, body).system == {"ips": ["::1"], "x": 1.5}


# ---- what agents send ----


@pytest.mark.parametrize(
    "body",
    [
        {"type": 5}, {"message_id": 5}, {"ack_id": []}, {"task_id": {}}, {"result": "x"}, {"result": []}, {"logs": {}},
        {"logs": ["x"]}, {"ts": "1"}, {"ts": 1.5}, {"ts": 2**63}, {"request_id": 5}, {"error": "x"},
        {"error": {"code": "1"}}, {"result": {"exit_code": "1"}}, {"result": {"started_at": 1.5}},
        {"result": {"log_size": -(2**63) - 1}}, {"logs": [{"content": 5}]}, {"logs": [{"timestamp": "1"}]},
    ],
    ids=str,
)  # fmt: skip
def test_a_message_of_wrong_types_is_malformed(body: dict[str, Any]) -> None:
    with pytest.raises(messages.MALFORMED):
        messages.agent_message(json.dumps(body).encode())


@pytest.mark.parametrize(
    "body", [b"", b"5", b"[]", b"null", b'"x"', b"{", b"[" * 100_000, b'{"ts":' + b"9" * 4000 + b"}"]
)
def test_what_is_no_message_is_malformed(body: bytes) -> None:
    with pytest.raises(messages.MALFORMED):
        messages.agent_message(body)


def test_null_and_unknown_fields_are_as_if_absent() -> None:
    fields = ("type", "message_id", "ack_id", "task_id", "result", "logs", "ts", "request_id", "error", "x", "tasks")
    assert messages.agent_message(json.dumps(dict.fromkeys(fields)).encode()) == messages.AgentMessage()


def test_a_results_log_is_not_kept() -> None:
    body = json.dumps({"result": {"status": "success", "log": "x" * 100_000}}).encode()
    result = messages.agent_message(body).result
    assert result is not None
    assert "xxx" not in repr(result)


@pytest.mark.parametrize("host_id", [7, "7", None], ids=repr)
def test_a_log_line_may_bring_its_host_id_as_text(host_id: int | str | None) -> None:
    body = json.dumps({"logs": [{"host_id": host_id}]}).encode()
    lines = messages.agent_message(body).logs
    assert lines is not None
    assert lines[0].host_id == host_id


# ---- ids ----


@pytest.mark.parametrize(
    ("task_id", "execution", "host"),
    [
        ("81_2_7_abc", "81", "7"),
        ("81_2_7", "81", "7"),
        ("81_2_7_a_b_c", "81", "7"),
        ("81", "81", "0"),
        ("81_2", "81", "0"),
        ("x_2_y_z", "0", "0"),
        ("", "0", "0"),
        ("_2_7_", "0", "7"),
        ("9223372036854775807_1_9223372036854775807_x", "9223372036854775807", "9223372036854775807"),
        ("9223372036854775808_1_9223372036854775808_x", "0", "0"),
        ("-1_2_-7_x", "0", "0"),
        ("+1_2_ 7_x", "0", "0"),
        ("1.0_2_7e1_x", "0", "0"),
        ("\u0661_2_\u00b2_x", "0", "0"),
        ("1" * 200, "0", "0"),
        ("007_1_010_x", "7", "10"),
    ],
)
def test_an_execution_and_a_host_are_read_from_a_task_id(task_id: str, execution: str, host: str) -> None:
    assert messages.execution_of(task_id) == (execution, host)


@given(st.text())
def test_an_execution_is_always_an_integer_of_63_bits(task_id: str) -> None:
    assert all(0 <= int(part) < 2**63 and part == str(int(part)) for part in messages.execution_of(task_id))


# ---- frames to agents ----

ODD = 'a"b\\c\u00e9 {}:'


@pytest.mark.parametrize(
    ("frame", "content"),
    [
        (messages.ack(ODD), {"type": "ack", "ack_id": ODD}),
        (messages.heartbeat_answer(1700000000123), {"type": "heartbeat", "ts": 1700000000123}),
        (messages.task(ODD, b'{"id": "x"}'), {"type": "task", "message_id": ODD, "task": {"id": "x"}}),
        (
            messages.tasks_batch(ODD, [b'{"id":"x"}', b'{"id":"y"}']),
            {"type": "tasks_batch", "message_id": ODD, "tasks": [{"id": "x"}, {"id": "y"}]},
        ),
        (messages.cancel_task(ODD), {"type": "cancel_task", "task_id": ODD}),
        (messages.cancel_tasks_batch([ODD, "y"]), {"type": "cancel_tasks_batch", "task_ids": [ODD, "y"]}),
        (
            messages.control("restart", ODD),
            {"type": "control", "payload": {"action": "restart", "reason": ODD}},
        ),
        (
            messages.upgrade(Upgrade("1.2", "https://x/y", None, "cafe")),
            {
                "type": "upgrade",
                "payload": {
                    "target_version": "1.2", "download_url": "https://x/y", "md5_hash": "", "sha256_hash": "cafe",
                },
            },
        ),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_frame_says_what_the_contract_says_and_an_agent_decodes_it(frame: bytes, content: dict[str, Any]) -> None:
    go_wire.decode(frame)
    assert json.loads(frame) == content


def test_a_tasks_bytes_are_sent_as_they_came() -> None:
    posted = b'{ "id":"x",  "args": [ "\\u00e9", null ], "n": 1.50 }'
    assert posted in messages.task("x", posted)
    assert posted in messages.tasks_batch("b", [posted])
