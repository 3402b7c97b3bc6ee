"""What a call of a builtin may say, and what is stored for it: pure checks, in the order the language fixes.

Each function takes the arguments of one call as the interpreter gave them (strings, lists, an :class:`Other` for a
value that is neither, ``None`` for a parameter that was left out) and returns rules, or raises :class:`RuleError`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.rules import (
    NETWORK_PROTOCOLS,
    NetworkProtocol,
    NetworkRule,
    PatternToken,
    Policy,
    PrefixRule,
    basename,
    normalised,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class ErrorKind(Enum):
    """The kinds of error the language knows; the value begins the message."""

    INVALID_DECISION = "invalid decision: "
    INVALID_PATTERN = "invalid pattern element: "
    INVALID_EXAMPLE = "invalid example: "
    INVALID_RULE = "invalid rule: "
    EXAMPLE_DID_NOT_MATCH = "expected every example to match at least one rule: "
    EXAMPLE_DID_MATCH = "expected example to not match rule "
    STARLARK = "starlark error: "


class RuleError(Exception):
    """One call does not hold.

    Attributes:
        kind: Which check failed.
        detail: What is wrong.
        advice: What to write instead.
    """

    def __init__(self, kind: ErrorKind, detail: str, advice: str) -> None:
        super().__init__(f"{kind.value}{detail} ({advice})")
        self.kind = kind
        self.detail = detail
        self.advice = advice


@dataclass(frozen=True)
class Other:
    """A value that is neither string nor list; all that matters of it is its Starlark type.

    The language's own ``None`` is one too: passing it is not the same as leaving a parameter out.
    """

    type_name: str


Value = str | list["Value"] | Other
"""A value given to a builtin."""

Argument = Value | None
"""A parameter's value, or ``None`` if it was left out."""

# Unicode's White_Space, which the language's checks trim; str.strip() also takes U+001C to U+001F.
_WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)

_PROTOCOLS: dict[str, NetworkProtocol] = {
    **{name: name for name in NETWORK_PROTOCOLS},
    "https_connect": "https",
    "http-connect": "https",
}


@dataclass(frozen=True, kw_only=True)
class CheckedRule:
    """What one ``prefix_rule`` call came to; its examples are checked when the file has been read whole.

    Attributes:
        rules: One, or one for each alternative of the first place.
        match: Examples that must match.
        not_match: Examples that must not.
    """

    rules: tuple[PrefixRule, ...]
    match: tuple[tuple[str, ...], ...]
    not_match: tuple[tuple[str, ...], ...]


def prefix_rule(
    *,
    pattern: Argument,
    decision: Argument,
    match: Argument,
    not_match: Argument,
    justification: Argument,
    source: str,
) -> CheckedRule:
    """Check a ``prefix_rule`` call; ``source`` is its ``file:line``.

    Raises:
        RuleError: The call does not hold.
    """
    raw_pattern = _list("prefix_rule", "pattern", pattern)
    word = _optional_string("prefix_rule", "decision", decision)
    raw_match = [] if match is None else _list("prefix_rule", "match", match)
    raw_not_match = [] if not_match is None else _list("prefix_rule", "not_match", not_match)
    text = _optional_string("prefix_rule", "justification", justification)
    checked_decision = Decision.ALLOW if word is None else _decision(word)
    _check_justification(text)
    first, *rest = _pattern(raw_pattern)
    return CheckedRule(
        rules=tuple(
            [
                PrefixRule(
                    program=program, rest=tuple(rest), decision=checked_decision, justification=text, source=source
                )
                for program in ((first,) if isinstance(first, str) else first)
            ]
        ),
        match=tuple(map(_example, raw_match)),
        not_match=tuple(map(_example, raw_not_match)),
    )


