"""The supervisor of `agent-server start`: a router, nodes and, where none is configured, a Redis on one machine.

Owns the order in which processes begin and end, and the sockets they listen on. Must not know what they do (it starts them as
programs), nor how one is kept running (`child`). Rules:
- Sockets are bound here and handed down: a process that is started again loses no connection attempt, and nobody takes its port.
- Stopping: nodes drain while the router still answers, then the router ends, then Redis; `stop_s` bounds all of it.
- Restarting: one process at a time, nodes first; the next one only when the one before serves again.

| signal | means |
| --- | --- |
| SIGTERM, SIGINT | stop; a second one kills nodes and router |
| SIGHUP | restart nodes and router one by one (the router sends it on `POST /api/self/control`); when our terminal has closed: stop |
"""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cluster import cancelling, config, ports, programs
from cluster.child import Child, Pace
from cluster.config import Loaded
from cluster.embedded import FIRST_PORT, EmbeddedRedis
from cluster.errors import ConfigError, StartError, StoreAway
from cluster.process import spawn
from cluster.programs import Commands, Post
from cluster.redis_binary import find_binary
from cluster.settings import Redis
from cluster.socket_folder import folder_of_sockets

log = logging.getLogger(__name__)

_NODES_SHARE = 0.8  # of stop_s: what nodes may take to drain; the router has until 0.9, Redis the rest
_ROUTER_SHARE = 0.9
_LEAST_S = 0.5
_CHECK_S = 0.25
_MOST_FILES = 1024 * 1024

RedisCheck = Callable[[Redis], Awaitable[str]]


@dataclass(frozen=True)
class Timing:
    """How long things may take. A restarted process may take `stop_s` to end and `ready_s` to serve."""

    pace: Pace = field(default_factory=Pace)
    redis_s: float = 10.0
    stop_s: float = 20.0
    ready_s: float = 30.0


async def check_redis(redis: Redis) -> str:
    """Looks whether a configured Redis will do; what its operator should know. Raises: StoreAway when waiting may help, StartError."""
    from cluster.redis_client import check  # noqa: PLC0415 - the driver takes longer to import than Redis to start

    return await check(redis)


