"""What a reference agent is told: where the server is, who it is, how patient it is.

Owns the defaults and the checks of what was given; reads no file and no environment. Times in seconds.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cluster.errors import ConfigError

_TOKEN = re.compile(r"[!#$%&'*+.^_|~0-9A-Za-z-]{1,256}")  # what a WebSocket subprotocol may be called
_NOT_IN_FILE_NAMES = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True)
class Timings:
    """How long the agent waits for what."""

    heartbeat_s: float = 15.0
    read_deadline_s: float = 60.0  # a server that lives says something every 20 s
    write_deadline_s: float = 10.0
    register_s: float = 30.0  # the server holds a registration for up to 25 s
    handshake_s: float = 12.0  # it queues handshakes for up to 8 s
    resend_first_s: float = 3.0  # then twice as long each time, up to the longest
    resend_longest_s: float = 60.0
    backoff_first_s: float = 1.0
    backoff_longest_s: float = 30.0
    stable_s: float = 10.0  # a connection that lasted this long forgives the failures before it
    kill_s: float = 3.0  # between SIGTERM and SIGKILL
    flush_s: float = 3.0  # for the last acks, when the agent is stopped


@dataclass(frozen=True)
class AgentOptions:
    """Who the agent is. Raises: ConfigError for what cannot work."""

    url: str
    name: str
    token: str = field(default="", repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    host_id: int = 0
    state_dir: Path | None = None
    max_tasks: int = 5
    timings: Timings = Timings()

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError("url: expected http://host:port or https://host")
        if not self.name:
            raise ConfigError("name: required")
        if self.token and not _TOKEN.fullmatch(self.token):
            raise ConfigError("token: 1 to 256 of A-Z a-z 0-9 ! # $ % & ' * + - . ^ _ | ~")
        if self.max_tasks < 1:
            raise ConfigError("max_tasks: at least 1")

    @property
    def folder(self) -> Path:
        """Where the agent keeps what must outlive its process."""
        own_name = _NOT_IN_FILE_NAMES.sub("-", self.name)
        return self.state_dir or Path.home() / ".local" / "state" / "agent-server" / own_name
