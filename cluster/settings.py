"""The settings and their defaults: one frozen struct a section of config.yaml. What they mean: configs/config.yaml.example.

Owns names, kinds, defaults and which values are secret; knows nothing of files, of the environment or of who reads a setting. Rules:

- An attribute carries its unit (`_s`, `_ms`, `_bytes`); the key in the file is the contract's, and is given by `name=` where it differs.
- Each attribute is `Annotated` with its kind, and with marks. `SECRET`: never shown. `EMPTY_IS_DEFAULT`: "" or 0 stands for the default,
  as it does in many a file of the Go server; we run nothing without a deadline, a name or a bound.
- No setting shows a secret: `repr`, `str` and rich's view go through `shown`. Read secrets by attribute, and never into a text that travels.
"""

import enum
import functools
from collections.abc import Iterator
from types import MappingProxyType
from typing import Annotated, Final, NamedTuple, get_args, get_origin
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
from msgspec import Struct, field

from cluster.kinds import (
    DAY_S,
    GIB,
    HOUR_S,
    KIB,
    MIB,
    Choice,
    Duration,
    Flag,
    Host,
    HostPort,
    Kind,
    Networks,
    Size,
    Text,
    Texts,
    Url,
    Whole,
)

HIDDEN = "***"
YEARS_S = 3650 * DAY_S
SHORTEST_REDACTED = 4  # a shorter secret cannot be told from any other text


class Mark(enum.Enum):
    """What else is true of a setting."""

    SECRET = enum.auto()
    EMPTY_IS_DEFAULT = enum.auto()


class Key(NamedTuple):
    """One setting: `section.key` as written, where it lives in Settings, and what may be written."""

    name: str
    section: str
    attribute: str
    kind: Kind
    default: object
    is_secret: bool
    empty_is_default: bool


Switch = Annotated[bool, Flag()]
Timeout = Annotated[float, Duration(0.0, DAY_S), Mark.EMPTY_IS_DEFAULT]
Interval = Annotated[float, Duration(0.0, DAY_S)]
Age = Annotated[float, Duration(1.0, YEARS_S)]
Count = Annotated[int, Whole(0, 2**31 - 1)]
# No braces: a feed's name becomes a hash tag. No blanks or control characters: nobody means them.
Feed = Annotated[
    str,
    Text(r"[^\s{}\x00-\x1f\x7f]{0,200}", "the name of a Redis stream, without blanks or braces"),
    Mark.EMPTY_IS_DEFAULT,
]
MaxLen = Annotated[int, Whole(1, 10**9)]


class Section(Struct, frozen=True, kw_only=True):
    """What all sections share: they do not show secrets."""

    def shown(self) -> dict[str, object]:
        """Its values by attribute, fit for eyes: secrets hidden, URLs without credentials."""
        return {key.attribute: _shown(key, getattr(self, key.attribute)) for key in _keys_of("", type(self))}

    def __repr__(self) -> str:
        """Without secrets."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.shown().items())})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Without secrets: rich prints the locals of tracebacks."""
        return list(self.shown().items())


class Server(Section, frozen=True, kw_only=True):
    """Where we listen, and what we take."""

    host: Annotated[str, Host(), Mark.EMPTY_IS_DEFAULT] = "0.0.0.0"  # noqa: S104 - the Go server's default
    port: Annotated[int, Whole(0, 65_535)] = 8080
    read_timeout_s: Timeout = field(default=30.0, name="read_timeout")
    write_timeout_s: Timeout = field(default=30.0, name="write_timeout")
    public_url: Annotated[str, Url(("ws", "wss", "http", "https"))] = ""
    trusted_proxies: Annotated[tuple[str, ...], Networks()] = ()
    admin_host: Annotated[str, Host(), Mark.EMPTY_IS_DEFAULT] = "127.0.0.1"
    max_body_bytes: Annotated[int, Size(KIB, GIB)] = field(default=16 * MIB, name="max_body")
    tls_cert: Annotated[str, Text()] = ""
    tls_key: Annotated[str, Text()] = ""


