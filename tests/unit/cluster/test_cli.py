"""The command line: one line and an exit code for whatever goes wrong."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import cli, commands, launcher, programs
from cluster.errors import StartError
from tests.support.eventually import eventually_blocking
from tests.support.ports import free_port

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _no_settings_of_ours(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("AGENT_SERVER_", "CONTROL_PLANE_", "AUTH_", "LOGGING_")):
            monkeypatch.delenv(name)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and what is on standard error."""
    return cli.run(arguments), capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("foo",), "No such command 'foo'"),
        (("start", "--prot", "1"), "No such option: --prot"),
        (("start", "--port", "many"), "Invalid value for '--port'"),
        (("start", "--port", "99999"), "server.port: '99999' is not a whole number from 0 to 65535"),
        (("start", "--set", "port"), "--set port: expected section.key=value"),
        (("start", "--set", "server.prot=1"), "unknown setting 'server.prot'; the nearest known one is 'server.port'"),
        (("node", "--set", "server.prot=1"), "unknown setting 'server.prot'"),
        (("config", "check", "-c", "none.yaml"), "none.yaml"),
    ],
)
def test_a_slip_is_told_in_one_line_with_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    code, err = told(capsys, *arguments)
    assert code == 2
    assert err.startswith("agent-server: ")
    assert words in err
    assert err.count("\n") == 1


def test_what_cannot_start_is_told_in_one_line_with_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: object) -> None:
        raise StartError("the port\nis taken")

    monkeypatch.setattr(launcher.Launcher, "run", refuse)
    assert told(capsys, "start") == (1, "agent-server: the port is taken\n")


def test_a_bug_of_ours_is_one_line_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "run", lambda _: 1 // 0)
    code, err = told(capsys, "start")
    assert (code, err.count("\n")) == (1, 1)
    assert "ZeroDivisionError" in err


def test_ctrl_c_before_anything_runs_says_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "run", interrupted)
    assert told(capsys, "start") == (130, "")


def test_flags_go_over_environment_and_file(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nowhere / "config.yaml").write_text("server: {port: 1}\nredis: {enabled: false}\n")
    monkeypatch.setenv("AGENT_SERVER_PORT", "2")
    seen: list[tuple[object, ...]] = []
    monkeypatch.setattr(commands, "_supervise", lambda *arguments: seen.append(arguments))
    flags = ("--port", "3", "--nodes", "4", "--data-dir", "there", "--redis-url", "redis://h:1", "--log-level", "debug")
    assert cli.run(["start", *flags, "--set", "tasks.ttl=1h", "--set", "agent.max_takeovers=0", "--name", "web"]) == 0
    [(loaded, given, name)] = seen
    settings = loaded.settings  # type: ignore[attr-defined]
    assert (settings.server.port, settings.cluster.nodes, settings.logging.level) == (3, 4, "debug")
    assert settings.cluster.data_dir == str(nowhere / "there")
    assert (settings.redis.enabled, settings.redis.url) == (True, "redis://h:1")
    assert (settings.tasks.ttl_s, settings.agent.max_takeovers, name) == (3600, 0, "web")
    assert isinstance(given, dict)


@pytest.mark.parametrize(
    ("is_terminal", "given", "form"),
    [
        (True, (), "text"),
        (False, (), "json"),
        (True, ("--set", "logging.format=json"), "json"),
        (True, ("--set", "logging.dir=logs"), "json"),
        (True, ("--set", "logging.file=server.log"), "json"),
    ],
)
def test_start_logs_text_to_a_terminal_unless_it_is_told_a_form_or_a_file(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, is_terminal: bool, given: tuple[str, ...], form: str
) -> None:
    seen: list[tuple[object, ...]] = []
    monkeypatch.setattr(commands, "_supervise", lambda *arguments: seen.append(arguments))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    assert cli.run(["start", *given]) == 0
    [(loaded, flags, _)] = seen
    assert loaded.settings.logging.format == form  # type: ignore[attr-defined]
    assert flags.get("logging.format", "json") == form  # type: ignore[attr-defined]


