"""Settings in the environment: names, Kubernetes, files of secrets."""

import itertools
from pathlib import Path

import pytest

from cluster import environment, kinds, settings
from cluster.config import load
from tests.support.config_text import SECRET, from_file, problem, value

pytestmark = pytest.mark.usefixtures("nowhere")

SAMPLES: dict[str, tuple[str, object]] = {
    "server.host": ("::1", "::1"),
    "server.trusted_proxies": ("10.0.0.1/8, ::1", ("10.0.0.0/8", "::1/128")),
    "server.public_url": ("wss://a.example/", "wss://a.example"),
    "websocket.allowed_origins": ("a,b", ("a", "b")),
    "logging.level": ("ERROR", "error"),
    "logging.format": ("text", "text"),
    "redis.addr": ("[::1]:7000", "[::1]:7000"),
    "redis.url": ("rediss://:secret@h:1/2", "rediss://:secret@h:1/2"),
    "redis.prefix": ("other:", "other:"),
    "tasks.on_agent_restart": ("redeliver", "redeliver"),
    "cluster.data_dir": ("/srv/data", "/srv/data"),
}
BY_KIND: dict[type, tuple[str, object]] = {
    kinds.Whole: ("11", 11),
    kinds.Duration: ("1m30s", 90.0),
    kinds.Size: ("2 KiB", 2048),
    kinds.Text: ("words", "words"),
    kinds.Host: ("127.0.0.2", "127.0.0.2"),
}


def sample(name: str) -> tuple[str, object]:
    """What may be written for a key and is not its default, and what it means."""
    key = settings.keys()[name]
    if isinstance(key.kind, kinds.Flag):
        return str(not key.default), not key.default
    if isinstance(key.kind, kinds.Duration) and key.kind.in_ms:
        return "1m30s", 90_000.0
    return SAMPLES.get(name) or BY_KIND[type(key.kind)]


@pytest.mark.parametrize("name", list(settings.keys()))
def test_every_key_has_its_variable(name: str) -> None:
    key = settings.keys()[name]
    text, expected = sample(name)
    environ = {
        "AGENT_SERVER_REDIS_ENABLED": "true",
        "AGENT_SERVER_AUTH_SHARED_SECRET": SECRET,
        "CONTROL_PLANE_URL": "http://a",
    }
    environ |= {"AGENT_SERVER_SERVER_TLS_CERT": "words", "AGENT_SERVER_SERVER_TLS_KEY": "words"}
    variable = f"AGENT_SERVER_{key.section.upper()}_{name.partition('.')[2].upper()}"
    loaded = load(environ={**environ, variable: text})
    assert value(loaded, name) == expected
    assert loaded.given[name] == variable


def test_no_two_keys_share_a_variable() -> None:
    names = list(itertools.chain.from_iterable(map(environment.names_of, settings.keys().values())))
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("variable", "text", "name", "expected"),
    [
        ("AGENT_SERVER_HOST", "127.0.0.1", "server.host", "127.0.0.1"),
        ("AGENT_SERVER_PORT", "9000", "server.port", 9000),
        (
            "CONTROL_PLANE_URL",
            "https://control-plane.example.com",
            "control_plane.url",
            "https://control-plane.example.com",
        ),
        ("CONTROL_PLANE_TOKEN", "server-auth-token", "control_plane.token", "server-auth-token"),
        ("CONTROL_PLANE_SCOPE", "default", "control_plane.scope", "default"),
        ("AUTH_SHARED_SECRET", "your-hmac-secret", "auth.shared_secret", "your-hmac-secret"),
        ("LOGGING_FORMAT", "text", "logging.format", "text"),
        ("LOGGING_REPORT_CALLER", "false", "logging.report_caller", False),
    ],
)
def test_the_go_server_s_variables_work(variable: str, text: str, name: str, expected: object) -> None:
    loaded = load(environ={variable: text})
    assert value(loaded, name) == expected
    assert loaded.warnings == ()


def test_auth_require_signature_works_as_with_the_go_server() -> None:
    assert load(
        environ={"AUTH_REQUIRE_SIGNATURE": "true", "AUTH_SHARED_SECRET": SECRET}
    ).settings.auth.require_signature


def test_the_systematic_variable_goes_before_the_go_server_s() -> None:
    loaded = load(environ={"AGENT_SERVER_PORT": "1", "AGENT_SERVER_SERVER_PORT": "2"})
    assert loaded.settings.server.port == 2
    assert loaded.warnings == ("AGENT_SERVER_PORT: ignored, AGENT_SERVER_SERVER_PORT is set",)


def test_what_a_launcher_tells_its_children_is_what_its_flags_said() -> None:
    flags: dict[str, object] = {
        "server.port": 0,
        "websocket.enable_compression": False,
        "server.trusted_proxies": ("10.0.0.0/8", "::1/128"),
        "agent.heartbeat_timeout": 4.5,
        "cluster.data_dir": Path("/srv/x"),
        "logging.level": None,
    }
    child = load(environ=environment.as_environment(flags))
    parent = load(environ={}, flags=flags)
    assert child.settings == parent.settings
    assert set(child.given) == set(flags) - {"logging.level"}


