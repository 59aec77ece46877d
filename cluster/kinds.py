"""What people write for a setting, and what it means: numbers, durations, sizes, booleans, texts, addresses, lists.

Owns the notations; knows no key and no section. Rules:

- A kind reads what was written as text, or as a list of texts, whatever it came from: a file, the environment, a flag.
- What it cannot read is a ValueError without words: `allowed` says what may be written, and whoever reads names the key.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

MINUTE_S = 60.0
HOUR_S = 3600.0
DAY_S = 86_400.0
KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_PLAIN = re.compile(rf"{_NUMBER}(?:[eE][+-]?[0-9]{{1,2}})?")
_SPAN = re.compile(rf"({_NUMBER})\s*(ns|us|µs|μs|ms|s|m|h|d)")  # the Greek mu and the micro sign, as Go reads them
_SPANS_S = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": MINUTE_S,
    "h": HOUR_S,
    "d": DAY_S,
}
_WHOLE = re.compile(r"[+-]?(?:0|[1-9][0-9_]{0,18})")
_SIZE = re.compile(rf"({_NUMBER})\s*([kmg]?)(i?)b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3}
_TRUE = frozenset(("true", "t", "1", "yes", "y", "on"))
_FALSE = frozenset(("false", "f", "0", "no", "n", "off"))
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")


class Kind(Protocol):
    """One way of writing a value."""

    @property
    def allowed(self) -> str:
        """What may be written, as the end of the sentence "the value is not ..."."""

    def read(self, written: object) -> object:
        """The value. Raises: ValueError."""


def _text(written: object) -> str:
    if not isinstance(written, str):
        raise ValueError  # noqa: TRY004 - a list where a text belongs is a bad value like any other
    return written.strip()


def _within(value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError


def seconds(text: str, plain_s: float = 1.0) -> float:
    """Seconds of `1m30s`, `500ms`, `7d`, with a sign or not; of a bare number, in units of `plain_s`. Raises: ValueError."""
    body = text.lstrip("+-")
    sign = -1.0 if text[: len(text) - len(body)] == "-" else 1.0
    if len(text) - len(body) > 1:
        raise ValueError
    if _PLAIN.fullmatch(body):
        return sign * float(body) * plain_s
    spans = _SPAN.findall(body)
    if not spans or _SPAN.sub("", body).strip():
        raise ValueError
    # Rounded to the nanosecond, Go's unit, so that what was written as 1.1s is what reads as 1.1.
    return sign * round(sum(float(number) * _SPANS_S[unit] for number, unit in spans), 9)


def size_bytes(text: str) -> int:
    """Bytes of `16MiB`, `32 MiB`, `512k` or a bare number. KiB and Ki are 1024, kB and k are 1000. Raises: ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError
    number, power, binary = match.groups()
    value = float(number) * (1024 if binary else 1000) ** _POWERS[power.lower()]
    if value > 2**53 or value != int(value):
        raise ValueError
    return int(value)


def shown_duration(value_s: float) -> str:
    """A duration as people write it: `90s`, `7d`, `500ms`."""
    for unit in ("d", "h", "m", "s"):
        if value_s and value_s % _SPANS_S[unit] == 0:
            return f"{int(value_s / _SPANS_S[unit])}{unit}"
    return f"{value_s * 1000:.12g}ms" if value_s else "0s"


def shown_size(value_bytes: int) -> str:
    """A size as people write it: `16MiB`, `1KiB`."""
    for unit, factor in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if value_bytes and value_bytes % factor == 0:
            return f"{value_bytes // factor}{unit}"
    return str(value_bytes)


@dataclass(frozen=True)
class Whole:
    """A whole number."""

    low: int
    high: int

    @property
    def allowed(self) -> str:
        """See Kind."""
        return f"a whole number from {self.low} to {self.high}"

    def read(self, written: object) -> int:
        """See Kind."""
        text = _text(written)
        if _WHOLE.fullmatch(text) is None:
            raise ValueError
        value = int(text.replace("_", ""))
        _within(value, self.low, self.high)
        return value


@dataclass(frozen=True)
class Duration:
    """A span of time, in seconds; with `in_ms`, in milliseconds, and so is a bare number."""

    low_s: float
    high_s: float
    in_ms: bool = False

    @property
    def allowed(self) -> str:
        """See Kind."""
        bare = "milliseconds" if self.in_ms else "seconds"
        span = f"from {shown_duration(self.low_s)} to {shown_duration(self.high_s)}"
        return f"a duration such as 30s, 1m30s, 500ms, 7d or a number of {bare}, {span}"

    def read(self, written: object) -> float:
        """See Kind."""
        value_s = seconds(_text(written), 1e-3 if self.in_ms else 1.0)
        _within(value_s, self.low_s, self.high_s)
        return round(value_s * 1000, 6) if self.in_ms else value_s


