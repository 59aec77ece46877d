"""Section 1.2: `GET /ws/agent/{id}`, and who owns an agent that connects twice."""

import asyncio
import contextlib
import zlib
from functools import partial

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from node.probe import MOST
from tests.contract.clusters import Clusters
from tests.contract.early import begun_early
from tests.contract.gateway import Agent, Gateway, Refused, error_of, log, new_token, redis_paused, said_by
from tests.contract.raw import DEFLATED, FIN, TEXT, answer_to, handshake, opened, text_frame, upgraded
from tests.support.eventually import eventually
from tests.support.websocket_client import masked_frame

pytestmark = pytest.mark.asyncio(loop_scope="session")

BOTH = {"server_no_context_takeover", "client_no_context_takeover"}
GO_OFFER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


async def refused(gateway: Gateway, agent_id: str, *subprotocols: str, source_ip: str = "127.0.0.1") -> Refused:
    with pytest.raises(Refused) as refusal:
        await gateway.dial(f"ws://127.0.0.1:{gateway.port}/ws/agent/{agent_id}", subprotocols, source_ip)
    assert refusal.value.headers["content-type"] == "application/json"
    return refusal.value


# ---- the upgrade


@pytest.mark.parametrize(
    ("offer", "selected"),
    [("agent-token, {}", "agent-token"), ("agent-token,{}", "agent-token"), ("{}", None)],
    ids=["with a blank", "without a blank", "the bare token"],
)
async def test_the_token_is_a_subprotocol(gateway: Gateway, offer: str, selected: str | None) -> None:
    agent = await gateway.register()
    answer = await answer_to(gateway.port, handshake(f"/ws/agent/{agent.id}", protocol=offer.format(agent.token)))
    assert answer.status == 101
    assert answer.headers.get("sec-websocket-protocol") == selected


@pytest.mark.parametrize("connection", ["Upgrade", "upgrade", "keep-alive, Upgrade"])
async def test_connection_upgrade_alone_suffices(gateway: Gateway, connection: str) -> None:
    agent = await gateway.register()
    headers = {"Connection": connection}
    async with upgraded(gateway.port, f"/ws/agent/{agent.id}", agent.token, headers=headers) as raw:
        raw.send(text_frame(b'{"type":"log","message_id":"m"}'))
        assert await raw.text() == {"type": "ack", "ack_id": "m"}


async def test_the_path_works_with_a_slash_at_its_end(gateway: Gateway) -> None:
    agent = await gateway.register()
    agent.ws_url += "/"
    await agent.connect()


async def test_a_frame_sent_together_with_the_handshake_is_not_lost(gateway: Gateway) -> None:
    agent = await gateway.register()
    request = handshake(f"/ws/agent/{agent.id}", protocol=f"agent-token, {agent.token}")
    frames = b"".join(text_frame(b'{"type":"log","message_id":"m%d"}' % number) for number in range(3))
    async with opened(gateway.port) as raw:
        raw.send(request + frames)
        assert (await raw.answer()).status == 101
        assert [(await raw.text())["ack_id"] for _ in range(3)] == ["m0", "m1", "m2"]


# ---- compression


@pytest.mark.parametrize(
    "offer",
    [GO_OFFER, "permessage-deflate", "permessage-deflate; client_max_window_bits"],
    ids=["go", "bare", "browser"],
)
async def test_deflate_is_answered_without_context_takeover_on_either_side(gateway: Gateway, offer: str) -> None:
    agent = await gateway.register()
    headers = {"Sec-WebSocket-Extensions": offer}
    request = handshake(f"/ws/agent/{agent.id}", protocol=f"agent-token, {agent.token}", headers=headers)
    name, *parameters = (
        part.strip() for part in (await answer_to(gateway.port, request)).headers[EXTENSIONS].split(";")
    )
    assert name == "permessage-deflate"
    assert set(parameters) >= BOTH


EXTENSIONS = "sec-websocket-extensions"


async def test_deflated_messages_are_understood(gateway: Gateway) -> None:
    agent = await gateway.register()
    headers = {"Sec-WebSocket-Extensions": GO_OFFER}
    async with upgraded(gateway.port, f"/ws/agent/{agent.id}", agent.token, headers=headers) as raw:
        for number in range(2):
            packer = zlib.compressobj(wbits=-15)
            packed = packer.compress(b'{"type":"log","message_id":"m%d"}' % number) + packer.flush(zlib.Z_SYNC_FLUSH)
            raw.send(masked_frame(FIN | DEFLATED | TEXT, packed[:-4]))
            first, payload = await raw.frame()
            inflated = zlib.decompress(payload + b"\0\0\xff\xff", wbits=-15) if first & DEFLATED else payload
            assert inflated == b'{"type":"ack","ack_id":"m%d"}' % number


