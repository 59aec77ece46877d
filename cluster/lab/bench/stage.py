"""A cluster of its own for each measurement: the real command line in a scratch folder, with its own Redis, on free ports.

Owns its life, and knows which process is which, as `start` prints it. Control calls have to be signed. Beside it, singly: a node with a
port of its own, which also answers registrations.
"""

import asyncio
import contextlib
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from cluster import ports, programs
from cluster.embedded import local_url, running_url
from cluster.errors import StartError
from cluster.lab.bench.meter import Meter
from cluster.process import Process, Program, dies_with, spawn
from cluster.programs import Post
from cluster.settings import Redis

HOST = "127.0.0.1"
SECRET = "bench-secret-0123456789abcdef"  # noqa: S105 - of a cluster that lives for a minute, on loopback
_READY_S = 30.0
_STOP_S = 25.0


class Stage:
    """A cluster that serves."""

    def __init__(self, folder: Path, config: Path, port: int, pids: Mapping[str, int]) -> None:
        self._config = config
        self.port = port
        self.pids = dict(pids)
        url = running_url(folder / "data")
        self.redis_port = int(url.rpartition(":")[2].partition("/")[0])  # on loopback
        self.redis_url = local_url(folder / "data")  # as its processes reach it

    @property
    def nodes(self) -> list[str]:
        """The names of its nodes."""
        return [name for name in self.pids if name.startswith("n")]

    def meter(self) -> Meter:
        """The CPU time of all its processes, from now on."""
        return Meter(self.pids)

    @contextlib.asynccontextmanager
    async def single_node(self) -> AsyncIterator[int]:
        """A node with a port of its own beside the others, as `agent-server node` runs it: its port. Its name in `pids` is `single`."""
        with ports.listen(HOST, 0) as public, ports.listen(HOST, 0) as admin:
            post = Post("bench-single", cpu_of_node(), admin, public=public)
            environ = programs.child_environ(os.environ, programs.how_to_reach(self.redis_url, Redis()))
            process = await spawn(programs.program(post, programs.of_this_python().node, str(self._config), environ))
            await _until_ready(process)
            self.pids["single"] = process.pid
            try:
                yield public.getsockname()[1]
            finally:
                del self.pids["single"]
                await process.stop(_STOP_S)


@contextlib.asynccontextmanager
async def cluster_of(nodes: int) -> AsyncIterator[Stage]:
    """A cluster with so many nodes, for as long as the block runs. Raises: StartError."""
    with tempfile.TemporaryDirectory(prefix="agent-server-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        config = folder / "config.yaml"
        config.write_text(json.dumps(_settings(nodes)))  # JSON is YAML
        started = await _start(folder, config)
        try:
            port, pids = await _told(started, folder)
            yield Stage(folder, config, port, pids)
        finally:
            await _stop(started)


def _settings(nodes: int) -> dict[str, dict[str, object]]:
    return {
        "server": {"host": HOST, "port": 0},
        "auth": {"shared_secret": SECRET, "require_signature": True},
        "logging": {"level": "error", "dir": ""},
        "redis": {"enabled": False},
        "cluster": {"nodes": nodes, "data_dir": "data"},
        "agent": {"max_connections": 40_000},
    }


async def _start(folder: Path, config: Path) -> asyncio.subprocess.Process:
    with (folder / "stderr.log").open("ab") as said:
        return await asyncio.create_subprocess_exec(
            *programs.module_command("cluster"), "start", "--config", str(config),
            cwd=folder, env=programs.child_environ(_plain_environ(), {}), stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=said, start_new_session=True, preexec_fn=dies_with(os.getpid()),
        )  # fmt: skip


def _plain_environ() -> dict[str, str]:
    """Without settings of whoever runs us: the cluster is the same everywhere."""
    ours = ("AGENT_SERVER_", "CONTROL_PLANE_", "AUTH_", "LOGGING_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


async def _told(started: asyncio.subprocess.Process, folder: Path) -> tuple[int, dict[str, int]]:
    """The public port, and the process ids by name."""
    assert started.stdout is not None  # noqa: S101 - it is a pipe
    pids: dict[str, int] = {}
    try:
        async with asyncio.timeout(_READY_S):
            while line := (await started.stdout.readline()).decode():
                words = line.split()
                if words[0] == "ready":
                    return int(words[1].rpartition(":")[2]), pids
                if len(words) > 1 and words[1].isdigit():
                    pids[words[0]] = int(words[1])
    except TimeoutError:
        pass
    said = (folder / "stderr.log").read_text(errors="replace").strip().splitlines()
    raise StartError(f"the cluster to be measured does not start: {said[-1] if said else 'it said nothing'}")


async def _stop(started: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        started.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_S):
            await started.wait()
    except TimeoutError:
        started.kill()
        await started.wait()


# ---- servers to compare with


class Bare:
    """A server that is one process."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self.pid = pid

    def meter(self) -> Meter:
        """Its CPU time, as `server`."""
        return Meter({"server": self.pid})


@contextlib.asynccontextmanager
async def bare_server(module: str, *, is_router: bool = False) -> AsyncIterator[Bare]:
    """One of our servers to compare with, on the CPU that a node has, or the router. Raises: StartError."""
    cpu = cpu_of_router() if is_router else cpu_of_node()
    with ports.listen(HOST, 0) as public:
        command = (*programs.module_command(module), "--listen-fd", str(public.fileno()), "--cpu", str(cpu))
        environ = programs.child_environ(os.environ, {})
        process = await spawn(Program(module, command, environ, (public.fileno(),)))
        await _until_ready(process)
        try:
            yield Bare(public.getsockname()[1], process.pid)
        finally:
            await process.kill()


async def _until_ready(process: Process) -> None:
    try:
        async with asyncio.timeout(_READY_S):
            is_ready = await asyncio.shield(process.ready)
    except TimeoutError:
        is_ready = False
    if not is_ready:
        await process.kill()
        raise StartError(f"{process.name} does not start: {process.last_line or 'it said nothing'}")


def cpu_of_router() -> int:
    """Where `start` puts the router."""
    return min(os.sched_getaffinity(0))


def cpu_of_node() -> int:
    """Where we put what is compared with a node. `start` deals nodes out in turn, and with two CPUs the first one is here."""
    return max(os.sched_getaffinity(0))
