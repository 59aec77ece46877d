"""`debug bundle`: what helps is in it, and of secrets that stand everywhere around it, none."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

from redis import Redis

from tests.acceptance.canaries import CANARIES, PASSWORD, provoke, watched
from tests.support.cluster_process import ROOT, ClusterProcess
from tests.support.redis_server import RedisServer
from tests.support.required_redis import require_redis

PARTS = {
    "versions.json", "config.json", "doctor.txt", "doctor.json", "status.json", "nodes.json", "ledger.json", "feeds.json",
    "redis/info.json", "redis/config.json", "redis/slowlog.json", "redis/latency.json",
    "logs/server.log", "logs/server-n1.log", "logs/server-n2.log", "logs/server-r1.log",
}  # fmt: skip


def bundled(folder: Path, output: Path) -> dict[str, str]:
    """The parts of a bundle that was just made, by their names."""
    argv = [sys.executable, "-m", "cluster", "debug", "bundle", "--output", str(output)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=60, check=False, env=env)
    assert said.returncode == 0, said.stderr
    with tarfile.open(output) as archive:
        files = {member.name.partition("/")[2]: archive.extractfile(member) for member in archive.getmembers()}
        return {name: file.read().decode() for name, file in files.items() if file}


async def test_a_bundle_holds_what_helps_and_no_secret(tmp_path: Path) -> None:
    require_redis("7.0")
    with RedisServer(tmp_path / "redis", options=("--slowlog-log-slower-than", "0")) as redis:
        async with watched(tmp_path / "cluster", redis) as cluster:
            await provoke(cluster, redis)
            with Redis.from_url(redis.url, password=PASSWORD) as client:
                client.config_set("masterauth", CANARIES["masterauth"])
            _leave_a_careless_line(cluster)
            parts = bundled(cluster.folder, tmp_path / "bundle.tar.gz")
    assert parts.keys() >= PARTS
    assert any(name.startswith("metrics/") for name in parts)
    assert '"ok": false' not in parts["ledger.json"]
    found = {(name, canary) for name, text in parts.items() for canary, word in CANARIES.items() if word in text}
    assert not found
    assert (tmp_path / "bundle.tar.gz").stat().st_mode & 0o077 == 0


def _leave_a_careless_line(cluster: ClusterProcess) -> None:
    """What a program of somebody else could have written into the same folder."""
    lines = [
        f"GET /ws/agent/x Sec-WebSocket-Protocol: agent-token, {CANARIES['careless token']}",
        f"Authorization: Bearer {CANARIES['careless bearer']}",
        f'{{"token": "{CANARIES["careless field"]}", "url": "redis://user:{CANARIES["careless url"]}@10.0.0.1:6379/0"}}',
        f"X-Signature: {CANARIES['careless signature']}",
    ]
    with (cluster.folder / "logs" / "server-n1.log").open("a") as file:
        file.write("\n".join(lines) + "\n")
