"""Which shell runs the scripts: read from ``variants.toml``, the one table, and tried on this host."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from codex_shell_tool_mcp.errors import MissingBinaryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

TABLE = Path(__file__).with_name("variants.toml")

ShellName = Literal["bash", "zsh"]
SHELLS: tuple[ShellName, ...] = get_args(ShellName)
"""The shells that scripts can be run by; the first is the default."""

VARIABLES: Mapping[ShellName, bytes] = {"bash": b"CODEX_BASH_PATH", "zsh": b"CODEX_ZSH_PATH"}
"""Names the patched shell where ``--bash`` or ``--zsh`` does not; the first is the original's name."""

OVERRIDDEN = "given"
"""Variant of a shell that was named by the user."""

_TRIAL_SECONDS = 10.0
"""How long a shell may take to say whether it works; it takes 2 ms."""

_RUNS_UNPATCHED, _RUNS_PATCHED = 41, 40
_TRIAL = f'"$0" -c : 2>/dev/null; if [ $? -eq 0 ]; then exit {_RUNS_UNPATCHED}; else exit {_RUNS_PATCHED}; fi'
"""Run with a wrapper that cannot be executed: a patched shell then starts nothing, any other does not notice."""

_TRIAL_OPTIONS: Mapping[ShellName, str] = {"bash": "-p", "zsh": "-f"}
"""No start-up files and no functions from the environment, whatever the user's look like."""

_TRIAL_ENVIRONMENT = {b"PATH": b"/usr/bin:/bin", b"EXEC_WRAPPER": b"/dev/null/no-wrapper"}

_SYSTEMS = {"linux": "linux", "darwin": "darwin"}
_MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A row of the table; its comments there say what the columns mean."""

    target: str
    shell: str
    variant: str
    libc: str
    baseline: str
    zig: str

    @property
    def path(self) -> Path:
        """Where it lies below the vendor folder."""
        return Path(self.target, self.shell, self.variant, self.shell)


@dataclass(frozen=True, kw_only=True)
class ShellProgram:
    """A shell that was chosen.

    Attributes:
        path: Absolute path of the executable.
        variant: Its row's ``variant``, or :data:`OVERRIDDEN`.
        shell: Which shell it is.
    """

    path: Path
    variant: str
    shell: ShellName = "bash"

    @property
    def of_plain_scripts(self) -> Path:
        """Who runs a script without ``#!``: bash does, zsh hands it to sh (zshmisc(1), "Command Execution")."""
        return self.path if self.shell == "bash" else Path("/bin/sh")


@cache
def variants() -> tuple[Variant, ...]:
    """The table's rows, in its order of preference."""
    rows = tomllib.loads(TABLE.read_text(encoding="utf-8"))["variant"]
    return tuple(Variant(**row) for row in rows)


def host_target(system: str = sys.platform, machine: str | None = None) -> str:
    """This host's name in the table's ``target`` column, such as ``linux-x64``; node's names.

    Raises:
        MissingBinaryError: Nothing is built for it.
    """
    known = _SYSTEMS.get(system), _MACHINES.get((machine or os.uname().machine).lower())
    target = "-".join(part for part in known if part)
    targets = sorted({row.target for row in variants()})
    if target not in targets:
        raise MissingBinaryError(
            f"nothing is built for {system} on {machine or os.uname().machine}; there are {', '.join(targets)}"
        )
    return target


def trial(path: Path, shell: ShellName = "bash") -> str | None:
    """Try a shell on this host; ``None`` if it runs and carries the patch, else what is wrong with it."""
    if not path.is_file():
        return "a directory" if path.is_dir() else "no such file"
    if not os.access(path, os.X_OK):
        return "not executable"
    try:
        ran = subprocess.run(
            [path, _TRIAL_OPTIONS[shell], "-c", _TRIAL, path],
            env=_TRIAL_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TRIAL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        missing = isinstance(error, FileNotFoundError)
        return f"cannot run here: {'its program interpreter (libc) is missing' if missing else error}"
    return _verdict(ran)


def _verdict(ran: subprocess.CompletedProcess[bytes]) -> str | None:
    if ran.returncode == _RUNS_PATCHED:
        return None
    if ran.returncode == _RUNS_UNPATCHED:
        return "runs, but without our patch: rules would not see what it starts"
    said = ran.stderr.decode(errors="replace").strip().partition("\n")[0]
    return f"cannot run here: {said or f'status {ran.returncode}'}"


def choose_shell(
    *,
    given: Path | None,
    environ: Mapping[bytes, bytes],
    vendor: Path | None,
    target: str | None = None,
    shell: ShellName = "bash",
) -> ShellProgram:
    """The first that works: ``given``, else the variable's, else those of the table's rows for this host in order.

    One that was named and does not work is an error; it is never replaced by another.

    Args:
        given: The ``--bash`` or ``--zsh`` option.
        environ: Where the variable is looked up.
        vendor: The folder of vendored programs, or ``None`` where there is none.
        target: The host's name in the table.
        shell: Which shell of the table.

    Raises:
        MissingBinaryError: None works; the text lists every place that was looked at, and what is wrong there.
    """
    named = _named(given, environ, shell)
    if named is not None:
        path, origin = named
        wrong = trial(path, shell)
        if wrong is None:
            return ShellProgram(path=path, variant=OVERRIDDEN, shell=shell)
        raise MissingBinaryError(f"no usable shell: {origin} is {path}: {wrong}")
    rows = [row for row in variants() if (row.target, row.shell) == (target or host_target(), shell)]
    found = _vendored(rows, vendor)
    tried: list[str] = []
    for row, path in found:
        wrong = trial(path, shell)
        if wrong is None:
            return ShellProgram(path=path, variant=row.variant, shell=shell)
        tried.append(f"{path}: {wrong}")
    where = "; ".join(tried) or "there is no vendor folder"
    raise MissingBinaryError(
        f"no usable shell: {where}; build one with nox, reinstall the package, or name a patched {shell} with "
        f"--{shell} or {VARIABLES[shell].decode()}"
    )


def _named(given: Path | None, environ: Mapping[bytes, bytes], shell: ShellName) -> tuple[Path, str] | None:
    if given is not None:
        return given.absolute(), f"--{shell}"
    value = environ.get(VARIABLES[shell])
    return (Path(os.fsdecode(value)).absolute(), VARIABLES[shell].decode()) if value else None


def _vendored(rows: Sequence[Variant], vendor: Path | None) -> Iterator[tuple[Variant, Path]]:
    return ((row, vendor / row.path) for row in rows if vendor is not None)
