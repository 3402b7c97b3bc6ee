"""Matching: the language's own, the stricter one of interception, and what comes of several matches."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.rules import (
    Evaluation,
    HeuristicsRuleMatch,
    NetworkRule,
    PatternToken,
    Policy,
    PrefixRule,
    PrefixRuleMatch,
    evaluate_exec,
    normalised,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

ALLOW, PROMPT, FORBIDDEN = Decision.ALLOW, Decision.PROMPT, Decision.FORBIDDEN


def rule(*tokens: PatternToken, decision: Decision = ALLOW, **others: str) -> PrefixRule:
    program, *rest = tokens
    assert isinstance(program, str)
    return PrefixRule(program=program, rest=tuple(rest), decision=decision, **others)


def policy(*rules: PrefixRule, **host_executables: Sequence[str]) -> Policy:
    return Policy(prefix_rules=rules, host_executables={name: tuple(paths) for name, paths in host_executables.items()})


def matched(policy: Policy, *command: str, resolve: bool = False) -> list[tuple[tuple[str, ...], Decision, str | None]]:
    found = policy.matches(command, resolve_host_executables=resolve)
    assert all(isinstance(match, PrefixRuleMatch) for match in found)
    return [(m.matched_prefix, m.decision, m.resolved_program) for m in found if isinstance(m, PrefixRuleMatch)]


def test_decisions_are_ordered_by_severity_and_spelled_as_in_files() -> None:
    assert ALLOW < PROMPT < FORBIDDEN
    assert [decision.word for decision in Decision] == ["allow", "prompt", "forbidden"]
    assert [Decision.from_word(decision.word) for decision in Decision] == list(Decision)
    assert [Decision.from_word(word) for word in ("Allow", "deny", "", "allow ")] == [None] * 4


@pytest.mark.parametrize(
    ("pattern", "command", "prefix"),
    [
        (("git",), ("git",), ("git",)),
        (("git",), ("git", "push", "-f"), ("git",)),
        (("git", "push"), ("git", "push", "-f"), ("git", "push")),
        (("git", "push"), ("git",), None),
        (("git", "push"), ("git", "pull"), None),
        (("git", "push"), ("git", "-C", "x", "push"), None),
        (("git", ("push", "pull")), ("git", "pull", "x"), ("git", "pull")),
        (("git", ("push", "pull")), ("git", "fetch"), None),
        (("git", ("a", "b"), ("c", "d")), ("git", "b", "c"), ("git", "b", "c")),
        (("git",), ("Git",), None),
        (("git", "*"), ("git", "push"), None),
        (("",), ("",), ("",)),
        (("git", ""), ("git", ""), ("git", "")),
        (("git", ""), ("git",), None),
        (("git",), (), None),
    ],
)
def test_a_pattern_matches_a_prefix_token_by_token(
    pattern: tuple[PatternToken, ...], command: tuple[str, ...], prefix: tuple[str, ...] | None
) -> None:
    found = matched(policy(rule(*pattern)), *command)
    assert found == ([] if prefix is None else [(prefix, ALLOW, None)])


def test_all_matching_rules_are_given_in_the_order_read() -> None:
    rules = policy(
        rule("git", decision=PROMPT),
        rule("ls", decision=FORBIDDEN),
        rule("git", "push", decision=FORBIDDEN),
        rule("git", ("push", "pull")),
    )
    assert matched(rules, "git", "push") == [
        (("git",), PROMPT, None),
        (("git", "push"), FORBIDDEN, None),
        (("git", "push"), ALLOW, None),
    ]


GIT = "/usr/bin/git"


@pytest.mark.parametrize(
    ("rules", "program", "expected"),
    [
        (policy(rule("git", "status")), GIT, [(("git", "status"), ALLOW, GIT)]),
        (policy(rule("git", "status"), git=[GIT]), GIT, [(("git", "status"), ALLOW, GIT)]),
        (policy(rule("git", "status"), git=["/opt/git"]), GIT, []),
        (policy(rule("git", "status"), git=[]), GIT, []),
        (policy(rule("git", "status"), ls=["/bin/ls"]), GIT, [(("git", "status"), ALLOW, GIT)]),
        (policy(rule("git", "status"), git=[GIT]), "/usr/bin/../bin//./git", [(("git", "status"), ALLOW, GIT)]),
        (policy(rule("git", "status"), git=[GIT]), "//usr/bin/git", [(("git", "status"), ALLOW, GIT)]),
        (policy(rule("git", "status"), git=[GIT]), "git", [(("git", "status"), ALLOW, None)]),
        # An exact match hides the name's rules, even stricter ones.
        (policy(rule(GIT), rule("git", decision=FORBIDDEN)), GIT, [((GIT,), ALLOW, None)]),
        # But only a match does, not the mere presence of rules under the path.
        (policy(rule(GIT, "push"), rule("git")), GIT, [(("git",), ALLOW, GIT)]),
    ],
)
def test_basename_fallback(rules: Policy, program: str, expected: list[object]) -> None:
    assert matched(rules, program, "status", resolve=True) == expected


def test_basename_fallback_is_off_unless_asked_for() -> None:
    assert matched(policy(rule("git")), GIT) == []


def test_fallback_makes_relative_programs_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    rules = policy(rule("tool"))
    here = os.path.join(os.getcwd(), "tool")  # noqa: PTH109, PTH118 - plain text
    assert matched(rules, "./tool", resolve=True) == [(("tool",), ALLOW, here)]
    assert matched(rules, "~/bin/tool", resolve=True) == [(("tool",), ALLOW, "/home/somebody/bin/tool")]
    assert matched(policy(rule("tool"), tool=["/bin/tool"]), "./tool", resolve=True) == []


def test_an_empty_command_never_matches() -> None:
    assert matched(policy(rule("")), resolve=True) == []


def test_heuristics_decide_only_what_no_rule_matches() -> None:
    rules = policy(rule("git"))
    asked: list[Sequence[str]] = []

    def heuristics(command: Sequence[str]) -> Decision:
        asked.append(tuple(command))
        return PROMPT

    found = rules.check_all([["git", "x"], ["ls", "y"]], resolve_host_executables=False, heuristics=heuristics)
    assert found == Evaluation(
        decision=PROMPT,
        matched_rules=(
            PrefixRuleMatch(matched_prefix=("git",), decision=ALLOW),
            HeuristicsRuleMatch(command=("ls", "y"), decision=PROMPT),
        ),
    )
    assert asked == [("ls", "y")]
    assert found.by_rule
    only = rules.check(["ls"], resolve_host_executables=False, heuristics=heuristics)
    assert (only.decision, only.by_rule) == (PROMPT, False)


def test_the_strictest_match_decides_and_the_longest_of_its_matches_is_shown() -> None:
    rules = policy(
        rule("git", decision=FORBIDDEN, source="a:1"),
        rule("git", "push", decision=FORBIDDEN, source="a:2"),
        rule("git", ("push", "x"), decision=FORBIDDEN, source="a:3", justification="why"),
        rule("git", "push", "-f", source="a:4"),
    )
    found = rules.check(["git", "push", "-f"], resolve_host_executables=False, heuristics=lambda _: ALLOW)
    deciding = found.deciding()
    assert found.decision is FORBIDDEN
    assert isinstance(deciding, PrefixRuleMatch)
    assert (deciding.source, deciding.justification) == ("a:3", "why")


def test_heuristics_can_be_the_deciding_match() -> None:
    found = policy().check(["rm"], resolve_host_executables=False, heuristics=lambda _: PROMPT)
    assert found.deciding() == HeuristicsRuleMatch(command=("rm",), decision=PROMPT)


def test_a_rule_decides_before_heuristics_of_the_same_severity() -> None:
    match = PrefixRuleMatch(matched_prefix=("a",), decision=PROMPT)
    found = Evaluation.of((match, HeuristicsRuleMatch(command=("b", "c"), decision=PROMPT)))
    assert found.deciding() is match


def test_allowed_prefixes() -> None:
    rules = policy(rule("git", ("b", "a"), "c"), rule("ls"), rule("ls"), rule("rm", decision=PROMPT))
    assert rules.allowed_prefixes() == [["git", "[b|a]", "c"], ["ls"]]


def test_network_rules_compile_to_hosts_whatever_the_protocol() -> None:
    def network(host: str, decision: Decision, protocol: str = "https") -> NetworkRule:
        assert protocol in {"https", "http"}
        return NetworkRule(host=host, protocol="https" if protocol == "https" else "http", decision=decision)

    rules = Policy(
        network_rules=(
            network("a", ALLOW),
            network("b", FORBIDDEN),
            network("c", ALLOW),
            network("a", FORBIDDEN, "http"),
            network("b", ALLOW),
            network("c", PROMPT),
            network("c", ALLOW),
            network("d", PROMPT),
        )
    )
    assert rules.network_hosts() == (("b", "c"), ("a",))


def test_a_policy_does_not_change_with_the_caller_s_lists() -> None:
    rules = policy(rule("git"))
    with pytest.raises(AttributeError):
        rules.prefix_rules = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/", "/"), ("//a", "/a"), ("///a", "/a"), ("/a/../..", "/"), ("/a/./b//c/", "/a/b/c"), ("/..//x", "/x")],
)
def test_normalised(path: str, expected: str) -> None:
    assert normalised(path) == expected


def test_a_rule_describes_itself_as_it_is_written() -> None:
    described = rule('a"b', ("x\\", "y\n"), decision=PROMPT).describe()
    assert described == r'prefix_rule(pattern=["a\"b", ["x\\", "y\n"]], decision="prompt")'


# Interception ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Exec:
    """One intercepted exec and what must come of it; ``shown`` is the first token of each match, in order."""

    name: str
    rules: Policy
    program: str = GIT
    resolved: str | None = GIT
    argv: tuple[str, ...] = ("git", "push")
    preserve: bool = False
    name_may_allow: bool = True
    decision: Decision | None
    shown: tuple[str, ...] = ()


COPY = "/srv/git"
VIM = "/usr/bin/vim.basic"

EXECS = (
    # As the original: exact path, then basename where host_executable permits.
    Exec(name="exact allow", rules=policy(rule(GIT)), decision=ALLOW, shown=(GIT,)),
    Exec(name="name allow", rules=policy(rule("git", "push")), decision=ALLOW, shown=("git",)),
    Exec(name="name allow, listed", rules=policy(rule("git"), git=[GIT]), decision=ALLOW, shown=("git",)),
    Exec(name="name allow, not listed", rules=policy(rule("git"), git=["/opt/git"]), decision=None),
    Exec(name="name allow, nothing listed", rules=policy(rule("git"), git=[]), decision=None),
    Exec(name="no rule", rules=policy(rule("ls")), decision=None),
    Exec(name="exact allow hides a name allow", rules=policy(rule(GIT), rule("git")), decision=ALLOW, shown=(GIT,)),
    # Stricter than the original: what is not allow counts from everywhere.
    Exec(
        name="an exact allow does not hide a name's forbidden",
        rules=policy(rule(GIT), rule("git", "push", decision=FORBIDDEN)),
        decision=FORBIDDEN,
        shown=(GIT, "git"),
    ),
    Exec(
        name="an exact prompt does not hide a name's forbidden",
        rules=policy(rule(GIT, decision=PROMPT), rule("git", decision=FORBIDDEN)),
        decision=FORBIDDEN,
        shown=(GIT, "git"),
    ),
    Exec(
        name="an exact prompt hides a name's allow",
        rules=policy(rule(GIT, decision=PROMPT), rule("git")),
        decision=PROMPT,
        shown=(GIT,),
    ),
    Exec(
        name="host_executable does not hide a forbidden",
        rules=policy(rule("git", decision=FORBIDDEN), git=[]),
        decision=FORBIDDEN,
        shown=("git",),
    ),
    Exec(
        name="host_executable hides the allow, not the prompt",
        rules=policy(rule("git"), rule("git", "push", decision=PROMPT), git=[]),
        decision=PROMPT,
        shown=("git",),
    ),
    # The file behind a link.
    Exec(
        name="a link's own name allows",
        rules=policy(rule("vi")),
        program="/bin/vi",
        resolved=VIM,
        decision=ALLOW,
        shown=("vi",),
    ),
    Exec(
        name="the path behind a link does not allow",
        rules=policy(rule(VIM), rule("vim.basic")),
        program="/bin/vi",
        resolved=VIM,
        decision=None,
    ),
    Exec(
        name="the path behind a link forbids",
        rules=policy(rule("/bin/vi"), rule(VIM, decision=FORBIDDEN)),
        program="/bin/vi",
        resolved=VIM,
        decision=FORBIDDEN,
        shown=("/bin/vi", VIM),
    ),
    Exec(
        name="the name behind a link forbids",
        rules=policy(rule("t2"), rule("touch", decision=FORBIDDEN)),
        program="/srv/t2",
        resolved="/usr/bin/touch",
        decision=FORBIDDEN,
        shown=("t2", "touch"),
    ),
    Exec(
        name="the name behind a link prompts although not listed",
        rules=policy(rule("touch", decision=PROMPT), touch=[]),
        program="/srv/t2",
        resolved="/usr/bin/touch",
        decision=PROMPT,
        shown=("touch",),
    ),
    Exec(
        name="same name behind a link: its rules count once",
        rules=policy(rule("git", decision=PROMPT)),
        program="/srv/git",
        resolved=GIT,
        decision=PROMPT,
        shown=("git",),
    ),
    Exec(name="nothing resolved", rules=policy(rule("git")), resolved=None, decision=ALLOW, shown=("git",)),
    # A look-alike: anybody can give a file in the workspace that name.
    Exec(
        name="look-alike loses a name's allow",
        rules=policy(rule("git")),
        program=COPY,
        resolved=COPY,
        name_may_allow=False,
        decision=None,
    ),
    Exec(
        name="look-alike keeps a name's prompt",
        rules=policy(rule("git"), rule("git", "push", decision=PROMPT)),
        program=COPY,
        resolved=COPY,
        name_may_allow=False,
        decision=PROMPT,
        shown=("git",),
    ),
    Exec(
        name="a rule that names the very path still allows",
        rules=policy(rule(COPY)),
        program=COPY,
        resolved=COPY,
        name_may_allow=False,
        decision=ALLOW,
        shown=(COPY,),
    ),
    # argv[0] says nothing.
    Exec(
        name="argv0 does not allow",
        rules=policy(rule("git")),
        program="/srv/evil",
        resolved="/srv/evil",
        decision=None,
    ),
    Exec(
        name="argv0 does not hide",
        rules=policy(rule("git", decision=FORBIDDEN)),
        argv=("harmless", "push"),
        decision=FORBIDDEN,
        shown=("git",),
    ),
    Exec(name="empty argv", rules=policy(rule("git")), argv=(), decision=ALLOW, shown=("git",)),
    Exec(name="empty argv, longer rule", rules=policy(rule("git", "push")), argv=(), decision=None),
    Exec(
        name="bytes that are not UTF-8",
        rules=policy(rule("git", "\N{REPLACEMENT CHARACTER}")),
        argv=("git", "\udcff"),
        decision=None,
    ),
    # --preserve-program-paths: exact paths only.
    Exec(name="preserve: exact allow", rules=policy(rule(GIT)), preserve=True, decision=ALLOW, shown=(GIT,)),
    Exec(name="preserve: no name allow", rules=policy(rule("git")), preserve=True, decision=None),
    Exec(name="preserve: no name forbids", rules=policy(rule("git", decision=FORBIDDEN)), preserve=True, decision=None),
    Exec(
        name="preserve: the path behind a link forbids",
        rules=policy(rule("/bin/vi"), rule(VIM, decision=FORBIDDEN)),
        program="/bin/vi",
        resolved=VIM,
        preserve=True,
        decision=FORBIDDEN,
        shown=("/bin/vi", VIM),
    ),
    Exec(
        name="preserve: the path behind a link does not allow",
        rules=policy(rule(VIM)),
        program="/bin/vi",
        resolved=VIM,
        preserve=True,
        decision=None,
    ),
)


@pytest.mark.parametrize("case", EXECS, ids=lambda case: case.name)
@pytest.mark.parametrize("unmatched", [ALLOW, PROMPT])
def test_evaluate_exec(case: Exec, unmatched: Decision) -> None:
    asked: list[Sequence[str]] = []

    def heuristics(command: Sequence[str]) -> Decision:
        asked.append(tuple(command))
        return unmatched

    found = evaluate_exec(
        case.rules,
        program=case.program,
        resolved=case.resolved,
        argv=case.argv,
        preserve_program_paths=case.preserve,
        name_may_allow=case.name_may_allow,
        heuristics=heuristics,
    )
    if case.decision is None:
        first = case.program if case.preserve else case.program.rpartition("/")[2]
        command = (first, *case.argv[1:])
        assert asked == [command]
        assert found == Evaluation.of((HeuristicsRuleMatch(command=command, decision=unmatched),))
    else:
        assert asked == []
        prefixes = [match.matched_prefix[0] for match in found.matched_rules if isinstance(match, PrefixRuleMatch)]
        assert (found.decision, prefixes) == (case.decision, list(case.shown))


def test_matches_by_name_say_which_file_stood_for_it() -> None:
    found = evaluate_exec(
        policy(rule("t2", decision=PROMPT), rule("touch", decision=FORBIDDEN)),
        program="/srv/t2",
        resolved="/usr/bin/touch",
        argv=("t2", "x"),
        preserve_program_paths=False,
        name_may_allow=False,
        heuristics=lambda _: ALLOW,
    )
    assert [getattr(match, "resolved_program", None) for match in found.matched_rules] == [
        "/srv/t2",
        "/usr/bin/touch",
    ]


def test_lookup_is_by_program_however_many_rules_there_are() -> None:
    """Counts comparisons instead of time: a decision looks at the rules of its own program only."""
    seen = 0

    class Counting(PrefixRule):
        def matches(self, command: Sequence[str]) -> bool:
            nonlocal seen
            seen += 1
            return super().matches(command)

    rules = Policy(prefix_rules=tuple(Counting(program=f"program{number}") for number in range(10_000)))
    found = evaluate_exec(
        rules,
        program="/usr/bin/program77",
        resolved="/usr/bin/program77",
        argv=("program77",),
        preserve_program_paths=False,
        name_may_allow=True,
        heuristics=lambda _: PROMPT,
    )
    assert (found.decision, seen) == (ALLOW, 1)
