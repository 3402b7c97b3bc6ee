"""What a call prints: kept within bounds, read to its end, whatever the bytes and however slow."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codex_shell_tool_mcp.process.output import CHUNK, PATIENCE, QUIET, Ends, OutputCapture
from support import fake_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MARKER = re.compile(r"\n\[\.\.\. (\d+) bytes of output left out \.\.\.\]\n")

TEXT = st.text(st.characters(codec="utf-8"))


def kept(pieces: Iterable[bytes], limit: int) -> str:
    """The text kept of ``pieces``, written one after the other."""
    ends = Ends(limit)
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    try:
        for piece in pieces:
            os.write(write_end, piece)
            left = len(piece)
            while left:
                left -= ends.read(read_end)
    finally:
        os.close(read_end)
        os.close(write_end)
    return ends.text()


def test_everything_is_kept_up_to_the_limit() -> None:
    assert kept([b"one\n", b"two\n"], 8) == "one\ntwo\n"


def test_beyond_it_the_first_and_last_parts_and_how_much_is_missing() -> None:
    assert kept([b"A" * 6, b"B" * 6, b"C" * 6], 8) == "AAAA\n[... 10 bytes of output left out ...]\nCCCC"


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_small_limits(limit: int) -> None:
    text = kept([b"0123456789"], limit)
    marker = MARKER.search(text)
    assert marker
    assert int(marker[1]) == 10 - limit
    assert MARKER.sub("", text) == "0123456789"[: limit - limit // 2] + "0123456789"[10 - limit // 2 :]


def test_invalid_utf8_is_replaced() -> None:
    assert kept([b"a\xffb\xe2\x82"], 100) == "a\ufffdb\ufffd"
    assert kept([b"\x80" * 9], 4) == "\ufffd\ufffd\n[... 7 bytes of output left out ...]\n"
    assert kept([b"\x80" * 30], 10) == "\ufffd" * 5 + "\n[... 23 bytes of output left out ...]\n" + "\ufffd" * 2


def test_no_character_is_cut_in_two() -> None:
    """Each has three bytes and neither part is a multiple of that."""
    assert kept(["äöü€€€€€€".encode()], 10) == "äö\n[... 17 bytes of output left out ...]\n€"


@given(TEXT, st.integers(1, 40), st.lists(st.integers(1, 20)))
@example("€" * 20, 7, [1] * 60)
def test_text_is_cut_between_characters_only(text: str, limit: int, sizes: list[int]) -> None:
    """Invariant: a beginning, an end, and the number of bytes between them; together as much as fits."""
    data = text.encode()
    found = kept(_pieces(data, sizes), limit)
    if len(data) <= limit:
        assert found == text
        return
    for marker in MARKER.finditer(found):  # the text may hold lines like it
        first, last = found[: marker.start()], found[marker.end() :]
        size = len(first.encode()) + len(last.encode())
        if text.startswith(first) and text.endswith(last) and size + int(marker[1]) == len(data):
            assert limit - 6 <= size <= limit
            return
    pytest.fail(found)


@given(st.binary(max_size=200), st.integers(1, 60), st.lists(st.integers(1, 50)))
def test_any_bytes_are_text(data: bytes, limit: int, sizes: list[int]) -> None:
    found = kept(_pieces(data, sizes), limit)
    found.encode()
    if len(data) <= limit:
        assert found == data.decode("utf-8", "replace")
    else:
        assert MARKER.search(found)


def _pieces(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        if data:
            yield data[:size]
        data = data[size:]
    if data:
        yield data


def test_the_last_part_is_right_wherever_reads_end() -> None:
    """Reads of all sizes, several times round what holds the last part."""
    data = b"".join(b"%06d\n" % number for number in range(150_000))
    sizes = [1, CHUNK, 7, 4096, CHUNK - 1, 11_111]
    limit = 300_001
    found = kept(_pieces(data, sizes * 8), limit)
    pieces = _pieces(data, [CHUNK] * 40)
    assert kept(pieces, limit) == found
    half = limit // 2
    dropped = len(data) - limit
    expected = data[: half + 1] + b"\n[... %d bytes of output left out ...]\n" % dropped + data[-half:]
    assert found == expected.decode()


def capturing(
    work: Callable[[OutputCapture, int], asyncio.Future[None] | None], limit: int = 1000
) -> tuple[str, float]:
    """What is kept and how long reading on took, in faked time; ``work`` gets the capture and the pipe's write end."""

    async def scenario() -> tuple[str, float]:
        read_end, write_end = os.pipe()
        capture = OutputCapture(read_end, limit)
        work(capture, write_end)
        begun = fake_time.loop().time()
        await capture.drain()
        took = fake_time.loop().time() - begun
        capture.close()
        return capture.text(), took

    return fake_time.run(scenario())


