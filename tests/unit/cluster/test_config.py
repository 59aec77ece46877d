"""Settings: what goes before what, what contradicts what, and what is said about the rest."""

from pathlib import Path

import pytest

from cluster import settings
from cluster.config import load, without_effect
from cluster.errors import ConfigError
from cluster.settings import Settings
from tests.support.config_text import GO_FILE, SECRET, from_file, problem, value

pytestmark = pytest.mark.usefixtures("nowhere")


def test_without_a_file_everything_has_its_default() -> None:
    loaded = load(environ={})
    assert loaded.path is None
    assert loaded.warnings == ()
    assert loaded.given == {}
    assert loaded.settings == Settings(cluster=settings.Cluster(data_dir=str(Path("data").absolute())))


def test_flags_go_before_the_environment_and_the_environment_before_the_file() -> None:
    text, environ, flags = "server: {port: 1}", {"AGENT_SERVER_SERVER_PORT": "2"}, {"server.port": 3}
    assert [value(from_file(*args), "server.port") for args in ((text,), (text, environ), (text, environ, flags))] == [
        1,
        2,
        3,
    ]


def test_only_what_wins_is_read() -> None:
    assert from_file("server: {port: none}", {"AGENT_SERVER_PORT": "2"}).settings.server.port == 2


def test_it_is_known_where_a_key_was_given() -> None:
    loaded = from_file("server: {port: 1, host: a}", {"AGENT_SERVER_HOST": "b"}, {"logging.level": "debug"})
    assert loaded.given == {"server.host": "AGENT_SERVER_HOST", "server.port": "given.yaml:1", "logging.level": "flag"}


@pytest.mark.parametrize("nothing", [None, "", ()])
def test_a_flag_of_nothing_is_not_given(nothing: object) -> None:
    assert (
        from_file("server: {trusted_proxies: [10.0.0.1]}", flags={"server.trusted_proxies": nothing}).given[
            "server.trusted_proxies"
        ]
        == "given.yaml:1"
    )


def test_an_empty_variable_is_not_given() -> None:
    assert (
        from_file("server: {port: 1}", {"AGENT_SERVER_PORT": "", "AGENT_SERVER_SERVER_PORT": ""}).settings.server.port
        == 1
    )


@pytest.mark.parametrize(("flag", "expected"), [(True, True), ("on", True), (False, False)])
def test_a_flag_may_be_a_value_or_a_text(flag: object, expected: bool) -> None:
    assert from_file("", flags={"websocket.enable_compression": flag}).settings.websocket.enable_compression is expected


def test_a_flag_that_is_no_setting_is_refused() -> None:
    assert problem(flags={"server.prot": 1}) == "unknown setting 'server.prot'; the nearest known one is 'server.port'"


def test_a_file_of_the_go_server_loads_without_a_word() -> None:
    loaded = from_file(GO_FILE)
    assert loaded.warnings == ()
    assert loaded.settings.agent.max_connections == 1000
    assert loaded.settings.server.write_timeout_s == 90
    assert loaded.settings.log_stream.flush_interval_ms == 2000
    assert loaded.settings.redis.addr == "redis:6379"


