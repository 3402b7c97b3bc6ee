"""Looks for what is new upstream, locks it, and says what changed: bash's patches, zsh, CPython, every dependency.

API::

    refresh(workspace, apply=) -> Report          what was found; with ``apply`` the lock files are changed
    lock_dependencies(workspace, upgrade=)        packaging/constraints.txt and packaging/locks/*.txt
    description(report) -> str                    the text of the pull request

Bash's official patches are locked here: their tree is computed from every place that can be reached; all must agree.
So are CPython's patch releases, and zsh's releases if our patch fits them exactly; one that it does not fit is told,
and waits for a person. The sessions that are run again say whether what is locked is built and does what it should.

Dependencies are resolved by uv for every platform at once. What ``pyproject.toml`` pins with ``==`` stays.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import requests
from packaging.markers import Marker

from shell_tool_release import apt, environments, releases
from shell_tool_release.download import CONNECT_SECONDS, READ_SECONDS
from shell_tool_release.errors import (
    BuildError,
    PatchError,
    PrerequisiteError,
    ReleaseError,
    SourceError,
    run_main,
)
from shell_tool_release.lock import LOCK_FILE, load_lock, load_zsh_lock
from shell_tool_release.places import Delivery
from shell_tool_release.sources import tree_digest, unpack
from shell_tool_release.workspace import find_workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from shell_tool_release.lock import BashLock
    from shell_tool_release.workspace import Workspace

LOCKS = environments.LOCKS

SUITES: Mapping[str, tuple[str, ...]] = {
    "bash": ("release", "tests", "suite"),
    "zsh": ("release", "tests", "suite_zsh"),
    "cpython": ("release", "tests"),
    "dependency": ("lint", "release", "tests"),
}
"""What must hold again after a change of a part: sessions of ./run."""

_LARGEST_STEP = 40
"""More new patches than this at once are a mistake of ours."""

_OUR_SYSTEMS = [
    {"sys_platform": system, "platform_system": name} for system, name in (("linux", "Linux"), ("darwin", "Darwin"))
]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing that is newer upstream; ``locked`` is whether the lock files have it (or would, with ``apply``)."""

    part: str
    name: str
    before: str
    after: str
    notes: str = ""
    locked: bool = True


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found; ``unreachable`` says where nothing could be looked up, and why."""

    changes: tuple[Change, ...]
    unreachable: tuple[str, ...] = ()

    @property
    def sessions(self) -> tuple[str, ...]:
        """The sessions that matter for what was locked, each once."""
        wanted = [SUITES.get(change.part, ()) for change in self.changes if change.locked]
        return tuple(dict.fromkeys(session for sessions in wanted for session in sessions))


@dataclass(frozen=True, kw_only=True)
class NewPatches:
    """Bash's patches after the locked level, by number, and how they are applied."""

    place: str
    texts: Mapping[int, bytes]
    delivery: Delivery
    archives: Mapping[str, str] = field(default_factory=dict)

    @property
    def level(self) -> int:
        """The newest."""
        return max(self.texts)


def refresh(workspace: Workspace, *, apply: bool) -> Report:
    """Look at everything; what cannot be looked at is told, not an error.

    Raises:
        BuildError: Two places say different things of the same patch level.
    """
    unreachable: list[str] = []
    changes: list[Change] = []
    looks: dict[str, Callable[[Path], Iterable[Change]]] = {
        "bash": lambda scratch: bash_changes(load_lock(), scratch, apply=apply),
        "cpython": lambda scratch: cpython_changes(scratch, apply=apply),
        "zsh": lambda scratch: zsh_changes(workspace, scratch, apply=apply),
        "dependencies": lambda _: lock_dependencies(workspace, upgrade=True, apply=apply),
    }
    for name, look in looks.items():
        with tempfile.TemporaryDirectory(prefix="refresh-") as scratch:
            try:
                changes += look(Path(scratch))
            except (SourceError, PrerequisiteError) as error:
                unreachable.append(f"{name}: {error}")
    return Report(changes=tuple(changes), unreachable=tuple(unreachable))


