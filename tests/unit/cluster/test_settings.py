"""The settings and their example; none of them shows a secret."""

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cluster import settings
from cluster.config import load
from cluster.settings import Auth, ControlPlane, Redis, Settings
from tests.support.config_text import SECRET

EXAMPLE = Path(__file__).parents[3] / "configs" / "config.yaml.example"

pytestmark = pytest.mark.usefixtures("nowhere")


def test_the_example_loads_strictly_and_holds_the_defaults() -> None:
    loaded = load(str(EXAMPLE), environ={})
    assert loaded.warnings == ()
    assert msgspec.structs.replace(loaded.settings, cluster=settings.Cluster()) == Settings()
    assert loaded.settings.cluster.data_dir == str(EXAMPLE.parent / "data")


def test_the_example_holds_every_key_and_no_other() -> None:
    assert set(load(str(EXAMPLE), environ={}).given) == set(settings.keys())


def test_the_example_says_what_each_key_means_and_its_default() -> None:
    lines = [line for line in EXAMPLE.read_text(encoding="utf-8").splitlines() if line.startswith("  ")]
    assert len(lines) == len(settings.keys())
    for line, key in zip(lines, settings.keys().values(), strict=True):
        written, _, comment = line.partition(" # ")
        assert written.split(":")[0].strip() == key.name.partition(".")[2]
        assert re.search(r"default ", comment), line
        assert ("[secret]" in comment) == key.is_secret, line
        is_idle = key.name in settings.WITHOUT_EFFECT and key.name not in (*settings.ASKING, *settings.POLLING)
        assert ("[no effect]" in comment) == is_idle, line


FULL = Settings(
    auth=Auth(shared_secret=f"a-{SECRET}"),
    control_plane=ControlPlane(token=f"b-{SECRET}", url=f"http://me:c-{SECRET}@plane/x"),
    redis=Redis(password=f"d-{SECRET}", url=f"redis://me:e-{SECRET}@store:6379/0?password=f-{SECRET}"),
)


SHOWN_BY: dict[str, Callable[[Settings], str]] = {
    "repr": repr,
    "str": str,
    "ascii": ascii,
    "format": "{}".format,
    "sections": lambda it: f"{it.redis}{it.auth}{it.control_plane}",
}


@pytest.mark.parametrize("show", list(SHOWN_BY))
def test_settings_never_show_a_secret(show: str) -> None:
    shown = SHOWN_BY[show](FULL)
    assert SECRET not in shown
    assert "shared_secret='***'" in shown
    assert "redis://***@store:6379/0?***" in shown
    assert "http://***@plane/x" in shown


def test_rich_sees_no_secret_either() -> None:
    sections = [FULL.auth, FULL.redis, FULL.control_plane]
    assert SECRET not in str([section.__rich_repr__() for section in sections])
    assert SECRET not in str([section.shown() for section in sections])


def test_a_secret_that_is_not_set_is_shown_as_empty() -> None:
    assert repr(Auth()).startswith("Auth(shared_secret='', ")


def test_the_secrets_are_listed_for_redaction_longest_first() -> None:
    encoded = Redis(url="redis://:p%40ssword@h", password="abc")
    assert set(FULL.secrets()) == {f"{letter}-{SECRET}" for letter in "abcdef"}
    assert Settings(redis=encoded).secrets() == ("p%40ssword", "p@ssword")
    assert Settings(control_plane=ControlPlane(url="http://[a")).secrets() == ()
