"""Evaluates rules files in a process of its own, which the interpreter may take down.

The interpreter bounds neither memory nor steps: a huge list aborts its process, a deeply nested literal overflows the
stack, a loop over a large range never ends. So it runs in a child with limits on address space, processor time, stack
and wall time; what comes back is plain data. A child that dies is a bad file, nothing else.

The child is forked where that is safe and cheap (Linux, and this process has a single thread, as a server at its start
has); else this program is started anew, as ``EVALUATE_ARGUMENT`` tells a frozen one to become the evaluator.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NoReturn

from codex_shell_tool_mcp.errors import PolicyError
from codex_shell_tool_mcp.execpolicy.codec import decode_files
from codex_shell_tool_mcp.execpolicy.layers import FileRules, combined
from codex_shell_tool_mcp.frozen_environment import own_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from codex_shell_tool_mcp.execpolicy.rules import Policy

EVALUATE_ARGUMENT = "--evaluate-rules-file"
"""``argv[1]`` of a frozen server that is to be the evaluator: its command line calls ``parser_child.main`` at once."""

_SIGNAL_NAMES = {member.value: member.name for member in signal.Signals}

# The evaluator needs this package and the interpreter, nothing that site-packages' .pth files would set up.
_BOOTSTRAP = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from codex_shell_tool_mcp.execpolicy.parser_child import main
main()
"""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What all files of one evaluation may use together.

    Attributes:
        memory: Address space in bytes beyond what the evaluator has when it starts. 10,000 rules take about 40 MB. Not
            enforced by macOS.
        processor_time: In seconds. 10,000 rules take about half a second.
        wall_time: In seconds; longer than the processor time, for a machine that is busy.
    """

    memory: int = 512 * 1024 * 1024
    processor_time: int = 5
    wall_time: float = 20.0


@dataclass(frozen=True, kw_only=True)
class RulesText:
    """One file to evaluate.

    Attributes:
        identifier: Its path, for messages and for the rules' ``source``.
        text: Its content.
        keeps_hosts: Whether its ``host_executable`` entries count when the examples of later files are checked.
    """

    identifier: str
    text: str
    keeps_hosts: bool = True


@dataclass(frozen=True, kw_only=True)
class Question:
    """What an evaluator is asked.

    Attributes:
        files: In this order.
        limits: For all of them together.
        programs: Whose prefix rules are wanted; ``None`` = all. Every file is checked whole regardless.
        places: Whether the rules are to know the line they were made in.
    """

    files: tuple[RulesText, ...]
    limits: Limits
    programs: tuple[str, ...] | None = None
    places: bool = True


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What a child wrote, and how it ended: exit code or minus the signal, ``None`` if it had to be ended."""

    output: bytes
    status: int | None


def evaluate(files: Sequence[RulesText], limits: Limits | None = None) -> Policy:
    """The policy the files make, in the order given; see :func:`evaluate_files`."""
    return combined(evaluate_files(files, limits))


def evaluate_files(
    files: Sequence[RulesText],
    limits: Limits | None = None,
    *,
    programs: Sequence[str] | None = None,
    places: bool = True,
) -> tuple[FileRules, ...]:
    """What each file says. No files need no child.

    Args:
        files: In the order in which they are to be read.
        limits: What all of them may use together.
        programs: Whose prefix rules are wanted; ``None`` = all.
        places: Whether the rules are to know the line they were made in, which takes time.

    Raises:
        PolicyError: A file does not hold, or the interpreter did not survive it; the text begins with its identifier.
    """
    if not files:
        return ()
    limits = limits or Limits()
    wanted = None if programs is None else tuple(programs)
    question = Question(files=tuple(files), limits=limits, programs=wanted, places=places)
    try:
        outcome = _run_forked(question) if _may_fork() else _run_started(question)
    except OSError as exc:
        raise PolicyError(
            f"{files[0].identifier}: the process that evaluates rules files cannot be started: {exc.strerror}; "
            "free processes or memory, or reinstall codex-shell-tool-mcp"
        ) from exc
    *progress, last = outcome.output.split(b"\n")
    if outcome.status == 0 and last.startswith(b"error "):
        raise PolicyError(json.loads(last.removeprefix(b"error ")))
    if outcome.status == 0 and last.startswith(b"rules "):
        return decode_files(last.removeprefix(b"rules "))
    raise _death(files, len(progress), outcome.status, limits)


def _death(files: Sequence[RulesText], begun: int, status: int | None, limits: Limits) -> PolicyError:
    """What to say of a child that ended without an answer, after it had begun so many files."""
    if status is None:
        end = f"was ended after {limits.wall_time:g} s"
    elif status == -signal.SIGXCPU:
        end = f"used {limits.processor_time} s of processor time"
    elif status < 0:
        end = f"died of {_SIGNAL_NAMES.get(-status, f'signal {-status}')}"
    else:
        end = f"ended with status {status} before it was done"
    if not begun:
        return PolicyError(
            f"{files[0].identifier}: rules files cannot be evaluated: the interpreter {end}, before the first file; "
            "reinstall codex-shell-tool-mcp with its dependency starlark-pyo3"
        )
    return PolicyError(
        f"{files[begun - 1].identifier}: too large or endless: the interpreter {end} "
        "(write the rules out, with loops over short lists and no deep nesting)"
    )


def _may_fork() -> bool:
    """Whether no other thread of this process could hold a lock that a forked child would need."""
    if sys.platform != "linux":
        return False
    try:
        return len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208 - names are all that is wanted
    except OSError:
        return False


def _run_forked(question: Question) -> _Outcome:
    source, target = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_child(question, target)
    os.close(target)
    complete = False
    try:
        output, complete = _read_until(source, time.monotonic() + question.limits.wall_time)
    finally:
        os.close(source)
        if not complete:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    return _Outcome(output=output, status=os.waitstatus_to_exitcode(status) if complete else None)


def _be_child(question: Question, target: int) -> NoReturn:
    """In the forked child: evaluate with nothing of the parent open but the pipe, and never return into its code."""
    try:
        os.dup2(target, 3)  # before 0 to 2: if the parent had one of those closed, the pipe may be there
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are all that is wanted
            if int(name) > 3:
                with contextlib.suppress(OSError):  # the listing's own is gone by now
                    os.close(int(name))
        from codex_shell_tool_mcp.execpolicy.parser_child import answer  # noqa: PLC0415 - brings the interpreter

        answer(question, 3)
        os._exit(0)
    finally:
        os._exit(1)


def _read_until(source: int, deadline: float) -> tuple[bytes, bool]:
    """What comes from ``source`` before ``deadline`` (monotonic), and whether that was all."""
    parts: list[bytes] = []
    poller = select.poll()
    poller.register(source, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if not poller.poll(left * 1000):
            continue
        part = os.read(source, 1 << 20)
        if not part:
            return b"".join(parts), True
        parts.append(part)
    return b"".join(parts), False


def _run_started(question: Question) -> _Outcome:
    import subprocess  # noqa: PLC0415 - `execpolicy check` has no time for it, and forks

    text = json.dumps(asdict(question)).encode("ascii")
    with subprocess.Popen(
        _evaluator_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        try:
            output, _ = child.communicate(text, timeout=question.limits.wall_time)
        except subprocess.TimeoutExpired:
            child.kill()
            output, _ = child.communicate()
            return _Outcome(output=output, status=None)
        except BaseException:
            child.kill()
            raise
    return _Outcome(output=output, status=child.returncode)


def _evaluator_command() -> list[str]:
    if getattr(sys, "frozen", False):
        return [*own_command(), EVALUATE_ARGUMENT]
    return [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, json.dumps(sys.path)]
