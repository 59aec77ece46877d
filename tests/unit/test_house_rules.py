"""The rules of the house that no linter knows: who may import what, what a file must say of itself, how long it may be.

The tables here are the whole list of exceptions, each with its reason.
"""

import ast
import itertools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster", "node", "router")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SCRIPTS = sorted((ROOT / "cluster" / "scripts").glob("*.lua"))

MAY_NOT_IMPORT = {"cluster": {"node", "router"}, "node": {"router"}, "router": {"node"}}

# Who may import a package that shapes whatever touches it. A folder of the table stands for all of its modules.
ONLY_HERE = {
    "redis": {
        "cluster.redis_client": "the one place that makes connections",
        "cluster.redis_line": "the one that is shared",
        "cluster.redis_errors": "turns the driver's exceptions into ours",
        "cluster.client.doctor.redis_says": "what Redis refuses to tell is an answer too",
    },
    "starlette": {
        "node.app": "puts the node together",
        "node.endpoint": "the agents' handshake",
        "node.paths": "tells the handshakes apart",
        "node.probe": "an operator's handshake",
        "router.app": "puts the router together",
        "router.agents": "control calls about agents",
        "router.signature": "checks the signature of a control call",
        "router.tasks": "control calls about tasks",
        "cluster.admin": "health and metrics of every process",
        "cluster.registration": "answered by nodes and routers alike",
        "cluster.replies": "what callers are answered, and the edge of every app",
        "cluster.serving": "runs uvicorn on an app",
        "router.in_time": "answers control calls that take too long",
        "router.itself": "control calls about this server",
        "router.nodes": "an operator's calls about nodes",
    },
    "uvicorn": {
        "cluster.serving": "runs uvicorn as this project does",
        "cluster.http_protocol": "hardens uvicorn's HTTP protocol",
        "cluster.lazy_protocol": "makes less of it for each connection",
        "cluster.exchange": "answers a request of it",
        "node.handshake": "takes the place of uvicorn's WebSocket protocol",
        "router.handover": "takes the place of uvicorn's WebSocket protocol",
        "cluster.lab.bench.limit_asgi": "uvicorn alone, which the router is compared with",
    },
}

# Modules that are bytes and time in, decisions out.
PURE = {"node.session": {"asyncio", "datetime", "redis", "socket", "starlette", "threading", "time", "uvicorn"}}

TOP_LEVEL = {*PACKAGES, "configs", "deploy", "tests"}
TOP_LEVEL |= {"CHANGELOG.md", "LICENSE", "README.md", "README.zh.md", "pyproject.toml", "requirements.lock"}
MADE_BY_RUNNING = {"build", "data", "dist", "logs", "__pycache__"}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[str]:
    """Whole names of the modules that a file imports, wherever in it the import stands."""
    package = path.relative_to(ROOT).parent.parts
    for found in ast.walk(ast.parse(path.read_text())):
        if isinstance(found, ast.Import):
            yield from (alias.name for alias in found.names)
        elif isinstance(found, ast.ImportFrom):
            origin = [*package[: len(package) + 1 - found.level]] if found.level else []
            origin += [found.module] if found.module else []
            yield from (".".join([*origin, alias.name]) for alias in found.names)


def top(module: str) -> str:
    return module.partition(".")[0]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_imports_go_one_way(path: Path) -> None:
    assert not {top(name) for name in imports_of(path)} & MAY_NOT_IMPORT[path.relative_to(ROOT).parts[0]]


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_drivers_and_frameworks_stay_in_their_rooms(path: Path) -> None:
    imported = {top(name) for name in imports_of(path)}
    assert not [name for name, rooms in ONLY_HERE.items() if name in imported and module_of(path) not in rooms]


@pytest.mark.parametrize("path", [path for path in SOURCES if module_of(path) in PURE], ids=named)
def test_a_pure_module_knows_neither_a_clock_nor_a_driver(path: Path) -> None:
    assert not {top(name) for name in imports_of(path)} & PURE[module_of(path)]


Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


# Classes of these bases say what their methods are. Any other base said it before them: asyncio.Protocol, uvicorn's protocols.
SAY_NOTHING_OF_METHODS = {"Exception", "Generic", "NamedTuple", "Protocol", "Struct", "msgspec.Struct"}


def fills_in_a_base(found: ast.ClassDef) -> bool:
    return any(ast.unparse(base).partition("[")[0] not in SAY_NOTHING_OF_METHODS for base in found.bases)


