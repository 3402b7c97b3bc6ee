"""From checked options to a running server; the MCP SDK is only imported here."""

from __future__ import annotations

import gc
import logging
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.errors import UsageError
from codex_shell_tool_mcp.server import stdio_only

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from codex_shell_tool_mcp.execpolicy.live import LiveRules
    from codex_shell_tool_mcp.sandbox.spec import SandboxPolicy
    from codex_shell_tool_mcp.server.transport import Wire
    from codex_shell_tool_mcp.shells.locate import Programs

_LOG = logging.getLogger(__name__)


def serve_stdio(
    *,
    programs: Programs,
    rules: LiveRules,
    unmatched: str,
    default_sandbox: SandboxPolicy,
    environment: Mapping[bytes, bytes],
    preserve_program_paths: bool,
    approval_timeout: float | None,
    max_output_bytes: int,
) -> None:
    """Serve on stdin and stdout until the end; see :func:`codex_shell_tool_mcp.server.app.serve`.

    If a signal ended it, this process dies of that signal here.

    Raises:
        UsageError: stdin or stdout is closed.
    """
    parent = os.getppid()
    gc.disable()  # 70,000 objects are made here and all stay: looking for garbage among them costs 30 ms
    with stdio_only.deferred_models() if stdio_only.install() else nullcontext():
        import asyncio  # noqa: PLC0415 - this and all others: after the finder is in place

        from codex_shell_tool_mcp.escalation.server import run_escalate_server  # noqa: PLC0415
        from codex_shell_tool_mcp.server import app, lifetime, transport  # noqa: PLC0415
    gc.freeze()
    gc.enable()

    wire = _claimed(transport.claim_stdio)
    settings = app.Settings(
        programs=programs,
        rules=rules,
        unmatched=unmatched,
        default_sandbox=default_sandbox,
        environment=environment,
        run=run_escalate_server,
        preserve_program_paths=preserve_program_paths,
        approval_timeout=approval_timeout,
        max_output_bytes=max_output_bytes,
    )
    _LOG.info("serving with %s (%s)", programs.shell.path, programs.shell.variant)
    ended_by = asyncio.run(app.serve(settings, wire, parent))
    if ended_by is not None:
        lifetime.die_of(ended_by)


def _claimed(claim_stdio: Callable[[], Wire]) -> Wire:
    try:
        return claim_stdio()
    except OSError as error:
        raise UsageError(
            f"stdin or stdout is closed ({error.strerror}); this server speaks MCP on them: start it from an MCP client"
        ) from error
