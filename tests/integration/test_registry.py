"""Who an agent is, who owns it, and that an old owner can do nothing any more."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from redis.exceptions import ResponseError

from cluster import settings
from cluster.errors import BadInput, PeerError, Refused, UnknownAgent, WrongToken
from cluster.mailbox import Resumed
from cluster.registry import (
    CONNECT_WITHIN_S,
    EXPIRED,
    HAS_CANCELS,
    HAS_MAIL,
    PAGE,
    REVOKED,
    TAKEN_OVER,
    UNKNOWN,
    Bid,
    Claim,
    Contested,
    Owner,
    Registered,
    Release,
    Renewal,
)
from cluster.security import token_hash
from tests.integration.conftest import MakeCore
from tests.integration.core import Core, Holder, a_post, together
from tests.support.eventually import eventually

TIMEOUT_MS = 60_000
SHORT = settings.Agent(
    heartbeat_timeout_s=0.2
)  # shorter than the configuration allows, so that leases end within a test
AGES = settings.Agent().forget_after_s


async def register(core: Core, token: str = "token-1", *, may_be_new: bool = True, **profile: Any) -> Registered:
    known = {"name": "web", "host_id": 0, "labels": {}, "system": {}, **profile}
    return await core.registry.register(token, **known, may_be_new=may_be_new)


async def renew(core: Core, holder: Holder, age_ms: int = 0) -> int:
    (outcome,) = await core.registry.renew([Renewal(holder.agent_id, holder.owner, age_ms, holder.cancels)])
    return outcome


async def lease_ms(core: Core, agent_id: str) -> int:
    return int(await core.redis.pttl(core.keys.of_agent("lease", agent_id)))


async def expired(core: Core, agent_id: str) -> None:
    """Returns when the agent's lease has run out."""
    await eventually(lambda: core.redis.exists(core.keys.of_agent("lease", agent_id)))


# ---- registration ----


async def test_a_token_gets_the_same_id_from_every_process_for_ever(make_core: MakeCore) -> None:
    one, other = await make_core(), await make_core()
    first = await register(one)
    again = await register(other)
    assert first.id == again.id == one.registry.id_of("token-1")
    assert str(UUID(first.id)) == first.id
    assert (first.is_new, again.is_new, first.incarnation, again.incarnation) == (True, False, 1, 2)


async def test_another_token_is_another_agent(core: Core) -> None:
    assert (await register(core, "token-1")).id != (await register(core, "token-2")).id


async def test_a_profile_is_what_the_newest_registration_says(core: Core) -> None:
    await register(core, name="old", labels={"a": "b"}, system={"hostname": "h", "os": "linux", "arch": "arm"})
    system = {"hostname": "web-1", "os": "bsd", "arch": None, "ips": ["::1"]}
    agent_id = (await register(core, name="wéb", host_id=7, labels={"c": "d"}, system=system)).id
    profile = await core.registry.profile(agent_id)
    assert profile is not None
    assert (profile.id, profile.name, profile.host_id, profile.incarnation) == (agent_id, "wéb", 7, 2)
    assert (profile.hostname, profile.os, profile.arch) == ("web-1", "bsd", "")
    assert (json.loads(bytes(profile.labels)), json.loads(bytes(profile.system))) == ({"c": "d"}, system)
    assert abs(profile.registered_ms - core.store.now_ms()) < 5000
    assert (profile.owner, profile.heard_ms) == (None, 0)


async def test_a_token_is_nowhere_in_redis(core: Core) -> None:
    agent_id = await core.agent("s3cret-token")
    await core.claim(agent_id)
    for key in await core.redis.keys("*"):
        kind = await core.redis.type(key)
        held = await core.redis.hgetall(key) if kind == "hash" else key
        assert "s3cret-token" not in f"{key}{held}"


async def test_with_closed_registration_an_unknown_token_is_refused_and_leaves_nothing_behind(core: Core) -> None:
    before = await core.redis.keys("*")
    with pytest.raises(UnknownAgent):
        await register(core, host_id=7, may_be_new=False)
    assert await core.redis.keys("*") == before


async def test_with_closed_registration_a_known_token_is_taken(core: Core) -> None:
    await register(core)
    assert (await register(core, may_be_new=False)).incarnation == 2


async def test_registrations_at_once_are_each_counted(core: Core) -> None:
    registered = await together(*(register(core) for _ in range(20)))
    assert sorted(r.incarnation for r in registered) == list(range(1, 21))
    assert [r.is_new for r in registered].count(True) == 1


# ---- host ids ----


async def test_a_host_id_leads_to_its_agent(core: Core) -> None:
    agent_id = await core.agent(host_id=7)
    assert await core.registry.resolve("7") == await core.registry.resolve("007") == agent_id


@pytest.mark.parametrize("reference", ["7", "0", "9" * 19, "9" * 64])
async def test_a_host_id_that_nobody_has_is_an_unknown_agent(core: Core, reference: str) -> None:
    with pytest.raises(UnknownAgent):
        await core.registry.resolve(reference)


@pytest.mark.parametrize("reference", ["a", "-7", "7a", "7.0", "A_b-c.d", "x" * 64])
async def test_what_is_no_number_is_an_agents_id(core: Core, reference: str) -> None:
    assert await core.registry.resolve(reference) == reference


