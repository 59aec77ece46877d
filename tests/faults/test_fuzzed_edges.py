"""What comes over real sockets into real processes: requests, handshakes, frames and hand-overs that are nearly right, cut anywhere.

The processes answer or hang up, meet no mistake of their own, hold nothing of it afterwards, and do their work meanwhile. What reads the same
bytes without a socket is tried far more often in tests/unit/test_fuzzed_decoders.py. `FUZZ_SEED` repeats a long run.
"""

import array
import asyncio
import itertools
import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from tests.contract.gateway import Agent
from tests.contract.raw import Raw, handshake, opened, request, upgraded
from tests.faults.besieged import Besieged
from tests.faults.finding import Finding
from tests.support.mutation import Mutator, pieces
from tests.support.said import Say
from tests.unit.node.frame_text import text
from tests.unit.test_fuzzed_decoders import AGENT_MESSAGES, FRAMES, REGISTRATION, TASK, encoded

pytestmark = pytest.mark.asyncio(loop_scope="session")

NOBODY = "00000000-0000-4000-8000-000000000000"
AT_ONCE = 12
ANSWER_S = 20.0
DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate; server_no_context_takeover; client_no_context_takeover"}
CHUNKED = {"Transfer-Encoding": "chunked"}

Try = Callable[[int], Awaitable[None]]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def besieged(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Besieged]:
    config: dict[str, dict[str, object]] = {
        "agent": {"max_takeovers": 0, "heartbeat_timeout": "5s"},
        "server": {"read_timeout": "5s"},
    }
    async with Besieged(tmp_path_factory.mktemp("edges"), config) as besieged:
        yield besieged


@pytest.fixture
def chance(is_long: bool, say: Say, finding: Finding) -> random.Random:
    seed = int(os.environ.get("FUZZ_SEED") or (random.getrandbits(32) if is_long else 1))
    say(f"FUZZ_SEED={seed}")
    finding.seed = str(seed)
    return random.Random(seed)


def _tell(finding: Finding, what: str, count: int, besieged: Besieged, growth_mib: int) -> None:
    """What `unharmed` has asked for is so."""
    finding.about("fuzz", f"{what}: valid ones changed, and noise", "over sockets, an agent at work beside it")
    finding.tried(count)
    for name, grown_mib in besieged.grown_mib.items():
        finding.measured(f"{name} grew by", float(grown_mib), f"<= {growth_mib} MiB", unit="MiB")
    finding.measured("descriptors left, processes ended, mistakes told", "none", "none")


