"""`health`: whether one process is well, as an exit code, for containers and scripts that bring no HTTP client.

It asks the admin port that the settings lead to - the one of a node or router started singly, or of the router of `start` - and ends with
0 or 1, never with another code of ours for "not well": a container's health check reserves the others.
"""

import http.client
import json
from typing import Annotated
from urllib.parse import urlsplit

import typer

from cluster.client.options import ConfigFile, cluster_of, put
from cluster.client.outcome import Failed
from cluster.client.tables import shown
from cluster.errors import ConfigError

TIMEOUT_S = 3.0
MAX_BYTES = 64 << 10

AdminUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Its admin port; else on this machine, 1000 above the port of the settings."),
]
Live = Annotated[bool, typer.Option("--live", help="Whether it answers at all, also while it cannot take work.")]


def health(config: ConfigFile = None, admin_url: AdminUrl = None, live: Live = False) -> None:
    """Ask a process on this machine whether it takes work.

    Exit code 0 or 1.
    """
    url = admin_url or cluster_of(config).admin_url
    status, said = _ask(url, "/livez" if live else "/readyz")
    if status != 200:
        raise Failed(f"{url} answers {status}: {said}")
    put(f"{said}\n")


def _ask(url: str, path: str) -> tuple[int, str]:
    """Status, and what the process says of itself. Raises: Failed, ConfigError."""
    connection = http.client.HTTPConnection(*_place(url), timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, _words(response.read(MAX_BYTES))
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Failed(f"{url}: {why}") from error
    finally:
        connection.close()


def _place(url: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme != "http":
        raise ConfigError("--admin-url: expected http://host:port")
    return host, port


def _words(body: bytes) -> str:
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    status = said.get("status") if isinstance(said, dict) else None
    return shown(status or "what is no agent-server's to say")
