"""stdio as messages: order, garbage, ends, a client that stops reading."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCNotification, JSONRPCRequest

from codex_shell_tool_mcp.server import transport
from support import sources


def line(**members: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **members}).encode() + b"\n"


def read_file(data: bytes) -> list[SessionMessage | Exception]:
    """What a server makes of a file as its stdin."""

    async def run() -> list[SessionMessage | Exception]:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            return [item async for item in transport.Incoming(file.fileno())]

    return asyncio.run(asyncio.wait_for(run(), 60))


def read_pipe(data: bytes) -> list[SessionMessage | Exception]:
    """What it makes of a pipe."""

    async def run() -> list[SessionMessage | Exception]:
        source, sink = os.pipe()
        try:
            incoming = transport.Incoming(source)
            writing = asyncio.create_task(asyncio.to_thread(_write_and_close, sink, data))
            found = [item async for item in incoming]
            await writing
            return found
        finally:
            os.close(source)

    return asyncio.run(asyncio.wait_for(run(), 60))


def _write_and_close(sink: int, data: bytes) -> None:
    with open(sink, "wb") as file:
        file.write(data)


Read = Callable[[bytes], "list[SessionMessage | Exception]"]

either_way = pytest.mark.parametrize("read_all", [read_pipe, read_file])


@either_way
def test_messages_come_in_order(read_all: Read) -> None:
    found = read_all(b"".join(line(id=number, method="m") for number in range(500)))
    assert [item.message.id for item in found if isinstance(item, SessionMessage)] == list(range(500))  # type: ignore[union-attr]


@either_way
@pytest.mark.parametrize(
    "garbage", [b"\n", b"not json\n", b"[]\n", b'{"jsonrpc":"1.0"}\n', b"\xff\xfe\n", b"{" * 9999 + b"\n"]
)
def test_garbage_is_passed_over(read_all: Read, garbage: bytes) -> None:
    bad, good = read_all(garbage + line(method="n"))
    assert isinstance(bad, Exception)
    assert isinstance(good, SessionMessage)
    assert isinstance(good.message, JSONRPCNotification)


@either_way
def test_a_last_line_without_its_end_counts(read_all: Read) -> None:
    (found,) = read_all(line(id=1, method="m").rstrip())
    assert isinstance(found, SessionMessage)
    assert isinstance(found.message, JSONRPCRequest)


@either_way
def test_a_line_without_end_ends_the_reading(read_all: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_MESSAGE", 1000)
    found = read_all(line(id=1, method="m") + b"x" * 5000)
    assert len(found) == 1


def test_it_can_be_ended_while_nothing_comes() -> None:
    async def run() -> list[object]:
        source, sink = os.pipe()
        try:
            incoming = transport.Incoming(source)
            asyncio.get_running_loop().call_later(0.02, incoming.end)
            found: list[object] = [item async for item in incoming]
            with pytest.raises(anyio.EndOfStream):
                await incoming.receive()
            return found
        finally:
            os.close(sink)

    assert asyncio.run(asyncio.wait_for(run(), 60)) == []


def test_a_client_of_pipes_costs_no_thread_a_message() -> None:
    """Reads and small answers happen on the loop: a thread that had to be woken would cost every call."""

    async def run() -> set[str]:
        (source, client_sink), (client_source, sink) = os.pipe(), os.pipe()
        os.set_blocking(client_source, False)
        incoming, outgoing = transport.Incoming(source), transport.Outgoing(sink, asyncio.Event())
        os.write(client_sink, line(id=1, method="m"))
        assert isinstance(await incoming.receive(), SessionMessage)
        await outgoing.send(message(2))
        # Not a turn of the loop has passed since: nobody else can have written it.
        assert json.loads(os.read(client_source, 4096))["id"] == 2
        names = {thread.name for thread in threading.enumerate()}
        incoming.end()
        await outgoing.aclose()
        for descriptor in (source, client_sink, client_source, sink):
            os.close(descriptor)
        return names

    assert "stdin" not in asyncio.run(asyncio.wait_for(run(), 60))


def test_messages_nobody_takes_are_not_read() -> None:
    async def run() -> int:
        source, sink = os.pipe()
        os.set_blocking(sink, False)
        incoming = transport.Incoming(source)
        one, written = line(id=1, method="m" * 1000), 0
        try:
            while True:
                await asyncio.sleep(0)
                written += os.write(sink, one)
        except BlockingIOError:
            pass
        taken = 0
        while taken < written // len(one):  # and go on being read when they are taken
            assert isinstance(await incoming.receive(), SessionMessage)
            taken += 1
        incoming.end()
        os.close(source)
        os.close(sink)
        return written

    assert asyncio.run(asyncio.wait_for(run(), 60)) < 1_000_000


def test_an_answer_longer_than_the_pipe_is_written_whole_and_before_the_next() -> None:
    async def run() -> list[int]:
        source, sink = os.pipe()
        os.set_blocking(sink, False)  # as a client may have set it on the description it shares
        async with transport.Outgoing(sink, asyncio.Event()) as outgoing:
            sending = asyncio.gather(
                outgoing.send(message(1, text="x" * 300_000)), outgoing.send(message(2)), outgoing.send(message(3))
            )
            await asyncio.sleep(0.02)
            reading = asyncio.create_task(asyncio.to_thread(_read_all, source))
            await sending
        os.close(sink)
        return [json.loads(text)["id"] for text in (await reading).splitlines()]

    assert asyncio.run(asyncio.wait_for(run(), 60)) == [1, 2, 3]


def message(number: int, **params: Any) -> SessionMessage:
    return SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=number, method="m", params=params))


def test_what_is_sent_is_written_in_order_one_line_each() -> None:
    async def run() -> bytes:
        source, sink = os.pipe()
        broken = asyncio.Event()
        async with transport.Outgoing(sink, broken) as outgoing:
            reading = asyncio.create_task(asyncio.to_thread(_read_all, source))
            await asyncio.gather(*(outgoing.send(message(n, text="a\nb\u2028c" * 1000)) for n in range(50)))
        os.close(sink)
        with pytest.raises(anyio.ClosedResourceError):
            await outgoing.send(message(0))
        assert not broken.is_set()
        return await reading

    lines = asyncio.run(asyncio.wait_for(run(), 60)).split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(text)["id"] for text in lines] == list(range(50))


def _read_all(source: int) -> bytes:
    with open(source, "rb") as file:
        return file.read()


def test_a_client_that_is_gone_is_noticed() -> None:
    async def run() -> bool:
        source, sink = os.pipe()
        os.close(source)
        broken = asyncio.Event()
        async with transport.Outgoing(sink, broken) as outgoing:
            with pytest.raises(anyio.BrokenResourceError):
                await outgoing.send(message(1))
        os.close(sink)
        return broken.is_set()

    assert asyncio.run(run())


def test_a_client_that_does_not_read_cannot_hold_the_end_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_FLUSH_SECONDS", 0.05)

    async def run() -> None:
        source, sink = os.pipe()
        outgoing = transport.Outgoing(sink, asyncio.Event())
        sending = asyncio.create_task(outgoing.send(message(1, text="x" * 1_000_000)))
        await asyncio.sleep(0.05)
        await outgoing.aclose()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        os.close(source)  # frees the writing thread

    asyncio.run(asyncio.wait_for(run(), 60))


CLAIM = """
import os, subprocess, sys
from codex_shell_tool_mcp.server.transport import claim_stdio
wire = claim_stdio()
print("stray output")
sys.stdout.flush()
subprocess.run(["sh", "-c", "echo from a child; cat; ls -l /proc/self/fd"])
assert os.read(0, 10) == b""
os.write(wire.outgoing, b"protocol " + os.read(wire.incoming, 100))
print(wire.incoming, wire.outgoing, file=sys.stderr)
"""


def test_nothing_stray_gets_into_the_protocol() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", CLAIM], input=b"line", capture_output=True, env=sources.environment(), check=True
    )
    assert ran.stdout == b"protocol line"
    assert all(int(number) > 2 for number in ran.stderr.split())


def test_the_private_descriptors_are_closed_on_exec() -> None:
    code = (
        "import fcntl\nfrom codex_shell_tool_mcp.server.transport import claim_stdio\nwire = claim_stdio()\n"
        "for n in (wire.incoming, wire.outgoing): assert fcntl.fcntl(n, fcntl.F_GETFD) & fcntl.FD_CLOEXEC\n"
        "for n in (0, 1): assert not fcntl.fcntl(n, fcntl.F_GETFD) & fcntl.FD_CLOEXEC\n"
    )
    assert fcntl.FD_CLOEXEC
    subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, env=sources.environment(), check=True)


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_closed_stdio_is_an_error(closed: str) -> None:
    code = "from codex_shell_tool_mcp.server.transport import claim_stdio\nclaim_stdio()"
    ran = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code],
        capture_output=True,
        env=sources.environment(),
        check=False,
    )
    assert b"Bad file descriptor" in ran.stderr
