"""Builds a clone of this checkout under given circumstances: who, where, with what around it.

API::

    circumstances(user, suite) -> (usual, other)     the two ways everything is built
    Clone.of(workspace) -> Clone                     what git would have in a clone, and a name for exactly that
    build(clone, scratch, how, sessions) -> Path     the ``dist`` folder; a finished build of the same files is kept
"""

from __future__ import annotations

import hashlib
import os
import platform
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from shell_tool_release import fresh, roots
from shell_tool_release.cache import cache_root
from shell_tool_release.errors import BuildError, PrerequisiteError
from shell_tool_release.preflight import MINIMUM_PYTHON

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shell_tool_release.workspace import Workspace

SUITES = ("trixie", "bookworm")
"""Debian systems that the other build can be in: the first of which this one is none."""

_OTHER_USERS = ("nobody",)
_SECONDS = 3 * 3600.0
_KEPT = ("GITHUB_REPOSITORY",)
"""What a package says of itself by a variable."""


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What a build must not depend on; ``files_from`` is the time of its files, ``user`` None is this one.

    ``suite`` is the Debian system it is in, as that one's ordinary user; empty for this one.
    """

    name: str
    folder: str
    cache: Path | None
    umask: int
    environ: Mapping[str, str]
    user: str | None = None
    one_processor: bool = False
    files_from: int | None = None
    suite: str = ""

    def described(self) -> str:
        """For the table's reader."""
        user = roots.USER if self.suite else self.user or pwd.getpwuid(os.geteuid()).pw_name
        count = 1 if self.one_processor or not hasattr(os, "sched_getaffinity") else len(os.sched_getaffinity(0))
        system = f"a minimal Debian {self.suite}" if self.suite else _system()
        words = [f"by {user}", f"on {system}", f"with {count} processor{'s' if count > 1 else ''}"]
        words += [f"umask {self.umask:03o}", f"`{self.environ['LC_ALL']}`", f"`{self.environ['TZ']}`"]
        words += [f"`PYTHONHASHSEED={seed}`"] if (seed := self.environ.get("PYTHONHASHSEED")) else []
        return ", ".join([*words, "an empty cache" if self.cache is None else "this user's cache"])


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def circumstances(other_user: str | None, suite: str = "") -> tuple[Circumstances, Circumstances]:
    """The two ways everything is built; the other one as ``other_user``, or in the Debian system ``suite``."""
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
            "TZ": "KIR-14",  # Kiritimati's, in the form that needs no table of zones
            "SOURCE_DATE_EPOCH": "1",
            "PYTHONHASHSEED": "99",
            "COLUMNS": "40",
        },
        user=None if suite else other_user,
        suite=suite,
        one_processor=True,
        files_from=946684800,  # 2000
    )
    return usual, other


def another_system() -> tuple[str, str]:
    """A Debian system that is not this one, and if none can be used the reason."""
    if reason := roots.needed():
        return "", reason
    try:
        own = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    except OSError:
        own = ""
    return next(suite for suite in SUITES if suite != own), ""


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


@dataclass(frozen=True, kw_only=True)
class Clone:
    """What git would have in a clone, with the changes that are not committed yet; ``names`` are the files."""

    root: Path
    names: tuple[str, ...]
    commit: str

    @classmethod
    def of(cls, workspace: Workspace) -> Clone:
        """Look at a checkout; BuildError when it is none of git's."""
        git = ["git", "-C", str(workspace.root)]
        listed = subprocess.run(
            [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], capture_output=True, check=False
        )
        if listed.returncode:
            raise BuildError(f"{workspace.root} is no checkout of git: {listed.stderr.decode().strip()}; use a clone")
        names = (os.fsdecode(name) for name in listed.stdout.split(b"\0") if name)
        commit = subprocess.run([*git, "rev-parse", "--verify", "HEAD"], capture_output=True, check=False, text=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, check=False).stdout
        said = f"{commit.stdout.strip() or 'none'}{' and changes that are not committed' if changed else ''}"
        files = sorted(name for name in names if (workspace.root / name).is_file())
        return cls(root=workspace.root, names=tuple(files), commit=said)

    @cached_property
    def digest(self) -> str:
        """Names exactly these files: their paths, contents and whether they can be executed."""
        rows = []
        for name in self.names:
            path = self.root / name
            rows.append((name, os.access(path, os.X_OK), hashlib.sha256(path.read_bytes()).hexdigest()))
        return hashlib.sha256(repr(rows).encode()).hexdigest()

    def copy(self, target: Path, files_from: int | None) -> None:
        """Copy it to ``target``; the time of its files is ``files_from``, or now."""
        for name in self.names:
            source, copy = self.root / name, target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            copy.chmod(0o777 if os.access(source, os.X_OK) else 0o666)
            if files_from is not None:
                os.utime(copy, (files_from, files_from))


