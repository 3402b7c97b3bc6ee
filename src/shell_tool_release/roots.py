"""Makes systems to try things in: minimal Debians, and Linux without glibc.

API::

    USED                                  name → System: what the package is tried in
    needed() -> str | None                what is missing on this machine, with the next step
    made(system, log) -> Path             the system's folder, from the cache where it is there
    Place(root, shared, ...).inside(words) -> list[str]     the command line that runs words in it

A system is made once and kept in the cache. Whoever goes into it by a :class:`Place` changes nothing: everything is
read-only there but ``/work``, which is a folder of theirs, and ``/tmp``, which is empty each time.

Debian's are made by debootstrap. Those without glibc are made of a static busybox, from this machine's own packages:
``musl`` has musl as its C library, as Alpine does, and ``bare`` has none.

How this machine reaches its package indexes (apt's ``Acquire`` settings, certificates, proxy variables) is carried in
when packages are installed, and stands nowhere in the project. Needs root.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from shell_tool_release import apt
from shell_tool_release.cache import Key, Lock, cache_root
from shell_tool_release.errors import BuildError, ConfigurationError, PrerequisiteError, SourceError
from shell_tool_release.workspace import host_platform

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

USER, UID = "visitor", 1000
"""The ordinary user of each system, and the number of its group too."""

WORK = "/work"
"""Where a system shows the folder of whoever uses it."""

NODE = "/opt/node"
"""Where a node of ours is shown, in systems without one of their own."""

_TEMPORARY = "/tmp"  # noqa: S108  (a system's, made anew for each use)

PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

SECONDS = 3600
_ATTEMPTS = 3
_PAUSE = 20.0
"""Between attempts: an archive that is busy or being written to is not a reason to fail."""

_FORMAT = 1  # part of the key: raise when a system is made otherwise of the same packages

_CARRIED = re.compile(
    r"(PIP_|NPM_CONFIG_|.*_proxy$|SSL_CERT_|.*_CA_BUNDLE$|NODE_EXTRA_CA_CERTS$|GIT_SSL_)", re.IGNORECASE
)
"""Variables that say how to reach an index."""

_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/npmrc", "/etc/ssl/certs/ca-certificates.crt")
HOME_FILES = (".config/pip/pip.conf", ".pip/pip.conf", ".npmrc")
_BASE = re.compile(r"^'(\S*/debian/)dists/[^']*/InRelease'", re.MULTILINE)
_MUSL = {"linux-x64": "ld-musl-x86_64.so.1", "linux-arm64": "ld-musl-aarch64.so.1"}


@dataclass(frozen=True, kw_only=True)
class System:
    """What a system is made of.

    Attributes:
        name: Its code name.
        title: What people call it.
        suite: Debian's code name; empty for a system without glibc.
        packages: Packages beside the minimal ones; without a suite those it is made of.
        own_npm: Whether npm is its own; else ours is shown to it. Debian 11 has node 12, which is too old; Debian 13
            has the npm of Debian 12, and CI need not wait for its 400 packages.
    """

    name: str
    title: str
    suite: str = ""
    packages: tuple[str, ...] = ()
    own_npm: bool = False


_COMMANDS = ("git", "openssl", "python3")
"""What the tests run in a system: programs that load libraries of the system which a frozen Python may bring too."""

_NPM = ("nodejs", "npm")

USED: Mapping[str, System] = {
    system.name: system
    for system in (
        System(name="bullseye", title="Debian 11", suite="bullseye", packages=_COMMANDS),
        System(name="bookworm", title="Debian 12", suite="bookworm", packages=(*_COMMANDS, *_NPM), own_npm=True),
        System(name="trixie", title="Debian 13", suite="trixie", packages=_COMMANDS),
        System(name="musl", title="a system with musl", packages=("busybox-static", "musl")),
        System(name="bare", title="a system without a C library", packages=("busybox-static",)),
    )
}
"""Debian 11, 12 and 13, and two systems without glibc, by name."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A system in use.

    Attributes:
        root: Its folder.
        shared: The folder it shows as :data:`WORK`.
        uid: Who programs run as: 0, or :data:`UID`.
        environ: All they find in their environment beside ``PATH``.
        mounts: Folder of this machine → the existing folder of the system where it is shown, read-only.
    """

    root: Path
    shared: Path
    uid: int = UID
    environ: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[Path, str] = field(default_factory=dict)

    def inside(self, words: Sequence[str], folder: str = WORK) -> list[str]:
        """The command line that runs ``words`` in ``folder`` of the system.

        In namespaces of its own, so that nothing stays mounted or running when it has ended.
        """
        root = shlex.quote(str(self.root))
        mounts = [
            f"mount --bind {root} {root}",
            f"mount -o remount,bind,ro {root}",
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
            f"mount -t tmpfs -o mode=1777 tmpfs {root}{_TEMPORARY}",
            f"mount --bind {shlex.quote(str(self.shared))} {root}{WORK}",
        ]
        for source, target in self.mounts.items():
            mounts += [f"mount --bind {shlex.quote(str(source))} {root}{target}"]
            mounts += [f"mount -o remount,bind,ro {root}{target}"]
        variables = [f"{name}={value}" for name, value in {"PATH": PATH, **self.environ}.items()]
        user = [f"--userspec={self.uid}:{self.uid}", f"--groups={self.uid}"]
        enter = ["chroot", *user, str(self.root), "/usr/bin/env", "-i", *variables]
        start = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', folder, *words]
        # Not exec: the first process of a namespace is treated by the kernel as no server ever is.
        script = f"{' && '.join(mounts)} && {shlex.join([*enter, *start])}; exit $?"
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]


def needed() -> str | None:
    """What must be there before systems can be made and used."""
    if os.geteuid() != 0:
        return "systems of their own need root (chroot, mount)"
    if shutil.which("debootstrap") is None:
        return "debootstrap is not here (Debian: apt install debootstrap)"
    return None


def made(system: System, log: Path) -> Path:
    """Return the folder of ``system``, made if it is not in the cache; what its making says goes to ``log``.

    Raises:
        PrerequisiteError: Not root, or no debootstrap.
        BuildError: It could not be made in three attempts; the text says what failed last, and names the log.
    """
    if reason := needed():
        raise PrerequisiteError(reason)
    log.parent.mkdir(parents=True, exist_ok=True)
    key = Key.of("root", format=_FORMAT, suite=system.suite, packages=system.packages, platform=host_platform())
    # Not an entry of the cache: those are checked by their files' hashes, which takes longer here than it is worth.
    root = cache_root() / "roots" / f"{system.name}-{key.name}"
    with Lock(root.with_name(f"{root.name}.lock")):
        if root.exists():
            return root
        scratch = root.with_name(f"{root.name}.new")
        make = _debian if system.suite else _without_glibc
        _persistently(system, lambda: make(system, scratch, log))
        _common(scratch)
        scratch.rename(root)
    return root


def _persistently(system: System, make: Callable[[], None]) -> None:
    """Call ``make``, again after a pause where it failed: all that it needs from elsewhere is an archive's answers."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return make()
        except (BuildError, SourceError) as error:
            if attempt == _ATTEMPTS:
                message = (
                    f"{system.name} could not be made in {attempt} attempts; can apt reach its archive here? {error}"
                )
                raise BuildError(message) from error
            time.sleep(_PAUSE * attempt)
    return None


