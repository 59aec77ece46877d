"""The control plane's client insists with the same bytes, signs what it sends, and takes down each attempt."""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.support.control_plane import ControlPlane, NotAcceptedError, new_task, signature, task_id_of
from tests.support.ports import free_port
from tests.support.recorder import Answered, Posted, Recorder, digest


class Router:
    """Answers what it is told to: statuses for the next calls, then 200; status 0 closes the connection without a word."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.statuses: list[int] = []
        self.calls: list[tuple[str, bytes, dict[str, str]]] = []
        self.connections = 0
        self.chunked = False
        self.is_silent = False

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.calls.append((first, body, headers))
        if self.is_silent:
            return not await reader.read()
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 0:
            return False
        text = b'{"status": "dispatched"}'
        if self.chunked:
            writer.write(f"HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            writer.write(
                b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in (text[:5], text[5:])) + b"0\r\n\r\n"
            )
        else:
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
        return headers.get("connection") != "close"


Routers = Callable[[int], list[Router]]


@asynccontextmanager
async def running_router() -> AsyncIterator[Router]:
    router = Router(free_port())
    server = await asyncio.start_server(router.on_connection, "127.0.0.1", int(router.url.rpartition(":")[2]))
    async with server:
        yield router


@pytest.fixture
async def routers() -> AsyncIterator[list[Router]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running_router()) for _ in range(2)]


def client(*routers: Router, **how: object) -> ControlPlane:
    return ControlPlane(*(router.url for router in routers), retry_s=0.01, **how)  # type: ignore[arg-type]


async def test_a_post_is_repeated_with_the_same_bytes_until_it_is_taken(routers: list[Router]) -> None:
    routers[0].statuses = [503, 0, 502]
    control_plane = client(routers[0])
    task = new_task(7)
    answer = await control_plane.post_task("a1", task)
    assert answer.status == 200
    assert answer.json() == {"status": "dispatched"}
    assert len({body for _, body, _ in routers[0].calls}) == 1
    assert [answered.status for answered in control_plane.recorder.of(Answered)] == [503, 0, 502, 200]
    posted = control_plane.recorder.of(Posted)
    assert {(one.target, one.tasks[0].task_id) for one in posted} == {("a1", task["id"])}
    assert {one.tasks[0].digest for one in posted} == {digest(json.dumps(task, separators=(",", ":")).encode())}


@pytest.mark.parametrize("status", [400, 404, 409, 413])
async def test_a_refusal_is_not_argued_with(routers: list[Router], status: int) -> None:
    routers[0].statuses = [status]
    assert (await client(routers[0]).post_task("a1", new_task())).status == status
    assert len(routers[0].calls) == 1


async def test_it_gives_up_at_its_deadline(routers: list[Router]) -> None:
    routers[0].statuses = [503] * 1000
    with pytest.raises(NotAcceptedError, match="503"):
        await client(routers[0]).post_task("a1", new_task(), give_up_s=0.1)


async def test_after_a_failure_it_tries_the_next_router(routers: list[Router]) -> None:
    routers[0].statuses = [503]
    await client(*routers).post_task("a1", new_task())
    assert [len(router.calls) for router in routers] == [1, 1]


async def test_a_post_can_go_to_all_routers_at_once(routers: list[Router]) -> None:
    routers[0].statuses = [503]
    assert (await client(*routers).post_task("a1", new_task(), everywhere=True)).status == 200
    assert routers[0].calls[0][1] == routers[1].calls[0][1]


async def test_a_router_that_is_not_there_is_no_answer() -> None:
    control_plane = ControlPlane(f"http://127.0.0.1:{free_port()}")
    assert (await control_plane.metrics()).status == 0
    assert control_plane.recorder.of(Answered)[0].error


async def test_an_answer_that_does_not_come_is_no_answer(routers: list[Router]) -> None:
    routers[0].is_silent = True
    control_plane = client(routers[0], timeout_s=0.1)
    assert (await control_plane.metrics()).status == 0
    assert control_plane.recorder.of(Answered)[0].error == "no answer within 0.1 s"


async def test_a_batch_carries_each_tasks_own_bytes(routers: list[Router]) -> None:
    control_plane = client(routers[0])
    await control_plane.post_batch("a1", [b'{ "id":"t1" }', {"id": "t2"}])
    first, body, _ = routers[0].calls[0]
    assert first == "POST /api/agents/a1/tasks/batch/ HTTP/1.1"
    assert body == b'[{ "id":"t1" },{"id":"t2"}]'
    assert [task.task_id for task in control_plane.recorder.of(Posted)[0].tasks] == ["t1", "t2"]


async def test_calls_are_signed_when_there_is_a_secret(routers: list[Router]) -> None:
    await client(routers[0], secret="s3cret").post_task("a1", b'{"id": "t1"}')
    _, body, headers = routers[0].calls[0]
    text = f"{headers['x-timestamp']}\nPOST\n/api/agents/a1/tasks/\n".encode() + body
    assert headers["x-signature"] == hmac.new(b"s3cret", text, hashlib.sha256).hexdigest()
    assert abs(int(headers["x-timestamp"]) - time.time()) < 60


def test_a_signature_is_of_the_decoded_path_without_its_query() -> None:
    assert signature("k", "GET", "/api/a%20b/?q=1", b"", 5) == signature("k", "GET", "/api/a b/", b"", 5)


async def test_every_call_has_its_path(routers: list[Router]) -> None:
    control_plane = client(routers[0])
    await control_plane.cancel("a1", "1_2 3")
    await control_plane.cancel_batch("a1", ["t1"])
    await control_plane.control("a1", "restart")
    await control_plane.upgrade("a1", "2.0", "http://x")
    await control_plane.agents("limit=5")
    await control_plane.agent(7)
    await control_plane.forget("a1")
    assert [first.removesuffix(" HTTP/1.1") for first, _, _ in routers[0].calls] == [
        "POST /api/agents/a1/tasks/1_2%203/cancel/",
        "POST /api/agents/a1/tasks/cancel/batch/",
        "POST /api/agents/a1/control/",
        "POST /api/agents/a1/upgrade/",
        "GET /api/agents/?limit=5",
        "GET /api/agents/7/",
        "DELETE /api/agents/a1/",
    ]


async def test_connections_are_kept_only_when_asked_for(routers: list[Router]) -> None:
    keeping = client(routers[0], keep_alive=True)
    for control_plane in (keeping, client(routers[1])):
        for _ in range(3):
            assert (await control_plane.metrics()).status == 200
    assert [router.connections for router in routers] == [1, 3]
    await keeping.close()


async def test_a_chunked_answer_is_read(routers: list[Router]) -> None:
    routers[0].chunked = True
    assert (await client(routers[0], keep_alive=False).metrics()).json() == {"status": "dispatched"}


def test_new_tasks_have_ids_of_the_control_planes_form() -> None:
    first, second = new_task(7, execution_id=5, step_id=2), new_task(7)
    assert str(first["id"]).startswith("5_2_7_")
    assert first["id"] != second["id"]


@pytest.mark.parametrize("task", [b"{", b"[]", b'"x"', b"{}", b"\xff"])
def test_a_task_without_a_readable_id_has_none(task: bytes) -> None:
    assert task_id_of(task) == ""


def test_a_recorder_can_be_shared() -> None:
    recorder = Recorder()
    assert ControlPlane("http://127.0.0.1:1", recorder=recorder).recorder is recorder
