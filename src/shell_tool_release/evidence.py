"""What a release says of itself beside its packages: manifests, bills of materials and the sums of everything.

API::

    write(workspace) -> tuple[Path, ...]      dist/evidence/: from what is in dist/npm and dist/python

``SHA256SUMS`` is what is attested and compared: it has a line for each artefact and for each package's manifest, by
which ``codex-exec-mcp-server verify --manifest-sha256`` anchors an installed package.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tarfile
import zipfile
from typing import TYPE_CHECKING

from shell_tool_release import manifest, sbom
from shell_tool_release.errors import BuildError, run_main
from shell_tool_release.workspace import find_workspace

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from shell_tool_release.workspace import Workspace

SUMS = "SHA256SUMS"


def packages(workspace: Workspace) -> tuple[Path, ...]:
    """The finished packages in ``dist``; BuildError when there is none."""
    found = [path for name in ("npm", "python") for path in sorted((workspace.dist / name).glob("*")) if path.is_file()]
    if not found:
        raise BuildError(f"{workspace.dist} holds no package; run: ./run pack wheels")
    return tuple(found)


def write(workspace: Workspace) -> tuple[Path, ...]:
    """Write ``dist/evidence`` anew and return what is in it, the sums last."""
    folder = workspace.dist / "evidence"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    artefacts = list(packages(workspace))
    for package in packages(workspace):
        for end, data in sorted(described(package).items()):
            path = folder / f"{package.name}.{end}"
            path.write_bytes(data)
            artefacts.append(path)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in artefacts]
    sums = folder / SUMS
    sums.write_text("".join(sorted(lines, key=lambda line: line.split("  ")[1])), encoding="utf-8")
    return (*artefacts[len(packages(workspace)) :], sums)


def described(package: Path) -> Mapping[str, bytes]:
    """The manifest and bill of materials in a package, by the end of the name they get; none in a source archive."""
    wanted = {manifest.NAME: manifest.NAME, sbom.NAME: "cdx.json"}
    found: dict[str, bytes] = {}
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            for name in archive.namelist():
                end = wanted.get(name.rpartition("/")[2])
                if end:
                    found[end] = archive.read(name)
    elif package.suffix == ".tgz":
        with tarfile.open(package) as tar:
            for member in tar:
                end = wanted.get(member.name.rpartition("/")[2])
                stream = tar.extractfile(member) if end else None
                if end and stream is not None:
                    found[end] = stream.read()
    else:
        return found
    if len(found) != len(wanted):
        raise BuildError(f"{package.name} holds {', '.join(found) or 'neither manifest nor bill of materials'} only")
    return found


def main() -> None:
    """Write the evidence and print the sums."""
    written = write(find_workspace())
    sys.stdout.write(f"{written[-1]}\n{written[-1].read_text(encoding='utf-8')}")


if __name__ == "__main__":
    sys.exit(run_main(main))
