"""``codex/sandbox-state/update``: the sandbox the client wants for the calls that follow."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, RequestParams

from codex_shell_tool_mcp.sandbox.spec import SandboxStateError, WorkspaceWrite, default_state, parse_state

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

    from codex_shell_tool_mcp.sandbox.spec import SandboxPolicy, SandboxState

METHOD = "codex/sandbox-state/update"
CAPABILITY = {"codex/sandbox-state": {"version": "1.0.0"}}
"""Clients send the request only to a server that declares this, under ``experimental``."""


class AnyParams(RequestParams, extra="allow"):
    """Whatever was sent; the raw object is checked by :func:`parse_state`, whose errors name the field."""


@dataclass(kw_only=True)
class SandboxStates:
    """The state in force. Process-wide, the last one counts.

    The request is one of those the dispatcher awaits before it reads on, so that a call sent right behind an update
    never runs under the state before it.

    Attributes:
        default: Policy while no state has been sent.
        current: The last one sent.
    """

    default: SandboxPolicy
    current: SandboxState | None = None

    async def update(self, context: ServerRequestContext[Any, Any], _: AnyParams) -> dict[str, Any]:
        """Handle the request.

        Raises:
            MCPError: The parameters are missing or do not hold; the state stays as it was.
        """
        if context.params is None:
            raise MCPError(INVALID_PARAMS, "params for the sandbox state request are missing")
        raw = dict(context.params)
        try:
            self.current = pinned(parse_state(raw, Path.cwd()))
        except SandboxStateError as error:
            text = f"failed to deserialize params of the sandbox state request: {error}"
            raise MCPError(INVALID_PARAMS, text, data=raw) from None
        return {}

    def for_call(self, workdir: Path) -> SandboxState:
        """What holds for a call in ``workdir``."""
        return self.current or default_state(self.default, Path(os.path.realpath(workdir)))


def pinned(state: SandboxState) -> SandboxState:
    """The state with its paths free of links: what a script makes of them later must not move the roots."""
    policy = state.policy
    if isinstance(policy, WorkspaceWrite):
        roots = tuple(Path(os.path.realpath(root)) for root in policy.writable_roots)
        policy = replace(policy, writable_roots=roots)
    return replace(state, policy=policy, cwd=Path(os.path.realpath(state.cwd)))
