"""`deploy/docker`, read: that its parts fit each other and the program. What the image does is tests/acceptance/test_image.py's."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import cli, environment, service, serving
from cluster.ports import ADMIN_ABOVE
from cluster.settings import Server, keys
from node.doors import DRAIN_S
from tests.support.certificate import make_certificate
from tests.support.dockerfile import instructions
from tests.support.required_tool import require_tool

DOCKER = Path(__file__).parents[3] / "deploy" / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
OURS = {name: one for name, one in COMPOSE["services"].items() if "build" in one}
PORT = Server().port


def test_the_image_has_the_ports_of_the_program() -> None:
    [exposed] = [one.text for one in instructions(DOCKER / "Dockerfile") if one.name == "EXPOSE"]
    assert exposed == f"{PORT} {PORT + ADMIN_ABOVE}"


def test_the_image_runs_as_nobody_in_particular() -> None:
    final = [one for one in instructions(DOCKER / "Dockerfile") if one.stage == 1]
    assert [one.text for one in final if one.name == "USER"] == ["10001:10001"]
    assert [one.name for one in final][-2:] == ["ENTRYPOINT", "CMD"]


def test_every_image_is_pinned_by_its_version() -> None:
    images = [one.text.split()[0] for one in instructions(DOCKER / "Dockerfile") if one.name == "FROM"]
    images += [one["image"] for one in COMPOSE["services"].values()]
    assert all(re.fullmatch(r"[\w-]+:\d+\.\d+\.\d+(-[a-z-]+)?", image) for image in images), images
    assert {one["image"] for one in OURS.values()} == {f"agent-server:{cli.version_text().split()[-1]}"}


def test_the_build_is_given_all_that_it_copies_and_no_more() -> None:
    kept = set(re.findall(r"^!(\S+)$", (DOCKER / "Dockerfile.dockerignore").read_text(), re.MULTILINE))
    copies = [one.text.split()[:-1] for one in instructions(DOCKER / "Dockerfile") if one.name == "COPY"]
    assert {name for sources in copies for name in sources if not name.startswith(("-", "/"))} == kept


@pytest.mark.parametrize("name", OURS)
def test_a_service_is_a_process_of_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = OURS[name]
    role, *arguments = one["command"]
    for variable, value in one["environment"].items():
        monkeypatch.setenv(variable, re.sub(r"\$\{[^}]+\}", "secret", value))
    options = service.parse(role, arguments)
    assert options.id == name
    assert options.loaded.warnings == ()
    assert set(one["environment"]) <= {known for key in keys().values() for known in environment.names_of(key)}
    assert one["read_only"]
    assert one["cap_drop"] == ["ALL"]
    assert float(one["stop_grace_period"].removesuffix("s")) > DRAIN_S + serving.STOP_S + 2.0


def test_haproxy_finds_every_process_and_is_trusted() -> None:
    servers = re.findall(
        r"^    server (\S+) (\S+):(\d+) port (\d+)$", (DOCKER / "servers.cfg").read_text(), re.MULTILINE
    )
    assert {server[0] for server in servers} == set(OURS)
    assert {server[1:] for server in servers} == {(name, str(PORT), str(PORT + ADMIN_ABOVE)) for name in OURS}
    subnet = COMPOSE["networks"]["default"]["ipam"]["config"][0]["subnet"]
    assert {one["environment"]["AGENT_SERVER_SERVER_TRUSTED_PROXIES"] for one in OURS.values()} == {subnet}


def test_haproxy_takes_its_files_as_they_are_mounted(tmp_path: Path) -> None:
    program = require_tool("haproxy")
    haproxy = COMPOSE["services"]["haproxy"]
    certificate = make_certificate(tmp_path)
    (tmp_path / "both.pem").write_bytes(certificate.chain.read_bytes() + certificate.key.read_bytes())
    places = {}
    for volume in haproxy["volumes"]:
        source, target, mode = volume.split(":")
        assert mode == "ro"
        places[target] = tmp_path / "both.pem" if source == "./certs" else (DOCKER / source).resolve(strict=True)
    text = places["/etc/haproxy/haproxy.cfg"].read_text()
    for target, place in places.items():
        text = text.replace(f"{target}/" if target.endswith("certs") else target, str(place))
    (tmp_path / "haproxy.cfg").write_text(text)
    words = haproxy["command"].split()
    files = [word for word in words[1:] if word != "-f"]
    assert files == ["/etc/haproxy/haproxy.cfg", "/etc/haproxy/servers.cfg"]
    command = [program, "-c", "-f", str(tmp_path / "haproxy.cfg"), "-f", str(places[files[1]])]
    done = subprocess.run(
        command, check=False, env={**os.environ, **haproxy["environment"]}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
