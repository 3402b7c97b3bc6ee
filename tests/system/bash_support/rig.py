"""Runs a script in a shell that is intercepted, or could be, and keeps what came of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from support.built import built
from system.bash_support.programs import program, wrapper_deciding
from system.bash_support.records import Record, read_records

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

RECORD_FD = 500
"""As in recorder.c: no number that a script of these tests uses."""
SOCKET_TOP = 1024
PATIENCE = 100
"""Seconds until a shell that does not end is a failure."""

_PID = re.compile(rb"(: line \d+:) +\d+ (?=[A-Z])")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a shell ended; ``status`` is negative for a signal."""

    status: int
    stdout: bytes
    stderr: bytes
    records: list[Record]

    @property
    def visible(self) -> tuple[int, bytes, bytes]:
        """What a user sees; the process ids in messages about signals are not compared."""
        return self.status, self.stdout, _PID.sub(rb"\1PID ", self.stderr)


@dataclass(kw_only=True)
class Rig:
    """A folder with the shell, ``recorder`` and a wrapper, and the client end of a socket at a fixed number.

    The shell is reached by the same path whatever it is, because it shows its path in messages, ``$BASH`` and ``$_``.
    """

    folder: Path
    kind: Literal["bash", "zsh"] = "bash"
    decision: str = "pass"
    wrapper: Path | None = None
    environ: dict[bytes, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home = self.folder / "work"
        self.home.mkdir(parents=True)
        (self.folder / "bin").mkdir()
        self.shell = self.folder / "bin" / self.kind
        self.recorder = self.folder / "bin" / "recorder"
        shutil.copyfile(program("recorder"), self.recorder)
        self.recorder.chmod(0o755)
        if self.wrapper is None:
            self.wrapper = wrapper_deciding(self.decision, self.folder)
        self.server, client = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.number = _high_number(client.fileno())
        self.inode = os.fstat(self.number).st_ino
        client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close both ends of the socket."""
        os.close(self.number)
        self.server.close()

    @property
    def base_environ(self) -> dict[bytes, bytes]:
        """A small environment in which stock and patched shell start alike."""
        return {
            b"PATH": os.fsencode(self.recorder.parent) + b":/usr/bin:/bin",
            b"HOME": os.fsencode(self.home),
            b"LC_ALL": b"C",
            b"EXEC_WRAPPER": os.fsencode(str(self.wrapper)),
            b"CODEX_ESCALATE_SOCKET": str(self.number).encode(),
            b"TMPPREFIX": os.fsencode(self.folder / "temporary"),  # zsh's, which a killed one leaves
            **self.environ,
        }

    @property
    def asked(self) -> list[str]:
        """What the pass_wrapper of this rig was called for, as ``run FILE`` or ``ask FILE``; forgets it."""
        log = self.folder / f"{self.decision}.log"
        lines = log.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        log.write_bytes(b"")
        return lines

    def use(self, shell: Path) -> Path:
        """Let the rig's path of the shell lead to ``shell``."""
        self.shell.unlink(missing_ok=True)
        self.shell.symlink_to(shell)
        return self.shell

    def run(
        self,
        shell: Path,
        script: bytes | str,
        *arguments: str,
        options: tuple[str, ...] = (),
        environ: Mapping[bytes, bytes | None] | None = None,
        stdin: bytes = b"",
        setup: str = "",
    ) -> Outcome:
        """Run ``script`` from a file, under the name ``script``, in a fresh copy of the work folder.

        ``environ`` adds to, or with None takes from, :attr:`base_environ`. ``setup`` are commands for /bin/sh that
        fill the folder.
        """
        self._empty_home()
        if setup:
            subprocess.run(["/bin/sh", "-ec", setup], cwd=self.home, check=True)
        (self.home / "script").write_bytes(script.encode() if isinstance(script, str) else script)
        variables: dict[bytes, bytes | None] = {**self.base_environ, **(environ or {})}
        records = self.folder / "records"
        with records.open("wb+") as stream:
            status, stdout, stderr = self._start(
                [str(self.use(shell)), *options, "script", *arguments],
                {name: value for name, value in variables.items() if value is not None},
                stream.fileno(),
                stdin,
            )
        return Outcome(status=status, stdout=stdout, stderr=stderr, records=read_records(records))

    def _empty_home(self) -> None:
        shutil.rmtree(self.home)
        self.home.mkdir()

    def _start(
        self, command: list[str], environ: dict[bytes, bytes], record_fd: int, stdin: bytes
    ) -> tuple[int, bytes, bytes]:
        os.dup2(record_fd, RECORD_FD, inheritable=True)
        process = subprocess.Popen(
            command,
            cwd=self.home,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(RECORD_FD, self.number),
            umask=0o022,
            start_new_session=True,
        )
        os.close(RECORD_FD)
        try:
            stdout, stderr = process.communicate(stdin, timeout=PATIENCE)
        finally:
            _kill_group(process)
        return process.returncode, stdout, stderr

    def both(self, script: bytes | str, *arguments: str, **how: object) -> tuple[Outcome, Outcome]:
        """The script in the stock shell and in the patched one, everything else equal."""
        stock = self.run(getattr(built(), f"{self.kind}_stock"), script, *arguments, **how)  # type: ignore[arg-type]
        patched = self.run(getattr(built(), self.kind), script, *arguments, **how)  # type: ignore[arg-type]
        return stock, patched


def _high_number(descriptor: int) -> int:
    """A duplicate of ``descriptor`` where the supervisor would put it: high, but below 1024, and inheritable."""
    soft = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], SOCKET_TOP)
    for number in range(soft - 1, soft - 100, -1):
        duplicate = fcntl.fcntl(descriptor, fcntl.F_DUPFD, number)
        if duplicate == number:
            return number
        os.close(duplicate)
    message = "no high descriptor number is free"
    raise AssertionError(message)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Nothing of the script's session group is left, whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
