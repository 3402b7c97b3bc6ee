"""A call's clock, which stands still while a person is asked."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Stopwatch:
    """Counts running time against a limit, in seconds; ``None`` never expires.

    Overlapping pauses count once. Everything happens on one event loop and nothing is awaited between reading the state
    and arming the wake-up, so that none is lost (spec/exec.md section 9 describes the original's race).
    """

    def __init__(self, limit: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Start at once; ``clock`` gives seconds and never goes back."""
        self._limit = limit
        self._clock = clock
        self._accumulated = 0.0
        self._running_since: float | None = clock()
        self._pauses = 0
        self._changed = asyncio.Event()

    def elapsed(self) -> float:
        """Seconds that counted so far."""
        if self._running_since is None:
            return self._accumulated
        return self._accumulated + self._clock() - self._running_since

    def remaining(self) -> float | None:
        """Seconds left, not below 0; ``None`` without a limit."""
        return None if self._limit is None else max(0.0, self._limit - self.elapsed())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock for the length of the block."""
        self._pause()
        try:
            yield
        finally:
            self._resume()

    async def expired(self) -> None:
        """Return once the limit is used up; never without one."""
        while True:
            self._changed.clear()
            left = None if self._running_since is None else self.remaining()
            if left is not None and left <= 0:
                return
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                continue  # look again: the clock may have been paused in the same turn

    def _pause(self) -> None:
        self._pauses += 1
        if self._pauses == 1:
            self._accumulated = self.elapsed()
            self._running_since = None
            self._changed.set()

    def _resume(self) -> None:
        self._pauses -= 1
        if self._pauses == 0:
            self._running_since = self._clock()
            self._changed.set()
