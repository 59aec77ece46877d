"""Where a process' log goes, and how its numbers are told."""

import io
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.log_output import LogFile, configure_logging, log_path
from cluster.settings import Auth, Logging, Settings

log = logging.getLogger("cluster.something")


@pytest.fixture(autouse=True)
def own_logging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The root logger as it was; the working directory is empty."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    level, before = root.level, list(root.handlers)
    yield
    for handler in [one for one in root.handlers if one not in before]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


def lines(path: str | Path) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


def names(folder: str = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def messages(path: str | Path) -> list[str]:
    return [json.loads(line)["message"] for line in lines(path)]


# --- where the log goes


@pytest.mark.parametrize(
    ("folder", "file", "launcher", "node"),
    [
        ("", "", None, None),
        ("", "logs/server.log", "logs/server.log", "logs/server-n1.log"),
        ("", "server", "server", "server-n1"),
        ("", "/var/log/a.b.log", "/var/log/a.b.log", "/var/log/a.b-n1.log"),
        ("/var/log", "", "/var/log/agent-server.log", "/var/log/agent-server-n1.log"),
        ("/var/log", "server.log", "/var/log/server.log", "/var/log/server-n1.log"),
        ("/var/log", "logs/server.log", "/var/log/server.log", "/var/log/server-n1.log"),
        ("logs", "/elsewhere/server.log", "logs/server.log", "logs/server-n1.log"),
        ("", "/", "agent-server.log", "agent-server-n1.log"),
    ],
)
def test_dir_is_the_folder_and_file_the_name(folder: str, file: str, launcher: str | None, node: str | None) -> None:
    config = Logging(dir=folder, file=file)
    paths = [log_path(config), log_path(config, "n1")]
    assert [None if path is None else str(path) for path in paths] == [launcher, node]


def test_a_process_name_is_no_path() -> None:
    assert log_path(Logging(dir="logs"), "../x y") == Path("logs/agent-server-.._x_y.log")


def test_without_a_file_records_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Logging(), process="r1")
    log.info("hello", extra={"agent_id": "a1"})
    told = json.loads(capsys.readouterr().err)
    assert (told["message"], told["process.name"], told["agent_id"]) == ("hello", "r1", "a1")


def test_the_launcher_is_called_agent_server() -> None:
    stream = io.StringIO()
    configure_logging(Logging(), stream=stream)
    log.info("hello")
    assert json.loads(stream.getvalue())["process.name"] == "agent-server"


def test_the_caller_is_where_the_record_was_made() -> None:
    stream = io.StringIO()
    configure_logging(Logging(), stream=stream)
    log.info("hello")
    told = json.loads(stream.getvalue())
    assert told["log.origin.file.name"] == "test_log_output.py"
    assert told["log.origin.function"] == "test_the_caller_is_where_the_record_was_made"


@pytest.mark.parametrize("form", ["text", "console"])
def test_text_is_for_people(form: str) -> None:
    stream = io.StringIO()
    configure_logging(Logging(format=form, report_caller=False), process="n1", stream=stream)
    log.warning("hello\nworld", extra={"task_id": "7"})
    assert stream.getvalue().endswith(r"Z WARN  n1 cluster.something: hello\nworld task_id=7" + "\n")


def test_each_process_has_a_file_of_its_own() -> None:
    config = Logging(file="logs/agent-server.log")
    for process in ("", "n1", "n2", "r1"):
        configure_logging(config, process=process)
        log.info("from %s", process)
    assert names("logs") == [
        "agent-server-n1.log",
        "agent-server-n2.log",
        "agent-server-r1.log",
        "agent-server.log",
    ]
    assert messages("logs/agent-server-n2.log") == ["from n2"]


def test_a_second_set_up_takes_the_place_of_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging(Logging(), stream=first)
    configure_logging(Logging(), stream=second)
    log.info("once")
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1


@pytest.mark.parametrize(
    ("level", "told"),
    [("debug", 5), ("info", 4), ("warn", 3), ("error", 2), ("fatal", 1)],
)
def test_levels_leave_out_what_is_below(level: str, told: int) -> None:
    stream = io.StringIO()
    configure_logging(Logging(level=level), stream=stream)
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        log.log(number, "text")
    assert len(stream.getvalue().splitlines()) == told


def test_the_secrets_of_the_settings_never_reach_the_log() -> None:
    stream = io.StringIO()
    settings = Settings(auth=Auth(shared_secret="correct-horse"))
    configure_logging(settings.logging, secrets=settings.secrets(), stream=stream)
    log.info("with %s", settings.auth.shared_secret, extra={"header": "Bearer correct-horse"})
    assert "correct-horse" not in stream.getvalue()
    assert stream.getvalue().count("***") == 2