class Launcher:
    """Starts, watches, restarts and stops the processes of one machine."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        environ: Mapping[str, str],
        flags: Mapping[str, object] = config.NO_FLAGS,
        commands: Commands | None = None,
        timing: Timing | None = None,
        name: str = "",
        redis_port: int = FIRST_PORT,
        check: RedisCheck = check_redis,
    ) -> None:
        """`environ` and `flags` are those that the settings were loaded from; children get them too.

        `name` begins the names of processes, `redis_port` is the first port that an embedded Redis tries.
        """
        self._settings = loaded.settings
        self._config_path = loaded.path
        self._environ = environ
        self._flags = flags
        self._commands = commands or programs.of_this_python()
        self._timing = timing or Timing()
        self._name = name
        self._redis_port = redis_port
        self._check = check
        self._resources = contextlib.ExitStack()
        self._redis: Child | None = None
        self._router: Child | None = None
        self._nodes: list[Child] = []
        self._rolling: asyncio.Task[None] | None = None
        self._is_announced = False
        self._asked_to_stop = asyncio.Event()
        self._had_terminal = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN and _has_terminal()

    @property
    def has_served(self) -> bool:
        """Whether everything was ready once."""
        return self._is_announced

    async def run(self) -> None:
        """Runs everything until a signal asks to stop.

        Raises: StartError when it cannot run: a port in use, a Redis that will not do, a process that refuses its settings.
        """
        if self._settings.server.tls_cert:
            raise StartError(
                "server.tls_cert is set, and start serves without TLS: put a load balancer in front of it,"
                " or run agent-server node and agent-server router singly"
            )
        _lift_file_limit()
        self._listen_to_signals()
        serving = asyncio.create_task(self._serve(), name="serve")
        asked = asyncio.create_task(self._asked_to_stop.wait(), name="asked to stop")
        try:
            await asyncio.wait({serving, asked}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
        finally:
            await cancelling.end([serving, asked, *([self._rolling] if self._rolling else [])])
            await self._stop()

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_stop)
        loop.add_signal_handler(signal.SIGINT, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _on_stop(self) -> None:
        if self._asked_to_stop.is_set():
            log.warning("asked to stop again: nodes and router are killed")
            for child in self._servers():
                child.kill()
        self._asked_to_stop.set()

    def _on_hangup(self) -> None:
        if self._had_terminal and not _has_terminal():
            self._on_stop()
        elif not self._is_announced or (self._rolling is not None and not self._rolling.done()):
            log.warning("not restarted: a start or a restart is under way")
        else:
            self._rolling = asyncio.create_task(self._roll(), name="rolling restart")

    async def _serve(self) -> None:
        public, admins = self._bind()
        address, decided = await self._have_redis()
        handovers = self._resources.enter_context(
            folder_of_sockets(self._settings.cluster.data_dir if self._redis else None)
        )
        router, nodes = programs.posts(self._name or programs.own_name(self._settings.redis), public, admins, handovers)
        decided = {**self._flags, **decided, "server.port": public.getsockname()[1]}
        environ = programs.child_environ(self._environ, decided)
        self._router = self._child(router, self._commands.router, environ)
        self._nodes = [self._child(post, self._commands.node, environ) for post in nodes]
        for child in self._servers():
            child.begin()
        await _all(child.until_ready() for child in self._servers())
        self._announce(address, router, nodes)
        await _all(child.until_failed() for child in (*self._servers(), *([self._redis] if self._redis else [])))

    def _bind(self) -> tuple[socket.socket, list[socket.socket]]:
        server = self._settings.server
        public = self._resources.enter_context(ports.listen(server.host, server.port))
        first = public.getsockname()[1] + ports.ADMIN_ABOVE
        wanted = range(first, first + 1 + programs.node_count(self._settings))
        return public, [self._resources.enter_context(ports.listen_near(server.admin_host, port)) for port in wanted]

    async def _have_redis(self) -> tuple[tuple[str, ...], dict[str, object]]:
        """Starts Redis, or waits for the configured one. Its row of the table, and the settings that lead children there."""
        redis = self._settings.redis
        if redis.enabled:
            await self._await_configured(redis)
            return ("redis", "-", "-", programs.where_it_is(redis)), {}
        embedded = EmbeddedRedis(Path(self._settings.cluster.data_dir), find_binary(), self._redis_port)
        self._resources.callback(embedded.close)
        self._redis = Child("redis", embedded.start, self._timing.pace)
        self._redis.begin()
        await self._redis.until_ready()
        return ("redis", self._redis.pid_text, "-", embedded.url), programs.how_to_reach(embedded.local_url, redis)

    async def _await_configured(self, redis: Redis) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timing.redis_s
        while True:
            try:
                warning = await self._check(redis)
            except StoreAway:
                if loop.time() >= deadline:
                    raise
            else:
                if warning:
                    log.warning(warning)
                return
            await asyncio.sleep(_CHECK_S)

    def _child(self, post: Post, command: tuple[str, ...], environ: Mapping[str, str]) -> Child:
        program = programs.program(post, command, self._config_path, environ)
        return Child(post.name, partial(spawn, program), self._timing.pace)

    def _servers(self) -> list[Child]:
        """Nodes first: the order of restarts."""
        return [*self._nodes, *([self._router] if self._router else [])]

    def _announce(self, redis_row: tuple[str, ...], router: Post, nodes: list[Post]) -> None:
        self._is_announced = True
        pids = {child.name: child.pid_text for child in self._servers()}
        rows = [(post.name, pids[post.name], str(post.cpu), post.address) for post in (router, *nodes)]
        table = _table([("process", "pid", "cpu", "address"), redis_row, *rows])
        with contextlib.suppress(OSError):  # nobody reads it
            sys.stdout.write(f"{table}ready {_public_url(self._settings.server.public_url, router)}\n")
            sys.stdout.flush()

    async def _roll(self) -> None:
        """Restarts all servers one by one; stops at the first that does not come back, so that the others keep serving."""
        try:
            config.load(self._config_path, environ=self._environ, flags=self._flags)
        except ConfigError as error:
            log.error("not restarted, the settings cannot be used: %s", error)  # noqa: TRY400 - a line, no traceback
            return
        for child in self._servers():
            log.info("%s is restarted", child.name)
            if not await child.restart(self._timing.stop_s, self._timing.ready_s):
                log.error(
                    "%s does not serve %.0f s after its restart; the others go on as they are",
                    child.name,
                    self._timing.ready_s,
                )
                return
        log.info("nodes and router were restarted")

    async def _stop(self) -> None:
        loop = asyncio.get_running_loop()
        began_at = loop.time()

        def left_s(share: float) -> float:
            return max(began_at + share * self._timing.stop_s - loop.time(), _LEAST_S)

        await asyncio.gather(*(node.stop(left_s(_NODES_SHARE)) for node in self._nodes))
        if self._router:
            await self._router.stop(left_s(_ROUTER_SHARE))
        if self._redis:
            await self._redis.stop(left_s(1.0))
        self._resources.close()


async def _all(steps: Iterable[Coroutine[None, None, None]]) -> None:
    """Waits for all; the first that fails ends the others, and its error is the one that is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step, name="watch a child")
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


def _lift_file_limit() -> None:
    """As many open files as are allowed: a node holds a socket for each of its agents, and shells start us with 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # the kernel's own bound may be lower
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "".join("  ".join((*map(str.ljust, row, widths), row[3])) + "\n" for row in rows)


def _public_url(given: str, router: Post) -> str:
    """Where the control plane and agents find us: as configured, or what this machine itself can dial."""
    assert router.public is not None  # noqa: S101 - a router's post has one
    host, port = router.public.getsockname()[:2]
    dialable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return given or ports.http_url(dialable, port)
