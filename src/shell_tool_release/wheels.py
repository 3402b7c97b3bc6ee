"""Builds the source archive and a wheel for each platform, all on one machine: the compiler knows every platform.

API::

    build_python(workspace, targets) -> tuple[Path, ...]      dist/python/: the source archive and the wheels
    sdist_additions(root), wheel_additions(root, target)      what hatchling is told (``packaging/build_hook.py``)
    contents(wheel) -> dict                                   name → (size, mode, SHA-256)

A wheel carries the server as it is, in Python, and below ``codex_shell_tool_mcp/vendor/<platform>`` the native programs
and the shells. Its tag says what those need: glibc 2.17, or musl, for which the static shell is chosen.

The source archive carries the shells' source, so that it builds where no source of them can be reached, and is what the
GPL asks for beside the wheels.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from shell_tool_release import environments, manifest, sbom
from shell_tool_release.cache import cache_root
from shell_tool_release.errors import BuildError, ConfigurationError, run_main
from shell_tool_release.licenses import notices, read_components
from shell_tool_release.native import NativeOptions, build_native, install_native
from shell_tool_release.shells import KINDS, ShellOptions, build_shells, install_shells
from shell_tool_release.sources import SourceOptions, SourceTree, bash_source
from shell_tool_release.toolchain import find_zig
from shell_tool_release.variants import Target, load_variants, variants_for
from shell_tool_release.vendor import BUILD_FILE, made_from, write_compiler_licenses, write_shell_licenses
from shell_tool_release.workspace import Workspace, find_workspace, host_platform
from shell_tool_release.zsh_source import zsh_source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from shell_tool_release.licenses import Component

PACKAGE = "codex_shell_tool_mcp"

VARIABLE = "CODEX_SHELL_TOOL_MCP_WHEEL"
"""Tells the build hook which platform a wheel is for, or ``none``."""

NO_PROGRAMS = "none"

EPOCH = "1580601600"
"""2020-02-02: hatchling's own time for entries, said here so that a SOURCE_DATE_EPOCH around us changes nothing."""

TAGS: dict[Target, str] = {
    "linux-x64": "manylinux_2_17_x86_64.manylinux2014_x86_64.musllinux_1_1_x86_64",
    "linux-arm64": "manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64",
    "darwin-x64": "macosx_11_0_x86_64",
    "darwin-arm64": "macosx_11_0_arm64",
}
"""Platform tags. One wheel serves both libcs: the native programs are static, and a shell of each kind is in it."""


def build_python(workspace: Workspace, targets: Sequence[Target]) -> tuple[Path, ...]:
    """Write the source archive and the wheels of ``targets`` to ``dist/python``; whatever was there is gone.

    Raises:
        BuildError: A wheel does not hold exactly what its manifest lists.
    """
    folder = workspace.dist / "python"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = [_build(workspace, folder, "--sdist", None)]
    for target in targets:
        wheel = _build(workspace, folder, "--wheel", target)
        check_wheel(wheel)
        made.append(wheel)
    return tuple(made)


