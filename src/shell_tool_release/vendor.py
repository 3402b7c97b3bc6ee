"""Puts everything that was built for this machine's platform together, laid out as it ships.

API::

    build_parts(workspace) -> Parts         everything, from the cache where it is there
    assemble(workspace, parts) -> Path      vendor/<platform>/, made anew
    read_builds(vendor) -> dict             platform → what it was built with

::

    vendor/<platform>/server/                            the frozen server and the Python wrapper
    vendor/<platform>/bin/codex-execve-wrapper           and codex-shell-supervisor
    vendor/<platform>/bash/<variant>/bash
    vendor/<platform>/licenses/<part>/                   licence texts of all of the above
    vendor/<platform>/build.json                         what it was built with
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shell_tool_release import manifest
from shell_tool_release.binaries import describe
from shell_tool_release.cache import inputs
from shell_tool_release.errors import BuildError, run_main
from shell_tool_release.freeze import Frozen, freeze
from shell_tool_release.licenses import Component, read_components, write_component
from shell_tool_release.native import NativeOptions, build_native, install_native
from shell_tool_release.shells import BuiltShell, ShellOptions, build_shells, install_shells
from shell_tool_release.sources import bash_source
from shell_tool_release.toolchain import Zig, find_zig
from shell_tool_release.workspace import find_workspace, host_platform

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from shell_tool_release.native import BuiltNative
    from shell_tool_release.sources import SourceTree
    from shell_tool_release.workspace import Workspace

BUILD_FILE = "build.json"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What one platform's folder is made of."""

    frozen: Frozen
    native: Sequence[BuiltNative]
    shells: Sequence[BuiltShell]
    source: SourceTree
    zig: Zig


def assemble(workspace: Workspace, parts: Parts) -> Path:
    """Make ``vendor/<platform>`` for this machine; whatever was there before is gone. Returns the folder."""
    folder = workspace.vendor / host_platform()
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(parts.frozen.server, folder / "server", symlinks=True)
    shutil.copytree(parts.frozen.licenses, folder / "licenses")
    install_native(parts.native, workspace.vendor)
    install_shells(parts.shells, workspace.vendor)
    write_bash_license(folder / "licenses", parts.source)
    write_compiler_licenses(folder / "licenses", parts.zig)
    record = json.dumps(_build_record(folder, parts), indent=1, sort_keys=True) + "\n"
    (folder / BUILD_FILE).write_text(record, encoding="utf-8")
    for path in manifest.files(folder):
        path.chmod(manifest.package_mode(path))
    return folder


def write_bash_license(target: Path, source: SourceTree) -> None:
    """GPL-3: the text, where the source is and what was changed (section 6 d, access from a designated place)."""
    component = Component(
        name="GNU bash",
        version=f"{source.version}.{source.level}",
        license="GPL-3.0-or-later",
        note=(
            f"source: bash-{source.version} with its official patches 1 to {source.level}, from the GNU project (ftp "
            "folder gnu/bash, git repository bash); our change: patches/bash-exec-wrapper.patch in this package"
        ),
    )
    write_component(target, component, {"COPYING": (source.path / "COPYING").read_bytes()})


def write_compiler_licenses(target: Path, zig: Zig) -> None:
    """What a compiler adds to each program it links: start files, its run-time library, the static C library."""
    linked = {
        "zig run-time library": ("MIT", zig.binary.parent / "LICENSE", "compiler support code in the native programs"),
        "musl": ("MIT", zig.binary.parent / "lib/libc/musl/COPYRIGHT", "C library of the static programs"),
        "glibc start files": (
            "LGPL-2.1-or-later with exceptions for linking",
            zig.binary.parent / "lib/libc/glibc/LICENSES",
            "start-up objects of the programs that use the system's glibc",
        ),
    }
    for name, (words, text, note) in linked.items():
        component = Component(name=name, version=zig.version, license=words, note=note)
        write_component(target, component, {text.name: text.read_bytes()})


def _build_record(folder: Path, parts: Parts) -> dict[str, object]:
    return {
        "platform": folder.name,
        "python": sys.version.split()[0],
        "zig": parts.zig.version,
        "bash": {"version": parts.source.version, "level": parts.source.level, "tree": parts.source.digest},
        "glibc": glibc_floor(folder / "server"),
        "programs": made_from(parts.native, parts.shells) | {"server": inputs(parts.frozen.server.parent)},
        "parts": {part.name: part.version for part in read_components(folder / "licenses")},
    }


def made_from(native: Iterable[BuiltNative], shells: Iterable[BuiltShell]) -> dict[str, dict[str, Any]]:
    """Each program's sources, patch, compiler and flags, by its path below the platform's folder.

    They are the inputs of its entry in the build cache, so nothing that changes the program can be missing.
    """
    found = {f"bin/{program.name}": inputs(program.path.parent) for program in native}
    for shell in shells:
        variant = shell.recipe.variant
        path = variant.package_path.removeprefix(f"{variant.target}/")
        found[path] = {**inputs(shell.path.parent), "libc": variant.libc, "baseline": variant.baseline}
    return found


def glibc_floor(folder: Path) -> str:
    """Return the oldest glibc that the programs and libraries below ``folder`` run on; empty on macOS."""
    needs = (0, 0)
    for path in manifest.files(folder):
        with path.open("rb") as stream:
            is_elf = stream.read(4) == b"\x7fELF"
        if is_elf:
            needs = max(needs, describe(path).needs)
    return ".".join(map(str, needs)) if any(needs) else ""


def read_builds(vendor: Path) -> dict[str, dict[str, object]]:
    """Return platform → build record of all platforms in ``vendor``; BuildError when there is none."""
    found = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(vendor.glob(f"*/{BUILD_FILE}"))
    }
    if not found:
        message = f"{vendor} holds no platform's folder; run: ./run vendor"
        raise BuildError(message)
    return found


def build_parts(workspace: Workspace) -> Parts:
    """Build all parts for this machine, or take them from the cache."""
    options = ShellOptions.default(workspace)
    return Parts(
        frozen=freeze(workspace),
        native=build_native(NativeOptions.default(workspace)),
        shells=build_shells(options),
        source=bash_source(options.context.sources),
        zig=find_zig(),
    )


def main() -> None:
    """Put all parts for this machine together."""
    workspace = find_workspace()
    sys.stdout.write(f"{assemble(workspace, build_parts(workspace))}\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
