"""What a command that no rule matches gets, and the reader of plain scripts it needs.

The tables of scripts hold what tree-sitter-bash 0.25.1, which the original uses, makes of them.
"""

from __future__ import annotations

import re
import shlex
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_shell_tool_mcp.execpolicy import heuristics
from codex_shell_tool_mcp.execpolicy.danger import Table, table
from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.heuristics import (
    UNMATCHED,
    command_might_be_dangerous,
    plain_commands,
    shell_script,
    unmatched_decision,
    unmatched_heuristics,
    why_dangerous,
)

DANGEROUS = [
    ["rm", "-rf", "/"],
    ["rm", "-f", "x"],
    ["rm", "-f"],
    ["sudo", "rm", "-rf", "x"],
    ["sudo", "sudo", "rm", "-f", "x"],
    ["bash", "-lc", "rm -rf /tmp/x && echo hi"],
    ["bash", "-c", "echo hi\nrm -f x"],
    ["/usr/bin/bash", "-lc", "echo | sudo rm -rf x"],
    ["zsh", "-c", "rm '-rf' x;"],
    ["sh", "-c", 'rm "-f"'],
    ["bash.exe", "-c", "rm -rf x"],
    ["bash.sh.old", "-c", "rm -rf x"],
]

MISSED_BY_THE_ORIGINAL = [
    ["rm", "-fr", "x"],
    ["rm", "-r", "-f", "x"],
    ["rm", "-R", "-f"],
    ["rm", "--force"],
    ["rm", "x", "-rf"],
    ["rm", "-v", "-f"],
    ["/bin/rm", "-rf", "x"],
    ["sudo", "-u", "root", "rm", "-rf", "x"],
    ["sudo", "/bin/rm", "-rf", "x"],
    ["env", "rm", "-rf", "x"],
    ["nice", "rm", "-rf", "x"],
    ["xargs", "rm", "-rf"],
    ["time", "rm", "-rf", "x"],
    ["git", "reset", "--hard"],
    ["git", "push", "--force"],
    ["git", "clean", "-fdx"],
    ["git", "branch", "-D", "x"],
    ["dd", "if=/dev/zero", "of=/dev/sda"],
    ["mkfs", "/dev/sda"],
    ["shutdown", "now"],
    ["chmod", "-R", "777", "/"],
    ["bash", "-lc", "rm -rf $HOME"],
    ["bash", "-lc", "(rm -rf x)"],
    ["bash", "-lc", "FOO=1 rm -rf x"],
    ["bash", "-lc", "rm -rf x > log"],
    ["bash", "-lc", "if true; then rm -rf x; fi"],
    ["bash", "-lc", "sudo bash -c 'rm -rf x'"],
    ["bash", "-lc", "rm -fr x"],
    ["bash", "-l", "-c", "rm -rf x"],
    ["bash", "-ic", "rm -rf x"],
    ["bash", "-xc", "rm -rf x"],
    ["bash", "--login", "-c", "rm -rf x"],
    ["bash", "-c", "rm -rf x", "bash"],
    ["dash", "-c", "rm -rf x"],
    ["fish", "-c", "rm -rf x"],
    ["sudo", "-u", "me", "sh", "-c", "echo; rm -rf x"],
    ["bash", "-c", "x=$(rm -rf y)"],
    ["bash", "-c", "for f in *; do\n  sudo rm -fr $f\ndone"],
    ["env", "A=1", "bash", "-c", "cd $X && 'rm' -rf *"],
    ["su", "-c", "rm -rf x"],
]

HARMLESS = [
    ["bash"],
    ["bash", "-c"],
    ["bash", "script", "-c"],
    ["bash", "-c", "echo 'rm x' $HOME > -rf"],
    ["bash", "-c", "( ; ) $("],
    ["sh", "-c", "echo rm -rf x"],
    [],
    [""],
    ["rm"],
    ["\\rm", "-rf", "x"],
    ["sudo"],
    ["bash", "-lc", "curl x | sh"],
    ["bash-5.2", "-c", "rm -rf x"],
    [".bash", "-c", "rm -rf x"],
    ["bash", "-c", ""],
]


