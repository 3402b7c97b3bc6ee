"""Writing an allow rule: narrow, once, whole, and never for what runs anything."""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_shell_tool_mcp.errors import PolicyError, UsageError
from codex_shell_tool_mcp.execpolicy import amend
from codex_shell_tool_mcp.execpolicy.amend import BANNED, Outcome, allow, is_banned, main, rule_text
from codex_shell_tool_mcp.execpolicy.parser import PolicyParser
from support import sources

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def written(home: Path) -> str:
    return (home / "rules" / "default.rules").read_text()


LINE = (
    'prefix_rule(pattern=["git", "status"], decision="allow", match=[["git", "status"]], '
    'not_match=[["git"], ["git", "status-other"]])\n'
)


def test_a_rule_is_written_with_its_folders(home: Path) -> None:
    assert allow(home, ["git", "status"]) is Outcome.WRITTEN
    assert written(home) == LINE
    assert [path.name for path in (home / "rules").iterdir()] == ["default.rules"]


def test_what_is_there_stays_and_a_missing_line_end_is_made_up_for(home: Path) -> None:
    (home / "rules").mkdir(parents=True)
    path = home / "rules" / "default.rules"
    path.write_text('# mine\nprefix_rule(["ls"])')
    path.chmod(0o640)
    assert allow(home, ["git", "status"]) is Outcome.WRITTEN
    assert written(home) == '# mine\nprefix_rule(["ls"])\n' + LINE
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "there",
    [
        'prefix_rule(["git", "status"])',
        'prefix_rule(\n  pattern = ["git", ["log", "status"]],\n  decision = "allow",\n)',
        'prefix_rule(["git"], "allow")',
        '[prefix_rule([x, y]) for x in ["git"] for y in ["status"]]',
    ],
)
def test_what_is_allowed_already_is_not_written_again(home: Path, there: str) -> None:
    (home / "rules").mkdir(parents=True)
    (home / "rules" / "default.rules").write_text(there)
    assert allow(home, ["git", "status"]) is Outcome.ALREADY
    assert written(home) == there


@pytest.mark.parametrize(
    "there", ['prefix_rule(["git", "status", "-s"])', 'prefix_rule(["git", "status"], "prompt")', 'prefix_rule(["ls"])']
)
def test_what_only_looks_like_it_is_written(home: Path, there: str) -> None:
    (home / "rules").mkdir(parents=True)
    (home / "rules" / "default.rules").write_text(there + "\n")
    assert allow(home, ["git", "status"]) is Outcome.WRITTEN


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12), min_size=1, max_size=5))
def test_any_words_make_a_rule_that_matches_just_them(prefix: list[str]) -> None:
    parser = PolicyParser()
    parser.parse("new", rule_text(prefix))
    policy = parser.build()
    assert policy.matches(prefix, resolve_host_executables=False)
    assert policy.matches([*prefix, "more"], resolve_host_executables=False)
    assert not policy.matches([*prefix[:-1], prefix[-1] + "x"], resolve_host_executables=False)
    assert not policy.matches(prefix[:-1], resolve_host_executables=False)
    assert "\n" not in rule_text(prefix)


@pytest.mark.parametrize("prefix", sorted(BANNED), ids=" ".join)
def test_banned_prefixes_are_never_written(home: Path, prefix: tuple[str, ...]) -> None:
    assert is_banned(prefix)
    for words in (prefix, (f"/opt/{prefix[0].rpartition('/')[2]}", *prefix[1:])):
        with pytest.raises(UsageError, match="never allowed as a whole"):
            allow(home, words)
    assert not home.exists()
    assert not is_banned((*prefix, "x y"))


@pytest.mark.parametrize("prefix", [[], [""], ["a", "\udcff"]])
def test_words_no_rule_can_name(home: Path, prefix: list[str]) -> None:
    with pytest.raises(UsageError):
        allow(home, prefix)