@pytest.mark.parametrize(
    "reference", ["", "x" * 65, "9" * 5000, "a:b", "a/b", "{s0}", "a*", "a\n", "\u0667", "ä", "a b"], ids=ascii
)
async def test_what_is_neither_is_refused(core: Core, reference: str) -> None:
    with pytest.raises(BadInput):
        await core.registry.resolve(reference)


async def test_an_agent_that_is_online_keeps_its_host_id(core: Core) -> None:
    holder = await core.connected("token-1")
    await register(core, "token-1", host_id=7)
    newcomer = await register(core, "token-2", host_id=7)
    assert newcomer.kept_host_id
    assert await core.registry.resolve("7") == holder.agent_id
    profile = await core.registry.profile(newcomer.id)
    assert profile is not None
    assert profile.host_id == 0


async def test_an_agent_that_was_online_within_the_timeout_keeps_its_host_id(core: Core) -> None:
    await core.agent("token-1", host_id=7)
    holder = await core.connected("token-1")
    await register(core, "token-1", host_id=7)
    await core.release(holder)
    assert (await register(core, "token-2", host_id=7)).kept_host_id


@pytest.mark.parametrize("has_been_online", [True, False])
async def test_else_the_newest_registration_gets_the_host_id(make_core: MakeCore, has_been_online: bool) -> None:
    core = await make_core(agent=SHORT)
    await core.agent("token-1", host_id=7)
    if has_been_online:
        holder = await core.connected("token-1")
        await register(core, "token-1", host_id=7)
        await core.release(holder, age_ms=300)
    newcomer = await register(core, "token-2", host_id=7)
    assert not newcomer.kept_host_id
    assert await core.registry.resolve("7") == newcomer.id


async def test_of_many_that_ask_for_a_host_id_at_once_one_gets_it(core: Core) -> None:
    registered = await together(*(register(core, f"token-{n}", host_id=7) for n in range(10)))
    owner = await core.registry.resolve("7")
    profiles = await core.registry.profiles([r.id for r in registered])
    assert [p.id for p in profiles if p is not None and p.host_id == 7] == [owner]


async def test_an_agent_that_comes_with_another_host_id_gives_the_old_one_back(core: Core) -> None:
    """Or tasks for host 7 would run on host 8."""
    agent_id = await core.agent(host_id=7)
    await register(core, host_id=8)
    assert await core.registry.resolve("8") == agent_id
    with pytest.raises(UnknownAgent):
        await core.registry.resolve("7")


async def test_a_host_id_that_went_to_another_agent_is_not_given_back_by_the_one_before(core: Core) -> None:
    await core.agent("token-1", host_id=7)
    newer = await core.agent("token-2", host_id=7)
    await register(core, "token-1", host_id=8)
    assert await core.registry.resolve("7") == newer


async def test_a_refused_token_takes_no_host_id(core: Core) -> None:
    stranger = await core.agent("token-2")
    await core.registry.revoke(stranger)
    agent_id = await core.agent("token-1", host_id=7)
    with pytest.raises(Refused):
        await register(core, "token-2", host_id=7)
    with pytest.raises(UnknownAgent):
        await register(core, "token-3", host_id=7, may_be_new=False)
    assert await core.registry.resolve("7") == agent_id


# ---- claims ----


async def test_a_claim_makes_an_owner_with_a_lease_and_a_deadline(core: Core) -> None:
    agent_id = await core.agent()
    claim = await core.claim(agent_id)
    owner = claim.owner
    assert (owner.node, owner.boot) == ("n1", "boot-n1")
    assert abs(owner.epoch - core.store.now_ms()) < 5000
    assert await core.registry.owner(agent_id) == owner
    assert await core.redis.get(core.keys.of_agent("lease", agent_id)) == str(owner)
    assert TIMEOUT_MS - 5000 < await lease_ms(core, agent_id) <= TIMEOUT_MS
    deadline = await core.redis.zscore(core.keys.in_shard(core.keys.shard(agent_id), "deadlines"), agent_id)
    assert abs(deadline - core.store.now_ms() - TIMEOUT_MS) < 5000
    assert (claim.previous, claim.incarnation, claim.taken, claim.unended) == (None, 1, 0, 0)


async def test_who_is_not_known_is_not_claimed_and_leaves_nothing_behind(core: Core) -> None:
    before = await core.redis.keys("*")
    (outcome,) = await core.registry.claim([Bid("nobody", "n1", "b", "", "")])
    assert isinstance(outcome, UnknownAgent)
    with pytest.raises(UnknownAgent):
        await core.registry.credentials("nobody")
    assert await core.registry.profile("nobody") is None
    assert await core.redis.keys("*") == before


async def shown(core: Core, agent_id: str, token: str) -> Claim | Contested | PeerError:
    (outcome,) = await core.registry.claim([Bid(agent_id, "n9", "b", "192.0.2.9", token_hash(token))])
    return outcome


async def everything(core: Core) -> dict[str, bytes]:
    return {key: await core.redis.execute_command("DUMP", key, NEVER_DECODE=True) for key in await core.redis.keys("*")}


