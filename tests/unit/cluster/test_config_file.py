"""config.yaml: where it is found, and what its YAML means."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from cluster import config_file, settings
from cluster.config import load
from cluster.errors import ConfigError
from tests.support.config_text import SECRET, from_file, problem

pytestmark = pytest.mark.usefixtures("nowhere")

SEARCHED = config_file.FOLDERS


def outcome_of(text: str) -> str:
    """All that loading this text says to anybody."""
    Path("given.yaml").write_bytes(text.encode(errors="surrogatepass"))
    try:
        loaded = load("given.yaml", environ={})
    except ConfigError as error:
        return f"{error} {error.__cause__} {error.__context__ if not error.__suppress_context__ else ''}"
    return f"{loaded.warnings} {loaded!r}"


def test_the_search_path_is_the_contract_s() -> None:
    assert config_file.NAME == "config.yaml"
    assert SEARCHED == (".", "./configs", "./config", "/etc/agent-server")


def test_the_first_file_on_the_search_path_is_taken() -> None:
    for port, folder in enumerate(reversed(config_file.FOLDERS), start=1):
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(folder, "config.yaml")
        path.write_text(f"server: {{port: {port}}}", encoding="utf-8")
        loaded = load(environ={})
        assert loaded.path == str(path)
        assert loaded.settings.server.port == port


def test_a_path_that_is_given_ends_the_search() -> None:
    Path("config.yaml").write_text("server: {port: 1}", encoding="utf-8")
    assert from_file("server: {port: 2}").settings.server.port == 2


def test_a_file_that_is_there_and_cannot_be_read_is_not_passed_over() -> None:
    Path("config.yaml").symlink_to("config.yaml")
    with pytest.raises(ConfigError, match=r"'config.yaml' cannot be read: Too many levels"):
        load(environ={})


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "---\n", "server:\n", "server: {}\n", "server:\n  port:\n  host: ~\n  max_body: null\n"]
)
def test_what_is_empty_or_null_is_not_given(text: str) -> None:
    loaded = from_file(text)
    assert loaded.given == {}
    assert loaded.warnings == ()
    assert loaded.settings.server == settings.Server()


def test_null_in_the_file_leaves_room_for_the_environment() -> None:
    assert from_file("server: {port: null}", {"AGENT_SERVER_PORT": "9"}).settings.server.port == 9


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("just words", "given.yaml: not a YAML mapping of sections"),
        ("- server", "given.yaml: not a YAML mapping of sections"),
        ("server: {port: 1}\n---\nserver: {port: 2}", "given.yaml, line 2: more than one YAML document"),
        ("server:\n\tport: 1", "given.yaml, line 2: not valid YAML: found character '\\t' that cannot start any token"),
        ("server: {port: 1\nredis: 1: 2", "given.yaml, line 2: not valid YAML: "),
        ("server: 8080", "server: '8080' is not a mapping of keys (given.yaml:1)"),
        ("server: [host, port]", "server: ['host', 'port'] is not a mapping of keys (given.yaml:1)"),
        ("server: {port: &a [*a]}", "server.port: a nested list is not a whole number"),
        ("server: {host: !x!y z}", "given.yaml, line 1: not valid YAML: a tag (!)"),
        ("server: {host: *x}", "given.yaml, line 1: not valid YAML: an alias (*) of nothing"),
        ("server: {port: [1", "given.yaml, line 1: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("[" * 3000, "given.yaml: nested too deeply"),
        (
            "server: {port: 1}\nserver: {port: 2}",
            "given.yaml, line 2: the key 'server' is there twice, first in line 1",
        ),
        (
            "server:\n  port: 1\n  host: a\n  port: 2",
            "given.yaml, line 4: the key 'port' is there twice, first in line 2",
        ),
        ("server: {port: 1, Port: 2}", "given.yaml, line 1: the key 'port' is there twice, first in line 1"),
        ("? [a]\n: 1", "given.yaml, line 1: not valid YAML: "),
        ("a: \x07", "given.yaml: holds characters that no YAML may hold"),
        ("#" * (config_file.MAX_BYTES + 1), "given.yaml: larger than 1048576 bytes; not a configuration"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(text: str, said: str) -> None:
    assert problem(text).startswith(said)


@pytest.mark.parametrize("content", [b"server: {host: \xff}", b"\xff\xfe\x00"])
def test_a_file_that_is_not_utf8_is_refused(content: bytes) -> None:
    Path("given.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"^given.yaml: not UTF-8 text$"):
        load("given.yaml", environ={})


def test_a_byte_order_mark_does_no_harm() -> None:
    Path("given.yaml").write_bytes(b"\xef\xbb\xbfserver: {port: 7}")
    assert load("given.yaml", environ={}).settings.server.port == 7


@pytest.mark.parametrize(
    ("path", "reason"), [("missing.yaml", "No such file"), (".", "Is a directory"), ("a\0b", "null byte")]
)
def test_a_file_that_cannot_be_read_is_named(path: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot be read: .*{reason}") as caught:
        load(path, environ={})
    assert str(caught.value).isprintable()


def test_a_merge_may_be_overridden() -> None:
    loaded = from_file("x: &base {port: 1, host: a}\nserver: {<<: *base, port: 2}\n")
    assert (loaded.settings.server.port, loaded.settings.server.host) == (2, "a")


def test_keys_mean_the_same_in_any_case() -> None:
    assert from_file("Server: {PORT: 5}").settings.server.port == 5


def test_a_plain_scalar_is_what_was_written() -> None:
    text = "auth: {shared_secret: 0123456}\ncontrol_plane: {scope: on, token: 1_000}\nredis: {password: 1e5, enabled: true}"
    loaded = from_file(text).settings
    assert loaded.auth.shared_secret == "0123456"
    assert (loaded.control_plane.scope, loaded.control_plane.token) == ("on", "1_000")
    assert loaded.redis.password == "1e5"


BROKEN_LINES = [
    "{0}: x: y",
    "*{0}",
    "!{0} x",
    "!x!{0} y",
    "!{0}!x y",
    "'{0}",
    '"{0}',
    '"\\q{0}"',
    "[{0}",
    "{{{0}",
    "%{0}",
    "@{0}",
    "`{0}",
    "!!binary {0}é",
    "&{0} *nothing",
    "|{0}",
    "!<{0}",
    "{0}\n  - x",
    "- {0}",
    "\t{0}",
    '!!int "{0}"',
    "!!python/object:{0} x",
]


@pytest.mark.parametrize("line", BROKEN_LINES)
def test_a_line_that_is_broken_is_not_quoted(line: str) -> None:
    outcome = outcome_of("redis:\n  enabled: true\n  password: " + line.format(SECRET))
    assert SECRET not in outcome
    assert outcome.isprintable()


@profile(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the working directory may be shared
@given(st.text(max_size=60))
def test_any_text_is_settings_or_a_config_error(text: str) -> None:
    assert outcome_of("server:\n  " + text).isprintable()
