"""The commands of `agent-server` and their flags.

Owns what can be said on the command line. Must not know how anything runs: a command loads the settings and hands over. Rules:
- Flags are settings: each sets one, over the environment and the file; `--set section.key=value` reaches them all.
- What asks a cluster that runs is in cluster/client, a file a group of commands.
- `node` and `router` become those programs (exec): the same ones that `start` runs as its children.
"""

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cluster import cli, commands_export, programs
from cluster import config as configuration
from cluster.client import (
    commands_agent,
    commands_agents,
    commands_bench,
    commands_debug,
    commands_demo,
    commands_doctor,
    commands_health,
    commands_nodes,
    commands_restart,
    commands_streams,
    commands_tasks,
    commands_top,
)
from cluster.client.options import AsJson, ConfigFile, put, put_json
from cluster.client.tables import table
from cluster.errors import ConfigError

app = typer.Typer(
    help="A gateway between a control plane and the agents on its hosts.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Look at the settings.", rich_markup_mode=None)
app.add_typer(config_app, name="config")

Host = Annotated[str | None, typer.Option(metavar="HOST", help="Address to listen on.")]
Port = Annotated[int | None, typer.Option(metavar="PORT", help="Port to listen on; 0 takes a free one.")]
Nodes = Annotated[
    int | None, typer.Option(metavar="N", help="How many nodes; 0: one for each CPU but one, at least two.")
]
DataDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the embedded Redis keeps its data.")]
RedisUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Use this Redis and start none; AGENT_SERVER_REDIS_URL hides a password better."),
]
LogLevel = Annotated[str | None, typer.Option(metavar="LEVEL", help="debug, info, warn, error or fatal.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any other setting; may be given again.")
]
Name = Annotated[
    str | None,
    typer.Option("--id", metavar="NAME", help="Its name among all that share a Redis; else this machine's name."),
]
Prefix = Annotated[
    str,
    typer.Option(
        "--name", metavar="NAME", help="What its processes' names begin with, where two starts share a Redis."
    ),
]
Cpu = Annotated[int | None, typer.Option(metavar="N", help="The CPU it stays on.")]
IsOrigin = Annotated[bool, typer.Option("--origin", help="Where each value comes from: file and line, variable, flag.")]
IsEnv = Annotated[bool, typer.Option("--env", help="As environment variables; defaults and secrets as comments.")]
IsDoc = Annotated[bool, typer.Option("--doc", help="Every key with its meaning, unit and default, as YAML.")]
AdminPort = Annotated[int | None, typer.Option(metavar="PORT", help="Port for health and metrics.")]


def run(arguments: Sequence[str]) -> int:
    """Runs one command line; its exit code. Raises: AgentServerError, one line."""
    try:
        code = app(list(arguments), prog_name="agent-server", standalone_mode=False)
    except Exception as error:
        if type(error).__name__ == "Abort":  # click's word for Ctrl-C
            raise KeyboardInterrupt from None
        tell = getattr(error, "format_message", None)  # click's usage errors, wherever this typer keeps its click
        if tell is None:
            raise
        context = getattr(error, "ctx", None)
        hint = f" ({context.command_path} --help says more)" if context else ""
        raise ConfigError(tell().rstrip(".") + hint) from error
    return code if isinstance(code, int) else 0


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(cli.version_text())
        raise typer.Exit


