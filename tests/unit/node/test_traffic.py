"""What goes to and from an agent is counted by its type."""

import pytest

from cluster import messages
from node.traffic import RECEIVED, SENT, Flows, flows
from tests.unit.node.session_bench import FakeCrew, a_session, encode, link_of


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (encode({"type": "log", "message_id": "m", "task_id": "t", "logs": [{"content": "x"}]}), "log"),
        (
            encode({"type": "task_result", "message_id": "m", "task_id": "t", "result": {"status": "success"}}),
            "task_result",
        ),
        (encode({"type": "heartbeat"}), "heartbeat"),
        (encode({"type": "ack", "ack_id": "t"}), "ack"),
        (encode({"type": "of-the-future"}), "other"),
        (encode({"type": "malformed"}), "other"),
        (encode({}), "other"),
    ],
    ids=lambda value: value.decode() if isinstance(value, bytes) else value,
)
def test_what_comes_is_counted_with_its_bytes(payload: bytes, kind: str) -> None:
    crew = FakeCrew()
    session = a_session(crew)
    for _ in range(2):
        session.on_message(payload)
    found = {name: (flow.messages, flow.size_bytes) for name, flow in crew.received.items() if flow.messages}
    assert found == {kind: (2, 2 * len(payload))}


def test_what_is_no_message_is_counted_apart_from_what_is_of_that_type() -> None:
    crew = FakeCrew()
    session = a_session(crew)
    session.on_message(b"no JSON")
    assert (crew.received.malformed.messages, crew.received.malformed.size_bytes) == (1, 7)
    assert not any(flow.messages for flow in crew.received.values())


def test_no_peer_makes_a_label() -> None:
    received = Flows()
    received["a peer's word"].add(1)
    received[None].add(1)
    assert set(received) == set(RECEIVED)
    assert received["other"].messages == 2


def test_what_goes_out_is_counted_with_its_bytes() -> None:
    crew = FakeCrew()
    session = a_session(crew)
    session.send(messages.cancel_task("t1"), "control")
    session.send_acks([b"one", b"two!"])
    found = {name: (flow.messages, flow.size_bytes) for name, flow in crew.sent.items() if flow.messages}
    assert found == {"control": (1, len(messages.cancel_task("t1"))), "ack": (2, 7)}
    assert link_of(session).frames == [b"onetwo!"]


def test_to_nobody_nothing_goes() -> None:
    crew = FakeCrew()
    session = a_session(crew)
    session.on_lost()
    session.send(b"x", "control")
    session.send_acks([b"x"])
    assert {name: flow.messages for name, flow in crew.sent.items()} == dict.fromkeys(flows(SENT), 0)