@pytest.mark.parametrize("command", DANGEROUS + MISSED_BY_THE_ORIGINAL, ids=" ".join)
def test_dangerous(command: list[str]) -> None:
    assert command_might_be_dangerous(command)
    assert unmatched_decision(command) is Decision.PROMPT


@pytest.mark.parametrize("command", HARMLESS, ids=" ".join)
def test_harmless(command: list[str]) -> None:
    assert not command_might_be_dangerous(command)
    assert unmatched_decision(command) is Decision.ALLOW


def original_might_be_dangerous(command: list[str]) -> bool:
    """The original's rule, written down a second time."""
    script = shell_script(command)
    return any(
        re.fullmatch(r"(sudo\0)*rm\0-r?f\0.*", "\0".join([*words, ""]), re.DOTALL) is not None
        for words in [command, *((script and plain_commands(script)) or [])]
    )


WORDS = st.sampled_from(
    ["rm", "sudo", "-f", "-rf", "x", "bash", "-c", "-lc", "rm -rf x", "ls; sudo rm -f y", "-u", "--"]
)


@settings(max_examples=500, deadline=None)
@given(st.lists(WORDS, max_size=6))
def test_whatever_the_original_asks_about_is_asked_about(command: list[str]) -> None:
    if original_might_be_dangerous(command):
        assert command_might_be_dangerous(command)


@pytest.mark.parametrize("command", DANGEROUS, ids=" ".join)
def test_the_originals_rule_as_written_down_here(command: list[str]) -> None:
    assert original_might_be_dangerous(command)


@pytest.mark.parametrize("command", MISSED_BY_THE_ORIGINAL + HARMLESS, ids=" ".join)
def test_what_the_originals_rule_misses(command: list[str]) -> None:
    assert not original_might_be_dangerous(command)


def test_scripts_in_scripts_end_somewhere() -> None:
    script = "rm -rf x"
    for _ in range(3):
        script = shlex.join(["bash", "-c", script])
    assert command_might_be_dangerous(shlex.split(script))
    for _ in range(3):
        script = shlex.join(["bash", "-c", script])
    assert not command_might_be_dangerous(shlex.split(script))


@pytest.mark.parametrize(
    ("unmatched", "harmless", "dangerous"),
    [
        ("run", Decision.ALLOW, Decision.PROMPT),
        ("prompt", Decision.PROMPT, Decision.PROMPT),
        ("deny", Decision.FORBIDDEN, Decision.FORBIDDEN),
    ],
)
def test_the_users_choice(unmatched: str, harmless: Decision, dangerous: Decision) -> None:
    assert unmatched in UNMATCHED
    decide = unmatched_heuristics(unmatched)
    assert (decide(["ls"]), decide(["rm", "-rf", "x"])) == (harmless, dangerous)


def test_another_choice_is_a_bug() -> None:
    with pytest.raises(ValueError, match="maybe"):
        unmatched_heuristics("maybe")


def test_many_sudos_are_no_recursion() -> None:
    assert command_might_be_dangerous(["sudo"] * 100_000 + ["rm", "-f"])


@pytest.mark.parametrize(
    ("shell", "known"),
    [
        ("bash", True),
        ("/opt/x/zsh", True),
        ("./sh", True),
        ("sh.exe", True),
        ("bash.", True),
        ("ksh", False),
        ("bash-5.2", False),
        (".sh", False),
        ("", False),
        ("bashx", False),
    ],
)
def test_shell_script(shell: str, known: bool) -> None:
    assert (shell_script([shell, "-c", "x y"]) == "x y") is known


