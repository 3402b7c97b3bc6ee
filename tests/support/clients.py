"""Real servers for tests, each with a Codex home of its own, and two ways to talk to them.

``CODEX_TEST_SERVER`` names a built server to test in place of this checkout's.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from mcp.client.session import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import ElicitRequestParams, ElicitResult, EmptyResult, Request

from support import sources
from support.built import built

if TYPE_CHECKING:
    from pathlib import Path

Elicit = Callable[[ElicitRequestParams], Awaitable[ElicitResult]]

UPDATE = "codex/sandbox-state/update"


def state(kind: str, cwd: Path | str = "/", **fields: object) -> dict[str, object]:
    """Parameters of a sandbox state update."""
    return {"sandboxPolicy": {"type": kind, **fields}, "sandboxCwd": str(cwd)}


@dataclass(kw_only=True)
class Client:
    """A session of the SDK's client, with what tests do all the time."""

    session: ClientSession
    workdir: Path

    async def shell(self, command: str, **arguments: object) -> dict[str, Any]:
        """Run a script that must give a result; the result."""
        found = await self.call(command, **arguments)
        assert not found.is_error, found.content[0].text
        return cast("dict[str, Any]", json.loads(found.content[0].text))

    async def call(self, command: str, **arguments: object) -> Any:
        """Run a script; whatever comes of it."""
        given = {"command": command, "workdir": str(self.workdir), "login": False, "timeout_ms": 30_000, **arguments}
        return await self.session.call_tool("shell", given)

    async def update(self, params: dict[str, object]) -> None:
        """Send a sandbox state."""
        message: Request[Any, Any] = Request[Any, Any](method=UPDATE, params=params)
        await self.session.send_request(message, EmptyResult)


@dataclass(kw_only=True)
class Installation:
    """A server to be started: its folders and options.

    Attributes:
        home: Its ``CODEX_HOME``.
        workdir: Where scripts run.
        options: Of the command line, beside those that name the binaries.
        environ: Variables set for it.
    """

    home: Path
    workdir: Path
    options: tuple[str, ...] = ("--sandbox", "danger-full-access")
    environ: dict[str, str] = field(default_factory=dict)

    def rules(self, text: str) -> None:
        """Write the user's rules."""
        folder = self.home / "rules"
        folder.mkdir(exist_ok=True)
        (folder / "default.rules").write_text(text)

    def command(self) -> list[str]:
        """How it is started."""
        binaries = built()
        named = ("--bash", binaries.bash, "--execve", binaries.wrapper, "--supervisor", binaries.supervisor)
        server = os.environ.get("CODEX_TEST_SERVER")
        start = [server] if server else [sys.executable, "-m", "codex_shell_tool_mcp"]
        return [*start, *map(str, named), *self.options]

    def environment(self) -> dict[str, str]:
        """With what."""
        return sources.environment(CODEX_HOME=str(self.home), **self.environ)

    @property
    def log(self) -> Path:
        """Where its stderr goes."""
        return self.home / "server.log"

    @asynccontextmanager
    async def connect(self, elicit: Elicit | None = None) -> AsyncIterator[Client]:
        """Start it and shake hands; with ``elicit`` the client declares that it shows forms."""

        async def answer(context: object, params: ElicitRequestParams) -> ElicitResult:
            assert elicit is not None
            return await elicit(params)

        command, *arguments = self.command()
        parameters = StdioServerParameters(command=command, args=arguments, env=self.environment(), cwd="/")
        with self.log.open("a") as log:
            async with stdio_client(parameters, errlog=log) as (read, write):
                callback = None if elicit is None else answer
                async with ClientSession(read, write, elicitation_callback=callback) as session:
                    await session.initialize()
                    yield Client(session=session, workdir=self.workdir)

    def use(self, work: Callable[[Client], Awaitable[Any]], elicit: Elicit | None = None, seconds: float = 60) -> Any:
        """Start it, do ``work``, end it."""

        async def run() -> Any:
            async with self.connect(elicit) as client:
                return await work(client)

        return asyncio.run(asyncio.wait_for(run(), seconds))

    def shell(self, command: str, **arguments: object) -> dict[str, Any]:
        """Run one script in a server of its own."""

        async def work(client: Client) -> dict[str, Any]:
            return await client.shell(command, **arguments)

        return cast("dict[str, Any]", self.use(work))

    @contextmanager
    def raw(
        self, *, shake_hands: bool = True, inherited: tuple[int, ...] = (), **capabilities: object
    ) -> Iterator[Raw]:
        """Start it, with these descriptors of ours, and talk to it line by line."""
        with (
            self.log.open("a") as log,
            subprocess.Popen(
                self.command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.environment(),
                cwd="/",
                pass_fds=inherited,
                start_new_session=True,
            ) as process,
        ):
            raw = Raw(process=process, workdir=self.workdir)
            try:
                if shake_hands:
                    raw.shake_hands(capabilities)
                yield raw
            finally:
                process.kill()


@dataclass(kw_only=True)
class Raw:
    """A server's stdin and stdout."""

    process: subprocess.Popen[bytes]
    workdir: Path

    def send(self, *messages: dict[str, object]) -> None:
        """Write messages, all at once."""
        self.write(b"".join(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n" for message in messages))

    def write(self, data: bytes) -> None:
        """Write bytes."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Read one message."""
        assert self.process.stdout is not None
        return cast("dict[str, Any]", json.loads(self.process.stdout.readline()))

    def shake_hands(self, capabilities: dict[str, object]) -> dict[str, Any]:
        """Initialize; the server's answer."""
        client = {"name": "raw", "version": "1"}
        params = {"protocolVersion": "2025-06-18", "capabilities": capabilities, "clientInfo": client}
        self.send({"id": 0, "method": "initialize", "params": params})
        answer = self.receive()
        self.send({"method": "notifications/initialized"})
        return answer

    def call(self, number: int, command: str, **arguments: object) -> dict[str, object]:
        """A call of the tool, as a message."""
        given = {"command": command, "workdir": str(self.workdir), "login": False, "timeout_ms": 30_000, **arguments}
        return {"id": number, "method": "tools/call", "params": {"name": "shell", "arguments": given}}

    def result(self) -> dict[str, Any]:
        """Read an answer that must be a call's result."""
        answer = self.receive()["result"]
        assert not answer["isError"], answer
        return cast("dict[str, Any]", json.loads(answer["content"][0]["text"]))

    def rest(self) -> bytes:
        """Everything the server still writes, until it closes stdout."""
        assert self.process.stdout is not None
        return self.process.stdout.read()
