"""bash's own test suite through the real escalation server, beside the same suite without interception.

All modes run each script the same way: the shell under test reads the suite's ``run-…`` file, in which ``diff`` also
keeps what it is given. So two modes are compared by what the tests printed, not by what ``diff`` makes of it.
"""

from __future__ import annotations

import asyncio
import difflib
import itertools
import os
import re
import shutil
import subprocess
import threading
import time
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args

from mcp_types import ClientCapabilities, ElicitationCapability, ElicitResult, FormElicitationCapability

from codex_shell_tool_mcp.escalation.params import ExecParams
from codex_shell_tool_mcp.escalation.policy import Escalate, EscalateAction, ExecRequest, Run
from codex_shell_tool_mcp.escalation.server import run_escalate_server
from codex_shell_tool_mcp.execpolicy.rules import Policy
from codex_shell_tool_mcp.sandbox.spec import DangerFullAccess, SandboxState
from codex_shell_tool_mcp.server.approvals import McpEscalationPolicyFactory
from codex_shell_tool_mcp.shells.catalog import ShellProgram
from shell_tool_release.bash_suite import suite_place, wait_and_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType

    from codex_shell_tool_mcp.escalation.stopwatch import Stopwatch
    from shell_tool_release.bash_suite import ScriptFolder, SuiteFiles, SuitePlace

_T = TypeVar("_T")

Mode = Literal["plain", "again", "stock", "run", "escalate", "bare", "outside"]
"""The patched shell without interception, twice; stock bash; interception with every exec run; with every exec
escalated but that of the patched shell itself; without interception and without our locales; with every exec escalated,
so that the tests run in an escalated shell (to which LOCPATH is not passed on)."""

MODES: tuple[Mode, ...] = get_args(Mode)
INTERCEPTED: tuple[Mode, ...] = ("run", "escalate", "outside")
_WITHOUT_LOCALES: tuple[Mode, ...] = ("bare", "outside")


def reference(mode: Mode) -> Mode:
    """The mode that this one is to be like."""
    return "bare" if mode == "outside" else "plain"


SLEEPERS = ("run-jobs", "run-trap")
"""Scripts that sleep for a minute, and for 17 seconds. They take no part in the limit, and all modes run at once: they
use no fixed names in /tmp, where others would meet themselves."""

AT_ONCE = 4
"""Other scripts at a time. The modes of one come one after the other."""

PATIENCE = 300.0
"""Seconds until a script that does not end is a failure."""

TRIES, TRYING = 100, 180.0
"""How often, and for how many seconds, a script is run again without interception to see whether it does by itself, now
and then, what it once did with it: one of them takes the time twice and says so if a second has begun in between."""

_PRELUDE = """\
diff() {
    local file
    for file; do case $file in -*) ;; *) cat -- "$file"; break ;; esac; done >>"$HOME/compared"
    command diff "$@" >>"$HOME/verdicts"
}
"""

_TERMINAL_OF = re.compile(r"(cannot set terminal process group) \(-?\d+\)")


@dataclass(frozen=True, kw_only=True)
class Binaries:
    """What is tested."""

    bash: Path
    stock: Path
    wrapper: Path
    supervisor: Path


class Accepting:
    """An MCP client, and the context of a request of its: its user accepts whatever they are asked."""

    request_id = 1
    client_capabilities = ClientCapabilities(elicitation=ElicitationCapability(form=FormElicitationCapability()))

    @property
    def session(self) -> Accepting:
        """Both in one."""
        return self

    async def elicit_form(self, *_: object) -> ElicitResult:
        """Say yes."""
        return ElicitResult(action="accept", content={})


