"""``tests/NAMED_EXCEPTIONS.md`` as values: where interception or escalation cannot equal the stock shell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1]
FILE = TESTS / "NAMED_EXCEPTIONS.md"

_FIELD = re.compile(r"^(Modes|What|Why|Probes|Test): (.*)$")
_BLOCK = re.compile(r"^```(sh|diff)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class NamedException:
    """One section.

    Attributes:
        name: Its heading.
        modes: In which modes it shows.
        what: What differs.
        why: Why it cannot be otherwise.
        probes: Probes of the tables that differ for it.
        test: ``path::function`` of a test that shows it, below ``tests/``.
        script: A script that shows it.
        diff: What that shows: lines that begin with ``-`` are stock bash's, with ``+`` ours.
    """

    name: str
    modes: frozenset[str]
    what: str
    why: str
    probes: tuple[str, ...]
    test: str | None
    script: str | None
    diff: tuple[str, ...]


def named_exceptions() -> dict[str, NamedException]:
    """The sections by their names."""
    found = (_parsed(section) for section in FILE.read_text(encoding="utf-8").split("\n## ")[1:])
    return {one.name: one for one in found}


def _parsed(section: str) -> NamedException:
    name, _, rest = section.partition("\n")
    blocks = dict(_BLOCK.findall(rest))
    fields: dict[str, str] = {}
    last = ""
    for line in _BLOCK.sub("", rest).splitlines():
        match = _FIELD.match(line)
        if match:
            last = match[1]
            assert last not in fields, f"{name}: two lines {last}"
            fields[last] = match[2]
        elif line:
            assert last, f"{name}: text before the first field"
            fields[last] += f" {line}"
    return NamedException(
        name=name,
        modes=frozenset(fields["Modes"].split(", ")),
        what=fields["What"],
        why=fields["Why"],
        probes=tuple(one for one in fields.get("Probes", "").split(", ") if one),
        test=fields.get("Test"),
        script=blocks.get("sh"),
        diff=tuple(blocks.get("diff", "").splitlines()),
    )
