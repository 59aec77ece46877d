"""One HTTP request to a URL, for checks: status, headers, body, and why there was no answer. No redirect is followed, no proxy is asked.

A call blocks, `LONGEST_S` at the most each time it waits; from an event loop it is made in a thread (`asked`).
"""

import asyncio
import http.client
import json
import ssl
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

LONGEST_S = 3.0
MOST_BYTES = 4 << 20


class Answer(Struct, frozen=True):
    """What came back. `error`: why nothing did."""

    status: int = 0
    headers: Mapping[str, str] = {}
    body: bytes = b""
    error: str = ""

    @property
    def object(self) -> dict[str, Any]:
        """The body, where it is a JSON object; else an empty one."""
        try:
            said = json.loads(self.body)
        except ValueError:
            return {}
        return said if isinstance(said, dict) else {}

    @property
    def date_s(self) -> float | None:
        """The time on the other's clock, to a second."""
        try:
            return parsedate_to_datetime(self.headers["date"]).timestamp()
        except (KeyError, ValueError):
            return None


def parts_of(url: str) -> SplitResult:
    """The parts of an http(s) or ws(s) URL, as http or https. Raises: ValueError."""
    parts = urlsplit(url)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    if scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("expected http://host:port or https://host")
    return parts._replace(scheme=scheme, path=parts.path.rstrip("/"), query="", fragment="")


async def asked(
    method: str,
    url: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    *,
    is_trusted: bool = True,
) -> Answer:
    """The answer. `is_trusted` False: also of a server whose certificate is not accepted. Never raises for what the other does."""
    return await asyncio.to_thread(_ask, method, url, path, dict(headers or {}), body, is_trusted)


def connection_to(parts: SplitResult, *, is_trusted: bool = True) -> http.client.HTTPConnection:
    """Not connected yet."""
    host = parts.hostname or ""
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, parts.port, timeout=LONGEST_S)
    return http.client.HTTPSConnection(host, parts.port, timeout=LONGEST_S, context=context(is_trusted=is_trusted))


def context(*, is_trusted: bool = True) -> ssl.SSLContext:
    """Of a client: what this machine trusts, or anything."""
    made = ssl.create_default_context()
    if not is_trusted:
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


def why(error: Exception) -> str:
    """An error of a connection, in a few words."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not accepted: {error.verify_message}"
        case ssl.SSLError():
            return "what is there does not speak TLS"
        case TimeoutError():
            return f"no answer within {LONGEST_S:g} s"
        case ConnectionRefusedError():
            return "nothing listens there"
        case OSError():
            return error.strerror or type(error).__name__
    return f"what it answers is no HTTP ({type(error).__name__})"


def _ask(method: str, url: str, path: str, headers: dict[str, str], body: bytes, is_trusted: bool) -> Answer:
    try:
        parts = parts_of(url)
        connection = connection_to(parts, is_trusted=is_trusted)
    except (ValueError, http.client.HTTPException) as error:
        return Answer(error=str(error))
    try:
        connection.request(method, parts.path + path, body or None, headers)
        response = connection.getresponse()
        said = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, said, response.read(MOST_BYTES))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(error=why(error))
    finally:
        connection.close()
