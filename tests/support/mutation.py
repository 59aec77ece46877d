"""Inputs that are nearly right: valid ones, changed in the ways in which peers, wires and disks change them, and plain noise.

Knows JSON well enough to change values and names within it, and nothing else of what it is given. All chance is the caller's.
"""

import json
import random
from collections.abc import Sequence
from typing import Any

TOKENS = (
    *(b"null", b"true", b"{}", b"[]", b'""', b"-1", b"0", b"1.5", b"-0.0", b"1e999", b"1E-7", b"9223372036854775807"),
    *(b"9223372036854775808", b"-9223372036854775809", b"1" * 400, b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\\u0000"'),
    *(
        b"\x00",
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x80\xa8",
        b"\xef\xbb\xbf",
        b"\r\n",
        b"\n",
    ),
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b";", b"=", b"%", b"%00", b"%ff", b"\\", b" ", b"\t", b"//", b"&a *a"),
    *(
        b"[" * 2000,
        b'{"a":' * 2000,
        b"a" * 70_000,
        b"- " * 500,
        b"NaN",
        b"Infinity",
        b"1_000",
        b"0x10",
        b"!!python/none",
    ),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**400, 1.5, 1e300, -0.0, "", "a", " ", "0"),
    *(
        "\u0000",
        "\ud800",
        "\U0001f600",
        "\u2028",
        "\x7f",
        "x" * 300,
        "x" * 70_000,
        "7_1_1_a",
        "null",
        "1e5",
        "\r\nX: y",
    ),
    *([], {}, [None], [[]], [{}], {"": ""}, {"a": {"b": [1]}}, ["a"] * 300, {"id": "7_1_1_a"}, [0.5, "x", None]),
)


class Mutator:
    """Makes inputs out of seeds, which are valid ones."""

    def __init__(self, chance: random.Random, seeds: Sequence[bytes]) -> None:
        self._chance = chance
        self._seeds = list(seeds)
        self._objects = [found for seed in seeds if (found := _decoded(seed)) is not None]

    def next(self) -> bytes:
        """Another input."""
        kind = self._chance.random()
        if kind < 0.05:
            return self._chance.randbytes(self._chance.randrange(200))
        if self._objects and kind < 0.55:
            data = json.dumps(self._changed(self._chance.choice(self._objects)), ensure_ascii=kind < 0.3)
            encoded = data.encode("utf-8", "surrogatepass")
            return encoded if kind < 0.5 else self._torn(encoded)
        return self._torn(self._chance.choice(self._seeds))

    # ---- bytes

    def _torn(self, data: bytes) -> bytes:
        for _ in range(self._chance.choice((1, 1, 1, 2, 3, 8))):
            data = self._torn_once(data)
        return data

    def _torn_once(self, data: bytes) -> bytes:
        chance = self._chance
        start = chance.randrange(len(data) + 1)
        stop = min(len(data), start + chance.choice((0, 1, 1, 2, 4, 30)))
        match chance.randrange(6):
            case 0:
                return data[:start] + data[stop:]
            case 1:
                return data[:start]
            case 2:
                return data[:start] + chance.choice(TOKENS) + data[stop:]
            case 3:
                return data[:start] + bytes(byte ^ 1 << chance.randrange(8) for byte in data[start:stop]) + data[stop:]
            case 4:
                return data[:stop] + data[start:]
        other = chance.choice(self._seeds)
        return data[:start] + other[chance.randrange(len(other) + 1) :]

    # ---- values

    def _changed(self, value: Any) -> Any:
        """The same with one thing in it another."""
        chance = self._chance
        if isinstance(value, dict) and value and chance.random() < 0.85:
            name = chance.choice(list(value))
            return self._with_changed(value, name)
        if isinstance(value, list) and value and chance.random() < 0.7:
            place = chance.randrange(len(value))
            return [*value[:place], self._changed(value[place]), *value[place + 1 :]]
        return chance.choice(VALUES)

    def _with_changed(self, value: dict[str, Any], name: str) -> dict[str, Any]:
        chance = self._chance
        match chance.randrange(10):
            case 0:
                return {key: found for key, found in value.items() if key != name}
            case 1:
                return {chance.choice((key.upper(), key.title(), key + "\u0000")) if key == name else key: found
                        for key, found in value.items()}  # fmt: skip
            case 2:
                return {**value, str(chance.choice(VALUES))[:20]: chance.choice(VALUES)}
        return {**value, name: self._changed(value[name])}


def _decoded(seed: bytes) -> Any:
    try:
        return json.loads(seed)
    except ValueError:
        return None


def pieces(chance: random.Random, data: bytes) -> list[bytes]:
    """The same bytes, cut anywhere."""
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice((0, 0, 1, 2, 5))))
    return [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]