@app.callback()
def _everywhere(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """What may be said before any command."""


@app.command()
def start(  # noqa: PLR0913, PLR0917 - an argument a flag
    config: ConfigFile = None,
    host: Host = None,
    port: Port = None,
    nodes: Nodes = None,
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
    log_level: LogLevel = None,
    settings: Settings = None,
    name: Prefix = "",
) -> None:
    """Run everything on this machine: a router and nodes.

    Where no Redis is configured, it runs one too.
    """
    own = {"cluster.nodes": nodes, "cluster.data_dir": data_dir and data_dir.absolute()}
    flags = {**_flags(host, port, redis_url, log_level, settings), **_given(own)}
    loaded = configuration.load(config, environ=os.environ, flags=flags)
    if _is_read_by_people(loaded):
        flags["logging.format"] = "text"  # a flag, for its children too
        loaded = configuration.load(config, environ=os.environ, flags=flags)
    for warning in loaded.warnings:
        typer.echo(f"agent-server: warning: {warning}", err=True)
    _supervise(loaded, flags, name)


@app.command()
def node(  # noqa: PLR0913, PLR0917 - an argument a flag
    config: ConfigFile = None,
    host: Host = None,
    port: Port = None,
    redis_url: RedisUrl = None,
    log_level: LogLevel = None,
    settings: Settings = None,
    name: Name = None,
    cpu: Cpu = None,
    admin_port: AdminPort = None,
) -> None:
    """Run one node: it holds agents' connections, on a port of its own."""
    flags = _flags(host, port, redis_url, log_level, settings)
    _become("node", config, flags, {"--id": name, "--cpu": cpu, "--admin-port": admin_port})


@app.command()
def router(  # noqa: PLR0913, PLR0917 - an argument a flag
    config: ConfigFile = None,
    host: Host = None,
    port: Port = None,
    redis_url: RedisUrl = None,
    log_level: LogLevel = None,
    settings: Settings = None,
    name: Name = None,
    cpu: Cpu = None,
    admin_port: AdminPort = None,
) -> None:
    """Run one router: it takes the control plane's calls."""
    flags = _flags(host, port, redis_url, log_level, settings)
    _become("router", config, flags, {"--id": name, "--cpu": cpu, "--admin-port": admin_port})


app.command()(commands_agent.agent)
app.command()(commands_demo.demo)
app.command()(commands_agents.status)
app.command()(commands_top.top)
app.command()(commands_restart.restart)
app.command()(commands_health.health)
app.command()(commands_doctor.doctor)
app.add_typer(commands_debug.app, name="debug")
app.add_typer(commands_agents.app, name="agents")
app.add_typer(commands_nodes.app, name="nodes")
app.add_typer(commands_tasks.app, name="tasks")
app.add_typer(commands_streams.app, name="streams")
app.add_typer(commands_export.app, name="export")
app.command()(commands_bench.bench)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(cli.version_text())


@config_app.command()
def show(
    config: ConfigFile = None,
    settings: Settings = None,
    is_origin: IsOrigin = False,
    is_env: IsEnv = False,
    is_doc: IsDoc = False,
    as_json: AsJson = False,
) -> None:
    """Show the settings in force; secrets are ***."""
    if is_origin + is_env + is_doc + as_json > 1:
        raise ConfigError("config show: one of --origin, --env, --doc and --json")
    from cluster import config_text  # noqa: PLC0415 - `start` has no use for it

    if is_doc:
        put(config_text.explained())
        return
    loaded = configuration.load(config, environ=os.environ, flags=_flags(settings=settings))
    values, origins = config_text.values(loaded), config_text.origins(loaded)
    if as_json:
        put_json({name: {"value": value, "origin": origins[name]} for name, value in values.items()})
    elif is_origin:
        put(
            table(
                ("KEY", "VALUE", "FROM"), ((name, config_text.scalar(values[name]), origins[name]) for name in values)
            )
        )
    else:
        put(config_text.as_environment(loaded) if is_env else config_text.as_yaml(loaded))


@config_app.command()
def check(config: ConfigFile = None, settings: Settings = None) -> None:
    """Load the settings and say what is odd about them."""
    loaded = configuration.load(config, environ=os.environ, flags=_flags(settings=settings))
    for warning in loaded.warnings:
        typer.echo(f"warning: {warning}")
    for key, reason in configuration.without_effect(loaded):
        typer.echo(f"without effect: {key}: {reason}")
    typer.echo(f"{loaded.path or 'no config.yaml, defaults'}: ok")


def _is_read_by_people(loaded: configuration.Loaded) -> bool:
    """Whether log records go to a terminal, and nobody said in which form."""
    logs = loaded.settings.logging
    return sys.stderr.isatty() and not (logs.dir or logs.file or "logging.format" in loaded.given)


def _supervise(loaded: configuration.Loaded, flags: Mapping[str, object], name: str) -> None:
    import asyncio  # noqa: PLC0415 - this and the next two are for `start` alone

    from cluster.launcher import Launcher  # noqa: PLC0415
    from cluster.log_output import configure_logging  # noqa: PLC0415

    configure_logging(loaded.settings.logging, secrets=loaded.settings.secrets())
    launcher = Launcher(loaded, environ=os.environ, flags=flags, name=name)
    asyncio.run(launcher.run())
    if launcher.has_served:
        redis = loaded.settings.redis
        state = programs.where_it_is(redis) if redis.enabled else loaded.settings.cluster.data_dir
        with contextlib.suppress(OSError):  # its terminal may be gone
            typer.echo(f"agent-server: stopped; its state is in {state}", err=True)


def _become(module: str, config: str | None, flags: Mapping[str, object], options: Mapping[str, object]) -> NoReturn:
    """Turns this process into another program, which then answers signals itself."""
    loaded = configuration.load(
        config, environ=os.environ, flags=flags
    )  # a slip is told in the words of the command line
    if _is_read_by_people(loaded):
        flags = {**flags, "logging.format": "text"}
    given = _given({"--config": config, **options})
    arguments = [str(part) for option, value in given.items() for part in (option, value)]
    command = [*programs.module_command(module), *arguments]
    sys.stdout.flush()
    os.execve(command[0], command, programs.child_environ(os.environ, flags))  # noqa: S606 - no shell is wanted


def _flags(
    host: str | None = None,
    port: int | None = None,
    redis_url: str | None = None,
    log_level: str | None = None,
    settings: list[str] | None = None,
) -> dict[str, object]:
    named = {"server.host": host, "server.port": port, "redis.url": redis_url, "logging.level": log_level}
    uses_redis = {"redis.enabled": True} if redis_url else {}
    return {**dict(_setting(text) for text in settings or ()), **_given(named), **uses_redis}


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {key}: expected section.key=value")
    return key.strip(), value


def _given(options: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}