def host_executable(*, name: Argument, paths: Argument) -> tuple[str, tuple[str, ...]]:
    """Check a ``host_executable`` call; returns the name and its paths, lexically normalised, each once.

    Raises:
        RuleError: The call does not hold.
    """
    key = _string("host_executable", "name", name)
    raw_paths = _list("host_executable", "paths", paths)
    if not key:
        raise RuleError(ErrorKind.INVALID_RULE, "host_executable name cannot be empty", 'write a name such as "git"')
    if "/" in key or key in {".", ".."}:
        raise RuleError(
            ErrorKind.INVALID_RULE,
            f"host_executable name must be a bare executable name (got {key})",
            'write the name alone, such as "git", and the directory in paths',
        )
    return key, tuple(dict.fromkeys(_host_path(key, path) for path in raw_paths))


def network_rule(
    *, host: Argument, protocol: Argument, decision: Argument, justification: Argument, source: str
) -> NetworkRule:
    """Check a ``network_rule`` call; ``source`` is its ``file:line``.

    Raises:
        RuleError: The call does not hold.
    """
    raw_host = _string("network_rule", "host", host)
    raw_protocol = _string("network_rule", "protocol", protocol)
    word = _string("network_rule", "decision", decision)
    text = _optional_string("network_rule", "justification", justification)
    checked_protocol = _PROTOCOLS.get(raw_protocol)
    if checked_protocol is None:
        raise RuleError(
            ErrorKind.INVALID_RULE,
            f"network_rule protocol must be one of {', '.join(NETWORK_PROTOCOLS)} (got {raw_protocol})",
            'write for example protocol = "https"',
        )
    checked_decision = Decision.FORBIDDEN if word == "deny" else _decision(word)
    _check_justification(text)
    return NetworkRule(
        host=normalised_host(raw_host),
        protocol=checked_protocol,
        decision=checked_decision,
        justification=text,
        source=source,
    )


def check_examples(checked: CheckedRule, host_executables: Mapping[str, tuple[str, ...]]) -> None:
    """Check a call's examples against that call's rules alone, an absolute path standing for its name.

    Args:
        checked: The call.
        host_executables: All entries known when its file ends.

    Raises:
        RuleError: A ``not_match`` example matches (the first one is named), or ``match`` examples do not (all are).
    """
    for example in checked.not_match:
        rule = _matching(checked.rules, example, host_executables)
        if rule is not None:
            raise RuleError(
                ErrorKind.EXAMPLE_DID_MATCH,
                f"`{rule.describe()}`: {shlex.join(example)}",
                "narrow the pattern, or take the example out of not_match",
            )
    unmatched = [example for example in checked.match if not _matching(checked.rules, example, host_executables)]
    if unmatched:
        raise RuleError(
            ErrorKind.EXAMPLE_DID_NOT_MATCH,
            f"rules [{', '.join(rule.describe() for rule in checked.rules)}], "
            f"unmatched examples [{', '.join(shlex.join(example) for example in unmatched)}]",
            "correct the pattern, or take the examples out of match",
        )


def _matching(
    rules: Sequence[PrefixRule], example: Sequence[str], host_executables: Mapping[str, tuple[str, ...]]
) -> PrefixRule | None:
    """The first of ``rules`` that matches, an absolute path standing for its name where nothing matches exactly."""
    for rule in rules:
        if rule.program == example[0] and rule.matches(example):
            return rule
    # A name without a slash leads back to itself: what did not match exactly will not match then.
    if "/" in example[0] or example[0].startswith("~"):
        for rule in rules:
            policy = Policy(prefix_rules=(rule,), host_executables=host_executables)
            if policy.matches(example, resolve_host_executables=True):
                return rule
    return None


def normalised_host(text: str) -> str:
    """The bare host or address that ``text`` names: lower case, without port, brackets and trailing dots.

    Raises:
        RuleError: It is not one.
    """
    host = text.strip(_WHITE_SPACE)
    if not host:
        raise _bad_host(text, "cannot be empty")
    if "://" in host or any(mark in host for mark in "/?#"):
        raise _bad_host(text, "must be a host name or address, without scheme or path")
    host = _without_port(text, host).rstrip(".").strip(_WHITE_SPACE)
    host = "".join(char.lower() if char.isascii() else char for char in host)
    if not host:
        raise _bad_host(text, "cannot be empty")
    if "*" in host:
        raise _bad_host(text, "must be a specific host; wildcards are not allowed")
    if any(char in _WHITE_SPACE for char in host):
        raise _bad_host(text, "cannot contain whitespace")
    return host


