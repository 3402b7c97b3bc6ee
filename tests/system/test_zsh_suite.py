"""zsh's own test suite says the same of stock zsh, of patched zsh, with each exec run, and with each escalated.

One case a file and mode: ``pytest -m suite_zsh -k 'A05 and escalate'``. All runs happen at the first case.
"""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING, Any

import pytest

from support.saying import say
from system.zsh_support.suite import Lists, Mode, Result, run_suite, suite_files

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.suite_zsh, pytest.mark.timeout(1800)]

LISTS = Lists.load()
FILES = tuple(name for name in suite_files() if name not in LISTS.left_out)
Results = dict[tuple[str, Mode], Result]


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> Iterator[Results]:
    """What came of the files of the chosen cases, in all modes."""
    chosen: set[str] = set()
    modes: set[Mode] = {"plain"}
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.module is request.module and hasattr(item, "callspec"):
            case: dict[str, Any] = dict(item.callspec.params)
            chosen.add(case["file"])
            modes.add(case.get("mode", "plain"))
    found = run_suite(tuple(sorted(chosen)), tuple(sorted(modes)))
    yield found
    say(request.config, *(f"zsh's own suite, {mode}: {summary(found, mode)}" for mode in sorted(modes)))


def summary(results: Results, mode: Mode) -> str:
    """How much was run and asked."""
    chosen = [result for (_, each), result in results.items() if each == mode]
    asked, escalated = sum(one.asked for one in chosen), sum(one.escalated for one in chosen)
    return f"{len(chosen)} files, {asked} asked, {escalated} escalated"


@pytest.mark.parametrize("file", FILES)
def test_passes(results: Results, file: str) -> None:
    result = results[file, "plain"]
    if os.geteuid() != 0 and "PRIVILEGED tests require super-user" in result.lines[-1]:
        pytest.skip("it gives up rights that only root has; run ./run suite_zsh as root for this file")
    assert result.status == 0, "\n".join(result.lines[-40:])


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("mode", ["stock", "run", "escalate"])
def test_same_as_plain(results: Results, file: str, mode: Mode) -> None:
    passing = LISTS.passing.get(file)
    plain, other = (
        [f"status {one.status}", *(line for line in one.lines if passing is None or not passing.search(line))]
        for one in (results[file, "plain"], results[file, mode])
    )
    found = [
        line for line in difflib.unified_diff(plain, other, n=0, lineterm="") if line[:2] not in {"--", "++", "@@"}
    ]
    assert found == []
    if mode == "run":
        assert results[file, mode].asked > 0