def bash_changes(lock: BashLock, scratch: Path, *, apply: bool) -> list[Change]:
    """Bash's new official patches, locked if ``apply``; SourceError when no place can be asked."""
    found: list[NewPatches] = []
    reasons: list[str] = []
    for place in (patches_at_gnu, patches_at_debian):
        try:
            new = place(lock, scratch)
        except ReleaseError as error:
            reasons.append(str(error))
        else:
            found += [new] if new.texts else []
            reasons.append("")
    if all(reasons):
        raise SourceError("; ".join(reasons))
    if not found:
        return []
    level = max(new.level for new in found)
    tree = agreed_tree(lock, [new for new in found if new.level == level], level, scratch)
    if apply:
        text = LOCK_FILE.read_text(encoding="utf-8")
        LOCK_FILE.write_text(relocked(text, lock, level, tree, found), encoding="utf-8")
    texts = {number: text for new in reversed(found) for number, text in new.texts.items()}
    notes = "\n".join(f"  - {number:03d}: {subject(text)}" for number, text in sorted(texts.items()))
    return [Change(part="bash", name="bash", before=f"5.3.{lock.level}", after=f"5.3.{level}", notes=notes)]


def patches_at_gnu(lock: BashLock, scratch: Path) -> NewPatches:
    """The patches GNU's servers have after the locked ones; SourceError when no server can be asked."""
    reasons = []
    for base in lock.gnu.urls:
        try:
            texts = _numbered(base + lock.gnu.patch_folder, lock)
            archive = _delivered(base + lock.gnu.archive, scratch) if texts else Path()
            before = (
                [_fetched(f"{base}{lock.gnu.patch_folder}{name}") for name in sorted(lock.gnu.patches)] if texts else []
            )
        except requests.exceptions.RequestException as error:
            reasons.append(f"{base}: {type(error).__name__}")
            continue
        everything = (*[text for text in before if text], *texts.values())
        return NewPatches(place="gnu", texts=texts, delivery=Delivery(archive=archive, patches=everything, strip=0))
    raise SourceError("; ".join(reasons))


def _numbered(folder: str, lock: BashLock) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for number in range(lock.level + 1, lock.level + _LARGEST_STEP):
        text = _fetched(f"{folder}bash{lock.version.replace('.', '')}-{number:03d}")
        if text is None:
            return found
        found[number] = text
    raise SourceError(f"{folder} has more than {_LARGEST_STEP} new patches, which cannot be")


def _fetched(url: str) -> bytes | None:
    """What is at ``url``, or ``None`` if it is not there."""
    answer = requests.get(url, timeout=(CONNECT_SECONDS, READ_SECONDS), headers={"Accept-Encoding": "identity"})
    if answer.status_code == requests.codes.not_found:
        return None
    answer.raise_for_status()
    return answer.content


def _delivered(url: str, scratch: Path) -> Path:
    path = scratch / url.rpartition("/")[2]
    path.write_bytes(_fetched(url) or b"")
    return path


def patches_at_debian(lock: BashLock, scratch: Path) -> NewPatches:
    """The official patches in Debian's newest package after the locked ones; SourceError when apt cannot say."""
    place = lock.debian
    found = apt.newest_source(package=place.package, suites=place.suites, scratch=scratch / "apt-bash", download=True)
    pattern = re.compile(re.escape(place.patch).replace(r"\{number:03d\}", r"(\d{3})"))
    texts = {
        int(match[1]): text
        for name, text in _archived(found.files, ".debian.tar.").items()
        if (match := pattern.fullmatch(name))
    }
    new = {number: text for number, text in sorted(texts.items()) if number > lock.level}
    archive = next(path for path in found.files if ".orig.tar." in path.name)
    everything = tuple(text for _, text in sorted(texts.items()))
    hashes = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found.files if ".debian.tar." in path.name
    }
    return NewPatches(
        place="debian", texts=new, delivery=Delivery(archive=archive, patches=everything, strip=1), archives=hashes
    )