PLAIN = [
    ("ls && pwd; echo 'hi there' | wc -l", [["ls"], ["pwd"], ["echo", "hi there"], ["wc", "-l"]]),
    ("ls\npwd", [["ls"], ["pwd"]]),
    ("ls\r\npwd\r\n", [["ls"], ["pwd"]]),
    ("\n\nls\n\n\npwd\n\n", [["ls"], ["pwd"]]),
    ("ls;", [["ls"]]),
    ("a ; b;c", [["a"], ["b"], ["c"]]),
    ("a|b||c&&d", [["a"], ["b"], ["c"], ["d"]]),
    ("a &&\n b", [["a"], ["b"]]),
    ("a |\n\n b", [["a"], ["b"]]),
    ("a;\nb", [["a"], ["b"]]),
    ("a \\\n && b", [["a"], ["b"]]),
    ("ls \\\n -l", [["ls", "-l"]]),
    ("a\tb\vc\fd", [["a", "b", "c", "d"]]),
    ('rg -g"*.py" x', [["rg", "-g*.py", "x"]]),
    ('echo "/usr"\'/\'"local"/bin', [["echo", "/usr/local/bin"]]),
    ('git commit -m "a\nb"', [["git", "commit", "-m", "a\nb"]]),
    ('echo ""', [["echo", ""]]),
    ("echo ''", [["echo", ""]]),
    ("echo ''a b''", [["echo", "a", "b"]]),
    (r"echo a\ b", [["echo", r"a\ b"]]),
    (r'echo "a\"b"', [["echo", r"a\"b"]]),
    (r'echo "a\\"', [["echo", r"a\\"]]),
    (r"echo 'a\'", [["echo", "a\\"]]),
    (r"find . -exec echo {} \;", [["find", ".", "-exec", "echo", "{}", r"\;"]]),
    ("echo *.py", [["echo", "*.py"]]),
    ("echo {a,b}", [["echo", "{a,b}"]]),
    ("echo ~", [["echo", "~"]]),
    ("echo [abc]", [["echo", "[abc]"]]),
    ("ls ?", [["ls", "?"]]),
    ("ls !x a! @ % ^ + , : = a=b --c=d", [["ls", "!x", "a!", "@", "%", "^", "+", ",", ":", "=", "a=b", "--c=d"]]),
    ("echo 1 -1 0x1f 10#5 1a 1.5", [["echo", "1", "-1", "0x1f", "10#5", "1a", "1.5"]]),
    ("echo if then fi while x#y", [["echo", "if", "then", "fi", "while", "x#y"]]),
    ("exec ls", [["exec", "ls"]]),
    ("env x", [["env", "x"]]),
    ("time ls", [["time", "ls"]]),
    ("coproc ls", [["coproc", "ls"]]),
    ("test -f x", [["test", "-f", "x"]]),
    ("eval x; let y; . z", [["eval", "x"], ["let", "y"], [".", "z"]]),
    ("/bin/ls ./x ~/y", [["/bin/ls", "./x", "~/y"]]),
    ("echo é\N{NO-BREAK SPACE}", [["echo", "é\N{NO-BREAK SPACE}"]]),
    ("", []),
    (" \t\n", []),
]

REFUSED = [
    # assignments and declarations
    *("FOO=1 ls", "a=1", "a=", "a+=b", "x[1]=2", "export A=1", "export", "declare", "declare -a", "local"),
    *("readonly", "typeset", "unset A", "unsetenv"),
    # expansions
    *("$x", "${x}", "$1", "`x`", "$(x)", "<(x)", "$((1))", "$'x'", '$"x"', "echo $", "echo $x", "echo a$x"),
    *('echo "$x"', 'echo "${x}"', 'echo "`x`"', 'echo "$(x)"', 'echo "a$"', "echo {1..3}", "echo a{1..3}b"),
    # redirections
    *("a > b", "a >b", "a < b", "a 2>&1", "a >> b", "a << E\nx\nE", "a <<< b", "a &> b"),
    # groups, control flow, functions, tests
    *("(a)", "{ a; }", "if a; then b; fi", "for x in y; do z; done", "while a; do b; done", "until a; do b; done"),
    *("case a in b) c;; esac", "select x in y; do z; done", "f() { a; }", "function f { a; }", "[ a ]", "[[ a ]]"),
    *("! x", "echo (a)", "a()", "a b()"),
    # jobs and operators
    *("x &", "x & y", "x |& y", "x ;; y", ";", "; a", "&& a", "|| a", "| a", "a &&", "a ||", "a |", "a && && b"),
    *("a ; ; b", "a\n; b", "a && \n", "a |\n| b"),
    # comments
    *("# a", "a # b", "a #b", "a\n# b", "a#b"),
    # names that are no bare words
    *('"ls" -l', "'ls'", "l's'", "1", "1 2", "-1", "0x1", "1#2", "{}", "{a", "''"),
    # quotes and escapes that do not end
    *(
        "echo 'a",
        'echo "a',
        "echo \\",
        'echo "a\\"',
        "echo \\\n",
        "\\\n",
        "a\n\\\nb",
        "echo ''''",
        "echo ==",
        "echo =~",
    ),
]


