"""`tasks ...`: run a command on agents, look at a task, cancel it."""

import asyncio
import secrets
import shlex
import signal
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand
from typing_extensions import override

from cluster.client import agents as known
from cluster.client import completion
from cluster.client.agents import Agent
from cluster.client.api import Api
from cluster.client.completion import WORDS
from cluster.client.ends import ENDS
from cluster.client.options import AsJson, Cluster, ConfigFile, DataDir, RedisUrl, Url, cluster_of, put, put_json, say
from cluster.client.outcome import FAILED, OK, PARTLY, Failed, NotFound
from cluster.client.tables import pairs, shown, table
from cluster.errors import ConfigError
from cluster.settings import Settings

if TYPE_CHECKING:
    from cluster.client.job import Job
    from cluster.client.report import Report
    from cluster.client.run import Feeds

app = typer.Typer(help="Run commands on agents, and look at tasks.", rich_markup_mode=None)

_PYTHONS = ("python", "python3")

Reference = Annotated[
    str, typer.Argument(metavar="AGENT", help="Its id, its host id or its name.", autocompletion=completion.agents)
]
TaskId = Annotated[str, typer.Argument(metavar="TASK", help="The task's id.", autocompletion=completion.tasks)]
References = Annotated[
    list[str] | None,
    typer.Argument(metavar="AGENT...", help="Ids, host ids or names.", autocompletion=completion.agents),
]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY[=VALUE]", help="All online agents with this label; given again: and this."),
]
Everyone = Annotated[bool, typer.Option("--all", help="All online agents.")]
TimeLimit = Annotated[int | None, typer.Option("--timeout", metavar="S", min=1, help="How long it may run.")]
ScriptType = Annotated[str, typer.Option(metavar="TYPE", help="shell, bash, sh, python or python3.")]
Env = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable for it; may be given again.")]
WorkDir = Annotated[str | None, typer.Option(metavar="DIR", help="The folder it runs in.")]
RunAs = Annotated[str | None, typer.Option(metavar="USER", help="The user it runs as.")]
Queue = Annotated[bool, typer.Option("--queue", help="Also agents that are offline: their tasks wait for them.")]
Detach = Annotated[bool, typer.Option("--detach", help="Post the tasks, say their ids, and do not wait.")]