@dataclass(kw_only=True)
class SuitePolicy:
    """A policy and its factory. ``run`` is what the server does without any rules: run nearly everything at once, and
    the rest (``rm -rf``) after a question; the other modes escalate."""

    mode: Mode
    shell: str
    asked: list[ExecRequest] = field(default_factory=list)
    escalated: int = 0

    def create_policy(self, policy: Policy, stopwatch: Stopwatch) -> SuitePolicy:
        """As an EscalationPolicyFactory."""
        factory = McpEscalationPolicyFactory(context=cast("Any", Accepting()))
        self._without_rules = factory.create_policy(policy, stopwatch)
        return self

    def decide_at_once(self, request: ExecRequest) -> EscalateAction | None:
        """As an ImmediateEscalationPolicy."""
        action = self._without_rules.decide_at_once(request) if self.mode == "run" else None
        if action is not None:
            self.asked.append(request)
        return action

    async def determine_action(self, request: ExecRequest) -> EscalateAction:
        """As an EscalationPolicy."""
        self.asked.append(request)
        if self.mode == "run":
            return await self._without_rules.determine_action(request)
        if self.mode == "escalate" and request.resolved == self.shell:
            return Run()
        self.escalated += 1
        return Escalate()


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a script.

    Attributes:
        status: Of the suite's ``run-…`` file: 0 if what the tests printed is what bash's author expects.
        printed: What the ``run-…`` file itself printed.
        compared: What the tests printed.
        asked: The execs that were asked about; empty without interception.
        escalated: How many of them were escalated.
    """

    status: int
    printed: str
    compared: str
    asked: tuple[ExecRequest, ...] = ()
    escalated: int = 0

    def lines(self, passing: re.Pattern[str] | None = None) -> list[str]:
        """All that counts, less the lines that come and go (and on which ``diff``'s 0 or 1 depends)."""
        status = "0 or 1" if passing is not None and self.status in {0, 1} else self.status
        text = f"status {status}\n{self.printed}\n{self.compared}"
        return [line for line in text.split("\n") if passing is None or not passing.search(line)]


def difference(one: Result, other: Result, passing: re.Pattern[str] | None = None) -> list[str]:
    """The lines that only ``one`` has (``-``) and that only ``other`` has (``+``), in order."""
    found = difflib.unified_diff(one.lines(passing), other.lines(passing), n=0, lineterm="")
    return [line for line in list(found)[2:] if not line.startswith("@@")]


def judge(found: list[str], expected: list[str] | None) -> str | None:
    """What is wrong with a difference, given the one that the list of exceptions names (``None``: none)."""
    if found == (expected or []):
        return None
    if not found:
        return "it no longer differs: take it off the list of exceptions"
    if expected is None:
        return "it differs without being on the list of exceptions:\n" + "\n".join(found)
    return "it differs otherwise than the list of exceptions says:\n" + "\n".join(
        difflib.unified_diff(expected, found, "listed", "found", lineterm="")
    )


def neutral(text: str, place: SuitePlace, at: ScriptFolder) -> str:
    """Without what differs necessarily: folder names, and process numbers in the one message of the suite with any."""
    for path, name in ((at.bash, "BASH"), (at.folder, "HOME"), (place.folder, "PLACE")):
        text = text.replace(str(path), name)
    return _TERMINAL_OF.sub(r"\1 (PID)", text)


class SuiteRun:
    """Runs scripts in modes, in a thread of its own; :meth:`result` waits for one. A context manager."""

    def __init__(self, wanted: Iterable[tuple[str, Mode]], files: SuiteFiles, binaries: Binaries) -> None:
        """Take note of what to run: pairs of script and mode."""
        self._files = files
        self._binaries = binaries
        self._results: dict[tuple[str, Mode], Future[Result]] = {pair: Future() for pair in wanted}
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run_all()), name="bash-suite")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._everything: asyncio.Task[None] | None = None
        self._begun = threading.Event()
        self.notes: list[str] = []

    def __enter__(self) -> SuiteRun:
        """Start."""
        self._thread.start()
        self._begun.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End what still runs."""
        if self._loop is not None and self._everything is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._everything.cancel)
        self._thread.join()

    def shows_by_itself(self, script: str, seen: Result, mode: Mode, passing: re.Pattern[str] | None) -> bool:
        """Whether the script, run again and again in ``mode``, has ``seen`` as its result once; it is noted then."""
        give_up = time.monotonic() + TRYING
        tries = 0
        while tries < TRIES and time.monotonic() < give_up:
            results = self.repeat(script, mode, AT_ONCE)
            tries += len(results)
            if any(not difference(one, seen, passing) for one in results):
                self.notes.append(f"{script}: plain bash did the same in one of {tries} more runs")
                return True
        return False

    def repeat(self, script: str, mode: Mode, count: int) -> list[Result]:
        """Run a script so many times more."""

        async def run_all() -> list[Result]:
            return await asyncio.gather(*(self._in_turn(script, mode) for _ in range(count)))

        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(run_all(), self._loop).result()

    def result(self, script: str, mode: Mode) -> Result:
        """Wait for a script's result in a mode.

        Raises:
            Exception: Whatever kept it from running.
        """
        return self._results[script, mode].result()

    def summary(self) -> list[str]:
        """A line a mode: how many scripts there were, and how many of their execs were asked about and escalated."""
        lines = []
        for mode in MODES:
            futures = [future for (_, each), future in self._results.items() if each == mode]
            results = [future.result() for future in futures if future.done() and future.exception() is None]
            asked, escalated = sum(len(one.asked) for one in results), sum(one.escalated for one in results)
            lines.append(f"{mode}: {len(results)} scripts, {asked} execs asked about, {escalated} escalated")
        return lines + self.notes

    async def _run_all(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._everything = asyncio.ensure_future(self._run_scripts())
        self._begun.set()
        try:
            await self._everything
        except BaseException as error:  # noqa: BLE001 - whoever waits for a result learns of it
            for future in self._results.values():
                if not future.done():
                    future.set_exception(error if isinstance(error, Exception) else RuntimeError("cancelled"))

    async def _run_scripts(self) -> None:
        with ExitStack() as stack:
            patched = stack.enter_context(suite_place(self._files, self._binaries.bash))
            stock = patched.with_shell(self._binaries.stock)
            self._places: dict[Mode, SuitePlace] = {mode: stock if mode == "stock" else patched for mode in MODES}
            self._threads = stack.enter_context(ThreadPoolExecutor(AT_ONCE + len(SLEEPERS) * len(MODES)))
            self._turns = asyncio.Semaphore(AT_ONCE)
            self._alone: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
            self._runs = itertools.count()
            async with asyncio.TaskGroup() as group:
                for script in sorted({script for script, _ in self._results}, key=lambda name: name not in SLEEPERS):
                    modes = [mode for mode in MODES if (script, mode) in self._results]
                    for mode in modes:
                        group.create_task(self._one(script, mode))
            await asyncio.Event().wait()  # until this is cancelled: some may be wanted again

    async def _one(self, script: str, mode: Mode) -> None:
        future = self._results[script, mode]
        try:
            future.set_result(await self._in_turn(script, mode))
        except Exception as error:  # noqa: BLE001 - it is this script's result
            future.set_exception(error)

    async def _in_turn(self, script: str, mode: Mode) -> Result:
        if script in SLEEPERS:
            return await self._run(script, mode)
        async with self._alone[script], self._turns:
            return await self._run(script, mode)

    async def _run(self, script: str, mode: Mode) -> Result:
        place = self._places[mode]
        at = await self._in_thread(place.lay_out, f"{next(self._runs)}/{script}")
        if mode in _WITHOUT_LOCALES:
            at = replace(at, environ={name: value for name, value in at.environ.items() if name != "LOCPATH"})
        try:
            return await self._outcome(script, mode, place, at)
        finally:
            await self._in_thread(shutil.rmtree, at.folder, True)

    async def _outcome(self, script: str, mode: Mode, place: SuitePlace, at: ScriptFolder) -> Result:
        command = f"{_PRELUDE}\n. ./{script}"
        policy = SuitePolicy(mode=mode, shell=str(at.bash.resolve()))
        if mode in INTERCEPTED:
            status, printed = await self._intercepted(command, at, policy)
        else:
            status, printed = await self._in_thread(_plain, command, at)
        compared = (at.folder / "compared").read_text("utf-8", "backslashreplace")
        return Result(
            status=status,
            printed=neutral(printed, place, at),
            compared=neutral(compared, place, at),
            asked=tuple(policy.asked),
            escalated=policy.escalated,
        )

    async def _intercepted(self, command: str, at: ScriptFolder, policy: SuitePolicy) -> tuple[int, str]:
        environ = {os.fsencode(name): os.fsencode(value) for name, value in at.environ.items()}
        result = await run_escalate_server(
            ExecParams(command=command, workdir=at.tests, login=False, env=environ),
            SandboxState(policy=DangerFullAccess(), cwd=at.tests),
            ShellProgram(path=at.bash, variant="gnu"),
            self._binaries.wrapper,
            Policy(),
            policy,
            PATIENCE,
            supervisor=self._binaries.supervisor,
        )
        if result.timed_out:
            message = f"not ended after {PATIENCE} seconds; it printed: {result.output}"
            raise TimeoutError(message)
        return result.exit_code, result.output

    async def _in_thread(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Not asyncio.to_thread: the server's own use of that must not wait for a script that sleeps."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def _plain(command: str, at: ScriptFolder) -> tuple[int, str]:
    """What the server does, without supervisor and wrapper."""
    with (at.folder / "printed").open("w+b") as printed:
        process = subprocess.Popen(
            ["bash", "-c", command],
            executable=at.bash,
            cwd=at.tests,
            env=at.environ,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            start_new_session=True,
        )
        code = wait_and_end(process, PATIENCE)
        printed.seek(0)
        said = printed.read().decode("utf-8", "replace")
    if code is None:
        message = f"not ended after {PATIENCE} seconds; it printed: {said}"
        raise TimeoutError(message)
    return code if code >= 0 else 128 - code, said
