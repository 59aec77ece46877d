"""What a router says when agents dial it and its machine has no node for them."""

import asyncio
import logging
import socket

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from router.handover import Handover, HandoverProtocol, Target
from tests.support.eventually import eventually

UPGRADE = b"GET /ws/agent/1 HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"
COMPLAINT = (
    "agents dial this router, but no node of this machine takes them: route /ws/ and /api/agents/register to nodes"
)


async def refused(handover: Handover, times: int = 1) -> None:
    """Upgrades that are refused, one after the other."""
    loop, config = asyncio.get_running_loop(), Config(lambda: None, lifespan="off", log_config=None)
    for number in range(handover.refused, handover.refused + times):
        ours, theirs = socket.socketpair()
        protocol = HandoverProtocol(config, ServerState(), {}, handover=handover)
        await loop.connect_accepted_socket(lambda made=protocol: made, ours)  # type: ignore[misc]
        protocol.data_received(UPGRADE)
        await eventually(lambda past=number: handover.refused == past and "not refused")  # type: ignore[misc]
        theirs.close()


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


async def test_upgrades_on_a_machine_without_nodes_are_told_of_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    handover = Handover(hold_s=0.0)
    handover.update(())
    await refused(handover, 5)
    assert complaints(caplog) == [COMPLAINT]
    handover.close()


async def test_a_line_that_is_full_is_told_of_too(caplog: pytest.LogCaptureFixture) -> None:
    handover = Handover(hold_s=0.0, max_held=0)
    handover.update(())
    await refused(handover)
    assert complaints(caplog) == [COMPLAINT]
    handover.close()


async def test_nothing_is_said_before_it_is_known_which_nodes_there_are(caplog: pytest.LogCaptureFixture) -> None:
    handover = Handover(hold_s=0.0)
    await refused(handover)
    assert not complaints(caplog)
    handover.close()


async def test_nothing_is_said_of_a_node_that_is_only_slow(caplog: pytest.LogCaptureFixture) -> None:
    handover = Handover(hold_s=0.0)
    handover.update([Target("n1", "/nowhere/n1.sock", 0)])
    await refused(handover)
    assert not complaints(caplog)
    handover.close()
