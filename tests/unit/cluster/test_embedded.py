"""The Redis of one machine, with the real binaries: 6.2 of the wheel and 7.0 of the system."""

import asyncio
import contextlib
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster import config, programs, settings
from cluster.embedded import EmbeddedRedis, running_url
from cluster.errors import StartError
from cluster.process import Process
from cluster.redis_binary import Binary, find_binary
from cluster.redis_client import Store
from tests.support.eventually import eventually, eventually_blocking
from tests.support.ports import free_port
from tests.support.redis_server import Version, binary
from tests.support.required_redis import require_redis
from tests.support.spawned import children_of, is_running, spawn

ROOT = Path(__file__).parents[3]
VERSIONS: tuple[Version, ...] = ("6.2", "7.0")
SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from cluster.embedded import EmbeddedRedis
from cluster.redis_binary import find_binary
async def main():
    await EmbeddedRedis(Path(sys.argv[1]), find_binary(), int(sys.argv[2])).start()
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def first_port() -> int:
    return free_port()


def of(version: Version) -> Binary:
    require_redis(version)
    path = str(binary(version))
    return find_binary(str(Path(path).parent)) if version == "7.0" else Binary(path, (6, 2, 14))


@contextlib.asynccontextmanager
async def running(redis: EmbeddedRedis) -> AsyncIterator[Process]:
    process = await redis.start()
    try:
        yield process
    finally:
        await process.stop(10)
        redis.close()


def said(redis: EmbeddedRedis, *words: str) -> list[str]:
    """The lines that Redis answers one command with, less their lengths."""
    with socket.create_connection(("127.0.0.1", redis.port), 5) as connection:
        parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
        connection.sendall(f"*{len(words)}\r\n{''.join(parts)}*1\r\n$4\r\nQUIT\r\n".encode())
        answer = connection.makefile("rb").read().decode()
    return [line for line in answer.split("\r\n")[:-2] if not line.startswith(("$", "*"))]


@pytest.mark.parametrize("version", VERSIONS)
async def test_it_keeps_what_it_acknowledged_and_serves_this_machine_alone(
    data_dir: Path, first_port: int, version: Version
) -> None:
    redis = EmbeddedRedis(data_dir, of(version), first_port)
    async with running(redis):
        assert redis.url == f"redis://127.0.0.1:{first_port}/0"
        wanted = {
            "appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction", "bind": "127.0.0.1",
            "protected-mode": "yes", "dir": str(data_dir / "redis"), "logfile": str(data_dir / "redis" / "redis.log"),
        }  # fmt: skip
        assert {name: said(redis, "CONFIG", "GET", name)[1] for name in wanted} == wanted
        assert set(said(redis, "CONFIG", "GET", "notify-keyspace-events")[1]) == set("xE")
    assert (data_dir / "redis").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("version", VERSIONS)
async def test_processes_of_its_user_reach_it_by_a_socket_in_its_folder(
    data_dir: Path, first_port: int, version: Version
) -> None:
    redis = EmbeddedRedis(data_dir, of(version), first_port)
    socket_path = data_dir / "redis" / "redis.sock"
    for _ in range(2):  # the second time where one that was killed has left its socket
        async with running(redis) as process:
            assert redis.local_url == f"unix://{socket_path}"
            assert stat.S_IMODE(socket_path.stat().st_mode) == 0o700
            store = Store(settings.Redis(enabled=True, url=redis.local_url))
            assert await store.ask(("PING",)) == [b"PONG"]
            await store.close()
            await process.kill()


@pytest.mark.parametrize("name", ["d" * 100, "\udcff"])
async def test_a_folder_that_has_no_socket_is_reached_by_its_port(tmp_path: Path, first_port: int, name: str) -> None:
    redis = EmbeddedRedis(tmp_path / name, of("7.0"), first_port)
    async with running(redis):
        assert redis.local_url == redis.url
        assert said(redis, "PING") == ["+PONG"]


