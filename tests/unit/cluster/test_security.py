"""Ids that last, tokens that do not show, and the Go server's signature."""

import hashlib
import hmac
from collections.abc import Callable
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import security
from cluster.security import Signer

KEY = bytes(range(32))
NOW_S = 1_700_000_000.0
BODY = b'{"id":"t1"}'
tokens = st.text("!#$%&'*+.^_|~0123456789abcXYZ-", min_size=1, max_size=256)


# ---- tokens and ids ----


@pytest.mark.parametrize("token", ["a", "0", "A-b.c_d~e", "!#$%&'*+.^_|~", "x" * 256])
def test_a_token_is_what_a_subprotocol_header_can_carry(token: str) -> None:
    assert security.is_token(token)


@pytest.mark.parametrize(
    "token", ["", "x" * 257, "a b", "a,b", "a=b", "a/b", "a`b", "a\n", "\na", "a\0b", "ä", "a;b", '"a"', "a@b", "{a}"]
)
def test_what_a_subprotocol_header_cannot_carry_is_no_token(token: str) -> None:
    assert not security.is_token(token)


def test_a_made_token_is_a_token_and_never_the_same() -> None:
    made = {security.new_token() for _ in range(100)}
    assert len(made) == 100
    assert all(security.is_token(token) and len(token) == 64 for token in made)


def test_a_token_is_stored_as_its_hash_alone() -> None:
    stored = security.token_hash("s3cret")
    assert stored == hashlib.sha256(b"s3cret").hexdigest()


def test_an_id_stays_the_same_for_ever() -> None:
    """A literal of today: an id that changed with a version would make every agent a stranger."""
    assert security.agent_id(KEY, "s3cret") == "041efc53-7aab-85fd-9e42-3fa916b9c566"


@given(tokens)
def test_an_id_is_a_lower_case_uuid_of_version_8_that_no_int_parses(token: str) -> None:
    found = security.agent_id(KEY, token)
    parsed = UUID(found)
    assert (parsed.version, parsed.variant, str(parsed)) == (8, "specified in RFC 4122", found)
    with pytest.raises(ValueError, match="invalid literal"):
        int(found)


@given(tokens, tokens)
def test_ids_differ_as_tokens_do(one: str, other: str) -> None:
    assert (security.agent_id(KEY, one) == security.agent_id(KEY, other)) == (one == other)


def test_an_id_cannot_be_computed_without_the_clusters_key() -> None:
    assert security.agent_id(KEY, "s3cret") != security.agent_id(KEY[::-1], "s3cret")
    assert security.agent_id(KEY, "s3cret")[:8] not in hashlib.sha256(b"s3cret").hexdigest()


# ---- signatures ----

# Computed with openssl, as the Go server's clients compute them:
# printf '1700000000\nPOST\n/api/agents/7/tasks\n{"id":"t1"}' | openssl dgst -sha256 -hmac 's3cret'
VECTORS = [
    ("s3cret", "POST", "/api/agents/7/tasks", BODY, "12f9725f610abb7eac5e50dff6e6aaf1ce440b1e2a229e12533c1803c7edb5c4"),
    ("s3cret", "GET", "/api/agents", b"", "ef5e03751e8efc91a3ee9b859fb57728a5a0ad3b40157bf289e7ed1561d7f794"),
    (
        "s3cret",
        "POST",
        "/api/agents/7/tasks/",
        BODY,
        "140388a4a14988c23b4c029cf2974b315efc40ead164ef8f6d0ed56baebd31d5",
    ),
    (
        "schlüssel",
        "POST",
        "/api/agents/ü/tasks",
        b"\xff\x00\n",
        "6437ba9035df9f7095518fd892a6da7dfc3140d1eb775a90e9db844aca79f085",
    ),
]


@pytest.mark.parametrize(("secret", "method", "path", "body", "signature"), VECTORS)
def test_a_signature_is_the_go_servers(secret: str, method: str, path: str, body: bytes, signature: str) -> None:
    signer = Signer(secret, 300)
    assert signer.sign("1700000000", method, path, body) == signature
    assert signer.refusal("1700000000", signature, method, path, body, NOW_S) == ""


