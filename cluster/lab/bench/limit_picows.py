"""A limit: a WebSocket server that is nothing but picows, decodes what agents send as a node does, and acks at once.

`python -m cluster.lab.bench.limit_picows --listen-fd N --ready-fd N [--cpu N]`. No agents, no checks, no Redis. picows comes with
`pip install agent-server[bench]`.
"""

import asyncio
import logging
import socket

from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, WSUpgradeResponse, ws_create_server
from picows.common import WSUpgradeResponseWithListener

from cluster import messages
from cluster.lab.bench import bare


class Acker(WSListener):
    """One connection."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            message = messages.agent_message(frame.get_payload_as_memoryview())
            if message.message_id:
                transport.send(WSMsgType.TEXT, messages.ack(message.message_id))
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()


def accept(_: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
    """Takes everybody."""
    protocol = [("Sec-WebSocket-Protocol", "agent-token")]
    return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(protocol), Acker())


async def serve(listener: socket.socket, tell_ready: bare.TellReady) -> None:
    """Serves until the process is ended."""
    logging.getLogger("picows").setLevel(logging.ERROR)
    server = await ws_create_server(accept, sock=listener, websocket_handshake_timeout=60, backlog=4096)
    tell_ready()
    await asyncio.gather(server.serve_forever())


if __name__ == "__main__":
    bare.run(serve)
