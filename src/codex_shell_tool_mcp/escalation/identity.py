"""Which file really is this program: decided on its descriptor, never on its name a second time."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_LINKS = 40
"""Links followed before giving up: the kernel's own limit (path_resolution(7))."""

_DELETED = " (deleted)"
"""What proc(5) appends to the name of a file that has none any more."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What tells that a file was changed in place between question and answer (stat(2))."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


def fingerprint(descriptor: int) -> Fingerprint:
    """The file's state now. Raises OSError as fstat(2)."""
    status = os.fstat(descriptor)
    return Fingerprint(
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        modified=status.st_mtime_ns,
        changed=status.st_ctime_ns,
    )


def path_of(descriptor: int) -> str | None:
    """The absolute path of an open file, links followed; ``None`` where it has none or the host cannot say."""
    try:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        return _path_by_fcntl(descriptor)
    return path if path.startswith("/") and not path.endswith(_DELETED) else None


def _path_by_fcntl(descriptor: int) -> str | None:
    """macOS: fcntl(2) F_GETPATH."""
    import fcntl  # noqa: PLC0415 - only where there is no /proc

    command = getattr(fcntl, "F_GETPATH", None)
    if command is None:
        return None
    try:
        return os.fsdecode(fcntl.fcntl(descriptor, command, bytes(1024)).rstrip(b"\0")) or None
    except OSError:
        return None


def absolute(file: str, cwd: str | None) -> str:
    """``file`` made absolute against the caller's directory; ``..`` is taken out by name only (as the original)."""
    joined = file if file.startswith("/") else f"{cwd or '/'}/{file}"
    return os.path.normpath("/" + joined.lstrip("/"))  # normpath keeps two leading slashes, as POSIX allows


def is_script(descriptor: int) -> bool:
    """Whether the kernel would hand the file to a ``#!`` interpreter (execve(2)). An unreadable one is none."""
    try:
        again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(again).st_mode) and os.pread(again, 2, 0) == b"#!"
    except OSError:
        return False
    finally:
        os.close(again)


def name_is_trusted(program: str, resolved: str | None, roots: Sequence[Path]) -> bool:
    """Whether the sandboxed side had no hand in what the name ``program`` leads to.

    The file itself must lie outside ``roots``, and so must every folder gone through and every link followed on the
    way: ``ln -s /bin/bash ./git`` gives an untouched file a name that a rule trusts. The server walks the way itself,
    and must end at ``resolved``; through ``/proc`` it means another file to every process, so that is no way.
    """
    if resolved is None or is_below(resolved, roots):
        return False
    real_roots = [os.path.realpath(root) for root in roots]
    place, ahead, links = "/", [part for part in program.split("/") if part], 0
    while ahead:
        part = ahead.pop(0)
        place = os.path.normpath(f"{place}/{part}") if part == ".." else f"{place.rstrip('/')}/{part}"
        if place == "/proc" or any(Path(place).is_relative_to(root) for root in real_roots):
            return False
        try:
            target = str(Path(place).readlink())
        except OSError:
            continue  # no link; if it is nothing at all, the end is not reached
        links += 1
        if links > MAX_LINKS:
            return False
        ahead[:0] = [part for part in target.split("/") if part and part != "."]
        place = "/" if target.startswith("/") else place.rpartition("/")[0] or "/"
    return place == resolved


def is_below(path: str, roots: Iterable[Path]) -> bool:
    """Whether ``path``, already free of links, lies at or below one of ``roots`` (whose links are followed here)."""
    return any(Path(path).is_relative_to(os.path.realpath(root)) for root in roots)
