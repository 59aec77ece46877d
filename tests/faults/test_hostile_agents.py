"""Agents that mean harm, over real sockets: a node bears them, gives back what they held, and its other agents' work goes on.

What a single bad frame or request is answered with stands in tests/contract/test_bad_input.py. Here they come in numbers, or for ever.
"""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import NamedTuple, cast

import pytest
import pytest_asyncio

from tests.contract.gateway import Agent, log, new_task_id, new_token
from tests.contract.raw import CONTINUATION, FIN, PING, TEXT, Raw, handshake, opened, text_frame, upgraded
from tests.faults.besieged import PATIENCE_S, Besieged
from tests.faults.finding import Finding
from tests.support.websocket_client import masked_frame

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 1 << 20
CONFIG = {"agent": {"heartbeat_timeout": "5s", "max_takeovers": 3}}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def besieged(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Besieged]:
    async with Besieged(tmp_path_factory.mktemp("besieged"), CONFIG) as besieged:
        yield besieged


async def connected(besieged: Besieged, stack: AsyncExitStack) -> tuple[Agent, Raw]:
    agent = await besieged.gateway.register()
    raw = await stack.enter_async_context(upgraded(besieged.port, f"/ws/agent/{agent.id}", agent.token))
    return agent, raw


def reading(raw: Raw) -> asyncio.Transport:
    """The transport, which the type of a writer knows only by half."""
    return cast("asyncio.Transport", raw.writer.transport)


async def pour(raw: Raw, data: bytes, seconds: float) -> int:
    """Sends the same again and again, as fast as it is taken, and reads nothing; how often."""
    reading(raw).pause_reading()
    ends_s, count = time.monotonic() + seconds, 0
    try:
        while time.monotonic() < ends_s:
            raw.send(data)
            async with asyncio.timeout(max(0.01, ends_s - time.monotonic())):
                await raw.writer.drain()
            count += 1
            await asyncio.sleep(0)
    except (ConnectionError, TimeoutError):
        pass
    return count


# ---- the attacks, each for about so many seconds


async def never_reads(besieged: Besieged, stack: AsyncExitStack, seconds: float) -> str:
    """Takes nothing of what is sent to it, which is much."""
    agent, raw = await connected(besieged, stack)
    raw.writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reading(raw).pause_reading()
    body = "x" * 300_000
    for _ in range(60):
        answer = await agent.post({"id": new_task_id(), "command": body})
        assert answer.status == 200
    await asyncio.sleep(seconds)
    await agent.is_shown("inactive", timeout_s=20.0)
    return f"{60 * len(body) // MIB} MiB of tasks for an agent that reads nothing"


async def reads_slowly(besieged: Besieged, stack: AsyncExitStack, seconds: float) -> str:
    """Takes a little, so that it is never quite dead."""
    agent, raw = await connected(besieged, stack)
    raw.writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reading(raw).pause_reading()
    for _ in range(40):
        await agent.post({"id": new_task_id(), "command": "x" * 300_000})
    for _ in range(int(seconds * 10)):
        reading(raw).resume_reading()
        await asyncio.sleep(0.001)
        reading(raw).pause_reading()
        await asyncio.sleep(0.1)
    return "40 large tasks for an agent that reads a little now and then"


async def floods(besieged: Besieged, stack: AsyncExitStack, seconds: float) -> str:
    """Log lines and results of tasks that nobody posted, and unread acks."""
    lines = text_frame(json.dumps(log("m", "7_1_1_a", "x" * 1000)).encode()) * 50
    results = text_frame(
        b'{"type":"task_result","message_id":"m","task_id":"7_1_1_b","result":{"status":"success","error_msg":"%b"}}'
        % (b"x" * 999)
    )
    raws = [(await connected(besieged, stack))[1] for _ in range(4)]
    counts = await asyncio.gather(*(pour(raw, (lines, results * 50)[n % 2], seconds) for n, raw in enumerate(raws)))
    return f"{50 * sum(counts)} messages"


async def huge_frames(besieged: Besieged, stack: AsyncExitStack, seconds: float) -> str:
    """Frames that are as large as they may be, and never end."""
    head = bytes((FIN | TEXT, 0xFF)) + (32 * MIB).to_bytes(8, "big") + b"mask"
    raws = [(await connected(besieged, stack))[1] for _ in range(12)]

    async def begin(raw: Raw) -> int:
        raw.send(head)
        return await pour(raw, b"x" * 65536, min(seconds, 2.0))

    counts = await asyncio.gather(*(begin(raw) for raw in raws))
    await asyncio.sleep(seconds / 2)
    return f"12 unfinished frames of 32 MiB, {sum(counts) // 16} MiB of them sent"