class WebSocket(Section, frozen=True, kw_only=True):
    """The agents' sockets."""

    handshake_timeout_s: Timeout = field(default=10.0, name="handshake_timeout")
    read_buffer_size: Annotated[int, Size(0, GIB)] = 4096
    write_buffer_size: Annotated[int, Size(0, GIB)] = 4096
    enable_compression: Switch = True
    allowed_origins: Annotated[tuple[str, ...], Texts()] = ()
    max_message_bytes: Annotated[int, Size(KIB, GIB)] = field(default=32 * MIB, name="max_message")
    max_bad_frames: Annotated[int, Whole(1, 1_000_000)] = 16
    max_messages_per_s: Annotated[int, Whole(0, 1_000_000)] = 0


class Agent(Section, frozen=True, kw_only=True):
    """How long an agent may be silent or away, and how many there may be."""

    heartbeat_timeout_s: Annotated[float, Duration(3.0, DAY_S)] = field(default=60.0, name="heartbeat_timeout")
    max_connections: Annotated[int, Whole(0, 1_000_000), Mark.EMPTY_IS_DEFAULT] = 18_000
    task_queue_size: Count = 100
    cleanup_interval_s: Interval = field(default=30.0, name="cleanup_interval")
    forget_after_s: Age = field(default=7 * DAY_S, name="forget_after")
    max_takeovers: Annotated[int, Whole(0, 1_000)] = 3


class Auth(Section, frozen=True, kw_only=True):
    """Who may call and who may register."""

    shared_secret: Annotated[str, Text(), Mark.SECRET] = ""
    former_secret: Annotated[str, Text(), Mark.SECRET] = ""
    require_signature: Switch = False
    clock_skew_s: Annotated[float, Duration(0.0, DAY_S), Mark.EMPTY_IS_DEFAULT] = field(
        default=300.0, name="clock_skew"
    )
    open_registration: Switch = True


class ControlPlane(Section, frozen=True, kw_only=True):
    """The control plane, for those who have it asked: a url alone changes nothing."""

    url: Annotated[str, Text()] = ""
    token: Annotated[str, Text(), Mark.SECRET] = ""
    timeout_s: Timeout = field(default=30.0, name="timeout")
    task_poll_interval_s: Timeout = field(default=5.0, name="task_poll_interval")
    scope: Annotated[str, Text()] = ""
    verify_registration: Switch = False
    poll: Switch = False


class Logging(Section, frozen=True, kw_only=True):
    """Our own log. `max_size` in MB (10**6 bytes), `max_age` in days. Where it goes: cluster/log_output.py, `log_path`."""

    level: Annotated[
        str, Choice(("debug", "info", "warn", "error", "fatal"), (("warning", "warn"),)), Mark.EMPTY_IS_DEFAULT
    ] = "info"
    file: Annotated[str, Text()] = ""
    dir: Annotated[str, Text()] = ""
    max_size: Annotated[int, Whole(0, 100_000), Mark.EMPTY_IS_DEFAULT] = 100
    max_files: Annotated[int, Whole(0, 1_000), Mark.EMPTY_IS_DEFAULT] = 10
    max_age: Annotated[int, Whole(0, 3_650)] = 7
    format: Annotated[str, Choice(("json", "text"), (("console", "text"),)), Mark.EMPTY_IS_DEFAULT] = "json"
    report_caller: Switch = True


class LogStream(Section, frozen=True, kw_only=True):
    """The feed of tasks' output."""

    enabled: Switch = True
    key: Feed = "agent_logs"
    buffer_size: Count = 1000
    batch_size: Count = 50
    flush_interval_ms: Annotated[float, Duration(0.0, HOUR_S, in_ms=True)] = field(
        default=2000.0, name="flush_interval"
    )
    max_age_s: Age = field(default=DAY_S, name="max_age")
    max_len: MaxLen = 1_000_000


