"""The wire format of ``docs/protocol.md``, version 1: bytes in, frames out, a state table, and no sockets.

A :class:`Connection` is one end of an exec session or of a control channel. Feed it with
:meth:`Connection.receive_data`, take frames from :meth:`Connection.next_event`, and send what
:meth:`Connection.send` returns. Descriptors are plain numbers here; whoever owns the socket opens and closes them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from codex_shell_tool_mcp.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VERSION = 1
"""The single byte of the rendezvous datagram."""

MAX_LENGTH = 6 * 1024 * 1024 + 64 * 1024
"""Largest frame, type byte included: the kernel's ceiling for argv and environment (execve(2): 6 MiB) plus slack for
the numbers and paths around them."""

MAX_REQUEST = MAX_LENGTH - 8 * 1024
"""Largest payload of a REQUEST: what is escalated must fit a SPAWN, which says a little more."""

MAX_PATH = 4095
"""Longest path in bytes: the kernel takes no longer one (path_resolution(7): PATH_MAX less the NUL)."""

MAX_STRINGS = 1 << 20
"""Most arguments, and most environment entries: more would not fit a frame with one byte each besides the NUL."""

MAX_REASON = 64 * 1024
"""Longest reason, in bytes: a line for a person; more is a mistake or an attack."""

MAX_DESCRIPTORS_PER_FRAME = 253
"""SCM_RIGHTS takes no more in one message (unix(7), SCM_MAX_FD)."""

MAX_DESCRIPTORS = 4096
"""Most descriptors handed over in one session: four times the usual soft limit; the receiver holds them all at once."""

MAX_LIMITS = 32
"""Most resource limits in ATTRIBUTES: twice what any supported kernel has."""

MAX_SIGNAL = 64
"""Highest signal number on any supported kernel."""

MAX_STANDING = 16 * 1024
"""Largest payload of a STANDING: two of the longest paths, and words that rules name; what is longer is asked about."""

MAX_STANDING_WORDS = 64
"""Most words that a STANDING names: no rule is that long."""

MAX_TAKEN_WORDS, MAX_TAKEN_BYTES = 64, 512
"""Words of an argument vector that TAKEN tells, and bytes of each: it can be megabytes."""

HEADER = struct.Struct("<I")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a program ended: ``kind`` 0 exit code, 1 signal, 2 could not be started (``value`` is the errno)."""

    kind: int
    value: int


EXITED, SIGNALLED, NOT_STARTED = 0, 1, 2


