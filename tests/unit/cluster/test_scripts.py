"""Scripts are whole: what they include is put in, what they call exists, and Redis's Lua compiles them."""

import re
from pathlib import Path

import pytest
from lupa.lua51 import LuaRuntime

from cluster import scripts

FOLDER = Path(scripts.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.lua") if not path.name.startswith("_"))
PARTS = sorted(path.stem for path in FOLDER.glob("_*.lua"))
SOURCES = {path: path.read_text() for path in (FOLDER.parent).glob("*.py")}


@pytest.mark.parametrize("name", NAMES)
def test_every_include_is_put_in(name: str) -> None:
    wanted = re.findall(r"^--@include (\w+)$", (FOLDER / f"{name}.lua").read_text(), re.MULTILINE)
    text = scripts.text(name)
    assert "@include" not in text
    assert not [part for part in wanted if scripts.text(part).strip() not in text]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_included_somewhere(part: str) -> None:
    assert [name for name in NAMES if f"--@include {part}\n" in (FOLDER / f"{name}.lua").read_text()]


@pytest.mark.parametrize("name", NAMES)
def test_every_script_is_run_by_somebody(name: str) -> None:
    assert [path for path, source in SOURCES.items() if re.search(rf'\.run\(\s*"{name}"', source)]


def test_every_script_that_is_run_exists() -> None:
    run = {name for source in SOURCES.values() for name in re.findall(r'\.run\(\s*"(\w+)"', source)}
    assert run == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_lua_of_redis_compiles_it(name: str) -> None:
    LuaRuntime().compile(scripts.text(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_script_asks_for_no_time_but_redis_own(name: str) -> None:
    assert not re.search(r"\bos\.|'KEYS'|'SCAN'|'RANDOMKEY'|math\.random", scripts.text(name))


def test_a_text_is_the_same_object_each_time() -> None:
    """It is read on every call whose script Redis does not know."""
    assert scripts.text("claim") is scripts.text("claim")
