"""What the loops are run in: plain bash and the servers, each as a thing that runs scripts and returns at their end."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bench import processor
from bench.client import Answer, Script
from bench.errors import BenchError
from bench.loops import KEPT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.client import Client

OPEN: Mapping[str, object] = {"type": "danger-full-access"}
"""The policy under which both servers start bash without a sandbox: on Linux the original brings none of its own."""

READING: Mapping[str, object] = {"type": "read-only"}
WRITING: Mapping[str, object] = {
    "type": "workspace-write",
    "network_access": False,
    "exclude_tmpdir_env_var": False,
    "exclude_slash_tmp": False,
}

_CHUNK = 1 << 16
_WRAPPER = "codex-execve-wrapper"
_PROBES = (
    # The wrapper's variables are there for what runs, and taken from what is escalated (the rules allow it with `--`).
    ("printenv EXEC_WRAPPER BASH_EXEC_WRAPPER | tail -n 1; /bin/true && echo ran", rf".*/{_WRAPPER}(-py)?\nran\n"),
    ("printenv -- EXEC_WRAPPER BASH_EXEC_WRAPPER; echo escalated", r"escalated\n"),
    ("/bin/true forbidden 2>/dev/null; echo $?", r"1\n"),
)
"""Scripts and what they must print: proof that there is interception, so that no figure is of something else."""


class Subject(Protocol):
    """Runs scripts."""

    def prepare(self, folder: Path, *, writes: bool) -> None:
        """Whatever has to be said before scripts run in ``folder``; not measured."""
        ...

    def run(self, scripts: Sequence[Script]) -> list[Answer]:
        """Run the scripts, all at once; return when all have ended."""
        ...

    def processor(self) -> float | None:
        """Seconds of processor time used so far, whenever that began; ``None``: not known."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A bash without any server: what the loop itself costs."""

    bash: Path
    environ: Mapping[str, str]

    def prepare(self, folder: Path, *, writes: bool) -> None:
        """Nothing to say."""

    def run(self, scripts: Sequence[Script]) -> list[Answer]:
        """As :class:`Subject` has it; stdin, and a pipe for the output, are as the servers make them."""
        started = [self._start(script) for script in scripts]
        return [_finish(process) for process in started]

    def processor(self) -> float:
        """As :class:`Subject` has it: of every child of this process that has ended; servers end only later."""
        return processor.of_children()

    def _start(self, script: Script) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(self.bash), "-c", script.text],
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(self.environ),
            cwd=script.folder,
            start_new_session=True,  # as both servers do: the kernel may share out its time by sessions (sched(7))
        )


def _finish(process: subprocess.Popen[bytes]) -> Answer:
    """Read to the end and keep as much as the servers do."""
    assert process.stdout is not None
    kept = bytearray()
    with process:
        while data := os.read(process.stdout.fileno(), _CHUNK):
            if len(kept) < KEPT:
                kept += data
    return Answer(exit_code=process.returncode, output=kept.decode(errors="replace"))


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server, under one kind of sandbox policy.

    Attributes:
        client: The connection to it.
        confined: Whether scripts run in the server's own sandbox: they only read, or write in the call's folder and
            in the folders for temporary files.
    """

    client: Client
    confined: bool = False

    def prepare(self, folder: Path, *, writes: bool) -> None:
        """Send the sandbox state."""
        policy = (WRITING if writes else READING) if self.confined else OPEN
        self.client.update({"sandboxPolicy": policy, "sandboxCwd": str(folder)})

    def run(self, scripts: Sequence[Script]) -> list[Answer]:
        """As :class:`Subject` has it."""
        return self.client.call(scripts)

    def processor(self) -> float | None:
        """As :class:`Subject` has it: of the server and all that it started."""
        return processor.of_tree(self.client.process.pid)

    def bash(self, folder: Path) -> Path:
        """The patched bash this server uses; where there is no ``/proc``, as bash itself sees it."""
        output = self._output('readlink "/proc/$$/exe" || echo "$BASH"', folder)
        return Path(output.strip())

    def check(self, folder: Path) -> None:
        """Make sure that this server runs, escalates and forbids.

        Raises:
            BenchError: It does not.
        """
        for text, wanted in _PROBES:
            output = self._output(text, folder)
            if re.fullmatch(wanted, output) is None:
                raise BenchError(f"the server does not do what is to be measured: {text} printed {output!r}")

    def _output(self, text: str, folder: Path) -> str:
        self.prepare(folder, writes=False)
        return self.run([Script(text=text, folder=folder)])[0].output


def environment(home: Path) -> dict[str, str]:
    """What plain bash and servers are started with: the user's PATH and nothing else of theirs."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "CODEX_HOME": str(home / ".codex"),
        "LANG": "C.UTF-8",
    }
