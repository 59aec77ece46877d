"""A running cluster as its callers see it: HTTP calls, agents driven message by message, and what the feeds hold.

Owns the connections that a test opened, and closes them with it. Decides nothing: what an agent says here is what the test wrote. Every
wait has a deadline. Bytes that no client library would send go through raw.py.
"""

import asyncio
import contextlib
import itertools
import json
import random
import re
import signal
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from redis.asyncio import Redis
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.typing import Subprotocol

from tests.support.cluster_process import ClusterProcess
from tests.support.eventually import eventually
from tests.support.http_client import HttpClient, Response
from tests.support.spawned import signal_child

WAIT_S = 10.0
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_numbers = itertools.count(random.randrange(10**6, 10**8))

Entry = dict[str, str]


def new_number() -> int:
    """A host id or execution id that no other test has."""
    return next(_numbers)


def new_token() -> str:
    """A token nobody has registered."""
    return f"t-{uuid.uuid4().hex}"


def new_task_id(host_id: int = 0, execution_id: int | None = None) -> str:
    """As the control plane makes them."""
    return f"{execution_id or new_number()}_1_{host_id}_{uuid.uuid4().hex[:8]}"


class Refused(AssertionError):
    """A handshake was answered, and not with an upgrade."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(f"{status} {body!r}")
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Agent:
    """A registered agent, and its connection while it has one."""

    def __init__(self, gateway: "Gateway", answer: Mapping[str, Any], token: str, host_id: int) -> None:
        self.gateway = gateway
        self.id: str = answer["id"]
        self.name: str = answer["name"]
        self.ws_url: str = answer["ws_url"]
        self.token = token
        self.host_id = host_id
        self._socket: ClientConnection | None = None

    @property
    def socket(self) -> ClientConnection:
        """Its connection."""
        assert self._socket is not None, "not connected"
        return self._socket

    async def connect(self, source_ip: str = "127.0.0.1", **options: Any) -> Self:
        """Dial what the registration said. Raises: Refused."""
        self._socket = await self.gateway.dial(self.ws_url, ["agent-token", self.token], source_ip, **options)
        return self

    async def disconnect(self) -> None:
        """A clean close, and wait until the cluster has seen it."""
        await self.socket.close()
        await self.is_shown("inactive")

    async def is_shown(self, status: str, timeout_s: float = WAIT_S) -> None:
        """Wait until the control plane is told this status."""

        async def wrong() -> str:
            answer = (await self.gateway.call("GET", f"/api/agents/{self.id}")).json()
            return "" if isinstance(answer, dict) and answer.get("status") == status else str(answer)

        await eventually(wrong, timeout_s)

    async def say(self, *messages: Mapping[str, Any] | str | bytes) -> None:
        """Send each as one text frame."""
        for message in messages:
            text = json.dumps(message) if isinstance(message, Mapping) else message
            await self.socket.send(text, text=True)

    async def hear_bytes(self, timeout_s: float = WAIT_S) -> bytes:
        """The next message, as it came."""
        async with asyncio.timeout(timeout_s):
            return await self.socket.recv(decode=False)

    async def hear(self, timeout_s: float = WAIT_S) -> dict[str, Any]:
        """The next message, decoded."""
        message: dict[str, Any] = json.loads(await self.hear_bytes(timeout_s))
        return message

    async def hear_acks(self, count: int) -> list[str]:
        """The next messages, which are all acks: their ids."""
        heard = [await self.hear() for _ in range(count)]
        assert [message["type"] for message in heard] == ["ack"] * count, heard
        return [message["ack_id"] for message in heard]

    async def hears_nothing_before(self, message_id: str) -> None:
        """Send a log line, and see that its ack is the next that comes: what would have come before it never does."""
        await self.say(log(message_id, f"0_0_0_{message_id}", "a sentinel"))
        assert await self.hear() == {"type": "ack", "ack_id": message_id}

    async def close_code(self, timeout_s: float = WAIT_S) -> int:
        """Wait for the end of the connection: the code in the server's close frame, 1006 without one."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    await self.socket.recv(decode=False)
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else 1006

    async def post(self, task: Mapping[str, Any] | bytes, *, to: str = "") -> Response:
        """POST a task for it."""
        return await self.gateway.call("POST", f"/api/agents/{to or self.id}/tasks", task)

    async def post_and_take(self, task: Mapping[str, Any] | bytes) -> dict[str, Any]:
        """POST a task for it, and read it from its connection."""
        answer = await self.post(task)
        assert answer.status == 200, answer
        message = await self.hear()
        assert message["type"] == "task", message
        taken: dict[str, Any] = message["task"]
        return taken

    async def post_sentinel(self) -> None:
        """POST a task and see that it is the next that comes: nothing was sent before it, and nothing waited."""
        task_id = new_task_id()
        assert (await self.post_and_take({"id": task_id}))["id"] == task_id

    async def end(self, task_id: str, status: str = "success", **result: Any) -> None:
        """Send a result and wait for its ack, which comes once the entry is in the feed."""
        message_id = uuid.uuid4().hex
        await self.say(task_result(message_id, task_id, status, **result))
        assert await self.hear_acks(1) == [message_id]


