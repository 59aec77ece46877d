"""Who is connected here: one session an agent, the one of the newest claim."""

import asyncio

from cluster import close_codes
from node.hub import Hub
from tests.unit.node.session_bench import AGENT, a_claim, a_session, link_of


async def test_an_agent_is_found_by_its_id() -> None:
    hub, session = Hub(), a_session()
    assert hub.get(AGENT) is None
    hub.add(session)
    assert (hub.get(AGENT), len(hub), list(hub)) == (session, 1, [session])


async def test_the_newest_session_takes_the_place_of_an_older_one_which_is_closed() -> None:
    hub, older, newer = Hub(), a_session(claim=a_claim(5)), a_session(claim=a_claim(6))
    hub.add(older)
    hub.add(newer)
    assert (hub.get(AGENT), len(hub)) == (newer, 1)
    assert (link_of(older).closed, link_of(newer).closed) == ([close_codes.REPLACED], [])


async def test_an_older_claim_that_comes_late_does_not_take_the_place_of_a_newer_one() -> None:
    hub, older, newer = Hub(), a_session(claim=a_claim(5)), a_session(claim=a_claim(6))
    hub.add(newer)
    hub.add(older)
    assert (hub.get(AGENT), len(hub)) == (newer, 1)
    assert (link_of(older).closed, link_of(newer).closed) == ([close_codes.REPLACED], [])


async def test_adding_twice_is_fine() -> None:
    hub, session = Hub(), a_session()
    hub.add(session)
    hub.add(session)
    assert link_of(session).closed == []


async def test_a_session_that_was_replaced_leaves_the_newer_one_in_its_place() -> None:
    hub, older, newer = Hub(), a_session(claim=a_claim(5)), a_session(claim=a_claim(6))
    hub.add(older)
    hub.add(newer)
    hub.discard(older)
    assert hub.get(AGENT) is newer
    hub.discard(newer)
    hub.discard(newer)
    assert (hub.get(AGENT), len(hub)) == (None, 0)


async def test_sessions_may_go_while_they_are_walked_through() -> None:
    hub = Hub()
    for n in range(5):
        hub.add(a_session(agent_id=f"a{n}"))
    for session in hub:
        hub.discard(session)
    assert len(hub) == 0


async def test_who_waits_for_the_last_to_go_waits_for_the_last() -> None:
    hub, sessions = Hub(), [a_session(agent_id=f"a{n}") for n in range(2)]
    for session in sessions:
        hub.add(session)
    waiting = asyncio.create_task(hub.emptied())
    hub.discard(sessions[0])
    await asyncio.sleep(0)
    assert not waiting.done()
    hub.discard(sessions[1])
    await asyncio.wait_for(waiting, 5)


async def test_who_waits_while_nobody_is_there_does_not_wait() -> None:
    await asyncio.wait_for(Hub().emptied(), 5)
