"""Section 2: the control plane's calls, and what they answer. Signatures: test_signature.py."""

import asyncio
import re
import sys
import time
import urllib.parse
from functools import partial
from typing import Any

import pytest

from tests.contract.clusters import Clusters
from tests.contract.early import begun_early
from tests.contract.gateway import (
    Agent,
    Entry,
    Gateway,
    Refused,
    error_of,
    new_number,
    new_task_id,
    new_token,
    redis_paused,
)
from tests.support.cluster_process import ClusterProcess
from tests.support.eventually import eventually
from tests.support.http_client import HttpClient, NoAnswer, Response

pytestmark = pytest.mark.asyncio(loop_scope="session")

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
NOBODY = "00000000-0000-4000-8000-000000000000"


def said(answer: Response) -> dict[str, Any]:
    assert answer.status == 200, answer
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert isinstance(body, dict)
    return body


async def shown(agent: Agent) -> dict[str, Any]:
    return said(await agent.gateway.call("GET", f"/api/agents/{agent.id}"))


async def listed(gateway: Gateway, query: str = "") -> list[dict[str, Any]]:
    agents: list[dict[str, Any]] = said(await gateway.call("GET", f"/api/agents{query and '?' + query}"))["agents"]
    return agents


async def call(agent: Agent, path: str, body: object = None) -> Response:
    return await agent.gateway.call("POST", f"/api/agents/{agent.id}/{path}", body)


async def cancelled(agent: Agent, task_id: str) -> dict[str, Any]:
    return said(await call(agent, f"tasks/{urllib.parse.quote(task_id, safe='')}/cancel"))


async def results(agent: Agent, task_id: str) -> list[Entry]:
    return await agent.gateway.entries("agent_results", agent_id=agent.id, task_id=task_id)


# ---- paths


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/agents", None, 200),
        ("GET", "/api/agents/{}", None, 200),
        ("POST", "/api/agents/{}/tasks", {"id": "{}"}, 200),
        ("POST", "/api/agents/{}/tasks/batch", [{"id": "{}"}], 200),
        ("POST", "/api/agents/{}/tasks/{}/cancel", None, 200),
        ("POST", "/api/agents/{}/tasks/cancel/batch", {"task_ids": ["x"]}, 200),
        ("POST", "/api/agents/{}/control", {"action": "restart"}, 200),
        ("POST", "/api/agents/{}/upgrade", {"target_version": "1", "download_url": "u"}, 200),
        ("GET", "/api/metrics", None, 200),
        ("POST", "/api/self/control", {"action": "stop"}, 400),
        ("POST", "/api/self/upgrade", {}, 501),
        ("DELETE", "/api/agents/{}", None, 200),
    ],
)
async def test_a_path_works_with_and_without_its_slash(
    gateway: Gateway, method: str, path: str, body: object, status: int, slash: str
) -> None:
    agent = await gateway.agent()
    filled = path.replace("{}", agent.id, 1).replace("{}", "any-task") + slash
    answer = await gateway.call(method, filled, body)
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"


# ---- agents


async def test_the_list_holds_all_agents_live_ones_first_then_by_newest_heartbeat(gateway: Gateway) -> None:
    label = new_token()
    older, newer = [await gateway.agent(labels={"set": label}) for _ in range(2)]
    await older.disconnect()
    await newer.disconnect()
    live, never = await gateway.agent(labels={"set": label}), await gateway.register(labels={"set": label})
    agents = await listed(gateway)
    ours = [agent["id"] for agent in agents if agent["id"] in {older.id, newer.id, live.id, never.id}]
    assert ours[0] == live.id
    assert ours.index(newer.id) < ours.index(older.id)
    assert set(ours) == {older.id, newer.id, live.id, never.id}
    statuses = [agent["status"] for agent in agents]
    assert statuses == sorted(statuses), "active before inactive"
    for status in ("active", "inactive"):
        beats = [agent["last_heartbeat"] for agent in agents if agent["status"] == status]
        assert beats == sorted(beats, reverse=True)


