"""The way past the SDK's models against the SDK's own: the same requests, the same answers, byte for byte."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mcp.shared.memory import create_client_server_memory_streams
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCNotification, JSONRPCRequest
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from codex_shell_tool_mcp.errors import SandboxError
from codex_shell_tool_mcp.escalation.params import ExecParams, ExecResult
from codex_shell_tool_mcp.server import app, shortcut
from unit.server import test_app

if TYPE_CHECKING:
    from codex_shell_tool_mcp.sandbox.spec import SandboxState

ARGUMENTS = {"command": ":", "workdir": "/", "login": False}


async def carry(params: ExecParams, _: SandboxState, __: float | None) -> ExecResult:
    if params.command == "refused":
        raise SandboxError("it cannot be applied")
    if params.command == "bug":
        raise LookupError("a bug")
    if params.command == "for ever":
        await asyncio.Event().wait()
    return ExecResult(exit_code=3, output=f"<{params.command}>\udcff ü", duration=0.25, timed_out=False)


def answers(version: str | None, *calls: Any, cancelled: bool = False) -> tuple[list[str], int]:
    """What the server says to calls with these parameters, as it is sent, and how many took the shortcut."""
    taken = 0

    async def exchange() -> list[str]:
        nonlocal taken
        said: list[str] = []
        async with create_client_server_memory_streams() as ((reading, writing), theirs):
            serving = asyncio.create_task(app._serve_connection(test_app.settings(carry), *theirs))

            async def ask(number: int, method: str, params: Any) -> None:
                message = JSONRPCRequest.model_construct(jsonrpc="2.0", id=number, method=method, params=params)
                await writing.send(SessionMessage(message))

            async def hear() -> None:
                answer = await reading.receive()
                assert isinstance(answer, SessionMessage)
                said.append(answer.message.model_dump_json(by_alias=True, exclude_unset=True))

            if version is not None:
                about = {"name": "x", "version": "1"}
                hello = {"protocolVersion": version, "capabilities": {"elicitation": {}}, "clientInfo": about}
                await ask(0, "initialize", hello)
                await hear()
                ready = JSONRPCNotification(jsonrpc="2.0", method="notifications/initialized")
                await writing.send(SessionMessage(ready))
            for number, params in enumerate(calls, 1):
                taken += version is not None and shortcut.is_plain(params)
                await ask(number, "tools/call", params)
                if cancelled:
                    await asyncio.sleep(0.01)
                    about_it = {"requestId": number}
                    never_mind = JSONRPCNotification(jsonrpc="2.0", method="notifications/cancelled", params=about_it)
                    await writing.send(SessionMessage(never_mind))
                    await ask(100 + number, "ping", None)
                await hear()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        return said

    return asyncio.run(exchange()), taken


def both(version: str | None, *calls: Any, cancelled: bool = False) -> list[str]:
    """The answers, which are the same both ways."""
    ours, _ = answers(version, *calls, cancelled=cancelled)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shortcut, "is_plain", lambda _: False)
        sdks, taken = answers(version, *calls, cancelled=cancelled)
    assert taken == 0
    assert ours == sdks
    return ours


def call(command: str, **more: Any) -> dict[str, Any]:
    return {"name": "shell", "arguments": {**ARGUMENTS, "command": command}, **more}


@pytest.mark.parametrize("version", HANDSHAKE_PROTOCOL_VERSIONS)
def test_every_version_of_the_protocol(version: str) -> None:
    calls = (call(":"), call("refused"), call("bug"), {"name": "other", "arguments": {}}, {"name": "shell"})
    said = both(version, *calls, call(":", _meta={"progressToken": "x", "own": [1]}))
    assert len(said) == len(calls) + 2
    assert '"isError":false' in said[1]
    assert '"isError":true' in said[2]
    assert answers(version, *calls)[1] == 4  # and the shortcut was taken


def test_before_the_handshake() -> None:
    assert "Invalid request parameters" in both(None, call(":"))[0]


def test_cancelled_calls_are_not_answered() -> None:
    said = both(HANDSHAKE_PROTOCOL_VERSIONS[-1], call("for ever"), call("for ever"), cancelled=True)
    assert ['"id":101' in said[1], '"id":102' in said[2]] == [True, True]


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.floats(allow_nan=False),
    st.sampled_from(["", "shell", "x", "io.modelcontextprotocol/x"]),
    st.lists(st.integers(), max_size=1),
    st.dictionaries(st.sampled_from(["", "command", "workdir", "timeout_ms", "io.modelcontextprotocol/x"]), st.none()),
)
META = st.dictionaries(
    st.sampled_from(["progressToken", "a", "", "io.modelcontextprotocol/x", "io.modelcontextprotocol/logLevel"]), ODD
)
PARAMETERS = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.one_of(st.just("shell"), ODD),
            "arguments": st.one_of(st.just(ARGUMENTS), ODD),
            "_meta": st.one_of(META, ODD),
            "task": ODD,
        },
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(HANDSHAKE_PROTOCOL_VERSIONS), PARAMETERS)
@example(HANDSHAKE_PROTOCOL_VERSIONS[-1], call(":", _meta={"progressToken": True}))
@example(HANDSHAKE_PROTOCOL_VERSIONS[-1], call(":", _meta={"progressToken": 1.5}))
@example(HANDSHAKE_PROTOCOL_VERSIONS[-1], call(":", _meta={"progressToken": None}))
@example(HANDSHAKE_PROTOCOL_VERSIONS[-1], call(":", _meta=None))
@example(HANDSHAKE_PROTOCOL_VERSIONS[-1], {"name": "shell", "arguments": None})
def test_whatever_is_asked(version: str, params: Any) -> None:
    """Invariant: what takes the shortcut is answered as the SDK answers it, and all else is the SDK's."""
    both(version, params)


@given(PARAMETERS)
def test_nothing_odd_is_plain(params: Any) -> None:
    if shortcut.is_plain(params):
        assert isinstance(params["name"], str)
        assert isinstance(params["arguments"], dict)
        assert set(params) <= {"name", "arguments", "_meta"}
