"""Whether a figure that was sampled all along stayed flat."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WARM_UP = 0.4
"""The part of the samples, from the first on, in which a process may still grow: Python's arenas (1 MiB each) fill up
over the first 20,000 execs, and stand still from then on."""


@dataclass(frozen=True, kw_only=True)
class Trend:
    """How one figure went.

    Attributes:
        name: Of what.
        first: Of the first quarter of what follows the warm-up: the median, or for descriptors the least.
        last: Of its last quarter.
        slope: Growth per 1,000 execs, by a straight line through all samples after the warm-up.
        tolerance: By how much ``last`` may exceed ``first``.
    """

    name: str
    first: float
    last: float
    slope: float
    tolerance: float

    @property
    def flat(self) -> bool:
        """Whether it stayed within the tolerance."""
        return self.last - self.first <= self.tolerance

    def __str__(self) -> str:
        """One row of the report."""
        verdict = "flat" if self.flat else "GROWS"
        return (
            f"{self.name:32} {self.first:10.0f} {self.last:10.0f} {self.slope:+12.2f} {self.tolerance:10.0f}  {verdict}"
        )


def trend(name: str, execs: Sequence[int], figures: Sequence[float], *, tolerance: float, least: bool = False) -> Trend:
    """Judge one figure.

    Args:
        name: Of what.
        execs: How many execs there had been at each sample.
        figures: The samples.
        tolerance: How much the last quarter may exceed the first.
        least: Compare the least of each quarter in place of the median: for what goes up and down with each exec, where
            only what never comes back is a leak.

    Raises:
        ValueError: Fewer than eight samples say nothing.
    """
    skipped = int(len(figures) * WARM_UP)
    execs, figures = execs[skipped:], figures[skipped:]
    quarter = len(figures) // 4
    if quarter < 2:
        raise ValueError(f"{len(figures)} samples of {name} are too few to judge by")
    of = min if least else statistics.median
    slope = statistics.linear_regression([count / 1000 for count in execs], figures).slope
    return Trend(name=name, first=of(figures[:quarter]), last=of(figures[-quarter:]), slope=slope, tolerance=tolerance)
