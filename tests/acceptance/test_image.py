"""The image of `deploy/docker`, as far as it shows without Docker: the build's own commands, then what the image would run."""

import importlib.metadata
import importlib.util
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.dockerfile import Replay, instructions
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.required_tool import missing
from tests.support.spawned import spawn

ROOT = Path(__file__).parents[2]
DOCKERFILE = instructions(ROOT / "deploy" / "docker" / "Dockerfile")
BUILD, FINAL = 0, 1
INSTALLED = "/opt/agent-server"


@pytest.fixture(scope="session")  # not of the module: tests of one Redis are run together, whichever file they are in
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the image's files are."""
    if importlib.util.find_spec("pip") is None:
        missing("there is no pip beside this Python")
    folder = tmp_path_factory.mktemp("image")
    lock = folder / "requirements.lock"
    lock.write_text(what_runs_of((ROOT / "requirements.lock").read_text()))
    replay = Replay(ROOT, folder / "root", instead={"requirements.lock": lock})
    replay.root.mkdir()
    replay.run([one for one in DOCKERFILE if one.stage == BUILD])
    [copied] = [one.text for one in DOCKERFILE if one.stage == FINAL and one.name == "COPY"]
    assert copied == f"--from=build {INSTALLED} {INSTALLED}"
    return replay.place(INSTALLED)


def what_runs_of(lock: str) -> str:
    """Of the lock what the image needs at all, to spare the time of fetching the rest."""
    wanted, left = set[str](), {"agent-server", "hatchling"}
    while left:
        wanted |= left
        left = {need for name in left for need in needs(name)} - wanted
    blocks = re.split(r"\n(?=\S)", lock)
    return "\n".join(block for block in blocks if canonicalize_name(re.split(r"[=\s]", block)[0]) in wanted) + "\n"


def needs(name: str) -> Iterator[str]:
    try:
        texts = importlib.metadata.requires(name) or ()
    except importlib.metadata.PackageNotFoundError:  # another platform's
        return
    for requirement in map(Requirement, texts):
        extras = ["", *(("hiredis",) if name == "redis" else ())]
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            yield canonicalize_name(requirement.name)


def the(name: str) -> list[str]:
    [found] = [one for one in DOCKERFILE if one.stage == FINAL and one.name == name]
    return found.command()


def test_the_program_is_in_it_and_no_tools(image: Path) -> None:
    [program] = the("ENTRYPOINT")
    done = subprocess.run([image / "bin" / program, "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("agent-server ")
    [packages] = image.glob("lib/python*/site-packages")
    names = {path.name.partition("-")[0].lower() for path in packages.iterdir()}
    assert {"cluster", "node", "router", "uvicorn"} <= names
    assert not {"pip", "hatchling", "pytest", "mypy"} & names
    assert list((packages / "cluster").rglob("*.pyc")), "a root that is read-only cannot be compiled to later"


@pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)
async def test_its_health_check_tells_a_process_that_takes_work(
    image: Path, killable_redis: RedisServer, tmp_path: Path
) -> None:
    [program] = the("ENTRYPOINT")
    port = free_port()
    environ = {
        "PATH": f"{image / 'bin'}{os.pathsep}/usr/bin:/bin",
        "AGENT_SERVER_REDIS_URL": killable_redis.url,
        "AGENT_SERVER_SERVER_ADMIN_HOST": "0.0.0.0",
        "AGENT_SERVER_SERVER_PORT": str(port),
    }
    own = tmp_path / "var"
    own.mkdir()

    def unwell() -> str:
        done = subprocess.run(the("HEALTHCHECK"), check=False, env=environ, cwd=own, capture_output=True, text=True)
        assert done.returncode in {0, 1}, done
        return done.stderr

    assert unwell()
    command = [str(image / "bin" / program), "router", "--id", "router1"]
    router = spawn(command, cwd=own, stdout=tmp_path / "stdout", stderr=tmp_path / "stderr", env=environ)
    try:
        await eventually(unwell, 30.0)
        router.send_signal(signal.SIGTERM)
        assert router.wait(15.0) == 0, (tmp_path / "stderr").read_text()
        assert "does not" in unwell() or "refused" in unwell()
        assert list(own.iterdir()) == []  # nothing is written, so that the root may be read-only
    finally:
        router.kill()
