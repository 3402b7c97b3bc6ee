"""``execpolicy check``: what rules files say of a command, as JSON.

The options, the output and the exit statuses are the original's. The files are taken as named: no folders are
searched, no layers are added, a shell's ``-c`` script is not looked into, and the heuristics do not run.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_shell_tool_mcp.errors import PolicyError, UsageError, on_one_line
from codex_shell_tool_mcp.execpolicy.files import read_text
from codex_shell_tool_mcp.execpolicy.isolation import RulesText, evaluate_files
from codex_shell_tool_mcp.execpolicy.layers import combined
from codex_shell_tool_mcp.execpolicy.rules import PrefixRuleMatch, RuleMatch, basename

if TYPE_CHECKING:
    from collections.abc import Sequence

    from codex_shell_tool_mcp.execpolicy.rules import Policy

USAGE = (
    "usage: codex-exec-mcp-server execpolicy check --rules PATH [--pretty | --explain] [--resolve-host-executables] "
    "COMMAND..."
)

HELP = f"""{USAGE}

Say what rules files decide about a command, as JSON. Nothing is run.

  -r, --rules PATH             a rules file; repeat it for several, they are read in this order
      --pretty                 indent the JSON
      --explain                for people, in place of the JSON: every rule considered, why it won or lost, and what the
                               server would do
      --resolve-host-executables
                               let an absolute path stand for its basename, as host_executable permits
  -h, --help                   print this text
  COMMAND...                   the command; from its first word on everything belongs to it

Exit status: 0 whatever the decision; 1 if a file cannot be read or does not hold; 2 for a wrong command line.
"""


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """A checked command line."""

    rules: tuple[str, ...]
    command: tuple[str, ...]
    pretty: bool = False
    explain: bool = False
    resolve_host_executables: bool = False


def main(argv: Sequence[str]) -> int:
    """Run ``execpolicy check``; ``argv`` is what follows those two words. Returns the exit status."""
    try:
        options = parse_options(argv)
    except UsageError as exc:
        print(f"error: {exc}\n{USAGE}", file=sys.stderr)
        return exc.exit_code
    if options is None:
        print(HELP, end="")
        return 0
    try:
        text = _explained(options) if options.explain else _json(options)
    except PolicyError as exc:
        print(f"error: {on_one_line(str(exc))}", file=sys.stderr)
        return 1
    # UTF-8 whatever the locale; a working directory that is not keeps its bytes.
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
    sys.stdout.flush()
    return 0


def _json(options: CheckOptions) -> str:
    # Of the others nothing is wanted but that they hold: most of 10,000 rules need not be handed over. And the JSON has
    # no lines.
    policy = _policy(options, (options.command[0], basename(options.command[0])), places=False)
    matches = policy.matches(options.command, resolve_host_executables=options.resolve_host_executables)
    indent = 2 if options.pretty else None
    separators = None if options.pretty else (",", ":")
    return json.dumps(to_json(matches), ensure_ascii=False, indent=indent, separators=separators)


def _explained(options: CheckOptions) -> str:
    from codex_shell_tool_mcp.execpolicy import explain  # noqa: PLC0415 - reads a table that the JSON needs not

    located = explain.locate(options.command[0])
    policy = _policy(options, explain.programs(options.command, located), places=True)
    return explain.explain(
        policy, options.command, resolve_host_executables=options.resolve_host_executables, located=located
    )


def parse_options(argv: Sequence[str]) -> CheckOptions | None:
    """Read the command line; ``None`` if help is asked for.

    Raises:
        UsageError: It cannot be used.
    """
    rules: list[str] = []
    flags: set[str] = set()
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        option, has_value, value = _option(word)
        if word == "--":
            break
        if option in {"-h", "--help"}:
            return None
        if option in {"-r", "--rules"}:
            rules.append(value if has_value else _next(rest, option))
        elif option in {"--pretty", "--explain", "--resolve-host-executables"}:
            if has_value:
                raise UsageError(f"{option} takes no value")
            flags.add(option)
        else:
            rest.insert(0, word)
            break
    return _checked(rules, rest, flags)


def to_json(matches: Sequence[RuleMatch]) -> dict[str, Any]:
    """The matches and the decision they make, in the original's form; no decision without a match."""
    raw: dict[str, Any] = {"matchedRules": [_match(match) for match in matches]}
    if matches:
        raw["decision"] = max(match.decision for match in matches).word
    return raw


def _match(match: RuleMatch) -> dict[str, Any]:
    if not isinstance(match, PrefixRuleMatch):
        return {"heuristicsRuleMatch": {"command": list(match.command), "decision": match.decision.word}}
    raw: dict[str, Any] = {"matchedPrefix": list(match.matched_prefix), "decision": match.decision.word}
    if match.resolved_program is not None:
        raw["resolvedProgram"] = match.resolved_program
    if match.justification is not None:
        raw["justification"] = match.justification
    return {"prefixRuleMatch": raw}


def _policy(options: CheckOptions, programs: Sequence[str], *, places: bool) -> Policy:
    try:
        files = [
            RulesText(identifier=str(path), text=read_text(path, links=True, seen={}, guarded=False))
            for path in map(Path, options.rules)
        ]
    except PolicyError as exc:
        raise PolicyError(f"failed to read policy at {exc}") from exc
    try:
        return combined(evaluate_files(files, programs=programs, places=places))
    except PolicyError as exc:
        raise PolicyError(f"failed to parse policy at {exc}") from exc


def _option(word: str) -> tuple[str, bool, str]:
    """An argument as option, whether it has a value attached, and that value: ``--rules=X``, ``-r=X`` or ``-rX``."""
    if word.startswith("-r"):
        return "-r", len(word) > 2, word[2:].removeprefix("=")
    name, equals, value = word.partition("=")
    return name, bool(equals), value


def _next(rest: list[str], option: str) -> str:
    if not rest:
        raise UsageError(f"{option} needs the path of a rules file")
    return rest.pop(0)


def _checked(rules: Sequence[str], command: Sequence[str], flags: set[str]) -> CheckOptions:
    if not rules:
        raise UsageError("name a rules file: --rules PATH")
    if not command:
        raise UsageError("name the command to check after the options")
    for word in command:
        try:
            word.encode("utf-8")
        except UnicodeEncodeError as exc:
            raise UsageError(f"the command's word {word!r} is not UTF-8, so no rule could name it") from exc
    return CheckOptions(
        rules=tuple(rules),
        command=tuple(command),
        pretty="--pretty" in flags,
        explain="--explain" in flags,
        resolve_host_executables="--resolve-host-executables" in flags,
    )
