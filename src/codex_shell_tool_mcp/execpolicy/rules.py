"""What rules are, and which of them match a command: pure values, no files, no interpreter.

Tokens are compared byte for byte: no globs, no case folding, no links followed. The effective decision is the
strictest of all matches; no rule is weaker for being older, shorter or in another file.

Two ways to ask. :meth:`Policy.matches` is the original's, and what ``execpolicy check`` prints. :func:`evaluate_exec`
is for an exec that is about to happen; it is stricter on purpose, and says where.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from codex_shell_tool_mcp.execpolicy.decision import Decision

PatternToken = str | tuple[str, ...]
"""One place of a pattern: a literal, or alternatives in the order written (never fewer than two)."""

NetworkProtocol = Literal["http", "https", "socks5_tcp", "socks5_udp"]
"""Canonical protocol names of ``network_rule``."""

NETWORK_PROTOCOLS: tuple[NetworkProtocol, ...] = get_args(NetworkProtocol)
"""Every canonical protocol name, in the order messages list them."""


@dataclass(frozen=True, kw_only=True)
class PrefixRule:
    """Commands that start with these tokens get this decision.

    Attributes:
        program: The first token, a literal: rules are looked up by it.
        rest: The other tokens.
        decision: What a matching command gets.
        justification: The rule's own text for people, verbatim, or ``None``.
        source: ``file:line`` of the call that made the rule, or ``None``.
    """

    program: str
    rest: tuple[PatternToken, ...] = ()
    decision: Decision = Decision.ALLOW
    justification: str | None = None
    source: str | None = None

    def matches(self, command: Sequence[str]) -> bool:
        """Whether ``command``, whose first token is known to be :attr:`program`, starts with the pattern."""
        if len(command) <= len(self.rest):
            return False
        for at, wanted in enumerate(self.rest, start=1):  # a generator would cost three times as much, for each rule
            if command[at] != wanted if isinstance(wanted, str) else command[at] not in wanted:
                return False
        return True

    def describe(self) -> str:
        """The rule as one would write it, for messages."""
        tokens = ", ".join(_quoted(token) for token in (self.program, *self.rest))
        return f'prefix_rule(pattern=[{tokens}], decision="{self.decision.word}")'


@dataclass(frozen=True, kw_only=True)
class NetworkRule:
    """What connections to one host get. Never part of deciding a command.

    Attributes:
        host: Normalised: lower case, no port, no brackets, no trailing dot.
        protocol: Canonical name.
        decision: As written; ``deny`` is stored as forbidden.
        justification: Verbatim, or ``None``.
        source: ``file:line``, or ``None``.
    """

    host: str
    protocol: NetworkProtocol
    decision: Decision
    justification: str | None = None
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class PrefixRuleMatch:
    """A rule matched.

    Attributes:
        matched_prefix: The command's tokens the pattern covered; the first is the basename after a basename fallback.
        decision: The rule's.
        resolved_program: The absolute path that stood for the basename, or ``None`` if the match was exact.
        justification: The rule's.
        source: ``file:line`` of the rule, or ``None``.
    """

    matched_prefix: tuple[str, ...]
    decision: Decision
    resolved_program: str | None = None
    justification: str | None = None
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class HeuristicsRuleMatch:
    """No rule matched ``command``, so the heuristics decided."""

    command: tuple[str, ...]
    decision: Decision


RuleMatch = PrefixRuleMatch | HeuristicsRuleMatch


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A decision and everything it rests on.

    Attributes:
        decision: The strictest of the matches.
        matched_rules: All matches, at least one, in a stable order.
    """

    decision: Decision
    matched_rules: tuple[RuleMatch, ...]

    @classmethod
    def of(cls, matches: tuple[RuleMatch, ...]) -> Evaluation:
        """Combine ``matches``, of which there must be one at least."""
        return cls(decision=max(match.decision for match in matches), matched_rules=matches)

    @property
    def by_rule(self) -> bool:
        """Whether some rule matched, so that not the heuristics alone decided."""
        return any(isinstance(match, PrefixRuleMatch) for match in self.matched_rules)

    def deciding(self) -> RuleMatch:
        """The match to show for the decision: of those that have it the longest prefix, of equals the last.

        A rule comes before the heuristics.
        """
        if len(self.matched_rules) == 1:
            return self.matched_rules[0]
        candidates = [match for match in self.matched_rules if match.decision == self.decision]
        return max(reversed(candidates), key=_prefix_length)


