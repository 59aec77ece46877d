"""From a task to the process that carries it out: which interpreter, whose rights, which environment.

Owns the meaning of a TaskSpec's fields; starts nothing. Rules:

| field | meaning |
| --- | --- |
| `type` | `script`: the text of a script, run from a file; `command`: a command line |
| `script_type` | `shell` (or nothing), `bash`, `sh`; `python`, `python3` |
| `args` | a script's arguments; a command line's further words, quoted |
| `env` | laid over the agent's own environment, without what is the agent's secret |
| `work_dir` | must exist; else the agent's own, or the home of `run_as` |
| `run_as` | a user of this host; needs an agent that runs as root |
"""

import contextlib
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cluster.lab.process import Command
from cluster.lab.trouble import BAD_TASK, FAILED_HERE, NOT_FOUND, TaskFault
from cluster.messages import TaskSpec

TOKEN_VARIABLE = "AGENT_TOKEN"  # noqa: S105 - the name of the variable, which no task is to see

_SHELLS = {"": ("bash", "sh"), "shell": ("bash", "sh"), "bash": ("bash",), "sh": ("sh",)}
_PYTHONS = {"python": ("python3", "python"), "python3": ("python3",)}


@contextlib.contextmanager
def command_of(task: TaskSpec) -> Iterator[Command]:
    """What is to be run; a script's file is there for as long. Raises: TaskFault, OSError."""
    if not task.command:
        raise TaskFault("command: required", BAD_TASK)
    user = user_of(task)
    kind = (task.script_type or "").lower()
    interpreter = _interpreter(kind)
    env, work_dir = _environment(task, user), _work_dir(task, user)
    if task.type == "script":
        with _script_file(task.command, user) as path:
            yield Command([*interpreter, str(path), *_words(task)], env, work_dir, user)
    elif kind in _PYTHONS:
        yield Command([*interpreter, "-c", task.command, *_words(task)], env, work_dir, user)
    else:
        yield Command([*interpreter, "-c", *_command_line(task)], env, work_dir, user)


def user_of(task: TaskSpec) -> pwd.struct_passwd | None:
    """Whom the task is to run as; None for ourselves. Raises: TaskFault."""
    if not task.run_as:
        return None
    try:
        user = pwd.getpwnam(task.run_as)
    except KeyError:
        raise TaskFault(f"run_as: no user {task.run_as!r} on this host", NOT_FOUND) from None
    if user.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise TaskFault("run_as: the agent does not run as root", BAD_TASK)
    return user


def _interpreter(kind: str) -> list[str]:
    names = _SHELLS.get(kind) or _PYTHONS.get(kind)
    if names is None:
        raise TaskFault(f"script_type: {kind!r} is none of bash, python, python3, sh, shell", BAD_TASK)
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        raise TaskFault(f"script_type: there is no {names[0]} on this host", FAILED_HERE)
    return [path, "-u"] if kind in _PYTHONS else [path]  # -u: lines come when they are written


def _command_line(task: TaskSpec) -> list[str]:
    words = _words(task)
    return [f'{task.command} "$@"', "sh", *words] if words else [task.command or ""]


def _words(task: TaskSpec) -> list[str]:
    return [word or "" for word in task.args or ()]


def _environment(task: TaskSpec, user: pwd.struct_passwd | None) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    if user:
        env |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
    return env | {name: value or "" for name, value in (task.env or {}).items()}


def _work_dir(task: TaskSpec, user: pwd.struct_passwd | None) -> Path | None:
    if task.work_dir:
        if not Path(task.work_dir).is_dir():
            raise TaskFault(f"work_dir: no folder {task.work_dir!r} on this host", NOT_FOUND)
        return Path(task.work_dir)
    return Path(user.pw_dir) if user and Path(user.pw_dir).is_dir() else None


@contextlib.contextmanager
def _script_file(text: str, user: pwd.struct_passwd | None) -> Iterator[Path]:
    """A file and not an argument: an argument may have 128 KiB at most, and everybody on the host can read it."""
    handle, name = tempfile.mkstemp(prefix="agent-task-")
    try:
        with os.fdopen(handle, "w", newline="") as file:
            file.write(text)
            if user:
                os.fchown(file.fileno(), user.pw_uid, user.pw_gid)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
