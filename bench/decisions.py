"""What a decision costs in the server, with few rules and with many: ``python -m bench.decisions``.

Measured is what is done for each exec between the request and the answer, as far as rules are concerned: the look
whether a file has changed, and the evaluation. No target is a test; the medians are printed in microseconds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from codex_shell_tool_mcp.execpolicy.heuristics import unmatched_decision
from codex_shell_tool_mcp.execpolicy.live import LiveRules
from codex_shell_tool_mcp.execpolicy.rules import evaluate_exec

TARGET = 20.0
"""Microseconds a decision may take at the median."""

EXECS = 20_000

COMMANDS = (
    ("matched", "/usr/bin/program7", ("program7", "word7", "x")),
    ("unmatched", "/usr/bin/gcc", ("gcc", "-O2", "-c", "a.c", "-o", "a.o")),
    ("a script's shell", "/bin/bash", ("bash", "-c", "echo one && echo two | cat")),
    ("one with git in it", "/bin/bash", ("bash", "-c", "git status && git diff | cat")),
)


def main() -> None:
    """Print a line for each number of rules and each kind of command."""
    for number in (10, 10_000):
        with tempfile.TemporaryDirectory() as folder:
            rules = _rules(Path(folder), number)
            for name, program, argv in COMMANDS:
                median = _median(rules, program, argv)
                word = "held" if median <= TARGET else "not held"
                print(f"{number:6} rules, {name:18} {median:6.1f} µs (target {TARGET:g}: {word})")


def _rules(home: Path, number: int) -> LiveRules:
    (home / "rules").mkdir()
    decisions = ("allow", "prompt", "forbidden")
    text = "".join(
        f'prefix_rule(["program{at % 500}", "word{at}"], "{decisions[at % 3]}")\n' for at in range(number)
    )  # fmt: skip
    (home / "rules" / "many.rules").write_text(text, encoding="utf-8")
    rules = LiveRules(home)
    rules.refresh(None)
    return rules


def _median(rules: LiveRules, program: str, argv: tuple[str, ...]) -> float:
    taken = []
    for _ in range(EXECS):
        begun = time.perf_counter_ns()
        if rules.is_stale(None):
            rules.refresh(None)
        found = evaluate_exec(
            rules.in_force(None).policy,
            program=program,
            resolved=program,
            argv=argv,
            preserve_program_paths=False,
            name_may_allow=True,
            heuristics=unmatched_decision,
        )
        found.deciding()
        taken.append(time.perf_counter_ns() - begun)
    return statistics.median(taken) / 1000


if __name__ == "__main__":
    main()