class Gateway:
    """Calls to one cluster. Use as a context manager: it closes what was opened."""

    def __init__(self, cluster: ClusterProcess) -> None:
        self.cluster = cluster
        self.port = cluster.port
        self._since_ms = int(time.time() * 1000) - 1000
        self._redis: Any = None
        self._sockets: list[ClientConnection] = []

    @property
    def redis_url(self) -> str:
        """Where the Redis is that the cluster brought."""
        port = json.loads((self.cluster.folder / "data/redis/embedded.json").read_text())["port"]
        return f"redis://127.0.0.1:{port}/0"

    @property
    def redis(self) -> Any:
        """A client of it; replies are texts."""
        if self._redis is None:
            self._redis = Redis.from_url(self.redis_url, decode_responses=True, protocol=2)
        return self._redis

    # ---- HTTP

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        source_ip: str | None = None,
        timeout_s: float = WAIT_S,
    ) -> Response:
        """One call; a body that is not bytes is written as JSON. Raises: NoAnswer."""
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        client = HttpClient(self.cluster.url, source_ip=source_ip)
        return await client.request(method, path, body=raw, headers=headers, timeout_s=timeout_s)

    # ---- agents

    async def register(self, token: str = "", *, name: str = "", host_id: int | None = None, **fields: Any) -> Agent:
        """Register as the real agent does: its token in the header."""
        token = token or new_token()
        host_id = new_number() if host_id is None else host_id
        body = {"name": name or f"agent {host_id}", "host_id": host_id, **fields}
        answer = await self.call("POST", "/api/agents/register/", body, {"Authorization": f"Bearer {token}"})
        assert answer.status == 200, answer
        said: Any = answer.json()
        return Agent(self, said, token, host_id)

    async def agent(self, **fields: Any) -> Agent:
        """A new agent, registered and connected."""
        return await (await self.register(**fields)).connect()

    async def dial(
        self, url: str, subprotocols: Sequence[str], source_ip: str = "127.0.0.1", **options: Any
    ) -> ClientConnection:
        """Open a WebSocket. Raises: Refused; OSError when nothing was answered."""
        given: dict[str, Any] = {"compression": None, "max_size": None, "ping_interval": None, "proxy": None}
        offers = [Subprotocol(offer) for offer in subprotocols]
        try:
            socket = await connect(
                url, subprotocols=offers, local_addr=(source_ip, 0), open_timeout=WAIT_S, **(given | options)
            )
        except InvalidStatus as refusal:
            response = refusal.response
            raise Refused(
                response.status_code, dict(response.headers.raw_items()), bytes(response.body or b"")
            ) from None
        except InvalidMessage as error:
            raise ConnectionError(str(error)) from error
        self._sockets.append(socket)
        return socket

    # ---- feeds

    async def entries(self, feed: str, **match: str) -> list[Entry]:
        """What a feed was given since the test began and holds now, in order, where the fields are these."""
        found: list[tuple[str, Entry]] = await self.redis.xrange(feed, min=self._since_ms)
        return [entry for _, entry in found if match.items() <= entry.items()]

    async def entries_of(self, feed: str, count: int, timeout_s: float = WAIT_S, **match: str) -> list[Entry]:
        """Wait until a feed holds so many entries like these; never more."""
        found: list[Entry] = []

        async def missing() -> str:
            found[:] = await self.entries(feed, **match)
            return "" if len(found) >= count else f"{len(found)} of {count} entries: {found}"

        await eventually(missing, timeout_s)
        assert len(found) == count, found
        return found

    # ---- its end

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for socket in self._sockets:
            socket.transport.abort()
        for socket in self._sockets:
            with contextlib.suppress(ConnectionClosed, OSError):
                await socket.wait_closed()
        if self._redis is not None:
            await self._redis.aclose()


def log(message_id: str, task_id: str, *contents: str, **line: Any) -> dict[str, Any]:
    """A log message; `line` is said of each of its lines."""
    lines = [{"content": content, **line} for content in contents]
    return {"type": "log", "message_id": message_id, "task_id": task_id, "logs": lines}


def task_result(message_id: str, task_id: str, status: str = "success", **result: Any) -> dict[str, Any]:
    """A result."""
    fields = {"task_id": task_id, "status": status, "exit_code": 0, **result}
    return {"type": "task_result", "message_id": message_id, "task_id": task_id, "result": fields}


def error_of(response: Response | Refused, status: int, code: int) -> str:
    """The text of an error answer, which has this status and code, and the shape of all errors."""
    assert response.status == status, (response.status, response.body)
    body: Any = response.json()
    assert body == {"code": code, "error": body["error"]}
    error = body["error"]
    assert isinstance(error, str)
    assert error
    assert error.isprintable(), "one line"
    return error


def said_by(cluster: ClusterProcess) -> str:
    """All that the cluster printed so far."""
    return "\n".join(path.read_text(errors="replace") for path in (cluster.stdout, cluster.stderr) if path.exists())


def found_in(folder: Path, canaries: Iterable[str]) -> list[str]:
    """Which of these texts stand in a file below the folder."""
    texts = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return [canary for canary in canaries if any(canary.encode() in text for text in texts)]


@contextlib.contextmanager
def redis_paused(cluster: ClusterProcess) -> Iterator[None]:
    """SIGSTOP of the cluster's own Redis, meanwhile."""
    pid = cluster.redis_pid()
    signal_child(pid, cluster.supervisor.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_child(pid, cluster.supervisor.pid, signal.SIGCONT)
