"""Loads the settings: config.yaml, the environment over it, flags over both.

Owns precedence, the checks that look at more than one key, and the words of errors and warnings; knows no process. Rules:

- Only what wins is read: a bad value in the file does not matter while the environment gives a good one.
- null in the file, an empty variable and a flag of None or "" are not given.
- `redis.url` that is given switches `redis.enabled` on, unless that was given itself. With `redis.enabled` off nothing of how to reach a
  Redis is checked: what cannot be read becomes the default, for nobody uses it.
- `cluster.data_dir` is relative to the folder of config.yaml (without one: to the working directory), wherever it was given.
- An error names key, value (never a secret's), what is allowed, and where it was given.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

import msgspec

from cluster import config_file, environment
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

NO_FLAGS: Final[Mapping[str, object]] = MappingProxyType({})
_NEAR = 0.6  # of difflib's ratio
_HOW_TO_REACH_REDIS: Final = frozenset(
    "redis." + key
    for key in ("addr", "password", "db", "pool_size", "min_idle", "max_idle", "idle_timeout", "wait_timeout", "url")
)
_REPLACED_BY_URL: Final = frozenset(("redis.addr", "redis.password", "redis.db"))
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

    Raises: ConfigError, one line, when a value cannot be used, or the file cannot be read.
    """
    found = path or config_file.find()
    from_file, warnings = _read_file(found) if found else ({}, [])
    from_environment, oddities = environment.read(environ, keys().values())
    given = {**from_file, **from_environment, **_from_flags(flags)}
    settings = _settings(given, found)
    for check in (_check_auth, _check_agent, _check_feeds, _check_redis, _check_server, _check_control_plane):
        check(settings)
    if _has_url(given) and not settings.redis.enabled:
        oddities.append("redis.url: ignored, redis.enabled is false: the embedded Redis is used")
    sources = {key: given[key].source for key in keys() if key in given}
    return Loaded(settings, (*warnings, *oddities), found, MappingProxyType(sources))


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


def _read_file(path: str) -> tuple[dict[str, Given], list[str]]:
    given: dict[str, Given] = {}
    warnings: list[str] = []
    sections = {key.section for key in keys().values()}
    for section, content in config_file.read(path).items():
        if section not in sections:
            warnings.append(f"{path}: unknown section {_quoted(section)}, ignored{_nearest(section, sections)}")
        elif isinstance(content, dict):
            warnings += _take_section(given, section, content, path)
        elif content is not None:
            raise ConfigError(f"{section}: {_quoted(content)} is not a mapping of keys ({path})")
    return given, warnings


def _take_section(given: dict[str, Given], section: str, content: Mapping[str, object], path: str) -> Iterator[str]:
    for key, value in content.items():
        name = f"{section}.{key}"
        if name not in keys():
            yield f"{path}: unknown key {_quoted(name)}, ignored{_nearest(name, keys())}"
        elif value is not None:
            given[name] = Given(value, path)


def _from_flags(flags: Mapping[str, object]) -> dict[str, Given]:
    unknown = next((name for name in flags if name not in keys()), None)
    if unknown is not None:
        raise ConfigError(f"unknown setting {_quoted(unknown)}{_nearest(unknown, keys())}")
    return {name: Given(text, "flag") for name, value in flags.items() if (text := environment.as_text(value))}


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1, _NEAR)
    return f"; the nearest known one is '{near[0]}'" if near else ""


def _settings(given: Mapping[str, Given], path: str | None) -> Settings:
    values: dict[str, dict[str, object]] = {}
    has_redis = _has_redis(given)
    for key in keys().values():
        unchecked = key.name in _HOW_TO_REACH_REDIS and not has_redis
        unchecked |= key.name in _REPLACED_BY_URL and _has_url(given)
        values.setdefault(key.section, {})[key.attribute] = _value(key, given.get(key.name), is_checked=not unchecked)
    values["redis"]["enabled"] = has_redis
    folder = Path(path).parent if path else Path()
    values["cluster"]["data_dir"] = str((folder / str(values["cluster"]["data_dir"])).absolute())
    return Settings(
        **{info.name: info.type(**values[info.name]) for info in msgspec.structs.fields(Settings)},
    )


def _has_redis(given: Mapping[str, Given]) -> bool:
    enabled = given.get("redis.enabled")
    return _has_url(given) if enabled is None else bool(_value(keys()["redis.enabled"], enabled))


def _has_url(given: Mapping[str, Given]) -> bool:
    return "redis.url" in given and not _is_blank(given["redis.url"].written)


def _value(key: Key, given: Given | None, *, is_checked: bool = True) -> object:
    if given is None or (key.empty_is_default and _is_blank(given.written)):
        return key.default
    try:
        value = key.kind.read(given.written)
    except (ValueError, OverflowError):
        if not is_checked:
            return key.default
        raise ConfigError(
            f"{key.name}: {_for_eyes(key, given.written)} is not {key.kind.allowed} ({given.source})"
        ) from None
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


def _check_auth(settings: Settings) -> None:
    if settings.auth.require_signature and not settings.auth.shared_secret.strip():
        raise ConfigError("auth.require_signature: true needs auth.shared_secret, which is empty")


def _check_agent(settings: Settings) -> None:
    agent = settings.agent
    if agent.forget_after_s <= agent.heartbeat_timeout_s:
        raise ConfigError(
            f"agent.forget_after: {agent.forget_after_s:g}s is not longer than agent.heartbeat_timeout, {agent.heartbeat_timeout_s:g}s"
        )


def _check_feeds(settings: Settings) -> None:
    names = ("log_stream", "result_stream", "status_stream", "task_stats_stream")
    feeds = {name: str(getattr(settings, name).key) for name in names if getattr(settings, name).enabled}
    for name, feed in feeds.items():
        twin = next((other for other in feeds if other != name and feeds[other] == feed), None)
        if twin is not None:
            raise ConfigError(f"{name}.key: {_quoted(feed)} is also {twin}.key; each feed needs a stream of its own")
        if feed.startswith(settings.redis.prefix):
            raise ConfigError(
                f"{name}.key: {_quoted(feed)} must not begin with redis.prefix, {_quoted(settings.redis.prefix)}"
            )


def _check_redis(settings: Settings) -> None:
    redis: Redis = settings.redis
    if not redis.enabled:
        return
    if not redis.url and not redis.addr:
        raise ConfigError("redis.addr: '' is not host:port, and redis.enabled is true without a redis.url")
    parts = urlsplit(redis.url)
    if parts.scheme in ("redis", "rediss") and not re.fullmatch(r"/?[0-9]{0,6}", parts.path):
        raise ConfigError(f"redis.url: {HIDDEN} is not of the form redis://[user:password@]host:port/db")


def _check_server(settings: Settings) -> None:
    if bool(settings.server.tls_cert) != bool(settings.server.tls_key):
        missing, there = ("tls_key", "tls_cert") if settings.server.tls_cert else ("tls_cert", "tls_key")
        raise ConfigError(f"server.{missing}: '' is not the path of a file, and server.{there} is set")


def _check_control_plane(settings: Settings) -> None:
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
        raise ConfigError(
            f"control_plane.url: {shown} is not a URL that begins with http:// or https://, and {switch} is true"
        )
    if re.fullmatch(r"[\x21-\x7e]*", plane.token) is None:
        raise ConfigError(
            f"control_plane.token: {HIDDEN} has characters that no Authorization header carries, and {switch} is true"
        )
