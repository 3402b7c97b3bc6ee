"""``python -m bench``: options to a plan, the plan to figures, the figures to the table."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench import contenders, loops, machine, options, peer, table
from bench.figures import Figures, of_processor
from bench.measure import Plan, measure
from shell_tool_release.cache import cache_root
from shell_tool_release.errors import run_main
from shell_tool_release.sources import SourceOptions, bash_source
from shell_tool_release.workspace import find_workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.figures import SubjectName
    from bench.loops import Loop
    from bench.options import Options
    from shell_tool_release.workspace import Workspace

README = Path(__file__).with_name("README.md")


def chosen(wanted: Options, *, compiler: bool) -> tuple[list[Loop], list[str]]:
    """The loops to run, and a line for each asked for that cannot be run here."""
    loops_wanted = [loop for loop in loops.LOOPS if loop.name in wanted.only and (loop.quick or not wanted.quick)]
    left_out = [loop for loop in loops_wanted if loop.compiles and not compiler]
    lines = [f"Left out, for there is no C compiler (`cc`) here: {loop.title}." for loop in left_out]
    return [loop for loop in loops_wanted if loop not in left_out], lines


def run(wanted: Options, workspace: Workspace) -> str:
    """Measure, and return the tables."""
    todo, notes = chosen(wanted, compiler=shutil.which("cc") is not None)
    told = machine.describe(wanted, workspace)
    source = bash_source(SourceOptions.default()).path if any(loop.compiles for loop in todo) else None
    with ExitStack() as stack:
        # Not among the temporary files: scripts may write there in the sandbox, and rules they can write allow nothing.
        workspace.build.mkdir(exist_ok=True)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=workspace.build))
        scratch = Path(folder).resolve()
        commands: dict[SubjectName, Sequence[str]] = {"ours": contenders.our_command(wanted, workspace, scratch)}
        if wanted.peer:
            commands["peer"] = [str(peer.launcher(peer.installed_peer(cache_root())))]
        plan = Plan(
            entrants=contenders.start(commands, scratch, stack, confined=wanted.confined),
            loops=todo,
            rounds=wanted.rounds,
            quick=wanted.quick,
            source=source,
            scratch=scratch,
        )
        measured = measure(plan, lambda line: sys.stderr.write(line + "\n"))
    if wanted.json is not None:
        wanted.json.write_text(json.dumps([asdict(sample) for sample in measured.samples], indent=1), encoding="utf-8")
    notes += [f"The original did not get through: {name}." for name in measured.failed]
    return table.render(Figures(measured.samples), of_processor(measured.samples), todo, [*notes, told])


def main() -> None:
    """Measure, print the tables, and put them into the README if that was asked for and everything was measured."""
    wanted = options.parse()
    # Whatever ends this, the servers and the folder for scratch go too: a signal unwinds like an error.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM; nothing was written"))
    text = run(wanted, find_workspace())
    sys.stdout.write(text + "\n")
    if wanted.write and wanted.is_full:
        table.put(README, text)
    elif wanted.write:
        sys.stderr.write(f"not everything was measured, so {README.parent.name}/{README.name} stays as it was\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