class Frame(Protocol):
    """One message. ``TYPE`` is its number; ``descriptors`` ride on its first byte."""

    TYPE: ClassVar[int]

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that belong to it, in order."""
        ...

    def payload(self) -> bytes:
        """The bytes after the type."""
        ...

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> Frame:
        """Read a payload back.

        Raises:
            RemoteProtocolError: It is not one.
        """
        ...


_F = TypeVar("_F", bound="_Plain")


class _Plain:
    """A frame without descriptors."""

    TYPE: ClassVar[int]

    @property
    def descriptors(self) -> tuple[int, ...]:
        return ()


class _Empty(_Plain):
    """A frame without payload."""

    def payload(self) -> bytes:
        return b""

    @classmethod
    def parse(cls: type[_F], payload: bytes, descriptors: tuple[int, ...]) -> _F:
        _no_descriptors(descriptors)
        _require(not payload, "payload where none belongs")
        return cls()


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise RemoteProtocolError(problem)


def _no_descriptors(descriptors: tuple[int, ...]) -> None:
    _require(not descriptors, "descriptors where none belong")


def _unpack(layout: struct.Struct, payload: bytes, *, exact: bool = True) -> tuple[int, ...]:
    fits = len(payload) == layout.size if exact else len(payload) >= layout.size
    _require(fits, "payload of the wrong size")
    return layout.unpack_from(payload)


def _join(strings: Sequence[bytes]) -> bytes:
    joined = b"\0".join((*strings, b""))
    if joined.count(b"\0") != len(strings):
        raise LocalProtocolError("a string with a NUL cannot be sent")
    return joined


def _split(body: bytes, count: int) -> list[bytes]:
    """The strings of a payload, which must be exactly ``count``."""
    parts = body.split(b"\0")
    _require(len(parts) == count + 1 and not parts[-1], "strings that do not add up")
    return parts[:-1]


def _reason(payload: bytes) -> str:
    _require(len(payload) <= MAX_REASON, "reason too long")
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("reason is not UTF-8") from error


def _reason_bytes(reason: str) -> bytes:
    data = reason.encode("utf-8", "backslashreplace")
    # Cutting may split a character: drop the rest of it.
    return data if len(data) <= MAX_REASON else data[:MAX_REASON].decode("utf-8", "ignore").encode()


def _signal(number: int) -> int:
    _require(1 <= number <= MAX_SIGNAL, f"signal {number} does not exist")
    return number


def _outcome(kind: int, value: int) -> Outcome:
    _require(kind in {EXITED, SIGNALLED, NOT_STARTED}, f"outcome of unknown kind {kind}")
    _require(kind != EXITED or value <= 0xFF, f"exit code {value} does not exist")
    if kind == SIGNALLED:
        _signal(value)
    return Outcome(kind=kind, value=value)


_PROGRAM, _CWD, _ASK = 1, 2, 4
_BY_PATH = 4


def _attached(flags: int, descriptors: tuple[int, ...]) -> tuple[int | None, int | None]:
    """Program and cwd descriptors as the flags announce them; their number must be exact."""
    rest = list(descriptors)
    announced = bool(flags & _PROGRAM) + bool(flags & _CWD)
    _require(len(rest) == announced, "descriptors other than announced")
    program = rest.pop(0) if flags & _PROGRAM else None
    return program, rest.pop(0) if flags & _CWD else None


def _present(*descriptors: int | None) -> tuple[int, ...]:
    return tuple(one for one in descriptors if one is not None)


def _presence(program: int | None, cwd: int | None) -> int:
    return (_PROGRAM if program is not None else 0) | (_CWD if cwd is not None else 0)


@dataclass(frozen=True, kw_only=True)
class Request:
    """May this be executed? ``cwd`` is empty when the directory has no name any more."""

    TYPE: ClassVar[int] = 1
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<BIII")
    file: bytes
    cwd: bytes
    argv: tuple[bytes, ...]
    env: tuple[bytes, ...]
    umask: int = 0o022
    ask: bool = False
    program: int | None = None
    cwd_descriptor: int | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        return _present(self.program, self.cwd_descriptor)

    def payload(self) -> bytes:
        flags = _presence(self.program, self.cwd_descriptor) | (_ASK if self.ask else 0)
        head = self.LAYOUT.pack(flags, self.umask, len(self.argv), len(self.env))
        return head + _join((self.file, self.cwd, *self.argv, *self.env))

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> Request:
        flags, umask, argc, envc = _unpack(cls.LAYOUT, payload, exact=False)
        _require(len(payload) <= MAX_REQUEST, "a request that could not be handed over")
        _require(flags <= (_PROGRAM | _CWD | _ASK), "unknown flags")
        _require(umask <= 0o777, "umask out of range")
        _require(argc <= MAX_STRINGS and envc <= MAX_STRINGS, "too many strings")
        program, cwd_descriptor = _attached(flags, descriptors)
        strings = _split(payload[cls.LAYOUT.size :], 2 + argc + envc)
        _require(bool(strings[0]), "no file named")
        _require(max(map(len, strings[:2])) <= MAX_PATH, "a path longer than any")
        _require(not strings[1] or strings[1].startswith(b"/"), "cwd is not absolute")
        return cls(
            file=strings[0],
            cwd=strings[1],
            argv=tuple(strings[2 : 2 + argc]),
            env=tuple(strings[2 + argc :]),
            umask=umask,
            ask=bool(flags & _ASK),
            program=program,
            cwd_descriptor=cwd_descriptor,
        )


@dataclass(frozen=True, kw_only=True)
class Run(_Empty):
    """Exec it yourself."""

    TYPE: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True)
class Escalate(_Empty):
    """It is run outside: hand over descriptors and attributes."""

    TYPE: ClassVar[int] = 3


@dataclass(frozen=True, kw_only=True)
class Deny(_Plain):
    """It must not run."""

    TYPE: ClassVar[int] = 4
    reason: str = ""

    def payload(self) -> bytes:
        return _reason_bytes(self.reason)

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> Deny:
        _no_descriptors(descriptors)
        return cls(reason=_reason(payload))


@dataclass(frozen=True, kw_only=True)
class Error(_Plain):
    """It could not be decided, or not be done: it must not run either."""

    TYPE: ClassVar[int] = 5
    reason: str = ""

    def payload(self) -> bytes:
        return _reason_bytes(self.reason)

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> Error:
        _no_descriptors(descriptors)
        return cls(reason=_reason(payload))


_U32 = struct.Struct("<I")


@dataclass(frozen=True, kw_only=True)
class ExecFailed(_Plain):
    """RUN was tried; ``execve`` said ``errno``."""

    TYPE: ClassVar[int] = 6
    errno: int

    def payload(self) -> bytes:
        return _U32.pack(self.errno)

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> ExecFailed:
        _no_descriptors(descriptors)
        return cls(errno=_unpack(_U32, payload)[0])


@dataclass(frozen=True, kw_only=True)
class Fds:
    """One part of the descriptors handed over: ``numbers`` is what each is to be called in the child."""

    TYPE: ClassVar[int] = 7
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<II")
    total: int
    numbers: tuple[int, ...]
    descriptors: tuple[int, ...]

    def payload(self) -> bytes:
        if len(self.numbers) != len(self.descriptors):
            raise LocalProtocolError("as many numbers as descriptors")
        return struct.pack(f"<II{len(self.numbers)}I", self.total, len(self.numbers), *self.numbers)

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> Fds:
        total, count = _unpack(cls.LAYOUT, payload, exact=False)
        _require(total <= MAX_DESCRIPTORS, "too many descriptors")
        _require(count <= min(total, MAX_DESCRIPTORS_PER_FRAME), "a part larger than allowed")
        _require(count > 0 or total == 0, "an empty part")
        _require(count == len(descriptors), "descriptors other than announced")
        numbers = _unpack(struct.Struct(f"<{count}I"), payload[cls.LAYOUT.size :])
        return cls(total=total, numbers=numbers, descriptors=descriptors)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One resource limit, numbered as in ``<sys/resource.h>``; 2**64 - 1 is unlimited."""

    resource: int
    soft: int
    hard: int


