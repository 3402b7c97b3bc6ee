"""Ends pytest's workers when none of them says anything any more: a stopped one no limit inside it can end.

The controller aborts them, upon which each says where it was (faulthandler), and xdist names the test and goes on.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from support.processes import children

if TYPE_CHECKING:
    import pytest


class Watchdog:
    """A plugin of the controller, whose children are the workers and nothing else.

    Attributes:
        seconds: How long no worker may say anything.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._heard = time.monotonic()
        self._ended = threading.Event()

    def pytest_sessionstart(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, daemon=True).start()

    def pytest_sessionfinish(self) -> None:
        """Watch no more."""
        self._ended.set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A worker has said something."""
        self._heard = time.monotonic()

    def _watch(self) -> None:
        while not self._ended.wait(self.seconds / 20):
            if time.monotonic() - self._heard > self.seconds:
                self._abort()
                self._heard = time.monotonic()

    def _abort(self) -> None:
        for pid in children(os.getpid()):
            told = state(pid)
            sys.stderr.write(f"\nworker {pid} has said nothing for {self.seconds:g} s: {told}\n")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)
                os.kill(pid, signal.SIGCONT)


def state(pid: int) -> str:
    """What the kernel says of the process: lines of its status, and in what it waits (proc(5))."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        waits = Path(f"/proc/{pid}/wchan").read_text(encoding="utf-8")
    except OSError as error:
        return str(error)
    wanted = ("State", "TracerPid", "SigBlk", "ShdPnd")
    return "; ".join([*(" ".join(line.split()) for line in lines if line.startswith(wanted)), f"waits in {waits}"])
