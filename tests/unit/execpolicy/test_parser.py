"""The language: every check and its message, what is stored, and what the host language has and has not.

Runs the interpreter in this process, which is fine for these small texts; ``test_isolation.py`` has the hostile ones.
"""

from __future__ import annotations

import re

import pytest

from codex_shell_tool_mcp.errors import PolicyError
from codex_shell_tool_mcp.execpolicy import checks
from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.parser import PolicyParser
from codex_shell_tool_mcp.execpolicy.rules import NetworkRule, Policy, PrefixRule
from support.messages import fixed_parts


def parse(*texts: str) -> Policy:
    parser = PolicyParser()
    for number, text in enumerate(texts):
        parser.parse(f"/rules/{number}.rules", text)
    return parser.build()


def failure(*texts: str) -> str:
    with pytest.raises(PolicyError) as caught:
        parse(*texts)
    return str(caught.value)


def tokens(policy: Policy) -> list[list[object]]:
    return [[rule.program, *rule.rest] for rule in policy.prefix_rules]


# What is stored -------------------------------------------------------------------------------------------------------


def test_prefix_rule_with_everything() -> None:
    policy = parse(
        '\nprefix_rule(\n    pattern = ["git", ["push", "fetch"]],\n    decision = "prompt",\n'
        '    match = ["git push"],\n    not_match = [["git", "status"]],\n    justification = "  network  ",\n)\n'
    )
    assert policy.prefix_rules == (
        PrefixRule(
            program="git",
            rest=(("push", "fetch"),),
            decision=Decision.PROMPT,
            justification="  network  ",
            source="/rules/0.rules:2",
        ),
    )


def test_prefix_rule_by_position_and_with_its_default() -> None:
    policy = parse('prefix_rule(["a"], "forbidden", ["a"], ["b"], "why")\nprefix_rule(["b"])')
    first, second = policy.prefix_rules
    assert (first.decision, first.justification) == (Decision.FORBIDDEN, "why")
    assert (second.decision, second.justification) == (Decision.ALLOW, None)


@pytest.mark.parametrize(
    ("pattern", "stored"),
    [
        ('["a"]', [["a"]]),
        ('[["a"]]', [["a"]]),
        ('["a", ["b"]]', [["a", "b"]]),
        ('["a", ["b", "c"]]', [["a", ("b", "c")]]),
        ('["a", ["b", "b"]]', [["a", ("b", "b")]]),
        ('[["bash", "sh"], ["-c", "-l"]]', [["bash", ("-c", "-l")], ["sh", ("-c", "-l")]]),
        ('[["a", "a"]]', [["a"], ["a"]]),
        ('["", " "]', [["", " "]]),
    ],
)
def test_patterns(pattern: str, stored: list[list[object]]) -> None:
    assert tokens(parse(f"prefix_rule({pattern})")) == stored


def test_alternatives_of_the_first_place_share_everything_else() -> None:
    policy = parse('prefix_rule([["a", "b"]], "prompt", justification = "why")')
    assert {(rule.decision, rule.justification, rule.source) for rule in policy.prefix_rules} == {
        (Decision.PROMPT, "why", "/rules/0.rules:1")
    }


def test_a_rule_remembers_the_line_of_the_call_itself() -> None:
    policy = parse(
        'def add(name):\n    prefix_rule(\n        [name],\n    )\n\nadd("a")\n[prefix_rule([x]) for x in ["b"]]\n'
    )
    assert [rule.source for rule in policy.prefix_rules] == ["/rules/0.rules:2", "/rules/0.rules:7"]


def test_long_lines_and_deep_calls_have_a_line_too() -> None:
    many = "; ".join(f'prefix_rule(["a{number}"])' for number in range(200))
    deep = "def f(n): f(n - 1) if n else prefix_rule([str(n)])\nfor n in [0]: prefix_rule(['x'])\n"
    nested = "".join(f"def g{n}():\n    {f'g{n - 1}()' if n else 'prefix_rule([chr(97)])'}\n" for n in range(40))
    assert {rule.source for rule in parse(f"\n{many}").prefix_rules} == {"/rules/0.rules:2"}
    assert [rule.source for rule in parse(deep).prefix_rules] == ["/rules/0.rules:2"]
    assert [rule.source for rule in parse(f"{nested}g39()").prefix_rules] == ["/rules/0.rules:2"]


