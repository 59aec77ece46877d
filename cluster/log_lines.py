"""One log record, one line: as a JSON object, or as text for people.

Owns field names, escaping and redaction; knows neither files nor settings. Rules:

- Whatever is not printable (line ends, ANSI, bidi marks, lone surrogates) is written as a JSON escape: no value can begin a line, move
  the cursor or turn text around. In JSON nothing is lost by that: a reader gets the very value.
- Known secrets are replaced in every text, also quoted, escaped or percent-encoded. Values are cut after MAX_CHARS characters.
- Formatting never raises: a value that cannot be shown is named by its type.

| field | holds |
| --- | --- |
| `@timestamp` | RFC 3339, UTC, milliseconds |
| `log.level` | debug, info, warn, error, fatal |
| `message`, `log.logger` | the text, and which module says it |
| `ecs.version`, `service.name` | of the Elastic Common Schema, whose names and dots these are, undone by nobody; agent-server |
| `process.name`, `process.pid` | n1, r1; agent-server for the launcher |
| `log.origin.file.name`, `.file.line`, `log.origin.function` | with `logging.report_caller` |
| `error.type`, `error.message`, `error.stack_trace` | of an exception |
| any other | what the caller gave as `extra`: `agent_id`, `task_id`, `node` |
"""

import json
import logging
import math
import os
import re
import traceback
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Final, TypeVar
from urllib.parse import quote

from typing_extensions import override

Item = TypeVar("Item")

MAX_CHARS: Final = 16_384
MAX_ITEMS: Final = 64
MAX_DEPTH: Final = 4
HIDDEN: Final = "***"
ECS_VERSION: Final = "8.11.0"
SERVICE: Final = "agent-server"
LEVEL_NAMES: Final[Mapping[int, str]] = {10: "debug", 20: "info", 30: "warn", 40: "error", 50: "fatal"}
_OWN: Final = frozenset((*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", "color_message"))
_NOT_ASCII = re.compile(r"[^\x20-\x7e]")
_BARE = re.compile(r"[^\s\"=]+")


class Redaction:
    """Replaces known secrets in texts."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """`secrets` that are empty are left out; short ones are the caller's to leave out."""
        forms = {form for secret in secrets if secret for form in _forms(secret)}
        # The longest first: a secret may be the head of another.
        self._pattern = (
            re.compile("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))) if forms else None
        )

    def __call__(self, text: str) -> str:
        """The text without secrets."""
        return self._pattern.sub(HIDDEN, text) if self._pattern else text


class Fields:
    """Makes a record's fields, ready for any form."""

    def __init__(self, process: str, secrets: Iterable[str], *, report_caller: bool) -> None:
        """`process` is the name of this process in every record."""
        self._process = process
        self._pid = os.getpid()
        self._redaction = Redaction(secrets)
        self._report_caller = report_caller

    def of(self, record: logging.LogRecord) -> dict[str, object]:
        """Everything that is said of a record, in the order of the module's table."""
        fields: dict[str, object] = {
            "@timestamp": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "log.level": LEVEL_NAMES.get(record.levelno, record.levelname.lower()),
            "message": self._text(_message(record)),
            "log.logger": record.name,
            "ecs.version": ECS_VERSION,
            "service.name": SERVICE,
            "process.name": self._process,
            "process.pid": self._pid,
        }
        if self._report_caller:
            fields["log.origin.file.name"] = record.filename
            fields["log.origin.file.line"] = record.lineno
            fields["log.origin.function"] = record.funcName or ""
        fields |= self._error(record)
        for name, value in record.__dict__.items():
            if name not in _OWN:
                fields.setdefault(self._text(name), self._plain(value))
        return fields

    def _error(self, record: logging.LogRecord) -> dict[str, object]:
        kind, error, _ = record.exc_info or (None, None, None)
        if kind is None or error is None:
            return {"error.stack_trace": self._text(record.stack_info)} if record.stack_info else {}
        return {
            "error.type": kind.__name__,
            "error.message": self._text(_shown(error)),
            "error.stack_trace": self._text(_stack(error)),
        }

    def _plain(self, value: object, depth: int = 0) -> object:
        """The value as JSON knows it, bounded and without secrets."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value) if abs(value) < 2**63 else self._text(hex(value))
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(value)
        if depth < MAX_DEPTH and isinstance(value, Mapping):
            return {self._text(_shown(key)): self._plain(item, depth + 1) for key, item in _first(value.items())}
        if depth < MAX_DEPTH and isinstance(value, list | tuple | set | frozenset):
            return [self._plain(item, depth + 1) for item in _first(value)]
        return self._text(_shown(value))

    def _text(self, text: str) -> str:
        text = self._redaction(text)
        return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}... ({len(text)} characters)"


class JsonLines(logging.Formatter):
    """A JSON object a record."""

    def __init__(self, fields: Fields) -> None:
        """`fields` chooses what is said."""
        super().__init__()
        self._fields = fields

    @override
    def format(self, record: logging.LogRecord) -> str:
        return printable(json.dumps(self._fields.of(record), ensure_ascii=False, separators=(",", ":")))


class TextLines(logging.Formatter):
    """Time, level, process and text, then `name=value`."""

    def __init__(self, fields: Fields) -> None:
        """`fields` chooses what is said."""
        super().__init__()
        self._fields = fields

    @override
    def format(self, record: logging.LogRecord) -> str:
        fields = self._fields.of(record)
        head = f"{fields.pop('@timestamp')} {str(fields.pop('log.level')).upper():5} {fields.pop('process.name')}"
        text = f"{head} {fields.pop('log.logger')}: {fields.pop('message')}"
        for name in ("process.pid", "ecs.version", "service.name"):
            del fields[name]
        if "log.origin.file.name" in fields:
            text += f" ({fields.pop('log.origin.file.name')}:{fields.pop('log.origin.file.line')})"
            del fields["log.origin.function"]
        return " ".join((printable(text), *(f"{printable(name)}={_worded(value)}" for name, value in fields.items())))


def printable(text: str) -> str:
    """The text with every character that is not printable as a JSON escape."""
    return text if text.isprintable() else _NOT_ASCII.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    return character if character.isprintable() else json.dumps(character)[1:-1]


def _worded(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if not isinstance(value, str) or (_BARE.fullmatch(text) and text.isprintable()):
        return printable(text)
    return printable(json.dumps(text, ensure_ascii=False))


def _forms(secret: str) -> set[str]:
    """How a secret looks in a repr, in JSON, in a URL."""
    return {
        secret,
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret, safe=""),
    }


def _first(items: Iterable[Item]) -> list[Item]:
    return list(islice(items, MAX_ITEMS))


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a text whose arguments do not fit is still worth reading
        return f"{_shown(record.msg)} {_shown(record.args)}"


def _stack(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error)).rstrip("\n")
    except Exception:  # noqa: BLE001 - an exception whose text raises
        return f"{type(error).__name__} without a readable trace"


def _shown(value: object) -> str:
    try:
        return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
    except Exception:  # noqa: BLE001 - nothing of what is logged may break the log
        return f"<unprintable {type(value).__name__}>"
