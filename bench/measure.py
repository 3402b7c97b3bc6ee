"""Measures: every loop in every subject, in turn, round after round.

API::

    measure(plan, say) -> Measured
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.client import Script
from bench.errors import BenchError
from bench.figures import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.client import Answer
    from bench.figures import SubjectName
    from bench.loops import Loop
    from bench.subjects import Subject

_SHOWN = 500  # characters of a bad output


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A subject, and the bash it runs."""

    subject: Subject
    bash: Path


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        entrants: By name, in the order of the first round.
        loops: In the order of the table.
        rounds: How often, at most; a loop may set less.
        quick: Whether the loops' small numbers count.
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


@dataclass(kw_only=True)
class Measured:
    """All samples, and for what the original could not do: loop → why."""

    samples: list[Sample] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def measure(plan: Plan, say: Callable[[str], object]) -> Measured:
    """Run everything; every other round goes the other way round, so that none is always before another.

    A loop that the original fails at is left out for it from there on; its plain bash is still measured.

    Raises:
        BenchError: A loop did not end as it must, in ours or in plain bash.
    """
    measured = Measured()
    for number in range(plan.rounds):
        names = list(plan.entrants)[:: -1 if number % 2 else 1]
        for loop in plan.loops:
            if number < loop.rounds:
                _measure_loop(plan, loop, number, names, measured, say)
    return measured


def _measure_loop(
    plan: Plan, loop: Loop, number: int, names: Sequence[SubjectName], measured: Measured, say: Callable[[str], object]
) -> None:
    for name in names:
        if name == "peer" and loop.name in measured.failed:
            continue
        try:
            sample = _once(plan, loop, name, number)
        except BenchError as error:
            if name != "peer":
                raise
            measured.failed[loop.name] = str(error)
            say(f"round {number + 1}: {loop.name} in the original: {error}")
            continue
        measured.samples.append(sample)
        say(_line(loop, sample))


def _line(loop: Loop, sample: Sample) -> str:
    factor, unit = (1, "s") if loop.in_seconds else (1000, f"ms per {loop.unit}")
    used = "" if sample.processor is None else f"{sample.processor / sample.count * factor:10.3f} of processor time"
    each = f"{sample.seconds / sample.count * factor:10.3f} {unit:<11}"
    return f"round {sample.round + 1}: {loop.name:<9} {sample.subject:<13} {each} {used}"


def _once(plan: Plan, loop: Loop, name: SubjectName, number: int) -> Sample:
    """One measurement; what came out is looked at after the clock was read."""
    entrant = plan.entrants[name]
    words = {"count": str(plan.count(loop)), "bash": str(entrant.bash), "source": str(plan.source)}
    folder = Path(tempfile.mkdtemp(prefix="call-", dir=plan.scratch))
    try:
        entrant.subject.prepare(folder, writes=loop.writes)
        scripts = [Script(text=loop.text(words), folder=folder)] * loop.at_once
        used, started = entrant.subject.processor(), time.perf_counter()
        answers = [answer for _ in range(loop.calls) for answer in entrant.subject.run(scripts)]
        seconds, used_then = time.perf_counter() - started, entrant.subject.processor()
    finally:
        shutil.rmtree(folder)
    for answer in answers:
        _check(loop, name, answer)
    return Sample(
        loop=loop.name,
        subject=name,
        round=number,
        seconds=seconds,
        count=plan.count(loop) * loop.calls * loop.at_once,
        processor=None if used is None or used_then is None else used_then - used,
    )


def _check(loop: Loop, name: SubjectName, answer: Answer) -> None:
    """A script that broke off early would look fast."""
    if answer.exit_code == 0 and loop.is_whole(answer.output):
        return
    end = answer.output[-_SHOWN:]
    raise BenchError(f"{loop.name} in {name} ended with status {answer.exit_code} and said at its end: {end!r}")