def public(body: list[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """What a body offers. A setter or an overload is told of where its getter or its implementation is."""
    for found in body:
        if isinstance(found, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            told_elsewhere = any(ast.unparse(by).endswith((".setter", "overload")) for by in found.decorator_list)
            if not found.name.startswith("_") and not told_elsewhere:
                yield found


def to_be_documented(module: ast.Module) -> Iterator[tuple[str, Documented]]:
    """The module, its public classes and functions, and public methods save those that fill in a base class's."""
    yield "module", module
    for found in public(module.body):
        yield found.name, found
        if isinstance(found, ast.ClassDef) and not fills_in_a_base(found):
            yield from ((f"{found.name}.{method.name}", method) for method in public(found.body))


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_what_is_public_says_what_it_is(path: Path) -> None:
    assert not [name for name, found in to_be_documented(ast.parse(path.read_text())) if not ast.get_docstring(found)]


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=named)
def test_a_file_answers_one_question(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500


def nameless_tasks(module: ast.Module) -> Iterator[int]:
    for found in ast.walk(module):
        if isinstance(found, ast.Call):
            called = ast.unparse(found.func).rpartition(".")[2]
            has_name = any(keyword.arg == "name" for keyword in found.keywords)
            if called == "ensure_future" or (called == "create_task" and not has_name):
                yield found.lineno


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_every_task_has_a_name(path: Path) -> None:
    assert not list(nameless_tasks(ast.parse(path.read_text())))


def head_of(script: str) -> str:
    return "\n".join(itertools.takewhile(lambda line: line.startswith("--"), script.splitlines()))


def listed(head: str, name: str) -> set[str]:
    """The numbers under `-- KEYS` or `-- ARGV` in a script's head, with the lines that carry on from it."""
    section = re.search(rf"^-- {name}  (.*(?:\n-- {{5,}}.*)*)", head, re.MULTILINE)
    return set(re.findall(r"(?:^| )(\d+) (?=\S)", section.group(1))) if section else set()


@pytest.mark.parametrize("path", SCRIPTS, ids=named)
def test_a_script_opens_with_what_it_does(path: Path) -> None:
    assert path.read_text().startswith("-- ")


@pytest.mark.parametrize("path", [path for path in SCRIPTS if not path.name.startswith("_")], ids=named)
@pytest.mark.parametrize("name", ["KEYS", "ARGV"])
def test_a_scripts_head_lists_what_it_is_given(path: Path, name: str) -> None:
    script = path.read_text()
    head = head_of(script)
    used = set(re.findall(rf"\b{name}\[(\d+)\]", script.removeprefix(head)))
    assert f"\n-- {name}  " in f"\n{head}"
    assert used <= listed(head, name)


def test_the_top_level_stays_as_it_was_agreed() -> None:
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert found - MADE_BY_RUNNING == TOP_LEVEL


def ci_steps() -> list[str]:
    return re.findall(r"^step \S+ (.+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


def commands_under(heading: str) -> list[str]:
    """The commands of the first ```bash block under a heading of the README, one a line or joined by &&."""
    section = rf"^## {heading}\n(?:(?!## )[^\n]*\n)*?```bash\n(.*?)```"
    block = re.search(section, (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert block, f"README.md has no ```bash block under '## {heading}'"
    commands = re.split(r"\n|&&", block.group(1))
    return [command.strip() for command in commands if command.strip() and not command.startswith("#")]


def test_the_readme_starts_what_ci_installs() -> None:
    venv, *install, start = commands_under("Start")
    assert venv == "python3 -m venv .venv"
    assert set(install) <= set(ci_steps())
    assert start == ".venv/bin/agent-server start"


def test_the_readme_tests_as_ci_does() -> None:
    assert commands_under("Test") == [ci_steps()[-1]]


def shown_commands(readme: str) -> list[str]:
    """What its code blocks tell a reader to type, comments left out."""
    blocks = "".join(re.findall(r"```(?:bash|console)\n(.*?)```", (ROOT / readme).read_text(), re.DOTALL))
    return re.findall(
        r"^(?:\$ )?((?:\.venv/bin/|python3 |curl |redis-cli |export |agent-server )[^#\n]*?) *(?:#.*)?$",
        blocks,
        re.MULTILINE,
    )


def test_the_chinese_readme_shows_the_same_commands() -> None:
    english, chinese = shown_commands("README.md"), shown_commands("README.zh.md")
    assert len(chinese) >= 12
    assert [command for command in english if not command.startswith(".venv/bin/ruff")] == chinese


def test_pre_commit_runs_what_ci_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == [step.removeprefix(".venv/bin/") for step in ci_steps()[-len(hooks) :]]


def locked() -> dict[str, str]:
    lines = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in lines}


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = itertools.chain.from_iterable(project["optional-dependencies"].values())
    return [Requirement(line) for line in [*project["dependencies"], *extras]]


@pytest.mark.parametrize("requirement", declared(), ids=lambda requirement: requirement.name)
def test_the_lock_keeps_to_the_ranges(requirement: Requirement) -> None:
    version = locked()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version)


def test_the_lock_names_no_host() -> None:
    assert "://" not in (ROOT / "requirements.lock").read_text()
