"""The same script in a stock shell, with every exec run, and with every exec escalated: through the real server.

All three are calls of :func:`run_escalate_server`, so that supervisor, session, environment and descriptors are alike
and what differs is due to interception. A stock shell takes no notice of ``EXEC_WRAPPER``.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from codex_shell_tool_mcp.escalation.params import ExecParams
from codex_shell_tool_mcp.escalation.policy import Escalate, EscalateAction, ExecRequest, Run
from codex_shell_tool_mcp.escalation.server import run_escalate_server
from codex_shell_tool_mcp.execpolicy.rules import Policy
from codex_shell_tool_mcp.sandbox.spec import DangerFullAccess, SandboxState
from codex_shell_tool_mcp.shells.catalog import ShellProgram
from support.built import built
from system.bash_support.programs import program
from system.bash_support.records import WRAPPER_VARIABLES, Record, read_records
from system.test_bash_patch_errors import SETUP

if TYPE_CHECKING:
    from codex_shell_tool_mcp.escalation.stopwatch import Stopwatch
    from codex_shell_tool_mcp.shells.catalog import ShellName

Mode = Literal["stock", "run", "escalate"]

PATIENCE = 60.0
"""Seconds until a call that does not end is a failure."""

STARTER = Path("/bin/bash")
"""What opens the streams in a call of zsh; never escalated."""

_START = 'cd work && exec "$TESTED_SHELL" ./script one "two  words" >../stdout 2>../stderr 500>../records </dev/null'
"""Streams of its own, so that stdout and stderr are compared each for itself; 500 is where recorder.c writes."""

_START_ZSH = f"exec {shlex.quote(str(STARTER))} -c {shlex.quote(_START.replace(' ./script', ' -f ./script'))}"
"""In zsh's language a redirection has one digit."""

_PID = re.compile(rb"(: line \d+:) +\d+ (?=[A-Z])")
_SOCKET = re.compile(rb"(\d+) 0 140000 ")


@dataclass(kw_only=True)
class Everything:
    """A policy that escalates everything but the shell itself, or, given names, what is called so; or nothing."""

    mode: Mode
    shell: Path
    names: frozenset[str] = frozenset()
    asked: list[ExecRequest] = field(default_factory=list)

    def create_policy(self, policy: Policy, stopwatch: Stopwatch) -> Everything:
        """As an EscalationPolicyFactory."""
        return self

    async def determine_action(self, request: ExecRequest) -> EscalateAction:
        """As an EscalationPolicy."""
        self.asked.append(request)
        if self.names:
            wanted = os.path.basename(request.program) in self.names  # noqa: PTH119 - a name in a request, not a path here
        else:
            wanted = request.resolved != os.path.realpath(self.shell) and request.file != str(STARTER)
        return Escalate() if self.mode == "escalate" and wanted else Run()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a script; ``asked`` are the execs that were asked about."""

    status: int
    stdout: bytes
    stderr: bytes
    records: list[Record]
    asked: tuple[ExecRequest, ...]

    @property
    def visible(self) -> tuple[int, bytes, bytes]:
        """What a user sees; the process ids in messages about signals are not compared."""
        return self.status, self.stdout, _PID.sub(rb"\1 PID ", self.stderr)

    @property
    def started(self) -> list[object]:
        """What programs were started with, but for the wrapper's variables, its descriptor, and numbers of inodes."""
        return [_without_wrapper(record) for record in self.records]

    @property
    def all(self) -> tuple[object, ...]:
        """Everything that is compared."""
        return *self.visible, self.started


def _without_wrapper(record: Record) -> tuple[object, ...]:
    number = (
        record.value(b"CODEX_ESCALATE_SOCKET") or b"1023"
    )  # `exec -c` takes the variable from stock bash's programs
    descriptors = []
    for line in record.descriptors:
        socket = _SOCKET.match(line)
        if socket is None or socket[1] != number:
            descriptors.append(line.rpartition(b" ")[0])
    env = [entry for entry in record.env if not entry.startswith(WRAPPER_VARIABLES)]
    return record.argv, env, descriptors, record.rest


