"""What a call prints, kept within bounds."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.process.output import OutputCapture

if TYPE_CHECKING:
    from collections.abc import Iterable


def collect(pieces: Iterable[bytes], limit: int, *, leave_open: bool = False) -> tuple[str, float]:
    """The text kept of ``pieces``, and the seconds that draining took."""

    async def scenario() -> tuple[str, float]:
        read_end, write_end = os.pipe()
        capture = OutputCapture(read_end, limit)
        for piece in pieces:
            await asyncio.to_thread(os.write, write_end, piece)
        if not leave_open:
            os.close(write_end)
        begun = asyncio.get_running_loop().time()
        await capture.drain()
        took = asyncio.get_running_loop().time() - begun
        capture.close()
        if leave_open:
            os.close(write_end)
        return capture.text(), took

    return asyncio.run(scenario())


def test_everything_is_kept_up_to_the_limit() -> None:
    assert collect([b"one\n", b"two\n"], 8)[0] == "one\ntwo\n"


def test_beyond_it_the_first_and_last_parts_and_how_much_is_missing() -> None:
    text, _ = collect([b"A" * 6, b"B" * 6, b"C" * 6], 8)
    assert text == "AAAA\n[... 10 bytes of output left out ...]\nCCCC"


def test_memory_is_bounded() -> None:
    text, _ = collect([b"x" * 60_000] * 50, 1000)
    assert len(text) < 1100


def test_invalid_utf8_is_replaced() -> None:
    assert collect([b"a\xffb"], 100)[0] == "a\ufffdb"


def test_an_open_pipe_is_given_up_after_silence() -> None:
    text, took = collect([b"started\n"], 100, leave_open=True)
    assert text == "started\n"
    assert took >= 0.2


@pytest.mark.parametrize("limit", [2, 3, 7])
def test_small_limits(limit: int) -> None:
    text, _ = collect([b"0123456789"], limit)
    assert text.startswith("0")
    assert text.endswith("9")
