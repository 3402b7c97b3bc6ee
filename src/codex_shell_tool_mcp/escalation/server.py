"""The escalation server: runs a call's script with every exec of it decided, and knows nothing of MCP."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.escalation import wire
from codex_shell_tool_mcp.escalation.answering import EscalateServer
from codex_shell_tool_mcp.escalation.params import TIMEOUT_EXIT_CODE, ExecParams, ExecResult
from codex_shell_tool_mcp.escalation.stopwatch import Stopwatch
from codex_shell_tool_mcp.escalation.supervision import Shell, supervised
from codex_shell_tool_mcp.sandbox import confinement

if TYPE_CHECKING:
    from pathlib import Path

    from codex_shell_tool_mcp.escalation.policy import EscalationPolicyFactory
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
    async with supervised(shell) as supervision:
        server = EscalateServer(
            policy=escalation_policy_factory.create_policy(policy, stopwatch),
            supervision=supervision,
            writable=confined.writable,
            shell=shell_program.path,
        )
        outcome = await _run(server, stopwatch)
    return _result(server, outcome, time.monotonic() - begun)


def _prepare(
    params: ExecParams, state: SandboxState, shell: ShellProgram, wrapper: Path, supervisor: Path
) -> tuple[confinement.Confinement, Shell]:
    command = [
        os.fsencode(shell.path), b"bash", b"-lc" if params.login else b"-c", os.fsencode(params.command),
    ]  # fmt: skip
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


async def _run(server: EscalateServer, stopwatch: Stopwatch) -> wire.Outcome | None:
    """Serve until the shell has ended and its output is read; ``None`` if the time was up first."""
    serving = asyncio.create_task(server.serve())
    expiry = asyncio.create_task(stopwatch.expired())
    ending = asyncio.create_task(server.supervision.shell_exit())
    tasks = (serving, expiry, ending)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()  # it only ever ends by an error: a bug, to be seen as one
        if not ending.done():
            return None
        # A background job may go on meanwhile: its execs are still decided.
        await server.supervision.output.drain()
        return ending.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