async def test_an_agent_in_the_list(gateway: Gateway) -> None:
    agent = await gateway.agent(name="web-1")
    found = next(each for each in await listed(gateway) if each["id"] == agent.id)
    assert (found["name"], found["status"]) == ("web-1", "active")
    assert RFC_3339.fullmatch(found["last_heartbeat"])
    await agent.disconnect()
    assert next(each for each in await listed(gateway) if each["id"] == agent.id)["status"] == "inactive"


async def test_the_list_can_be_filtered(gateway: Gateway) -> None:
    mark = new_token()
    live = await gateway.agent(name=f"{mark} live", labels={"set": mark, "env": "prod"})
    other = await gateway.register(name=f"{mark} other", labels={"set": mark, "env": "test"}, system={"hostname": mark})
    both = {live.id, other.id}
    node = (await shown(live))["node"]

    async def ids(query: str) -> set[str]:
        return {agent["id"] for agent in await listed(gateway, query)} & both

    assert await ids(f"label=set={mark}") == both
    assert await ids(f"label=set={mark}&status=active") == {live.id}
    assert await ids(f"label=set={mark}&status=inactive") == {other.id}
    assert await ids("label=env=test") == {other.id}
    assert await ids(f"node={node}") == {live.id}
    assert await ids(f"q={mark}") == both
    assert await ids(f"q={other.id[:13]}") == {other.id}


async def test_the_list_comes_in_pages(gateway: Gateway) -> None:
    mark = new_token()
    expected = {(await gateway.register(labels={"set": mark})).id for _ in range(5)}
    found: list[str] = []
    cursor = ""
    for size in (2, 2, 1):
        answer = said(await gateway.call("GET", f"/api/agents?label=set={mark}&limit=2{cursor}"))
        assert len(answer["agents"]) == size
        found += [agent["id"] for agent in answer["agents"]]
        cursor = f"&cursor={answer.get('next_cursor')}"
    assert set(found) == expected
    assert "next_cursor" not in answer


@pytest.mark.parametrize("query", ["limit=x", "limit=-1", "cursor=x", "status=dead"])
async def test_a_bad_filter_is_400(gateway: Gateway, query: str) -> None:
    assert query.partition("=")[0] in error_of(await gateway.call("GET", f"/api/agents?{query}"), 400, 1002)


async def test_one_agent_is_shown_with_all_that_is_known(gateway: Gateway) -> None:
    system = {"hostname": "h", "os": "linux", "arch": "arm64", "ips": ["10.0.0.1"], "other": 1}
    agent = await gateway.agent(name="web-1", labels={"env": "prod"}, system=system)
    found = await shown(agent)
    assert (found["id"], found["name"], found["status"]) == (agent.id, "web-1", "active")
    assert (found["labels"], found["system"], found["host_id"]) == ({"env": "prod"}, system, agent.host_id)
    assert found["node"] in {"n1", "n2"}


async def test_last_heartbeat_is_when_the_agent_was_heard(gateway: Gateway) -> None:
    agent = await gateway.agent()
    found = await shown(agent)
    assert RFC_3339.fullmatch(found["last_heartbeat"])
    text = found["last_heartbeat"].rstrip("Z").partition(".")[0]
    heard = time.mktime(time.strptime(text + " UTC", "%Y-%m-%dT%H:%M:%S %Z")) - time.timezone
    assert abs(heard - time.time()) < 30


async def test_an_agent_is_found_by_its_host_id_too(gateway: Gateway) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    assert said(await gateway.call("GET", f"/api/agents/{agent.host_id}"))["id"] == agent.id
    answer = said(await agent.post({"id": task_id}, to=str(agent.host_id)))
    assert answer == {"task_id": task_id, "agent_id": agent.id, "status": "dispatched"}
    assert (await agent.hear())["task"] == {"id": task_id}
    assert said(await gateway.call("POST", f"/api/agents/{agent.host_id}/tasks/{task_id}/cancel"))["task_id"] == task_id


