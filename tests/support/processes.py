"""Which processes there are, by what the kernel lists (proc(5)); none where there is no /proc."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def children(parent: int) -> list[int]:
    """The numbers of a process's children."""
    return _with(1, parent)


def members(group: int) -> list[int]:
    """The numbers of the processes of a process group."""
    return _with(2, group)


def run_state(pid: int) -> str:
    """The letter for what a process does: ``S`` it sleeps, ``T`` it is stopped."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]


def _with(field: int, value: int) -> list[int]:
    """Those whose ``stat`` has this value there; fields are counted behind the name, from the state."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(entry.read_bytes().rpartition(b")")[2].split()[field]) == value:
                found.append(int(entry.parent.name))
    return found
