"""The admin port's one order: a drain, for the machine itself alone."""

from typing import Any, cast

import pytest
from starlette.types import Message

from cluster.admin import Readiness, admin_app


class Bench:
    def __init__(self, *, has_agents: bool = True) -> None:
        self.drains = 0
        drain = self.drain if has_agents else None
        self.app = admin_app(cast("Readiness", self), lambda: b"", drain)

    async def drain(self) -> None:
        self.drains += 1

    async def ask(self, method: str, address: str) -> int:
        answers: list[Message] = []
        scope: Any = {
            "type": "http", "method": method, "path": "/drain", "headers": [], "query_string": b"",
            "client": (address, 4711),
        }  # fmt: skip

        async def receive() -> Message:
            return {"type": "http.request", "body": b""}

        async def send(message: Message) -> None:
            answers.append(message)

        await self.app(scope, receive, send)
        return int(answers[0]["status"])


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
async def test_a_drain_is_answered_once_it_is_done(address: str) -> None:
    bench = Bench()
    assert (await bench.ask("POST", address), bench.drains) == (200, 1)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"])
async def test_another_machine_drains_nobody(address: str) -> None:
    bench = Bench()
    assert (await bench.ask("POST", address), bench.drains) == (403, 0)


async def test_looking_drains_nobody() -> None:
    bench = Bench()
    assert (await bench.ask("GET", "127.0.0.1"), bench.drains) == (405, 0)


async def test_a_process_without_agents_has_nothing_to_drain() -> None:
    assert await Bench(has_agents=False).ask("POST", "127.0.0.1") == 404