async def test_a_host_id_that_was_left_is_nobodys(gateway: Gateway) -> None:
    agent, other = await gateway.register(), new_number()
    await gateway.register(agent.token, host_id=other)
    assert said(await gateway.call("GET", f"/api/agents/{other}"))["id"] == agent.id
    error_of(await gateway.call("GET", f"/api/agents/{agent.host_id}"), 404, 1003)


UNKNOWN_CALLS = [
    ("GET", "", None),
    ("DELETE", "", None),
    ("POST", "/tasks", {"id": "x"}),
    ("POST", "/tasks/batch", [{"id": "x"}]),
    ("POST", "/tasks/x/cancel", None),
    ("POST", "/tasks/cancel/batch", {"task_ids": ["x"]}),
    ("POST", "/control", {"action": "restart"}),
    ("POST", "/upgrade", {"target_version": "1", "download_url": "u"}),
]


@pytest.mark.parametrize("agent", [NOBODY, "987654321987"])
@pytest.mark.parametrize(("method", "path", "body"), UNKNOWN_CALLS)
async def test_an_unknown_agent_is_404_and_nothing_is_stored(
    gateway: Gateway, method: str, path: str, body: object, agent: str
) -> None:
    error_of(await gateway.call(method, f"/api/agents/{agent}{path}", body), 404, 1003)
    assert [key async for key in gateway.redis.scan_iter(f"*{agent}*")] == []


async def test_metrics_count_agents(gateway: Gateway) -> None:
    before = said(await gateway.call("GET", "/api/metrics"))
    assert before.keys() == {"now_unix_ms", "agents_total", "agents_online", "agents_offline"}
    assert abs(before["now_unix_ms"] / 1000 - time.time()) < 30
    await gateway.agent()
    await gateway.register()
    after = said(await gateway.call("GET", "/api/metrics"))
    assert after["agents_total"] == before["agents_total"] + 2
    assert after["agents_total"] == after["agents_online"] + after["agents_offline"]


# ---- forgetting


async def test_a_forgotten_agent_is_closed_refused_and_its_tasks_end(gateway: Gateway) -> None:
    agent, sent, host_id = await gateway.agent(), new_task_id(), new_number()
    await agent.post_and_take({"id": sent})
    said(await gateway.call("DELETE", f"/api/agents/{agent.id}"))
    assert await agent.close_code() == 4403
    with pytest.raises(Refused) as refusal:
        await agent.connect()
    assert refusal.value.status == 403
    error_of(await gateway.call("GET", f"/api/agents/{agent.id}"), 404, 1003)
    error_of(await gateway.call("GET", f"/api/agents/{agent.host_id}"), 404, 1003)
    assert agent.id not in {each["id"] for each in await listed(gateway)}
    entry = (await gateway.entries_of("agent_results", 1, task_id=sent))[0]
    assert (entry["status"], entry["exit_code"], entry["started_at"]) == ("failed", "-1", "0")
    again = {"name": "a", "host_id": host_id}
    headers = {"Authorization": f"Bearer {agent.token}"}
    answer = await gateway.call("POST", "/api/agents/register/", again, headers)
    assert answer.status in {401, 403}, "its token is refused"


async def test_tasks_that_wait_for_an_agent_end_when_it_is_forgotten(gateway: Gateway) -> None:
    agent, waiting = await gateway.register(), [new_task_id() for _ in range(3)]
    for task_id in waiting:
        await agent.post({"id": task_id})
    said(await gateway.call("DELETE", f"/api/agents/{agent.id}"))
    for task_id in waiting:
        assert [entry["status"] for entry in await gateway.entries_of("agent_results", 1, task_id=task_id)] == [
            "failed"
        ]


# ---- tasks


async def test_a_task_of_a_connected_agent_is_dispatched(gateway: Gateway) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    answer = said(await agent.post({"id": task_id}))
    assert answer == {"task_id": task_id, "agent_id": agent.id, "status": "dispatched"}


