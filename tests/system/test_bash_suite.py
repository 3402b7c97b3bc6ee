"""bash's own test suite gives the same results without interception, with each exec run, and with each escalated.

One case a script and mode: ``pytest -m suite -k 'run-redir and escalate'``. The scripts run in the background, many at
a time, and the cases wait for them; so a whole run takes little longer than the slowest script, which sleeps for a
minute, and gains nothing from more workers (they would take turns: see ``suite_place``).
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shell_tool_release.bash_suite import SuiteFiles, suite_files
from shell_tool_release.cache import cache_root
from shell_tool_release.sources import SourceOptions, bash_source
from support.built import built
from support.saying import say
from system.bash_support.suite import Binaries, Mode, SuiteRun, difference, judge, reference
from system.bash_support.suite_lists import load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from system.bash_support.suite import Result

pytestmark = [pytest.mark.suite, pytest.mark.timeout(900)]

LISTS = load()


@pytest.fixture(scope="module")
def files() -> SuiteFiles:
    return suite_files(bash_source(SourceOptions.default()), cache_root())


@pytest.fixture(scope="module")
def default_signals() -> Iterator[None]:
    """What this process was told to ignore (by nohup, or as a background job) is no part of the comparison."""
    numbers = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ})
    ignored = [number for number in numbers if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="module")
def suite(request: pytest.FixtureRequest, files: SuiteFiles, default_signals: None) -> Iterator[SuiteRun]:
    """The run of all scripts and modes that the chosen cases need."""
    needed: set[tuple[str, Mode]] = set()
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.module is request.module:
            case: dict[str, Any] = dict(item.callspec.params)
            needed |= {(case["script"], mode) for mode in (case["mode"], reference(case["mode"]))}
    here = built()
    binaries = Binaries(bash=here.bash, stock=here.bash_stock, wrapper=here.wrapper, supervisor=here.supervisor)
    with SuiteRun(sorted(needed), files, binaries) as run:
        yield run
    say(request.config, *(f"bash's own test suite, {line}" for line in run.summary()))


def _same(suite: SuiteRun, script: str, mode: Mode) -> Result:
    """A result that bash gives without interception too: if not in its first run, then in one of many more."""
    seen, passing, expected = suite.result(script, mode), LISTS.passing(script), LISTS.expected(script, mode)
    found = difference(suite.result(script, reference(mode)), seen, passing)
    wrong = judge(found, expected)
    if wrong is not None and expected is None and suite.shows_by_itself(script, seen, reference(mode), passing):
        wrong = None
    assert wrong is None, f"{script}, {mode}: {wrong}"
    return seen


@pytest.mark.parametrize("script", LISTS.scripts)
@pytest.mark.parametrize("mode", ["again"])
def test_is_stable(suite: SuiteRun, script: str, mode: Mode) -> None:
    """Without interception, twice: what comes and goes is on the list, and on it for a reason; unless it is rare."""
    one, other, passing = suite.result(script, "plain"), suite.result(script, mode), LISTS.passing(script)
    if found := difference(one, other, passing):
        more = ["\n".join(result.lines(passing)) for result in suite.repeat(script, mode, 10)]
        usual = max(more, key=more.count)
        assert more.count(usual) >= 9, "\n".join((f"{script} is not stable: list what comes and goes", *found))
        assert usual in ("\n".join(result.lines(passing)) for result in (one, other))
    assert LISTS.is_found(script, other.lines())


@pytest.mark.parametrize("script", LISTS.scripts)
@pytest.mark.parametrize("mode", ["stock"])
def test_patched_is_as_stock(suite: SuiteRun, script: str, mode: Mode) -> None:
    """Same compiler and flags, without the patch."""
    _same(suite, script, mode)


@pytest.mark.parametrize("script", LISTS.scripts)
@pytest.mark.parametrize("mode", ["run"])
def test_intercepted_is_as_plain(suite: SuiteRun, script: str, mode: Mode) -> None:
    """Every exec is asked about and run: the shell that reads the tests, and the ``diff`` at the end, for two."""
    result = _same(suite, script, mode)
    programs = [Path(request.program).name for request in result.asked]
    assert "bash" in programs
    assert "diff" in programs
    assert result.escalated == 0


@pytest.mark.parametrize("script", LISTS.scripts)
@pytest.mark.parametrize("mode", ["escalate"])
def test_escalated_is_as_plain(suite: SuiteRun, script: str, mode: Mode) -> None:
    """Every exec but the shell's own is done by the supervisor, outside: the ``diff`` at the end, for one."""
    result = _same(suite, script, mode)
    shells = sum(request.resolved is not None and request.resolved.endswith("/bash") for request in result.asked)
    assert shells > 0
    assert 0 < result.escalated <= len(result.asked) - 1


@pytest.mark.parametrize("script", LISTS.scripts)
@pytest.mark.parametrize("mode", ["outside"])
def test_an_escalated_shell_is_as_plain(suite: SuiteRun, script: str, mode: Mode) -> None:
    """Every exec is done by the supervisor: the tests find what an escalated program was given to be as always."""
    result = _same(suite, script, mode)
    assert result.escalated == len(result.asked) > 1
    assert "bash" in [Path(request.program).name for request in result.asked]
