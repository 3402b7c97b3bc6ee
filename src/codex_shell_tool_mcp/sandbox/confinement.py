"""Turning a sandbox state into what is started: one module per platform, reached by a dictionary.

Whatever cannot be enforced raises; nothing here ever falls back to less.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from codex_shell_tool_mcp.errors import SandboxError
from codex_shell_tool_mcp.sandbox import linux, macos
from codex_shell_tool_mcp.sandbox.spec import POLICY_WORDS, ExternalSandbox, markers, restrictions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from codex_shell_tool_mcp.sandbox.spec import Restrictions, SandboxState


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """How one call is started.

    Attributes:
        supervisor_options: What the supervisor is to apply itself.
        shell_argv: Program, ``argv[0]`` and arguments; on macOS those of the sandbox program around the shell.
        markers: Variables added to the script's environment.
        writable: Where the script can write; ``None`` = everywhere.
    """

    supervisor_options: Sequence[bytes]
    shell_argv: Sequence[bytes]
    markers: Mapping[bytes, bytes] = field(default_factory=dict)
    writable: tuple[Path, ...] | None = None


class Backend(Protocol):
    """What a platform module offers."""

    def describe(self, restrictions: Restrictions) -> str:
        """What enforces the restrictions, for reports."""
        ...

    def supervisor_arguments(self, restrictions: Restrictions) -> list[bytes]:
        """Options by which the supervisor applies the restrictions; empty where it cannot and ``wrap`` does."""
        ...

    def wrap(self, restrictions: Restrictions, shell_argv: Sequence[bytes]) -> list[bytes]:
        """The command that runs the shell confined; the command itself where the supervisor does it."""
        ...

    def markers(self) -> dict[bytes, bytes]:
        """Variables that tell the script which sandbox it is in."""
        ...


_BACKENDS: dict[str, Backend] = {"linux": linux, "darwin": macos}


def _backend() -> Backend:
    try:
        return _BACKENDS[sys.platform]
    except KeyError:
        raise SandboxError(
            f"no sandbox is known for {sys.platform}; only danger-full-access and external-sandbox work here"
        ) from None


def resolved_tmpdir(environ: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """``environ`` with a ``TMPDIR`` without links, as roots have to be."""
    named = environ.get(b"TMPDIR")
    return environ if not named else {**environ, b"TMPDIR": os.path.realpath(named)}


def apply(state: SandboxState, shell_argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> Confinement:
    """How a shell is started under a state.

    Args:
        state: The policy and its anchor.
        shell_argv: Program, ``argv[0]`` and arguments.
        environ: Where ``TMPDIR`` is looked up.

    Raises:
        SandboxError: The state cannot be enforced here.
    """
    wanted = restrictions(state, resolved_tmpdir(environ))
    told = markers(state.policy)
    if wanted.none:
        return Confinement(supervisor_options=(), shell_argv=tuple(shell_argv), markers=told)
    backend = _backend()
    return Confinement(
        supervisor_options=tuple(backend.supervisor_arguments(wanted)),
        shell_argv=tuple(backend.wrap(wanted, shell_argv)),
        markers={**told, **backend.markers()},
        writable=None if wanted.write_everywhere else wanted.writable,
    )


def report(state: SandboxState, environ: Mapping[bytes, bytes]) -> dict[str, object]:
    """What :func:`apply` has enforced, for the call's result.

    Raises:
        SandboxError: Where ``apply`` raises it.
    """
    wanted = restrictions(state, resolved_tmpdir(environ))
    told: dict[str, object] = {"policy": POLICY_WORDS[type(state.policy)]}
    if wanted.none:
        by = "somebody else" if isinstance(state.policy, ExternalSandbox) else "nobody"
        return {**told, "enforced_by": by}
    roots = [str(path) for path in wanted.writable]
    return {
        **told,
        "enforced_by": _backend().describe(wanted),
        "writable": "everywhere" if wanted.write_everywhere else roots,
        "network": wanted.network,
    }
