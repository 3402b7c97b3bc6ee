"""The tool through a real client, server, supervisor, shell and wrapper."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS

from codex_shell_tool_mcp.server.shell_tool import INPUT_SCHEMA
from codex_shell_tool_mcp.server.stdio_only import FULL_SDK_VARIABLE
from support.clients import Client, Installation, Raw

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["stdio only", "whole SDK"])
def either(request: pytest.FixtureRequest, installation: Installation) -> Installation:
    """A server that imports the parts of the SDK it needs, and one that imports all of it."""
    if request.param == "whole SDK":
        if os.environ.get("CODEX_TEST_SERVER"):
            pytest.skip("a frozen server does not contain the whole SDK")
        installation.environ[FULL_SDK_VARIABLE] = "1"
    return installation


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raw]:
    """One server for tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("shared")
    home, workdir = folder / "home", folder / "work"
    home.mkdir()
    workdir.mkdir()
    with Installation(home=home, workdir=workdir).raw() as server:
        yield server


def test_a_session(either: Installation) -> None:
    """The whole of it once: greeting, tool, good and bad calls, a state, an approval, in one server."""
    either.rules('prefix_rule(pattern=["true"], decision="prompt")\n')
    asked: list[str] = []

    async def elicit(params: Any) -> Any:
        from mcp_types import ElicitResult  # noqa: PLC0415 - only here

        asked.append(params.message)
        return ElicitResult(action="decline")

    async def work(client: Client) -> None:
        (tool,) = (await client.session.list_tools()).tools
        assert (tool.name, tool.input_schema) == ("shell", INPUT_SCHEMA)
        assert (await client.shell("echo one; echo two >&2; exit 3"))["output"] == "one\ntwo\n"
        with pytest.raises(MCPError, match="tool not found"):
            await client.session.call_tool("bash", {})
        with pytest.raises(MCPError, match="failed to deserialize parameters: `login`"):
            await client.call("ls", login="yes")
        await client.update({"sandboxPolicy": {"type": "external-sandbox"}, "sandboxCwd": "/"})
        found = await client.shell('/bin/true; echo "$? $CODEX_SANDBOX_NETWORK_DISABLED"')
        assert found["output"] == "Execution denied: User declined execution\n1 1\n"

    either.use(work, elicit)
    assert len(asked) == 1
    # Where /bin is a link to /usr/bin, the file behind the name is shown as well.
    assert re.fullmatch(r"Allow agent to run `(/usr)?/bin/true`( \(the file `/[^`]*`\))? in `.*/work`\?", asked[0])


def test_a_result_has_the_originals_keys_first(installation: Installation) -> None:
    found = installation.shell("echo out; exit 7")
    assert list(found)[:4] == ["exit_code", "output", "duration", "timed_out"]
    assert (found["exit_code"], found["output"], found["timed_out"]) == (7, "out\n", False)
    assert set(found["duration"]) == {"secs", "nanos"}
    assert 0 <= found["duration"]["secs"] < 30
    assert 0 <= found["duration"]["nanos"] < 10**9
    assert any(found["duration"].values())
    assert found["sandbox"] == {"policy": "danger-full-access", "enforced_by": "nobody"}


@pytest.mark.parametrize(
    ("script", "exit_code", "output"),
    [
        ("printf 'a\\nb\\n' | sort -r | head -1", 0, "b\n"),
        ("echo out; echo err >&2; echo out", 0, "out\nerr\nout\n"),
        ("cat; echo end", 0, "end\n"),
        ("kill -9 $$", 137, ""),
        ("{ sh -c 'kill -TERM $$'; } 2>/dev/null; echo $?", 0, "143\n"),
        ("printf '\\377'", 0, "\ufffd"),
        ("printf 'caf\\303\\251'", 0, "café"),
        ("nosuchprogram-anywhere 2>/dev/null; echo $?", 0, "127\n"),
        ("echo sandbox permission denied; exit 1", 1, "sandbox permission denied\n"),
        ("printf '#!/bin/sh\\necho script $1\\n' > s; chmod +x s; ./s x", 0, "script x\n"),
        ("printf 'echo no line $1\\n' > s; chmod +x s; ./s x", 0, "no line x\n"),
        ("pwd", 0, None),
        ("", 0, ""),
    ],
)
def test_scripts(shared: Raw, script: str, exit_code: int, output: str | None) -> None:
    shared.send(shared.call(1, script))
    found = shared.result()
    expected = f"{shared.workdir}\n" if output is None else output
    assert (found["exit_code"], found["output"]) == (exit_code, expected)