class ResultStream(Section, frozen=True, kw_only=True):
    """The feed of tasks' ends."""

    enabled: Switch = True
    key: Feed = "agent_results"
    push_interval_s: Interval = field(default=30.0, name="push_interval")
    keep: Annotated[int, Whole(0, 10**9)] = 10_000
    max_len: MaxLen = 1_000_000


class StatusStream(Section, frozen=True, kw_only=True):
    """The feed of agents that come, stay and go."""

    enabled: Switch = True
    key: Feed = "agent_status"
    push_interval_s: Interval = field(default=30.0, name="push_interval")
    interval_s: Interval = field(default=30.0, name="interval")
    max_age_s: Age = field(default=DAY_S, name="max_age")
    max_len: MaxLen = 1_000_000


class TaskStatsStream(Section, frozen=True, kw_only=True):
    """The feed of agents' counts."""

    enabled: Switch = True
    key: Feed = "agent_task_stats"
    push_interval_s: Annotated[float, Duration(0.0, DAY_S), Mark.EMPTY_IS_DEFAULT] = field(
        default=30.0, name="push_interval"
    )
    max_age_s: Age = field(default=DAY_S, name="max_age")
    max_len: MaxLen = 1_000_000


class Redis(Section, frozen=True, kw_only=True):
    """The store. Not `enabled`: an embedded one. `url` takes the place of addr, password and db."""

    enabled: Switch = False
    addr: Annotated[str, HostPort()] = "localhost:6379"
    password: Annotated[str, Text(), Mark.SECRET] = ""
    db: Annotated[int, Whole(0, 1_000_000)] = 0
    pool_size: Annotated[int, Whole(0, 10_000), Mark.EMPTY_IS_DEFAULT] = 32
    min_idle: Count = 0
    max_idle: Count = 0
    idle_timeout_s: Annotated[float, Duration(-1.0, YEARS_S)] = field(default=300.0, name="idle_timeout")
    wait_timeout_s: Timeout = field(default=2.0, name="wait_timeout")
    url: Annotated[str, Url(("redis", "rediss", "unix")), Mark.SECRET] = ""
    # Neither braces, which would make a hash tag, nor what Django and the Go server begin their own keys with.
    prefix: Annotated[
        str,
        Text(
            r"(?!agent:|agent-server:)[A-Za-z0-9._:-]{1,64}",
            "1 to 64 of A-Z a-z 0-9 . _ : -, and not agent: or agent-server:",
        ),
    ] = "agsrv:"
    allow_eviction: Switch = False


class Cluster(Section, frozen=True, kw_only=True):
    """Our own processes. `data_dir` is absolute in loaded settings."""

    nodes: Annotated[int, Whole(0, 1_024)] = 0
    data_dir: Annotated[str, Text(), Mark.EMPTY_IS_DEFAULT] = "data"
    shards: Annotated[int, Whole(0, 4_096)] = 0


class Tasks(Section, frozen=True, kw_only=True):
    """What becomes of a task."""

    ttl_s: Age = field(default=DAY_S, name="ttl")
    redelivery_grace_s: Interval = field(default=40.0, name="redelivery_grace")
    max_attempts: Annotated[int, Whole(1, 1_000)] = 5
    on_agent_restart: Annotated[str, Choice(("fail", "redeliver"))] = "fail"
    result_grace_s: Interval = field(default=600.0, name="result_grace")
    max_open: Annotated[int, Whole(1, 10_000_000)] = 10_000


