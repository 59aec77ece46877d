"""How a process's numbers are named and told."""

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from cluster.histogram import Histogram
from cluster.metrics import CONTENT_TYPE, Counters


def samples(counters: Counters) -> dict[str, float]:
    families = text_string_to_metric_families(counters.render().decode())
    return {
        sample.name + "".join(f"{{{k}={v}}}" for k, v in sample.labels.items()): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_count_is_a_plain_int_and_told_as_a_counter() -> None:
    counters = Counters()
    acks = counters.count("acks", "Acks sent.")
    acks.value += 1
    acks.value += 2
    assert type(acks.value) is int
    assert counters.render().decode() == (
        "# HELP agent_server_acks_total Acks sent.\n# TYPE agent_server_acks_total counter\nagent_server_acks_total 3.0\n"
    )


def test_a_tally_is_a_plain_dict_and_told_by_its_label() -> None:
    counters = Counters()
    dropped = counters.tally("frames_dropped", "Frames that were no message.", "reason", ("not_json", "too_deep"))
    dropped["not_json"] += 2
    assert type(dropped) is dict
    assert samples(counters) == {
        "agent_server_frames_dropped_total{reason=not_json}": 2,
        "agent_server_frames_dropped_total{reason=too_deep}": 0,
    }


def test_a_value_that_was_not_named_is_no_label() -> None:
    dropped = Counters().tally("frames_dropped", "Frames.", "reason", ("not_json",))
    with pytest.raises(KeyError):
        dropped["from a peer"] += 1


@pytest.mark.parametrize("label", ["agent_id", "path", ""])
def test_only_labels_with_few_values_are_taken(label: str) -> None:
    with pytest.raises(ValueError, match="label"):
        Counters().tally("frames", "Frames.", label, ("a",))


def test_a_gauge_is_read_when_it_is_asked_for() -> None:
    counters, sessions = Counters(), {"a", "b"}
    counters.gauge("sessions", "Sessions held.", lambda: len(sessions))
    assert samples(counters) == {"agent_server_sessions": 2}
    sessions.clear()
    assert samples(counters) == {"agent_server_sessions": 0}


def test_a_gauge_that_cannot_be_read_hides_no_other() -> None:
    counters = Counters()
    counters.gauge("broken", "Never.", lambda: 1 / 0)
    counters.gauge("whole", "Always.", lambda: 1)
    assert samples(counters) == {"agent_server_whole": 1}


@pytest.mark.parametrize(
    "name", ["", "a", "Acks", "acks_total", "agent_server_acks", "9a", "a-b", "a b", "acks_", "build_info"]
)
def test_a_name_that_prometheus_or_we_would_not_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="metric name"):
        Counters().count(name, "Text.")


def test_a_name_is_taken_once() -> None:
    counters = Counters()
    counters.count("acks", "Acks.")
    with pytest.raises(ValueError, match="there already"):
        counters.gauge("acks", "Acks.", float)


def test_counters_know_nothing_of_each_other_nor_of_the_global_registry() -> None:
    first, second = Counters(), Counters()
    first.count("acks", "Acks.").value += 1
    second.count("acks", "Acks.")
    assert samples(first) != samples(second)
    assert not [family for family in REGISTRY.collect() if family.name.startswith("agent_server_")]


def test_a_histogram_is_told_in_prometheus_form() -> None:
    counters = Counters()
    waits: dict[tuple[str, ...], Histogram] = {("log",): Histogram((0.1, 1.0)), ("result",): Histogram((0.1, 1.0))}
    counters.histograms("ack_latency_seconds", "Waits.", ("type",), waits)
    waits["log",].observe(0.5, 3)
    told = samples(counters)
    assert told["agent_server_ack_latency_seconds_bucket{le=0.1}{type=log}"] == 0
    assert told["agent_server_ack_latency_seconds_bucket{le=1.0}{type=log}"] == 3
    assert told["agent_server_ack_latency_seconds_bucket{le=+Inf}{type=log}"] == 3
    assert told["agent_server_ack_latency_seconds_sum{type=log}"] == 1.5
    assert told["agent_server_ack_latency_seconds_count{type=log}"] == 3
    assert told["agent_server_ack_latency_seconds_count{type=result}"] == 0


def test_what_is_kept_under_another_name_is_told_under_its_own() -> None:
    counters, events = Counters(), {"refused_token": 0, "refused_full": 2}
    counters.renamed(
        "handshakes_refused", "Refused.", "reason", events, {"token": "refused_token", "full": "refused_full"}
    )
    events["refused_token"] += 1
    assert samples(counters) == {
        "agent_server_handshakes_refused_total{reason=token}": 1,
        "agent_server_handshakes_refused_total{reason=full}": 2,
    }


def test_a_counter_may_have_several_labels() -> None:
    counters = Counters()
    counters.counters("tasks_ended", "Ends.", ("outcome", "reason"), lambda: {("failed", "lost"): 4})
    assert samples(counters) == {"agent_server_tasks_ended_total{outcome=failed}{reason=lost}": 4}


def test_a_gauge_leaves_out_what_is_not_known_just_now() -> None:
    counters, lags = Counters(), {"logs": 1.5}
    counters.gauges("feed_lag_seconds", "Lag.", "feed", lambda: lags)
    assert samples(counters) == {"agent_server_feed_lag_seconds{feed=logs}": 1.5}
    lags.clear()
    assert samples(counters) == {}


def test_an_info_is_one_and_says_it_in_labels() -> None:
    counters = Counters()
    counters.info("build", "What runs.", {"version": "1.2"})
    assert samples(counters) == {"agent_server_build_info{version=1.2}": 1}


def test_the_kernels_numbers_have_our_prefix() -> None:
    counters = Counters()
    counters.of_this_process()
    told = samples(counters)
    assert told["agent_server_process_resident_memory_bytes"] > 1_000_000
    assert told["agent_server_process_open_fds"] > 0
    assert all(name.startswith("agent_server_process_") for name in told)


def test_the_text_has_the_type_that_prometheus_reads() -> None:
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"
    assert Counters().render() == b""
