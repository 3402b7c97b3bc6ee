"""What the server itself ends: see also tests/behaviour/test_mcp_survivors.py."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from codex_shell_tool_mcp.process import tree

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="compares with /proc")


def test_a_signal_reaches_that_very_process_only() -> None:
    """Not one that has got its number since."""
    with subprocess.Popen(["sleep", "1000"]) as child:
        found = tree._read(Path(f"/proc/{child.pid}"))
        assert found is not None
        assert (found.pid, found.parent, found.session) == (child.pid, os.getpid(), os.getsid(0))
        replace(found, started=found.started - 1).signal(signal.SIGKILL)
        found.signal(signal.SIGTERM)
        assert child.wait(60) == -signal.SIGTERM
        found.signal(signal.SIGKILL)  # nobody's any more


def test_without_descriptors_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 5.3 and on macOS."""
    monkeypatch.delattr(os, "pidfd_open")
    with subprocess.Popen(["sleep", "1000"]) as child:
        found = tree._read(Path(f"/proc/{child.pid}"))
        assert found is not None
        found.signal(signal.SIGTERM)
        assert child.wait(60) == -signal.SIGTERM


@pytest.mark.skipif(shutil.which("/bin/ps") is None, reason="there is no ps here")
def test_ps_tells_the_same() -> None:
    listed = {process.pid: process for process in tree._listed_by_ps()}
    found = tree._read(Path(f"/proc/{os.getpid()}"))
    assert found is not None
    assert listed[os.getpid()] == replace(found, started=0, state=listed[os.getpid()].state)


@pytest.mark.parametrize("proc", ["/proc", "/no/such/folder"])
def test_a_dead_supervisors_session_is_ended(proc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if proc != "/proc" and shutil.which("/bin/ps") is None:
        pytest.skip("there is no ps here")
    monkeypatch.setattr(tree, "_PROC", Path(proc))
    if proc != "/proc":
        monkeypatch.delattr(os, "pidfd_open")
    script = "sleep 1000 & (trap '' TERM; sleep 1000; :) & echo ready; wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True) as leader:
        assert leader.stdout is not None
        assert leader.stdout.readline() == b"ready\n"
        assert tree.end_left_by(leader, None) >= 2
        assert leader.stdout.read() == b""  # all writers are gone
        assert leader.wait(60) == -signal.SIGKILL


def test_supervisors_that_live_are_left_alone() -> None:
    """And so is every other child of this process, in whose session nobody can put himself."""
    with (
        subprocess.Popen(["sleep", "1000"], start_new_session=True) as other,
        subprocess.Popen(["sleep", "1000"]) as helper,
        subprocess.Popen(["sleep", "1000"], start_new_session=True) as dead,
    ):
        tree.SUPERVISORS.update({other.pid: other, dead.pid: dead})
        try:
            assert tree.end_left_by(dead, None) == 0
            assert (other.poll(), helper.poll()) == (None, None)
        finally:
            tree.reaped(dead)
            tree.reaped(other)
            other.kill()
            helper.kill()
    assert not {other.pid, dead.pid} & set(tree.SUPERVISORS)


def test_a_number_that_is_anothers_by_now_is_not_forgotten() -> None:
    with subprocess.Popen(["true"]) as first, subprocess.Popen(["true"]) as second:
        tree.SUPERVISORS[first.pid] = second
        tree.reaped(first)
        assert tree.SUPERVISORS.pop(first.pid) is second


def test_what_was_there_before_a_supervisor_is_none_of_its() -> None:
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as other:
        time.sleep(0.05)  # the kernel counts in hundredths of a second
        with subprocess.Popen(["sleep", "1000"], start_new_session=True) as supervisor:
            assert tree.end_left_by(supervisor, None) == 0
        assert other.poll() is None
        other.kill()
