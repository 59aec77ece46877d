"""F3: a node stands still while its agents go elsewhere. What it would do when it wakes up comes too late, and does nothing."""

import asyncio
import random
import time
from collections import Counter
from pathlib import Path

from redis.asyncio import Redis

from cluster import close_codes
from tests.faults.finding import Finding
from tests.faults.load import Load, varied
from tests.faults.scene import Scene
from tests.faults.torn_agent import TornAgent
from tests.support.agent_options import Identity
from tests.support.checker import Rules
from tests.support.control_plane import new_task
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.simulated_fleet import SECRET

CLOSED_S = 1.0
ROUTER_LOOKS_S = 1.0  # for the nodes that are announced, twice as often
TORN = 20
FIRST_HOST = 10_001


async def test_a_node_that_was_paused_does_nothing_more_for_agents_that_went_elsewhere(
    faithful_redis: RedisServer, tmp_path: Path, chance: random.Random, finding: Finding, is_long: bool
) -> None:
    agents, rounds, paused_s, per_s = (200, 2, 20.0, 100.0) if is_long else (40, 1, 7.0, 50.0)
    finding.about(
        "F3", f"node `SIGSTOP` {paused_s:g} s, its agents go elsewhere, `SIGCONT`",
        f"{agents} agents, {per_s:g} tasks/s, and {TORN} agents that read both connections",
    )  # fmt: skip
    async with Scene(tmp_path, faithful_redis, agents=agents, run=varied(chance)) as scene:
        torn = [
            TornAgent(Identity(scene.cluster.url, f"{SECRET}torn-{n}", f"torn-{n}", FIRST_HOST + n), scene.recorder)
            for n in range(TORN)
        ]
        for agent in torn:
            await agent.register()
        count = int(per_s * (paused_s + 3) * rounds)
        load = Load(scene.control_plane, hosts=agents, count=count, per_s=per_s, chance=chance)
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            for _ in range(rounds):
                await asyncio.sleep(0.5)
                await _pause(scene, torn, paused_s, finding)
        for agent in torn:
            await eventually(lambda agent=agent: agent.resend() or agent.unacked, 30.0, every_s=0.2)  # type: ignore[misc]
            for line in agent.lines:
                line.reset()
        await scene.judge(finding, Rules(delivery_grace_s=paused_s + 1.0))  # what was in its sockets is read late


async def _pause(scene: Scene, torn: list[TornAgent], paused_s: float, finding: Finding) -> None:
    """Of the node to which most of them came: all of them go where fewer agents are."""
    for agent in torn:
        await agent.dial(scene.cluster.url)
    async with Redis.from_url(scene.redis.url, decode_responses=True) as redis:
        owners = await _owners(redis, torn)
        node, _ = Counter(owner.partition(":")[0] for owner in owners.values()).most_common(1)[0]
        theirs = [agent for agent in torn if owners[agent.agent_id].startswith(f"{node}:")]
        old = [agent.lines[-1] for agent in theirs]
        scene.recorder.fault(f"SIGSTOP of {node}")
        scene.cluster.pause_node(node)
        began_s = time.monotonic()
        await eventually(lambda: _not_taken_out(redis, node), 10.0)
        await asyncio.sleep(ROUTER_LOOKS_S)
        for simulated in scene.fleet.agents[::2]:
            simulated.abandon()
        for agent in theirs:
            await agent.dial(scene.cluster.url)
        owners = await _owners(redis, torn)
        for agent in theirs:
            assert (await scene.control_plane.post_task(agent.agent_id, new_task())).status == 200
        await asyncio.sleep(max(0.0, began_s + paused_s - time.monotonic()))
        delivered = {line.name: line.delivered for line in old}
        scene.recorder.fault(f"SIGCONT of {node}")
        scene.cluster.resume_node(node)
        woken_s = time.monotonic()
        await eventually(lambda: [line.name for line in old if line.is_open], 10.0, every_s=0.01)
        finding.struck()
        finding.measured("the last socket of the paused node closed", time.monotonic() - woken_s, f"<= {CLOSED_S:g} s")
        assert {line.close_code for line in old} == {close_codes.REPLACED}
        assert time.monotonic() - woken_s <= CLOSED_S
        await asyncio.sleep(1.0)
        now = await _owners(redis, torn)
        changed = sum(owners[agent.agent_id] != now[agent.agent_id] for agent in theirs)
        late = sum(line.delivered - delivered[line.name] for line in old)
        finding.counted("owners changed by a late write", changed, len(theirs), "0")
        finding.counted("tasks delivered late", late, len(theirs), "0")
        assert not changed
        assert not late


async def _owners(redis: Redis, agents: list[TornAgent]) -> dict[str, str]:
    owners = await redis.hmget("agsrv:{s0}:owners", [agent.agent_id for agent in agents])
    return {agent.agent_id: str(owner) for agent, owner in zip(agents, owners, strict=True)}


async def _not_taken_out(redis: Redis, node: str) -> str:
    """Until its announcement has run out, a dial may be handed to the node that stands still."""
    return f"{node} is announced still" if await redis.exists(f"agsrv:node:{{{node}}}") else ""
