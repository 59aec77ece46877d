"""Many simulated agents that share an event loop and a recorder.

async with Fleet(url, 200, recorder=recorder, run=quick()) as fleet:
    await fleet.connected()
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Self

from tests.support.agent_options import Options, Timings
from tests.support.eventually import eventually
from tests.support.recorder import Recorder
from tests.support.simulated_agent import SimulatedAgent
from tests.support.task_runner import Behaviour

SECRET = "secret-of-"


class Fleet:
    """Agents `prefix-0`, `prefix-1` and so on, with host ids from `first_host_id`. `url_of` spreads them over several addresses.

    Their tokens begin with `SECRET`, so that a token is known wherever it stands and should not.
    """

    def __init__(
        self,
        base_url: str,
        count: int,
        *,
        recorder: Recorder,
        prefix: str = "agent",
        first_host_id: int = 1,
        timings: Timings | None = None,
        run: Behaviour | None = None,
        options: Options | None = None,
        url_of: Callable[[int], str] | None = None,
    ) -> None:
        self.agents = [
            SimulatedAgent(
                url_of(number) if url_of else base_url,
                token=f"{SECRET}{prefix}-{number}",
                name=f"{prefix}-{number}",
                host_id=first_host_id + number,
                recorder=recorder,
                timings=timings,
                run=run,
                options=options,
            )
            for number in range(count)
        ]

    async def start(self, per_second: float = 500.0) -> None:
        """Start them at this pace."""
        for agent in self.agents:
            agent.start()
            await asyncio.sleep(1 / per_second)

    async def connected(self, timeout_s: float = 60.0) -> None:
        """Wait until all are connected. Raises: AssertionError with where the others are."""
        await eventually(self.elsewhere, timeout_s, every_s=0.05)

    async def settled(self, timeout_s: float = 60.0) -> None:
        """Wait until everything they sent is acked and no task runs. Raises: AssertionError with what is left."""
        await eventually(self.unsettled, timeout_s, every_s=0.05)

    async def stop(self) -> None:
        """End all of them."""
        await asyncio.gather(*(agent.stop() for agent in self.agents))

    def elsewhere(self) -> str:
        """How many are in which state, of those that are not connected; "" when all are."""
        states = Counter(agent.state.value for agent in self.agents if not agent.is_connected)
        return ", ".join(f"{count} of {len(self.agents)} agents {state}" for state, count in states.items())

    def unsettled(self) -> str:
        """What is still under way; "" when nothing is."""
        unacked = sum(agent.unacked for agent in self.agents)
        processes = [agent.process for agent in self.agents if agent.agent_id]
        tasks = sum(len(process.tasks.running) + len(process.tasks.waiting) for process in processes)
        return f"{unacked} messages not acked, {tasks} tasks not finished" if unacked or tasks else ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
