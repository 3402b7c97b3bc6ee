"""Builds this machine's wheel from the source archive by cibuildwheel, tries it, and compares it with the offered one.

API::

    command(source, output) -> list[str]        cibuildwheel; its settings are in pyproject.toml
    check(built, offered, exact=) -> None       BuildError names what is not the same

On Linux it needs Docker, so the workflow runs it, on a machine of each platform. What it makes is not what is released:
the wheels of one machine are (``./run wheels``). It shows that the archive is enough to make them, elsewhere and with
the tools of another system, and that they install and work where Python's own wheels do.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from shell_tool_release import wheels
from shell_tool_release.errors import BuildError, run_main
from shell_tool_release.workspace import find_workspace, host_platform

if TYPE_CHECKING:
    from pathlib import Path

EXACT = "linux-x64"
"""Where the offered wheels are made. What another platform compiles for itself has another build record."""

_WRITTEN_BY_THE_BACKEND = ("WHEEL", "RECORD")
"""They name the version of hatchling, which is not locked for who builds from the source archive."""


def command(source: Path, output: Path) -> list[str]:
    """Return the command that builds ``source`` for this machine and tries what comes of it."""
    return [sys.executable, "-m", "cibuildwheel", "--output-dir", str(output), str(source)]


def only(folder: Path, pattern: str) -> Path:
    """The one file of ``folder`` that matches; BuildError when there is none or more."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise BuildError(f"{folder} holds {len(found)} files {pattern}, not one; run: ./run wheels")
    return found[0]


def check(built: Path, offered: Path, *, exact: bool) -> None:
    """Return if the wheel ``built`` is the ``offered`` one: the same name and files, and if ``exact`` the same bytes.

    Raises:
        BuildError: It is not, or is not what its own manifest says.
    """
    wheels.check_wheel(built)
    if built.name != offered.name:
        raise BuildError(f"cibuildwheel made {built.name}, offered is {offered.name}")
    mine, theirs = wheels.contents(built), wheels.contents(offered)
    names = sorted(
        name for name in mine.keys() | theirs.keys() if _differs(name, mine.get(name), theirs.get(name), exact)
    )
    if names:
        raise BuildError(f"{built.name} from the source archive is not the offered one: {', '.join(names[:5])} differ")


def _differs(name: str, one: tuple[int, int, str] | None, other: tuple[int, int, str] | None, exact: bool) -> bool:
    if one is None or other is None or one[1] != other[1]:
        return True
    return exact and name.rpartition("/")[2] not in _WRITTEN_BY_THE_BACKEND and one != other


def main() -> None:
    """Build, try and compare the wheel of this machine."""
    workspace = find_workspace()
    offered, output = workspace.dist / "python", workspace.build / "cibuildwheel"
    shutil.rmtree(output, ignore_errors=True)
    done = subprocess.run(command(only(offered, "*.tar.gz"), output), check=False)
    if done.returncode:
        raise BuildError(f"cibuildwheel ended with status {done.returncode}; its reason stands above")
    platform = host_platform()
    wheel = only(output, "*.whl")
    check(wheel, only(offered, f"*-{wheels.TAGS[wheels.known(platform)]}.whl"), exact=platform == EXACT)
    sys.stdout.write(f"{wheel}\n  from the source archive, tried, and the same as the offered one\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
