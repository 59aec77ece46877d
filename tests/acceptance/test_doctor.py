"""`doctor` on clusters that are well, and on clusters and ways to them that are not: each by the real thing that is wrong."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
from redis import Redis

from cluster.client.doctor import examination
from cluster.client.doctor.finding import Checked, Finding, Verdict
from tests.support import altered
from tests.support.certificate import Certificate, make_certificate
from tests.support.cluster_process import ROOT, ClusterProcess, Section
from tests.support.control_plane import ControlPlane, new_task
from tests.support.eventually import eventually
from tests.support.feed_reader import FeedReader
from tests.support.ledger import Ledger
from tests.support.load_balancer import Haproxy, LoadBalancer, Nginx, Upstream, replaced
from tests.support.ports import free_port
from tests.support.recorder import Recorder
from tests.support.redis_server import RedisServer
from tests.support.simulated_fleet import Fleet

SECRET = "a-secret-of-the-doctors-tests"
CONFIG: dict[str, Section] = {
    "server": {"trusted_proxies": ["127.0.0.1/32"]},
    "agent": {"max_connections": 100},  # few open files will do
}
SIGNED: Section = {"shared_secret": SECRET, "require_signature": True}
# What connections and this test's own clients say.
_NOT_THE_CLUSTERS = {
    "auth",
    "client",
    "command",
    "config",
    "discard",
    "exec",
    "hello",
    "latency",
    "multi",
    "select",
    "slowlog",
}


class Found(msgspec.Struct):
    """A check of the report."""

    check: str
    verdict: str
    says: str
    fix: str
    details: list[str]


class Report(msgspec.Struct):
    """What `doctor --json` printed, and how it ended."""

    code: int
    printed: str
    checks: dict[str, Found]

    def broken(self) -> set[str]:
        """The names of checks."""
        return {name for name, found in self.checks.items() if found.verdict == "broken"}


def doctor(folder: Path, *words: str, environ: Mapping[str, str] | None = None) -> Report:
    """What it says."""
    said = _run(folder, [*words, "--json"], environ)
    assert said.stdout, said.stderr
    rows = json.loads(said.stdout)["checks"]
    checks = {row["check"]: msgspec.convert(row, Found) for row in rows}
    report = Report(said.returncode, said.stdout + said.stderr, checks)
    assert said.returncode == (1 if report.broken() else 0)
    assert "mistake of this command" not in report.printed
    sys.stdout.write(examination.told([as_checked(found) for found in checks.values()]))
    return report


def as_checked(found: Found) -> Checked:
    finding = Finding(Verdict(found.verdict), found.says, found.fix, tuple(found.details))
    return Checked(found.check, finding)


def _run(folder: Path, words: Sequence[str], environ: Mapping[str, str] | None) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "cluster", "doctor", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})}
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=60, check=False, env=env)


@pytest.fixture
async def cluster(killable_redis: RedisServer, tmp_path: Path) -> AsyncIterator[ClusterProcess]:
    """Two nodes and a router on a Redis that a test may change."""
    async with ClusterProcess(tmp_path / "cluster", redis_url=killable_redis.url, config=CONFIG) as cluster:
        await cluster.wait_ready(60.0)
        yield cluster


def _told_of(server: RedisServer) -> int:
    """How many agents the nodes say they hold."""
    with Redis.from_url(server.url, decode_responses=True, protocol=2) as redis:
        return sum(int(redis.hget(key, "load") or 0) for key in redis.scan_iter("*node:*"))


only_7 = pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)


async def test_a_healthy_cluster_is_well_in_all_that_can_be_checked(
    killable_redis: RedisServer, tmp_path: Path
) -> None:
    recorder = Recorder()
    config = {**CONFIG, "auth": SIGNED}
    async with ClusterProcess(tmp_path / "cluster", redis_url=killable_redis.url, config=config) as cluster:
        await cluster.wait_ready(60.0)
        control_plane = ControlPlane(cluster.url, recorder=recorder, secret=SECRET)
        async with FeedReader(killable_redis.url, recorder), Fleet(cluster.url, 3, recorder=recorder) as fleet:
            await fleet.connected()
            assert (await control_plane.post_task(1, new_task(1))).status == 200
            await eventually(Ledger(recorder).unfinished, 20.0)
            await eventually(lambda: _told_of(killable_redis) != 3 and "nodes have not told of 3 agents yet", 20.0)
            report = doctor(cluster.folder, "--idle-s", "1")
            shown = _run(cluster.folder, (), None)
    assert (report.code, shown.returncode, shown.stderr) == (0, 0, "")
    assert f"ok           {'nodes':22}  2 ready, 3 agents connected\n" in shown.stdout
    unwell = {name: found.says for name, found in report.checks.items() if found.verdict != "ok"}
    unwell.pop("redis latency", None)  # of a machine that is shared
    assert set(unwell) == {"certificate", "clock of control plane", "disk", "idle connections"}
    assert report.checks["nodes"].says == "2 ready, 3 agents connected"
    assert report.checks["host ids"].says == "none refused, as 3 of 3 processes tell"
    assert SECRET not in report.printed


async def test_the_rights_that_are_asked_for_are_those_that_a_cluster_uses(
    cluster: ClusterProcess, killable_redis: RedisServer
) -> None:
    recorder = Recorder()
    control_plane = ControlPlane(cluster.url, recorder=recorder)
    async with FeedReader(killable_redis.url, recorder), Fleet(cluster.url, 3, recorder=recorder) as fleet:
        await fleet.connected()
        for host in (1, 2, 3):
            assert (await control_plane.post_task(host, new_task(host))).status == 200
        await eventually(Ledger(recorder).unfinished, 20.0)
    with Redis.from_url(killable_redis.url) as redis:
        used = {name.removeprefix("cmdstat_").partition("|")[0] for name in redis.info("commandstats")}
        redis.acl_setuser("narrow", enabled=True, nopass=True, keys=["*"], categories=["-@all"])
    forbidden = doctor(cluster.folder, "--redis-url", killable_redis.url.replace("//", "//narrow:any@"))
    assert forbidden.broken()
    with Redis.from_url(killable_redis.url) as redis:
        commands = ["+ping", "+hello", "+client", "+select", "+multi", "+discard", "+info", "+time"]
        redis.acl_setuser("narrow", enabled=True, nopass=True, keys=["*"], commands=commands)
    forbidden = doctor(cluster.folder, "--redis-url", killable_redis.url.replace("//", "//narrow:any@"))
    named = {
        line.partition(":")[0].lower() for line in forbidden.checks["redis rights"].says.split(": ")[1].split(", ")
    }
    assert used - _NOT_THE_CLUSTERS - {"ping", "info", "time"} <= named


@only_7
async def test_a_redis_that_evicts_or_does_not_persist_is_broken(
    cluster: ClusterProcess, killable_redis: RedisServer
) -> None:
    killable_redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    report = doctor(cluster.folder)
    assert report.broken() == {"redis eviction"}
    assert "noeviction" in report.checks["redis eviction"].fix
    killable_redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    killable_redis.command("CONFIG", "SET", "appendonly", "no")
    report = doctor(cluster.folder)
    assert report.broken() == {"redis persistence"}
    assert "appendonly yes" in report.checks["redis persistence"].fix
    killable_redis.command("CONFIG", "SET", "appendonly", "yes")
    killable_redis.kill()
    report = doctor(cluster.folder)
    assert report.broken() >= {"redis"}
    assert report.checks["redis eviction"].verdict == "not checked"


@only_7
async def test_another_secret_than_the_servers_is_broken(killable_redis: RedisServer, tmp_path: Path) -> None:
    config = {**CONFIG, "auth": SIGNED}
    async with ClusterProcess(tmp_path / "cluster", redis_url=killable_redis.url, config=config) as cluster:
        await cluster.wait_ready(60.0)
        report = doctor(cluster.folder, environ={"AUTH_SHARED_SECRET": "another-secret-of-the-tests"})
    assert report.broken() == {"signed call"}
    assert "does not match" in report.checks["signed call"].says
    assert "auth.shared_secret" in report.checks["signed call"].fix
    assert "another-secret-of-the-tests" not in report.printed


@only_7
async def test_a_clock_an_hour_off_is_told_of_the_node_that_has_it(killable_redis: RedisServer, tmp_path: Path) -> None:
    command = altered.start_with("hour_ahead")
    async with ClusterProcess(
        tmp_path / "cluster", redis_url=killable_redis.url, config=CONFIG, command=command
    ) as cluster:
        await cluster.wait_ready(60.0)
        report = doctor(cluster.folder)
    assert report.checks["clocks of nodes"].verdict == "warning"
    assert "node n1" in report.checks["clocks of nodes"].says
    assert "3600 s ahead" in report.checks["clocks of nodes"].says
    assert report.checks["clock of redis"].verdict == "ok"


# ---- the way there


class Stripping(Nginx):
    """An nginx that does not pass the upgrade on."""

    def _write(self, *args: object, **kwargs: object) -> None:
        super()._write(*args, **kwargs)  # type: ignore[arg-type]
        _change(
            self,
            {
                "    proxy_set_header        Upgrade $http_upgrade;\n": "",
                "Connection $agent_server_connection": "Connection close",
            },
        )


class Forgetting(Nginx):
    """An nginx that does not say that it was reached over TLS, and takes 1 MiB, as it does by default."""

    def _write(self, *args: object, **kwargs: object) -> None:
        super()._write(*args, **kwargs)  # type: ignore[arg-type]
        forwarded = "    proxy_set_header        X-Forwarded-Proto https;\n"
        _change(self, {forwarded: "", "client_max_body_size    16m": "client_max_body_size    1m"})


class Impatient(Haproxy):
    """An HAProxy that cuts what is idle for 2 s."""

    def _write(self, *args: object, **kwargs: object) -> None:
        super()._write(*args, **kwargs)  # type: ignore[arg-type]
        path = self.folder / "haproxy.cfg"
        path.write_text(replaced(path.read_text(), {"timeout tunnel 90s": "timeout tunnel 2s"}))


async def upstream(cluster: ClusterProcess) -> Upstream:
    """The router, once it is announced."""

    def rows() -> list[str]:
        return [line for line in cluster.stdout.read_text().splitlines() if line.startswith("r1 ")]

    await eventually(lambda: "" if rows() else "nothing is announced", 30.0)
    return Upstream(cluster.port, int(rows()[0].rpartition(":")[2]))


def _change(balancer: LoadBalancer, changed: Mapping[str, str]) -> None:
    path = balancer.folder / "agent-server.conf"
    path.write_text(replaced(path.read_text(), changed))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@only_7
@pytest.mark.parametrize(
    ("kind", "words", "broken", "fix"),
    [
        (Nginx, ("--idle-s", "3"), set(), ""),
        (Haproxy, ("--idle-s", "3"), set(), ""),
        (Stripping, (), {"upgrade"}, "Upgrade $http_upgrade"),
        (Impatient, ("--idle-s", "8"), {"idle connections"}, "timeout tunnel"),
        (Forgetting, (), {"ws_url", "request size"}, "X-Forwarded-Proto"),
    ],
    ids=lambda value: value.__name__.lower() if isinstance(value, type) else "",
)
async def test_a_way_from_outside_is_broken_where_a_proxy_breaks_it(
    cluster: ClusterProcess,
    tmp_path: Path,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[LoadBalancer],
    words: tuple[str, ...],
    broken: set[str],
    fix: str,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.chain))
    here = await upstream(cluster)
    async with kind(tmp_path / "proxy", certificate, nodes=[here] * 3, routers=[here] * 2) as proxy:
        report = doctor(cluster.folder, "--url", proxy.url, *words)
    assert report.broken() == broken
    assert report.checks["certificate"].verdict == "warning"  # it is good for two days
    assert any(fix in report.checks[name].fix for name in broken) or not broken


@only_7
async def test_a_certificate_of_somebody_else_is_broken_and_hides_nothing(
    cluster: ClusterProcess, tmp_path: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await upstream(cluster)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.chain))
    async with Nginx(tmp_path / "proxy", certificate, nodes=[here] * 3, routers=[here] * 2) as proxy:
        monkeypatch.delenv("SSL_CERT_FILE")
        report = doctor(cluster.folder, "--url", proxy.url)
    assert report.broken() == {"certificate"}
    assert "renew it" in report.checks["certificate"].fix
    assert (report.checks["upgrade"].verdict, report.checks["ws_url"].verdict) == ("ok", "ok")


@only_7
async def test_where_nobody_speaks_tls_no_certificate_is_to_be_renewed(cluster: ClusterProcess) -> None:
    found = doctor(cluster.folder, "--url", f"https://127.0.0.1:{free_port()}").checks["certificate"]
    assert (found.verdict, found.says) == ("broken", "nothing listens there")
    assert "renew" not in found.fix
