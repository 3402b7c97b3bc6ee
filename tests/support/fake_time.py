"""An event loop whose clock moves only when there is nothing else to do, and then straight to the next timer.

Whatever is awaited happens in a fixed order, at exact times, at once. Descriptors work: what is ready comes before time
passes. Threads do not: nobody would wait for them.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

_T = TypeVar("_T")


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class _Selector(selectors.DefaultSelector):
    """Where a loop waits: with nothing ready, the time it would have waited is over."""

    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing will ever happen: a wake-up was lost"
            self._clock.now += timeout
        return ready


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """The loop; its ``time`` is the only clock there is."""

    def __init__(self) -> None:
        """At second 1000."""
        self._fake = _Clock()
        super().__init__(_Selector(self._fake))

    def time(self) -> float:
        """Seconds."""
        return self._fake()

    def pass_unseen(self, seconds: float) -> None:
        """Time that passes while the loop is kept from running."""
        self._fake.now += seconds


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """As :func:`asyncio.run`, in faked time."""
    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        return runner.run(work)


def loop() -> FakeTimeLoop:
    """The running one."""
    found = asyncio.get_running_loop()
    assert isinstance(found, FakeTimeLoop)
    return found