def _debian(system: System, root: Path, log: Path) -> None:
    base = _mirror()
    shutil.rmtree(root, ignore_errors=True)
    # In a namespace of its own, so that nothing stays mounted below the folder when it is interrupted.
    run(["unshare", "--mount", "debootstrap", "--variant=minbase", system.suite, str(root), base], log)
    carry_configuration(root)
    (root / "etc/apt/sources.list").write_text(f"deb {base} {system.suite} main\n", encoding="utf-8")
    run(chroot(root, "apt-get update -q -o Acquire::Retries=3 -o APT::Update::Error-Mode=any"), log)
    packages = shlex.join(system.packages)
    run(chroot(root, f"apt-get install -q -y --no-install-recommends -o Acquire::Retries=3 {packages}"), log)


def _mirror() -> str:
    """The first Debian archive of apt's own configuration."""
    said = subprocess.run(["apt-get", "update", "--print-uris"], capture_output=True, check=True, text=True).stdout
    found = _BASE.search(said)
    if found is None:
        raise ConfigurationError("apt's configuration names no Debian archive, so no minimal system can be made")
    return found[1]


def _without_glibc(system: System, root: Path, log: Path) -> None:
    """One static program that is all commands, and musl where it is wanted."""
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "lib", "usr/bin", "etc", "proc", "dev"):
        (root / name).mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache_root()) as scratch:
        unpacked = Path(scratch) / "unpacked"
        for package in apt.own_packages(names=system.packages, scratch=Path(scratch)):
            run(["dpkg-deb", "--extract", str(package), str(unpacked)], log)
        shutil.copy2(_only(unpacked, "bin/busybox"), root / "bin" / "busybox")
        if "musl" in system.packages:
            shutil.copy2(_only(unpacked, "lib/*/libc.so"), root / "lib" / _MUSL[host_platform()])
    # As in Alpine: symbolic links, all to one program.
    run(["chroot", str(root), "/bin/busybox", "--install", "-s"], log)


