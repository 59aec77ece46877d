"""Load that is due goes out, and is timed from when it was due."""

import asyncio
import itertools
import time
from typing import cast

import pytest

from cluster.lab.bench import bare, pace
from cluster.lab.bench.http_link import HttpLink
from cluster.lab.bench.tally import Tally, percentile, together
from cluster.service import GC_THRESHOLDS
from tests.support.eventually import eventually


async def test_what_fell_behind_goes_out_and_stays_due_when_it_was() -> None:
    due: list[int] = []
    began_ns = time.monotonic_ns()

    def fire(due_ns: int) -> None:
        if not due:
            time.sleep(0.1)  # the client itself was held up
        due.append(due_ns)

    assert await pace.at_rate(1000, 0.2, fire) == 200
    gaps = {after - before for before, after in itertools.pairwise(due)}
    assert max(gaps) - min(gaps) <= 1
    assert due[-1] - began_ns < 0.3e9


async def test_what_cannot_be_sent_ends_the_load() -> None:
    def fire(due_ns: int) -> None:
        raise ConnectionResetError

    async with asyncio.timeout(5.0):
        with pytest.raises(ConnectionResetError):
            await pace.at_rate(1000, 30.0, fire)


async def test_load_that_nobody_wants_any_more_ends() -> None:
    fired: list[int] = []
    load = asyncio.create_task(pace.at_rate(1000, 30.0, fired.append))
    await eventually(lambda: not fired)
    load.cancel()
    await asyncio.wait([load])
    count = len(fired)
    await asyncio.sleep(0.05)
    assert len(fired) == count


def test_a_percentile_is_one_of_the_values() -> None:
    values = list(range(1000))
    assert (percentile(values, 0.5), percentile(values, 0.999), percentile(values, 1.0)) == (500, 999, 999)
    assert percentile([], 0.5) == 0


def test_what_went_on_at_the_same_time_takes_as_long_as_the_longest() -> None:
    whole = together([Tally(1, 2, 3.0, [4], ["a"]), Tally(10, 20, 1.0, [40], ["b"])])
    assert whole == Tally(11, 22, 3.0, [4, 40], ["a", "b"])
    assert whole.per_s == pytest.approx(11 / 3)


class Wire:
    def write(self, data: bytes) -> None: ...


@pytest.mark.parametrize("piece", [1, 5, 1000])
def test_an_answer_is_whole_whatever_pieces_it_comes_in(piece: int) -> None:
    answers: list[tuple[int, bytes]] = []
    link = HttpLink(lambda _, status, body: answers.append((status, body)))
    link.connection_made(cast("asyncio.Transport", Wire()))
    for _ in range(2):
        link.ask(b"")
        said = b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"a": "bcd"}'[:-1]
        for start in range(0, len(said), piece):
            link.data_received(said[start : start + piece])
    assert answers == [(200, b'{"a": "bcd"')] * 2


def test_a_connection_lost_over_a_call_is_an_answer() -> None:
    answers: list[int] = []
    link = HttpLink(lambda _, status, __: answers.append(status))
    link.connection_made(cast("asyncio.Transport", Wire()))
    link.connection_lost(None)
    link.ask(b"")
    link.connection_lost(None)
    assert answers == [0]


def test_bare_servers_collect_garbage_as_nodes_do() -> None:
    assert bare.GC_THRESHOLDS == GC_THRESHOLDS
