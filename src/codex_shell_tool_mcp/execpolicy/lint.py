"""``execpolicy lint``: rules that grant more than they seem to, and rules that decide nothing."""

from __future__ import annotations

import re
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_shell_tool_mcp.errors import UsageError, on_one_line
from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.isolation import evaluate_files
from codex_shell_tool_mcp.execpolicy.layers import combined
from codex_shell_tool_mcp.execpolicy.loader import Found, Places, read_all, read_rules
from codex_shell_tool_mcp.execpolicy.rules import basename

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from codex_shell_tool_mcp.execpolicy.layers import FileRules
    from codex_shell_tool_mcp.execpolicy.rules import PatternToken, PrefixRule

USAGE = "usage: codex-exec-mcp-server execpolicy lint [--rules PATH]..."

HELP = f"""{USAGE}

Say which rules grant more than they seem to, and which decide nothing. One line each:
FILE:LINE: what: why (where that is written). Nothing is changed.

  -r, --rules PATH             a rules file; repeat it for several. Without it: all a server started here would read
  -h, --help                   print this text

Exit status: 0 if there is nothing to say, 1 if there is; 2 for a wrong command line; 3 if a file does not hold.
"""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing to say.

    Attributes:
        source: ``file:line`` of the rule.
        kind: ``grants`` (more than it seems), ``dead`` (a stricter rule overrides it), ``shadowed`` (another rule says
            the same) or ``unreachable`` (no file may stand for its name).
        text: What, why, and where that is written.
    """

    source: str
    kind: str
    text: str

    def __str__(self) -> str:
        """The line that is printed."""
        return f"{self.source}: {self.kind}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class OptionRow:
    """An option that does more than the program's name says."""

    programs: tuple[str, ...]
    option: str
    does: str
    source: str
    after: tuple[str, ...] = ()
    before: bool = False


@dataclass(frozen=True, kw_only=True)
class Grants:
    """``data/grants.toml``."""

    interpreters: tuple[str, ...]
    wrappers: tuple[str, ...]
    options: tuple[OptionRow, ...]
    sources: Mapping[str, str]


@cache
def grants() -> Grants:
    """The table, read when it is first needed."""
    text = resources.files("codex_shell_tool_mcp.execpolicy").joinpath("data/grants.toml").read_text("utf-8")
    raw: dict[str, Any] = tomllib.loads(text)
    return Grants(
        interpreters=tuple(raw["interpreters"]["names"]),
        wrappers=tuple(raw["wrappers"]["names"]),
        options=tuple(
            OptionRow(**{**row, "programs": tuple(row["programs"]), "after": tuple(row.get("after", ()))})
            for row in raw["option"]
        ),
        sources={name: raw[name]["source"] for name in ("interpreters", "wrappers")},
    )


def granted(rule: PrefixRule) -> list[str]:
    """What an ``allow`` rule grants beyond what it seems to; each with its source."""
    if rule.decision is not Decision.ALLOW:
        return []
    name, known = basename(rule.program), grants()
    if re.sub(r"-?[0-9.]+$", "", name) in known.interpreters or name in known.interpreters:
        return [f"{name} runs whatever code it is given, outside the sandbox ({known.sources['interpreters']})"]
    if name in known.wrappers:
        return [f"{name} runs any other program, outside the sandbox ({known.sources['wrappers']})"]
    return [
        f"`{name}{f' {row.option}' if row.before else ''}` {row.does} ({row.source})"
        if row.before
        else f"{name} with {row.option}: {row.does} ({row.source})"
        for row in known.options
        if name in row.programs and _reaches(rule.rest, row)
    ]


def lint(files: Iterable[FileRules]) -> list[Finding]:
    """All there is to say of ``files``, by file and line."""
    policy = combined(files)
    by_program: dict[str, list[PrefixRule]] = {}
    for rule in policy.prefix_rules:
        by_program.setdefault(rule.program, []).append(rule)
    found = [Finding(source=_source(rule), kind="grants", text=_said(rule, why))
             for rule in policy.prefix_rules for why in granted(rule)]  # fmt: skip
    for rules in by_program.values():
        found += _idle(rules)
    for rule in policy.prefix_rules:
        if rule.decision is Decision.ALLOW and policy.host_executables.get(rule.program) == ():
            text = f"{rule.describe()} never allows: host_executable lets no file stand for {rule.program}"
            found.append(Finding(source=_source(rule), kind="unreachable", text=text))
    return sorted(set(found), key=lambda finding: (_place(finding.source), finding.kind, finding.text))