@pytest.mark.parametrize("obstacle", ["file in the way", "folder in the way", "nul"])
def test_a_log_that_cannot_be_written_is_a_warning_and_standard_error(obstacle: str) -> None:
    Path("blocked").write_text("", encoding="utf-8")
    Path("taken/agent-server.log").mkdir(parents=True)
    folder = {"file in the way": "blocked/logs", "folder in the way": "taken", "nul": "a\0b"}[obstacle]
    stream = io.StringIO()
    configure_logging(Logging(dir=folder), stream=stream)
    log.info("hello")
    warning, record = map(json.loads, stream.getvalue().splitlines())
    assert warning["log.level"] == "warn"
    assert "cannot be written" in warning["message"]
    assert "logging to standard error" in warning["message"]
    assert record["message"] == "hello"


def test_a_standard_error_that_is_gone_ends_nothing() -> None:
    stream = io.StringIO()
    configure_logging(Logging(), stream=stream)
    stream.close()
    log.info("to nobody")


# --- rotation


def written(file: LogFile, *texts: str, at_s: float | None = None) -> None:
    for text in texts:
        record = logging.LogRecord("x", logging.INFO, "x.py", 1, text, (), None)
        if at_s is not None:
            record.created = at_s
        file.emit(record)


@pytest.fixture
def small() -> Iterator[LogFile]:
    file = LogFile(Path("small.log"), max_bytes=10, max_files=2, max_age_s=0)
    yield file
    file.close()


def test_a_full_file_is_rotated_and_only_so_many_are_kept(small: LogFile) -> None:
    written(small, "a" * 12, "b" * 12, "c" * 12, "d" * 12)
    assert names() == ["small.log", "small.log.1", "small.log.2"]
    assert [lines(name)[0][0] for name in names()] == ["d", "c", "b"]


def test_a_file_goes_on_where_an_earlier_process_left_it() -> None:
    Path("small.log").write_text("an earlier line\n", encoding="utf-8")
    file = LogFile(Path("small.log"), max_bytes=1000, max_files=2, max_age_s=0)
    written(file, "next")
    file.close()
    assert lines("small.log") == ["an earlier line", "next"]


def test_the_size_is_in_megabytes() -> None:
    configure_logging(Logging(dir=".", max_size=1, max_files=3))
    for _ in range(120):
        log.info("x" * 10_000)
    assert names() == ["agent-server.log", "agent-server.log.1"]
    assert 1_000_000 <= Path("agent-server.log.1").stat().st_size < 1_020_000


def test_rotated_files_that_are_too_old_are_dropped_hourly() -> None:
    for name, age_s in (("small.log.1", 50), ("small.log.2", 150), ("small.log.txt", 150), ("other.log.2", 150)):
        Path(name).write_text("x", encoding="utf-8")
        os.utime(name, (10_000 - age_s, 10_000 - age_s))
    os.utime("small.log.1", (10**12, 10**12))
    file = LogFile(Path("small.log"), max_bytes=1000, max_files=5, max_age_s=100)
    assert names() == ["other.log.2", "small.log", "small.log.1", "small.log.txt"]
    os.utime("small.log.1", (10_000, 10_000))
    file.drop_old(10_050)
    written(file, "early", at_s=10_050 + 3599)
    assert Path("small.log.1").exists()
    written(file, "late", at_s=10_050 + 3600)
    file.close()
    assert not Path("small.log.1").exists()
    assert lines("small.log") == ["early", "late"]


def test_a_rotation_that_fails_loses_no_record_and_is_tried_again_later(
    small: LogFile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        written(small, "a" * 12, "b" * 12, "c" * 12)
    assert [line[0] for line in lines("small.log")] == ["a", "b", "c"]
    assert capsys.readouterr().err.count("cannot be rotated") == 1
    small.doRollover()
    assert names() == ["small.log", "small.log.1"]


def test_a_record_that_the_disk_refuses_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    file = LogFile(Path("/dev/full"), max_bytes=10, max_files=1, max_age_s=0)
    written(file, "no space", "no space either")
    assert capsys.readouterr().err.splitlines() == ["no space", "no space either"]
    file.close()
    assert Path("/dev/full").is_char_device()


def test_a_file_that_takes_records_again_gets_them(small: LogFile, capsys: pytest.CaptureFixture[str]) -> None:
    written(small, "before")
    assert small.stream is not None
    small.stream.close()
    written(small, "while it was broken", "after")
    assert lines("small.log") == ["before", "after"]
    assert capsys.readouterr().err == "while it was broken\n"


def test_a_pipe_is_never_rotated() -> None:
    os.mkfifo("pipe.log")
    taken: list[str] = []
    reader = threading.Thread(target=lambda: taken.extend(lines("pipe.log")))
    reader.start()
    file = LogFile(Path("pipe.log"), max_bytes=1, max_files=1, max_age_s=0)
    written(file, "one", "two")
    file.close()
    reader.join(timeout=10)
    assert taken == ["one", "two"]
    assert names() == ["pipe.log"]
