"""A process says when Redis is lost, and why, and when it is back; and is ready in between for a while."""

import asyncio
import logging
from typing import cast

import pytest

from cluster import admin
from cluster.admin import Readiness
from cluster.redis_client import Store
from tests.support.eventually import eventually


class Answering:
    """In the place of a Store: says what the test says."""

    says = ""

    async def trouble(self) -> str:
        return self.says


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "PROBE_S", 0.01)
    monkeypatch.setattr(admin, "TELL_S", 0.05)
    monkeypatch.setattr(admin, "GRACE_S", 0.1)


async def test_a_loss_and_a_return_are_told_once_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    store = Answering()
    readiness = Readiness(cast("Store", store))
    readiness.is_serving = True
    watching = asyncio.create_task(readiness.watch())
    await eventually(lambda: readiness.obstacle)
    store.says = "Redis refuses the password"
    await eventually(lambda: readiness.obstacle != "Redis refuses the password" and "still ready")
    store.says = ""
    await eventually(lambda: readiness.obstacle)
    watching.cancel()
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told[0] == "Redis refuses the password: agents' messages wait, calls are refused with 503"
    assert told[1].startswith("Redis answers again, after 0.")
    assert len(told) == 2


async def test_a_hiccup_is_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    store = Answering()
    readiness = Readiness(cast("Store", store))
    watching = asyncio.create_task(readiness.watch())
    await asyncio.sleep(0.02)
    store.says = "Redis does not answer"
    await asyncio.sleep(0.02)
    store.says = ""
    await asyncio.sleep(0.1)
    watching.cancel()
    assert not caplog.records
