"""What ``execpolicy lint`` says of rules, and that its table says something each time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.errors import PolicyError
from codex_shell_tool_mcp.execpolicy import lint as linter
from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.lint import OptionRow, granted, grants, lint, main
from codex_shell_tool_mcp.execpolicy.parser import PolicyParser
from codex_shell_tool_mcp.execpolicy.rules import PrefixRule

if TYPE_CHECKING:
    from pathlib import Path


def rule(*words: str | tuple[str, ...], decision: Decision = Decision.ALLOW) -> PrefixRule:
    assert isinstance(words[0], str)
    return PrefixRule(program=words[0], rest=words[1:], decision=decision)


def findings(*texts: str) -> list[str]:
    parser = PolicyParser()
    for number, text in enumerate(texts):
        parser.parse(f"{number}.rules", text)
    return [f"{finding.source} {finding.kind}" for finding in lint(parser.files())]


@pytest.mark.parametrize("name", [*grants().interpreters, *grants().wrappers])
def test_programs_that_run_anything(name: str) -> None:
    (said,) = granted(rule(f"/usr/bin/{name}", "x", "y"))
    assert "outside the sandbox (" in said
    assert granted(rule(name, decision=Decision.PROMPT)) == []
    assert granted(rule(f"{name}ly")) == []


@pytest.mark.parametrize(
    "name", ["python3", "python3.11", "python2.7", "perl5.36", "ruby3.1", "lua5.4", "node18", "php8"]
)
def test_versions_of_interpreters(name: str) -> None:
    assert len(granted(rule(name))) == 1


ROWS = grants().options


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.programs[0]} {row.after[:1]} {row.option}" for row in ROWS])
def test_options_that_do_more(row: OptionRow) -> None:
    assert row.source
    for program in row.programs:
        patterns: list[tuple[str | tuple[str, ...], ...]] = [(), *(((word,)) for word in row.after)]
        if row.after:
            patterns += [("harmless", row.after[0]), ("--option",)]
            patterns[-2] = (("harmless", row.after[0]),)
        for pattern in patterns:
            assert any(row.option in said and row.source in said for said in granted(rule(program, *pattern)))
        if row.after or row.before:
            assert not any(row.does in said for said in granted(rule(program, "some-other-sub-command")))


def test_git_without_a_sub_command_and_with_one() -> None:
    assert any("-c runs" in said or "`git -c`" in said for said in granted(rule("git")))
    assert not any("`git -c`" in said for said in granted(rule("git", "log")))
    assert granted(rule("git", "rev-parse")) == []
    assert granted(rule("ls", "-l")) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('prefix_rule(["ls"])\nprefix_rule(["ls", "-l"])', ["0.rules:2 shadowed"]),
        ('prefix_rule(["ls", "-l"])\nprefix_rule(["ls"])', ["0.rules:1 shadowed"]),
        ('prefix_rule(["ls"])\nprefix_rule(["ls"])', ["0.rules:2 shadowed"]),
        ('prefix_rule(["ls", ["a", "b"]])\nprefix_rule(["ls", "b"])', ["0.rules:2 shadowed"]),
        ('prefix_rule(["ls", ["a", "b"]])\nprefix_rule(["ls", ["b", "c"]])', []),
        ('prefix_rule(["ls"])\nprefix_rule(["ls"], "prompt")', ["0.rules:1 dead"]),
        ('prefix_rule(["ls", "-l"])\nprefix_rule(["ls"], "forbidden")', ["0.rules:1 dead"]),
        ('prefix_rule(["ls"], "prompt")\nprefix_rule(["ls", "-l"], "forbidden")', []),
        ('prefix_rule(["ls"])\nprefix_rule(["ls", "-l"], "forbidden")', []),
        ('prefix_rule(["ls", "x"], "prompt")\nprefix_rule(["ls"], "forbidden")', ["0.rules:1 dead"]),
        # Another justification is another text for people.
        (
            'prefix_rule(["ls"], "prompt", justification = "a")\nprefix_rule(["ls", "x"], "prompt", justification="b")',
            [],
        ),
        ('prefix_rule(["ls"])\nhost_executable("ls", [])', ["0.rules:1 unreachable"]),
        ('prefix_rule(["ls"])\nhost_executable("ls", ["/bin/ls"])', []),
        ('prefix_rule(["ls"], "prompt")\nhost_executable("ls", [])', []),
        ('prefix_rule(["ls"])\nprefix_rule(["/bin/ls"])', []),
        ("", []),
    ],
)
def test_rules_that_decide_nothing(text: str, expected: list[str]) -> None:
    assert findings(text) == expected


def test_files_are_seen_together() -> None:
    assert findings('prefix_rule(["ls"])', 'prefix_rule(["ls"], "forbidden")') == ["0.rules:1 dead"]


def test_findings_come_by_line() -> None:
    text = "\n".join(f"prefix_rule({json.dumps([name])})" for name in ["ls"] * 3 + ["env"] + ["ls"] * 8)
    assert [entry.split()[0] for entry in findings(text)] == [f"0.rules:{line}" for line in (2, 3, *range(4, 13))]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.rules"
    path.write_text('prefix_rule(["ls"], "prompt")\n')
    for form in (["--rules", str(path)], [f"--rules={path}"], ["-r", str(path)]):
        assert main(form, tmp_path) == 0
    assert capsys.readouterr().out == ""
    path.write_text('\nprefix_rule(["env"])\n')
    assert main(["-r", str(path)], tmp_path) == 1
    assert capsys.readouterr().out == (
        f'{path}:2: grants: prefix_rule(pattern=["env"], decision="allow") grants more than it seems to: '
        "env runs any other program, outside the sandbox (their manuals; GTFOBins)\n"
    )
    path.write_text("prefix_rule(")
    with pytest.raises(PolicyError):
        main(["-r", str(path)], tmp_path)


def test_without_files_it_reads_what_a_server_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from codex_shell_tool_mcp.execpolicy import loader  # noqa: PLC0415

    monkeypatch.setattr(loader, "SYSTEM_FOLDER", tmp_path / "etc")
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "home", tmp_path / ".codex"):
        (folder / "rules").mkdir(parents=True)
        (folder / "rules" / "a.rules").write_text('prefix_rule(["sudo"])')
    assert main([], tmp_path / "home") == 1
    said = capsys.readouterr().out
    assert f"{tmp_path}/home/rules/a.rules:1: grants" in said
    assert f"{tmp_path}/.codex/rules/a.rules:1: " in said


@pytest.mark.parametrize("arguments", [["--rules"], ["x"], ["--unknown"]])
def test_wrong_command_lines(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments, tmp_path) == 2
    assert linter.USAGE in capsys.readouterr().err


def test_help(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"], tmp_path) == 0
    assert "Exit status" in capsys.readouterr().out
