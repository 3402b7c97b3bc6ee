"""Writes the npm package: the same bytes for the same content, whatever the umask, the clock or the folder.

API::

    pack(workspace, repository=None) -> Package      dist/npm/codex-shell-tool-mcp-npm-<version>.tgz
    write_tarball(path, members)                     the deterministic writer

Not ``npm pack``: that one keeps the modes it finds and drops symbolic links without a word.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import re
import sys
import tarfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shell_tool_release import manifest
from shell_tool_release.errors import BuildError, ConfigurationError, run_main
from shell_tool_release.licenses import notices, read_components
from shell_tool_release.vendor import read_builds
from shell_tool_release.workspace import Workspace, find_workspace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

MTIME = 499162500
"""1985-10-26 08:15 UTC: what npm stamps on every entry, for zip tools that fail on times before 1980."""

LIMIT_BYTES = 14_000_000
"""Of a package for one platform. npm's registry refuses about 200 MB; long before that, ``npx`` gets slow."""

REPOSITORY_VARIABLE = "GITHUB_REPOSITORY"
"""``OWNER/REPO`` in a workflow. npm refuses provenance unless the package names the repository it was built in."""

_TEXTS = ("CHANGELOG.md", "LICENSE", "NOTICE", "README.md")
_REPOSITORY = re.compile(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True)
class TarMember:
    """One file of the tarball; ``mode`` is 0o755 or 0o644."""

    name: str
    data: bytes
    mode: int = 0o644


@dataclass(frozen=True, kw_only=True)
class Package:
    """A finished package; ``files`` and ``unpacked`` count what is in it."""

    path: Path
    sha256: str
    size: int
    files: int
    unpacked: int


def pack(workspace: Workspace, repository: str | None = None) -> Package:
    """Write the package from ``vendor/`` and ``packaging/npm``.

    Args:
        workspace: The checkout.
        repository: ``OWNER/REPO`` to name in ``package.json``; none is named without.

    Raises:
        BuildError: ``vendor/`` is empty or holds a link, or the package is over :data:`LIMIT_BYTES` a platform.
    """
    builds = read_builds(workspace.vendor)
    members = [
        TarMember(name="package.json", data=package_json(workspace, list(builds), repository)),
        TarMember(name="bin/codex-shell-tool-mcp", data=_launcher(workspace).read_bytes(), mode=0o755),
        TarMember(name="THIRD_PARTY_NOTICES.md", data=_notices(workspace.vendor, list(builds))),
        TarMember(name=f"vendor/{manifest.NAME}", data=manifest.document(workspace.vendor, builds)),
        *(TarMember(name=f"patches/{path.name}", data=path.read_bytes()) for path in _patches(workspace)),
        *(TarMember(name=name, data=(workspace.root / name).read_bytes()) for name in _TEXTS),
        *(member for platform in builds for member in _platform(workspace.vendor, platform)),
    ]
    path = workspace.dist / "npm" / f"codex-shell-tool-mcp-npm-{workspace.version}.tgz"
    written = write_tarball(path, members)
    limit = LIMIT_BYTES * len(builds)
    if written.size > limit:
        message = (
            f"{path} has {written.size:,} bytes, more than {limit:,} for {', '.join(builds)}; see the table of parts"
        )
        raise BuildError(message)
    return written


def _launcher(workspace: Workspace) -> Path:
    return workspace.root / "packaging" / "npm" / "bin" / "codex-shell-tool-mcp"


def _patches(workspace: Workspace) -> list[Path]:
    """What bash's licence wants beside the shipped shells: our change to it and how to build it."""
    return manifest.files(workspace.bash_patch.parent)


def package_json(workspace: Workspace, platforms: Sequence[str], repository: str | None) -> bytes:
    """Return ``package.json`` with the project's version and the ``os`` and ``cpu`` that are inside."""
    document = json.loads((workspace.root / "packaging" / "npm" / "package.json").read_text(encoding="utf-8"))
    document["version"] = npm_version(workspace.version)
    document["os"] = sorted({platform.split("-")[0] for platform in platforms})
    document["cpu"] = sorted({platform.split("-")[1] for platform in platforms})
    if repository:
        if not _REPOSITORY.fullmatch(repository):
            message = (
                f"{repository!r} is no GitHub repository; give OWNER/REPO ({REPOSITORY_VARIABLE} has it in a workflow)"
            )
            raise ConfigurationError(message)
        document["repository"] = {"type": "git", "url": f"git+https://github.com/{repository}.git"}
    return (json.dumps(document, indent=2) + "\n").encode()


