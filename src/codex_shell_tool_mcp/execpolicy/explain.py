"""``execpolicy check --explain``: every rule that was considered for a command, and why it won or lost."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.errors import on_one_line
from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.heuristics import unmatched_decision, why_dangerous
from codex_shell_tool_mcp.execpolicy.rules import (
    Evaluation,
    HeuristicsRuleMatch,
    PrefixRuleMatch,
    absolute,
    basename,
    evaluate_exec,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from codex_shell_tool_mcp.execpolicy.rules import PatternToken, Policy, PrefixRule


@dataclass(frozen=True, kw_only=True)
class Located:
    """The file a command's first word leads to.

    Attributes:
        program: Its absolute path, links kept.
        resolved: The file itself.
    """

    program: str
    resolved: str


def locate(word: str) -> Located | None:
    """What a shell here would start for ``word``; ``None`` if nothing."""
    found = shutil.which(word)
    if found is None:
        return None
    program = absolute(found)
    if program is None:
        return None
    return Located(program=program, resolved=os.path.realpath(program))


def programs(command: Sequence[str], located: Located | None) -> tuple[str, ...]:
    """The names under which rules may be considered."""
    paths = [command[0]] if located is None else [command[0], located.program, located.resolved]
    return tuple(dict.fromkeys([*paths, *map(basename, paths)]))


def explain(policy: Policy, command: Sequence[str], *, resolve_host_executables: bool, located: Located | None) -> str:
    """The explanation, several lines.

    Args:
        policy: The rules; those of other programs may be left out.
        command: The words.
        resolve_host_executables: As ``check`` was asked.
        located: What the first word leads to on this machine.
    """
    matches = policy.matches(command, resolve_host_executables=resolve_host_executables)
    lines = [f"command: {shlex.join(command)}", ""]
    lines += _considered(policy, command, "as it stands", _exact_loser(matches))
    if not any(rule.program == command[0] and rule.matches(command) for rule in policy.prefix_rules):
        lines += _by_name(policy, command, resolve=resolve_host_executables)
    elif resolve_host_executables:
        lines.append("a rule matched as it stands, so the last part of the path is not looked up")
    lines += ["", *_outcome(matches)]
    if located is not None:
        lines += ["", *_intercepted(policy, command, located)]
    return "\n".join(lines)


def _considered(policy: Policy, command: Sequence[str], how: str, effective: Decision | None) -> Iterator[str]:
    """A line for each rule stored under the command's first word."""
    rules = [rule for rule in policy.prefix_rules if rule.program == command[0]]
    yield f"rules for {_word(command[0])} ({how}): {len(rules) or 'none'}"
    for rule in rules:
        yield "  " + on_one_line(f"{rule.source or '?'}: {rule.describe()}")
        yield f"      {_fate(rule, command, effective)}"


def _fate(rule: PrefixRule, command: Sequence[str], effective: Decision | None) -> str:
    problem = _mismatch(rule, command)
    if problem is not None:
        return f"does not match: {problem}"
    matched = shlex.join(command[: len(rule.rest) + 1])
    if effective is None or rule.decision == effective:
        return f"matches `{matched}` and decides"
    return f"matches `{matched}`, but a stricter rule decides"


def _mismatch(rule: PrefixRule, command: Sequence[str]) -> str | None:
    for at, wanted in enumerate(rule.rest, start=1):
        if at >= len(command):
            return f"the command has no word {at + 1}, the rule wants {_wanted(wanted)} there"
        if command[at] not in ((wanted,) if isinstance(wanted, str) else wanted):
            return f"word {at + 1} is {_word(command[at])}, the rule wants {_wanted(wanted)}"
    return None


def _by_name(policy: Policy, command: Sequence[str], *, resolve: bool) -> Iterator[str]:
    name = basename(command[0])
    if name == command[0] or not name:
        return
    if not resolve:
        yield f"rules for {_word(name)} are not looked up: that takes --resolve-host-executables"
        return
    path = absolute(command[0])
    if path is None:
        yield f"rules for {_word(name)} are not looked up: the working directory is gone"
        return
    if not policy.may_stand_for_name(path):
        listed = ", ".join(policy.host_executables[name]) or "no file"
        yield f"rules for {_word(name)} are not looked up: host_executable lets only {listed} stand for it"
        return
    by_name = (name, *command[1:])
    found = policy.matches(command, resolve_host_executables=True)
    yield from _considered(policy, by_name, f"the last part of {path}", _exact_loser(found))


def _exact_loser(matches: Sequence[PrefixRuleMatch | HeuristicsRuleMatch]) -> Decision | None:
    return max((match.decision for match in matches), default=None)


def _outcome(matches: Sequence[PrefixRuleMatch | HeuristicsRuleMatch]) -> list[str]:
    if not matches:
        return ["decision: none, for no rule matches"]
    deciding = Evaluation.of(tuple(matches)).deciding()
    return [f"decision: {deciding.decision.word}, by {_where(deciding)}"]


def _where(match: PrefixRuleMatch | HeuristicsRuleMatch) -> str:
    if not isinstance(match, PrefixRuleMatch):
        return "no rule"
    return on_one_line((match.source or "a rule") + (f": {match.justification}" if match.justification else ""))


def _intercepted(policy: Policy, command: Sequence[str], located: Located) -> list[str]:
    """What the server makes of it, which looks at more than ``check``."""
    found = evaluate_exec(
        policy,
        program=located.program,
        resolved=located.resolved,
        argv=command,
        preserve_program_paths=False,
        name_may_allow=True,
        heuristics=unmatched_decision,
    )
    deciding = found.deciding()
    behind = f", which is {located.resolved}" if located.resolved != located.program else ""
    lines = [f"in the server, as {located.program}{behind} (a file that scripts cannot write):"]
    if isinstance(deciding, PrefixRuleMatch):
        ends = {
            Decision.ALLOW: "runs outside the sandbox, unasked",
            Decision.PROMPT: "is asked about, and then runs outside the sandbox",
            Decision.FORBIDDEN: "does not run",
        }
        return [*lines, f"  it {ends[deciding.decision]}, by {_where(deciding)}"]
    why = why_dangerous((basename(located.program), *command[1:]))
    if why is not None:
        return [*lines, f"  no rule matches; it is asked about, for it {why}, and then runs in the sandbox"]
    return [*lines, "  no rule matches; it runs in the sandbox (unless --unmatched says otherwise)"]


def _wanted(token: PatternToken) -> str:
    return _word(token) if isinstance(token, str) else " or ".join(map(_word, token))


def _word(text: str) -> str:
    return f'"{text}"' if text.isprintable() else repr(text)
