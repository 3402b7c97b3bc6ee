"""Tries the wheel as users do: ``uvx``, ``pipx run``, ``pip install``, ``python -m``; an MCP client does a real job.

API::

    ways(folder, scratch, tools) -> dict      how a user starts the server → the command
    try_wheel(workspace, ways, say)                    BuildError lists every step that was not as it should be

Nothing of the checkout is in reach: the package comes from ``dist/python`` by its name, what it depends on from the
index this machine is set up with.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import TYPE_CHECKING

from shell_tool_release import roots, smoke
from shell_tool_release.errors import BuildError, run_main
from shell_tool_release.workspace import find_workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shell_tool_release.workspace import Workspace

COMMAND = "codex-shell-tool-mcp"


def ways(folder: Path, scratch: Path, tools: Path) -> dict[str, list[str]]:
    """Return how users start the package that is in ``folder``, by uvx and pipx in ``tools``.

    Makes a virtual environment below ``scratch``.

    Raises:
        BuildError: pip could not install it.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    python = scratch / "venv" / "bin" / "python"
    venv.EnvBuilder(clear=True, with_pip=True, symlinks=True).create(scratch / "venv")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _quietly([*pip, "--only-binary", ":all:", "--find-links", str(folder), COMMAND])
    # Places of their own: both would take a package of the same version from an earlier build.
    reach = ["env", *(f"{name}={value}" for name, value in roots.carried_environment().items())]
    uvx = [*reach, str(tools / "uvx"), "--cache-dir", str(scratch / "uv"), "--find-links", str(folder), COMMAND]
    pipx = [*reach, f"PIPX_HOME={scratch / 'pipx'}", str(tools / "pipx"), "run"]
    pipx += [f"--pip-args=--find-links {folder}", COMMAND]
    return {
        "uvx": uvx,
        "pipx run": pipx,
        "python -m": [str(python), "-m", "codex_shell_tool_mcp"],
        "the command": [str(scratch / "venv" / "bin" / COMMAND)],
    }


def _quietly(command: Sequence[str]) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True, cwd="/"
    )
    if done.returncode:
        raise BuildError(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stdout[-2000:]}")


def try_wheel(workspace: Workspace, how: Mapping[str, Sequence[str]], say: Callable[[str], object]) -> None:
    """Do the smoke test's jobs by each command of ``how``, and verify what is installed."""
    for name, command in how.items():
        _quietly([*command, "verify"])  # with this user's settings, so that both tools have what they need from here on
        place = smoke.prepare(workspace.build / "wheel-trial" / name.replace(" ", "-"))
        done = [smoke.do_job(place, command, lambda _: None, f"the wheel by {name}", shell) for shell in smoke.SHELLS]
        times = smoke.measure_start(command, place, smoke.NPX_STARTS)
        say(f"{name}: {sum(map(len, done))} steps as they should be, verified; {smoke.times('by ' + name, times)}\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Try the wheel in ``dist/python``, or what is installed beside this Python already."""
    parser = argparse.ArgumentParser(
        prog="python -m shell_tool_release.wheel_trial", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--installed", action="store_true", help="try what is installed beside this Python (as cibuildwheel does)"
    )
    arguments = parser.parse_args(argv)
    workspace, tools = find_workspace(), Path(sysconfig.get_path("scripts"))
    if arguments.installed:
        command = shutil.which(COMMAND, path=str(tools))
        if command is None:
            raise BuildError(f"{COMMAND} is not beside {sys.executable}; install the wheel there")
        how = {"the command": [command]}
    else:
        how = ways(workspace.dist / "python", workspace.build / "wheel-trial", tools)
    try_wheel(workspace, how, sys.stdout.write)


if __name__ == "__main__":
    sys.exit(run_main(main))
