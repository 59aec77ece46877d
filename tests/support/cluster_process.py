"""The product as processes, through its command line: `python -m cluster start --config FILE`.

Owns a folder (configuration, data, output), a free port and the supervisor's process; parses nothing that it prints. Who is a node or a
router is read from /proc: children of the supervisor, by `-m node --id n1`. Signals go only to children of that supervisor, through a
pidfd, so that a recycled process id is never hit. Everything dies with the process that started it.

    async with ClusterProcess(tmp_path, redis_url=redis.url, nodes=3) as cluster:
        await cluster.wait_ready()
        cluster.kill_node("n1")
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.support.control_plane import signature
from tests.support.eventually import eventually
from tests.support.http_client import HttpClient, NoAnswer
from tests.support.ports import free_port
from tests.support.spawned import Child, children_of, is_running, signal_child, spawn
from tests.support.websocket_client import Connection, HandshakeRefusedError, dial

ROOT = Path(__file__).parents[2]
START = (sys.executable, "-m", "cluster", "start")
Section = Mapping[str, object]
_OURS = ("AGENT_SERVER_", "CONTROL_PLANE_", "AUTH_", "LOGGING_")
_NOBODY = "/ws/agent/00000000-0000-4000-8000-000000000000"


class ClusterProcess:
    """A cluster on this machine. Without a Redis it starts its own. `config` is laid over the configuration, section by section."""

    def __init__(
        self,
        folder: Path,
        *,
        redis_url: str = "",
        nodes: int = 2,
        config: Mapping[str, Section] | None = None,
        environ: Mapping[str, str] | None = None,
        command: Sequence[str] = START,
        port: int = 0,
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.node_count = nodes
        self.stdout, self.stderr = folder / "stdout.log", folder / "stderr.log"
        self._config = _merged(self._plain_config(redis_url), config or {})
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        self._environ |= {"PYTHONPATH": str(ROOT), **(environ or {})}
        self._command = tuple(command)
        self._process: subprocess.Popen[bytes] | None = None

    # ---- its life ----

    def start(self) -> None:
        """Start the supervisor; `wait_ready` waits for the rest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "config.yaml"
        config.write_text(json.dumps(self._config, indent=2))  # JSON is YAML
        argv = [*self._command, "--config", str(config)]
        self._process = spawn(argv, cwd=self.folder, stdout=self.stdout, stderr=self.stderr, env=self._environ)

    async def wait_ready(self, timeout_s: float = 15.0) -> None:
        """Wait until calls are answered and every node takes agents. Raises: AssertionError with what it printed."""
        await eventually(self.not_ready, timeout_s, every_s=0.05)

    async def not_ready(self) -> str:
        """Why it does not serve yet; "" when it does. Raises: AssertionError when it has ended."""
        if self.supervisor.poll() is not None:
            raise AssertionError(f"ended with {self.supervisor.returncode}:\n{self.output()}")
        if len(self.nodes()) != self.node_count:
            return f"{len(self.nodes())} of {self.node_count} nodes started:\n{self.output()}"
        status = await self._status("/api/metrics")
        if status != 200:
            return f"GET /api/metrics answers {status}:\n{self.output()}"
        status = await self._handshake_status()
        return "" if status == 404 else f"the handshake of an unknown agent answers {status}, not 404:\n{self.output()}"

    async def stop(self, timeout_s: float = 20.0, *, exit_code: int = 0) -> float:
        """SIGTERM; returns the seconds it took. Raises: AssertionError when it takes longer, ends otherwise or leaves children."""
        began = time.monotonic()
        children = children_of(self.supervisor.pid)
        self.supervisor.send_signal(signal.SIGTERM)
        try:
            await eventually(
                lambda: self.supervisor.poll() is None and f"it runs:\n{self.output()}", timeout_s, every_s=0.01
            )
            took_s = time.monotonic() - began
            assert self.supervisor.returncode == exit_code, f"ended with {self.supervisor.returncode}:\n{self.output()}"
            await eventually(lambda: [child for child in children if is_running(child.pid)], 2.0)
        finally:
            self.kill()
        return took_s

    def kill(self) -> None:
        """`kill -9` of the supervisor; its children must die of it. Nothing when it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def kill_and_wait(self, timeout_s: float = 5.0) -> None:
        """The same, until no child is left. Raises: AssertionError naming those that live on."""
        children = self.children()
        self.kill()
        await eventually(lambda: [child for child in children if is_running(child.pid)], timeout_s)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            await self.kill_and_wait()

    # ---- its processes ----

    @property
    def supervisor(self) -> subprocess.Popen[bytes]:
        """The process of the command line. Raises: RuntimeError when there is none."""
        if self._process is None:
            raise RuntimeError("the cluster is not running")
        return self._process

    def children(self) -> list[Child]:
        """Everything the supervisor has started and that lives."""
        return children_of(self.supervisor.pid)

    def nodes(self) -> dict[str, int]:
        """Process ids of the nodes, by node id."""
        return self._of("node")

    def routers(self) -> dict[str, int]:
        """Process ids of the routers, by router id."""
        return self._of("router")

    def redis_pid(self) -> int:
        """Of the Redis it started itself. Raises: StopIteration when there is none."""
        return next(child.pid for child in self.children() if "redis-server" in " ".join(child.argv[:1]))

    def kill_node(self, node_id: str) -> int:
        """`kill -9`. Returns the process id it had. Raises: KeyError."""
        return self.signal_node(node_id, signal.SIGKILL)

    def pause_node(self, node_id: str) -> int:
        """SIGSTOP."""
        return self.signal_node(node_id, signal.SIGSTOP)

    def resume_node(self, node_id: str) -> int:
        """SIGCONT."""
        return self.signal_node(node_id, signal.SIGCONT)

    def signal_node(self, node_id: str, number: signal.Signals) -> int:
        """Any signal. Returns the process id. Raises: KeyError."""
        return self._signal(self.nodes()[node_id], number)

    def kill_router(self, router_id: str = "") -> int:
        """`kill -9` of this router, or of the only one."""
        return self.signal_router(signal.SIGKILL, router_id)

    def signal_router(self, number: signal.Signals, router_id: str = "") -> int:
        """Any signal. Returns the process id. Raises: KeyError, StopIteration."""
        routers = self.routers()
        return self._signal(routers[router_id] if router_id else next(iter(routers.values())), number)

    def nodes_mib(self) -> float:
        """What the nodes weigh together: resident memory."""
        pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.nodes().values())
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def output(self, chars: int = 3000) -> str:
        """The end of what it printed."""
        texts = (path.read_text(errors="replace")[-chars:] for path in (self.stdout, self.stderr) if path.exists())
        return "\n".join(texts)

    def _of(self, module: str) -> dict[str, int]:
        return {_id_in(child.argv): child.pid for child in self.children() if _module_in(child.argv) == module}

    def _signal(self, pid: int, number: signal.Signals) -> int:
        signal_child(pid, self.supervisor.pid, number)
        return pid

    # ---- its configuration, and how it answers ----

    def _plain_config(self, redis_url: str) -> dict[str, Section]:
        return {
            "server": {"host": "127.0.0.1", "port": self.port},
            "logging": {"level": "info", "dir": ""},
            "redis": {"enabled": True, "url": redis_url} if redis_url else {"enabled": False},
            "cluster": {"nodes": self.node_count, "data_dir": "data"},
        }

    async def _status(self, path: str) -> int:
        secret = str(self._config.get("auth", {}).get("shared_secret", ""))
        headers = signature(secret, "GET", path, b"", int(time.time())) if secret else {}
        try:
            return (await HttpClient(self.url).request("GET", path, headers=headers, timeout_s=3.0)).status
        except NoAnswer:
            return 0

    async def _handshake_status(self) -> int:
        """404 says that a node was found, and that it asked Redis."""
        url = f"ws://127.0.0.1:{self.port}{_NOBODY}"
        try:
            connection = await dial(
                url, _Nobody(), headers={"Sec-WebSocket-Protocol": "agent-token,nobody"}, timeout_s=3.0
            )
        except HandshakeRefusedError as error:
            return error.status
        connection.reset()
        return 101


class _Nobody:
    """Listens to a connection that is not to be."""

    def on_open(self, connection: Connection) -> None: ...

    def on_message(self, connection: Connection, payload: bytes) -> None: ...

    def on_closed(self, connection: Connection, code: int) -> None: ...

    def on_stalled(self, connection: Connection) -> None: ...

    def on_flowing(self, connection: Connection) -> None: ...


def _merged(config: Mapping[str, Section], over: Mapping[str, Section]) -> dict[str, Section]:
    return {name: {**config.get(name, {}), **over.get(name, {})} for name in {**config, **over}}


def _module_in(argv: Sequence[str]) -> str:
    """What follows the last `-m`: one module may run another."""
    modules = [argv[place + 1] for place, word in enumerate(argv[:-1]) if word == "-m"]
    return modules[-1] if modules else ""


def _id_in(argv: Sequence[str]) -> str:
    """What follows `--id`."""
    joined = next((word.partition("=")[2] for word in argv if word.startswith("--id=")), "")
    return joined or _after(argv, "--id")


def _after(argv: Sequence[str], flag: str) -> str:
    place = argv.index(flag) + 1 if flag in argv else len(argv)
    return argv[place] if place < len(argv) else ""
