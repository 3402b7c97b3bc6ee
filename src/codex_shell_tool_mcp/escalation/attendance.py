"""What the Python wrapper does once its program runs outside (``src/native/attend.c`` is the other one).

It hands over what an exec would have kept, stands in for the program towards the shell, and ends the way it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import signal
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from codex_shell_tool_mcp.errors import ShellToolError
from codex_shell_tool_mcp.escalation import wire
from codex_shell_tool_mcp.escalation.client_session import (
    NOT_RUN,
    SIGNALS_MAX,
    DescriptorLimit,
    Session,
    above_standard,
    kernel_mask,
    wait,
)

if TYPE_CHECKING:
    from types import FrameType

_O_PATH = getattr(os, "O_PATH", 0)

_SUPERVISOR = "codex-shell-sup"
"""The supervisor's name in proc(5) ``comm``: fifteen characters."""

_UNCAUGHT = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
"""Cannot be caught, or is our own child's business (the C client tells the kernel's SIGCHLD from a kill(2))."""

_FROM_TERMINAL = {
    signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGHUP, signal.SIGWINCH,
    signal.SIGCONT,
}  # fmt: skip
"""With a shared terminal the program is in our process group, so the kernel sends it these as well: forwarding them
would deliver them twice. (The C client tells the kernel's from a kill(2) by ``si_code``; here both stay.)"""

_STOPS = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
"""Those that can be caught."""

_WAITING_SIGNALS = 128
"""More than ever wait, and few enough that a flood of them cannot keep us from stopping."""

_LIMITS = 16
"""Resources there are (setrlimit(2)); what does not exist here is passed over."""


