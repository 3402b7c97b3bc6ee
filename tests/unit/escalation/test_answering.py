"""Execs answered in the turn of the event loop in which their question is noticed, and those that are not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from codex_shell_tool_mcp.escalation import answering, channel, wire
from codex_shell_tool_mcp.escalation.channel import Rendezvous, send_message
from codex_shell_tool_mcp.escalation.policy import EscalateAction, ExecRequest, Run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from codex_shell_tool_mcp.escalation.supervision import Supervision

RUN = wire.encode(wire.Run())


@dataclass
class Runs:
    """A policy that runs everything: at once, or only when it is awaited."""

    patient: bool = False
    awaited: int = 0
    threads: set[str] = field(default_factory=set)

    def decide_at_once(self, request: ExecRequest) -> EscalateAction | None:
        """As an ImmediateEscalationPolicy."""
        return None if self.patient else Run()

    async def determine_action(self, request: ExecRequest) -> EscalateAction:
        """As an EscalationPolicy."""
        self.awaited += 1
        return Run()


@dataclass
class Call:
    """A call's server, and its clients' end of the rendezvous."""

    server: answering.EscalateServer
    clients: socket.socket

    def ask(self, data: bytes, descriptors: tuple[int, ...] = ()) -> socket.socket:
        """Say ``data`` as a wrapper would; the wrapper's end of the stream, which does not block."""
        near, far = socket.socketpair()
        near.setblocking(False)
        send_message(near, data, descriptors)
        send_message(self.clients, bytes((wire.VERSION,)), (far.fileno(),))
        far.close()
        return near


def serve(policy: Runs, work: Callable[[Call], Awaitable[None]]) -> None:
    """Do ``work`` with a server that answers; nothing stays open, nothing stays counted."""

    async def run() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with ours, theirs:
            fake = SimpleNamespace(rendezvous=Rendezvous(ours), answered=0, catch_up=lambda: None)
            supervision = cast("Supervision", fake)
            server = answering.EscalateServer(
                policy=policy, supervision=supervision, writable=None, shell=Path("/bin/sh")
            )
            serving = asyncio.create_task(server.serve())
            await asyncio.sleep(0)
            await work(Call(server, theirs))
            serving.cancel()
            await asyncio.wait([serving])

    asyncio.run(asyncio.wait_for(run(), 60))
    before = sorted(Path("/dev/fd").iterdir())
    asyncio.run(asyncio.wait_for(run(), 60))
    assert sorted(Path("/dev/fd").iterdir()) == before
    assert answering._Open.count == 0


async def answer(stream: socket.socket) -> bytes:
    """All that comes, to its end."""
    found = b""
    while part := await asyncio.get_running_loop().sock_recv(stream, 4096):
        found += part
    stream.close()
    return found


def request(*argv: bytes, program: int | None = None) -> bytes:
    return wire.encode(wire.Request(file=b"/bin/sh", cwd=b"/", argv=argv, env=(b"A=b",), program=program))


def test_what_just_runs_is_answered_in_one_turn_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "TURN", 10.0)  # however slow the machine is

    async def work(call: Call) -> None:
        program = os.open("/bin/sh", os.O_RDONLY)
        streams = [call.ask(request(b"sh", b"%d" % number, program=program), (program,)) for number in range(5)]
        os.close(program)
        # The socket is noticed in the first turn, after this; a task would begin in the second one, after this as well.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [stream.recv(100) for stream in streams] == [RUN] * 5
        assert [stream.recv(100) for stream in streams] == [b""] * 5, "nothing is waited for afterwards"
        for stream in streams:
            stream.close()
        assert [record.request.argv[1] for record in call.server.records] == list("01234")
        assert call.server.decided == 5

    policy = Runs()
    serve(policy, work)
    assert policy.awaited == 0


@pytest.mark.parametrize(
    "data",
    [
        request(b"sh") + b"x",
        request(b"sh") + request(b"sh"),
        request(b"sh")[:-1] + b"x",
        request(b"sh", program=0),
        b"\xff\xff\xff\xff\x01",
        b"\0\0\0\0\x01",
        RUN,
    ],
    ids=["a byte more", "another one", "no end", "a descriptor missing", "length", "no length", "not a request"],
)
def test_what_is_no_request_is_closed_unanswered(data: bytes) -> None:
    async def work(call: Call) -> None:
        with contextlib.suppress(ConnectionResetError):  # what was sent has not all been read
            assert await answer(call.ask(data)) == b""
        assert await answer(call.ask(request(b"sh"))) == RUN
        assert call.server.decided == 1

    serve(Runs(), work)


def test_a_request_that_comes_in_pieces_is_waited_for() -> None:
    async def work(call: Call) -> None:
        data = request(b"sh", b"x" * 300_000)
        stream = call.ask(data[:10])
        for start in range(10, len(data), 50_000):
            await asyncio.sleep(0)
            await asyncio.get_running_loop().sock_sendall(stream, data[start : start + 50_000])
        assert await answer(stream) == RUN

    serve(Runs(), work)


def test_what_must_be_awaited_is() -> None:
    async def work(call: Call) -> None:
        assert await answer(call.ask(request(b"sh"))) == RUN

    policy = Runs(patient=True)
    serve(policy, work)
    assert policy.awaited == 2


def test_very_many_words_are_dealt_with_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    real = answering.describe

    def describe(*arguments: object) -> ExecRequest:
        threads.append(threading.current_thread().name.partition("_")[0])
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(answering, "describe", describe)

    async def work(call: Call) -> None:
        streams = [call.ask(request(*[b"w"] * count)) for count in (3, 2000)]
        assert [await answer(stream) for stream in streams] == [RUN, RUN]

    serve(Runs(), work)
    assert threads == ["MainThread", "large"] * 2


def test_a_call_cannot_take_all_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever other calls hold open, a few execs of each call can wait for something."""
    monkeypatch.setattr(answering, "MAX_OPEN", 0)

    async def work(call: Call) -> None:
        streams = [call.ask(request(b"sh")) for _ in range(20)]
        assert [await answer(stream) for stream in streams] == [RUN] * 20

    serve(Runs(patient=True), work)
