"""What a running cluster tells of itself: the metrics that are documented, right for a known load, and all that dashboard and rules name."""

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
import yaml

from tests.acceptance.embedded import redis_url
from tests.support.agent_options import Timings
from tests.support.cluster_process import ROOT, ClusterProcess
from tests.support.control_plane import ControlPlane, new_task
from tests.support.eventually import eventually
from tests.support.http_client import HttpClient
from tests.support.prometheus import Prometheus, Scrape
from tests.support.recorder import Recorder
from tests.support.required_redis import require_redis
from tests.support.required_tool import require_tool
from tests.support.simulated_fleet import Fleet

DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
README = DEPLOY / "prometheus" / "README.md"
DASHBOARD = DEPLOY / "grafana" / "agent-server.json"
OF_PROMETHEUS = {"up"}
LABELS = {"reason", "type", "outcome", "state", "feed", "le", "version", "python", "role", "process"}
BASE_UNITS = {"seconds", "bytes"}
OTHER_UNITS = re.compile(r"_(ms|millis|milliseconds|us|ns|minutes|hours|days|kb|kib|mb|mib|gb|percent)(_|$)")
QUERIES_MAY_BE_EMPTY = re.compile(r"[<>=] ?0(\.\d+)?$|lag_entries")  # what compares; what Redis 6.2 does not tell


class Observed(NamedTuple):
    """A cluster with two nodes: 3 agents and 5 tasks, then no agent and one task more."""

    busy: dict[str, Scrape]
    idle: dict[str, Scrape]
    answers: dict[str, list[Any]]  # of the dashboard's queries, where there is a Prometheus
    rules: list[dict[str, Any]]

    def total(self, name: str, **labels: str) -> float:
        """Summed over all processes that tell it, while the agents were there."""
        return sum(one.sum(name, **labels) for one in self.busy.values() if name in one.names())


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Observed:
    """One cluster for all tests of this file."""
    require_redis("6.2")
    return asyncio.run(_observe(tmp_path_factory.mktemp("metrics")))


async def _observe(folder: Path) -> Observed:
    recorder = Recorder()
    async with ClusterProcess(folder / "cluster") as cluster:
        await cluster.wait_ready(30.0)
        with redis.Redis.from_url(redis_url(cluster)) as client:
            client.xgroup_create("agent_results", "readers", id="0", mkstream=True)
        control_plane = ControlPlane(cluster.url, recorder=recorder)
        async with Fleet(cluster.url, 3, recorder=recorder, timings=Timings().returning(0.05)) as fleet:
            await fleet.connected()
            for host in (1, 2, 3, 1, 2):
                assert (await control_plane.post_task(host, new_task(host))).status == 200
            await fleet.settled()
            await eventually(lambda: _not_yet(cluster, "agent_server_ledger_tasks_ended_total", 5.0), 20.0, every_s=0.2)
            busy = await _scraped(cluster)
            answers, rules = (
                await asyncio.to_thread(_asked, cluster, folder) if shutil.which("prometheus") else ({}, [])
            )
        await eventually(lambda: _not_yet(cluster, "agent_server_online_agents", 0.0), 20.0, every_s=0.2)
        assert (await control_plane.post_task(1, new_task(1))).status == 200
        await eventually(lambda: _not_yet(cluster, "agent_server_agents_with_pending_tasks", 1.0), 20.0, every_s=0.2)
        return Observed(busy, await _scraped(cluster), answers, rules)


def _admins(cluster: ClusterProcess) -> dict[str, str]:
    rows = [row.split() for row in cluster.stdout.read_text().splitlines()]
    return {row[0]: row[-1] for row in rows if row and row[0] in ("r1", "n1", "n2")}


async def _scraped(cluster: ClusterProcess) -> dict[str, Scrape]:
    answers = {
        name: await HttpClient(url).request("GET", "/metrics", timeout_s=3.0) for name, url in _admins(cluster).items()
    }
    return {name: Scrape(answer.body.decode()) for name, answer in answers.items()}


