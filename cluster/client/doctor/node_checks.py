"""Checks of the processes: who lives, whether they are of one version, whom registrations told that a host id is taken."""

import asyncio
import re
from collections import Counter

from cluster import programs
from cluster.client.doctor.finding import Finding, broken, ok, unchecked, warning
from cluster.client.doctor.patient import Patient
from cluster.client.doctor.web import Answer, asked
from cluster.nodes import READY, this_machine

_REFUSED = re.compile(rb'^agent_server_registrations_total\{outcome="host_id_refused"\} (\S+)', re.MULTILINE)


async def alive(patient: Patient) -> Finding:
    """Nodes that beat, and take agents."""
    redis = patient.redis
    if not redis.answers:
        return unchecked("Redis does not answer")
    if any(line.startswith("EXISTS:") for line in redis.refused):
        return unchecked("this user of Redis may not look")
    if not redis.is_cluster_here:
        return broken(
            f"this Redis holds no cluster under the prefix {patient.settings.redis.prefix}",
            "start it (agent-server start), or name the cluster's own Redis and prefix: redis.url, redis.prefix",
        )
    states = Counter(node.state for node in redis.nodes)
    says = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "no node lives"
    if not states[READY]:
        return broken(f"{says}: no agent can connect", "start nodes; a node that ends by itself says why in its log")
    agents = sum(node.load for node in redis.nodes)
    if states[READY] == 1:
        return warning(f"{says}, {agents} agents: its restart lets all of them wait", "run at least two nodes")
    return ok(f"{says}, {agents} agents connected")


async def versions(patient: Patient) -> Finding:
    """All of one version, this command too."""
    own = programs.version()
    found = Counter(node.version or "an older one" for node in patient.redis.nodes)
    if not found:
        return unchecked("no node tells its version")
    if len(found) > 1:
        says = ", ".join(f"{count} nodes of {version}" for version, count in sorted(found.items()))
        return warning(f"{says}", "finish the rollout: restart those that are behind (agent-server restart)")
    [version] = found
    if own and version != own:
        return warning(f"nodes are of {version}, this command of {own}", "use the command of the same version")
    return ok(f"all nodes are of {version}")


async def host_ids(patient: Patient) -> Finding:
    """Registrations that asked for a host id which another agent has, since each process began."""
    urls = admin_urls(patient)
    answers = dict(zip(urls, await asyncio.gather(*(asked("GET", url, "/metrics") for url in urls)), strict=True))
    counts = {url: count for url, answer in answers.items() if (count := _refused(answer)) is not None}
    if not counts:
        return unchecked("no admin port that can be reached from here")
    total = sum(counts.values())
    if total:
        return warning(
            f"{total} registrations asked for a host id that another agent, online, has: tasks for it go to that one",
            "two agents are told the same host id: the log says which (host_id belongs to another agent); correct one",
        )
    return ok(f"none refused, as {len(counts)} of {len(urls)} processes tell")


def admin_urls(patient: Patient) -> list[str]:
    """Admin ports of processes. Those that can be meant from here: a loopback address means another machine's own."""
    here = this_machine()
    told = [
        node.admin
        for node in patient.redis.nodes
        if node.admin and (node.machine == here or "//127." not in node.admin)
    ]
    return sorted({*told, *([patient.admin_url] if patient.admin_url else [])})


def _refused(answer: Answer) -> int | None:
    found = _REFUSED.search(answer.body)
    return int(float(found[1])) if found else None
