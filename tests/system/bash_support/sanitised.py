"""The shells, stock and patched, with AddressSanitizer and UndefinedBehaviorSanitizer by the system's compiler."""

from __future__ import annotations

import functools
import os
import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from shell_tool_release.recipes.recipe import Recipe
from shell_tool_release.shells import ShellOptions, build_all
from shell_tool_release.toolchain import SystemCompiler

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from shell_tool_release.variants import Shell
    from system.bash_support.rig import Outcome

# UndefinedBehaviorSanitizer reports and goes on: what bash itself does is compared, and not ours to end it for.
_FLAGS = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined"
_ANSWERS: Mapping[Shell, tuple[str, ...]] = {
    "bash": (),
    # The headers of a terminal library that this machine may have; bash's is what is linked.
    "zsh": ("zsh_cv_path_curses_header=none", "zsh_cv_path_term_header=none"),
}
ENVIRON = {
    b"ASAN_OPTIONS": b"abort_on_error=1:detect_leaks=0:allocator_may_return_null=1",
    b"UBSAN_OPTIONS": b"print_stacktrace=0",
}
"""Leaks are not looked for: a shell that is about to exec frees nothing."""


def compiler() -> str | None:
    """A compiler with sanitisers; zig's wheel has no AddressSanitizer."""
    return next((name for name in ("gcc", "clang") if shutil.which(name)), None)


@functools.cache
def sanitised(shell: Shell) -> tuple[Path, Path]:
    """Stock and patched shell, built once for the user's cache."""
    name = compiler()
    if name is None:
        report = pytest.fail if os.environ.get("CODEX_TEST_MUST_WORK") else pytest.skip
        report(f"install gcc or clang: the sanitised build of {shell} needs one")
    options = ShellOptions.default()
    row = next(row for row in options.variants if row.shell == shell)
    patched = Recipe(
        variant=row,
        patch=options.recipe(row).patch,
        compiler=SystemCompiler(name=name),
        symbols=True,
        extra=(f"CFLAGS={_FLAGS}", f"LDFLAGS={_FLAGS}", *_ANSWERS[shell]),
    )
    built = build_all((replace(patched, patch=None), patched), replace(options.context, quiet=True))
    return built[0].path, built[1].path


_REPORT = re.compile(
    rb"^(?P<file>[^ :]*):\d+:\d+: runtime error: (?P<what>.*)\n(?:0x[0-9a-f]+: note: .*\n.*\n.*\n)?", re.MULTILINE
)
_ADDRESS = re.compile(rb"0x[0-9a-f]+")


def sanitiser_reports(outcome: Outcome) -> set[tuple[bytes, bytes]]:
    """Undefined behaviour that was reported, as source file and text; AddressSanitizer ends the shell instead."""
    assert b"AddressSanitizer" not in outcome.stderr, outcome.stderr.decode(errors="replace")
    found = _REPORT.finditer(outcome.stderr)
    return {(match["file"].rsplit(b"/", 1)[-1], _ADDRESS.sub(b"ADDRESS", match["what"])) for match in found}


def without_reports(outcome: Outcome) -> Outcome:
    """The outcome as without sanitisers: reports hold addresses, which differ from run to run."""
    return replace(outcome, stderr=_REPORT.sub(b"", outcome.stderr))
