"""Calls to the HTTP API, signed when there is a secret; each failure is one line for the operator.

Owns URLs, signatures, and what statuses mean; knows no command and prints nothing. Rules:

- A path is given in parts, undecoded: each is quoted for the wire, and signed as the server will read it.
- Nothing is sent twice, no redirect is followed and no proxy is asked: what is signed goes to the server that was named.
- A call blocks; from an event loop it is made in a thread.
"""

import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from cluster.client.outcome import REFUSED, TIMEOUT, ComeBack, Failed, NotFound
from cluster.client.tables import shown
from cluster.errors import ConfigError
from cluster.security import Signer

TIMEOUT_S = 10.0
_COLLECTION = 2  # parts of a path that every router serves: /api/agents, /api/nodes, /api/metrics, /api/self
_SCHEMES = ("http", "https")
_BAD_URL = "--url: expected http://host:port or https://host"


class Api:
    """One server, and the secret that it shares with us ("" = calls are not signed)."""

    def __init__(self, url: str, secret: str = "", timeout_s: float = TIMEOUT_S) -> None:
        """Raises: ConfigError."""
        self.url = url.rstrip("/")
        self._is_tls, self._host, self._port = _parts_of(self.url)
        self._signer = Signer(secret, 0) if secret else None
        self._timeout_s = timeout_s

    def get(self, *parts: str, query: Mapping[str, str] | None = None) -> Any:
        """What is there. Raises: Failed."""
        return self.call("GET", *parts, query=query)

    def post(self, *parts: str, body: object = None) -> Any:
        """The answer to what is asked for. Raises: Failed."""
        return self.call("POST", *parts, body=body)

    def call(self, method: str, *parts: str, body: object = None, query: Mapping[str, str] | None = None) -> Any:
        """One call; the JSON of its answer. Raises: Failed, NotFound, ComeBack."""
        payload = b"" if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogateescape")
        target = "/" + "/".join(quote(part, safe="") for part in parts) + (f"?{urlencode(query)}" if query else "")
        headers = {"Content-Type": "application/json", **self._signature(method, "/" + "/".join(parts), payload)}
        status, kind, answer = self._exchange(method, target, payload, headers)
        try:
            said = json.loads(answer)
        except ValueError:
            raise Failed(f"{self.url} is no agent-server: it answers {status} with {kind or 'nothing'}") from None
        if status == 404 and len(parts) == _COLLECTION:
            raise Failed(f"{self.url} is no router: --url names one, or the load balancer before it")
        return said if status == 200 else self._refuse(status, said)

    def _signature(self, method: str, path: str, body: bytes) -> dict[str, str]:
        if self._signer is None:
            return {}
        now_s = str(int(time.time()))
        return {"X-Timestamp": now_s, "X-Signature": self._signer.sign(now_s, method, path, body)}

    def _exchange(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, str, bytes]:
        """Status, content type and body."""
        kind = http.client.HTTPSConnection if self._is_tls else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout_s)
        try:
            connection.request(method, target, body or None, dict(headers))
            response = connection.getresponse()
            return response.status, shown(response.headers.get_content_type()), response.read()
        except TimeoutError:
            raise ComeBack(f"{self.url} did not answer within {self._timeout_s:g} s; try again", TIMEOUT) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ComeBack(f"{self.url}: {_why(error)}") from error
        finally:
            connection.close()

    def _refuse(self, status: int, said: object) -> None:
        """Raises: what this answer means."""
        reason = shown(said.get("error") if isinstance(said, dict) else "") or "no reason given"
        match status:
            case 403:
                hint = (
                    "is auth.shared_secret (AUTH_SHARED_SECRET) the server's?"
                    if self._signer
                    else "set AUTH_SHARED_SECRET to the server's secret, or name its settings with --config"
                )
                raise Failed(f"{self.url} refuses: {reason}; {hint}", REFUSED)
            case 404:
                raise NotFound(reason)
            case 429 | 502 | 503 | 504:
                raise ComeBack(f"{self.url} cannot do it now: {reason}; try again later")
        raise Failed(f"{self.url} answers {status}: {reason}")


def _parts_of(url: str) -> tuple[bool, str, int | None]:
    try:
        parts = urlsplit(url)
        is_tls, host, port = parts.scheme == "https", parts.hostname, parts.port
    except ValueError:
        raise ConfigError(_BAD_URL) from None
    if parts.path or parts.query or parts.username:
        raise ConfigError(f"{_BAD_URL}, without anything else" if parts.scheme in _SCHEMES else _BAD_URL)
    if parts.scheme not in _SCHEMES or not host:
        raise ConfigError(_BAD_URL)
    return is_tls, host, port


def _why(error: Exception) -> str:
    match error:
        case ConnectionRefusedError():
            return "nothing listens there; is agent-server running? (--url says where it is)"
        case socket.gaierror():
            return "no such host (--url says where the server is)"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not accepted, {error.verify_message}"
        case ssl.SSLError() | http.client.HTTPException():
            return (
                f"no agent-server: what is there does not speak {'TLS' if isinstance(error, ssl.SSLError) else 'HTTP'}"
            )
        case OSError():
            return error.strerror or type(error).__name__
    return str(error)
