"""One supervised call, from the server's side: the supervisor process and the control channel to it."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from codex_shell_tool_mcp.errors import LocalProtocolError, ProtocolError, SandboxError, ShellToolError, UsageError
from codex_shell_tool_mcp.escalation import wire
from codex_shell_tool_mcp.escalation.channel import IN_FLIGHT, TOO_MANY_IN_FLIGHT, Channel, Rendezvous
from codex_shell_tool_mcp.process.group import new_group
from codex_shell_tool_mcp.process.output import OutputCapture
from codex_shell_tool_mcp.process.spawn import Spawn, reap, spawn, too_long
from codex_shell_tool_mcp.process.tree import end_left_by, reaped

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from codex_shell_tool_mcp.escalation.identity import Fingerprint
    from codex_shell_tool_mcp.escalation.reserve import Reserve

_LOG = logging.getLogger(__name__)

_T = TypeVar("_T")

_RENDEZVOUS = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
"""A datagram socket takes an address with every message: through it a script could reach services outside its sandbox.
A sequenced-packet one does not (unix(7)); macOS has none for AF_UNIX."""

_FINISH_DEADLINE = 6.0
"""Seconds a supervisor gets to end everything before it is killed and its session ended from here."""


_NO_DIRECTORY = "its directory cannot be entered"
"""The supervisor's words (docs/protocol.md)."""


@dataclass(frozen=True, kw_only=True)
class Shell:
    """What the supervisor is to run, and how confined.

    Attributes:
        supervisor: The supervisor binary.
        options: Its confinement options.
        command: Program, argv[0] and arguments of the shell.
        workdir: Where.
        environment: With what, complete but for the socket's number.
        max_output_bytes: How much of what it prints is kept.
        standing: Whether the supervisor may be given answers in advance (where it can take them: on Linux).
    """

    supervisor: Path
    options: Sequence[bytes]
    command: Sequence[bytes]
    workdir: Path
    environment: Mapping[bytes, bytes]
    max_output_bytes: int
    standing: bool = False


