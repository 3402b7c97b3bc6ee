"""Every error this package raises on purpose, with the exit status it ends the process with.

::

    ShellToolError             1   base; its text says what happened and what to do next
    ├── UsageError             2   a command line, environment variable or tool argument that cannot be used
    ├── PolicyError            3   a rules file that cannot be read or does not hold
    ├── MissingBinaryError     4   a program this server needs is not there or cannot be executed
    ├── SandboxError           5   the sandbox asked for cannot be applied here
    ├── ProtocolError          6   the other end of a channel broke the wire format
    │   ├── RemoteProtocolError    they did
    │   └── LocalProtocolError     we were about to (a bug of ours)
    └── PackageError           7   there is no package to look at, or its manifest cannot be used
"""

from __future__ import annotations

from typing import ClassVar


class ShellToolError(Exception):
    """Base of all errors of this package; ``exit_code`` is the process's exit status."""

    exit_code: ClassVar[int] = 1


class UsageError(ShellToolError):
    """A command line, environment variable or tool argument cannot be used."""

    exit_code = 2


class PolicyError(ShellToolError):
    """A rules file cannot be read, or does not hold."""

    exit_code = 3


class MissingBinaryError(ShellToolError):
    """A program this server needs is missing or cannot be executed."""

    exit_code = 4


class SandboxError(ShellToolError):
    """The sandbox asked for cannot be applied on this host."""

    exit_code = 5


class ProtocolError(ShellToolError):
    """The wire format of ``docs/protocol.md`` was broken."""

    exit_code = 6


class RemoteProtocolError(ProtocolError):
    """The peer broke the wire format."""


class LocalProtocolError(ProtocolError):
    """We were about to break the wire format: a bug of ours."""


class PackageError(ShellToolError):
    """There is no installed package at a path, or its manifest cannot be used."""

    exit_code = 7


def on_one_line(text: str) -> str:
    """``text`` for a terminal, a log or a client: what moves the cursor, hides or reorders is written as an escape.

    Messages quote what others wrote: names of files, and what a rules file passes to ``fail``.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")
