"""The comparison of bash's own test suite in several modes notices what it is there to notice.

The suite itself: ``test_bash_suite.py``, which takes minutes and runs in a session of its own.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from codex_shell_tool_mcp.escalation.policy import Deny, EscalateAction, ExecRequest
from codex_shell_tool_mcp.escalation.supervision import Supervision
from shell_tool_release.bash_suite import (
    ScriptFolder,
    SuiteFiles,
    SuitePlace,
    script_names,
    suite_files,
    suite_place,
)
from shell_tool_release.cache import cache_root
from shell_tool_release.errors import ReleaseError
from shell_tool_release.sources import SourceOptions, bash_source
from support.built import built
from system.bash_support import suite
from system.bash_support.suite import (
    INTERCEPTED,
    MODES,
    Binaries,
    Mode,
    Result,
    SuitePolicy,
    SuiteRun,
    difference,
    judge,
    neutral,
)
from system.bash_support.suite_lists import Lists, load

if TYPE_CHECKING:
    from codex_shell_tool_mcp.escalation import wire

QUICK = "run-nquote5"
"""A script with thirty execs, a third of a second."""

EXCEPTIONS = Path(__file__).parents[1] / "NAMED_EXCEPTIONS.md"


@pytest.fixture(scope="module")
def files() -> SuiteFiles:
    return suite_files(bash_source(SourceOptions.default()), cache_root())


@pytest.fixture(scope="module")
def lists() -> Lists:
    return load()


def begin(files: SuiteFiles, *modes: Mode, script: str = QUICK) -> SuiteRun:
    """One script in some modes, as a context manager."""
    here = built()
    binaries = Binaries(bash=here.bash, stock=here.bash_stock, wrapper=here.wrapper, supervisor=here.supervisor)
    return SuiteRun([(script, mode) for mode in modes], files, binaries)


def run(files: SuiteFiles, *modes: Mode, script: str = QUICK) -> list[Result]:
    """One script in some modes."""
    with begin(files, *modes, script=script) as running:
        return [running.result(script, mode) for mode in modes]


def test_every_script_of_the_suite_is_on_the_list(files: SuiteFiles, lists: Lists) -> None:
    assert lists.scripts == script_names(files)


def test_the_lists_speak_of_scripts_and_modes_that_exist(lists: Lists) -> None:
    scripts = [entry.script for entry in lists.unstable]
    pairs = [(entry.script, entry.mode) for entry in lists.exceptions]
    assert len(set(scripts)) == len(scripts)
    assert len(set(pairs)) == len(pairs)
    assert {*scripts, *(script for script, _ in pairs)} <= set(lists.scripts)
    assert {mode for _, mode in pairs} <= set(INTERCEPTED)
    assert all(entry.why for entry in lists.unstable)
    assert all(entry.why and entry.lines for entry in lists.exceptions)


def test_exceptions_are_named_where_all_are(lists: Lists) -> None:
    named = re.findall(r"^## (\S+)", EXCEPTIONS.read_text("utf-8"), re.MULTILINE) if EXCEPTIONS.exists() else []
    assert {entry.named for entry in lists.exceptions} <= set(named)


@pytest.mark.parametrize(
    ("found", "expected", "verdict"),
    [
        ([], None, None),
        (["-a", "+b"], ["-a", "+b"], None),
        ([], ["-a", "+b"], "no longer differs"),
        (["-a", "+b"], None, "without being on the list"),
        (["-a", "+c"], ["-a", "+b"], "otherwise than the list"),
    ],
)
def test_a_difference_is_to_be_listed_and_a_listed_one_to_differ(
    found: list[str], expected: list[str] | None, verdict: str | None
) -> None:
    said = judge(found, expected)
    assert said is None if verdict is None else said is not None and verdict in said


def test_all_of_a_result_is_compared() -> None:
    one = Result(status=0, printed="warning", compared="a\nb")
    assert difference(one, Result(status=0, printed="warning", compared="a\nb")) == []
    assert difference(one, Result(status=1, printed="warning", compared="a\nb")) == ["-status 0", "+status 1"]
    assert difference(one, Result(status=0, printed="", compared="a\nb")) == ["-warning", "+"]
    assert difference(one, Result(status=0, printed="warning", compared="b\na")) == ["+b", "-b"]


def test_only_listed_lines_are_left_out() -> None:
    """And the status that follows from them; one that ``diff`` does not have counts."""
    passing = re.compile("^CHLD$")
    one = Result(status=0, printed="", compared="a\nCHLD\nb\nCHLD")
    assert difference(one, Result(status=1, printed="", compared="a\nb"), passing) == []
    assert difference(one, Result(status=1, printed="", compared="a\nc"), passing) == ["-b", "+c"]
    assert difference(one, Result(status=126, printed="", compared="a\nb"), passing) == [
        *("-status 0 or 1", "+status 126"),
    ]


def test_only_what_must_differ_is_made_alike(tmp_path: Path) -> None:
    """Numbers stay: a status of 126 is not one of 127."""
    place = SuitePlace(folder=tmp_path, bash=tmp_path / "bash", localized=False)
    at = ScriptFolder(folder=tmp_path / "run" / "run-x", bash=tmp_path / "shell-1" / "bash", tests=tmp_path, environ={})
    text = (
        f"{tmp_path}/shell-1/bash: {tmp_path}/run/run-x/tmp 126 127\nbash: cannot set terminal process group (-1): no"
    )
    assert neutral(text, place, at) == "BASH: HOME/tmp 126 127\nbash: cannot set terminal process group (PID): no"


def test_a_script_is_the_same_in_all_modes(files: SuiteFiles) -> None:
    results = dict(zip(MODES, run(files, *MODES), strict=True))
    plain = results["plain"]
    assert plain.status == 0
    assert plain.compared.startswith("argv[1] = <")
    assert {mode: difference(plain, result) for mode, result in results.items()} == {mode: [] for mode in MODES}
    assert [mode for mode, result in results.items() if len(result.asked) > 2] == list(INTERCEPTED)
    assert [mode for mode, result in results.items() if result.escalated > 2] == ["escalate", "outside"]


def test_one_exec_that_does_not_happen_is_noticed(files: SuiteFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    decide = SuitePolicy.decide_at_once

    def deny_the_twentieth(policy: SuitePolicy, request: ExecRequest) -> EscalateAction | None:
        action = decide(policy, request)
        return Deny(reason="broken") if len(policy.asked) == 20 else action

    monkeypatch.setattr(SuitePolicy, "decide_at_once", deny_the_twentieth)
    plain, intercepted = run(files, "plain", "run")
    found = difference(plain, intercepted)
    assert "+Execution denied: broken" in found
    assert judge(found, None) is not None


def test_one_argument_lost_on_the_way_outside_is_noticed(files: SuiteFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    spawn = Supervision.spawn
    count = 0

    async def lose_an_argument(supervision: Supervision, request: wire.Request, *stream: int, **how: Any) -> None:
        nonlocal count
        count += 1
        if count == 20:
            request = replace(request, argv=request.argv[:-1])
        await spawn(supervision, request, *stream, **how)

    monkeypatch.setattr(Supervision, "spawn", lose_an_argument)
    plain, escalated = run(files, "plain", "escalate")
    found = difference(plain, escalated)
    assert [line[:9] for line in found if line.startswith("-a")] == ["-argv[1] "]


def test_the_summary_counts_what_was_done(files: SuiteFiles) -> None:
    with begin(files, "plain", "outside") as running:
        asked = len(running.result(QUICK, "outside").asked)
        running.result(QUICK, "plain")
    summary = running.summary()
    assert summary[0] == "plain: 1 scripts, 0 execs asked about, 0 escalated"
    assert summary[1].startswith("again: 0 scripts")
    assert summary[-1] == f"outside: 1 scripts, {asked} execs asked about, {asked} escalated"


def test_a_script_leaves_nothing_behind(files: SuiteFiles) -> None:
    """Neither its folder nor, as one of the suite's would, a file in /tmp."""
    with suite_place(files, built().bash_stock) as place:
        assert "FN=$TMPDIR/" in (place.folder / "tests" / "exec17.sub").read_text("utf-8")
    assert not place.folder.exists()


