"""Tokens, ids and signatures. Owns every comparison of a secret, but for that of tokens' hashes (claim.lua); knows neither Redis nor HTTP.

Rules: secrets are compared in constant time; a token leaves this module only as a hash; the signature is the Go server's
(HMAC-SHA256 over timestamp, method, decoded path and body, joined by line feeds, as lower-case hex).
"""

import hashlib
import hmac
import re
import secrets
from functools import lru_cache

_BLOCK_BYTES = 64  # of SHA-256

# What can travel in a Sec-WebSocket-Protocol header (RFC 9110, 5.6.2, without the back-tick).
_TOKEN = re.compile(r"[!#$%&'*+.^_|~0-9A-Za-z-]{1,256}")


def is_token(text: str) -> bool:
    """Whether an agent can present this token in a handshake."""
    return _TOKEN.fullmatch(text) is not None


def new_token() -> str:
    """A token of 256 random bits, for an agent that brought none."""
    return secrets.token_hex(32)


def token_hash(token: str) -> str:
    """What is stored of a token: SHA-256, in hex."""
    return hashlib.sha256(token.encode()).hexdigest()


def agent_id(id_key: bytes, token: str) -> str:
    """The id of the agent with this token: a lower-case UUID, the same on every node and for ever.

    It is keyed with a secret of the cluster, because ids are shown to everybody who may list agents: without the key nobody can
    test guesses of a weak token against one. Version 8, "custom": RFC 9562, 5.8.
    """
    digest = _mac_of_ids(id_key).of(token.encode(), b"")
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


@lru_cache(2)
def _mac_of_ids(id_key: bytes) -> "_Mac":
    return _Mac(id_key)


class _Mac:
    """HMAC-SHA256 (RFC 2104) under one key; the states that every message begins with are made once."""

    def __init__(self, key: bytes) -> None:
        key = (hashlib.sha256(key).digest() if len(key) > _BLOCK_BYTES else key).ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))

    def of(self, head: bytes, body: bytes) -> str:
        """In lower-case hex."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(head)
        inner.update(body)
        outer.update(inner.digest())
        return outer.hexdigest()


class Signer:
    """Signs control-plane calls with the shared secret, and verifies them with it or, while it is changed, with the former one."""

    def __init__(self, secret: str, clock_skew_s: float, former_secret: str = "") -> None:
        self._mac = _Mac(secret.encode())
        self._former = _Mac(former_secret.encode()) if former_secret else None
        self._clock_skew_s = clock_skew_s

    def sign(self, timestamp: str, method: str, path: str, body: bytes) -> str:
        """The value of X-Signature. `path` is percent-decoded, without query, with its slash as sent."""
        return self._mac.of(_head(timestamp, method, path), body)

    def refusal(
        self, timestamp: str | None, signature: str | None, method: str, path: str, body: bytes, now_s: float
    ) -> str:
        """Why a call is refused, in one line; "" when its signature is good."""
        if not timestamp or not signature:
            return "X-Timestamp and X-Signature are required"
        good = self._is_good(signature.encode(), _head(timestamp, method, path), body)
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
            return "X-Timestamp is not a number of seconds"
        if abs(now_s - int(timestamp)) > self._clock_skew_s:
            return "X-Timestamp is outside the allowed clock skew"
        return "" if good else "X-Signature does not match"

    def _is_good(self, signature: bytes, head: bytes, body: bytes) -> bool:
        return hmac.compare_digest(self._mac.of(head, body).encode(), signature) or (
            self._former is not None and hmac.compare_digest(self._former.of(head, body).encode(), signature)
        )


def _head(timestamp: str, method: str, path: str) -> bytes:
    return f"{timestamp}\n{method}\n{path}\n".encode("utf-8", "surrogateescape")
