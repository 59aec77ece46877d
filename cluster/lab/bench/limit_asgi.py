"""A limit: uvicorn with an ASGI app that reads a request and answers 200, and nothing else.

`python -m cluster.lab.bench.limit_asgi --listen-fd N --ready-fd N [--cpu N]`. uvicorn as it comes, with httptools and uvloop, without
access log.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from cluster.lab.bench import bare

_HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"2")],
}
_BODY = {"type": "http.response.body", "body": b"{}"}


async def app(_: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """Answers 200."""
    while (await receive()).get("more_body"):
        pass
    await send(_HEAD)
    await send(_BODY)


async def serve(listener: socket.socket, tell_ready: bare.TellReady) -> None:
    """Serves until the process is ended."""
    config = uvicorn.Config(
        app, http="httptools", ws="none", loop="none", lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    asyncio.get_running_loop().call_later(0.1, tell_ready)
    await server.serve(sockets=[listener])


if __name__ == "__main__":
    bare.run(serve)