async def test_a_task_of_an_offline_agent_is_pending_and_kept_for_24_h(gateway: Gateway) -> None:
    agent, task_id = await gateway.register(), new_task_id()
    answer = said(await agent.post({"id": task_id}))
    assert answer == {"task_id": task_id, "agent_id": agent.id, "status": "pending"}
    due_ms = await gateway.redis.zscore("agsrv:{s0}:due", f"{agent.id}:{task_id}")
    assert abs(due_ms / 1000 - time.time() - 24 * 3600) < 60


@pytest.mark.parametrize(("is_online", "status"), [(True, "dispatched"), (False, "pending")])
async def test_a_batch_is_answered_as_one(gateway: Gateway, is_online: bool, status: str) -> None:
    agent, ids = await gateway.register(), [new_task_id() for _ in range(3)]
    if is_online:
        await agent.connect()
    answer = said(await call(agent, "tasks/batch", [{"id": task_id} for task_id in ids]))
    assert answer == {"task_ids": ids, "agent_id": agent.id, "status": status, "count": 3}


@pytest.mark.parametrize("body", [b"[]", b"", b"null", b"{}", b'"x"', b'{"id": "x"}'])
async def test_a_batch_that_is_none_is_400(gateway: Gateway, body: bytes) -> None:
    agent = await gateway.register()
    error_of(await call(agent, "tasks/batch", body), 400, 1002)


@pytest.mark.parametrize(
    "bad", [b"{}", b"null", b"7", b'{"id": "x", "timeout_sec": "1"}', b'{"id": ""}', b'{"id": "x", "env": {"A": 1}}']
)
async def test_one_bad_element_and_none_is_taken(gateway: Gateway, bad: bytes) -> None:
    agent, ids = await gateway.agent(), [new_task_id() for _ in range(2)]
    body = b'[{"id": "%b"}, %b, {"id": "%b"}]' % (ids[0].encode(), bad, ids[1].encode())
    error_of(await call(agent, "tasks/batch", body), 400, 1002)
    await agent.post_sentinel()
    for task_id in ids:
        assert (await agent.post_and_take({"id": task_id, "other": "bytes"}))["id"] == task_id


@pytest.mark.parametrize("task_id", ["x", "a/b c", "päth €", "%2F", "1_2_3_4", "x" * 200, "{}*?[a]", "cancel", "batch"])
async def test_any_printable_text_of_1_to_200_characters_is_a_task_id(gateway: Gateway, task_id: str) -> None:
    agent = await gateway.agent()
    assert said(await agent.post({"id": task_id}))["task_id"] == task_id
    assert (await agent.hear())["task"]["id"] == task_id
    assert (await cancelled(agent, task_id))["task_id"] == task_id
    assert await agent.hear() == {"type": "cancel_task", "task_id": task_id}
    await agent.end(task_id, "cancelled")
    assert [entry["status"] for entry in await results(agent, task_id)] == ["cancelled"]


# ---- the same task again


@pytest.mark.parametrize("is_online", [True, False])
async def test_the_same_bytes_get_the_first_answer_and_run_once(gateway: Gateway, is_online: bool) -> None:
    agent, task_id = await gateway.register(), new_task_id()
    if is_online:
        await agent.connect()
    first = said(await agent.post({"id": task_id}))
    assert said(await agent.post({"id": task_id})) == first
    if not is_online:
        await agent.connect()
    assert (await agent.hear())["task"]["id"] == task_id
    assert said(await agent.post({"id": task_id})) == first, "also when it was sent"
    await agent.end(task_id)
    assert said(await agent.post({"id": task_id})) == first, "also when it has ended"
    await agent.post_sentinel()
    assert len(await results(agent, task_id)) == 1


async def test_the_same_bytes_at_once_run_once(gateway: Gateway) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    answers = await asyncio.gather(*(agent.post({"id": task_id}) for _ in range(20)))
    assert {(answer.status, answer.body) for answer in answers} == {(200, answers[0].body)}
    assert (await agent.hear())["task"]["id"] == task_id
    await agent.post_sentinel()