@dataclass(frozen=True, kw_only=True)
class Attributes(_Plain):
    """What else of the caller the child takes over. Bit n - 1 of a signal set stands for signal n."""

    TYPE: ClassVar[int] = 8
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IiQQI")
    LIMIT: ClassVar[struct.Struct] = struct.Struct("<IQQ")
    controlling_terminal: bool = False
    nice: int = 0
    blocked: int = 0
    ignored: int = 0
    limits: tuple[Limit, ...] = ()

    def payload(self) -> bytes:
        head = self.LAYOUT.pack(int(self.controlling_terminal), self.nice, self.blocked, self.ignored, len(self.limits))
        return head + b"".join(self.LIMIT.pack(one.resource, one.soft, one.hard) for one in self.limits)

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> Attributes:
        _no_descriptors(descriptors)
        flags, nice, blocked, ignored, count = _unpack(cls.LAYOUT, payload, exact=False)
        _require(flags <= 1, "unknown flags")
        _require(-20 <= nice <= 19, "nice value out of range")
        body = payload[cls.LAYOUT.size :]
        _require(count <= MAX_LIMITS and len(body) == count * cls.LIMIT.size, "resource limits that do not add up")
        limits = tuple(Limit(resource=r, soft=s, hard=h) for r, s, h in cls.LIMIT.iter_unpack(body))
        return cls(controlling_terminal=bool(flags), nice=nice, blocked=blocked, ignored=ignored, limits=limits)


@dataclass(frozen=True, kw_only=True)
class Signal(_Plain):
    """The client caught this signal: pass it on to the child."""

    TYPE: ClassVar[int] = 9
    number: int

    def payload(self) -> bytes:
        return _U32.pack(self.number)

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> Signal:
        _no_descriptors(descriptors)
        return cls(number=_signal(_unpack(_U32, payload)[0]))


@dataclass(frozen=True, kw_only=True)
class Stopped(_Plain):
    """The child was stopped by this signal. The client answers CONTINUED when it goes on; until then no other comes."""

    TYPE: ClassVar[int] = 10
    number: int

    def payload(self) -> bytes:
        return _U32.pack(self.number)

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> Stopped:
        _no_descriptors(descriptors)
        return cls(number=_signal(_unpack(_U32, payload)[0]))


@dataclass(frozen=True, kw_only=True)
class Continued(_Empty):
    """From the supervisor: the child goes on. From the client, once to each STOPPED: it goes on, or has not stopped."""

    TYPE: ClassVar[int] = 11


_OUTCOME = struct.Struct("<BI")