def test_a_form_in_the_file_or_the_environment_wins_over_a_terminal(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(commands, "_supervise", lambda loaded, *_: seen.append(loaded.settings.logging.format))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    (nowhere / "config.yaml").write_text("logging: {format: json}\n")
    assert cli.run(["start"]) == 0
    (nowhere / "config.yaml").write_text("")
    monkeypatch.setenv("LOGGING_FORMAT", "json")
    assert cli.run(["start"]) == 0
    assert seen == ["json", "json"]


@pytest.mark.parametrize("module", ["node", "router"])
def test_node_and_router_become_those_programs(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    executed: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: executed.append(arguments))
    cli.run([module, "--port", "9000", "--id", "a", "--cpu", "0", "--admin-port", "9001", "--set", "tasks.ttl=1h"])
    [(path, command, environ)] = executed
    assert path == sys.executable
    assert command == [*programs.module_command(module), "--id", "a", "--cpu", "0", "--admin-port", "9001"]
    assert (environ["AGENT_SERVER_SERVER_PORT"], environ["AGENT_SERVER_TASKS_TTL"]) == ("9000", "1h")


@pytest.mark.parametrize(("is_terminal", "form"), [(True, "text"), (False, None)])
def test_node_and_router_log_text_to_a_terminal(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, form: str | None
) -> None:
    executed: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: executed.append(arguments))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    cli.run(["node", "--port", "9000"])
    assert executed[0][2].get("AGENT_SERVER_LOGGING_FORMAT") == form


