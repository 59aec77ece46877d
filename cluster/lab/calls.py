"""HTTP calls in threads of their own, so that the event loop goes on meanwhile.

Owns what is opened how; knows neither registrations nor files. Rules:
- Threads are daemons: a server that does not answer cannot keep the agent from ending.
- Nothing but http and https is opened, whatever a URL says.
- Secrets travel as unredirected headers: they never follow a redirect to somebody else.
"""

import asyncio
import contextlib
import errno
import http.client
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from email.message import Message
from typing import Any, TypeVar
from urllib.parse import urlsplit

Answer = TypeVar("Answer")

_NOBODY = f"[Errno {errno.ECONNREFUSED}]"
FAILURES = (OSError, http.client.HTTPException, ValueError)  # all that a call may raise; urllib's errors are OSErrors
_HANDLERS = (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.UnknownHandler,
)


def opener(*, follows_redirects: bool) -> urllib.request.OpenerDirector:
    """Opens http and https."""
    director = urllib.request.OpenerDirector()
    for handler in (*_HANDLERS, *((urllib.request.HTTPRedirectHandler,) if follows_redirects else ())):
        director.add_handler(handler())
    return director


def request(url: str, secrets: Mapping[str, str], body: bytes | None = None) -> urllib.request.Request:
    """A GET, or with a body a POST of JSON. Raises: ValueError."""
    call = urllib.request.Request(url, data=body)  # noqa: S310 - `opener` opens nothing but http and https
    if body is not None:
        call.add_header("Content-Type", "application/json")
    for name, value in secrets.items():
        call.add_unredirected_header(name, value)
    return call


def retry_after_s(headers: Message | Mapping[str, str]) -> float:
    """The seconds of a Retry-After; 0 without one, or for a date."""
    text = str(headers.get("Retry-After") or "").strip()
    return float(text) if text.isascii() and text.isdigit() else 0.0


def failure(error: Exception, url: str) -> str:
    """Why the server at this URL was not reached. Where it names the URL, then its host and port alone."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    # By its text: where a name has several addresses, asyncio raises one error of all, which has no number.
    if _NOBODY in str(reason):
        parts = urlsplit(url)
        return f"nothing listens at {parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return str(reason) or type(reason).__name__


async def in_thread(name: str, call: Callable[[], Answer]) -> Answer:
    """What `call` returns or raises. When the waiting is cancelled the call goes on, and nobody hears of its end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Answer] = loop.create_future()

    def tell(settle: Callable[[Any], None], value: object) -> None:
        if not future.done():
            settle(value)

    def run() -> None:
        try:
            end: tuple[Callable[[Any], None], object] = (future.set_result, call())
        except Exception as error:  # noqa: BLE001 - raised again where the call was made
            end = (future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the agent has ended meanwhile
            loop.call_soon_threadsafe(tell, *end)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future
