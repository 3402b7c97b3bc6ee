"""Builds everything twice under different circumstances and compares the results, byte for byte.

API::

    two_builds(clone, scratch, sessions) -> tuple[Artefact, ...]   BuildError names each artefact's first difference
    rebuilt(clone, published, scratch, sessions)                   one build, compared with what was published
    table(artefacts) -> str                                        for docs/releasing.md

The first build is as a user makes it: this user, all processors, the usual cache. The second one is in another system
(a minimal Debian of its own, where root can make one) or at least another user's (if this one is root), and has another
folder, home, umask, locale, time zone, time of its files, hash seed and SOURCE_DATE_EPOCH, one processor, environments
of its own and an empty cache: everything is compiled again. Both are clones, so what is not committed counts and what
is ignored does not. In a folder that is kept, what was broken off goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from shell_tool_release.archives import unpack
from shell_tool_release.builds import Circumstances, Clone, another_system, another_user, build, circumstances, prepare
from shell_tool_release.differ import first_difference
from shell_tool_release.errors import BuildError, run_main
from shell_tool_release.evidence import SUMS
from shell_tool_release.workspace import find_workspace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SESSIONS = ("pack", "wheels", "evidence")
"""What makes every artefact; each builds what it needs first."""

DOCUMENT = Path("docs") / "releasing.md"
MARKS = ("<!-- artefacts: written by ./run reproducible -- --write -->", "<!-- artefacts: end -->")


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """One file that a release consists of."""

    name: str
    size: int
    sha256: str


@dataclass(kw_only=True)
class _Comparison:
    same: list[Artefact] = field(default_factory=list)
    different: list[str] = field(default_factory=list)


def artefacts(dist: Path) -> dict[str, Path]:
    """The finished files below a ``dist`` folder, by name."""
    found = {path.name: path for path in sorted(dist.rglob("*")) if path.is_file()}
    if not found:
        raise BuildError(f"{dist} holds no artefacts; build them first: ./run {' '.join(SESSIONS)}")
    return found


def described(path: Path) -> Artefact:
    """Name, size and hash of a file."""
    data = path.read_bytes()
    return Artefact(name=path.name, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def compare(one: Mapping[str, Path], other: Mapping[str, Path]) -> tuple[Artefact, ...]:
    """Return what both have, byte for byte.

    Raises:
        BuildError: Something is not the same; each artefact's first difference is in the text.
    """
    found = _Comparison()
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            found.different.append(f"{name}: only the {'first' if name in one else 'second'} has it")
            continue
        difference = first_difference(one[name], other[name])
        if difference is None:
            found.same.append(described(one[name]))
        else:
            found.different.append(str(difference))
    if found.different:
        lines = [f"{len(found.different)} of {len(found.same) + len(found.different)} artefacts are not the same:"]
        raise BuildError("\n  ".join([*lines, *found.different]))
    return tuple(found.same)


def two_builds(
    clone: Clone, scratch: Path, ways: Sequence[Circumstances], sessions: Sequence[str] = SESSIONS
) -> tuple[Artefact, ...]:
    """Build in both ``ways`` and compare; :func:`compare` says what is raised."""
    results = []
    for how in ways:  # both before the first build: who goes on working in the checkout must not change the second
        prepare(clone, scratch, how)
    for how in ways:
        started = time.monotonic()
        sys.stderr.write(f"{how.name} build: {how.described()}; log: {scratch / how.name}.log\n")
        results.append(artefacts(build(clone, scratch, how, sessions)))
        sys.stderr.write(f"{how.name} build: {time.monotonic() - started:.0f} s\n")
    return compare(*results)


def rebuilt(
    clone: Clone,
    published: Path,
    scratch: Path,
    sessions: Sequence[str] = SESSIONS,
    *,
    platform_only: bool = False,
) -> tuple[Artefact, ...]:
    """Build once, with an empty cache, and compare with the files in ``published``.

    With ``platform_only`` the wheels are left to the machine of the platform they were made on.

    Wheels and the source archive are compared whole. The npm package holds servers that only their own platforms can
    freeze: of it the folders are compared that this machine makes, and its manifests and sums follow from those.

    Raises:
        BuildError: Something published is not what this checkout makes.
    """
    theirs = artefacts(published)
    dist = build(clone, scratch, circumstances(None)[1], sessions)
    mine = {} if platform_only else artefacts(dist)
    packages = [path for path in theirs.values() if path.suffix == ".tgz"]
    derived = {name for name in theirs if name == SUMS or any(name.startswith(path.name) for path in packages)}
    check_sums(theirs)
    wanted = {name: path for name, path in theirs.items() if name not in derived and not platform_only}
    # What is rebuilt beside that (a wheel of a platform that was not published) is no difference.
    same = compare(wanted, {name: path for name, path in mine.items() if name in wanted}) if wanted else ()
    return (*same, *(part for package in packages for part in compare_package(package, dist.parent / "vendor")))


def check_sums(published: Mapping[str, Path]) -> None:
    """Return if every file has its line in ``SHA256SUMS``, where that was published; BuildError names the first."""
    if SUMS not in published:
        return
    lines = [line.split("  ", 1) for line in published[SUMS].read_text(encoding="utf-8").splitlines()]
    sums = {name: sha256 for sha256, name in lines}
    for name, path in published.items():
        if name != SUMS and sums.get(name) != described(path).sha256:
            raise BuildError(f"{name} is not what {SUMS} says: {sums.get(name, 'it has no line')}")


def compare_package(package: Path, vendor: Path) -> tuple[Artefact, ...]:
    """Compare the platforms in an npm package that were also built below ``vendor``; BuildError names a difference."""
    found = []
    with tempfile.TemporaryDirectory(prefix="published-") as folder:
        unpack(package, Path(folder) / "package", exact=True)
        for platform in sorted(path.name for path in vendor.iterdir() if path.is_dir()):
            theirs = Path(folder) / "package" / "vendor" / platform
            if not theirs.is_dir() or not (vendor / platform / "server").is_dir():
                continue
            difference = first_difference(theirs, vendor / platform)
            if difference is not None:
                raise BuildError(f"{package.name}: vendor/{platform}: {difference}")
            files = [path for path in theirs.rglob("*") if path.is_file()]
            total = hashlib.sha256("".join(described(path).sha256 for path in sorted(files)).encode()).hexdigest()
            size = sum(path.stat().st_size for path in files)
            found.append(Artefact(name=f"{package.name}: vendor/{platform}", size=size, sha256=total))
    if not found:
        raise BuildError(f"{package.name} holds no platform that was built here; rebuild on one of its platforms")
    return tuple(found)


def table(made: Sequence[Artefact]) -> str:
    """The artefacts as a Markdown table."""
    rows = [f"| `{one.name}` | {one.size:,} | `{one.sha256}` |" for one in made]
    return "\n".join(["| artefact | bytes | SHA-256 |", "|---|---|---|", *rows])


def told(version: str, commit: str, ways: Sequence[Circumstances], made: Sequence[Artefact]) -> str:
    """What the document says of two builds: of what, how, and the artefacts."""
    lines = [
        f"Version {version}, commit {commit}, built twice with the same bytes each time (the commit that brought this"
    ]
    lines += ["table differs from it in this file alone, which is in no artefact):", ""]
    lines += [f"- the {how.name} time {how.described()}" for how in ways]
    return "\n".join([*lines, "", table(made)])


def with_table(text: str, said: str) -> str:
    """Return the document with what is said between its marks; BuildError when they are not there."""
    start, end = (re.escape(mark) for mark in MARKS)
    new, count = re.subn(
        f"({start}).*?({end})",
        lambda found: f"{found[1]}\n\n{said}\n\n{found[2]}",
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise BuildError(f"{DOCUMENT} must have the marks {MARKS[0]} and {MARKS[1]} once")
    return new


def main(argv: Sequence[str] | None = None) -> None:
    """Build twice, or once beside what was published, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m shell_tool_release.reproducible", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--write", action="store_true", help=f"write the table into {DOCUMENT}")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="compare one build with the files there instead")
    parser.add_argument(
        "--platform-only", action="store_true", help="with --against: only this platform's part of the npm package"
    )
    parser.add_argument("--session", action="append", help=f"what to run (default: {', '.join(SESSIONS)})")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="build there and leave it; what is finished there is not made again"
    )
    arguments = parser.parse_args(argv)
    workspace, usual = find_workspace(), ("vendor",) if arguments.platform_only else SESSIONS
    sessions, clone = tuple(arguments.session or usual), Clone.of(workspace)
    suite, reason = another_system()
    ways = circumstances(another_user(), suite)
    with tempfile.TemporaryDirectory(prefix="reproducible-", ignore_cleanup_errors=True) as temporary:
        scratch = (arguments.keep or Path(temporary)).absolute()
        scratch.mkdir(parents=True, exist_ok=True)
        if arguments.against:
            made = rebuilt(clone, arguments.against, scratch, sessions, platform_only=arguments.platform_only)
        else:
            sys.stderr.write(f"both builds are in this system: {reason}\n" if reason else "")
            made = two_builds(clone, scratch, ways, sessions)
    sys.stdout.write(f"{table(made)}\n{len(made)} artefacts, the same bytes each time\n")
    if arguments.write:
        path = workspace.root / DOCUMENT
        said = told(workspace.version, clone.commit, ways, made)
        path.write_text(with_table(path.read_text(encoding="utf-8"), said), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_main(main))
