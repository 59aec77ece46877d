"""What the manifests of `deploy/kubernetes` lean on, tried with what they would run."""

from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from tests.support.eventually import eventually_blocking
from tests.support.http_client import HttpClient
from tests.support.kustomize import KUBERNETES
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, binary
from tests.support.required_redis import require_redis
from tests.support.service_process import ServiceProcess
from tests.support.spawned import spawn

COMPONENTS = KUBERNETES / "components"


@pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)
async def test_what_the_autoscaler_reads_is_measured(killable_redis: RedisServer, tmp_path: Path) -> None:
    scaled = list(yaml.safe_load_all((COMPONENTS / "autoscaling" / "autoscaling.yaml").read_text()))
    names = {
        metric["pods"]["metric"]["name"] for one in scaled for metric in one["spec"]["metrics"] if "pods" in metric
    }
    async with ServiceProcess("node", tmp_path / "node", redis_url=killable_redis.url) as node:
        await node.wait_ready(30.0)
        answer = await HttpClient(f"http://127.0.0.1:{node.admin_port}").request("GET", "/metrics")
    measured = {line.split()[2] for line in answer.body.decode().splitlines() if line.startswith("# TYPE ")}
    assert names
    assert names <= measured


def test_the_redis_beside_it_takes_its_configuration_and_keeps_its_password_to_itself(tmp_path: Path) -> None:
    require_redis("7.0")
    folder = COMPONENTS / "redis"
    workload: Any = next(yaml.safe_load_all((folder / "redis.yaml").read_text()))
    [container] = workload["spec"]["template"]["spec"]["containers"]
    shell, flag, script = container["command"]
    port, config = free_port(), tmp_path / "redis.conf"
    config.write_text((folder / "redis.conf").read_text().replace("dir /data", f"dir {tmp_path}\nport {port}"))
    script = script.replace("redis-server /etc/redis/redis.conf", f"{binary('7.0')} {config}")
    password = "a-password-of-the-test"
    server = spawn(
        [shell, flag, script],
        cwd=tmp_path,
        stdout=tmp_path / "stdout",
        stderr=tmp_path / "stderr",
        env={"AGENT_SERVER_REDIS_PASSWORD": password, "PATH": "/usr/bin:/bin"},
    )
    try:
        with redis.Redis(port=port, password=password) as client:
            eventually_blocking(lambda: _away(client), 10.0)
            wanted = {"appendonly": "yes", "maxmemory-policy": "noeviction", "appendfsync": "everysec"}
            assert client.config_get(*wanted) == wanted
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        assert password not in Path(f"/proc/{server.pid}/cmdline").read_text()
        server.terminate()
        assert server.wait(10.0) == 0  # the shell has become the server: signals reach it
    finally:
        server.kill()


def _away(client: redis.Redis) -> str:
    try:
        client.ping()
    except redis.ConnectionError as error:
        return str(error)
    return ""
