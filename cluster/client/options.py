"""What the commands that ask a cluster have in common: their flags, and which cluster they mean by them."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cluster import config as configuration
from cluster import ports
from cluster.client.api import Api
from cluster.errors import ConfigError
from cluster.settings import Settings

ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="The settings; else config.yaml in ., configs, config, /etc/agent-server.",
    ),
]
Url = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Where the server is; else on this machine, on the port of the settings."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]
RedisUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The Redis of the cluster; else that of the settings, or of --data-dir."),
]
DataDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the embedded Redis keeps its data.")]

FEEDS: Mapping[str, str] = {  # as they are called here, and their sections of the settings
    "results": "result_stream",
    "logs": "log_stream",
    "status": "status_stream",
    "stats": "task_stats_stream",
}

_THIS_MACHINE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound


@dataclass(frozen=True)
class Cluster:
    """The cluster that a command line means."""

    settings: Settings
    url: str

    def api(self) -> Api:
        """Its HTTP API; calls are signed when a secret is configured. Raises: ConfigError."""
        return Api(self.url, self.settings.auth.shared_secret)

    @property
    def admin_url(self) -> str:
        """Where the process beside us serves its health, as far as its settings tell. Raises: ConfigError."""
        server = self.settings.server
        if not server.port:
            raise ConfigError("server.port is 0, any free one: --admin-url says where it is")
        host = _THIS_MACHINE.get(server.admin_host, server.admin_host)
        return ports.http_url(host, server.port + ports.ADMIN_ABOVE)


def cluster_of(
    config: str | None, url: str | None = None, redis_url: str | None = None, data_dir: Path | None = None
) -> Cluster:
    """What the flags, the environment and the file say. Raises: ConfigError."""
    flags = {
        "redis.url": redis_url,
        "redis.enabled": True if redis_url else None,
        "cluster.data_dir": data_dir and data_dir.absolute(),
    }
    settings = configuration.load(config, environ=os.environ, flags=flags).settings
    server = settings.server
    own = ports.http_url(_THIS_MACHINE.get(server.host, server.host), server.port)
    return Cluster(settings, url or (own.replace("http", "https", 1) if server.tls_cert else own))


def say(words: str) -> None:
    """Words for people, beside the data."""
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


def put_json(data: object) -> None:
    """Data for programs, one line."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def put(text: str) -> None:
    """Data for people, lines with their ends."""
    sys.stdout.write(text)
    sys.stdout.flush()