def split_words(text: str) -> list[str] | None:
    """Split an example as a POSIX shell would; ``None`` if a quote is not closed or a backslash ends it.

    ``#`` at the start of a word begins a comment that the end of the line ends. Differs from :func:`shlex.split`
    in that, and in that a backslash in double quotes joins lines.
    """
    if not _QUOTING.search(text):  # most examples; taking the others apart is ten times as slow
        return _BARE_WORD.findall(text)
    words: list[str] = []
    at = 0
    while found := _BETWEEN_WORDS.match(text, at):
        at = found.end()
        if at == len(text):
            return words
        word, at = _word(text, at)
        if word is None:
            return None
        words.append(word)
    raise AssertionError("the pattern between words matches the empty string")


_QUOTING = re.compile(r"""['"\\#]""")
_BARE_WORD = re.compile(r"[^ \t\n]+")
_BETWEEN_WORDS = re.compile(r"(?:[ \t\n]|#[^\n]*(?:\n|\Z))*")
_PART = re.compile(
    r"""(?P<bare>[^\ \t\n'"\\]+)
      | '(?P<single>[^']*)'
      | "(?P<double>(?:[^"\\]|\\.)*)"
      | \\(?P<escaped>.)""",
    re.VERBOSE | re.DOTALL,
)
_IN_DOUBLE_QUOTES = re.compile(r'\\(?:(?P<kept>[$`"\\])|\n)')


def _word(text: str, at: int) -> tuple[str | None, int]:
    """The word that starts at ``at`` and where it ends; ``None`` for the word if its quoting is broken."""
    parts: list[str] = []
    while at < len(text) and text[at] not in " \t\n":
        part = _PART.match(text, at)
        if part is None:
            return None, at
        at = part.end()
        if part["double"] is not None:
            parts.append(_IN_DOUBLE_QUOTES.sub(lambda escape: escape["kept"] or "", part["double"]))
        elif part["escaped"] is not None:
            parts.append(part["escaped"].removeprefix("\n"))
        else:
            parts.append(part["bare"] if part["bare"] is not None else part["single"])
    return "".join(parts), at


def _pattern(raw: Sequence[Value]) -> list[PatternToken]:
    if not raw:
        raise RuleError(ErrorKind.INVALID_PATTERN, "pattern cannot be empty", 'write pattern = ["program", ...]')
    return [_pattern_token(element) for element in raw]


def _pattern_token(element: Value) -> PatternToken:
    if isinstance(element, str):
        return element
    if isinstance(element, Other):
        raise RuleError(
            ErrorKind.INVALID_PATTERN,
            f"pattern element must be a string or list of strings (got {element.type_name})",
            'write "token", or ["this", "that"] for alternatives',
        )
    if not element:
        raise RuleError(
            ErrorKind.INVALID_PATTERN, "pattern alternatives cannot be empty", 'write ["this", "that"], or one string'
        )
    alternatives = tuple(_alternative(alternative) for alternative in element)
    return alternatives[0] if len(alternatives) == 1 else alternatives


def _alternative(alternative: Value) -> str:
    if isinstance(alternative, str):
        return alternative
    raise RuleError(
        ErrorKind.INVALID_PATTERN,
        f"pattern alternative must be a string (got {_type_name(alternative)})",
        'write strings only, such as ["this", "that"]',
    )