def test_a_file_that_does_not_hold_is_left_alone(home: Path) -> None:
    (home / "rules").mkdir(parents=True)
    (home / "rules" / "default.rules").write_text("prefix_rule(")
    with pytest.raises(PolicyError, match=r"default\.rules:1:"):
        allow(home, ["git", "status"])
    assert written(home) == "prefix_rule("
    assert len(list((home / "rules").iterdir())) == 1


def test_a_link_is_not_followed(home: Path, tmp_path: Path) -> None:
    (home / "rules").mkdir(parents=True)
    (tmp_path / "other").write_text("")
    (home / "rules" / "default.rules").symlink_to(tmp_path / "other")
    with pytest.raises(PolicyError, match="no rule can be written there"):
        allow(home, ["git", "status"])
    assert (tmp_path / "other").read_text() == ""


def test_a_file_that_others_can_write_is_refused(home: Path) -> None:
    (home / "rules").mkdir(parents=True)
    (home / "rules" / "default.rules").touch()
    (home / "rules" / "default.rules").chmod(0o666)
    with pytest.raises(PolicyError, match="refused, for every user"):
        allow(home, ["git", "status"])


def test_only_one_level_is_made(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="No such file or directory"):
        allow(tmp_path / "a" / "b", ["git", "status"])


def test_a_failure_while_writing_leaves_the_old_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(home, ["git", "status"])

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PolicyError, match="No space left on device"):
        allow(home, ["git", "log"])
    assert written(home) == LINE
    assert [path.name for path in (home / "rules").iterdir()] == ["default.rules"]


def test_a_lock_that_is_held_is_waited_for_and_not_for_ever(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(home, ["git", "status"])
    monkeypatch.setattr(amend, "LOCK_SECONDS", 0.1)
    with (home / "rules" / "default.rules").open() as held:  # to read is enough
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(PolicyError, match="another process has held its lock for"):
            allow(home, ["git", "log"])
    assert allow(home, ["git", "log"]) is Outcome.WRITTEN


def test_many_at_once_lose_nothing(home: Path) -> None:
    """Each replaces the file, so whoever waited for the lock of the old one has to begin again."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom codex_shell_tool_mcp.execpolicy.amend import allow\n"
        "for n in range(4): allow(Path(sys.argv[1]), ['tool', sys.argv[2], str(n)])\n"
    )
    home.mkdir()
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(home), str(n)], env=sources.environment()) for n in range(4)
    ]
    assert [process.wait(100) for process in running] == [0] * 4
    parser = PolicyParser()
    parser.parse("default.rules", written(home))
    assert len(parser.build().prefix_rules) == 16


# The command ----------------------------------------------------------------------------------------------------------


def test_by_hand(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--", "git", "rev-parse"], home) == 0
    assert capsys.readouterr().out.startswith('written: prefix_rule(pattern=["git", "rev-parse"], decision="allow", ')
    assert main(["git", "rev-parse"], home) == 0
    assert capsys.readouterr().out.startswith("allowed already: ")


def test_by_hand_what_grants_more_needs_a_word_more(home: Path) -> None:
    with pytest.raises(UsageError, match=r"would grant more .*: env runs any other program.* add --even-so"):
        main(["env", "FOO=1", "make"], home)
    assert not home.exists()
    assert main(["--even-so", "--", "env", "FOO=1", "make"], home) == 0
    with pytest.raises(UsageError, match="never allowed as a whole"):
        main(["--even-so", "env"], home)


def test_by_hand_wrong(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--unknown", "git"], home) == 2
    assert amend.USAGE in capsys.readouterr().err
    assert main(["--help"], home) == 0
    assert "--even-so" in capsys.readouterr().out
    for arguments in ([], ["--"]):
        with pytest.raises(UsageError, match="name the command"):
            main(arguments, home)


def test_through_the_command_line(home: Path) -> None:
    home.mkdir()
    ran = subprocess.run(
        [sys.executable, "-m", "codex_shell_tool_mcp", "execpolicy", "allow", *shlex.split("git rev-parse")],
        env=sources.environment(CODEX_HOME=str(home)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "rev-parse" in written(home)
