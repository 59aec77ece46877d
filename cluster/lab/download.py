"""`file_transfer`: a file comes from a URL to a path, whole and right, or not at all.

Owns the checks of the order and of what came; knows no tasks beside it. Rules:
- It is written beside its place under another name, checked, synced, and renamed: nobody ever sees half of it.
- `checksum`: `md5:<hex>`, `sha256:<hex>`, or the digits alone. `size`: bytes. `bandwidth_limit`: bytes a second. 0 or nothing: not said.
- `auth_headers` go to the URL's own host and follow no redirect. URLs and headers are never logged: they may carry secrets.
"""

import contextlib
import hashlib
import os
import pwd
import re
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path

from cluster.lab import calls
from cluster.lab.command import user_of
from cluster.lab.trouble import BAD_TASK, NETWORK, TaskFault
from cluster.messages import TaskSpec

SILENCE_S = 30.0  # a server that sends nothing for so long is given up
_CHUNK_BYTES = 64 << 10
_CHECKSUM = re.compile(r"(?:(md5|sha256)[:=])?([0-9a-f]{32}|[0-9a-f]{64})")
_DIGITS = {"md5": 32, "sha256": 64}


@dataclass(frozen=True)
class Order:
    """What is to be brought where. `checksum`: algorithm and hex digits."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    target: Path
    part: Path
    checksum: tuple[str, str] | None
    size_bytes: int
    limit_bytes_s: int
    user: pwd.struct_passwd | None


class GivenUp(Exception):
    """Nobody waits for this download any more."""


def order_of(task: TaskSpec) -> Order:
    """What the task wants. Raises: TaskFault."""
    wanted = task.file_transfer
    if wanted is None or not wanted.download_url or not wanted.remote_path:
        raise TaskFault("file_transfer: download_url and remote_path are required", BAD_TASK)
    if not wanted.download_url.startswith(("http://", "https://")):
        raise TaskFault("file_transfer.download_url: expected http or https", BAD_TASK)
    target = Path(task.work_dir or ".", wanted.remote_path)
    if wanted.remote_path.endswith("/") or target.is_dir():
        raise TaskFault(f"file_transfer.remote_path: {wanted.remote_path!r} is a folder", BAD_TASK)
    return Order(
        url=wanted.download_url,
        headers={name: value or "" for name, value in (wanted.auth_headers or {}).items()},
        target=target,
        part=target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex[:8]}.part"),
        checksum=_checksum(wanted.checksum or ""),
        size_bytes=max(wanted.size or 0, 0),
        limit_bytes_s=max(wanted.bandwidth_limit or 0, 0),
        user=user_of(task),
    )


def _checksum(text: str) -> tuple[str, str] | None:
    if not text.strip():
        return None
    found = _CHECKSUM.fullmatch(text.strip().lower())
    algorithm = found and (found[1] or ("md5" if len(found[2]) == _DIGITS["md5"] else "sha256"))
    if not found or not algorithm or len(found[2]) != _DIGITS[algorithm]:
        raise TaskFault("file_transfer.checksum: expected the hex digits of an MD5 or SHA-256", BAD_TASK)
    return algorithm, found[2]


# ---- in a thread


def fetch(order: Order, given_up: threading.Event) -> int:
    """Brings the part file, checked; returns its size in bytes. Raises: TaskFault, GivenUp, OSError of this host's disk."""
    order.part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with order.part.open("xb") as file, _answer(order) as response:
            what_came = WhatCame(order)
            for chunk in _chunks(response, order, given_up):
                what_came.add(chunk)
                file.write(chunk)
            what_came.check()
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        order.part.unlink(missing_ok=True)
        raise
    return what_came.size_bytes


class WhatCame:
    """The bytes so far, held against the order."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._digest = hashlib.new(order.checksum[0] if order.checksum else "md5", usedforsecurity=False)
        self.size_bytes = 0

    def add(self, chunk: bytes) -> None:
        """Some more. Raises: TaskFault when it is too much."""
        self.size_bytes += len(chunk)
        self._digest.update(chunk)
        if 0 < self._order.size_bytes < self.size_bytes:
            raise TaskFault("download: more bytes came than `size` says", NETWORK)

    def check(self) -> None:
        """That was all. Raises: TaskFault when it is not what was ordered."""
        if self._order.size_bytes and self.size_bytes != self._order.size_bytes:
            raise TaskFault(
                f"download: {self.size_bytes} bytes came, not the {self._order.size_bytes} of `size`", NETWORK
            )
        if self._order.checksum and self._digest.hexdigest() != self._order.checksum[1]:
            raise TaskFault(f"download: the {self._order.checksum[0]} checksum of what came is another one", NETWORK)


@contextlib.contextmanager
def _answer(order: Order) -> Iterator[HTTPResponse]:
    with _network():
        request = calls.request(order.url, order.headers)
        response = calls.opener(follows_redirects=True).open(request, timeout=SILENCE_S)
    with response:
        yield response


def _chunks(response: HTTPResponse, order: Order, given_up: threading.Event) -> Iterator[bytes]:
    """The body, at the pace that is allowed."""
    pace = order.limit_bytes_s
    chunk_bytes = min(_CHUNK_BYTES, max(pace // 10, 1)) if pace else _CHUNK_BYTES
    began_s, size_bytes = time.monotonic(), 0
    while not given_up.is_set():
        with _network():
            chunk = response.read(chunk_bytes)
        if not chunk:
            _check_whole(response)
            return
        yield chunk
        size_bytes += len(chunk)
        if pace:
            given_up.wait(max(0.0, size_bytes / pace - (time.monotonic() - began_s)))
    raise GivenUp


def _check_whole(response: HTTPResponse) -> None:
    """`read(n)` does not tell a cut connection from the end: what Content-Length promised and did not come is left over."""
    if response.length:
        raise TaskFault(f"download: the connection ended {response.length} bytes early", NETWORK)


@contextlib.contextmanager
def _network() -> Iterator[None]:
    """What a call may raise, as a fault whose text names neither the URL nor the headers."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        raise TaskFault(f"download: the server answers {error.code}", NETWORK) from None
    except urllib.error.URLError as error:
        raise TaskFault(f"download: {error.reason}", NETWORK) from None
    except calls.FAILURES as error:
        raise TaskFault(f"download: {type(error).__name__}", NETWORK) from None


# ---- in its place


def put_in_place(order: Order) -> None:
    """Renames the part file over the target, with its rights and owner. Raises: OSError."""
    mode = order.target.stat().st_mode & 0o7777 if order.target.exists() else 0o644
    order.part.chmod(mode)
    if order.user:
        os.chown(order.part, order.user.pw_uid, order.user.pw_gid)
    order.part.replace(order.target)