async def fragments_for_ever(besieged: Besieged, stack: AsyncExitStack, seconds: float) -> str:
    """Messages whose last fragment never comes: of one byte each, of none, and with pings between."""
    one, none = masked_frame(CONTINUATION, b"x") * 500, masked_frame(CONTINUATION, b"") * 500
    mixed = (masked_frame(CONTINUATION, b"x") + masked_frame(FIN | PING, b"")) * 250
    raws = [(await connected(besieged, stack))[1] for _ in range(3)]
    for raw in raws:
        raw.send(masked_frame(TEXT, b'{"'))
    counts = await asyncio.gather(
        *(pour(raw, data, seconds) for raw, data in zip(raws, (one, none, mixed), strict=True))
    )
    return f"{500 * sum(counts)} fragments"


async def pings(besieged: Besieged, stack: AsyncExitStack, seconds: float) -> str:
    """Pings without end, and the pongs unread."""
    raws = [(await connected(besieged, stack))[1] for _ in range(3)]
    data = masked_frame(FIN | PING, b"x" * 125) * 200
    counts = await asyncio.gather(*(pour(raw, data, seconds) for raw in raws))
    return f"{200 * sum(counts)} pings"


async def half_open(besieged: Besieged, stack: AsyncExitStack, seconds: float) -> str:
    """Connections that say nothing, half a request, or half a handshake."""
    starts = (
        b"",
        b"POST /api/agents/register HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{",
        handshake("/ws/agent/x")[:-2],
    )
    raws = [await stack.enter_async_context(opened(besieged.port)) for _ in range(300)]
    for number, raw in enumerate(raws):
        raw.send(starts[number % 3])
    await asyncio.sleep(seconds)
    return "300 connections that go on with nothing"


async def silence(besieged: Besieged, stack: AsyncExitStack, seconds: float) -> str:
    """Handshakes after which nothing more is said, pings neither; the node hangs up by itself."""
    raws = [(await connected(besieged, stack))[1] for _ in range(40)]
    codes = await asyncio.gather(*(raw.close_code(timeout_s=20.0) for raw in raws))
    assert set(codes) == {4408}
    return "40 agents fell silent"


async def wrong_tokens(besieged: Besieged, stack: AsyncExitStack, seconds: float) -> str:
    """Handshakes with tokens that were never given out, for one that lives and for nobody, as fast as they are answered."""
    agent = await besieged.gateway.register()
    ends_s, counts = time.monotonic() + seconds, [0]

    async def storm() -> None:
        while time.monotonic() < ends_s:
            async with opened(besieged.port) as raw:
                raw.send(handshake(f"/ws/agent/{agent.id}", protocol=f"agent-token, {new_token()}"))
                assert (await raw.answer()).status == 401
                counts[0] += 1

    await asyncio.gather(*(storm() for _ in range(10)))
    return f"{counts[0]} wrong tokens"


async def comes_and_goes(besieged: Besieged, stack: AsyncExitStack, seconds: float) -> str:
    """Agents that connect and are gone, at every moment of the handshake, and some that take each other over."""
    agents = [await besieged.gateway.register() for _ in range(10)]
    ends_s, counts = time.monotonic() + seconds, [0]

    async def churn(number: int) -> None:
        while time.monotonic() < ends_s:
            agent = agents[number // 2]
            async with opened(besieged.port) as raw:
                raw.send(handshake(f"/ws/agent/{agent.id}", protocol=f"agent-token, {agent.token}"))
                if counts[0] % 3:
                    await raw.answer()
                if counts[0] % 3 == 2:
                    raw.send(text_frame(b'{"type":"heartbeat"}') + b"\x81")
            counts[0] += 1

    await asyncio.gather(*(churn(number) for number in range(20)))
    return f"{counts[0]} connects"


class Attack(NamedTuple):
    """`growth_mib`: how much memory a process may take for it."""

    run: Callable[[Besieged, AsyncExitStack, float], Awaitable[str]]
    growth_mib: int


ATTACKS: Mapping[str, Attack] = {
    attack.run.__name__.replace("_", " "): attack
    for attack in (
        Attack(never_reads, 96),
        Attack(reads_slowly, 96),
        Attack(floods, 256),  # two lanes of 64 MiB, as they weigh their items
        Attack(huge_frames, 400),  # the room for large frames is 256 MiB
        Attack(fragments_for_ever, 96),
        Attack(pings, 64),
        Attack(half_open, 64),
        Attack(silence, 64),
        Attack(wrong_tokens, 64),
        Attack(comes_and_goes, 64),
    )
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_harms_nobody_else_and_leaves_nothing_behind(
    besieged: Besieged, name: str, is_long: bool, finding: Finding
) -> None:
    seconds, attack = 12.0 if is_long else 2.0, ATTACKS[name]
    finding.about("hostile", name, f"{seconds:g} s, an agent at work beside it")
    async with besieged.unharmed(attack.growth_mib) as witness, AsyncExitStack() as stack:
        what = await attack.run(besieged, stack, seconds)
    finding.struck()
    finding.measured("done", what)
    for process, grown_mib in besieged.grown_mib.items():
        finding.measured(f"{process} grew by", float(grown_mib), f"<= {attack.growth_mib} MiB", unit="MiB")
    finding.measured("the slowest task of the agent beside it", witness.slowest_s, f"<= {PATIENCE_S:g} s")
    finding.counted("its tasks that ended", witness.rounds, witness.rounds, "all")
