"""``python -m bench``: options to a plan, the plan to figures, the figures to the table."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import loops, peer, table
from bench.client import Client
from bench.errors import BenchError
from bench.figures import SUBJECTS, Figures, SubjectName
from bench.measure import Entrant, Plan, measure
from bench.subjects import Plain, Served, environment
from shell_tool_release.cache import cache_root
from shell_tool_release.errors import run_main
from shell_tool_release.npm import package_path
from shell_tool_release.workspace import find_workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shell_tool_release.workspace import Workspace

README = Path(__file__).with_name("README.md")
ROUNDS = 7
QUICK_ROUNDS = 3

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
"""Run in another checkout: builds what its server needs (or takes it from the cache) and tells where it is."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    quick: bool
    only: tuple[str, ...]
    rounds: int
    checkout: Path | None
    package: Path | None
    no_peer: bool
    confined: bool
    write: bool
    json: Path | None


def parse(argv: Sequence[str] | None = None) -> Options:
    """Read the command line."""
    names = ",".join(loop.name for loop in loops.LOOPS)
    parser = argparse.ArgumentParser(prog="python -m bench", description="Compare with the npm build of the original.")
    parser.add_argument("--quick", action="store_true", help="small loops, few rounds, no minutes-long ones")
    parser.add_argument("--only", default=names, metavar="LOOP,...", help=f"only these loops (of {names})")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds (default: {ROUNDS}, quick {QUICK_ROUNDS})")
    ours = parser.add_mutually_exclusive_group()
    ours.add_argument("--checkout", type=Path, metavar="DIR", help="measure that checkout's server, not frozen")
    ours.add_argument(
        "--package", type=Path, metavar="TGZ", help="npm package to measure (default: the one of dist/npm)"
    )
    parser.add_argument("--no-peer", action="store_true", help="leave the original out: no ratios to it")
    parser.add_argument("--no-confined", action="store_true", help="leave out ours under its own sandbox")
    parser.add_argument("--write", action="store_true", help=f"write the table into {README.parent.name}/{README.name}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement to FILE")
    found = parser.parse_args(argv)
    only = tuple(found.only.split(","))
    if unknown := set(only) - {loop.name for loop in loops.LOOPS}:
        parser.error(f"--only: no loop is named {', '.join(sorted(unknown))}; there are {names}")
    return Options(
        quick=found.quick,
        only=only,
        rounds=found.rounds or (QUICK_ROUNDS if found.quick else ROUNDS),
        checkout=found.checkout,
        package=found.package,
        no_peer=found.no_peer,
        confined=not found.no_confined,
        write=found.write,
        json=found.json,
    )


def unfrozen(checkout: Path) -> list[str]:
    """The command that starts a checkout's server from its sources, with the programs it needs built.

    Raises:
        BenchError: They could not be built.
    """
    python = checkout / ".nox" / "work" / "bin" / "python"
    environ = {"PYTHONPATH": str(checkout / "src"), "PATH": environment(checkout)["PATH"], "HOME": str(Path.home())}
    done = subprocess.run([python, "-c", _PROGRAMS], env=environ, capture_output=True, check=False, text=True)
    if done.returncode:
        raise BenchError(f"{checkout}: its programs could not be built:\n{done.stderr}")
    programs = json.loads(done.stdout.splitlines()[-1])
    start = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from codex_shell_tool_mcp.cli import main; sys.exit(main())"
    )
    return [
        *(str(python), "-I", "-c", start, str(checkout / "src")),
        *("--execve", programs["codex-execve-wrapper"]),
        *("--supervisor", programs["codex-shell-supervisor"]),
        *("--bash", programs["bash"]),
    ]


def ours(options: Options, workspace: Workspace, scratch: Path) -> list[str]:
    """The command that starts our server."""
    if options.checkout is not None:
        return unfrozen(options.checkout.absolute())
    package = options.package or package_path(workspace)
    if not package.exists():
        raise BenchError(f"{package} is not there; run: ./run pack")
    folder = scratch / "installed"
    folder.mkdir()
    peer.install(package.absolute(), folder)
    return [str(peer.launcher(folder))]


def entrants(options: Options, workspace: Workspace, scratch: Path, stack: ExitStack) -> dict[SubjectName, Entrant]:
    """Start the servers and see that they do what is measured."""
    home, folder = scratch / "home", scratch / "first"
    (home / ".codex" / "rules").mkdir(parents=True)
    (home / ".codex" / "rules" / "default.rules").write_text(loops.RULES, encoding="utf-8")
    folder.mkdir()
    commands: dict[SubjectName, list[str]] = {"ours": ours(options, workspace, scratch)}
    if not options.no_peer:
        commands["peer"] = [str(peer.launcher(peer.installed_peer(cache_root())))]
    found: dict[SubjectName, Entrant] = {}
    for name, command in commands.items():
        client = stack.enter_context(Client.start(command, environment(home), scratch))
        served = Served(client=client)
        served.check(folder)
        bash = served.bash(folder)
        plain: SubjectName = "plain" if name == "ours" else "peer plain"
        found[name] = Entrant(subject=served, bash=bash)
        found[plain] = Entrant(subject=Plain(bash=bash, environ=environment(home)), bash=bash)
        if name == "ours" and options.confined:
            found["ours confined"] = Entrant(subject=Served(client=client, confined=True), bash=bash)
    return {name: found[name] for name in SUBJECTS if name in found}


def main() -> None:
    """Measure and print the table."""
    options = parse()
    workspace = find_workspace()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        plan = Plan(
            entrants=entrants(options, workspace, scratch, stack),
            loops=[loop for loop in loops.LOOPS if loop.name in options.only],
            rounds=options.rounds,
            quick=options.quick,
            source=None,
            scratch=scratch,
        )
        samples = measure(plan, lambda line: sys.stderr.write(line + "\n"))
    text = table.render(Figures(samples), plan.loops, [])
    sys.stdout.write(text + "\n")
    if options.json:
        options.json.write_text(json.dumps([asdict(sample) for sample in samples], indent=1), encoding="utf-8")
    if options.write:
        table.put(README, text)


if __name__ == "__main__":
    sys.exit(run_main(main))
