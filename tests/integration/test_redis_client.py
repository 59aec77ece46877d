"""The way to Redis: whatever goes wrong with it reaches the rooms as one error, in time, and the connections come back."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from cluster import redis_client, settings
from cluster.errors import StartError, StoreAway, StoreUnavailable
from cluster.nodes import Node
from cluster.redis_client import Store, check, url_of
from cluster.registry import Renewal
from tests.integration.conftest import MakeCore
from tests.integration.core import Core, Holder, together
from tests.integration.scripted_redis import bulk, info, scripted_redis
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer, Version

ANSWER_S = 3.0  # within which a control-plane call must be answered
Ask = Callable[[Core], Awaitable[object]]


async def a_script(core: Core) -> None:
    await core.agent("token-9")


async def a_command(core: Core) -> None:
    async with core.store.session() as client:
        await client.set("x", "y")


async def a_pipeline(core: Core) -> None:
    async with core.store.session() as client:
        pipe = client.pipeline(transaction=False)
        pipe.set("x", "y")
        pipe.set("z", "y")
        await pipe.execute()


async def a_transaction(core: Core) -> None:
    async with core.store.session() as client:
        pipe = client.pipeline(transaction=True)
        pipe.set("x", "y")
        await pipe.execute()


async def a_read_of_the_inbox(core: Core) -> None:
    await core.inbox.read("n1", "0")


WRITES: list[Ask] = [a_script, a_command, a_pipeline, a_transaction]


async def raised(core: Core, asks: list[Ask]) -> dict[str, str]:
    """What each of these raised when all are asked at once; nothing but `StoreUnavailable` with its cause may be raised."""
    outcomes = await asyncio.gather(*(ask(core) for ask in asks), return_exceptions=True)
    texts = {}
    for ask, outcome in zip(asks, outcomes, strict=True):
        assert isinstance(outcome, StoreUnavailable), f"{ask.__name__}: {outcome!r}"
        assert outcome.__cause__ is not None
        texts[ask.__name__] = str(outcome)
    return texts


async def all_done(core: Core) -> None:
    for ask in WRITES:
        await ask(core)


async def back(core: Core) -> str:
    """What is still wrong with it; "" once all is well."""
    try:
        for ask in WRITES:
            await ask(core)
    except StoreUnavailable as error:
        return str(error)
    return ""


# ---- away, and back ----


async def test_a_redis_that_is_down_is_unavailable_at_once_and_comes_back(
    killable_redis: RedisServer, killable_core: Core
) -> None:
    await all_done(killable_core)
    killable_redis.kill()
    started = time.monotonic()
    await raised(killable_core, [*WRITES, a_read_of_the_inbox])
    assert time.monotonic() - started < 1.0
    assert sum(killable_core.store.errors.values()) == killable_core.store.errors["connection"] == len(WRITES) + 1
    assert await killable_core.store.trouble()
    killable_redis.start()
    await eventually(lambda: back(killable_core))
    await all_done(killable_core)
    await a_read_of_the_inbox(killable_core)
    assert not await killable_core.store.trouble()


async def test_a_redis_that_does_not_answer_is_unavailable_within_three_seconds(
    killable_redis: RedisServer, killable_core: Core
) -> None:
    """However many ask: more than the pool has connections wait for one, too."""
    await all_done(killable_core)
    killable_redis.pause()
    started = time.monotonic()
    await raised(killable_core, [*WRITES, *[a_command] * 100])
    assert time.monotonic() - started < ANSWER_S
    killable_redis.resume()
    await eventually(lambda: back(killable_core))


async def test_the_probe_answers_quickly_whatever_the_others_wait_for(
    killable_redis: RedisServer, killable_core: Core
) -> None:
    assert not await killable_core.store.trouble()
    killable_redis.pause()
    started = time.monotonic()
    assert await killable_core.store.trouble()
    assert time.monotonic() - started < 1.0
    killable_redis.resume()
    await eventually(lambda: not_answering(killable_core))


async def not_answering(core: Core) -> bool:
    return bool(await core.store.trouble())


async def test_a_full_pool_does_not_look_like_a_dead_redis(redis_server: RedisServer, redis_prefix: str) -> None:
    store = Store(settings.Redis(enabled=True, url=redis_server.url, prefix=redis_prefix, pool_size=2))

    async def busy() -> None:
        async with store.session() as client:
            await client.blpop("nothing", timeout=0.4)

    waiting = [asyncio.create_task(busy()) for _ in range(2)]
    await asyncio.sleep(0.05)
    assert not await store.trouble()
    await asyncio.gather(*waiting)
    await store.close()


async def test_connections_that_break_while_idle_are_replaced_unseen(redis_server: RedisServer, core: Core) -> None:
    for ask in WRITES:
        await together(*(ask(core) for _ in range(10)))
        assert redis_server.command("CLIENT", "KILL", "TYPE", "normal").startswith(b":")
        await ask(core)


async def test_a_redis_that_hangs_up_in_the_middle_is_unavailable() -> None:
    async with scripted_redis(lambda _: None) as scripted:
        store = Store(settings.Redis(enabled=True, url=scripted.url))
        with pytest.raises(StoreUnavailable):
            await store.sync_clock()
        await store.close()


# ---- full ----


async def test_a_full_redis_is_unavailable_and_takes_again_when_it_has_room(
    killable_redis: RedisServer, killable_core: Core
) -> None:
    await all_done(killable_core)
    assert killable_redis.command("CONFIG", "SET", "maxmemory", "1") == b"+OK"
    assert set((await raised(killable_core, WRITES)).values()) == {"Redis is full"}
    assert killable_redis.command("CONFIG", "SET", "maxmemory", "0") == b"+OK"
    await all_done(killable_core)


@pytest.fixture
async def full(killable_redis: RedisServer, killable_core: Core) -> tuple[Core, Holder]:
    """A Redis that is full, and an agent of before that."""
    holder = await killable_core.connected()
    await killable_core.post(holder.agent_id, "sent")
    await killable_core.take(holder)
    await killable_core.post(holder.agent_id, "pending")
    assert killable_redis.command("CONFIG", "SET", "maxmemory", "1") == b"+OK"
    return killable_core, holder


async def test_of_a_full_redis_leases_are_renewed(full: tuple[Core, Holder]) -> None:
    """Full is not dead."""
    core, holder = full
    key = core.keys.of_agent("lease", holder.agent_id)
    await core.redis.pexpire(key, 1000)
    assert await core.registry.renew([Renewal(holder.agent_id, holder.owner, 0, "0")]) == [1]
    assert await core.redis.pttl(key) > 1000


async def test_of_a_full_redis_nodes_live_on(full: tuple[Core, Holder]) -> None:
    """What a beat does."""
    core, _ = full
    node = Node("n1", "boot")
    assert await core.redis.config_set("maxmemory", "0")
    assert await core.nodes.announce(node)
    assert await core.redis.config_set("maxmemory", "1")
    await core.redis.pexpire(core.keys.node("n1"), 1000)
    await core.store.sync_clock()
    await core.store.agree()
    with contextlib.suppress(StoreUnavailable):  # its new state is not written
        await core.nodes.announce(node)
    assert await core.redis.pttl(core.keys.node("n1")) > 1000


async def test_a_full_redis_takes_nothing_half(full: tuple[Core, Holder]) -> None:
    """A script that is refused has changed nothing."""
    core, holder = full
    agent_id = holder.agent_id
    before = {key: await core.redis.dump(key) for key in await core.redis.keys("*")}
    asked: list[Callable[[], Awaitable[object]]] = [
        lambda: core.agent("token-2"),
        lambda: core.claim(agent_id, "n2"),
        lambda: core.post(agent_id, "new"),
        lambda: core.take(holder),
        lambda: core.settle(agent_id, "sent", "life"),
        lambda: core.settle(agent_id, "sent"),
        lambda: core.mailbox.cancel(agent_id, ["pending"]),
        lambda: core.mailbox.cancel(agent_id, ["sent"]),
        lambda: core.release(holder),
        lambda: core.registry.revoke(agent_id),
        lambda: core.feeds.expect(["81_1_7_x"]),
    ]
    for ask in asked:
        with pytest.raises(StoreUnavailable, match="full"):
            await ask()
    after = {key: await core.redis.dump(key) for key in await core.redis.keys("*")}
    assert after == before


# ---- failing over ----


@pytest.fixture
async def replica(killable_redis: RedisServer, tmp_path: Path, redis_version: Version) -> AsyncIterator[RedisServer]:
    """Another Redis that follows `killable_redis`."""
    with RedisServer(tmp_path / "replica", version=redis_version) as server:
        assert server.command("REPLICAOF", "127.0.0.1", killable_redis.port) == b"+OK"
        yield server


async def test_a_demoted_primary_is_unavailable_and_its_connections_are_given_up(
    replica: RedisServer, redis_prefix: str
) -> None:
    core = Core(replica.url, redis_prefix)
    try:
        core.store._id_key = b"x" * 32
        await raised(core, WRITES)
        before = await clients(core)
        assert replica.command("REPLICAOF", "NO", "ONE") == b"+OK"
        await all_done(core)
        assert not before & await clients(core)
    finally:
        await core.close()


async def clients(core: Core) -> set[str]:
    """Who is connected, but for who looks."""
    return {client["id"] for client in await core.redis.client_list() if client["cmd"] not in ("client", "client|list")}


@pytest.mark.parametrize(
    "error",
    [
        "LOADING Redis is loading the dataset in memory",
        "READONLY You can't write against a read only replica.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "NOREPLICAS Not enough good replicas to write.",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "CLUSTERDOWN The cluster is down",
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "ERR max number of clients reached",
        "NOAUTH Authentication required.",
    ],
    ids=lambda error: error.split()[0] if not error.startswith("ERR") else "maxclients",
)
async def test_what_a_redis_says_while_it_is_away_is_unavailable(error: str) -> None:
    async with scripted_redis(lambda _: f"-{error}\r\n".encode()) as scripted:
        core = Core(scripted.url, "test:")
        core.store._id_key = b"x" * 32
        try:
            await raised(core, [*WRITES, a_read_of_the_inbox])
        finally:
            await core.close()


async def test_a_mistake_of_ours_stays_what_it_is(core: Core) -> None:
    await core.redis.set("x", "text")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        async with core.store.session() as client:
            await client.hget("x", "y")


# ---- scripts ----


async def test_a_script_that_redis_forgot_is_run_all_the_same(core: Core) -> None:
    await core.agent()
    await core.redis.script_flush()
    await core.agent()


async def test_a_script_is_sent_once_and_then_named(core: Core) -> None:
    await core.agent()
    await core.redis.config_resetstat()
    for _ in range(10):
        await core.agent()
    stats = await core.redis.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 10
    assert not {"cmdstat_eval", "cmdstat_script", "cmdstat_script|load"} & stats.keys()


# ---- the clock ----


async def test_the_clock_is_that_of_redis(redis_server: RedisServer) -> None:
    far = "1000000000"
    time_of_day = b"*2\r\n" + bulk(far) + bulk("250000")
    async with scripted_redis(lambda words: time_of_day if words == [b"TIME"] else b":1\r\n") as scripted:
        store = Store(settings.Redis(enabled=True, url=scripted.url))
        assert await store.sync_clock() < 5
        assert abs(store.now_ms() - 1_000_000_000_250) < 5000
        await store.close()


async def test_a_redis_that_loads_its_data_and_tells_the_time_is_away() -> None:
    """Leases end meanwhile: whoever takes it for one that answers declares their agents dead when it has loaded."""
    time_of_day, loading = b"*2\r\n" + bulk("1") + bulk("1"), b"-LOADING Redis is loading the dataset in memory\r\n"
    async with scripted_redis(lambda words: time_of_day if words == [b"TIME"] else loading) as scripted:
        store = Store(settings.Redis(enabled=True, url=scripted.url))
        with pytest.raises(StoreUnavailable):
            await store.sync_clock()
        await store.close()


# ---- what all processes agree on ----


async def test_processes_agree_on_the_key_of_ids(make_core: MakeCore) -> None:
    cores = [await make_core() for _ in range(3)]
    assert len({core.store.id_key for core in cores}) == 1
    assert len(cores[0].store.id_key) == 32


async def test_ids_cannot_be_made_before_redis_was_asked(redis_server: RedisServer) -> None:
    store = Store(settings.Redis(enabled=True, url=redis_server.url))
    with pytest.raises(StoreUnavailable):
        _ = store.id_key
    await store.close()


@pytest.fixture
async def stores(
    redis_server: RedisServer, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Store]]:
    """Processes that have just begun, and soon make a key where there is none."""
    monkeypatch.setattr(redis_client, "KEYLESS_S", 0.2)
    made = [Store(settings.Redis(enabled=True, url=redis_server.url, prefix=redis_prefix)) for _ in range(8)]
    yield made
    for store in made:
        await store.close()


async def agreed(store: Store) -> bytes:
    """The key, once there is one: what a process does every second."""

    async def missing() -> str:
        await store.agree()
        return "" if store._id_key else "there is no key"

    await eventually(missing, 5.0, every_s=0.02)
    return store.id_key


async def test_of_many_first_processes_all_get_the_same_key_and_none_before_it_was_sought(stores: list[Store]) -> None:
    for _ in range(3):
        await together(*(store.agree() for store in stores))
        assert not any(store._id_key for store in stores)
    with pytest.raises(StoreUnavailable):
        _ = stores[0].id_key
    keys = await together(*(agreed(store) for store in stores))
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32


async def test_a_process_that_begins_on_an_empty_redis_gets_the_key_of_those_that_live(
    stores: list[Store], redis_server: RedisServer
) -> None:
    """Whoever is first there: the one that lived through it says its word a second later."""
    living, newcomer = stores[:2]
    key = await agreed(living)
    assert redis_server.command("FLUSHALL") == b"+OK"
    await newcomer.agree()
    await asyncio.sleep(0.1)
    await newcomer.agree()
    await living.agree()
    assert await agreed(newcomer) == key


async def test_a_redis_that_was_away_meanwhile_was_not_seen_without_a_key(
    stores: list[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores[0]
    await store.agree()
    await asyncio.sleep(0.2)
    with monkeypatch.context() as away:
        away.setattr(store, "session", unanswered)
        with pytest.raises(StoreUnavailable):
            await store.agree()
    await store.agree()
    assert not store._id_key


def unanswered() -> Any:
    raise StoreUnavailable("away")


async def test_a_cluster_keeps_its_number_of_shards(make_core: MakeCore) -> None:
    await make_core()
    with pytest.raises(StartError, match=r"cluster\.shards is 8, but this cluster was made with 4"):
        await make_core(shards=8)


async def test_another_schema_is_refused(make_core: MakeCore) -> None:
    core = await make_core()
    await core.redis.hset(core.keys.meta, "schema", "99")
    with pytest.raises(StartError, match="schema 99"):
        await make_core()


# ---- will this Redis do ----


def config_of(url: str, **more: object) -> settings.Redis:
    return settings.Redis(enabled=True, url=url, **more)  # type: ignore[arg-type]


async def test_a_redis_of_the_least_version_and_above_will_do(redis_server: RedisServer) -> None:
    await check(config_of(redis_server.url))


@pytest.mark.parametrize("version", ["5.0.7", "6.0.16", "6.1.240", "2.8.4"])
async def test_an_older_redis_is_refused(version: str) -> None:
    async with scripted_redis(info(version)) as scripted:
        with pytest.raises(StartError, match=rf"is {version}; 6\.2 or newer is needed") as refused:
            await check(config_of(scripted.url))
    assert not isinstance(refused.value, StoreAway)


@pytest.mark.parametrize("version", ["6.2.0", "6.10.1", "7.0.15", "7.4", "8.2.1", "10.0.0", "255.255.255"])
async def test_a_newer_redis_will_do(version: str) -> None:
    async with scripted_redis(info(version)) as scripted:
        await check(config_of(scripted.url))


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "allkeys-random", "volatile-ttl", "allkeys-lfu"])
async def test_a_redis_that_evicts_is_refused_unless_it_is_wanted(killable_redis: RedisServer, policy: str) -> None:
    assert killable_redis.command("CONFIG", "SET", "maxmemory-policy", policy) == b"+OK"
    with pytest.raises(StartError, match=f"maxmemory-policy {policy}, which deletes tasks silently"):
        await check(config_of(killable_redis.url))
    await check(config_of(killable_redis.url, allow_eviction=True))


async def test_a_redis_that_forgets_when_it_restarts_will_do_with_a_warning(killable_redis: RedisServer) -> None:
    assert await check(config_of(killable_redis.url)) == ""
    assert killable_redis.command("CONFIG", "SET", "appendonly", "no") == b"+OK"
    expected = "has appendonly no: tasks that were accepted are lost when it restarts; set it to yes"
    warning = await check(config_of(killable_redis.url))
    assert warning.endswith(f"{killable_redis.address}/0 {expected}")


async def test_a_wrong_password_is_said_and_never_shown(killable_redis: RedisServer) -> None:
    assert killable_redis.command("CONFIG", "SET", "requirepass", "right") == b"+OK"
    address = killable_redis.address
    for wrong in (
        config_of(f"redis://:hunter2@{address}/0"), config_of(f"redis://{address}/0"),
        settings.Redis(enabled=True, addr=address, password="hunter2"), settings.Redis(enabled=True, addr=address),
    ):  # fmt: skip
        with pytest.raises(StartError, match="refuses the password") as refused:
            await check(wrong)
        assert not isinstance(refused.value, StoreAway)
        assert "hunter2" not in str(refused.value)
        assert address in str(refused.value)
    await check(settings.Redis(enabled=True, addr=address, password="right"))
    await check(config_of(f"redis://:right@{address}/0"))


async def test_a_redis_that_is_not_there_is_away_and_may_come(killable_redis: RedisServer) -> None:
    killable_redis.stop()
    with pytest.raises(StoreAway, match="does not answer"):
        await check(config_of(killable_redis.url))


async def test_a_redis_that_is_loading_is_away_and_may_come() -> None:
    async with scripted_redis(lambda _: b"-LOADING Redis is loading the dataset in memory\r\n") as scripted:
        with pytest.raises(StoreAway):
            await check(config_of(scripted.url))


async def test_what_is_no_redis_is_said_in_one_line() -> None:
    async with scripted_redis(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as scripted:
        with pytest.raises(StartError) as refused:
            await check(config_of(scripted.url))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("config", "url"),
    [
        (settings.Redis(), "redis://localhost:6379/0"),
        (settings.Redis(addr="10.0.0.1:7000", db=3), "redis://10.0.0.1:7000/3"),
        (settings.Redis(password="p@ss/w:rd#?"), "redis://:p%40ss%2Fw%3Ard%23%3F@localhost:6379/0"),
        (settings.Redis(url="rediss://u:p@h:1/2", password="other"), "rediss://u:p@h:1/2"),
    ],
    ids=["default", "addr", "password", "url"],
)
def test_an_address_is_a_url(config: settings.Redis, url: str) -> None:
    assert url_of(config) == url


# ---- being cancelled ----


async def test_who_follows_redis_ends_at_the_first_cancel(core: Core) -> None:
    """The driver drops a cancel that meets the end of a send (Python 3.11): of some thousands, some do."""

    is_over = False

    async def follow() -> None:
        while not is_over:
            await a_command(core)

    for attempt in range(300):
        follower = asyncio.create_task(follow(), name="follower")
        for _ in range(attempt % 30):
            await asyncio.sleep(0)
        follower.cancel()
        _, lost = await asyncio.wait([follower], timeout=2.0)
        is_over = bool(lost)
        assert not lost, f"attempt {attempt}"


async def test_a_cancel_that_the_driver_drops_is_raised_all_the_same(core: Core) -> None:
    gone_on = False

    async def read() -> None:
        nonlocal gone_on
        async with core.store.session():
            with contextlib.suppress(asyncio.CancelledError):  # as the driver does
                await asyncio.sleep(60)
        gone_on = True

    reading = asyncio.create_task(read(), name="reading")
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading], timeout=2.0)
    assert (reading.cancelled(), gone_on) == (True, False)


async def test_what_a_cancelled_task_still_has_to_do_is_done(core: Core) -> None:
    """A cancel from before is no reason to end a later call."""
    cleaned_up = False

    async def work() -> None:
        nonlocal cleaned_up
        try:
            await asyncio.sleep(60)
        finally:
            await a_command(core)
            cleaned_up = True

    working = asyncio.create_task(work(), name="working")
    await asyncio.sleep(0)
    working.cancel()
    await asyncio.wait([working], timeout=2.0)
    assert (working.cancelled(), cleaned_up) == (True, True)


async def test_a_time_limit_around_a_call_is_still_a_time_limit(core: Core) -> None:

    async def read() -> None:
        async with asyncio.timeout(0.01), core.store.session():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await read()
    await a_command(core)
