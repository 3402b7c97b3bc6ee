"""What both halves of the Python wrapper share: its stream, its messages, its descriptors, what its process is made of.

Everything here is the counterpart of ``src/native/descriptors.c``, ``text.c`` and parts of ``signals.c``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import select
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from codex_shell_tool_mcp.errors import ShellToolError
from codex_shell_tool_mcp.escalation import wire
from codex_shell_tool_mcp.escalation.channel import close_all, receive_message, send_message

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

NOT_RUN = 126
"""Exit status when the exec did not happen for want of an answer: the shell's for "found, but not executable"."""

NOT_FOUND = 127
"""Exit status for a missing file, as the shell's."""

FLIGHT_PATIENCE = 5.0
"""Seconds to retry while too many descriptors are in flight (ETOOMANYREFS, counted per user)."""

SIGNALS_MAX = 64
"""Highest number of a signal."""


@dataclass(kw_only=True)
class Session:
    """One exec: the stream, our side of the state table, and the descriptors that are ours, not the program's."""

    file: bytes
    argv: tuple[bytes, ...]
    ask: int | None
    rendezvous: int
    stream: socket.socket
    connection: wire.Connection = field(default_factory=lambda: wire.Connection(party=wire.Party.CLIENT))
    program: int | None = None
    cwd: int | None = None
    attached: bool = False

    def send(self, frame: wire.Frame) -> None:
        """Send a whole frame."""
        rest, descriptors = send_some(self.stream, memoryview(self.connection.send(frame)), frame.descriptors)
        send_rest(self.stream, rest, descriptors)

    def receive(self) -> wire.Frame:
        """The next frame.

        Raises:
            ShellToolError: The server has closed.
            RemoteProtocolError: It broke the format.
        """
        while (event := self.connection.next_event()) is wire.NEED_DATA:
            wait(self.stream.fileno(), select.POLLIN)
            try:
                data, descriptors = receive_message(self.stream, self.connection.read_size())
            except BlockingIOError:
                continue
            except ConnectionResetError:
                data, descriptors = b"", ()
            close_all(descriptors)  # nothing ever comes this way
            if not data:
                raise ShellToolError("the server closed the connection without an answer")
            self.connection.receive_data(data)
        return event

    def fail_as(self, number: int) -> NoReturn:
        """End as the shell would, had it failed with this errno itself."""
        say(visible(self.file) + b": " + os.strerror(number).encode())
        os._exit(NOT_FOUND if number == errno.ENOENT else NOT_RUN)


def say(line: bytes) -> None:
    """One line on stderr, whether anybody reads it or not; the process is about to end."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    rest = memoryview(line + b"\n")
    with contextlib.suppress(OSError):
        while rest:
            try:
                rest = rest[os.write(2, rest) :]
            except BlockingIOError:
                wait(2, select.POLLOUT)


def visible(text: bytes) -> bytes:
    """``text`` without what could make up lines of its own."""
    return bytes(byte if byte >= 0x20 and byte != 0x7F else ord("?") for byte in text)


def wait(descriptor: int, events: int, limit: int | None = None) -> bool:
    """Wait until it is ready, ``limit`` milliseconds at most; whether it is."""
    poll = select.poll()
    poll.register(descriptor, events)
    return bool(poll.poll(limit))


def send_some(
    stream: socket.socket, rest: memoryview, descriptors: tuple[int, ...]
) -> tuple[memoryview, tuple[int, ...]]:
    """Send what fits without blocking; what is left. Descriptors go with the first byte.

    Raises:
        OSError: The other end is gone, or too many descriptors stay on their way.
    """
    give_up = time.monotonic() + FLIGHT_PATIENCE
    while rest:
        try:
            rest, descriptors = rest[send_message(stream, rest, descriptors) :], ()
        except BlockingIOError:
            break
        except OSError as error:
            if error.errno not in {errno.ETOOMANYREFS, errno.ENOBUFS} or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
    return rest, descriptors


def send_rest(stream: socket.socket, rest: memoryview, descriptors: tuple[int, ...]) -> None:
    """Send all of it, waiting for room."""
    while rest:
        wait(stream.fileno(), select.POLLOUT)
        rest, descriptors = send_some(stream, rest, descriptors)


def above_standard(descriptor: int) -> int:
    """The same under a number that is no standard stream's: those may be closed, and what is said goes to 2."""
    if descriptor > 2:
        return descriptor
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved


class DescriptorLimit:
    """The soft limit on descriptors, which can be too low for what the question needs (setrlimit(2))."""

    _original: tuple[int, int] | None = None

    @classmethod
    def lift(cls) -> None:
        """Raise it to the hard one."""
        cls._original = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (cls._original[1], cls._original[1]))

    @classmethod
    def restore(cls) -> None:
        """Set it as it was: it is the program's that counts."""
        if cls._original is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, cls._original)


def kernel_mask(name: str, otherwise: Sequence[int]) -> int:
    """A set of signals as proc(5) ``status`` has it, with those the C library keeps to itself. Bit n-1 is signal n.

    ``otherwise`` is the set where there is no such file.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1], 16)
    return sum(1 << (number - 1) for number in otherwise)
