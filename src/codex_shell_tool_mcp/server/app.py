"""The MCP server: one tool, one extra request, on stdio."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio
from mcp.server.connection import Connection
from mcp.server.lowlevel.server import Server
from mcp.server.runner import serve_connection
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    SetLevelRequestParams,
    TextContent,
    Tool,
)

from codex_shell_tool_mcp.errors import ShellToolError
from codex_shell_tool_mcp.escalation.background import BackgroundCalls
from codex_shell_tool_mcp.escalation.params import DEFAULT_MAX_OUTPUT_BYTES, ExecParams
from codex_shell_tool_mcp.escalation.reserve import Reserve
from codex_shell_tool_mcp.execpolicy.heuristics import UNMATCHED, unmatched_heuristics
from codex_shell_tool_mcp.process.tree import become_reaper
from codex_shell_tool_mcp.sandbox import confinement
from codex_shell_tool_mcp.sandbox.probe import host_support
from codex_shell_tool_mcp.sandbox.spec import restrictions
from codex_shell_tool_mcp.server import lifetime, rules_in_force, sandbox_state, shell_tool, shortcut
from codex_shell_tool_mcp.server.approvals import DEFAULT_APPROVAL_TIMEOUT, McpEscalationPolicyFactory
from codex_shell_tool_mcp.server.rules_in_force import CallRules, RulesInForce
from codex_shell_tool_mcp.server.transport import Incoming, Outgoing
from codex_shell_tool_mcp.version import VERSION

if TYPE_CHECKING:
    import signal
    from collections.abc import Coroutine, Mapping
    from pathlib import Path

    from mcp.server.context import ServerRequestContext
    from mcp.shared._stream_protocols import ReadStream, WriteStream
    from mcp.shared.message import SessionMessage

    from codex_shell_tool_mcp.escalation.background import Slot
    from codex_shell_tool_mcp.escalation.params import ExecResult
    from codex_shell_tool_mcp.escalation.policy import EscalationPolicyFactory
    from codex_shell_tool_mcp.execpolicy.live import LiveRules
    from codex_shell_tool_mcp.execpolicy.rules import Policy
    from codex_shell_tool_mcp.sandbox.spec import SandboxPolicy, SandboxState
    from codex_shell_tool_mcp.server.shortcut import RequestContext
    from codex_shell_tool_mcp.server.transport import Wire
    from codex_shell_tool_mcp.shells.catalog import ShellProgram
    from codex_shell_tool_mcp.shells.locate import Programs

_T = TypeVar("_T")

_LOG = logging.getLogger(__name__)

NAME = "codex-shell-tool-mcp"

INSTRUCTIONS = (
    "This server provides a tool to execute shell commands and return their output. Each program a command starts is "
    "checked against the user's rules: it runs in a sandbox, outside of it, or not at all."
)

_INLINE = frozenset({"initialize", sandbox_state.METHOD})
"""Requests that are answered before the next message is read: what follows them relies on their effect."""

_CLEANUP_SECONDS = 15.0
"""Longer than a cancelled call needs to end everything it started (the supervisor's own limit is 5 s)."""

_WATCH_SECONDS = 20.0
"""How long ending in order may take in all before the process ends regardless."""


class RunCall(Protocol):
    """The shape of :func:`~codex_shell_tool_mcp.escalation.server.run_escalate_server`."""

    def __call__(
        self,
        exec_params: ExecParams,
        sandbox_state: SandboxState,
        shell_program: ShellProgram,
        execve_wrapper: Path,
        policy: Policy,
        escalation_policy_factory: EscalationPolicyFactory,
        effective_timeout: float | None,
        *,
        supervisor: Path,
    ) -> Coroutine[Any, Any, ExecResult]:
        """See there."""
        ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that a server is made of.

    Attributes:
        programs: The binaries.
        rules: The user's rules, read once already.
        unmatched: What a program gets that no rule matches: one of ``heuristics.UNMATCHED``.
        default_sandbox: Policy while the client has sent none.
        environment: What scripts get; complete.
        preserve_program_paths: Rules match whole paths only.
        approval_timeout: Seconds a question may stay unanswered; ``None`` = for ever.
        max_output_bytes: How much of a call's output is kept.
        run: What carries a call out.
    """

    programs: Programs
    rules: LiveRules
    default_sandbox: SandboxPolicy
    environment: Mapping[bytes, bytes]
    run: RunCall
    preserve_program_paths: bool = False
    approval_timeout: float | None = DEFAULT_APPROVAL_TIMEOUT
    max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES
    unmatched: str = UNMATCHED[0]


@dataclass(kw_only=True)
class ShellServer:
    """The handlers, and the state they share."""

    settings: Settings
    states: sandbox_state.SandboxStates = field(init=False)
    rules: RulesInForce = field(init=False)
    background: BackgroundCalls = field(default_factory=BackgroundCalls)
    reserve: Reserve = field(default_factory=Reserve)

    def __post_init__(self) -> None:
        """No state has been sent yet."""
        self.states = sandbox_state.SandboxStates(default=self.settings.default_sandbox)
        self.rules = RulesInForce(self.settings.rules)

    def mcp_server(self) -> Server[Any]:
        """The SDK's server with our handlers."""
        server: Server[Any] = Server(
            NAME,
            version=VERSION,
            instructions=INSTRUCTIONS,
            on_list_tools=self.list_tools,
            on_call_tool=self.call_tool,
        )
        server.middleware.clear()  # telemetry, which nobody exports
        server.add_request_handler(sandbox_state.METHOD, sandbox_state.AnyParams, self.states.update)
        server.add_request_handler(rules_in_force.SET_LEVEL, SetLevelRequestParams, self.rules.set_level)
        return server

    async def list_tools(
        self, _context: ServerRequestContext[Any, Any], _params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        """One tool."""
        schema = shell_tool.input_schema(self.settings.programs.shell.shell)
        tool = Tool(name=shell_tool.NAME, description=shell_tool.DESCRIPTION, input_schema=schema)
        return ListToolsResult(tools=[tool])

    async def call_tool(self, context: ServerRequestContext[Any, Any], params: CallToolRequestParams) -> CallToolResult:
        """Run a script.

        Raises:
            MCPError: There is no such tool, the arguments are of the wrong type, or there is a bug.
        """
        text, is_error = await self._call(context, params.name, params.arguments or {})
        return CallToolResult(content=[TextContent(text=text)], is_error=is_error)

    async def call_at_once(self, context: RequestContext, params: Mapping[str, Any]) -> dict[str, Any]:
        """The same for parameters that the SDK need not check; the result as it is sent."""
        text, is_error = await self._call(context, params["name"], params["arguments"])
        return shortcut.result(text, is_error=is_error)

    async def _call(self, context: RequestContext, name: str, arguments: Mapping[str, object]) -> tuple[str, bool]:
        """The text of a call's result, and whether it is an error."""
        if name != shell_tool.NAME:
            raise MCPError(INVALID_PARAMS, "tool not found")
        try:
            call = shell_tool.parse_arguments(arguments)
        except shell_tool.ArgumentsError as error:
            raise MCPError(INVALID_PARAMS, f"failed to deserialize parameters: {error}") from None
        try:
            # Around everything: a call that is cancelled at the last moment leaves nothing either.
            with self.background.slot() if call.keep else nullcontext() as slot:
                return _visible(await finish_when_cancelled(self._run(context, call, slot))), False
        except ShellToolError as error:
            _LOG.warning("a call failed: %s", error)
            return _visible(str(error)), True
        except OSError as error:
            _LOG.exception("a call failed by the system")
            return _visible(f"the call could not be carried out: {error}; try it again, or with less at a time"), True
        except Exception as error:
            _LOG.exception("a call failed by a bug")
            raise MCPError(INTERNAL_ERROR, f"internal error: {error!r}; the server's stderr says more") from error

    async def _run(self, context: RequestContext, call: shell_tool.ShellCall, slot: Slot | None) -> str:
        settings = self.settings
        workdir = shell_tool.checked_workdir(call.workdir)
        state = self.states.for_call(workdir)
        rules = self._rules(context, state)
        result = await settings.run(
            ExecParams(
                command=call.command,
                workdir=workdir,
                login=call.login,
                env=settings.environment,
                max_output_bytes=settings.max_output_bytes,
                keep=slot,
                reserve=self.reserve,
            ),
            state,
            settings.programs.shell,
            settings.programs.wrapper,
            await rules.begin(),
            McpEscalationPolicyFactory(
                context=context,
                rules=rules,
                heuristics=unmatched_heuristics(settings.unmatched),
                preserve_program_paths=settings.preserve_program_paths,
                approval_timeout=settings.approval_timeout,
            ),
            call.timeout_ms / 1000,
            supervisor=settings.programs.supervisor,
        )
        return shell_tool.result_text(result, await self._report(state))

    def _rules(self, context: RequestContext, state: SandboxState) -> CallRules:
        """What gives the rules for each exec of a call; never by the call's own directory, which the model chooses."""
        allowed = restrictions(state, confinement.resolved_tmpdir(self.settings.environment))
        if not allowed.write_everywhere:
            self.settings.rules.opened(map(str, allowed.writable))
        sent = self.states.current
        cwd = self.settings.rules.cwd if sent is None else sent.cwd
        return CallRules(rules=self.rules, cwd=cwd, session=context.session)

    async def _report(self, state: SandboxState) -> dict[str, object]:
        """What was enforced; on Linux also Landlock's version, for older ones hold back less."""
        told = confinement.report(state, self.settings.environment)
        if "landlock" in str(told["enforced_by"]):
            support = await asyncio.to_thread(host_support, self.settings.programs.supervisor)
            told["landlock_abi"] = None if support is None else support.landlock_abi
        return told


def _visible(text: str) -> str:
    """``text`` without what cannot be sent."""
    return text.encode("utf-8", "replace").decode()


async def finish_when_cancelled(work: Coroutine[Any, Any, _T]) -> _T:
    """Await ``work``; when cancelled, cancel it once and wait until it has cleaned up.

    The SDK's cancel scopes cancel a task again at every await until it is gone, so a call's own clean-up, which awaits
    the end of its processes, would never get through. It runs in a task of its own, which only this function cancels.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait((task,), timeout=_CLEANUP_SECONDS)
        if not task.done():
            _LOG.error("a cancelled call is still ending after %g s", _CLEANUP_SECONDS)
        elif not task.cancelled() and (error := task.exception()) is not None:
            _LOG.warning("a cancelled call ended by an error: %s", error)
        raise


async def serve(settings: Settings, wire: Wire, parent: int) -> signal.Signals | None:
    """Serve one client until it closes stdin, a signal asks for the end, or the parent process is gone.

    Running calls are ended first, with everything they started.

    Args:
        settings: What to serve with.
        wire: The protocol's descriptors.
        parent: Process number of the parent at the start.

    Returns:
        The signal that ended it, if one did.
    """
    ending = lifetime.Ending()
    incoming = Incoming(wire.incoming)
    outgoing = Outgoing(wire.outgoing, broken=ending.requested)
    become_reaper()
    with lifetime.ending_by_signals(ending):
        serving = asyncio.create_task(_serve_connection(settings, incoming, outgoing))
        orphaned = asyncio.create_task(lifetime.parent_death(parent))
        requested = asyncio.create_task(ending.requested.wait())
        await asyncio.wait((serving, orphaned, requested), return_when=asyncio.FIRST_COMPLETED)
        incoming.end()
        done, _ = await asyncio.wait((serving,), timeout=_WATCH_SECONDS)
        if not done:
            _LOG.error("calls are still ending after %g s; leaving", _WATCH_SECONDS)
            os._exit(1)
        for task in (orphaned, requested):
            task.cancel()
        await asyncio.gather(orphaned, requested, return_exceptions=True)
        serving.result()
    return ending.by_signal


async def _serve_connection(
    settings: Settings, incoming: ReadStream[SessionMessage | Exception], outgoing: WriteStream[SessionMessage]
) -> None:
    """Serve the generations of the protocol in which a server can ask its client something.

    The newest one has no requests from the server, so nobody could be asked for an approval; its clients fall back to
    the handshake when a server does not know ``server/discover``.
    """
    shell = ShellServer(settings=settings)
    server = shell.mcp_server()
    dispatcher = shortcut.Dispatcher(incoming, outgoing, inline_methods=_INLINE)
    dispatcher.connection = connection = Connection.for_loop(dispatcher)
    dispatcher.call = shell.call_at_once
    try:
        await serve_connection(
            server,
            dispatcher,
            connection=connection,
            lifespan_state={},
            init_options=server.create_initialization_options(experimental_capabilities=sandbox_state.CAPABILITY),
        )
    finally:
        await shell.background.end()
        await shell.reserve.close()
