"""The Python ``codex-execve-wrapper``: reference client of ``docs/protocol.md``, used where no C build exists.

It carries messages and descriptors; all judgement is the server's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import resource
import select
import signal
import socket
import stat
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from codex_shell_tool_mcp.errors import ProtocolError, ShellToolError
from codex_shell_tool_mcp.escalation import wire
from codex_shell_tool_mcp.escalation.channel import close_all, receive_message, send_message

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

SOCKET_VARIABLE = b"CODEX_ESCALATE_SOCKET"
"""Names the call's datagram socket."""

NOT_RUN = 126
"""Exit status when the exec did not happen for want of an answer: the shell's for "found, but not executable"."""

NOT_FOUND = 127
"""Exit status for a missing file, as the shell's."""

DENIED = 1
"""Exit status after DENY."""

FLIGHT_PATIENCE = 5.0
"""Seconds to retry while too many descriptors are in flight (ETOOMANYREFS, counted per user)."""

_O_PATH = getattr(os, "O_PATH", os.O_RDONLY)

_ASK_NAME = re.compile(rb"codex-execve-ask:([0-9]{1,9})\Z")

_UNFORWARDED = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
"""Cannot be caught, or is our own child's business."""

_FROM_TERMINAL = {signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGHUP, signal.SIGWINCH, signal.SIGCONT}
"""With a controlling terminal the child shares our process group, so the kernel sends it these as well: forwarding them
would deliver them twice. (The C client tells the kernel's from a kill(2) by ``si_code``; here both stay.)"""


@dataclass(kw_only=True)
class _Session:
    """One exec: the stream, our side of the state table, and the descriptors that are ours, not the program's."""

    file: bytes
    argv: tuple[bytes, ...]
    ask: int | None
    rendezvous: int
    stream: socket.socket
    connection: wire.Connection = field(default_factory=lambda: wire.Connection(party=wire.Party.CLIENT))
    program: int | None = None
    cwd: int | None = None

    def own(self) -> set[int]:
        numbers = {self.rendezvous, self.stream.fileno(), self.ask, self.program, self.cwd}
        return {number for number in numbers if number is not None}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The wrapper's entry point: ``argv`` as :data:`sys.argv`. Never returns."""
    arguments = [os.fsencode(argument) for argument in (sys.argv if argv is None else argv)]
    _restore_dispositions()
    if len(arguments) < 3:
        _say(b"usage: codex-execve-wrapper FILE ARGV0 [ARG...]")
        os._exit(NOT_RUN)
    asked = _ASK_NAME.match(arguments[0])
    try:
        _intercept(arguments[1], tuple(arguments[2:]), int(asked[1]) if asked else None)
    except (ShellToolError, OSError, ValueError) as error:
        _say(b"codex-execve-wrapper: %s: not run: %s" % (arguments[1], os.fsencode(str(error))))
    os._exit(NOT_RUN)