class RunCommand(TyperCommand):
    """A command that takes what stands behind `--` as it is."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        place = args.index("--") if "--" in args else len(args)
        if place < len(args):
            ctx.meta[WORDS] = args[place + 1 :]
        return super().parse_args(ctx, args[:place])

    @override
    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS]", "AGENT...", "--", "COMMAND..."]


@app.command(cls=RunCommand)
def run(  # noqa: PLR0913, PLR0917 - an argument a flag
    ctx: typer.Context,
    references: References = None,
    label: Labels = None,
    everyone: Everyone = False,
    timeout: TimeLimit = None,
    script_type: ScriptType = "shell",
    env: Env = None,
    work_dir: WorkDir = None,
    run_as: RunAs = None,
    queue: Queue = False,
    detach: Detach = False,
    config: ConfigFile = None,
    url: Url = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """Run a command on agents, and show what it prints.

    With one agent, the exit code is the command's own.

    One word behind -- is a line for the shell (or the script); several are a command and its arguments.
    Ctrl-C cancels the tasks. With several agents: 0 all succeeded, 6 some did, 5 all timed out, else 1.
    """
    where = {"work_dir": work_dir, "run_as": run_as, "env": _env(env or ())}
    spec = {**task(ctx.meta.get(WORDS, []), script_type), **{name: value for name, value in where.items() if value}}
    if timeout:
        spec["timeout_sec"] = timeout
    cluster = cluster_of(config, url, redis_url, data_dir)
    agents = _agents(cluster.api(), references or (), label or (), everyone=everyone, queue=queue or detach)
    return asyncio.run(_run(cluster, agents, spec, detach=detach, as_json=as_json))


@app.command()
def show(
    agent: Reference, task_id: TaskId, config: ConfigFile = None, url: Url = None, as_json: AsJson = False
) -> None:
    """Show how a task stands, when it was sent and how it ended."""
    api = cluster_of(config, url).api()
    [found] = known.find(api, [agent])
    said = _known(api, found, task_id)
    if as_json:
        put_json(said)
        return
    put(pairs({**_fields(said, found.id), "agent": f"{found.name} ({found.id})"}))


@app.command()
def cancel(
    agent: Reference, task_id: TaskId, config: ConfigFile = None, url: Url = None, as_json: AsJson = False
) -> None:
    """Cancel a task. One that has ended stays as it ended."""
    api = cluster_of(config, url).api()
    [found] = known.find(api, [agent])
    before = _known(api, found, task_id)["status"]
    said = api.post("api", "agents", found.id, "tasks", task_id, "cancel")
    if as_json:
        put_json(said)
    elif before in ENDS:
        say(f"{shown(task_id)} has ended before: {shown(before)}")
    elif said["source"] == "websocket":
        say(f"{shown(found.name)} is told to cancel {shown(task_id)}")
    else:
        say(f"{shown(task_id)}: {shown(said['status'])}")


def _known(api: Api, agent: Agent, task_id: str) -> dict[str, Any]:
    """How a task stands. Raises: NotFound."""
    try:
        said: dict[str, Any] = api.get("api", "agents", agent.id, "tasks", task_id)
    except NotFound:
        name, task_name = shown(agent.name), shown(task_id)
        raise NotFound(f"{name} has no task '{task_name}' (those that ended are known for 25 hours)") from None
    return said


def _fields(said: dict[str, Any], agent_id: str) -> dict[str, object]:
    """A task as people are told of it, a name and a value each."""
    is_own_end = said["ended_by"] == f"end:{agent_id}:{said['task_id']}"
    message = said["ended_by"] and f"the agent, message {said['ended_by']}"
    return {
        **{
            name.replace("_", " "): said[name]
            for name in ("task_id", "status", "attempts", "created_at", "sent_at", "ended_at")
        },
        "exit code": None if is_own_end else said["exit_code"],
        "why": said["error_msg"],
        "error code": said["error_code"] or None,
        "ended by": "the cluster" if is_own_end else message,
        "cancel": "asked for" if said["cancel_requested"] else "",
    }


def task(words: list[str], script_type: str) -> dict[str, Any]:
    """What to run, as a task without its id. Raises: ConfigError."""
    if not words or not words[0]:
        raise ConfigError("tasks run: expected -- and what to run, as in: agent-server tasks run web-1 -- uptime")
    spec = {"name": "agent-server tasks run", "type": "script", "script_type": script_type}
    if script_type in _PYTHONS and len(words) > 1:
        return {**spec, "command": words[0], "args": words[1:]}
    return {**spec, "command": words[0] if len(words) == 1 else shlex.join(words)}


def _env(pairs_: list[str] | tuple[()]) -> dict[str, str]:
    variables = {}
    for text in pairs_:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ConfigError("--env: expected NAME=VALUE")
        variables[name] = value
    return variables


def _agents(
    api: Api, references: list[str] | tuple[()], labels: list[str] | tuple[()], *, everyone: bool, queue: bool
) -> list[Agent]:
    """Whom to run it on. Raises: ConfigError, Failed."""
    if bool(references) + bool(labels) + everyone != 1:
        raise ConfigError("tasks run: expected agents, or --label, or --all")
    if references:
        found = known.find(api, references)
        away = [agent for agent in found if not agent.is_online and not queue]
        if away:
            names = ", ".join(shown(agent.name) for agent in away)
            raise Failed(f"offline: {names} (--queue lets tasks wait for agents that are offline)")
        return found
    found = known.chosen(api, labels)
    wanted = [agent for agent in found if agent.is_online or queue]
    if not wanted:
        raise Failed("no agent is online" + (" with this label" if labels else ""))
    if left_out := len(found) - len(wanted):
        say(f"agent-server: {left_out} offline and left out (--queue lets tasks wait for them)")
    return wanted


async def _run(cluster: Cluster, agents: list[Agent], spec: dict[str, Any], *, detach: bool, as_json: bool) -> int:
    from cluster.client.job import Job  # noqa: PLC0415 - `start` has no use for these, nor for Redis's driver
    from cluster.client.orders import Orders  # noqa: PLC0415
    from cluster.client.report import Report  # noqa: PLC0415
    from cluster.client.run import Interrupts, Run  # noqa: PLC0415
    from cluster.client.screen import Screen  # noqa: PLC0415

    run_id = secrets.token_hex(4)
    jobs = [Job(agent, f"run-{run_id}_1_{agent.host_id}_{number}") for number, agent in enumerate(agents, start=1)]
    report = Report(Screen(steps=len(jobs) if len(jobs) > 1 and not detach else 0), jobs, as_json=as_json)
    feeds = await _feeds(cluster.settings, report, detach=detach)
    interrupts = Interrupts()
    going = Run(Orders(cluster.api(), spec), feeds, report, jobs, interrupts)
    try:
        if detach:
            await going.post()
            return _detached(jobs, as_json=as_json)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, interrupts.hear)
        return await going.follow()
    finally:
        report.finish()
        if feeds.streams:
            await feeds.streams.close()


async def _feeds(settings: Settings, report: "Report", *, detach: bool) -> "Feeds":
    from cluster.client.run import Feeds  # noqa: PLC0415
    from cluster.client.streams import Streams  # noqa: PLC0415

    logs, results = settings.log_stream, settings.result_stream
    names = (logs.key if logs.enabled else "", results.key if results.enabled else "")
    if detach or not any(names):
        return Feeds(None, *names)
    try:
        return Feeds(await Streams.open(settings), *names)
    except Failed as error:
        report.say(f"warning: no log lines: {error}")
        return Feeds(None, *names)


def _detached(jobs: "list[Job]", *, as_json: bool) -> int:
    posted = [job for job in jobs if job.is_posted]
    if as_json:
        put_json([{"agent": job.agent.name, "agent_id": job.agent.id, "task_id": job.task_id} for job in posted])
    elif posted:
        put(table(("AGENT", "TASK"), [(job.agent.name, job.task_id) for job in posted]))
    return OK if len(posted) == len(jobs) else PARTLY if posted else FAILED
