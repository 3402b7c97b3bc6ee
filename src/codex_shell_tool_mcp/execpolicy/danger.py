"""Which commands are dangerous: the table in ``data/dangerous.toml``, and what it takes to compare a command with it.

Knows nothing of shells' scripts, which :mod:`.heuristics` takes apart first.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from codex_shell_tool_mcp.execpolicy.rules import basename

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_ABBREVIATED = 4
"""Fewest characters, dashes included, of a long option that counts as abbreviated (getopt_long(3))."""

MAX_WORDS = 4096
"""Words of a command that are looked at; nothing in the table is to be found behind so many."""

_Marks = tuple[frozenset[str], ...]
"""What must be written beside a program: of each set one."""

_RUN = re.compile(r"[A-Za-z0-9]+")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table; the file's head says what the fields mean."""

    programs: tuple[str, ...]
    why: str
    match: tuple[str, ...]
    not_match: tuple[str, ...]
    command: tuple[tuple[str, ...], ...] = ()
    options: tuple[tuple[str, ...], ...] = ()
    harmless: tuple[str, ...] = ()
    operand: re.Pattern[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Program:
    """How to read a program's words.

    Attributes:
        values: Options whose value is the next word.
        runs: Operands before the program that it runs; ``None``: it runs none.
        assigns: Whether assignments may stand before that.
    """

    values: frozenset[str] = frozenset()
    runs: int | None = None
    assigns: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """All rows, by program."""

    rows: tuple[Row, ...]
    programs: Mapping[str, Program]
    by_name: Mapping[str, tuple[Row, ...]] = field(init=False)
    by_beginning: tuple[tuple[str, Row], ...] = field(init=False)
    _marks: Mapping[str, tuple[_Marks, ...]] = field(init=False)

    def __post_init__(self) -> None:
        """Index the rows."""
        names: dict[str, tuple[Row, ...]] = {}
        beginnings: list[tuple[str, Row]] = []
        for row in self.rows:
            for name in row.programs:
                if name.endswith("*"):
                    beginnings.append((name[:-1], row))
                else:
                    names[name] = (*names.get(name, ()), row)
        object.__setattr__(self, "by_name", names)
        object.__setattr__(self, "by_beginning", tuple(beginnings))
        marks: dict[str, tuple[_Marks, ...]] = {}
        for row in self.rows:
            words = tuple(frozenset(_marks(word)[0] for word in wanted) for wanted in row.command)
            for name in row.programs:
                first, *more = _marks(name)
                marks[first] = (*marks.get(first, ()), (*(frozenset({mark}) for mark in more), *words))
        object.__setattr__(self, "_marks", marks)

    def may_be_in(self, text: str) -> bool:
        """Whether a command that fits a row could be written in ``text``: quick, and true too often rather than not."""
        runs = set(_RUN.findall(text))
        for mark in runs & self._marks.keys():
            for words in self._marks[mark]:
                for wanted in words:  # generators would cost three times as much, for each exec of a shell
                    if runs.isdisjoint(wanted):
                        break
                else:
                    return True
        return False

    def rows_of(self, name: str) -> Sequence[Row]:
        """The rows for a program."""
        return (*self.by_name.get(name, ()), *(row for start, row in self.by_beginning if name.startswith(start)))

    def looks_at_words(self, name: str) -> bool:
        """Whether what the table says of a program depends on its words, or it runs another one."""
        program = self.programs.get(name)
        return name == "find" or bool(self.rows_of(name)) or (program is not None and program.runs is not None)


def _marks(word: str) -> list[str]:
    """The letters and digits in a program's name, or in one of its words.

    Who writes the word writes them, with no letter or digit right before or after.
    """
    found = _RUN.findall(word)
    if not found or (word.endswith("*") and word[:-1].endswith(found[-1])):
        raise ValueError(f"{word}: there must be a letter or digit in it, and * must follow another character")
    return found


@cache
def table() -> Table:
    """The table, read when it is first needed."""
    text = resources.files("codex_shell_tool_mcp.execpolicy").joinpath("data/dangerous.toml").read_text("utf-8")
    raw = tomllib.loads(text)
    return Table(rows=tuple(map(_row, raw["row"])), programs={k: _program(v) for k, v in raw["program"].items()})


def row_of(commands: Sequence[Sequence[str]]) -> Row | None:
    """The first row that one of ``commands`` fits as it stands."""
    known = table()
    for inner in commands:
        name = basename(inner[0])
        rows = known.rows_of(name)
        if rows:
            read = _read(inner, known.programs.get(name, _PLAIN))
            for row in rows:
                if _fits(row, read):
                    return row
    return None


def unwrapped(command: Sequence[str]) -> Sequence[Sequence[str]]:
    """The command, and every command that it and those run: the last is the program meant."""
    return _unwrapped(_shortened(command), table())


def _shortened(command: Sequence[str]) -> Sequence[str]:
    """A command whose words can all be looked at."""
    if len(command) <= MAX_WORDS:
        return command
    start = next((at for at, word in enumerate(command) if word != "sudo"), len(command))
    return command[start : start + MAX_WORDS]


@dataclass(frozen=True, kw_only=True)
class _Words:
    """A command's words by kind, its program left out.

    Attributes:
        options: Those that begin with a dash, before ``--``; a value that belongs to one is in neither.
        operands: The others.
        letters_end: Letters after which the rest of a word such as ``-ofile`` is a value.
    """

    options: tuple[str, ...]
    operands: tuple[str, ...]
    letters_end: frozenset[str]


_PLAIN = Program()


def _unwrapped(command: Sequence[str], known: Table) -> list[Sequence[str]]:
    found: list[Sequence[str]] = []
    start: int | None = 0
    while start is not None and start < len(command):
        # Most commands are programs behind many words, not many programs: only the outermost and the innermost count.
        inner = command[start:]
        found[1:] = [inner] if found else []
        found = found or [inner]
        start = _inner_start(command, start, known)
    return found


def _inner_start(command: Sequence[str], start: int, known: Table) -> int | None:
    """Where in ``command`` the program stands that the one at ``start`` runs; ``None`` if it runs none."""
    name = basename(command[start])
    if name == "find":
        runs = {"-exec", "-execdir", "-ok", "-okdir"}
        return next((at + 1 for at in range(start + 1, len(command)) if command[at] in runs), None)
    program = known.programs.get(name, _PLAIN)
    if program.runs is None:
        return None
    operands, at = program.runs, start + 1
    while at < len(command):
        word = command[at]
        if word == "--":
            at += 1
            break
        if word.startswith("-") and len(word) > 1:
            at += 2 if word in program.values else 1
        elif program.assigns and _ASSIGNMENT.match(word):
            at += 1
        elif operands:
            operands, at = operands - 1, at + 1
        else:
            break
    return at + operands


def _read(command: Sequence[str], program: Program) -> _Words:
    options: list[str] = []
    operands: list[str] = []
    at = 1
    while at < len(command):
        word = command[at]
        at += 1
        if word == "--":
            operands += command[at:]
            break
        if word.startswith("-") and len(word) > 1:
            options.append(word)
            at += word in program.values
        else:
            operands.append(word)
    ends = frozenset(option[1] for option in program.values if len(option) == 2)
    return _Words(options=tuple(options), operands=tuple(operands), letters_end=ends)


def _fits(row: Row, read: _Words) -> bool:
    if len(read.operands) < len(row.command):
        return False
    if not all(word in wanted for word, wanted in zip(read.operands, row.command, strict=False)):
        return False
    if not all(_has(read, wanted) for wanted in row.options):
        return False
    if row.harmless and (_has(read, row.harmless) or any(word in row.harmless for word in read.operands)):
        return False
    pattern = row.operand
    return pattern is None or any(pattern.fullmatch(word) for word in read.operands[len(row.command) :])


def _has(read: _Words, wanted: Sequence[str]) -> bool:
    """Whether any of the options is there."""
    return any(_is(option, one, read.letters_end) for option in read.options for one in wanted)


def _is(option: str, wanted: str, letters_end: frozenset[str]) -> bool:
    if option == wanted:
        return True
    if wanted.startswith("--"):
        name = option.partition("=")[0]
        return name == wanted or (len(name) >= MAX_ABBREVIATED and name.startswith("--") and wanted.startswith(name))
    if len(wanted) != 2 or option.startswith("--"):
        return False
    for letter in option[1:]:
        if letter == wanted[1]:
            return True
        if letter in letters_end:
            return False
    return False


def _row(raw: Mapping[str, Any]) -> Row:
    return Row(
        programs=tuple(raw["programs"]),
        why=raw["why"],
        match=tuple(raw["match"]),
        not_match=tuple(raw["not_match"]),
        command=tuple(map(tuple, raw.get("command", ()))),
        options=tuple(map(tuple, raw.get("options", ()))),
        harmless=tuple(raw.get("harmless", ())),
        operand=re.compile(raw["operand"]) if "operand" in raw else None,
    )


def _program(raw: Mapping[str, Any]) -> Program:
    return Program(
        values=frozenset(raw.get("values", ())), runs=raw.get("runs"), assigns=bool(raw.get("assigns", False))
    )