class Supervision:
    """A running supervisor and the call it has, if it has one. Made by :func:`waiting`; :meth:`begin` gives it one.

    Attributes:
        rendezvous: Where the call's execs are asked about; there once it has begun.
        output: What the call prints; there once it has begun.
        ended: How many processes were left when the call was ended; known once it was.
        answered: How many execs the supervisor has answered itself; known when the shell has ended, and at the end.
        on_taken: Told of each that it escalated itself; not necessarily before the shell has ended.
        when_gone: Called when nothing more comes from the supervisor.
    """

    rendezvous: Rendezvous
    output: OutputCapture
    when_gone: Callable[[], None] | None = None

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        control: Channel,
        group: Path | None,
    ) -> None:
        """Start reading the control channel on the running loop."""
        self._process = process
        self._control = control
        self._group = group
        self._sessions = itertools.count(1)
        self._spawning: dict[int, asyncio.Future[None]] = {}
        self._finished: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._no_call_yet()
        self._reader = control.listen(self._take)
        self._reader.add_done_callback(self._read_out)

    def _no_call_yet(self) -> None:
        """Forget the last call, if there was one."""
        loop = asyncio.get_running_loop()
        self.ended = self.answered = 0
        self.on_taken: Callable[[wire.Taken], None] = lambda _: None
        self._shell: Shell | None = None
        self._idle = self._asked_to_keep = False
        self._started: asyncio.Future[None] = loop.create_future()
        self._exited: asyncio.Future[wire.Outcome | None] = loop.create_future()
        self._kept: asyncio.Future[int] = loop.create_future()

    async def begin(self, shell: Shell) -> None:
        """Start the shell, on a supervisor that waits.

        Raises:
            OSError: The supervisor is gone, and never heard of this.
            UsageError: The script is too long.
        """
        if self._reader.done():
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        self._no_call_yet()
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGCONT)  # the script of another call may have stopped it
        with ExitStack() as theirs, ExitStack() as ours:
            rendezvous, client = socket.socketpair(socket.AF_UNIX, _RENDEZVOUS)
            ours.callback(rendezvous.close)
            theirs.callback(client.close)
            read_end, write_end = os.pipe2(os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
            ours.callback(os.close, read_end)
            theirs.callback(os.close, write_end)
            try:
                await self._control.send(_start(shell, write_end, client.fileno()))
            except LocalProtocolError:
                raise too_long(shell.command) from None
            ours.pop_all()
        self._shell = shell
        self.rendezvous = Rendezvous(rendezvous)
        self.output = OutputCapture(read_end, shell.max_output_bytes)

    def catch_up(self) -> None:
        """An exec is asked about: that its shell runs was said before, but the loop may not have come to it yet."""
        if not self._started.done():
            self._control.listen_now()

    def let_go(self) -> bool:
        """Close what belongs to the call, if it is all over: nothing can be printed, asked or told any more.

        Returns:
            Whether it was, and the supervisor waits for the next one.
        """
        over = self._idle and self.output.is_over and not self._spawning and not self._reader.done()
        if over:
            self.rendezvous.close()
        return over

    async def shell_exit(self, *others: asyncio.Future[Any]) -> wire.Outcome | None:
        """How the shell ended; ``None`` if one of ``others`` is done first. For one caller.

        Raises:
            SandboxError: It was never started: the sandbox could not be applied.
            UsageError: It was not started: the directory cannot be entered, or the script is too long.
            ShellToolError: The supervisor is gone.
        """
        for other in others:
            other.add_done_callback(lambda _: _resolve(self._exited, None))
        return await self._exited

    async def spawn(
        self, request: wire.Request, stream: int, *, path: bytes, decided: Fingerprint, by_path: bool
    ) -> None:
        """Hand an escalated exec over, and wait until its program runs or has failed to; descriptors stay open here.

        Args:
            request: What to run; its environment is final.
            stream: The session's stream.
            path: Where the program is.
            decided: What it was when it was decided; if it is not that any more, it is not run.
            by_path: Execute it by its path, after checking that this still is the same file: an interpreter handed a
                descriptor would see ``/dev/fd/N`` as ``$0``.

        Raises:
            ShellToolError: The supervisor is gone, or the request is too large for it.
        """
        # The shell's first exec can be asked about before the supervisor's word that it started has been read.
        if not self._started.done():
            await asyncio.shield(self._started)
        self._started.result()
        session, begun = self._session()
        try:
            await self._control.send(_spawn(session, request, stream, path=path, decided=decided, by_path=by_path))
            await begun
        except LocalProtocolError as error:
            raise ShellToolError(f"it cannot be handed over: {error}") from error
        except OSError as error:
            cause = TOO_MANY_IN_FLIGHT if error.errno in IN_FLIGHT else error.strerror
            raise ShellToolError(f"it cannot be handed over: {cause}") from error
        finally:
            begun.cancel()

    def spawn_at_once(
        self, request: wire.Request, stream: int, *, path: bytes, decided: Fingerprint, by_path: bool
    ) -> asyncio.Future[None] | None:
        """The same without waiting: done when the program runs or has failed to. ``None`` if it takes waiting."""
        if not self._exited_or_running():
            return None
        session, begun = self._session()
        sent = False
        try:
            sent = self._control.send_at_once(
                _spawn(session, request, stream, path=path, decided=decided, by_path=by_path)
            )
        except (LocalProtocolError, OSError) as error:
            raise ShellToolError(f"it cannot be handed over: {error}") from error
        finally:
            if not sent:
                begun.cancel()
        return begun if sent else None

    def tell_at_once(self, frame: wire.Frame) -> bool:
        """Send a frame without descriptors if that needs no waiting; whether it was sent. Never raises.

        A supervisor that is gone is noticed where its frames are read.
        """
        try:
            return self._exited_or_running() and self._control.send_at_once(frame)
        except (LocalProtocolError, OSError):
            return False

    def _exited_or_running(self) -> bool:
        return self._started.done() and not self._started.cancelled() and self._started.exception() is None

    def _session(self) -> tuple[int, asyncio.Future[None]]:
        """A new session's number, and what is done when its program runs or has failed to."""
        session = next(self._sessions)
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._spawning[session] = begun

        def forget(_: asyncio.Future[None]) -> None:
            del self._spawning[session]
            if not begun.cancelled():
                begun.exception()  # taken note of

        begun.add_done_callback(forget)
        return session, begun

    async def keep(self) -> int:
        """Once the shell has ended: let what it has left go on; how many processes that are, 0 if it is all over.

        Raises:
            ShellToolError: The supervisor is gone.
        """
        if not self._kept.done():
            # If it cannot be sent, the supervisor has finished this very moment, or is gone: the channel's end tells.
            with suppress(LocalProtocolError, OSError):
                await self._control.send(wire.Keep())
                self._asked_to_keep = True
        return await asyncio.shield(self._kept)

    async def over(self) -> None:
        """Return when nothing of the call is left, or the supervisor is gone."""
        await asyncio.wait((self._reader,))

    async def end(self) -> None:
        """End whatever is left of the call; :attr:`ended` then says how many processes that were.

        Our end of the channel is closed rather than END sent: that reaches the supervisor even when a frame is stuck.
        """
        if not self._finished.done():
            self._control.end()
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGCONT)  # a script may have stopped it
        try:
            async with asyncio.timeout(_FINISH_DEADLINE):
                await self._reader
        except (TimeoutError, OSError, ProtocolError) as error:
            _LOG.warning("the supervisor did not finish: %r", error)
        await self._reap()

    async def _reap(self) -> None:
        """Reap the supervisor, and end its session from here unless it said that nothing is left."""
        if not self._reader.done():
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        self._control.close()
        if self._shell is not None:
            self.rendezvous.close()
        clean = self._finished.done() and not self._finished.cancelled()
        # In a thread, for the loop must not wait; before the wait, which gives the session's number away.
        left = 0 if clean else await asyncio.to_thread(end_left_by, self._process, self._group)
        await reap(self._process)
        reaped(self._process)
        self.ended = self._finished.result() if clean else left
        if self._shell is not None:
            await self.output.drain()  # what was printed before the end is still in the pipe
            self.output.close()
        for future in (self._started, self._exited, self._kept):
            if not future.done():
                future.cancel()
            elif not future.cancelled():
                future.exception()  # taken note of

    def _read_out(self, reader: asyncio.Future[None]) -> None:
        """Nothing more comes from the supervisor."""
        if self.when_gone is not None:
            self.when_gone()
        if reader.cancelled():
            self._lost("the supervisor of this call did not finish in time, and was ended")
            return
        error = reader.exception()
        if error is not None:
            self._lost(f"the supervisor of this call broke off: {error}")
        else:
            self._lost("the supervisor of this call was killed; what it had left has been ended")

    def _take(self, frame: wire.Frame) -> None:
        match frame:
            case wire.ShellStarted():
                _resolve(self._started, None)
            case wire.ShellFailed(errno=number, message=message):
                _fail(self._started, not_started := self._not_started(number, message))
                _fail(self._exited, not_started)
            case wire.ShellExit(outcome=outcome):
                _resolve(self._exited, outcome)
            case wire.Idle():
                self._idle = not self._asked_to_keep
                _resolve(self._kept, 0)
            case wire.Finished(ended=ended):
                _resolve(self._finished, ended)
                _resolve(self._kept, 0)
                self._lost("the supervisor of this call was told to end by a signal; nothing of the call is left")
            case wire.Kept(left=left):
                _resolve(self._kept, left)
            case wire.Answered() | wire.Taken():
                self._take_standing(frame)
            case wire.Started(session=session) | wire.Ended(session=session):
                if session in self._spawning:
                    _resolve(self._spawning[session], None)

    def _take_standing(self, frame: wire.Answered | wire.Taken) -> None:
        if isinstance(frame, wire.Answered):
            self.answered = frame.total
        else:
            self.on_taken(frame)

    def _not_started(self, number: int, message: str) -> ShellToolError:
        cause = f": {os.strerror(number)}" if number else ""
        if self._shell is not None and message == _NO_DIRECTORY:
            return UsageError(f"workdir {self._shell.workdir}{cause}; give an existing directory that can be entered")
        if self._shell is not None and number == errno.E2BIG:
            return too_long(self._shell.command)
        return SandboxError(f"the shell was not started: {message}{cause}")

    def _lost(self, reason: str) -> None:
        _fail(self._started, ShellToolError(reason))
        _fail(self._exited, ShellToolError(reason))
        _fail(self._kept, ShellToolError(reason))
        for begun in self._spawning.values():
            _fail(begun, ShellToolError(reason))