def main(argv: Sequence[str], codex_home: Path) -> int:
    """Run ``execpolicy lint``; ``argv`` is what follows those two words. Returns the exit status.

    Raises:
        PolicyError: A file cannot be read or does not hold.
    """
    try:
        paths = _paths(argv)
    except UsageError as exc:
        print(f"error: {exc}\n{USAGE}", file=sys.stderr)
        return exc.exit_code
    if paths is None:
        print(HELP, end="")
        return 0
    findings = lint(_files(paths, codex_home))
    for finding in findings:
        print(on_one_line(str(finding)))
    return 1 if findings else 0


def _files(paths: Sequence[Path], codex_home: Path) -> tuple[FileRules, ...]:
    if paths:
        return evaluate_files([read_rules(path, follow_links=True) for path in paths])
    found = Found()
    try:
        cwd: Path | None = Path.cwd()
    except OSError:  # it is gone: then there is no project
        cwd = None
    read_all(Places(codex_home=codex_home, cwd=cwd), found)
    said = evaluate_files(found.texts)
    return said if found.requirements is None else (*said, found.requirements)


def _paths(argv: Sequence[str]) -> list[Path] | None:
    paths: list[Path] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word in {"-h", "--help"}:
            return None
        if word in {"-r", "--rules"}:
            if not rest:
                raise UsageError(f"{word} needs the path of a rules file")
            paths.append(Path(rest.pop(0)))
        elif word.startswith("--rules="):
            paths.append(Path(word.removeprefix("--rules=")))
        else:
            raise UsageError(f"{word} is no option of lint; name files by --rules PATH")
    return paths


def _reaches(rest: Sequence[PatternToken], row: OptionRow) -> bool:
    """Whether a command that begins with the pattern can still have the option where it works."""
    if row.before:
        return not rest
    if not row.after or not rest:
        return True
    first = rest[0]
    words = (first,) if isinstance(first, str) else first
    # A pattern that begins with an option leaves the sub-command open.
    return any(word in row.after or word.startswith("-") for word in words)


def _idle(rules: Sequence[PrefixRule]) -> Iterator[Finding]:
    """Rules of one program that another one of them makes pointless."""
    for at, rule in enumerate(rules):
        for other_at, other in enumerate(rules):
            if other_at == at or not covers(other, rule):
                continue
            where = f"{other.describe()} in {_source(other)}"
            if other.decision > rule.decision:
                text = f"{rule.describe()} decides nothing: {where} is stricter and matches all that it matches"
                yield Finding(source=_source(rule), kind="dead", text=text)
                break
            same = other.decision == rule.decision and rule.justification in {None, other.justification}
            if same and (not covers(rule, other) or other_at < at):
                text = f"{rule.describe()} adds nothing to {where}"
                yield Finding(source=_source(rule), kind="shadowed", text=text)
                break


def covers(wide: PrefixRule, narrow: PrefixRule) -> bool:
    """Whether ``wide`` matches every command that ``narrow`` matches."""
    if wide.program != narrow.program or len(wide.rest) > len(narrow.rest):
        return False
    return all(set(_words(one)) >= set(_words(other)) for one, other in zip(wide.rest, narrow.rest, strict=False))


def _words(token: PatternToken) -> tuple[str, ...]:
    return (token,) if isinstance(token, str) else token


def _said(rule: PrefixRule, why: str) -> str:
    return f"{rule.describe()} grants more than it seems to: {why}"


def _source(rule: PrefixRule) -> str:
    return rule.source or "?"


def _place(source: str) -> tuple[str, int]:
    path, _, line = source.rpartition(":")
    return (path, int(line)) if line.isdigit() else (source, 0)
