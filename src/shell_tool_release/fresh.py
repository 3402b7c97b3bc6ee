"""Runs the README's command as a new user in minimal Debian systems: what a fresh machine would do.

API::

    try_suite(workspace, suite, command) -> Outcome     BuildError when the command fails

A system (:mod:`shell_tool_release.roots`) has the packages that the README names and nothing else. Each run gets a new
user in it, with an empty home, a copy of this checkout and mount and process namespaces of its own. Needs root and
debootstrap. Debian 11 is not among them: its Python is 3.9.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shell_tool_release import preflight, roots
from shell_tool_release.errors import run_main
from shell_tool_release.workspace import find_workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shell_tool_release.workspace import Workspace

SUITES = ("bookworm", "trixie")
"""Debian 12 and 13."""

COMMAND = "./run release"
USER = "builder"

PACKAGES = tuple(preflight.PACKAGES[need]["apt"] for need in ("venv", "objdump", "git", "make", "node", "npm"))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run went; ``log`` holds all it said."""

    suite: str
    seconds: float
    log: Path


def try_suite(workspace: Workspace, suite: str, command: str) -> Outcome:
    """Run ``command`` in a copy of the checkout in a minimal system of ``suite``.

    Raises:
        PrerequisiteError: Not root, or no debootstrap.
        BuildError: A step failed; the text names the log.
    """
    log = workspace.build / "fresh" / f"{suite}.log"
    log.unlink(missing_ok=True)
    root = roots.made(roots.System(name=f"fresh-{suite}", title=suite, suite=suite, packages=PACKAGES), log)
    roots.carry_configuration(root)
    _new_user(root, log)
    _copy_checkout(workspace, root / "home" / USER / "checkout")
    started = time.monotonic()
    roots.run(_inside(root, command), log)
    return Outcome(suite=suite, seconds=time.monotonic() - started, log=log)


def _new_user(root: Path, log: Path) -> None:
    home = root / "home" / USER
    shutil.rmtree(home, ignore_errors=True)
    for leftover in (root / "tmp").iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    roots.run(roots.chroot(root, f"id {USER} 2>/dev/null || useradd --shell /bin/sh {USER}"), log)
    for name in roots.HOME_FILES:
        roots.copy_file(Path.home() / name, home / name)
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


def _inside(root: Path, command: str) -> list[str]:
    """``command`` as the user, in namespaces of its own, so that nothing is mounted or left running afterwards."""
    home = f"/home/{USER}"
    user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"]
    inner = ["env", "-i", *roots.environment(home), "sh", "-c", f"cd {home}/checkout && {command}"]
    place = shlex.quote(str(root))
    script = (
        f"chroot {place} chown -R {USER}:{USER} {home} && "
        f"mount -t proc proc {place}/proc && mount --rbind /dev {place}/dev && "
        f"exec chroot {place} {shlex.join([*user, *inner])}"
    )
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command in each suite asked for."""
    parser = argparse.ArgumentParser(prog="python -m shell_tool_release.fresh", description=__doc__.splitlines()[0])
    parser.add_argument("--suite", action="append", choices=SUITES, help="Debian's code name (default: both)")
    parser.add_argument("--command", default=COMMAND, help="what the user types (default: %(default)s)")
    arguments = parser.parse_args(argv)
    workspace = find_workspace()
    for suite in arguments.suite or SUITES:
        outcome = try_suite(workspace, suite, arguments.command)
        sys.stdout.write(f"{suite}: {arguments.command}: {outcome.seconds:.0f} s; log {outcome.log}\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
