"""Bash's source, from whatever place can be reached, always the same files.

API (callable by nox sessions)::

    bash_source(SourceOptions(cache=...)) -> SourceTree          locked tree at a patch level, cached
    patched_source(tree, patch, destination) -> tuple[Applied, ...]    a copy with our patch on it
    git_repository(options, destination) -> str                  the tree as a local git repository (README's steps)
    python -m shell_tool_release.sources [--level N] [--place NAME ...]     fetch, verify, try our patch

What the hash of a tree covers, and why, is said in ``data/sources.lock.toml``. Only files under that hash are in the
tree, with modes from the distribution's own MANIFEST and one modification time, so that make finds nothing out of date
and never calls bison, autoconf or makeinfo.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from shell_tool_release import patching
from shell_tool_release.cache import Key, cache_root, entry
from shell_tool_release.errors import ChecksumError, ReleaseError, SourceError, run_main
from shell_tool_release.lock import BashLock, ZshLock, load_lock, load_zsh_lock
from shell_tool_release.workspace import find_workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shell_tool_release.places import Delivery

_FORMAT = 1  # part of the key: raise when what a tree holds changes
_MANIFEST = "MANIFEST"
PLACE_NAMES = ("carried", "gnu", "git", "debian")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What to fetch and where to keep it. ``level`` None means the lock's own; places are tried in order."""

    cache: Path
    lock: BashLock
    level: int | None = None
    places: tuple[str, ...] = PLACE_NAMES
    zsh: ZshLock = field(default_factory=load_zsh_lock)

    @classmethod
    def default(cls) -> SourceOptions:
        """Options with the user's cache folder and the project's lock file."""
        return cls(cache=cache_root(), lock=load_lock())


@dataclass(frozen=True, kw_only=True)
class SourceTree:
    """A verified tree; never write below ``path``."""

    path: Path
    version: str
    level: int
    digest: str
    epoch: int


def bash_source(options: SourceOptions) -> SourceTree:
    """Return bash's tree at the level asked for; SourceError lists every place and why it did not serve."""
    lock = options.lock
    level = lock.level if options.level is None else options.level
    digest = lock.tree(level)
    key = Key.of("source", package="bash", version=lock.version, level=level, tree=digest, format=_FORMAT)
    found = entry(options.cache, key, lambda folder: _fill(folder, options, level))
    return SourceTree(
        path=found.path / f"bash-{lock.version}", version=lock.version, level=level, digest=digest, epoch=lock.epoch
    )


def _fill(folder: Path, options: SourceOptions, level: int) -> None:
    from shell_tool_release.places import PLACES  # noqa: PLC0415  (requests takes 0.1 s, a warm cache needs none of it)

    reasons: list[str] = []
    downloads = options.cache / "downloads"
    for name in options.places:
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder.parent) as scratch:
            tree = Path(scratch) / "tree"
            try:
                delivery = PLACES[name](options.lock, level=level, scratch=Path(scratch), downloads=downloads)
                unpack(delivery, options.lock, tree)
                _verify(tree, options.lock, level, downloads / f"bash-{options.lock.version}-{level}-{name}.files.bad")
            except ReleaseError as error:
                reasons.append(f"{name}: {error}")
                continue
            settle(tree, options.lock.epoch)
            tree.rename(folder / f"bash-{options.lock.version}")
        for reason in reasons:
            if "refused" in reason:  # worth saying although another place helped
                sys.stderr.write(f"warning: {reason}\n")
        return
    listing = "\n".join(f"  {reason}" for reason in reasons)
    message = (
        f"bash {options.lock.version} (patch level {level}) could be had from no place. Tried, in this order:\n"
        f"  cache: nothing below {options.cache}\n{listing}\n"
        "Make one of them reachable (a proxy: set https_proxy), or copy the cache folder of a machine that has it."
    )
    raise SourceError(message)


def manifest_files(text: str) -> dict[str, int]:
    """Files the distribution's MANIFEST lists, with their modes (0o644 or 0o755)."""
    files: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and not words[0].startswith("#") and words[1] in {"f", "F"}:
            executable = len(words) > 2 and int(words[2], 8) & 0o100
            files[words[0]] = 0o755 if executable else 0o644
    return files


def unpack(delivery: Delivery, lock: BashLock, tree: Path) -> None:
    """Write the archive's source files below ``tree`` and apply its patches."""
    files = read_archive(delivery.archive)
    manifest = manifest_files(files.get(_MANIFEST, b"").decode("utf-8", "replace"))
    for path, mode in sorted(manifest.items()):
        if lock.keeps(path) and path in files:
            target = tree / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(files[path])
            target.chmod(mode)
    for text in delivery.patches:
        changes = patching.parse(text, strip=delivery.strip)
        patching.apply(tuple(change for change in changes if lock.keeps(change.path)), tree)


