"""Puts everything that was built for a platform together, laid out as it ships.

API::

    build_parts(workspace, target) -> Parts       everything, from the cache where it is there
    assemble(workspace, target, parts) -> Path    vendor/<platform>/, made anew
    read_builds(vendor) -> dict                   platform → what it was built with, and what is missing of it
    python -m shell_tool_release.vendor [--target T ...] [--keep-going]

::

    vendor/<platform>/server/                            the frozen server and the Python wrapper
    vendor/<platform>/bin/codex-execve-wrapper           and codex-shell-supervisor
    vendor/<platform>/bash/<variant>/bash
    vendor/<platform>/glibc/                             its loader and libraries, for Linux systems without glibc
    vendor/<platform>/licenses/<part>/                   licence texts of all of the above
    vendor/<platform>/build.json                         what it was built with, and what could not be made here

One Linux machine makes the shells and the native programs of every platform; the frozen server of macOS is made on
macOS. A platform without its server is not packed; the workflow packs what machines of all platforms made.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from shell_tool_release import manifest
from shell_tool_release import options as choice
from shell_tool_release.binaries import describe
from shell_tool_release.cache import inputs
from shell_tool_release.errors import BuildError, run_main
from shell_tool_release.freeze import Frozen, freezable, freeze
from shell_tool_release.glibc import install_glibc
from shell_tool_release.licenses import Component, read_components, write_component
from shell_tool_release.native import NativeOptions, build_native, install_native
from shell_tool_release.portable_python import TRIPLES
from shell_tool_release.shells import KINDS, BuiltShell, ShellOptions, build_shells, install_shells
from shell_tool_release.sources import SourceOptions, bash_source
from shell_tool_release.toolchain import Zig, find_zig
from shell_tool_release.variants import load_variants, variants_for
from shell_tool_release.workspace import find_workspace
from shell_tool_release.zsh_source import zsh_source

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from shell_tool_release.native import BuiltNative
    from shell_tool_release.sources import SourceTree
    from shell_tool_release.workspace import Workspace

BUILD_FILE = "build.json"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What one platform's folder is made of; ``frozen`` is None where this machine cannot make it."""

    frozen: Frozen | None
    native: Sequence[BuiltNative]
    shells: Sequence[BuiltShell]
    source: SourceTree
    zig: Zig


def assemble(workspace: Workspace, target: str, parts: Parts) -> Path:
    """Make ``vendor/<target>``; whatever was there before is gone. Returns the folder."""
    folder = workspace.vendor / target
    shutil.rmtree(folder, ignore_errors=True)
    if parts.frozen is not None:
        shutil.copytree(parts.frozen.server, folder / "server", symlinks=True)
        shutil.copytree(parts.frozen.licenses, folder / "licenses")
        if target in TRIPLES:
            install_glibc(target, folder)
    install_native(parts.native, workspace.vendor)
    install_shells(parts.shells, workspace.vendor)
    write_shell_licenses(folder / "licenses", parts.shells)
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
    texts = {"COPYING": (source.path / "COPYING").read_bytes(), "SOURCE.md": source_offer(source).encode()}
    write_component(target, component, texts)


def source_offer(source: SourceTree) -> str:
    """Where the complete corresponding source of the shells is (GPL-3, sections 1 and 6 d)."""
    version = find_workspace().version
    return f"""# The source of the shells in this package

GNU bash is free software under the GNU General Public License, version 3 or later (COPYING). Zsh is under its own
licence, and linked with the termcap library of GNU bash. Their complete corresponding source is published with each
release, at no charge, at the same places as this package:

- `codex_shell_tool_mcp-{version}.tar.gz` on the page of release {version}, and on the Python package index.
  It holds `third_party/bash-{source.version}.{source.level}.tar.gz` and zsh's archive beside it: the source as upstream
  publishes it, with its official patches; `patches/`: our change to it; and the scripts that build it
  (`./run shells`, no C compiler is needed).
- The same from upstream: bash {source.version} with its patches 1 to {source.level} from the GNU project. The SHA-256
  over all files' hashes (`src/shell_tool_release/data/sources.lock.toml` says how) is `{source.digest}`.

As long as a release can be downloaded, so can its source. Who got the package in another way may ask for it through the
project's page; it is sent for three years after the release, for no more than it costs to send.
"""


def write_zsh_license(target: Path, source: SourceTree) -> None:
    """Zsh's own licence, and what is linked into it."""
    component = Component(
        name="zsh",
        version=source.version,
        license="MIT-Modern-Variant AND GPL-3.0-or-later",
        note=(
            f"source: zsh-{source.version}, the project's release; linked with GNU bash's termcap library, which is "
            "under GPL-3.0-or-later; our change: patches/zsh-exec-wrapper.patch in this package"
        ),
    )
    write_component(target, component, {"LICENCE": (source.path / "LICENCE").read_bytes()})


def write_shell_licenses(target: Path, shells: Iterable[BuiltShell]) -> None:
    """The licences of the shells that were built."""
    names = {shell.recipe.variant.shell for shell in shells}
    write_bash_license(target, bash_source(SourceOptions.default()))
    if "zsh" in names:
        write_zsh_license(target, zsh_source(SourceOptions.default()))


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
    server = {} if parts.frozen is None else {"server": inputs(parts.frozen.server.parent)}
    return {
        "platform": folder.name,
        "python": "" if parts.frozen is None else parts.frozen.python,
        "zig": parts.zig.version,
        "bash": {"version": parts.source.version, "level": parts.source.level, "tree": parts.source.digest},
        "glibc": glibc_floor(folder / "server"),
        "programs": made_from(parts.native, parts.shells) | server,
        "parts": {part.name: part.version for part in read_components(folder / "licenses")},
        "missing": [] if parts.frozen is not None else ["server"],
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


def build_parts(workspace: Workspace, target: str, *, keep_going: bool = False) -> Parts:
    """Build all parts of a platform that can be made here, or take them from the cache."""
    default = ShellOptions.default(workspace)
    context = replace(default.context, keep_going=keep_going)
    rows = variants_for(load_variants(workspace.variants_file), targets=(target,), shells=KINDS)
    natives = replace(NativeOptions.default(workspace), targets=(target,), keep_going=keep_going)
    return Parts(
        frozen=freeze(workspace, target) if freezable(target) else None,
        native=build_native(natives),
        shells=build_shells(replace(default, context=context, variants=rows)),
        source=bash_source(default.context.sources),
        zig=find_zig(),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Put all parts of this machine's platform, or of those asked for, together."""
    arguments = choice.parser("vendor", __doc__).parse_args(argv)
    workspace = find_workspace()
    for target in choice.targets(arguments):
        parts = build_parts(workspace, target, keep_going=arguments.keep_going)
        without = "" if parts.frozen is not None else " without its server, which is made on a machine of its own kind"
        sys.stdout.write(f"{assemble(workspace, target, parts)}{without}\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