async def test_the_same_batch_again_runs_once(gateway: Gateway) -> None:
    agent, tasks = await gateway.agent(), [{"id": new_task_id()} for _ in range(3)]
    first = said(await call(agent, "tasks/batch", tasks))
    assert said(await call(agent, "tasks/batch", tasks)) == first
    assert len((await agent.hear())["tasks"]) == 3
    await agent.post_sentinel()


async def test_the_same_id_with_other_bytes_is_409(gateway: Gateway) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    await agent.post_and_take({"id": task_id, "command": "one"})
    error_of(await agent.post({"id": task_id, "command": "two"}), 409, 1002)
    error_of(await call(agent, "tasks/batch", [{"id": new_task_id()}, {"id": task_id}]), 409, 1002)
    await agent.end(task_id)
    error_of(await agent.post({"id": task_id, "command": "two"}), 409, 1002)
    await agent.post_sentinel()


async def test_the_same_id_is_another_agents_own_task(gateway: Gateway) -> None:
    task_id = new_task_id()
    for agent in [await gateway.agent() for _ in range(2)]:
        assert (await agent.post_and_take({"id": task_id, "name": agent.name}))["name"] == agent.name


async def test_too_many_open_tasks_are_refused_with_when_to_come_back(tuned: Gateway) -> None:
    agent = await tuned.register()
    for _ in range(3):
        assert (await agent.post({"id": new_task_id()})).status == 200
    refusal = await agent.post({"id": new_task_id()})
    error_of(refusal, 503, 1001)
    assert int(refusal.headers["retry-after"]) > 0


# ---- cancelling


async def test_a_cancel_of_a_sent_task_is_forwarded(gateway: Gateway) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    await agent.post_and_take({"id": task_id})
    expected = {"task_id": task_id, "agent_id": agent.id, "status": "cancelled", "source": "websocket"}
    assert await cancelled(agent, task_id) == expected
    assert await agent.hear() == {"type": "cancel_task", "task_id": task_id}
    assert await results(agent, task_id) == [], "the agent ends it"


async def test_a_cancel_of_an_unknown_task_is_forwarded_while_the_agent_is_online(gateway: Gateway) -> None:
    agent = await gateway.agent()
    expected = {"task_id": "unknown", "agent_id": agent.id, "status": "cancelled", "source": "websocket"}
    assert await cancelled(agent, "unknown") == expected
    assert await agent.hear() == {"type": "cancel_task", "task_id": "unknown"}


async def test_a_cancel_of_an_unknown_task_of_an_offline_agent_is_404(gateway: Gateway) -> None:
    agent = await gateway.register()
    error_of(await call(agent, "tasks/unknown/cancel"), 404, 1003)


async def test_a_cancel_of_a_waiting_task_ends_it(gateway: Gateway) -> None:
    agent, task_id = await gateway.register(), new_task_id()
    await agent.post({"id": task_id})
    expected = {"task_id": task_id, "agent_id": agent.id, "status": "cancelled", "source": "pending_store"}
    assert await cancelled(agent, task_id) == expected
    entry = (await results(agent, task_id))[0]
    assert (entry["status"], entry["exit_code"], entry["started_at"]) == ("cancelled", "-1", "0")
    assert abs(int(entry["finished_at"]) - time.time()) < 30, "seconds"
    await agent.connect()
    await agent.post_sentinel()


@pytest.mark.parametrize("status", ["success", "failed", "cancelled"])
@pytest.mark.parametrize("is_online", [True, False])
async def test_a_cancel_of_an_ended_task_says_how_it_ended(gateway: Gateway, status: str, is_online: bool) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    await agent.post_and_take({"id": task_id})
    await agent.end(task_id, status)
    if not is_online:
        await agent.disconnect()
    answer = await cancelled(agent, task_id)
    assert (answer["task_id"], answer["agent_id"], answer["status"]) == (task_id, agent.id, status)
    if is_online:
        await agent.post_sentinel()
    assert [entry["status"] for entry in await results(agent, task_id)] == [status]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"reason": "x"}', b"not JSON"])
