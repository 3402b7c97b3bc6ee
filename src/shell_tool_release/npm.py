"""Writes the npm package: the same bytes for the same content, whatever the umask, the clock or the folder.

API::

    pack(workspace, repository=, cache=) -> Package     dist/npm/codex-shell-tool-mcp-npm-<version>.tgz
    tarball(members) -> bytes                           the deterministic writer
    weigh(members) -> list[Weight]                      what each part costs in the package

Not ``npm pack``: that one keeps the modes it finds and drops symbolic links without a word.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import sys
import tarfile
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import deflate

from shell_tool_release import budgets, environments, manifest, sbom
from shell_tool_release.cache import Key, cache_root, entry
from shell_tool_release.errors import BuildError, ConfigurationError, run_main
from shell_tool_release.licenses import notices, read_components
from shell_tool_release.vendor import read_builds
from shell_tool_release.versions import npm_version
from shell_tool_release.workspace import Workspace, find_workspace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

MTIME = 499162500
"""1985-10-26 08:15 UTC: what npm stamps on every entry, for zip tools that fail on times before 1980."""

LEVEL = 12
"""Libdeflate's best: a thirtieth smaller than zlib's, in the same time, and the same bytes on every machine."""

REPOSITORY_VARIABLE = "GITHUB_REPOSITORY"
"""``OWNER/REPO`` in a workflow. npm refuses provenance unless the package names the repository it was built in."""

PACKED = "package.tgz"
"""The package in its entry of the cache, which is of the kind ``npm``."""

_TEXTS = ("CHANGELOG.md", "LICENSE", "NOTICE", "README.md")
_REPOSITORY = re.compile(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True)
class TarMember:
    """One file of the tarball; ``mode`` is 0o755 or 0o644."""

    name: str
    data: bytes
    mode: int = 0o644


@dataclass(frozen=True, kw_only=True)
class Weight:
    """What one part of a platform costs, in bytes; ``packed`` is each file for itself, so the sum is a little more."""

    platform: str
    part: str
    unpacked: int
    packed: int


@dataclass(frozen=True, kw_only=True)
class Package:
    """A finished package.

    Attributes:
        path: The tarball.
        sha256: Of its bytes.
        size: Bytes of the tarball.
        files: How many are in it.
        unpacked: Bytes of those.
        weights: What its parts weigh, largest first.
        platforms: Those it is for.
        left_out: Platform → what is missing of it, so that it was not packed.
    """

    path: Path
    sha256: str
    size: int
    files: int
    unpacked: int
    weights: tuple[Weight, ...]
    platforms: tuple[str, ...] = ()
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)


def package_path(workspace: Workspace) -> Path:
    """Where the package of this version is written to."""
    return workspace.dist / "npm" / f"codex-shell-tool-mcp-npm-{npm_version(workspace.version)}.tgz"


def pack(workspace: Workspace, repository: str | None = None, cache: Path | None = None) -> Package:
    """Write the package from ``vendor/`` and ``packaging/npm``.

    Args:
        workspace: The checkout.
        repository: ``OWNER/REPO`` to name in ``package.json``; none is named without.
        cache: Folder in which the packed bytes are kept for the next time; packed anew without.

    Raises:
        BuildError: ``vendor/`` is empty or holds a link, or the package or a part of it weighs more than
            ``packaging/npm/budgets.toml`` allows.
    """
    found = read_builds(workspace.vendor)
    left_out = {name: _missing(build) for name, build in found.items() if _missing(build)}
    builds = {name: build for name, build in found.items() if name not in left_out}
    if not builds:
        message = f"{workspace.vendor} holds no whole platform: {missing_parts(left_out)}"
        raise BuildError(message)
    members = _members(workspace, builds, repository)
    packed, weights = _packed(members, cache)
    path = package_path(workspace)
    budget = budgets.read(workspace.root / budgets.FILE)
    if grown := budget.exceeded(len(packed), [(weight.platform, weight.part, weight.packed) for weight in weights]):
        raise BuildError(f"{path.name} grew over its budget ({budgets.FILE}): {'; '.join(grown)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed)
    return Package(
        path=path,
        sha256=hashlib.sha256(packed).hexdigest(),
        size=len(packed),
        files=len(members),
        unpacked=sum(len(member.data) for member in members),
        weights=tuple(weights),
        platforms=tuple(builds),
        left_out=left_out,
    )


def _missing(build: Mapping[str, object]) -> tuple[str, ...]:
    missing = build.get("missing", ())
    return tuple(map(str, missing)) if isinstance(missing, list) else ()


def missing_parts(left_out: Mapping[str, Sequence[str]]) -> str:
    """Say which platforms are not whole, and what is missing of each."""
    return "; ".join(f"{name} has no {' and no '.join(parts)}" for name, parts in left_out.items())


def _members(workspace: Workspace, builds: Mapping[str, object], repository: str | None) -> list[TarMember]:
    members = [
        TarMember(name="package.json", data=package_json(workspace, list(builds), repository)),
        TarMember(name="bin/codex-shell-tool-mcp", data=_launcher(workspace).read_bytes(), mode=0o755),
        TarMember(name="THIRD_PARTY_NOTICES.md", data=_notices(workspace.vendor, list(builds))),
        *(TarMember(name=f"patches/{path.name}", data=path.read_bytes()) for path in _patches(workspace)),
        *(TarMember(name=name, data=(workspace.root / name).read_bytes()) for name in _TEXTS),
        *(member for platform in builds for member in _platform(workspace.vendor, platform)),
    ]
    listed = [manifest.described(member.name, member.data, member.mode) for member in members]
    bill = TarMember(name=f"sbom/{sbom.NAME}", data=_bill(workspace, list(builds), listed))
    members.append(bill)
    listed.append(manifest.described(bill.name, bill.data, bill.mode))
    document = manifest.document(workspace.version, listed, builds)
    return [*members, TarMember(name=f"vendor/{manifest.NAME}", data=document)]


def _bill(workspace: Workspace, platforms: Sequence[str], listed: Sequence[manifest.Entry]) -> bytes:
    package = json.loads((workspace.root / "packaging" / "npm" / "package.json").read_text(encoding="utf-8"))
    version = npm_version(workspace.version)
    subject = sbom.Subject(name=package["name"], version=version, kind="npm", license=package["license"])
    components = {name: read_components(workspace.vendor / name / "licenses") for name in platforms}
    pinned = sbom.pinned(workspace.root / environments.CONSTRAINTS)
    return sbom.document(subject, components, listed, pinned)


def _packed(members: Sequence[TarMember], cache: Path | None) -> tuple[bytes, list[Weight]]:
    """Return the tarball and what its parts weigh; compressing takes ten times as long as reading everything."""
    if cache is None:
        return tarball(members), weigh(members)
    listed = [(member.name, member.mode, hashlib.sha256(member.data).hexdigest()) for member in members]
    key = Key.of("npm", format=2, members=sorted(listed), deflate=[deflate.__version__, LEVEL])

    def build(folder: Path) -> None:
        (folder / PACKED).write_bytes(tarball(members))
        (folder / "weights.json").write_text(json.dumps([asdict(weight) for weight in weigh(members)]))

    place = entry(cache, key, build).path
    weights = [Weight(**row) for row in json.loads((place / "weights.json").read_bytes())]
    return (place / PACKED).read_bytes(), weights


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


def _notices(vendor: Path, platforms: Sequence[str]) -> bytes:
    components = {f"vendor/{name}/licenses": read_components(vendor / name / "licenses") for name in platforms}
    return notices(components).encode()


def _platform(vendor: Path, platform: str) -> Iterable[TarMember]:
    for path in manifest.files(vendor / platform):
        name = path.relative_to(vendor).as_posix()
        yield TarMember(name=f"vendor/{name}", data=path.read_bytes(), mode=manifest.package_mode(path))


def tarball(members: Iterable[TarMember]) -> bytes:
    """Return ``members`` below ``package/`` as a gzipped tar, in the order of :func:`place`."""
    out = io.BytesIO()
    # PAX is USTAR plus a header for what does not fit there (paths over 100 characters); npm reads both.
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in sorted(members, key=lambda member: place(member.name)):
            header = tarfile.TarInfo(f"package/{member.name}")
            header.size, header.mode, header.mtime = len(member.data), member.mode, MTIME
            archive.addfile(header, io.BytesIO(member.data))
    return bytes(deflate.gzip_compress(out.getvalue(), LEVEL))


def place(name: str) -> tuple[bool, bytes, str]:
    """Where a member stands: ``package.json`` first, then by path, the same file of all platforms side by side.

    Most of the standard library is the same everywhere, and gzip remembers only the last 32 KiB: side by side the
    second copy costs a few bytes.
    """
    top, _, rest = name.partition("/")
    platform, _, path = rest.partition("/")
    if top == "vendor" and path:
        return True, f"{top}/{path}".encode(), platform
    return name != "package.json", name.encode(), ""


def weigh(members: Iterable[TarMember]) -> list[Weight]:
    """Return what the parts of all platforms weigh, largest first."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for member in members:
        top, _, rest = member.name.partition("/")
        platform, _, path = rest.partition("/")
        if top == "vendor" and path:
            unpacked, packed = found.get((platform, _part(PurePosixPath(path))), (0, 0))
            sizes = (unpacked + len(member.data), packed + len(deflate.zlib_compress(member.data, LEVEL)))
            found[platform, _part(PurePosixPath(path))] = sizes
    weights = [Weight(platform=key[0], part=key[1], unpacked=size[0], packed=size[1]) for key, size in found.items()]
    return sorted(weights, key=lambda weight: -weight.packed)


def _part(path: PurePosixPath) -> str:
    """The row a file belongs to: libraries one by one, all else by its folder."""
    top, *rest = path.parts
    if top == "server" and rest[0] == "_internal":
        return f"server: {_library(rest[1:], path.suffix)}"
    return f"{top}/{rest[0]}" if top in {"bash", "zsh", "server", "bin"} else top


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
    package = pack(workspace, arguments.repository or None, cache_root())
    sys.stdout.write("part, bytes, bytes packed\n")
    for weight in package.weights:
        name = f"{weight.platform}/{weight.part}"
        sys.stdout.write(f"  {name:<52} {weight.unpacked:>11,} {weight.packed:>11,}\n")
    sys.stdout.write(
        f"{package.path}\n  {package.size:,} bytes packed, {package.unpacked:,} in {package.files} files\n"
    )
    sys.stdout.write(f"  sha256 {package.sha256}\n  for {', '.join(package.platforms)}\n")
    if package.left_out:
        sys.stdout.write(f"  not in it: {missing_parts(package.left_out)}\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
