"""The units of `deploy/systemd`: what systemd says of them, and whether the program understands what they run."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import service, serving
from cluster.ports import ADMIN_ABOVE
from node.doors import DRAIN_S
from tests.support.required_tool import require_tool

UNITS = Path(__file__).parents[3] / "deploy" / "systemd"
SERVICES = ("agent-server.service", "agent-server-node@.service", "agent-server-router@.service")
INSTALLED = "/opt/agent-server/bin/agent-server"
HOST, PORT = "web-1", "8081"
EXPOSURE = 20  # tenths; systemd calls up to 1.9 "OK", and a unit without a word about it is at 96


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a program that is there."""
    for unit in UNITS.iterdir():
        (tmp_path / unit.name).write_text(unit.read_text().replace(INSTALLED, shutil.which("true") or "/bin/true"))
    return tmp_path


def analyze(units: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = require_tool("systemd-analyze")
    return subprocess.run(
        [program, *arguments],
        check=False,
        cwd=units,
        env={"SYSTEMD_UNIT_PATH": f"{units}:", "SYSTEMD_COLORS": "0", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


def instance(unit: str) -> str:
    return unit.replace("@.", f"@{PORT}.")


@pytest.mark.parametrize("unit", [*SERVICES, "agent-server.target"])
def test_systemd_understands_every_line(units: Path, unit: str) -> None:
    done = analyze(units, "verify", "--man=no", instance(unit))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", SERVICES)
def test_a_unit_may_do_little(units: Path, unit: str) -> None:
    done = analyze(units, "security", "--offline=true", f"--threshold={EXPOSURE}", instance(unit))
    assert done.returncode == 0, done.stdout


def lines(unit: str) -> dict[str, str]:
    found = re.findall(r"^(\w+)=(.*)$", (UNITS / unit).read_text(), re.MULTILINE)
    return dict(found)


@pytest.mark.parametrize("unit", SERVICES)
def test_it_has_more_time_than_a_drain_takes(unit: str) -> None:
    assert float(lines(unit)["TimeoutStopSec"]) > DRAIN_S + serving.STOP_S + 2.0
    assert lines(unit)["Restart"] == "always"


@pytest.mark.parametrize("role", ["node", "router"])
def test_the_program_understands_what_an_instance_runs(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(sys.prefix))
    command = lines(f"agent-server-{role}@.service")["ExecStart"].replace("%l", HOST).replace("%i", PORT)
    program, given, *arguments = shlex.split(command)
    assert (program, given) == (INSTALLED, role)
    options = service.parse(role, arguments)
    assert options.id == f"{HOST}-{PORT}"
    assert options.listen == ("0.0.0.0", int(PORT))
    assert options.admin[1] == int(PORT) + ADMIN_ABOVE


@pytest.mark.parametrize("role", ["node", "router"])
def test_instances_belong_to_the_target(role: str) -> None:
    unit = lines(f"agent-server-{role}@.service")
    assert unit["PartOf"] == unit["WantedBy"] == "agent-server.target"
