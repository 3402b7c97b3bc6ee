"""Which file really is this program: decided on its descriptor, never on its name a second time."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MAX_LINKS = 40
"""Links followed before giving up: the kernel's own limit (path_resolution(7))."""

MAX_SCRIPT = 16 * 1024 * 1024
"""Largest script in bytes that is copied to be run: a hundred times the longest ones in use."""


_U64 = 2**64 - 1
"""Times before 1970 are negative; on the wire they wrap."""


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
    return fingerprint_of(os.fstat(descriptor))


def fingerprint_of(status: os.stat_result) -> Fingerprint:
    """The state that fstat(2) found."""
    return Fingerprint(
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        modified=status.st_mtime_ns & _U64,
        changed=status.st_ctime_ns & _U64,
    )


def path_of(descriptor: int, status: os.stat_result | None = None) -> str | None:
    """The absolute path that leads to an open file, links followed; ``None`` if none does, here and now.

    What proc(5) shows is a claim: the opener may live in another mount namespace, or the name may be gone and another
    file have it. So it is looked up, and counts only if it is that file.

    Args:
        descriptor: The open file.
        status: What fstat(2) says of it, if that is known.
    """
    try:
        path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - once per exec, no object
    except OSError:
        path = _path_by_fcntl(descriptor) or ""
    return path if path.startswith("/") and leads_to(path, status or os.fstat(descriptor)) else None


def leads_to(path: str, status: os.stat_result) -> bool:
    """Whether ``path``, which is absolute, is for this process as well the open file that has this ``status``."""
    try:
        found = os.stat(path)  # noqa: PTH116 - one look, no object
    except (OSError, ValueError):
        return False
    return found.st_ino == status.st_ino and found.st_dev == status.st_dev


def _path_by_fcntl(descriptor: int) -> str | None:
    """macOS: fcntl(2) F_GETPATH."""
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


class Kind(Enum):
    """Who runs a file, by its first bytes."""

    IMAGE = "the kernel"
    SCRIPT = "the interpreter it names"
    PLAIN = "the shell that called it"


IMAGES = (
    b"\x7fELF",
    *(b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"\xca\xfe\xba\xbf"),
)
"""How images begin: ELF, and what macOS has (Mach-O/loader.h, fat.h)."""

SAMPLE = 80
"""Bytes of which bash decides whether a file that no kernel executes is text: no NUL in the first line."""


def kind_of(descriptor: int) -> Kind:
    """Who would run the file: execve(2), and bash for a file that it refuses. An unreadable one is an image."""
    try:
        again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return Kind.IMAGE
    try:
        head = os.pread(again, SAMPLE, 0) if stat.S_ISREG(os.fstat(again).st_mode) else IMAGES[0]
    except OSError:
        return Kind.IMAGE
    finally:
        os.close(again)
    line = head.partition(b"\n")[0]
    if line.startswith(b"#!") and line[2:].strip(b" \t"):
        return Kind.SCRIPT
    return Kind.IMAGE if line.startswith(IMAGES) or b"\0" in line else Kind.PLAIN


@dataclass(frozen=True, kw_only=True)
class Roots:
    """Folders that the sandboxed side can write, free of links. Made once a call, asked with each exec."""

    names: frozenset[str]
    prefixes: tuple[str, ...]

    @classmethod
    def of(cls, roots: Iterable[Path]) -> Roots:
        """Follow the links of ``roots`` as they are now: what the sandbox was bound to does not change with a name."""
        names = frozenset(os.path.realpath(root) for root in roots)
        return cls(names=names, prefixes=tuple(name if name == "/" else name + "/" for name in sorted(names)))

    def hold(self, path: str) -> bool:
        """Whether ``path``, already free of links, lies at or below one of them."""
        return path in self.names or path.startswith(self.prefixes)


def name_is_trusted(program: str, resolved: str | None, roots: Roots) -> bool:
    """Whether the sandboxed side had no hand in what the name ``program`` leads to.

    The file itself must lie outside ``roots``, and so must every folder gone through and every link followed on the
    way: ``ln -s /bin/bash ./git`` gives an untouched file a name that a rule trusts. The server walks the way itself,
    and must end at ``resolved``; through ``/proc`` it means another file to every process, so that is no way.
    """
    if resolved is None or roots.hold(resolved):
        return False
    place, ahead, links = "", deque(part for part in program.split("/") if part), 0
    while ahead:
        part = ahead.popleft()
        place = place.rpartition("/")[0] if part == ".." else f"{place}/{part}"
        if place == "/proc" or roots.hold(place):
            return False
        try:
            target = os.readlink(place) if place else ""  # noqa: PTH115 - once per part of every path
        except OSError as error:
            if error.errno != errno.EINVAL:
                return False  # not even there
            continue
        links += 1
        if links > MAX_LINKS:
            return False
        ahead.extendleft(reversed([part for part in target.split("/") if part and part != "."]))
        place = "" if target.startswith("/") else place.rpartition("/")[0]
    return place == resolved


def sealed_copy(descriptor: int, before: bytes = b"") -> int:
    """A copy of a script that nobody can change (memfd_create(2), sealed): a descriptor for the caller to close.

    Args:
        descriptor: The script.
        before: What to put in front of it.

    Raises:
        OSError: It cannot be read, copied, or is larger than :data:`MAX_SCRIPT`.
    """
    copy = os.memfd_create("script", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(f"/proc/self/fd/{descriptor}", "rb") as source:  # noqa: PTH123 - by descriptor
            content = source.read(MAX_SCRIPT + 1)
        if len(content) > MAX_SCRIPT:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        view = memoryview(before + content)
        while view:
            view = view[os.write(copy, view) :]
        os.fchmod(copy, 0o555)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(copy)
        raise
    return copy
