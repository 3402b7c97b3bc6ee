"""The call's clock: what counts, and that its end is never missed. In faked time, so exact and at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codex_shell_tool_mcp.escalation.stopwatch import Stopwatch
from support import fake_time

if TYPE_CHECKING:
    from collections.abc import Iterable

LONG = 1000
"""Later than anything below ends."""


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


@dataclass(frozen=True)
class Pause:
    """An approval: from when to when, in seconds; ``fails`` leaves it by an error, as a cancelled question does."""

    start: int
    length: int
    fails: bool = False


PAUSES = st.lists(st.builds(Pause, st.integers(0, 12), st.integers(0, 6), st.booleans()), max_size=8)
"""Few different times, so that many coincide, with each other and with the limit."""


def possible_ends(limit: int, pauses: Iterable[Pause]) -> set[int]:
    """By counting seconds: the first moment at which ``limit`` of them have passed without an open pause.

    Where a pause begins at that very moment, either may come first; then the end may be where no pause is open across.
    """
    stopped = {second for pause in pauses for second in range(pause.start, pause.start + pause.length)}
    now = counted = 0
    while counted < limit:
        counted += now not in stopped
        now += 1
    found = {now}
    while now in stopped:
        now += 1
        if not any(pause.start < now < pause.start + pause.length for pause in pauses):
            found.add(now)
    return found


async def approve(stopwatch: Stopwatch, pause: Pause) -> None:
    """Ask a person: half of all answers come right when the timer of another is due."""
    await asyncio.sleep(pause.start)
    try:
        with stopwatch.paused():
            await asyncio.sleep(pause.length)
            if pause.fails:
                raise ConnectionError
    except ConnectionError:
        return


def ends(limit: float, pauses: Iterable[Pause], *, waiters: int = 1, joined: float = 0) -> list[float]:
    """When the limit was said to be used up, by each of ``waiters``, that began to wait at ``joined``."""

    async def scenario() -> list[float]:
        loop = fake_time.loop()
        begun = loop.time()
        stopwatch = Stopwatch(limit, loop.time)

        async def wait() -> float:
            await asyncio.sleep(joined)
            await stopwatch.expired()
            return loop.time() - begun

        asking = [asyncio.create_task(approve(stopwatch, pause)) for pause in pauses]
        waiting = [asyncio.create_task(wait()) for _ in range(waiters)]
        # In a loop of its own clock, a missed wake-up is nothing left to wait for, or an end that is too late.
        async with asyncio.timeout(LONG):
            found = await asyncio.gather(*waiting)
        await asyncio.gather(*asking)
        return found

    return fake_time.run(scenario())


@given(st.integers(0, 10), PAUSES, st.integers(1, 3))
@example(5, [Pause(5, 3)], 1)
@example(5, [Pause(4, 1), Pause(5, 1), Pause(5, 0)], 2)
@example(5, [Pause(1, 6), Pause(2, 1, fails=True), Pause(3, 6)], 1)
def test_the_end_comes_exactly_when_the_limit_is_used_up(limit: int, pauses: list[Pause], waiters: int) -> None:
    """Invariant: every waiter is woken, at the second at which the unpaused time reaches the limit."""
    for end in ends(limit, pauses, waiters=waiters):
        assert any(end == pytest.approx(one) for one in possible_ends(limit, pauses)), end


@given(PAUSES, st.integers(0, 30))
def test_one_who_comes_late_is_told_as_well(pauses: list[Pause], joined: int) -> None:
    """Invariant: waiting begun when the time is up ends at once, but for a pause open by then."""
    (found,) = ends(4, pauses, joined=joined)
    over = max(possible_ends(4, pauses))
    if joined <= over or not any(pause.start <= joined <= pause.start + pause.length for pause in pauses):
        assert any(found == pytest.approx(max(one, joined)) for one in possible_ends(4, pauses))


@given(PAUSES)
def test_no_limit_never_ends(pauses: list[Pause]) -> None:
    async def scenario() -> None:
        loop = fake_time.loop()
        stopwatch = Stopwatch(None, loop.time)
        asking = [asyncio.create_task(approve(stopwatch, pause)) for pause in pauses]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(LONG):
                await stopwatch.expired()
        await asyncio.gather(*asking)

    fake_time.run(scenario())


def test_a_pause_counts_though_the_loop_comes_to_look_too_late() -> None:
    """An approval begins half a second before the time is up, and the loop then stands still until after it."""

    async def scenario() -> float:
        loop = fake_time.loop()
        begun, stopwatch = loop.time(), Stopwatch(5, loop.time)

        async def approve() -> None:
            await asyncio.sleep(4.5)
            with stopwatch.paused():
                loop.pass_unseen(2)
                await asyncio.sleep(1)

        asking = asyncio.create_task(approve())
        await stopwatch.expired()
        await asking
        return loop.time() - begun

    assert fake_time.run(scenario()) == pytest.approx(5 + 2 + 1)


def test_zero_expires_at_once() -> None:
    assert ends(0, []) == [0]


def test_an_approval_without_end_holds_the_clock() -> None:
    with pytest.raises(TimeoutError):
        ends(1, [Pause(0, 2 * LONG)])


def test_the_longest_limit_a_call_can_name() -> None:
    """2^64 - 1 milliseconds."""
    with pytest.raises(TimeoutError):
        ends((2**64 - 1) / 1000, [Pause(1, 1)])


def test_the_default_clock_is_the_loops() -> None:
    """Else the time left would be counted on one and waited for on the other."""
    before = asyncio.run(_now())
    assert before <= Stopwatch(1)._clock() <= asyncio.run(_now())


async def _now() -> float:
    return asyncio.get_running_loop().time()
