"""The WebSockets of a node, by path; what is HTTP goes on to an app.

Plain ASGI, as an agent's handshake passes here in a storm: a framework's routing, its layers for errors and its path parameters cost more
than what there is to choose from. An exception that nobody meant is answered by the handshake itself.
"""

from starlette.websockets import WebSocket

from cluster.errors import UnknownAgent
from cluster.proxies import App, Receive, Scope, Send
from cluster.replies import reply_to
from node.endpoint import AgentEndpoint
from node.probe import ProbeEndpoint

_AGENT = "/ws/agent/"


class Paths:
    """An ASGI app."""

    def __init__(self, app: App, agents: AgentEndpoint, probe: ProbeEndpoint) -> None:
        """`app` gets all that is no WebSocket."""
        self._app = app
        self._agents = agents
        self._probe = probe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. Every path works with and without its trailing slash."""
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"].removesuffix("/")
        agent_id = path.removeprefix(_AGENT)
        if agent_id and agent_id != path and "/" not in agent_id:
            await self._agents.enter(scope, receive, send, agent_id)
        elif path == "/ws/probe":
            await self._probe.enter(WebSocket(scope, receive, send))
        else:
            await WebSocket(scope, receive, send).send_denial_response(reply_to(UnknownAgent("no such path")))
