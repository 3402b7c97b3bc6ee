"""Processes that are told from all others by a word of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def processes(mark: str) -> dict[int, Path]:
    """Living processes with ``mark`` in their arguments or environment, and their folders in proc(5)."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes():
                    found[int(folder.name)] = folder
    return found


def supervisors(server: int) -> list[int]:
    """Children of a server but the one that waits for its next call."""
    return [child for child in _children(server) if not waits(child)]


def waiting(server: int) -> list[int]:
    """Supervisors of a server that wait for the next call."""
    return [child for child in _children(server) if waits(child)]


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found


def waits(pid: int) -> bool:
    """Whether a process is a supervisor that nobody has told yet what to run."""
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "codex-waiting\n"
    except OSError:  # it has ended meanwhile
        return False


@contextlib.contextmanager
def marking(what: str) -> Iterator[str]:
    """A word that only the processes of one test know; what is left of them is ended whatever came of it."""
    word = f"{what}-{os.getpid()}-{time.monotonic_ns()}"
    try:
        yield word
    finally:
        for pid in processes(word):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
