"""The directory of nodes: who lives is in it, one process a name, and who is dead is not taken for alive."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from cluster import nodes as nodes_module
from cluster.errors import StartError, StoreUnavailable
from cluster.nodes import ALIVE_MS, DRAINING, READY, Node
from cluster.registry import Owner
from tests.integration.conftest import MakeCore
from tests.integration.core import Core, together
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer

NODE = Node("n1", "boot-1", READY, "/run/n1.sock", "10.0.0.1:8080", "127.0.0.1:9080", 5, 4711)
OWNER = Owner("n1", "boot-1", 7)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats, lives and waits, five times as fast."""
    monkeypatch.setattr(nodes_module, "BEAT_S", 0.2)
    monkeypatch.setattr(nodes_module, "ALIVE_MS", 800)
    monkeypatch.setattr(nodes_module, "RETRY_S", 0.04)


def another(node: Node = NODE, **changes: object) -> Node:
    return msgspec.structs.replace(node, **changes)


@asynccontextmanager
async def beating(core: Core, node: Node) -> AsyncIterator[None]:
    """The node says that it lives, again and again."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(nodes_module.BEAT_S)
            assert await core.nodes.announce(node)

    assert await core.nodes.announce(node)
    living = asyncio.create_task(beat())
    try:
        yield
    finally:
        living.cancel()
        (ended,) = await asyncio.gather(living, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError)


# ---- announcing ----


async def test_a_node_is_found_as_it_announces_itself(core: Core) -> None:
    assert await core.nodes.announce(NODE)
    assert await core.nodes.all() == [NODE]


async def test_the_newest_announcement_counts(core: Core) -> None:
    for change in ({"load": 6}, {"state": DRAINING}, {"handover": ""}):
        node = another(**change)
        assert await core.nodes.announce(node)
        assert await core.nodes.all() == [node]


async def test_nodes_are_listed_by_their_ids(core: Core) -> None:
    for name in ("n3", "n1", "n2"):
        await core.nodes.announce(another(id=name))
    assert [node.id for node in await core.nodes.all()] == ["n1", "n2", "n3"]


async def test_an_announcement_that_cannot_be_read_hides_no_other(core: Core) -> None:
    """A router ended over it, for as long as it stood there."""
    assert await core.nodes.announce(NODE)
    await core.redis.hset(core.keys.node("n2"), mapping={"boot": "b", "load": "much"})
    await core.redis.sadd(core.keys.nodes, "n2")
    assert await core.nodes.all() == [NODE]


async def test_an_announcement_lives_for_seconds(core: Core) -> None:
    await core.nodes.announce(NODE)
    assert ALIVE_MS - 1000 < await core.redis.pttl(core.keys.node("n1")) <= ALIVE_MS


@pytest.mark.usefixtures("quick")
async def test_a_node_that_is_silent_is_gone_and_is_looked_for_no_more(core: Core) -> None:
    await core.nodes.announce(NODE)
    await core.nodes.announce(another(id="n2"))
    await core.redis.persist(core.keys.node("n2"))

    async def still_there() -> list[str]:
        return [node.id for node in await core.nodes.all() if node.id == "n1"]

    await eventually(still_there)
    assert await core.redis.smembers(core.keys.nodes) == {"n2"}


async def test_nobody_is_there_at_first(core: Core) -> None:
    assert await core.nodes.all() == []


# ---- one name, one process ----


async def test_a_second_process_does_not_get_the_name_of_a_living_one(core: Core) -> None:
    await core.nodes.announce(NODE)
    assert not await core.nodes.announce(another(boot="boot-2", load=99))
    assert await core.nodes.all() == [NODE]


@pytest.mark.usefixtures("quick")
async def test_a_second_process_with_a_living_id_is_refused_in_one_clear_line(core: Core) -> None:
    async with beating(core, NODE):
        with pytest.raises(StartError, match="n1 belongs to another live process"):
            await core.nodes.enter(another(boot="boot-2"))
        assert await core.nodes.all() == [NODE]


@pytest.mark.usefixtures("quick")
async def test_a_process_waits_for_the_name_of_one_that_died(core: Core) -> None:
    await core.nodes.announce(NODE)
    await asyncio.wait_for(core.nodes.enter(another(boot="boot-2")), 5)
    assert [node.boot for node in await core.nodes.all()] == ["boot-2"]


@pytest.mark.usefixtures("quick")
async def test_a_process_does_not_wait_for_one_of_its_machine_that_it_sees_dead(core: Core) -> None:
    dead = await asyncio.create_subprocess_exec("true")
    await dead.wait()
    await core.nodes.announce(another(machine="m1", pid=dead.pid))
    left_ms = await core.redis.pttl(core.keys.node("n1"))
    await core.nodes.enter(another(boot="boot-2", machine="m1", pid=os.getpid()))
    assert left_ms > 500
    assert [node.boot for node in await core.nodes.all()] == ["boot-2"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("machine", ["m1", "m2", ""])
async def test_a_process_of_that_machine_that_lives_or_one_elsewhere_is_not_taken_for_dead(
    core: Core, machine: str
) -> None:
    pid = os.getpid() if machine == "m1" else 2**22 - 1
    async with beating(core, another(machine=machine, pid=pid)):
        with pytest.raises(StartError):
            await core.nodes.enter(another(boot="boot-2", machine="m1" if machine else "", pid=os.getpid()))


async def test_of_many_processes_at_once_one_gets_the_name(make_core: MakeCore) -> None:
    cores = [await make_core() for _ in range(4)]
    got = await together(*(core.nodes.announce(another(boot=f"boot-{n}")) for n, core in enumerate(cores * 5)))
    assert got.count(True) == 1


@pytest.mark.usefixtures("quick")
async def test_entering_waits_for_a_redis_that_is_away(killable_redis: RedisServer, killable_core: Core) -> None:
    killable_redis.kill()
    entering = asyncio.create_task(killable_core.nodes.enter(NODE))
    with pytest.raises(StoreUnavailable):
        await killable_core.nodes.announce(NODE)
    assert not entering.done()
    killable_redis.start()
    await asyncio.wait_for(entering, 10)


# ---- leaving ----


async def test_a_node_that_leaves_is_gone_at_once_with_its_inbox(core: Core) -> None:
    await core.nodes.announce(NODE)
    await core.inbox.ring([(OWNER, "agent-1")])
    await core.nodes.leave(NODE)
    assert await core.nodes.all() == []
    assert not await core.redis.exists(core.keys.inbox("n1"), core.keys.node("n1"))


async def test_a_process_that_lost_its_name_does_not_take_it_from_the_new_one_when_it_leaves(core: Core) -> None:
    await core.nodes.announce(NODE)
    await core.redis.delete(core.keys.node("n1"))
    newer = another(boot="boot-2")
    await core.nodes.announce(newer)
    await core.nodes.leave(NODE)
    assert await core.nodes.all() == [newer]
    assert await core.redis.exists(core.keys.inbox("n1"))


async def test_leaving_twice_is_fine(core: Core) -> None:
    await core.nodes.announce(NODE)
    await core.nodes.leave(NODE)
    await core.nodes.leave(NODE)


# ---- is it alive ----


@pytest.mark.usefixtures("quick")
async def test_a_node_that_beats_is_beating(core: Core) -> None:
    async with beating(core, NODE):
        assert await core.nodes.is_beating(OWNER)


@pytest.mark.usefixtures("quick")
async def test_a_node_that_died_a_moment_ago_is_not_beating(core: Core) -> None:
    await core.nodes.announce(NODE)
    assert not await core.nodes.is_beating(OWNER)


@pytest.mark.usefixtures("quick")
async def test_another_process_of_the_name_is_not_the_claims(core: Core) -> None:
    async with beating(core, another(boot="boot-2")):
        assert not await core.nodes.is_beating(OWNER)


async def test_a_node_that_was_never_there_is_not_beating(core: Core) -> None:
    assert not await core.nodes.is_beating(OWNER)


# ---- a full Redis ----


async def test_a_node_of_a_full_redis_lives_on(killable_redis: RedisServer, killable_core: Core) -> None:
    """Full is not dead: routers would have nowhere to send agents to."""
    core = killable_core
    await core.nodes.announce(NODE)
    await core.redis.pexpire(core.keys.node("n1"), 1000)
    assert killable_redis.command("CONFIG", "SET", "maxmemory", "1") == b"+OK"
    with pytest.raises(StoreUnavailable, match="full"):
        await core.agent()
    with contextlib.suppress(StoreUnavailable):
        await core.nodes.announce(another(load=6))
    assert await core.redis.pttl(core.keys.node("n1")) > 1000
    assert [(node.id, node.load) for node in await core.nodes.all()] == [("n1", 6)]
