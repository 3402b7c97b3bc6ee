"""Opens what rules are read from: never through a link out of the folder, and nothing that others could have written.

Everything is opened once and looked at by its descriptor, so that what was checked is what is read. What was looked at
is noted in :data:`Seen`, by which a change is recognised later.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.errors import PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_FILE_BYTES = 16 * 1024 * 1024
"""Larger files are refused unread; 100,000 rules take less."""

MAX_PROJECT_BYTES = 1024 * 1024
"""The same for all files of a project's layer together: scripts may write them, and a file of holes costs nothing."""

MAX_FILES = 1000
"""Files of a layer: each is looked at again and again, between execs."""

MAX_LINKS = 40
"""Links that are followed; the kernel follows no more (path_resolution(7))."""

_ADVICE = {
    errno.ENOENT: "name a file that is there",
    errno.EISDIR: "name a file, not a folder",
    errno.EINVAL: "put a file there, or remove it",
    errno.ELOOP: "put the file itself there, no link",
    errno.EFBIG: "write fewer or shorter rules, or remove it",
}

Signature = tuple[int, ...]
"""What tells that a file or folder was changed, replaced, or given to somebody else (stat(2))."""

Seen = dict[str, Signature | None]
"""Path to how it was when it was looked at; ``None`` if it was not there."""


def signature(path: str) -> Signature | None:
    """How ``path`` is now, links followed; ``None`` if nothing is there or it cannot be reached."""
    try:
        return _signature(os.stat(path))  # noqa: PTH116 - asked before execs, many at a time
    except (OSError, ValueError):
        return None


def changed(seen: Seen) -> bool:
    """Whether anything is not as it was seen."""
    return any(_is_there(path) if before is None else signature(path) != before for path, before in seen.items())


def _is_there(path: str) -> bool:
    """Whether :func:`signature` finds something: most of what is looked for is not there, and an error takes longer."""
    try:
        return os.access(path, os.F_OK)
    except ValueError:
        return False


def links_on_the_way(path: str) -> list[str]:
    """The links that lead to the absolute ``path``, itself included; each by its own place, to which no link leads."""
    found: list[str] = []
    at, rest = "/", path.split("/")[::-1]
    while rest and len(found) < MAX_LINKS:
        name = rest.pop()
        if name in {"", "."}:
            continue
        if name == "..":
            at = os.path.dirname(at)  # noqa: PTH120 - at is a string
            continue
        here = os.path.join(at, name)  # noqa: PTH118
        try:
            target = os.readlink(here)  # noqa: PTH115
        except (OSError, ValueError):  # no link, or nothing
            at = here
            continue
        found.append(here)
        at = "/" if target.startswith("/") else at
        rest += target.split("/")[::-1]
    return found


@contextmanager
def opened_folder(path: Path, *, links: bool, seen: Seen, within: int | None = None) -> Iterator[int | None]:
    """A descriptor of the folder ``path``; ``None`` if there is none.

    Args:
        path: The folder.
        links: Whether its last component may be a link.
        seen: Gets its state.
        within: A descriptor of the folder it lies in, which it is then opened from.

    Raises:
        OSError: It is there but cannot be opened, or is no folder.
    """
    seen[str(path)] = signature(str(path))
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path if within is None else path.name, flags, dir_fd=within)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_text(path: Path, *, links: bool, seen: Seen, within: int | None = None, guarded: bool = True,
              most: int | None = None) -> str:  # fmt: skip
    """The text of a regular file.

    Args:
        path: The file.
        links: Whether the file itself may be a link: so for one named by the user, not for one found.
        seen: Gets its state.
        within: A descriptor of the folder it lies in, which it is then opened from.
        guarded: Whether it is refused if others can write it.
        most: Bytes it may have; ``None``: as many as any file.

    Raises:
        PolicyError: It is no regular file, cannot be read, is too large, is not UTF-8, or others can write it.
    """
    seen[str(path)] = signature(str(path))
    try:
        data = _read_regular(path, links=links, within=within, guarded=guarded, seen=seen, most=most)
    except OSError as exc:
        advice = _ADVICE.get(exc.errno or 0, "make it readable or remove it")
        raise PolicyError(f"{path}: cannot be read: {reason(exc)}; {advice}") from exc
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        column = exc.start - data.rfind(b"\n", 0, exc.start)
        raise PolicyError(
            f"{path}:{line}:{column}: byte 0x{data[exc.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from exc


def refuse_what_others_write(path: Path, status: os.stat_result) -> None:
    """Refuse a file or folder that somebody beside its owner and root can write.

    Raises:
        PolicyError: Everybody can, or a group that is not the owner's private one.
    """
    if status.st_mode & stat.S_IWOTH:
        raise PolicyError(
            f"{path}: refused, for every user of this machine can write it and so make rules for you; "
            f"run chmod o-w on it, and see who wrote it"
        )
    if status.st_mode & stat.S_IWGRP and not _is_private_group(status):
        raise PolicyError(
            f"{path}: refused, for the group {_group_name(status.st_gid)} can write it and so make rules for you; "
            f"run chmod g-w on it, or give it to your own group"
        )


def reason(exc: Exception) -> str:
    """What an error of the system says."""
    return exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)


def _signature(status: os.stat_result) -> Signature:
    return (
        status.st_dev,
        status.st_ino,
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _read_regular(path: Path, *, links: bool, within: int | None, guarded: bool, seen: Seen, most: int | None) -> bytes:
    # Not blocking: what was a file when it was listed may be a FIFO when it is opened.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if links else os.O_NOFOLLOW)
    descriptor = os.open(path if within is None else path.name, flags, dir_fd=within)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        status = os.fstat(descriptor)
        seen[str(path)] = _signature(status)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if guarded:
            refuse_what_others_write(path, status)
        most = MAX_FILE_BYTES if most is None else most
        data = b"" if status.st_size > most else file.read(most + 1)
    if max(len(data), status.st_size) > most:
        together = "" if most == MAX_FILE_BYTES else ", or all files of its folder together are"
        raise OSError(errno.EFBIG, f"larger than {most} bytes{together}")
    return data


def _is_private_group(status: os.stat_result) -> bool:
    """Whether the group is the owner's alone: of the same name, the owner's first group, with nobody else in it.

    So it is where each user has a group of their own and umask is 002 (adduser(8), "user private groups").
    """
    try:
        owner = pwd.getpwuid(status.st_uid)
        group = grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    return group.gr_name == owner.pw_name and group.gr_gid == owner.pw_gid and not set(group.gr_mem) - {owner.pw_name}


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
