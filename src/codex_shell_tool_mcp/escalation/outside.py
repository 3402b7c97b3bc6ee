"""What an escalated request executes outside the sandbox: which file, by which name, with which arguments."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.errors import ShellToolError
from codex_shell_tool_mcp.escalation import identity
from codex_shell_tool_mcp.escalation.channel import close_all
from codex_shell_tool_mcp.escalation.environ import escalated_environment
from codex_shell_tool_mcp.escalation.identity import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from codex_shell_tool_mcp.escalation import wire
    from codex_shell_tool_mcp.escalation.policy import ExecRequest

MAX_INTERPRETER = 120
"""Longest interpreter line in bytes that every kernel takes whole, less ``#!`` and the newline (execve(2): 127 before
Linux 5.1)."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What the supervisor is to execute.

    Attributes:
        request: With the final program descriptor, arguments and environment.
        path: The program's name.
        by_path: Whether to execute that name, checked to be the program's, rather than the descriptor.
        decided: The program's state.
    """

    request: wire.Request
    path: bytes
    by_path: bool
    decided: identity.Fingerprint


@contextmanager
def execution(
    request: wire.Request, asked: ExecRequest, shell: Path, roots: identity.Roots | None
) -> Iterator[Execution]:
    """How a request that may run outside is executed; what is opened for it is closed at the end of the block.

    A program sees the name it is executed by: a script as ``$0``, any other in its auxiliary vector, and kernels before
    6.14 show it to ``ps``. So where the sandboxed side has no hand in what the caller's own name leads to, that name is
    used. Elsewhere a program is executed by its descriptor, and a script from a sealed copy, so that what was decided
    is what its interpreter reads (its ``$0`` is then ``/dev/fd/N``).

    Args:
        request: What the wrapper asked; its program descriptor is what was decided.
        asked: The same as the policy saw it.
        shell: Runs a script without ``#!``, which no kernel executes, as the asking shell would have.
        roots: Where the sandboxed side can write; ``None`` = everywhere.

    Raises:
        ShellToolError: It cannot be executed like that.
    """
    program = request.program
    if program is None or asked.resolved is None:
        raise ShellToolError("no file of that name could be opened, so it cannot be run outside the sandbox")
    final = replace(request, env=escalated_environment(request.env))
    kind = identity.kind_of(program)
    name = _name(request, asked, asked.resolved, roots)
    if kind is Kind.IMAGE or not asked.writable_by_sandbox:
        opened, what = None, (final, name)
        if kind is Kind.PLAIN:
            opened, what = _by_shell(final, name, shell)
    else:
        opened = _copy(program, b"" if kind is Kind.SCRIPT else _interpreter_line(shell))
        what = (final, os.fsencode(asked.resolved))
    try:
        yield Execution(
            request=what[0] if opened is None else replace(what[0], program=opened),
            path=what[1],
            by_path=not asked.writable_by_sandbox,
            decided=identity.fingerprint(program if opened is None else opened),
        )
    finally:
        close_all(() if opened is None else (opened,))


def _name(request: wire.Request, asked: ExecRequest, resolved: str, roots: identity.Roots | None) -> bytes:
    """The name to execute: the caller's own if it leads there for us as well, by a way that was looked at.

    A name was looked at with each ``..`` taken out. That says nothing of folders it goes into and out of again, and
    something of those it starts from only if nobody can move the caller's directory. A name that starts from nowhere,
    or from a directory that the wrapper merely named, was looked at elsewhere than where it would be executed.
    """
    if not asked.file.startswith("/") and (request.cwd_descriptor is None or asked.cwd is None):
        return os.fsencode(resolved)
    if asked.program != identity.absolute(asked.file, asked.cwd):
        return os.fsencode(resolved)
    parts = [part for part in asked.file.split("/") if part not in {"", "."}]
    ups = parts.count("..")
    if not ups or roots is None:
        return os.fsencode(asked.file)
    starts = not asked.file.startswith("/") and parts[:ups] == [".."] * ups
    if starts and asked.cwd is not None and not roots.hold(asked.cwd):
        return os.fsencode(asked.file)
    return os.fsencode(asked.program)


def _copy(program: int, before: bytes) -> int:
    try:
        return identity.sealed_copy(program, before)
    except OSError as error:
        raise ShellToolError(f"the script cannot be copied, to be run as it was decided: {error.strerror}") from error


def _interpreter_line(shell: Path) -> bytes:
    path = os.fsencode(shell)
    if len(path) > MAX_INTERPRETER or set(path) & set(b" \t\n"):
        raise ShellToolError(
            f"it is a script without #!, and {shell} cannot be put into one: its path is too long or holds blanks; "
            "give the script an interpreter line"
        )
    return b"#!" + path + b"\n"


def _by_shell(request: wire.Request, name: bytes, shell: Path) -> tuple[int, tuple[wire.Request, bytes]]:
    """As bash runs such a script itself: under the name it was called by, with the rest of its arguments."""
    path = os.fsencode(shell)
    try:
        opened = os.open(path, getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC)
    except OSError as error:
        raise ShellToolError(f"it is a script without #!, and {shell} cannot be opened: {error.strerror}") from error
    return opened, (replace(request, argv=(path, b"--", name, *request.argv[1:])), path)
