"""How fast new agents may come, and what is kept of what they say."""

from typing import Any

import msgspec
import pytest

from cluster import registration
from cluster.errors import BadInput
from cluster.messages import Registration
from cluster.registration import ADDRESSES, NEW_BURST, NEW_PER_S, Pace


def taken(pace: Pace, address: str, now_s: float, asked: int) -> int:
    return sum(pace.allows(address, now_s) for _ in range(asked))


# ---- pace ----


def test_an_address_may_bring_a_whole_fleet_at_once_and_then_no_more() -> None:
    assert taken(Pace(), "1.2.3.4", 0.0, NEW_BURST + 50) == NEW_BURST


def test_the_bucket_fills_with_time_up_to_its_brim() -> None:
    pace = Pace()
    taken(pace, "1.2.3.4", 0.0, NEW_BURST)
    assert taken(pace, "1.2.3.4", 1.0, 2 * NEW_PER_S) == NEW_PER_S
    assert taken(pace, "1.2.3.4", 1e6, NEW_BURST + 50) == NEW_BURST


def test_who_is_refused_loses_nothing_by_asking_again() -> None:
    pace = Pace()
    taken(pace, "1.2.3.4", 0.0, NEW_BURST)
    steps = 100
    assert sum(taken(pace, "1.2.3.4", (n + 1) / steps, 5) for n in range(steps)) == pytest.approx(NEW_PER_S, abs=1)


def test_what_was_not_needed_is_given_back() -> None:
    pace = Pace()
    assert taken(pace, "1.2.3.4", 0.0, NEW_BURST) == NEW_BURST
    pace.give_back("1.2.3.4")
    assert taken(pace, "1.2.3.4", 0.0, 2) == 1
    pace.give_back("unknown")
    assert taken(pace, "unknown", 0.0, NEW_BURST + 50) == NEW_BURST


def test_one_address_does_not_slow_another() -> None:
    pace = Pace()
    taken(pace, "1.2.3.4", 0.0, NEW_BURST + 1)
    assert pace.allows("1.2.3.5", 0.0)


def test_no_more_addresses_are_remembered_than_are_bounded_and_the_busy_ones_stay() -> None:
    pace = Pace()
    taken(pace, "busy", 0.0, NEW_BURST)
    for n in range(3 * ADDRESSES):
        pace.allows(f"a{n}", 0.0)
        if n % (ADDRESSES // 2) == 0:
            pace.allows("busy", 0.0)
    assert len(pace._buckets) == ADDRESSES
    assert not pace.allows("busy", 0.0)


# ---- the token ----


def request(authorization: str | None = None) -> dict[str, Any]:
    return {"headers": [] if authorization is None else [(b"authorization", authorization.encode())]}


@pytest.mark.parametrize(
    ("body", "header", "token"),
    [
        (None, "Bearer from-header", "from-header"),
        (None, "bearer  from-header ", "from-header"),
        ("", "Bearer from-header", "from-header"),
        ("  ", "Bearer from-header", "from-header"),
        ("from-body", "Bearer from-header", "from-body"),
        (" from-body ", None, "from-body"),
    ],
)
def test_a_token_in_the_body_wins_over_the_headers(body: str | None, header: str | None, token: str) -> None:
    assert registration._token(request(header), Registration(token=body)) == (token, False)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic eDp5"])
def test_who_brings_none_is_made_one(header: str | None) -> None:
    token, is_made = registration._token(request(header), Registration())
    assert is_made
    assert len(token) == 64


@pytest.mark.parametrize("token", ["a b", "a,b", "ä", "x" * 257, "hunter2="])
def test_a_token_that_no_handshake_can_carry_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(BadInput, match=r"^token: ") as refused:
        registration._token(request(), Registration(token=token))
    assert token not in str(refused.value)


# ---- the profile ----


def profile(**fields: Any) -> tuple[str, int, dict[str, str], dict[str, Any]]:
    return registration._profile(msgspec.convert(fields, Registration))


def test_a_profile_is_kept_as_it_came() -> None:
    system = {"hostname": "web-1", "os": "linux", "arch": "amd64", "ips": ["10.0.0.1"], "more": {"x": 1.5}}
    assert profile(name="web", host_id=7, labels={"a": "b"}, system=system) == ("web", 7, {"a": "b"}, system)


def test_what_is_absent_is_empty() -> None:
    assert profile() == ("", 0, {}, {})
    assert profile(name=None, host_id=None, labels={"a": None}, system=None) == ("", 0, {"a": ""}, {})


def test_a_host_id_below_one_is_none() -> None:
    assert profile(host_id=-5)[1] == 0


def test_what_is_too_long_is_cut_and_never_refused() -> None:
    labels = {f"{n}{'k' * 500}": "v" * 500 for n in range(200)}
    name, _, kept, system = profile(
        name="n" * 1000, labels=labels, system={"hostname": "h" * 1000, "os": "linux", "blob": "x" * 100_000}
    )
    assert (len(name), len(kept)) == (256, 100)
    assert {len(part) for pair in kept.items() for part in pair} == {256}
    assert system == {"hostname": "h" * 256, "os": "linux", "arch": ""}


def test_numbers_of_any_size_are_kept() -> None:
    system = {"memory": 10**30, "uptime": 1e300}
    assert profile(system=system)[3] == system
