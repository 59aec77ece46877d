"""The life of a serving process (a node or a router): its options, its start, its side tasks, its end.

Rules: side tasks are named and watched - when one dies of a mistake of ours the process ends, and is started again by whoever runs it.
Loss of Redis makes a process not ready; it does not end it. One clear line and a non-zero exit when it cannot start.
"""

import argparse
import asyncio
import contextlib
import ctypes
import errno
import gc
import logging
import os
import re
import resource
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import uvloop

from cluster import cancelling, config, log_output, ports
from cluster.config import Loaded
from cluster.errors import ConfigError, StartError, StoreAway, StoreUnavailable
from cluster.ledger import Ledger
from cluster.log_output import PROGRAM
from cluster.redis_client import Store, check

CLEAN, FAILED, USAGE = 0, 1, 2
RETRY_S = 0.5
GC_THRESHOLDS = (50_000, 20, 50)  # the heap is long-lived connections; young garbage dies by reference counts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How one process was started; file descriptors are inherited, -1 = none."""

    role: str
    id: str
    loaded: Loaded
    cpu: int
    listen_fd: int
    listen: tuple[str, int] | None
    admin_fd: int
    admin: tuple[str, int]
    handover: str
    ready_fd: int
    is_supervised: bool

    def sockets(self) -> list[socket.socket]:
        """Where it serves agents or control planes; none when connections are handed over. Raises: StartError."""
        if self.listen_fd >= 0:
            return [socket.socket(fileno=self.listen_fd)]
        return [_bind(*self.listen, "--port")] if self.listen else []

    def admin_socket(self) -> socket.socket:
        """Where it serves its admin port. Raises: StartError."""
        return socket.socket(fileno=self.admin_fd) if self.admin_fd >= 0 else _bind(*self.admin, "--admin-port")

    def tell_ready(self, public: Sequence[socket.socket], admin: socket.socket) -> None:
        """Tells the supervisor that this process serves; without one, whoever reads standard error, and where."""
        if self.ready_fd >= 0:
            os.write(self.ready_fd, b"ready\n")
            os.close(self.ready_fd)
        if not self.is_supervised:
            scheme = "https" if self.loaded.settings.server.tls_cert else "http"
            served = [ports.url(sock).replace("http", scheme, 1) for sock in public]
            places = ", ".join([*served, f"admin {ports.url(admin)}"])
            with contextlib.suppress(OSError):  # nobody reads it
                sys.stderr.write(f"{PROGRAM}: {self.role} {self.id} serves {places}\n")


def _bind(host: str, port: int, flag: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        remedy = f" (choose another {flag})" if error.errno == errno.EADDRINUSE else ""
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror or error}{remedy}") from error
    return sock


def parse(role: str, arguments: Sequence[str]) -> Options:
    """The options of a process. Raises: ConfigError."""
    parser = argparse.ArgumentParser(prog=f"python -m {role}", description=f"One {role} of an Agent-Server cluster.")
    parser.add_argument("--id", help="the name of this process, unique in its cluster; the host's name by default")
    parser.add_argument("--config", help="config.yaml")
    parser.add_argument("--cpu", type=int, default=-1, help="the CPU to stay on")
    parser.add_argument("--listen-fd", type=int, default=-1, help="an inherited listening socket")
    parser.add_argument("--host", help="the address to listen on; server.host by default")
    parser.add_argument("--port", type=int, help="the port to listen on; server.port by default")
    parser.add_argument("--admin-fd", type=int, default=-1, help="an inherited listening socket for the admin port")
    parser.add_argument("--admin-port", type=int, help="the admin port; 1000 above the port by default")
    parser.add_argument("--handover", default="", help="the Unix socket on which connections are handed over")
    parser.add_argument("--ready-fd", type=int, default=-1, help="told when this process serves")
    parser.add_argument("--supervised", action="store_true", help="run by agent-server start")
    given = parser.parse_args(arguments)
    name = given.id or socket.gethostname().lower()[:64]
    if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) is None:
        raise ConfigError("--id: 1 to 64 of A-Z a-z 0-9 . _ -")
    loaded = config.load(given.config, environ=os.environ)
    server = loaded.settings.server
    port = server.port if given.port is None else given.port
    is_listening = given.listen_fd < 0 and not given.handover
    return Options(
        role=role,
        id=name,
        loaded=loaded,
        cpu=given.cpu,
        listen_fd=given.listen_fd,
        listen=(given.host or server.host, port) if is_listening else None,
        admin_fd=given.admin_fd,
        admin=(
            server.admin_host,
            given.admin_port if given.admin_port is not None else (port + ports.ADMIN_ABOVE if port else 0),
        ),
        handover=given.handover,
        ready_fd=given.ready_fd,
        is_supervised=given.supervised,
    )


