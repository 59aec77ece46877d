"""Checks of this machine: how many files processes may open, and who has our ports."""

import re
import resource
import shutil
from pathlib import Path

from cluster import ports
from cluster.client.doctor.finding import Finding, broken, ok, unchecked, warning
from cluster.client.doctor.patient import Patient
from cluster.client.doctor.web import asked
from cluster.nodes import Node, this_machine

SPARE = 500  # Redis, logs, listening sockets, handshakes, calls
_LIMIT = re.compile(r"^Max open files +(\d+|unlimited)", re.MULTILINE)


async def descriptors(patient: Patient) -> Finding:
    """A connection is a file: of the nodes on this machine, else of what this shell would start."""
    wanted = patient.settings.agent.max_connections + SPARE
    here = [node for node in patient.redis.nodes if node.machine and node.machine == this_machine()]
    limits = {f"node {node.id}": limit for node in here if (limit := _limit_of(node)) is not None}
    limits = limits or {"this shell (hard)": _endless(resource.getrlimit(resource.RLIMIT_NOFILE)[1])}
    who, least = min(limits.items(), key=lambda item: item[1])
    says = (
        f"{who} may open {least} files; agent.max_connections {patient.settings.agent.max_connections} wants {wanted}"
    )
    if least < wanted:
        return warning(
            says,
            f"LimitNOFILE={wanted} in the unit, ulimits in compose, or ulimit -Hn; or a lower agent.max_connections",
        )
    return ok(says)


async def own_ports(patient: Patient) -> Finding:
    """The port of the settings is ours, or free."""
    server = patient.settings.server
    if not server.port:
        return ok("server.port is 0: any free one is taken")
    url = ports.http_url("127.0.0.1" if server.host in ("0.0.0.0", "::", "") else server.host, server.port)  # noqa: S104 - compared
    answer = await asked(
        "GET", url.replace("http", "https", 1) if server.tls_cert else url, "/api/self", is_trusted=False
    )
    if answer.status in (200, 403, 404, 503) and "json" in answer.headers.get("content-type", ""):
        return ok(f"port {server.port} is served by an agent-server")
    if answer.error == "nothing listens there":
        return ok(f"port {server.port} is free on this machine")
    what = answer.error or f"it answers {answer.status} with {answer.headers.get('content-type', 'no type')}"
    return broken(
        f"port {server.port} is used by another program: {what}",
        f"stop it (ss -ltnp 'sport = :{server.port}' names it), or choose another with server.port",
    )


def _limit_of(node: Node) -> int | None:
    try:
        found = _LIMIT.search(Path(f"/proc/{node.pid}/limits").read_text())
    except OSError:
        return None
    return None if found is None else 1 << 30 if found[1] == "unlimited" else int(found[1])


def _endless(limit: int) -> int:
    return 1 << 30 if limit == resource.RLIM_INFINITY else limit


async def disk(patient: Patient) -> Finding:
    """Where the embedded Redis and logs write."""
    folder = Path(patient.settings.cluster.data_dir)
    if patient.settings.redis.enabled:
        return unchecked("no embedded Redis on this machine")
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return unchecked(f"{folder}: {error.strerror}")
    says = f"{free >> 20} MiB free where {folder} is"
    return ok(says) if free > 1 << 30 else warning(says, "free some: with a full disk Redis refuses every write")