def test_source_text_cannot_fake_a_line() -> None:
    policy = parse('x = "  * rules:77, in <module>"\nprefix_rule(["a"], justification = "  * rules:99, in x")')
    assert policy.prefix_rules[0].source == "/rules/0.rules:2"


def test_host_executable_normalises_deduplicates_and_replaces() -> None:
    policy = parse(
        'host_executable(name = "git", paths = ["/usr/bin/git", "/usr//bin/x/../git", "/opt/git", "/a/./git/"])\n'
        'host_executable("ls", ["/bin/ls"])\nhost_executable("none", [])',
        'host_executable("ls", ["/usr/bin/ls"])',
    )
    assert policy.host_executables == {
        "git": ("/usr/bin/git", "/opt/git", "/a/git"),
        "ls": ("/usr/bin/ls",),
        "none": (),
    }


@pytest.mark.parametrize(
    ("protocol", "stored"),
    [
        ("http", "http"),
        ("https", "https"),
        ("https_connect", "https"),
        ("http-connect", "https"),
        ("socks5_tcp", "socks5_tcp"),
        ("socks5_udp", "socks5_udp"),
    ],
)
def test_network_protocols(protocol: str, stored: str) -> None:
    (rule,) = parse(f'network_rule("a", "{protocol}", "allow")').network_rules
    assert rule.protocol == stored


@pytest.mark.parametrize(
    ("word", "decision"),
    [
        ("allow", Decision.ALLOW),
        ("prompt", Decision.PROMPT),
        ("forbidden", Decision.FORBIDDEN),
        ("deny", Decision.FORBIDDEN),
    ],
)
def test_network_decisions(word: str, decision: Decision) -> None:
    policy = parse(f'\nnetwork_rule(host = "a", protocol = "http", decision = "{word}", justification = "why")')
    assert policy.network_rules == (
        NetworkRule(host="a", protocol="http", decision=decision, justification="why", source="/rules/0.rules:2"),
    )


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("example.com", "example.com"),
        (" Example.COM\\n", "example.com"),
        ("example.com.", "example.com"),
        ("example.com...", "example.com"),
        ("example.com:443", "example.com"),
        ("example.com.:443", "example.com"),
        ("example.com:443.", "example.com:443"),
        ("example.com:", "example.com:"),
        (":443", ":443"),
        ("example.com:https", "example.com:https"),
        ("[::1]", "::1"),
        ("[::1]:443", "::1"),
        ("[FE80::1]", "fe80::1"),
        ("::1", "::1"),
        ("fe80::1:443", "fe80::1:443"),
        ("ÄB", "Äb"),
        ("a .", "a"),
    ],
)
def test_network_hosts(written: str, host: str) -> None:
    (rule,) = parse(f'network_rule("{written}", "http", "allow")').network_rules
    assert rule.host == host


# Every check ----------------------------------------------------------------------------------------------------------

