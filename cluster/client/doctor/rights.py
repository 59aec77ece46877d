"""Which commands the cluster gives to Redis, each in a form that Redis would take: what its user must be allowed.

Owns the list: what the scripts call is read from them, what Python asks stands here. Nothing of it is ever run: it is queued in a
transaction that is then discarded, as Redis refuses what is not allowed when it is queued.
"""

import re
from collections.abc import Mapping, Sequence
from importlib import resources

from cluster.keys import Keys

Command = tuple[str, ...]

_CALLED = re.compile(r"redis\.call\('([A-Z]+)'")

# What follows the key. A name without a row of its own takes a key alone.
_SHAPES: Mapping[str, Command] = {
    **dict.fromkeys(("HGET", "HEXISTS", "HDEL", "HMGET", "SADD", "SREM", "SMISMEMBER", "ZREM", "ZSCORE"), ("x",)),
    **dict.fromkeys(("HSET", "HSETNX"), ("x", "x")),
    **dict.fromkeys(("ZRANGE",), ("0", "0")),
    **dict.fromkeys(("ZCOUNT", "ZRANGEBYSCORE"), ("0", "0")),
    **dict.fromkeys(("SET",), ("x",)),
    **dict.fromkeys(("PEXPIRE", "PEXPIREAT"), ("1000",)),
    **dict.fromkeys(("XRANGE",), ("-", "+")),
    "HINCRBY": ("x", "1"),
    "HSCAN": ("0",),
    "XADD": ("*", "x", "x"),
    "XTRIM": ("MAXLEN", "1000000000"),
    "XREVRANGE": ("+", "-"),
    "XACK": ("x", "0-1"),
    "XPENDING": ("x", "-", "+", "1"),
    "ZADD": ("1", "x"),
}
_OF_PYTHON = (
    *("DEL", "EXISTS", "GET", "HDEL", "HEXISTS", "HGET", "HGETALL", "HLEN", "HMGET", "HSCAN", "HSET", "HSETNX", "PTTL"),
    *(
        "SADD",
        "SCARD",
        "SET",
        "SMEMBERS",
        "SMISMEMBER",
        "SREM",
        "UNLINK",
        "XADD",
        "XLEN",
        "XRANGE",
        "XREVRANGE",
        "XTRIM",
    ),
    *("ZCARD", "ZRANGE", "ZRANGEBYSCORE", "ZSCORE"),
)
_OF_FEEDS = ("XADD", "XLEN", "XRANGE", "XREVRANGE", "XTRIM", "XPENDING", "XACK")


def commands(prefix: str, feeds: Sequence[str]) -> list[Command]:
    """All of them, on keys of this prefix and on these feeds."""
    key = Keys(prefix, 1).in_shard(0, "doctor")
    names = {*_OF_PYTHON, *_of_scripts()} - {"TIME"}
    return [
        *_without_keys(key),
        *(_on(name, key) for name in sorted(names)),
        *(_on(name, feed) for feed in feeds for name in _OF_FEEDS),
        *(("XINFO", "GROUPS", feed) for feed in feeds),
    ]


def _on(name: str, key: str) -> Command:
    return (name, key, *_SHAPES.get(name, ()))


def _without_keys(key: str) -> list[Command]:
    return [
        ("PING",),
        ("TIME",),
        ("INFO",),
        ("SCAN", "0"),
        ("EVAL", "return 1", "1", key),
        ("EVALSHA", "0" * 40, "1", key),
        ("XREAD", "COUNT", "1", "STREAMS", key, "0"),
    ]


def _of_scripts() -> set[str]:
    folder = resources.files("cluster.scripts")
    texts = (entry.read_text() for entry in folder.iterdir() if entry.name.endswith(".lua"))
    return {name for text in texts for name in _CALLED.findall(text)}
