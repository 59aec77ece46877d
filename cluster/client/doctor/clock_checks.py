"""Checks of clocks. Everything that ends in time ends by the clock of Redis; signatures are judged by the clock of the router."""

import time

from cluster.client.doctor.finding import Finding, broken, ok, unchecked, warning
from cluster.client.doctor.patient import Patient
from cluster.client.doctor.web import asked

ODD_S = 2.0
_FIX = "let this machine's clock be set: chronyd or systemd-timesyncd (timedatectl set-ntp true)"


async def redis_clock(patient: Patient) -> Finding:
    """This machine and Redis."""
    if not patient.redis.answers:
        return unchecked("Redis does not answer")
    return _judged(patient, "Redis's clock", patient.redis.clock_ahead_ms / 1000, 0.0)


async def node_clocks(patient: Patient) -> Finding:
    """Each node and Redis, as the node saw it in its last beat."""
    nodes = [node for node in patient.redis.nodes if node.version]
    if not nodes:
        return unchecked("no node tells of its clock")
    worst = max(nodes, key=lambda node: abs(node.clock_ahead_ms))
    off_s = worst.clock_ahead_ms / 1000
    if abs(off_s) > ODD_S:
        says = f"the clock of node {worst.id} ({worst.host or 'its machine'}) is {_off(off_s)} of Redis's"
        return warning(
            f"{says}; nothing ends too early for it, but its log and what it signs or verifies tell the wrong time",
            _FIX.replace("this machine's", "that machine's"),
        )
    return ok(f"{len(nodes)} nodes, at most {abs(off_s):.2f} s from Redis's")


async def server_clock(patient: Patient) -> Finding:
    """This machine and whoever answers at the URL: a signature is refused when they are too far apart."""
    answer = await asked("GET", patient.url, "/api/self", is_trusted=False)
    if answer.date_s is None:
        return unchecked(answer.error or f"{patient.url} tells no time")
    return _judged(patient, f"the clock behind {patient.url}", answer.date_s + 0.5 - time.time(), 1.0)


async def control_plane_clock(patient: Patient) -> Finding:
    """This machine and the control plane, which signs by its own clock."""
    url = patient.settings.control_plane.url
    if not url:
        return unchecked("control_plane.url is not set")
    answer = await asked("GET", url, "/", is_trusted=False)
    if answer.date_s is None:
        return unchecked(f"the control plane: {answer.error or 'its answer has no Date'}")
    return _judged(patient, "the control plane's clock", answer.date_s + 0.5 - time.time(), 1.0)


def _judged(patient: Patient, whose: str, off_s: float, error_s: float) -> Finding:
    """`error_s`: how exact the measure is."""
    says = f"{whose} is {_off(off_s)} of this machine's"
    skew_s = patient.settings.auth.clock_skew_s
    if abs(off_s) > skew_s:
        return broken(f"{says}: signatures are refused from {skew_s:g} s on", _FIX + ", or the other's")
    if abs(off_s) > max(ODD_S, 2 * error_s):
        return warning(says, _FIX + ", or the other's")
    return ok(f"{whose} is within {max(abs(off_s), error_s, 0.001):.3g} s of this machine's")


def _off(seconds: float) -> str:
    size = f"{abs(seconds):.0f}" if abs(seconds) >= 10 else f"{abs(seconds):.2g}"
    return f"{size} s {'ahead' if seconds > 0 else 'behind'}"
