"""The reference agent: registers, connects, carries out tasks, and comes back whatever happens. README.md tells the protocol by it.

Owns the life of the process; how tasks are run, messages kept and frames sent is told in the other files. Rules:

- A new process registers first. After that it dials the same URL again and again; only 401, 403 and 404 make it register once more,
  because a registration says "this is another process", and the server ends what the one before it was sent.
- Between attempts it waits, ever longer and never in step with others; Retry-After is honoured.
- SIGTERM and SIGINT: running tasks are killed and everything that has not ended is reported as `failed`, "agent stopped". What is not
  acked in time stays on disk, for the next process.
- Nothing secret is logged: no token, no command, no URL of a download.

    python -m cluster.lab.agent --url http://127.0.0.1:8080 --name web-1 --label env=prod
"""

import argparse
import asyncio
import contextlib
import logging
import os
import platform
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from cluster.errors import AgentServerError, ConfigError
from cluster.lab import calls, runner
from cluster.lab.backoff import Backoff
from cluster.lab.command import TOKEN_VARIABLE
from cluster.lab.connection import Connection, dialled
from cluster.lab.desk import Desk
from cluster.lab.finished import FinishedTasks
from cluster.lab.options import AgentOptions
from cluster.lab.outbox import Outbox
from cluster.lab.registration import register
from cluster.lab.state import State
from cluster.lab.trouble import Trouble
from cluster.lab.vitals import Vitals
from cluster.lab.wire import Incoming

EXIT_FAILURE, EXIT_USAGE = 1, 2
RESTART = 75  # what `run_agent` returns when the agent is to be started anew: EX_TEMPFAIL, for whoever does not know it
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

logger = logging.getLogger("agent")


class Agent:
    """One process's life as an agent."""

    def __init__(self, options: AgentOptions, state: State) -> None:
        timings = options.timings
        now_s = asyncio.get_running_loop().time
        first_s, longest_s = timings.resend_first_s, timings.resend_longest_s
        run = partial(runner.run, kill_s=timings.kill_s)
        self._options = options
        self._state = state
        self._token = options.token or state.read_token()
        self._outbox = Outbox(state.database, first_s=first_s, longest_s=longest_s, now_s=now_s)
        self._desk = Desk(
            self._outbox,
            FinishedTasks(state.database),
            run,
            max_tasks=options.max_tasks,
            host_id=options.host_id,
        )
        self._vitals = Vitals()
        self._backoff = Backoff(timings.backoff_first_s, timings.backoff_longest_s)
        self._ws_url = ""
        self._knows_way_out = False  # whoever reads the log
        self._is_connected = False
        self._exit_code = 0
        self._stopping = asyncio.Event()

    def stop(self, exit_code: int = 0) -> None:
        """Asks the agent to end."""
        if not self._stopping.is_set():
            self._exit_code = exit_code
            self._stopping.set()

    async def run(self, stop: asyncio.Event | None = None) -> int:
        """Lives until it is stopped, by `stop` with whoever else shares it. Returns the exit code."""
        life = asyncio.create_task(self._live(), name="life")
        ends = [asyncio.create_task(event.wait(), name="stopping") for event in (self._stopping, stop) if event]
        try:
            await asyncio.wait((life, *ends), return_when=asyncio.FIRST_COMPLETED)
            await self._wind_up()
        finally:
            for task in (life, *ends):
                task.cancel()
            await asyncio.wait((life, *ends))
        if not life.cancelled():
            life.result()  # it ends of itself only by a mistake
        return self._exit_code

    async def _wind_up(self) -> None:
        """Ends the tasks, and gives the server a moment to take what they leave."""
        await self._desk.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.timings.flush_s if self._is_connected else 0):
                await self._outbox.emptied()
        logger.info("stopped, %d messages stay on disk for the next start", len(self._outbox))

    # ---- to the server and back

    async def _live(self) -> None:
        while True:
            try:
                await self._connect()
            except Trouble as trouble:
                wait_s = self._backoff.next_s(trouble.retry_after_s)
                if trouble.is_unknown:
                    self._ws_url = ""
                logger.warning("%s%s; next attempt in %.1f s", trouble, self._way_out(trouble), wait_s)
                await asyncio.sleep(wait_s)

    def _way_out(self, trouble: Trouble) -> str:
        """What a person can do where coming back does not help; said once."""
        if not trouble.is_barred or self._knows_way_out:
            return ""
        self._knows_way_out = True
        if self._options.token or not self._token:
            return "; this needs another --token"
        return f"; for a new agent remove {self._options.folder}, or give --token"

    async def _connect(self) -> None:
        """Registers where it must, and stays connected for as long as it goes. Raises: Trouble, always."""
        timings = self._options.timings
        if not self._ws_url:
            await self._register()
        async with dialled(self._ws_url, self._token, timings) as socket:
            logger.info("connected, %d messages to send", len(self._outbox))
            self._is_connected, began_s = True, time.monotonic()
            try:
                await Connection(socket, self._outbox, self._vitals, self._on_frame, timings).serve()
            finally:
                self._is_connected = False
                if time.monotonic() - began_s >= timings.stable_s:
                    self._backoff.reset()

    async def _register(self) -> None:
        registered = await calls.in_thread("register", partial(register, self._options, self._token))
        if registered.token:
            self._token = registered.token
            self._keep_token()
        self._ws_url, self._knows_way_out = registered.ws_url, False
        logger.info("registered as %s", registered.id)

    def _keep_token(self) -> None:
        try:
            self._state.keep_token(self._token)
        except OSError as error:
            logger.warning("the token cannot be kept, and the next start makes a new agent: %s", error)

    # ---- what the server says

    def _on_frame(self, frame: Incoming) -> None:
        match frame.type:
            case "task" | "tasks_batch":
                for task in (*((frame.task,) if frame.task else ()), *(frame.tasks or ())):
                    self._desk.take(task)
            case "cancel_task" | "cancel_tasks_batch":
                for task_id in (*((frame.task_id,) if frame.task_id else ()), *(frame.task_ids or ())):
                    self._desk.cancel(task_id)
            case "control":
                self._control(frame.payload or {})
            case "upgrade":
                logger.warning("asked to upgrade to %s: declined", (frame.payload or {}).get("target_version"))
            case _:  # a heartbeat's answer, or something of a later version
                pass

    def _control(self, payload: Mapping[str, object]) -> None:
        action = payload.get("action")
        logger.info("asked to %s: %s", action, payload.get("reason") or "no reason given")
        if action == "stop":
            self.stop()
        elif action == "restart":
            self.stop(RESTART)


