"""`control_plane.verify_registration` and `control_plane.poll`: what the cluster asks the control plane, and what follows."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.contract.clusters import Clusters
from tests.contract.gateway import Agent, Gateway, error_of, found_in, new_task_id, new_token, said_by
from tests.support.asked_control_plane import ACCEPTED, NONE, REFUSED, AskedControlPlane, Call, http
from tests.support.eventually import eventually
from tests.support.http_client import Response

pytestmark = pytest.mark.asyncio(loop_scope="session")

BEARER = "canary-of-the-bearer-that-is-sent"
REGISTER = "/api/agents/register/"
INTERVAL_S = 0.2


@asynccontextmanager
async def asking(
    clusters: Clusters, name: str, *, is_open: bool = True, **config: Any
) -> AsyncIterator[tuple[Gateway, AskedControlPlane]]:
    """A cluster that asks this control plane, which vouches for everybody and has no tasks."""
    async with AskedControlPlane(lambda call: ACCEPTED if call.path == REGISTER else NONE) as asked:
        config = {"url": asked.url, "token": BEARER, "timeout": "2s", **config}
        sections = {"control_plane": config, "auth": {"open_registration": is_open}}
        cluster = await clusters.start(name, sections)
        async with Gateway(cluster) as gateway:
            yield gateway, asked
            await cluster.stop()


async def register(gateway: Gateway, token: str, **fields: Any) -> Response:
    return await gateway.call("POST", REGISTER, fields, {"Authorization": f"Bearer {token}"})


async def router_starts_anew(gateway: Gateway) -> None:
    """One that remembers no answer."""
    gateway.cluster.kill_router()
    await gateway.cluster.wait_ready()


# ---- registrations


async def test_open_to_all_but_those_whom_the_control_plane_refuses(clusters: Clusters) -> None:
    async with asking(clusters, "verify-open", verify_registration=True) as (gateway, asked):
        token = new_token()
        for _ in range(5):
            assert (await register(gateway, token, name="web-1", host_id=4_000_001, more=[1.50])).status == 200
        assert [call.json() for call in asked.calls] == [
            {"name": "web-1", "host_id": 4_000_001, "more": [1.5], "token": token}
        ]
        assert asked.calls[0].headers["authorization"] == f"Bearer {BEARER}"

        asked.answer = REFUSED
        refused = new_token()
        assert "refuse" in error_of(await register(gateway, refused, name="nobody"), 403, 1002)
        agents: Any = (await gateway.call("GET", "/api/agents")).json()
        assert [agent["name"] for agent in agents["agents"]] == ["web-1"]

        asked.answer = http(403, {"detail": "not for you"})
        assert (await register(gateway, refused)).status == 200, "no word of refusal, and it is open"
        assert not found_in(gateway.cluster.folder, [token, refused])
        assert BEARER not in said_by(gateway.cluster)


async def test_a_known_token_is_refused_for_now_and_its_agent_is_not_forgotten(clusters: Clusters) -> None:
    async with asking(clusters, "verify-known", verify_registration=True) as (gateway, asked):
        agent = await gateway.agent()
        task_id = new_task_id()
        assert (await agent.post_and_take({"id": task_id}))["id"] == task_id
        await router_starts_anew(gateway)

        asked.answer = REFUSED
        error_of(await register(gateway, agent.token), 403, 1002)
        await agent.end(task_id)
        await agent.post_sentinel()
        await agent.disconnect()
        await agent.connect()
        assert (await gateway.entries_of("agent_results", 1, task_id=task_id))[0]["status"] == "success"


async def test_closed_lets_in_whom_the_control_plane_vouches_for_and_whom_it_knows(clusters: Clusters) -> None:
    async with asking(clusters, "verify-closed", is_open=False, verify_registration=True) as (gateway, asked):
        known = new_token()
        first = await register(gateway, known)
        assert first.status == 200
        for answer in (http(500), http(200, b"<html>"), REFUSED):
            asked.answer = answer
            assert (await register(gateway, new_token())).status in (403, 404)

        await router_starts_anew(gateway)
        await asked.stop()
        again = await register(gateway, known)
        assert again.json() == first.json(), "a known token passes while the control plane is away"
        error_of(await register(gateway, new_token()), 404, 1003)
        assert said_by(gateway.cluster).count("the control plane cannot be asked") == 2, "one a process"


async def test_a_control_plane_that_hangs_keeps_nobody_out(clusters: Clusters) -> None:
    async with asking(clusters, "verify-hang", verify_registration=True, timeout="500ms") as (gateway, asked):
        asked.answer = None
        assert (await register(gateway, new_token())).status == 200


# ---- tasks


def gives(task: bytes, agent: Agent) -> Any:
    """Always the same task, to one agent."""

    def answer(call: Call) -> bytes:
        if call.path == REGISTER:
            return ACCEPTED
        return http(200, task) if call.path == f"/api/agents/{agent.id}/next-task/" else NONE

    return answer


async def polls_of(agent: Agent, asked: AskedControlPlane, more: int) -> None:
    """Wait until it was asked so many times more."""
    path = f"/api/agents/{agent.id}/next-task/"
    enough = asked.paths().count(path) + more
    await eventually(lambda: asked.paths().count(path) < enough and "not polled", 20.0, every_s=0.02)


async def test_a_polled_task_reaches_its_agent_once_whoever_polls_it_again(clusters: Clusters) -> None:
    async with asking(clusters, "poll", poll=True, task_poll_interval=INTERVAL_S, scope="eu") as (gateway, asked):
        away, agent = await gateway.register(), await gateway.agent()
        task_id = new_task_id(agent.host_id)
        task = f' {{"zz": 1.50,\n "id" :"{task_id}","command":"echo \\u0063"}} '.encode()
        asked.answer = gives(task, agent)
        frame = await agent.hear_bytes()
        assert task in frame
        await agent.say({"type": "ack", "ack_id": json.loads(frame)["message_id"]})
        await polls_of(agent, asked, 3)
        await agent.post_sentinel()
        last = asked.calls[-1]
        assert last.json() == {"host_id": agent.host_id, "scope": "eu"}
        assert last.headers["authorization"] == f"Bearer {BEARER}"

        gateway.cluster.kill_node("n1")
        await agent.close_code()
        await gateway.cluster.wait_ready()
        await agent.connect()
        await polls_of(agent, asked, 3)
        await agent.post_sentinel()
        await agent.end(task_id)
        await polls_of(agent, asked, 3)
        await agent.post_sentinel()
        assert (await gateway.entries_of("agent_results", 1, task_id=task_id))[0]["status"] == "success"
        assert f"/api/agents/{away.id}/next-task/" not in asked.paths(), "nobody holds it"


async def test_what_is_no_task_is_one_warning_and_the_control_plane_may_be_away(clusters: Clusters) -> None:
    async with asking(clusters, "poll-bad", poll=True, task_poll_interval=INTERVAL_S) as (gateway, asked):
        agent = await gateway.agent()
        asked.answer = gives(b'{"id": "1", "timeout_sec": "canary-in-a-task"}', agent)
        await polls_of(agent, asked, 4)
        await agent.post_sentinel()
        asked.answer = NONE
        await asked.stop()
        await eventually(lambda: "tasks are not polled" not in said_by(gateway.cluster), 10.0)
        await agent.post_sentinel()
        await asked.start()
        await eventually(lambda: "answers again" not in said_by(gateway.cluster), 20.0)
        said = said_by(gateway.cluster)
        assert said.count("cannot be taken") == 1
        assert "timeout_sec: " in said
        assert "canary-in-a-task" not in said
        assert (said.count("tasks are not polled"), said.count("answers again")) == (1, 1)


async def test_a_poll_that_hangs_does_not_keep_a_node_from_draining(clusters: Clusters) -> None:
    async with asking(clusters, "poll-hang", poll=True, task_poll_interval=INTERVAL_S, timeout="60s") as (
        gateway,
        asked,
    ):
        asked.answer = None
        agent = await gateway.agent()
        await polls_of(agent, asked, 1)