def test_the_file_of_the_go_server_names_every_key_it_has() -> None:
    new = {
        *(
            "server.public_url",
            "server.trusted_proxies",
            "server.admin_host",
            "server.max_body",
            "server.tls_cert",
            "server.tls_key",
        ),
        *("websocket.max_message", "websocket.max_bad_frames", "websocket.max_messages_per_s"),
        *("agent.forget_after", "agent.max_takeovers", "auth.open_registration", "auth.former_secret"),
        *("control_plane.verify_registration", "control_plane.poll"),
        *("log_stream.max_age", "log_stream.max_len", "result_stream.keep", "result_stream.max_len"),
        *("status_stream.interval", "status_stream.max_age", "status_stream.max_len"),
        *("task_stats_stream.max_age", "task_stats_stream.max_len"),
        *("redis.url", "redis.prefix", "redis.allow_eviction"),
    }
    ours = {name for name, key in settings.keys().items() if key.section not in ("cluster", "tasks")}
    assert set(from_file(GO_FILE).given) == ours - new


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("agent: {max_connections: 0}", "agent.max_connections", 18_000),
        ("redis: {enabled: true, pool_size: 0}", "redis.pool_size", 32),
        ("redis: {enabled: true, wait_timeout: 0s}", "redis.wait_timeout", 2.0),
        ("redis: {enabled: true, idle_timeout: -1}", "redis.idle_timeout", -1.0),
        ("server: {read_timeout: 0, host: ''}", "server.host", "0.0.0.0"),
        ("server: {host: '[::]'}", "server.host", "::"),
        ("logging: {level: ''}", "logging.level", "info"),
        ("logging: {level: WARNING}", "logging.level", "warn"),
        ("logging: {format: console}", "logging.format", "text"),
        ("logging: {max_size: 0}", "logging.max_size", 100),
        ("result_stream: {key: ''}", "result_stream.key", "agent_results"),
        ("redis: {enabled: true, addr: ':6379'}", "redis.addr", "localhost:6379"),
        (
            "websocket: {allowed_origins: 'https://a, https://b'}",
            "websocket.allowed_origins",
            ("https://a", "https://b"),
        ),
    ],
)
def test_what_go_lets_pass_passes(text: str, name: str, expected: object) -> None:
    loaded = from_file(text)
    assert value(loaded, name) == expected
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sever: {port: 1}", "given.yaml: unknown section 'sever', ignored; the nearest known one is 'server'"),
        ("server: {prot: 1}", "given.yaml: unknown key 'server.prot', ignored; the nearest known one is 'server.port'"),
        (
            "redis: {adress: x}",
            "given.yaml: unknown key 'redis.adress', ignored; the nearest known one is 'redis.addr'",
        ),
        (
            "server: {max_connections: 1}",
            "given.yaml: unknown key 'server.max_connections', ignored; the nearest known one is 'agent.max_connections'",
        ),
        ("zzzzz: 1", "given.yaml: unknown section 'zzzzz', ignored"),
        ("'a\\nb': 1", "given.yaml: unknown section 'a\\\\nb', ignored"),
        ('"a\\nb\\u202e": 1', "given.yaml: unknown section 'a\\nb\\u202e', ignored"),
    ],
)
def test_an_unknown_key_is_a_warning_with_the_nearest_known_one(text: str, said: str) -> None:
    assert from_file(text).warnings == (said,)


BAD = [
    ("server.port", "70000", "'70000' is not a whole number from 0 to 65535"),
    ("server.port", "-1", "'-1' is not a whole number from 0 to 65535"),
    ("server.port", "http", "'http' is not a whole number from 0 to 65535"),
    ("server.port", "8080.5", "'8080.5' is not a whole number"),
    ("server.port", "'8080 '", None),
    ("server.port", "[1]", "['1'] is not a whole number"),
    ("server.port", "{a: 1}", "a mapping is not a whole number"),
    ("server.host", "a b", "'a b' is not a host name or an IP address"),
    ("server.host", "1:2", "'1:2' is not a host name or an IP address"),
    (
        "server.read_timeout",
        "30 parsecs",
        "'30 parsecs' is not a duration such as 30s, 1m30s, 500ms, 7d or a number of seconds, from 0s to 1d",
    ),
    ("server.read_timeout", "-1s", "'-1s' is not a duration"),
    ("server.max_body", "lots", "'lots' is not a size such as 16MiB, 512KiB or a number of bytes, from 1KiB to 1GiB"),
    (
        "server.public_url",
        "agents.example.com",
        "'agents.example.com' is not a URL that begins with ws:// or wss:// or http:// or https://",
    ),
    ("server.public_url", "ftp://a", "'ftp://a' is not a URL"),
    ("server.public_url", "wss://user:word@a b", "'wss://***@a b' is not a URL"),
    ("server.public_url", "wss://a:99999", "'wss://a:99999' is not a URL"),
    (
        "server.trusted_proxies",
        "['::1', a, b, c, d, e]",
        "['::1', 'a', 'b', 'c', 'd', ...] is not a list of IP addresses",
    ),
    ("server.trusted_proxies", "10.0.0.0/33", "'10.0.0.0/33' is not a list of IP addresses and networks"),
    ("websocket.enable_compression", "maybe", "'maybe' is not true or false"),
    ("websocket.allowed_origins", "[[a]]", "a nested list is not a list of texts"),
    (
        "agent.heartbeat_timeout",
        "2s",
        "'2s' is not a duration such as 30s, 1m30s, 500ms, 7d or a number of seconds, from 3s to 1d",
    ),
    ("logging.level", "loud", "'loud' is not one of debug, info, warn, error, fatal, warning"),
    ("logging.format", "xml", "'xml' is not one of json, text, console"),
    ("log_stream.key", "a b", "'a b' is not the name of a Redis stream"),
    ("log_stream.key", "'{a}'", "'{a}' is not the name of a Redis stream"),
    ("redis.addr", "localhost", "'localhost' is not host:port"),
    ("redis.addr", "'::1:6379'", "'::1:6379' is not host:port"),
    ("redis.addr", "a:0", "'a:0' is not host:port"),
    ("redis.prefix", "'agent:'", "'agent:' is not 1 to 64 of"),
    ("redis.prefix", "'{a}'", "'{a}' is not 1 to 64 of"),
    ("redis.prefix", "''", "'' is not 1 to 64 of"),
    ("tasks.on_agent_restart", "retry", "'retry' is not one of fail, redeliver"),
    ("tasks.ttl", '"a\\nb\\e[31m"', "'a\\nb\\x1b[31m' is not a duration"),
    ("cluster.nodes", "9" * 5000, "'" + "9" * 80 + "...' is not a whole number"),
]


