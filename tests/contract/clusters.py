"""The clusters that the wire's tests ask: the real processes, each configuration started once, when it is first wanted.

| name | what is different |
| --- | --- |
| default | nothing: two nodes, nobody stops, pauses or kills anything of it |
| signed | calls are signed; agents are told a public URL |
| tuned | small limits, other names of feeds and keys, a trusted proxy, redelivery after a restart of the agent |
| small | room for two agents; all feeds are disabled; says all it can |
| swift | agents must be heard every 3 s; each heartbeat is reported |
| brief | tasks and logs have little time for everything; logs to a file |
| away | tests that have it alone pause its Redis |
| handled | two nodes, which tests that have it alone pause and restart |
| trampled | few results are kept, and tests may delete feeds; says errors alone |
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.contract.gateway import Gateway
from tests.support.cluster_process import ClusterProcess

SECRET = "canary-of-the-shared-secret"  # of `signed`
CONTROL_PLANE_TOKEN = "canary-of-the-control-planes-token"  # of `signed`
READY_S = 60.0  # a machine with other work may start several at once

Config = Mapping[str, Mapping[str, Any]]


class Setup(NamedTuple):
    """How a cluster differs from the default."""

    config: Config
    nodes: int = 1


SETUPS: Mapping[str, Setup] = {
    "default": Setup({}, nodes=2),
    "signed": Setup(
        {
            "auth": {"require_signature": True, "shared_secret": SECRET, "clock_skew": "60s"},
            "control_plane": {"url": "http://127.0.0.1:9", "token": CONTROL_PLANE_TOKEN},
            "server": {"public_url": "https://agents.example.com/gateway"},
        }
    ),
    "tuned": Setup(
        {
            "server": {"max_body": "64KiB", "read_timeout": "2s", "trusted_proxies": ["127.0.0.9"]},
            "websocket": {
                "enable_compression": False,
                "allowed_origins": ["https://allowed.example"],
                "max_message": "64KiB",
                "max_bad_frames": 3,
                "max_messages_per_s": 20,
            },
            "tasks": {"max_open": 3, "on_agent_restart": "redeliver", "max_attempts": 2},
            "log_stream": {"key": "other_logs", "max_len": 200},
            "result_stream": {"key": "other_results", "keep": 5},
            "status_stream": {"key": "other_status"},
            "task_stats_stream": {"key": "other_stats", "push_interval": 1},
            "redis": {"prefix": "mine:"},
        }
    ),
    "small": Setup(
        {
            "agent": {"max_connections": 2},
            "logging": {"level": "debug", "dir": "/proc/cannot-be-written"},
            "log_stream": {"enabled": False},
            "result_stream": {"enabled": False},
            "status_stream": {"enabled": False},
            "task_stats_stream": {"enabled": False},
        }
    ),
    "swift": Setup({"agent": {"heartbeat_timeout": "3s"}, "status_stream": {"interval": 0}}),
    "brief": Setup(
        {
            "tasks": {"ttl": "3s", "redelivery_grace": "3s", "result_grace": "1s"},
            "log_stream": {"max_age": "3s"},
            "logging": {"dir": "logs", "file": "server.log", "format": "text"},
        }
    ),
    "away": Setup({}),
    "handled": Setup({}, nodes=2),
    "trampled": Setup({"result_stream": {"keep": 10}, "logging": {"format": "text", "level": "error"}}),
}


class Clusters:
    """Starts clusters, and ends them all at its own end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = AsyncExitStack()
        self._named: dict[str, ClusterProcess] = {}
        self._alone: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._turn = asyncio.Lock()  # two that start at once are later than one after the other

    async def get(self, name: str) -> ClusterProcess:
        """The cluster of this name."""
        if name not in self._named:
            async with self._turn:
                if name not in self._named:  # while we waited
                    setup = SETUPS[name]
                    self._named[name] = await self._started(self.folder / name, setup.config, nodes=setup.nodes)
        return self._named[name]

    async def start(self, name: str, config: Config | None = None, **options: Any) -> ClusterProcess:
        """One for the caller, who may do to it what he likes. `options` are those of ClusterProcess."""
        async with self._turn:
            return await self._started(self.folder / name, config or {}, **{"nodes": 1, **options})

    @asynccontextmanager
    async def gateway(self, name: str) -> AsyncIterator[Gateway]:
        """Calls to the cluster of this name."""
        async with Gateway(await self.get(name)) as gateway:
            yield gateway

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[Gateway]:
        """The same, and of all who ask for it in this way one after the other."""
        async with self._alone[name], self.gateway(name) as gateway:
            yield gateway

    async def _started(self, folder: Path, config: Config, **options: Any) -> ClusterProcess:
        cluster = await self._stack.enter_async_context(ClusterProcess(folder, config=config, **options))
        await cluster.wait_ready(READY_S)
        return cluster

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
