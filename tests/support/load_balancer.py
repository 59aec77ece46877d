"""HAProxy and nginx as operators run them: the real programs on the configurations of `deploy/`.

Owns a folder (configuration, certificate, log), a free port and the process. What is run is what the repository ships, with nothing changed
but the places: of the servers, the port, the certificate and the log. Dies with the process that started it.

    async with Nginx(tmp_path / "nginx", certificate, nodes=[...], routers=[...]) as balancer:
        ControlPlane(balancer.url)
"""

import os
import re
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import msgspec

from tests.support.certificate import Certificate
from tests.support.eventually import eventually
from tests.support.http_client import HttpClient, NoAnswer
from tests.support.ports import free_port
from tests.support.required_tool import require_tool
from tests.support.spawned import spawn

DEPLOY = Path(__file__).parents[2] / "deploy"
_IS_ROOT = os.geteuid() == 0


class Upstream(msgspec.Struct, frozen=True):
    """A process behind the balancer."""

    port: int
    admin_port: int


class LoadBalancer(ABC):
    """One of them, in front of three nodes and two routers on this machine. Raises: pytest's Skipped, or Failed in CI, without it."""

    def __init__(
        self,
        folder: Path,
        certificate: Certificate,
        *,
        nodes: Sequence[Upstream],
        routers: Sequence[Upstream],
        trusted: Sequence[str] = (),
    ) -> None:
        """`trusted`: addresses of proxies in front of it."""
        self.program = require_tool(self.name)
        self.folder = folder
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.log = folder / "access.log"
        folder.mkdir(parents=True)
        self._write(certificate, nodes, routers, trusted)
        self._process: subprocess.Popen[bytes] | None = None

    name = ""

    @abstractmethod
    def _write(
        self, certificate: Certificate, nodes: Sequence[Upstream], routers: Sequence[Upstream], trusted: Sequence[str]
    ) -> None:
        """Put its configuration into the folder."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Run it in the foreground."""

    async def _serving(self) -> str:
        if self._process is None or self._process.poll() is not None:
            raise AssertionError(f"{self.name} has ended:\n{self.output()}")
        try:
            answer = await HttpClient(self.url).request("GET", "/api/agents/", timeout_s=3.0)
        except NoAnswer as error:
            return str(error)
        return "" if answer.status == 200 else f"{self.name} answers {answer.status}:\n{self.output()}"

    def output(self) -> str:
        """What it printed."""
        return (self.folder / "stderr.log").read_text(errors="replace")[-3000:]

    async def __aenter__(self) -> Self:
        out = self.log if self.name == "haproxy" else self.folder / "stdout.log"
        environ = {**os.environ, "HAPROXY_LOG": "stdout"}
        self._process = spawn(
            self._command(), cwd=self.folder, stdout=out, stderr=self.folder / "stderr.log", env=environ
        )
        await eventually(self._serving, 15.0, every_s=0.1)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()  # nginx ends its workers itself
            self._process.wait(10.0)


class Haproxy(LoadBalancer):
    """deploy/haproxy."""

    name = "haproxy"

    def _write(
        self, certificate: Certificate, nodes: Sequence[Upstream], routers: Sequence[Upstream], trusted: Sequence[str]
    ) -> None:
        pem = self.folder / "both.pem"
        pem.write_bytes(certificate.chain.read_bytes() + certificate.key.read_bytes())
        (self.folder / "trusted.lst").write_text("".join(f"{address}\n" for address in trusted))
        privileges = {} if _IS_ROOT else {"    user haproxy\n": "", "    group haproxy\n": ""}
        changed = {
            "bind :443 ": f"bind 127.0.0.1:{self.port} ",
            "/etc/haproxy/certs/": str(pem),
            "/etc/haproxy/trusted_proxies.lst": str(self.folder / "trusted.lst"),
        }
        shipped = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
        (self.folder / "haproxy.cfg").write_text(replaced(shipped, changed | privileges))
        places = [f"127.0.0.1:{upstream.port} port {upstream.admin_port}" for upstream in (*nodes, *routers)]
        servers = placed((DEPLOY / "haproxy" / "servers.cfg").read_text(), r"10\.0\.0\.\d+:\d+ port \d+", places)
        (self.folder / "servers.cfg").write_text(servers)

    def _command(self) -> list[str]:
        return [self.program, "-db", "-f", "haproxy.cfg", "-f", "servers.cfg"]


class Nginx(LoadBalancer):
    """deploy/nginx."""

    name = "nginx"

    def _write(
        self, certificate: Certificate, nodes: Sequence[Upstream], routers: Sequence[Upstream], trusted: Sequence[str]
    ) -> None:
        places = [f"127.0.0.1:{upstream.port}" for upstream in (*nodes, *routers)]
        upstreams = placed((DEPLOY / "nginx" / "upstreams.conf").read_text(), r"10\.0\.0\.\d+:\d+", places)
        (self.folder / "upstreams.conf").write_text(upstreams)
        changed = {
            "    listen 443 ssl;\n    listen [::]:443 ssl;\n": f"    listen 127.0.0.1:{self.port} ssl;\n",
            "/etc/nginx/certs/agent-server.pem": str(certificate.chain),
            "/etc/nginx/certs/agent-server.key": str(certificate.key),
            "/etc/nginx/agent-server-trusted-proxies": f"{self.folder}/trusted",
            "/var/log/nginx/agent-server.log": str(self.log),
        }
        (self.folder / "trusted.conf").write_text("".join(f"set_real_ip_from {address};\n" for address in trusted))
        served = replaced((DEPLOY / "nginx" / "agent-server.conf").read_text(), changed)
        (self.folder / "agent-server.conf").write_text(served)
        (self.folder / "nginx.conf").write_text(self._main())

    def _main(self) -> str:
        """What a distribution's nginx.conf brings, as far as it is needed; its folders are ours."""
        places = "".join(
            f"{what}_temp_path {self.folder}/{what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return (
            f"daemon off; {'user root;' if _IS_ROOT else ''} worker_processes 2; pid {self.folder}/pid; error_log stderr;"
            "events { worker_connections 2000; }"
            f"http {{ {places} include upstreams.conf; include agent-server.conf; }}"
        )

    def _command(self) -> list[str]:
        return [self.program, "-p", str(self.folder), "-c", "nginx.conf", "-e", "stderr"]


def replaced(text: str, changed: Mapping[str, str]) -> str:
    """The text with each of these in its place. Raises: AssertionError when one is not there."""
    for old, new in changed.items():
        assert old in text, f"{old!r} is no longer in the configuration"
        text = text.replace(old, new)
    return text


def placed(text: str, pattern: str, places: Sequence[str]) -> str:
    """The text with these places of servers instead of its own, one for one. Raises: AssertionError when they are not as many."""
    assert len(re.findall(pattern, text)) == len(places)
    left = iter(places)
    return re.sub(pattern, lambda _: next(left), text)