def _restore_dispositions() -> None:
    """Python ignores these at its start, and an exec'd program would inherit that."""
    for name in ("SIGPIPE", "SIGXFSZ", "SIGXFZ"):
        number = getattr(signal, name, None)
        if number is not None:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _say(line: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(2, line + b"\n")


def _intercept(file: bytes, argv: tuple[bytes, ...], ask: int | None) -> None:
    rendezvous = _rendezvous()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    session = _Session(file=file, argv=argv, ask=ask, rendezvous=rendezvous, stream=ours)
    request = _request(session)
    ours.setblocking(False)
    rest = memoryview(session.connection.send(request))
    rest, descriptors = _send_some(ours, rest, request.descriptors)
    _introduce(rendezvous, theirs)
    theirs.close()  # else the server's death would go unnoticed
    _send_rest(ours, rest, descriptors)
    _act(session, _receive(session))


def _rendezvous() -> int:
    text = os.environb.get(SOCKET_VARIABLE)
    if text is None:
        raise ShellToolError("CODEX_ESCALATE_SOCKET is not set")
    if not text.isdigit():
        raise ShellToolError("CODEX_ESCALATE_SOCKET is not a number")
    number = int(text)
    try:
        is_socket = stat.S_ISSOCK(os.fstat(number).st_mode)
    except (OSError, OverflowError):
        is_socket = False
    if not is_socket:
        raise ShellToolError(f"descriptor {number}, named by CODEX_ESCALATE_SOCKET, is not a socket")
    return number


def _request(session: _Session) -> wire.Request:
    session.program = _open_path(session.file)
    session.cwd = _open_path(b".")
    try:
        cwd = os.getcwdb()  # noqa: PTH109 - bytes
    except OSError:
        cwd = b""  # the directory is gone: its descriptor still tells
    umask = os.umask(0)
    os.umask(umask)
    return wire.Request(
        file=session.file,
        cwd=cwd,
        argv=session.argv,
        env=tuple(name + b"=" + value for name, value in os.environb.items()),
        umask=umask,
        ask=session.ask is not None,
        program=session.program,
        cwd_descriptor=session.cwd,
    )


def _open_path(path: bytes) -> int | None:
    try:
        return os.open(path, _O_PATH | os.O_CLOEXEC)
    except OSError:
        return None


def _wait(descriptor: int, events: int) -> None:
    poll = select.poll()
    poll.register(descriptor, events)
    poll.poll()


def _send_some(
    stream: socket.socket, rest: memoryview, descriptors: tuple[int, ...]
) -> tuple[memoryview, tuple[int, ...]]:
    """What fits without blocking: nobody reads yet."""
    while rest:
        try:
            rest, descriptors = rest[send_message(stream, rest, descriptors) :], ()
        except BlockingIOError:
            break
    return rest, descriptors


def _send_rest(stream: socket.socket, rest: memoryview, descriptors: tuple[int, ...]) -> None:
    while rest:
        _wait(stream.fileno(), select.POLLOUT)
        rest, descriptors = _send_some(stream, rest, descriptors)


def _introduce(rendezvous: int, theirs: socket.socket) -> None:
    """Send the far end of the stream to the server, whatever the script did to the socket's flags."""
    give_up = time.monotonic() + FLIGHT_PATIENCE
    with socket.socket(fileno=os.dup(rendezvous)) as duplicate:
        while True:
            try:
                send_message(duplicate, bytes((wire.VERSION,)), (theirs.fileno(),))
            except BlockingIOError:
                _wait(rendezvous, select.POLLOUT)
            except OSError as error:
                if error.errno not in {errno.ETOOMANYREFS, errno.ENOBUFS} or time.monotonic() > give_up:
                    raise
                time.sleep(0.01)
            else:
                return


def _receive(session: _Session) -> wire.Frame:
    """The next frame.

    Raises:
        ShellToolError: The server has closed.
        RemoteProtocolError: It broke the format.
    """
    while (event := session.connection.next_event()) is wire.NEED_DATA:
        _wait(session.stream.fileno(), select.POLLIN)
        try:
            data, descriptors = receive_message(session.stream, session.connection.read_size())
        except BlockingIOError:
            continue
        close_all(descriptors)  # nothing ever comes this way
        if not data:
            raise ShellToolError("the server closed the connection without an answer")
        session.connection.receive_data(data)
    return event


def _act(session: _Session, answer: wire.Frame) -> None:
    match answer:
        case wire.Run():
            _run(session)
        case wire.Deny(reason=reason):
            _say(b"Execution denied: " + reason.encode() if reason else b"Execution denied")
            os._exit(DENIED)
        case wire.Error(reason=reason):
            raise ShellToolError(reason or "the server could not decide")
        case wire.Escalate():
            if session.ask is not None:
                os.write(session.ask, b"E")
            _end_as(session, _attend(session))


def _run(session: _Session) -> None:
    if session.ask is not None:
        os.write(session.ask, b"R")
        os._exit(0)
    try:
        os.execve(session.file, session.argv, os.environb)  # noqa: S606 - what it is for
    except OSError as error:
        number = error.errno or 0
    with contextlib.suppress(OSError, ProtocolError):
        send_message(session.stream, session.connection.send(wire.ExecFailed(errno=number)), ())
    _fail_as(session, number)


def _fail_as(session: _Session, number: int) -> NoReturn:
    _say(session.file + b": " + os.fsencode(os.strerror(number)))
    os._exit(NOT_FOUND if number == errno.ENOENT else NOT_RUN)


def _attend(session: _Session) -> wire.Outcome:
    """Hand over, then carry signals one way and stops the other, until the child has ended."""
    signals = _SignalPipe(session)
    attributes = _attributes()
    _hand_over(session, signals.own(), attributes)
    signals.start(_UNFORWARDED | (_FROM_TERMINAL if attributes.controlling_terminal else set()))
    while True:
        readable = signals.wait()
        if readable is not None:
            _forward(session, readable)
            continue
        frame = _receive(session)
        match frame:
            case wire.Exit(outcome=outcome):
                return outcome
            case wire.Error(reason=reason):
                raise ShellToolError(reason)
            case wire.Stopped():
                os.kill(os.getpid(), signal.SIGSTOP)


def _forward(session: _Session, number: int) -> None:
    with contextlib.suppress(OSError):
        rest = memoryview(session.connection.send(wire.Signal(number=number)))
        _send_rest(session.stream, rest, ())


class _SignalPipe:
    """Signals as bytes in a pipe: what Python's own handlers would lose while it waits."""

    def __init__(self, session: _Session) -> None:
        self._session = session
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def own(self) -> set[int]:
        return {self._read, self._write}

    def start(self, unforwarded: set[signal.Signals]) -> None:
        """Catch everything else that is not ignored."""
        for number in signal.valid_signals() - unforwarded:
            if signal.getsignal(number) is not signal.SIG_IGN:
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(number, self._caught)

    def wait(self) -> int | None:
        """A signal to forward, or ``None`` when the stream has something."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        poll.register(self._session.stream.fileno(), select.POLLIN)
        poll.poll()
        with contextlib.suppress(BlockingIOError):
            return os.read(self._read, 1)[0]
        return None

    def _caught(self, number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, bytes((number,)))


def _inheritable(session: _Session, ours: set[int]) -> list[int]:
    """Descriptors a program exec'd here would have: not close-on-exec, not O_PATH, not ours."""
    directory = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    numbers = sorted(int(name) for name in os.listdir(directory))  # noqa: PTH208 - it must not open twice
    return [number for number in numbers if number not in session.own() | ours and _passes(number)]


def _passes(number: int) -> bool:
    try:
        flags = fcntl.fcntl(number, fcntl.F_GETFL)
        return os.get_inheritable(number) and (_O_PATH == os.O_RDONLY or not flags & _O_PATH)
    except OSError:
        return False


def _hand_over(session: _Session, ours: set[int], attributes: wire.Attributes) -> None:
    numbers = _inheritable(session, ours)
    size = wire.MAX_DESCRIPTORS_PER_FRAME
    parts = [numbers[start : start + size] for start in range(0, len(numbers), size)] or [[]]
    for part in parts:
        frame = wire.Fds(total=len(numbers), numbers=tuple(part), descriptors=tuple(part))
        _send_whole(session, frame)
    _send_whole(session, attributes)


def _send_whole(session: _Session, frame: wire.Frame) -> None:
    rest, descriptors = _send_some(session.stream, memoryview(session.connection.send(frame)), frame.descriptors)
    _send_rest(session.stream, rest, descriptors)


def _attributes() -> wire.Attributes:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    ignored = [one for one in signal.valid_signals() if signal.getsignal(one) is signal.SIG_IGN]
    return wire.Attributes(
        controlling_terminal=_has_terminal(),
        nice=os.getpriority(os.PRIO_PROCESS, 0),
        blocked=sum(1 << (number - 1) for number in blocked),
        ignored=sum(1 << (number - 1) for number in ignored),
        limits=tuple(_limits()),
    )


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _limits() -> list[wire.Limit]:
    found = []
    for number in range(resource.RLIM_NLIMITS if hasattr(resource, "RLIM_NLIMITS") else 16):
        try:
            soft, hard = resource.getrlimit(number)
        except (OSError, ValueError):
            continue
        found.append(wire.Limit(resource=number, soft=_unsigned(soft), hard=_unsigned(hard)))
    return found


def _unsigned(limit: int) -> int:
    return 2**64 - 1 if limit == resource.RLIM_INFINITY else limit


def _end_as(session: _Session, outcome: wire.Outcome) -> NoReturn:
    """End as the child did."""
    if outcome.kind == wire.NOT_STARTED:
        _fail_as(session, outcome.value)
    if outcome.kind == wire.SIGNALLED:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
            signal.signal(outcome.value, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {outcome.value})
        os.kill(os.getpid(), outcome.value)
        os._exit(128 + outcome.value)
    os._exit(outcome.value)


if __name__ == "__main__":
    main()
