"""Answering the execs of one call by the policy it is given.

Nearly every exec is decided without waiting for anybody and just runs: it is answered where its question is noticed, in
one turn of the event loop. What has to wait (for a person, the rest of a large request, the supervisor) gets a task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from codex_shell_tool_mcp.errors import ProtocolError, RemoteProtocolError, ShellToolError
from codex_shell_tool_mcp.escalation import identity, wire
from codex_shell_tool_mcp.escalation.channel import (
    FIRST_READ,
    MANY,
    Channel,
    beside_the_loop,
    close_all,
    receive_message,
    send_at_once,
)
from codex_shell_tool_mcp.escalation.outside import execution
from codex_shell_tool_mcp.escalation.params import ExecRecord
from codex_shell_tool_mcp.escalation.policy import (
    Deny,
    Escalate,
    EscalateAction,
    ExecRequest,
    Run,
    immediate,
    standing,
)
from codex_shell_tool_mcp.escalation.standing import StandingAnswers

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from codex_shell_tool_mcp.escalation.policy import EscalationPolicy
    from codex_shell_tool_mcp.escalation.supervision import Supervision

_T = TypeVar("_T")

_LOG = logging.getLogger(__name__)

HALF_OPEN_DEADLINE = 10.0
"""Seconds from the rendezvous to a whole request: a wrapper sends it at once."""

MAX_SESSIONS = 64
"""Execs of one call that wait for something at once; further ones wait in the socket's queue. Each costs up to three
descriptors of this process (ulimit -n is often 1024) and the memory of its request."""

MAX_OPEN = 192
"""The same for all calls together."""

OWN_SESSIONS = 4
"""What each call may have whatever the others have: else a few calls that say nothing would stop all others."""

MAX_RECORDS = 1000
"""Execs of one call that are remembered one by one: a loop can do millions."""

MAX_RECORDED_WORDS, MAX_RECORDED_CHARACTERS = 64, 512
"""What is remembered of an argument vector, and of each word: it can be megabytes."""


_RUN = wire.encode(wire.Run())


class _Open:
    """How many requests this process has open, over all calls."""

    count = 0


class _Exec:
    """One exec that is being answered. Owns the stream and whatever descriptors came by it.

    ``request`` is there once all of it is. Once ``described``, ``asked`` is what the policy sees of it; ``before`` is
    the state its file was in before anybody decided.
    """

    __slots__ = ("action", "asked", "before", "data", "described", "descriptors", "request", "stream", "undecided")

    def __init__(self, stream: socket.SocketType) -> None:
        self.stream = stream
        self.data = b""
        self.descriptors: tuple[int, ...] = ()
        self.request: wire.Request | None = None
        self.described = False
        self.asked: ExecRequest
        self.before: os.stat_result | None
        self.action: EscalateAction | None = None
        self.undecided: ShellToolError | None = None

    def receive(self) -> wire.Request | None:
        """The request, if it is here already. Raises RemoteProtocolError, and OSError as recvmsg(2)."""
        try:
            data, self.descriptors = receive_message(self.stream, FIRST_READ, most=2)
        except BlockingIOError:
            return None
        request = wire.whole_request(data, self.descriptors)
        if request is None:
            self.data = data
        return request

    def describe(self, request: wire.Request, roots: identity.Roots | None) -> None:
        self.before = None if request.program is None else os.fstat(request.program)
        self.asked = describe(request, self.before, roots)
        self.described = True

    def channel(self) -> Channel:
        """The stream as a channel that goes on where the session stands; owns what :meth:`close` would have closed."""
        state = "start" if self.request is None else "asked"
        channel = Channel(self.stream, wire.Connection(party=wire.Party.SERVICE, state=state), most=2)
        if self.request is None and self.data:
            channel.connection.receive_data(self.data, self.descriptors)
            self.data, self.descriptors = b"", ()
        return channel

    def close(self) -> None:
        close_all(self.descriptors)
        self.stream.close()


@dataclass(kw_only=True)
class EscalateServer:
    """Answers the execs of one call.

    Attributes:
        policy: Decides.
        supervision: Runs what is escalated.
        writable: Where the sandboxed side can write; ``None`` = everywhere.
        shell: Runs escalated scripts that name no interpreter.
        records: The first :data:`MAX_RECORDS` execs with their decisions.
        asked: How many were answered here, or escalated by an answer that stands.
    """

    policy: EscalationPolicy
    supervision: Supervision
    writable: tuple[Path, ...] | None
    shell: Path
    records: list[ExecRecord] = field(default_factory=list)
    asked: int = 0
    _answering: int = 0
    _roots: identity.Roots | None = field(init=False, repr=False)
    _decide_at_once: Callable[[ExecRequest], EscalateAction | None] = field(init=False, repr=False)
    _standing: StandingAnswers | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        """Find out what is the same for all execs."""
        self._roots = None if self.writable is None else identity.Roots.of(self.writable)
        policy = self.policy
        self._decide_at_once = _not_at_once
        if (at_once := immediate(policy)) is not None:
            self._decide_at_once = at_once.decide_at_once
        if (telling := standing(policy)) is not None:
            self._standing = StandingAnswers(telling, self.supervision)
            self.supervision.on_taken = self._taken

    def _taken(self, frame: wire.Taken) -> None:
        """The supervisor escalated something by an answer that stands."""
        known = None if self._standing is None else self._standing.taken(frame)
        if known is None:
            self.asked += 1
        else:
            self._record(*known)

    @property
    def decided(self) -> int:
        """How many execs were decided in all."""
        return self.asked + self.supervision.answered

    async def serve(self) -> None:
        """Answer execs until cancelled; then every open session ends unanswered and its exec does not happen."""
        async with asyncio.TaskGroup() as sessions:

            def take(stream: socket.SocketType) -> None:
                self.supervision.catch_up()
                one = _Exec(stream)
                if self._answer_at_once(one):
                    one.close()
                else:
                    self._answering += 1
                    _Open.count += 1
                    # Not in the task itself: one that is cancelled before its first step never runs a line of it.
                    sessions.create_task(self._session(one)).add_done_callback(lambda _: self._done(one))

            await self.supervision.rendezvous.serve(take, self._is_busy)

    def _is_busy(self) -> bool:
        return self._answering >= OWN_SESSIONS and (self._answering >= MAX_SESSIONS or _Open.count >= MAX_OPEN)

    def _answer_at_once(self, one: _Exec) -> bool:
        """Whether nothing is left to do: it was answered, or dropped for what is wrong with it."""
        try:
            one.request = request = one.receive()
            if request is None or _is_large(request):
                return False
            one.describe(request, self._roots)
            one.action = self._decide_at_once(one.asked)
            if one.action is None:
                return False
            if isinstance(one.action, Run):
                send_at_once(one.stream, _RUN)  # before anything else: the script waits for it
            self._record(one.asked, one.action)
            done = isinstance(one.action, Run)
            if isinstance(one.action, Escalate):
                done = self._escalate_at_once(one, request)
            if self._standing is not None and done:
                self._standing.answered(request, one.asked, one.before)
            return done
        except ShellToolError as error:
            if isinstance(error, ProtocolError):
                _drop(error)
            else:
                one.undecided = error
                return False
        except Exception as error:  # noqa: BLE001 - see _drop
            _drop(error)
        return True

    async def _session(self, one: _Exec) -> None:
        """Answer what could not be answered at once."""
        try:
            with contextlib.closing(one.channel()) as channel:
                await self._answer(one, channel)
        except Exception as error:  # noqa: BLE001 - see _drop
            _drop(error)

    def _done(self, one: _Exec) -> None:
        """Its task has ended, or never began."""
        self._answering -= 1
        _Open.count -= 1
        one.close()

    async def _answer(self, one: _Exec, channel: Channel) -> None:
        if one.request is None:
            async with asyncio.timeout(HALF_OPEN_DEADLINE):
                received = await channel.receive()
            if not isinstance(received, wire.Request):
                return  # it closed; the state table leaves nothing else
            one.request, one.descriptors = received, received.descriptors
            if channel.connection.has_more():
                raise RemoteProtocolError("more than a request")
        request = one.request
        if not one.described:
            await _at_leisure(request, lambda: one.describe(request, self._roots))
        try:
            if one.undecided is not None:
                raise one.undecided
            if one.action is None:
                one.action = await _unless_gone(channel, self.policy.determine_action(one.asked))
                if one.action is None:
                    return
                self._record(one.asked, one.action)
            await self._carry_out(one, request, one.action, channel)
        except ProtocolError:
            raise
        except ShellToolError as error:
            await channel.send(wire.Error(reason=str(error)))

    def _record(self, asked: ExecRequest, action: EscalateAction) -> None:
        self.asked += 1
        if len(self.records) < MAX_RECORDS:
            self.records.append(ExecRecord(request=_shortened(asked), action=action))

    async def _carry_out(self, one: _Exec, request: wire.Request, action: EscalateAction, channel: Channel) -> None:
        match action:
            case Run():
                await channel.send(wire.Run())
            case Deny(reason=reason):
                await channel.send(wire.Deny(reason=reason))
            case Escalate():
                await self._escalate(one, request)

    async def _escalate(self, one: _Exec, request: wire.Request) -> None:
        """Hand the session to the supervisor, bound to the very file that was decided."""
        with contextlib.ExitStack() as stack:
            executing = execution(request, one.asked, self.shell, self._roots)
            what = await _at_leisure(request, lambda: stack.enter_context(executing))
            _check_unchanged(one, request)
            await self.supervision.spawn(
                what.request, one.stream.fileno(), path=what.path, decided=what.decided, by_path=what.by_path
            )

    def _escalate_at_once(self, one: _Exec, request: wire.Request) -> bool:
        """The same without waiting, nor for the program to run; False if it takes waiting."""
        with execution(request, one.asked, self.shell, self._roots) as what:
            _check_unchanged(one, request)
            begun = self.supervision.spawn_at_once(
                what.request, one.stream.fileno(), path=what.path, decided=what.decided, by_path=what.by_path
            )
        if begun is not None:
            self._answering += 1
            _Open.count += 1
            begun.add_done_callback(self._begun)
        return begun is not None

    def _begun(self, _: asyncio.Future[None]) -> None:
        """An escalated program runs, or never will: it is the supervisor's."""
        self._answering -= 1
        _Open.count -= 1


