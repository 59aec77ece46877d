"""Output on its way: cut into lines, joined into messages, limited."""

import asyncio
import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.lab import output as output_module
from cluster.lab.output import JOIN_LINES, MAX_LINE_BYTES, LineCutter, Output, OutputLine
from tests.support.eventually import eventually


class Kept:
    """What was handed on, message by message."""

    def __init__(self) -> None:
        self.messages: list[list[OutputLine]] = []
        self.is_full = False

    async def keep(self, lines: list[OutputLine]) -> bool:
        self.messages.append(lines)
        return not self.is_full

    @property
    def contents(self) -> list[str]:
        return [line.content for message in self.messages for line in message]


@pytest.fixture
def kept() -> Kept:
    return Kept()


def cut(*chunks: bytes) -> list[bytes]:
    cutter = LineCutter()
    return [line for chunk in chunks for line in cutter.feed(chunk)] + cutter.end()


async def follow(output: Output, data: bytes, folder: Path) -> None:
    """Has the output read these bytes from a pipe."""
    (folder / "data").write_bytes(data)
    process = await asyncio.create_subprocess_exec("cat", folder / "data", stdout=(pipe := os.pipe())[1])
    os.close(pipe[1])
    output.follow(os.fdopen(pipe[0], "rb", 0), "stdout")
    await process.wait()


# ---- cutting


def test_lines_are_cut_at_line_ends_wherever_the_chunks_end() -> None:
    assert cut(b"on", b"e\ntwo\r", b"\n\nfour") == [b"one", b"two", b"", b"four"]


def test_a_line_over_64_kib_becomes_several_and_nothing_is_lost() -> None:
    line = b"x" * (2 * MAX_LINE_BYTES + 5)
    assert [len(piece) for piece in cut(line[:100], line[100:], b"\n")] == [MAX_LINE_BYTES, MAX_LINE_BYTES, 5]


def test_no_character_is_torn_apart_where_a_long_line_is_cut() -> None:
    text = "x" + "€" * MAX_LINE_BYTES
    pieces = cut(text.encode())
    assert "".join(piece.decode() for piece in pieces) == text
    assert max(map(len, pieces)) <= MAX_LINE_BYTES


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_however_bytes_arrive_the_lines_are_the_same(data: bytes, places: list[int]) -> None:
    edges = [0, *sorted(places), len(data)]
    chunks = [data[start:end] for start, end in itertools.pairwise(edges)]
    assert cut(*chunks) == cut(data)
    assert b"\n".join(cut(data)).replace(b"\r", b"") == data.removesuffix(b"\n").replace(b"\r", b"")


# ---- joining


async def test_lines_that_come_together_share_a_message(kept: Kept) -> None:
    output = Output(kept.keep)
    for number in range(JOIN_LINES + 3):
        await output.write("stdout", str(number))
    await output.finish()
    assert [len(message) for message in kept.messages] == [JOIN_LINES, 3]


async def test_a_line_does_not_wait_for_the_next_one(kept: Kept) -> None:
    output = Output(kept.keep)
    await output.write("stdout", "alone")
    await eventually(lambda: "nothing came" if not kept.messages else "")
    await output.finish()
    assert kept.contents == ["alone"]


async def test_bytes_that_are_no_utf8_are_replaced(kept: Kept, tmp_path: Path) -> None:
    output = Output(kept.keep)
    await follow(output, b"a\xff\xfeb\n\x00\n", tmp_path)
    await output.finish()
    assert kept.contents == ["a��b", "\0"]
    assert output.size_bytes == 7


# ---- limits


async def test_a_pipe_waits_while_its_lines_are_not_taken_and_loses_none(kept: Kept, tmp_path: Path) -> None:
    may_go = asyncio.Event()

    async def slowly(lines: list[OutputLine]) -> bool:
        await may_go.wait()
        return await kept.keep(lines)

    output = Output(slowly)
    lines = [f"{number:050}" for number in range(20_000)]  # 1 MB
    following = asyncio.create_task(follow(output, "\n".join(lines).encode(), tmp_path))
    await eventually(lambda: "nothing read" if not output.size_bytes else "")
    assert not following.done()  # more than a pipe holds: the writer waits
    may_go.set()
    await following
    await output.finish()
    assert kept.contents == lines


async def test_what_is_beyond_the_limit_is_counted_and_not_sent(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_module, "LIMIT_BYTES", 10)
    output = Output(kept.keep)
    for text in ("12345", "67890", "x", "y"):
        await output.write("stdout", text)
    await output.finish()
    assert kept.contents[:2] == ["12345", "67890"]
    assert kept.contents[2:] == ["[2 lines of this output were not sent: too much of it, or the outbox was full]"]


async def test_lines_that_nobody_keeps_are_counted(kept: Kept) -> None:
    kept.is_full = True
    output = Output(kept.keep)
    await output.write("stdout", "x")
    await output.finish()
    assert kept.contents[-1].startswith("[1 lines of this output were not sent")


async def test_a_pipe_that_a_daemon_holds_is_left_when_it_is_silent(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "SILENCE_S", 0.05)
    reading, writing = os.pipe()
    output = Output(kept.keep)
    output.follow(os.fdopen(reading, "rb", 0), "stdout")
    os.write(writing, b"still here\nand here")
    await asyncio.wait_for(output.finish(), 5)
    os.close(writing)
    assert kept.contents == ["still here", "and here"]
