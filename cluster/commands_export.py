"""`export ...`: the settings in use, as files to deploy with."""

import os
from pathlib import Path
from typing import Annotated

import typer

from cluster import config as configuration
from cluster.client.ends import counted
from cluster.client.options import ConfigFile, say

app = typer.Typer(help="Write the settings in use as files to deploy with.", rich_markup_mode=None)

Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="A new folder; else agent-server-<kind>, here.")
]


@app.command()
def systemd(output: Output = None, config: ConfigFile = None) -> None:
    """Write systemd units, with config.yaml and a file of secrets."""
    _export("systemd", output, config)


@app.command()
def compose(output: Output = None, config: ConfigFile = None) -> None:
    """Write a compose file: Redis, two nodes, a router and HAProxy."""
    _export("compose", output, config)


@app.command()
def kubernetes(output: Output = None, config: ConfigFile = None) -> None:
    """Write manifests for Kubernetes, which kustomize renders."""
    _export("kubernetes", output, config)


def _export(kind: str, output: Path | None, config: str | None) -> None:
    from cluster.export import export  # noqa: PLC0415 - `start` has no use for it

    loaded = configuration.load(config, environ=os.environ)
    made = export(kind, loaded, output or Path(f"agent-server-{kind}"))
    files = sum(path.is_file() for path in made.folder.rglob("*"))
    say(f"{made.folder}: {counted(files, 'file')}")
    for path in made.secret_files:
        say(f"secrets are in {path}, which you alone can read (mode 0600)")
    for note in made.notes:
        say(note)