@pytest.mark.parametrize(
    "link", ["tcp://10.96.0.1:8080", "TCP://10.96.0.1:8080", "udp://10.96.0.1:53", "sctp://10.96.0.1:1"]
)
def test_a_kubernetes_service_link_is_ignored_with_a_warning(link: str) -> None:
    loaded = from_file("server: {port: 7}", {"AGENT_SERVER_PORT": link})
    assert loaded.settings.server.port == 7
    assert [
        warning
        for warning in loaded.warnings
        if warning.startswith("AGENT_SERVER_PORT: ignored") and "Kubernetes" in warning
    ]
    assert len(loaded.warnings) == 1


def test_the_rest_of_what_kubernetes_sets_for_a_service_is_passed_over_in_silence() -> None:
    environ = {
        "AGENT_SERVER_SERVICE_HOST": "10.96.0.1",
        "AGENT_SERVER_SERVICE_PORT": "8080",
        "AGENT_SERVER_SERVICE_PORT_HTTP": "8080",
        "AGENT_SERVER_PORT_8080_TCP": "tcp://10.96.0.1:8080",
        "AGENT_SERVER_PORT_8080_TCP_PROTO": "tcp",
        "AGENT_SERVER_PORT_8080_TCP_PORT": "8080",
        "AGENT_SERVER_PORT_8080_TCP_ADDR": "10.96.0.1",
        "AGENT_SERVER_REDIS_PORT": "tcp://10.96.0.2:6379",
        "AGENT_SERVER_REDIS_SERVICE_HOST": "10.96.0.2",
    }
    assert load(environ=environ).warnings == ()


def test_a_slip_in_a_variable_is_told_with_the_nearest_known_one() -> None:
    slip = "AGENT_SERVER_REDIS_ADRR"
    assert load(environ={slip: "a:1"}).warnings == (
        f"'{slip}': unknown, and ignored; the nearest known variable is AGENT_SERVER_REDIS_ADDR",
    )


@pytest.mark.parametrize(
    "name",
    ["AGENT_SERVER_VERSION", "AGENT_SERVER_CONFIG", "AGENT_SERVER_HOME", "AGENT_SERVER_IMAGE", "PATH", "REDIS_URL"],
)
def test_variables_that_resemble_none_are_nobody_s_business(name: str) -> None:
    assert load(environ={name: "1"}).warnings == ()


SECRETS = [name for name, key in settings.keys().items() if key.is_secret]
SECRET_TEXTS = {"redis.url": "redis://:correct-horse-battery@h:1/0"}


def test_the_secrets_are_known() -> None:
    assert SECRETS == ["auth.shared_secret", "auth.former_secret", "control_plane.token", "redis.password", "redis.url"]


@pytest.mark.parametrize(
    ("name", "variable"),
    [(name, environment.name_of(name) + "_FILE") for name in SECRETS]
    + [("auth.shared_secret", "AUTH_SHARED_SECRET_FILE"), ("control_plane.token", "CONTROL_PLANE_TOKEN_FILE")],
)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_secret_may_stand_in_a_file(name: str, variable: str, end: str) -> None:
    text = SECRET_TEXTS.get(name, f" {SECRET} ")
    Path("secret").write_bytes((text + end).encode())
    loaded = load(environ={variable: "secret", "AGENT_SERVER_REDIS_ENABLED": "true"})
    assert value(loaded, name) == text
    assert loaded.given[name] == variable


def test_a_secret_s_variable_goes_before_its_file() -> None:
    loaded = load(
        environ={"AGENT_SERVER_AUTH_SHARED_SECRET": SECRET, "AGENT_SERVER_AUTH_SHARED_SECRET_FILE": "missing"}
    )
    assert loaded.settings.auth.shared_secret == SECRET
    assert loaded.warnings == ("AGENT_SERVER_AUTH_SHARED_SECRET_FILE: ignored, AGENT_SERVER_AUTH_SHARED_SECRET is set",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff", "is not UTF-8 text"),
        (b"x" * 70_000, "is larger"),
    ],
)
def test_a_secret_s_file_that_will_not_do_is_named(content: bytes | None, reason: str) -> None:
    if content is not None:
        Path("secret").write_bytes(content)
    said = problem(environ={"AUTH_SHARED_SECRET_FILE": "secret"})
    assert said.startswith(f"auth.shared_secret: the file 'secret' (AUTH_SHARED_SECRET_FILE) {reason}")


def test_only_secrets_stand_in_files() -> None:
    assert load(environ={"AGENT_SERVER_SERVER_PORT_FILE": "missing"}).settings.server.port == 8080
