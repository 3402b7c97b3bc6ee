"""Jobs side by side: each has its outcome, a failure is told, and the table says what came of all."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from shell_tool_release.errors import BuildError
from shell_tool_release.jobs import Job, Outcome, made_table, results, run_jobs, table

if TYPE_CHECKING:
    from pathlib import Path


def fails(name: str) -> str:
    raise BuildError(f"{name}: exit status 1; whole log: /logs/{name}.log\n    the end of it")


def jobs(*names: str) -> list[Job[str]]:
    """Jobs that return their name; those that begin with ``bad`` fail."""
    return [Job(name=name, run=lambda name=name: fails(name) if name.startswith("bad") else name) for name in names]  # type: ignore[misc]


def test_results_come_in_the_order_of_the_jobs_and_progress_is_counted() -> None:
    said: list[str] = []
    outcomes = run_jobs(jobs("a", "b", "c"), workers=2, keep_going=False, say=said.append)
    assert results(outcomes) == ("a", "b", "c")
    assert [line.split("]")[0] for line in said] == ["[1/3", "[2/3", "[3/3"]
    assert {line.split("] ")[1].split(":")[0] for line in said} == {"a", "b", "c"}


def test_several_run_at_once_and_no_more_than_asked_for() -> None:
    both, running, most = threading.Barrier(2, timeout=30), [0], [0]
    lock = threading.Lock()

    def run() -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        both.wait()  # nobody passes alone
        with lock:
            running[0] -= 1
        return 1

    outcomes = run_jobs([Job(name=str(n), run=run) for n in range(6)], workers=2, keep_going=False, say=lambda _: None)
    assert sum(results(outcomes)) == 6
    assert most == [2]


def test_after_a_failure_nothing_more_is_begun() -> None:
    outcomes = run_jobs(jobs("a", "bad", "c", "d"), workers=1, keep_going=False, say=lambda _: None)
    assert [outcome.result for outcome in outcomes] == ["a", None, None, None]
    with pytest.raises(BuildError, match="1 of 4 failed:\nbad: exit status 1") as caught:
        results(outcomes)
    assert "not begun: c, d (--keep-going goes on after a failure)" in str(caught.value)


def test_keep_going_does_the_rest_and_tells_of_each_failure() -> None:
    said: list[str] = []
    outcomes = run_jobs(jobs("bad1", "a", "bad2", "c"), workers=1, keep_going=True, say=said.append)
    assert [outcome.result for outcome in outcomes] == [None, "a", None, "c"]
    assert "[1/4] bad1: FAILED: bad1: exit status 1; whole log: /logs/bad1.log" in said
    with pytest.raises(BuildError, match="2 of 4 failed") as caught:
        results(outcomes)
    assert "/logs/bad1.log" in str(caught.value)
    assert "/logs/bad2.log" in str(caught.value)
    assert "not begun" not in str(caught.value)


def test_one_jobs_error_is_told_as_it_is() -> None:
    with pytest.raises(BuildError, match=r"^bad: exit status 1"):
        results(run_jobs(jobs("bad"), workers=1, keep_going=False, say=lambda _: None))


def test_a_mistake_in_the_program_is_no_outcome() -> None:
    empty: dict[str, str] = {}

    def wrong() -> str:
        return empty["nothing"]

    with pytest.raises(KeyError):
        run_jobs([Job(name="wrong", run=wrong)], workers=1, keep_going=True, say=lambda _: None)


@dataclass(frozen=True)
class _Made:
    path: Path
    reused: bool


def test_the_table_says_what_came_of_each(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1234)
    beginning = "0be279b0410c665f"
    outcomes = [
        Outcome(name="one", result=_Made(path, False), seconds=61.25),
        Outcome(name="another", result=_Made(path, True), seconds=0.04),
        Outcome[_Made](name="third", error=BuildError("no")),
        Outcome[_Made](name="fourth"),
    ]
    assert made_table(outcomes).splitlines() == [
        "what     came            seconds  bytes  sha256",
        "one      built              61.2  1,234  " + beginning,
        "another  from the cache      0.0  1,234  " + beginning,
        "third    FAILED              0.0      -  -",
        "fourth   not begun           0.0      -  -",
    ]


def test_numbers_go_to_the_right() -> None:
    assert table([("name", "n"), ("a", "1,000"), ("bcdef", "2")]) == "name       n\na      1,000\nbcdef      2"