def _archived(files: Iterable[Path], kind: str) -> dict[str, bytes]:
    import tarfile  # noqa: PLC0415

    path = next(path for path in files if kind in path.name)
    with tarfile.open(path) as archive:
        streams = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
        return {name: stream.read() for name, stream in streams.items() if stream is not None}


def agreed_tree(lock: BashLock, found: Sequence[NewPatches], level: int, scratch: Path) -> str:
    """The hash of the tree at ``level``, which every place gives; BuildError when they differ."""
    trees = {}
    for new in found:
        tree = scratch / f"tree-{new.place}"
        unpack(new.delivery, lock, tree)
        trees[new.place] = tree_digest(tree)
    if len(set(trees.values())) != 1:
        said = ", ".join(f"{place} gives {tree}" for place, tree in trees.items())
        raise BuildError(f"bash {lock.version} at patch level {level}: {said}; look at both before you lock either")
    return next(iter(trees.values()))


def relocked(text: str, lock: BashLock, level: int, tree: str, found: Sequence[NewPatches]) -> str:
    """Return the lock file with bash at ``level``; BuildError if it has not the lines that change."""
    gnu = next((new for new in found if new.place == "gnu"), None)
    debian = next((new for new in found if new.place == "debian"), None)
    prefix = f"bash{lock.version.replace('.', '')}"
    edits = [
        (rf"^level = {lock.level}( .*)$", rf"level = {level}\1"),
        (rf'^({lock.level} = "{lock.tree(lock.level)}")$', rf'\1\n{level} = "{tree}"'),
    ]
    if gnu:
        rows = "".join(
            f'\n{prefix}-{number:03d} = "{hashlib.sha256(one).hexdigest()}"' for number, one in gnu.texts.items()
        )
        edits.append((rf'^({prefix}-{lock.level:03d} = "[0-9a-f]{{64}}")$', rf"\1{rows}"))
    if debian:
        rows = "".join(f'"{name}" = "{sha256}"\n' for name, sha256 in debian.archives.items())
        edits.append((r"^(\[bash\.debian\.patch_archives\]\n)", rf"\1{rows}"))
    for pattern, new in edits:
        text, count = re.subn(pattern, new, text, count=1, flags=re.MULTILINE)
        if count != 1:
            raise BuildError(f"{LOCK_FILE} has no line like {pattern}")
    return text


def subject(patch: bytes) -> str:
    """The first sentence of an official patch's description; Debian's copies have it too."""
    text = patch.decode("utf-8", "replace")
    found = re.search(r"(?:Bug-Description:|Description:|# DP:)\s*(.+?)(?:\n\s*\n|\nPatch|\.\s)", text, re.DOTALL)
    return " ".join(found[1].replace("# DP:", " ").split())[:200] if found else "(it describes itself nowhere)"


def cpython_changes(scratch: Path, *, apply: bool) -> list[Change]:
    """A newer patch release of the CPython that is frozen, locked if ``apply``; SourceError when Debian cannot say."""
    found = releases.newer("cpython", scratch)
    if found is None:
        return []
    _lock_release("cpython", found, "", apply=apply)
    return [_release_change("cpython", found, "")]


def zsh_changes(workspace: Workspace, scratch: Path, *, apply: bool) -> list[Change]:
    """A newer zsh, locked if ``apply`` and our patch fits it exactly, else told with what does not fit."""
    found = releases.newer("zsh", scratch)
    if found is None:
        return []
    try:
        tree = releases.zsh_tree(found, workspace.zsh_patch, load_zsh_lock(), scratch)
    except PatchError as error:
        return [_release_change("zsh", found, f"; {workspace.zsh_patch.name} does not fit it: {error}", locked=False)]
    _lock_release("zsh", found, tree, apply=apply)
    return [_release_change("zsh", found, "")]


def _lock_release(name: str, found: releases.Release, tree: str, *, apply: bool) -> None:
    path = releases.FILES[name]
    text = releases.relocked(name, path.read_text(encoding="utf-8"), found, tree)
    if apply:
        path.write_text(text, encoding="utf-8")


