"""Room for calls whose processes go on."""

from __future__ import annotations

import asyncio

import pytest

from codex_shell_tool_mcp.errors import UsageError
from codex_shell_tool_mcp.escalation.background import BackgroundCalls, Slot


def test_a_slot_that_is_not_used_is_free_again() -> None:
    async def run() -> None:
        calls = BackgroundCalls(most=1)
        with calls.slot(), pytest.raises(UsageError, match=r'1 calls keep background processes already.*"keep"'):
            calls.slot().__enter__()
        with calls.slot():
            assert len(calls) == 1
        assert len(calls) == 0

    asyncio.run(run())


def test_a_slot_is_taken_until_what_it_holds_is_over() -> None:
    async def run() -> None:
        calls, over = BackgroundCalls(most=1), asyncio.Event()

        async def rest() -> None:
            await over.wait()

        with calls.slot() as slot:
            slot.hold(rest())
        assert len(calls) == 1
        over.set()
        assert slot.task is not None
        await slot.task
        await asyncio.sleep(0)
        assert len(calls) == 0

    asyncio.run(run())


def test_the_end_ends_all() -> None:
    async def run() -> list[Slot]:
        calls, ended = BackgroundCalls(), []

        async def rest(slot: Slot) -> None:
            await slot.unwanted.wait()
            await asyncio.sleep(0.01)
            ended.append(slot)

        for _ in range(3):
            with calls.slot() as slot:
                slot.hold(rest(slot))
        await calls.end()
        assert len(calls) == 0
        return ended

    assert len(asyncio.run(run())) == 3


def test_nothing_to_end() -> None:
    asyncio.run(BackgroundCalls().end())


def test_a_call_that_is_cancelled_at_the_last_moment_keeps_nothing() -> None:
    """What is held has not taken its first step yet: it must, and then end."""

    async def run() -> bool:
        calls, ended = BackgroundCalls(), asyncio.Event()

        async def rest(slot: Slot) -> None:
            await slot.unwanted.wait()
            ended.set()

        def cancelled() -> None:
            with calls.slot() as slot:
                slot.hold(rest(slot))
                raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            cancelled()
        await asyncio.wait_for(ended.wait(), 60)
        return ended.is_set()

    assert asyncio.run(run())


def test_an_error_frees_the_slot(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        calls = BackgroundCalls()

        async def rest() -> None:
            raise ValueError("a bug")

        with calls.slot() as slot:
            slot.hold(rest())
        await calls.end()
        await asyncio.sleep(0)
        assert len(calls) == 0

    asyncio.run(run())
    assert "a bug" in caplog.text