@pytest.mark.parametrize("name", ["a b", "a#b?c%20", "caf\u00e9"])
async def test_a_folder_of_any_name_has_a_socket(tmp_path: Path, first_port: int, name: str) -> None:
    redis = EmbeddedRedis(tmp_path / name, of("6.2"), first_port)
    async with running(redis):
        loaded = config.load(None, environ={}, flags=programs.how_to_reach(redis.local_url, settings.Redis()))
        store = Store(loaded.settings.redis)
        assert await store.ask(("PING",)) == [b"PONG"]
        await store.close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_was_written_is_there_after_a_kill(data_dir: Path, first_port: int, version: Version) -> None:
    redis = EmbeddedRedis(data_dir, of(version), first_port)
    async with running(redis) as process:
        assert said(redis, "SET", "key", "value") == ["+OK"]
        await process.kill()
    async with running(redis):
        assert said(redis, "GET", "key") == ["value"]


async def test_a_newer_redis_takes_over_the_data_of_an_older_one(data_dir: Path, first_port: int) -> None:
    older, newer = (EmbeddedRedis(data_dir, of(version), first_port) for version in VERSIONS)
    async with running(older):
        said(older, "SET", "key", "value")
    async with running(newer):
        assert said(newer, "GET", "key") == ["value"]


@pytest.mark.parametrize("has_record", [True, False])
async def test_an_older_redis_does_not_open_the_data_of_a_newer_one(
    data_dir: Path, first_port: int, *, has_record: bool
) -> None:
    async with running(EmbeddedRedis(data_dir, of("7.0"), first_port)):
        pass
    if not has_record:
        (data_dir / "redis" / "embedded.json").write_text("{")
    with pytest.raises(StartError, match=r"was written by Redis 7\.\d+, and the newest redis-server found is 6\.2\.14"):
        await EmbeddedRedis(data_dir, of("6.2"), first_port).start()
    assert not (data_dir / "redis" / "appendonly.aof").exists()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.embedded._LOCK_S", 0.1)


@pytest.mark.usefixtures("impatient")
async def test_two_on_one_directory_are_refused_by_its_name(data_dir: Path, first_port: int) -> None:
    async with running(EmbeddedRedis(data_dir, of("6.2"), first_port)):
        with pytest.raises(StartError) as refusal:
            await EmbeddedRedis(data_dir, of("6.2"), first_port).start()
    assert (
        str(refusal.value)
        == f"the data directory {data_dir} is in use by another agent-server (choose another --data-dir)"
    )


@pytest.mark.usefixtures("impatient")
async def test_a_redis_that_outlives_its_supervisor_keeps_the_directory(data_dir: Path, first_port: int) -> None:
    first = EmbeddedRedis(data_dir, of("6.2"), first_port)
    process = await first.start()
    first.close()  # as the death of the supervisor would
    try:
        with pytest.raises(StartError, match="in use by another"):
            await EmbeddedRedis(data_dir, of("6.2"), first_port).start()
    finally:
        await process.stop(10)


async def test_a_port_that_is_taken_gives_way_to_the_next_one_which_is_kept(data_dir: Path, first_port: int) -> None:
    redis = EmbeddedRedis(data_dir, of("6.2"), first_port)
    with socket.create_server(("127.0.0.1", first_port)):
        async with running(redis):
            assert redis.port > first_port
    again = EmbeddedRedis(data_dir, of("6.2"), first_port)
    async with running(again):
        assert again.port == redis.port


async def test_a_kept_port_that_is_taken_meanwhile_is_given_up(data_dir: Path, first_port: int) -> None:
    async with running(EmbeddedRedis(data_dir, of("6.2"), first_port)):
        pass
    with socket.create_server(("127.0.0.1", first_port)):
        redis = EmbeddedRedis(data_dir, of("6.2"), first_port)
        async with running(redis):
            assert redis.port != first_port


async def test_after_its_death_it_comes_back_on_the_port_its_clients_know(data_dir: Path, first_port: int) -> None:
    redis = EmbeddedRedis(data_dir, of("6.2"), first_port)
    process = await redis.start()
    await process.kill()
    with socket.create_server(("127.0.0.1", first_port)), pytest.raises(StartError, match=f"tried {first_port}$"):
        await redis.start()
    async with running(redis):
        assert redis.port == first_port


