"""From seconds to figures: pure arithmetic.

API::

    Sample(loop, subject, round, seconds, count)        one measurement
    Figures(samples)
        .per_unit(loop, subject)                        median seconds per unit
        .added(loop, subject)                           median of (subject - its plain bash) per unit
        .ratio(loop, quantity)                          ours to the original's, with its range
    of_processor(samples) -> Figures                    the same of processor time
    judge(figures) -> list[Verdict]                     TARGETS, one by one

Everything derived is taken within a round first, because both servers ran side by side there: whatever else the
machine did in that minute was the same for both. Then the median over the rounds counts.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

SubjectName = Literal["plain", "peer plain", "ours", "ours confined", "peer"]
SUBJECTS: tuple[SubjectName, ...] = ("plain", "peer plain", "ours", "ours confined", "peer")

TURNS: tuple[SubjectName, ...] = ("peer plain", "peer", "ours", "plain", "ours confined")
"""In which order they are measured: what is compared with each other stands side by side."""

BASELINE: dict[SubjectName, SubjectName] = {"ours": "plain", "ours confined": "plain", "peer": "peer plain"}
"""What each server's loop is compared with: the bash it uses itself."""

Quantity = Literal["added", "total", "to plain"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One measurement: ``count`` units of ``loop`` took ``seconds`` in one round.

    ``processor`` is what all processes together used meanwhile, where that can be known.
    """

    loop: str
    subject: SubjectName
    round: int
    seconds: float
    count: int
    processor: float | None = None


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median, lowest and highest of one quantity over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of at least one value."""
        found = sorted(values)
        return cls(median=statistics.median(found), low=found[0], high=found[-1])


@dataclass(frozen=True, kw_only=True)
class Target:
    """What must hold: a quantity of ours is at most ``limit`` times the same of the original (or of plain bash)."""

    loop: str
    quantity: Quantity
    limit: float
    title: str


TARGETS = (
    Target(loop="run", quantity="added", limit=0.35, title="Run: added per exec, to the original's"),
    Target(loop="escalate", quantity="total", limit=0.7, title="Escalate: total per exec, to the original's"),
    Target(loop="call", quantity="total", limit=1.3, title="a call of `:`, to the original's"),
    Target(loop="configure", quantity="to plain", limit=1.25, title="`configure`, to plain bash"),
)


class Figures:
    """All samples of a run."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._seconds: dict[tuple[str, SubjectName], dict[int, float]] = defaultdict(dict)
        for sample in samples:
            self._seconds[sample.loop, sample.subject][sample.round] = sample.seconds / sample.count

    def rounds(self, loop: str) -> int:
        """How often a loop was measured."""
        return max((len(found) for (name, _), found in self._seconds.items() if name == loop), default=0)

    def per_unit(self, loop: str, subject: SubjectName) -> Spread | None:
        """Seconds per unit; ``None`` where this was not measured."""
        values = self._seconds.get((loop, subject), {}).values()
        return Spread.of(values) if values else None

    def added(self, loop: str, subject: SubjectName) -> Spread | None:
        """Seconds per unit beyond those of the same loop in plain bash."""
        pairs = self._pairs(loop, subject, BASELINE[subject])
        return Spread.of(ours - plain for ours, plain in pairs) if pairs else None

    def ratio(self, loop: str, quantity: Quantity, subject: SubjectName = "ours") -> Spread | None:
        """The quantity of ``subject``, divided by the original's, or by plain bash's."""
        if quantity == "to plain":
            pairs = self._pairs(loop, subject, BASELINE[subject])
        elif quantity == "total":
            pairs = self._pairs(loop, subject, "peer")
        else:
            pairs = self._added_pairs(loop, subject)
        return Spread.of(one / other for one, other in pairs) if pairs else None

    def _added_pairs(self, loop: str, subject: SubjectName) -> list[tuple[float, float]]:
        names: tuple[SubjectName, ...] = (subject, BASELINE[subject], "peer", BASELINE["peer"])
        measured = [self._seconds.get((loop, name), {}) for name in names]
        common = set.intersection(*(set(found) for found in measured))
        values = [[found[number] for found in measured] for number in sorted(common)]
        # A plain loop slower than the original's served one says that the machine was busy, not that it is faster.
        return [(one - plain, other - its) for one, plain, other, its in values if other > its]

    def _pairs(self, loop: str, one: SubjectName, other: SubjectName) -> list[tuple[float, float]]:
        first, second = self._seconds.get((loop, one), {}), self._seconds.get((loop, other), {})
        return [(first[number], second[number]) for number in sorted(first.keys() & second.keys())]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A target and what was found; ``found`` is ``None`` where it was not measured."""

    target: Target
    found: Spread | None

    @property
    def held(self) -> bool:
        """Whether the median keeps to the limit."""
        return self.found is not None and self.found.median <= self.target.limit


def of_processor(samples: Iterable[Sample]) -> Figures:
    """The same figures of processor time in place of the clock's."""
    return Figures(replace(sample, seconds=sample.processor) for sample in samples if sample.processor is not None)


def judge(figures: Figures) -> list[Verdict]:
    """Compare with every target."""
    return [Verdict(target=target, found=figures.ratio(target.loop, target.quantity)) for target in TARGETS]
