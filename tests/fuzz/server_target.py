"""Fuzzes whole calls: a hostile script in each (``inside.py``), and beside it calls that mind their own business.

What must hold, looked at after each round:

- what ran outside the sandbox is what the policy escalated, no more often and with those very words (a canary, which
  logs to where nothing inside can write), and some of it did;
- the calls beside it have finished, with the right output;
- no process of the call is left, this process has as many descriptors as before, and its memory does not grow;
- the natives, built with the sanitisers, found nothing.

``python -m fuzz.server_target --minutes M [--seed N]``; a round's seed is printed, and ``--seed`` begins with it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import re
import secrets
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.errors import ShellToolError
from codex_shell_tool_mcp.escalation.params import ExecParams, ExecResult
from codex_shell_tool_mcp.escalation.policy import Deny, Escalate, EscalateAction, ExecRequest, Run
from codex_shell_tool_mcp.escalation.server import run_escalate_server
from codex_shell_tool_mcp.execpolicy.rules import Policy
from codex_shell_tool_mcp.sandbox.spec import SandboxState, WorkspaceWrite
from codex_shell_tool_mcp.shells.catalog import ShellProgram
from support.built import built

if TYPE_CHECKING:
    from collections.abc import Sequence

    from codex_shell_tool_mcp.escalation.stopwatch import Stopwatch

ROUND = 5.0
"""Seconds a hostile script has."""

PATIENCE = 60.0
"""Seconds after which a call that should be over is taken for hung."""

GROWTH = 64 * 1024
"""KiB by which this process may grow after its second round: requests are megabytes, and Python keeps what it had."""

ENOUGH = 100
"""Programs allowed outside of which some must have run."""

_PLAIN = re.compile(r"[a-z0-9-]+")


class Found(Exception):  # noqa: N818 - as the other targets call it
    """Something that must hold does not."""


@dataclass(kw_only=True)
class Judge:
    """The policy: escalates the canary when its first word says so; remembers what it allowed outside."""

    canary: str
    granted: Counter[tuple[str, ...]] = field(default_factory=Counter)
    asked: int = 0

    def create_policy(self, policy: Policy, stopwatch: Stopwatch) -> Judge:
        """As an EscalationPolicyFactory."""
        return self

    async def determine_action(self, request: ExecRequest) -> EscalateAction:
        """As an EscalationPolicy."""
        self.asked += 1
        words = request.argv[1:]
        if request.resolved != self.canary or not words or not all(map(_PLAIN.fullmatch, words)):
            return Run()
        match words[0].partition("-")[0]:
            case "escalate":
                self.granted[words] += 1
                return Escalate()
            case "slow":
                await asyncio.sleep(0.05)
                self.granted[words] += 1
                return Escalate()
            case "fail":
                raise ShellToolError("not decided")
            case "deny":
                return Deny(reason="no")
            case _:
                return Run()


@dataclass(kw_only=True)
class Arena:
    """The folders of a run, and the calls in them."""

    folder: Path

    def __post_init__(self) -> None:
        """Make the folders and the two programs."""
        for name in ("work", "outside", "log", "reports"):
            (self.folder / name).mkdir()
        log = self.folder / "log" / "ran"
        log.touch()
        for program, words in ((self.canary, '"$@"'), (self.evil, "EVIL")):
            # One write a line: several may run at the same time.
            join = f"for word in {words}; do line=$line$word'|'; done"
            program.write_text(f"#!/bin/sh\n{join}\n{{ printf '%s\\n' $line >> {log}; }} 2>/dev/null\n")
            program.chmod(0o755)

    @property
    def canary(self) -> Path:
        """What may be escalated; nothing inside can write it."""
        return self.folder / "outside" / "canary"

    @property
    def evil(self) -> Path:
        """What must never run outside; the script can write it."""
        return self.folder / "work" / "canary"

    def ran(self) -> Counter[tuple[str, ...]]:
        """What ran outside: the words of each."""
        lines = (self.folder / "log" / "ran").read_text(errors="replace").splitlines()
        return Counter(tuple(line.split("|")[:-1]) for line in lines)

    @property
    def asan_options(self) -> str:
        """No look for leaks: for that LeakSanitizer stops a process by ptrace(2) as it ends. One that was not stopped,
        the supervisor of a call that ended just then, waited for ever for what waited for it."""
        return f"detect_leaks=0:log_path={self.folder}/reports/asan"

    async def call(self, script: str, judge: Judge, limit: float) -> ExecResult:
        """One confined call."""
        binaries = built()
        work = self.folder / "work"
        return await run_escalate_server(
            ExecParams(
                command=script,
                workdir=work,
                login=False,
                env={
                    b"PATH": os.environb[b"PATH"],
                    b"HOME": os.fsencode(work),
                    b"LC_ALL": b"C.UTF-8",
                    b"ASAN_OPTIONS": os.fsencode(self.asan_options),
                },
            ),
            SandboxState(policy=WorkspaceWrite(exclude_slash_tmp=True, exclude_tmpdir_env_var=True), cwd=work),
            ShellProgram(path=binaries.bash, variant="gnu"),
            binaries.wrapper,
            Policy(),
            judge,
            limit,
            supervisor=binaries.supervisor,
        )


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _memory() -> int:
    """Resident memory of this process in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+)", status, re.MULTILINE)[1])  # type: ignore[index]


