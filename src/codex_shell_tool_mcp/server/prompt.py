"""The text a person is asked with, such that it cannot say anything but what would be run.

Words are quoted like the original's (the Rust crate shlex 1.3). What a terminal or dialog would not show as itself
(control characters, direction overrides, bytes that are not UTF-8, ...) is written in the shell's ``$'...'`` form.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MESSAGE_LIMIT = 16_384
"""Characters of a command that are shown: more than anyone reads, less than what a dialog chokes on."""

SCHEMA: dict[str, object] = {
    "type": "object",
    "title": "Execution Permission Request",
    "properties": {"reason": {"type": "string", "description": "Optional reason for allowing or denying execution"}},
}
"""The form: a reason may be given, only the answer itself counts."""

ALWAYS = "always"
"""The property of the form by which a rule is asked for."""


def schema_with_rule(prefix: Sequence[str]) -> dict[str, object]:
    """The form that also offers to write a rule for commands that begin with ``prefix``."""
    begin = " ".join([quote_path(prefix[0]), *map(quote, prefix[1:])])
    choice = {
        "type": "boolean",
        "title": "Always allow",
        "description": f"Write a rule: from now on every command that begins with `{begin}` runs outside the sandbox, "
        "and nobody is asked",
        "default": False,
    }
    properties = SCHEMA["properties"]
    assert isinstance(properties, dict)
    return {**SCHEMA, "properties": {**properties, ALWAYS: choice}}


_BARE = frozenset("+-./:@]_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_NOT_IN_SINGLE = frozenset("'\\^")
_NOT_IN_DOUBLE = frozenset("`$!^")
_ESCAPED_IN_DOUBLE = frozenset('$`"\\')

_UNSEEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_BLANK_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and symbols by category that are drawn as nothing."""

_SHORT_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\x1b": r"\e", "\\": r"\\", "'": r"\'"}


def _is_unseen(character: str) -> bool:
    if character.isascii():
        return not character.isprintable()
    if character in _BLANK_LETTERS or unicodedata.category(character) in _UNSEEN_CATEGORIES:
        return True
    # Every space but the ASCII one looks like it, or like nothing.
    return unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    short = _SHORT_ESCAPES.get(character)
    if short is not None:
        return short
    if not _is_unseen(character):
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: one byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _chunk(text: str) -> tuple[int, str]:
    """How many characters fit one way of quoting, and which: ``bare``, ``single`` or ``double``."""
    ways, start = {"bare", "single", "double"}, 0
    if text[0] == "^":  # only right after an opening single quote is it never special
        ways, start = {"single"}, 1
    for index in range(start, len(text)):
        character = text[index]
        left = set(ways)
        if character not in _BARE:
            left.discard("bare")
        if character in _NOT_IN_SINGLE:
            left.discard("single")
        if character in _NOT_IN_DOUBLE:
            left.discard("double")
        if not left:
            return index, _preferred(ways)
        ways = left
    return len(text), _preferred(ways)


def _preferred(ways: set[str]) -> str:
    return next(way for way in ("bare", "single", "double") if way in ways)


def _in_quotes(chunk: str, way: str) -> str:
    if way == "bare":
        return chunk
    if way == "single":
        return f"'{chunk}'"
    return '"' + "".join(f"\\{c}" if c in _ESCAPED_IN_DOUBLE else c for c in chunk) + '"'


def quote(word: str) -> str:
    """One word as a shell would need it written, everything in it visible."""
    if not word:
        return "''"
    if any(map(_is_unseen, word)):
        return "$'" + "".join(map(_escape, word)) + "'"
    parts = []
    while word:
        length, way = _chunk(word)
        parts.append(_in_quotes(word[:length], way))
        word = word[length:]
    return "".join(parts)


def visible(text: str) -> str:
    """Text of any origin for one line of a log: nothing in it moves the cursor or hides."""
    return "".join(map(_escape, text)) if any(map(_is_unseen, text)) else text


def quote_path(path: str) -> str:
    """A path as it is, unless it holds something that could be read as part of the sentence around it."""
    plain = not any(c in "`'\"\\$" or c.isspace() or _is_unseen(c) for c in path)
    return path if plain and path else quote(path)


def command_text(program: str, argv: Sequence[str]) -> str:
    """The command as it is shown: the file that would run, then the arguments after ``argv[0]``.

    At most :data:`MESSAGE_LIMIT` characters; what is left out is counted.
    """
    text = quote_path(program)
    for index, word in enumerate(argv[1:], start=1):
        quoted = quote(word) if len(word) <= MESSAGE_LIMIT else quote(word[:MESSAGE_LIMIT])
        text += f" {quoted}"
        if len(text) > MESSAGE_LIMIT:
            unseen = sum(map(len, argv[index + 1 :])) + max(len(word) - MESSAGE_LIMIT, 0)
            return f"{text[:MESSAGE_LIMIT]} [cut: {len(argv) - 1} arguments, {unseen} or more characters not shown]"
    return text


def message(program: str, argv: Sequence[str], cwd: str | None, resolved: str | None = None) -> str:
    """The question. Where the file that would run has another path than the name used, both are shown."""
    where = quote_path(cwd) if cwd is not None else "a directory that has no name any more"
    place = f"`{where}`" if cwd is not None else where
    file = "" if resolved is None or resolved == program else f" (the file `{quote_path(resolved)}`)"
    return f"Allow agent to run `{command_text(program, argv)}`{file} in {place}?"
