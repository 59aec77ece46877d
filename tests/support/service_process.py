"""One node or one router, run singly as an operator would: `python -m cluster node --config FILE`, against a configured Redis.

Owns a folder (configuration, output), two free ports and the process. What `start` does with several of them is cluster_process.py.
Dies with the process that started it.

    async with ServiceProcess("node", tmp_path / "a", redis_url=redis.url) as node:
        await node.wait_ready()
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from tests.support.cluster_process import ROOT, Section
from tests.support.eventually import eventually
from tests.support.http_client import HttpClient, NoAnswer
from tests.support.ports import free_port
from tests.support.spawned import spawn

Role = Literal["node", "router"]
_OURS = ("AGENT_SERVER_", "CONTROL_PLANE_", "AUTH_", "LOGGING_")


class ServiceProcess:
    """A process of its own. `name` is its id; `config` is laid over the configuration, section by section."""

    def __init__(
        self,
        role: Role,
        folder: Path,
        *,
        redis_url: str,
        name: str = "",
        config: Mapping[str, Section] | None = None,
    ) -> None:
        self.role = role
        self.name = name or folder.name
        self.folder = folder
        self.port, self.admin_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.stdout, self.stderr = folder / "stdout.log", folder / "stderr.log"
        plain: dict[str, Section] = {
            "server": {"host": "127.0.0.1", "port": self.port},
            "logging": {"level": "info", "dir": ""},
            "redis": {"enabled": True, "url": redis_url},
        }
        over = config or {}
        self._config = {name: {**plain.get(name, {}), **over.get(name, {})} for name in {**plain, **over}}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running, or ended, process. Raises: RuntimeError when it was never started."""
        if self._process is None:
            raise RuntimeError(f"{self.role} {self.name} was not started")
        return self._process

    def start(self) -> None:
        """Start it; `wait_ready` waits until it serves."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "config.yaml"
        config.write_text(json.dumps(self._config, indent=2))  # JSON is YAML
        argv = [sys.executable, "-m", "cluster", self.role, "--config", str(config)]
        argv += ["--id", self.name, "--admin-port", str(self.admin_port)]
        environ = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        environ["PYTHONPATH"] = str(ROOT)
        self._process = spawn(argv, cwd=self.folder, stdout=self.stdout, stderr=self.stderr, env=environ)

    async def health(self, path: str) -> int:
        """The status that the admin port answers with; 0 when nobody answers."""
        try:
            return (await HttpClient(f"http://127.0.0.1:{self.admin_port}").request("GET", path, timeout_s=3.0)).status
        except NoAnswer:
            return 0

    async def wait_ready(self, timeout_s: float = 15.0) -> None:
        """Wait until `/readyz` says so. Raises: AssertionError with what it printed, also when it has ended."""
        await eventually(self._not_ready, timeout_s, every_s=0.05)

    async def ended(self, timeout_s: float = 15.0) -> int:
        """Wait for its end; the exit code. Raises: AssertionError."""
        await eventually(lambda: self.process.poll() is None and f"it runs:\n{self.output()}", timeout_s)
        return self.process.returncode

    async def stop(self, timeout_s: float = 20.0) -> float:
        """SIGTERM; returns the seconds it took. Raises: AssertionError when it takes longer, or ends with anything but 0."""
        began_s = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = await self.ended(timeout_s)
        assert code == 0, f"ended with {code}:\n{self.output()}"
        return time.monotonic() - began_s

    def kill(self) -> None:
        """`kill -9`; nothing when it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def output(self, chars: int = 3000) -> str:
        """The end of what it printed."""
        texts = (path.read_text(errors="replace")[-chars:] for path in (self.stdout, self.stderr) if path.exists())
        return "\n".join(texts)

    async def _not_ready(self) -> str:
        if self.process.poll() is not None:
            raise AssertionError(f"ended with {self.process.returncode}:\n{self.output()}")
        status = await self.health("/readyz")
        return "" if status == 200 else f"GET /readyz answers {status}:\n{self.output()}"

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kill()
