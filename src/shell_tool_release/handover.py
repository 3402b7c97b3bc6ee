"""What travels between the jobs of a release, whose transfer of files drops modes: one tar archive a platform.

API::

    bundle(vendor, platform, folder) -> Path        vendor/<platform> as <platform>.tar, always the same bytes
    gather(folder, vendor) -> list[str]             every archive of ``folder`` into ``vendor``; the platforms
    too_new(vendor) -> list[str]                    what of a macOS server does not run on the oldest macOS
    offer(workspace, folder) -> dict[str, str]       the finished files and the scripts that publish them, with hashes
    notes(changelog, version) -> str                what the changelog says of a version

    python -m shell_tool_release.handover bundle | gather | offer

An archive comes from another machine: names that leave the platform's folder, links and anything else but plain files
are refused before a byte is written.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import sys
import tarfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, get_args

from shell_tool_release import environments, github_release, macho, manifest, publish
from shell_tool_release.cache import file_sha256
from shell_tool_release.errors import BuildError, run_main
from shell_tool_release.npm import MTIME, package_path
from shell_tool_release.variants import Target
from shell_tool_release.vendor import read_builds
from shell_tool_release.versions import npm_version
from shell_tool_release.workspace import find_workspace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from shell_tool_release.workspace import Workspace

SUMS = "SHA256SUMS"
SCRIPTS = {"publish": publish, "github-release": github_release}
"""The scripts that run where there is no checkout."""


def bundle(vendor: Path, platform: str, folder: Path) -> Path:
    """Write ``vendor/<platform>`` to ``folder/<platform>.tar``; modes 0755 and 0644, owner 0, npm's time."""
    target = folder / f"{platform}.tar"
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(manifest.files(vendor / platform)):
            header = tarfile.TarInfo(path.relative_to(vendor).as_posix())
            data = path.read_bytes()
            header.size, header.mode, header.mtime = len(data), manifest.package_mode(path), MTIME
            archive.addfile(header, io.BytesIO(data))
    return target


def gather(folder: Path, vendor: Path, expected: Iterable[str] = ()) -> list[str]:
    """Unpack every archive of ``folder``; a platform's folder is made anew. Returns the platforms.

    Raises:
        BuildError: There is none, an expected one is not there, it is of no known platform, or it holds what must not
            be in it.
    """
    found = sorted(folder.glob("*.tar"))
    if not found:
        raise BuildError(f"{folder} holds no platform's archive; run: ./run handover")
    missing = sorted(set(expected) - {path.stem for path in found})
    if missing:
        raise BuildError(f"the archives of {', '.join(missing)} are missing; a release is not packed without them")
    for path in found:
        if path.stem not in get_args(Target):
            raise BuildError(f"{path.name} is of no known platform; known are {', '.join(get_args(Target))}")
        _unpack(path, vendor)
    return [path.stem for path in found]


def too_new(vendor: Path) -> list[str]:
    """Say which libraries and programs of the macOS servers do not run on the oldest macOS we promise.

    On macOS the machine's own Python is frozen, and with it the oldest system that it was built for: Homebrew's runs on
    the system it was installed on and newer ones.
    """
    floor = tuple(int(part) for part in environments.MACOS_FLOOR.split("."))
    wrong = []
    for platform in get_args(Target):
        server = vendor / platform / "server"
        if not platform.startswith("darwin-") or not server.is_dir():
            continue
        for path in manifest.files(server):
            data = path.read_bytes()
            if data[:4] in {macho.MAGIC_OF_SEVERAL, macho.MAGIC_OF_SEVERAL_64}:
                wrong.append(f"{path.relative_to(vendor)} holds code for several machines")
            elif data[:4] == macho.MAGIC and (needs := macho.read(data).minimum) > floor:
                wrong.append(f"{path.relative_to(vendor)} needs macOS {needs[0]}.{needs[1]}")
    return wrong


def _unpack(path: Path, vendor: Path) -> None:
    try:
        with tarfile.open(path, "r:") as archive:
            members = _checked(path, archive)
            shutil.rmtree(vendor / path.stem, ignore_errors=True)
            for member in members:
                content = archive.extractfile(member)
                assert content is not None
                target = vendor / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as stream:
                    shutil.copyfileobj(content, stream)
                target.chmod(0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, EOFError, OSError) as error:  # a file where a folder must be, too
        raise BuildError(f"{path.name} cannot be unpacked ({error}); make it again: ./run handover") from error