def _is_large(request: wire.Request) -> bool:
    return len(request.argv) + len(request.env) > MANY


async def _at_leisure(request: wire.Request, work: Callable[[], _T]) -> _T:
    """Do ``work`` on a request, beside the event loop if it is a large one: a million words take a second."""
    return await beside_the_loop(work) if _is_large(request) else work()


def _check_unchanged(one: _Exec, request: wire.Request) -> None:
    if request.program is None or one.before is None:
        raise ShellToolError("no file of that name could be opened, so it cannot be run outside the sandbox")
    if identity.fingerprint(request.program) != identity.fingerprint_of(one.before):
        raise ShellToolError("it was changed while it was being decided")


def _not_at_once(asked: ExecRequest) -> None:
    """For a policy that knows no other way than to be awaited."""


def _drop(error: Exception) -> None:
    """What goes wrong with one exec must not take the call with it: unanswered, the exec does not happen."""
    if isinstance(error, (RemoteProtocolError, OSError, TimeoutError)):
        _LOG.info("an exec request was dropped: %r", error)
    else:
        _LOG.error("an exec could not be decided: this is a bug", exc_info=error)


def _shortened(asked: ExecRequest) -> ExecRequest:
    argv = asked.argv
    if len(argv) <= MAX_RECORDED_WORDS and max(map(len, argv), default=0) <= MAX_RECORDED_CHARACTERS:
        return asked
    return replace(asked, argv=tuple(word[:MAX_RECORDED_CHARACTERS] for word in argv[:MAX_RECORDED_WORDS]))