def prepare(clone: Clone, scratch: Path, how: Circumstances) -> Path:
    """Copy the clone to where ``how`` builds it, unless it is there; returns its folder.

    Raises:
        BuildError: Something else was built there before.
    """
    place, stamp = scratch / how.name / how.folder, scratch / f"{how.name}.source"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") != clone.digest:
        raise BuildError(f"{scratch} holds builds of other files than this checkout has; remove it, or name another")
    if not stamp.is_file():
        shutil.rmtree(scratch / how.name, ignore_errors=True)
        clone.copy(place, how.files_from)
        stamp.write_text(clone.digest, encoding="utf-8")
    return place


def build(clone: Clone, scratch: Path, how: Circumstances, sessions: Sequence[str]) -> Path:
    """Build in a clone below ``scratch``, or go on where that was broken off; returns its ``dist`` folder.

    Raises:
        BuildError: A step failed; the text shows the end of the log.
    """
    place, home = prepare(clone, scratch, how), scratch / how.name / "home"
    done, wanted = scratch / f"{how.name}.done", " ".join(sessions)
    if done.is_file() and done.read_text(encoding="utf-8") == wanted:
        return place / "dist"
    for name in roots.HOME_FILES:
        roots.copy_file(Path.home() / name, home / name)
    home.mkdir(exist_ok=True)
    cache = how.cache or scratch / how.name / "cache"
    cache.mkdir(exist_ok=True)
    start = _elsewhere if how.suite else _here
    start(["./run", *sessions], scratch, how, {name: os.environ[name] for name in _KEPT if name in os.environ})
    done.write_text(wanted, encoding="utf-8")
    return place / "dist"


def _here(command: Sequence[str], scratch: Path, how: Circumstances, environ: Mapping[str, str]) -> None:
    """Run ``command`` in the clone, in this system."""
    folder = scratch / how.name
    if how.user:
        scratch.chmod(0o755)  # the other user must get there
        _give(folder, f"{how.user}:")
    variables = {
        **environ,
        **roots.carried_environment(),
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "CODEX_BUILD_CACHE": str(how.cache or folder / "cache"),
        "PYTHON": common_python(how.user),
        **how.environ,
    }
    _run(command, folder / how.folder, variables, how, scratch / f"{how.name}.log")


def _elsewhere(command: Sequence[str], scratch: Path, how: Circumstances, environ: Mapping[str, str]) -> None:
    """Run ``command`` in the clone, in a Debian system of its own, where the build is shown as :data:`roots.WORK`."""
    folder = scratch / how.name
    _give(folder, f"{roots.UID}:{roots.UID}")
    system = roots.System(
        name=f"other-{how.suite}", title=f"Debian {how.suite}", suite=how.suite, packages=fresh.PACKAGES
    )
    root = roots.made(system, scratch / f"{how.name}.system.log")
    roots.carry_configuration(root)  # again: what was installed there has certificates of its own
    variables = {
        **environ,
        **roots.carried_environment(),
        "HOME": f"{roots.WORK}/home",
        "CODEX_BUILD_CACHE": f"{roots.WORK}/cache",
        **how.environ,
    }
    inside = roots.Place(root=root, shared=folder, environ=variables).inside(command, f"{roots.WORK}/{how.folder}")
    _run(inside, scratch, os.environ, how, scratch / f"{how.name}.log")


def _give(folder: Path, owner: str) -> None:
    subprocess.run(["chown", "-R", owner, str(folder)], check=True)


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
