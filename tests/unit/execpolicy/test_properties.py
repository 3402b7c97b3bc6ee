"""What must hold of any set of rules and any command.

The rules go through the parser, so that these are properties of the language and not of our classes.
"""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass
from pathlib import Path
from random import Random  # noqa: TC003 - hypothesis looks at the annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_shell_tool_mcp.execpolicy.check import to_json
from codex_shell_tool_mcp.execpolicy.codec import decode_files, encode_files
from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.parser import PolicyParser
from codex_shell_tool_mcp.execpolicy.rules import Evaluation, Policy, PrefixRuleMatch, evaluate_exec

EXAMPLES = settings(max_examples=60, deadline=None)

PROGRAMS = ["git", "ls", "/bin/git", "/bin/ls", "/opt/git"]
ARGUMENTS = ["a", "b", "c"]
PATHS = ["/bin/git", "/bin/ls", "/opt/git", "/srv/git", "/srv/x"]

Element = str | list[str]


@dataclass(frozen=True)
class Call:
    """One ``prefix_rule`` call."""

    pattern: tuple[Element, ...]
    decision: str

    def text(self) -> str:
        return f"prefix_rule({json.dumps(self.pattern)}, {json.dumps(self.decision)})"


def elements(words: list[str]) -> st.SearchStrategy[Element]:
    return st.sampled_from(words) | st.lists(st.sampled_from(words), min_size=1, max_size=3)


def calls(decisions: tuple[str, ...] = ("allow", "prompt", "forbidden")) -> st.SearchStrategy[Call]:
    pattern = st.tuples(elements(PROGRAMS), st.lists(elements(ARGUMENTS), max_size=2)).map(lambda p: (p[0], *p[1]))
    return st.builds(Call, pattern=pattern, decision=st.sampled_from(decisions))


@dataclass(frozen=True)
class Exec:
    """One intercepted exec."""

    program: str
    resolved: str | None
    arguments: tuple[str, ...]
    preserve: bool
    name_may_allow: bool


EXECS = st.builds(
    Exec,
    program=st.sampled_from(PATHS),
    resolved=st.sampled_from(PATHS) | st.none(),
    arguments=st.lists(st.sampled_from(ARGUMENTS), max_size=3).map(tuple),
    preserve=st.booleans(),
    name_may_allow=st.booleans(),
)
COMMANDS = st.tuples(st.sampled_from(PROGRAMS), st.lists(st.sampled_from(ARGUMENTS), max_size=3)).map(
    lambda parts: (parts[0], *parts[1])
)
FILES = st.lists(st.lists(calls(), max_size=3), min_size=1, max_size=4)
HOSTS = st.dictionaries(st.sampled_from(["git", "ls"]), st.sampled_from([[], ["/bin"], ["/opt"], ["/bin", "/opt"]]))


def policy(files: list[list[Call]], hosts: dict[str, list[str]] | None = None, *, apart: bool = False) -> Policy:
    """The policy of these files; they are read as one, which is quicker, unless ``apart``."""
    entries = [
        f"host_executable({json.dumps(name)}, {json.dumps([f'{folder}/{name}' for folder in folders])})"
        for name, folders in (hosts or {}).items()
    ]
    texts = ["\n".join(call.text() for call in file) for file in files] + entries
    parser = PolicyParser()
    for number, text in enumerate(texts if apart else ["\n".join(texts)]):
        parser.parse(f"{number}.rules", text)
    return parser.build()


def decide(rules: Policy, question: Exec) -> Evaluation:
    return evaluate_exec(
        rules,
        program=question.program,
        resolved=question.resolved,
        argv=("argv0", *question.arguments),
        preserve_program_paths=question.preserve,
        name_may_allow=question.name_may_allow,
        heuristics=lambda _: Decision.ALLOW,
    )


def check(rules: Policy, command: tuple[str, ...], *, resolve: bool) -> Decision | None:
    found = rules.matches(command, resolve_host_executables=resolve)
    return max((match.decision for match in found), default=None)


def severity(evaluation: Evaluation) -> int:
    """How little an exec may do: escalated by an allow, run in the sandbox, asked about, denied."""
    return evaluation.decision.value + 1 if evaluation.decision is not Decision.ALLOW else int(not evaluation.by_rule)


@EXAMPLES
@given(FILES, HOSTS, EXECS, COMMANDS, st.booleans(), st.randoms(use_true_random=False))
def test_the_order_of_files_and_rules_never_changes_a_decision(
    files: list[list[Call]],
    hosts: dict[str, list[str]],
    question: Exec,
    command: tuple[str, ...],
    resolve: bool,
    random: Random,
) -> None:
    shuffled = [list(file) for file in files]
    random.shuffle(shuffled)
    for file in shuffled:
        random.shuffle(file)
    one, other = policy(files, hosts, apart=True), policy(shuffled, hosts, apart=True)
    assert decide(one, question).decision == decide(other, question).decision
    assert decide(one, question).by_rule == decide(other, question).by_rule
    assert check(one, command, resolve=resolve) == check(other, command, resolve=resolve)


