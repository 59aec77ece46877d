"""The control plane's calls about this server: restart it, and why it does not upgrade itself."""

import os
import signal

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from cluster import messages
from cluster.errors import BadInput
from cluster.messages import Control
from cluster.replies import INTERNAL, error_reply, json_reply

UPGRADE = (
    "install the new version (pip install --upgrade agent-server), then restart; nothing is downloaded by this call"
)


class SelfCalls:
    """Starlette endpoints."""

    def __init__(self, *, is_supervised: bool) -> None:
        self._is_supervised = is_supervised

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
