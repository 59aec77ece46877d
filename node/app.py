"""A node, put together: every choice of what works with what is made here. Start, serve, drain."""

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Coroutine
from functools import partial
from typing import Any

from starlette.routing import Route

from cluster import nodes, ports, programs, registration, serving, verification
from cluster.acceptance import Acceptance
from cluster.admin import Readiness, admin_app
from cluster.control_plane import ControlPlane
from cluster.errors import StartError, StoreUnavailable
from cluster.feeds import Feeds
from cluster.figures import of_ends, of_process
from cluster.hot_registration import HotRegistration
from cluster.inbox import Inbox
from cluster.mailbox import Mailbox
from cluster.metrics import Counters
from cluster.nodes import Node, NodeDirectory
from cluster.outcomes import Outcomes
from cluster.process_load import CpuShare
from cluster.proxies import TrustedProxies
from cluster.redis_client import Store
from cluster.registration import RegistrationEndpoint
from cluster.registry import Registry
from cluster.replies import app_of
from cluster.service import Options, SideTasks, await_store, new_store, stop_event, trim_memory, unless_stopped
from cluster.settings import Settings
from cluster.verification import Verification
from node import figures, polling
from node.adoption import Adoption
from node.crew import EVENTS, NodeCrew
from node.delivery import Courier
from node.doors import Doors
from node.drain import Drain
from node.endpoint import AgentEndpoint
from node.freezing import Freezer
from node.handshake import Handshake
from node.hub import Hub
from node.limits import Limits
from node.paths import Paths
from node.polling import Poller
from node.presence import Presence
from node.probe import ProbeEndpoint
from node.reports import Reports
from node.session import Patience
from node.uplink import Uplink
from node.wheel import Wheel

FREEZE_EVERY_S = 30.0