def main(
    role: str, serve: Callable[[Options], Coroutine[Any, Any, None]], arguments: Sequence[str] | None = None
) -> int:
    """Runs a process until it is told to stop; returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        options = parse(role, given)
    except ConfigError as error:
        return _fail(str(error), USAGE, is_supervised="--supervised" in given)
    settings = options.loaded.settings
    log_output.configure_logging(settings.logging, process=options.id, secrets=settings.secrets())
    for warning in options.loaded.warnings if not options.is_supervised else ():
        logger.warning("%s", warning)
    if options.cpu >= 0 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.cpu})
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # that it serves is ours to say
    gc.set_threshold(*GC_THRESHOLDS)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)  # a connection is a file
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    try:
        uvloop.run(cancelling.alone(serve(options)))
    except StartError as error:
        return _fail(str(error), USAGE if options.is_supervised else FAILED, is_supervised=options.is_supervised)
    except OSError as error:
        return _fail(str(error), FAILED, is_supervised=options.is_supervised)
    except KeyboardInterrupt:
        return CLEAN
    return CLEAN


def _fail(line: str, code: int, *, is_supervised: bool) -> int:
    """Says why; a supervisor puts its own name before what its child said last."""
    sys.stderr.write(f"{line}\n" if is_supervised else f"{PROGRAM}: {line}\n")
    return code


def new_store(options: Options) -> Store:
    """The store of a process; nothing is connected yet. Raises: StartError when none is configured."""
    settings = options.loaded.settings
    if not settings.redis.enabled:
        raise StartError(
            "a single node or router needs a Redis: name it with --redis-url or AGENT_SERVER_REDIS_URL"
            " (or redis.enabled and redis.url in config.yaml)"
        )
    return Store(settings.redis, settings.cluster.shards)


async def await_store(options: Options, store: Store) -> None:
    """Returns once Redis answers, will do, and agrees on the shape of the cluster; waits as long as it takes.

    Raises: StartError.
    """
    told = False
    while True:
        try:
            warning = await check(options.loaded.settings.redis)
            await store.sync_clock()
            await store.agree()
            await Ledger(store).books()  # opened before this process changes anything
        except (StoreAway, StoreUnavailable) as error:
            if not told:
                logger.warning("waiting: %s", error)
            told = True
            await asyncio.sleep(RETRY_S)
        else:
            if warning and not options.is_supervised:  # the launcher has said it for all of its children
                logger.warning(warning)
            return


async def unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Does this work, but lets go of it when the process is told to stop; whether it was done. Raises: what the work raises."""
    working = asyncio.create_task(work, name="start")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if working.done():
        await working
        return True
    await cancelling.end([working])
    return False


def stop_event() -> asyncio.Event:
    """Set when this process is told to stop (SIGTERM, SIGINT)."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


class SideTasks:
    """The loops that a process runs beside serving."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, loops: Iterable[tuple[str, Coroutine[Any, Any, None]]]) -> None:
        """Starts named loops that are to run until the process ends."""
        self._tasks += [asyncio.create_task(loop, name=name) for name, loop in loops]

    async def watch(self, stop: asyncio.Event) -> None:
        """Returns when the process is to stop. Raises: what a loop died of."""
        stopped = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait([stopped, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in self._tasks:
            if task.done():
                if isinstance(error := task.exception(), StartError):  # said on purpose: it is the one line
                    raise error
                logger.critical("%s ended", task.get_name(), exc_info=task.exception())
                raise StartError(f"{task.get_name()} ended: {task.exception()!r}")

    async def ended(self, name: str, within_s: float) -> None:
        """Waits for a loop that was told to end by itself."""
        tasks = [task for task in self._tasks if task.get_name() == name]
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)

    async def reached(self, event: asyncio.Event) -> None:
        """Returns when this event is set. Raises: StartError when a loop that was to set it has ended instead."""
        await self.watch(event)

    async def cancel(self) -> None:
        """Ends the loops."""
        await cancelling.end(self._tasks)


def trim_memory() -> None:
    """After start-up: what lives now lives long, so that the collector need not look at it again."""
    gc.collect()
    gc.freeze()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
