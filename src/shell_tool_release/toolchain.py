"""Compilers a build can use, and the environment its commands run in.

API::

    find_zig() -> Zig                         the ``ziglang`` wheel's compiler
    ZigCompiler(zig=, target=)                any platform and libc, from any machine
    SystemCompiler(command="cc")              what the machine has (tests only: a release needs none)
    Compiler.install(folder)                  puts ``cc``, ``ar``, ``ranlib`` into a folder for PATH
    build_environ(...)                        a whole environment; nothing of the user's leaks in

zig's object cache once answered with another build folder's object for the same source beside another config.h, so
each build folder has a local cache of its own. The global one (the libc zig builds for a target, minutes of work) is
shared; zig locks it.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shell_tool_release.errors import BuildError, PrerequisiteError


@dataclass(frozen=True, kw_only=True)
class Zig:
    """The zig executable and its version."""

    binary: Path
    version: str


@functools.cache
def find_zig() -> Zig:
    """Return the wheel's zig; PrerequisiteError when the wheel is not installed.

    The binary is called directly: ``python -m ziglang`` would cost a Python start for each of thousands of calls.
    """
    try:
        import ziglang  # noqa: PLC0415  (the only use, and preflight must import without it)
    except ImportError as error:
        message = "the ziglang wheel is not installed; run through nox, or: pip install --group release"
        raise PrerequisiteError(message) from error
    if ziglang.__file__ is None:
        message = "the ziglang wheel is damaged (no file); install it again"
        raise PrerequisiteError(message)
    binary = Path(ziglang.__file__).parent / "zig"
    try:
        done = subprocess.run([binary, "version"], capture_output=True, check=True, encoding="utf-8")
    except (OSError, subprocess.CalledProcessError) as error:
        message = f"{binary} does not run ({error}); install the ziglang wheel again"
        raise PrerequisiteError(message) from error
    return Zig(binary=binary, version=done.stdout.strip())


class Compiler(Protocol):
    """What a build needs to know of its compiler."""

    @property
    def identity(self) -> str:
        """Everything about the compiler that changes what it makes; part of cache keys."""

    def install(self, folder: Path, suffix: str = "") -> None:
        """Put ``cc``, ``ar`` and ``ranlib`` (with ``suffix``) into ``folder``."""


@dataclass(frozen=True, kw_only=True)
class ZigCompiler:
    """``zig cc`` for one target."""

    zig: Zig
    target: str

    @property
    def identity(self) -> str:
        """Version and target."""
        return f"zig {self.zig.version} {self.target}"

    def command(self) -> tuple[str, ...]:
        """The compiler as an argument list."""
        return (str(self.zig.binary), "cc", "-target", self.target)

    def install(self, folder: Path, suffix: str = "") -> None:
        """Write the three as ``sh`` scripts: ``CC`` must be one word where the path has a space."""
        zig = str(self.zig.binary)
        _script(folder / f"cc{suffix}", self.command())
        _script(folder / f"ar{suffix}", (zig, "ar"))
        _script(folder / f"ranlib{suffix}", (zig, "ranlib"))


@dataclass(frozen=True, kw_only=True)
class SystemCompiler:
    """A compiler found on PATH, with its own ar and ranlib."""

    name: str = "cc"

    @property
    def identity(self) -> str:
        """First line of ``--version``; PrerequisiteError when the compiler is not there."""
        try:
            done = subprocess.run([self.name, "--version"], capture_output=True, check=True, encoding="utf-8")
        except (OSError, subprocess.CalledProcessError) as error:
            message = f"no C compiler {self.name!r} on this machine; install gcc or clang"
            raise PrerequisiteError(message) from error
        return f"{self.name} {done.stdout.splitlines()[0]}"

    def install(self, folder: Path, suffix: str = "") -> None:
        """Link to the three programs."""
        for role, program in (("cc", self.name), ("ar", "ar"), ("ranlib", "ranlib")):
            found = shutil.which(program)
            if found is None:
                message = f"{program} is not on this machine; install binutils and a C compiler"
                raise PrerequisiteError(message)
            _script(folder / f"{role}{suffix}", (found,))


def _script(path: Path, command: tuple[str, ...]) -> None:
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
    path.chmod(0o755)


def build_environ(*, folder: Path, cache: Path, epoch: int, tools: Path | None = None) -> dict[str, str]:
    """Environment for commands that build in ``folder``; ``tools`` goes in front of the system's PATH."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    system = os.environ.get("PATH", os.defpath)
    return {
        "PATH": f"{tools}{os.pathsep}{system}" if tools else system,
        "HOME": str(temporary),
        "TMPDIR": str(temporary),
        "LC_ALL": "C",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": str(epoch),
        "ZIG_GLOBAL_CACHE_DIR": str(cache / "zig"),
        "ZIG_LOCAL_CACHE_DIR": str(folder / "zig-local"),
    }


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of a build."""

    name: str
    command: tuple[str, ...]


def run_step(step: Step, *, cwd: Path, environ: dict[str, str], log: Path, seconds: float = 1800.0) -> None:
    """Run a command with its output appended to ``log``; BuildError names the log and shows its end."""
    with log.open("ab") as stream:
        stream.write(f"\n$ {shlex.join(step.command)}\n".encode())
        stream.flush()
        try:
            done = subprocess.run(
                step.command,
                cwd=cwd,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                umask=0o022,
                check=False,
            )
            problem = None if done.returncode == 0 else f"exit status {done.returncode}"
        except subprocess.TimeoutExpired:
            problem = f"not finished after {seconds:g} s"
        except OSError as error:
            problem = str(error)
    if problem:
        message = f"{step.name}: {problem}; whole log: {log}\n{_tail(log)}"
        raise BuildError(message)


def _tail(log: Path, lines: int = 20) -> str:
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in text[-lines:])