@dataclass(frozen=True, kw_only=True)
class Exit(_Plain):
    """The child has ended."""

    TYPE: ClassVar[int] = 12
    outcome: Outcome

    def payload(self) -> bytes:
        return _OUTCOME.pack(self.outcome.kind, self.outcome.value)

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> Exit:
        _no_descriptors(descriptors)
        return cls(outcome=_outcome(*_unpack(_OUTCOME, payload)))


@dataclass(frozen=True, kw_only=True)
class Spawn:
    """Hands an escalated exec to the supervisor: the stream, the program, the cwd, and what to run with.

    ``size``, ``modified`` and ``changed`` (nanoseconds) are what fstat(2) said of the program when it was decided.
    """

    TYPE: ClassVar[int] = 32
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IQQQBIII")
    session: int
    size: int = 0
    modified: int = 0
    changed: int = 0
    path: bytes
    cwd: bytes
    argv: tuple[bytes, ...]
    env: tuple[bytes, ...]
    umask: int = 0o022
    by_path: bool = False
    stream: int
    program: int | None = None
    cwd_descriptor: int | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        return _present(self.stream, self.program, self.cwd_descriptor)

    def payload(self) -> bytes:
        flags = _presence(self.program, self.cwd_descriptor) | (_BY_PATH if self.by_path else 0)
        decided = (self.size, self.modified, self.changed)
        head = self.LAYOUT.pack(self.session, *decided, flags, self.umask, len(self.argv), len(self.env))
        return head + _join((self.path, self.cwd, *self.argv, *self.env))

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> Spawn:
        session, size, modified, changed, flags, umask, argc, envc = _unpack(cls.LAYOUT, payload, exact=False)
        _require(flags <= (_PROGRAM | _CWD | _BY_PATH), "unknown flags")
        _require(umask <= 0o777, "umask out of range")
        _require(argc <= MAX_STRINGS and envc <= MAX_STRINGS, "too many strings")
        _require(bool(descriptors), "no stream attached")
        program, cwd_descriptor = _attached(flags, descriptors[1:])
        strings = _split(payload[cls.LAYOUT.size :], 2 + argc + envc)
        return cls(
            session=session,
            size=size,
            modified=modified,
            changed=changed,
            path=strings[0],
            cwd=strings[1],
            argv=tuple(strings[2 : 2 + argc]),
            env=tuple(strings[2 + argc :]),
            umask=umask,
            by_path=bool(flags & _BY_PATH),
            stream=descriptors[0],
            program=program,
            cwd_descriptor=cwd_descriptor,
        )


_TWO = struct.Struct("<II")


@dataclass(frozen=True, kw_only=True)
class Started(_Plain):
    """The escalated program of this session runs."""

    TYPE: ClassVar[int] = 33
    session: int
    pid: int

    def payload(self) -> bytes:
        return _TWO.pack(self.session, self.pid)

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> Started:
        _no_descriptors(descriptors)
        session, pid = _unpack(_TWO, payload)
        return cls(session=session, pid=pid)


@dataclass(frozen=True, kw_only=True)
class Ended(_Plain):
    """The escalated program of this session has ended, or could not be started."""

    TYPE: ClassVar[int] = 34
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IBI")
    session: int
    outcome: Outcome

    def payload(self) -> bytes:
        return self.LAYOUT.pack(self.session, self.outcome.kind, self.outcome.value)

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> Ended:
        _no_descriptors(descriptors)
        session, kind, value = _unpack(cls.LAYOUT, payload)
        return cls(session=session, outcome=_outcome(kind, value))


@dataclass(frozen=True, kw_only=True)
class ShellStarted(_Plain):
    """The shell runs, in its sandbox."""

    TYPE: ClassVar[int] = 35
    pid: int

    def payload(self) -> bytes:
        return _U32.pack(self.pid)

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> ShellStarted:
        _no_descriptors(descriptors)
        return cls(pid=_unpack(_U32, payload)[0])


@dataclass(frozen=True, kw_only=True)
class ShellFailed(_Plain):
    """The shell was not started; ``errno`` is 0 where none tells."""

    TYPE: ClassVar[int] = 36
    errno: int
    message: str

    def payload(self) -> bytes:
        return _U32.pack(self.errno) + _reason_bytes(self.message)

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> ShellFailed:
        _no_descriptors(descriptors)
        (errno,) = _unpack(_U32, payload, exact=False)
        return cls(errno=errno, message=_reason(payload[_U32.size :]))


