"""The Python ``codex-execve-wrapper``: reference client of ``docs/protocol.md``, used where no C build exists.

It carries messages and descriptors; all judgement is the server's. ``src/native/execve_wrapper.c`` is the other one;
``tests/wire/test_clients.py`` holds both to the same behaviour.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import select
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import NoReturn

from codex_shell_tool_mcp.errors import ProtocolError, RemoteProtocolError, ShellToolError
from codex_shell_tool_mcp.escalation import wire
from codex_shell_tool_mcp.escalation.attendance import attend
from codex_shell_tool_mcp.escalation.channel import send_message
from codex_shell_tool_mcp.escalation.client_session import (
    NOT_RUN,
    DescriptorLimit,
    Session,
    above_standard,
    say,
    send_rest,
    send_some,
    visible,
)

SOCKET_VARIABLE = b"CODEX_ESCALATE_SOCKET"
"""Names the call's datagram socket."""

DENIED = 1
"""Exit status after DENY."""

_O_PATH = getattr(os, "O_PATH", os.O_RDONLY)

_ASK_NAME = re.compile(rb"codex-execve-ask:([0-9]*)\Z")

_DESCRIPTOR_MAX = 2**31 - 1

_LOST = {errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.EDESTADDRREQ}
"""Errors of a socket whose other end is gone."""


def main() -> NoReturn:
    """The wrapper's entry point in a Python that started as usual. Never returns.

    Such a Python ignores SIGPIPE and SIGXFSZ, whatever was set before: the likeliest is set again.
    """
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    session = launched()
    try:
        os.execv(session.file, session.argv)  # noqa: S606 - what it is for
    except ValueError:
        say(b"codex-execve-wrapper: %s: not run: Python executes nothing by an empty name" % visible(session.file))
        os._exit(NOT_RUN)
    except OSError as error:
        failed(session, error.errno or 0)


def launched() -> Session:
    """Ask; returns if the answer is that the file is to be executed here, by the caller, and when all is ready for it.

    ``wrapper_boot.c`` calls this, in a Python that has changed nothing of the process but SIGINT, which importing the
    module of signals does.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    arguments = [os.fsencode(argument) for argument in sys.argv]
    if len(arguments) < 3:
        say(b"usage: codex-execve-wrapper FILE ARGV0 [ARG...]")
        os._exit(NOT_RUN)
    file = arguments[1]
    session = None
    try:
        session = _ask(file, tuple(arguments[2:]), _ask_descriptor(arguments[0]))
        _act(session, session.receive())
    except (ShellToolError, OSError, ValueError) as error:
        _not_run(file, error, attached=session is not None and session.attached)
    return session


def _not_run(file: bytes, error: Exception, *, attached: bool) -> NoReturn:
    when = b" to its end" if attached else b""
    cause = f"the server broke the protocol: {error}" if isinstance(error, ProtocolError) else str(error)
    say(b"codex-execve-wrapper: %s: not run%s: %s" % (visible(file), when, os.fsencode(cause)))
    os._exit(NOT_RUN)


def failed(session: Session, number: int) -> NoReturn:
    """The permitted exec failed with this errno: tell the server, and end as the shell would."""
    with contextlib.suppress(OSError, ProtocolError):
        send_message(session.stream, session.connection.send(wire.ExecFailed(errno=number)), ())
    session.fail_as(number)


# ---- the question ---------------------------------------------------------------------------------------------------


def _ask(file: bytes, argv: tuple[bytes, ...], ask: int | None) -> Session:
    rendezvous = _rendezvous()
    DescriptorLimit.lift()
    ours, theirs = (
        socket.socket(fileno=above_standard(one.detach()))
        for one in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    )
    session = Session(file=file, argv=argv, ask=ask, rendezvous=rendezvous, stream=ours)
    request = _request(session)
    ours.setblocking(False)
    rest, descriptors = send_some(ours, memoryview(session.connection.send(request)), request.descriptors)
    _introduce(rendezvous, theirs)
    theirs.close()  # else the server's death would go unnoticed
    # A server that refuses may say so and close before it has read everything: its answer counts.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        send_rest(ours, rest, descriptors)
    return session


def _ask_descriptor(name: bytes) -> int | None:
    """The shell's descriptor for the answer, in ask mode."""
    asked = _ASK_NAME.match(name)
    if asked is None:
        return None
    try:
        number = int(asked[1])
        fcntl.fcntl(number, fcntl.F_GETFD)
    except (OSError, ValueError, OverflowError):
        raise ShellToolError("it was asked for without an open descriptor for the answer") from None
    return number