@pytest.mark.parametrize(("name", "written", "said"), [row for row in BAD if row[2]])
def test_a_bad_value_is_named_with_its_key_and_what_is_allowed(name: str, written: str, said: str) -> None:
    section, _, key = name.partition(".")
    enabled = "enabled: true, " if section == "redis" else ""
    words = problem(f"{section}: {{{enabled}{key}: {written}}}")
    assert words.startswith(f"{name}: {said}")
    assert words.endswith("(given.yaml:1)")


def test_blanks_around_a_number_do_no_harm() -> None:
    assert from_file("server: {port: ' 8081 '}").settings.server.port == 8081


def test_a_bad_value_of_the_environment_names_the_variable() -> None:
    assert problem(environ={"AGENT_SERVER_PORT": "x"}).endswith("(AGENT_SERVER_PORT)")


def test_a_bad_value_of_a_flag_says_so() -> None:
    assert problem(flags={"server.port": True}) == "server.port: 'true' is not a whole number from 0 to 65535 (flag)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("auth: {require_signature: true}", "auth.require_signature: true needs auth.shared_secret, which is empty"),
        (
            "auth: {require_signature: true, shared_secret: '  '}",
            "auth.require_signature: true needs auth.shared_secret, which is empty",
        ),
        ("agent: {forget_after: 60s}", "agent.forget_after: 60s is not longer than agent.heartbeat_timeout, 60s"),
        ("log_stream: {key: agent_results}", "log_stream.key: 'agent_results' is also result_stream.key"),
        ("log_stream: {key: 'agsrv:x'}", "log_stream.key: 'agsrv:x' must not begin with redis.prefix, 'agsrv:'"),
        (
            "redis: {enabled: true, addr: ''}",
            "redis.addr: '' is not host:port, and redis.enabled is true without a redis.url",
        ),
        ("server: {tls_cert: a.pem}", "server.tls_key: '' is not the path of a file, and server.tls_cert is set"),
        ("server: {tls_key: a.pem}", "server.tls_cert: '' is not the path of a file, and server.tls_key is set"),
        (
            "control_plane: {poll: true}",
            "control_plane.url: '' is not a URL that begins with http:// or https://, and control_plane.poll is true",
        ),
        (
            "control_plane: {verify_registration: true, url: 'u:p@a'}",
            "control_plane.url: '***@a' is not a URL that begins with http://",
        ),
        (
            "control_plane: {poll: true, url: 'http://[a'}",
            "control_plane.url: 'http://[a' is not a URL that begins with http://",
        ),
        (
            "control_plane: {verify_registration: true}",
            "control_plane.url: '' is not a URL that begins with http:// or https://, and control_plane.verify_regist",
        ),
        (
            'control_plane: {poll: true, url: "http://a/b c"}',
            "control_plane.url: 'http://a/b c' is not a URL that begins with http://",
        ),
        (
            'control_plane: {poll: true, url: "http://a", token: "x y"}',
            "control_plane.token: *** has characters that no Authorization header carries, and control_plane.poll is",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(text: str, said: str) -> None:
    assert problem(text).startswith(said)


def test_a_url_of_the_control_plane_alone_is_not_looked_at() -> None:
    assert from_file("control_plane: {url: 'control-plane:8000'}").settings.control_plane.url == "control-plane:8000"


def test_feeds_that_are_off_may_share_a_name() -> None:
    assert not from_file("log_stream: {key: agent_results, enabled: false}").settings.log_stream.enabled


def test_a_signature_with_a_secret_is_fine() -> None:
    assert from_file(f"auth: {{require_signature: true, shared_secret: {SECRET}}}").settings.auth.require_signature


@pytest.mark.parametrize(
    "rest", ["addr: ''", "addr: nonsense", "db: x", "pool_size: -3", "url: nonsense", "idle_timeout: never"]
)
def test_with_redis_off_nothing_of_how_to_reach_it_is_checked(rest: str) -> None:
    loaded = from_file(f"redis: {{enabled: false, {rest}}}")
    assert not loaded.settings.redis.enabled
    key = settings.keys()["redis." + rest.partition(":")[0]]
    assert type(getattr(loaded.settings.redis, key.attribute)) is type(key.default)


def test_with_redis_off_the_prefix_is_checked_all_the_same() -> None:
    assert problem("redis: {enabled: false, prefix: ''}").startswith("redis.prefix: ")


@pytest.mark.parametrize(
    ("text", "environ", "enabled"),
    [
        ("", {}, False),
        ("redis: {addr: 'a:1'}", {}, False),
        ("redis: {url: 'redis://a'}", {}, True),
        ("redis: {url: ''}", {}, False),
        ("", {"AGENT_SERVER_REDIS_URL": "redis://a"}, True),
        ("redis: {enabled: null}", {"AGENT_SERVER_REDIS_URL": "redis://a"}, True),
        ("redis: {enabled: false}", {"AGENT_SERVER_REDIS_URL": "redis://a"}, False),
        ("redis: {enabled: true}", {"AGENT_SERVER_REDIS_URL": "redis://a"}, True),
        ("", {"AGENT_SERVER_REDIS_URL": "redis://a", "AGENT_SERVER_REDIS_ENABLED": "false"}, False),
        (
            "redis: {enabled: false}",
            {"AGENT_SERVER_REDIS_URL": "redis://a", "AGENT_SERVER_REDIS_ENABLED": "true"},
            True,
        ),
    ],
)
def test_a_redis_url_switches_redis_on_unless_enabled_is_given(
    text: str, environ: dict[str, str], enabled: bool
) -> None:
    loaded = from_file(text, environ)
    assert loaded.settings.redis.enabled is enabled
    is_ignored = not enabled and "AGENT_SERVER_REDIS_URL" in environ
    assert loaded.warnings == (
        ("redis.url: ignored, redis.enabled is false: the embedded Redis is used",) if is_ignored else ()
    )


def test_what_a_redis_url_replaces_is_not_checked() -> None:
    loaded = from_file("redis: {url: 'redis://:word@h:1/2', addr: nonsense, db: x}")
    assert loaded.settings.redis.url == "redis://:word@h:1/2"


@pytest.mark.parametrize(
    "url", ["redis://h", "redis://h:1/0", "rediss://u:p@h:1", "unix:///run/redis.sock?db=1", "redis://:p@[::1]:1/15"]
)
def test_urls_of_redis(url: str) -> None:
    assert from_file(f"redis: {{url: '{url}'}}").settings.redis.url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "redis://",
        "unix:///",
        "redis://h/0#x",
        "h:6379",
        f"redis://:{SECRET}#1@h",
        f"redis://u:6/{SECRET}@h",
        f"redis://u:{SECRET}/x@h",
        "redis://h/x",
    ],
)
def test_a_bad_url_of_redis_is_refused_without_being_shown(url: str) -> None:
    words = problem(f"redis: {{url: '{url}'}}")
    assert words.startswith("redis.url: *** is not ")
    assert SECRET not in words


