"""A run of the tests ends, whatever a test does to its process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import children
from support.watchdog import state

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


HANGING = """
import time
import pytest
@pytest.fixture
def hangs():
    yield
    time.sleep(1000)
def test_failed(hangs):
    raise AssertionError("first")
def test_other():
    pass
"""


def run(folder: Path, tests: str, *settings: str) -> subprocess.CompletedProcess[str]:
    """Run these tests in a worker."""
    (folder / "test_it.py").write_text(tests)
    (folder / "pytest.ini").write_text("\n".join(["[pytest]", *settings, ""]))
    path = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "1", "test_it.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no /proc by which the watchdog finds the workers")
def test_a_stopped_worker_is_named_and_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    done = run(tmp_path, TESTS)
    assert done.returncode == 1
    assert "State: T (stopped)" in done.stderr
    assert "in test_stopped" in done.stderr, "where it was"
    assert "crashed while running 'test_it.py::test_stopped'" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


def test_the_end_of_a_failed_tests_fixture_does_not_hang(tmp_path: Path) -> None:
    """By this project's own conftest.py: what takes a failed test's limit away has it given back."""
    shutil.copy(Path(__file__).parents[1] / "conftest.py", tmp_path)
    done = run(tmp_path, HANGING, "timeout = 5", "faulthandler_timeout = 10", "faulthandler_exit_on_timeout = true")
    assert done.returncode == 1
    assert "in hangs" in done.stderr, "where it was"
    assert "crashed while running 'test_it.py::test_failed'" in done.stdout
    assert "1 passed" in done.stdout, "the run goes on"


def test_what_is_not_there_is_said() -> None:
    assert "No such file" in state(2**22 + 1)
    assert children(2**22 + 1) == []
