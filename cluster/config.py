"""Loads the settings: config.yaml, the environment over it, flags over both.

Owns precedence, the checks that look at more than one key, and the words of errors and warnings; knows no process. Rules:

- Only what wins is read: a bad value in the file does not matter while the environment gives a good one.
- null in the file, an empty variable and a flag of None or "" are not given.
- `redis.url` that is given switches `redis.enabled` on, unless that was given itself. With `redis.enabled` off nothing of how to reach a
  Redis is checked: what cannot be read becomes the default, for nobody uses it.
- `cluster.data_dir` is relative to the folder of config.yaml (without one: to the working directory), wherever it was given.
- An error names key, value (never a secret's), what is allowed, and where it was given: a file and its line, a variable, a flag.
- Everything that is wrong is told at once. Checks of several keys are left out where one of their sections is wrong already.
"""

import contextlib
import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

import msgspec

from cluster import config_file, environment
from cluster.config_file import Marked
from cluster.environment import Given
from cluster.errors import ConfigError
from cluster.settings import (
    ASKING,
    HIDDEN,
    POLLING,
    WITHOUT_EFFECT,
    Key,
    Redis,
    Settings,
    keys,
    without_url_credentials,
)

Problems = Iterator[tuple[str, str]]  # a key, and what is wrong with it
NO_FLAGS: Final[Mapping[str, object]] = MappingProxyType({})
_NEAR = 0.6  # of difflib's ratio
_HOW_TO_REACH_REDIS: Final = frozenset(
    "redis." + key
    for key in ("addr", "password", "db", "pool_size", "min_idle", "max_idle", "idle_timeout", "wait_timeout", "url")
)
_REPLACED_BY_URL: Final = frozenset(("redis.addr", "redis.password", "redis.db"))
_FEEDS: Final = ("log_stream", "result_stream", "status_stream", "task_stats_stream")
_ASKS_CONTROL_PLANE: Final = ("control_plane.verify_registration", "control_plane.poll")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Settings, what is odd about how they were given, the file (None: none was found), and where each given key came from."""

    settings: Settings
    warnings: tuple[str, ...]
    path: str | None
    given: Mapping[str, str]


def load(path: str | None = None, *, environ: Mapping[str, str], flags: Mapping[str, object] = NO_FLAGS) -> Loaded:
    """The settings of this process. `flags` maps `section.key` to a value; texts are read as in the environment.

    Raises: ConfigError, a line for each value that cannot be used, or one when the file cannot be read.
    """
    found = path or config_file.find()
    problems: dict[str, str] = {}
    from_file, warnings = _read_file(found, problems) if found else ({}, [])
    from_environment, oddities = environment.read(environ, keys().values(), problems)
    given = {**from_file, **from_environment, **_from_flags(flags)}
    settings = _settings(given, found, problems)
    for sections, check in _CHECKS.items():
        if not {name.partition(".")[0] for name in problems} & set(sections):
            problems.update(check(settings))
    if problems:
        raise ConfigError(*(f"{name}: {text}{_place(given.get(name))}" for name, text in problems.items()))
    if _has_url(given) and not settings.redis.enabled:
        oddities.append("redis.url: ignored, redis.enabled is false: the embedded Redis is used")
    sources = {key: given[key].source for key in keys() if key in given}
    return Loaded(settings, (*warnings, *oddities), found, MappingProxyType(sources))


def _place(given: Given | None) -> str:
    return f" ({given.source})" if given else ""


def without_effect(loaded: Loaded) -> tuple[tuple[str, str], ...]:
    """Keys that were given and change nothing, each with the reason."""
    reasons = dict(WITHOUT_EFFECT)
    plane = loaded.settings.control_plane
    in_use = (*(ASKING if plane.verify_registration or plane.poll else ()), *(POLLING if plane.poll else ()))
    reasons = {key: reason for key, reason in reasons.items() if key not in in_use}
    if not loaded.settings.redis.enabled:
        reasons |= dict.fromkeys(_HOW_TO_REACH_REDIS, "redis.enabled is false: the embedded Redis is used")
    elif loaded.settings.redis.url:
        reasons |= dict.fromkeys(_REPLACED_BY_URL, "redis.url takes its place")
    return tuple((key, reasons[key]) for key in loaded.given if key in reasons)


def _read_file(path: str, problems: MutableMapping[str, str]) -> tuple[dict[str, Given], list[str]]:
    given: dict[str, Given] = {}
    warnings: list[str] = []
    sections = {key.section for key in keys().values()}
    content = config_file.read(path)
    for section, values in content.items():
        if section not in sections:
            warnings.append(f"{path}: unknown section {_quoted(section)}, ignored{_nearest(section, sections)}")
        elif isinstance(values, Marked):
            warnings += _take_section(given, section, values, path)
        elif values is not None:
            problems[section] = f"{_quoted(values)} is not a mapping of keys ({path}:{content.lines[section]})"
    return given, warnings


def _take_section(given: dict[str, Given], section: str, content: Marked, path: str) -> Iterator[str]:
    for key, value in content.items():
        name = f"{section}.{key}"
        if name not in keys():
            yield f"{path}: unknown key {_quoted(name)}, ignored{_nearest(name, keys())}"
        elif value is not None:
            given[name] = Given(value, f"{path}:{content.lines[key]}")


def _from_flags(flags: Mapping[str, object]) -> dict[str, Given]:
    unknown = next((name for name in flags if name not in keys()), None)
    if unknown is not None:
        raise ConfigError(f"unknown setting {_quoted(unknown)}{_nearest(unknown, keys())}")
    return {name: Given(text, "flag") for name, value in flags.items() if (text := environment.as_text(value))}


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1, _NEAR)
    return f"; the nearest known one is '{near[0]}'" if near else ""


def _settings(given: Mapping[str, Given], path: str | None, problems: MutableMapping[str, str]) -> Settings:
    """Where a value cannot be used it is put to the problems, and the default stands for it."""
    values: dict[str, dict[str, object]] = {}
    has_redis = _has_redis(given)
    for key in keys().values():
        unchecked = key.name in _HOW_TO_REACH_REDIS and not has_redis
        unchecked |= key.name in _REPLACED_BY_URL and _has_url(given)
        value = key.default
        try:
            value = _value(key, given.get(key.name))
        except (ValueError, OverflowError):
            if not unchecked:
                problems[key.name] = f"{_for_eyes(key, given[key.name].written)} is not {key.kind.allowed}"
        values.setdefault(key.section, {})[key.attribute] = value
    values["redis"]["enabled"] = has_redis
    folder = Path(path).parent if path else Path()
    values["cluster"]["data_dir"] = str((folder / str(values["cluster"]["data_dir"])).absolute())
    return Settings(
        **{info.name: info.type(**values[info.name]) for info in msgspec.structs.fields(Settings)},
    )


def _has_redis(given: Mapping[str, Given]) -> bool:
    """What cannot be read is False: then nothing else of Redis is complained about."""
    enabled = given.get("redis.enabled")
    with contextlib.suppress(ValueError):
        return _has_url(given) if enabled is None else bool(_value(keys()["redis.enabled"], enabled))
    return False


def _has_url(given: Mapping[str, Given]) -> bool:
    return "redis.url" in given and not _is_blank(given["redis.url"].written)


def _value(key: Key, given: Given | None) -> object:
    """Raises: ValueError, OverflowError."""
    if given is None or (key.empty_is_default and _is_blank(given.written)):
        return key.default
    value = key.kind.read(given.written)
    return key.default if key.empty_is_default and not value else value


def _is_blank(written: object) -> bool:
    return isinstance(written, str) and not written.strip()


def _for_eyes(key: Key, written: object) -> str:
    if key.is_secret:
        return HIDDEN
    return _quoted(
        without_url_credentials(written) if key.attribute.endswith("url") and isinstance(written, str) else written
    )


def _quoted(value: object) -> str:
    """A value on one short line, whatever it holds. What is nested is only named: aliases can make it endless."""
    if isinstance(value, str):
        return ascii(value if len(value) <= 80 else value[:80] + "...")
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return f"[{', '.join(map(_quoted, value[:5]))}{', ...' if len(value) > 5 else ''}]"
    return f"a {'mapping' if isinstance(value, dict) else 'nested list' if isinstance(value, list) else type(value).__name__}"


def _check_auth(settings: Settings) -> Problems:
    if settings.auth.require_signature and not settings.auth.shared_secret.strip():
        yield ("auth.require_signature", "true needs auth.shared_secret, which is empty")


def _check_agent(settings: Settings) -> Problems:
    agent = settings.agent
    if agent.forget_after_s <= agent.heartbeat_timeout_s:
        yield (
            "agent.forget_after",
            f"{agent.forget_after_s:g}s is not longer than agent.heartbeat_timeout, {agent.heartbeat_timeout_s:g}s",
        )


def _check_feeds(settings: Settings) -> Problems:
    feeds = {name: str(getattr(settings, name).key) for name in _FEEDS if getattr(settings, name).enabled}
    for place, (name, feed) in enumerate(feeds.items(), start=1):
        twin = next((other for other in list(feeds)[place:] if feeds[other] == feed), None)
        if twin is not None:
            yield (f"{name}.key", f"{_quoted(feed)} is also {twin}.key; each feed needs a stream of its own")
        if feed.startswith(settings.redis.prefix):
            yield (f"{name}.key", f"{_quoted(feed)} must not begin with redis.prefix, {_quoted(settings.redis.prefix)}")


def _check_redis(settings: Settings) -> Problems:
    redis: Redis = settings.redis
    if not redis.enabled:
        return
    if not redis.url and not redis.addr:
        yield ("redis.addr", "'' is not host:port, and redis.enabled is true without a redis.url")
    parts = urlsplit(redis.url)
    if parts.scheme in ("redis", "rediss") and not re.fullmatch(r"/?[0-9]{0,6}", parts.path):
        yield ("redis.url", f"{HIDDEN} is not of the form redis://[user:password@]host:port/db")


def _check_server(settings: Settings) -> Problems:
    if bool(settings.server.tls_cert) != bool(settings.server.tls_key):
        missing, there = ("tls_key", "tls_cert") if settings.server.tls_cert else ("tls_cert", "tls_key")
        yield (f"server.{missing}", f"'' is not the path of a file, and server.{there} is set")


def _check_control_plane(settings: Settings) -> Problems:
    plane = settings.control_plane
    switch = next((name for name in _ASKS_CONTROL_PLANE if getattr(plane, name.partition(".")[2])), None)
    if switch is None:
        return
    try:
        parts = urlsplit(plane.url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        is_good &= re.fullmatch(r"[\x21-\x7e]+", plane.url) is not None  # it goes into a request as it is
    except ValueError:
        is_good = False
    if not is_good:
        shown = _quoted(without_url_credentials(plane.url))
        yield ("control_plane.url", f"{shown} is not a URL that begins with http:// or https://, and {switch} is true")
    if re.fullmatch(r"[\x21-\x7e]*", plane.token) is None:
        yield (
            "control_plane.token",
            f"{HIDDEN} has characters that no Authorization header carries, and {switch} is true",
        )


_CHECKS: Final[Mapping[tuple[str, ...], Callable[[Settings], Problems]]] = MappingProxyType(
    {
        ("auth",): _check_auth,
        ("agent",): _check_agent,
        (*_FEEDS, "redis"): _check_feeds,
        ("redis",): _check_redis,
        ("server",): _check_server,
        ("control_plane",): _check_control_plane,
    }
)  # by the sections that they look at
