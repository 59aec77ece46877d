"""One process of a task, and whatever it starts: begun, followed by its pipes, ended as a group.

Owns signals and the exit code; knows no tasks. The process leads a session of its own, so that a signal to its group reaches all that it
has started; who makes yet another session escapes. Its end is told by a pidfd, whatever becomes of its pipes.
"""

import asyncio
import os
import pwd
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.lab.output import Output

_POLL_S = 0.05


@dataclass(frozen=True)
class Command:
    """What is to be run, where, and as whom: None is whoever we are."""

    argv: Sequence[str]
    env: Mapping[str, str]
    work_dir: Path | None = None
    user: pwd.struct_passwd | None = None


class Process:
    """A running process. Raises: OSError, ValueError when it cannot be started."""

    def __init__(self, command: Command, output: Output) -> None:
        user = command.user
        self._popen = subprocess.Popen(  # noqa: S603 - to run what the control plane posts is what an agent is for
            command.argv,
            cwd=command.work_dir,
            env=command.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=os.getgrouplist(user.pw_name, user.pw_gid) if user else None,
        )
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._pidfd = self._opened_pidfd()
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)
        for pipe, stream in ((self._popen.stdout, "stdout"), (self._popen.stderr, "stderr")):
            if pipe is not None:
                output.follow(pipe, stream)

    def _opened_pidfd(self) -> int:
        try:
            return os.pidfd_open(self._popen.pid)
        except OSError:  # no files left: what cannot be watched must not run
            self._signal(signal.SIGKILL)
            self._popen.wait()
            raise

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.exited.set_result(self._popen.wait())

    async def kill(self, grace_s: float) -> None:
        """SIGTERM to the group, and SIGKILL to what is left of it after the grace."""
        self._signal(signal.SIGTERM)
        deadline = asyncio.get_running_loop().time() + grace_s
        while is_left := self._signal(0):
            if asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(_POLL_S)
        if is_left:
            self._signal(signal.SIGKILL)
        await asyncio.wait((self.exited,), timeout=grace_s)  # one that hangs in the kernel does not die

    def _signal(self, number: int) -> bool:
        """Whether anybody is left in the group; as long as there is, its number is nobody else's."""
        try:
            os.killpg(self._popen.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:  # they have become somebody else
            return True
        return True
