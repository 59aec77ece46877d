"""Observations fall into the bucket whose bound they do not exceed."""

from cluster.histogram import Histogram


def test_a_value_on_a_bound_is_within_it() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 1.0, 7.0):
        histogram.observe(value)
    assert histogram.buckets() == [("0.1", 2.0), ("1.0", 4.0), ("+Inf", 5.0)]
    assert histogram.total == 0.05 + 0.1 + 0.5 + 1.0 + 7.0


def test_what_took_equally_long_is_one_observation() -> None:
    histogram = Histogram((0.1, 1.0))
    histogram.observe(0.5, 256)
    histogram.observe(0.5, 0)
    assert (histogram.counts, histogram.total) == ([0, 256, 0], 128.0)
