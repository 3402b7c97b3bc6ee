"""The evaluator: the process in which rules files meet the interpreter. :mod:`.isolation` starts it and reads it.

What it writes: a line ``file`` before each file, so that a death can be laid at the right door; then, not followed by a
line end, ``rules `` and what the files say as JSON, or ``error `` and the message as a JSON string.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
from pathlib import Path

from codex_shell_tool_mcp.errors import PolicyError
from codex_shell_tool_mcp.execpolicy.codec import encode_files
from codex_shell_tool_mcp.execpolicy.isolation import Limits, Question, RulesText
from codex_shell_tool_mcp.execpolicy.parser import PolicyParser

STACK_BYTES = 8 * 1024 * 1024
"""The usual size: the interpreter overflows it on deep nesting, and an unlimited one would be filled instead."""


MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Larger policies are refused: the one who asks has no limit on its memory. 10,000 rules make about 1 MB."""


MAX_MESSAGE = 2_000
"""Characters of an error message: it goes to logs, to a client and to people."""


def main() -> None:
    """Answer the question on standard input to standard output."""
    raw = json.load(sys.stdin.buffer)
    files = tuple(RulesText(**file) for file in raw["files"])
    question = Question(
        files=files, limits=Limits(**raw["limits"]), programs=raw.get("programs"), places=raw.get("places", True)
    )
    answer(question, sys.stdout.fileno())


def answer(question: Question, target: int) -> None:
    """Evaluate the files within the limits and write the answer to the descriptor ``target``."""
    # Out of memory, the interpreter panics; to print a backtrace then it needs memory, and waits for its own lock.
    os.environ["RUST_BACKTRACE"] = "0"
    _apply(question.limits)
    gc.disable()  # the process is over before a collection could pay; 10,000 rules are a fifth faster without
    parser = PolicyParser(places=question.places, programs=question.programs)
    try:
        for file in question.files:
            _write(target, b"file\n")
            parser.parse(file.identifier, file.text, keeps_hosts=file.keeps_hosts)
        found = encode_files(parser.files(), question.programs)
        if len(found) > MAX_ANSWER_BYTES:
            raise PolicyError(
                f"{question.files[-1].identifier}: too large: the rules up to here take {len(found)} bytes "
                f"(at most {MAX_ANSWER_BYTES}: write fewer or shorter rules)"
            )
    except PolicyError as exc:
        _write(target, b"error " + json.dumps(_shortened(str(exc))).encode("ascii"))
    else:
        _write(target, b"rules " + found)


def _shortened(text: str) -> str:
    """A message without its middle, if it is long: a rules file can make it as long as it likes."""
    if len(text) <= MAX_MESSAGE:
        return text
    head, tail = MAX_MESSAGE * 3 // 4, MAX_MESSAGE // 4
    return f"{text[:head]} [{len(text) - head - tail} characters left out] {text[-tail:]}"


def _apply(limits: Limits) -> None:
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_CPU, limits.processor_time)
    _lower(resource.RLIMIT_STACK, STACK_BYTES)
    _lower(resource.RLIMIT_AS, _address_space() + limits.memory)


def _lower(what: int, wanted: int) -> None:
    """Set the soft limit to ``wanted``, or to the hard one if that is lower."""
    _, hard = resource.getrlimit(what)
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(what, (soft, hard))
    except (OSError, ValueError):
        # macOS refuses some address-space and stack limits; time limits still end what runs away there.
        if sys.platform == "linux":
            raise


def _address_space() -> int:
    """Bytes of address space in use; 0 where the system does not say, so that the limit is then absolute."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def _write(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
