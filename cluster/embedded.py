"""Redis on one machine: for those who have none, a redis-server of our own with its data in `data_dir/redis`.

Owns that folder and the choice of the port. Must not know what is stored, nor who restarts what dies. Rules:
- One Redis a folder: it is locked, and the lock is handed to Redis too, so that one which outlives its supervisor keeps it.
- What a newer Redis wrote is not opened by an older one: 6.2 does not see the files of 7.0 and would begin empty.
- What was acknowledged survives the death of any process: append-only file, synced every second, nothing evicted.
- It listens on loopback only, on 6379 or the next free port, and on the same one after a restart, if that is still free.
- It listens on a Unix socket in its folder too, for whoever runs us: the same work over one costs both sides a quarter less than over
  loopback. Where that path is too long for one, or its file system has no sockets, there is none.

| file | holds |
| --- | --- |
| `redis.log` | what Redis says |
| `appendonly.aof` (6.2), `appendonlydir/` (7.0) | the data |
| `embedded.json` | the version that wrote it, and the port |
| `lock` | locked while in use |
| `redis.sock` | where the processes of this machine reach it |
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec

from cluster import ports
from cluster.errors import StartError
from cluster.process import Process, Program, spawn
from cluster.redis_binary import Binary

log = logging.getLogger(__name__)

FIRST_PORT = 6379
_PORTS = 100
_MULTI_PART_AOF = (7, 0)  # from here on the append-only file is a folder of files
_HOST = "127.0.0.1"
_LOCK_S = 2.0  # a Redis that was just killed may need a moment until it has let go
_SILENCE_S = 10.0
_WORD_S = 2.0
_PROBE_S = 1.0
_POLL_S = 0.01
_ROOM_BYTES = 64 * 1024  # what must be writable before Redis is started
_LONGEST_LOG_BYTES = 16 * 1024 * 1024
_LOG_PREFIX = re.compile(r"^\d+:\w \S+ \S+ \S+ \S+ [.\-*#] ")

_RULES = (
    ("bind", _HOST),
    ("protected-mode", "yes"),
    ("daemonize", "no"),
    ("appendonly", "yes"),
    ("appendfsync", "everysec"),
    ("save", ""),
    ("maxmemory-policy", "noeviction"),
    ("notify-keyspace-events", "Ex"),
)


class _State(msgspec.Struct):
    version: tuple[int, int, int] = (0, 0, 0)
    port: int = 0


class EmbeddedRedis:
    """A redis-server for one data directory."""

    def __init__(self, data_dir: Path, binary: Binary, first_port: int = FIRST_PORT) -> None:
        self.port = 0
        self._data_dir = data_dir
        self._folder = data_dir / "redis"
        self._log = self._folder / "redis.log"
        self._binary = binary
        self._wanted = range(first_port, first_port + _PORTS)
        self._lock = -1
        self._has_socket = False

    @property
    def url(self) -> str:
        """Where it listens, once it was started; the same for as long as this object lives."""
        return f"redis://{_HOST}:{self.port}/0"

    @property
    def local_url(self) -> str:
        """The same for processes of ours: its Unix socket, if it has one."""
        return local_url(self._data_dir) if self._has_socket else self.url

    async def start(self) -> Process:
        """Starts it and returns when it has loaded its data and answers. Call again after it ended.

        Raises: StartError, in one line: the directory is in use, not writable, full, or newer than this Redis; no free port.
        """
        if self._lock < 0:
            await self._claim()
        for port in self._ports():
            process = await self._started_on(port)
            if process is not None:
                self.port = port
                self._remember()
                return process
        tried = f"{self.port}" if self.port else f"{self._wanted[0]} to {self._wanted[-1]}"
        raise StartError(f"no free port for Redis: tried {tried}")

    def close(self) -> None:
        """Lets go of the directory. To be called after Redis ended."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def _claim(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                await self._lock_within(lock, _LOCK_S)
                self._check_room()
                self._check_version()
                self._has_socket = _takes_sockets(_socket_path(self._data_dir))
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            why = error.strerror or error
            raise StartError(f"cannot write to the data directory {self._data_dir}: {why}") from error
        self._lock = lock

    async def _lock_within(self, lock: int, limit_s: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if loop.time() > deadline:
                    raise StartError(
                        f"the data directory {self._data_dir} is in use by another agent-server (choose another --data-dir)"
                    ) from error
                await asyncio.sleep(0.05)
            else:
                return

    def _check_room(self) -> None:
        trial = self._folder / "room"
        trial.write_bytes(bytes(_ROOM_BYTES))
        trial.unlink()
        if self._log.exists() and self._log.stat().st_size > _LONGEST_LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))

    def _check_version(self) -> None:
        wrote = self._recall().version
        if wrote < _MULTI_PART_AOF and (self._folder / "appendonlydir").exists():
            wrote = (*_MULTI_PART_AOF, 0)  # whatever the record says, or if it is lost
        if wrote[:2] > self._binary.version[:2]:
            raise StartError(
                f"the data directory {self._data_dir} was written by Redis {wrote[0]}.{wrote[1]}, and the newest redis-server"
                f" found is {self._binary.text} ({self._binary.path}): install the newer one, or choose another --data-dir"
            )

    def _recall(self) -> _State:
        return _recalled(self._folder)

    def _remember(self) -> None:
        record = msgspec.json.encode(_State(self._binary.version, self.port))
        torn = self._folder / "embedded.json.new"
        with contextlib.suppress(OSError):  # it runs, and without the record the next start finds out by itself
            torn.write_bytes(record)
            torn.replace(self._folder / "embedded.json")

    def _ports(self) -> Iterator[int]:
        """Ports to try, best first. After the first start there is one only: our clients know it."""
        if self.port:
            yield self.port
            return
        if kept := self._recall().port:
            yield kept
        yield from self._wanted

    async def _started_on(self, port: int) -> Process | None:
        """Redis, ready on this port; None when the port is taken. Raises: StartError when it does not run for another reason."""
        if not ports.is_free(port):
            return None
        log_begins = self._log.stat().st_size if self._log.exists() else 0
        process = await spawn(self._program(port), tells_ready=False)
        try:
            is_ready = await self._answers(process, port)
        except BaseException:
            await process.kill()
            raise
        if is_ready:
            process.served()
            return process
        await process.kill()
        if not ports.is_free(port):  # somebody was faster
            return None
        raise StartError(f"Redis does not start: {self._why(process, log_begins)} (see {self._log})")

    def _program(self, port: int) -> Program:
        options = [*_RULES, ("port", str(port)), ("dir", str(self._folder)), ("logfile", str(self._log))]
        if self._has_socket:
            options += [("unixsocket", str(_socket_path(self._data_dir))), ("unixsocketperm", "700")]
        arguments = (part for name, value in options for part in (f"--{name}", value))
        return Program("redis", (self._binary.path, *arguments), os.environ, (self._lock,))

    async def _answers(self, process: Process, port: int) -> bool:
        """Waits until it serves; False when it ended or stayed silent. Loading its data takes as long as it takes."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _SILENCE_S
        next_word = loop.time() + _WORD_S
        while not process.ended.done() and loop.time() < deadline:
            answer = await _ask(port, process.pid)
            if answer == "ready":
                return True
            if answer == "loading":
                deadline = loop.time() + _SILENCE_S
            if answer == "loading" and loop.time() >= next_word:
                next_word = deadline
                log.info("Redis still loads its data")
            await asyncio.wait({process.ended}, timeout=_POLL_S)
        return False

    def _why(self, process: Process, log_begins: int) -> str:
        """The last thing it said before it gave up."""
        if not process.ended.done():
            return f"it did not answer for {_SILENCE_S:.0f} s"
        said = process.last_line
        with contextlib.suppress(OSError), self._log.open("rb") as file:
            file.seek(log_begins)
            lines = file.read(_ROOM_BYTES).decode(errors="replace").splitlines()
            said = next((_LOG_PREFIX.sub("", line) for line in reversed(lines) if " # " in line), said)
        return said or f"it ended with exit code {process.ended.result()}"


def running_url(data_dir: Path) -> str:
    """Where the Redis of a data directory listens, for those who did not start it. Raises: StartError when it does not run."""
    folder = data_dir / "redis"
    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:  # held: it runs, and the port is its own
        if port := _recalled(folder).port:
            return f"redis://{_HOST}:{port}/0"
    except FileNotFoundError:
        raise StartError(
            f"no Redis is configured, and none was ever started in the data directory {data_dir}"
        ) from None
    except OSError as error:
        raise StartError(f"the data directory {data_dir} cannot be read: {error.strerror or error}") from error
    raise StartError(f"no Redis is configured, and the one of the data directory {data_dir} does not run")


def local_url(data_dir: Path) -> str:
    """Where the Redis of a data directory listens for processes of its user, if it does."""
    return f"unix://{quote(str(_socket_path(data_dir)))}"


def _socket_path(data_dir: Path) -> Path:
    return data_dir.absolute() / "redis" / "redis.sock"


def _takes_sockets(path: Path) -> bool:
    """Whether a socket can be made there; one that a dead Redis left is in nobody's way."""
    try:
        str(path).encode()  # else no URL could say it
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as trial:
            trial.bind(str(path))
        path.unlink()
    except (OSError, UnicodeEncodeError):
        return False
    return True


def _recalled(folder: Path) -> _State:
    try:
        return msgspec.json.decode((folder / "embedded.json").read_bytes(), type=_State)
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):  # absent, or torn by a power loss
        return _State()


async def _ask(port: int, pid: int) -> str:
    """What the Redis with this pid says: `ready`, `loading`, or `` when it, or another in its place, is not to be reached."""
    try:
        async with asyncio.timeout(_PROBE_S):
            reader, writer = await asyncio.open_connection(_HOST, port)
            try:
                return await _ping(reader, writer, pid)
            finally:
                writer.close()
    except (OSError, TimeoutError, EOFError, ValueError):
        return ""


async def _ping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pid: int) -> str:
    writer.write(b"PING\r\nINFO server\r\n")
    pong = await reader.readline()
    size = int((await reader.readline())[1:])
    if b"process_id:%d\r\n" % pid not in await reader.readexactly(size):
        return ""
    if pong.startswith(b"-LOADING"):
        return "loading"
    return "ready" if pong.startswith(b"+PONG") else ""
