"""The figures as Markdown, and their place in ``bench/README.md``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.figures import BASELINE, SUBJECTS, judge

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.figures import Figures, Spread
    from bench.loops import Loop

BEGIN = "<!-- figures: written by the session, do not edit -->"
END = "<!-- end of figures -->"

_HEADS = {
    "plain": "plain bash",
    "peer plain": "plain bash of the original",
    "ours": "ours",
    "ours confined": "ours, in its sandbox",
    "peer": "the original",
}


def render(figures: Figures, loops: Sequence[Loop], notes: Sequence[str]) -> str:
    """Both tables, and what they were measured with."""
    measured = [loop for loop in loops if figures.rounds(loop.name)]
    return "\n\n".join(["\n".join(_verdicts(figures)), "\n".join(_totals(figures, measured)), *notes])


def _verdicts(figures: Figures) -> list[str]:
    rows = ["| target | at most | median of the rounds | lowest to highest | held |", "|---|--:|--:|--:|---|"]
    for verdict in judge(figures):
        found = verdict.found
        words = (
            ("not measured", "", "") if found is None else (f"{found.median:.2f}", _range(found), _yes(verdict.held))
        )
        rows.append(f"| {verdict.target.title} | {verdict.target.limit:g} | {' | '.join(words)} |")
    return rows


def _yes(held: bool) -> str:
    return "yes" if held else "no"


def _range(spread: Spread) -> str:
    return f"{spread.low:.2f} to {spread.high:.2f}"


def _totals(figures: Figures, loops: Sequence[Loop]) -> list[str]:
    heads = [_HEADS[name] for name in SUBJECTS]
    extra = ["added, ours", "added, the original", "ours to the original", "rounds"]
    rows = [f"| | {' | '.join([*heads, *extra])} |", f"|---|{'--:|' * (len(heads) + len(extra))}"]
    for loop in loops:
        cells = [_time(figures.per_unit(loop.name, name), loop) for name in SUBJECTS]
        cells += [_time(figures.added(loop.name, name), loop) for name in BASELINE if name != "ours confined"]
        ratio = figures.ratio(loop.name, "total")
        cells += ["–" if ratio is None else f"{ratio.median:.2f}", str(figures.rounds(loop.name))]
        unit = "s" if loop.in_seconds else f"ms per {loop.unit}"
        rows.append(f"| {loop.title} ({unit}) | {' | '.join(cells)} |")
    return rows


def _time(spread: Spread | None, loop: Loop) -> str:
    if spread is None:
        return "–"
    return f"{spread.median:.2f}" if loop.in_seconds else f"{spread.median * 1000:.3f}"


def put(path: Path, text: str) -> None:
    """Replace what stands between the marks in ``path``.

    Raises:
        BenchError: The marks are not there, once each and in order.
    """
    old = path.read_text(encoding="utf-8")
    if old.count(BEGIN) != 1 or old.count(END) != 1 or old.index(BEGIN) > old.index(END):
        raise BenchError(f"{path} must hold the lines {BEGIN} and {END}, once each and in this order")
    before, after = old.split(BEGIN)[0], old.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
