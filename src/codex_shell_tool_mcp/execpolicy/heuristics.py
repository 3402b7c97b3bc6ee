"""What happens to a command that no rule matches.

What that is, the user chooses (:data:`UNMATCHED`). Where it is to run, a nudge, not a boundary: known ways of
destroying data (:mod:`.danger`) are worth a question before they run, sandbox or not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.execpolicy.danger import row_of, table, unwrapped
from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.rules import basename

if TYPE_CHECKING:
    from collections.abc import Sequence

    from codex_shell_tool_mcp.execpolicy.rules import Heuristics

UNMATCHED = ("run", "prompt", "deny")
"""What a command that no rule matches can get: run in the sandbox (the dangerous ones asked about), always be asked
about, or be denied."""

_SHELLS = frozenset({"bash", "zsh", "sh"})
_SCRIPT_FLAGS = frozenset({"-lc", "-c"})

_MORE_SHELLS = frozenset({"bash", "zsh", "sh", "dash", "ash", "ksh", "mksh", "fish", "rbash", "su"})
_MAX_DEPTH = 4
"""Scripts in scripts that are looked into."""


def unmatched_heuristics(unmatched: str) -> Heuristics:
    """What decides commands that no rule matches, for one of :data:`UNMATCHED`."""
    match unmatched:
        case "run":
            return unmatched_decision
        case "prompt":
            return lambda _: Decision.PROMPT
        case "deny":
            return lambda _: Decision.FORBIDDEN
        case _:
            raise ValueError(unmatched)


def unmatched_decision(command: Sequence[str]) -> Decision:
    """``prompt`` for a command that might be dangerous, else ``allow``."""
    return Decision.PROMPT if command_might_be_dangerous(command) else Decision.ALLOW


def command_might_be_dangerous(command: Sequence[str]) -> bool:
    """Whether ``command`` is in the table of dangerous ones, or is a shell whose script seems to run one.

    Whatever the original finds dangerous is; much that it misses is, too.
    """
    return why_dangerous(command) is not None


def why_dangerous(command: Sequence[str], depth: int = 0) -> str | None:
    """What is dangerous about a command, in a few words; ``None`` if nothing is known to be."""
    commands = unwrapped(command)
    row = row_of(commands)
    if row is not None:
        return row.why
    if depth < _MAX_DEPTH:
        for inner in commands:
            script = _any_script(inner)
            for words in () if script is None else _commands(script):
                if (why := why_dangerous(words, depth + 1)) is not None:
                    return why
    return None


def is_never_dangerous(program: str) -> bool:
    """Whether no command of ``program`` is dangerous, whatever its other words: :func:`why_dangerous` is ``None``."""
    name = basename(program)
    return not table().looks_at_words(name) and not _is_shell(name)


def _is_shell(name: str) -> bool:
    return name[:1] + name[1:].partition(".")[0] in _MORE_SHELLS


def _any_script(command: Sequence[str]) -> str | None:
    """The script a shell is given on its command line, with whatever options before it."""
    if not _is_shell(basename(command[0])):
        return None
    for at, word in enumerate(command[1:-1], start=1):
        if word.startswith("-") and not word.startswith("--") and word.endswith("c"):
            return command[at + 1]
    return None


_PIECES = re.compile(r"&&|\|\||\$\(|<\(|>\(|[;|&\n(){}`]")
_BEFORE_COMMAND = frozenset(
    {"if", "then", "elif", "else", "while", "until", "do", "!", "time", "exec", "command", "eval"}
)
_ASSIGNED = re.compile(r"[A-Za-z_]\w*\+?=")
_QUOTES = str.maketrans("", "", "\"'\\")


def _commands(script: str) -> list[list[str]]:
    """The commands of a script: exact where it is plain, else roughly, for a question too many costs little.

    None of a script in which no dangerous program is named, as most are.
    """
    if not table().may_be_in(script[:_MAX_SCRIPT].translate(_QUOTES)):
        return []
    # Linux takes no longer argument than 128 KiB; of what is only claimed, six megabytes would take a minute.
    plain = plain_commands(script) if len(script) <= _MAX_SCRIPT else None
    if plain is not None:
        return plain
    found = []
    for piece in _PIECES.split(script[:_MAX_SCRIPT]):
        words = [word.translate(_QUOTES) for word in piece.split()]
        start = next(
            (at for at, word in enumerate(words) if word not in _BEFORE_COMMAND and not _ASSIGNED.match(word)),
            len(words),
        )
        if words[start:] and words[start]:
            found.append(words[start:])
    return found


_MAX_SCRIPT = 100_000
"""Characters of a script that are looked at; of a longer one the first so many, roughly."""


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
