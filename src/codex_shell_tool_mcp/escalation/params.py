"""What one call asks for and what comes of it: plain values shared by the server layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from codex_shell_tool_mcp.escalation.background import Slot
    from codex_shell_tool_mcp.escalation.policy import EscalateAction, ExecRequest
    from codex_shell_tool_mcp.escalation.reserve import Reserve

DEFAULT_TIMEOUT_MS = 10_000
"""Limit of a call that names none, in milliseconds (the original's)."""

DEFAULT_MAX_OUTPUT_BYTES = 1024 * 1024
"""Bytes kept of a call's output unless told otherwise (the original's)."""

TIMEOUT_EXIT_CODE = 124
"""Exit code reported for a call that ran out of time: timeout(1)'s."""


@dataclass(frozen=True, kw_only=True)
class ExecParams:
    """One call of the ``shell`` tool, checked.

    Attributes:
        command: The script.
        workdir: Absolute path of an existing directory.
        login: ``False`` selects ``-c``, else ``-lc``.
        env: The shell's environment, complete, as bytes: only the wrapper variables and sandbox markers are added.
        max_output_bytes: How much of the output is kept: its first and its last part.
        keep: Where what still runs when the shell has ended goes on; ``None`` = it is ended.
        reserve: Where a supervisor may be waiting, and its own waits afterwards; ``None`` = it has one to itself.
    """

    command: str
    workdir: Path
    login: bool = True
    env: Mapping[bytes, bytes]
    max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES
    keep: Slot | None = None
    reserve: Reserve | None = None


@dataclass(frozen=True, kw_only=True)
class ExecRecord:
    """One decided exec of a call."""

    request: ExecRequest
    action: EscalateAction


@dataclass(frozen=True, kw_only=True)
class ExecResult:
    """What a call came to.

    Attributes:
        exit_code: The shell's status; 128 + n if it died of signal n; 124 after a timeout.
        output: stdout and stderr in the order written, decoded as UTF-8 with replacement; of much of it the first and
            the last part, with a line between them that says how much is missing.
        duration: Wall time in seconds.
        timed_out: Whether the limit ended it.
        ended_processes: How many processes were left after the shell's end and had to be ended.
        background_processes: How many were left then and go on, as the caller asked.
        records: The first execs with their decisions, in the order decided.
        decided: How many execs were decided in all.
    """

    exit_code: int
    output: str
    duration: float
    timed_out: bool
    ended_processes: int = 0
    background_processes: int = 0
    records: tuple[ExecRecord, ...] = ()
    decided: int = 0
