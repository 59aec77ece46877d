"""F5: two routers, and each POST goes to both at once: one task."""

import random
from pathlib import Path

from tests.faults.finding import Finding
from tests.faults.load import Load, varied
from tests.faults.scene import READY_S, Scene
from tests.support.control_plane import ControlPlane
from tests.support.recorder import Answered, Posted
from tests.support.redis_server import RedisServer
from tests.support.service_process import ServiceProcess


async def test_a_post_that_two_routers_take_at_once_is_one_task(
    faithful_redis: RedisServer, tmp_path: Path, chance: random.Random, finding: Finding, is_long: bool
) -> None:
    agents, count, per_s = (200, 3_000, 120.0) if is_long else (40, 300, 75.0)
    finding.about("F5", "two routers, each POST sent to both", f"{agents} agents, {per_s:g} tasks/s, twice")
    async with (
        Scene(tmp_path, faithful_redis, agents=agents, run=varied(chance)) as scene,
        ServiceProcess("router", tmp_path / "r2", redis_url=faithful_redis.url) as second,
    ):
        await second.wait_ready(READY_S)
        both = ControlPlane(scene.cluster.url, second.url, recorder=scene.recorder, retry_s=0.1)
        await Load(both, hosts=agents, count=count, per_s=per_s, chance=chance, everywhere=True).run()
        posts = [event.call for event in scene.recorder.of(Posted) if event.tasks]
        taken = sum(event.status == 200 for event in scene.recorder.of(Answered) if event.call in set(posts))
        finding.struck(len(posts) // 2)
        finding.counted("POSTs answered 200", taken, len(posts), "all")
        assert taken == len(posts)
        await scene.judge(finding)
