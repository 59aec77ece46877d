"""`status --check`: whether everything adds up, asked of Redis itself, so that it says so also when no router answers."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from cluster.client.options import Cluster, put, put_json
from cluster.client.outcome import Failed
from cluster.client.streams import cluster_store, redis_of
from cluster.client.tables import pairs, table
from cluster.ledger import Ledger, Report

_SHOWN = 50  # findings, to people; programs get all


def check(cluster: Cluster, *, is_deep: bool, as_json: bool) -> None:
    """Prints what adds up and what does not. Raises: Failed when something does not."""
    report = asyncio.run(report_of(cluster, is_deep=is_deep))
    if as_json:
        put_json(_as_json(report))
    else:
        _show(report)
    if not report.is_right:
        raise Failed(_verdict(report))


async def report_of(cluster: Cluster, *, is_deep: bool) -> Report:
    """What the ledger and a walk over open tasks say. Raises: Failed."""
    feed = cluster.settings.result_stream
    async with cluster_store(redis_of(cluster.settings)) as store:
        return await Ledger(store, feed.key if feed.enabled else "").check(is_deep=is_deep)


def _show(report: Report) -> None:
    books = report.books
    put(
        pairs(
            {
                "tasks": f"{books.accepted} accepted = {books.ended} ended + {books.open} open"
                + _off(books.accepted - books.ended - books.open, books.tasks_off),
                "entries": f"{books.owed} owed = {books.written} written + {books.waiting} waiting"
                + _off(books.owed - books.written - books.waiting, books.entries_off),
                "looked at": f"{report.task_looks} places of tasks, {report.agent_looks} of agents",
            }
        )
    )
    if report.findings:
        rows = [(finding.agent_id, finding.task_id or "-", finding.what) for finding in report.findings[:_SHOWN]]
        put("\n" + table(("AGENT", "TASK", "OUT OF STEP"), rows))
    if len(report.findings) > _SHOWN:
        put(f"... and {len(report.findings) - _SHOWN} more (--json names all)\n")


def _off(difference: int, off: int) -> str:
    return f"  ({difference:+d})" if difference else f"  ({off} do not add up)" if off else ""


def _verdict(report: Report) -> str:
    books = report.books
    unnamed = "" if report.findings else ", and nothing that is left of it names one"
    off = f"; {books.tasks_off} tasks and {books.entries_off} entries do not add up" if not books.is_right else ""
    return f"{len(report.findings)} out of step{off}{unnamed}"


def _as_json(report: Report) -> Mapping[str, Any]:
    return {"ok": report.is_right, **msgspec.to_builtins(report)}
