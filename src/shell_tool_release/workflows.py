"""Checks the workflows and the shell scripts with four programs, none of which asks the network.

API::

    commands(root, programs) -> list[Check]     what is run, as data
    check(root, programs) -> None               BuildError with all that was found

What the programs cannot know (which job may publish, that no script holds an expression) is in
``tests/release/test_workflows.py``.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from shell_tool_release.errors import BuildError, run_main
from shell_tool_release.workspace import find_workspace

SCRIPTS = ("run", ".ci/run", "packaging/npm/bin/codex-shell-tool-mcp")
_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """One program and what it looks at."""

    name: str
    command: tuple[str, ...]


def commands(root: Path, programs: Path) -> list[Check]:
    """Return the checks; ``programs`` is the folder of the environment's programs."""
    files = tuple(str(path.relative_to(root)) for path in sorted((root / ".github" / "workflows").glob("*.yml")))
    shellcheck = str(programs / "shellcheck")
    arguments = {
        # pedantic: what only might be a mistake; offline: nothing is asked about the actions themselves.
        "zizmor": ("--offline", "--no-progress", "--quiet", "--persona=pedantic", ".github/workflows"),
        "actionlint": ("-no-color", "-shellcheck", shellcheck, "-pyflakes", "", *files),
        "check-jsonschema": ("--builtin-schema", "vendor.github-workflows", *files),
        "shellcheck": SCRIPTS,
    }
    return [Check(name=name, command=(str(programs / name), *words)) for name, words in arguments.items()]


def check(root: Path, programs: Path) -> None:
    """Run all of them; BuildError with what each said that found something."""
    found = []
    for one in commands(root, programs):
        try:
            done = subprocess.run(one.command, cwd=root, capture_output=True, text=True, check=False, timeout=_SECONDS)
        except FileNotFoundError as error:
            raise BuildError(f"{one.name} is not in {programs}; run this as ./run workflows") from error
        if done.returncode:
            found.append(f"{one.name} (status {done.returncode}):\n{done.stdout}{done.stderr}".rstrip())
    if found:
        raise BuildError("\n".join(["the workflows or scripts have problems:", *found]))


def main() -> None:
    """Check this checkout."""
    root = find_workspace().root
    check(root, Path(sys.executable).parent)
    sys.stdout.write("the workflows and the shell scripts are clean\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