async def test_a_claim_with_the_agents_token_brings_its_profile(core: Core) -> None:
    agent_id = await core.agent(host_id=7, hostname="web-1", os="linux", arch="arm64")
    profile = await core.registry.profile(agent_id)
    claim = await shown(core, agent_id, "token-1")
    assert isinstance(claim, Claim)
    assert claim.profile == profile


@pytest.mark.parametrize("token", ["", "token-2", "TOKEN-1", "token-1 ", token_hash("token-1")])
async def test_who_shows_another_token_or_none_is_not_let_in_and_changes_nothing(core: Core, token: str) -> None:
    holder = await core.connected()
    await core.agent("token-2")
    before = await everything(core)
    assert isinstance(await shown(core, holder.agent_id, token), WrongToken)
    assert await everything(core) == before
    assert not isinstance(await shown(core, holder.agent_id, "token-1"), WrongToken)


async def test_a_wrong_token_does_not_hide_that_an_agent_is_unknown_or_revoked(core: Core) -> None:
    agent_id = await core.agent()
    await core.registry.revoke(agent_id)
    assert isinstance(await shown(core, agent_id, "token-2"), Refused)
    assert isinstance(await shown(core, "nobody", "token-2"), UnknownAgent)


async def test_the_newest_claim_wins_and_says_who_owned_it_before(core: Core) -> None:
    agent_id = await core.agent()
    first, second = await core.claim(agent_id, "n1"), await core.claim(agent_id, "n2")
    assert second.previous == first.owner
    assert second.owner.epoch > first.owner.epoch
    assert await core.registry.owner(agent_id) == second.owner


async def test_claims_of_many_agents_are_answered_in_their_order(core: Core) -> None:
    agents = [await core.agent(f"token-{n}") for n in range(10)]
    outcomes = await core.registry.claim(
        [Bid(agent_id, f"n{n}", "b", "", "") for n, agent_id in enumerate([*agents, "x"])]
    )
    assert [o.owner.node for o in outcomes if isinstance(o, Claim)] == [f"n{n}" for n in range(10)]
    assert isinstance(outcomes[-1], UnknownAgent)


async def test_of_claims_at_once_the_owner_is_the_newest_and_no_epoch_is_given_twice(core: Core) -> None:
    agent_id = await core.agent()
    claims = await together(*(core.claim(agent_id, f"n{n}") for n in range(50)))
    epochs = [claim.owner.epoch for claim in claims]
    assert len(set(epochs)) == 50
    newest = max(claims, key=lambda claim: claim.owner.epoch)
    assert await core.registry.owner(agent_id) == newest.owner
    before = {claim.owner for claim in claims} - {newest.owner}
    assert {claim.previous for claim in claims} == before | {None}


async def test_two_nodes_that_race_for_an_agent_leave_one_owner(make_core: MakeCore) -> None:
    nodes = [await make_core(), await make_core()]
    agent_id = await nodes[0].agent()
    for _ in range(100):
        one, other = await together(*(node.hold(agent_id, f"n{n}") for n, node in enumerate(nodes)))
        older, newer = sorted((one, other), key=lambda holder: holder.epoch)
        assert await renew(nodes[0], older) == TAKEN_OVER
        assert await renew(nodes[0], newer) == 0
        assert await nodes[1].release(older) == b""


async def test_an_epoch_never_repeats_even_when_redis_came_back_empty(core: Core) -> None:
    agent_id = await core.agent()
    profile = await core.registry.profile(agent_id)
    assert profile is not None
    epochs = []
    for _ in range(3):
        epochs += [(await core.claim(agent_id)).owner.epoch for _ in range(3)]
        newest = epochs[-1]
        await eventually(lambda: core.store.now_ms() <= newest)  # noqa: B023 - asked before the loop goes on
        await core.redis.flushall()
        await core.registry.put_back([profile])
    assert epochs == sorted(set(epochs))


async def test_an_epoch_grows_also_when_the_clock_went_back(core: Core) -> None:
    agent_id = await core.agent()
    far = core.store.now_ms() + 10**9
    await core.redis.hset(core.keys.of_agent("agent", agent_id), "epoch", far)
    assert (await core.claim(agent_id)).owner.epoch == far + 1


async def test_a_claim_tells_how_far_the_mailbox_was_handed_out_and_what_of_that_is_open(core: Core) -> None:
    holder = await core.connected()
    await core.post(holder.agent_id, "t1", "t2", "t3")
    await core.take(holder)
    await core.post(holder.agent_id, "t4")
    await core.result(holder.agent_id, "t2")
    claim = await core.claim(holder.agent_id)
    assert (claim.taken, claim.unended) == (3, 2)


# ---- takeovers ----


async def bid(core: Core, agent_id: str, node: str, *, force: bool = False) -> Claim | Contested:
    (outcome,) = await core.registry.claim([Bid(agent_id, node, "b", f"address of {node}", "", force)])
    assert isinstance(outcome, Claim | Contested)
    return outcome


async def taken_over(core: Core, agent_id: str) -> Contested:
    """An agent that two hosts fought for, until one was held off."""
    for node in ("n0", "n1", "n0", "n1"):
        assert isinstance(await bid(core, agent_id, node), Claim)
    outcome = await bid(core, agent_id, "n0")
    assert isinstance(outcome, Contested)
    return outcome


