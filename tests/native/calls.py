"""A supervisor with its shell, and the server's part played by the test."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import subprocess
import sys
import termios
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from codex_shell_tool_mcp.escalation import wire
from codex_shell_tool_mcp.escalation.channel import receive_message, send_message
from support.built import built
from support.service import PATIENCE, Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_F = TypeVar("_F")

MESSAGES = getattr(socket, "SOCK_SEQPACKET", socket.SOCK_DGRAM) if sys.platform == "linux" else socket.SOCK_DGRAM
"""Kind of the rendezvous socket."""


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Wait for something that has no event to wait for."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, what
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs: it exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in {b"Z", b"X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_program(pid: int, name: str) -> bool:
    """Whether a process executes what is called so by now: a shell that will, does not yet."""
    return Path(f"/proc/{pid}/comm").read_text() == f"{name}\n"


def unread(stream: socket.socket) -> int:
    """Bytes, as the kernel counts them, that the peer of a stream has not taken yet (unix(7), SIOCOUTQ)."""
    count = bytearray(4)
    fcntl.ioctl(stream, termios.TIOCOUTQ, count)
    return int.from_bytes(count, sys.byteorder)


def decided(program: int | None) -> dict[str, Any]:
    """What the server tells of the program it has decided on."""
    if program is None:
        return {}
    found = os.fstat(program)
    return {"size": found.st_size, "modified": found.st_mtime_ns, "changed": found.st_ctime_ns}


@dataclass(kw_only=True)
class Call:
    """One supervised shell. ``frames`` are what the supervisor said that nobody has taken yet."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    rendezvous: socket.socket
    output: int
    connection: wire.Connection = field(default_factory=lambda: wire.Connection(party=wire.Party.SERVER))
    frames: list[wire.Frame] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    sessions: int = 0
    _printed: bytes = b""

    def expect(self, kind: type[_F]) -> _F:
        """The next frame of this kind; others stay."""
        while True:
            for frame in self.frames:
                if isinstance(frame, kind):
                    self.frames.remove(frame)
                    return frame
            received = self._receive()
            assert received is not None, f"the supervisor closed before {kind.__name__}; said {self.frames}"
            self.frames.append(received)

    def _receive(self) -> wire.Frame | None:
        while (event := self.connection.next_event()) is wire.NEED_DATA:
            ready, _, _ = select.select([self.control], [], [], PATIENCE)
            assert ready, f"the supervisor says nothing; before: {self.frames}"
            data, descriptors = receive_message(self.control, self.connection.read_size())
            if not data:
                return None
            self.connection.receive_data(data, descriptors)
        return event

    def accept(self) -> tuple[Service, wire.Request]:
        """The next exec that is asked about."""
        service, request = self.accept_any()
        assert request is not None, "the client ended before it had asked"
        return service, request

    def accept_any(self) -> tuple[Service, wire.Request | None]:
        """As :meth:`accept`, of a client that may have been killed before it had asked: None."""
        ready, _, _ = select.select([self.rendezvous], [], [], PATIENCE)
        assert ready, f"no exec is asked about; frames {self.frames}; output {self.printed()!r}"
        data, descriptors = receive_message(self.rendezvous, 16)
        assert data == bytes((wire.VERSION,))
        service = Service(stream=socket.socket(fileno=descriptors[0]))
        self.services.append(service)
        request = service.receive()
        assert request is None or isinstance(request, wire.Request)
        return service, request

    def escalate(self, service: Service, request: wire.Request, **changes: Any) -> int:
        """Hand an exec to the supervisor; returns the session's number."""
        self.sessions += 1
        values: dict[str, Any] = {
            "session": self.sessions,
            "path": request.file,
            "cwd": request.cwd,
            "argv": request.argv,
            "env": request.env,
            "umask": request.umask,
            "stream": service.stream.fileno(),
            "program": request.program,
            "cwd_descriptor": request.cwd_descriptor,
            **decided(request.program),
            **changes,
        }
        if self.connection.state == "start":
            self.frames.append(self.expect(wire.ShellStarted))
        self.send(wire.Spawn(**values))
        service.close()
        return self.sessions

    def escalate_next(self, **changes: Any) -> int:
        """Escalate the next exec."""
        service, request = self.accept()
        return self.escalate(service, request, **changes)

    def send(self, frame: wire.Frame) -> None:
        """Send a frame to the supervisor, as the state table allows."""
        data, descriptors = self.connection.send(frame), frame.descriptors
        while data:
            data, descriptors = data[send_message(self.control, data, descriptors) :], ()

    def start(self, *argv: str, cwd: str = "/", env: tuple[bytes, ...] = (b"A=1",)) -> None:
        """START with a pipe and a socketpair of its own, which take the place of those before."""
        rendezvous, client = socket.socketpair(socket.AF_UNIX, MESSAGES)
        output, write_end = os.pipe()
        self.send(
            wire.Start(
                cwd=os.fsencode(cwd),
                argv=tuple(map(os.fsencode, argv)),
                env=env,
                output=write_end,
                rendezvous=client.fileno(),
            )
        )
        os.close(write_end)
        client.close()
        self.rendezvous.close()
        os.close(self.output)
        self.rendezvous, self.output, self._printed = rendezvous, output, b""

    def close_services(self) -> None:
        """Close the streams and everything received with them."""
        for service in self.services:
            service.close()

    def printed(self) -> bytes:
        """What was printed up to now."""
        while select.select([self.output], [], [], 0)[0]:
            data = os.read(self.output, 65536)
            if not data:
                break
            self._printed += data
        return self._printed

    def wait_for(self, text: bytes) -> bytes:
        """Wait until this was printed."""
        wait_until(lambda: text in self.printed(), f"not printed: {text!r}")
        return self._printed

    def shell_exit(self) -> wire.Outcome:
        """How the shell ended."""
        return self.expect(wire.ShellExit).outcome

    def end(self) -> int:
        """END, if it has not finished by itself; how many processes had to be ended. The supervisor has exited then."""
        if self.connection.state != "done":
            with suppress(OSError):  # it has finished this very moment
                self.send(wire.End())
        ended = self.expect(wire.Finished).ended
        assert self.process.wait(PATIENCE) == 0
        return ended


