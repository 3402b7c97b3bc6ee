"""Calls that were answered while processes of theirs go on, as their callers asked."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from codex_shell_tool_mcp.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

_LOG = logging.getLogger(__name__)

MAX_KEPT = 16
"""Calls whose processes go on: each has a supervisor and half a dozen descriptors of this process."""


class Slot:
    """Room for what one call leaves. Unused unless something is held in it.

    Attributes:
        unwanted: Set when what is held is to be ended: a task that is cancelled before its first step never takes one.
        task: What sees to it.
    """

    def __init__(self) -> None:
        """Empty."""
        self.unwanted = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def hold(self, rest: Coroutine[Any, Any, None]) -> None:
        """See to the rest of a call: ``rest`` returns when nothing of it is left, soon once it is unwanted."""
        self.task = asyncio.get_running_loop().create_task(rest)


class BackgroundCalls:
    """All such calls of one client, on one event loop."""

    def __init__(self, most: int = MAX_KEPT) -> None:
        """None yet."""
        self._most = most
        self._slots: set[Slot] = set()

    def __len__(self) -> int:
        """How many slots are taken."""
        return len(self._slots)

    @contextmanager
    def slot(self) -> Iterator[Slot]:
        """Room for one call, taken before it starts.

        Left by an error, what is held is ended: the caller never learns of it.

        Raises:
            UsageError: There is none.
        """
        if len(self._slots) >= self._most:
            raise UsageError(
                f"{self._most} calls keep background processes already, or may, and that is the limit: wait until some "
                'of those processes have ended or end them, or call without "background": "keep"'
            )
        slot = Slot()
        self._slots.add(slot)
        try:
            yield slot
        except BaseException:
            slot.unwanted.set()
            raise
        finally:
            if slot.task is None:
                self._slots.discard(slot)
            else:
                slot.task.add_done_callback(lambda task: self._ended(slot, task))

    async def end(self) -> None:
        """End everything that goes on."""
        for slot in self._slots:
            slot.unwanted.set()
        if tasks := [slot.task for slot in self._slots if slot.task is not None]:
            await asyncio.wait(tasks)

    def _ended(self, slot: Slot, task: asyncio.Task[None]) -> None:
        self._slots.discard(slot)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("background processes were ended by an error: %r", error)
