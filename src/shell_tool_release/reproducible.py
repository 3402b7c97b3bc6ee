"""Builds everything twice under different circumstances and compares the results, byte for byte.

API::

    two_builds(workspace, sessions) -> tuple[Artefact, ...]      BuildError names the first difference of each artefact
    rebuilt(workspace, published, sessions)                      one build, compared with what was published
    table(artefacts) -> str                                      for docs/releasing.md

The first build is as a user makes it: this user, all processors, the usual cache. The second one has another folder,
user (if this one is root), home, umask, locale, time zone, time of its files, hash seed and SOURCE_DATE_EPOCH, one
processor, environments of its own and an empty cache: everything is compiled again. Both are clones, so what is not
committed counts and what is ignored does not.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from shell_tool_release import roots
from shell_tool_release.archives import unpack
from shell_tool_release.cache import cache_root
from shell_tool_release.differ import first_difference
from shell_tool_release.errors import BuildError, PrerequisiteError, run_main
from shell_tool_release.evidence import SUMS
from shell_tool_release.preflight import MINIMUM_PYTHON
from shell_tool_release.workspace import Workspace, find_workspace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SESSIONS = ("pack", "wheels", "evidence")
"""What makes every artefact; each builds what it needs first."""

DOCUMENT = Path("docs") / "releasing.md"
MARKS = ("<!-- artefacts: written by ./run reproducible -- --write -->", "<!-- artefacts: end -->")

_OTHER_USERS = ("nobody",)
_SECONDS = 3 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What a build must not depend on; ``files_from`` is the time of its files, ``user`` None is this one."""

    name: str
    folder: str
    cache: Path | None
    umask: int
    environ: Mapping[str, str]
    user: str | None = None
    one_processor: bool = False
    files_from: int | None = None


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


def circumstances(other_user: str | None) -> tuple[Circumstances, Circumstances]:
    """The two ways everything is built."""
    usual = Circumstances(
        name="first",
        folder="one/checkout",
        cache=cache_root(),
        umask=0o022,
        environ={"LC_ALL": "C.UTF-8", "TZ": "UTC"},
    )
    other = Circumstances(
        name="second",
        folder="another/folder/with/a/longer/name/checkout",
        cache=None,
        umask=0o077,
        environ={
            "LC_ALL": "C",
            "LANGUAGE": "de",
            "TZ": "Pacific/Kiritimati",
            "SOURCE_DATE_EPOCH": "1",
            "PYTHONHASHSEED": "99",
            "COLUMNS": "40",
        },
        user=other_user,
        one_processor=True,
        files_from=946684800,  # 2000
    )
    return usual, other


def another_user() -> str | None:
    """A user that root can become, or ``None`` where this one is not root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in _OTHER_USERS if name in known), None)


def common_python(user: str | None) -> str:
    """A Python that both builds can run: this one, unless it lies in a home that the other user cannot enter.

    Raises:
        PrerequisiteError: There is none.
    """
    own = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    candidates = [str(own), *filter(None, [shutil.which("python3", path="/usr/local/bin:/usr/bin")])]
    code = f"import sys; sys.exit(sys.version_info < {MINIMUM_PYTHON})"
    for python in candidates:
        try:
            if subprocess.run([python, "-I", "-c", code], user=user, check=False, cwd="/").returncode == 0:
                return python
        except OSError:
            continue
    raise PrerequisiteError(f"no Python that user {user} may run: tried {', '.join(candidates)}; install python3")


def copy_clone(workspace: Workspace, target: Path, files_from: int | None) -> None:
    """Copy what git would have in a clone, with the changes that are not committed yet."""
    command = ["git", "-C", str(workspace.root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in filter(None, subprocess.run(command, capture_output=True, check=True).stdout.split(b"\0")):
        source, copy = workspace.root / os.fsdecode(name), target / os.fsdecode(name)
        if not source.is_file():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        copy.chmod(0o777 if os.access(source, os.X_OK) else 0o666)
        if files_from is not None:
            os.utime(copy, (files_from, files_from))


def build(workspace: Workspace, scratch: Path, how: Circumstances, sessions: Sequence[str]) -> Path:
    """Build in a clone below ``scratch``; returns its ``dist`` folder.

    Raises:
        BuildError: A step failed; the text shows the end of the log.
    """
    place, home = scratch / how.name / how.folder, scratch / how.name / "home"
    if not place.is_dir():
        copy_clone(workspace, place, how.files_from)
    for name in roots.HOME_FILES:
        if (Path.home() / name).is_file():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path.home() / name, home / name)
    home.mkdir(exist_ok=True)
    cache = how.cache or scratch / how.name / "cache"
    cache.mkdir(exist_ok=True)
    if how.user:
        _give(scratch, scratch / how.name, how.user)
    environ = {name: os.environ[name] for name in ("PATH", "GITHUB_REPOSITORY") if name in os.environ}
    environ |= roots.carried_environment() | {
        "HOME": str(home),
        "CODEX_BUILD_CACHE": str(cache),
        "PYTHON": common_python(how.user),
        **how.environ,
    }
    log = scratch / f"{how.name}.log"
    _run(["./run", *sessions], place, environ, how, log)
    return place / "dist"


def _give(scratch: Path, folder: Path, user: str) -> None:
    """Make ``folder`` the other user's, who can also get there."""
    scratch.chmod(0o755)
    subprocess.run(["chown", "-R", f"{user}:", str(folder)], check=True)


