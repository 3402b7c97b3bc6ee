"""The two TOML files beside the rules: the user's ``config.toml`` and the administrator's ``requirements.toml``.

Of ``config.toml``, which is Codex's, only what decides about rules is read: which projects are trusted, and what marks
a project's root. ``requirements.toml`` may hold rules that only tighten.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from codex_shell_tool_mcp.errors import PolicyError
from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.layers import FileRules
from codex_shell_tool_mcp.execpolicy.rules import PatternToken, PrefixRule

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_ROOT_MARKERS = (".git",)
"""What lies in a project's root, if ``project_root_markers`` says nothing."""

_EXAMPLE = '{ pattern = [{ token = "git" }, { any_of = ["push", "fetch"] }], decision = "prompt" }'
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True, kw_only=True)
class UserConfig:
    """What ``config.toml`` says of projects.

    Attributes:
        trust: Path as written, and without links, to whether it is trusted; a path that is not there is not.
        written: Path without links to the path as written, for those in :attr:`trust` that were written with links.
        root_markers: Names of which any marks a project's root; none: the working directory itself is it.
    """

    trust: Mapping[str, bool] = field(default_factory=dict)
    written: Mapping[str, str] = field(default_factory=dict)
    root_markers: tuple[str, ...] = DEFAULT_ROOT_MARKERS


def parse_user_config(path: str, text: str) -> UserConfig:
    """Read ``config.toml``.

    Raises:
        PolicyError: It is no TOML, or one of the two settings has another type.
    """
    document = _document(path, text)
    markers = document.get("project_root_markers", list(DEFAULT_ROOT_MARKERS))
    if not isinstance(markers, list) or not all(isinstance(marker, str) for marker in markers):
        raise _error(path, text, r"project_root_markers", 0, "is no list of strings", 'write [".git"]')
    projects = document.get("projects", {})
    if not isinstance(projects, dict) or not all(isinstance(project, dict) for project in projects.values()):
        advice = 'write [projects."/path"] and below it trust_level = "trusted"'
        raise _error(path, text, r"projects", 0, "is no table of tables", advice)
    trust = {
        name: project["trust_level"] == "trusted" for name, project in projects.items() if "trust_level" in project
    }
    written: dict[str, str] = {}
    for name in tuple(trust):
        real = os.path.realpath(name)
        if real not in trust:
            trust[real], written[real] = trust[name], name
    return UserConfig(trust=trust, written=written, root_markers=tuple(markers))


def parse_requirements(path: str, text: str) -> FileRules:
    """Read ``requirements.toml``; without ``[rules]`` there are none.

    Raises:
        PolicyError: It is no TOML, or a rule in it does not hold.
    """
    rules = _document(path, text).get("rules")
    if rules is None:
        return FileRules(identifier=path)
    entries = rules.get("prefix_rules") if isinstance(rules, dict) else None
    if not isinstance(entries, list) or not entries:
        advice = f"write prefix_rules = [{_EXAMPLE}], or take [rules] out"
        raise _error(path, text, r"rules", 0, "needs a list prefix_rules that is not empty", advice)
    found: list[PrefixRule] = []
    for number, entry in enumerate(entries):
        try:
            found += _prefix_rules(entry, f"{path}:{_place(text, 'pattern', number)[0]}")
        except ValueError as exc:
            problem, advice = exc.args
            raise _error(path, text, r"pattern", number, problem, advice) from None
    return FileRules(identifier=path, prefix_rules=tuple(found))


def _prefix_rules(entry: object, source: str) -> Iterable[PrefixRule]:
    """The rules of one entry. Raises ValueError(problem, advice)."""
    if not isinstance(entry, dict):
        raise ValueError("an entry of prefix_rules is no table", f"write {_EXAMPLE}")
    pattern = entry.get("pattern")
    if not isinstance(pattern, list) or not pattern:
        raise ValueError("pattern cannot be empty", f"write {_EXAMPLE}")
    first, *rest = [_token(token) for token in pattern]
    decision = _strict_decision(entry.get("decision"))
    justification = entry.get("justification")
    if justification is not None and (not isinstance(justification, str) or not justification.strip()):
        raise ValueError("justification cannot be empty", "say why the rule is there, or leave it out")
    return [
        PrefixRule(program=program, rest=tuple(rest), decision=decision, justification=justification, source=source)
        for program in ((first,) if isinstance(first, str) else first)
    ]


def _strict_decision(word: object) -> Decision:
    decision = Decision.from_word(word) if isinstance(word, str) else None
    if decision is None or decision is Decision.ALLOW:
        raise ValueError(
            f"decision must be prompt or forbidden (got {word})" if word is not None else "decision is missing",
            'write decision = "prompt" or decision = "forbidden": requirements only tighten',
        )
    return decision


def _token(raw: object) -> PatternToken:
    advice = 'write { token = "git" } or { any_of = ["push", "fetch"] }'
    if not isinstance(raw, Mapping) or ("token" in raw) == ("any_of" in raw):
        raise ValueError("a place of the pattern needs either token or any_of", advice)
    words = [raw["token"]] if "token" in raw else raw["any_of"]
    if not isinstance(words, Sequence) or isinstance(words, str) or not words:
        raise ValueError("any_of cannot be empty", advice)
    if not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError("a token of the pattern must be a string that is not blank", advice)
    return words[0] if len(words) == 1 else tuple(words)


def _document(path: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        place = _PLACE.search(str(exc))
        line, column = place.groups() if place and place[1] else (text.count("\n") + 1, 1)
        problem = _PLACE.sub("", str(exc))
        raise PolicyError(f"{path}:{line}:{column}: {problem} (the file is TOML: see toml.io)") from None


def _error(path: str, text: str, key: str, number: int, problem: str, advice: str) -> PolicyError:
    line, column = _place(text, key, number)
    name = f"{key} " if problem.startswith(("is ", "needs ")) else ""
    return PolicyError(f"{path}:{line}:{column}: {name}{problem} ({advice})")


def _place(text: str, key: str, number: int) -> tuple[int, int]:
    """Line and column of the ``number``-th time ``key`` is given a value or opens a table; of the last if fewer are.

    TOML's reader does not say where a value stood; an entry that has no such key is placed at the one before it.
    """
    pattern = rf"^[^#\n]*?(?<![\w-])({key})(?=\s*=|[\]\.])|(?<=[{{,])\s*({key})(?=\s*=)"
    found = list(islice(re.finditer(pattern, text, re.MULTILINE), number + 1))
    if not found:
        return 1, 1
    at = found[-1].start(1) if found[-1][1] else found[-1].start(2)
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
