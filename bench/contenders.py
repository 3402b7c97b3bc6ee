"""Who takes part: our server as it ships or from a checkout, the original, and the bash of each without a server."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

from bench import loops, peer
from bench.client import Client
from bench.errors import BenchError
from bench.figures import TURNS
from bench.measure import Entrant
from bench.subjects import Plain, Served, environment
from shell_tool_release.npm import package_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from bench.figures import SubjectName
    from bench.options import Options
    from shell_tool_release.workspace import Workspace

_PROGRAMS = """\
import json
from dataclasses import replace
from shell_tool_release.native import NativeOptions, build_native
from shell_tool_release.shells import ShellOptions, build_shells
options = ShellOptions.default()
found = {built.name: str(built.path) for built in build_native(NativeOptions.default())}
found["bash"] = str(build_shells(replace(options, variants=options.variants[:1]))[0].path)
print(json.dumps(found))
"""
"""Run by another checkout's Python: builds what its server needs, or takes it from the cache, and tells where it is."""

_SERVER = "import sys; sys.path.insert(0, sys.argv.pop(1)); from codex_shell_tool_mcp.cli import main; sys.exit(main())"


def our_command(options: Options, workspace: Workspace, scratch: Path) -> list[str]:
    """The command that starts our server: by the launcher of the installed package, or from a checkout's sources.

    Raises:
        BenchError: The package is not there, or the checkout's programs could not be built.
    """
    if options.checkout is not None:
        return from_sources(options.checkout.absolute())
    package = options.package or package_path(workspace)
    if not package.exists():
        raise BenchError(f"{package} is not there; run: ./run pack")
    folder = scratch / "installed"
    folder.mkdir()
    peer.install(package.absolute(), folder)
    return [str(peer.launcher(folder))]


def from_sources(checkout: Path) -> list[str]:
    """The command that starts a checkout's server with its own environment's Python.

    Raises:
        BenchError: It has no environment, or the programs it needs could not be built.
    """
    python = checkout / ".nox" / "work" / "bin" / "python"
    if not python.exists():
        raise BenchError(f"{checkout} has no environment yet; run there: ./run tests")
    return server_command(python, checkout, built_programs(python, checkout))


def built_programs(python: Path, checkout: Path) -> dict[str, str]:
    """Paths of the wrapper, the supervisor and ``bash``, by name, as that checkout builds them.

    Raises:
        BenchError: They could not be built.
    """
    environ = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    done = subprocess.run([python, "-c", _PROGRAMS], env=environ, capture_output=True, check=False, text=True)
    if done.returncode:
        raise BenchError(f"the programs of {checkout} could not be built:\n{done.stderr}")
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def server_command(python: Path, checkout: Path, programs: Mapping[str, str]) -> list[str]:
    """The command that starts a checkout's server with these programs."""
    return [
        *(str(python), "-I", "-c", _SERVER, str(checkout / "src")),
        *("--execve", programs["codex-execve-wrapper"]),
        *("--supervisor", programs["codex-shell-supervisor"]),
        *("--bash", programs["bash"]),
    ]


def prepare_home(scratch: Path) -> Path:
    """A home folder with the rules and nothing else."""
    home = scratch / "home"
    (home / ".codex" / "rules").mkdir(parents=True)
    (home / ".codex" / "rules" / "default.rules").write_text(loops.RULES, encoding="utf-8")
    return home


def start(
    commands: Mapping[SubjectName, Sequence[str]], scratch: Path, stack: ExitStack, *, confined: bool
) -> dict[SubjectName, Entrant]:
    """Start each server, see that it does what is to be measured, and find its bash.

    Args:
        commands: For ``ours``, and for ``peer`` if it takes part.
        scratch: Folder for a home and the calls'.
        stack: What ends the servers.
        confined: Whether ours is to be measured in its sandbox as well.

    Raises:
        BenchError: A server cannot be started or does not do its job.
    """
    home = prepare_home(scratch)
    found: dict[SubjectName, Entrant] = {}
    for name, command in commands.items():
        served = Served(client=stack.enter_context(Client.start(command, environment(home), scratch)))
        served.check(home)
        bash = served.bash(home)
        plain: SubjectName = "plain" if name == "ours" else "peer plain"
        found[plain] = Entrant(subject=Plain(bash=bash, environ=environment(home)), bash=bash)
        found[name] = Entrant(subject=served, bash=bash)
        if name == "ours" and confined:
            found["ours confined"] = Entrant(subject=Served(client=served.client, confined=True), bash=bash)
    return {name: found[name] for name in TURNS if name in found}
