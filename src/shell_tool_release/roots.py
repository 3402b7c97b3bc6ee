"""Runs the README's command as a new user in minimal Debian systems: what a fresh machine would do.

API::

    try_root(workspace, suite, command) -> Outcome      BuildError when the command fails

A system is made once by debootstrap, with the packages that the README names and nothing else, and kept in the cache.
Each run gets a new user in it, with an empty home, a copy of this checkout and mount and process namespaces of its own.
How this machine reaches its package indexes (apt's ``Acquire`` settings, pip's configuration, certificates, proxy
variables) is carried in when it runs, and stands nowhere in the project. Needs root and debootstrap.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shell_tool_release import preflight
from shell_tool_release.cache import Key, cache_root
from shell_tool_release.errors import BuildError, ConfigurationError, PrerequisiteError, run_main
from shell_tool_release.workspace import find_workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shell_tool_release.workspace import Workspace

SUITES = ("bookworm", "trixie")
"""Debian 12 and 13."""

COMMAND = "./run release"
SECONDS = 3600
USER = "builder"

PACKAGES = tuple(preflight.PACKAGES[need]["apt"] for need in ("venv", "objdump", "git", "make", "node", "npm"))

_CARRIED = re.compile(
    r"(PIP_|NPM_CONFIG_|.*_proxy$|SSL_CERT_|.*_CA_BUNDLE$|NODE_EXTRA_CA_CERTS$|GIT_SSL_)", re.IGNORECASE
)
"""Variables that say how to reach an index."""

_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/npmrc", "/etc/ssl/certs/ca-certificates.crt")
HOME_FILES = (".config/pip/pip.conf", ".pip/pip.conf", ".npmrc")
_BASE = re.compile(r"^'(\S*/debian/)dists/[^']*/InRelease'", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run went; ``log`` holds all it said."""

    suite: str
    seconds: float
    log: Path


def try_root(workspace: Workspace, suite: str, command: str) -> Outcome:
    """Run ``command`` in a copy of the checkout in a minimal system of ``suite``.

    Raises:
        PrerequisiteError: Not root, or no debootstrap.
        BuildError: A step failed; the text names the log.
    """
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        raise PrerequisiteError("minimal systems need root and debootstrap (Debian: apt install debootstrap)")
    log = workspace.build / "roots" / f"{suite}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    key = Key.of("root", suite=suite, packages=PACKAGES)
    # Not an entry of the cache: those are checked by their files' hashes, and a system that is used changes.
    root = cache_root() / "roots" / f"{suite}-{key.name}"
    if not root.exists():
        _make_root(root, suite, log)
    _carry_configuration(root)
    _new_user(root, log)
    _copy_checkout(workspace, root / "home" / USER / "checkout")
    started = time.monotonic()
    _run(_inside(root, command), log)
    return Outcome(suite=suite, seconds=time.monotonic() - started, log=log)


def _make_root(root: Path, suite: str, log: Path) -> None:
    base = _mirror()
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    scratch = root.with_name(f"{root.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    _run(["debootstrap", "--variant=minbase", suite, str(scratch), base], log)
    _carry_configuration(scratch)
    (scratch / "etc/apt/sources.list").write_text(f"deb {base} {suite} main\n", encoding="utf-8")
    _run(_chroot(scratch, "apt-get update -q"), log)
    _run(_chroot(scratch, f"apt-get install -q -y --no-install-recommends {shlex.join(PACKAGES)}"), log)
    scratch.rename(root)


def _mirror() -> str:
    """The first Debian archive of apt's own configuration."""
    said = subprocess.run(["apt-get", "update", "--print-uris"], capture_output=True, check=True, text=True).stdout
    found = _BASE.search(said)
    if found is None:
        raise ConfigurationError("apt's configuration names no Debian archive, so no minimal system can be made")
    return found[1]


def _carry_configuration(root: Path) -> None:
    """Copy in how this machine reaches its indexes; a file that variables name goes to the same path."""
    settings = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, check=True, text=True).stdout
    target = root / "etc/apt/apt.conf.d/90host"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(settings, encoding="utf-8")
    named = [value for value in carried_environment().values() if value.startswith("/") and Path(value).is_file()]
    for name in (*_FILES, *named):
        _copy(Path(name), root / name.lstrip("/"))


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o644)


def carried_environment() -> dict[str, str]:
    """Variables that say how to reach an index, as they are here."""
    return {name: value for name, value in os.environ.items() if _CARRIED.match(name)}


def _new_user(root: Path, log: Path) -> None:
    home = root / "home" / USER
    shutil.rmtree(home, ignore_errors=True)
    for leftover in (root / "tmp").iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    _run(_chroot(root, f"id {USER} 2>/dev/null || useradd --shell /bin/sh {USER}"), log)
    for name in HOME_FILES:
        _copy(Path.home() / name, home / name)
    home.mkdir(parents=True, exist_ok=True)


def _copy_checkout(workspace: Workspace, target: Path) -> None:
    """What git would have in a clone, with the changes not committed yet."""
    command = ["git", "-C", str(workspace.root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, capture_output=True, check=True).stdout.split(b"\0"):
        source = workspace.root / os.fsdecode(name)
        if name and source.is_file():
            place = target / os.fsdecode(name)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place)


def _chroot(root: Path, command: str) -> list[str]:
    return ["chroot", str(root), "env", "-i", *_environment("/root"), "sh", "-c", command]


def _environment(home: str) -> list[str]:
    fixed = {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": home,
        "LANG": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    return [f"{name}={value}" for name, value in {**carried_environment(), **fixed}.items()]


def _inside(root: Path, command: str) -> list[str]:
    """``command`` as the user, in namespaces of its own, so that nothing is mounted or left running afterwards."""
    home = f"/home/{USER}"
    user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"]
    inner = ["env", "-i", *_environment(home), "sh", "-c", f"cd {home}/checkout && {command}"]
    place = shlex.quote(str(root))
    script = (
        f"chroot {place} chown -R {USER}:{USER} {home} && "
        f"mount -t proc proc {place}/proc && mount --rbind /dev {place}/dev && "
        f"exec chroot {place} {shlex.join([*user, *inner])}"
    )
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]


def _run(command: Sequence[str], log: Path) -> None:
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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command in each suite asked for."""
    parser = argparse.ArgumentParser(prog="python -m shell_tool_release.roots", description=__doc__.splitlines()[0])
    parser.add_argument("--suite", action="append", choices=SUITES, help="Debian's code name (default: both)")
    parser.add_argument("--command", default=COMMAND, help="what the user types (default: %(default)s)")
    arguments = parser.parse_args(argv)
    workspace = find_workspace()
    for suite in arguments.suite or SUITES:
        outcome = try_root(workspace, suite, arguments.command)
        sys.stdout.write(f"{suite}: {arguments.command}: {outcome.seconds:.0f} s; log {outcome.log}\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