@EXAMPLES
@given(FILES, HOSTS, calls(("prompt", "forbidden")), EXECS)
def test_adding_a_stricter_rule_never_loosens(
    files: list[list[Call]], hosts: dict[str, list[str]], added: Call, question: Exec
) -> None:
    before, after = decide(policy(files, hosts), question), decide(policy([*files, [added]], hosts), question)
    assert severity(after) >= severity(before)


@EXAMPLES
@given(FILES, HOSTS, calls(("forbidden",)), COMMANDS, st.booleans())
def test_adding_a_forbidden_never_loosens_what_check_says(
    files: list[list[Call]], hosts: dict[str, list[str]], added: Call, command: tuple[str, ...], resolve: bool
) -> None:
    before = check(policy(files, hosts), command, resolve=resolve)
    after = check(policy([*files, [added]], hosts), command, resolve=resolve)
    assert after == before or after is Decision.FORBIDDEN


@EXAMPLES
@given(FILES, HOSTS, calls(("allow",)), EXECS)
def test_adding_an_allow_never_weakens_a_prompt_or_forbidden(
    files: list[list[Call]], hosts: dict[str, list[str]], added: Call, question: Exec
) -> None:
    before, after = decide(policy(files, hosts), question), decide(policy([*files, [added]], hosts), question)
    if before.decision is not Decision.ALLOW:
        assert after.decision == before.decision


@EXAMPLES
@given(FILES, HOSTS, EXECS)
def test_a_restriction_of_host_executables_never_loosens(
    files: list[list[Call]], hosts: dict[str, list[str]], question: Exec
) -> None:
    assert severity(decide(policy(files, hosts), question)) >= severity(decide(policy(files), question))


@EXAMPLES
@given(FILES, HOSTS, EXECS)
def test_interception_is_never_looser_than_the_original(
    files: list[list[Call]], hosts: dict[str, list[str]], question: Exec
) -> None:
    rules = policy(files, hosts)
    original = check(rules, (question.program, *question.arguments), resolve=not question.preserve)
    ours = decide(rules, question)
    if original is not None and original is not Decision.ALLOW:
        assert ours.decision >= original
    if ours.decision is Decision.ALLOW and ours.by_rule:
        assert original is Decision.ALLOW


def expanded(call: Call) -> list[Call]:
    """The call with every list of alternatives written out."""
    patterns: list[tuple[Element, ...]] = [()]
    for element in call.pattern:
        choices = [element] if isinstance(element, str) else element
        patterns = [(*pattern, choice) for pattern in patterns for choice in choices]
    return [Call(pattern, call.decision) for pattern in patterns]


@EXAMPLES
@given(FILES, HOSTS, EXECS, COMMANDS, st.booleans())
def test_alternatives_equal_their_expansion(
    files: list[list[Call]], hosts: dict[str, list[str]], question: Exec, command: tuple[str, ...], resolve: bool
) -> None:
    rules = policy(files, hosts)
    written_out = policy([[single for call in file for single in expanded(call)] for file in files], hosts)
    assert severity(decide(rules, question)) == severity(decide(written_out, question))
    assert check(rules, command, resolve=resolve) == check(written_out, command, resolve=resolve)


@EXAMPLES
@given(FILES, HOSTS, EXECS)
def test_the_deciding_match_has_the_decision_and_the_longest_prefix(
    files: list[list[Call]], hosts: dict[str, list[str]], question: Exec
) -> None:
    found = decide(policy(files, hosts), question)
    deciding = found.deciding()
    assert deciding.decision == found.decision == max(match.decision for match in found.matched_rules)
    if isinstance(deciding, PrefixRuleMatch):
        lengths = [
            len(match.matched_prefix)
            for match in found.matched_rules
            if isinstance(match, PrefixRuleMatch) and match.decision == found.decision
        ]
        assert len(deciding.matched_prefix) == max(lengths)
        assert deciding.source


# A second implementation of the language's decisions, naive and straight from its description: every rule is written
# out without alternatives, every rule is tried on every command. What it shares with the first is nothing.


@dataclass(frozen=True)
class Hit:
    prefix: tuple[str, ...]
    decision: str
    resolved: str | None


def reference(
    files: list[list[Call]], hosts: dict[str, list[str]], command: tuple[str, ...], *, resolve: bool
) -> list[Hit]:
    """Exactly one hit for each alternative of the first place whose rule matches, in the order written."""

    def hits(words: tuple[str, ...], resolved: str | None) -> list[Hit]:
        return [
            Hit(words[: len(call.pattern)], call.decision, resolved)
            for file in files
            for call in file
            for program in ([call.pattern[0]] if isinstance(call.pattern[0], str) else call.pattern[0])
            if any(
                words[: len(single.pattern)] == single.pattern
                for single in expanded(Call((program, *call.pattern[1:]), call.decision))
            )
        ]

    found = hits(command, None)
    if found or not resolve:
        return found
    path = posixpath.normpath(posixpath.join(Path.cwd(), command[0]))
    name = posixpath.basename(path)
    if name in hosts and path not in [f"{folder}/{name}" for folder in hosts[name]]:
        return []
    return hits((name, *command[1:]), path)


