"""`agent`: the reference agent, on this host."""

import os
import platform
from pathlib import Path
from typing import Annotated

import typer

from cluster.client.options import ConfigFile, Url, cluster_of

Name = Annotated[str | None, typer.Option(metavar="NAME", help="What the agent is called; else this host's name.")]
Labels = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="May be given again.")]
HostId = Annotated[int, typer.Option(metavar="N", min=0, help="The control plane's number of this host.")]
Token = Annotated[
    str, typer.Option(metavar="TOKEN", help="Better in AGENT_TOKEN; without one the server makes it, and it is kept.")
]
StateDir = Annotated[Path | None, typer.Option(metavar="DIR", help="What outlives the process; one folder an agent.")]
MaxTasks = Annotated[int, typer.Option(metavar="N", min=1, help="How many tasks run at once.")]


def agent(
    name: Name = None,
    label: Labels = None,
    host_id: HostId = 0,
    token: Token = "",
    state_dir: StateDir = None,
    max_tasks: MaxTasks = 5,
    config: ConfigFile = None,
    url: Url = None,
) -> int:
    """Run the reference agent on this host."""
    from cluster.lab import agent as lab  # noqa: PLC0415 - nobody else has a use for its WebSocket client
    from cluster.lab.command import TOKEN_VARIABLE  # noqa: PLC0415
    from cluster.lab.options import AgentOptions  # noqa: PLC0415

    options = AgentOptions(
        url=cluster_of(config, url).url,
        name=name or platform.node(),
        token=token or os.environ.get(TOKEN_VARIABLE, ""),
        labels=lab.labels_from(label or ()),
        host_id=host_id,
        state_dir=state_dir,
        max_tasks=max_tasks,
    )
    return lab.run(options)
