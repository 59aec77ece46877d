"""The processes of the demo and their scratch directory: `agent-server start` and `agent-server agent`, as anybody would run them.

Owns what must be gone in the end; knows no story. Rules:

- Nothing outlives us: everything is stopped and removed in `strike`, and the kernel ends the processes if we are killed with -9.
- What we have not ended ourselves must live: `broken` says who does not.
- The settings of whoever runs the demo do not count: neither files nor variables.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import tempfile
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path
from typing import NamedTuple

from cluster import config, environment, programs
from cluster.client.outcome import Failed
from cluster.lab.demo.patience import until
from cluster.process import dies_with
from cluster.settings import Settings, keys

START_S = 45.0
_AGENT_STOP_S = 8.0  # it kills its tasks and waits for the last acks
_CLUSTER_STOP_S = 25.0  # the launcher's own bound is 20 s
_GONE_S = 3.0
_CLUSTER = "the cluster"
_READY = re.compile(r"^ready .*\n", re.MULTILINE)  # the last line that `start` prints


class Row(NamedTuple):
    """A line of the table that `start` prints."""

    name: str
    pid: int
    address: str


class Actor:
    """One process that we started, and the files that it writes to."""

    def __init__(self, name: str, process: Process, out: Path, log: Path) -> None:
        self.name = name
        self.process = process
        self.out = out
        self.log = log
        self.is_done = False  # we have ended it, or are about to

    @property
    def last_word(self) -> str:
        """The last line that it wrote to stderr."""
        return (self.log.read_text(errors="replace").strip().splitlines() or [""])[-1]

    def kill(self) -> None:
        """`kill -9`."""
        self.is_done = True
        self.signal(signal.SIGKILL)

    async def stop(self, grace_s: float) -> None:
        """Asks it to end, and makes it end after a while."""
        self.is_done = True
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), grace_s)
        except TimeoutError:
            self.kill()
            await self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)


class Stage:
    """A cluster and its agents, in a folder of their own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="agent-server-demo-")).resolve()
        self.data_dir = self.folder / "data"
        self.url = ""
        self.broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._actors: dict[str, Actor] = {}
        self._watches: set[asyncio.Task[None]] = set()
        ours = {name for key in keys().values() for name in environment.names_of(key)}
        self._environ = programs.child_environ({k: v for k, v in os.environ.items() if k not in ours}, {})
        self._config = self.folder / "config.yaml"

    # ---- the cluster

    async def start_cluster(self) -> list[Row]:
        """Starts it and returns, when it serves, the table that it prints. Raises: Failed."""
        told = {"server": {"host": "127.0.0.1", "port": 0}, "cluster": {"nodes": 2, "data_dir": str(self.data_dir)}}
        self._config.write_text(json.dumps({**told, "logging": {"format": "text"}}))  # JSON is YAML
        actor = await self._start(_CLUSTER, "cluster", self._environ, "start", "--config", str(self._config))
        await until(lambda: _READY.search(actor.out.read_text()) is not None, START_S, "the cluster does not serve")
        rows, self.url = table_from(actor.out.read_text())
        return rows

    def settings(self) -> Settings:
        """What the cluster was told."""
        return config.load(str(self._config), environ={}, flags={}).settings

    def nodes(self) -> dict[str, int]:
        """Process ids of the nodes that run now, by their names."""
        found = {pid: _words_of(pid) for pid in _children_of(self._actors[_CLUSTER].process.pid)}
        return {words[words.index("--id") + 1]: pid for pid, words in found.items() if "node" in words}

    def kill_node(self, name: str) -> int:
        """`kill -9`. Returns the process id that it had. Raises: Failed when it does not run."""
        pid = self.nodes().get(name)
        if pid is None:
            raise Failed(f"{name} does not run")
        os.kill(pid, signal.SIGKILL)
        return pid

    # ---- the agents

    async def start_agent(self, name: str) -> None:
        """Starts an agent, or starts it again with what it remembers."""
        folder = self.folder / name
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        environ = {**self._environ, "TMPDIR": str(folder / "tmp")}  # its tasks' files go when we go
        options = ("--name", name, "--url", self.url, "--state-dir", str(folder / "state"))
        await self._start(name, name, environ, "agent", *options)

    def kill_agent(self, name: str) -> int:
        """`kill -9`. Returns the process id that it had."""
        actor = self._actors[name]
        actor.kill()
        return actor.process.pid

    def connects(self, name: str) -> int:
        """How often this agent has said that it is connected."""
        return self._actors[name].log.read_text().count(" INFO connected, ")

    # ---- their ends

    def last_words(self) -> list[str]:
        """What each process said last, for those who ask what went wrong."""
        return [f"{actor.name}: {actor.last_word}" for actor in self._actors.values() if actor.last_word]

    def kill(self) -> None:
        """Ends all processes at once; `strike` goes on from there."""
        for actor in self._actors.values():
            actor.kill()

    async def strike(self) -> None:
        """Stops everything and removes the folder. Raises: Failed when something stays."""
        cluster = self._actors.get(_CLUSTER)
        try:
            agents = [actor for actor in self._actors.values() if actor is not cluster]
            await asyncio.gather(*(agent.stop(_AGENT_STOP_S) for agent in agents))
            if cluster:
                await cluster.stop(_CLUSTER_STOP_S)
            await asyncio.gather(*self._watches)
            await self._until_alone()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            raise Failed(f"{self.folder} cannot be removed")

    async def _until_alone(self) -> None:
        """A process whose parent was killed may need a moment. All of ours work in our folder."""
        await until(lambda: not self._are_left(), _GONE_S, f"what works in {self.folder} does not end")

    def _are_left(self) -> bool:
        return any(self.folder in (place, *place.parents) for place in map(_place_of, _pids()))

    async def _start(self, name: str, file: str, environ: dict[str, str], *words: str) -> Actor:
        paths = self.folder / f"{file}.out", self.folder / f"{file}.log"
        with paths[0].open("ab") as out, paths[1].open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *programs.module_command("cluster"),
                *words,
                cwd=self.folder,
                env=environ,
                stdin=DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,  # Ctrl-C is ours
                preexec_fn=dies_with(os.getpid()),
            )
        actor = self._actors[name] = Actor(name, process, *paths)
        self._watches.add(asyncio.create_task(self._watch(actor), name=f"watch {name}"))
        return actor

    async def _watch(self, actor: Actor) -> None:
        code = await actor.process.wait()
        if not actor.is_done and not self.broken.done():
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self.broken.set_result(f"{actor.name} has ended with {how}: {actor.last_word or 'it said nothing'}")


def table_from(text: str) -> tuple[list[Row], str]:
    """The processes and the URL that `start` prints when it serves."""
    _, *table, last = text.splitlines()
    cells = [line.split(maxsplit=3) for line in table]
    return [Row(name, int(pid), address) for name, pid, _, address in cells], last.removeprefix("ready ")


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _children_of(pid: int) -> list[int]:
    return [child for child in _pids() if _parent_of(child) == pid]


def _parent_of(pid: int) -> int:
    """0 for one that has ended, whether or not it was reaped."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return 0
    return 0 if state in {"Z", "X"} else int(parent)


def _words_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _place_of(pid: int) -> Path:
    """The folder that a process works in; none for one that has ended, or is not ours to ask."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return Path()
