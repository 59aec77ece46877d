"""The Lua scripts, by name. Owns how a script's text is put together, and how batches travel to them; knows no connection.

A line `--@include _name` stands for the file of that name, so that what several scripts share is written once.
"""

import re
from functools import cache
from importlib.resources import files

import msgspec

packed = msgspec.msgpack.encode
"""A batch as one argument. Its values are strings, as Lua's numbers are doubles; MessagePack, because JSON within JSON is escaped twice."""

_INCLUDE = re.compile(r"^--@include (_\w+)$", re.MULTILINE)


@cache
def text(name: str) -> str:
    """The whole text of a script, includes put in."""
    source = (files(__package__) / f"{name}.lua").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda match: text(match[1]).strip(), source)
