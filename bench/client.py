"""A client for MCP servers on stdio that adds next to nothing to what it measures: two pipes, no event loop.

API::

    with Client.start(command, environ, folder) as client:
        client.update(state)                     ``codex/sandbox-state/update``
        client.call([Script(...), ...])          all sent at once, answers in the order of the scripts

MCP specification 2025-06-18, "Lifecycle", "Tools" and "Transports / stdio": one JSON object a line.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Self

from bench.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PROTOCOL = "2025-06-18"
TIMEOUT_MS = 30 * 60 * 1000
"""Of a call, in milliseconds: longer than anything measured; both servers' own default is 10 seconds."""

PATIENCE = 10.0
"""Seconds a server may take to end when its stdin is closed."""

_CHUNK = 1 << 20
_SHOWN = 2000  # characters of what a server said on stderr


@dataclass(frozen=True, kw_only=True)
class Script:
    """What one call runs: the text, and where."""

    text: str
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a call came to; ``output`` is as much of it as the server returned."""

    exit_code: int
    output: str


class Client:
    """One server and the pipes to it; ``process`` is the server."""

    def __init__(self, process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._said = said
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._last = 0
        self._read = bytearray()

    @classmethod
    def start(cls, command: Sequence[str], environ: Mapping[str, str], folder: Path) -> Self:
        """Start a server and shake hands.

        Raises:
            BenchError: It ended or refused; the text holds what it said on stderr.
        """
        said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server, see close()
        process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=dict(environ),
            cwd=folder,
        )
        client = cls(process, said)
        try:
            information = {"name": "bench", "version": "1"}
            client.request("initialize", {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": information})
            client._send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        except BaseException:
            client.close()
            raise
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server as clients do: close its stdin, and kill it if it does not go."""
        self._stdin.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._stdout.close()
        self._said.close()

    def update(self, state: Mapping[str, object]) -> None:
        """Send a sandbox state.

        Raises:
            BenchError: It was refused.
        """
        self.request("codex/sandbox-state/update", state)

    def call(self, scripts: Sequence[Script]) -> list[Answer]:
        """Run the scripts, all at once, each in a call of its own; return when all are answered.

        Raises:
            BenchError: A call failed, or the server ended.
        """
        numbers = [self._ask("tools/call", _arguments(script)) for script in scripts]
        messages = self._answers(len(numbers))
        return [_answer(_result(messages[number])) for number in numbers]

    def request(self, method: str, params: Mapping[str, object]) -> Any:
        """Send one request and wait for its result.

        Raises:
            BenchError: It was refused, or the server ended.
        """
        number = self._ask(method, params)
        return _result(self._answers(1)[number])

    def _ask(self, method: str, params: Mapping[str, object]) -> int:
        self._last += 1
        self._send({"jsonrpc": "2.0", "id": self._last, "method": method, "params": params})
        return self._last

    def _send(self, message: Mapping[str, object]) -> None:
        data = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while data:
                data = data[os.write(self._stdin.fileno(), data) :]
        except BrokenPipeError:
            raise self._gone() from None

    def _answers(self, wanted: int) -> dict[int, dict[str, Any]]:
        """The next answers by number, good and bad ones: none of this request may be left for the next."""
        answers: dict[int, dict[str, Any]] = {}
        while len(answers) < wanted:
            message = json.loads(self._line())
            if "method" not in message:
                answers[message["id"]] = message
            elif "id" in message:
                raise BenchError(f"the server asks for {message['method']}, which nothing measured here may need")
        return answers

    def _line(self) -> bytes:
        seen = 0
        while (end := self._read.find(b"\n", seen)) < 0:
            seen = len(self._read)
            data = os.read(self._stdout.fileno(), _CHUNK)
            if not data:
                raise self._gone()
            self._read += data
        line = bytes(self._read[:end])
        del self._read[: end + 1]
        return line

    def _gone(self) -> BenchError:
        self._said.seek(0)
        text = self._said.read().decode(errors="replace")[-_SHOWN:]
        return BenchError(f"{self.process.args!r} ended; it said: {text.strip() or 'nothing'}")


def _arguments(script: Script) -> dict[str, object]:
    arguments = {"command": script.text, "workdir": str(script.folder), "login": False, "timeout_ms": TIMEOUT_MS}
    return {"name": "shell", "arguments": arguments}


def _result(message: Mapping[str, Any]) -> Any:
    if "error" in message:
        raise BenchError(f"the server refused: {message['error']}")
    return message["result"]


def _answer(result: Mapping[str, Any]) -> Answer:
    text = "".join(part.get("text", "") for part in result["content"])
    if result.get("isError"):
        raise BenchError(f"the call failed: {text}")
    value = json.loads(text)
    if value["timed_out"]:
        raise BenchError(f"the call timed out; its output ended with {value['output'][-_SHOWN:]!r}")
    return Answer(exit_code=value["exit_code"], output=value["output"])
