"""The call's clock."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_shell_tool_mcp.escalation.stopwatch import Stopwatch


class FakeClock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.sampled_from(["pass", "pause", "resume"]), st.integers(0, 50)), max_size=30))
def test_only_unpaused_time_counts(steps: list[tuple[str, int]]) -> None:
    """Invariant: elapsed is the sum of what passed while no pause was open, whatever their nesting."""
    clock, expected = FakeClock(), 0
    stopwatch, open_pauses = Stopwatch(1000, clock), []
    for step, amount in steps:
        if step == "pause":
            open_pauses.append(stopwatch.paused())
            open_pauses[-1].__enter__()
        elif step == "resume" and open_pauses:
            open_pauses.pop(0).__exit__(None, None, None)
        else:
            clock.now += amount
            expected += 0 if open_pauses else amount
        assert stopwatch.elapsed() == expected
        assert stopwatch.remaining() == max(0, 1000 - expected)


def test_unlimited_never_expires() -> None:
    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await Stopwatch(None).expired()

    asyncio.run(scenario())


def test_zero_expires_at_once() -> None:
    asyncio.run(asyncio.wait_for(Stopwatch(0).expired(), 5))


def test_a_pause_before_the_limit_holds_the_clock_and_a_resume_starts_it_again() -> None:
    async def scenario() -> None:
        clock = FakeClock()
        stopwatch = Stopwatch(0.01, clock)
        expiry = asyncio.create_task(stopwatch.expired())
        await asyncio.sleep(0)
        with stopwatch.paused():
            clock.now += 60
            await asyncio.sleep(0.05)
            assert not expiry.done()
        clock.now += 1
        await asyncio.wait_for(expiry, 5)

    asyncio.run(scenario())


def test_a_pause_and_resume_in_one_turn_are_not_lost() -> None:
    async def scenario() -> None:
        clock = FakeClock()
        stopwatch = Stopwatch(10, clock)
        expiry = asyncio.create_task(stopwatch.expired())
        await asyncio.sleep(0)
        with stopwatch.paused():
            clock.now += 60
        clock.now += 10
        with stopwatch.paused():
            pass
        await asyncio.wait_for(expiry, 5)

    asyncio.run(scenario())
