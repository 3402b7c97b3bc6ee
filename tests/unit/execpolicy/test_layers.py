"""What comes of several files, some of which may only tighten."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.layers import FileRules, combined, left_out
from codex_shell_tool_mcp.execpolicy.parser import PolicyParser
from codex_shell_tool_mcp.execpolicy.rules import Policy, evaluate_exec


def said(*texts: str) -> tuple[FileRules, ...]:
    parser = PolicyParser()
    for number, text in enumerate(texts):
        parser.parse(f"{number}.rules", text)
    return parser.files()


ALL = """
prefix_rule(["git"])
prefix_rule(["make"], "prompt")
prefix_rule(["dd"], "forbidden")
host_executable("git", ["/opt/git"])
network_rule("a", "https", "allow")
network_rule("b", "https", "deny")
"""


def test_trusted_files_count_whole() -> None:
    policy = combined(said(ALL))
    assert [rule.program for rule in policy.prefix_rules] == ["git", "make", "dd"]
    assert policy.host_executables == {"git": ("/opt/git",)}
    assert policy.network_hosts() == (("a",), ("b",))


def test_a_file_that_may_only_tighten_loses_what_loosens() -> None:
    policy = combined(said(ALL), lambda _: False)
    assert [rule.program for rule in policy.prefix_rules] == ["make", "dd"]
    assert policy.host_executables == {}
    assert policy.network_hosts() == ((), ("b",))


def test_each_file_for_itself() -> None:
    files = said('host_executable("git", ["/usr/bin/git"])', 'host_executable("git", ["/srv/git"])')
    assert combined(files, lambda name: name == "0.rules").host_executables == {"git": ("/usr/bin/git",)}
    assert combined(files).host_executables == {"git": ("/srv/git",)}


def test_what_is_left_out_in_words() -> None:
    assert [left_out(file) for file in said(ALL, 'prefix_rule(["a"])', 'prefix_rule(["a"], "prompt")', "")] == [
        "2 allow rules and 1 host_executable entry",
        "1 allow rule",
        None,
        None,
    ]
    (two,) = said('host_executable("a", [])\nhost_executable("b", [])')
    assert left_out(two) == "2 host_executable entries"


def test_hosts_that_are_not_kept_do_not_reach_the_examples_of_later_files() -> None:
    parser = PolicyParser()
    parser.parse("distrusted", 'host_executable("git", [])', keeps_hosts=False)
    parser.parse("user", 'prefix_rule(["git"], match = ["/usr/bin/git status"])')
    assert len(parser.files()) == 2


WORDS = st.sampled_from(["git", "ls", "/bin/git"])
RULES = st.lists(st.tuples(WORDS, st.sampled_from(["allow", "prompt", "forbidden"])), max_size=4)
HOSTS = st.dictionaries(st.sampled_from(["git", "ls"]), st.sampled_from([[], ["/bin"], ["/opt"]]), max_size=2)


def text_of(rules: list[tuple[str, str]], hosts: dict[str, list[str]]) -> str:
    lines = [f"prefix_rule({json.dumps([word])}, {json.dumps(decision)})" for word, decision in rules]
    lines += [
        f"host_executable({json.dumps(name)}, {json.dumps([f'{folder}/{name}' for folder in folders])})"
        for name, folders in hosts.items()
    ]
    return "\n".join(lines)


def freedom(policy: Policy, program: str) -> int:
    """How much an exec may do: denied, asked about, run in the sandbox, escalated."""
    found = evaluate_exec(
        policy,
        program=program,
        resolved=program,
        argv=("x",),
        preserve_program_paths=False,
        name_may_allow=True,
        heuristics=lambda _: Decision.ALLOW,
    )
    return {Decision.FORBIDDEN: 0, Decision.PROMPT: 1, Decision.ALLOW: 2}[found.decision] + (
        found.by_rule and found.decision is Decision.ALLOW
    )


@settings(max_examples=100, deadline=None)
@given(RULES, HOSTS, RULES, HOSTS, st.sampled_from(["/bin/git", "/opt/git", "/bin/ls"]))
def test_a_distrusted_file_never_loosens(
    trusted: list[tuple[str, str]],
    hosts: dict[str, list[str]],
    distrusted: list[tuple[str, str]],
    more_hosts: dict[str, list[str]],
    program: str,
) -> None:
    files = said(text_of(trusted, hosts), text_of(distrusted, more_hosts))
    alone, both = combined(files[:1]), combined(files, lambda name: name == "0.rules")
    assert freedom(both, program) <= freedom(alone, program)
