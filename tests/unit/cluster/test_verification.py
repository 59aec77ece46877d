"""How often the control plane is asked about agents, and what becomes of its answers."""

import asyncio
import json

import pytest

from cluster import verification
from cluster.control_plane import ControlPlane
from cluster.settings import ControlPlane as Config
from cluster.verification import OUTCOMES, Verdict, Verification, shown
from tests.support.asked_control_plane import ACCEPTED, REFUSED, AskedControlPlane, http
from tests.support.eventually import eventually

SHOWN = b'{"token":"t"}'


def asking(asked: AskedControlPlane, timeout_s: float = 5.0) -> Verification:
    config = Config(url=asked.url, timeout_s=timeout_s, verify_registration=True)
    return Verification(ControlPlane(config, 1000), dict.fromkeys(OUTCOMES, 0))


async def verdicts(verifying: Verification, *agents: str, is_known: bool) -> list[Verdict]:
    return [await verifying.of(agent, SHOWN, is_known=is_known) for agent in agents]


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [(ACCEPTED, Verdict.ACCEPTED), (REFUSED, Verdict.REFUSED), (http(500), Verdict.NOT_ASKED)],
)
async def test_a_known_token_is_asked_for_once_whatever_came_of_it(answer: bytes, verdict: Verdict) -> None:
    async with AskedControlPlane(answer) as asked:
        verifying = asking(asked)
        assert await verdicts(verifying, "a", "a", "a", is_known=True) == [verdict] * 3
        assert len(asked.calls) == 1


async def test_it_is_asked_for_again_when_the_answer_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "REMEMBERED_S", 0.01)
    async with AskedControlPlane(REFUSED) as asked:
        verifying = asking(asked)
        await verdicts(verifying, "a", is_known=True)
        await asyncio.sleep(0.02)
        asked.answer = ACCEPTED
        assert await verdicts(verifying, "a", is_known=True) == [Verdict.ACCEPTED]


async def test_an_unknown_token_is_asked_for_each_time() -> None:
    async with AskedControlPlane(REFUSED) as asked:
        assert await verdicts(asking(asked), "a", "a", is_known=False) == [Verdict.REFUSED] * 2
        assert len(asked.calls) == 2


async def test_a_new_agent_that_was_accepted_is_not_asked_for_again_as_a_known_one() -> None:
    async with AskedControlPlane(ACCEPTED) as asked:
        verifying = asking(asked)
        await verdicts(verifying, "a", is_known=False)
        await verdicts(verifying, "a", is_known=True)
        assert len(asked.calls) == 1


async def test_a_new_agent_that_passed_unasked_is_asked_for_when_it_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verification, "QUIET_S", 0.0)
    async with AskedControlPlane(http(500)) as asked:
        verifying = asking(asked)
        await verdicts(verifying, "a", is_known=False)
        asked.answer = REFUSED
        assert await verdicts(verifying, "a", is_known=True) == [Verdict.REFUSED]


async def test_equal_questions_at_one_time_are_one() -> None:
    async with AskedControlPlane(ACCEPTED) as asked:
        verifying = asking(asked)
        found = await asyncio.gather(*(verifying.of("a", SHOWN, is_known=known) for known in (True, False, True)))
        assert found == [Verdict.ACCEPTED] * 3
        assert len(asked.calls) == 1
        assert not verifying._asking


async def test_who_hangs_up_does_not_end_the_question_of_others() -> None:
    async with AskedControlPlane(ACCEPTED) as asked:
        verifying = asking(asked)
        first = asyncio.create_task(verifying.of("a", SHOWN, is_known=True), name="first")
        await asyncio.sleep(0)
        second = asyncio.create_task(verifying.of("a", SHOWN, is_known=True), name="second")
        await asyncio.sleep(0)
        first.cancel()
        assert await second is Verdict.ACCEPTED


async def test_a_storm_of_known_agents_does_not_wait_for_a_control_plane_that_hangs() -> None:
    async with AskedControlPlane(None) as asked:
        verifying = asking(asked, 0.2)
        loop = asyncio.get_running_loop()
        began = loop.time()
        found = await asyncio.gather(*(verifying.of(f"a{n}", SHOWN, is_known=True) for n in range(500)))
        assert found == [Verdict.NOT_ASKED] * 500
        assert loop.time() - began < 2.0
        assert asked.at_once <= verification.AT_ONCE
        assert len(asked.calls) <= verification.AT_ONCE


async def test_unknown_tokens_are_asked_for_while_it_is_quiet() -> None:
    async with AskedControlPlane(http(500)) as asked:
        verifying = asking(asked)
        await verdicts(verifying, "a", is_known=True)
        asked.answer = REFUSED
        assert await verdicts(verifying, "b", is_known=False) == [Verdict.REFUSED]


async def test_who_gets_no_turn_passes_as_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "TURN_S", 0.05)
    async with AskedControlPlane(None) as asked:
        verifying = asking(asked, 0.5)
        held = [
            asyncio.create_task(verifying.of(f"a{n}", SHOWN, is_known=False), name=f"{n}")
            for n in range(verification.AT_ONCE)
        ]
        await eventually(lambda: len(asked.calls) < verification.AT_ONCE and "not all have asked", 5.0)
        assert await verdicts(verifying, "late", is_known=False) == [Verdict.NOT_ASKED]
        await asyncio.gather(*held)


async def test_no_more_answers_are_remembered_than_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "REMEMBERED", 3)
    async with AskedControlPlane(ACCEPTED) as asked:
        verifying = asking(asked)
        await verdicts(verifying, *(f"a{n}" for n in range(10)), is_known=True)
    assert list(verifying._remembered) == ["a7", "a8", "a9"]


async def test_what_came_of_it_is_counted() -> None:
    counts = dict.fromkeys(OUTCOMES, 0)
    async with AskedControlPlane(ACCEPTED) as asked:
        verifying = Verification(ControlPlane(Config(url=asked.url), 1000), counts)
        await verdicts(verifying, "a", "a", is_known=True)
        asked.answer = REFUSED
        await verdicts(verifying, "b", is_known=False)
        asked.answer = http(500)
        await verdicts(verifying, "c", is_known=False)
    assert counts == dict.fromkeys(OUTCOMES, 1)


# ---- what is shown


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", {"token": "t"}),
        (b'{"token": null}', {"token": "t"}),
        (b'{"token": " t "}', {"token": "t"}),
        (b'{"name":"a","extra":[1,{"b":1.5}]}', {"name": "a", "extra": [1, {"b": 1.5}], "token": "t"}),
        (b'{"extra":"\xff"}', {"token": "t"}),
        (b'{"name":"a","host_id":7,"x":"' + b"x" * 100_000 + b'"}', {"name": "a", "host_id": 7, "token": "t"}),
        (b'{"host_id":7,"name":"' + b"x" * 100_000 + b'"}', {"host_id": 7, "token": "t"}),
    ],
)
def test_what_the_agent_sent_is_shown_with_its_token_in_the_body(body: bytes, expected: dict[str, object]) -> None:
    assert json.loads(shown(body, "t")) == expected


def test_numbers_of_any_size_are_shown_as_they_came() -> None:
    assert b"123456789012345678901234567890" in shown(b'{"big":123456789012345678901234567890}', "t")