async def test_deflate_is_not_spoken_where_the_agent_does_not_ask(gateway: Gateway) -> None:
    agent = await gateway.register()
    answer = await answer_to(gateway.port, handshake(f"/ws/agent/{agent.id}", protocol=f"agent-token, {agent.token}"))
    assert answer.status == 101
    assert EXTENSIONS not in answer.headers


async def test_deflate_is_not_spoken_where_it_is_disabled(tuned: Gateway) -> None:
    agent = await tuned.register()
    headers = {"Sec-WebSocket-Extensions": GO_OFFER}
    request = handshake(f"/ws/agent/{agent.id}", protocol=f"agent-token, {agent.token}", headers=headers)
    answer = await answer_to(tuned.port, request)
    assert answer.status == 101
    assert EXTENSIONS not in answer.headers


# ---- refusals, before the upgrade


@pytest.mark.parametrize("agent_id", ["00000000-0000-4000-8000-000000000000", "nobody", "7"])
async def test_an_unknown_agent_is_404(gateway: Gateway, agent_id: str) -> None:
    error_of(await refused(gateway, agent_id, "agent-token", new_token()), 404, 1003)


@pytest.mark.parametrize("offers", [("agent-token", "wrong"), ("wrong",), ("agent-token",), ()])
async def test_a_wrong_token_or_none_is_401(gateway: Gateway, offers: tuple[str, ...]) -> None:
    agent = await gateway.register()
    error_of(await refused(gateway, agent.id, *offers), 401, 1002)


async def test_a_token_of_another_agent_is_401(gateway: Gateway) -> None:
    agent, other = await gateway.register(), await gateway.register()
    error_of(await refused(gateway, agent.id, "agent-token", other.token), 401, 1002)


async def test_a_forgotten_agent_is_403(gateway: Gateway) -> None:
    agent = await gateway.register()
    assert (await gateway.call("DELETE", f"/api/agents/{agent.id}")).status == 200
    error_of(await refused(gateway, agent.id, "agent-token", agent.token), 403, 1002)


async def test_an_agent_too_many_is_503_and_its_registration_is_not(small: Gateway) -> None:
    first, _ = await small.agent(), await small.agent()
    third = await small.register()
    error_of(await refused(small, third.id, "agent-token", third.token), 503, 1001)
    again = await small.register(third.token)
    assert again.id == third.id
    await first.disconnect()
    await third.connect()


@begun_early
async def test_a_handshake_is_in_doubt_and_503_while_redis_is_away(clusters: Clusters) -> None:
    """Neither for a good nor for a bad token is anything said that makes an agent register anew; who is connected stays."""
    async with clusters.alone("away") as gateway:
        connected, good = await gateway.agent(), await gateway.register()
        with redis_paused(gateway.cluster):
            refusals = await asyncio.gather(
                refused(gateway, good.id, "agent-token", good.token),
                refused(gateway, good.id, "agent-token", "wrong"),
                refused(gateway, "00000000-0000-4000-8000-000000000000", "agent-token", "wrong"),
            )
            for refusal in refusals:
                error_of(refusal, 503, 1001)
            await connected.say(log("kept", "1_1_1_x", "not acked before it is written"))
        assert await connected.hear_acks(1) == ["kept"]
        assert len(await gateway.entries("agent_logs", agent_id=connected.id)) == 1


@pytest.mark.parametrize(("origin", "status"), [("https://allowed.example", 101), ("https://other.example", 403)])
async def test_only_allowed_origins_connect_where_they_are_named(tuned: Gateway, origin: str, status: int) -> None:
    agent = await tuned.register()
    headers = {"Origin": origin}
    request = handshake(f"/ws/agent/{agent.id}", protocol=f"agent-token, {agent.token}", headers=headers)
    assert (await answer_to(tuned.port, request)).status == status


async def test_an_agent_names_no_origin_and_connects_all_the_same(tuned: Gateway) -> None:
    agent = await tuned.register()
    request = handshake(f"/ws/agent/{agent.id}", protocol=f"agent-token, {agent.token}")
    assert (await answer_to(tuned.port, request)).status == 101


async def test_all_origins_connect_where_none_is_named(gateway: Gateway) -> None:
    agent = await gateway.register()
    headers = {"Origin": "https://any.example"}
    request = handshake(f"/ws/agent/{agent.id}", protocol=f"agent-token, {agent.token}", headers=headers)
    assert (await answer_to(gateway.port, request)).status == 101


# ---- the same agent twice


async def twin(agent: Agent) -> Agent:
    """The same agent as another process sees it, without a registration of its own."""
    answer = {"id": agent.id, "name": agent.name, "ws_url": agent.ws_url}
    return Agent(agent.gateway, answer, agent.token, agent.host_id)


