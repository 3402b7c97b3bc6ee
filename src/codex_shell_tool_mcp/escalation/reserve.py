"""Supervisors that wait for a call, so that no call has to wait for one."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codex_shell_tool_mcp.escalation.supervision import Supervision

_LOG = logging.getLogger(__name__)

MOST = 4
"""How many wait at most: as many as calls ran at once, and a client hardly runs more. Each takes half a dozen pages."""


class Reserve:
    """Holds the supervisors of calls that are over and have left nothing, for calls to come. On one event loop."""

    def __init__(self) -> None:
        """None waits yet."""
        self._waiting: list[Supervision] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    def take(self) -> Supervision | None:
        """One that waits, if one does: the caller's from now on."""
        if not self._waiting:
            return None
        one = self._waiting.pop()
        one.when_gone = None
        return one

    def give(self, one: Supervision) -> None:
        """Take over one that has no call any more."""
        if self._closed or len(self._waiting) >= MOST:
            self._end(one)
            return
        self._waiting.append(one)
        one.when_gone = partial(self._gone, one)

    def _gone(self, one: Supervision) -> None:
        """A script can have ended it."""
        self._waiting.remove(one)
        self._end(one)

    def _end(self, one: Supervision) -> None:
        task = asyncio.create_task(one.end())
        self._ending.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("a supervisor could not be ended", exc_info=error)

    async def close(self) -> None:
        """End all that wait."""
        self._closed = True
        while (one := self.take()) is not None:
            self._end(one)
        if self._ending:
            await asyncio.wait(self._ending)