CHECKS = [
    # prefix_rule: pattern
    ("prefix_rule([])", "invalid pattern element: pattern cannot be empty"),
    ("prefix_rule([1])", "invalid pattern element: pattern element must be a string or list of strings (got int)"),
    ('prefix_rule(["a", None])', "invalid pattern element: pattern element must be a string or list of strings (got N"),
    ('prefix_rule(["a", ("b",)])', "(got tuple)"),
    ('prefix_rule(["a", {"b": 1}])', "(got dict)"),
    ('prefix_rule(["a", len])', "(got function)"),
    ('prefix_rule(["a", range(2)])', "(got range)"),
    ('prefix_rule(["a", 1.5])', "(got float)"),
    ('prefix_rule(["a", True])', "(got bool)"),
    ('prefix_rule(["a", []])', "invalid pattern element: pattern alternatives cannot be empty"),
    ("prefix_rule([[]])", "invalid pattern element: pattern alternatives cannot be empty"),
    ('prefix_rule(["a", ["b", 1]])', "invalid pattern element: pattern alternative must be a string (got int)"),
    ('prefix_rule(["a", [["b"]]])', "invalid pattern element: pattern alternative must be a string (got list)"),
    ("x = []\nx.append(x)\nprefix_rule(x)", "invalid pattern element: pattern alternative must be a string (got list)"),
    ('prefix_rule(("a",))', "starlark error: parameter `pattern` of prefix_rule must be a list, not tuple"),
    ('prefix_rule("a")', "starlark error: parameter `pattern` of prefix_rule must be a list, not string"),
    ("prefix_rule()", "starlark error: Missing parameter `pattern` for call to `prefix_rule`"),
    # prefix_rule: decision, justification
    ('prefix_rule(["a"], "deny")', "invalid decision: deny"),
    ('prefix_rule(["a"], "Allow")', "invalid decision: Allow"),
    ('prefix_rule(["a"], "")', "invalid decision: "),
    ('prefix_rule(["a"], 1)', "starlark error: parameter `decision` of prefix_rule must be a string, not int"),
    ('prefix_rule(["a"], None)', "starlark error: parameter `decision` of prefix_rule must be a string, not NoneType"),
    ('prefix_rule(["a"], justification = "")', "invalid rule: justification cannot be empty"),
    ('prefix_rule(["a"], justification = " \\n\\u00a0\\u3000")', "invalid rule: justification cannot be empty"),
    ('prefix_rule(["a"], justification = None)', "`justification` of prefix_rule must be a string, not NoneType"),
    (
        'prefix_rule(["a"], reason = "x")',
        "starlark error: Found `reason` extra named parameter(s) for call to prefix_r",
    ),
    ('prefix_rule(["a"], "allow", [], [], "x", 1)', "starlark error: Found 1 extra positional argument(s)"),
    # prefix_rule: examples
    ('prefix_rule(["a"], match = "a")', "starlark error: parameter `match` of prefix_rule must be a list, not string"),
    ('prefix_rule(["a"], match = None)', "parameter `match` of prefix_rule must be a list, not NoneType"),
    ('prefix_rule(["a"], not_match = ("a",))', "parameter `not_match` of prefix_rule must be a list, not tuple"),
    ('prefix_rule(["a"], match = [1])', "invalid example: example must be a string or list of strings (got int)"),
    (
        'prefix_rule(["a"], match = [("a",)])',
        "invalid example: example must be a string or list of strings (got tuple)",
    ),
    ('prefix_rule(["a"], match = [["a", 1]])', "invalid example: example tokens must be strings (got int)"),
    ('prefix_rule(["a"], match = [["a", ["b"]]])', "invalid example: example tokens must be strings (got list)"),
    ('prefix_rule(["a"], match = [[]])', "invalid example: example cannot be an empty list"),
    ('prefix_rule(["a"], match = [""])', "invalid example: example cannot be an empty string"),
    ('prefix_rule(["a"], match = [" \\t\\n"])', "invalid example: example cannot be an empty string"),
    ('prefix_rule(["a"], match = ["# a"])', "invalid example: example cannot be an empty string"),
    ('prefix_rule(["a"], match = ["a \'b"])', "invalid example: example string has invalid shell syntax: a 'b"),
    ('prefix_rule(["a"], not_match = [\'a "b\'])', "invalid example: example string has invalid shell syntax"),
    ('prefix_rule(["a"], not_match = ["a \\\\"])', "invalid example: example string has invalid shell syntax"),
    (
        'prefix_rule(["a", ["b", "c"]], match = ["a b", "a", ["x", "y z"]])',
        (
            'expected every example to match at least one rule: rules [prefix_rule(pattern=["a", ["b", "c"]], '
            "decision=\"allow\")], unmatched examples [a, x 'y z']"
        ),
    ),
    (
        'prefix_rule([["a", "b"]], not_match = ["c", "b x", "a"])',
        'expected example to not match rule `prefix_rule(pattern=["b"], decision="allow")`: b x',
    ),
    # host_executable
    ('host_executable("", [])', "invalid rule: host_executable name cannot be empty"),
    *(
        (f'host_executable("{name}", [])', "invalid rule: host_executable name must be a bare executable name")
        for name in ("a/b", "/a", "x/", ".", "..", "/")
    ),
    ('host_executable("a", [1])', "invalid rule: host_executable paths must be strings (got int)"),
    ('host_executable("a", [["/a"]])', "invalid rule: host_executable paths must be strings (got list)"),
    ('host_executable("a", ["a"])', "invalid rule: host_executable paths must be absolute"),
    ('host_executable("a", ["~/a"])', "invalid rule: host_executable paths must be absolute"),
    ('host_executable("a", [""])', "invalid rule: host_executable paths must be absolute"),
    ('host_executable("a", ["/bin/b"])', "must have basename `a`"),
    ('host_executable("a", ["/bin/a/.."])', "must have basename `a`"),
    (
        'host_executable("a", ("/bin/a",))',
        "starlark error: parameter `paths` of host_executable must be a list, not tuple",
    ),
    ('host_executable("a", None)', "parameter `paths` of host_executable must be a list, not NoneType"),
    ("host_executable(1, [])", "parameter `name` of host_executable must be a string, not int"),
    ('host_executable("a")', "starlark error: Missing parameter `paths` for call to `host_executable`"),
    # network_rule
    ('network_rule("a", "ftp", "allow")', "protocol must be one of http, https, socks5_tcp, socks5_udp (got ftp)"),
    ('network_rule("a", "HTTP", "allow")', "invalid rule: network_rule protocol must be one of"),
    ('network_rule("a", "http", "maybe")', "invalid decision: maybe"),
    ('network_rule("a", "http", "allow", " ")', "invalid rule: justification cannot be empty"),
    ('network_rule(" ", "http", "allow")', "invalid rule: network_rule host cannot be empty"),
    ('network_rule(".", "http", "allow")', "invalid rule: network_rule host cannot be empty"),
    ('network_rule("[]", "http", "allow")', "invalid rule: network_rule host cannot be empty"),
    *(
        (f'network_rule("{host}", "http", "allow")', "invalid rule: network_rule host must be a host name or address")
        for host in ("https://a", "a/b", "a?b", "a#b", "://")
    ),
    ('network_rule("[::1", "http", "allow")', "invalid rule: network_rule host has an unclosed bracket"),
    *(
        (f'network_rule("{host}", "http", "allow")', "has something other than a port after the bracket")
        for host in ("[::1]x", "[::1]:", "[::1]:x", "[::1]:1x")
    ),
    ('network_rule("*.a", "http", "allow")', "wildcards are not allowed"),
    ('network_rule("a b", "http", "allow")', "invalid rule: network_rule host cannot contain whitespace"),
    ('network_rule("a", "http")', "starlark error: Missing parameter `decision` for call to `network_rule`"),
    ('network_rule("a", "http", None)', "parameter `decision` of network_rule must be a string, not NoneType"),
    ('network_rule(1, "http", "allow")', "parameter `host` of network_rule must be a string, not int"),
    # The order of checks within a call
    ('prefix_rule([], "x", justification = "")', "invalid decision: x"),
    ('prefix_rule([], match = [""], justification = "")', "invalid rule: justification cannot be empty"),
    ('prefix_rule([], match = [""])', "invalid pattern element: pattern cannot be empty"),
    ('prefix_rule(["a"], not_match = [[]], match = [""])', "invalid example: example cannot be an empty string"),
    ("prefix_rule(1, 2, None)", "parameter `pattern` of prefix_rule"),
    ('network_rule("*", "x", "y", "")', "invalid rule: network_rule protocol"),
    ('network_rule("*", "http", "y", "")', "invalid decision: y"),
    ('network_rule("*", "http", "deny", "")', "invalid rule: justification"),
    ('host_executable("a/b", [1])', "host_executable name must be"),
]


