"""Applies patches exactly: every line of context must be there, nothing is guessed.

Written here because a release must not need ``patch``: Debian's minimal systems have none, ``git apply`` reads no
context diffs (GNU's official patches are context diffs), and inside another git checkout it silently skips files.

API::

    parse(text, strip) -> tuple[FilePatch, ...]       unified and context diffs, mixed with prose
    apply(patches, root) -> tuple[Applied, ...]       changes files below root, all or nothing

A hunk may stand at another line than it says (official patches are made one after another), but only where its
whole text, context included, occurs once. There is no fuzz.
Format: diffutils manual, "Detailed Description of Unified Format" and "... of Context Format".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from shell_tool_release.errors import PatchError

if TYPE_CHECKING:
    from pathlib import Path

_UNIFIED_HUNK = re.compile(rb"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_CONTEXT_OLD = re.compile(rb"^\*\*\* (\d+)(?:,(\d+))? \*\*\*\*")
_CONTEXT_NEW = re.compile(rb"^--- (\d+)(?:,(\d+))? ----")
_NOTHING = b"/dev/null"


@dataclass(frozen=True, kw_only=True)
class Hunk:
    """One change: at line ``start`` (1-based) of the old file the lines ``old`` become ``new``."""

    start: int
    old: tuple[bytes, ...]
    new: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class FilePatch:
    """All changes of one file; ``creates`` when the patch makes the file."""

    path: str
    creates: bool
    hunks: tuple[Hunk, ...]


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What happened to one file: how many lines each hunk stood away from where it said."""

    path: str
    offsets: tuple[int, ...]


class _Lines:
    """A cursor over the patch's lines."""

    def __init__(self, text: bytes) -> None:
        self.lines = split_lines(text)
        self.at = 0

    def peek(self, ahead: int = 0) -> bytes:
        position = self.at + ahead
        return self.lines[position] if position < len(self.lines) else b""

    def take(self) -> bytes:
        line = self.peek()
        self.at += 1
        return line

    def error(self, what: str) -> PatchError:
        return PatchError(f"patch line {self.at + 1}: {what}")


def split_lines(text: bytes) -> list[bytes]:
    """Lines with their newlines; unlike ``bytes.splitlines`` a carriage return ends none."""
    pieces = text.split(b"\n")
    last = pieces.pop()
    lines = [piece + b"\n" for piece in pieces]
    return [*lines, last] if last else lines


def parse(text: bytes, *, strip: int) -> tuple[FilePatch, ...]:
    """Read every file's changes from ``text``, dropping ``strip`` leading folders; PatchError when it does not hold."""
    lines = _Lines(text)
    found: list[FilePatch] = []
    while lines.at < len(lines.lines):
        if lines.peek().startswith(b"--- ") and lines.peek(1).startswith(b"+++ "):
            found.append(_unified_file(lines, strip))
        elif lines.peek().startswith(b"*** ") and lines.peek(1).startswith(b"--- "):
            found.append(_context_file(lines, strip))
        else:
            lines.take()
    if not found:
        message = "no change was found in the patch; it must be a unified or a context diff"
        raise PatchError(message)
    return tuple(found)


def _header_name(line: bytes) -> bytes:
    return line[4:].split(b"\t")[0].strip()


def _path(lines: _Lines, name: bytes, strip: int) -> str:
    parts = PurePosixPath(name.decode("utf-8", "surrogateescape")).parts[strip:]
    if not parts or ".." in parts or name.startswith(b"/"):
        raise lines.error(f"{name!r} names no file below the source folder (with {strip} leading folders dropped)")
    return "/".join(parts)


def _unified_file(lines: _Lines, strip: int) -> FilePatch:
    old, new = _header_name(lines.take()), _header_name(lines.take())
    if new == _NOTHING:
        raise lines.error("removing a file is not supported")
    path = _path(lines, new, strip)
    hunks = []
    while match := _UNIFIED_HUNK.match(lines.peek()):
        lines.take()
        hunks.append(_unified_hunk(lines, match))
    return FilePatch(path=path, creates=old == _NOTHING, hunks=_some(lines, hunks))


def _unified_hunk(lines: _Lines, match: re.Match[bytes]) -> Hunk:
    start, old_left, new_left = int(match[1]), int(match[2] or 1), int(match[4] or 1)
    old: list[bytes] = []
    new: list[bytes] = []
    while len(old) < old_left or len(new) < new_left:
        line = lines.take()
        mark, rest = line[:1], line[1:]
        if mark not in (b" ", b"-", b"+"):
            raise lines.error("a hunk ends before its line counts are reached")
        sides = [side for side, marks in ((old, b" -"), (new, b" +")) if mark in marks]
        for side in sides:
            side.append(rest)
        _without_newline(lines, sides)
    return Hunk(start=start, old=tuple(old), new=tuple(new))


