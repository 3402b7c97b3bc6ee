"""What happens to a command that no rule matches.

A nudge, not a boundary: a few ways of destroying data are worth a question before they run, sandbox or not. What is
not recognised runs in the sandbox like any other command.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.rules import basename

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHELLS = frozenset({"bash", "zsh", "sh"})
_SCRIPT_FLAGS = frozenset({"-lc", "-c"})


def unmatched_decision(command: Sequence[str]) -> Decision:
    """The decision for a command that no rule matches: ``prompt`` if it might be dangerous, else ``allow``."""
    return Decision.PROMPT if command_might_be_dangerous(command) else Decision.ALLOW


def command_might_be_dangerous(command: Sequence[str]) -> bool:
    """Whether ``command`` is on the short list of dangerous ones, or is a shell whose script plainly runs one."""
    if _is_dangerous(command):
        return True
    script = shell_script(command)
    return script is not None and any(map(_is_dangerous, plain_commands(script) or ()))


def shell_script(command: Sequence[str]) -> str | None:
    """The script of ``bash -lc SCRIPT`` and the like: just three words, a shell by name or path, ``-c`` or ``-lc``."""
    if len(command) != 3 or command[1] not in _SCRIPT_FLAGS:
        return None
    # bash.exe and bash.sh count: what follows the first dot is taken off, unless the name begins with it.
    name = basename(command[0])
    return command[2] if name[:1] + name[1:].partition(".")[0] in _SHELLS else None


def plain_commands(script: str) -> list[list[str]] | None:
    """The commands of a script that is nothing but words joined by ``&&``, ``||``, ``|``, ``;`` and line ends.

    Anything that could mean something else gives ``None``: expansions, redirections, groups, control flow,
    assignments, background jobs, comments, and whatever this reader is not sure of. Words are not unescaped or
    expanded; only the quotes that surround them or a part of them go.
    """
    commands: list[list[str]] = []
    state = _State.MAY_BEGIN
    at = _skip_blanks(script, 0)
    while at < len(script):
        if operator := _OPERATOR.match(script, at):
            following = _AFTER.get((state, operator.group()))
            if following is None:
                return None
            state, at = following, _skip_blanks(script, operator.end())
        else:
            words, at = _simple_command(script, at)
            if words is None:
                return None
            commands.append(words)
            state = _State.COMPLETE
    if state is _State.MUST_BEGIN or _CONTINUED.search(script):
        return None
    return commands


def _is_dangerous(command: Sequence[str]) -> bool:
    """Whether the words are ``rm -f`` or ``rm -rf``, after any number of ``sudo``; all compared literally."""
    start = next((at for at, word in enumerate(command) if word != "sudo"), len(command))
    return tuple(command[start : start + 2]) in {("rm", "-f"), ("rm", "-rf")}


class _State(Enum):
    """Where in a script the reader is, between two tokens."""

    MAY_BEGIN = "a command, a line end or the end of the script may follow"
    MUST_BEGIN = "a command must follow, on this line or a later one"
    COMPLETE = "a command has ended: an operator, a line end or the end of the script follows"


# What an operator leads to; a pair that is not here is no plain sequence of commands.
_AFTER = {
    (_State.MAY_BEGIN, "\n"): _State.MAY_BEGIN,
    (_State.MUST_BEGIN, "\n"): _State.MUST_BEGIN,
    (_State.COMPLETE, "\n"): _State.MAY_BEGIN,
    (_State.COMPLETE, ";"): _State.MAY_BEGIN,
    (_State.COMPLETE, "&&"): _State.MUST_BEGIN,
    (_State.COMPLETE, "||"): _State.MUST_BEGIN,
    (_State.COMPLETE, "|"): _State.MUST_BEGIN,
}

_BLANKS = re.compile(r"(?:[ \t\v\f\r]|\\\r?\n)*")
# A continued line with nothing before or after it, which the grammar reads as an error or as no line end at all.
_CONTINUED = re.compile(r"\\\r?\n\s*\Z|\n[ \t\v\f\r]*\\\r?\n")
_OPERATOR = re.compile(r"&&|\|\||[;|\n]")
_WORD_PART = re.compile(
    r"""(?P<bare>(?:[^\ \t\v\f\r\n'"\\$`<>()|&;]|\\[^\r\n])+)
      | '(?P<raw>[^']*)'
      | "(?P<string>(?:[^"\\$`]|\\.)*)\"""",
    re.VERBOSE | re.DOTALL,
)

# Words that begin a statement of the grammar and not a command.
_STATEMENTS = frozenset(
    {"case", "declare", "export", "for", "function", "if", "local"}
    | {"readonly", "select", "typeset", "unset", "unsetenv", "until", "while"}
)
# A command's name: no number, assignment, test or group, all of which the grammar reads otherwise.
_NAME = re.compile(r"[A-Za-z_./~][\w./~+:-]*", re.ASCII)
# What the grammar takes as one piece of a word: no comment, no operator of tests, no escaped blank at the front, and
# brackets and braces only around something simple that is no range such as {1..3}.
_BARE_PART = re.compile(
    r"""(?! \# | =[=~] | \\\s | -?(?:0x)?[0-9]+\#\Z | .*\{[0-9]+\.\.[0-9]+\} )
        (?: [^\[\]{}] | \[[\w*?.,-]+\](?!\\) | \{[\w*?.,-]*\}(?!\\) )*""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class _Word:
    """A word as it counts, and whether it was written without quotes."""

    text: str
    bare: bool


def _skip_blanks(script: str, at: int) -> int:
    """The first place from ``at`` on that is no blank."""
    blanks = _BLANKS.match(script, at)
    return blanks.end() if blanks else at


def _simple_command(script: str, at: int) -> tuple[list[str] | None, int]:
    """The words from ``at`` to the next operator or the end, and where that is; ``None`` if it is no plain command."""
    words: list[str] = []
    while at < len(script) and not _OPERATOR.match(script, at):
        word, at = _word(script, at)
        if word is None or (not words and not (word.bare and _may_be_name(word.text))):
            return None, at
        words.append(word.text)
        at = _skip_blanks(script, at)
    return words, at


def _may_be_name(word: str) -> bool:
    return word not in _STATEMENTS and _NAME.fullmatch(word) is not None


def _word(script: str, at: int) -> tuple[_Word | None, int]:
    """The word that starts at ``at`` and where it ends; ``None`` if it is not plain."""
    parts: list[str] = []
    bare = True
    start = at
    while part := _WORD_PART.match(script, at):
        if part.lastgroup != "bare":
            bare = False
        elif not _BARE_PART.fullmatch(part.group()) or (at > start and part.group().startswith("\\")):
            return None, at
        at = part.end()
        parts.append(part[part.lastgroup or 0])
    text = "".join(parts)
    if not parts or (not text and len(parts) > 1):  # the grammar refuses an empty word made of several parts
        return None, at
    return _Word(text=text, bare=bare), at