@pytest.mark.parametrize(
    ("path", "written", "expected"),
    [
        ("configs/config.yaml", None, "configs/data"),
        ("configs/config.yaml", "../x", "configs/../x"),
        ("config.yaml", "y", "y"),
        ("config.yaml", "/z", "/z"),
    ],
)
def test_the_data_folder_is_relative_to_the_file(nowhere: Path, path: str, written: str | None, expected: str) -> None:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(f"cluster: {{data_dir: {written or 'null'}}}", encoding="utf-8")
    assert load(environ={}).settings.cluster.data_dir == str(nowhere / expected)


def test_every_key_without_effect_is_a_key_of_the_go_server() -> None:
    assert set(settings.WITHOUT_EFFECT) <= set(from_file(GO_FILE).given)


def test_only_what_was_given_is_told_to_have_no_effect() -> None:
    assert without_effect(load(environ={})) == ()
    told = dict(without_effect(from_file("agent: {task_queue_size: 5, max_connections: 5}")))
    assert set(told) == {"agent.task_queue_size"}


def test_the_control_plane_s_keys_have_an_effect_once_it_is_asked() -> None:
    text = "control_plane: {url: 'http://a', poll: %s}"
    assert [key for key, _ in without_effect(from_file(text % "false"))] == ["control_plane.url"]
    assert without_effect(from_file(text % "true")) == ()