def test_config_check_says_what_is_odd(nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (nowhere / "config.yaml").write_text("server: {prot: 1}\nredis: {db: 3}\n")
    assert cli.run(["config", "check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "unknown key 'server.prot'" in lines[0]
    assert lines[1].startswith("without effect: redis.db: ")
    assert lines[2] == "config.yaml: ok"


def test_config_check_tells_everything_that_is_wrong_a_line_each(
    nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (nowhere / "config.yaml").write_text("server:\n  port: x\n  read_timeout: y\ntasks: {ttl: 0}\n")
    code, err = told(capsys, "config", "check")
    assert (code, err.count("\n")) == (2, 3)
    for line, place in zip(
        err.splitlines(), ("server.port: 'x'", "server.read_timeout: 'y'", "tasks.ttl: '0'"), strict=True
    ):
        assert line.startswith(f"agent-server: {place} is not ")
    assert [line.rpartition("(")[2] for line in err.splitlines()] == [f"config.yaml:{n})" for n in (2, 3, 4)]


def test_config_show_tells_the_settings_in_force_and_where_they_come_from(
    nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (nowhere / "config.yaml").write_text("server: {port: 81}\nauth: {shared_secret: sesame-sesame}\n")
    assert cli.run(["config", "show", "--set", "logging.level=debug"]) == 0
    shown = capsys.readouterr().out
    assert ("  port: 81\n" in shown, "  shared_secret: '***'\n" in shown, "sesame" in shown) == (True, True, False)
    assert cli.run(["config", "show", "--origin", "--set", "logging.level=debug"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row for row in rows if row[-1] != "default"] == [
        ["KEY", "VALUE", "FROM"],
        ["server.port", "81", "config.yaml:1"],
        ["auth.shared_secret", "'***'", "config.yaml:2"],
        ["logging.level", "debug", "flag"],
    ]
    assert cli.run(["config", "show", "--json"]) == 0
    assert '"server.port": {"value": 81, "origin": "config.yaml:1"}' in capsys.readouterr().out
    assert cli.run(["config", "show", "--env"]) == 0
    assert "\nAGENT_SERVER_SERVER_PORT=81\n" in capsys.readouterr().out
    assert told(capsys, "config", "show", "--env", "--doc") == (
        2, "agent-server: config show: one of --origin, --env, --doc and --json\n",
    )  # fmt: skip


def test_without_a_command_it_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    assert "start" in capsys.readouterr().out


def test_python_m_cluster_answers_version_without_loading_the_rest() -> None:
    code = "import sys; from cluster import cli; cli.run(['version']); print(*sys.modules, file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("agent-server ")
    assert not {"typer", "asyncio", "msgspec", "redis"} & set(ran.stderr.split())
    again = subprocess.run(
        [sys.executable, "-m", "cluster", "version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert again.stdout == ran.stdout


def run_main(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-c", "from cluster import cli; cli.main()", *arguments]
    return subprocess.run(
        argv, env={**os.environ, "PYTHONPATH": str(ROOT), **environ}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("arguments", [("--version",), ("version",), ("--version", "status")])
def test_the_version_is_told_wherever_it_is_asked_for(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert cli.run(arguments) == 0
    assert capsys.readouterr().out == cli.version_text() + "\n"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("agent-server ta", ["tasks"]),
        ("agent-server tasks ca", ["cancel"]),
        ("agent-server tasks run --ti", ["--timeout"]),
        ("agent-server tasks run web-1 -- l", []),
        ("agent-server streams tail st", ["status", "stats"]),
        ("agent-server agents list --status of", ["offline"]),
    ],
)
def test_a_shell_completes_commands_flags_and_values(typed: str, offered: list[str]) -> None:
    place = str(len(typed.split()) - 1)
    ran = run_main(_AGENT_SERVER_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=place)
    assert (ran.returncode, ran.stdout.split(), ran.stderr) == (0, offered, "")


def test_a_shell_is_offered_nothing_and_told_nothing_where_no_cluster_answers() -> None:
    """Neither where nobody listens, nor where somebody accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        for port in (free_port(), mute.getsockname()[1]):
            typed = f"agent-server tasks show --url http://127.0.0.1:{port} "
            place = str(len(typed.split()))
            ran = run_main(_AGENT_SERVER_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=place)
            assert (ran.returncode, ran.stdout.split(), ran.stderr) == (0, [], "")


@pytest.mark.parametrize("group", [(), ("agents",), ("nodes",), ("tasks",), ("streams",), ("config",), ("export",)])
def test_the_list_of_commands_says_whole_sentences_at_80_columns(
    group: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.run([*group, "--help"]) == 0
    listed = capsys.readouterr().out.partition("\nCommands:\n")[2].splitlines()
    assert listed
    assert [line for line in listed if not line.endswith(".")] == []
    assert [line for line in listed if line.endswith("...") or len(line) > 80] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_shown_and_installed_for_a_shell(nowhere: Path, shell: str) -> None:
    environ = {"HOME": str(nowhere), "SHELL": f"/bin/{shell}", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown, installed = (
        run_main("--show-completion", shell, **environ),
        run_main("--install-completion", shell, **environ),
    )
    assert (shown.returncode, "_AGENT_SERVER_COMPLETE=" in shown.stdout) == (0, True), shown
    assert (installed.returncode, f"{shell} completion installed" in installed.stdout) == (0, True), installed


def test_who_reads_no_further_is_told_nothing() -> None:
    """`agent-server ... | head`."""
    code = "import os, sys; sys.stdin.read(); from cluster import cli; sys.argv[1:] = ['--help']; cli.main()"
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, err = process.communicate(b"")
    assert (process.returncode, err) == (1, b"")


def test_ctrl_c_while_it_starts_leaves_neither_a_trace_nor_a_process(nowhere: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "cluster",
        "start",
        "--set",
        "redis.enabled=true",
        "--set",
        f"redis.addr=127.0.0.1:{free_port()}",
    ]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (nowhere / "err").open("wb") as err:
        process = subprocess.Popen([*argv, "--port", "0"], env=environ, stderr=err, stdout=subprocess.DEVNULL)

    def is_not_waiting() -> str | None:
        caught = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "SigCgt" in line)
        last = 1 << (signal.SIGHUP - 1)  # the last of those that it asks for
        return None if int(caught.split()[1], 16) & last else "not listening to signals"

    eventually_blocking(is_not_waiting)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert (nowhere / "err").read_text() == ""
