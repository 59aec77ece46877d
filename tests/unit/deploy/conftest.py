"""The overlays of `deploy/kubernetes`, each rendered once."""

from collections.abc import Callable
from functools import cache

import pytest

from tests.support.kustomize import Object, rendered

OVERLAYS = ("single", "ha", "dev")


@pytest.fixture(scope="session")
def render(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Object]]:
    return cache(lambda overlay: rendered(overlay, tmp_path_factory.mktemp(overlay)))


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def objects(render: Callable[[str], list[Object]], overlay: str) -> list[Object]:
    return render(overlay)
