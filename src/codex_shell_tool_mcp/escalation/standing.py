"""Answers given in advance: what the supervisor may say itself to the requests of one call that are like earlier ones.

The policy says how far it looked (:class:`~codex_shell_tool_mcp.escalation.policy.Standing`); here that becomes frames
for the supervisor, of the same program's second request on. Nothing is said in advance that would not be said to each
of the requests: a request that differs in anything that was looked at is asked about as ever.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from codex_shell_tool_mcp.escalation import identity, wire
from codex_shell_tool_mcp.escalation.policy import Escalate, Run

if TYPE_CHECKING:
    from codex_shell_tool_mcp.escalation.policy import ExecRequest, Standing, StandingPolicy

HOLD_SECONDS = 0.04
"""How long answers hold after the policy was last asked; then the next request goes to it, and renews them. With
the hundredth of a second for which it may go by its last look at the rules, changes count after a twentieth."""

RENEW_SECONDS = 0.02
"""Answers that hold for longer than this need not be renewed."""

MAX_ANSWERS = 1024
"""Answers of a generation: what the supervisor keeps (``standing_linux.c``)."""

MAX_REMEMBERED = 4 * MAX_ANSWERS
"""Answers that escalate of which it is remembered what they say: what the supervisor did by one is told later."""

MAX_SEEN = 4096
"""Programs and commands remembered as having been asked about once."""

_NANO = 1_000_000_000

_Key = tuple[bytes, tuple[int, int, int, int, int], tuple[bytes, ...] | None]


class AnswersSeat(Protocol):
    """Where answers are put: :class:`~codex_shell_tool_mcp.escalation.supervision.Supervision`."""

    def tell_at_once(self, frame: wire.Frame) -> bool:
        """Send a frame if that needs no waiting; whether it was sent."""
        ...


class StandingAnswers:
    """The standing answers of one call. Told of each request that was answered at once."""

    def __init__(self, policy: StandingPolicy, seat: AnswersSeat) -> None:
        """No answer stands yet."""
        self._policy = policy
        self._seat = seat
        self._generations = itertools.count(1)
        self._numbers = itertools.count(1)
        self._generation = 0
        self._basis: object = None
        self._until = 0
        self._standing: set[_Key] = set()
        self._seen: set[_Key] = set()
        self._escalating: dict[int, tuple[ExecRequest, Escalate]] = {}

    def answered(self, request: wire.Request, asked: ExecRequest, status: os.stat_result | None) -> None:
        """``request`` was answered just now: let the answer stand, if it may and the program is asked about again.

        Args:
            request: What the wrapper sent.
            asked: The same as the policy saw it.
            status: What fstat(2) says of the program.
        """
        if status is None or not is_plainly_named(request, asked):
            return
        state = _state(status)
        if self._is_new((request.file, state, None)):
            return
        standing = self._policy.standing(asked)
        if standing is None or (isinstance(standing.action, Escalate) and not is_plainly_executed(request, asked)):
            return
        words = request.argv[1 : standing.depth]
        key = (request.file, state, words)
        if key not in self._standing and standing.depth > 1 and self._is_new(key):
            return  # words that never come again would fill the table
        self._put(key, request, asked, standing)

    def _is_new(self, key: _Key) -> bool:
        if key in self._seen:
            return False
        if len(self._seen) >= MAX_SEEN:
            self._seen.clear()
        self._seen.add(key)
        return True

    def _put(self, key: _Key, request: wire.Request, asked: ExecRequest, standing: Standing) -> None:
        until = int((standing.asked + HOLD_SECONDS) * _NANO)
        if standing.basis is not self._basis or len(self._standing) >= MAX_ANSWERS:
            self._begin(standing.basis)
        if key in self._standing:
            if until > self._until + int((HOLD_SECONDS - RENEW_SECONDS) * _NANO):
                self._tell(wire.Hold(generation=self._generation, until=until), until)
            return
        number = next(self._numbers)
        frame = _frame(self._generation, number, until, request, asked, key[1], standing, key[2] or ())
        if frame is None or not self._tell(frame, until):
            return
        self._standing.add(key)
        if isinstance(standing.action, Escalate):
            self._remember(number, asked, standing.action)

    def _remember(self, number: int, asked: ExecRequest, action: Escalate) -> None:
        while len(self._escalating) >= MAX_REMEMBERED:
            del self._escalating[next(iter(self._escalating))]
        self._escalating[number] = (replace(asked, argv=()), action)

    def taken(self, frame: wire.Taken) -> tuple[ExecRequest, Escalate] | None:
        """What the supervisor escalated by an answer of ours; ``None`` if that was too long ago to be remembered."""
        known = self._escalating.get(frame.number)
        if known is None:
            return None
        return replace(known[0], argv=tuple(map(os.fsdecode, frame.argv))), known[1]

    def _begin(self, basis: object) -> None:
        """A new generation: with the first frame of it, all earlier answers are over."""
        self._generation = next(self._generations)
        self._basis = basis
        self._standing.clear()
        self._until = 0

    def _tell(self, frame: wire.Frame, until: int) -> bool:
        told = self._seat.tell_at_once(frame)
        if told:
            self._until = until
        return told


def is_plainly_named(request: wire.Request, asked: ExecRequest) -> bool:
    """Whether the request names its program by an absolute path that leads to it.

    Then the file and that name say which program it is, wherever the caller stands.
    """
    if request.program is None or not request.argv or asked.resolved is None or not asked.file.startswith("/"):
        return False
    return asked.program == identity.absolute(asked.file, None)


def is_plainly_executed(request: wire.Request, asked: ExecRequest) -> bool:
    """Whether the request is executed just as it came: by its own name, which nobody in the sandbox can make lead
    elsewhere, and by the kernel. What :func:`~codex_shell_tool_mcp.escalation.outside.execution` makes of any other has
    to be made anew each time.
    """
    if asked.writable_by_sandbox or b".." in request.file.split(b"/") or request.program is None:
        return False
    return identity.kind_of(request.program) is not identity.Kind.PLAIN


def _state(status: os.stat_result) -> tuple[int, int, int, int, int]:
    found = identity.fingerprint_of(status)
    return (found.device, found.inode, found.size, found.modified, found.changed)


def _frame(
    generation: int,
    number: int,
    until: int,
    request: wire.Request,
    asked: ExecRequest,
    state: tuple[int, int, int, int, int],
    standing: Standing,
    words: tuple[bytes, ...],
) -> wire.Standing | None:
    """``None`` if it would be too long."""
    assert asked.resolved is not None
    resolved = os.fsencode(asked.resolved)
    room = wire.MAX_STANDING - wire.Standing.LAYOUT.size
    if len(words) > wire.MAX_STANDING_WORDS or sum(map(len, (request.file, resolved, *words))) + len(words) + 2 > room:
        return None
    device, inode, size, modified, changed = state
    return wire.Standing(
        generation=generation,
        number=number,
        until=until,
        answer=wire.Run.TYPE if isinstance(standing.action, Run) else wire.Escalate.TYPE,
        device=device,
        inode=inode,
        size=size,
        modified=modified,
        changed=changed,
        depth=standing.depth,
        file=request.file,
        resolved=resolved,
        words=words,
    )