@pytest.mark.parametrize(("text", "fragment"), CHECKS)
def test_checks(text: str, fragment: str) -> None:
    message = failure(text)
    assert fragment in message
    line = text.count("\n") + 1
    assert message.startswith(f"/rules/0.rules:{line}:1: ")
    assert re.search(r" \([^()]+.*\)$", message), "says what to write instead"


def test_every_error_of_the_checks_is_in_the_table_with_what_to_write_instead() -> None:
    said = [failure(text) for text, _ in CHECKS]
    sites = fixed_parts(checks, "RuleError", "_bad_host", "_wrong_type")
    assert len(sites) > 20
    for line, parts in sites:
        assert any(all(part in message for part in parts) for message in said), f"checks.py:{line}: {parts}"


@pytest.mark.parametrize("text", [text for text, _ in CHECKS])
def test_rules_of_programs_nobody_asks_about_are_checked_all_the_same(text: str) -> None:
    with pytest.raises(PolicyError) as caught:
        PolicyParser(programs=["other"]).parse("/rules/0.rules", f'prefix_rule(["a"])\n{text}')
    assert str(caught.value) == failure(f'prefix_rule(["a"])\n{text}')


def test_what_is_blank_does_not_depend_on_who_is_asked_about() -> None:
    spaces = [code for code in range(1, 0x11000) if chr(code).isspace()]
    for code in (*spaces, 0x7F, 0x180E, 0x200B, 0x200D, 0x2060, 0xFEFF):
        text = f'prefix_rule(["a"], justification = "\\U{code:08x}")'
        refused = []
        for programs in (None, ["other"]):
            try:
                PolicyParser(programs=programs, places=False).parse("x", text)
            except PolicyError:
                refused.append(programs)
        assert len(refused) in {0, 2}, f"U+{code:04X}"


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ('["a", "x"]', True),
        ('[["b", "a"], "x"]', True),
        ('["\\u00e9\\n"]', True),
        ('["b", "a"]', False),
        ('["b", ["a", "c"]]', False),
        ('[["b", "c"], ["a"]]', False),
    ],
)
def test_only_rules_of_the_programs_asked_about_are_kept(pattern: str, kept: bool) -> None:
    parser = PolicyParser(programs=["a", "é\n", "\udcff", 'SECRET", WANTED'])
    parser.parse("x", f'prefix_rule({pattern}, "prompt", justification = "why")\nprefix_rule(["a"])')
    first, *others = parser.build().prefix_rules
    assert (first.decision is Decision.PROMPT) == kept
    assert [rule.source for rule in (first, *others)][-1] == "x:2"


