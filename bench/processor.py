"""Processor time of a server and of all it has started: what a busy machine does to the clock leaves it alone.

API::

    of_tree(root, proc) -> float | None       seconds so far, of a process and its descendants, ended ones included
    of_children() -> float                    seconds so far, of this process's own children that have ended
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class _Stat:
    parent: int
    ticks: int


def of_children() -> float:
    """User and system time of the children that were waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def of_tree(root: int, proc: Path = _PROC) -> float | None:
    """User and system time of a process and of everything below it; ``None`` where there is no Linux ``/proc``.

    A process that has ended is in its parent's sum once that has waited for it, which servers do before they answer.
    """
    found = {int(path.parent.name): stat for path in proc.glob("[0-9]*/stat") if (stat := _read(path)) is not None}
    if root not in found:
        return None
    ticks = sum(stat.ticks for number, stat in found.items() if _is_below(number, root, found))
    return ticks / os.sysconf("SC_CLK_TCK")


def _read(path: Path) -> _Stat | None:
    """proc_pid_stat(5): ppid is field 4, utime, stime, cutime and cstime are 14 to 17; the name (2) may hold blanks."""
    try:
        fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:  # it ended meanwhile
        return None
    return _Stat(parent=int(fields[1]), ticks=sum(map(int, fields[11:15])))


def _is_below(number: int, root: int, found: dict[int, _Stat]) -> bool:
    while number in found and number != root:
        number = found[number].parent
    return number == root
