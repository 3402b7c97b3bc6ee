"""One supervised call, from the server's side: the supervisor process and the control channel to it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
import sys
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from codex_shell_tool_mcp.errors import LocalProtocolError, ProtocolError, SandboxError, ShellToolError
from codex_shell_tool_mcp.escalation import wire
from codex_shell_tool_mcp.escalation.channel import IN_FLIGHT, TOO_MANY_IN_FLIGHT, Channel, Rendezvous
from codex_shell_tool_mcp.process.group import new_group
from codex_shell_tool_mcp.process.output import OutputCapture
from codex_shell_tool_mcp.process.spawn import Spawn, reap, spawn
from codex_shell_tool_mcp.process.tree import end_left_by, reaped

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from codex_shell_tool_mcp.escalation.identity import Fingerprint

_LOG = logging.getLogger(__name__)

_T = TypeVar("_T")

_RENDEZVOUS = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
"""A datagram socket takes an address with every message: through it a script could reach services outside its sandbox.
A sequenced-packet one does not (unix(7)); macOS has none for AF_UNIX."""

_FINISH_DEADLINE = 6.0
"""Seconds a supervisor gets to end everything before it is killed and its session ended from here."""


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
    """

    supervisor: Path
    options: Sequence[bytes]
    command: Sequence[bytes]
    workdir: Path
    environment: Mapping[bytes, bytes]
    max_output_bytes: int


class Supervision:
    """A running supervisor. Made by :func:`supervised`.

    Attributes:
        rendezvous: Where the call's execs are asked about.
        output: What the call prints.
        ended: How many processes were left when the call was ended; known once it was.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        control: Channel,
        rendezvous: Rendezvous,
        output: OutputCapture,
        group: Path | None,
    ) -> None:
        """Start reading the control channel on the running loop."""
        loop = asyncio.get_running_loop()
        self.rendezvous = rendezvous
        self.ended = 0
        self.output = output
        self._process = process
        self._control = control
        self._group = group
        self._sessions = itertools.count(1)
        self._spawning: dict[int, asyncio.Future[None]] = {}
        self._started: asyncio.Future[None] = loop.create_future()
        self._exited: asyncio.Future[wire.Outcome] = loop.create_future()
        self._kept: asyncio.Future[int] = loop.create_future()
        self._finished: asyncio.Future[int] = loop.create_future()
        self._reader = control.listen(self._take)
        self._reader.add_done_callback(self._read_out)

    async def shell_exit(self) -> wire.Outcome:
        """How the shell ended. For one caller: if that is cancelled, nobody can know any more.

        Raises:
            SandboxError: It was never started: the sandbox could not be applied.
            ShellToolError: The supervisor is gone.
        """
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
        """Once the shell has ended: let what it has left go on; how many processes that are.

        Raises:
            ShellToolError: The supervisor is gone.
        """
        try:
            await self._control.send(wire.Keep())
        except (LocalProtocolError, OSError) as error:
            raise ShellToolError("the supervisor of this call is gone, and nothing of it is left to keep") from error
        return await asyncio.shield(self._kept)

    async def over(self) -> None:
        """Return when nothing of the call is left, or the supervisor is gone."""
        await asyncio.wait((self._reader,))

    async def end(self) -> None:
        """End whatever is left of the call; :attr:`ended` then says how many processes that were.

        Our end of the channel is closed rather than END sent: that reaches the supervisor even when a frame is stuck.
        """
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
        self.rendezvous.close()
        clean = self._finished.done() and not self._finished.cancelled()
        # In a thread, for the loop must not wait; before the wait, which gives the session's number away.
        left = 0 if clean else await asyncio.to_thread(end_left_by, self._process, self._group)
        await reap(self._process)
        reaped(self._process)
        self.ended = self._finished.result() if clean else left
        await self.output.drain()  # what was printed before the end is still in the pipe
        self.output.close()
        for future in (self._started, self._exited, self._kept):
            if not future.done():
                future.cancel()
            elif not future.cancelled():
                future.exception()  # taken note of

    def _read_out(self, reader: asyncio.Future[None]) -> None:
        """Nothing more comes from the supervisor."""
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
                cause = f": {os.strerror(number)}" if number else ""
                not_started = SandboxError(f"the shell was not started: {message}{cause}")
                _fail(self._started, not_started)
                _fail(self._exited, not_started)
            case wire.ShellExit(outcome=outcome):
                _resolve(self._exited, outcome)
            case wire.Finished(ended=ended):
                _resolve(self._finished, ended)
                self._lost("the supervisor of this call was told to end by a signal; nothing of the call is left")
            case wire.Kept(left=left):
                _resolve(self._kept, left)
            case wire.Started(session=session) | wire.Ended(session=session):
                if session in self._spawning:
                    _resolve(self._spawning[session], None)

    def _lost(self, reason: str) -> None:
        _fail(self._started, ShellToolError(reason))
        _fail(self._exited, ShellToolError(reason))
        _fail(self._kept, ShellToolError(reason))
        for begun in self._spawning.values():
            _fail(begun, ShellToolError(reason))


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


@asynccontextmanager
async def supervised(shell: Shell) -> AsyncIterator[Supervision]:
    """Start a supervisor with its shell. However the block is left, nothing of the call is afterwards.

    Raises:
        MissingBinaryError: The supervisor cannot be executed.
        UsageError: The directory cannot be entered, or the script is too long.
    """
    try:
        supervision = _start(shell)
    except OSError as error:
        raise ShellToolError(f"the call could not be started: {error.strerror}; too many may be running") from error
    try:
        yield supervision
    finally:
        await asyncio.shield(asyncio.ensure_future(supervision.end()))


def _start(shell: Shell) -> Supervision:
    with ExitStack() as theirs, ExitStack() as ours:
        control, control_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        rendezvous, client = socket.socketpair(socket.AF_UNIX, _RENDEZVOUS)
        for mine, other in ((control, control_theirs), (rendezvous, client)):
            ours.callback(mine.close)
            theirs.callback(other.close)
        read_end, write_end = os.pipe2(os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
        ours.callback(os.close, read_end)
        theirs.callback(os.close, write_end)
        numbers = (control_theirs.fileno(), client.fileno())
        group = new_group()
        process = spawn(
            Spawn(
                program=shell.supervisor,
                arguments=(
                    *(b"--control", b"%d" % numbers[0], b"--socket", b"%d" % numbers[1]),
                    *(() if group is None else (b"--group", os.fsencode(group))),
                    *(*shell.options, b"--", *shell.command),
                ),
                workdir=shell.workdir,
                environment=shell.environment,
                output=write_end,
                inherited=numbers,
            )
        )  # fmt: skip
        channel = Channel(control, wire.Connection(party=wire.Party.SERVER), most=1)
        output = OutputCapture(read_end, shell.max_output_bytes)
        supervision = Supervision(process, channel, Rendezvous(rendezvous), output, group)
        ours.pop_all()
        return supervision
