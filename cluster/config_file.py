"""config.yaml: where it is looked for, and what is written in it, as text.

Owns the search path and the reading of YAML; knows no kind and no default. Rules:

- Every plain scalar stays the text that was written (`on`, `012`, `1:30` mean what their kind says, as in the environment); null is
  not given.
- Keys mean the same in any case, as with the Go server. A key that is there twice is an error, not the last one's win.
- An error is one line that quotes nothing of the file but keys: the line that is broken may be the one with the password.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import yaml
from typing_extensions import override

from cluster.errors import ConfigError

NAME: Final = "config.yaml"
FOLDERS: Final = (".", "./configs", "./config", "/etc/agent-server")
MAX_BYTES: Final = 1_048_576
_HARMLESS_QUOTE = re.compile(
    r"'(?:[^']{1,4}|<[a-z ]+>)'"
)  # one character, perhaps as an escape; or what PyYAML calls a token
_QUOTED = re.compile(r"""(['"]).*\1""", re.DOTALL)
_TAG: Final = "tag:yaml.org,2002:"


class Marked(dict[str, object]):
    """A mapping that knows in which line of the file each of its keys stands."""

    lines: Mapping[str, int] = MappingProxyType({})


class _Doubled(yaml.MarkedYAMLError):
    """A key that is there twice."""


class _Loader(yaml.SafeLoader):
    """Leaves scalars as they were written, and refuses a key that is there twice."""

    @override
    def compose_mapping_node(self, anchor: dict[str, yaml.Node]) -> yaml.MappingNode:
        # Here, before any merge (`<<`) puts keys of other mappings in, which may well be overridden.
        node = super().compose_mapping_node(anchor)
        first: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name = str(key.value).lower()
            if name in first:
                problem = f"the key {name[:60]!a} is there twice, first in line {first[name]}"
                raise _Doubled(problem=problem, problem_mark=key.start_mark)
            first[name] = key.start_mark.line + 1
        return node


def _as_written(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


for _kind in ("bool", "int", "float", "timestamp", "value", "merge"):
    _Loader.add_constructor(_TAG + _kind, _as_written)


def _marked(loader: yaml.SafeLoader, node: yaml.MappingNode) -> Iterator[Marked]:
    """In two steps, as PyYAML wants it: a mapping may hold itself. What a merge brings stands where it was written."""
    mapping = Marked()
    yield mapping
    mapping.update(loader.construct_mapping(node))  # type: ignore[arg-type]  # keys of any kind, until `_named`
    mapping.lines = {_name(key.value): key.start_mark.line + 1 for key, _ in node.value}


_Loader.add_constructor(_TAG + "map", _marked)


def find() -> str | None:
    """The first config.yaml on the search path; None where there is none."""
    return next((str(path) for path in (Path(folder, NAME) for folder in FOLDERS) if _is_there(path)), None)


def _is_there(path: Path) -> bool:
    """Also when it may not be looked at: to run on the defaults instead would be a bad surprise."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def read(path: str) -> Marked:
    """What stands in the file: sections by name, each usually a mapping of lower-case keys. Raises: ConfigError."""
    try:
        content = yaml.load(_text(path), _Loader)  # noqa: S506 - it is a SafeLoader
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{path}{_place(error)}: {_problem(error)}") from None
    except yaml.YAMLError:
        raise ConfigError(f"{path}: holds characters that no YAML may hold") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    except (ValueError, TypeError):  # what PyYAML lets through of binary and unhashable things
        raise ConfigError(f"{path}: not valid YAML") from None
    if content is None:
        return Marked()
    if not isinstance(content, Marked):
        raise ConfigError(f"{path}: not a YAML mapping of sections")
    sections = _lowered(content)
    sections.update({name: _lowered(section) for name, section in sections.items() if isinstance(section, Marked)})
    return sections


def _text(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ConfigError(f"{path!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes; not a configuration")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None


def _lowered(mapping: Marked) -> Marked:
    lowered = Marked({_name(name): value for name, value in mapping.items()})
    lowered.lines = mapping.lines
    return lowered


def _name(name: object) -> str:
    return name.lower() if isinstance(name, str) else repr(name)


def _place(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f", line {mark.line + 1}" if mark else ""


def _problem(error: yaml.MarkedYAMLError) -> str:
    """What is wrong, without quoting a value: an alias or a tag may be the head of a password."""
    if isinstance(error, _Doubled):
        return str(error.problem)
    if isinstance(error, yaml.composer.ComposerError) and "single document" in str(error.context):
        return "more than one YAML document"
    if isinstance(error, yaml.composer.ComposerError):
        return "not valid YAML: an alias (*) of nothing; a text that begins with * wants quotes"
    if isinstance(error, yaml.constructor.ConstructorError) or "tag" in f"{error.context}{error.problem}":
        return "not valid YAML: a tag (!) or a key that means nothing here; a text that begins with ! wants quotes"
    problem = str(error.problem)
    quotes_little = _HARMLESS_QUOTE.sub("", problem).find("'") < 0 and '"' not in problem
    return "not valid YAML: " + (problem if quotes_little else _QUOTED.sub("...", problem))