Heuristics = Callable[[Sequence[str]], Decision]
"""Decides a command that no rule matches."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """All rules in force. Immutable: a changed set of files is another policy.

    Attributes:
        prefix_rules: In the order read.
        network_rules: In the order read.
        host_executables: Program name to the absolute paths that may stand for it; an empty tuple means none may.
    """

    prefix_rules: tuple[PrefixRule, ...] = ()
    network_rules: tuple[NetworkRule, ...] = ()
    host_executables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    _by_program: Mapping[str, tuple[PrefixRule, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the rules by program, so that the number of other programs' rules costs nothing per exec."""
        index: dict[str, list[PrefixRule]] = {}
        for rule in self.prefix_rules:
            index.setdefault(rule.program, []).append(rule)
        object.__setattr__(self, "_by_program", {program: tuple(rules) for program, rules in index.items()})

    def matches(
        self,
        command: Sequence[str],
        *,
        resolve_host_executables: bool,
        heuristics: Heuristics | None = None,
    ) -> tuple[RuleMatch, ...]:
        """All matches of one command, as the original gives them.

        The exact pass comes first; only if it finds nothing may an absolute path stand for a program's bare name.

        Args:
            command: The tokens; none match an empty command.
            resolve_host_executables: Whether to try the basename. A relative first token then counts from the
                process's working directory and a leading ``~`` is the home directory.
            heuristics: Decides a command without any match; without it such a command has no matches.
        """
        found: tuple[RuleMatch, ...] = tuple(self.exact_matches(command))
        if not found and resolve_host_executables and command:
            path = absolute(command[0])
            if path is not None and self.may_stand_for_name(path):
                found = tuple(self.name_matches(path, command[1:]))
        if not found and heuristics is not None:
            found = (HeuristicsRuleMatch(command=tuple(command), decision=heuristics(command)),)
        return found

    def check(
        self,
        command: Sequence[str],
        *,
        resolve_host_executables: bool,
        heuristics: Heuristics,
    ) -> Evaluation:
        """Decide one command; see :meth:`matches`."""
        return self.check_all([command], resolve_host_executables=resolve_host_executables, heuristics=heuristics)

    def check_all(
        self,
        commands: Iterable[Sequence[str]],
        *,
        resolve_host_executables: bool,
        heuristics: Heuristics,
    ) -> Evaluation:
        """Decide several commands of one script, at least one: the strictest match of all counts."""
        return Evaluation.of(
            tuple(
                match
                for command in commands
                for match in self.matches(
                    command, resolve_host_executables=resolve_host_executables, heuristics=heuristics
                )
            )
        )

    def allowed_prefixes(self) -> list[list[str]]:
        """The prefixes an ``allow`` rule names, alternatives as ``[a|b]``, sorted, each once."""
        prefixes = {
            tuple(token if isinstance(token, str) else f"[{'|'.join(token)}]" for token in (rule.program, *rule.rest))
            for rule in self.prefix_rules
            if rule.decision is Decision.ALLOW
        }
        return [list(prefix) for prefix in sorted(prefixes)]

    def network_hosts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The hosts allowed and the hosts denied, each in the order of the rule that put it there.

        The last rule for a host that is not ``prompt`` decides, for every protocol.
        """
        allowed: dict[str, None] = {}
        denied: dict[str, None] = {}
        for rule in self.network_rules:
            if rule.decision is Decision.PROMPT:
                continue
            gains, loses = (allowed, denied) if rule.decision is Decision.ALLOW else (denied, allowed)
            loses.pop(rule.host, None)
            gains.pop(rule.host, None)
            gains[rule.host] = None
        return tuple(allowed), tuple(denied)

    def exact_matches(self, command: Sequence[str]) -> Iterator[PrefixRuleMatch]:
        """Matches of the rules stored under the command's first token, in the order read."""
        for rule in self._by_program.get(command[0], ()) if command else ():
            if rule.matches(command):
                yield _match(rule, command, resolved_program=None)

    def name_matches(self, path: str, arguments: Sequence[str]) -> Iterator[PrefixRuleMatch]:
        """Matches of the rules stored under the basename of the absolute ``path``, ``host_executable`` not asked."""
        name = basename(path)
        command = (name, *arguments)
        for rule in self._by_program.get(name, ()) if name else ():
            if rule.matches(command):
                yield _match(rule, command, resolved_program=path)

    def has_rules_for(self, names: Iterable[str]) -> bool:
        """Whether any rule's first token is one of ``names``."""
        return not self._by_program.keys().isdisjoint(names)

    def words_looked_at(self, names: Iterable[str]) -> int:
        """How many words of a command the rules of ``names`` can look at, its program included."""
        rules = (rule for name in names for rule in self._by_program.get(name, ()))
        return max((1 + len(rule.rest) for rule in rules), default=1)

    def may_stand_for_name(self, path: str) -> bool:
        """Whether ``host_executable`` lets ``path`` stand for its basename; without an entry any path may."""
        listed = self.host_executables.get(basename(path))
        return listed is None or path in listed


