"""A Dockerfile as the list of its instructions, and the replay of a stage without Docker: its commands, in a folder instead of a root.

The replay is for stages that copy, and run programs with absolute paths. What differs from a build: the Python is this one, and packages of
the system are not looked at.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

_ABSOLUTE = re.compile(r"(?<![\w.:/$])/(?=[a-z])")


class Instruction(msgspec.Struct, frozen=True):
    """One instruction of a stage: `RUN`, and what follows it on one line."""

    stage: int
    name: str
    text: str

    def command(self) -> list[str]:
        """What it runs, written as a JSON list; of HEALTHCHECK what follows its CMD."""
        command: list[str] = json.loads(self.text[self.text.index("[") :])
        return command


def instructions(path: Path) -> list[Instruction]:
    """All of them, in order; stages count from 0."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found: list[Instruction] = []
    stage = -1
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, text = line.partition(" ")
        stage += name == "FROM"
        found.append(Instruction(stage, name, " ".join(text.split())))
    return found


class Replay:
    """A stage, below `root`. `context` holds what is copied; `instead` takes the place of files of the context."""

    def __init__(self, context: Path, root: Path, *, instead: Mapping[str, Path]) -> None:
        self.root = root
        self._context, self._instead = context, instead
        self._cwd = root

    def place(self, path: str) -> Path:
        """Where an absolute path of the image is."""
        return self.root / path.lstrip("/")

    def run(self, stage: Sequence[Instruction]) -> None:
        """Runs it. Raises: CalledProcessError with what was printed in its notes; ValueError for an instruction that it does not know."""
        for instruction in stage:
            match instruction.name:
                case "FROM":
                    pass
                case "WORKDIR":
                    self._cwd = self.place(instruction.text)
                    self._cwd.mkdir(parents=True)
                case "COPY":
                    *sources, target = shlex.split(instruction.text)
                    self._copy(sources, self._cwd / target)
                case "RUN":
                    self._shell(_ABSOLUTE.sub(f"{self.root}/", instruction.text))
                case _:
                    raise ValueError(f"{instruction.name} is not replayed")

    def _copy(self, sources: Sequence[str], target: Path) -> None:
        for name in sources:
            source = self._instead.get(name, self._context / name)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target / name)

    def _shell(self, command: str) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-euc", command], check=False, cwd=self._cwd, env={**os.environ, "PATH": path}, capture_output=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout.decode()}{done.stderr.decode()}"
