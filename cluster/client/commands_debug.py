"""`debug bundle`: one file with what whoever helps will ask for, and without secrets."""

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster import config as configuration
from cluster.client.commands_doctor import Outside, outside_of
from cluster.client.options import Cluster, ConfigFile, DataDir, RedisUrl, cluster_of, say
from cluster.client.outcome import Failed

if TYPE_CHECKING:
    from cluster.client.bundle import Bundle

app = typer.Typer(help="Gather what helps to find out what is wrong.", rich_markup_mode=None)

Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Else agent-server-debug-<time>.tar.gz, here.")
]


@app.callback()
def _everywhere() -> None:
    """Makes `bundle` a word of its own, as long as it is alone."""


@app.command()
def bundle(
    config: ConfigFile = None,
    output: Output = None,
    url: Outside = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Write settings, versions, doctor, status, ledger, Redis, metrics and the ends of logs into one file, without secrets."""
    name = f"agent-server-debug-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    path = output or Path(f"{name}.tar.gz")
    cluster = cluster_of(config, url, redis_url, data_dir)
    gathered = asyncio.run(_gathered(name, configuration.load(config, environ=os.environ), cluster, url))
    try:
        size = gathered.save(path)
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror}") from error
    say(f"{path}: {len(gathered.parts)} parts, {size / 1024:.0f} KiB; secrets are taken out, look before you send it")


async def _gathered(name: str, loaded: configuration.Loaded, cluster: Cluster, url: str | None) -> "Bundle":
    from cluster.client import debug_parts  # noqa: PLC0415 - the drivers take longer to import than the rest
    from cluster.client.bundle import Bundle  # noqa: PLC0415
    from cluster.client.doctor.patient import admitted  # noqa: PLC0415
    from cluster.client.masking import Masking  # noqa: PLC0415

    secrets = {*loaded.settings.secrets(), *cluster.settings.secrets()}
    made = Bundle(name, Masking(secrets))
    patient = await admitted(cluster, outside_of(cluster, url))
    await debug_parts.gather(made, loaded, cluster, patient)
    return made