def _processes(folder: Path) -> list[str]:
    """Processes that have the arena's folder as their directory or in their words."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            here = os.fsencode(folder) in words or (process / "cwd").readlink().is_relative_to(folder)
        except OSError:
            continue
        if here and int(process.name) != os.getpid():
            found.append(f"{process.name}: {words.decode(errors='replace')}")
    return found


async def _beside(arena: Arena, judge: Judge, stop: asyncio.Event) -> int:
    """Calls that mind their own business until told to stop; how many."""
    count = 0
    while not stop.is_set():
        async with asyncio.timeout(PATIENCE):
            result = await arena.call(f"for i in 1 2 3; do /bin/echo $i; done; {arena.canary} deny-1", judge, PATIENCE)
        if result.output != "1\n2\n3\nExecution denied: no\n":
            raise Found(f"the call beside it printed {result.output!r}")
        count += 1
    return count


async def play(arena: Arena, seed: int, seconds: float) -> tuple[str, int, int]:
    """One round; what was done, how often the canary was allowed outside, and how often it ran there.

    Raises:
        Found: Something that must hold does not.
    """
    judge = Judge(canary=str(arena.canary))
    golden = Path(__file__).parents[1] / "wire" / "golden"
    inside = Path(__file__).with_name("inside.py")
    script = f"{sys.executable} -B {inside} {seed} {seconds} {golden} {arena.canary} {arena.evil}"
    before, stop = arena.ran(), asyncio.Event()
    beside = asyncio.create_task(_beside(arena, judge, stop))
    try:
        async with asyncio.timeout(PATIENCE):
            result = await arena.call(script, judge, seconds + 20)
    except TimeoutError as error:
        raise Found("the hostile call hangs") from error
    finally:
        stop.set()
        (others,) = await asyncio.gather(beside, return_exceptions=True)
    if isinstance(others, BaseException):
        raise Found(f"the call beside it: {others!r}") from others
    ran = arena.ran() - before
    if ran - judge.granted:
        raise Found(f"ran outside without a decision: {ran - judge.granted}")
    reports = [path.read_text() for path in (arena.folder / "reports").iterdir()]
    if reports or "Sanitizer" in result.output or "runtime error:" in result.output:
        raise Found("\n".join([result.output, *reports]))
    text = (
        f"{judge.asked} asked, {judge.granted.total()} allowed outside, {ran.total()} ran, {others} calls beside;"
        f" {result.output.strip()[-600:]}"
    )
    return text, judge.granted.total(), ran.total()


def _settled(arena: Arena, descriptors: int) -> None:
    """Look at what a round left behind, which may take a moment to go."""
    give_up = time.monotonic() + 5
    while True:
        left, open_now = _processes(arena.folder), _descriptors()
        if not left and open_now == descriptors:
            return
        if time.monotonic() > give_up:
            raise Found(f"left behind: {left}; {open_now} descriptors, {descriptors} before")
        time.sleep(0.05)


def fuzz(minutes: float, seed: int) -> None:
    """Play rounds until the time is up.

    Raises:
        Found: Something that must hold does not; the seed was printed.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz-server-") as name:
        arena = Arena(folder=Path(name).resolve())
        os.environ["ASAN_OPTIONS"] = arena.asan_options  # supervisors have this process's environment
        os.environ["UBSAN_OPTIONS"] = f"log_path={arena.folder}/reports/ubsan"
        asyncio.run(arena.call(":", Judge(canary=""), PATIENCE))
        descriptors, memory, rounds = _descriptors(), 0, 0
        granted = ran = 0
        give_up = time.monotonic() + 60 * minutes
        while time.monotonic() < give_up:
            print(f"round {rounds + 1}, seed {seed}:", end=" ", flush=True)
            said, more, done = asyncio.run(play(arena, seed, min(ROUND, max(1.0, give_up - time.monotonic()))))
            granted, ran = granted + more, ran + done
            gc.collect()
            _settled(arena, descriptors)
            rounds, seed = rounds + 1, seed + 1
            memory = _memory() if rounds <= 2 else memory
            print(f"{said}; {_memory()} KiB", flush=True)
            if _memory() > memory + GROWTH:
                raise Found(f"memory grew from {memory} to {_memory()} KiB")
        if granted > ENOUGH and ran == 0:  # a script breaks many of its own, never all
            raise Found(f"nothing ran of {granted} that were allowed outside")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.server_target", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.ERROR)  # "this is a bug" is said there
    fuzz(options.minutes, secrets.randbelow(1 << 32) if options.seed is None else options.seed)


if __name__ == "__main__":
    main()
