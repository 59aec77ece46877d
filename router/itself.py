"""The control plane's calls about this server: who it is, restart it, and why it does not upgrade itself."""

import os
import secrets
import signal

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from cluster import messages, programs
from cluster.errors import BadInput
from cluster.messages import Control
from cluster.nodes import supervisor_of, this_machine
from cluster.replies import INTERNAL, error_reply, json_reply

UPGRADE = (
    "install the new version (pip install --upgrade agent-server), then restart; nothing is downloaded by this call"
)


class SelfCalls:
    """Starlette endpoints."""

    def __init__(self, router_id: str, *, is_supervised: bool) -> None:
        self._id = router_id
        self._boot = secrets.token_hex(8)
        self._version = programs.version()
        self._is_supervised = is_supervised

    async def show(self, _: Request) -> Response:
        """Which router answers, of which version: another boot after its restart; and who restarts it."""
        supervisor = supervisor_of(this_machine(), is_supervised=self._is_supervised)
        return json_reply({"id": self._id, "boot": self._boot, "supervisor": supervisor, "version": self._version})

    async def control(self, request: Request) -> Response:
        """A rolling restart, if a supervisor runs this cluster; answered at once."""
        order: Control = messages.decoded(Control, await request.body())
        if order.action != "restart":
            raise BadInput("action: restart")
        if not self._is_supervised:
            return error_reply(501, INTERNAL, "not run by agent-server start: restart it where it is run")
        answer = json_reply({"message": "rolling restart begun", "status": "success"})
        answer.background = BackgroundTask(os.kill, os.getppid(), signal.SIGHUP)
        return answer

    async def upgrade(self, _: Request) -> Response:
        """Tells how to upgrade."""
        return error_reply(501, INTERNAL, UPGRADE)