async def test_a_cancels_body_may_be_anything(gateway: Gateway, body: bytes) -> None:
    agent, task_id = await gateway.agent(), new_task_id()
    await agent.post_and_take({"id": task_id})
    assert (await call(agent, f"tasks/{task_id}/cancel", body)).status == 200


async def test_a_batch_of_cancels_is_answered_one_by_one(gateway: Gateway) -> None:
    agent, unknown, waiting, ended = await gateway.agent(), "never-seen", new_task_id(), new_task_id()
    await agent.post_and_take({"id": ended})
    await agent.end(ended)
    await agent.disconnect()
    await agent.post({"id": waiting})
    answer = said(await call(agent, "tasks/cancel/batch", {"task_ids": [unknown, waiting, ended]}))
    failed, *good = answer.pop("results")
    assert answer == {"agent_id": agent.id, "task_count": 3, "success_count": 2, "failed_count": 1}
    assert failed.keys() == {"task_id", "status", "error"}
    assert failed["task_id"] == unknown
    assert good[0] == {"task_id": waiting, "status": "cancelled", "source": "pending_store"}
    assert (good[1]["task_id"], good[1]["status"]) == (ended, "success")


@pytest.mark.parametrize("body", [{}, {"task_ids": []}, {"task_ids": None}, {"task_ids": "x"}, {"task_ids": [1]}, []])
async def test_an_empty_batch_of_cancels_is_400(gateway: Gateway, body: object) -> None:
    agent = await gateway.register()
    error_of(await call(agent, "tasks/cancel/batch", body), 400, 1002)


# ---- orders


@pytest.mark.parametrize("action", ["start", "stop", "restart"])
async def test_a_control_order_is_answered(gateway: Gateway, action: str) -> None:
    agent = await gateway.agent()
    answer = said(await call(agent, "control", {"action": action, "reason": "because"}))
    assert answer == {"message": "control command sent to agent", "status": "success"}


@pytest.mark.parametrize("body", [{}, {"action": "explode"}, {"action": ""}, {"action": None}, {"action": 1}, []])
async def test_a_bad_control_order_is_400(gateway: Gateway, body: object) -> None:
    agent = await gateway.agent()
    error_of(await call(agent, "control", body), 400, 1002)
    await agent.post_sentinel()


async def test_an_upgrade_order_is_answered(gateway: Gateway) -> None:
    agent = await gateway.agent()
    answer = said(await call(agent, "upgrade", {"target_version": "2.0", "download_url": "http://x/y"}))
    assert answer == {"message": "upgrade command sent to agent", "status": "success"}


@pytest.mark.parametrize("missing", ["target_version", "download_url"])
@pytest.mark.parametrize("value", ["", None, 7])
async def test_an_upgrade_order_needs_its_fields(gateway: Gateway, missing: str, value: object) -> None:
    agent = await gateway.agent()
    order = {"target_version": "2.0", "download_url": "http://x/y", missing: value}
    assert missing in error_of(await call(agent, "upgrade", order), 400, 1002)
    await agent.post_sentinel()


@pytest.mark.parametrize(
    ("path", "body"),
    [("control", {"action": "restart"}), ("upgrade", {"target_version": "2.0", "download_url": "http://x/y"})],
)
async def test_an_order_to_an_offline_agent_is_503_and_not_kept(gateway: Gateway, path: str, body: object) -> None:
    agent = await gateway.register()
    error_of(await call(agent, path, body), 503, 2001)
    await agent.connect()
    await agent.post_sentinel()