@dataclass(frozen=True, kw_only=True)
class ShellExit(_Plain):
    """The shell has ended."""

    TYPE: ClassVar[int] = 37
    outcome: Outcome

    def payload(self) -> bytes:
        return _OUTCOME.pack(self.outcome.kind, self.outcome.value)

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> ShellExit:
        _no_descriptors(descriptors)
        outcome = _outcome(*_unpack(_OUTCOME, payload))
        _require(outcome.kind != NOT_STARTED, "a shell that ended was started")
        return cls(outcome=outcome)


@dataclass(frozen=True, kw_only=True)
class End(_Empty):
    """End everything that is left, then yourself."""

    TYPE: ClassVar[int] = 38


@dataclass(frozen=True, kw_only=True)
class Finished(_Plain):
    """Nothing is left; ``ended`` processes had to be ended."""

    TYPE: ClassVar[int] = 39
    ended: int

    def payload(self) -> bytes:
        return _U32.pack(self.ended)

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> Finished:
        _no_descriptors(descriptors)
        return cls(ended=_unpack(_U32, payload)[0])


@dataclass(frozen=True, kw_only=True)
class Keep(_Empty):
    """The shell has ended: let what is left go on, and finish when the last of it has ended."""

    TYPE: ClassVar[int] = 40


@dataclass(frozen=True, kw_only=True)
class Kept(_Plain):
    """The answer to KEEP: this many processes are left."""

    TYPE: ClassVar[int] = 41
    left: int

    def payload(self) -> bytes:
        return _U32.pack(self.left)

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> Kept:
        _no_descriptors(descriptors)
        return cls(left=_unpack(_U32, payload)[0])


@dataclass(frozen=True, kw_only=True)
class Standing(_Plain):
    """The answer to every request of this program that begins with these words, as long as it holds.

    Attributes:
        generation: Answers of different generations never stand together: a new one ends all of the one before.
        number: Names this answer to the server.
        until: Until when all answers of the generation hold, in nanoseconds of the monotonic clock.
        answer: Type of the frame to answer with.
        device: With the next four, what fstat(2) says of the program.
        depth: So many words of the argument vector were looked at, its first (which is none of ``words``) included.
        file: The absolute name it was asked by.
        resolved: The name that its descriptor has.
        words: The arguments that were looked at: ``depth`` less one of them, or fewer if the request had no more.
    """

    TYPE: ClassVar[int] = 42
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIQBQQQQQII")
    generation: int
    number: int
    until: int
    answer: int
    device: int
    inode: int
    size: int
    modified: int
    changed: int
    depth: int
    file: bytes
    resolved: bytes
    words: tuple[bytes, ...] = ()

    def payload(self) -> bytes:
        head = self.LAYOUT.pack(
            *(self.generation, self.number, self.until, self.answer),
            *(self.device, self.inode, self.size, self.modified, self.changed),
            *(self.depth, len(self.words)),
        )
        return head + _join((self.file, self.resolved, *self.words))

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> Standing:
        _no_descriptors(descriptors)
        _require(len(payload) <= MAX_STANDING, "an answer that is too long to stand")
        generation, number, until, answer, *identity, depth, count = _unpack(cls.LAYOUT, payload, exact=False)
        _require(answer in {Run.TYPE, Escalate.TYPE}, "an answer that cannot stand")
        _require(depth >= 1, "an answer that looked at nothing")
        _require(count < depth and count <= MAX_STANDING_WORDS, "words that were not looked at")
        file, resolved, *words = _split(payload[cls.LAYOUT.size :], 2 + count)
        for path in (file, resolved):
            _require(path.startswith(b"/") and len(path) <= MAX_PATH, "not an absolute path")
        device, inode, size, modified, changed = identity
        return cls(
            generation=generation,
            number=number,
            until=until,
            answer=answer,
            device=device,
            inode=inode,
            size=size,
            modified=modified,
            changed=changed,
            depth=depth,
            file=file,
            resolved=resolved,
            words=tuple(words),
        )


@dataclass(frozen=True, kw_only=True)
class Hold(_Plain):
    """All standing answers of the generation hold until then; those of any other are over."""

    TYPE: ClassVar[int] = 43
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IQ")
    generation: int
    until: int

    def payload(self) -> bytes:
        return self.LAYOUT.pack(self.generation, self.until)

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> Hold:
        _no_descriptors(descriptors)
        generation, until = _unpack(cls.LAYOUT, payload)
        return cls(generation=generation, until=until)