def _only(folder: Path, name: str) -> Path:
    """The file of that pattern, in ``/`` or, as newer packages have it, in ``/usr``."""
    found = [path for place in (folder, folder / "usr") for path in place.glob(name) if not path.is_symlink()]
    if len(found) != 1:
        raise BuildError(f"the packages hold {len(found)} files {name}, not one: {found}")
    return found[0]


def _common(root: Path) -> None:
    """The ordinary user, and the folders where others are shown."""
    for file, line in (("passwd", f"{USER}:x:{UID}:{UID}::{WORK}:/bin/sh"), ("group", f"{USER}:x:{UID}:")):
        path = root / "etc" / file
        text = path.read_text(encoding="utf-8") if path.exists() else _ROOT[file]
        path.write_text(f"{text}{line}\n", encoding="utf-8")
    for name in (WORK, NODE, _TEMPORARY):
        (root / name.lstrip("/")).mkdir(parents=True, exist_ok=True)


_ROOT = {"passwd": "root:x:0:0:root:/root:/bin/sh\n", "group": "root:x:0:\n"}


def carry_configuration(root: Path) -> None:
    """Copy in how this machine reaches its indexes; a file that variables name goes to the same path."""
    settings = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, check=True, text=True).stdout
    target = root / "etc/apt/apt.conf.d/90host"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(settings, encoding="utf-8")
    named = [value for value in carried_environment().values() if value.startswith("/") and Path(value).is_file()]
    for name in (*_FILES, *named):
        copy_file(Path(name), root / name.lstrip("/"))


def copy_file(source: Path, target: Path) -> None:
    """Copy a file that may be missing."""
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o644)


def carried_environment() -> dict[str, str]:
    """Variables that say how to reach an index, as they are here."""
    return {name: value for name, value in os.environ.items() if _CARRIED.match(name)}


def chroot(root: Path, command: str) -> list[str]:
    """The command line that runs ``command`` in ``root`` as root, with what is needed to reach indexes."""
    return ["chroot", str(root), "env", "-i", *environment("/root"), "sh", "-c", command]


def environment(home: str) -> list[str]:
    """What a command that installs something finds in its environment, as words for ``env``."""
    fixed = {"PATH": PATH, "HOME": home, "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    return [f"{name}={value}" for name, value in {**carried_environment(), **fixed}.items()]


def run(command: Sequence[str], log: Path) -> None:
    """Run ``command``, its output added to ``log``; BuildError shows the end of that when it fails."""
    with log.open("ab") as stream:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, check=False, timeout=SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise BuildError(f"{command[0]} did not end within {SECONDS} s; see {log}") from error
    if done.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:]
        raise BuildError("\n".join([f"{command[0]} ended with status {done.returncode}; whole log: {log}", *tail]))
