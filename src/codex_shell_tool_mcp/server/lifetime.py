"""When the server ends although its client said nothing: signals, and the death of its parent."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_POLL_SECONDS = 1.0
"""Between looks at the parent where it cannot be waited for."""


class Ending:
    """Why the server is to end.

    Attributes:
        requested: Set once there is a reason.
        by_signal: The signal, if that was it.
    """

    def __init__(self) -> None:
        """Nothing asked for yet."""
        self.requested = asyncio.Event()
        self.by_signal: signal.Signals | None = None

    def on_signal(self, number: signal.Signals) -> None:
        """A signal came. A second one ends the process at once, in the signal's own way."""
        if self.by_signal is not None:
            die_of(number)
        self.by_signal = number
        self.requested.set()


@contextmanager
def ending_by_signals(ending: Ending) -> Iterator[None]:
    """Within it signals end the server in order. One that was ignored when it started (nohup) stays ignored."""
    loop = asyncio.get_running_loop()
    taken = [number for number in ENDING_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    for number in taken:
        loop.add_signal_handler(number, ending.on_signal, number)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)


def die_of(number: signal.Signals) -> None:
    """End as a process that never handled the signal does, so that whoever waits sees the truth."""
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)


async def parent_death(parent: int) -> None:
    """Return when ``parent``, this process's parent when it started, is gone.

    Not by a parent-death signal: that one comes when the *thread* that started us ends, and clients start servers from
    short-lived worker threads. A parent of 0 (in another PID namespace) or 1 is never waited for.
    """
    if parent <= 1:
        await asyncio.Event().wait()
    descriptor = _pidfd(parent)
    if descriptor is None:
        while os.getppid() == parent:
            await asyncio.sleep(_POLL_SECONDS)
        return
    try:
        if os.getppid() == parent:  # else it ended before it could be watched, and its number may be another's
            await _readable(descriptor)
    finally:
        os.close(descriptor)


def _pidfd(process: int) -> int | None:
    """A descriptor that becomes readable when the process ends; ``None`` where the kernel has none (or forbids it)."""
    try:
        return os.pidfd_open(process)
    except (AttributeError, OSError):
        return None


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_reader(descriptor, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(descriptor)
