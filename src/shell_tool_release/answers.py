"""Answers to configure's run-time questions, for rows that cannot run on the machine that builds them.

API (callable by nox sessions)::

    record(config_cache) -> str               the answers in a native configure's cache
    refresh(ShellOptions) -> tuple[Path, ...]  record the host's rows again into ``data/answers/``
    python -m shell_tool_release.answers [--check]

What a native configure found out by running programs holds for every machine with that system and libc; what it found
out by compiling is left to the cross build's own compiler. On x86_64 Linux both Linux files are made; the file for
macOS is made on a Mac (until one has made it, it holds what configure.ac says of Darwin and what the system documents).
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from shell_tool_release.errors import ConfigurationError, run_main
from shell_tool_release.recipes.recipe import ANSWERS, answers_name, runs_here
from shell_tool_release.shells import ShellOptions, build_shells
from shell_tool_release.variants import load_variants

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_RUN_TIME = re.compile(
    r"^(?:bash_cv_\w+|zsh_cv_(?:c_broken_\w+|func_\w+|getcwd_malloc|\w+_is_64_bit|printf_has_lld|\w*rlim_t_is_\w+|sys_(?!path_)\w+)"
    r"|ac_cv_func_(?:chown|strcoll|getpgrp|setvbuf|mmap|memcmp|working|fnmatch|snprintf|vsnprintf)\w*)="
)
_HEADER = """\
# Answers to what the shell's configure finds out by running programs, for cross builds ({what}).
# Recorded from a native configure by: python -m shell_tool_release.answers
"""


def record(config_cache: str, what: str) -> str:
    """Text of an answers file from the text of a native ``config.cache``."""
    lines = [line for line in config_cache.splitlines() if _RUN_TIME.match(line)]
    if not lines:
        message = f"configure's cache for {what} holds no answers; was it run with --cache-file?"
        raise ConfigurationError(message)
    return _HEADER.format(what=what) + "".join(f"{line}\n" for line in sorted(lines))


def recorded(options: ShellOptions) -> dict[Path, str]:
    """What the answer files of the host's rows should hold, from native builds (cached ones where there are)."""
    found: dict[Path, str] = {}
    table = load_variants(options.workspace.variants_file)
    elsewhere = {row.shell for row in table if not runs_here(row)}
    rows = tuple(row for row in options.variants if row.shell in elsewhere)
    for shell in build_shells(replace(options, variants=rows)):
        name = answers_name(shell.recipe.variant)
        found[ANSWERS / f"{name}.cache"] = record(shell.config_cache.read_text(encoding="utf-8"), name)
    return found


def refresh(options: ShellOptions) -> tuple[Path, ...]:
    """Write the answer files of the host's rows; returns those that changed."""
    changed = []
    ANSWERS.mkdir(exist_ok=True)
    for path, text in recorded(options).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return tuple(changed)


def main(argv: Sequence[str] | None = None) -> None:
    """Record the answers, or with --check only say whether they are up to date."""
    parser = argparse.ArgumentParser(prog="python -m shell_tool_release.answers", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail when a file is out of date")
    arguments = parser.parse_args(argv)
    options = ShellOptions.default()
    if not arguments.check:
        sys.stdout.writelines(f"changed: {path}\n" for path in refresh(options))
        return
    for path, text in recorded(options).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            message = f"{path} is out of date; run python -m shell_tool_release.answers"
            raise ConfigurationError(message)


if __name__ == "__main__":
    sys.exit(run_main(main))
