"""A router, put together: every choice of what works with what is made here. Start, serve, stop."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.types import ASGIApp

from cluster import acceptance, nodes, registration, serving, verification
from cluster.acceptance import Acceptance
from cluster.admin import Readiness, admin_app
from cluster.census import Census
from cluster.control_plane import ControlPlane
from cluster.errors import StoreUnavailable
from cluster.feeds import Feeds
from cluster.figures import of_ends, of_process
from cluster.hot_registration import HotRegistration
from cluster.inbox import Inbox
from cluster.ledger import Ledger
from cluster.mailbox import Mailbox
from cluster.metrics import Counters
from cluster.nodes import NodeDirectory
from cluster.proxies import TrustedProxies
from cluster.redis_client import Store
from cluster.registration import RegistrationEndpoint
from cluster.registry import Owner, Registry
from cluster.replies import Call, app_of
from cluster.security import Signer
from cluster.service import Options, SideTasks, await_store, new_store, stop_event, trim_memory, unless_stopped
from cluster.trimming import Trimmer
from cluster.verification import Verification
from router import figures
from router.agents import AgentCalls
from router.bookkeeping import Bookkeeping
from router.handover import Handover, HandoverProtocol, Target
from router.hot_calls import HotCalls
from router.in_time import InTime
from router.itself import SelfCalls
from router.nodes import NodeCalls
from router.reaper import Reaper
from router.signature import RequireSignature
from router.tasks import TaskCalls

WATCH_S = 0.5
SWEPT = ("lease_expired", "task_overdue", "entry_paid", "entry_trimmed", "agent_forgotten")


class NodeWatch:
    """Which nodes live, as of half a second ago."""

    def __init__(self, store: Store, directory: NodeDirectory, handover: Handover) -> None:
        self._store = store
        self._directory = directory
        self._handover = handover
        self._alive: set[tuple[str, str]] = set()
        self.states: Counter[str] = Counter()  # how many are in which
        self._machine = nodes.this_machine()

    async def run(self) -> None:
        """Looks, for ever."""
        while True:
            with contextlib.suppress(StoreUnavailable):  # what was known last still is the best guess
                await self._store.agree()  # a Redis that came back empty learns what was agreed on
                self._take(await self._directory.all())
            await asyncio.sleep(WATCH_S)

    def _take(self, found: list[nodes.Node]) -> None:
        self._alive = {(node.id, node.boot) for node in found}
        self.states = Counter(node.state for node in found)
        here = [node for node in found if node.machine == self._machine]  # a socket is handed over inside one machine
        ready = [node for node in here if node.state == nodes.READY and node.handover]
        self._handover.update(Target(node.id, node.handover, node.load) for node in ready)

    def is_alive(self, owner: Owner) -> bool:
        """Whether the process of this claim says that it lives."""
        return (owner.node, owner.boot) in self._alive


class RouterProcess:
    """One router of the cluster."""

    def __init__(self, options: Options, store: Store) -> None:
        settings = options.loaded.settings
        self._options = options
        self._settings = settings
        self._store = store
        self._counters = Counters()
        tasks = self._counters.tally("tasks_posted", "Tasks that were posted", "outcome", acceptance.OUTCOMES)
        swept = dict.fromkeys(SWEPT, 0)
        self._handover = Handover()
        directory = NodeDirectory(store)
        self._nodes = NodeWatch(store, directory, self._handover)
        self._registry = Registry(
            store, settings.agent.heartbeat_timeout_s, settings.agent.forget_after_s, settings.agent.max_takeovers
        )
        self._feeds = Feeds(store, settings)
        inbox, mailbox = Inbox(store), Mailbox(store, settings.tasks)
        taker = Acceptance(mailbox, self._feeds, inbox, tasks)
        self._task_calls = TaskCalls(self._registry, mailbox, self._feeds, inbox, taker)
        self._node_calls = NodeCalls(directory, self._registry, inbox)
        self._agent_calls = AgentCalls(self._registry, self._feeds, inbox, store.now_ms, self._nodes.is_alive)
        trimmer = Trimmer(store, settings)
        self._reaper = Reaper(
            store, self._registry, mailbox, self._feeds, inbox, trimmer,
            is_alive=self._nodes.is_alive, counts=swept,
        )  # fmt: skip
        self._bookkeeping = Bookkeeping(Ledger(store), Census(store, self._registry, settings))
        self._readiness = Readiness(store)
        register = self._register()
        app = self._app(register)
        hot_calls = HotCalls(taker, self._registry.hosts, self._signer())
        hot_registration = HotRegistration(register, app)
        self._server = serving.server(
            app,
            serving.limits_of(settings.server),
            partial(HandoverProtocol, handover=self._handover),
            serving.tls_context(settings.server),
            lambda exchange: hot_calls(exchange) or hot_registration(exchange),
        )
        self._admin = serving.server(
            admin_app(self._readiness, self._counters.render), serving.limits_of(settings.server)
        )
        self._figures(swept, trimmer)

    def _figures(self, swept: dict[str, int], trimmer: Trimmer) -> None:
        counters = self._counters
        of_process(counters, self._store, self._readiness, role="router", process=self._options.id)
        of_ends(counters, self._feeds.ends)
        figures.of_handover(counters, self._handover)
        figures.of_sweeps(counters, swept, trimmer)
        figures.of_nodes(counters, lambda: self._nodes.states)
        figures.of_cluster(counters, self._bookkeeping)

    def _app(self, register: RegistrationEndpoint) -> TrustedProxies:
        app: ASGIApp = InTime(app_of(self._routes(register)))
        signer = self._signer()
        if signer is not None:
            app = RequireSignature(app, signer)
        return TrustedProxies(app, self._settings.server.trusted_proxies)

    def _signer(self) -> Signer | None:
        auth = self._settings.auth
        return Signer(auth.shared_secret, auth.clock_skew_s, auth.former_secret) if auth.require_signature else None

    def _register(self) -> RegistrationEndpoint:
        return RegistrationEndpoint(
            self._store, self._registry, self._feeds,
            public_url=self._settings.server.public_url, is_open=self._settings.auth.open_registration,
            counts=self._registrations(), verification=self._verification(),
        )  # fmt: skip

    def _routes(self, register: RegistrationEndpoint) -> list[Call]:
        tasks, agents = self._task_calls, self._agent_calls
        itself = SelfCalls(self._options.id, is_supervised=self._options.is_supervised)
        return [
            _post("/api/agents/register", register.register),
            Call("/api/agents", agents.list, methods=["GET"]),
            Call("/api/agents/{agent}", agents.one, methods=["GET", "DELETE"]),
            _post("/api/agents/{agent}/tasks", tasks.post),
            _post("/api/agents/{agent}/tasks/batch", tasks.post_batch),
            _post("/api/agents/{agent}/tasks/cancel/batch", tasks.cancel_batch),
            _post("/api/agents/{agent}/tasks/{task_id:path}/cancel", tasks.cancel),
            Call("/api/agents/{agent}/tasks/{task_id:path}", tasks.show, methods=["GET"]),
            _post("/api/agents/{agent}/control", agents.control),
            _post("/api/agents/{agent}/upgrade", agents.upgrade),
            Call("/api/metrics", agents.metrics, methods=["GET"]),
            Call("/api/nodes", self._node_calls.show, methods=["GET"]),
            _post("/api/nodes/{node}/drain", self._node_calls.drain),
            _post("/api/nodes/{node}/undrain", self._node_calls.undrain),
            _post("/api/nodes/{node}/move", self._node_calls.move),
            Call("/api/self", itself.show, methods=["GET"]),
            _post("/api/self/control", itself.control),
            _post("/api/self/upgrade", itself.upgrade),
        ]

    def _registrations(self) -> dict[str, int]:
        return self._counters.tally("registrations", "What came of registrations", "outcome", registration.EVENTS)

    def _verification(self) -> Verification | None:
        config = self._settings.control_plane
        if not config.verify_registration:
            return None
        asked = self._counters.tally(
            "verifications", "Registrations shown to the control plane", "outcome", verification.OUTCOMES
        )
        return Verification(ControlPlane(config, self._settings.server.max_body_bytes), asked)

    async def run(self) -> None:
        """Serves until it is told to stop. Raises: StartError."""
        stop, side = stop_event(), SideTasks()
        admin, public = self._options.admin_socket(), self._options.sockets()
        side.start((("admin", self._admin.serve_on([admin])), ("redis probe", self._readiness.watch())))
        side.start((("server", self._server.serve_on(public)),))  # before Redis: callers are to hear 503, not to wait
        try:
            if await unless_stopped(stop, await_store(self._options, self._store)):
                side.start((("node watch", self._nodes.run()), ("reaper", self._reaper.run())))
                side.start((("bookkeeping", self._bookkeeping.run()),))
                await side.reached(self._server.is_listening)
                self._readiness.is_serving = True
                trim_memory()
                self._options.tell_ready(public, admin)
                await side.watch(stop)
                self._readiness.is_serving = False
        finally:
            self._server.should_exit = self._admin.should_exit = True
            self._handover.close()
            await side.ended("server", serving.STOP_S)  # what was asked is still answered
            await side.cancel()
            await self._store.close()


def _post(path: str, endpoint: Callable[..., Any]) -> Call:
    return Call(path, endpoint, methods=["POST"])


async def serve(options: Options) -> None:
    """Runs a router. Raises: StartError."""
    await RouterProcess(options, new_store(options)).run()