def test_a_path_that_is_not_utf8_is_signed_as_its_bytes() -> None:
    path = b"/api/agents/\xff".decode("utf-8", "surrogateescape")
    expected = hmac.new(b"s3cret", b"1700000000\nGET\n/api/agents/\xff\n", "sha256").hexdigest()
    assert Signer("s3cret", 300).sign("1700000000", "GET", path, b"") == expected


def refusal(
    timestamp: str | None = "1700000000",
    signature: str | None = None,
    *,
    signed: tuple[str, str, bytes] = ("POST", "/x", BODY),
    now_s: float = NOW_S,
) -> str:
    """What is said of a call of POST /x whose signature is that of `signed`, unless one is given."""
    signer = Signer("s3cret", 300)
    signature = signer.sign(timestamp or "", *signed) if signature is None else signature
    return signer.refusal(timestamp, signature, "POST", "/x", BODY, now_s)


@pytest.mark.parametrize(("timestamp", "signature"), [(None, "x"), ("", "x"), ("1700000000", ""), ("", "")])
def test_both_headers_are_required(timestamp: str | None, signature: str) -> None:
    assert refusal(timestamp, signature) == "X-Timestamp and X-Signature are required"


def test_a_missing_signature_is_refused() -> None:
    refused = Signer("s3cret", 300).refusal("1700000000", None, "POST", "/x", BODY, NOW_S)
    assert refused == "X-Timestamp and X-Signature are required"


@pytest.mark.parametrize(
    "timestamp", ["now", "1700000000.5", "-1", "+1700000000", " 1700000000", "1e9", "\u0661", "1" * 13, "0x10"]
)
def test_a_timestamp_is_a_number_of_seconds(timestamp: str) -> None:
    assert refusal(timestamp) == "X-Timestamp is not a number of seconds"


@pytest.mark.parametrize("off_s", [-301, 301, -86400, 86400])
def test_a_stale_or_early_call_is_refused(off_s: int) -> None:
    assert refusal(now_s=NOW_S + off_s) == "X-Timestamp is outside the allowed clock skew"


@pytest.mark.parametrize("off_s", [-300, -1, 0, 300])
def test_a_call_within_the_clock_skew_is_good(off_s: int) -> None:
    assert refusal(now_s=NOW_S + off_s) == ""


@pytest.mark.parametrize(
    "signed", [("PUT", "/x", BODY), ("POST", "/x/", BODY), ("POST", "/y", BODY), ("POST", "/x", b"{}")]
)
def test_the_signature_of_another_call_is_refused(signed: tuple[str, str, bytes]) -> None:
    assert refusal(signed=signed) == "X-Signature does not match"


def test_the_signature_of_another_second_is_refused() -> None:
    signature = Signer("s3cret", 300).sign("1699999999", "POST", "/x", BODY)
    assert refusal(signature=signature) == "X-Signature does not match"


@pytest.mark.parametrize(
    "change",
    [str.upper, lambda text: text[:-1], lambda text: text + "0", lambda _: "é", lambda _: "0"],
    ids=["upper case", "shorter", "longer", "not ASCII", "one digit"],
)
def test_a_signature_is_the_whole_lower_case_digest(change: Callable[[str], str]) -> None:
    good = Signer("s3cret", 300).sign("1700000000", "POST", "/x", BODY)
    assert refusal(signature=change(good)) == "X-Signature does not match"


def test_another_secret_signs_otherwise() -> None:
    signature = Signer("other", 300).sign("1700000000", "POST", "/x", BODY)
    assert refusal(signature=signature) == "X-Signature does not match"


def test_while_a_secret_is_changed_both_are_good_and_ours_signs() -> None:
    changed = Signer("new", 300, "old")
    signatures = [Signer(secret, 300).sign("1700000000", "POST", "/x", BODY) for secret in ("new", "old", "other")]
    refusals = [changed.refusal("1700000000", signature, "POST", "/x", BODY, NOW_S) for signature in signatures]
    assert refusals == ["", "", "X-Signature does not match"]
    assert changed.sign("1700000000", "POST", "/x", BODY) == signatures[0]


def test_an_empty_former_secret_lets_nobody_in() -> None:
    signature = Signer("", 300).sign("1700000000", "POST", "/x", BODY)
    assert Signer("new", 300, "").refusal("1700000000", signature, "POST", "/x", BODY, NOW_S)
