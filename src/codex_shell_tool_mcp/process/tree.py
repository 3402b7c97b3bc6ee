"""Ending what a supervisor left behind when it could not do so itself: it was killed.

What a process leaves becomes the nearest reaper's, which is this process once :func:`become_reaper` was called. A child
of ours in another session than ours is a supervisor's: nobody can join a session, only leave it for a new one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.process.group import kill_group, remove_group

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROC = Path("/proc")

_PR_SET_CHILD_SUBREAPER = 36
"""prctl(2)."""

_STOPPING_SECONDS = 1.0
"""How long new processes may keep appearing before they are killed all the same."""

_GIVE_UP_SECONDS = 3.0
"""What lives so long after it was killed is another user's, or stuck in the kernel."""

_PAUSE = 0.002
"""Seconds between two looks."""

LOCK = threading.Lock()
"""Held while a supervisor is started, until its number is in :data:`SUPERVISORS`."""

SUPERVISORS: dict[int, subprocess.Popen[bytes]] = {}
"""Children of this process that end what they have started themselves, by number."""


def reaped(supervisor: subprocess.Popen[bytes]) -> None:
    """Forget one; its number may be another's by now."""
    with LOCK:
        if SUPERVISORS.get(supervisor.pid) is supervisor:
            del SUPERVISORS[supervisor.pid]


def become_reaper() -> bool:
    """Have the kernel hand this process what a killed supervisor leaves; ``False`` where it cannot (macOS)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        import codex_shell_tool_boot  # noqa: PLC0415 - made by the frozen server's boot program, in that process only
    except ImportError:
        return _ask_kernel()
    return bool(codex_shell_tool_boot.become_reaper())


def _ask_kernel() -> bool:
    try:
        import ctypes  # noqa: PLC0415 - a few milliseconds, and the interpreter may have been built without it

        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


@dataclass(frozen=True, kw_only=True)
class _Process:
    """A row of the kernel's list. ``started`` tells it from a later one of the same number."""

    pid: int
    parent: int
    session: int
    started: int
    state: str

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this very process, if it is still there and ours."""
        with suppress(OSError), ExitStack() as stack:
            held = _pidfd(self.pid)
            if held is None:
                os.kill(self.pid, number)
                return
            stack.callback(os.close, held)
            now = _read(_PROC / str(self.pid))
            if now is not None and now.started == self.started:
                signal.pidfd_send_signal(held, number)


def _pidfd(pid: int) -> int | None:
    """A descriptor that stays this process's; ``None`` where the kernel has none (before Linux 5.3; macOS).

    Raises:
        ProcessLookupError: It is gone.
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except (AttributeError, OSError):
        return None


def _read(entry: Path) -> _Process | None:
    """proc(5), ``stat``: fields behind a name that may hold anything."""
    try:
        fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    if len(fields) < 20:
        return None
    return _Process(
        pid=int(entry.name),
        parent=int(fields[1]),
        session=int(fields[3]),
        started=int(fields[19]),
        state=fields[0].decode(),
    )


def _all() -> list[_Process]:
    if not _PROC.is_dir():
        return list(_listed_by_ps())
    entries = [entry for entry in _PROC.iterdir() if entry.name.isdigit()]
    return [process for entry in entries if (process := _read(entry)) is not None]


def _listed_by_ps() -> Iterator[_Process]:
    """The same where there is no ``/proc``; ``ps`` has no word for the session that means one on every system."""
    listed = subprocess.run(
        ["/bin/ps", "-A", "-o", "pid=,ppid=,stat="], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    for line in listed.stdout.split(b"\n"):
        with suppress(ValueError, OSError):
            pid, parent, state = line.split()
            session = os.getsid(int(pid))
            yield _Process(pid=int(pid), parent=int(parent), session=session, started=0, state=state[:1].decode())


def left_by(supervisor: int) -> list[_Process]:
    """What a dead supervisor has left: its session, the strays that became ours, and all that descends from them.

    What began before it is none of its: a service of whoever executed this program in their own place (``service & exec
    server``), or of a container whose first process we are.
    """
    own, session = os.getpid(), os.getsid(0)
    with LOCK:
        processes = _all()
        known = {supervisor, *SUPERVISORS}
    began = next((process.started for process in processes if process.pid == supervisor), 0)
    found = {
        process.pid: process
        for process in processes
        if process.pid not in known
        and process.started >= began
        and (process.session == supervisor or (process.parent == own and process.session != session))
    }
    while more := [one for one in processes if one.parent in found and one.pid not in found]:
        found.update({one.pid: one for one in more})
    return [process for process in found.values() if process.pid != own]


def _reap(processes: list[_Process]) -> list[_Process]:
    """Reap those of them that are our children and have ended; those that live."""
    own = os.getpid()
    for process in processes:
        if process.parent == own:
            with suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)
    return [process for process in processes if process.state not in "ZX"]


def end_left_by(supervisor: subprocess.Popen[bytes], group: Path | None) -> int:
    """Kill a supervisor that did not end in order, and everything it has left; how many processes that were.

    All are stopped before any is killed: else those that fork on would take the room of the dead below a limit of
    processes.

    Args:
        supervisor: Not reaped yet: that would give its session's number away.
        group: The call's control group, if it may have one.
    """
    os.kill(supervisor.pid, signal.SIGKILL)  # not by its method, which reaps
    os.waitid(os.P_PID, supervisor.pid, os.WEXITED | os.WNOWAIT)
    seen: set[int] = set()
    begun = time.monotonic()
    stopping = True
    while time.monotonic() - begun < _GIVE_UP_SECONDS:
        left = left_by(supervisor.pid)
        if not left:
            break
        living = _reap(left)  # the dead are looked for until they are reaped: their children become ours a moment later
        fresh = {process.pid for process in living} - seen
        seen |= fresh
        if group is not None:
            kill_group(group)
        stopping = stopping and bool(fresh) and time.monotonic() - begun < _STOPPING_SECONDS
        for process in living:
            process.signal(signal.SIGSTOP if stopping else signal.SIGKILL)
        if not stopping:
            time.sleep(_PAUSE)
    if group is not None:
        remove_group(group)
    return len(seen)
