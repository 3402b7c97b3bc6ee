"""The handlers through the SDK's own client session, with a stand-in for what runs a call."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mcp.client.session import ClientSession
from mcp.shared.exceptions import MCPError
from mcp.shared.memory import create_client_server_memory_streams
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, EmptyResult, Request

from codex_shell_tool_mcp.errors import MissingBinaryError, SandboxError
from codex_shell_tool_mcp.escalation.params import ExecParams, ExecResult
from codex_shell_tool_mcp.execpolicy.live import LiveRules
from codex_shell_tool_mcp.sandbox.spec import DangerFullAccess, ReadOnly, SandboxState, WorkspaceWrite
from codex_shell_tool_mcp.server import app, sandbox_state, shell_tool
from codex_shell_tool_mcp.shells.catalog import ShellProgram
from codex_shell_tool_mcp.shells.locate import Programs
from codex_shell_tool_mcp.version import VERSION

if TYPE_CHECKING:
    from codex_shell_tool_mcp.escalation.policy import EscalationPolicyFactory
    from codex_shell_tool_mcp.execpolicy.rules import Policy

SHELL = ShellProgram(path=Path("/v/bash"), variant="gnu")
PROGRAMS = Programs(shell=SHELL, wrapper=Path("/v/wrapper"), supervisor=Path("/v/supervisor"))
ENVIRONMENT = {b"PATH": b"/bin"}
DONE = ExecResult(exit_code=0, output="out", duration=0.5, timed_out=False)

Carry = Callable[[ExecParams, SandboxState, float | None], Awaitable[ExecResult]]


def settings(carry: Carry) -> app.Settings:
    async def run(
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
        assert (shell_program, execve_wrapper, supervisor) == (SHELL, PROGRAMS.wrapper, PROGRAMS.supervisor)
        assert exec_params.env == ENVIRONMENT
        return await carry(exec_params, sandbox_state, effective_timeout)

    return app.Settings(
        programs=PROGRAMS,
        rules=LiveRules(Path("/nonexistent/home")),
        default_sandbox=ReadOnly(),
        environment=ENVIRONMENT,
        run=run,
    )


@asynccontextmanager
async def connected(carry: Carry) -> AsyncIterator[ClientSession]:
    async with create_client_server_memory_streams() as (ours, theirs):
        serving = asyncio.create_task(app._serve_connection(settings(carry), theirs[0], theirs[1]))
        async with ClientSession(ours[0], ours[1]) as session:
            await session.initialize()
            yield session
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def through(carry: Carry, use: Callable[[ClientSession], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with connected(carry) as session:
            return await use(session)

    return asyncio.run(asyncio.wait_for(run(), 60))


async def done(_params: ExecParams, _state: SandboxState, _limit: float | None) -> ExecResult:
    return DONE


async def call(session: ClientSession, **arguments: object) -> Any:
    return await session.call_tool("shell", {"command": "true", "workdir": "/", **arguments})


async def update(session: ClientSession, params: Mapping[str, object] | None) -> EmptyResult:
    message: Request[Any, Any] = Request[Any, Any](method=sandbox_state.METHOD, params=params)
    return await session.send_request(message, EmptyResult)


WORKSPACE = {"sandboxPolicy": {"type": "workspace-write"}, "sandboxCwd": "/tmp"}


def test_the_greeting() -> None:
    async def use(session: ClientSession) -> Any:
        return session.initialize_result

    greeting = through(done, use)
    assert (greeting.server_info.name, greeting.server_info.version) == ("codex-shell-tool-mcp", VERSION)
    assert greeting.capabilities.experimental == {"codex/sandbox-state": {"version": "1.0.0"}}
    assert greeting.capabilities.tools is not None
    assert greeting.capabilities.prompts is None
    assert greeting.capabilities.resources is None
    assert "execute shell commands" in greeting.instructions


def test_one_tool() -> None:
    async def use(session: ClientSession) -> Any:
        return await session.list_tools()

    (tool,) = through(done, use).tools
    assert tool.name == "shell"
    assert "absolute" in tool.description
    assert (tool.title, tool.annotations, tool.output_schema) == (None, None, None)
    assert tool.input_schema == shell_tool.INPUT_SCHEMA


def test_a_result() -> None:
    result = through(done, call)
    assert result.is_error is False
    assert result.structured_content is None
    (content,) = result.content
    told = json.loads(content.text)
    assert list(told)[:4] == ["exit_code", "output", "duration", "timed_out"]
    assert told["sandbox"]["policy"] == "read-only"


def test_what_a_call_is_made_of() -> None:
    seen: list[tuple[ExecParams, SandboxState, float | None]] = []

    async def carry(params: ExecParams, state: SandboxState, limit: float | None) -> ExecResult:
        seen.append((params, state, limit))
        return DONE

    async def use(session: ClientSession) -> None:
        await call(session, command="ls", login=False, timeout_ms=1500, workdir="/usr")
        await call(session)

    through(carry, use)
    (first, state, limit), (second, _, default) = seen
    assert (first.command, first.workdir, first.login, limit) == ("ls", Path("/usr"), False, 1.5)
    assert (second.login, default) == (True, 10.0)
    assert state == SandboxState(policy=ReadOnly(), cwd=Path("/usr"))


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("shel", {"command": "true", "workdir": "/"}, "tool not found"),
        ("shell", {}, "failed to deserialize parameters: missing field `command`"),
        ("shell", {"command": "true"}, "failed to deserialize parameters: missing field `workdir`"),
        ("shell", {"command": 1, "workdir": "/"}, "failed to deserialize parameters: `command`: expected a string"),
    ],
)
def test_wrong_calls_are_protocol_errors(name: str, arguments: dict[str, Any], text: str) -> None:
    async def use(session: ClientSession) -> Any:
        with pytest.raises(MCPError) as caught:
            await session.call_tool(name, arguments)
        assert (await call(session)).is_error is False  # and it lives on
        return caught.value

    error = through(done, use)
    assert error.code == INVALID_PARAMS
    assert error.message.startswith(text)


@pytest.mark.parametrize("workdir", ["relative/path", "/nonexistent-directory", "/dev/null"])
def test_a_useless_workdir_is_a_tool_error(workdir: str) -> None:
    async def use(session: ClientSession) -> Any:
        refused = await call(session, workdir=workdir)
        assert (await call(session)).is_error is False
        return refused

    result = through(done, use)
    assert result.is_error is True
    assert workdir in result.content[0].text
    assert "give the absolute path of an existing directory" in result.content[0].text


@pytest.mark.parametrize(
    "error", [SandboxError("the sandbox cannot be applied: do this"), MissingBinaryError("/v/supervisor: gone")]
)
def test_errors_of_the_call_are_told_to_the_model(error: Exception) -> None:
    async def fails(_p: ExecParams, _s: SandboxState, _l: float | None) -> ExecResult:
        raise error

    result = through(fails, call)
    assert result.is_error is True
    assert result.content[0].text == str(error)


def test_what_the_system_refuses_is_told_to_the_model() -> None:
    async def fails(_p: ExecParams, _s: SandboxState, _l: float | None) -> ExecResult:
        raise OSError(errno.EMFILE, "Too many open files")

    result = through(fails, call)
    assert result.is_error is True
    assert "Too many open files; try it again" in result.content[0].text


def test_a_bug_is_an_internal_error_and_the_server_lives_on() -> None:
    calls = iter((True, False))

    async def buggy(_p: ExecParams, _s: SandboxState, _l: float | None) -> ExecResult:
        if next(calls):
            raise KeyError("oops")
        return DONE

    async def use(session: ClientSession) -> Any:
        with pytest.raises(MCPError) as caught:
            await call(session)
        assert (await call(session)).is_error is False
        return caught.value

    error = through(buggy, use)
    assert error.code == INTERNAL_ERROR
    assert "oops" in error.message


def test_calls_run_in_parallel() -> None:
    async def use_barrier() -> list[Any]:
        barrier = asyncio.Barrier(3)

        async def carry(_p: ExecParams, _s: SandboxState, _l: float | None) -> ExecResult:
            await barrier.wait()
            return DONE

        async with connected(carry) as session:
            return await asyncio.gather(*(call(session) for _ in range(3)))

    assert len(asyncio.run(asyncio.wait_for(use_barrier(), 60))) == 3


def test_a_state_counts_for_the_calls_after_it() -> None:
    seen: list[SandboxState] = []

    async def carry(_p: ExecParams, state: SandboxState, _l: float | None) -> ExecResult:
        seen.append(state)
        return DONE

    async def use(session: ClientSession) -> None:
        await call(session)
        await update(session, WORKSPACE)
        await call(session, workdir="/usr")
        await update(session, {"sandboxPolicy": {"type": "danger-full-access"}, "sandboxCwd": "/"})
        await call(session)

    through(carry, use)
    assert [state.policy for state in seen] == [ReadOnly(), WorkspaceWrite(), DangerFullAccess()]
    assert seen[1].cwd == Path("/tmp")


def test_bad_states_are_refused_and_change_nothing() -> None:
    seen: list[SandboxState] = []

    async def carry(_p: ExecParams, state: SandboxState, _l: float | None) -> ExecResult:
        seen.append(state)
        return DONE

    bad = {"sandboxPolicy": {"type": "open-everything"}, "sandboxCwd": "/"}

    async def use(session: ClientSession) -> list[MCPError]:
        errors = []
        await update(session, WORKSPACE)
        for params in (None, bad, {"sandboxPolicy": {"type": "read-only"}}):
            with pytest.raises(MCPError) as caught:
                await update(session, params)
            errors.append(caught.value)
        await call(session)
        return errors

    missing, unknown, no_cwd = through(carry, use)
    assert {missing.code, unknown.code, no_cwd.code} == {INVALID_PARAMS}
    assert "missing" in missing.message
    assert "failed to deserialize" in unknown.message
    assert unknown.data == bad
    assert "sandboxCwd: missing" in no_cwd.message
    assert [state.policy for state in seen] == [WorkspaceWrite()]


def test_other_requests_are_unknown() -> None:
    async def use(session: ClientSession) -> Any:
        message: Request[Any, Any] = Request[Any, Any](method="codex/other", params={})
        with pytest.raises(MCPError) as caught:
            await session.send_request(message, EmptyResult)
        return caught.value

    assert through(done, use).code == METHOD_NOT_FOUND


def test_finishing_work_is_waited_for_when_cancelled() -> None:
    """The SDK's cancel scopes cancel again and again; a call's clean-up must get through all the same."""
    import anyio  # noqa: PLC0415 - only here

    steps: list[str] = []

    async def work() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            for step in range(5):
                await asyncio.sleep(0.01)
                steps.append(str(step))
        return "never"

    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(app.finish_when_cancelled, work())
            await asyncio.sleep(0.05)
            group.cancel_scope.cancel()

    asyncio.run(run())
    assert steps == list("01234")


def test_finished_work_is_passed_on() -> None:
    async def value() -> int:
        return 3

    async def error() -> int:
        raise SandboxError("x")

    assert asyncio.run(app.finish_when_cancelled(value())) == 3
    with pytest.raises(SandboxError):
        asyncio.run(app.finish_when_cancelled(error()))
