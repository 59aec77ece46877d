"""One POST to another server: HTTP/1.1 over streams, TLS for https, each call on a connection of its own.

Owns how an answer is read, and its bounds; knows nothing of who is called or what for. Rules:

- Whatever keeps an answer from being whole is one error, `NoAnswer`, whose text is one line without anything of the request.
- Nothing is sent twice, and no redirect is followed: it would carry the credentials elsewhere.
- An answer larger than asked for is not read to its end.
"""

import asyncio
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

import httptools
from msgspec import Struct

from cluster.errors import AgentServerError

CHUNK_BYTES = 64 << 10
MAX_HEAD_BYTES = 64 << 10  # with the framing of chunks


class NoAnswer(AgentServerError):
    """The other server gave no answer that can be used. What was asked may have been done."""


class AnswerTooLarge(NoAnswer):
    """Its answer has more bytes than we take."""


class Answer(Struct, frozen=True):
    """A whole answer."""

    status: int
    body: bytes


class Server:
    """Another HTTP server, by its base URL: `http://host:port/base`. Credentials and query of the URL are not used."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._base = parts.path.rstrip("/")
        name = f"[{self._host}]" if ":" in self._host else self._host
        self._authority = f"{name}:{parts.port}" if parts.port else name

    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str], *, within_s: float, max_bytes: int
    ) -> Answer:
        """Posts JSON. Raises: NoAnswer; AnswerTooLarge when the body of the answer has more than `max_bytes`."""
        try:
            async with asyncio.timeout(within_s):
                return await self._exchange(self._head(path, len(body), headers) + body, max_bytes)
        except TimeoutError:
            raise NoAnswer(f"no answer within {within_s:.3g} s") from None
        except httptools.HttpParserError as error:
            raise NoAnswer("what it answers is not HTTP") from error
        except (OSError, ValueError) as error:  # ValueError: a host name that IDNA cannot encode
            raise NoAnswer(_one_line(error)) from error

    def _head(self, path: str, size: int, headers: Mapping[str, str]) -> bytes:
        given = {"Host": self._authority, "Content-Type": "application/json", "Accept": "application/json"}
        given |= {"Content-Length": str(size), "Connection": "close", **headers}
        lines = [f"POST {self._base}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
        return "\r\n".join([*lines, "", ""]).encode("ascii")

    async def _exchange(self, request: bytes, max_bytes: int) -> Answer:
        name = self._host if self._tls else None
        reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls, server_hostname=name)
        try:
            writer.write(request)
            reading = _Reading(max_bytes)
            while not reading.is_whole:
                reading.feed(await reader.read(CHUNK_BYTES))
            return reading.answer()
        finally:
            writer.transport.abort()


class _Reading:
    """An answer as it arrives: what httptools calls back."""

    def __init__(self, max_bytes: int) -> None:
        self.is_whole = False
        self._parser = httptools.HttpResponseParser(self)
        self._max_bytes = max_bytes
        self._body = bytearray()
        self._fed = 0
        self._has_head = self._says_length = False

    def feed(self, data: bytes) -> None:
        """Takes what came; b"" is the end. Raises: NoAnswer, HttpParserError."""
        if not data:
            self.is_whole = (
                self._has_head and not self._says_length
            )  # RFC 9112, 6.3: then the end of the connection ends it
            if not self.is_whole:
                raise NoAnswer("the connection ended before the answer did")
            return
        self._fed += len(data)
        self._parser.feed_data(data)
        if len(self._body) > self._max_bytes or self._fed > 2 * self._max_bytes + MAX_HEAD_BYTES:
            raise AnswerTooLarge(f"its answer has more than {self._max_bytes} bytes")

    def answer(self) -> Answer:
        """What it says, once it is whole."""
        return Answer(self._parser.get_status_code(), bytes(self._body))

    def on_header(self, name: bytes, _: bytes) -> None:
        self._says_length |= name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        self._has_head = True

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:  # RFC 9110, 15.2: the answer comes behind it
            self._has_head = self._says_length = False
            return
        self.is_whole = True


def _one_line(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
