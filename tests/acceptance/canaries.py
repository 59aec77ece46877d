"""A cluster around which known secrets stand everywhere, at debug level, and mistakes that might bring one to light."""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec
from redis import Redis

from tests.support.cluster_process import ClusterProcess, Section
from tests.support.control_plane import signature
from tests.support.eventually import eventually
from tests.support.http_client import HttpClient, Response
from tests.support.recorder import Recorder
from tests.support.redis_server import RedisServer
from tests.support.simulated_fleet import SECRET as AGENT_SECRET
from tests.support.simulated_fleet import Fleet

SECRET: Final = "canary-shared-secret-7f3a"
PASSWORD: Final = "canary-redis-password-91bd"
CANARIES: Final = {
    "shared secret": SECRET,
    "redis password": PASSWORD,
    "agents' tokens": AGENT_SECRET,
    "control plane token": "canary-bearer-55e0",
    "wrong token": "canary-wrong-token-18aa",
    "task env": "canary-task-env-0b6e",
    "task content": "canary-task-content-77f1",
    "masterauth": "canary-masterauth-d00d",
    "careless token": "canary-careless-token-31",
    "careless bearer": "canary-careless-bearer-32",
    "careless field": "canary-careless-field-33",
    "careless url": "canary-careless-url-34",
    "careless signature": "canary-careless-signature-35",
}
TASK: Final = "9_1_1_canary"
_REGISTER: Final = "/api/agents/register/"


@contextlib.asynccontextmanager
async def watched(folder: Path, redis: RedisServer) -> AsyncIterator[ClusterProcess]:
    """Two nodes and a router, with log files at debug level; the Redis asks for PASSWORD."""
    config: dict[str, Section] = {
        "logging": {"level": "debug", "dir": "logs", "file": "server.log"},
        "auth": {"shared_secret": SECRET, "require_signature": True},
        "agent": {"max_connections": 100},
    }
    environ = {"CONTROL_PLANE_TOKEN": CANARIES["control plane token"]}
    redis.command("CONFIG", "SET", "requirepass", PASSWORD)
    url = redis.url.replace("redis://", f"redis://:{PASSWORD}@")
    async with ClusterProcess(folder, redis_url=url, config=config, environ=environ) as cluster:
        await cluster.wait_ready(60.0)
        yield cluster


async def provoke(cluster: ClusterProcess, redis: RedisServer) -> list[Response]:
    """Work, and mistakes of every side; what was answered."""
    recorder, answers = Recorder(), list[Response]()
    client = HttpClient(cluster.url)

    async def call(method: str, path: str, body: object = b"", secret: str = SECRET, **heads: str) -> None:
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        signed = signature(secret, method, path, raw, int(time.time()))
        answers.append(await client.request(method, path, body=raw, headers={**signed, **heads}))

    async with Fleet(cluster.url, 2, recorder=recorder) as fleet:
        await fleet.connected()
        agent_id = fleet.agents[0].agent_id
        tasks = f"/api/agents/{agent_id}/tasks/"
        secret_task = {"env": {"KEY": CANARIES["task env"]}, "command": f"echo {CANARIES['task content']}"}
        await call("POST", tasks, {"id": TASK, "type": "script", **secret_task})
        assert answers[-1].status == 200
        await eventually(lambda: _unended(call, answers, f"{tasks}{TASK}"), 20.0)
        await call(
            "POST", tasks, {"id": TASK, "type": "script", "command": CANARIES["task content"]}
        )  # another content
        await call("POST", tasks, {"id": 7, **secret_task})
        await call("POST", tasks, msgspec.json.encode({"id": "x", **secret_task})[:-3])
        await call("GET", f"{tasks}{TASK}")
        await call("GET", "/api/agents/", secret="not-the-secret")
        await call("POST", _REGISTER, {"name": 7, "token": CANARIES["wrong token"]})
        await call(
            "POST",
            _REGISTER,
            {"token": CANARIES["wrong token"] + " \n"},
            Authorization=f"Bearer {CANARIES['wrong token']}",
        )
        await call("GET", f"/ws/agent/{agent_id}", Authorization=f"Bearer {CANARIES['wrong token']}")
        answers.append(await _wrong_handshake(client, agent_id))
        with Redis.from_url(redis.url, password=PASSWORD) as store:
            key = f"agsrv:{{s0}}:agent:{agent_id}"
            kept = store.dump(key)
            store.set(key, "no hash")
            await call("GET", f"/api/agents/{agent_id}")
            await call("POST", tasks, {"id": "9_1_1_b", "type": "script", **secret_task})
            store.restore(key, 0, kept, replace=True)
            store.client_kill_filter(_type="normal", skipme=True)
        await call("GET", "/api/agents/")
    assert {answer.status for answer in answers} >= {200, 400, 401, 403, 409, 500}
    return answers


async def _unended(call: Callable[..., Awaitable[None]], answers: list[Response], path: str) -> str:
    await call("GET", path)
    state = str(answers[-1].json()["status"])  # type: ignore[index]
    return "" if state in {"success", "failed"} else f"the task is {state}"


async def _wrong_handshake(client: HttpClient, agent_id: str) -> Response:
    heads = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol": f"agent-token, {CANARIES['wrong token']}",
    }
    return await client.request("GET", f"/ws/agent/{agent_id}", headers=heads)