async def tried(count: int, one: Try) -> None:
    """So many inputs, a few at once."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await one(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())


# ---- HTTP


def requests(agent_id: str) -> list[bytes]:
    chunks = b'4\r\n{"id\r\n9;x=y\r\n":"a_b_c"}\r\n0\r\nX-Trailer: 1\r\n\r\n'
    plain = request("POST", f"/api/agents/{agent_id}/tasks/", {"X-Timestamp": "1", "X-Signature": "ab"}, encoded(TASK))
    return [
        plain,
        plain + request("GET", "/api/agents?status=active&limit=5") + request("GET", f"/api/agents/{agent_id}"),
        request("POST", f"/api/agents/{agent_id}/tasks/batch", {"Expect": "100-continue"}, encoded([TASK, {"id": "b"}])),
        request("POST", f"/api/agents/{agent_id}/tasks", {**CHUNKED, "Content-Length": ""}).replace(b"Content-Length: \r\n", b"") + chunks,
        request("POST", "/api/agents/register/", {"Authorization": "Bearer t", "X-Forwarded-For": "1.2.3.4"}, encoded(REGISTRATION)),
        request("POST", f"/api/agents/{agent_id}/tasks/7_1_1_a/cancel", None, b"{}"),
        request("DELETE", f"/api/agents/{NOBODY}", {"Connection": "close"}),
        request("GET", "/api/metrics", {"Connection": "Upgrade", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQAoAAAAAIAAAAA"}),
        handshake(f"/ws/agent/{agent_id}", protocol="agent-token, wrong", headers=DEFLATE) + FRAMES[0],
        handshake(f"/ws/agent/{NOBODY}?a=%2f%ff", protocol="agent-token"),
    ]  # fmt: skip


async def test_whatever_request_comes_is_answered_or_hung_up_on(
    besieged: Besieged, chance: random.Random, is_long: bool, finding: Finding
) -> None:
    agent = await besieged.gateway.register()
    mutator = Mutator(chance, requests(agent.id))
    statuses: dict[bytes, int] = {}

    async def ask(number: int) -> None:
        data = mutator.next()
        async with opened(besieged.port) as raw:
            answer = await answered(raw, pieces(chance, data))
        assert answer == b"" or answer.startswith(b"HTTP/1.1 "), (data, answer)
        assert not answer.startswith(b"HTTP/1.1 500"), (data, answer)
        statuses[answer[9:12]] = statuses.get(answer[9:12], 0) + 1

    count = 40_000 if is_long else 1_000
    async with besieged.unharmed(64):
        await tried(count, ask)
    _tell(finding, "requests and handshakes", count, besieged, 64)
    finding.measured(
        "answers", ", ".join(f"{n:,} x {(status or b'hung up').decode()}" for status, n in sorted(statuses.items()))
    )


async def answered(raw: Raw, parts: list[bytes]) -> bytes:
    """All that comes back until the server has closed; our side ends with the last part."""
    try:
        for part in parts:
            raw.send(part)
            await asyncio.sleep(0)
        if not raw.writer.is_closing():
            raw.writer.write_eof()
        async with asyncio.timeout(ANSWER_S):
            return await raw.reader.read()
    except ConnectionError:
        return b""


# ---- WebSockets


class Peer:
    """An agent that connects again whenever it was hung up on."""

    def __init__(self, besieged: Besieged, agent: Agent, chance: random.Random) -> None:
        self._besieged = besieged
        self._agent = agent
        self._chance = chance
        self._messages = Mutator(chance, AGENT_MESSAGES)
        self._frames = Mutator(chance, [*FRAMES, *map(text, AGENT_MESSAGES)])
        self.connects = 0

    async def say(self, count: int) -> None:
        left = iter(range(count))
        for number in left:
            self.connects += 1
            path = f"/ws/agent/{self._agent.id}"
            async with upgraded(self._besieged.port, path, self._agent.token, headers=DEFLATE) as raw:
                await self._talk(raw, itertools.chain([number], itertools.islice(left, 99)))

    async def _talk(self, raw: Raw, numbers: itertools.chain[int]) -> None:
        listening = asyncio.create_task(self._listen(raw), name="listen")
        for _ in numbers:
            is_message = self._chance.random() < 0.5
            data = text(self._messages.next()) if is_message else self._frames.next()
            for piece in pieces(self._chance, data):
                raw.send(piece)
                await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            if listening.done():
                break
        listening.cancel()

    async def _listen(self, raw: Raw) -> None:
        """Until the node hangs up."""
        try:
            while await raw.reader.read(1 << 16):
                pass
        except ConnectionError:
            return


async def test_whatever_an_agent_sends_is_taken_or_hung_up_on(
    besieged: Besieged, chance: random.Random, is_long: bool, finding: Finding
) -> None:
    peers = [Peer(besieged, await besieged.gateway.register(), chance) for _ in range(AT_ONCE)]
    count = 100_000 if is_long else 2_400
    async with besieged.unharmed(96), asyncio.TaskGroup() as group:
        for peer in peers:
            group.create_task(peer.say(count // AT_ONCE))
    _tell(finding, "frames and messages of agents", count, besieged, 96)
    finding.measured("connections", f"{sum(p.connects for p in peers):,}")


# ---- hand-overs


def descriptors(chance: random.Random) -> list[int]:
    """What may come with a message: open sockets of any kind, half a pipe, a file; none, or too many. Ours to close."""
    found: list[int] = []
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
        match chance.randrange(4):
            case 0:
                ours, theirs = socket.socketpair()
                ours.close()
                found.append(theirs.detach())
            case 1:
                found.append(
                    socket.socket(socket.AF_INET, chance.choice((socket.SOCK_STREAM, socket.SOCK_DGRAM))).detach()
                )
            case 2:
                found += os.pipe()
            case _:
                found.append(os.open("/dev/null", os.O_RDONLY))
    return found


async def test_whatever_is_handed_over_is_taken_or_dropped(
    besieged: Besieged, chance: random.Random, is_long: bool, finding: Finding
) -> None:
    (path,) = [
        await besieged.gateway.redis.hget(key, "handover") for key in await besieged.gateway.redis.keys("*node:{*")
    ]
    mutator = Mutator(
        chance, [handshake(f"/ws/agent/{NOBODY}", protocol="agent-token, wrong"), b"GET / HTTP/1.1\r\n\r\n"]
    )
    loop = asyncio.get_running_loop()

    async def hand_over(channel: socket.socket) -> None:
        files = descriptors(chance)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
        data = mutator.next()[: chance.choice((1, 1000, 100_000))] or b"\0"  # nothing at all is how a router leaves
        try:
            channel.sendmsg([data], rights)
        except BlockingIOError:
            await asyncio.sleep(0.01)
        finally:
            for file in files:
                os.close(file)

    count = 20_000 if is_long else 600
    async with besieged.unharmed(64):
        for _ in range(count // 20):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as channel:
                await loop.sock_connect(channel, path)
                for _ in range(20):
                    await hand_over(channel)
            await asyncio.sleep(0)
    _tell(finding, "hand-overs of connections", count, besieged, 64)
