"""What no call waits for: its supervisor, which is started before there is a call, and what is put away after it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.errors import ShellToolError
from codex_shell_tool_mcp.escalation.supervision import waiting

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextlib import AsyncExitStack
    from pathlib import Path

    from codex_shell_tool_mcp.escalation.supervision import Supervision

_LOG = logging.getLogger(__name__)

_LATER = 0.003
"""Seconds until the bookkeeping of a call is done: its result is on its way then, and the next call's shell runs."""


class Reserve:
    """Keeps one supervisor waiting, from the first call on. On one event loop.

    It is started while a call's shell does, when the server has nothing else to do.
    """

    def __init__(self, supervisor: Path) -> None:
        """None waits yet.

        Args:
            supervisor: The supervisor binary.
        """
        self._program = supervisor
        self._waiting: Supervision | None = None
        self._tidying: set[asyncio.Task[None]] = set()
        self._closed = False

    def take(self) -> Supervision | None:
        """The one that waits, if one does: the caller's from now on."""
        taken, self._waiting = self._waiting, None
        return taken

    def refill(self) -> None:
        """Have one wait; without one, if there cannot be, the next call starts its own or says why it cannot."""
        if self._waiting is not None or self._closed:
            return
        try:
            self._waiting = made = waiting(self._program)
        except (ShellToolError, OSError) as error:
            _LOG.info("no supervisor for the next call: %s", error)
            return
        made.on_end(lambda: self._ended(made))

    def _ended(self, one: Supervision) -> None:
        """A script can have ended it."""
        if one is self._waiting:
            self._waiting = None
            self._do(one.end())

    def tidy(self, rest: AsyncExitStack) -> None:
        """Close what a call has left open here, once its result is on its way."""
        self._do(_close_later(rest))

    def _do(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tidying.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tidying.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("what a call left could not be put away", exc_info=error)

    async def close(self) -> None:
        """End the one that waits, and what bookkeeping is left."""
        self._closed = True
        if (left := self.take()) is not None:
            self._do(left.end())
        if self._tidying:
            await asyncio.wait(self._tidying)


async def _close_later(rest: AsyncExitStack) -> None:
    async with rest:
        await asyncio.sleep(_LATER)
