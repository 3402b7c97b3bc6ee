"""Where a call can have a control group (cgroups(7), version 2) of its own: the kernel ends all of it at once.

Used where this process's own group belongs to whoever runs it: a user's session under systemd, root, a container with a
writable hierarchy. Elsewhere calls do without.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

_LOG = logging.getLogger(__name__)

_PREFIX = "codex-shell-"

_LIMITS = ("memory.max", "memory.high", "cpu.max", "pids.max")
"""Programs look up their limits in their own group's files, and in a group below it these would be missing."""

_REMOVE_SECONDS = 0.2
"""A group stays busy until the kernel has let go of its last process."""

_PAUSE = 0.005
"""Seconds between two tries."""

_numbers = itertools.count(1)


def _mount_point(mountinfo: str) -> Path | None:
    """Where the whole hierarchy is mounted; proc(5), ``mountinfo``."""
    for line in mountinfo.splitlines():
        mounted, _, kind = line.partition(" - ")
        fields = mounted.split()
        if kind.split(" ")[0] == "cgroup2" and fields[3] == "/":
            return Path(fields[4].replace("\\040", " "))
    return None


def _is_limited(folder: Path) -> bool:
    for name in _LIMITS:
        with suppress(OSError):
            if not (folder / name).read_text().startswith("max"):
                return True
    return False


def _remove_stale(folder: Path) -> None:
    """Remove empty groups of servers that were killed together with their supervisors."""
    for old in folder.glob(f"{_PREFIX}*-*"):
        if not Path("/proc", old.name.split("-")[2]).exists():
            with suppress(OSError):
                old.rmdir()


@cache
def place() -> Path | None:
    """The group of this process, if groups can be made in it and it has no limits of its own."""
    try:
        mounted = _mount_point(Path("/proc/self/mountinfo").read_text())
        paths = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    path = next((line[3:] for line in paths if line.startswith("0::/")), None)
    if mounted is None or path is None:
        return None
    found = mounted / path.lstrip("/")
    usable = os.access(found / "cgroup.procs", os.W_OK) and os.access(found, os.W_OK) and not _is_limited(found)
    _LOG.info("control groups for calls: %s", f"in {found}" if usable else "none")
    if not usable:
        return None
    _remove_stale(found)
    return found


def new_group() -> Path | None:
    """A path for the group of a call; whoever makes it removes it."""
    found = place()
    return None if found is None else found / f"{_PREFIX}{os.getpid()}-{next(_numbers)}"


def kill_group(path: Path) -> None:
    """Kill all members of a group, if there is one."""
    with suppress(OSError):
        (path / "cgroup.kill").write_text("1")


def remove_group(path: Path) -> None:
    """Remove a group without members, if there is one."""
    give_up = time.monotonic() + _REMOVE_SECONDS
    while time.monotonic() < give_up:
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(_PAUSE)