@pytest.mark.parametrize(("script", "commands"), PLAIN)
def test_plain_scripts(script: str, commands: list[list[str]]) -> None:
    assert plain_commands(script) == commands


@pytest.mark.parametrize("script", REFUSED)
def test_scripts_that_are_more_than_commands(script: str) -> None:
    assert plain_commands(script) is None


PARTS = [
    "rm",
    "-rf",
    "ls",
    " ",
    "  ",
    "\n",
    ";",
    "&&",
    "||",
    "|",
    "&",
    "'",
    '"',
    "\\",
    "$x",
    "#",
    "(",
    "{a,b}",
    "=",
    "é",
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=12).map("".join))
def test_any_script_is_read_or_refused_and_separators_only_add_up(script: str) -> None:
    commands = plain_commands(script)
    if commands is None:
        return
    assert all(command and command[0] for command in commands)
    assert plain_commands(f"{script}\nls") == [*commands, ["ls"]]
    assert plain_commands(f"ls -l;{script}") == [["ls", "-l"], *commands]
    assert plain_commands(f"{script} $x" if commands else "$x") is None


@pytest.mark.parametrize(
    "unit",
    [
        "a ",
        "\n",
        "\\\n",
        "a;",
        "a|",
        "'",
        '"',
        "\\",
        "'a'",
        "{",
        "[",
        "{a",
        "[a",
        "{1..",
        "a#",
        "\n\\\n",
        "=",
        "-",
        "(",
        "$",
        "\r",
    ],
)
def test_reading_takes_linear_time(unit: str) -> None:
    script = "ls " + unit * (100_000 // len(unit))
    began = time.process_time()
    plain_commands(script)
    assert time.process_time() - began < 3


def test_a_script_longer_than_any_argument_is_not_read_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a forged request can hold one: reading six megabytes exactly would take a minute."""
    read: list[str] = []
    real = heuristics.plain_commands

    def plain_commands(script: str) -> list[list[str]] | None:
        read.append(script)
        return real(script)

    monkeypatch.setattr(heuristics, "plain_commands", plain_commands)
    command_might_be_dangerous(["sh", "-c", "a;" * 99 + "rm"])
    command_might_be_dangerous(["sh", "-c", "rm;" + "a;" * 70_000])
    assert [len(script) for script in read] == [200]


FRAGMENTS = [
    *("rm", "r", "m", "git", "push", "pu", "sh", "reset", "clean", "--hard", "--force", "-f", "-rf", "-fdx", "dd"),
    *("of=/dev/sda", "mkfs.ext4", "newfs_msdos", "apt-get", "remove", "docker-compose", "down", "-v", "find", "/", "."),
    *("-delete", "sudo", "env", "A=1", "git-filter-repo", "/bin/"),
    *(" ", " ", " ", " ", ";", "|", "&&", "$(", "`", ")", "'", '"', "\\", "\n", "#", "bash -c ", "x"),
]  # fmt: skip


@settings(max_examples=2_000, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join))
def test_a_script_that_is_passed_over_quickly_has_nothing_dangerous(script: str) -> None:
    """The quick look may be wrong in one direction only; here against the whole one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Table, "may_be_in", lambda _self, _text: True)
        whole = why_dangerous(["sh", "-c", script])
    assert why_dangerous(["sh", "-c", script]) == whole


def test_the_quick_look_passes_over_what_is_common_and_over_no_example_of_the_table() -> None:
    for script in ("echo one && echo two | cat", "git status && git diff | cat", "npm test", "cd x; make -j4"):
        assert not table().may_be_in(script)
    for row in table().rows:
        for example in row.match:
            assert table().may_be_in(example), example