def _without_newline(lines: _Lines, sides: list[list[bytes]]) -> None:
    if lines.peek().startswith(b"\\"):
        lines.take()
        for side in sides:
            side[-1] = side[-1].rstrip(b"\n")


def _context_file(lines: _Lines, strip: int) -> FilePatch:
    lines.take()  # the old name is another folder's ("../bash-5.3-patched/jobs.c"); the new one is relative
    path = _path(lines, _header_name(lines.take()), strip)
    hunks = []
    while lines.peek().startswith(b"***************"):
        lines.take()
        hunks.append(_context_hunk(lines))
    return FilePatch(path=path, creates=False, hunks=_some(lines, hunks))


def _context_hunk(lines: _Lines) -> Hunk:
    old_range = _CONTEXT_OLD.match(lines.take())
    if old_range is None:
        raise lines.error("the old range of a context hunk is missing")
    old = _context_side(lines, b" -!")
    new_range = _CONTEXT_NEW.match(lines.take())
    if new_range is None:
        raise lines.error("the new range of a context hunk is missing")
    new = _context_side(lines, b" +!")
    start = int(old_range[1])
    # A side without a change of its own is left out of the patch: it is the other side's context.
    old_lines = _texts(old if old or not _range_size(old_range) else [line for line in new if line[0] == b" "])
    new_lines = _texts(new if new or not _range_size(new_range) else [line for line in old if line[0] == b" "])
    if len(old_lines) != _range_size(old_range) or len(new_lines) != _range_size(new_range):
        raise lines.error("a context hunk has another number of lines than its ranges say")
    return Hunk(start=start, old=old_lines, new=new_lines)


def _context_side(lines: _Lines, marks: bytes) -> list[tuple[bytes, bytes]]:
    side: list[tuple[bytes, bytes]] = []
    while len(lines.peek()) >= 2 and lines.peek()[:1] in marks and lines.peek()[1:2] == b" ":
        line = lines.take()
        side.append((line[:1], line[2:]))
        if lines.peek().startswith(b"\\"):
            lines.take()
            side[-1] = (line[:1], line[2:].rstrip(b"\n"))
    return side


def _range_size(match: re.Match[bytes]) -> int:
    first = int(match[1])
    if match[2] is not None:
        return int(match[2]) - first + 1
    return 1 if first else 0


def _texts(side: list[tuple[bytes, bytes]]) -> tuple[bytes, ...]:
    return tuple(text for _, text in side)


def _some(lines: _Lines, hunks: list[Hunk]) -> tuple[Hunk, ...]:
    if not hunks:
        raise lines.error("a file header has no hunk")
    return tuple(hunks)


def apply(patches: tuple[FilePatch, ...], root: Path) -> tuple[Applied, ...]:
    """Change the files below ``root``; PatchError names file and line, and then no file has changed."""
    texts: dict[str, list[bytes]] = {}
    report: list[Applied] = []
    for patch in patches:
        lines = texts[patch.path] if patch.path in texts else _read(patch, root)
        offsets: list[int] = []
        moved = 0
        for hunk in patch.hunks:
            said = hunk.start + moved - (1 if hunk.old else 0)  # an insertion stands after the line it names
            at = _place(patch.path, lines, hunk, said)
            offsets.append(at - said)
            lines[at : at + len(hunk.old)] = hunk.new
            moved += len(hunk.new) - len(hunk.old)
        texts[patch.path] = lines
        report.append(Applied(path=patch.path, offsets=tuple(offsets)))
    for path, lines in texts.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"".join(lines))
    return tuple(report)


def _read(patch: FilePatch, root: Path) -> list[bytes]:
    target = root / patch.path
    if patch.creates:
        if target.exists():
            message = f"{patch.path}: the patch makes this file, but it is there already"
            raise PatchError(message)
        return []
    try:
        return split_lines(target.read_bytes())
    except OSError as error:
        message = f"{patch.path}: the file to patch cannot be read ({error.strerror})"
        raise PatchError(message) from error


def _place(path: str, lines: list[bytes], hunk: Hunk, said: int) -> int:
    """Index where the hunk's old text stands: where it says, else the only place it occurs."""
    old = list(hunk.old)
    if 0 <= said <= len(lines) and lines[said : said + len(old)] == old:
        return said
    places = [at for at in range(len(lines) - len(old) + 1) if lines[at : at + len(old)] == old] if old else []
    if len(places) == 1:
        return places[0]
    how = "nowhere" if not places else f"in {len(places)} places"
    message = f"{path}: the hunk at line {hunk.start} does not apply: its text stands {how}"
    raise PatchError(message)