async def test_more_than_three_takeovers_in_30_s_hold_the_newcomer_off(core: Core) -> None:
    agent_id = await core.agent()
    contested = await taken_over(core, agent_id)
    assert (contested.address, contested.holder.node) == ("address of n1", "n1")
    assert await core.registry.owner(agent_id) == contested.holder
    assert isinstance(await bid(core, agent_id, "n2"), Contested)


async def test_the_first_one_held_off_in_30_s_is_told_apart_so_that_it_is_logged_once(core: Core) -> None:
    agent_id = await core.agent()
    contested = [await taken_over(core, agent_id), *[await bid(core, agent_id, "n2") for _ in range(3)]]
    await core.redis.hset(core.keys.of_agent("agent", agent_id), "takeover_at", core.store.now_ms() - 30_100)
    contested += [await bid(core, agent_id, f"n{n}") for n in range(5)]
    assert [c.is_first for c in contested if isinstance(c, Contested)] == [True, False, False, False, True, False]


async def test_a_claim_that_is_sent_again_after_a_lost_reply_is_answered_as_before(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the driver does it when a connection breaks between a call and its reply."""
    agent_id = await core.agent()
    first = await bid(core, agent_id, "n0")
    run, replies = core.store.run, []

    async def run_again(name: str, keys: Sequence[str], *args: str | bytes | int) -> Any:
        replies.append([await run(name, keys, *args) for _ in range(3)])
        return replies[-1][-1]

    monkeypatch.setattr(core.store, "run", run_again)
    second = await bid(core, agent_id, "n1")
    assert isinstance(first, Claim)
    assert isinstance(second, Claim)
    assert second.previous == first.owner
    assert [reply == replies[0][0] for reply in replies[0]] == [True] * 3
    assert await core.registry.owner(agent_id) == second.owner
    assert [type(await bid(core, agent_id, node)) for node in ("n0", "n1", "n0")] == [Claim, Claim, Contested]


async def test_a_claim_that_was_taken_over_meanwhile_is_a_new_one_when_it_is_sent_again(core: Core) -> None:
    agent_id = await core.agent()
    run, sent = core.store.run, []

    async def remembered(name: str, keys: Sequence[str], *args: str | bytes | int) -> Any:
        sent.append((name, keys, args))
        return await run(name, keys, *args)

    core.store.run = remembered  # type: ignore[method-assign,assignment]
    first, newer = await bid(core, agent_id, "n0"), await bid(core, agent_id, "n1")
    name, keys, args = sent[0]
    ((_, epoch, previous, *_),) = await run(name, keys, *args)
    assert isinstance(first, Claim)
    assert isinstance(newer, Claim)
    assert int(epoch) > newer.owner.epoch > first.owner.epoch
    assert previous.decode() == str(newer.owner)


async def test_after_30_s_a_takeover_is_granted_again(core: Core) -> None:
    agent_id = await core.agent()
    await taken_over(core, agent_id)
    await core.redis.hset(core.keys.of_agent("agent", agent_id), "takeover_at", core.store.now_ms() - 30_100)
    assert isinstance(await bid(core, agent_id, "n0"), Claim)


async def test_a_holder_that_is_gone_is_not_fought_for(core: Core) -> None:
    agent_id = await core.agent()
    contested = await taken_over(core, agent_id)
    await core.registry.release([Release(agent_id, str(contested.holder), "websocket_closed", 0)])
    assert isinstance(await bid(core, agent_id, "n0"), Claim)


async def test_a_holder_whose_lease_ran_out_is_not_fought_for(core: Core) -> None:
    agent_id = await core.agent()
    await taken_over(core, agent_id)
    await core.redis.delete(core.keys.of_agent("lease", agent_id))
    assert isinstance(await bid(core, agent_id, "n0"), Claim)


async def test_force_takes_a_contested_agent(core: Core) -> None:
    agent_id = await core.agent()
    await taken_over(core, agent_id)
    assert isinstance(await bid(core, agent_id, "n0", force=True), Claim)


async def test_an_agent_that_comes_and_goes_is_no_fight(core: Core) -> None:
    agent_id = await core.agent()
    for _ in range(10):
        claim = await bid(core, agent_id, "n0")
        assert isinstance(claim, Claim)
        await core.registry.release([Release(agent_id, str(claim.owner), "websocket_closed", 0)])


async def test_without_a_limit_any_number_of_takeovers_is_granted(make_core: MakeCore) -> None:
    core = await make_core(agent=settings.Agent(max_takeovers=0))
    agent_id = await core.agent()
    assert {type(await bid(core, agent_id, f"n{n % 2}")) for n in range(20)} == {Claim}


# ---- renewals ----


async def test_a_lease_lives_until_the_timeout_after_the_agent_was_heard(core: Core) -> None:
    holder = await core.connected()
    assert await renew(core, holder, age_ms=20_000) == 0
    assert TIMEOUT_MS - 25_000 < await lease_ms(core, holder.agent_id) <= TIMEOUT_MS - 20_000
    assert await renew(core, holder) == 0
    assert await lease_ms(core, holder.agent_id) > TIMEOUT_MS - 5000
    deadlines = core.keys.in_shard(core.keys.shard(holder.agent_id), "deadlines")
    assert await core.redis.zscore(deadlines, holder.agent_id) > core.store.now_ms() + TIMEOUT_MS - 5000


async def test_an_agent_that_was_not_heard_for_the_timeout_is_not_kept_alive(core: Core) -> None:
    holder = await core.connected()
    await renew(core, holder, age_ms=59_000)
    before = await lease_ms(core, holder.agent_id)
    assert await renew(core, holder, age_ms=60_000) == 0
    assert await lease_ms(core, holder.agent_id) <= before


async def test_a_lease_that_redis_lost_is_made_again_for_its_owner(core: Core) -> None:
    holder = await core.connected()
    await core.redis.delete(core.keys.of_agent("lease", holder.agent_id))
    assert await renew(core, holder) == 0
    assert await core.redis.get(core.keys.of_agent("lease", holder.agent_id)) == holder.owner


async def test_renewals_of_many_are_answered_in_their_order(core: Core) -> None:
    holders = [await core.connected(f"token-{n}") for n in range(8)]
    await core.hold(holders[2].agent_id, "n2")
    await core.release(holders[5])
    await core.post(holders[6].agent_id, "t1")
    outcomes = await core.registry.renew([Renewal(h.agent_id, h.owner, 0, "0") for h in holders])
    assert outcomes == [0, 0, TAKEN_OVER, 0, 0, EXPIRED, HAS_MAIL, 0]


async def test_a_lost_lease_is_named_by_its_reason(core: Core) -> None:
    taken, gone, forgotten, revoked = [await core.connected(f"token-{n}") for n in range(4)]
    await core.hold(taken.agent_id, "n2")
    await core.release(gone)
    await core.registry.revoke(revoked.agent_id)
    await core.redis.delete(core.keys.of_agent("agent", forgotten.agent_id))
    await core.redis.delete(core.keys.in_shard(core.keys.shard(forgotten.agent_id), "owners"))
    await core.hold(taken.agent_id, "n2")
    assert [await renew(core, holder) for holder in (taken, forgotten, revoked)] == [TAKEN_OVER, UNKNOWN, REVOKED]
    assert await renew(core, gone) == EXPIRED


async def test_renewal_finds_mail_that_was_never_sent_and_no_other(core: Core) -> None:
    holder = await core.connected()
    assert await renew(core, holder) == 0
    await core.post(holder.agent_id, "t1")
    assert await renew(core, holder) == HAS_MAIL
    await core.take(holder)
    assert await renew(core, holder) == 0


async def test_renewal_finds_cancels_that_the_session_does_not_know(core: Core) -> None:
    holder = await core.connected()
    await core.post(holder.agent_id, "t1")
    await core.take(holder)
    await core.mailbox.cancel(holder.agent_id, ["t1"])
    assert await renew(core, holder) == HAS_CANCELS
    await core.deliver(holder)
    assert await renew(core, holder) == 0


async def test_an_agent_whose_lease_ran_out_unseen_by_the_sweep_is_still_owned(make_core: MakeCore) -> None:
    """The sweep decides, not the expiry: one that is heard again before it is not offline."""
    core = await make_core(agent=SHORT)
    holder = await core.connected()
    await expired(core, holder.agent_id)
    assert await renew(core, holder) == 0
    assert await lease_ms(core, holder.agent_id) > 0


# ---- fencing ----


async def test_an_old_epoch_can_neither_renew_nor_take_nor_resume_nor_release(core: Core) -> None:
    old = await core.connected()
    await core.post(old.agent_id, "t1")
    await core.take(old)
    await core.post(old.agent_id, "t2")
    new = await core.hold(old.agent_id, "n2")
    before = await lease_ms(core, old.agent_id)
    assert await renew(core, old, age_ms=30_000) == TAKEN_OVER
    assert await lease_ms(core, old.agent_id) > before - 5000
    assert await core.deliver(old) is None
    for phase in ("claim", "grace"):
        assert await core.mailbox.resume(old.agent_id, old.owner, 10, phase=phase) == Resumed([], [], 0)
    assert await core.release(old) == b""
    assert str(await core.registry.owner(old.agent_id)) == new.owner
    assert (await core.record(old.agent_id, "t2"))["state"] == "pending"
    assert (await core.record(old.agent_id, "t1"))["epoch"] == str(old.epoch)


async def test_a_claim_of_the_same_process_is_fenced_off_by_its_own_newer_one(core: Core) -> None:
    old = await core.connected()
    await core.hold(old.agent_id, "n1")
    assert await renew(core, old) == TAKEN_OVER
    assert await core.deliver(old) is None


# ---- releases ----


async def test_a_release_ends_the_ownership_and_owes_its_offline_entry(core: Core) -> None:
    holder = await core.connected()
    await core.agent("token-1", host_id=7, hostname="web-1", os="linux", arch="arm64")
    owed = await core.release(holder, "drained", age_ms=1500)
    now_ms = core.store.now_ms()
    agent_id, name, host_id, reason, heard_ms, ended_ms, hostname, os, arch, epoch = json.loads(owed)
    assert (agent_id, name, host_id, reason) == (holder.agent_id, "web", "7", "drained")
    assert (hostname, os, arch, epoch) == ("web-1", "linux", "arm64", str(holder.epoch))
    assert int(ended_ms) - int(heard_ms) == 1500
    assert abs(int(ended_ms) - now_ms) < 5000
    assert await core.owed(agent_id) == {f"s:{agent_id}:{epoch}": json.loads(owed)}
    assert await core.registry.owner(agent_id) is None
    assert await core.redis.exists(core.keys.of_agent("lease", agent_id)) == 0
    profile = await core.registry.profile(agent_id)
    assert profile is not None
    assert (profile.owner, profile.heard_ms) == (None, int(heard_ms))


async def test_a_late_release_keeps_the_new_owner(core: Core) -> None:
    old = await core.connected(node="n1")
    new = await core.hold(old.agent_id, "n2")
    assert await core.release(old) == b""
    assert str(await core.registry.owner(old.agent_id)) == new.owner
    assert await lease_ms(core, old.agent_id) > 0
    assert await core.owed(old.agent_id) == {}


async def test_of_ten_releases_of_one_claim_one_counts(core: Core) -> None:
    holder = await core.connected()
    owed = await together(*(core.release(holder) for _ in range(10)))
    assert len([entry for entry in owed if entry]) == 1
    assert len(await core.owed(holder.agent_id)) == 1


async def sweep(core: Core, reason: str = "heartbeat_timeout") -> list[bytes]:
    """As the reaper does it."""
    overdue = await core.registry.overdue(100)
    releases = [Release(i.agent_id, str(i.owner), reason, i.silent_ms, if_expired=True) for i in overdue]
    return [entry for entry in await core.registry.release(releases) if entry]


async def test_a_lease_that_ran_out_is_found_and_ended_once_by_however_many_routers(make_core: MakeCore) -> None:
    routers = [await make_core(agent=SHORT) for _ in range(5)]
    holder = await routers[0].connected()
    assert await sweep(routers[0]) == []
    await expired(routers[0], holder.agent_id)
    await eventually(lambda: routers[0].store.now_ms() < holder.epoch + 200)
    swept = await together(*(sweep(router) for router in routers))
    (entry,) = [json.loads(entry) for entries in swept for entry in entries]
    assert entry[3] == "heartbeat_timeout"
    assert abs(int(entry[4]) - holder.epoch) < 100  # last heard when it was claimed
    assert await routers[0].registry.overdue(100) == []


@pytest.mark.parametrize("broken", ["", "x", "n1:b", "n1:b:x", "a:b:c:d:", "\udcff"])
async def test_an_owner_that_is_none_costs_its_own_agent_alone_and_ends_with_its_lease(
    make_core: MakeCore, broken: str
) -> None:
    core = await make_core(agent=SHORT)
    odd, other = await core.connected("t-1"), await core.connected("t-2")
    owners = core.keys.in_shard(core.keys.shard(odd.agent_id), "owners")
    await core.redis.hset(owners, odd.agent_id, broken.encode(errors="surrogateescape"))
    assert sum((await core.registry.held()).values()) == 1
    one, both = await core.registry.profiles([odd.agent_id, other.agent_id])
    assert one is not None
    assert one.owner is None
    assert both is not None
    assert str(both.owner) == other.owner
    assert await core.registry.owner(odd.agent_id) is None
    await expired(core, odd.agent_id)
    await expired(core, other.agent_id)
    await eventually(lambda: core.store.now_ms() < other.epoch + 200)
    assert [item.agent_id for item in await core.registry.overdue(100)] == [other.agent_id]
    await core.claim(odd.agent_id)


async def test_numbers_that_are_none_cost_their_own_profile_alone(core: Core) -> None:
    ids = [(await register(core, f"t-{n}", host_id=n)).id for n in (1, 2)]
    for field in ("host_id", "incarnation", "registered", "last_seen"):
        await core.redis.hset(core.keys.of_agent("agent", ids[0]), field, "many")
    odd, other = await core.registry.profiles(ids)
    assert odd is not None
    assert (odd.host_id, odd.registered_ms) == (0, 0)
    assert other is not None
    assert other.host_id == 2


async def test_a_lease_that_lives_is_not_ended_whatever_its_deadline_says(core: Core) -> None:
    holder = await core.connected()
    deadlines = core.keys.in_shard(core.keys.shard(holder.agent_id), "deadlines")
    await core.redis.zadd(deadlines, {holder.agent_id: 1})
    assert len(await core.registry.overdue(100)) == 1
    assert await sweep(core) == []
    assert await core.registry.owner(holder.agent_id) is not None
    assert await core.redis.zscore(deadlines, holder.agent_id) > core.store.now_ms()


async def test_a_deadline_without_an_owner_is_dropped_by_the_sweep(core: Core) -> None:
    deadlines = core.keys.in_shard(core.keys.shard("ghost"), "deadlines")
    await core.redis.zadd(deadlines, {"ghost": 1})
    assert await sweep(core) == []
    assert await core.redis.zcard(deadlines) == 0


async def test_the_sweep_takes_no_deadline_from_a_claim_that_comes_meanwhile(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one, an agent whose node dies before its first renewal would stay online for ever."""
    agent_id = await core.agent()
    deadlines = core.keys.in_shard(core.keys.shard(agent_id), "deadlines")
    await core.redis.zadd(deadlines, {agent_id: 1})
    read = core.store._client.hmget

    async def read_and_then_claimed(*args: Any) -> Any:
        values = await read(*args)
        await core.claim(agent_id)
        return values

    monkeypatch.setattr(core.store._client, "hmget", read_and_then_claimed)
    assert await core.registry.overdue(100) == []
    assert await core.redis.zscore(deadlines, agent_id) is not None


async def test_a_sweep_is_bounded(make_core: MakeCore) -> None:
    core = await make_core(agent=SHORT)
    holders = [await core.connected(f"token-{n}") for n in range(12)]
    for holder in holders:
        await expired(core, holder.agent_id)
    await eventually(lambda: core.store.now_ms() < holders[-1].epoch + 200)
    assert len(await core.registry.overdue(2)) <= 2 * core.keys.shards


# ---- the directory ----


async def directory(core: Core) -> dict[str, float]:
    """agent id -> in how many s it is forgotten."""
    now_ms = core.store.now_ms()
    found: dict[str, float] = {}
    for shard in range(core.keys.shards):
        for agent_id, at_ms in await core.redis.zrange(core.keys.in_shard(shard, "agents"), 0, -1, withscores=True):
            found[agent_id] = (at_ms - now_ms) / 1000
    return found


async def overslept(core: Core, agent_id: str) -> None:
    """The agent's time in the directory has come."""
    await core.redis.zadd(core.keys.in_shard(core.keys.shard(agent_id), "agents"), {agent_id: 1})


async def test_a_registration_has_ten_minutes_to_connect_and_an_agent_that_did_a_week(core: Core) -> None:
    agent_id = await core.agent()
    assert (await directory(core))[agent_id] == pytest.approx(CONNECT_WITHIN_S, abs=5)
    holder = await core.hold(agent_id)
    assert (await directory(core))[agent_id] == pytest.approx(AGES, abs=5)
    await core.release(holder)
    await core.agent()
    assert (await directory(core))[agent_id] == pytest.approx(AGES, abs=5)


async def test_who_stayed_away_is_forgotten_with_its_host_id(core: Core) -> None:
    agent_id, other = await core.agent("token-1", host_id=7), await core.agent("token-2", host_id=8)
    await overslept(core, agent_id)
    assert await core.registry.forget_stale(100) == [agent_id]
    assert await core.registry.profile(agent_id) is None
    with pytest.raises(UnknownAgent):
        await core.registry.resolve("7")
    assert await core.registry.resolve("8") == other
    assert await core.registry.forget_stale(100) == []


async def test_who_is_connected_or_has_open_tasks_is_not_forgotten(core: Core) -> None:
    online = await core.connected("token-1")
    waiting = await core.agent("token-2")
    await core.post(waiting, "t1")
    for agent_id in (online.agent_id, waiting):
        await overslept(core, agent_id)
    assert await core.registry.forget_stale(100) == []
    assert set(await directory(core)) == {online.agent_id, waiting}
    assert min((await directory(core)).values()) > 0


async def test_a_forgotten_agent_that_comes_back_is_new_and_the_same(core: Core) -> None:
    agent_id = await core.agent()
    await overslept(core, agent_id)
    await core.registry.forget_stale(100)
    with pytest.raises(UnknownAgent):
        await register(core, may_be_new=False)
    again = await register(core)
    assert (again.id, again.is_new) == (agent_id, True)


async def test_a_host_id_that_went_to_another_agent_is_not_freed_with_the_one_before(core: Core) -> None:
    older = await core.agent("token-1", host_id=7)
    newer = await core.agent("token-2", host_id=7)
    await overslept(core, older)
    await core.registry.forget_stale(100)
    assert await core.registry.resolve("7") == newer


async def test_agents_are_listed_and_counted(core: Core) -> None:
    assert await core.registry.count() == (0, 0)
    agents = [await core.agent(f"token-{n}") for n in range(6)]
    for agent_id in agents[:2]:
        await core.claim(agent_id)
    assert sorted(await core.registry.ids()) == sorted(agents)
    assert await core.registry.count() == (6, 2)


async def test_profiles_come_in_the_order_asked_for_also_over_many_pages(core: Core) -> None:
    agents = [await core.agent(f"token-{n}", name=f"web-{n}") for n in range(3)]
    asked = ([*agents, "nobody"]) * (PAGE // 2)
    found = await core.registry.profiles(asked)
    assert [profile.name if profile else None for profile in found] == ["web-0", "web-1", "web-2", None] * (PAGE // 2)


async def test_a_profile_knows_its_owner_and_when_the_agent_was_heard(core: Core) -> None:
    holder = await core.connected()
    await renew(core, holder, age_ms=10_000)
    profile = await core.registry.profile(holder.agent_id)
    assert profile is not None
    assert str(profile.owner) == holder.owner
    assert abs(profile.heard_ms - core.store.now_ms() + 10_000) < 5000


# ---- forgetting on request ----


async def test_a_revoked_agent_is_refused_everywhere(core: Core) -> None:
    holder = await core.connected()
    agent_id = holder.agent_id
    await core.registry.revoke(agent_id)
    with pytest.raises(Refused):
        await register(core)
    with pytest.raises(Refused):
        await core.registry.credentials(agent_id)
    (claim,) = await core.registry.claim([Bid(agent_id, "n2", "b", "", "", force=True)])
    assert isinstance(claim, Refused)
    (posted,) = await core.mailbox.enqueue([a_post(agent_id, "t9")])
    assert isinstance(posted, UnknownAgent)
    assert await core.registry.profile(agent_id) is None
    assert (await core.registry.ids(), await core.registry.count()) == ([], (0, 0))


async def test_revoking_ends_what_was_open_and_owes_what_is_to_be_told(core: Core) -> None:
    holder = await core.connected()
    agent_id = holder.agent_id
    await core.agent(host_id=7)
    await core.post(agent_id, "sent")
    await core.take(holder)
    await core.post(agent_id, "pending")
    owner, offline, results = await core.registry.revoke(agent_id)
    assert str(owner) == holder.owner
    assert json.loads(offline)[3] == "revoked"
    ends = [json.loads(entry) for entry in results]
    assert [(end[1], end[2], end[3], end[4]) for end in ends] == [
        (task_id, "failed", "-1", "agent was forgotten") for task_id in ("sent", "pending")
    ]
    assert len(await core.owed(agent_id)) == 3
    assert await core.mail(agent_id) == []
    with pytest.raises(UnknownAgent):
        await core.registry.resolve("7")


async def test_an_agent_that_is_offline_is_revoked_too_and_one_that_is_not_known_is_not(core: Core) -> None:
    agent_id = await core.agent()
    assert await core.registry.revoke(agent_id) == (None, b"", [])
    for unknown in (agent_id, "nobody"):
        with pytest.raises(UnknownAgent):
            await core.registry.revoke(unknown)


async def test_a_revoked_session_that_was_not_told_is_found_by_renewal_and_does_not_come_back(core: Core) -> None:
    holder = await core.connected()
    await core.agent(host_id=7)
    profile = await core.registry.profile(holder.agent_id)
    assert profile is not None
    await core.registry.revoke(holder.agent_id)
    assert await renew(core, holder) == REVOKED
    await core.registry.put_back([profile])
    assert await core.registry.profile(holder.agent_id) is None
    with pytest.raises(UnknownAgent):
        await core.registry.resolve("7")


# ---- an empty Redis ----


async def test_an_agent_is_put_back_into_an_empty_redis_as_it_was(core: Core) -> None:
    agent_id = await core.agent(host_id=7, hostname="web-1", os="linux", arch="arm64")
    profile = await core.registry.profile(agent_id)
    assert profile is not None
    await core.redis.flushall()
    await core.registry.put_back([profile])
    assert await core.registry.profile(agent_id) == profile
    assert await core.registry.credentials(agent_id) == profile
    assert await core.registry.resolve("7") == agent_id
    assert (await core.claim(agent_id)).previous is None
    assert await core.registry.ids() == [agent_id]


async def test_a_process_that_lived_through_it_keeps_the_ids(make_core: MakeCore) -> None:
    living = await make_core()
    agent_id = await living.agent()
    profile = await living.registry.profile(agent_id)
    assert profile is not None
    await living.redis.flushall()
    await living.registry.put_back([profile])
    newcomer = await make_core()
    assert (await register(newcomer)).id == agent_id


async def test_a_registration_that_came_first_is_not_overwritten_in_what_it_counts(core: Core) -> None:
    agent_id = await core.agent()
    profile = await core.registry.profile(agent_id)
    assert profile is not None
    await core.redis.flushall()
    await core.store.agree()
    for _ in range(3):
        await core.agent()
    await core.registry.put_back([profile])
    found = await core.registry.profile(agent_id)
    assert found is not None
    assert found.incarnation == 3


def test_an_owner_reads_what_it_writes() -> None:
    owner = Owner("n1", "boot", 17)
    assert Owner.parse(str(owner).encode()) == owner
    assert Owner.parse(b"") is None


async def test_an_agent_whose_keys_are_none_of_ours_spoils_nobody_elses_claim(make_core: MakeCore) -> None:
    """A batch is refused half-way: who became an owner until then can be missed, and is in the directory."""
    core = await make_core(shards=1)
    one, spoilt = [await core.agent(f"token-{n}") for n in range(2)]
    for key in ("deadlines", "agents"):
        await core.redis.delete(core.keys.in_shard(0, key))
    await core.redis.set(core.keys.of_agent("mail", spoilt), "of somebody else")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await core.registry.claim([Bid(agent_id, "n1", "b", "192.0.2.1", "", True) for agent_id in (one, spoilt)])
    owners = await core.redis.hkeys(core.keys.in_shard(0, "owners"))
    assert one in owners
    for key in ("deadlines", "agents"):
        assert set(await core.redis.zrange(core.keys.in_shard(0, key), 0, -1)) == set(owners)


async def test_an_agent_whose_keys_are_none_of_ours_spoils_nobody_elses_registration(make_core: MakeCore) -> None:
    core = await make_core(shards=1)
    agent_id = core.registry.id_of("token-1")
    await core.redis.set(core.keys.of_agent("agent", agent_id), "of somebody else")
    asked = [core.registry.register(f"token-{n}", "web", 0, {}, {}, may_be_new=True) for n in range(3)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert any(isinstance(one, ResponseError) for one in found)
    written = {key.rpartition(":")[2] for key in await core.redis.keys("*agent:*")} - {agent_id}
    assert set(await core.redis.zrange(core.keys.in_shard(0, "agents"), 0, -1)) == written