def test_a_suite_that_has_changed_is_looked_at_anew(files: SuiteFiles, tmp_path: Path) -> None:
    shutil.copytree(files.tests, tmp_path / "tests")
    (tmp_path / "tests" / "exec17.sub").write_text("echo other\n")
    with (
        pytest.raises(ReleaseError, match=r"exec17\.sub of bash's suite"),
        suite_place(replace(files, tests=tmp_path / "tests"), built().bash_stock),
    ):
        pytest.fail("it was taken")


@pytest.fixture
def odd(files: SuiteFiles, tmp_path: Path) -> SuiteFiles:
    """A suite with one script more: one of ten runs says `rare`; intercepted, it can be told what to say."""
    shutil.copytree(files.tests, tmp_path / "tests")
    count = tmp_path / "count"
    count.mkdir()
    script = f"""
        n=0; until mkdir {count}/$((++n)); do :; done 2>/dev/null
        said=often; ((n % 10)) || said=rare; [ -z "$EXEC_WRAPPER" ] || said=$(< {count}/forced)
        echo $said > out; echo often | diff out -"""
    (tmp_path / "tests" / "run-odd").write_text(script)
    return replace(files, tests=tmp_path / "tests")


@pytest.mark.parametrize(("said", "by_itself"), [("rare", True), ("never", False)])
def test_a_rare_result_is_one_that_plain_bash_has_too(
    odd: SuiteFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, by_itself: bool
) -> None:
    """Only that excuses a difference: what shows once in fifty runs, but under interception alone, is none."""
    monkeypatch.setattr(suite, "TRIES", 12)
    (tmp_path / "count" / "forced").write_text(said)
    with begin(odd, "plain", "run", script="run-odd") as running:
        plain, seen = running.result("run-odd", "plain"), running.result("run-odd", "run")
        assert difference(plain, seen) != []
        assert running.shows_by_itself("run-odd", seen, "plain", None) is by_itself
    assert [note.partition(":")[0] for note in running.notes] == ["run-odd"] * by_itself


def test_what_keeps_a_script_from_running_is_its_result(files: SuiteFiles) -> None:
    with pytest.raises(FileNotFoundError, match="run-nothing"):
        run(files, "plain", script="run-nothing")
