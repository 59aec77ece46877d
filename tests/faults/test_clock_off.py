"""F18: the clock of a node is an hour ahead. Nothing changes: all that ends in time, ends by the clock of Redis."""

import random
import time
from pathlib import Path

from tests.faults.finding import Finding
from tests.faults.load import Load, varied
from tests.faults.scene import LIVELY, Scene
from tests.support import altered
from tests.support.cluster_process import Section
from tests.support.eventually import eventually
from tests.support.outlook import offline_after_s
from tests.support.recorder import Entry
from tests.support.redis_server import RedisServer

TIMEOUT_S = 6
LATE_S = 2.0
CONFIG: dict[str, Section] = {"agent": {"heartbeat_timeout": TIMEOUT_S}, "status_stream": {"interval": 2}}
AWAY = 4


async def test_a_node_whose_clock_is_an_hour_ahead_is_like_any_other(
    faithful_redis: RedisServer, tmp_path: Path, chance: random.Random, finding: Finding, is_long: bool
) -> None:
    agents, count, per_s = (200, 2_000, 100.0) if is_long else (40, 200, 50.0)
    finding.about("F18", "the clock of one node is an hour ahead", f"{agents} agents, {per_s:g} tasks/s, 2 nodes")
    async with Scene(
        tmp_path, faithful_redis, agents=agents, run=varied(chance), timings=LIVELY, config=CONFIG,
        command=altered.start_with("hour_ahead"),
    ) as scene:  # fmt: skip
        said = [line for line in scene.cluster.stderr.read_text().splitlines() if line.startswith(altered.CLOCK_SAYS)]
        [ahead_s] = [int(line.removeprefix(altered.CLOCK_SAYS)) - time.time() for line in said]
        assert abs(ahead_s - altered.AHEAD_S) < 120.0
        finding.struck()
        await Load(scene.control_plane, hosts=agents, count=count, per_s=per_s, chance=chance).run()
        still = scene.fleet.agents[: AWAY * 2]  # some are the one node's, some the other's
        for agent in still:
            agent.freeze()
        frozen_s = time.monotonic()
        await eventually(
            lambda: [agent.agent_id for agent in still if _since_s(scene, agent.agent_id, frozen_s) is None], 20.0
        )
        late_s = max(_since_s(scene, agent.agent_id, frozen_s) or 0.0 for agent in still)
        for agent in still:
            agent.thaw()
        finding.measured("agents that stood still offline after", late_s, f"<= {TIMEOUT_S + LATE_S:g} s")
        assert late_s <= TIMEOUT_S + LATE_S
        await scene.judge(finding)
        wrong_s = max(_wrong_s(entry) for entry in scene.recorder.of(Entry) if entry.feed in {"results", "status"})
        finding.measured("times in the feeds are wrong by", wrong_s)
        assert wrong_s < 60.0


def _since_s(scene: Scene, agent_id: str, since_s: float) -> float | None:
    return offline_after_s(scene.recorder.events, agent_id, since_s)


def _wrong_s(entry: Entry) -> float:
    """By how much what a node or router says of the time differs from Redis, which numbered the entry."""
    said_ms = int(entry.fields.get("received_at") or entry.fields["timestamp"])
    return abs(said_ms - int(entry.entry_id.partition("-")[0])) / 1000