async def run_agent(options: AgentOptions, stop: asyncio.Event | None = None) -> int:
    """An agent from start to end, or until `stop`; several may share a loop. Returns its exit code. Raises: StartError."""
    with State(options.folder) as state:
        return await Agent(options, state).run(stop)


def run(options: AgentOptions) -> int:
    """This process as an agent: its log on stderr, ended by SIGTERM and SIGINT, begun anew when the server asks for it.

    Raises: StartError.
    """
    log_to_stderr()
    exit_code = asyncio.run(_until_signal(options))
    if exit_code == RESTART:
        logger.info("starting anew")
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - the very command that started us
    return exit_code


async def _until_signal(options: AgentOptions) -> int:
    stop = asyncio.Event()
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return await run_agent(options, stop)


class OneLine(logging.Formatter):
    """A record, a line: what a server or a task says can neither begin one nor move the cursor."""

    def format(self, record: logging.LogRecord) -> str:
        """Everything that is not printable, escaped; a traceback follows as it is."""
        record.msg, record.args = record.getMessage().encode("unicode_escape").decode(), ()
        return super().format(record)


def log_to_stderr() -> None:
    """Sends the agent's log to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(message)s"))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [handler]


# ---- the command line


def options_from(argv: Sequence[str]) -> AgentOptions:
    """What a command line says. Raises: ConfigError; SystemExit as argparse does."""
    parser = argparse.ArgumentParser(prog="cluster.lab.agent", description="The reference agent.")
    parser.add_argument("--url", required=True, help="where the server is, such as http://127.0.0.1:8080")
    parser.add_argument("--name", default=platform.node(), help="what the agent is called; else this host's name")
    parser.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="may be given again")
    parser.add_argument("--host-id", type=int, default=0, metavar="N", help="the control plane's number of this host")
    parser.add_argument("--token", default="", help=f"better in {TOKEN_VARIABLE}; without one the server makes it")
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="what outlives the process; one folder an agent")
    parser.add_argument("--max-tasks", type=int, default=5, metavar="N", help="how many tasks run at once")
    given = parser.parse_args(argv)
    token = given.token or os.environ.get(TOKEN_VARIABLE, "")
    return AgentOptions(
        url=given.url,
        name=given.name,
        token=token,
        labels=labels_from(given.label),
        host_id=given.host_id,
        state_dir=given.state_dir,
        max_tasks=given.max_tasks,
    )


def labels_from(texts: Sequence[str]) -> dict[str, str]:
    """Labels as they are given, `key=value` each. Raises: ConfigError."""
    labels = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ConfigError("label: expected key=value")
        labels[key] = value
    return labels


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0 stopped, 1 could not start, 2 usage."""
    try:
        return run(options_from(sys.argv[1:] if argv is None else argv))
    except AgentServerError as error:
        print(f"agent: {error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILURE


if __name__ == "__main__":
    sys.exit(main())
