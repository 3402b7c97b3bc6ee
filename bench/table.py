"""The figures as Markdown, and their place in ``bench/README.md``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.figures import SUBJECTS, judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from bench.figures import Figures, Ratio, SubjectName
    from bench.loops import Loop

BEGIN = "<!-- figures: written by the session, do not edit -->"
END = "<!-- end of figures -->"

_HEADS: dict[SubjectName, str] = {
    "plain": "plain bash",
    "peer plain": "plain bash of the original",
    "ours": "ours",
    "ours confined": "ours, in its sandbox",
    "peer": "the original",
}
_ADDED: tuple[SubjectName, ...] = ("ours", "ours confined", "peer")
_NONE = "–"


def render(figures: Figures, processor: Figures, loops: Sequence[Loop], notes: Iterable[str]) -> str:
    """All tables, of the clock and of processor time, and as paragraphs what there is to say about them."""
    measured = [loop for loop in loops if figures.rounds(loop.name)]
    tables = [
        _verdicts(figures),
        _times(figures, measured, "median time"),
        _added(figures, measured, "time added to plain bash"),
    ]
    known = [loop for loop in measured if processor.rounds(loop.name)]
    if known:
        tables += [
            _times(processor, known, "median processor time"),
            _added(processor, known, "processor time added to plain bash"),
        ]
    return "\n\n".join([*("\n".join(table) for table in tables), *notes])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _head(first: str, names: Sequence[str]) -> list[str]:
    return [_row([first, *names]), f"|---|{'--:|' * len(names)}"]


def _verdicts(figures: Figures) -> list[str]:
    rows = _head("target", ["at most", "measured", "90 % between", "held"])
    for verdict in judge(figures):
        target, found = verdict.target, verdict.found
        cells = [target.title, f"{target.limit:g}"]
        if found is None:
            cells += ["not measured", _NONE, _NONE]
        else:
            cells += [f"{found.value:.2f}", f"{found.low:.2f} to {found.high:.2f}", "yes" if verdict.held else "no"]
        rows.append(_row(cells))
    return rows


def _times(figures: Figures, loops: Sequence[Loop], what: str) -> list[str]:
    rows = _head(what, [*(_HEADS[name] for name in SUBJECTS), "rounds"])
    for loop in loops:
        cells = [_time(figures.per_unit(loop.name, name), loop) for name in SUBJECTS]
        rows.append(_row([_title(loop), *cells, str(figures.rounds(loop.name))]))
    return rows


def _added(figures: Figures, loops: Sequence[Loop], what: str) -> list[str]:
    heads = [
        *(_HEADS[name] for name in _ADDED),
        "ours to plain bash",
        "ours to the original, added",
        "ours to the original, whole",
    ]
    rows = _head(what, heads)
    for loop in loops:
        cells = [_time(figures.added(loop.name, name), loop) for name in _ADDED]
        cells += [_ratio(figures.ratio(loop.name, quantity)) for quantity in ("to plain", "added", "total")]
        rows.append(_row([_title(loop), *cells]))
    return rows


def _title(loop: Loop) -> str:
    return f"{loop.title} ({'s' if loop.in_seconds else f'ms per {loop.unit}'})"


def _time(seconds: float | None, loop: Loop) -> str:
    if seconds is None:
        return _NONE
    return f"{seconds:.2f}" if loop.in_seconds else f"{seconds * 1000:.3f}"


def _ratio(ratio: Ratio | None) -> str:
    return _NONE if ratio is None else f"{ratio.value:.2f}"


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
