"""`demo`: the project at work, for those who see it for the first time."""

import asyncio
from typing import Annotated

import typer

Keep = Annotated[bool, typer.Option("--keep", help="Leave the cluster running at the end, until Ctrl-C.")]


def demo(keep: Keep = False) -> int:
    """Show what this does, in half a minute.

    A cluster, agents, tasks and two deaths; it leaves nothing behind.
    """
    from cluster.lab.demo.show import show  # noqa: PLC0415 - it brings Redis's driver and the agent's WebSocket client

    return asyncio.run(show(keep=keep))
