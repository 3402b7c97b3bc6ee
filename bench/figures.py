"""From seconds to figures: pure arithmetic.

API::

    Sample(loop, subject, round, seconds, count)        one measurement
    Figures(samples)
        .per_unit(loop, subject)                        median seconds per unit
        .added(loop, subject)                           median of (subject - its plain bash) per unit
        .ratio(loop, quantity)                          ours to the original's, and how sure that is
    of_processor(samples) -> Figures                    the same of processor time
    judge(figures) -> list[Verdict]                     TARGETS, one by one

What a server adds is taken within a round first, because it ran side by side with plain bash there: whatever else the
machine did in that minute was the same for both. Then the median over the rounds counts.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
class Ratio:
    """Quotient of two medians, and between what it lies with nine chances in ten.

    ``low`` and ``high`` are the 5th and the 95th percentile of the same quotient over rounds drawn again with
    replacement (the bootstrap; B. Efron 1979): how far it might have come out otherwise on this very machine.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> Ratio:
        """Of at least one round's pair of values."""
        draw = random.Random(0)  # noqa: S311 - the same measurements always give the same table
        found = sorted(_quotient(draw.choices(pairs, k=len(pairs))) for _ in range(_DRAWS))
        return cls(value=_quotient(pairs), low=found[_DRAWS // 20], high=found[-_DRAWS // 20])


_DRAWS = 1000


def _quotient(pairs: Sequence[tuple[float, float]]) -> float:
    above, below = (statistics.median(values) for values in zip(*pairs, strict=True))
    return above / below if below > 0 else math.inf


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

    def per_unit(self, loop: str, subject: SubjectName) -> float | None:
        """Median seconds per unit; ``None`` where this was not measured."""
        values = self._seconds.get((loop, subject), {}).values()
        return statistics.median(values) if values else None

    def added(self, loop: str, subject: SubjectName) -> float | None:
        """Median seconds per unit beyond those of the same loop in plain bash, taken round by round."""
        rounds = self._rounds(loop, subject, BASELINE[subject])
        return statistics.median(one - plain for one, plain in rounds) if rounds else None

    def ratio(self, loop: str, quantity: Quantity, subject: SubjectName = "ours") -> Ratio | None:
        """The quantity of ``subject``, divided by the original's, or by plain bash's; of rounds that have both."""
        pairs = self._pairs(loop, quantity, subject)
        return Ratio.of(pairs) if pairs else None

    def _pairs(self, loop: str, quantity: Quantity, subject: SubjectName) -> list[tuple[float, float]]:
        if quantity == "to plain":
            return [(one, plain) for one, plain in self._rounds(loop, subject, BASELINE[subject])]
        if quantity == "total":
            return [(one, other) for one, other in self._rounds(loop, subject, "peer")]
        rounds = self._rounds(loop, subject, BASELINE[subject], "peer", BASELINE["peer"])
        return [(one - plain, other - its_plain) for one, plain, other, its_plain in rounds]

    def _rounds(self, loop: str, *subjects: SubjectName) -> list[list[float]]:
        """What all these took, in each round that has them all."""
        measured = [self._seconds.get((loop, name), {}) for name in subjects]
        common = set.intersection(*(set(found) for found in measured))
        return [[found[number] for found in measured] for number in sorted(common)]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A target and what was found; ``found`` is ``None`` where it was not measured."""

    target: Target
    found: Ratio | None

    @property
    def held(self) -> bool:
        """Whether the ratio keeps to the limit."""
        return self.found is not None and self.found.value <= self.target.limit


def of_processor(samples: Iterable[Sample]) -> Figures:
    """The same figures of processor time in place of the clock's."""
    return Figures(replace(sample, seconds=sample.processor) for sample in samples if sample.processor is not None)


def judge(figures: Figures) -> list[Verdict]:
    """Compare with every target."""
    return [Verdict(target=target, found=figures.ratio(target.loop, target.quantity)) for target in TARGETS]
