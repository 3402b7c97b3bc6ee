"""The other end of the wrapper, driven by hand: for tests of the clients."""

from __future__ import annotations

import functools
import os
import select
import socket
import subprocess
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.escalation import wire
from codex_shell_tool_mcp.escalation.channel import receive_message, send_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

PATIENCE = 60
"""Seconds until a peer that says nothing is a failure: no machine is so busy that a peer needs so long."""


@dataclass(kw_only=True)
class Service:
    """One exec session, answered by the test. ``received`` are descriptors taken in, closed at the end."""

    stream: socket.socket
    connection: wire.Connection = field(default_factory=lambda: wire.Connection(party=wire.Party.SERVICE))
    received: list[int] = field(default_factory=list)

    def receive(self) -> wire.Frame | None:
        """The next frame; ``None`` at the end of the stream."""
        while (event := self.connection.next_event()) is wire.NEED_DATA:
            ready, _, _ = select.select([self.stream], [], [], PATIENCE)
            assert ready, "the client says nothing"
            try:
                data, descriptors = receive_message(self.stream, self.connection.read_size())
            except ConnectionResetError:
                return None
            self.received += descriptors
            if not data:
                return None
            self.connection.receive_data(data, descriptors)
        return event

    def send(self, frame: wire.Frame) -> None:
        """Send a frame, as the state table allows."""
        self.send_raw(self.connection.send(frame))

    def answer(self, frame: wire.Frame) -> None:
        """Send a frame to a client that may have been killed since it asked."""
        with suppress(BrokenPipeError):
            self.send(frame)

    def send_raw(self, data: bytes) -> None:
        """Send any bytes."""
        while data:
            data = data[send_message(self.stream, data, ()) :]

    def close(self) -> None:
        """Close the stream and everything received."""
        self.stream.close()
        for descriptor in self.received:
            os.close(descriptor)
        self.received.clear()


@dataclass(kw_only=True)
class Caller:
    """A started wrapper and the server's end of its rendezvous socket."""

    process: subprocess.Popen[bytes]
    rendezvous: socket.socket

    def accept(self) -> Service:
        """The exec it asks about."""
        ready, _, _ = select.select([self.rendezvous], [], [], PATIENCE)
        assert ready, "the wrapper does not ask"
        data, descriptors = receive_message(self.rendezvous, 16)
        assert data == bytes((wire.VERSION,))
        assert len(descriptors) == 1
        return Service(stream=socket.socket(fileno=descriptors[0]))

    def ask(self) -> tuple[Service, wire.Request]:
        """The session and its request."""
        service = self.accept()
        request = service.receive()
        assert isinstance(request, wire.Request)
        return service, request

    def output(self) -> int:
        """Descriptor of our end of its stdout."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def outcome(self) -> tuple[int, bytes, bytes]:
        """Status (negative: signal), stdout and stderr, once it has ended."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@contextmanager
def calling(
    command: Sequence[str | bytes],
    *,
    env: Mapping[bytes, bytes] | None = None,
    executable: str | None = None,
    inherited: tuple[int, ...] = (),
    cwd: str | bytes | None = None,
    setup: Callable[[int], None] | None = None,
) -> Iterator[Caller]:
    """Start a wrapper as a shell would, with a rendezvous socket of its own.

    ``setup`` is called right before the exec, in the new process, with that socket's number.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    environment = {**os.environb, **(env or {}), b"CODEX_ESCALATE_SOCKET": str(theirs.fileno()).encode()}
    process = subprocess.Popen(
        command,
        executable=executable,
        env=environment,
        cwd=cwd,
        pass_fds=(theirs.fileno(), *inherited),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=None if setup is None else functools.partial(setup, theirs.fileno()),  # noqa: PLW1509 - no threads
    )
    theirs.close()
    try:
        yield Caller(process=process, rendezvous=ours)
    finally:
        process.kill()
        process.wait(PATIENCE)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        ours.close()
