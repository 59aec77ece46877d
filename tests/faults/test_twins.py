"""F26: two hosts run with one token. The one that comes is held off, one warning is written, and the fight makes no storm."""

import asyncio
from pathlib import Path

import pytest

from tests.faults.finding import Finding
from tests.faults.scene import Scene
from tests.support.agent_options import Timings
from tests.support.eventually import eventually
from tests.support.recorder import Dialled, Opened
from tests.support.redis_server import RedisServer
from tests.support.simulated_agent import SimulatedAgent

TAKEOVERS = 3
SCALE = 0.2  # of the Go agent's waits: 1, 2, 4, 6 s


@pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)  # how Redis does its work has no part in it
async def test_two_hosts_with_one_token_make_no_storm(
    faithful_redis: RedisServer, tmp_path: Path, finding: Finding, is_long: bool
) -> None:
    pairs, lasts_s = (20, 20.0) if is_long else (5, 8.0)
    finding.about("F26", f"two hosts with one token, {lasts_s:g} s", f"{pairs} pairs, waits of 1, 2, 4, 6 s")
    timings = Timings().returning(SCALE)
    async with Scene(tmp_path, faithful_redis, agents=pairs, timings=timings) as scene:
        twins = [
            SimulatedAgent(
                scene.cluster.url, token=agent.identity.token, name=f"twin-{n}", host_id=agent.identity.host_id,
                recorder=scene.recorder, timings=timings,
            )
            for n, agent in enumerate(scene.fleet.agents)
        ]  # fmt: skip
        opened, dialled = len(scene.recorder.of(Opened)), len(scene.recorder.of(Dialled))
        for twin in twins:
            twin.start()
        await eventually(
            lambda: len(_warnings(scene)) < pairs and f"{len(_warnings(scene))} of {pairs} warned of", 20.0
        )
        await asyncio.sleep(lasts_s - 4.0)  # the fight goes on
        finding.struck(pairs)
        takeovers = (len(scene.recorder.of(Opened)) - opened) / pairs
        dials = (len(scene.recorder.of(Dialled)) - dialled) / pairs
        finding.counted("pairs warned of", len(_warnings(scene)), pairs, "one warning each")
        finding.measured("connections a pair, in 30 s", f"{takeovers:g}", f"<= {TAKEOVERS}")
        finding.measured("dials a pair", f"{dials:g}", "as the agents' waits allow")
        assert len(_warnings(scene)) == pairs
        assert takeovers <= TAKEOVERS
        assert dials <= TAKEOVERS + 2 + lasts_s / 2
        for twin in twins:
            await twin.stop()
        await scene.judge(finding)


def _warnings(scene: Scene) -> list[str]:
    said = scene.cluster.stderr.read_text(errors="replace").splitlines()
    return [line for line in said if "share one token" in line]