@dataclass(kw_only=True)
class Stage:
    """A folder in which scripts run, each in a fresh copy of ``work`` filled by SETUP.

    The shell is reached by the same path whatever it is: bash shows its path in messages, ``$BASH`` and ``$_``.
    """

    folder: Path
    kind: ShellName = "bash"

    def __post_init__(self) -> None:
        (self.folder / "bin").mkdir(parents=True)
        self.shell = self.folder / "bin" / self.kind
        self.recorder = self.folder / "bin" / "recorder"
        self.work = self.folder / "work"
        self._template = self.folder / "template"
        self._template.mkdir()
        shutil.copy(program("recorder"), self.recorder)
        setup = f"RECORDER={self.recorder}; PYTHON={sys.executable}\n{SETUP}"
        subprocess.run(["/bin/sh", "-ec", setup], cwd=self._template, check=True)
        # What may not be read, may not be copied either, but by root.
        modes = {path: path.lstat().st_mode for path in self._template.rglob("*") if path.is_file()}
        self._unreadable = {path: mode for path, mode in modes.items() if not mode & stat.S_IRUSR}
        for path, bits in self._unreadable.items():
            path.chmod(bits | stat.S_IRUSR)

    def environment(self) -> dict[bytes, bytes]:
        """What the shell starts with, but for the wrapper's variables."""
        return {
            b"PATH": os.fsencode(self.folder / "bin") + b":/usr/bin:/bin",
            b"HOME": os.fsencode(self.work),
            b"LC_ALL": b"C",
            b"TESTED_SHELL": os.fsencode(self.shell),
        }

    def run(self, mode: Mode, script: str | bytes, *, names: frozenset[str] = frozenset()) -> Outcome:
        """Run ``script`` with the arguments ``one`` and ``two  words``; with ``names``, only these are escalated."""
        self.prepare(mode, script)
        policy = Everything(mode=mode, shell=getattr(built(), self.kind), names=names)
        result = asyncio.run(
            run_escalate_server(
                ExecParams(
                    command=_START if self.kind == "bash" else _START_ZSH,
                    workdir=self.folder,
                    login=False,
                    env=self.environment(),
                ),
                SandboxState(policy=DangerFullAccess(), cwd=self.folder),
                ShellProgram(path=self.shell, variant="gnu", shell=self.kind),
                built().wrapper,
                Policy(),
                policy,
                PATIENCE,
                supervisor=built().supervisor,
            )
        )
        outcome = Outcome(
            status=result.exit_code,
            stdout=(self.folder / "stdout").read_bytes(),
            stderr=(self.folder / "stderr").read_bytes(),
            records=read_records(self.folder / "records"),
            asked=tuple(policy.asked),
        )
        assert not result.timed_out, (mode, outcome.visible)
        assert result.output == ""
        assert bool(outcome.asked) == (mode != "stock")
        return outcome

    def prepare(self, mode: Mode, script: str | bytes) -> None:
        """Fill the folder anew, and let the shell's path lead to what ``mode`` wants."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self._template, self.work, symlinks=True)
        for path, bits in self._unreadable.items():
            (self.work / path.relative_to(self._template)).chmod(bits)
        (self.work / "script").write_bytes(script.encode() if isinstance(script, str) else script)
        for name in ("stdout", "stderr", "records"):
            (self.folder / name).write_bytes(b"")
        self.shell.unlink(missing_ok=True)
        self.shell.symlink_to(getattr(built(), f"{self.kind}_stock" if mode == "stock" else self.kind))


def sections(path: Path) -> dict[str, str]:
    """The scripts of a table by their names: ``== NAME``, then the script."""
    found = (section.partition("\n") for section in path.read_text(encoding="utf-8").split("\n== ")[1:])
    return {name: script.strip("\n") for name, _, script in found}
