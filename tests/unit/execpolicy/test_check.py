"""``execpolicy check``: options, JSON and exit statuses of the original."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.execpolicy.check import main, to_json
from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.rules import HeuristicsRuleMatch

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def rules(tmp_path: Path) -> str:
    path = tmp_path / "a.rules"
    path.write_text(
        'prefix_rule(["git"], "prompt", justification = "caf\\u00e9 \\n")\n'
        'prefix_rule(["git", ["push", "fetch"]], "forbidden")\nprefix_rule(["ls"])\n'
        'prefix_rule(["/bin/ls"], "prompt")\nprefix_rule(["--pretty"], "forbidden")\n'
    )
    return str(path)


GIT_PUSH = (
    '{"matchedRules":['
    '{"prefixRuleMatch":{"matchedPrefix":["git"],"decision":"prompt","justification":"café \\n"}},'
    '{"prefixRuleMatch":{"matchedPrefix":["git","push"],"decision":"forbidden"}}'
    '],"decision":"forbidden"}\n'
)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    out, err = capsys.readouterr()
    return status, out, err


def test_matches_come_before_the_decision_on_one_line(rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--rules", rules, "git", "push", "-f") == (0, GIT_PUSH, "")


def test_no_match_has_no_decision(rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--rules", rules, "rm", "-rf", "/") == (0, '{"matchedRules":[]}\n', "")


def test_pretty(rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--rules", rules, "--pretty", "ls")
    assert status == 0
    assert out == (
        '{\n  "matchedRules": [\n    {\n      "prefixRuleMatch": {\n        "matchedPrefix": [\n          "ls"\n'
        '        ],\n        "decision": "allow"\n      }\n    }\n  ],\n  "decision": "allow"\n}\n'
    )
    assert run(capsys, "--pretty", "--rules", rules, "rm") == (0, '{\n  "matchedRules": []\n}\n', "")


def test_host_executables_are_resolved_only_if_asked_for(rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "-r", rules, "/opt/ls") == (0, '{"matchedRules":[]}\n', "")
    status, out, _ = run(capsys, "-r", rules, "--resolve-host-executables", "/opt/ls", "x")
    match = '{"prefixRuleMatch":{"matchedPrefix":["ls"],"decision":"allow","resolvedProgram":"/opt/ls"}}'
    assert (status, out) == (0, f'{{"matchedRules":[{match}],"decision":"allow"}}\n')
    # Unlike interception: an exact match hides the rules of the name.
    status, out, _ = run(capsys, "-r", rules, "--resolve-host-executables", "/bin/ls")
    assert json.loads(out)["decision"] == "prompt"


def test_several_files_are_read_in_the_order_given(
    rules: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.write_text('prefix_rule(["git"], "allow", justification = "other")')
    for order, first in (((rules, str(other)), "café \n"), ((str(other), rules), "other")):
        _, out, _ = run(capsys, "--rules", order[0], f"-r{order[1]}", "git")
        assert json.loads(out)["matchedRules"][0]["prefixRuleMatch"]["justification"] == first


@pytest.mark.parametrize("form", ["--rules={}", "-r={}", "-r{}"])
def test_attached_values(form: str, rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, form.format(rules), "git", "push")[:2] == (0, GIT_PUSH)


def test_everything_from_the_command_on_belongs_to_it(rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["git", "push", "--pretty", "--rules", "x", "--help", "--"], ["--", "git", "push"]):
        assert run(capsys, "--rules", rules, *words) == (0, GIT_PUSH, "")
    status, out, _ = run(capsys, "--rules", rules, "--", "--pretty")
    assert (status, json.loads(out)["decision"]) == (0, "forbidden")
    assert run(capsys, "--rules", rules, "--unknown", "x") == (0, '{"matchedRules":[]}\n', "")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "name a rules file"),
        (("git",), "name a rules file"),
        (("--rules",), "--rules needs the path of a rules file"),
        (("--rules", "x"), "name the command to check"),
        (("--rules", "x", "--"), "name the command to check"),
        (("--rules", "x", "--pretty=yes", "git"), "--pretty takes no value"),
        (("--rules", "x", "git", "\udcff"), "is not UTF-8"),
    ],
)
def test_wrong_command_lines(arguments: tuple[str, ...], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert problem in err
    assert "usage: codex-exec-mcp-server execpolicy check" in err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "--pretty", "--help")
    assert (status, err) == (0, "")
    for option in ("--rules", "--pretty", "--resolve-host-executables", "Exit status"):
        assert option in out


def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "latin.rules").write_bytes(b"# \xe9")
    for name, reason in (("missing", "No such file"), ("latin.rules", "not UTF-8"), (".", "")):
        status, out, err = run(capsys, "--rules", str(tmp_path / name), "git")
        assert (status, out) == (1, "")
        assert err.startswith(f"error: failed to read policy at {tmp_path / name}")
        assert reason in err


def test_files_that_do_not_hold(rules: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.rules"
    bad.write_text('\nprefix_rule(["a"], "x")')
    status, out, err = run(capsys, "--rules", rules, "--rules", str(bad), "git")
    assert (status, out) == (1, "")
    assert err == (
        f'error: failed to parse policy at {bad}:2:1: invalid decision: x (write "allow", "prompt" or "forbidden")\n'
    )


def test_a_named_file_may_be_a_link_with_any_name(
    rules: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link.txt").symlink_to(rules)
    assert run(capsys, "--rules", str(tmp_path / "link.txt"), "git", "push")[:2] == (0, GIT_PUSH)


def test_heuristic_matches_have_their_own_form() -> None:
    match = HeuristicsRuleMatch(command=("rm", "-rf", "/"), decision=Decision.PROMPT)
    assert to_json([match]) == {
        "matchedRules": [{"heuristicsRuleMatch": {"command": ["rm", "-rf", "/"], "decision": "prompt"}}],
        "decision": "prompt",
    }


def test_what_a_file_says_moves_no_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a\n\x1b[2J.rules"
    for text, option in (
        ('fail("\x1b[2J\\n\u202e")', "--pretty"),
        ('prefix_rule(["a"], "\x1b[2J\u202e")', "--pretty"),
        ('prefix_rule(["a\\x1b[2J"])\nprefix_rule(["sh"], justification = "\x1b[2J\\n\u202e")', "--explain"),
    ):
        path.write_text(text)
        assert main(["--rules", str(path), option, "sh"]) == (option == "--pretty")
        said = capsys.readouterr()
        for letter in "\x1b\u202e":
            assert letter not in said.out + said.err
        assert "\\x1b[2J" in said.out + said.err
        assert said.err.count("\n") == (option == "--pretty")
