"""What a process says of itself in words: its log. Its numbers are cluster/metrics.py's.

Owns where records go; knows no route, no Redis and no agent. A process has a log file of its own: two never rotate each other's. Where no
file can be written, records go to standard error.
"""

import atexit
import contextlib
import logging
import logging.handlers
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, TextIO

from typing_extensions import override

from cluster.log_lines import LEVEL_NAMES, Fields, JsonLines, TextLines
from cluster.log_sampling import Sampling
from cluster.settings import Logging

PROGRAM: Final = "agent-server"
_LEVELS: Final = {name: number for number, name in LEVEL_NAMES.items()}
_MB: Final = 1_000_000
_DAY_S: Final = 86_400
_HOUR_S: Final = 3_600

log = logging.getLogger(__name__)


def log_path(config: Logging, process: str = "") -> Path | None:
    """The log file of a process (`n1`, `r1`; "" is the launcher); None is standard error.

    | `logging.dir` | `logging.file` | launcher | node n1 |
    | --- | --- | --- | --- |
    | empty | empty | standard error | standard error |
    | empty | logs/server.log | logs/server.log | logs/server-n1.log |
    | /var/log | empty | /var/log/agent-server.log | /var/log/agent-server-n1.log |
    | /var/log | logs/server.log | /var/log/server.log | /var/log/server-n1.log |

    `dir` is the folder, `file` the name; `file` brings its own folder only where `dir` is empty. Relative to the working directory.
    """
    if not config.dir and not config.file:
        return None
    named = Path(config.file if Path(config.file).name else f"{PROGRAM}.log")
    folder = Path(config.dir) if config.dir else named.parent
    suffix = re.sub(r"[^A-Za-z0-9._-]", "_", f"-{process}") if process else ""
    return folder / f"{named.stem}{suffix}{named.suffix}"


def configure_logging(
    config: Logging, *, process: str = "", secrets: Iterable[str] = (), stream: TextIO | None = None
) -> None:
    """Sends every record of this process where `config` says, in place of what an earlier call set up.

    `secrets` (Settings.secrets()) never appear; `stream` takes the place of standard error.
    """
    fields = Fields(process or PROGRAM, secrets, report_caller=config.report_caller)
    formatter = JsonLines(fields) if config.format == "json" else TextLines(fields)
    handler, problem = _handler(config, process, stream)
    handler.setFormatter(formatter)
    sampling = Sampling(handler.handle)
    handler.addFilter(sampling)
    atexit.register(sampling.sum_up)
    root = logging.getLogger()
    for former in [one for one in root.handlers if isinstance(one, LogFile | StandardError)]:
        root.removeHandler(former)
        for one in former.filters:
            if isinstance(one, Sampling):
                atexit.unregister(one.sum_up)
        former.close()
    root.addHandler(handler)
    root.setLevel(_LEVELS[config.level])
    if problem:
        log.warning(problem)


def _handler(config: Logging, process: str, stream: TextIO | None) -> tuple[logging.Handler, str]:
    path = log_path(config, process)
    if path is None:
        return StandardError(stream), ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return LogFile(path, config.max_size * _MB, config.max_files, config.max_age * _DAY_S), ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return StandardError(
            stream
        ), f"the log file {str(path)!r} cannot be written ({reason}); logging to standard error"


class StandardError(logging.StreamHandler[TextIO]):
    """Records on standard error. A standard error that is gone ends nothing."""

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        """Nowhere is left to say it."""


class LogFile(logging.handlers.RotatingFileHandler):
    """A file that is rotated by size, and whose rotated files are dropped by number and age. What it cannot take goes to standard error."""

    RETRY_S: Final = 60.0  # after a rotation failed

    def __init__(self, path: Path, max_bytes: int, max_files: int, max_age_s: float) -> None:
        """Raises: OSError when it cannot be opened. `max_age_s` 0: no limit."""
        super().__init__(path, encoding="utf-8", errors="backslashreplace", backupCount=max_files)
        # A pipe or a device is never renamed.
        self.maxBytes = max_bytes if path.is_file() else 0
        self._max_age_s = max_age_s
        self._next_sweep_s = 0.0
        self._rotate_from_s = 0.0
        self.drop_old(time.time())

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if record.created >= self._next_sweep_s:
            self.drop_old(record.created)
        super().emit(record)

    @override
    def shouldRollover(self, record: logging.LogRecord) -> bool:
        # By what the file holds: the base class would format each record twice to know what it is going to hold.
        if not self.maxBytes or self.stream is None or record.created < self._rotate_from_s:
            return False
        return self.stream.tell() >= self.maxBytes

    @override
    def doRollover(self) -> None:
        try:
            super().doRollover()
        except OSError as error:
            self._rotate_from_s = time.time() + self.RETRY_S
            _say(f"{PROGRAM}: the log file {self.baseFilename} cannot be rotated: {error.strerror}")
        self.drop_old(time.time())

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        # What the file did not take is dropped with it, or it would come out again later; the next record opens it anew.
        broken, self.stream = self.stream, None
        with contextlib.suppress(OSError, ValueError):
            if broken is not None:
                broken.close()
        _say(self.format(record))

    def drop_old(self, now_s: float) -> None:
        """Removes rotated files whose last record is too old. Done hourly, and with each rotation."""
        self._next_sweep_s = now_s + _HOUR_S
        live = Path(self.baseFilename)
        with contextlib.suppress(OSError):
            for path in live.parent.iterdir() if self._max_age_s else ():
                is_rotated = path.name.startswith(f"{live.name}.") and path.name[len(live.name) + 1 :].isdigit()
                if is_rotated and path.stat().st_mtime < now_s - self._max_age_s:
                    path.unlink()


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(line + "\n")