def _options(shell: Shell) -> Sequence[bytes]:
    return (b"--standing", *shell.options) if shell.standing and sys.platform == "linux" else shell.options


def _spawn(
    session: int, request: wire.Request, stream: int, *, path: bytes, decided: Fingerprint, by_path: bool
) -> wire.Spawn:
    return wire.Spawn(
        session=session,
        size=decided.size,
        modified=decided.modified,
        changed=decided.changed,
        path=path,
        cwd=request.cwd,
        argv=request.argv,
        env=request.env,
        umask=request.umask,
        by_path=by_path,
        stream=stream,
        program=request.program,
        cwd_descriptor=request.cwd_descriptor,
    )


def _resolve(future: asyncio.Future[_T], value: _T) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[_T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


async def supervision(shell: Shell, reserve: Reserve | None) -> Supervision:
    """A supervisor that runs a shell. Whoever gets it has to :meth:`~Supervision.end` it.

    Args:
        shell: What to run.
        reserve: Where one may be waiting.

    Raises:
        MissingBinaryError: The supervisor cannot be executed.
        UsageError: The script is too long.
    """
    ready = None if reserve is None else reserve.take()
    if ready is not None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it was ended meanwhile, and has started nothing
            return await _begun(ready, shell)
    return await _begun(None, shell)


async def _begun(ready: Supervision | None, shell: Shell) -> Supervision:
    try:
        made = waiting(shell.supervisor) if ready is None else ready
        try:
            await made.begin(shell)
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(made.end()))
            raise
    except OSError as error:
        if ready is not None and isinstance(error, (BrokenPipeError, ConnectionResetError)):
            raise
        in_flight = error.errno in IN_FLIGHT
        cause = TOO_MANY_IN_FLIGHT if in_flight else f"{error.strerror}; too many may be running"
        raise ShellToolError(f"the call could not be started: {cause}") from error
    return made


def waiting(program: Path) -> Supervision:
    """Start a supervisor that waits to be told what to run.

    Raises:
        MissingBinaryError: It cannot be executed.
        OSError: There is no room for one more process, or for its descriptors.
    """
    with ExitStack() as stack:
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        stack.callback(control.close)
        group = new_group()
        with theirs:
            process = spawn(
                Spawn(
                    program=program,
                    arguments=(
                        *(b"--control", b"%d" % theirs.fileno()),
                        *(() if group is None else (b"--group", os.fsencode(group))),
                        b"--wait",
                    ),
                    inherited=(theirs.fileno(),),
                )
            )
        stack.pop_all()
        return Supervision(
            process, Channel(control, wire.Connection(party=wire.Party.SERVER, state="waiting"), most=1), group
        )


def _start(shell: Shell, output: int, rendezvous: int) -> wire.Start:
    return wire.Start(
        cwd=os.fsencode(shell.workdir),
        argv=(*_options(shell), b"--", *shell.command),
        env=tuple(b"%s=%s" % pair for pair in shell.environment.items()),
        output=output,
        rendezvous=rendezvous,
    )