def hatch_environ(programs: str | None) -> dict[str, str]:
    """The environment that hatchling runs in: ``programs`` as :data:`VARIABLE`, and nothing that changes its output."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HATCH_", "PYTHON"))}
    kept |= {"SOURCE_DATE_EPOCH": EPOCH}
    return kept if programs is None else kept | {VARIABLE: programs}


def _build(workspace: Workspace, folder: Path, kind: str, target: str | None) -> Path:
    before = set(folder.iterdir())
    command = [sys.executable, "-m", "build", kind, "--no-isolation", "--outdir", str(folder), str(workspace.root)]
    done = subprocess.run(
        command, env=hatch_environ(target), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-30:])
        raise BuildError(f"build {kind} {target or ''} ended with status {done.returncode}:\n{tail}")
    return (set(folder.iterdir()) - before).pop()


def wheel_additions(root: Path, target: str | None) -> dict[str, Any]:
    """Return what a wheel holds beside the Python code, as hatchling's build data.

    Args:
        root: The checkout, or an unpacked source archive.
        target: The platform (node's names); this machine's without.

    Raises:
        ReleaseError: The programs could not be built; the text says what to do.
    """
    chosen = known(target or host_platform())
    workspace = Workspace(root=root)
    stage = workspace.build / "wheel" / chosen
    shutil.rmtree(stage, ignore_errors=True)
    bill = _stage(workspace, chosen, stage)
    return {
        "pure_python": False,
        "tag": f"py3-none-{TAGS[chosen]}",
        "force_include": {str(stage / "vendor"): f"{PACKAGE}/vendor"},
        "sbom_files": [str(bill)],
    }


def known(name: str) -> Target:
    """Return ``name`` as a platform that there are wheels for; ConfigurationError lists those."""
    for target in TAGS:
        if target == name:
            return target
    raise ConfigurationError(f"{VARIABLE}={name}: known are {', '.join(get_args(Target))} and {NO_PROGRAMS}")


def _stage(workspace: Workspace, target: Target, stage: Path) -> Path:
    """Fill ``stage/vendor`` and return the bill of materials beside it."""
    vendor = stage / "vendor"
    folder = vendor / target
    folder.mkdir(parents=True)
    options = ShellOptions.default(workspace)
    rows = variants_for(load_variants(workspace.variants_file), targets=(target,), shells=KINDS)
    native = build_native(NativeOptions(cache=cache_root(), workspace=workspace, targets=(target,)))
    built = build_shells(replace(options, variants=rows))
    source = bash_source(options.context.sources)
    install_native(native, vendor)
    install_shells(built, vendor)
    write_shell_licenses(folder / "licenses", built)
    write_compiler_licenses(folder / "licenses", find_zig())
    components = read_components(folder / "licenses")
    record = {
        "platform": target,
        "zig": find_zig().version,
        "bash": {"version": source.version, "level": source.level, "tree": source.digest},
        "programs": made_from(native, built),
        "parts": {part.name: part.version for part in components},
    }
    (folder / BUILD_FILE).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    shutil.copytree(workspace.root / "patches", vendor / "patches")
    (vendor / "THIRD_PARTY_NOTICES.md").write_text(notices({f"vendor/{target}/licenses": components}), encoding="utf-8")
    for path in manifest.files(vendor):
        path.chmod(manifest.package_mode(path))
    return _describe(workspace, target, stage, record)


def _describe(workspace: Workspace, target: Target, stage: Path, record: dict[str, Any]) -> Path:
    """Write the manifest of everything in the package, and the bill of materials."""
    vendor = stage / "vendor"
    below = [(f"vendor/{path.relative_to(vendor).as_posix()}", path) for path in manifest.files(vendor)]
    entries = [
        manifest.described(name, path.read_bytes(), manifest.package_mode(path))
        for name, path in [*_modules(workspace), *below]
    ]
    document = manifest.document(workspace.version, entries, {target: record})
    (vendor / manifest.NAME).write_bytes(document)
    (vendor / manifest.NAME).chmod(0o644)
    project = tomllib.loads((workspace.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    subject = sbom.Subject(name=project["name"], version=workspace.version, kind="pypi", license=project["license"])
    components: dict[str, list[Component]] = {target: read_components(vendor / target / "licenses")}
    pinned = sbom.pinned(workspace.root / environments.CONSTRAINTS)
    bill = stage / sbom.NAME
    bill.write_bytes(sbom.document(subject, components, entries, pinned))
    return bill


def _modules(workspace: Workspace) -> list[tuple[str, Path]]:
    """The Python package's own files, as hatchling takes them: all but what Python compiles."""
    package = workspace.root / "src" / PACKAGE
    found = [(path.relative_to(package), path) for path in manifest.files(package)]
    return [(name.as_posix(), path) for name, path in found if "__pycache__" not in name.parts]


def sdist_additions(root: Path) -> dict[str, str]:
    """Return what a source archive holds beside the checkout: file → its place there."""
    workspace = Workspace(root=root)
    if workspace.third_party.is_dir():  # a source archive, of which another one is made: it is there already
        return {}
    options = SourceOptions.default()
    bash, zsh = bash_source(options), zsh_source(options)
    archives = [
        source_archive(workspace, bash, f"{bash.path.name}.{bash.level}"),
        source_archive(workspace, zsh, zsh.path.name),
    ]
    return {str(archive): f"{workspace.third_party.name}/{archive.name}" for archive in archives}


def source_archive(workspace: Workspace, tree: SourceTree, name: str) -> Path:
    """Write a locked source tree as the archive ``name`` that has the same bytes each time."""
    folder = workspace.build / "third_party"
    folder.mkdir(parents=True, exist_ok=True)
    out = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=out, mode="wb", compresslevel=9, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in manifest.files(tree.path):
            data = path.read_bytes()
            header = tarfile.TarInfo(f"{tree.path.name}/{path.relative_to(tree.path).as_posix()}")
            header.size, header.mode, header.mtime = len(data), manifest.package_mode(path), tree.epoch
            archive.addfile(header, io.BytesIO(data))
    target = folder / f"{name}.tar.gz"
    target.write_bytes(out.getvalue())
    return target


def contents(wheel: Path) -> dict[str, tuple[int, int, str]]:
    """What a wheel holds: name → size, mode, SHA-256."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            info.filename: (
                info.file_size,
                info.external_attr >> 16 & 0o7777,
                hashlib.sha256(archive.read(info)).hexdigest(),
            )
            for info in archive.infolist()
        }


def check_wheel(wheel: Path) -> None:
    """Return if a wheel holds exactly what its manifest lists, and metadata; BuildError names the first difference."""
    found = contents(wheel)
    with zipfile.ZipFile(wheel) as archive:
        listed = json.loads(archive.read(f"{PACKAGE}/vendor/{manifest.NAME}"))["files"]
    wanted = {f"{PACKAGE}/{row['path']}": (row["size"], int(row["mode"], 8), row["sha256"]) for row in listed}
    mine = {
        name: what
        for name, what in found.items()
        if name.startswith(f"{PACKAGE}/") and name != f"{PACKAGE}/vendor/{manifest.NAME}"
    }
    different = sorted(name for name in wanted.keys() | mine.keys() if wanted.get(name) != mine.get(name))
    metadata = f"{wheel.name.split('-py3-', maxsplit=1)[0]}.dist-info/"
    stray = sorted(name for name in found if not name.startswith((f"{PACKAGE}/", metadata)))
    if different or stray:
        raise BuildError(f"{wheel.name} is not what its manifest says: {', '.join([*different, *stray][:5])}")


def main(argv: Sequence[str] | None = None) -> None:
    """Build the source archive and the wheels and print them with their hashes."""
    parser = argparse.ArgumentParser(prog="python -m shell_tool_release.wheels", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--target", action="append", choices=get_args(Target), help="platform in node's names (default: all)"
    )
    arguments = parser.parse_args(argv)
    for path in build_python(find_workspace(), arguments.target or get_args(Target)):
        data = path.read_bytes()
        sys.stdout.write(f"{path}\n  {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
