"""Writes the table of programs in ``docs/releasing.md``: what was really built, looked at and started.

API::

    looked_at(workspace, targets) -> tuple[Row, ...]     builds (or takes from the cache), checks and starts each
    with_table(text, rows, said) -> str                  the document with the table between its marks
    python -m shell_tool_release.programs [--target T ...]

A program for macOS is read: its load commands and its signature. One for arm64 Linux is started by qemu where that is
installed. Of the package is told what other sessions noted of exactly its bytes (:mod:`shell_tool_release.verified`).
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shell_tool_release import elf, emulation, shells, verified
from shell_tool_release import options as choice
from shell_tool_release.binaries import check_binary
from shell_tool_release.cache import cache_root, file_sha256, holding, seconds
from shell_tool_release.errors import BuildError, run_main
from shell_tool_release.freeze import SERVER, digest, freezable, freeze
from shell_tool_release.native import NativeOptions, build_native
from shell_tool_release.npm import PACKED, package_path
from shell_tool_release.portable_python import GLIBC, TRIPLES, build_python
from shell_tool_release.shells import KINDS, ShellOptions, build_shells
from shell_tool_release.variants import load_variants, variants_for
from shell_tool_release.workspace import find_workspace, host_platform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shell_tool_release.native import BuiltNative
    from shell_tool_release.shells import BuiltShell
    from shell_tool_release.workspace import Workspace

DOCUMENT = Path("docs") / "releasing.md"
MARKS = ("<!-- programs: written by ./run docs -->", "<!-- programs: end -->")
HEADINGS = ("artefact", "bytes", "SHA-256 begins", "baseline", "built in", "verified on")
_BASELINES = {"glibc": "glibc {}", "musl": "static (musl)", "macos": "macOS {}"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; ``built_in`` is None where nothing says how long it took."""

    artefact: str
    size: int
    sha256: str
    baseline: str
    built_in: float | None
    verified_on: str


def looked_at(workspace: Workspace, targets: Sequence[str]) -> tuple[Row, ...]:
    """Build, check and start every program of the platforms; BuildError names what does not hold."""
    rows: list[Row] = []
    default = ShellOptions.default(workspace)
    for target in targets:
        variants = variants_for(load_variants(workspace.variants_file), targets=(target,), shells=KINDS)
        natives = replace(NativeOptions.default(workspace), targets=(target,))
        rows += [_shell(built) for built in build_shells(replace(default, variants=variants))]
        rows += [_native(built) for built in build_native(natives)]
        if target in TRIPLES and freezable(target):
            rows.append(_server(workspace, target))
    return tuple(rows)


def _shell(built: BuiltShell) -> Row:
    row = built.recipe.variant
    check_binary(built.path, target=row.target, libc=row.libc, baseline=row.baseline, forbidden=())
    trial = shells.plan(built.recipe, 1).trial
    verified = _started([str(built.path), *trial.arguments], row.target, trial.stdout, 0)
    return _row(row.package_path, built.path, _BASELINES[row.libc].format(row.baseline), verified)


def _native(built: BuiltNative) -> Row:
    libc, baseline = ("musl", "") if built.target.startswith("linux") else ("macos", "11.0")
    check_binary(built.path, target=built.target, libc=libc, baseline=baseline, forbidden=())
    # Without arguments both say how they are used; the conformance suite (./run matrix) does the rest.
    verified = _started([str(built.path)], built.target, b"", None)
    return _row(f"{built.target}/bin/{built.name}", built.path, _BASELINES[libc].format(baseline), verified)


def _server(workspace: Workspace, target: str) -> Row:
    """The frozen server as a whole: its size and hash are those of all its files, its time includes its Python's."""
    frozen, python = freeze(workspace, target), build_python(target, quiet=True)
    for path in elf.files(frozen.server):
        elf.check(path, target, GLIBC)
    files = [path for path in frozen.server.rglob("*") if path.is_file()]
    took = [seconds(frozen.server.parent), seconds(python.prefix.parent)]
    said = f"{SERVER} {workspace.version}\n".encode()
    return Row(
        artefact=f"{target}/server ({len(files)} files)",
        size=sum(path.stat().st_size for path in files),
        sha256=digest(frozen.server),
        baseline=_BASELINES["glibc"].format(".".join(map(str, GLIBC))),
        built_in=sum(part for part in took if part is not None) or None,
        verified_on=_started([str(frozen.server / SERVER), "--version"], target, said, 0),
    )


def _package(workspace: Workspace) -> list[Row]:
    """The package, if one was packed, and what was tried with its bytes."""
    path = package_path(workspace)
    if not path.is_file():
        return []
    tried = "; ".join(verified.told(file_sha256(path)))
    if not tried:
        raise BuildError(f"nothing was tried with {path.name} as it is; run: ./run smoke (and installs, roots)")
    row = _row(path.name, path, "that of its parts", tried)
    made = holding(cache_root(), "npm", PACKED, row.sha256)
    return [replace(row, built_in=None if made is None else seconds(made))]


def _row(artefact: str, path: Path, baseline: str, verified: str) -> Row:
    return Row(
        artefact=artefact,
        size=path.stat().st_size,
        sha256=file_sha256(path),
        baseline=baseline,
        built_in=seconds(path.parent),
        verified_on=verified,
    )


def _started(command: list[str], target: str, stdout: bytes, status: int | None) -> str:
    """Start a program where that is possible, and say where it was; BuildError when it does something else."""
    if target.startswith("darwin") and target != host_platform():
        return "load commands and signature read"
    environ = dict(os.environ)
    if target == host_platform():
        where = f"{platform.system()} {platform.machine()}"
    elif emulation.needed() is None:
        command = emulation.inside(command)
        where, environ["QEMU_LD_PREFIX"] = "qemu-user", str(emulation.SYSROOT)
    else:
        return "headers and symbols read"
    done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.stdout != stdout or done.returncode < 0 or (status is not None and done.returncode != status):
        raise BuildError(f"{command[-1]} started on {where}: status {done.returncode}, {done.stderr[-500:]!r}")
    return f"{where}: started"


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---|--:|---|---|--:|---|"]
    for row in rows:
        took = "" if row.built_in is None else f"{row.built_in:.0f} s"
        cells = (f"`{row.artefact}`", f"{row.size:,}", f"`{row.sha256[:16]}`", row.baseline, took, row.verified_on)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def with_table(text: str, rows: Sequence[Row], said: str) -> str:
    """Return the document with the table between its marks; BuildError when they are not there."""
    start, end = map(re.escape, MARKS)
    content = f"{said}\n\n{table(rows)}"
    new, count = re.subn(
        f"({start}).*?({end})", lambda found: f"{found[1]}\n\n{content}\n\n{found[2]}", text, flags=re.DOTALL
    )
    if count != 1:
        raise BuildError(f"{DOCUMENT} must have the marks {MARKS[0]} and {MARKS[1]} once")
    return new


def main(argv: Sequence[str] | None = None) -> None:
    """Look at the programs of every platform, or of those asked for, and write the table."""
    arguments = choice.parser("programs", __doc__).parse_args(argv)
    workspace = find_workspace()
    targets = choice.targets(arguments) if arguments.target else choice.TARGETS
    rows = (*looked_at(workspace, targets), *_package(workspace))
    said = f"Version {workspace.version}, all made on one {platform.system()} {platform.machine()} machine:"
    path = workspace.root / DOCUMENT
    path.write_text(with_table(path.read_text(encoding="utf-8"), rows, said), encoding="utf-8")
    sys.stdout.write(f"{table(rows)}\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
