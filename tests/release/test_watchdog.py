"""A run of the tests ends, whatever a test does to its process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.watchdog import children, state

CONFTEST = """
from support.watchdog import Watchdog
def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Watchdog(12))
"""

TESTS = """
import os, signal, time
def test_stopped():
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(1000)
def test_other():
    pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no /proc by which the watchdog finds the workers")
def test_a_stopped_worker_is_named_and_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "1", "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "State: T (stopped)" in done.stderr
    assert "in test_stopped" in done.stderr, "where it was"
    assert "crashed while running 'test_it.py::test_stopped'" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    assert "No such file" in state(2**22 + 1)
    assert children(2**22 + 1) == []
