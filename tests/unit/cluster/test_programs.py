"""What children are run as."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import config, programs
from cluster.settings import Cluster as ClusterSettings
from cluster.settings import Redis, Settings


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    opened = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
    yield opened
    for sock in opened:
        sock.close()


def test_the_router_comes_first_and_cpus_are_dealt_out_in_turn(
    sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_cpus", lambda: [2, 5])
    router, nodes = programs.posts("", sockets[0], sockets[1:], Path("/run/x"))
    assert [(post.name, post.cpu, post.handover) for post in (router, *nodes)] == [
        ("r1", 2, ""), ("n1", 5, "/run/x/n1.sock"), ("n2", 2, "/run/x/n2.sock"),
    ]  # fmt: skip


def test_a_name_begins_all_names_but_not_the_paths_of_sockets(sockets: list[socket.socket]) -> None:
    router, [node] = programs.posts("web", sockets[0], sockets[1:3], Path("/run/x"))
    assert (router.name, node.name, node.handover) == ("web-r1", "web-n1", "/run/x/n1.sock")


@pytest.mark.parametrize(
    ("redis", "is_ours"),
    [
        (Redis(), True),
        (Redis(enabled=True, addr="localhost:6379"), True),
        (Redis(enabled=True, url="redis://:x@127.0.0.1:7000/1"), True),
        (Redis(enabled=True, url="redis://[::1]:7000"), True),
        (Redis(enabled=True, url="unix:///run/redis.sock"), True),
        (Redis(enabled=True, addr="redis:6379"), False),
        (Redis(enabled=True, url="rediss://10.0.0.5:6379/0"), False),
    ],
)
def test_names_are_the_machines_own_where_other_machines_may_use_the_same_redis(redis: Redis, *, is_ours: bool) -> None:
    assert programs.own_name(redis) == ("" if is_ours else programs.host_name())


def test_a_router_gets_the_public_socket_and_a_node_a_path(sockets: list[socket.socket]) -> None:
    router, [node] = programs.posts("", sockets[0], sockets[1:3], Path("/run/x"))
    program = programs.program(router, ("run",), "c.yaml", {})
    public, admin = str(sockets[0].fileno()), str(sockets[1].fileno())
    given = (
        "--id",
        "r1",
        "--cpu",
        str(router.cpu),
        "--admin-fd",
        admin,
        "--supervised",
        "--config",
        "c.yaml",
        "--listen-fd",
        public,
    )
    assert program.command == ("run", *given)
    assert set(program.fds) == {sockets[0].fileno(), sockets[1].fileno()}
    program = programs.program(node, ("run",), None, {})
    assert program.command[-2:] == ("--handover", "/run/x/n1.sock")
    assert program.fds == (sockets[2].fileno(),)


def test_as_many_nodes_as_cpus_but_one_and_at_least_two(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for cpus in (1, 2, 3, 8):
        monkeypatch.setattr(programs, "_cpus", lambda cpus=cpus: list(range(cpus)))
        counts.append(programs.node_count(Settings()))
    assert counts == [2, 2, 2, 7]
    assert programs.node_count(Settings(cluster=ClusterSettings(nodes=1))) == 1


def test_what_was_decided_goes_before_every_other_name_of_the_same_setting() -> None:
    environ = {"AGENT_SERVER_PORT": "1", "AGENT_SERVER_REDIS_URL_FILE": "/secret", "HOME": "/root"}
    redis = Redis(pool_size=7)
    decided = {"server.port": 8080, **programs.how_to_reach("redis://127.0.0.1:6400/0", redis)}
    loaded = config.load(environ=programs.child_environ(environ, decided))
    assert not loaded.warnings
    assert loaded.settings.server.port == 8080
    assert loaded.settings.redis == Redis(enabled=True, url="redis://127.0.0.1:6400/0", pool_size=7)
    assert programs.child_environ(environ, decided)["HOME"] == "/root"


def test_a_child_does_not_import_what_lies_in_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "cluster.py").write_text("print('a stranger')")
    environ = programs.child_environ(os.environ, {})
    ran = subprocess.run(
        [*programs.module_command("cluster"), "version"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.startswith("agent-server ")
    assert programs.module_command("cluster")[0] == sys.executable