def _checked(path: Path, archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    members = archive.getmembers()
    seen: set[str] = set()
    for member in members:
        parts = PurePosixPath(member.name).parts
        plain = "/".join(parts) == member.name and len(parts) > 1 and parts[0] == path.stem and ".." not in parts
        if not (member.isreg() and plain) or member.name in seen:
            raise BuildError(f"{path.name} holds {member.name!r}, which is no plain file of {path.stem}; refused")
        seen.add(member.name)
    return members


def offer(workspace: Workspace, folder: Path) -> dict[str, str]:
    """Put what is released and its hashes into ``dist/release``, and the scripts that publish it into ``folder``.

    Released is the package, and what is in ``dist/python`` and ``dist/evidence``. Returns what the jobs that publish
    are told of it, past the artefacts: names and hashes.

    Raises:
        BuildError: There is no package, or two files have one name.
    """
    package = package_path(workspace)
    if not package.is_file():
        raise BuildError(f"{package} is not there; run: ./run pack")
    release = workspace.dist / "release"
    _collect(release, [package, *_files(workspace.dist / "python"), *_files(workspace.dist / "evidence")])
    values = {"tarball": package.name, "tarball-sha256": file_sha256(release / package.name)}
    values["sums-sha256"] = file_sha256(write_sums(release))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, module in SCRIPTS.items():
        script = Path(shutil.copyfile(str(module.__file__), folder / f"{name.replace('-', '_')}.py"))
        values[f"{name}-sha256"] = file_sha256(script)
    changes = notes((workspace.root / "CHANGELOG.md").read_text(encoding="utf-8"), npm_version(workspace.version))
    (folder / "notes.md").write_text(changes, encoding="utf-8")
    return values


def _files(folder: Path) -> list[Path]:
    """The files of ``folder``, if there is one, without sums: those are made over everything that is released."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if path.is_file() and path.name != SUMS]


def _collect(release: Path, files: Iterable[Path]) -> None:
    shutil.rmtree(release, ignore_errors=True)
    release.mkdir(parents=True)
    for path in files:
        if (release / path.name).exists():
            raise BuildError(
                f"two files of the release have the name {path.name}; on GitHub one would replace the other"
            )
        shutil.copyfile(path, release / path.name)


def write_sums(folder: Path) -> Path:
    """Write ``SHA256SUMS`` for all other files of ``folder``, as ``sha256sum --check`` reads it."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    target = folder / SUMS
    target.write_text("".join(f"{file_sha256(folder / name)}  {name}\n" for name in names), encoding="utf-8")
    return target


def notes(changelog: str, version: str) -> str:
    """Return the section of ``version``; of what is not released yet where it has none, as an alpha has."""
    sections = re.split(r"^## \[(.+?)\].*\n", changelog, flags=re.MULTILINE)
    found = dict(zip(sections[1::2], sections[2::2], strict=True))
    return (found.get(version) or found.get("Unreleased") or "").strip() + "\n"


def _tell(values: Mapping[str, str]) -> None:
    """To the reader, and to the workflow."""
    lines = "".join(f"{name}={value}\n" for name, value in values.items())
    sys.stdout.write(lines)
    if os.environ.get("GITHUB_OUTPUT"):
        with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as stream:
            stream.write(lines)


def _bundles(workspace: Workspace, folder: Path) -> Iterable[str]:
    for platform, build in read_builds(workspace.vendor).items():
        if build.get("missing"):
            yield f"{platform}: left out, not made here: {build['missing']}\n"
            continue
        path = bundle(workspace.vendor, platform, folder)
        yield f"{path}\n  sha256 {file_sha256(path)}\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Bundle what is in ``vendor/``, gather bundles into it, or offer what was packed."""
    parser = argparse.ArgumentParser(prog="python -m shell_tool_release.handover", description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("bundle", "gather", "offer"))
    parser.add_argument("--all", action="store_true", help="gather: fail unless every platform is there")
    arguments = parser.parse_args(argv)
    workspace = find_workspace()
    platforms = workspace.dist / "platforms"
    if arguments.step == "bundle":
        sys.stdout.writelines(_bundles(workspace, platforms))
    elif arguments.step == "gather":
        expected = get_args(Target) if arguments.all else ()
        sys.stdout.write(f"gathered {', '.join(gather(platforms, workspace.vendor, expected))}\n")
        if arguments.all and (wrong := too_new(workspace.vendor)):
            raise BuildError(
                f"a release runs on macOS {environments.MACOS_FLOOR} and newer, but {'; '.join(wrong)}. "
                "Freeze it again with a Python made for old systems: its authors' installer, or actions/setup-python"
            )
    else:
        _tell(offer(workspace, workspace.dist / "scripts"))


if __name__ == "__main__":
    sys.exit(run_main(main))
