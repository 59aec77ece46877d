"""The settings in force, as text: YAML, a table with where each comes from, environment variables, and every key explained.

Owns how a value is written; what was written reads as the same value. Rule: no text holds a secret, only that there is one.
"""

import shlex
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml

from cluster import environment
from cluster.config import Loaded
from cluster.kinds import Duration, Size, shown_duration, shown_size
from cluster.settings import HIDDEN, Key, keys

DEFAULT: Final = "default"
_EXAMPLE: Final = "config.yaml.example"


def explained() -> str:
    """Every key with its meaning, unit and default, as YAML: the example that comes with this version."""
    packed = files("cluster") / _EXAMPLE
    checkout = Path(__file__).parents[1] / "configs" / _EXAMPLE
    return (packed if packed.is_file() else checkout).read_text(encoding="utf-8")


def values(loaded: Loaded) -> dict[str, Any]:
    """Every key with its value, as people write it; of a secret, and of credentials in a URL, that there is one."""
    return {name: _written(key, _shown(loaded, key)) for name, key in keys().items()}


def origins(loaded: Loaded) -> dict[str, str]:
    """Where each key's value was given: a file and its line, a variable, a flag; or nowhere."""
    found = {name: loaded.given.get(name, DEFAULT) for name in keys()}
    if loaded.settings.redis.enabled and "redis.enabled" not in loaded.given:
        found["redis.enabled"] = f"redis.url, {loaded.given['redis.url']}"
    return found


def as_yaml(loaded: Loaded) -> str:
    """All sections, as config.yaml has them."""
    return "\n".join(_sections(values(loaded)))


def as_environment(loaded: Loaded) -> str:
    """A variable a line, for a shell or a file of variables; what is at its default, and secrets, as comments."""
    return "".join(f"{line}\n" for line in _variables(loaded))


def scalar(value: object) -> str:
    """A value as YAML, on one line."""
    text = yaml.safe_dump([value], default_flow_style=True, width=1_000_000, allow_unicode=True)
    return text.strip()[1:-1]


def _sections(found: Mapping[str, Any]) -> Iterator[str]:
    for section in dict.fromkeys(key.section for key in keys().values()):
        lines = [
            f"  {name.partition('.')[2]}: {scalar(found[name])}\n"
            for name, key in keys().items()
            if key.section == section
        ]
        yield f"{section}:\n{''.join(lines)}"


def _variables(loaded: Loaded) -> Iterator[str]:
    origin = origins(loaded)
    for name, value in values(loaded).items():
        text = environment.as_text(value)
        line = f"{environment.name_of(name)}={shlex.quote(text) if text else ''}"
        if HIDDEN in text:
            yield f"# {environment.name_of(name)}=  # a secret, given by {origin[name]}"
        else:
            yield f"# {line}" if origin[name] == DEFAULT else line


def _shown(loaded: Loaded, key: Key) -> object:
    return getattr(loaded.settings, key.section).shown()[key.attribute]


def _written(key: Key, value: object) -> object:
    match key.kind, value:
        case Duration(in_ms=in_ms), float():
            return _duration(value / 1000 if in_ms else value)
        case Size(), int():
            return shown_size(value)
        case _, tuple():
            return list(value)
    return value


def _duration(value_s: float) -> str:
    """What is too short to be told in ms is told in nanoseconds."""
    text = shown_duration(value_s)
    return text if "e" not in text else f"{value_s * 1e9:.0f}ns"