@pytest.mark.parametrize("version", VERSIONS)
async def test_it_has_loaded_everything_when_it_is_started(data_dir: Path, first_port: int, version: Version) -> None:
    keys = 200_000
    folder = data_dir / "redis"
    folder.mkdir(parents=True)
    lines = (f"*3\r\n$3\r\nSET\r\n${len(str(key))}\r\n{key}\r\n$1\r\nx\r\n" for key in range(keys))
    (folder / "appendonly.aof").write_text("".join(lines), newline="")
    redis = EmbeddedRedis(data_dir, of(version), first_port)
    async with running(redis):
        assert said(redis, "DBSIZE") == [f":{keys}"]


async def test_a_killed_supervisor_takes_its_redis_along_and_is_no_obstacle(
    data_dir: Path, first_port: int, tmp_path: Path
) -> None:
    supervisor = spawn(
        [sys.executable, "-c", SUPERVISOR, str(data_dir), str(first_port)],
        cwd=ROOT, stdout=tmp_path / "out", stderr=tmp_path / "err",
    )  # fmt: skip
    eventually_blocking(
        lambda: None if "ready" in (tmp_path / "out").read_text() else (tmp_path / "err").read_text() or "silent"
    )
    [orphan] = children_of(supervisor.pid)
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    redis = EmbeddedRedis(data_dir, find_binary(), first_port)
    async with running(redis):
        assert redis.port == first_port
        await eventually(lambda: is_running(orphan.pid))


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"cannot write to the data directory .*/file/data: Not a directory"):
        await EmbeddedRedis(tmp_path / "file" / "data", of("6.2")).start()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_directory_that_may_not_be_written_is_named(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o500)  # noqa: ASYNC240 - a test waits for nobody
    with pytest.raises(StartError, match=r"cannot write to the data directory .*: Permission denied"):
        await EmbeddedRedis(data_dir, of("6.2")).start()


async def test_a_full_disk_is_told_before_redis_is_started(data_dir: Path) -> None:
    folder = data_dir / "redis"
    folder.mkdir(parents=True)
    (folder / "room").symlink_to("/dev/full")
    with pytest.raises(StartError, match=r"cannot write to the data directory .*: No space left on device"):
        await EmbeddedRedis(data_dir, of("6.2")).start()


async def test_after_a_refusal_the_directory_is_free_again(data_dir: Path, first_port: int) -> None:
    folder = data_dir / "redis"
    folder.mkdir(parents=True)
    (folder / "room").symlink_to("/dev/full")
    redis = EmbeddedRedis(data_dir, of("6.2"), first_port)
    with pytest.raises(StartError):
        await redis.start()
    (folder / "room").unlink()
    async with running(redis):
        assert said(redis, "DBSIZE") == [":0"]


async def test_data_that_redis_refuses_is_told_in_its_words(data_dir: Path, first_port: int) -> None:
    folder = data_dir / "redis"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof").write_text("no append-only file\r\n", newline="")
    with pytest.raises(StartError, match=r"Redis does not start: Bad file format .*redis\.log") as refusal:
        await EmbeddedRedis(data_dir, of("6.2"), first_port).start()
    assert "\n" not in str(refusal.value)


async def test_a_start_that_is_given_up_leaves_no_redis_behind(data_dir: Path, first_port: int) -> None:
    starting = asyncio.create_task(EmbeddedRedis(data_dir, of("6.2"), first_port).start(), name="start")
    await eventually(lambda: not children_of(os.getpid()) and "nothing started")
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await (await starting).stop(10)  # it was faster
    await eventually(lambda: [child for child in children_of(os.getpid()) if str(first_port) in " ".join(child.argv)])


async def test_others_find_it_while_it_runs_and_are_told_when_it_does_not(data_dir: Path, first_port: int) -> None:
    with pytest.raises(StartError, match="none was ever started in the data directory"):
        running_url(data_dir)
    redis = EmbeddedRedis(data_dir, of("7.0"), first_port)
    async with running(redis):
        assert running_url(data_dir) == redis.url
    with pytest.raises(StartError, match="does not run"):
        running_url(data_dir)
