"""Starting a supervisor: with exactly the descriptors named, none of the server's."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.errors import MissingBinaryError, UsageError
from codex_shell_tool_mcp.process import tree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_ARGUMENT = 131_071
"""Longest single argument in bytes that execve(2) takes on Linux (MAX_ARG_STRLEN less the NUL)."""


@dataclass(frozen=True, kw_only=True)
class Spawn:
    """What to start.

    Attributes:
        program: Absolute path of the executable.
        arguments: Its argv from index 1.
        inherited: Descriptors kept under their own numbers.
    """

    program: Path
    arguments: Sequence[bytes]
    inherited: tuple[int, ...]


def spawn(what: Spawn) -> subprocess.Popen[bytes]:
    """Start it.

    Raises:
        MissingBinaryError: The program is missing or cannot be executed.
    """
    try:
        with tree.LOCK:
            process = subprocess.Popen(
                [os.fsencode(what.program), *what.arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=what.inherited,
                umask=-1,
            )
            tree.SUPERVISORS[process.pid] = process
        return process
    except OSError as error:
        if error.errno not in _NOT_EXECUTABLE:
            raise
        raise MissingBinaryError(
            f"{what.program}: {error.strerror}; reinstall the package or give the path with an option"
        ) from error


_NOT_EXECUTABLE = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ELOOP}
"""What execve(2) says of a file; all else is said of the system."""


async def reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that is about to end: without a thread where the kernel tells of its end (pidfd_open(2))."""
    if process.poll() is not None:
        return
    try:
        held = os.pidfd_open(process.pid) if sys.platform == "linux" else -1
    except OSError:
        held = -1
    if held < 0:
        await asyncio.to_thread(process.wait)
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(held, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(held)
        os.close(held)
    process.wait()


def too_long(command: Sequence[bytes]) -> UsageError:
    """What is wrong with a command of which execve(2) says E2BIG."""
    return UsageError(
        f"the command is too long: {max(map(len, command))} bytes, and the kernel takes at most {MAX_ARGUMENT} in one "
        "argument (and a limited total with the environment); write the script to a file and run that"
    )
