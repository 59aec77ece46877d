"""Settings in the environment: AGENT_SERVER_<SECTION>_<KEY> for every key, the Go server's own names, and files for secrets.

Owns the names of variables; knows no kind and no default. Rules:

- A variable that is empty is not given, as with the Go server.
- The systematic name goes before the Go server's: it is how a launcher tells its children what its flags said.
- A secret may stand in a file, named by `..._FILE`; the variable itself goes before it.
- Kubernetes sets variables for every service it knows (`AGENT_SERVER_PORT=tcp://10.0.0.1:8080`, `..._SERVICE_HOST`): none of them is ours.
"""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Final, NamedTuple

from cluster.settings import Key

PREFIX: Final = "AGENT_SERVER_"
GO_NAMES: Final[Mapping[str, str]] = {
    "server.host": "AGENT_SERVER_HOST",
    "server.port": "AGENT_SERVER_PORT",
    "control_plane.url": "CONTROL_PLANE_URL",
    "control_plane.token": "CONTROL_PLANE_TOKEN",
    "control_plane.scope": "CONTROL_PLANE_SCOPE",
    "auth.shared_secret": "AUTH_SHARED_SECRET",
    "auth.require_signature": "AUTH_REQUIRE_SIGNATURE",
    "logging.format": "LOGGING_FORMAT",
    "logging.report_caller": "LOGGING_REPORT_CALLER",
}
MAX_SECRET_BYTES: Final = 65_536
_LINK_VALUE = re.compile(r"(?:tcp|udp|sctp)://", re.IGNORECASE)
_LINK_NAME = re.compile(
    r"_SERVICE_(?:HOST|PORT(?:_[A-Z0-9_]+)?)$|_PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?$"
)


class Given(NamedTuple):
    """What was written for a key, and where: for messages."""

    written: object
    source: str


def name_of(key: str) -> str:
    """The systematic variable of `section.key`."""
    return PREFIX + key.replace(".", "_").upper()


def names_of(key: Key) -> Iterator[str]:
    """The variables of a key; the first one that is set wins. A secret's may also end in _FILE, and name a file."""
    for name in _plain_names_of(key):
        yield name
        if key.is_secret:
            yield name + "_FILE"


def _plain_names_of(key: Key) -> list[str]:
    return [name_of(key.name)] + ([GO_NAMES[key.name]] if key.name in GO_NAMES else [])


def as_environment(flags: Mapping[str, object]) -> dict[str, str]:
    """Variables that tell a child process what these flags said."""
    return {name_of(key): text for key, value in flags.items() if (text := as_text(value))}


def as_text(value: object) -> str:
    """A flag's value as one would write it in the environment; "" where none was given."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(map(as_text, value))
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def read(
    environ: Mapping[str, str], keys: Iterable[Key], problems: MutableMapping[str, str]
) -> tuple[dict[str, Given], list[str]]:
    """What the environment gives, by key, and warnings. A secret's file that cannot be read is put to the problems."""
    given: dict[str, Given] = {}
    warnings: list[str] = []
    known: set[str] = set()
    for key in keys:
        names = list(names_of(key))
        known.update(names)
        usable = [name for name in names if environ.get(name) and not _is_link(name, environ[name], warnings)]
        if usable:
            try:
                given[key.name] = Given(_value(key, usable[0], environ[usable[0]]), usable[0])
            except ValueError as error:
                problems[key.name] = str(error)
            warnings += [f"{name}: ignored, {usable[0]} is set" for name in usable[1:]]
    return given, warnings + list(_strangers(environ, known))


def _is_link(name: str, value: str, warnings: list[str]) -> bool:
    if not _LINK_VALUE.match(value):
        return False
    warnings.append(
        f"{name}: ignored, its value is a Kubernetes service link (enableServiceLinks: false leaves them out)"
    )
    return True


def _value(key: Key, name: str, value: str) -> str:
    return value if name in _plain_names_of(key) else _secret(name, value)


def _secret(name: str, path: str) -> str:
    """Raises: ValueError, which says what is wrong with the file."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
        text = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"the file {path!r} ({name}) is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"the file {path!r} ({name}) cannot be read: {reason}") from None
    if not text or len(content) > MAX_SECRET_BYTES:
        what = "is empty" if not text else f"is larger than {MAX_SECRET_BYTES} bytes"
        raise ValueError(f"the file {path!r} ({name}) {what}")
    return text


def _strangers(environ: Mapping[str, str], known: set[str]) -> Iterator[str]:
    """Variables that look like ours and are not: a slip in a name would otherwise never be found."""
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known or _LINK_NAME.search(name) or _LINK_VALUE.match(environ[name]):
            continue
        nearest = difflib.get_close_matches(name.removeprefix(PREFIX), [k.removeprefix(PREFIX) for k in known], 1, 0.75)
        if nearest:
            yield f"{name!a}: unknown, and ignored; the nearest known variable is {PREFIX}{nearest[0]}"