def test_a_login_shell_unless_told_otherwise(installation: Installation) -> None:
    async def work(client: Client) -> list[str]:
        probe = "shopt -q login_shell && echo login || echo plain"
        calls = [client.shell(probe, login=login) for login in (True, None, False)]
        return [(await call)["output"].splitlines()[-1] for call in calls]

    assert installation.use(work) == ["login", "login", "plain"]


def test_a_timeout_is_a_result(installation: Installation) -> None:
    found = installation.shell("echo before; sleep 4242; echo after", timeout_ms=5000)
    assert (found["exit_code"], found["output"], found["timed_out"]) == (124, "before\n", True)
    assert found["ended_processes"] >= 1


def test_no_time_at_all(installation: Installation) -> None:
    found = installation.shell("echo never; sleep 4242", timeout_ms=0)
    assert (found["exit_code"], found["timed_out"]) == (124, True)


def test_nulls_mean_the_defaults(installation: Installation) -> None:
    found = installation.shell("echo $0", login=None, timeout_ms=None)
    assert found["exit_code"] == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"command": None}, "`command`: expected a string, got null"),
        ({"workdir": 7}, "`workdir`: expected a string, got the number 7"),
        ({"timeout_ms": "1000"}, "`timeout_ms`: expected an integer of milliseconds, got a string"),
        ({"timeout_ms": -5}, "`timeout_ms`: expected 0 to 18446744073709551615, got -5"),
        ({"login": 1}, "`login`: expected true, false or null, got the number 1"),
    ],
)
def test_wrong_types_and_the_server_lives_on(shared: Raw, arguments: dict[str, object], text: str) -> None:
    call = {"name": "shell", "arguments": {"command": "ls", "workdir": "/", **arguments}}
    shared.send({"id": 1, "method": "tools/call", "params": call}, shared.call(2, "echo alive"))
    error = shared.receive()["error"]
    assert error["code"] == INVALID_PARAMS
    assert error["message"] == f"failed to deserialize parameters: {text}"
    assert shared.result()["output"] == "alive\n"


def test_useless_directories_and_the_server_lives_on(installation: Installation) -> None:
    (installation.workdir / "file").touch()

    async def work(client: Client) -> list[str]:
        texts = []
        for workdir in ("sub", str(client.workdir / "gone"), str(client.workdir / "file")):
            found = await client.call("ls", workdir=workdir)
            assert found.is_error
            texts.append(found.content[0].text)
        assert (await client.shell("echo alive"))["output"] == "alive\n"
        return texts

    relative, missing, file = installation.use(work)
    assert relative == "workdir 'sub' is relative: give the absolute path of an existing directory"
    assert "gone' cannot be used (No such file or directory): give the absolute path" in missing
    assert "file' is not a directory: give the absolute path" in file


def test_a_script_that_is_too_long_says_what_to_do(installation: Installation) -> None:
    async def work(client: Client) -> str:
        found = await client.call(": " + "x" * 200_000)
        assert found.is_error
        assert (await client.shell("echo alive"))["output"] == "alive\n"
        return str(found.content[0].text)

    assert "write the script to a file" in installation.use(work)


def test_calls_run_in_parallel(installation: Installation) -> None:
    async def work(client: Client) -> float:
        begun = time.monotonic()
        # Each waits for a file that only the other makes.
        await asyncio.gather(
            client.shell("touch a; until [ -e b ]; do sleep 0.02; done"),
            client.shell("touch b; until [ -e a ]; do sleep 0.02; done"),
        )
        return time.monotonic() - begun

    assert installation.use(work) < 20