def _channels(numbers: tuple[int, int]) -> list[str]:
    return ["--control", str(numbers[0]), "--socket", str(numbers[1])]


def _close(call: Call) -> None:
    call.rendezvous.close()
    os.close(call.output)


@contextmanager
def supervised(
    command: Sequence[str | bytes],
    *,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int = subprocess.DEVNULL,
    inherited: tuple[int, ...] = (),
    setup: Callable[[], None] | None = None,
    waiting: bool = False,
) -> Iterator[Call]:
    """Start a supervisor with this shell: program, argv[0] and arguments. stdout and stderr are one pipe.

    ``$W`` is the wrapper, for scripts that ask by themselves. One ``waiting`` is told by START what to run.
    """
    with ExitStack() as stack:
        control, control_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        rendezvous, client = socket.socketpair(socket.AF_UNIX, MESSAGES)
        read_end, write_end = os.pipe()
        numbers = (control_theirs.fileno(), client.fileno())
        process = subprocess.Popen(
            [
                built().supervisor,
                *(_channels(numbers)[:2] if waiting else _channels(numbers)),
                *options,
                *(["--wait"] if waiting else ["--", *command]),
            ],
            env={**os.environ, "W": str(built().wrapper), **(env or {})},
            cwd=cwd,
            stdin=stdin,
            stdout=write_end,
            stderr=write_end,
            pass_fds=(*numbers[: 1 if waiting else 2], *inherited),
            preexec_fn=setup,  # noqa: PLW1509 - no threads here
        )
        os.close(write_end)
        control_theirs.close()
        client.close()
        call = Call(process=process, control=control, rendezvous=rendezvous, output=read_end)
        call.connection.state = "waiting" if waiting else "start"
        stack.callback(_close, call)
        stack.callback(process.wait, PATIENCE)
        stack.callback(control.close)  # whatever happened: that ends it
        stack.callback(call.close_services)
        yield call


@contextmanager
def script(text: str, **how: Any) -> Iterator[Call]:
    """As :func:`supervised`, with a script for sh."""
    with supervised(["/bin/sh", "sh", "-c", text], **how) as call:
        yield call


OUTSIDE = "$W /bin/sh sh -c"
"""For a script: a program that asks to be run."""

IDLE = "echo ready; while :; do sleep 0.05; done"

TRAPS = f'for s in HUP INT QUIT USR1 USR2 ALRM TERM CONT WINCH 50; do trap "echo got $s" $s; done; {IDLE}'


@contextmanager
def attached(program: str, before: str = "", **how: Any) -> Iterator[tuple[Call, int, int]]:
    """A call with one escalated program running; the wrapper's pid and the program's."""
    command = ["/bin/sh", "sh", "-c", f'{before} exec {OUTSIDE} "$PROGRAM"']
    with supervised(command, env={"PROGRAM": program}, **how) as call:
        wrapper = call.expect(wire.ShellStarted).pid
        call.connection.state = "running"
        call.escalate_next()
        child = call.expect(wire.Started).pid
        yield call, wrapper, child
