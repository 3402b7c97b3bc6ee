"""Ending what a supervisor left behind when it could not do so itself (it was killed)."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def _session_of(entry: Path) -> int | None:
    """Session of a process by proc(5) ``stat``: the sixth field, after a name that may hold anything."""
    try:
        fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[3]) if len(fields) > 3 and fields[0] != b"Z" else None


def members(session: int) -> tuple[int, ...]:
    """Living processes of a session; empty where there is no ``/proc``."""
    try:
        entries = [entry for entry in _PROC.iterdir() if entry.name.isdigit()]
    except OSError:
        return ()
    return tuple(int(entry.name) for entry in entries if _session_of(entry) == session)


def kill_session(session: int) -> int:
    """Kill every process of a session, until none is left; returns how many were found at first.

    Without ``/proc`` only the process group of the session's leader is reached.
    """
    found = members(session)
    if not found:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(session, signal.SIGKILL)
        return 0
    left = found
    for _ in range(100):
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        left = members(session)
        if not left:
            break
    return len(found)