async def _not_yet(cluster: ClusterProcess, name: str, wanted: float) -> str:
    value = (await _scraped(cluster))["r1"].sum(name)
    return "" if value == wanted else f"{name} is {value}, not {wanted}"


def _asked(cluster: ClusterProcess, folder: Path) -> tuple[dict[str, list[Any]], list[dict[str, Any]]]:
    targets = [url.removeprefix("http://") for url in _admins(cluster).values()]
    binary = shutil.which("prometheus") or ""
    with Prometheus(binary, folder / "prometheus", targets, ALERTS) as prometheus:
        prometheus.await_scrapes(3)
        return {query: prometheus.query(query) for query in _queries()}, prometheus.rules()


def _queries() -> list[str]:
    """The dashboard's, with its variables filled in."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    for variable, value in {"$__rate_interval": "10s", "$job": ".+", "$instance": ".+"}.items():
        found = [query.replace(variable, value) for query in found]
    return found


def _alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def _named(expression: str) -> set[str]:
    """The metrics of an expression: every word that is none of the language, of a label or of a duration."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", "", expression)
    bare = re.sub(r"\b(by|on|group_left|without|ignoring)\s*\([^)]*\)", "", bare)
    words = set(re.findall(r"\b[a-z_]\w*\b(?!\s*\()", bare))
    return words - {"and", "or", "unless", "by", "on", "group_left", "inf"}


# ---- names


def test_what_is_told_is_what_is_documented(observed: Observed) -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| ([NR ]+) \|", README.read_text(), re.MULTILINE)
    documented = {(f"agent_server_{name}", who) for name, told_by in rows for who in told_by.split()}
    told = {
        (name, role)
        for role, process in (("R", "r1"), ("N", "n1"), ("N", "n2"))
        for name in observed.busy[process].types
    }
    assert told == documented


def test_every_name_obeys_the_rules(observed: Observed) -> None:
    for process in observed.busy.values():
        assert set(process.helps) == set(process.types)
        for name, kind in process.types.items():
            assert re.fullmatch(r"agent_server_[a-z][a-z0-9_]*[a-z0-9]", name)
            assert name.endswith("_total") == (kind == "counter"), name
            assert not OTHER_UNITS.search(name), name
            assert process.helps[name].strip(), name
            assert kind != "histogram" or name.rpartition("_")[2] in BASE_UNITS, name


def test_no_label_names_an_agent_or_a_task(observed: Observed) -> None:
    for process in (*observed.busy.values(), *observed.idle.values()):
        assert {label for sample in process.samples for label in sample.labels} <= LABELS
        assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", process.text)


@pytest.mark.parametrize("process", ["r1", "n1", "n2"])
def test_promtool_finds_nothing_to_say_about_a_scrape(observed: Observed, process: str) -> None:
    promtool = require_tool("promtool")
    text = observed.busy[process].text
    said = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


# ---- numbers


@pytest.mark.parametrize(
    ("name", "labels", "wanted"),
    [
        ("tasks_posted_total", {"outcome": "accepted"}, 5),
        ("ledger_tasks_accepted_total", {}, 5),
        ("ledger_tasks_ended_total", {}, 5),
        ("ledger_tasks_open", {}, 0),
        ("ledger_tasks_off", {}, 0),
        ("tasks_dispatched_total", {}, 5),
        ("tasks_redelivered_total", {}, 0),
        ("dispatch_latency_seconds_count", {"type": "connected"}, 5),
        ("dispatch_latency_seconds_count", {"type": "waited"}, 0),
        ("tasks_ended_total", {"outcome": "success", "reason": "agent"}, 5),
        ("tasks_ended_total", {}, 5),
        ("messages_sent_total", {"type": "task"}, 5),
        ("messages_written_total", {"type": "result_end"}, 5),
        ("messages_duplicate_total", {}, 0),
        ("messages_dropped_total", {}, 0),
        ("connections_opened_total", {}, 3),
        ("connections_closed_total", {}, 0),
        ("adopted_sockets_total", {"outcome": "broken"}, 0),
        ("connected_agents", {}, 3),
        ("online_agents", {}, 3),
        ("registered_agents", {}, 3),
        ("registrations_total", {"outcome": "new"}, 3),
        ("nodes", {"state": "ready"}, 2),
        ("node_state", {"state": "ready"}, 2),
        ("ready", {}, 3),
        ("redis_up", {}, 3),
        ("build_info", {"version": "0.1.0"}, 3),
        ("redis_errors_total", {}, 0),
        ("feed_entries", {"feed": "results"}, 5),
        ("feed_consumer_groups", {"feed": "results"}, 1),
        ("agents_with_pending_tasks", {}, 0),
        ("oldest_pending_task_age_seconds", {}, 0),
        ("uplink_queued_messages", {}, 0),
        ("uplink_queued_bytes", {}, 0),
    ],
)
def test_a_known_load_is_counted_right(observed: Observed, name: str, labels: dict[str, str], wanted: int) -> None:
    assert observed.total(f"agent_server_{name}", **labels) == wanted