async def test_the_newest_connection_replaces_the_one_before(gateway: Gateway) -> None:
    older = await gateway.agent()
    newer = await (await twin(older)).connect()
    assert await older.close_code() == 4409
    await newer.post_sentinel()
    await newer.is_shown("active")


async def test_an_agent_is_replaced_across_nodes(gateway: Gateway) -> None:
    """The least loaded node gets a connection, so that two in a row are on different nodes, or will be within a few."""
    nodes = set()
    agent = await gateway.agent()
    for _ in range(3):
        answer = (await gateway.call("GET", f"/api/agents/{agent.id}")).json()
        assert isinstance(answer, dict)
        nodes.add(answer["node"])
        newer = await (await twin(agent)).connect()
        assert await agent.close_code() == 4409
        agent = newer
    await agent.post_sentinel()


async def test_a_fourth_takeover_in_30_s_is_held_off_with_one_warning_that_names_both_hosts(gateway: Gateway) -> None:
    agent = await (await gateway.register()).connect(source_ip="127.0.0.21")
    for _ in range(3):
        newer = await (await twin(agent)).connect(source_ip="127.0.0.21")
        assert await agent.close_code() == 4409
        agent = newer
    for _ in range(2):
        error_of(await refused(gateway, agent.id, "agent-token", agent.token, source_ip="127.0.0.22"), 503, 1001)
    await agent.post_sentinel()
    warnings = [line for line in said_by(gateway.cluster).splitlines() if agent.id in line and "127.0.0.22" in line]
    assert len(warnings) == 1, warnings
    assert "127.0.0.21" in warnings[0]


# ---- nodes that end


@begun_early
async def test_ws_url_stays_good_when_a_node_dies(clusters: Clusters) -> None:
    """Also: until its lease ends nothing is said of an agent whose node was lost, then it is offline as `node_lost`."""
    cluster = await clusters.start("mortal", {"agent": {"heartbeat_timeout": "8s"}}, nodes=2)
    async with Gateway(cluster) as gateway:
        returns, stays_away = [await gateway.agent() for _ in range(2)], [await gateway.agent() for _ in range(2)]
        for node_id in ("n1", "n2"):
            cluster.kill_node(node_id)
            for agent in returns:
                await eventually(partial(cannot_connect, agent), 15.0, every_s=0.1)
                await agent.post_sentinel()
        for agent in stays_away:
            entry = (await gateway.entries_of("agent_status", 1, 20.0, agent_id=agent.id, status="offline"))[0]
            assert entry["disconnect_reason"] == "node_lost"


async def cannot_connect(agent: Agent) -> str:
    """503 until a node is found that lives; anything else would make the agent register, or give up."""
    try:
        await agent.connect()
    except OSError as error:
        return repr(error)
    except Refused as refusal:
        if refusal.status != 503:
            raise
        return repr(refusal)
    return ""


# ---- the probe: a WebSocket for nobody


async def test_a_probe_is_told_how_it_looks_from_here_and_is_nobody(gateway: Gateway) -> None:
    before = (await gateway.call("GET", "/api/metrics")).json()["agents_total"]  # type: ignore[index]
    async with connect(f"ws://127.0.0.1:{gateway.port}/ws/probe", proxy=None) as probe:
        hello = msgspec.json.decode(await probe.recv())
        assert (hello["type"], hello["ws_url"]) == ("probe", f"ws://127.0.0.1:{gateway.port}/ws/agent/")
        await (await probe.ping())
        await probe.send('{"type":"heartbeat","payload":{}}')
        with pytest.raises(ConnectionClosed) as ended:  # there is nothing to be said here
            await probe.recv()
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1008
        assert (await gateway.call("GET", "/api/metrics")).json()["agents_total"] == before  # type: ignore[index]


async def test_there_are_few_probes_at_once_and_an_ended_one_makes_room(gateway: Gateway) -> None:
    url = f"ws://127.0.0.1:{gateway.port}/ws/probe"
    async with contextlib.AsyncExitStack() as stack:
        answers = [await _kept(stack, url) for _ in range(2 * MOST + 1)]
        assert answers[0] == 101
        assert answers[-1] == 503
    await eventually(lambda: _dialled(url), 10.0)


async def _kept(stack: contextlib.AsyncExitStack, url: str) -> int:
    """The status that a handshake is answered with; what is open stays so until the stack ends."""
    try:
        await stack.enter_async_context(connect(url, proxy=None))
    except InvalidStatus as error:
        return error.response.status_code
    return 101


async def _dialled(url: str) -> str:
    async with contextlib.AsyncExitStack() as stack:
        status = await _kept(stack, url)
    return "" if status == 101 else f"answered with {status}"