def _release_change(name: str, found: releases.Release, note: str, *, locked: bool = True) -> Change:
    notes = f"  - `{found.archive.name}`, SHA-256 `{found.sha256}`, in Debian's {found.suite}{note}"
    return Change(part=name, name=name, before=found.before, after=found.version, notes=notes, locked=locked)


def lock_dependencies(workspace: Workspace, *, upgrade: bool, apply: bool) -> list[Change]:
    """Resolve every group for every platform; write the versions, and per group the hashes, if ``apply``.

    Args:
        workspace: The checkout.
        upgrade: Take the newest versions; else those in ``packaging/constraints.txt``, for new requirements the newest.
        apply: Write the files.

    Raises:
        PrerequisiteError: uv is not here.
        SourceError: The index could not be asked, or no versions fit together; uv says why.
    """
    constraints = workspace.root / environments.CONSTRAINTS
    before = versions(constraints.read_text(encoding="utf-8"))
    groups = environment_groups(workspace)
    wanted = sorted({line for group in groups for line in environments.requirements(workspace.root, group)})
    compiled = _compiled(wanted, None if upgrade else constraints, hashes=False)
    after = versions(compiled)
    needed = [line for group in _BUILD_GROUPS for line in environments.requirements(workspace.root, group)]
    pins = [f"{name}=={version}" for name, version in sorted(after.items())]
    for machine in _BUILD_MACHINES:
        _want_wheels(machine, needed, pins)
    if apply:
        head = [line for line in constraints.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        constraints.write_text("\n".join([*head, *pins]) + "\n", encoding="utf-8")
        (workspace.root / LOCKS).mkdir(exist_ok=True)
        for group in groups:
            lines = environments.requirements(workspace.root, group)
            text = _compiled(lines, constraints, hashes=True)
            (workspace.root / LOCKS / f"{group}.txt").write_text(text, encoding="utf-8")
    return [
        Change(
            part="dependency",
            name=name,
            before=before.get(name, "-"),
            after=after.get(name, "-"),
            notes=_changelog(name),
        )
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def environment_groups(workspace: Workspace) -> tuple[str, ...]:
    """Every group that can be installed, the project's own dependencies first."""
    document = tomllib.loads((workspace.root / "pyproject.toml").read_text(encoding="utf-8"))
    return (environments.PROJECT, *document["dependency-groups"])


def versions(text: str) -> dict[str, str]:
    """Name → version in a requirements file, without what only systems need that we do not run on."""
    found = {}
    for line in text.splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)(?:\s*;\s*([^\\]+))?", line)
        if match and _is_ours(match[3]):
            found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return found


def _is_ours(marker: str | None) -> bool:
    if marker is None:
        return True
    pythons = [{"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.1"} for minor in range(11, 16)]
    machines = [{"platform_machine": machine} for machine in ("x86_64", "aarch64", "arm64")]
    wanted = Marker(marker.strip())
    return any(
        wanted.evaluate({**system, **python, **machine})
        for system in _OUR_SYSTEMS
        for python in pythons
        for machine in machines
    )


def _compiled(wanted: Sequence[str], constraints: Path | None, *, hashes: bool) -> str:
    options = ["--universal", "--python-version", "3.11", *(["--generate-hashes"] if hashes else [])]
    options += ["--constraint", str(constraints)] if constraints else []
    done = _uv(options, wanted)
    if done.returncode:
        raise SourceError(f"uv could not resolve the dependencies: {done.stderr.strip()[-1500:]}")
    return done.stdout


def _uv(options: Sequence[str], wanted: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Resolve ``wanted`` from wheels, but for what the options let be built."""
    program = Path(sysconfig.get_path("scripts")) / "uv"
    if not program.is_file():
        raise PrerequisiteError(f"uv is not beside {sys.executable}; run: ./run refresh, which installs it")
    command = [str(program), "pip", "compile", "--no-header", "--quiet", "--no-annotate", "--only-binary", ":all:"]
    command += [*options, "-"]
    return subprocess.run(command, input="\n".join(wanted), capture_output=True, text=True, check=False)


BUILD_PYTHON = "3.13"
"""The Python of machines that build: that of the frozen server on Linux, and of the workflow on macOS."""

_BUILD_GROUPS = (environments.PROJECT, "run", "freeze", "release", environments.BUILD_TOOLS)
"""What a machine installs to build the package."""

_BUILD_MACHINES = {
    ("Linux", "x86_64"): "x86_64-manylinux2014",
    ("Linux", "aarch64"): "aarch64-manylinux2014",
    ("Darwin", "x86_64"): "x86_64-apple-darwin",
    ("Darwin", "arm64"): "aarch64-apple-darwin",
}
"""Machines that build, as ``uname`` says and as uv does."""


def _want_wheels(machine: tuple[str, str], wanted: Sequence[str], pins: Sequence[str]) -> None:
    """SourceError if there is no wheel for a machine that builds, of anything but what ``environments.py`` excepts.

    Authors stop making them for a platform without a word, and the release would fail there, on its day.
    """
    with tempfile.TemporaryDirectory(prefix="wheels-") as folder:
        pinned = Path(folder) / "pins.txt"
        pinned.write_text("\n".join(pins), encoding="utf-8")
        needed = _compiled(wanted, pinned, hashes=False).splitlines()
    built, left_out = environments.FROM_SOURCE.get(machine, ()), environments.LEFT_OUT.get(machine, ())
    options = ["--python-platform", _BUILD_MACHINES[machine], "--python-version", BUILD_PYTHON, "--no-deps"]
    options += ["--no-binary", ",".join(built)] if built else []
    done = _uv(options, [line for line in needed if line.partition("==")[0] not in left_out])
    if done.returncode:
        name = " ".join(machine)
        raise SourceError(f"a build on {name} could not install what it needs: {done.stderr.strip()[-1500:]}")


def _changelog(name: str) -> str:
    """Where a distribution says what changed, as the installed one knows it; empty where it does not."""
    try:
        urls = metadata.metadata(name).get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return ""
    pairs = [url.split(",", 1) for url in urls if "," in url]
    found = [place.strip() for label, place in pairs if re.search(r"change|release|history|news", label, re.IGNORECASE)]
    return f"  - {found[0]}" if found else ""


def description(report: Report) -> str:
    """The text of the pull request."""
    titles = {"bash": "Bash", "zsh": "Zsh", "cpython": "CPython", "dependency": "Dependencies"}
    lines = ["What is new upstream, found by `./run refresh`."]
    for part, title in titles.items():
        changes = [change for change in report.changes if change.part == part]
        if changes:
            lines += ["", f"## {title}", ""]
        for change in changes:
            lines.append(
                f"- {change.name}: {change.before} → {change.after}{'' if change.locked else ' (not locked yet)'}"
            )
            lines += [change.notes] if change.notes else []
    if report.unreachable:
        lines += ["", "## Not looked at", "", *(f"- {reason}" for reason in report.unreachable)]
    if report.sessions:
        lines += ["", f"Run again for this: `./run {' '.join(report.sessions)}`."]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Look, lock, and write the text and the sessions to ``build/refresh``."""
    parser = argparse.ArgumentParser(
        prog="python -m shell_tool_release.refresh", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--dry-run", action="store_true", help="change nothing")
    parser.add_argument("--lock", action="store_true", help="upgrade nothing: lock what pyproject.toml asks for")
    arguments = parser.parse_args(argv)
    workspace = find_workspace()
    if arguments.lock:
        changes = lock_dependencies(workspace, upgrade=False, apply=True)
        report = Report(changes=tuple(changes))
    else:
        report = refresh(workspace, apply=not arguments.dry_run)
    folder = workspace.build / "refresh"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "description.md").write_text(description(report), encoding="utf-8")
    (folder / "sessions.json").write_text(json.dumps(report.sessions) + "\n", encoding="utf-8")
    # For the workflow: also what could only be told is worth a pull request.
    (folder / "changed").write_text(f"{str(bool(report.changes)).lower()}\n", encoding="utf-8")
    sys.stdout.write(description(report))


if __name__ == "__main__":
    sys.exit(run_main(main))