@dataclass(frozen=True, kw_only=True)
class Answered(_Plain):
    """So many requests, since the call began, were answered by standing answers."""

    TYPE: ClassVar[int] = 44
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<Q")
    total: int

    def payload(self) -> bytes:
        return self.LAYOUT.pack(self.total)

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> Answered:
        _no_descriptors(descriptors)
        return cls(total=_unpack(cls.LAYOUT, payload)[0])


@dataclass(frozen=True, kw_only=True)
class Start:
    """To a supervisor that waits: the rest of its command line, where and with what environment its shell runs, what is
    its stdout and stderr, and its end of the rendezvous."""

    TYPE: ClassVar[int] = 50
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<II")
    cwd: bytes
    argv: tuple[bytes, ...]
    env: tuple[bytes, ...]
    output: int
    rendezvous: int

    @property
    def descriptors(self) -> tuple[int, ...]:
        return self.output, self.rendezvous

    def payload(self) -> bytes:
        return self.LAYOUT.pack(len(self.argv), len(self.env)) + _join((self.cwd, *self.argv, *self.env))

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> Start:
        _require(len(descriptors) == 2, "descriptors other than announced")
        argc, envc = _unpack(cls.LAYOUT, payload, exact=False)
        _require(argc <= MAX_STRINGS and envc <= MAX_STRINGS, "too many strings")
        cwd, *rest = _split(payload[cls.LAYOUT.size :], 1 + argc + envc)
        _require(cwd.startswith(b"/") and len(cwd) <= MAX_PATH, "cwd is not absolute, or longer than any")
        output, rendezvous = descriptors
        return cls(cwd=cwd, argv=tuple(rest[:argc]), env=tuple(rest[argc:]), output=output, rendezvous=rendezvous)


@dataclass(frozen=True, kw_only=True)
class Idle(_Empty):
    """The shell has ended and nothing is left; the next START may come."""

    TYPE: ClassVar[int] = 51


@dataclass(frozen=True, kw_only=True)
class Taken(_Plain):
    """A request was escalated by the standing answer of this number; ``argv`` is cut to what is worth recording."""

    TYPE: ClassVar[int] = 45
    number: int
    argv: tuple[bytes, ...]

    def payload(self) -> bytes:
        return _TWO.pack(self.number, len(self.argv)) + _join(self.argv)

    @classmethod
    def parse(cls, payload: bytes, descriptors: tuple[int, ...]) -> Taken:
        _no_descriptors(descriptors)
        number, argc = _unpack(_TWO, payload, exact=False)
        _require(1 <= argc <= MAX_TAKEN_WORDS, "words that are not told")
        argv = tuple(_split(payload[_TWO.size :], argc))
        _require(max(map(len, argv)) <= MAX_TAKEN_BYTES, "a word longer than is told")
        return cls(number=number, argv=argv)


class Party(StrEnum):  # of str, for its members are looked up in the tables below with every frame
    """Who speaks. On a stream the service is the server and, once it has handed the session over, the supervisor."""

    CLIENT = "client"
    SERVICE = "service"
    SERVER = "server"
    SUPERVISOR = "supervisor"


_C, _S, _V, _U = Party.CLIENT, Party.SERVICE, Party.SERVER, Party.SUPERVISOR

_Table = dict[str, dict[tuple[Party, type[Frame]], str]]

EXEC_SESSION: _Table = {
    "start": {(_C, Request): "asked"},
    "asked": {(_S, Run): "running", (_S, Escalate): "handing over", (_S, Deny): "done", (_S, Error): "done"},
    "running": {(_C, ExecFailed): "done"},
    # The last part of FDS moves on to "handed over": see Connection._count_descriptors.
    "handing over": {(_C, Fds): "handing over", (_S, Error): "done"},
    "handed over": {(_C, Attributes): "attached", (_S, Error): "done"},
    "attached": {
        (_C, Signal): "attached",
        (_C, Continued): "attached",
        (_S, Stopped): "attached",
        (_S, Continued): "attached",
        (_S, Exit): "done",
        (_S, Error): "done",
    },
    # What the client sent before it could see the end is not an offence.
    "done": {(_C, Fds): "done", (_C, Attributes): "done", (_C, Signal): "done", (_C, Continued): "done"},
}
"""State → (who, what) → next state, of one intercepted exec."""

