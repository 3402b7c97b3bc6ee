"""The escalation server: runs a call's script with every exec of it decided, and knows nothing of MCP."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.escalation import wire
from codex_shell_tool_mcp.escalation.answering import EscalateServer
from codex_shell_tool_mcp.escalation.params import TIMEOUT_EXIT_CODE, ExecParams, ExecResult
from codex_shell_tool_mcp.escalation.policy import AskingPolicy, standing
from codex_shell_tool_mcp.escalation.stopwatch import Stopwatch
from codex_shell_tool_mcp.escalation.supervision import Shell, supervision
from codex_shell_tool_mcp.sandbox import confinement

if TYPE_CHECKING:
    from pathlib import Path

    from codex_shell_tool_mcp.escalation.policy import EscalationPolicyFactory
    from codex_shell_tool_mcp.escalation.supervision import Supervision
    from codex_shell_tool_mcp.execpolicy.rules import Policy
    from codex_shell_tool_mcp.sandbox.spec import SandboxState
    from codex_shell_tool_mcp.shells.catalog import ShellProgram


async def run_escalate_server(
    exec_params: ExecParams,
    sandbox_state: SandboxState,
    shell_program: ShellProgram,
    execve_wrapper: Path,
    policy: Policy,
    escalation_policy_factory: EscalationPolicyFactory,
    effective_timeout: float | None,
    *,
    supervisor: Path,
) -> ExecResult:
    """Run one script, every exec of it decided.

    Args:
        exec_params: The script and where to run it.
        sandbox_state: How it is confined.
        shell_program: The patched shell.
        execve_wrapper: What the shell sends its execs through.
        policy: The user's rules.
        escalation_policy_factory: Makes whoever decides by them.
        effective_timeout: Limit in seconds, approvals not counted; ``None`` = none.
        supervisor: The supervisor binary.

    Raises:
        SandboxError: The sandbox asked for cannot be applied; nothing was run.
        MissingBinaryError: A binary cannot be executed; nothing was run.
        UsageError: The directory or the script cannot be used; nothing was run.
    """
    begun = time.monotonic()
    confined, shell = _prepare(exec_params, sandbox_state, shell_program, execve_wrapper, supervisor)
    stopwatch = Stopwatch(effective_timeout)
    deciding = escalation_policy_factory.create_policy(policy, stopwatch)
    async with AsyncExitStack() as stack:
        supervised = await supervision(replace(shell, standing=standing(deciding) is not None), exec_params.reserve)
        stack.push_async_callback(_ended, supervised)
        server = EscalateServer(
            policy=deciding,
            supervision=supervised,
            writable=confined.writable,
            shell=shell_program.of_plain_scripts,
        )
        serving = asyncio.create_task(server.serve())
        stack.push_async_callback(_stopped, serving)
        outcome = await _run(server, stopwatch, serving)
        keep = exec_params.keep
        if keep is not None and outcome is not None and (left := await supervised.keep()):
            result = replace(_result(server, outcome, time.monotonic() - begun), background_processes=left)
            keep.hold(_see_out(server, serving, stack.pop_all(), keep.unwanted))
            return result
        if exec_params.reserve is not None and outcome is not None and supervised.let_go():
            stack.pop_all()
            serving.cancel()
            exec_params.reserve.give(supervised)
    return _result(server, outcome, time.monotonic() - begun)


async def _ended(supervised: Supervision) -> None:
    await asyncio.shield(asyncio.ensure_future(supervised.end()))


async def _stopped(serving: asyncio.Task[None]) -> None:
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def _see_out(
    server: EscalateServer, serving: asyncio.Task[None], stack: AsyncExitStack, unwanted: asyncio.Event
) -> None:
    """Answer the execs of what a call has left, until nothing is or it is ended; its output is read and dropped."""
    async with stack:
        if isinstance(server.policy, AskingPolicy):
            server.policy.answered()
        server.supervision.output.discard()
        ends = [asyncio.create_task(server.supervision.over()), asyncio.create_task(unwanted.wait())]
        await asyncio.wait((*ends, serving), return_when=asyncio.FIRST_COMPLETED)
        for task in ends:
            task.cancel()
        if serving.done():
            serving.result()  # it only ever ends by an error


def _prepare(
    params: ExecParams, state: SandboxState, shell: ShellProgram, wrapper: Path, supervisor: Path
) -> tuple[confinement.Confinement, Shell]:
    path = os.fsencode(shell.path)
    # Its path is its argv[0], of which bash makes $BASH: by a bare name that would be the machine's own, unpatched one.
    command = [path, path, b"-lc" if params.login else b"-c", os.fsencode(params.command)]
    confined = confinement.apply(state, command, params.env)
    environment = {**params.env, **confined.markers, b"EXEC_WRAPPER": os.fsencode(wrapper)}
    return confined, Shell(
        supervisor=supervisor,
        options=confined.supervisor_options,
        command=confined.shell_argv,
        workdir=params.workdir,
        environment=environment,
        max_output_bytes=params.max_output_bytes,
    )


async def _run(server: EscalateServer, stopwatch: Stopwatch, serving: asyncio.Task[None]) -> wire.Outcome | None:
    """Wait until the shell has ended and its output is read; ``None`` if the time was up first."""
    expiry = asyncio.create_task(stopwatch.expired())
    try:
        outcome = await server.supervision.shell_exit(expiry, serving)
        if serving.done():
            serving.result()  # it only ever ends by an error: a bug, to be seen as one
        if outcome is not None:
            # A background job may go on meanwhile: its execs are still decided.
            await server.supervision.output.drain()
        return outcome
    finally:
        expiry.cancel()


def _result(server: EscalateServer, outcome: wire.Outcome | None, duration: float) -> ExecResult:
    return ExecResult(
        exit_code=TIMEOUT_EXIT_CODE if outcome is None else _exit_code(outcome),
        output=server.supervision.output.text(),
        duration=duration,
        timed_out=outcome is None,
        ended_processes=server.supervision.ended,
        records=tuple(server.records),
        decided=server.decided,
    )


def _exit_code(outcome: wire.Outcome) -> int:
    """A shell's way to say it: 128 + n for a death by signal n."""
    return outcome.value if outcome.kind == wire.EXITED else 128 + outcome.value