@dataclass(frozen=True)
class Size:
    """A number of bytes."""

    low_bytes: int
    high_bytes: int

    @property
    def allowed(self) -> str:
        """See Kind."""
        span = f"from {shown_size(self.low_bytes)} to {shown_size(self.high_bytes)}"
        return f"a size such as 16MiB, 512KiB or a number of bytes, {span}"

    def read(self, written: object) -> int:
        """See Kind."""
        value = size_bytes(_text(written))
        _within(value, self.low_bytes, self.high_bytes)
        return value


@dataclass(frozen=True)
class Flag:
    """Yes or no, as Go and YAML write it."""

    allowed: str = "true or false"

    def read(self, written: object) -> bool:
        """See Kind."""
        text = _text(written).lower()
        if text not in _TRUE | _FALSE:
            raise ValueError
        return text in _TRUE


@dataclass(frozen=True)
class Choice:
    """One of a few words, in any case; some of them may mean another."""

    words: tuple[str, ...]
    meaning: tuple[tuple[str, str], ...] = ()

    @property
    def allowed(self) -> str:
        """See Kind."""
        return "one of " + ", ".join((*self.words, *(word for word, _ in self.meaning)))

    def read(self, written: object) -> str:
        """See Kind."""
        text = _text(written).lower()
        text = dict(self.meaning).get(text, text)
        if text not in self.words:
            raise ValueError
        return text


@dataclass(frozen=True)
class Text:
    """Any text, or one of a pattern. Kept as written, but for the line end that files and Windows editors leave behind."""

    pattern: str = r"[^\x00\r\n]*"
    allowed: str = "a text of one line"

    def read(self, written: object) -> str:
        """See Kind."""
        if not isinstance(written, str):
            raise ValueError  # noqa: TRY004 - as in _text
        text = written.rstrip("\r\n")
        if re.fullmatch(self.pattern, text) is None:
            raise ValueError
        return text


@dataclass(frozen=True)
class Host:
    """A name or address to listen on."""

    allowed: str = "a host name or an IP address"

    def read(self, written: object) -> str:
        """See Kind. The brackets that Go wants around an IPv6 address are taken off."""
        text = _text(written)
        if ":" in text:
            return str(ipaddress.IPv6Address(text.removeprefix("[").removesuffix("]")))
        if text and _HOST.fullmatch(text) is None:
            raise ValueError
        return text


@dataclass(frozen=True)
class HostPort:
    """Where something listens: `host:port`; without a host, this machine. May be empty."""

    allowed: str = "host:port"

    def read(self, written: object) -> str:
        """See Kind."""
        text = _text(written)
        if not text:
            return text
        host, colon, port = text.rpartition(":")
        if not colon or (":" in host and not (host.startswith("[") and host.endswith("]"))):
            raise ValueError
        Whole(1, 65_535).read(port)
        Host().read(host)
        return f"{host or 'localhost'}:{int(port)}"


@dataclass(frozen=True)
class Url:
    """An absolute URL with one of these schemes, without the slash at its end. May be empty."""

    schemes: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """See Kind."""
        return "a URL that begins with " + " or ".join(f"{scheme}://" for scheme in self.schemes)

    def read(self, written: object) -> str:
        """See Kind."""
        text = _text(written)
        parts = urlsplit(text)
        place = parts.path.strip("/") if parts.scheme == "unix" else parts.hostname
        if text and (parts.scheme not in self.schemes or not place):
            raise ValueError
        _ = parts.port  # raises ValueError beyond 65535
        if parts.fragment or not text.isprintable() or " " in text:  # a "#" in a password has to be written %23
            raise ValueError
        return text.rstrip("/")


@dataclass(frozen=True)
class Texts:
    """A list of texts, or one text with commas."""

    allowed: str = "a list of texts, or texts with commas between"

    def read(self, written: object) -> tuple[str, ...]:
        """See Kind."""
        items = written.split(",") if isinstance(written, str) else written
        if not isinstance(items, list | tuple):
            raise ValueError  # noqa: TRY004 - as in _text
        return tuple(text for text in map(_text, items) if text)


@dataclass(frozen=True)
class Networks:
    """A list of addresses and networks."""

    allowed: str = "a list of IP addresses and networks such as 10.0.0.0/8, or these with commas between"

    def read(self, written: object) -> tuple[str, ...]:
        """See Kind. Host bits of a network are cleared."""
        return tuple(str(ipaddress.ip_network(text, strict=False)) for text in Texts().read(written))