# A supervisor that is told to end by a signal finishes without END, whatever the state.
CONTROL_CHANNEL: _Table = {
    "waiting": {
        (_V, Start): "start",
        (_V, Standing): "waiting",  # crossed with IDLE on the way, as the next
        (_V, Hold): "waiting",
        (_U, Finished): "done",
        (_V, End): "ending",
    },
    "start": {
        (_U, ShellStarted): "running",
        (_U, ShellFailed): "failed",
        (_U, Finished): "done",
        (_V, End): "ending",
    },
    "running": {
        (_V, Spawn): "running",
        (_V, Standing): "running",
        (_V, Hold): "running",
        (_U, Answered): "running",
        (_U, Taken): "running",
        (_U, Started): "running",
        (_U, Ended): "running",
        (_U, ShellExit): "shell ended",
        (_U, Finished): "done",
        (_V, End): "ending",
    },
    "shell ended": {
        (_V, Spawn): "shell ended",
        (_V, Standing): "shell ended",
        (_V, Hold): "shell ended",
        (_U, Answered): "shell ended",
        (_U, Taken): "shell ended",
        (_U, Started): "shell ended",
        (_U, Ended): "shell ended",
        (_V, Keep): "keeping",
        (_U, Idle): "waiting",
        (_U, Finished): "done",
        (_V, End): "ending",
    },
    "keeping": {
        (_V, Spawn): "keeping",
        (_V, Standing): "keeping",
        (_V, Hold): "keeping",
        (_U, Answered): "keeping",
        (_U, Taken): "keeping",
        (_U, Started): "keeping",
        (_U, Ended): "keeping",
        (_U, Kept): "kept",
        (_U, Idle): "waiting",  # crossed with KEEP on the way
        (_U, Finished): "done",
        (_V, End): "ending",
    },
    "kept": {
        (_V, Spawn): "kept",
        (_V, Standing): "kept",
        (_V, Hold): "kept",
        (_U, Answered): "kept",
        (_U, Taken): "kept",
        (_U, Started): "kept",
        (_U, Ended): "kept",
        (_U, Finished): "done",
        (_V, End): "ending",
    },
    "failed": {(_U, Finished): "done", (_V, End): "ending"},
    # Crossed with END on the way.
    "ending": {
        (_U, ShellStarted): "ending",
        (_U, ShellFailed): "ending",
        (_U, Answered): "ending",
        (_U, Taken): "ending",
        (_U, Started): "ending",
        (_U, Ended): "ending",
        (_U, ShellExit): "ending",
        (_U, Kept): "ending",
        (_U, Idle): "ending",
        (_U, Finished): "done",
    },
    "done": {},
}
"""State → (who, what) → next state, of the channel between server and supervisor."""

_FRAMES: Mapping[int, type[Frame]] = {
    frame.TYPE: frame
    for frame in (
        Request, Run, Escalate, Deny, Error, ExecFailed, Fds, Attributes, Signal, Stopped, Continued, Exit,
        Spawn, Started, Ended, ShellStarted, ShellFailed, ShellExit, End, Finished,
        Keep, Kept, Standing, Hold, Answered, Taken, Start, Idle,
    )
}  # fmt: skip

_SESSIONS: Mapping[Party, tuple[Party, _Table]] = {
    Party.CLIENT: (Party.SERVICE, EXEC_SESSION),
    Party.SERVICE: (Party.CLIENT, EXEC_SESSION),
    Party.SERVER: (Party.SUPERVISOR, CONTROL_CHANNEL),
    Party.SUPERVISOR: (Party.SERVER, CONTROL_CHANNEL),
}


class NeedData(Enum):
    """Type of :data:`NEED_DATA`."""

    NEED_DATA = "need data"


NEED_DATA = NeedData.NEED_DATA
"""What :meth:`Connection.next_event` returns until a whole frame has come."""


def encode(frame: Frame) -> bytes:
    """The bytes of a frame, header included.

    Raises:
        LocalProtocolError: It cannot be sent: a NUL in a string, or over :data:`MAX_LENGTH`.
    """
    payload = frame.payload()
    if len(payload) + 1 > MAX_LENGTH:
        raise LocalProtocolError(f"a frame of {len(payload) + 1} bytes; at most {MAX_LENGTH} can be sent")
    return HEADER.pack(len(payload) + 1) + bytes((frame.TYPE,)) + payload


def whole_request(data: bytes, descriptors: tuple[int, ...]) -> Request | None:
    """The REQUEST that ``data`` is, header included; ``None`` if it is not exactly one frame of that type.

    A shortcut past :class:`Connection`, which says the same of these bytes, for what is asked with every exec.

    Raises:
        RemoteProtocolError: It is a REQUEST that breaks the format.
    """
    start = HEADER.size + 1
    if len(data) < start or data[HEADER.size] != Request.TYPE:
        return None
    (length,) = HEADER.unpack_from(data)
    return Request.parse(data[start:], descriptors) if len(data) == HEADER.size + length <= MAX_LENGTH else None