def test_the_environment_is_the_clients(installation: Installation) -> None:
    """But for the two variables of the wrapper, and what a shell itself sets."""
    installation.environ |= {"ODD": "a b\nc", "LD_LIBRARY_PATH_ORIG": "kept"}
    found = installation.shell("env -0 > env.txt; env -0 -u x | wc -c")
    assert found["exit_code"] == 0
    entries = (installation.workdir / "env.txt").read_bytes().split(b"\0")
    seen = dict(entry.split(b"=", 1) for entry in entries if entry)
    given = {os.fsencode(name): os.fsencode(value) for name, value in installation.environment().items()}
    added = {b"EXEC_WRAPPER", b"CODEX_ESCALATE_SOCKET"}
    of_the_shell = {b"_", b"PWD", b"OLDPWD", b"SHLVL"}
    assert set(seen) - set(given) - of_the_shell == added
    assert {name: value for name, value in seen.items() if name not in added | of_the_shell} == {
        name: value for name, value in given.items() if name not in of_the_shell
    }


def test_a_cancelled_call_ends_everything_it_started(installation: Installation) -> None:
    mark = f"4343.{os.getpid()}"
    with installation.raw() as server:
        server.send(server.call(1, f"echo go > started; sleep {mark} & sleep {mark}"))
        _wait_for(lambda: (server.workdir / "started").exists() and len(_processes(mark)) >= 2)
        server.send({"method": "notifications/cancelled", "params": {"requestId": 1}})
        _wait_for(lambda: not _processes(mark))
        # The cancelled one is never answered; the next one is.
        server.send(server.call(2, "echo alive"))
        answer = server.receive()
        assert answer["id"] == 2
        assert json.loads(answer["result"]["content"][0]["text"])["output"] == "alive\n"


def _processes(mark: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[:2] == [b"sleep", mark.encode()]:
                found.append(int(folder.name))
    return found


def _wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    "garbage", [b"\n", b"not json\n", b"{}\n", b"[1,2]\n", b"\xff\xfe\n", b'{"jsonrpc":"2.0","id":{}}\n']
)
def test_garbage_on_stdin_and_the_server_lives_on(shared: Raw, garbage: bytes) -> None:
    shared.write(garbage)
    shared.send(shared.call(1, "echo alive"))
    assert shared.result()["output"] == "alive\n"


def test_arguments_that_are_no_object(installation: Installation) -> None:
    with installation.raw() as server:
        server.send({"id": 1, "method": "tools/call", "params": {"name": "shell", "arguments": ["ls"]}})
        assert server.receive()["error"]["code"] == INVALID_PARAMS
        server.send({"id": 2, "method": "tools/call", "params": {"name": "shell"}})
        assert server.receive()["error"]["message"] == "failed to deserialize parameters: missing field `command`"


def test_clients_of_the_newest_protocol_fall_back(installation: Installation) -> None:
    """It has no requests from the server, so nobody could be asked; see docs/clients.md."""
    from mcp import StdioServerParameters, stdio_client  # noqa: PLC0415 - only here
    from mcp.client.client import Client as NewClient  # noqa: PLC0415

    command, *arguments = installation.command()
    parameters = StdioServerParameters(command=command, args=arguments, env=installation.environment(), cwd="/")

    async def run() -> tuple[str, str]:
        with installation.log.open("a") as log:
            async with NewClient(stdio_client(parameters, errlog=log)) as client:
                found = await client.call_tool("shell", {"command": "echo hi", "workdir": "/", "login": False})
                return client.protocol_version, found.content[0].text  # type: ignore[union-attr]

    version, text = asyncio.run(asyncio.wait_for(run(), 60))
    assert version == "2025-11-25"
    assert json.loads(text)["output"] == "hi\n"
