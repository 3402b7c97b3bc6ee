"""``execpolicy check --explain``: each rule considered, with its place and its fate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.execpolicy import explain
from codex_shell_tool_mcp.execpolicy.check import main
from codex_shell_tool_mcp.execpolicy.explain import Located

if TYPE_CHECKING:
    from pathlib import Path

RULES = """
prefix_rule(["git"], "allow")
prefix_rule(["git", ["push", "fetch"]], "prompt", justification = "talks to another host")
prefix_rule(["git", "push", "--force"], "forbidden")
prefix_rule(["/usr/bin/git", "log"], "allow")
prefix_rule(["ls"], "prompt")
host_executable("ls", ["/bin/ls"])
"""


@pytest.fixture
def rules(tmp_path: Path) -> str:
    path = tmp_path / "a.rules"
    path.write_text(RULES)
    return str(path)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has git, behind a link, and ls, but no other program."""
    known = {
        "git": Located(program="/usr/bin/git", resolved="/opt/git-2/git"),
        "rm": Located(program="/bin/rm", resolved="/bin/rm"),
        "/bin/ls": Located(program="/bin/ls", resolved="/bin/ls"),
    }
    monkeypatch.setattr(explain, "locate", known.get)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["--explain", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_every_rule_of_the_program_with_its_fate(rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        said(capsys, "-r", rules, "git", "push", "origin")
        == f"""\
command: git push origin

rules for "git" (as it stands): 3
  {rules}:2: prefix_rule(pattern=["git"], decision="allow")
      matches `git`, but a stricter rule decides
  {rules}:3: prefix_rule(pattern=["git", ["push", "fetch"]], decision="prompt")
      matches `git push` and decides
  {rules}:4: prefix_rule(pattern=["git", "push", "--force"], decision="forbidden")
      does not match: word 3 is "origin", the rule wants "--force"

decision: prompt, by {rules}:3: talks to another host

in the server, as /usr/bin/git, which is /opt/git-2/git (a file that scripts cannot write):
  it is asked about, and then runs outside the sandbox, by {rules}:3: talks to another host
"""
    )


def test_too_few_words(rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "-r", rules, "git")
    assert 'the command has no word 2, the rule wants "push" or "fetch" there' in text
    assert f"decision: allow, by {rules}:2\n" in text
    assert f"  it runs outside the sandbox, unasked, by {rules}:2\n" in text


def test_a_path_and_its_last_part(rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "-r", rules, "/opt/git", "push", "--force")
    assert 'rules for "/opt/git" (as it stands): none\n' in text
    assert 'rules for "git" are not looked up: that takes --resolve-host-executables' in text
    assert text.endswith("decision: none, for no rule matches\n")
    text = said(capsys, "-r", rules, "--resolve-host-executables", "/opt/git", "push", "--force")
    assert 'rules for "git" (the last part of /opt/git): 3\n' in text
    assert f"decision: forbidden, by {rules}:4\n" in text


def test_an_exact_match_ends_it(rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "-r", rules, "--resolve-host-executables", "/usr/bin/git", "log")
    assert "a rule matched as it stands, so the last part of the path is not looked up" in text


def test_host_executable(rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "-r", rules, "--resolve-host-executables", "/opt/ls")
    assert 'rules for "ls" are not looked up: host_executable lets only /bin/ls stand for it' in text
    text = said(capsys, "-r", rules, "--resolve-host-executables", "/bin/ls")
    assert f"decision: prompt, by {rules}:6\n" in text


def test_unmatched_and_dangerous(rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "-r", rules, "rm", "x").endswith(
        "  no rule matches; it runs in the sandbox (unless --unmatched says otherwise)\n"
    )
    assert "it is asked about, for it deletes without asking, and then runs in the sandbox" in said(
        capsys, "-r", rules, "rm", "-fr", "x"
    )


def test_what_a_shell_here_would_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    (tmp_path / "link").symlink_to("tool")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert explain.locate("link") == Located(program=f"{tmp_path}/link", resolved=str((tmp_path / "tool").resolve()))
    assert explain.locate("missing") is None
    assert explain.programs(["link", "x"], explain.locate("link"))[:2] == ("link", f"{tmp_path}/link")
