"""The escalation server: answers every exec of a call by the policy it is given, and knows nothing of MCP."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from codex_shell_tool_mcp.errors import ProtocolError, RemoteProtocolError, ShellToolError
from codex_shell_tool_mcp.escalation import identity, wire
from codex_shell_tool_mcp.escalation.channel import FLOOD_PAUSE, Channel, close_all
from codex_shell_tool_mcp.escalation.environ import escalated_environment
from codex_shell_tool_mcp.escalation.params import TIMEOUT_EXIT_CODE, ExecParams, ExecRecord, ExecResult
from codex_shell_tool_mcp.escalation.policy import Deny, Escalate, EscalateAction, ExecRequest, Run
from codex_shell_tool_mcp.escalation.stopwatch import Stopwatch
from codex_shell_tool_mcp.escalation.supervision import Shell, Supervision, supervised
from codex_shell_tool_mcp.sandbox import confinement

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine
    from pathlib import Path

    from codex_shell_tool_mcp.escalation.policy import EscalationPolicy, EscalationPolicyFactory
    from codex_shell_tool_mcp.execpolicy.rules import Policy
    from codex_shell_tool_mcp.sandbox.spec import SandboxState
    from codex_shell_tool_mcp.shells.catalog import ShellProgram

_T = TypeVar("_T")

_LOG = logging.getLogger(__name__)

HALF_OPEN_DEADLINE = 10.0
"""Seconds from the rendezvous to a whole request: a wrapper sends it at once."""

MAX_SESSIONS = 64
"""Execs of one call that are being answered at once; further ones wait in the socket's queue. Each costs up to three
descriptors of this process (ulimit -n is often 1024) and the memory of its request."""

MAX_OPEN = 192
"""The same for all calls together."""

MAX_LINGERING = 64
"""Execs of one call whose end is waited for after RUN: normally the blink until the exec has closed the stream."""

MAX_RECORDS = 1000
"""Execs of one call that are remembered one by one: a loop can do millions."""

MAX_RECORDED_WORDS, MAX_RECORDED_CHARACTERS = 64, 512
"""What is remembered of an argument vector, and of each word: it can be megabytes."""


class _Open:
    """How many requests this process has open, over all calls."""

    count = 0


@dataclass(kw_only=True)
class EscalateServer:
    """Answers the execs of one call.

    Attributes:
        policy: Decides.
        supervision: Runs what is escalated.
        writable: Where the sandboxed side can write; ``None`` = everywhere.
        records: The first :data:`MAX_RECORDS` execs with their decisions.
        decided: How many there were in all.
    """

    policy: EscalationPolicy
    supervision: Supervision
    writable: tuple[Path, ...] | None
    records: list[ExecRecord] = field(default_factory=list)
    decided: int = 0
    _answering: int = 0
    _lingering: int = 0

    async def serve(self) -> None:
        """Answer execs until cancelled; then every open session ends unanswered and its exec does not happen."""
        async with asyncio.TaskGroup() as sessions:
            while True:
                while self._answering >= MAX_SESSIONS or _Open.count >= MAX_OPEN:
                    await asyncio.sleep(FLOOD_PAUSE)
                stream = await self.supervision.rendezvous.accept()
                self._answering += 1
                _Open.count += 1
                sessions.create_task(self._session(stream))

    async def _session(self, stream: socket.socket) -> None:
        channel = Channel(stream, wire.Connection(party=wire.Party.SERVICE), most=2)
        try:
            running = False
            try:
                running = await self._question(channel)
            finally:
                self._answering -= 1
                _Open.count -= 1
            if running and self._lingering < MAX_LINGERING:
                await self._see_off(channel)
        except (RemoteProtocolError, OSError, TimeoutError) as error:
            _LOG.info("an exec request was dropped: %r", error)
        except Exception:  # noqa: BLE001 - one exec must not take the call with it; unanswered, it does not happen
            _LOG.exception("an exec could not be decided: this is a bug")
        finally:
            channel.close()

    async def _question(self, channel: Channel) -> bool:
        """Read a request and answer it; whether the answer was RUN."""
        async with asyncio.timeout(HALF_OPEN_DEADLINE):
            request = await channel.receive()
        if isinstance(request, wire.Request):
            await self._answer(channel, request)
        return channel.connection.state == "running"

    async def _see_off(self, channel: Channel) -> None:
        """Wait for the end of the stream, which says that the exec happened."""
        self._lingering += 1
        try:
            failed = await channel.receive()
            if failed is not None:
                _LOG.info("%r", failed)
        finally:
            self._lingering -= 1

    async def _answer(self, channel: Channel, request: wire.Request) -> None:
        try:
            before = None if request.program is None else identity.fingerprint(request.program)
            asked = describe(request, self.writable)
            action = await _unless_gone(channel, self.policy.determine_action(asked))
            if action is not None:
                self._record(asked, action)
                await self._carry_out(channel, request, asked, action, before)
        except ProtocolError:
            raise
        except ShellToolError as error:
            await channel.send(wire.Error(reason=str(error)))
        finally:
            close_all(request.descriptors)

    def _record(self, asked: ExecRequest, action: EscalateAction) -> None:
        self.decided += 1
        if len(self.records) < MAX_RECORDS:
            self.records.append(ExecRecord(request=_shortened(asked), action=action))

    async def _carry_out(
        self,
        channel: Channel,
        request: wire.Request,
        asked: ExecRequest,
        action: EscalateAction,
        before: identity.Fingerprint | None,
    ) -> None:
        match action:
            case Run():
                await channel.send(wire.Run())
            case Deny(reason=reason):
                await channel.send(wire.Deny(reason=reason))
            case Escalate():
                await self._escalate(channel, request, asked, before)

    async def _escalate(
        self, channel: Channel, request: wire.Request, asked: ExecRequest, before: identity.Fingerprint | None
    ) -> None:
        """Hand the session to the supervisor, bound to the very file that was decided.

        A script's interpreter opens it by a name. Where the sandboxed side has a hand in what that name leads to, the
        script is run from a sealed copy, so that what was decided is what is read (its ``$0`` is then ``/dev/fd/N``).
        """
        if request.program is None or before is None or asked.resolved is None:
            raise ShellToolError("no file of that name could be opened, so it cannot be run outside the sandbox")
        script = identity.is_script(request.program)
        copy = identity.sealed_copy(request.program) if script and asked.writable_by_sandbox else None
        try:
            if identity.fingerprint(request.program) != before:
                raise ShellToolError("it was changed while it was being decided")
            program = request.program if copy is None else copy
            await self.supervision.spawn(
                replace(request, program=program, env=escalated_environment(request.env)),
                channel.socket.fileno(),
                path=os.fsencode(asked.resolved),
                decided=identity.fingerprint(program),
                by_path=script and copy is None,
            )
        finally:
            close_all(() if copy is None else (copy,))


def _shortened(asked: ExecRequest) -> ExecRequest:
    words = tuple(word[:MAX_RECORDED_CHARACTERS] for word in asked.argv[:MAX_RECORDED_WORDS])
    return replace(asked, argv=words)


async def _unless_gone(channel: Channel, deciding: Coroutine[object, object, _T]) -> _T | None:
    """The decision, or ``None`` when the client went away (or spoke out of turn) before there was one."""
    decision = asyncio.ensure_future(deciding)
    gone = asyncio.ensure_future(channel.readable())
    try:
        await asyncio.wait((decision, gone), return_when=asyncio.FIRST_COMPLETED)
        return await decision if decision.done() else None
    finally:
        for task in (decision, gone):
            task.cancel()
        await asyncio.gather(decision, gone, return_exceptions=True)


def describe(request: wire.Request, writable: tuple[Path, ...] | None) -> ExecRequest:
    """A request as the policy sees it.

    The wrapper runs on the script's side, so its words are claims. What a descriptor came for is named by the path that
    leads to that very file here; the name that was used counts only if it leads there as well.
    """
    claimed = os.fsdecode(request.cwd) or None
    cwd = claimed if request.cwd_descriptor is None else identity.path_of(request.cwd_descriptor)
    file = os.fsdecode(request.file)
    program = identity.absolute(file, cwd)
    resolved = None
    if request.program is not None:
        resolved = identity.path_of(request.program)
        if resolved is not None and not identity.leads_to(program, request.program):
            program = resolved
    return ExecRequest(
        file=file,
        program=program,
        resolved=resolved,
        argv=tuple(os.fsdecode(argument) for argument in request.argv),
        cwd=cwd,
        writable_by_sandbox=writable is not None and not identity.name_is_trusted(program, resolved, writable),
    )


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
