"""CPU time is that of all of a process; agents are dealt out to the processes that play them."""

import os
import threading
import time
from typing import cast

import pytest

from cluster.errors import StartError
from cluster.lab.bench import crew
from cluster.lab.bench.crew import Fleet, Worker
from cluster.lab.bench.meter import Meter, memory_bytes
from cluster.lab.bench.tally import Tally


def test_cpu_time_is_that_of_all_threads() -> None:
    is_done, is_over = threading.Event(), threading.Event()

    def burn() -> None:
        while time.thread_time() < 0.1:
            pass
        is_done.set()
        is_over.wait()

    meter = Meter({"us": os.getpid()})
    thread = threading.Thread(target=burn)
    thread.start()
    is_done.wait()
    spent_s = meter.spent_s()["us"]
    is_over.set()
    thread.join()
    assert spent_s > 0.09


def test_waiting_costs_no_cpu_time() -> None:
    meter = Meter({"us": os.getpid()})
    began = time.process_time()
    time.sleep(0.2)
    assert meter.spent_s()["us"] < time.process_time() - began + 0.05


def test_memory_grows_by_what_is_written() -> None:
    before = memory_bytes(os.getpid())
    held = bytearray(os.urandom(1 << 20) * 32)
    assert memory_bytes(os.getpid()) - before > 24 << 20
    assert held


class Told:
    """A process that does what it is told at once."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, dict[str, object]]] = []

    async def do(self, order: str, **given: object) -> Tally:
        self.orders.append((order, given))
        return Tally(done=cast("int", given.get("count", 1)), seconds=1.0)


async def test_agents_are_dealt_out_and_nobody_is_two() -> None:
    processes = [Told(), Told()]
    fleet = Fleet([cast("Worker", process) for process in processes])
    assert (await fleet.grow("h", 1, 5)).done == 5
    assert (await fleet.grow("h", 1, 12)).done == 7
    numbers = [
        number
        for process in processes
        for _, given in process.orders
        for number in range(cast("int", given["first"]), cast("int", given["first"]) + cast("int", given["count"]))
    ]
    assert sorted(numbers) == list(range(12))
    assert fleet.count == 12


async def test_the_rate_is_that_of_all_together() -> None:
    processes = [Told(), Told()]
    fleet = Fleet([cast("Worker", process) for process in processes])
    await fleet.grow("h", 1, 3)
    await fleet.pace("result", 300.0, 1.0)
    assert [process.orders[-1][1]["per_s"] for process in processes] == [200.0, 100.0]


@pytest.mark.parametrize(("agents", "processes"), [(1, 1), (crew.AGENTS_A_WORKER, 1), (crew.AGENTS_A_WORKER + 1, 2)])
async def test_a_large_fleet_has_more_processes(agents: int, processes: int) -> None:
    async with crew.fleet(agents) as fleet:
        assert len(fleet._workers) == processes


async def test_an_order_that_fails_is_told_in_a_line() -> None:
    async with crew.worker() as worker:
        with pytest.raises(StartError, match=r"no\.such: KeyError"):
            await worker.do("no.such")
        assert (await worker.do("agents.close")).done == 0
