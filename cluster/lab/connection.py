"""One WebSocket to the server, from the handshake to its end: three loops, and whichever fails first ends it.

| loop | does |
| --- | --- |
| read | hands frames on, acks those that brought tasks, settles what is acked; nothing for 60 s: the connection is dead |
| send | sends what the outbox has to send; a write that stands for 10 s: the same |
| beat | a heartbeat every 15 s, from the start |

Knows what frames are for, not what becomes of them. Pings are answered by the library and count for nothing: a server that lives
answers heartbeats, and its data frames are the proof.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from cluster.lab import calls, wire
from cluster.lab.options import Timings
from cluster.lab.outbox import Outbox
from cluster.lab.trouble import Trouble
from cluster.lab.vitals import Vitals
from cluster.lab.wire import Incoming

PROTOCOL = Subprotocol("agent-token")
MAX_MESSAGE_BYTES = 32 << 20  # a batch of tasks has up to 16 MiB
_UNKNOWN = frozenset({401, 403, 404})
_CLOSE_S = 1.0

logger = logging.getLogger("agent")


@asynccontextmanager
async def dialled(ws_url: str, token: str, timings: Timings) -> AsyncIterator[ClientConnection]:
    """An open WebSocket, closed in the end. Raises: Trouble."""
    dial = connect(
        ws_url,
        subprotocols=[PROTOCOL, Subprotocol(token)],
        compression=None,
        open_timeout=timings.handshake_s,
        close_timeout=_CLOSE_S,
        ping_interval=None,
        max_size=MAX_MESSAGE_BYTES,
    )
    try:
        socket = await dial
    except InvalidStatus as error:
        raise _refused(error) from None
    except (OSError, WebSocketException, TimeoutError) as error:
        raise Trouble(f"connection: {calls.failure(error, ws_url)}") from None
    try:
        yield socket
    finally:
        await socket.close()


def _refused(error: InvalidStatus) -> Trouble:
    answer = error.response
    said = wire.refusal(answer.status_code, bytes(answer.body or b""))
    return Trouble(
        f"connection: {said}",
        retry_after_s=calls.retry_after_s(answer.headers),
        is_unknown=answer.status_code in _UNKNOWN,
    )


class Connection:
    """An open connection at work. `on_frame` is called with every frame but acks."""

    def __init__(
        self,
        socket: ClientConnection,
        outbox: Outbox,
        vitals: Vitals,
        on_frame: Callable[[Incoming], None],
        timings: Timings,
    ) -> None:
        self._socket = socket
        self._outbox = outbox
        self._vitals = vitals
        self._on_frame = on_frame
        self._timings = timings

    async def serve(self) -> None:
        """Works until the connection is gone. Raises: Trouble, always."""
        self._outbox.rewind()
        text = ""
        try:
            async with asyncio.TaskGroup() as loops:
                for loop in (self._read, self._send, self._beat):
                    loops.create_task(loop(), name=f"connection {loop.__name__}")
        except* ConnectionClosed:
            text = _told(self._socket)
        except* TimeoutError:
            text = "the server is silent, or does not read"
        raise Trouble(f"connection: {text}")

    async def _read(self) -> None:
        while True:
            async with asyncio.timeout(self._timings.read_deadline_s):
                data = await self._socket.recv(decode=False)
            frame = wire.decode(data)
            if frame is None:
                logger.warning("a frame of %d bytes made no sense, and was dropped", len(data))
            elif frame.type == "ack":
                self._outbox.settle(frame.ack_id or "")
            else:
                await self._handle(frame)

    async def _handle(self, frame: Incoming) -> None:
        self._on_frame(frame)
        if frame.message_id and (frame.task or frame.tasks):
            await self._write(wire.ack(frame.message_id))

    async def _send(self) -> None:
        while True:
            frame = self._outbox.next()
            if frame is None:
                await self._outbox.wait()
            else:
                await self._write(frame)

    async def _beat(self) -> None:
        while True:
            await self._write(wire.heartbeat(self._vitals.read()))
            await asyncio.sleep(self._timings.heartbeat_s)

    async def _write(self, frame: bytes) -> None:
        async with asyncio.timeout(self._timings.write_deadline_s):
            await self._socket.send(frame, text=True)


def _told(socket: ClientConnection) -> str:
    reason = f", {socket.close_reason}" if socket.close_reason else ""
    return f"closed with {socket.close_code}{reason}"