@begun_early
async def test_an_order_is_delivered_within_10_s_or_not_at_all(clusters: Clusters) -> None:
    """A node that was held up for longer drops it."""
    async with clusters.alone("handled") as gateway:
        agent = await gateway.agent()
        node = (await shown(agent))["node"]
        gateway.cluster.pause_node(node)
        try:
            answer = await call(agent, "control", {"action": "restart"})
            assert answer.status == 200
            await asyncio.sleep(11.0)
        finally:
            gateway.cluster.resume_node(node)
        await agent.post_sentinel()


# ---- the server itself


@pytest.mark.parametrize("body", [{}, {"action": "stop"}, {"action": "start"}, {"action": None}, []])
async def test_the_server_knows_no_action_but_restart(gateway: Gateway, body: object) -> None:
    error_of(await gateway.call("POST", "/api/self/control", body), 400, 1002)


@begun_early
async def test_the_server_restarts_its_processes_one_by_one(clusters: Clusters) -> None:
    """Agents are told 1012, and come back while it goes on; ids stay what they were."""
    async with clusters.alone("handled") as gateway:
        cluster, agents = gateway.cluster, [await gateway.agent() for _ in range(4)]
        before = set((cluster.nodes() | cluster.routers()).values())
        began = time.monotonic()
        said(await gateway.call("POST", "/api/self/control", {"action": "restart"}))
        assert time.monotonic() - began < 3.0, "at once"
        for agent in agents:
            assert await agent.close_code(30.0) == 1012
            await eventually(partial(cannot_connect, agent), 15.0, every_s=0.1)
        await eventually(lambda: before & set((cluster.nodes() | cluster.routers()).values()), 40.0)
        await eventually(cluster.not_ready, 20.0)
        for agent in agents:
            assert (await gateway.register(agent.token)).id == agent.id


async def cannot_connect(agent: Agent) -> str:
    try:
        await agent.connect()
    except (Refused, OSError) as error:
        return str(error)
    return ""


async def test_a_server_that_nobody_supervises_does_not_restart(gateway: Gateway) -> None:
    command = (sys.executable, "-m", "cluster", "router", "--id", "alone")
    folder = gateway.cluster.folder / "router"
    async with ClusterProcess(folder, redis_url=gateway.redis_url, command=command) as router:
        await eventually(partial(not_serving, router), 30.0)
        answer = await HttpClient(router.url).request("POST", "/api/self/control", body=b'{"action": "restart"}')
        error_of(answer, 501, 1001)


async def not_serving(router: ClusterProcess) -> str:
    try:
        answer = await HttpClient(router.url).request("GET", "/api/metrics")
    except NoAnswer as error:
        return f"{error}: {router.output()}"
    return "" if answer.status == 200 else str(answer)


async def test_the_server_does_not_upgrade_itself_and_says_how_to(gateway: Gateway) -> None:
    error = error_of(await gateway.call("POST", "/api/self/upgrade", {"target_version": "2"}), 501, 1001)
    assert "install" in error


# ---- Redis away


@begun_early
async def test_calls_are_503_within_3_s_while_redis_is_away(clusters: Clusters) -> None:
    async with clusters.alone("away") as gateway:
        agent = await gateway.agent()
        path = f"/api/agents/{agent.id}"
        calls = [(method, f"{path}{rest}", body) for method, rest, body in UNKNOWN_CALLS if method != "DELETE"]
        calls += [("GET", "/api/agents", None), ("GET", "/api/metrics", None)]
        with redis_paused(gateway.cluster):
            for answer, took_s in await asyncio.gather(*(timed(gateway, *each) for each in calls)):
                error_of(answer, 503, 1001)
                assert int(answer.headers["retry-after"]) > 0
                assert took_s < 3.0 + 1.0, "3 s, and one for a busy machine"
        await eventually(partial(not_answered, gateway), 10.0)


async def timed(gateway: Gateway, method: str, path: str, body: object) -> tuple[Response, float]:
    began = time.monotonic()
    return await gateway.call(method, path, body), time.monotonic() - began


async def not_answered(gateway: Gateway) -> str:
    answer = await gateway.call("GET", "/api/agents")
    return "" if answer.status == 200 else str(answer)
