"""Measures: every loop in every subject, in turn, round after round.

API::

    measure(plan, say) -> list[Sample]
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.client import Script
from bench.errors import BenchError
from bench.figures import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from bench.figures import SubjectName
    from bench.loops import Loop
    from bench.subjects import Subject


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A subject, and the bash it runs."""

    subject: Subject
    bash: Path


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        entrants: By name; the order is that of the first round.
        loops: In the order of the table.
        rounds: How often, at most; a loop may set less.
        quick: Small numbers: for a first impression while working on the server.
        source: bash's source, for the loop that configures it.
        scratch: Folder below which calls get theirs.
    """

    entrants: Mapping[SubjectName, Entrant]
    loops: Sequence[Loop]
    rounds: int
    quick: bool
    source: Path | None
    scratch: Path

    def count(self, loop: Loop) -> int:
        """Units of one call."""
        return loop.quick if self.quick else loop.count


def measure(plan: Plan, say: Callable[[str], object]) -> list[Sample]:
    """Run everything; each round starts with the next subject, so that none is always first.

    Raises:
        BenchError: A loop did not end as it must.
    """
    return [sample for number in range(plan.rounds) for sample in _round(plan, number, say)]


def _round(plan: Plan, number: int, say: Callable[[str], object]) -> Iterator[Sample]:
    names = list(plan.entrants)
    first = number % len(names)
    for loop in plan.loops:
        if number >= loop.rounds:
            continue
        for name in (*names[first:], *names[:first]):
            seconds = _once(plan, loop, name)
            units = plan.count(loop) * loop.calls * loop.at_once
            say(f"round {number + 1}: {loop.name:<10} {name:<14} {seconds / units * 1000:10.3f} ms per {loop.unit}")
            yield Sample(loop=loop.name, subject=name, round=number, seconds=seconds, count=units)


def _once(plan: Plan, loop: Loop, name: SubjectName) -> float:
    entrant = plan.entrants[name]
    folder = Path(tempfile.mkdtemp(prefix="call-", dir=plan.scratch))
    try:
        entrant.subject.prepare(folder, writes=loop.writes)
        scripts = [Script(text=_text(plan, loop, entrant), folder=folder)] * loop.at_once
        started = time.perf_counter()
        answers = [answer for _ in range(loop.calls) for answer in entrant.subject.run(scripts)]
        seconds = time.perf_counter() - started
    finally:
        shutil.rmtree(folder)
    for answer in answers:
        if answer.exit_code != 0 or (loop.ends is not None and not answer.output.endswith(f"{loop.ends}\n")):
            end = answer.output[-500:]
            raise BenchError(f"{loop.name} in {name} ended with status {answer.exit_code} and said at its end: {end!r}")
    return seconds


def _text(plan: Plan, loop: Loop, entrant: Entrant) -> str:
    words = {"{count}": str(plan.count(loop)), "{bash}": str(entrant.bash), "{source}": str(plan.source)}
    text = loop.script
    for mark, word in words.items():
        text = text.replace(mark, word)
    return text
