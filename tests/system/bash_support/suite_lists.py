"""The lists in ``tests/system/bash_suite.toml``: which scripts there are, and which of them are not like the others."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parents[1] / "bash_suite.toml"


@dataclass(frozen=True, kw_only=True)
class Unstable:
    """Lines of a script's output that come and go without interception as well; ``rare`` ones are mostly not there."""

    script: str
    lines: re.Pattern[str]
    why: str
    rare: bool = False


@dataclass(frozen=True, kw_only=True)
class NamedDifference:
    """A script that cannot be the same in a mode: the lines that differ, and the section of NAMED_EXCEPTIONS.md."""

    script: str
    mode: str
    named: str
    why: str
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Lists:
    """The file."""

    scripts: tuple[str, ...]
    unstable: tuple[Unstable, ...]
    exceptions: tuple[NamedDifference, ...]

    def passing(self, script: str) -> re.Pattern[str] | None:
        """Lines of the script that are not compared."""
        return next((entry.lines for entry in self.unstable if entry.script == script), None)

    def is_found(self, script: str, lines: list[str]) -> bool:
        """Whether what is listed of the script's output is there, as it has to be unless it is rare."""
        entries = [entry for entry in self.unstable if entry.script == script and not entry.rare]
        return all(any(entry.lines.search(line) for line in lines) for entry in entries)

    def expected(self, script: str, mode: str) -> list[str] | None:
        """The difference that a script is known to have in a mode; ``None`` if it is to have none."""
        found = (entry for entry in self.exceptions if (entry.script, entry.mode) == (script, mode))
        entry = next(found, None)
        return None if entry is None else list(entry.lines)


def load(path: Path = FILE) -> Lists:
    """Read the file.

    Raises:
        TypeError: An entry lacks something, or has something unknown.
    """
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return Lists(
        scripts=tuple(table["scripts"]),
        unstable=tuple(
            Unstable(**{**entry, "lines": re.compile(entry["lines"])}) for entry in table.get("unstable", [])
        ),
        exceptions=tuple(
            NamedDifference(**{**entry, "lines": tuple(entry["lines"])}) for entry in table.get("exception", [])
        ),
    )
