"""Section 1.1: `POST /api/agents/register/`."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from tests.contract.clusters import Clusters, Config
from tests.contract.early import begun_early
from tests.contract.gateway import (
    UUID,
    Gateway,
    Refused,
    error_of,
    found_in,
    new_number,
    new_token,
    redis_paused,
    said_by,
)
from tests.contract.raw import answer_to, request
from tests.support.cluster_process import ClusterProcess
from tests.support.eventually import eventually
from tests.support.http_client import HttpClient, NoAnswer, Response

pytestmark = pytest.mark.asyncio(loop_scope="session")

PATH = "/api/agents/register/"
EVERY_TOKEN_CHARACTER = "!#$%&'*+.^_|~0123456789ABCXYZabcxyz-"


async def register(gateway: Gateway, body: object, token: str = "") -> Response:
    return await gateway.call("POST", PATH, body, {"Authorization": f"Bearer {token}"} if token else None)


def said(answer: Response) -> dict[str, Any]:
    assert answer.status == 200, answer
    body = answer.json()
    assert isinstance(body, dict)
    return body


# ---- the answer


@pytest.mark.parametrize("path", [PATH, PATH.rstrip("/")])
async def test_an_agent_is_told_its_id_and_where_to_dial(gateway: Gateway, path: str) -> None:
    system = {"hostname": "web-1", "os": "linux", "arch": "amd64", "ips": ["10.0.0.1"], "kernel": {"any": 1}}
    body = {"name": "web-1", "labels": {"env": "prod"}, "system": system, "host_id": new_number(), "unknown": [1]}
    answer = await gateway.call("POST", path, body, {"Authorization": f"Bearer {new_token()}"})
    assert answer.headers["content-type"] == "application/json"
    agent = said(answer)
    ws_url = f"ws://127.0.0.1:{gateway.port}/ws/agent/{agent['id']}"
    assert agent == {"id": agent["id"], "name": "web-1", "status": "active", "ws_url": ws_url}


async def test_null_is_absent(gateway: Gateway) -> None:
    fields = ("name", "token", "labels", "system", "host_id")
    assert said(await register(gateway, dict.fromkeys(fields)))["token"]
    assert "token" not in said(await register(gateway, dict.fromkeys(fields), new_token()))


async def test_ids_are_lower_case_uuids_that_parse_as_no_int(gateway: Gateway) -> None:
    agents = await asyncio.gather(*(gateway.register() for _ in range(20)))
    for agent in agents:
        assert UUID.fullmatch(agent.id), agent.id
    assert len({agent.id for agent in agents}) == 20


# ---- tokens


async def test_the_real_agents_token_comes_in_a_header(gateway: Gateway) -> None:
    token = new_token()
    agent = said(await register(gateway, {"name": "a"}, token))
    assert "token" not in agent
    await gateway.dial(agent["ws_url"], ["agent-token", token])


async def test_a_token_in_the_body_wins(gateway: Gateway) -> None:
    body_token, header_token = new_token(), new_token()
    agent = said(await register(gateway, {"name": "a", "token": body_token}, header_token))
    await gateway.dial(agent["ws_url"], ["agent-token", body_token])
    with pytest.raises(Refused) as refusal:
        await gateway.dial(agent["ws_url"], ["agent-token", header_token])
    assert refusal.value.status == 401


@pytest.mark.parametrize("blank", ["", "   ", None])
async def test_a_blank_token_in_the_body_does_not(gateway: Gateway, blank: str | None) -> None:
    token = new_token()
    agent = said(await register(gateway, {"name": "a", "token": blank}, token))
    await gateway.dial(agent["ws_url"], ["agent-token", token])


async def test_an_agent_without_a_token_is_given_one(gateway: Gateway) -> None:
    agent = said(await register(gateway, {"name": "a"}))
    await gateway.dial(agent["ws_url"], ["agent-token", agent["token"]])
    again = said(await register(gateway, {"name": "a"}, agent["token"]))
    assert again["id"] == agent["id"]
    assert said(await register(gateway, {"name": "a"}))["id"] != agent["id"]


async def test_the_same_token_gets_the_same_id(gateway: Gateway) -> None:
    token = new_token()
    agents = await asyncio.gather(*(gateway.register(token) for _ in range(20)))
    assert len({agent.id for agent in agents}) == 1


@pytest.mark.parametrize("where", ["header", "body"])
@pytest.mark.parametrize("start", [EVERY_TOKEN_CHARACTER, "x" * 220])
async def test_a_token_may_hold_what_a_subprotocol_may(gateway: Gateway, start: str, where: str) -> None:
    token = start + new_token()
    body = {"name": "a", "token": token} if where == "body" else {"name": "a"}
    agent = said(await register(gateway, body, token if where == "header" else ""))
    await gateway.dial(agent["ws_url"], ["agent-token", token])


@pytest.mark.parametrize(
    "token", ["a b", "a,b", 'a"b', "a`b", "a/b", "a@b", "a:b", "a;b", "a=b", "(a)", "{a}", "tokén", "a\tb", "x" * 257]
)
async def test_any_other_token_is_refused_by_name(gateway: Gateway, token: str) -> None:
    error = error_of(await register(gateway, {"name": "a", "token": token}), 400, 1002)
    assert error.startswith("token")
    assert token not in error


async def test_a_bad_token_in_the_header_is_refused_by_name(gateway: Gateway) -> None:
    assert "token" in error_of(await register(gateway, {"name": "a"}, "a/b@c"), 400, 1002)


async def test_a_token_is_stored_as_a_hash_only(gateway: Gateway) -> None:
    agent = await gateway.agent()
    made = said(await register(gateway, {"name": "a"}))["token"]
    files = gateway.cluster.folder
    await eventually(lambda: "" if found_in(files, [agent.id]) else "nothing of it is on disk")
    assert not found_in(files, [agent.token, made])


# ---- ws_url


async def test_ws_url_is_where_the_agent_called(gateway: Gateway) -> None:
    head = request("POST", PATH, {"Host": "gateway.example:8443"}, b'{"name": "a"}')
    agent = said(await answer_to(gateway.port, head))
    assert agent["ws_url"] == f"ws://gateway.example:8443/ws/agent/{agent['id']}"


async def test_ws_url_can_be_dialled_as_it_is(gateway: Gateway) -> None:
    await (await gateway.register()).connect()


FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "public.example"}


async def test_what_a_trusted_proxy_forwards_counts(tuned: Gateway) -> None:
    answer = await tuned.call("POST", PATH, {"name": "a"}, FORWARDED, source_ip="127.0.0.9")
    assert said(answer)["ws_url"].startswith("wss://public.example/ws/agent/")


async def test_what_anybody_else_forwards_does_not(tuned: Gateway) -> None:
    answer = await tuned.call("POST", PATH, {"name": "a"}, FORWARDED, source_ip="127.0.0.8")
    assert said(answer)["ws_url"].startswith(f"ws://127.0.0.1:{tuned.port}/ws/agent/")


async def test_a_public_url_goes_before_everything(signed: Gateway) -> None:
    answer = await signed.call("POST", PATH, {"name": "a"}, FORWARDED)
    assert said(answer)["ws_url"].startswith("wss://agents.example.com/gateway/ws/agent/")


# ---- host ids


async def holder(gateway: Gateway, host_id: int) -> str:
    answer = await gateway.call("GET", f"/api/agents/{host_id}")
    return str(said(answer)["id"])


async def claimants(gateway: Gateway, host_id: int) -> list[str]:
    agents = said(await gateway.call("GET", "/api/agents"))["agents"]
    return [agent["id"] for agent in agents if agent["host_id"] == host_id]


async def test_the_newest_registration_gets_a_host_id_that_nobody_uses(gateway: Gateway) -> None:
    older = await gateway.register()
    newer = await gateway.register(host_id=older.host_id)
    assert await holder(gateway, older.host_id) == newer.id
    assert await claimants(gateway, older.host_id) == [newer.id]


async def test_a_host_id_stays_with_an_agent_that_is_online(gateway: Gateway) -> None:
    online = await gateway.agent()
    other = await gateway.register(host_id=online.host_id)
    assert other.id != online.id, "the registration itself succeeds"
    assert await holder(gateway, online.host_id) == online.id
    assert await claimants(gateway, online.host_id) == [online.id]
    refused = [line for line in said_by(gateway.cluster).splitlines() if other.id in line and "host_id" in line]
    assert any("warn" in line for line in refused), "a refused claim is logged"


async def test_a_host_id_stays_with_an_agent_that_was_online_within_the_heartbeat_timeout(gateway: Gateway) -> None:
    seen = await gateway.agent()
    await seen.disconnect()
    await gateway.register(host_id=seen.host_id)
    assert await holder(gateway, seen.host_id) == seen.id


@begun_early
async def test_a_host_id_is_free_once_its_agent_was_away_for_the_heartbeat_timeout(clusters: Clusters) -> None:
    async with clusters.gateway("swift") as gateway:
        gone = await gateway.agent()
        await gone.disconnect()
        await asyncio.sleep(3.1)
        newer = await gateway.register(host_id=gone.host_id)
        assert await holder(gateway, gone.host_id) == newer.id


# ---- who may register


@asynccontextmanager
async def node_of_its_own(gateway: Gateway, node_id: str, config: Config) -> AsyncIterator[Gateway]:
    """A node on a port of its own, of the same Redis."""
    command = (sys.executable, "-m", "cluster", "node", "--id", node_id)
    folder = gateway.cluster.folder / node_id
    async with ClusterProcess(folder, redis_url=gateway.redis_url, command=command, config=config) as node:
        await eventually(partial(not_serving, node), 30.0)
        async with Gateway(node) as alone:
            yield alone


async def not_serving(node: ClusterProcess) -> str:
    try:
        answer = await HttpClient(node.url).request("GET", PATH)
    except NoAnswer as error:
        return f"{error}: {node.output()}"
    return "" if answer.status == 405 else str(answer)


async def test_a_node_of_its_own_port_gives_the_same_id(gateway: Gateway) -> None:
    agent = await gateway.register()
    async with node_of_its_own(gateway, "alone", {}) as alone:
        again = await alone.register(agent.token)
        assert again.id == agent.id
        assert again.ws_url == f"ws://127.0.0.1:{alone.port}/ws/agent/{agent.id}"
        await again.connect()


async def test_closed_registration_refuses_unknown_tokens_and_never_a_known_one(gateway: Gateway) -> None:
    known = await gateway.register()
    async with node_of_its_own(gateway, "closed", {"auth": {"open_registration": False}}) as closed:
        agent = await (await closed.register(known.token)).connect()
        assert agent.id == known.id
        refusal = await register(closed, {"name": "a"}, new_token())
        assert refusal.status in {401, 403, 404}, refusal


@begun_early
async def test_who_never_connects_or_stays_away_is_forgotten(clusters: Clusters) -> None:
    """After 10 min, or `agent.forget_after`, 7 d: the times at which they will be are moved."""
    async with clusters.gateway("default") as gateway:
        never, gone, online = await gateway.register(), await gateway.agent(), await gateway.agent()
        await gone.disconnect()
        directory = "agsrv:{s0}:agents"
        for agent, after_s in ((never, 600), (gone, 7 * 86400), (online, 7 * 86400)):
            due_ms = await gateway.redis.zscore(directory, agent.id)
            assert abs(due_ms / 1000 - time.time() - after_s) < 60
            await gateway.redis.zadd(directory, {agent.id: 1})

        async def known() -> list[str]:
            shown = [(agent.id, await gateway.call("GET", f"/api/agents/{agent.id}")) for agent in (never, gone)]
            return [agent_id for agent_id, answer in shown if answer.status != 404]

        await eventually(known, 45.0, every_s=0.5)
        assert (await gateway.call("GET", f"/api/agents/{online.id}")).status == 200
        for agent in (never, gone):
            assert (await gateway.register(agent.token)).id == agent.id, "and may come back as what it was"


# ---- Redis away


@begun_early
async def test_a_registration_is_held_while_redis_is_away_and_refused_after_25_s(clusters: Clusters) -> None:
    async with clusters.alone("away") as gateway:
        token, new = (await gateway.register()).token, new_token()
        with redis_paused(gateway.cluster):
            began = time.monotonic()
            answers = await asyncio.gather(*(register_late(gateway, each) for each in (token, new)))
            assert 20 < time.monotonic() - began < 30, "the agent's client waits 30 s"
            for answer in answers:
                error_of(answer, 503, 1001)
                assert int(answer.headers["retry-after"]) > 0
            waiting = asyncio.create_task(register_late(gateway, token), name="waits")
            await asyncio.sleep(1.0)
            assert not waiting.done()
        assert (await waiting).status == 200


async def register_late(gateway: Gateway, token: str) -> Response:
    return await gateway.call("POST", PATH, {"name": "a"}, {"Authorization": f"Bearer {token}"}, timeout_s=40.0)