class Settings(Struct, frozen=True, kw_only=True):
    """All settings of a process."""

    server: Server = Server()
    websocket: WebSocket = WebSocket()
    agent: Agent = Agent()
    auth: Auth = Auth()
    control_plane: ControlPlane = ControlPlane()
    logging: Logging = Logging()
    log_stream: LogStream = LogStream()
    result_stream: ResultStream = ResultStream()
    status_stream: StatusStream = StatusStream()
    task_stats_stream: TaskStatsStream = TaskStatsStream()
    redis: Redis = Redis()
    cluster: Cluster = Cluster()
    tasks: Tasks = Tasks()

    def secrets(self) -> tuple[str, ...]:
        """Every secret that is set, also the passwords inside URLs, as written and decoded: what no log may hold. Longest first."""
        found = {self.auth.shared_secret, self.auth.former_secret, self.control_plane.token, self.redis.password}
        for url in (self.redis.url, self.control_plane.url, self.server.public_url):
            found.update(_passwords_in(url))
        return tuple(sorted((text for text in found if len(text) >= SHORTEST_REDACTED), key=len, reverse=True))


# How the control plane is asked, and how it is asked for tasks: they have an effect once `verify_registration` or `poll` is on.
ASKING: Final = ("control_plane.url", "control_plane.token", "control_plane.timeout")
POLLING: Final = ("control_plane.task_poll_interval", "control_plane.scope")

# Accepted, because files of the Go server have them; what took their place here.
WITHOUT_EFFECT: Final = MappingProxyType(
    {
        "websocket.read_buffer_size": "buffers follow the frames",
        "websocket.write_buffer_size": "buffers follow the frames",
        "agent.task_queue_size": "tasks wait in Redis; tasks.max_open is the bound",
        "agent.cleanup_interval": "leases end by themselves, and are looked at every half second",
        **dict.fromkeys(ASKING, "nothing asks the control plane, unless verify_registration or poll is on"),
        **dict.fromkeys(POLLING, "nothing asks the control plane for tasks, unless poll is on"),
        "log_stream.buffer_size": "a busy writer batches by itself, and an acked line is in Redis",
        "log_stream.batch_size": "a busy writer batches by itself",
        "log_stream.flush_interval": "lines are written at once",
        "result_stream.push_interval": "results are written at once",
        "status_stream.push_interval": "changes are written at once; status_stream.interval is for agents that stay",
        "redis.min_idle": "connections are opened when wanted, and kept",
        "redis.max_idle": "connections are opened when wanted, and kept",
        "redis.idle_timeout": "connections are opened when wanted, and kept",
    }
)


def without_url_credentials(url: str) -> str:
    """A URL fit for eyes: user, password and query are not shown."""
    scheme, mark, rest = url.rpartition("://") if "://" not in url else url.partition("://")
    _, at, place = rest.rpartition("@")
    place, question, _ = place.partition("?")
    return f"{scheme}{mark}{at and HIDDEN + at}{place}{question and question + HIDDEN}"


def _passwords_in(url: str) -> set[str]:
    try:
        parts = urlsplit(url)
    except ValueError:  # only control_plane.url can be one, while nothing uses it
        return set()
    written = parts.password or ""
    return {written, unquote(written), *parse_qs(parts.query).get("password", ())}


def _shown(key: Key, value: object) -> object:
    if isinstance(value, str) and key.attribute.endswith("url"):
        return without_url_credentials(value)
    return HIDDEN if key.is_secret and value else value


def _keys_of(section: str, struct: type[Struct]) -> Iterator[Key]:
    for info in msgspec.structs.fields(struct):
        _, kind, *marks = get_args(info.type) if get_origin(info.type) is Annotated else (None, Text())
        yield Key(
            name=f"{section}.{info.encode_name}",
            section=section,
            attribute=info.name,
            kind=kind,
            default=info.default,
            is_secret=Mark.SECRET in marks,
            empty_is_default=Mark.EMPTY_IS_DEFAULT in marks,
        )


@functools.cache
def keys() -> MappingProxyType[str, Key]:
    """Every setting by its name, `section.key`, in the order of the file."""
    found = (key for info in msgspec.structs.fields(Settings) for key in _keys_of(info.name, info.type))
    return MappingProxyType({key.name: key for key in found})
