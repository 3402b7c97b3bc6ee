"""Zsh's source: the release's archive, from whatever place can be reached, unpacked to a tree that is locked as well.

API::

    zsh_source(SourceOptions(...)) -> SourceTree
    check_patch(options, patch) -> str            PatchError when our patch does not fit exactly
    python -m shell_tool_release.zsh_source       fetches the source and says that the patch applies

What is different from bash: there are no official patches, so one archive is everything, and Debian's is the same file.
The archive has no list of its files; what it holds and is not left out is the tree, with the archive's own modes.
"""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from shell_tool_release.cache import Key, entry
from shell_tool_release.errors import ChecksumError, ReleaseError, SourceError, run_main
from shell_tool_release.sources import SourceOptions, SourceTree, patched_source, read_archive, settle, tree_digest
from shell_tool_release.workspace import find_workspace

if TYPE_CHECKING:
    from collections.abc import Callable

    from shell_tool_release.lock import ZshLock

_FORMAT = 1  # part of the key: raise when what a tree holds changes


def zsh_source(options: SourceOptions) -> SourceTree:
    """Return zsh's tree; SourceError lists every place and why it did not serve."""
    lock = options.zsh
    key = Key.of("source", package="zsh", version=lock.version, tree=lock.tree, format=_FORMAT)
    found = entry(options.cache, key, lambda folder: _fill(folder, options))
    return SourceTree(
        path=found.path / f"zsh-{lock.version}", version=lock.version, level=0, digest=lock.tree, epoch=lock.epoch
    )


def _fill(folder: Path, options: SourceOptions) -> None:
    lock, downloads = options.zsh, options.cache / "downloads"
    places: dict[str, Callable[[Path], Path]] = {
        "carried": lambda _: _carried(lock),
        "gnu": lambda _: _from_archive(lock, downloads),
        "debian": lambda scratch: _from_debian(lock, scratch, downloads),
    }
    reasons: list[str] = []
    for name in options.places:
        if name not in places:
            continue
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder.parent) as scratch:
            tree = Path(scratch) / "tree"
            try:
                _unpack(places[name](Path(scratch)), lock, tree)
            except ReleaseError as error:
                reasons.append(f"{name}: {error}")
                continue
            settle(tree, lock.epoch)
            tree.rename(folder / f"zsh-{lock.version}")
        sys.stderr.writelines(f"warning: {reason}\n" for reason in reasons if "refused" in reason)
        return
    listing = "\n".join(f"  {reason}" for reason in reasons)
    message = (
        f"zsh {lock.version} could be had from no place. Tried, in this order:\n"
        f"  cache: nothing below {options.cache}\n{listing}\n"
        "Make one of them reachable (a proxy: set https_proxy), or copy the cache folder of a machine that has it."
    )
    raise SourceError(message)


def _carried(lock: ZshLock) -> Path:
    """What a source archive of this project has brought along."""
    from shell_tool_release import places  # noqa: PLC0415  (as below)

    return places.carried(f"zsh-{lock.version}")


def _from_archive(lock: ZshLock, downloads: Path) -> Path:
    """The release's archive over HTTP, each server in turn."""
    from shell_tool_release.download import fetch  # noqa: PLC0415  (requests takes 0.1 s, a warm cache needs none of it)

    reasons: list[str] = []
    for base in lock.urls:
        try:
            return fetch(base + lock.archive, lock.sha256, downloads)
        except SourceError as error:
            reasons.append(str(error))
    raise SourceError("; ".join(reasons))


def _from_debian(lock: ZshLock, scratch: Path, downloads: Path) -> Path:
    """Debian's source package by apt."""
    from shell_tool_release import apt, places  # noqa: PLC0415  (as above)

    wanted = {lock.package_archive: lock.sha256}
    found = places.kept(wanted, downloads)
    if found is not None:
        return found
    package = apt.download_source(
        package=lock.package, suites=lock.suites, wanted=wanted, scratch=scratch / "apt", patches=False
    )
    downloads.mkdir(parents=True, exist_ok=True)
    return places.keep(package.archive, lock.sha256, downloads)


def _unpack(archive: Path, lock: ZshLock, tree: Path) -> None:
    """Write the archive's source files below ``tree``; ChecksumError when they are not the locked ones."""
    executable = _executable(archive)
    for path, text in sorted(read_archive(archive).items()):
        if lock.keeps(path):
            target = tree / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(text)
            target.chmod(0o755 if path in executable else 0o644)
    found = tree_digest(tree)
    if found != lock.tree:
        message = f"tree hash is {found}, locked is {lock.tree}; refused"
        raise ChecksumError(message)


def _executable(archive: Path) -> frozenset[str]:
    with tarfile.open(archive) as tar:
        return frozenset(member.name.partition(os.sep)[2] for member in tar if member.mode & 0o100)


def check_patch(options: SourceOptions, patch: Path) -> str:
    """Apply ``patch`` to the locked tree; returns a report, PatchError when it does not fit exactly."""
    tree = zsh_source(options)
    with tempfile.TemporaryDirectory(prefix="patch-", dir=options.cache) as scratch:
        applied = patched_source(tree, patch, Path(scratch) / "tree")
    return f"zsh {tree.version}: applies without fuzz ({', '.join(one.path for one in applied)})"


def main() -> None:
    """Fetch and verify zsh's source, and say that our patch applies."""
    options = SourceOptions.default()
    sys.stdout.write(f"zsh {options.zsh.version}: {zsh_source(options).path}\n")
    sys.stdout.write(check_patch(options, find_workspace().zsh_patch) + "\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