def exec_names(
    program: str, resolved: str | None, *, preserve_program_paths: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The paths of an exec's program, and all names under which rules may speak of it; see :func:`evaluate_exec`."""
    paths = (program,) if resolved is None or resolved == program else (program, resolved)
    return paths, paths if preserve_program_paths else (*paths, *map(basename, paths))


def evaluate_exec(
    policy: Policy,
    *,
    program: str,
    resolved: str | None,
    argv: Sequence[str],
    preserve_program_paths: bool,
    name_may_allow: bool,
    heuristics: Heuristics,
) -> Evaluation:
    """Decide an exec that is about to happen.

    ``allow`` is given as the original gives it: by the invoked path exactly, else by its basename where
    ``host_executable`` permits. ``prompt`` and ``forbidden`` count whichever way they are reached: by the invoked path,
    by the file it turned out to be, and by the basename of either; an exact match does not hide a stricter one of
    the basename, and ``host_executable`` restricts what may be allowed, never what is forbidden. ``argv[0]``, which the
    caller chooses freely, is not looked at.

    Args:
        policy: The rules.
        program: Absolute path of the file as invoked, lexically normalised, links kept.
        resolved: Absolute path of the file that would run, links followed; ``None`` if unknown.
        argv: Its arguments, ``argv[0]`` included; may be empty.
        preserve_program_paths: Match absolute paths only, never basenames.
        name_may_allow: Whether an ``allow`` reached by the basename counts. Not so if the sandbox can write where the
            file lies, or where any link on the way to it does: there anybody can give any program that name.
        heuristics: Decides an exec that no rule matches; it is asked about the basename and the arguments (the
            absolute path with ``preserve_program_paths``).
    """
    paths, names = exec_names(program, resolved, preserve_program_paths=preserve_program_paths)
    arguments = tuple(argv[1:])
    if policy.has_rules_for(names):  # most execs are of programs that no rule speaks of
        found = _exec_matches(
            policy, paths, arguments, by_name=not preserve_program_paths, name_may_allow=name_may_allow
        )
        if found:
            return Evaluation.of(tuple(found))
    unmatched = (program if preserve_program_paths else basename(program), *arguments)
    return Evaluation.of((HeuristicsRuleMatch(command=unmatched, decision=heuristics(unmatched)),))


def _exec_matches(
    policy: Policy, paths: Sequence[str], arguments: tuple[str, ...], *, by_name: bool, name_may_allow: bool
) -> list[PrefixRuleMatch]:
    """The matches that count for an exec; ``paths`` are the invoked one and, if that differs, the file's own."""
    program, others = paths[0], paths[1:]
    found = list(policy.exact_matches((program, *arguments)))
    allow_by_name = name_may_allow and not found and policy.may_stand_for_name(program)
    for path in others:
        found += _stricter(policy.exact_matches((path, *arguments)))
    if by_name:
        named = policy.name_matches(program, arguments)
        found += named if allow_by_name else _stricter(named)
        for path in others:
            if basename(path) != basename(program):
                found += _stricter(policy.name_matches(path, arguments))
    return found


def _stricter(matches: Iterable[PrefixRuleMatch]) -> Iterator[PrefixRuleMatch]:
    """Those that do not allow."""
    return (match for match in matches if match.decision is not Decision.ALLOW)


def _match(rule: PrefixRule, command: Sequence[str], *, resolved_program: str | None) -> PrefixRuleMatch:
    return PrefixRuleMatch(
        matched_prefix=tuple(command[: len(rule.rest) + 1]),
        decision=rule.decision,
        resolved_program=resolved_program,
        justification=rule.justification,
        source=rule.source,
    )


def _prefix_length(match: RuleMatch) -> int:
    return len(match.matched_prefix) if isinstance(match, PrefixRuleMatch) else -1


def _quoted(token: PatternToken) -> str:
    if isinstance(token, str):
        return '"' + token.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return "[" + ", ".join(_quoted(alternative) for alternative in token) + "]"


def basename(path: str) -> str:
    """What follows the last slash of ``path``."""
    return path.rpartition("/")[2]


def normalised(path: str) -> str:
    """``path``, which must be absolute, without ``.``, ``..`` and repeated slashes; links are not followed."""
    # POSIX lets a path with exactly two leading slashes mean something else, and normpath keeps them; no system we
    # run on uses that, and the original's path type collapses them.
    return "/" + os.path.normpath(path).lstrip("/")


def absolute(text: str) -> str | None:
    """What a relative path or one that begins with ``~`` means here; ``None`` in a directory that is gone."""
    expanded = os.path.expanduser(text) if text == "~" or text.startswith("~/") else text  # noqa: PTH111 - plain text
    try:
        return normalised(os.path.abspath(expanded))  # noqa: PTH100 - lexical on purpose
    except FileNotFoundError:
        return None
