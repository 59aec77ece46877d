"""`top`: what a cluster does, as it does it."""

import asyncio
import sys
from collections.abc import Coroutine
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.client.options import AsJson, Cluster, ConfigFile, DataDir, RedisUrl, cluster_of, put, put_json
from cluster.client.outcome import INTERRUPTED, OK

if TYPE_CHECKING:
    from cluster.client.looks import Look
    from cluster.redis_client import Store

Once = Annotated[bool, typer.Option("--once", help="Print one snapshot and end, as where there is no terminal.")]
Interval = Annotated[float, typer.Option("--interval", metavar="S", min=0.2, max=3600, help="Seconds between looks.")]

_SNAPSHOT_S = 1.0  # between its two looks: a rate needs two


def top(
    config: ConfigFile = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    interval_s: Interval = 2.0,
    once: Once = False,
    as_json: AsJson = False,
) -> int:
    """Watch nodes, agents, tasks, feeds and Redis at work; q ends it.

    Redis is asked, and the nodes' admin ports for messages a second. A - is what nobody here knows.
    LAG counts entries that a group was not handed yet, BEHIND is the age of the oldest; PENDING were handed out and not acked.
    """
    cluster = cluster_of(config, None, redis_url, data_dir)
    is_live = sys.stdout.isatty() and not once and not as_json
    return asyncio.run(_live(cluster, interval_s) if is_live else _once(cluster, interval_s, as_json=as_json))


async def _once(cluster: Cluster, interval_s: float, *, as_json: bool) -> int:
    from cluster.client import looks, overview  # noqa: PLC0415 - `start` has no use for Redis's driver
    from cluster.client.streams import cluster_store, reached  # noqa: PLC0415

    async with cluster_store(await reached(cluster.settings)) as store:
        before = await looks.take(store, cluster.settings)
        await asyncio.sleep(min(interval_s, _SNAPSHOT_S))
        said = overview.figures(before, await looks.take(store, cluster.settings))
    if as_json:
        put_json(said)
    else:
        put("\n".join(overview.lines(said)) + "\n")
    return OK


async def _live(cluster: Cluster, interval_s: float) -> int:
    from cluster.client.streams import cluster_store, place_of, reached  # noqa: PLC0415
    from cluster.client.terminal import Terminal  # noqa: PLC0415

    redis = await reached(cluster.settings)
    async with cluster_store(redis) as store:
        terminal = Terminal()
        with terminal.shown():
            view = _View(store, cluster, place_of(redis))
            while not terminal.ended.is_set():
                terminal.draw(await _or_end(terminal.ended, view.page()) or ())
                await _or_end(terminal.ended, asyncio.sleep(interval_s if view.has_rates else _SNAPSHOT_S))
    return INTERRUPTED if terminal.is_interrupted else OK


async def _or_end(ended: asyncio.Event, step: Coroutine[Any, Any, Any]) -> Any:
    """What a step brings; None when the end comes first."""
    tasks = [asyncio.create_task(step, name="look"), asyncio.create_task(ended.wait(), name="end")]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _View:
    """What is drawn: the newest figures, and above them how it goes."""

    def __init__(self, store: "Store", cluster: Cluster, where: str) -> None:
        self._store = store
        self._cluster = cluster
        self._where = where
        self._before: Look | None = None
        self._lines: list[str] = []
        self.has_rates = False

    async def page(self) -> list[str]:
        """A new look; while Redis is away, the last one."""
        from cluster.client import looks, overview  # noqa: PLC0415
        from cluster.errors import StoreUnavailable  # noqa: PLC0415

        problem = ""
        try:
            look = await looks.take(self._store, self._cluster.settings)
            before, self.has_rates = self._before or look, self._before is not None
            self._before, self._lines = look, overview.lines(overview.figures(before, look))
        except StoreUnavailable as error:
            problem = f"{error}; these are the last figures"
        at = datetime.now().astimezone().strftime("%H:%M:%S")
        return [f"agent-server top  {at}  {self._where}  q ends", problem, *self._lines]