def _example(raw: Value) -> tuple[str, ...]:
    """The tokens of one example."""
    if isinstance(raw, Other):
        raise RuleError(
            ErrorKind.INVALID_EXAMPLE,
            f"example must be a string or list of strings (got {raw.type_name})",
            'write "git status" or ["git", "status"]',
        )
    if isinstance(raw, str):
        words = split_words(raw)
        if words is None:
            raise RuleError(
                ErrorKind.INVALID_EXAMPLE,
                f"example string has invalid shell syntax: {raw}",
                'close the quotes, or write the tokens as a list: ["git", "status"]',
            )
        if not words:
            raise RuleError(
                ErrorKind.INVALID_EXAMPLE, "example cannot be an empty string", "write a command, or leave it out"
            )
        return tuple(words)
    if not raw:
        raise RuleError(
            ErrorKind.INVALID_EXAMPLE, "example cannot be an empty list", "write a command, or leave it out"
        )
    tokens = [token for token in raw if isinstance(token, str)]
    if len(tokens) < len(raw):
        other = next(token for token in raw if not isinstance(token, str))
        raise RuleError(
            ErrorKind.INVALID_EXAMPLE,
            f"example tokens must be strings (got {_type_name(other)})",
            'write ["git", "status"]',
        )
    return tuple(tokens)


def _host_path(name: str, path: Value) -> str:
    if not isinstance(path, str):
        raise RuleError(
            ErrorKind.INVALID_RULE,
            f"host_executable paths must be strings (got {_type_name(path)})",
            f'write paths = ["/usr/bin/{name}"]',
        )
    if not path.startswith("/"):
        raise RuleError(
            ErrorKind.INVALID_RULE,
            f"host_executable paths must be absolute (got {path})",
            f'write the whole path, such as "/usr/bin/{name}"',
        )
    absolute = normalised(path)
    if basename(absolute) != name:
        raise RuleError(
            ErrorKind.INVALID_RULE,
            f"host_executable path `{path}` must have basename `{name}`",
            "list it under its own name",
        )
    return absolute


def _without_port(text: str, host: str) -> str:
    """``host`` without brackets and port; more than one colon without brackets is an address, and is left alone."""
    if host.startswith("["):
        inside, closed, port = host[1:].partition("]")
        if not closed:
            raise _bad_host(text, "has an unclosed bracket")
        if port and not re.fullmatch(r":[0-9]+", port):
            raise _bad_host(text, "has something other than a port after the bracket")
        return inside
    name, _, port = host.partition(":")
    return name if name and re.fullmatch(r"[0-9]+", port) else host


def _bad_host(text: str, problem: str) -> RuleError:
    return RuleError(
        ErrorKind.INVALID_RULE,
        f"network_rule host {problem} (got {text})",
        'write the host alone, such as host = "example.com"',
    )


def _decision(word: str) -> Decision:
    decision = Decision.from_word(word)
    if decision is None:
        raise RuleError(ErrorKind.INVALID_DECISION, word, 'write "allow", "prompt" or "forbidden"')
    return decision


def _check_justification(text: str | None) -> None:
    if text is not None and not text.strip(_WHITE_SPACE):
        raise RuleError(
            ErrorKind.INVALID_RULE, "justification cannot be empty", "say why the rule is there, or leave it out"
        )


def _list(builtin: str, parameter: str, value: Argument) -> list[Value]:
    if isinstance(value, list):
        return value
    raise _wrong_type(builtin, parameter, "a list", value)


def _string(builtin: str, parameter: str, value: Argument) -> str:
    if isinstance(value, str):
        return value
    raise _wrong_type(builtin, parameter, "a string", value)


def _optional_string(builtin: str, parameter: str, value: Argument) -> str | None:
    return None if value is None else _string(builtin, parameter, value)


def _wrong_type(builtin: str, parameter: str, wanted: str, value: Argument) -> RuleError:
    type_name = _type_name(value)
    advice = "leave the parameter out instead" if type_name == "NoneType" else f"write {wanted}"
    return RuleError(
        ErrorKind.STARLARK, f"parameter `{parameter}` of {builtin} must be {wanted}, not {type_name}", advice
    )


def _type_name(value: Argument) -> str:
    if isinstance(value, Other):
        return value.type_name
    return "list" if isinstance(value, list) else "string"