@pytest.mark.parametrize(
    ("switch", "idle"),
    [
        ("scope: eu", {*settings.ASKING, *settings.POLLING}),
        ("verify_registration: true", set(settings.POLLING)),
        ("poll: true", set()),
        ("poll: true, verify_registration: true", set()),
    ],
)
def test_each_of_its_keys_has_an_effect_with_the_switch_that_reads_it(switch: str, idle: set[str]) -> None:
    plane = {name for name, key in settings.keys().items() if key.section == "control_plane"}
    assert plane == {*settings.ASKING, *settings.POLLING, "control_plane.verify_registration", "control_plane.poll"}
    text = "{%s, url: 'http://a', token: t, timeout: 5s, task_poll_interval: 5s, %s}"
    scope = "" if "scope" in switch else "scope: eu"
    loaded = from_file("control_plane: " + text % (switch, scope))
    assert {key for key, _ in without_effect(loaded)} == idle


def test_what_a_url_or_the_embedded_redis_replaces_is_told() -> None:
    text = "redis: {enabled: %s, addr: 'a:1', url: 'redis://b'}"
    assert [key for key, _ in without_effect(from_file(text % "true"))] == ["redis.addr"]
    assert [key for key, _ in without_effect(from_file(text % "false"))] == ["redis.addr", "redis.url"]


@pytest.mark.parametrize("name", [name for name, key in settings.keys().items() if key.is_secret])
@pytest.mark.parametrize("written", ["[{0}]", "{{{0}: x}}", '"{0}\\nx"'])
def test_a_secret_that_cannot_be_used_is_not_quoted(name: str, written: str) -> None:
    section, _, key = name.partition(".")
    enabled = "enabled: true, " if section == "redis" else ""
    words = problem(f"{section}: {{{enabled}{key}: {written.format(SECRET)}}}")
    assert words.startswith(f"{name}: *** is not ")
    assert SECRET not in words


def problems(text: str, environ: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        from_file(text, environ)
    return caught.value.problems


def test_everything_that_is_wrong_is_told_at_once_with_its_line() -> None:
    text = "server:\n  port: none\n  host: 'a b'\nagent: nobody\nauth:\n  require_signature: true\ntasks: {ttl: 1s, max_open: 0}\n"
    environ = {"AGENT_SERVER_LOGGING_LEVEL": "loud", "AGENT_SERVER_REDIS_URL_FILE": "missing"}
    assert [words.partition(":")[0] for words in problems(text, environ)] == [
        "agent", "redis.url", "server.host", "server.port", "logging.level", "tasks.max_open", "auth.require_signature",
    ]  # fmt: skip
    told = dict(words.split(": ", 1) for words in problems(text, environ))
    assert told["server.port"].endswith("(given.yaml:2)")
    assert told["server.host"].endswith("(given.yaml:3)")
    assert told["agent"] == "'nobody' is not a mapping of keys (given.yaml:4)"
    assert told["auth.require_signature"].endswith("which is empty (given.yaml:6)")
    assert told["logging.level"].endswith("(AGENT_SERVER_LOGGING_LEVEL)")


def test_one_that_is_wrong_is_not_told_twice_in_other_words() -> None:
    """The default that stands for a bad value may contradict the others."""
    assert len(problems("agent: {heartbeat_timeout: long, forget_after: 30s}")) == 1
    assert len(problems("redis: {enabled: perhaps, addr: nonsense}")) == 1
    assert len(problems("log_stream: {key: agent_results}")) == 1


def test_a_merged_key_stands_where_it_was_written() -> None:
    text = "server: &base\n  port: 1\n  host: a\nx:\n  <<: *base\n  host: b\n"
    assert from_file(text.replace("x:", "websocket: {}\nserver2:")).given["server.host"] == "given.yaml:3"
    text = "redis: &base\n  prefix: 'a:'\nagent:\n  <<: *base\n  max_takeovers: 1\n"
    assert from_file(text).given["agent.max_takeovers"] == "given.yaml:5"
