"""All checks, in the order in which they are told, and their run: a check that takes too long, or fails of a mistake of ours, is not checked."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import msgspec

from cluster.client.doctor import (
    clock_checks,
    front_checks,
    machine_checks,
    node_checks,
    redis_checks,
    signature_checks,
)
from cluster.client.doctor.finding import Checked, Finding, Verdict, unchecked
from cluster.client.doctor.patient import Patient, admitted
from cluster.client.options import Cluster
from cluster.client.tables import padded, shown, width

TOGETHER_S = 10.0
SIGNATURE: Final = "signature"

Check = Callable[[Patient], Awaitable[Finding]]

CHECKS: Final[Sequence[tuple[str, Check]]] = (
    ("redis", redis_checks.reachable),
    ("redis version", redis_checks.version),
    ("redis persistence", redis_checks.persistence),
    ("redis eviction", redis_checks.eviction),
    ("redis memory", redis_checks.memory),
    ("redis latency", redis_checks.latency),
    ("redis rights", redis_checks.rights),
    ("clock of redis", clock_checks.redis_clock),
    ("clocks of nodes", clock_checks.node_clocks),
    ("clock of server", clock_checks.server_clock),
    ("clock of control plane", clock_checks.control_plane_clock),
    ("nodes", node_checks.alive),
    ("versions", node_checks.versions),
    ("host ids", node_checks.host_ids),
    ("open files", machine_checks.descriptors),
    ("port", machine_checks.own_ports),
    ("disk", machine_checks.disk),
    ("certificate", front_checks.certificate),
    ("upgrade", front_checks.upgrade),
    ("idle connections", front_checks.idle),
    ("ws_url", front_checks.ws_url),
    ("request size", front_checks.body_limit),
    (SIGNATURE, signature_checks.vector),
    ("signed call", signature_checks.signed_call),
)


async def examine(patient: Patient, checks: Sequence[tuple[str, Check]] = CHECKS) -> list[Checked]:
    """What every check found. They run at once: none waits for another, and none changes anything."""
    until_s = time.monotonic() + TOGETHER_S + patient.idle_s
    findings = await asyncio.gather(*(_found(check, patient, until_s) for _, check in checks))
    return [Checked(name, finding) for (name, _), finding in zip(checks, findings, strict=True)]


async def _found(check: Check, patient: Patient, until_s: float) -> Finding:
    try:
        async with asyncio.timeout(until_s - time.monotonic()):
            return await check(patient)
    except TimeoutError:
        return unchecked(f"it took more than {TOGETHER_S:g} s")
    except Exception as error:  # noqa: BLE001 - one check that fails of a mistake must not hide what the others found
        return unchecked(f"a mistake of this command, {type(error).__name__}: {error}")


async def examined(cluster: Cluster, url: str, idle_s: float = 0.0) -> list[Checked]:
    """What every check found about a cluster that is reached at `url`."""
    return await examine(await admitted(cluster, url, idle_s))


def as_json(checked: Iterable[Checked]) -> list[dict[str, object]]:
    """For programs."""
    return [{"check": one.check, **msgspec.to_builtins(one.finding)} for one in checked]


def is_well(checked: Iterable[Checked]) -> bool:
    """Whether nothing is broken."""
    return not any(one.finding.verdict is Verdict.BROKEN for one in checked)


def told(checked: Sequence[Checked]) -> str:
    """All of it, for people: a line a check, what to do below."""
    verdicts = max(width(one.finding.verdict.value) for one in checked)
    names = max(width(one.check) for one in checked)
    indent = " " * (verdicts + names + 4)
    return "".join(
        f"{line}\n"
        for one in checked
        for line in (
            f"{padded(one.finding.verdict.value, verdicts)}  {padded(one.check, names)}  {shown(one.finding.says)}",
            *(f"{indent}fix: {shown(fix)}" for fix in (one.finding.fix,) if fix),
            *(f"{indent}{shown(detail)}" for detail in one.finding.details),
        )
    )


def counted(checked: Sequence[Checked]) -> str:
    """How many of each verdict."""
    verdicts = sorted((one.finding.verdict for one in checked), key=list(Verdict).index)
    return ", ".join(f"{len(list(group))} {verdict.value}" for verdict, group in itertools.groupby(verdicts))