def attend(session: Session) -> NoReturn:
    """Hand over, then carry signals one way and stops the other, until the program has ended; end like it."""
    blocked = kernel_mask("SigBlk", tuple(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    ignored = kernel_mask("SigIgn", [one for one in _signals() if signal.getsignal(one) is signal.SIG_IGN])
    signal.pthread_sigmask(signal.SIG_BLOCK, _signals())
    relay = _Relay()
    attributes = _attributes(blocked, ignored)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # what was said before is still to be read
        _hand_over(session, attributes)
        session.attached = True
    relay.start()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _Attendance(session=session, shares_terminal=attributes.controlling_terminal, relay=relay).run()


def _signals() -> set[signal.Signals]:
    return {number for number in signal.valid_signals() if number <= SIGNALS_MAX}


class _Relay:
    """Signals as bytes in a pipe, written by Python's C handler: none is lost between a look and a wait."""

    def __init__(self) -> None:
        self.read, self._write = (above_standard(end) for end in os.pipe())
        for end in (self.read, self._write):
            os.set_blocking(end, False)

    def start(self) -> None:
        """Catch all that can be, ignored ones too: the program may come to want them."""
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in _signals() - _UNCAUGHT:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, _caught)

    def take(self, most: int) -> bytes:
        """Those that have come."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.read, most)
        return b""

    def stop_like(self, number: int) -> bytes:
        """Stop by this very signal, as the shell waits to see, unless a SIGCONT came; what has come when continued."""
        others = _signals() - {signal.SIGCONT}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, others)
        if number == signal.SIGSTOP:
            came = self.take(_WAITING_SIGNALS)
            if signal.SIGCONT not in came:
                os.kill(os.getpid(), number)
        else:
            own = signal.signal(number, signal.SIG_DFL)
            # It waits, so that none is lost: a SIGCONT before it is found in the pipe, one behind it takes it away.
            os.kill(os.getpid(), number)
            came = self.take(_WAITING_SIGNALS)
            if signal.SIGCONT not in came:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})  # the stop happens here
                signal.pthread_sigmask(signal.SIG_BLOCK, {number})
                came += self.take(_WAITING_SIGNALS)
                # In an orphaned process group the terminal's stop signals do nothing: only SIGSTOP does.
                if signal.SIGCONT not in came and not signal.sigpending() & _STOPS:
                    os.kill(os.getpid(), signal.SIGSTOP)
            signal.signal(number, signal.SIG_IGN)  # takes it away if it waits still
            signal.signal(number, own)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return came + self.take(_WAITING_SIGNALS)


def _caught(number: int, frame: FrameType | None) -> None:
    """All is done by the wake-up descriptor."""


@dataclass(kw_only=True)
class _Attendance:
    session: Session
    shares_terminal: bool
    relay: _Relay
    _poll: select.poll = field(default_factory=select.poll)

    def run(self) -> NoReturn:
        """Until the end. The stream first: after STOPPED, our answer stands for a SIGCONT that waits."""
        stream = self.session.stream.fileno()
        for descriptor in (stream, self.relay.read):
            self._poll.register(descriptor, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in self._poll.poll()}
            if stream in ready:
                self._take(self.session.receive())
            else:
                for number in self.relay.take(1):
                    self._forward(number)

    def _take(self, frame: wire.Frame) -> None:
        match frame:
            case wire.Exit(outcome=outcome):
                _end_as(self.session, outcome)
            case wire.Error(reason=reason):
                raise ShellToolError(reason)
            case wire.Stopped(number=number):
                self._stop(number)
            case wire.Continued():
                """Our answer to STOPPED has crossed it, or follows."""

    def _stop(self, number: int) -> None:
        waiting = self.relay.take(_WAITING_SIGNALS)
        self._forward_waiting(waiting)
        last = next((one for one in reversed(waiting) if one == signal.SIGCONT or one in _STOPS), None)
        waiting = b""
        if last != signal.SIGCONT and not wait(self.session.stream.fileno(), select.POLLIN, 0):
            waiting = self.relay.stop_like(number if number in _STOPS else signal.SIGSTOP)
        with contextlib.suppress(OSError):  # the stream tells why
            self.session.send(wire.Continued())
        self._forward_waiting(waiting)

    def _forward_waiting(self, waiting: bytes) -> None:
        """Not SIGCONT, for which our answer to STOPPED stands, nor the stops before it, which it takes away."""
        last = waiting.rfind(signal.SIGCONT)
        for at, number in enumerate(waiting):
            if number != signal.SIGCONT and (at > last or number not in _STOPS):
                self._forward(number)

    def _forward(self, number: int) -> None:
        if self.shares_terminal and number in _FROM_TERMINAL:
            return
        with contextlib.suppress(OSError):  # the stream tells why
            self.session.send(wire.Signal(number=number))


# ---- the hand-over --------------------------------------------------------------------------------------------------


def _hand_over(session: Session, attributes: wire.Attributes) -> None:
    """Send what the program is to have, and let go of it: a pipe must reach its end when the program closes it."""
    numbers = _inheritable(session)
    if len(numbers) > wire.MAX_DESCRIPTORS:
        raise ShellToolError(
            f"more than {wire.MAX_DESCRIPTORS} descriptors are open; an escalated program cannot be given so many"
        )
    size = wire.MAX_DESCRIPTORS_PER_FRAME
    parts = [numbers[start : start + size] for start in range(0, len(numbers), size)] or [[]]
    for part in parts:
        session.send(wire.Fds(total=len(numbers), numbers=tuple(part), descriptors=tuple(part)))
    session.send(attributes)
    ours = {session.rendezvous, session.program, session.cwd} - {None}
    for number in (set(numbers) - {2}) | ours:  # stderr stays for what we may have to say
        assert number is not None
        with contextlib.suppress(OSError):
            os.close(number)


def _inheritable(session: Session) -> list[int]:
    """What a program exec'd here would have: not close-on-exec (so none of ours), not O_PATH, not the answer pipe."""
    directory = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    rendezvous = os.fstat(session.rendezvous)
    numbers = sorted(int(name) for name in os.listdir(directory))  # noqa: PTH208 - it must not open twice
    return [number for number in numbers if number != session.ask and _passes(number, rendezvous)]


def _passes(number: int, rendezvous: os.stat_result) -> bool:
    try:
        if not os.get_inheritable(number) or fcntl.fcntl(number, fcntl.F_GETFL) & _O_PATH:
            return False
        found = os.fstat(number)
    except OSError:
        return False
    return not (stat.S_ISSOCK(found.st_mode) and os.path.samestat(found, rendezvous))


def _attributes(blocked: int, ignored: int) -> wire.Attributes:
    shares_terminal = _shares_terminal()
    DescriptorLimit.restore()
    return wire.Attributes(
        controlling_terminal=shares_terminal,
        nice=os.getpriority(os.PRIO_PROCESS, 0),
        blocked=blocked,
        ignored=ignored,
        limits=tuple(_limits()),
    )


def _shares_terminal() -> bool:
    """Whether the terminal is that of the supervisor's session: only there the program can join our group."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
        return Path(f"/proc/{os.getsid(0)}/comm").read_text("utf-8", "replace").rstrip("\n") == _SUPERVISOR
    except OSError:
        return False


def _limits() -> list[wire.Limit]:
    found = []
    for number in range(_LIMITS):
        try:
            soft, hard = resource.getrlimit(number)
        except (OSError, ValueError):
            continue
        found.append(wire.Limit(resource=number, soft=_unsigned(soft), hard=_unsigned(hard)))
    return found


def _unsigned(limit: int) -> int:
    return 2**64 - 1 if limit == resource.RLIM_INFINITY else limit


# ---- the end --------------------------------------------------------------------------------------------------------


def _end_as(session: Session, outcome: wire.Outcome) -> NoReturn:
    if outcome.kind == wire.NOT_STARTED:
        session.fail_as(outcome.value)
    if outcome.kind == wire.EXITED:
        os._exit(outcome.value)
    number = outcome.value
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(
        OSError, ValueError
    ):  # the C library's own, 32 and 33, are not ours to set: they kill as well
        signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(ValueError):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    os._exit(128 + number if 0 < number < SIGNALS_MAX + 1 else NOT_RUN)
