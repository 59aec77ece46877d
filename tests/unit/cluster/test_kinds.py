"""What people write for a setting, and what it means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import kinds, settings
from tests.support.config_text import from_file

pytestmark = pytest.mark.usefixtures("nowhere")


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [
        *[
            ("30s", 30),
            ("1m30s", 90),
            ("500ms", 0.5),
            ("7d", 604_800),
            ("24h", 86_400),
            ("1h", 3600),
            ("1.5h", 5400),
            ("1d12h", 129_600),
        ],
        *[
            ("30", 30),
            ("2.5", 2.5),
            (".5", 0.5),
            ("1e1", 10),
            ("0", 0),
            ("0s", 0),
            ("+5s", 5),
            ("-1s", -1),
            ("1m 30s", 90),
            ("30 s", 30),
        ],
        *[
            ("100us", 1e-4),
            ("100µs", 1e-4),
            ("100μs", 1e-4),
            ("5ns", 5e-9),
            ("1h2m3s4ms", 3723.004),
            ("1.1s", 1.1),
            ("0.3s", 0.3),
        ],
    ],
)
def test_durations_read_as_go_and_people_write_them(text: str, expected_s: float) -> None:
    assert kinds.seconds(text) == expected_s


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "30 parsecs",
        "5min",
        "1.5.5s",
        "--1s",
        "+-1",
        "1m30",
        "inf",
        "nan",
        "1_0s",
        "0x10",
        "3O s",
        "1s,",
        "\uff11s",
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        kinds.seconds(text)


@given(st.integers(0, 10**7), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_a_duration_that_was_shown_reads_as_itself(number: int, unit: str) -> None:
    value_s = kinds.seconds(f"{number}{unit}")
    assert kinds.seconds(kinds.shown_duration(value_s)) == value_s


@given(st.text(max_size=20))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    for key in settings.keys().values():
        try:
            read = key.kind.read(text)
        except ValueError:
            continue
        assert isinstance(read, type(key.default))


def test_a_number_for_milliseconds_is_milliseconds_and_a_duration_is_itself() -> None:
    for text, expected in (("2000", 2000.0), ("2s", 2000.0), ("1ms", 1.0)):
        assert from_file(f"log_stream: {{flush_interval: {text}}}").settings.log_stream.flush_interval_ms == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[
            ("16MiB", 16 << 20),
            ("32 MiB", 32 << 20),
            ("16777216", 16 << 20),
            ("1KiB", 1024),
            ("1Ki", 1024),
            ("1k", 1000),
            ("1kB", 1000),
        ],
        *[("16mib", 16 << 20), ("1G", 10**9), ("1GiB", 1 << 30), ("1.5MiB", 3 << 19), ("10B", 10), ("0", 0)],
    ],
)
def test_sizes_read_as_people_write_them(text: str, expected: int) -> None:
    assert kinds.size_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "MiB", "16 Megs", "-1", "0.3", "1.0001KiB", "9" * 400, "1TiB", "0x10", "1 2"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        kinds.size_bytes(text)


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "t", "T", "1", "yes", "Yes", "y", "on", "ON", " true "])
def test_what_means_true(text: str) -> None:
    assert kinds.Flag().read(text) is True


@pytest.mark.parametrize("text", ["false", "False", "f", "F", "0", "no", "n", "off", "OFF"])
def test_what_means_false(text: str) -> None:
    assert kinds.Flag().read(text) is False


@pytest.mark.parametrize("plain", ["true", "yes", "on", "1", "'true'", "T"])
def test_booleans_of_yaml_and_go_mean_the_same_in_the_file(plain: str) -> None:
    assert from_file(f"server: {{}}\nlog_stream: {{enabled: {plain}}}").settings.log_stream.enabled is True


@pytest.mark.parametrize(
    "text",
    [
        "websocket: {allowed_origins: [a, b]}",
        "websocket: {allowed_origins: 'a, b,'}",
        "websocket:\n  allowed_origins:\n  - a\n  - b\n",
    ],
)
def test_a_list_may_be_one_text_with_commas(text: str) -> None:
    assert from_file(text).settings.websocket.allowed_origins == ("a", "b")