def _rendezvous() -> int:
    text = os.environb.get(SOCKET_VARIABLE)
    if text is None:
        raise ShellToolError("CODEX_ESCALATE_SOCKET is not set")
    if not text.isdigit() or len(text) > 4000 or int(text) > _DESCRIPTOR_MAX:
        raise ShellToolError("CODEX_ESCALATE_SOCKET is not a number")
    number = int(text)
    try:
        is_socket = stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError:
        is_socket = False
    if not is_socket:
        raise ShellToolError(f"descriptor {number}, named by CODEX_ESCALATE_SOCKET, is not a socket")
    return number


def _request(session: Session) -> wire.Request:
    if not session.file:
        session.fail_as(errno.ENOENT)
    if len(session.file) > wire.MAX_PATH:
        session.fail_as(errno.ENAMETOOLONG)
    session.program = _open_path(session.file)
    session.cwd = _open_path(b".")
    umask = os.umask(0)
    os.umask(umask)
    return wire.Request(
        file=session.file,
        cwd=_directory(),
        argv=session.argv,
        env=_environment(),
        umask=umask,
        ask=session.ask is not None,
        program=session.program,
        cwd_descriptor=session.cwd,
    )


def _directory() -> bytes:
    """Gone, out of reach or too long, it has no name: its descriptor still tells."""
    try:
        cwd = os.getcwdb()  # noqa: PTH109 - bytes
    except OSError:
        return b""
    return cwd if cwd.startswith(b"/") and len(cwd) <= wire.MAX_PATH else b""


def _environment() -> tuple[bytes, ...]:
    """The environment as the kernel gave it, every entry of it; this process's own is made equal to it for the exec.

    Python's mapping knows neither a name that is there twice nor an entry without ``=``, and Python may set LC_CTYPE.
    Where there is no ``/proc`` the mapping must do.
    """
    try:
        entries = tuple(Path("/proc/self/environ").read_bytes().split(b"\0")[:-1])
    except OSError:
        return tuple(name + b"=" + value for name, value in os.environb.items())
    given: dict[bytes, bytes] = {}
    for entry in entries:
        name, separator, value = entry.partition(b"=")
        if separator:
            given.setdefault(name, value)
    for name in set(os.environb) - set(given):
        os.unsetenv(name)
    for name, value in given.items():
        if name and os.environb.get(name) != value:
            os.putenv(name, value)
    return entries


def _open_path(path: bytes) -> int | None:
    try:
        return above_standard(os.open(path, _O_PATH | os.O_CLOEXEC))
    except OSError:
        return None


def _introduce(rendezvous: int, theirs: socket.socket) -> None:
    """Send the far end of the stream to the server, whatever the script did to the socket's flags."""
    with socket.socket(fileno=fcntl.fcntl(rendezvous, fcntl.F_DUPFD_CLOEXEC, 3)) as duplicate:
        try:
            rest, descriptors = send_some(duplicate, memoryview(bytes((wire.VERSION,))), (theirs.fileno(),))
            send_rest(duplicate, rest, descriptors)
        except OSError as error:
            if error.errno in _LOST:
                raise ShellToolError("the server is gone") from None
            if error.errno == errno.ETOOMANYREFS:
                raise ShellToolError(
                    "too many descriptors of this user are on their way through sockets; try again"
                ) from None
            raise ShellToolError(f"the server cannot be reached: {error.strerror}") from None


# ---- the answer -----------------------------------------------------------------------------------------------------


def _act(session: Session, answer: wire.Frame) -> None:
    """Do as the answer says; returns for Run."""
    match answer:
        case wire.Run():
            _prepare(session)
        case wire.Deny(reason=reason):
            say(b"Execution denied: " + reason.encode() if reason else b"Execution denied")
            os._exit(DENIED)
        case wire.Error(reason=reason):
            raise ShellToolError(reason or "the server could not decide")
        case wire.Escalate():
            _tell_shell(session, b"E")
            attend(session)


def _prepare(session: Session) -> None:
    with contextlib.suppress(BlockingIOError, ConnectionResetError):
        if session.stream.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
            raise RemoteProtocolError("more than one answer")
    if session.ask is not None:
        _tell_shell(session, b"R")
        os._exit(0)
    DescriptorLimit.restore()


def _tell_shell(session: Session, answer: bytes) -> None:
    """Tell the shell, in ask mode, what its exec has come to. It may be gone: SIGPIPE."""
    if session.ask is None:
        return
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        while True:
            try:
                os.write(session.ask, answer)
                break
            except BlockingIOError:
                poll = select.poll()
                poll.register(session.ask, select.POLLOUT)
                poll.poll()
    except OSError as error:
        raise ShellToolError(f"the shell does not listen: {error.strerror}") from None
    finally:
        signal.signal(signal.SIGPIPE, before)


if __name__ == "__main__":
    main()
