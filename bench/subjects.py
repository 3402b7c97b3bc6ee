"""What the loops are run in: plain bash and the servers, each as a thing that runs scripts and returns at their end."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bench.client import Answer, Client, Script
from bench.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OPEN = "danger-full-access"
"""The policy under which both servers start bash without a sandbox: the original has none of its own on Linux."""


class Subject(Protocol):
    """Runs scripts."""

    def prepare(self, folder: Path, *, writes: bool) -> None:
        """Whatever has to be said before scripts run in ``folder``; not measured."""
        ...

    def run(self, scripts: Sequence[Script]) -> list[Answer]:
        """Run the scripts, all at once; return when all have ended."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A bash without any server: what the loop itself costs."""

    bash: Path
    environ: Mapping[str, str]

    def prepare(self, folder: Path, *, writes: bool) -> None:
        """Nothing to say."""

    def run(self, scripts: Sequence[Script]) -> list[Answer]:
        """As :class:`Subject` has it. stdin and the pipe for the output are as the servers make them."""
        started = [self._start(script) for script in scripts]
        answers = []
        for process in started:
            output, _ = process.communicate()
            answers.append(Answer(exit_code=process.returncode, output=output.decode(errors="replace")))
        return answers

    def _start(self, script: Script) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(self.bash), "-c", script.text],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(self.environ),
            cwd=script.folder,
        )


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server, under one kind of sandbox policy.

    Attributes:
        confined: Whether scripts run in the server's own sandbox: reading only, or writing in the call's folder.
    """

    client: Client
    confined: bool = False

    def prepare(self, folder: Path, *, writes: bool) -> None:
        """Send the sandbox state."""
        policy: dict[str, Any] = {"type": OPEN}
        if self.confined:
            policy = {"type": "workspace-write", "network_access": False, "exclude_tmpdir_env_var": False}
            policy = {**policy, "exclude_slash_tmp": False} if writes else {"type": "read-only"}
        self.client.update({"sandboxPolicy": policy, "sandboxCwd": str(folder)})

    def run(self, scripts: Sequence[Script]) -> list[Answer]:
        """As :class:`Subject` has it."""
        return self.client.call(scripts)

    def bash(self, folder: Path) -> Path:
        """The patched bash this server uses."""
        self.prepare(folder, writes=False)
        (answer,) = self.run([Script(text='readlink "/proc/$$/exe" || echo "$BASH"', folder=folder)])
        return Path(answer.output.strip())

    def check(self, folder: Path) -> None:
        """Make sure that this server intercepts, escalates and forbids, so that no figure is of something else.

        Raises:
            BenchError: It does not.
        """
        self.prepare(folder, writes=False)
        (wrapper, mine) = ("printenv EXEC_WRAPPER BASH_EXEC_WRAPPER", "codex-execve-wrapper")
        probes = (
            # The wrapper's variables are there for what runs, and taken from what is escalated (allowed with `--`).
            (f"{wrapper} | tail -n 1; /bin/true && echo ran", rf".*/{mine}\nran\n"),
            (f"{wrapper.replace(' ', ' -- ', 1)}; echo escalated", r"escalated\n"),
            ("/bin/true forbidden 2>/dev/null; echo $?", r"1\n"),
        )
        for text, wanted in probes:
            (answer,) = self.run([Script(text=text, folder=folder)])
            if re.fullmatch(wanted, answer.output) is None:
                raise BenchError(f"the server does not do what is to be measured: {text} printed {answer.output!r}")


def environment(home: Path) -> dict[str, str]:
    """What plain bash and servers are started with: the user's PATH and nothing else of theirs."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "CODEX_HOME": str(home / ".codex"),
        "LANG": "C.UTF-8",
    }