def test_a_pattern_that_is_changed_after_the_call_is_as_it_was() -> None:
    text = 'x = ["a", ["b", "c"]]\nprefix_rule(x)\nx[1].append("d")\nx.append("e")'
    assert tokens(parse(text)) == [["a", ("b", "c")]]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('x = 1; prefix_rule(["a"], "x")', "1:8"),
        ('\n\n    \nif True:\n    prefix_rule(\n        ["a"],\n        "x",\n    )', "5:5"),
        ('def f(d):\n  prefix_rule(["a"], d)\nf("allow")\nf("x")', "2:3"),
        ('prefix_rule(["a"]); prefix_rule(["b"]); host_executable("a", [1])', "1:41"),
        ('[prefix_rule([x], match = ["b"]) for x in ["b", "a"]]', "1:2"),
        ('prefix_rule(["b"])\n[0, prefix_rule(["a"], match = ["b"])]', "2:5"),
        ("é = 1", "1:1"),
        ("x = (", "1:"),
        ('x = "a\n', "1:5"),
        ("def f():\n\n  return 1 + 'a'\nf()", "3:10"),
        ('fail("error: x\\n --> rules:7:7")', "1:1"),
    ],
)
def test_errors_name_the_place_of_the_call(text: str, place: str) -> None:
    assert failure(text).startswith(f"/rules/0.rules:{place}")


def test_the_first_bad_call_is_reported_and_ends_the_file() -> None:
    assert "invalid decision: x" in failure('prefix_rule(["a"], "x")\nfail("later")')
    assert "fail: earlier" in failure('fail("earlier")\nprefix_rule(["a"], "x")')


# Examples -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        'prefix_rule(["git", "status"], match = [["/usr/bin/git", "status"]])',
        # Entries of the whole file count, also later ones.
        'prefix_rule(["git"], match = ["/usr/bin/git"])\nhost_executable("git", ["/usr/bin/git"])',
        'prefix_rule(["git"], not_match = ["/opt/git"])\nhost_executable("git", ["/usr/bin/git"])',
        # Other rules are not consulted.
        'prefix_rule(["git"])\nprefix_rule(["git", "push"], not_match = ["git status"])',
        # Any rule of the call will do.
        'prefix_rule([["a", "b"]], match = ["a x", "b y"])',
        # Shell words.
        'prefix_rule(["a", "b c"], match = [\'a "b c"\', "a \'b c\' # comment", "a b\\\\ c"])',
        'prefix_rule(["a", "#b"], match = ["a \\"#b\\""])',
        'prefix_rule(["a"], match = [], not_match = [])',
    ],
)
def test_examples_that_hold(text: str) -> None:
    assert parse(text).prefix_rules


@pytest.mark.parametrize(
    "texts",
    [
        ('prefix_rule(["git"])', 'prefix_rule(["git", "push"], match = ["git status"])'),
        ('prefix_rule(["git"], match = ["/usr/bin/git"])\nhost_executable("git", [])',),
        ('host_executable("git", [])', 'prefix_rule(["git"], match = ["/usr/bin/git"])'),
        ('prefix_rule(["git"], not_match = ["/usr/bin/git"])',),
    ],
)
def test_examples_that_do_not_hold(texts: tuple[str, ...]) -> None:
    assert "expected e" in failure(*texts)


def test_not_match_is_checked_before_match() -> None:
    assert "to not match" in failure('prefix_rule(["a"], match = ["b"], not_match = ["a"])')


def test_examples_are_checked_only_when_the_file_is_through() -> None:
    assert "fail: end" in failure('prefix_rule(["a"], match = ["b"])\nfail("end")')


