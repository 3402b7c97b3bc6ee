"""Runs independent jobs side by side, says how each goes, and sums them up in one table.

API::

    run_jobs(jobs, workers=, keep_going=, say=) -> tuple[Outcome, ...]    one each, in their order; nothing is raised
    results(outcomes) -> tuple                                            what they made, or BuildError that names all
    made_table(outcomes) -> str                                           the table of what was built
    table(rows) -> str                                                    columns of text, numbers to the right
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from shell_tool_release.cache import file_sha256
from shell_tool_release.errors import BuildError, ReleaseError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


class Made(Protocol):
    """A file that a job made, or found made."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def reused(self) -> bool:
        """Whether it was there already."""


T = TypeVar("T")
M = TypeVar("M", bound=Made)


@dataclass(frozen=True, kw_only=True)
class Job(Generic[T]):
    """Something to be made; ``run`` raises a ReleaseError when it cannot be."""

    name: str
    run: Callable[[], T]


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[T]):
    """What came of a job: a result, an error, or neither if it was not begun. ``seconds`` is its time on the clock."""

    name: str
    result: T | None = None
    error: ReleaseError | None = None
    seconds: float = 0.0


class _Board:
    """Who is done, for the numbers in front of each message."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self._lock = threading.Lock()
        self._total, self._done, self._say = total, 0, say

    def done(self, text: str) -> None:
        with self._lock:
            self._done += 1
            width = len(str(self._total))
            self._say(f"[{self._done:>{width}}/{self._total}] {text}")


def run_jobs(
    jobs: Sequence[Job[T]], *, workers: int, keep_going: bool, say: Callable[[str], None]
) -> tuple[Outcome[T], ...]:
    """Run all jobs, ``workers`` at a time.

    Without ``keep_going`` no job is begun after one failed; those that are under way come to their own end. Only a
    ReleaseError is an outcome; anything else is a mistake in the program and is raised as it is.
    """
    board, stop = _Board(len(jobs), say), threading.Event()

    def run(job: Job[T]) -> Outcome[T]:
        if stop.is_set():
            return Outcome(name=job.name)
        started = time.monotonic()
        try:
            result = job.run()
        except ReleaseError as error:
            if not keep_going:
                stop.set()
            board.done(f"{job.name}: FAILED: {str(error).splitlines()[0]}")
            return Outcome(name=job.name, error=error, seconds=time.monotonic() - started)
        seconds = time.monotonic() - started
        board.done(f"{job.name}: {seconds:.1f} s")
        return Outcome(name=job.name, result=result, seconds=seconds)

    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        return tuple(pool.map(run, jobs))


def results(outcomes: Sequence[Outcome[T]]) -> tuple[T, ...]:
    """Return what was made; if anything was not, a BuildError that tells of each (one alone is raised as it is)."""
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if len(failed) == 1 and len(outcomes) == 1 and failed[0].error is not None:
        raise failed[0].error
    if failed:
        skipped = [outcome.name for outcome in outcomes if outcome.error is None and outcome.result is None]
        rest = f"\nnot begun: {', '.join(skipped)} (--keep-going goes on after a failure)" if skipped else ""
        told = "\n".join(f"{outcome.error}" for outcome in failed)
        message = f"{len(failed)} of {len(outcomes)} failed:\n{told}{rest}"
        raise BuildError(message)
    return tuple(outcome.result for outcome in outcomes if outcome.result is not None)


def made_table(outcomes: Sequence[Outcome[M]]) -> str:
    """What came of each job that makes one file: how, how long it took, how large it is, how its hash begins."""
    rows = [("what", "came", "seconds", "bytes", "sha256")]
    for outcome in outcomes:
        seconds, made = f"{outcome.seconds:.1f}", outcome.result
        if made is None:
            rows.append((outcome.name, "not begun" if outcome.error is None else "FAILED", seconds, "-", "-"))
            continue
        came = "from the cache" if made.reused else "built"
        rows.append((outcome.name, came, seconds, f"{made.path.stat().st_size:,}", file_sha256(made.path)[:16]))
    return table(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows, the first of which are the headings; a column of numbers goes to the right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(_number(cell) for cell in column[1:]) for column in columns]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _number(cell: str) -> bool:
    return not cell.strip("0123456789,.-")
