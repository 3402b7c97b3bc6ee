"""Writes an ``allow`` rule: the narrowest one, with examples, once, whole or not at all.

The file is ``rules/default.rules`` in the user's folder, to which Codex appends as well. Its advisory lock is held
(flock(2), as Codex does), then the file is replaced by a complete one, so that no reader ever sees half a rule. Should
Codex be waiting for the lock in that moment, what it appends goes to the file that was: a permission lost, which is
asked for again.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.errors import PolicyError, UsageError
from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.files import read_text, refuse_what_others_write
from codex_shell_tool_mcp.execpolicy.isolation import RulesText, evaluate_files
from codex_shell_tool_mcp.execpolicy.lint import granted
from codex_shell_tool_mcp.execpolicy.rules import PrefixRule, basename

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

USAGE = "usage: codex-exec-mcp-server execpolicy allow [--even-so] [--] COMMAND..."

HELP = f"""{USAGE}

Write a rule that lets commands which begin with these words run outside the sandbox, unasked, into
rules/default.rules of CODEX_HOME. A running server follows at once.

      --even-so                write it though it grants more than it seems to (see execpolicy lint)
  -h, --help                   print this text

Exit status: 0 if the rule is there now; 2 for a wrong command line or a command that is never allowed as a whole;
3 if the file cannot be read or written, or does not hold.
"""

FILE = "default.rules"
"""The file of written rules; when reading it is one like the others."""

LOCK_SECONDS = 10.0
"""How long somebody else may hold the lock: any process that can read the file can take it and keep it."""

_ALONE = ("python3", "python", "py", "pythonw", "pyw", "pypy", "pypy3", "git", "bash", "zsh", "sh", "/bin/bash",
          "/bin/zsh", "/bin/sh", "dash", "pwsh", "powershell", "powershell.exe", "env", "sudo", "node", "perl", "ruby",
          "lua", "php", "osascript")  # fmt: skip
_SWITCHES = {
    "python3": ("-", "-c"), "python": ("-", "-c"), "py": ("-3",), "bash": ("-lc", "-c"), "zsh": ("-lc", "-c"),
    "/bin/bash": ("-lc", "-c"), "/bin/zsh": ("-lc", "-c"), "sh": ("-c", "-lc"), "/bin/sh": ("-c", "-lc"),
    "pwsh": ("-Command", "-c"), "powershell": ("-Command", "-c"), "powershell.exe": ("-Command", "-c"),
    "node": ("-e",), "perl": ("-e",), "ruby": ("-e",), "lua": ("-e",), "php": ("-r",),
}  # fmt: skip
BANNED = frozenset({(name,) for name in _ALONE} | {(name, word) for name, words in _SWITCHES.items() for word in words})
"""Prefixes never written: interpreters and the like alone, or with their option for code. Those of the original, and
``sh`` and ``dash`` by path."""


class Outcome(Enum):
    """What came of a request to allow something."""

    WRITTEN = "written"
    ALREADY = "allowed already"


def is_banned(prefix: Sequence[str]) -> bool:
    """Whether this prefix is never written, by name or by any path."""
    by_name = (basename(prefix[0]), *prefix[1:]) if prefix else ()
    return tuple(prefix) in BANNED or by_name in BANNED


def objections(prefix: Sequence[str]) -> list[str]:
    """What an ``allow`` of these words would grant beyond what it seems to."""
    return granted(PrefixRule(program=prefix[0], rest=tuple(prefix[1:]), decision=Decision.ALLOW))


def rule_text(prefix: Sequence[str]) -> str:
    """The rule as a line of a rules file, with examples of what it matches and what it does not."""
    other = [*prefix[:-1], prefix[-1] + "-other"]
    not_match = [other] if len(prefix) == 1 else [list(prefix[:-1]), other]
    written = ", ".join(
        f"{name}={json.dumps(value, ensure_ascii=False)}"
        for name, value in (
            ("pattern", list(prefix)),
            ("decision", "allow"),
            ("match", [list(prefix)]),
            ("not_match", not_match),
        )
    )
    return f"prefix_rule({written})"


def allow(codex_home: Path, prefix: Sequence[str]) -> Outcome:
    """Let commands that begin with ``prefix`` run outside the sandbox, unasked.

    Raises:
        UsageError: The prefix is empty, not UTF-8, or one that is never written.
        PolicyError: The file cannot be read, locked or written, or it does not hold.
    """
    _check(prefix)
    path = codex_home / "rules" / FILE
    try:
        codex_home.mkdir(exist_ok=True)  # one level, as the original: what is above must be there
        path.parent.mkdir(exist_ok=True)
        with _locked(path):
            text = read_text(path, links=False, seen={})
            if _is_allowed(path, text, prefix):
                return Outcome.ALREADY
            _replace(path, f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{rule_text(prefix)}\n")
    except OSError as exc:
        raise PolicyError(
            f"{path}: no rule can be written there: {exc.strerror}; make it a file and folder that you can write"
        ) from exc
    return Outcome.WRITTEN


def main(argv: Sequence[str], codex_home: Path) -> int:
    """Run ``execpolicy allow``; ``argv`` is what follows those two words. Returns the exit status.

    Raises:
        UsageError: The command is never allowed as a whole.
        PolicyError: The file cannot be read or written, or does not hold.
    """
    rest = list(argv)
    even_so = False
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        if word == "--":
            break
        if word in {"-h", "--help"}:
            print(HELP, end="")
            return 0
        if word != "--even-so":
            print(f"error: {word} is no option of allow; write -- before a command that begins so\n{USAGE}",
                  file=sys.stderr)  # fmt: skip
            return 2
        even_so = True
    _check(rest)
    doubts = objections(rest)
    if doubts and not even_so:
        raise UsageError(
            f"{rule_text(rest)} would grant more than it seems to: {'; '.join(doubts)}; "
            "the command may work in the sandbox as it is, without a rule; else add --even-so"
        )
    outcome = allow(codex_home, rest)
    print(f"{outcome.value}: {rule_text(rest)}")
    return 0


def _check(prefix: Sequence[str]) -> None:
    if not prefix or not prefix[0]:
        raise UsageError("name the command to allow: codex-exec-mcp-server execpolicy allow -- git status")
    if any(0xD800 <= ord(char) <= 0xDFFF for word in prefix for char in word):
        raise UsageError("a word of the command is not UTF-8, so no rule could name it")
    if is_banned(prefix):
        raise UsageError(
            f"{' '.join(prefix)} is never allowed as a whole, for it runs whatever it is given; name more words of it"
        )


def _is_allowed(path: Path, text: str, prefix: Sequence[str]) -> bool:
    """Whether the file allows all that begins with ``prefix``; checks the new rule's examples on the way."""
    files = evaluate_files(
        [RulesText(identifier=str(path), text=text), RulesText(identifier=f"{path} (new)", text=rule_text(prefix))]
    )
    return any(
        rule.decision is Decision.ALLOW and rule.program == prefix[0] and rule.matches(prefix)
        for rule in files[0].prefix_rules
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of the file that ``path`` is, which is made if it is missing."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _take(descriptor, deadline, path)
            refuse_what_others_write(path, os.fstat(descriptor))
            if _is_still(path, descriptor):
                yield
                return
        finally:
            os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the file was not replaced while its lock was waited for."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _take(descriptor: int, deadline: float, path: Path) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise PolicyError(
                    f"{path}: another process has held its lock for {LOCK_SECONDS:g} s; end that one and try again"
                ) from None
            time.sleep(0.02)
        else:
            return


def _replace(path: Path, text: str) -> None:
    """Put a complete new file in the old one's place, with its mode, and see it on the disk (rename(2), fsync(2))."""
    descriptor, name = tempfile.mkstemp(prefix=f".{FILE}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(text.encode("utf-8"))
            file.flush()
            os.fchmod(descriptor, path.stat().st_mode & 0o777)
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