async def _unless_gone(channel: Channel, deciding: Coroutine[object, object, _T]) -> _T | None:
    """The decision, or ``None`` when the client went away (or spoke out of turn) before there was one."""
    decision = asyncio.ensure_future(deciding)
    gone = asyncio.ensure_future(channel.readable())
    try:
        await asyncio.wait((decision, gone), return_when=asyncio.FIRST_COMPLETED)
        return await decision if decision.done() else None
    finally:
        for task in (decision, gone):
            task.cancel()
        await asyncio.gather(decision, gone, return_exceptions=True)


def describe(request: wire.Request, status: os.stat_result | None, roots: identity.Roots | None) -> ExecRequest:
    """A request as the policy sees it.

    The wrapper runs on the script's side, so its words are claims. What a descriptor came for is named by the path that
    leads to that very file here; the name that was used counts only if it leads there as well.

    Args:
        request: What the wrapper sent.
        status: What fstat(2) says of the program's descriptor; ``None`` without one.
        roots: Where the sandboxed side can write; ``None`` = everywhere.
    """
    claimed = os.fsdecode(request.cwd) or None
    cwd = claimed if request.cwd_descriptor is None else identity.path_of(request.cwd_descriptor)
    file = os.fsdecode(request.file)
    program = identity.absolute(file, cwd)
    resolved = None
    if request.program is not None and status is not None:
        resolved = identity.path_of(request.program, status)
        if resolved is not None and program != resolved and not identity.leads_to(program, status):
            program = resolved
    return ExecRequest(
        file=file,
        program=program,
        resolved=resolved,
        argv=tuple(os.fsdecode(argument) for argument in request.argv),
        cwd=cwd,
        writable_by_sandbox=roots is not None and not identity.name_is_trusted(program, resolved, roots),
    )