@dataclass(kw_only=True)
class Connection:
    """One end of an exec session or control channel.

    Attributes:
        party: Who we are.
        state: Where the session stands: a key of its table.
    """

    party: Party
    state: str = "start"
    _buffer: bytearray = field(default_factory=bytearray)
    _descriptors: tuple[int, ...] = ()
    _handed: set[int] = field(default_factory=set)
    _announced: int | None = None

    def read_size(self) -> int:
        """How many bytes complete the current header or frame: read no more, so that descriptors stay with theirs."""
        if len(self._buffer) < HEADER.size:
            return HEADER.size - len(self._buffer)
        return HEADER.size + self._length() - len(self._buffer)

    def receive_data(self, data: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Take what was read, and the descriptors that came with it.

        Raises:
            RemoteProtocolError: Descriptors came in the middle of a frame. They are still in :meth:`unclaimed`.
        """
        misplaced = bool(descriptors) and bool(self._buffer)
        self._descriptors += descriptors
        self._buffer += data
        _require(not misplaced, "descriptors in the middle of a frame")

    def next_event(self) -> Frame | NeedData:
        """The next whole frame, checked against the state table.

        Raises:
            RemoteProtocolError: The peer broke the format; the session is over.
        """
        if len(self._buffer) < HEADER.size or len(self._buffer) < HEADER.size + self._length():
            return NEED_DATA
        end = HEADER.size + self._length()
        number, payload = self._buffer[HEADER.size], bytes(self._buffer[HEADER.size + 1 : end])
        kind = _FRAMES.get(number)
        if kind is None:
            raise RemoteProtocolError(f"frame of unknown type {number}")
        self._check(_SESSIONS[self.party][0], kind, RemoteProtocolError)
        frame = kind.parse(payload, self._descriptors)
        self._advance(_SESSIONS[self.party][0], frame)
        self._descriptors = ()
        del self._buffer[:end]
        return frame

    def send(self, frame: Frame) -> bytes:
        """The bytes to send for a frame, once the state table allows it; its descriptors ride on the first byte.

        Raises:
            LocalProtocolError: It is not our turn, or the frame cannot be sent.
        """
        self._check(self.party, type(frame), LocalProtocolError)
        data = encode(frame)
        self._advance(self.party, frame)
        return data

    def end(self) -> None:
        """We close our direction, which says END whatever was still on its way."""
        if self.state != "done":
            self.state = "ending"

    def ended_cleanly(self) -> bool:
        """Whether the peer may close now: an exec that happened, a session that is done, nothing half received."""
        return not self._buffer and self.state in {"running", "done"}

    def buffered(self) -> int:
        """How many bytes were received and not given out."""
        return len(self._buffer)

    def has_more(self) -> bool:
        """Whether something was received after the last frame."""
        return bool(self._buffer)

    def unclaimed(self) -> tuple[int, ...]:
        """Descriptors received but not given out with a frame: whoever drops the connection closes them."""
        left, self._descriptors = self._descriptors, ()
        return left

    def _length(self) -> int:
        (length,) = HEADER.unpack_from(self._buffer)
        _require(1 <= length <= MAX_LENGTH, f"frame of {length} bytes")
        return int(length)

    def _check(self, who: Party, kind: type[Frame], error: type[LocalProtocolError | RemoteProtocolError]) -> None:
        if (who, kind) not in _SESSIONS[self.party][1][self.state]:
            raise error(f"{kind.__name__} from the {who.value} in state '{self.state}'")

    def _advance(self, who: Party, frame: Frame) -> None:
        if isinstance(frame, Fds) and self.state != "done":
            self._count_descriptors(frame)
        else:
            self.state = _SESSIONS[self.party][1][self.state][(who, type(frame))]

    def _count_descriptors(self, part: Fds) -> None:
        _require(self._announced in {None, part.total}, "a total that changed")
        _require(
            self._handed.isdisjoint(part.numbers) and len(set(part.numbers)) == len(part.numbers), "a number twice"
        )
        self._announced = part.total
        self._handed.update(part.numbers)
        _require(len(self._handed) <= part.total, "more descriptors than announced")
        if len(self._handed) == part.total:
            self.state = "handed over"