# Few names and words, so that rules, entries and commands meet often.
MEETING = st.lists(
    st.builds(
        Call,
        pattern=st.sampled_from(
            [("git",), ("git", "a"), ("/bin/git", "a"), (["git", "/bin/git"], ["a", "b"]), ("ls",)]
        ),
        decision=st.sampled_from(["allow", "prompt", "forbidden"]),
    ),
    min_size=1,
    max_size=3,
)
OF_GIT = st.sampled_from([["/bin"], ["/opt"], [], None]).map(
    lambda folders: {} if folders is None else {"git": folders}
)
GIT = st.sampled_from(["/opt/git", "/bin/git", "./git", "git", "/bin/ls"])
WORDS = st.sampled_from([("a",), (), ("b", "a"), ("c",)])


@pytest.mark.parametrize("resolve", [True, False])
@settings(max_examples=100, deadline=None)
@given(st.lists(MEETING, min_size=1, max_size=2), OF_GIT, st.tuples(GIT, WORDS), st.booleans())
def test_check_agrees_with_a_naive_second_implementation(
    resolve: bool,
    files: list[list[Call]],
    hosts: dict[str, list[str]],
    words: tuple[str, tuple[str, ...]],
    some: bool,
) -> None:
    command = (words[0], *words[1])
    texts = "\n".join(call.text() for file in files for call in file) + "".join(
        f"\nhost_executable({json.dumps(name)}, {json.dumps([f'{folder}/{name}' for folder in folders])})"
        for name, folders in hosts.items()
    )
    # As `execpolicy check` asks, which wants to hear of some programs only, and as a server does.
    programs = [command[0], posixpath.basename(command[0])] if some else None
    parser = PolicyParser(programs=programs)
    parser.parse("x", texts)
    raw = to_json(parser.build().matches(command, resolve_host_executables=resolve))
    hits = reference(files, hosts, command, resolve=resolve)
    assert raw["matchedRules"] == [
        {
            "prefixRuleMatch": {
                "matchedPrefix": list(hit.prefix),
                "decision": hit.decision,
                **({} if hit.resolved is None else {"resolvedProgram": hit.resolved}),
            }
        }
        for hit in hits
    ]
    order = ["allow", "prompt", "forbidden"]
    assert raw.get("decision") == max((hit.decision for hit in hits), key=order.index, default=None)


def reference_exec(files: list[list[Call]], hosts: dict[str, list[str]], question: Exec) -> str | None:
    """What interception makes of it by the rules' documentation; ``None``: no rule."""
    paths = [path for path in (question.program, question.resolved) if path is not None]
    names = [] if question.preserve else [posixpath.basename(path) for path in paths]
    exact = {
        first: {hit.decision for hit in reference(files, hosts, (first, *question.arguments), resolve=False)}
        for first in (*paths, *names)
    }
    for word in ("forbidden", "prompt"):
        if any(word in decisions for decisions in exact.values()):
            return word
    if "allow" in exact[question.program]:
        return "allow"
    if question.preserve or not question.name_may_allow or exact[question.program]:
        return None
    name = posixpath.basename(question.program)
    listed = hosts.get(name)
    may = listed is None or question.program in [f"{folder}/{name}" for folder in listed]
    return "allow" if may and "allow" in exact[name] else None


@settings(max_examples=100, deadline=None)
@given(FILES, HOSTS, EXECS)
def test_interception_agrees_with_a_naive_second_implementation(
    files: list[list[Call]], hosts: dict[str, list[str]], question: Exec
) -> None:
    found = decide(policy(files, hosts), question)
    assert (found.decision.word if found.by_rule else None) == reference_exec(files, hosts, question)


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


@EXAMPLES
@given(st.lists(st.tuples(TEXT, st.lists(TEXT | st.lists(TEXT, min_size=1), max_size=3)), max_size=4))
def test_any_text_survives_the_language_and_the_way_back(patterns: list[tuple[str, list[Element]]]) -> None:
    parser = PolicyParser()
    for program, rest in patterns:
        parser.parse("a", f"prefix_rule({json.dumps([program, *rest], ensure_ascii=False)})")
    rules = parser.build()
    assert [[rule.program, *rule.rest] for rule in rules.prefix_rules] == [
        [
            program,
            *(token if isinstance(token, str) else tuple(token) if len(token) > 1 else token[0] for token in rest),
        ]
        for program, rest in patterns
    ]
    assert decode_files(encode_files(parser.files())) == parser.files()
