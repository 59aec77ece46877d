"""`doctor`: looks at Redis, clocks, processes, this machine and the path from outside, and says what is wrong and what to do about it."""

import asyncio
from typing import Annotated

import typer

from cluster.client.options import AsJson, Cluster, ConfigFile, DataDir, RedisUrl, cluster_of, put, put_json
from cluster.client.outcome import Failed
from cluster.errors import ConfigError

Outside = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Where agents and the control plane reach it; else server.public_url, or this machine's port.",
    ),
]
IdleS = Annotated[
    float,
    typer.Option(
        metavar="S",
        min=0.0,
        max=170.0,
        help="Hold a WebSocket idle for so long: 22 shows that nodes' pings and agents' heartbeats keep it. 0: not.",
    ),
]


def doctor(
    config: ConfigFile = None,
    url: Outside = None,
    idle_s: IdleS = 0.0,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong and what to do about it; changes nothing. Exit code 1 when something is broken."""
    from cluster.client.doctor import examination  # noqa: PLC0415 - the drivers take longer to import than the rest

    cluster = cluster_of(config, None, redis_url, data_dir)
    checked = asyncio.run(examination.examined(cluster, outside_of(cluster, url), idle_s))
    is_well = examination.is_well(checked)
    if as_json:
        put_json({"ok": is_well, "checks": examination.as_json(checked)})
    else:
        put(f"{examination.told(checked)}{examination.counted(checked)}\n")
    if not is_well:
        raise Failed(examination.counted(checked))


def outside_of(cluster: Cluster, url: str | None) -> str:
    """The URL that is to be tried. Raises: ConfigError."""
    from cluster.client.doctor.web import parts_of  # noqa: PLC0415 - as above

    try:
        return parts_of(url or cluster.settings.server.public_url or cluster.url).geturl()
    except ValueError as error:
        raise ConfigError(f"--url: {error}") from None