class NodeProcess:
    """One node of the cluster."""

    def __init__(self, options: Options, store: Store) -> None:
        settings = options.loaded.settings
        self._settings: Settings = settings
        self._options = options
        self._store = store
        self._counters = Counters()
        self._events = dict.fromkeys(EVENTS, 0)
        self._crew = crew = NodeCrew(store, self._events)
        self._boot = secrets.token_hex(8)
        self._machine = nodes.this_machine()
        self._version = programs.version()
        self._cpu = CpuShare()
        self._cpu_percent = 0
        self._addresses = {"address": "", "admin": ""}
        self._hub = Hub()
        self._directory = NodeDirectory(store)
        self._registry = Registry(
            store, settings.agent.heartbeat_timeout_s, settings.agent.forget_after_s, settings.agent.max_takeovers
        )
        self._feeds = Feeds(store, settings)
        inbox, mailbox = Inbox(store), Mailbox(store, settings.tasks)
        crew.reports = self._reports = Reports(
            self._feeds, store.now_ms, settings.status_stream.interval_s, settings.task_stats_stream.push_interval_s
        )
        self._outcomes = Outcomes(store, mailbox, self._feeds)
        crew.uplink = self._uplink = Uplink(
            self._outcomes,
            mailbox,
            self._feeds,
            now_ms=store.now_ms,
            count=crew.count,
            on_end=self._reports.on_end_of_task,
        )
        crew.courier = self._courier = Courier(
            options.id, self._hub, inbox, mailbox, self._feeds,
            redelivery_grace_s=settings.tasks.redelivery_grace_s, now_ms=store.now_ms, count=crew.count,
        )  # fmt: skip
        crew.presence = self._presence = Presence(
            options.id, self._boot, self._hub, self._registry, inbox, self._directory,
            on_mail=self._courier.ring, on_forgotten=self._uplink.put_lost, on_release=self._reports.on_release,
            count=crew.count,
        )  # fmt: skip
        self._readiness = Readiness(store)
        self._poller = self._new_poller(mailbox, inbox) if settings.control_plane.poll else None
        self._wheel = Wheel()
        register = self._register()
        app = self._app(register)
        self._server = serving.server(
            app, serving.limits_of(settings.server), self._handshake(), serving.tls_context(settings.server),
            HotRegistration(register, app),
        )  # fmt: skip
        self._adoption = Adoption(options.handover, self._server.make_websocket) if options.handover else None
        self._doors = Doors(
            self._hub, Drain(self._hub, self._courier, self._uplink, self._presence, self._reports), self._readiness,
            self._adoption,
            announce=self._announce, now_ms=store.now_ms,
        )  # fmt: skip
        self._admin = serving.server(
            admin_app(self._readiness, self._counters.render, self._doors.drain), serving.limits_of(settings.server)
        )
        self._gauges()

    def _register(self) -> RegistrationEndpoint:
        return RegistrationEndpoint(
            self._store, self._registry, self._feeds,
            public_url=self._settings.server.public_url, is_open=self._settings.auth.open_registration,
            counts=self._registrations(), verification=self._verification(),
        )  # fmt: skip

    def _app(self, register: RegistrationEndpoint) -> TrustedProxies:
        settings = self._settings
        agents = AgentEndpoint(
            self._crew, self._hub, self._presence,
            max_connections=settings.agent.max_connections,
            patience=Patience(settings.websocket.max_bad_frames, settings.websocket.max_messages_per_s),
            allowed_origins=settings.websocket.allowed_origins, may_enter=lambda: self._doors.are_open,
            count=lambda reason: self._crew.count(f"refused_{reason}"),
        )  # fmt: skip
        http = app_of([Route("/api/agents/register", register.register, methods=["POST"])])
        app = Paths(http, agents, ProbeEndpoint(settings.server.public_url))
        return TrustedProxies(app, settings.server.trusted_proxies)

    def _registrations(self) -> dict[str, int]:
        return self._counters.tally("registrations", "What came of registrations", "outcome", registration.EVENTS)

    def _verification(self) -> Verification | None:
        if not self._settings.control_plane.verify_registration:
            return None
        asked = self._counters.tally(
            "verifications", "Registrations shown to the control plane", "outcome", verification.OUTCOMES
        )
        return Verification(self._control_plane(), asked)

    def _new_poller(self, mailbox: Mailbox, inbox: Inbox) -> Poller:
        polled = self._counters.tally(
            "polls", "What the control plane was asked for, and tasks it gave", "outcome", polling.OUTCOMES
        )
        return Poller(
            self._control_plane(), self._hub, Acceptance(mailbox, self._feeds, inbox, polled), polled,
            interval_s=self._settings.control_plane.task_poll_interval_s,
            may_poll=lambda: not self._readiness.obstacle,
        )  # fmt: skip

    def _control_plane(self) -> ControlPlane:
        return ControlPlane(self._settings.control_plane, self._settings.server.max_body_bytes)

    def _handshake(self) -> partial[Handshake]:
        config = self._settings.websocket
        limits = Limits(
            max_message_bytes=config.max_message_bytes,
            deflate=config.enable_compression,
            handshake_timeout_s=config.handshake_timeout_s,
        )
        return partial(
            Handshake, limits=limits, wheel=self._wheel, count=lambda reason: self._crew.count(f"refused_{reason}")
        )

    def _gauges(self) -> None:
        counters = self._counters
        lanes: figures.Lanes = {"log": self._uplink.logs, "result": self._uplink.results}
        of_process(counters, self._store, self._readiness, role="node", process=self._options.id)
        of_ends(counters, self._feeds.ends)
        figures.of_state(counters, lambda: self._doors.state)
        figures.of_connections(counters, self._events, self._crew, self._hub, self._wheel)
        counters.gauge("connected_agents_limit", "agent.max_connections", lambda: self._settings.agent.max_connections)
        figures.of_messages(counters, self._events, self._crew, self._feeds, lanes)
        figures.of_tasks(counters, self._events, self._courier)
        if self._adoption is not None:
            figures.of_adoption(counters, self._adoption)

    # ---- its life

    async def run(self) -> None:
        """Serves until it is told to stop. Raises: StartError."""
        options, stop, side = self._options, stop_event(), SideTasks()
        admin, public = options.admin_socket(), options.sockets()
        self._addresses = {"address": ports.url(public[0]) if public else "", "admin": ports.url(admin)}
        self._wheel.start(asyncio.get_running_loop())
        side.start((("admin", self._admin.serve_on([admin])), ("redis probe", self._readiness.watch())))
        try:
            if await unless_stopped(stop, self._enter()):
                side.start(self._loops())
                side.start((("server", self._server.serve_on(public)),))
                await side.reached(self._server.is_listening)
                await self._open(public, admin)
                await side.watch(stop)
                await self._end()
        finally:
            self._server.should_exit = self._admin.should_exit = True
            await side.ended("server", serving.STOP_S)  # what was asked is still answered
            await side.cancel()
            await self._store.close()

    async def _enter(self) -> None:
        await await_store(self._options, self._store)
        await self._directory.enter(self._node())

    async def _open(self, public: list[socket.socket], admin: socket.socket) -> None:
        await self._doors.open()
        trim_memory()
        self._options.tell_ready(public, admin)

    def _loops(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        return [
            ("uplink results", self._uplink.results.run()),
            ("uplink logs", self._uplink.logs.run()),
            ("uplink debts", self._outcomes.pay()),
            ("inbox", self._courier.read_inbox(self._doors.on_order)),
            ("delivery", self._courier.deliver()),
            ("renewal", self._presence.renew()),
            ("reports", self._reports.run()),
            ("beat", self._beat()),
            ("freeze", self._freeze()),
            *((("polling", self._poller.run()),) if self._poller else ()),
        ]

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(nodes.BEAT_S)
            self._cpu_percent = self._cpu.read()
            try:
                await self._store.sync_clock()
                await self._store.agree()  # a Redis that came back empty learns what was agreed on
                if not await self._announce():
                    raise StartError(f"node id {self._options.id} was taken over by another process")
            except StoreUnavailable:
                continue

    async def _announce(self) -> bool:
        return await self._directory.announce(self._node())

    def _node(self) -> Node:
        return Node(
            self._options.id,
            self._boot,
            self._doors.state,
            handover=self._options.handover,
            load=len(self._hub),
            pid=os.getpid(),
            machine=self._machine,
            host=programs.host_name(),
            supervisor=nodes.supervisor_of(self._machine, is_supervised=self._options.is_supervised),
            since_ms=self._doors.since_ms or self._store.now_ms(),
            cpu_percent=self._cpu_percent,
            version=self._version,
            clock_ahead_ms=self._store.clock_ahead_ms,
            **self._addresses,
        )

    async def _freeze(self) -> None:
        freezer = Freezer()
        while True:
            await asyncio.sleep(FREEZE_EVERY_S)
            freezer.look(len(self._hub))

    async def _end(self) -> None:
        await asyncio.gather(self._doors.end(), *((self._poller.stop(),) if self._poller else ()))
        with contextlib.suppress(StoreUnavailable):
            await self._directory.leave(self._node())


async def serve(options: Options) -> None:
    """Runs a node. Raises: StartError."""
    await NodeProcess(options, new_store(options)).run()