@pytest.mark.parametrize(("message", "lane"), [("log", "log"), ("task_result", "result")])
def test_every_message_that_came_was_acked_and_timed(observed: Observed, message: str, lane: str) -> None:
    came = observed.total("agent_server_messages_received_total", type=message)
    assert came >= 5
    assert observed.total("agent_server_messages_received_bytes_total", type=message) > 40 * came
    assert observed.total("agent_server_ack_latency_seconds_count", type=lane) == came
    assert observed.total("agent_server_ack_latency_seconds_bucket", type=lane, le="+Inf") == came


def test_acks_are_as_many_as_messages_that_want_one(observed: Observed) -> None:
    came = sum(observed.total("agent_server_messages_received_total", type=kind) for kind in ("log", "task_result"))
    assert observed.total("agent_server_messages_sent_total", type="ack") == came


def test_a_group_that_does_not_read_is_behind(observed: Observed) -> None:
    router = observed.idle["r1"]
    assert router.sum("agent_server_feed_consumer_lag_seconds", feed="results") > 0


def test_agents_that_went_and_a_task_that_waits_are_seen(observed: Observed) -> None:
    router, nodes = observed.idle["r1"], (observed.idle["n1"], observed.idle["n2"])
    assert sum(node.sum("agent_server_connections_closed_total") for node in nodes) == 3
    assert router.sum("agent_server_ledger_tasks_open") == 1
    assert 0 < router.sum("agent_server_oldest_pending_task_age_seconds") < 60


# ---- what leans on them


def test_no_panel_and_no_rule_names_a_metric_that_is_not_there(observed: Observed) -> None:
    told = set.union(*(process.names() for process in observed.busy.values())) | OF_PROMETHEUS
    expressions = [*_queries(), *(rule["expr"] for rule in _alerts())]
    assert len(expressions) > 80
    for expression in expressions:
        assert _named(expression), expression
        assert _named(expression) <= told, expression


def test_every_metric_has_its_panel(observed: Observed) -> None:
    shown = set.union(*map(_named, _queries()))
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown} | shown
    told = {name for process in observed.busy.values() for name in process.types}
    assert {name for name in told - shown if "_process_" not in name} == set()


def test_every_query_of_the_dashboard_answers(observed: Observed) -> None:
    require_tool("prometheus")
    empty = [query for query, answer in observed.answers.items() if not answer]
    assert len(observed.answers) > 60
    assert [query for query in empty if not QUERIES_MAY_BE_EMPTY.search(query)] == []


def test_every_rule_is_healthy_in_a_real_prometheus(observed: Observed) -> None:
    require_tool("prometheus")
    assert len(observed.rules) == len(_alerts())
    assert [rule for rule in observed.rules if rule["health"] == "err"] == []
    critical = [
        rule["name"]
        for rule in observed.rules
        if rule["state"] != "inactive" and rule["labels"]["severity"] == "critical"
    ]
    assert critical == []
