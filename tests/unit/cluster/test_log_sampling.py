"""The same warning again and again is written some times a minute, and counted beyond that."""

import logging

from cluster.log_sampling import A_MINUTE, MINUTE_S, MOST_TEXTS, Sampling


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def record(text: str, *args: object, level: int = logging.WARNING, name: str = "node.x") -> logging.LogRecord:
    return logging.LogRecord(name, level, "x.py", 1, text, args, None)


def made() -> tuple[Sampling, list[logging.LogRecord], Clock]:
    told: list[logging.LogRecord] = []
    clock = Clock()
    return Sampling(told.append, clock), told, clock


def test_a_warning_is_written_some_times_a_minute_whatever_fills_it_in() -> None:
    sampling, told, _ = made()
    assert sum(sampling.filter(record("agent %s", number)) for number in range(100)) == A_MINUTE
    assert sampling.filter(record("another"))
    assert sampling.filter(record("agent %s", 1, name="router.x"))
    assert not told


def test_what_was_left_out_is_told_by_the_next_record_of_a_later_minute() -> None:
    sampling, told, clock = made()
    for number in range(A_MINUTE + 12):
        sampling.filter(record("agent %s", number))
    clock.now_s = MINUTE_S
    assert sampling.filter(record("all is well", level=logging.INFO))
    assert [(one.getMessage(), one.levelno, one.name) for one in told] == [
        ("12 more like this were left out: agent %s", logging.WARNING, "node.x")
    ]
    assert sampling.filter(record("agent %s", 1))


def test_the_last_minute_is_told_at_the_end_once() -> None:
    sampling, told, _ = made()
    for _ in range(A_MINUTE + 1):
        sampling.filter(record("again"))
    sampling.sum_up()
    sampling.sum_up()
    assert len(told) == 1


def test_what_is_less_or_more_than_a_warning_or_an_error_is_never_left_out() -> None:
    sampling, _, _ = made()
    for level in (logging.DEBUG, logging.INFO, logging.CRITICAL):
        assert all(sampling.filter(record("again", level=level)) for _ in range(2 * A_MINUTE))
    assert not all(sampling.filter(record("again", level=logging.ERROR)) for _ in range(2 * A_MINUTE))


def test_more_texts_than_are_counted_are_written() -> None:
    sampling, _, _ = made()
    assert all(sampling.filter(record(f"text {number}")) for number in range(2 * MOST_TEXTS))
    assert len(sampling._seen) == MOST_TEXTS
