"""`file_transfer` against a small HTTP server: the file is there whole and right, or not at all."""

import asyncio
import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cluster.lab import runner
from cluster.lab.output import OutputLine
from cluster.lab.runner import CANCELLED, Stop
from cluster.lab.trouble import BAD_TASK, FAILED_HERE, NETWORK, TIMED_OUT
from cluster.lab.wire import End
from cluster.messages import TaskSpec
from tests.support.eventually import eventually

BODY = b"0123456789" * 5_000
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()


class Files(ThreadingHTTPServer):
    """Serves `/file`, and some that go wrong; `elsewhere` is the same server under another name."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.elsewhere = f"http://localhost:{self.server_port}"
        self.seen: list[tuple[str, str | None]] = []  # paths, and their X-Key
        self.may_end = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Files

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("X-Key")))
        match self.path.partition("?")[0]:
            case "/file":
                self.reply(200, BODY)
            case "/redirect":
                self.reply(302, b"", Location=f"{self.server.elsewhere}/file")
            case "/to-disk":
                self.reply(302, b"", Location="file:///etc/passwd")
            case "/short":
                self.reply(200, BODY[:-1], length=len(BODY))
            case "/stalled":
                self.reply(200, BODY[:100], length=len(BODY))
                self.wfile.flush()
                self.server.may_end.wait(20)
            case _:
                self.reply(404, b"no")

    def reply(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def files() -> Iterator[Files]:
    with Files() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.may_end.set()
        server.shutdown()
        thread.join()


class Host:
    """Transfers files into a folder."""

    def __init__(self, folder: Path, files: Files) -> None:
        self.folder, self.files = folder, files
        self.target = folder / "sub" / "file.bin"
        self.lines: list[OutputLine] = []
        self.stop: Stop = asyncio.get_running_loop().create_future()

    async def keep(self, lines: list[OutputLine]) -> bool:
        self.lines += lines
        return True

    async def bring(self, path: str = "/file", timeout_sec: int = 0, run_as: str = "", **fields: Any) -> End:
        order = {"download_url": self.files.url + path, "remote_path": str(self.target), **fields}
        task = {"id": "t", "type": "file_transfer", "timeout_sec": timeout_sec, "run_as": run_as}
        spec = msgspec.convert({**task, "file_transfer": order}, TaskSpec)
        return await asyncio.wait_for(runner.run(spec, self.stop, self.keep, 0.3), 20)

    def left(self) -> list[str]:
        """Every file below the folder."""
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
async def host(tmp_path: Path, files: Files) -> Host:
    return Host(tmp_path, files)


@pytest.mark.parametrize(
    "checksum",
    [None, "", MD5, SHA256, f"md5:{MD5}", f"sha256:{SHA256}", f"SHA256:{SHA256.upper()}", f"sha256={SHA256}"],
)
async def test_a_file_comes_whole(host: Host, checksum: str | None) -> None:
    end = await host.bring(checksum=checksum, size=len(BODY))
    assert (end.status, end.exit_code, end.error_msg) == ("success", 0, "")
    assert host.target.read_bytes() == BODY
    assert host.left() == ["file.bin"]
    assert [line.content for line in host.lines] == [f"{len(BODY)} bytes came to {host.target}"]


async def test_a_file_that_is_replaced_keeps_its_rights(host: Host) -> None:
    host.target.parent.mkdir()
    host.target.write_bytes(b"old")
    host.target.chmod(0o750)
    await host.bring()
    assert (host.target.read_bytes(), host.target.stat().st_mode & 0o777) == (BODY, 0o750)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
async def test_a_file_belongs_to_whom_the_task_runs_as(host: Host) -> None:
    await host.bring(run_as="nobody")
    assert host.target.owner() == "nobody"


@pytest.mark.parametrize(
    ("path", "fields", "error_msg"),
    [
        ("/nothing", {}, "download: the server answers 404"),
        ("/short", {}, "download: the connection ended 1 bytes early"),
        ("/file", {"size": 7}, "download: more bytes came than `size` says"),
        ("/file", {"size": len(BODY) + 1}, f"download: {len(BODY)} bytes came, not the {len(BODY) + 1} of `size`"),
        ("/file", {"checksum": "0" * 64}, "download: the sha256 checksum of what came is another one"),
        ("/to-disk", {}, "download: the server answers 302"),
    ],
)
async def test_what_is_not_as_ordered_leaves_the_old_file(
    host: Host, path: str, fields: dict[str, Any], error_msg: str
) -> None:
    host.target.parent.mkdir()
    host.target.write_bytes(b"old")
    end = await host.bring(path, **fields)
    assert (end.status, end.exit_code, end.error_code, end.error_msg) == ("failed", -1, NETWORK, error_msg)
    assert (host.left(), host.target.read_bytes()) == (["file.bin"], b"old")


@pytest.mark.parametrize(
    ("fields", "error_msg"),
    [
        ({"download_url": None}, "file_transfer: download_url and remote_path are required"),
        ({"download_url": "file:///etc/passwd"}, "file_transfer.download_url: expected http or https"),
        ({"remote_path": "/tmp"}, "file_transfer.remote_path: '/tmp' is a folder"),
        ({"checksum": "md5:abc"}, "file_transfer.checksum: expected the hex digits of an MD5 or SHA-256"),
        ({"checksum": f"md5:{SHA256}"}, "file_transfer.checksum: expected the hex digits of an MD5 or SHA-256"),
    ],
)
async def test_an_order_that_cannot_be_carried_out_says_why(host: Host, fields: dict[str, Any], error_msg: str) -> None:
    end = await host.bring(**fields)
    assert (end.status, end.error_code, end.error_msg) == ("failed", BAD_TASK, error_msg)


async def test_a_server_that_is_not_there_is_told(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    end = await host.bring(download_url=f"http://127.0.0.1:{port}/?key=s3cret")
    assert (end.error_code, "refused" in end.error_msg, "s3cret" in end.error_msg) == (NETWORK, True, False)


async def test_a_place_that_cannot_be_written_is_told(host: Host) -> None:
    (host.folder / "sub").touch()
    end = await host.bring()
    assert (end.status, end.error_code) == ("failed", FAILED_HERE)


async def test_auth_headers_go_to_the_urls_own_host_alone(host: Host) -> None:
    end = await host.bring("/redirect?a=b", auth_headers={"X-Key": "s3cret"})
    assert end.status == "success"
    assert host.files.seen == [("/redirect?a=b", "s3cret"), ("/file", None)]


async def test_no_more_than_the_bandwidth_is_taken(host: Host) -> None:
    began_s = time.monotonic()
    end = await host.bring(bandwidth_limit=len(BODY) * 2)
    assert end.status == "success"
    assert time.monotonic() - began_s >= 0.4


async def test_a_cancelled_download_leaves_nothing(host: Host) -> None:
    run = asyncio.create_task(host.bring("/stalled"))
    await eventually(lambda: "" if host.left() else "it has not begun")
    host.stop.set_result(CANCELLED)
    end = await run
    assert (end.status, host.left()) == ("cancelled", [])
    host.files.may_end.set()


async def test_a_download_that_takes_too_long_times_out(host: Host) -> None:
    end = await host.bring("/stalled", timeout_sec=1)
    assert (end.status, end.error_code, host.left()) == ("failed", TIMED_OUT, [])
    host.files.may_end.set()