# The host language ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ('def f(x): prefix_rule([x])\nf("a")', [["a"]]),
        ('f = lambda x: prefix_rule([x])\nf("a")', [["a"]]),
        ('for x in ["a", "b"]:\n    if x != "a":\n        prefix_rule([x])', [["b"]]),
        ('[prefix_rule([x]) for x in ["a", "b"]]', [["a"], ["b"]]),
        ('def f(*, x: str): prefix_rule([x])\nf(x = "a")', [["a"]]),
        ('x = "a"\nx = "b"\nprefix_rule([f"{x}!"])', [["b!"]]),
        ('prefix_rule([r"a\\n"]); prefix_rule(["""b"""])', [["a\\n"], ["b"]]),
        ('prefix_rule(["a" + "b"])', [["ab"]]),
        ('prefix_rule(["%s" % "a"])', [["a"]]),
        ('p = prefix_rule\np(["a"])', [["a"]]),
        ("def prefix_rule(x): pass\nprefix_rule(3)", []),
        ("prefix_rule = 3", []),
        ('x = [prefix_rule(["a"])]\n', [["a"]]),
        ("", []),
        ("# only a comment", []),
        ('prefix_rule(["a"])\r\nprefix_rule(["b"])\r\n', [["a"], ["b"]]),
    ],
)
def test_what_the_language_has(text: str, stored: list[list[object]]) -> None:
    assert tokens(parse(text)) == stored


@pytest.mark.parametrize(
    ("written", "token"),
    [
        (r"\n\r\t\a\b\f\v", "\n\r\t\a\b\f\v"),
        (r"\\\"\'", "\\\"'"),
        (r"\101\x41\u0041\U0001F600", "AAA\N{GRINNING FACE}"),
        ("a\\\nb", "ab"),
        (r"\q", "\\q"),
        ("é", "é"),
    ],
)
def test_string_escapes(written: str, token: str) -> None:
    assert tokens(parse(f'prefix_rule(["{written}"])')) == [[token]]


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ('load("other.rules", "x")', ("`load` is not allowed", "cannot load another")),
        ("while True:\n    pass", ("reserved keyword `while`", "for loop")),
        ("import os", ("reserved keyword `import`", "Starlark")),
        ("class A: pass", ("reserved keyword `class`",)),
        ("assert True", ("reserved keyword `assert`",)),
        *(
            (f"{name}([])", (f"Variable `{name}` not found", "there are prefix_rule"))
            for name in ("print", "set", "struct", "map", "filter", "record", "enum", "call_stack", "emit", "partial")
        ),
        ("json.encode(1)", ("Variable `json` not found",)),
        ("_make_builtins(1, 2, 3)", ("Variable `_make_builtins` not found",)),
        ('x = "a" "b"', ("Parse error", "commas between elements")),
        ("\ufeffprefix_rule([])", ("Parse error: invalid input", "byte order mark")),
        (r'x = "\ud83d"', ("invalid string escape", "double the backslash")),
        ('f"{1 + 1}"', ("Not a valid identifier",)),
        ("def f(): f()\nf()", ("call stack overflow", "without recursion")),
        ("def f(x: int): pass\nf('a')", ("does not match the type annotation",)),
        ("  x = 1", ("Parse error", "column 1")),
        ("x = y", ("Variable `y` not found",)),
        ("1 // 0", ("division by zero", "docs/rules.md")),
    ],
)
def test_what_the_language_has_not(text: str, fragments: tuple[str, ...]) -> None:
    message = failure(text)
    assert message.startswith("/rules/0.rules:")
    assert ": starlark error: " in message
    for fragment in fragments:
        assert fragment in message


def test_names_do_not_survive_a_file_but_the_policy_does() -> None:
    assert "Variable `x` not found" in failure('x = "a"', "prefix_rule([x])")
    assert "Variable `f` not found" in failure("def f(): pass", "f()")
    assert tokens(parse('prefix_rule(["a"])\ndef prefix_rule(x): pass', 'prefix_rule(["b"])')) == [["a"], ["b"]]


def test_a_bad_file_adds_no_rules() -> None:
    parser = PolicyParser()
    parser.parse("good", 'prefix_rule(["a"])')
    with pytest.raises(PolicyError, match=r"^bad:2:1: "):
        parser.parse("bad", 'prefix_rule(["b"])\nprefix_rule([])')
    assert tokens(parser.build()) == [["a"]]