def later(times: Iterable[float], write_end: int) -> None:
    """Write a dot at each of these times."""
    for at in times:
        fake_time.loop().call_later(at, os.write, write_end, b".")


def test_the_end_is_the_end() -> None:
    def write(capture: OutputCapture, write_end: int) -> None:
        os.write(write_end, b"all")
        os.close(write_end)

    assert capturing(write) == ("all", 0)


def test_an_open_pipe_is_given_up_after_silence() -> None:
    text, took = capturing(lambda _, write_end: later([0.2, 0.44, 0.68, 0.94], write_end))
    assert text == "..."
    assert took == pytest.approx(0.68 + QUIET)


def test_what_was_printed_before_does_not_shorten_the_silence() -> None:
    def write(_: OutputCapture, write_end: int) -> None:
        os.write(write_end, b"started\n")
        fake_time.loop().pass_unseen(10)
        later([QUIET - 0.01], write_end)

    text, took = capturing(write)
    assert text == "started\n."
    assert took == pytest.approx(2 * QUIET - 0.01)


def test_a_job_that_goes_on_printing_is_given_up_as_well() -> None:
    text, took = capturing(lambda _, write_end: later([number / 10 + 0.05 for number in range(30)], write_end))
    assert text == "." * 10
    assert took == pytest.approx(PATIENCE)


def test_what_came_while_the_server_was_busy_is_no_silence() -> None:
    """The loop was kept from running, longer than the silence is: what lies in the pipe is read, and more awaited."""

    def stall(write_end: int) -> None:
        os.write(write_end, b"late")
        fake_time.loop().pass_unseen(QUIET + 0.1)

    def write(_: OutputCapture, write_end: int) -> None:
        fake_time.loop().call_later(0.1, stall, write_end)
        later([0.6], write_end)

    text, took = capturing(write)
    assert text == "late."
    assert took == pytest.approx(0.6 + QUIET)


def test_a_flood_keeps_nobody_waiting() -> None:
    """However much there is, a turn of the loop reads once, a bounded amount, and then others have theirs."""

    async def scenario() -> None:
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        capture = OutputCapture(read_end, 8 * 1024 * 1024)
        seen = -1
        for _ in range(40):
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(write_end, b"x" * 4096)
            await asyncio.sleep(0)  # one turn, whose reads come after us
            assert seen < capture._kept._total <= max(seen, 0) + CHUNK
            seen = capture._kept._total
        capture.close()
        os.close(write_end)

    asyncio.run(scenario())


@pytest.mark.parametrize("limit", [1000, 10 * CHUNK])
def test_memory_is_what_is_kept_and_one_read(limit: int) -> None:
    """Whatever the volume: nothing but the two parts is held."""
    ends = Ends(limit)
    with Path("/dev/zero").open("rb", buffering=0) as endless:
        for _ in range(2000):
            ends.read(endless.fileno())
    assert len(ends._head) + len(ends._ring) <= max(limit, limit // 2 + CHUNK)
    assert "bytes of output left out" in ends.text()
