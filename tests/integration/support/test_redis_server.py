"""A Redis that a test owns does what is done to it, in both versions."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.eventually import eventually_blocking
from tests.support.redis_server import RedisServer, Version
from tests.support.spawned import is_running

ROOT = Path(__file__).parents[3]

STARTS_A_REDIS_AND_WAITS = """
import sys, time
from pathlib import Path
from tests.support.redis_server import RedisServer
server = RedisServer(Path(sys.argv[1]), version=sys.argv[2])
server.start()
print(server.pid, flush=True)
time.sleep(60)
"""


def test_it_is_the_version_that_was_asked_for(killable_redis: RedisServer, redis_version: Version) -> None:
    log = (killable_redis.folder / "redis.log").read_text()
    assert f"Redis version={redis_version}" in log


def test_what_it_acknowledged_survives_its_being_killed(killable_redis: RedisServer) -> None:
    for number in range(100):
        assert killable_redis.command("SET", f"key-{number}", number) == b"+OK"
    port = killable_redis.port
    killable_redis.kill()
    assert not killable_redis.answers()
    killable_redis.restart()
    assert killable_redis.command("DBSIZE") == b":100"
    assert killable_redis.port == port


def test_a_paused_redis_answers_nothing_until_it_is_resumed(killable_redis: RedisServer) -> None:
    killable_redis.pause()
    assert not killable_redis.answers()
    killable_redis.resume()
    eventually_blocking(lambda: not killable_redis.answers())


def test_a_paused_redis_can_be_stopped(killable_redis: RedisServer) -> None:
    pid = killable_redis.pid
    killable_redis.pause()
    began = time.monotonic()
    killable_redis.stop()
    assert time.monotonic() - began < 8.0
    assert not is_running(pid)


def test_debug_is_there_where_the_version_lets_it_be_asked_for(killable_redis: RedisServer) -> None:
    assert killable_redis.command("DEBUG", "SLEEP", "0") == b"+OK"


def test_nothing_is_evicted(killable_redis: RedisServer) -> None:
    assert killable_redis.command("CONFIG", "SET", "maxmemory", "1") == b"+OK"
    assert killable_redis.command("SET", "key", "value").startswith(b"-OOM")


def test_it_says_why_it_does_not_start(tmp_path: Path, redis_version: Version) -> None:
    server = RedisServer(tmp_path, version=redis_version, options=("--no-such-option", "1"))
    with pytest.raises(RuntimeError, match="no-such-option"):
        server.start()


def test_it_dies_with_the_process_that_started_it(tmp_path: Path, redis_version: Version) -> None:
    argv = [sys.executable, "-c", STARTS_A_REDIS_AND_WAITS, str(tmp_path / "redis"), redis_version]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert is_running(pid)
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
    eventually_blocking(lambda: is_running(pid))