def read_archive(archive: Path) -> dict[str, bytes]:
    """Regular files of a tar archive by their path below its one top folder; nothing is extracted to disk."""
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                parts = PurePosixPath(member.name).parts
                if member.isreg() and len(parts) > 1 and ".." not in parts and parts[0] != "/":
                    stream = tar.extractfile(member)
                    if stream is not None:
                        files["/".join(parts[1:])] = stream.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        message = f"{archive.name} cannot be unpacked: {error}"
        raise SourceError(message) from error
    return files


def tree_listing(tree: Path) -> str:
    """Lines ``<sha256>  <path>`` of all regular files, sorted by path: what a tree hash is made of."""
    paths = sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file())
    return "".join(f"{hashlib.sha256((tree / path).read_bytes()).hexdigest()}  {path}\n" for path in paths)


def tree_digest(tree: Path) -> str:
    """Tree hash as the lock file defines it."""
    return hashlib.sha256(tree_listing(tree).encode()).hexdigest()


def _verify(tree: Path, lock: BashLock, level: int, aside: Path) -> None:
    listing = tree_listing(tree)
    found = hashlib.sha256(listing.encode()).hexdigest()
    if found != lock.tree(level):
        aside.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(listing, encoding="utf-8")
        message = f"tree hash is {found}, locked is {lock.tree(level)}; refused, its files are listed in {aside}"
        raise ChecksumError(message)


def settle(tree: Path, epoch: int) -> None:
    """Give everything below ``tree`` one modification time (seconds since 1970)."""
    for path in [tree, *tree.rglob("*")]:
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def patched_source(tree: SourceTree, patch: Path | None, destination: Path) -> tuple[patching.Applied, ...]:
    """Copy ``tree`` to ``destination`` (which must not exist) and apply ``patch``; PatchError when it does not fit."""
    shutil.copytree(tree.path, destination)
    applied: tuple[patching.Applied, ...] = ()
    if patch is not None:
        applied = patching.apply(patching.parse(patch.read_bytes(), strip=1), destination)
    settle(destination, tree.epoch)
    return applied


def git_repository(options: SourceOptions, destination: Path) -> str:
    """Make ``destination`` a git repository with one commit, the locked tree; returns the commit.

    For testing the README's manual steps where upstream's git cannot be reached.
    """
    tree = bash_source(options)
    shutil.copytree(tree.path, destination)
    who = {"NAME": "release", "EMAIL": "release@localhost", "DATE": f"{tree.epoch} +0000"}
    names = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in who.items()}
    environ = dict(os.environ) | names | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    for command in (
        ["init", "--quiet", "--initial-branch=master"],
        ["add", "--force", "--all"],
        ["commit", "--quiet", f"--message=bash {tree.version}, patch level {tree.level}"],
    ):
        subprocess.run(["git", *command], cwd=destination, env=environ, check=True, stdin=subprocess.DEVNULL)
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=destination, env=environ, check=True, capture_output=True)
    return done.stdout.decode().strip()


def check_patch(options: SourceOptions, patch: Path) -> str:
    """Apply ``patch`` at every locked level; returns a report, PatchError when it does not fit exactly."""
    lines: list[str] = []
    for level in sorted(options.lock.trees):
        single = SourceOptions(cache=options.cache, lock=options.lock, level=level, places=options.places)
        tree = bash_source(single)
        with tempfile.TemporaryDirectory(prefix="patch-", dir=options.cache) as scratch:
            applied = patched_source(tree, patch, Path(scratch) / "tree")
        moved = ", ".join(f"{one.path} {'/'.join(f'{offset:+d}' for offset in one.offsets)}" for one in applied)
        lines.append(f"bash {tree.version}, patch level {level}: applies without fuzz (lines moved: {moved})")
    return "\n".join(lines)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m shell_tool_release.sources", description=__doc__.splitlines()[0])
    parser.add_argument("--level", type=int, help="patch level to fetch (default: the lock's)")
    parser.add_argument("--place", action="append", choices=PLACE_NAMES, help="only these places, in this order")
    parser.add_argument("--no-patch", action="store_true", help="do not try our patch")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Fetch and verify bash's source, and say at which levels our patch applies."""
    arguments = _arguments(argv)
    places = tuple(arguments.place or PLACE_NAMES)
    options = SourceOptions(cache=cache_root(), lock=load_lock(), level=arguments.level, places=places)
    tree = bash_source(options)
    sys.stdout.write(f"bash {tree.version}, patch level {tree.level}: {tree.path}\n")
    patch = find_workspace().bash_patch
    if not arguments.no_patch:
        sys.stdout.write(check_patch(options, patch) + "\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