def _run(command: Sequence[str], place: Path, environ: Mapping[str, str], how: Circumstances, log: Path) -> None:
    processors = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if how.one_processor and processors:
        os.sched_setaffinity(0, {min(processors)})
    try:
        with log.open("wb") as stream:
            done = subprocess.run(
                command,
                cwd=place,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                umask=how.umask,
                user=how.user,
                group=pwd.getpwnam(how.user).pw_gid if how.user else None,
                extra_groups=[] if how.user else None,
                check=False,
                timeout=_SECONDS,
            )
    finally:
        if processors:
            os.sched_setaffinity(0, processors)
    if done.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:]
        raise BuildError("\n".join([f"the {how.name} build ended with status {done.returncode}; log: {log}", *tail]))


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


def two_builds(workspace: Workspace, scratch: Path, sessions: Sequence[str] = SESSIONS) -> tuple[Artefact, ...]:
    """Build twice and compare; :func:`compare` says what is raised."""
    results = []
    ways = circumstances(another_user())
    for how in ways:  # both before the first build: who goes on working in the checkout must not change the second
        copy_clone(workspace, scratch / how.name / how.folder, how.files_from)
    for how in ways:
        started = time.monotonic()
        dist = build(workspace, scratch, how, sessions)
        results.append(artefacts(dist))
        who = how.user or pwd.getpwuid(os.geteuid()).pw_name
        sys.stderr.write(f"{how.name} build, by {who}: {time.monotonic() - started:.0f} s\n")
    return compare(*results)


def rebuilt(
    workspace: Workspace,
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
    dist = build(workspace, scratch, circumstances(None)[1], sessions)
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


def with_table(text: str, made: Sequence[Artefact], version: str) -> str:
    """Return the document with the table between its marks; BuildError when they are not there."""
    start, end = (re.escape(mark) for mark in MARKS)
    said = f"Version {version}, built twice with the same bytes each time:"
    new, count = re.subn(
        f"({start}).*?({end})",
        lambda found: f"{found[1]}\n\n{said}\n\n{table(made)}\n\n{found[2]}",
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
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="build there and leave it (it must not exist)")
    arguments = parser.parse_args(argv)
    workspace, usual = find_workspace(), ("vendor",) if arguments.platform_only else SESSIONS
    sessions = tuple(arguments.session or usual)
    with tempfile.TemporaryDirectory(prefix="reproducible-", ignore_cleanup_errors=True) as temporary:
        scratch = arguments.keep or Path(temporary)
        scratch.mkdir(exist_ok=arguments.keep is None)
        if arguments.against:
            alone = arguments.platform_only
            made = rebuilt(workspace, arguments.against, scratch, sessions, platform_only=alone)
        else:
            made = two_builds(workspace, scratch, sessions)
    sys.stdout.write(f"{table(made)}\n{len(made)} artefacts, the same bytes each time\n")
    if arguments.write:
        path = workspace.root / DOCUMENT
        path.write_text(with_table(path.read_text(encoding="utf-8"), made, workspace.version), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_main(main))
