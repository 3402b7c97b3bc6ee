"""zsh's own test suite (``Test/*.ztst``), without interception and through the real escalation server.

Every file is run by the suite's own ``ztst.zsh`` in a copy of the source tree, in which ``../Src/zsh`` is the shell
under test. What is compared is all that it prints, told to be verbose and to go on after a failure: one line a test.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from codex_shell_tool_mcp.escalation.params import ExecParams
from codex_shell_tool_mcp.escalation.policy import Escalate, EscalateAction, ExecRequest, Run
from codex_shell_tool_mcp.escalation.server import run_escalate_server
from codex_shell_tool_mcp.execpolicy.rules import Policy
from codex_shell_tool_mcp.sandbox.spec import DangerFullAccess, SandboxState
from codex_shell_tool_mcp.shells.catalog import ShellProgram
from shell_tool_release.sources import SourceOptions
from shell_tool_release.zsh_source import zsh_source
from support.built import built

if TYPE_CHECKING:
    from codex_shell_tool_mcp.escalation.stopwatch import Stopwatch

Mode = Literal["plain", "stock", "run", "escalate"]
"""The patched shell without interception; stock zsh; every exec run; every exec escalated but the shell's own."""

MODES: tuple[Mode, ...] = get_args(Mode)
LISTS = Path(__file__).parents[1] / "zsh_suite.toml"
AT_ONCE = 4
PATIENCE = 240.0
"""Seconds until a file that does not end is a failure."""

_NUMBERS = re.compile(r"\b\d{3,7}\b")
_COMMAND = "export ZTST_exe=../Src/zsh ZTST_verbose=1 ZTST_continue=1; ../Src/zsh +Z -f ./ztst.zsh ./$FILE"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of one file: the suite's status (0 passed, 1 failed, 2 not for this build) and what it printed."""

    status: int
    lines: tuple[str, ...]
    asked: int = 0
    escalated: int = 0


@dataclass(frozen=True, kw_only=True)
class Lists:
    """``zsh_suite.toml``: files that are not run, and lines that come and go, each with the reason there."""

    left_out: frozenset[str]
    passing: dict[str, re.Pattern[str]]

    @classmethod
    def load(cls) -> Lists:
        """Read the file; every row has a reason."""
        table = tomllib.loads(LISTS.read_text(encoding="utf-8"))
        rows = [*table.get("left_out", []), *table.get("passing", [])]
        assert all(row["reason"] for row in rows)
        return cls(
            left_out=frozenset(row["file"] for row in table.get("left_out", [])),
            passing={row["file"]: re.compile(row["lines"]) for row in table.get("passing", [])},
        )


@dataclass(kw_only=True)
class SuitePolicy:
    """Runs everything, or escalates everything but the shell under test."""

    mode: Mode
    shell: str
    asked: int = 0
    escalated: int = 0

    def create_policy(self, policy: Policy, stopwatch: Stopwatch) -> SuitePolicy:
        """As an EscalationPolicyFactory."""
        return self

    async def determine_action(self, request: ExecRequest) -> EscalateAction:
        """As an EscalationPolicy."""
        self.asked += 1
        if self.mode == "run" or request.resolved == self.shell:
            return Run()
        self.escalated += 1
        return Escalate()


def suite_files() -> tuple[str, ...]:
    """The suite's files, by name."""
    tree = zsh_source(SourceOptions.default()).path
    return tuple(sorted(path.name for path in (tree / "Test").glob("*.ztst")))


def run_suite(files: tuple[str, ...], modes: tuple[Mode, ...]) -> dict[tuple[str, Mode], Result]:
    """Run every file in every mode, several at a time."""
    tree = zsh_source(SourceOptions.default()).path
    with tempfile.TemporaryDirectory(prefix="zs-", dir="/tmp") as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        pending = {
            (file, mode): pool.submit(_one, tree, Path(folder) / f"{file}-{mode}", file, mode)
            for file in files
            for mode in modes
        }
        return {pair: future.result() for pair, future in pending.items()}


def _one(tree: Path, place: Path, file: str, mode: Mode) -> Result:
    _lay_out(tree, place)
    shell = place / "Src" / "zsh"
    chosen = built().zsh_stock if mode == "stock" else built().zsh
    shutil.copyfile(chosen, shell)
    shell.chmod(0o755)
    for name in ("config.h", "config.modules"):
        shutil.copyfile(built_file(name), place / name)
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(place / "Test"), "FILE": file, "TMPPREFIX": str(place / "t")}
    try:
        if mode in {"plain", "stock"}:
            return _plain(shell, place, environ)
        return _intercepted(shell, place, environ, mode)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _lay_out(tree: Path, place: Path) -> None:
    """The source tree: what the tests write to is a copy, the rest are links."""
    (place / "Src").mkdir(parents=True)
    for name in ("Functions", "Completion", "Misc", "Util"):
        (place / name).symlink_to(tree / name)
    for path in (tree / "Src").iterdir():
        (place / "Src" / path.name).symlink_to(path)
    shutil.copytree(tree / "Test", place / "Test")


def built_file(name: str) -> Path:
    """A file that the build of stock zsh left beside it."""
    return built().zsh_stock.parent / name


def _plain(shell: Path, place: Path, environ: dict[str, str]) -> Result:
    done = subprocess.run(
        [shell, "-f", "-c", _COMMAND],
        cwd=place / "Test",
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
        start_new_session=True,
        check=False,
    )
    return Result(status=done.returncode, lines=_lines(done.stdout.decode(errors="replace"), place))


def _intercepted(shell: Path, place: Path, environ: dict[str, str], mode: Mode) -> Result:
    policy = SuitePolicy(mode=mode, shell=str(shell.resolve()))
    result = asyncio.run(
        run_escalate_server(
            ExecParams(
                command=_COMMAND,
                workdir=place / "Test",
                login=False,
                env={os.fsencode(name): os.fsencode(value) for name, value in environ.items()},
            ),
            SandboxState(policy=DangerFullAccess(), cwd=place / "Test"),
            ShellProgram(path=shell, variant="gnu", shell="zsh"),
            built().wrapper,
            Policy(),
            policy,
            PATIENCE,
            supervisor=built().supervisor,
        )
    )
    if result.timed_out:
        message = f"not ended after {PATIENCE} seconds; it printed: {result.output}"
        raise TimeoutError(message)
    lines = _lines(result.output, place)
    return Result(status=result.exit_code, lines=lines, asked=policy.asked, escalated=policy.escalated)


def _lines(text: str, place: Path) -> tuple[str, ...]:
    """Without what differs necessarily: the folder, and numbers of processes."""
    return tuple(_NUMBERS.sub("N", line) for line in text.replace(str(place), "PLACE").splitlines())
