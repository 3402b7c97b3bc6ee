"""The rules of the calls of one client: kept up to date, and what there is to say about them told once."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_types import EmptyResult, LoggingMessageNotification, LoggingMessageNotificationParams, SetLevelRequestParams

from codex_shell_tool_mcp.errors import ShellToolError, on_one_line
from codex_shell_tool_mcp.execpolicy import amend

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from mcp.server.context import ServerRequestContext
    from mcp.server.session import ServerSession

    from codex_shell_tool_mcp.execpolicy.live import LiveRules
    from codex_shell_tool_mcp.execpolicy.rules import Policy

_LOG = logging.getLogger(__name__)

LOGGER = "rules"
"""The name under which log messages are sent."""

SET_LEVEL = "logging/setLevel"
"""The request whose handler makes the server declare that it sends log messages."""

MAX_TOLD = 1_000
"""Texts that are remembered as told: scripts can cause ever new ones."""

_WARNING_AND_BELOW = frozenset({"debug", "info", "notice", "warning"})


class RulesInForce:
    """Asks :class:`LiveRules` from an event loop, and tells the client what does not count.

    Attributes:
        live: The rules themselves.
    """

    def __init__(self, live: LiveRules) -> None:
        """Whatever was noted so far has been told to nobody."""
        self.live = live
        self._reading = asyncio.Lock()
        self._reads = 0
        self._read_last: dict[Path | None, int] = {}
        self._told: dict[str, None] = {}
        self._wants_warnings = True

    async def set_level(self, _: ServerRequestContext[Any, Any], params: SetLevelRequestParams) -> EmptyResult:
        """Handle ``logging/setLevel``: there are warnings only, and they are sent unless less is wanted."""
        self._wants_warnings = params.level in _WARNING_AND_BELOW
        return EmptyResult()

    def at_once(self, cwd: Path | None) -> Policy | None:
        """The rules as the files have them now; ``None`` if they have to be read, or are being read by somebody.

        What comes after a change must not be decided by what was before it.
        """
        if self._reading.locked() or self.live.is_stale(cwd):
            return None
        return self.live.in_force(cwd).policy

    async def policy(self, cwd: Path | None, session: ServerSession) -> Policy:
        """The rules as the files have them now.

        Args:
            cwd: The directory whose project's rules count.
            session: Whom to tell of files that do not count.

        Raises:
            PolicyError: A file does not hold, and there is no earlier set for this directory.
        """
        asked = self._reads
        async with self._reading:
            failure = None
            # One that was begun after we asked is as good as our own, and files may change for ever.
            if self._read_last.get(cwd, 0) <= asked:
                self._reads += 1
                reading = self._reads
                failure = await asyncio.to_thread(self.live.refresh, cwd)
                self._read_last[cwd] = reading
            found = self.live.in_force(cwd)
        if failure is not None:
            text = f"{failure}; the rules of before stay in force until it is put right"
            await self._tell(session, [text], again=True)
        await self.tell_notes(cwd, session)
        return found.policy

    async def allow(self, prefix: Sequence[str], session: ServerSession) -> bool:
        """Write a rule that allows ``prefix``; whether it is there now. If not, the client is told why."""
        try:
            await asyncio.to_thread(amend.allow, self.live.codex_home, prefix)
        except ShellToolError as error:
            text = f"no rule was written: {error}"
            await self._tell(session, [text], again=True)
            return False
        self.live.expire()
        return True

    async def tell_notes(self, cwd: Path | None, session: ServerSession) -> None:
        """Tell the client what does not count and why, unless it knows."""
        await self._tell(session, self.live.in_force(cwd).notes)

    async def _tell(self, session: ServerSession, texts: Iterable[str], *, again: bool = False) -> None:
        for text in map(on_one_line, texts):
            if text in self._told and not again:
                continue
            self._told.pop(text, None)
            self._told[text] = None
            while len(self._told) > MAX_TOLD:
                del self._told[next(iter(self._told))]
            _LOG.warning("%s", text)
            if self._wants_warnings:
                params = LoggingMessageNotificationParams(level="warning", logger=LOGGER, data=text)
                await session.send_notification(LoggingMessageNotification(params=params))


@dataclass(frozen=True, kw_only=True)
class CallRules:
    """The rules of one call.

    Attributes:
        rules: Those of its client.
        cwd: The directory whose project's rules count.
        session: Whom to tell of files that do not count.
    """

    rules: RulesInForce
    cwd: Path | None
    session: ServerSession

    def at_once(self) -> Policy | None:
        """The rules as the files have them now; ``None`` if that takes time: then ask :meth:`current`."""
        return self.rules.at_once(self.cwd)

    async def allow(self, prefix: Sequence[str]) -> bool:
        """See :meth:`RulesInForce.allow`."""
        return await self.rules.allow(prefix, self.session)

    async def begin(self) -> Policy:
        """The rules at the beginning of a call; also tells what the server found at its start. See :meth:`afresh`."""
        policy = await self.afresh()
        await self.rules.tell_notes(self.cwd, self.session)
        return policy

    async def afresh(self) -> Policy:
        """As :meth:`current`, however recent the last look: somebody has spoken, and may have changed them before."""
        self.rules.live.look_again(self.cwd)
        return await self.current()

    async def current(self) -> Policy:
        """The rules as the files have them now.

        Raises:
            PolicyError: A file does not hold, and there is no earlier set.
        """
        policy = self.at_once()
        return await self.rules.policy(self.cwd, self.session) if policy is None else policy