def npm_version(version: str) -> str:
    """Turn Python's version into npm's: ``1.2.3a4`` is ``1.2.3-alpha.4``; ConfigurationError for another form."""
    found = re.fullmatch(r"(\d+\.\d+\.\d+)(?:a(\d+))?", version)
    if found is None:
        message = f"version {version} is neither X.Y.Z nor X.Y.ZaN; change it in pyproject.toml"
        raise ConfigurationError(message)
    return found[1] if found[2] is None else f"{found[1]}-alpha.{found[2]}"


def _notices(vendor: Path, platforms: Sequence[str]) -> bytes:
    components = {f"vendor/{name}/licenses": read_components(vendor / name / "licenses") for name in platforms}
    return notices(components).encode()


def _platform(vendor: Path, platform: str) -> Iterable[TarMember]:
    for path in manifest.files(vendor / platform):
        name = path.relative_to(vendor).as_posix()
        yield TarMember(name=f"vendor/{name}", data=path.read_bytes(), mode=manifest.package_mode(path))


def write_tarball(path: Path, members: Iterable[TarMember]) -> Package:
    """Write ``members`` below ``package/``, ``package.json`` first, the rest sorted, to ``path``."""
    ordered = sorted(members, key=lambda member: (member.name != "package.json", member.name.encode()))
    raw = io.BytesIO()
    # PAX is USTAR plus a header for what does not fit there (paths over 100 characters); npm reads both.
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in ordered:
            header = tarfile.TarInfo(f"package/{member.name}")
            header.size, header.mode, header.mtime = len(member.data), member.mode, MTIME
            archive.addfile(header, io.BytesIO(member.data))
    packed = _gzipped(raw.getvalue())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed)
    return Package(
        path=path,
        sha256=hashlib.sha256(packed).hexdigest(),
        size=len(packed),
        files=len(ordered),
        unpacked=sum(len(member.data) for member in ordered),
    )


def _gzipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=out, mode="wb", compresslevel=9, mtime=0) as stream:
        stream.write(data)
    return out.getvalue()


def size_table(vendor: Path, platform: str) -> list[tuple[str, int, int]]:
    """Return what one platform's parts weigh, largest first: name, bytes unpacked, bytes packed (each for itself)."""
    weights: dict[str, tuple[int, int]] = {}
    for path in manifest.files(vendor / platform):
        part = _part(path.relative_to(vendor / platform))
        data = path.read_bytes()
        before = weights.get(part, (0, 0))
        weights[part] = (before[0] + len(data), before[1] + len(zlib.compress(data, 6)))
    rows = [(name, unpacked, packed) for name, (unpacked, packed) in weights.items()]
    return sorted(rows, key=lambda row: -row[2])


def _part(path: Path) -> str:
    """The row a file belongs to: libraries one by one, all else by its folder."""
    top, *rest = path.parts
    if top == "server" and rest[0] == "_internal":
        return f"server: {_library(rest[1:], path.suffix)}"
    return f"{top}/{rest[0]}" if top in {"bash", "server", "bin"} else top


def _library(parts: Sequence[str], suffix: str) -> str:
    if parts[-1].startswith("libpython"):
        return "libpython"
    if suffix != ".pyc" and len(parts) == 1:
        return "other libraries"
    if parts[0].startswith("python") and len(parts) > 1:
        return "standard library in C"
    return "standard library" if len(parts) == 1 or parts[0] in sys.stdlib_module_names else parts[0]


def main(argv: Sequence[str] | None = None) -> None:
    """Pack ``vendor/`` and print the package, its hash and what its parts weigh."""
    parser = argparse.ArgumentParser(prog="python -m shell_tool_release.npm", description=__doc__.splitlines()[0])
    parser.add_argument("--repository", default=os.environ.get(REPOSITORY_VARIABLE), help="OWNER/REPO for package.json")
    arguments = parser.parse_args(argv)
    workspace = find_workspace()
    package = pack(workspace, arguments.repository or None)
    for platform in read_builds(workspace.vendor):
        sys.stdout.write(f"\n{platform}: part, bytes, bytes packed\n")
        for name, unpacked, packed in size_table(workspace.vendor, platform):
            sys.stdout.write(f"  {name:<52} {unpacked:>11,} {packed:>11,}\n")
    sys.stdout.write(
        f"\n{package.path}\n  {package.size:,} bytes packed, {package.unpacked:,} in {package.files} files\n"
    )
    sys.stdout.write(f"  sha256 {package.sha256}\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
