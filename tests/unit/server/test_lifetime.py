"""Ends that the client did not ask for."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from codex_shell_tool_mcp.server import lifetime
from support import sources


def wait_for_parent(parent: int, seconds: float) -> bool:
    async def run() -> bool:
        try:
            await asyncio.wait_for(lifetime.parent_death(parent), seconds)
        except TimeoutError:
            return False
        return True

    return asyncio.run(run())


def test_a_living_parent_is_waited_for() -> None:
    assert not wait_for_parent(os.getppid(), 0.1)


def test_a_living_parent_is_waited_for_where_there_are_no_pidfds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifetime, "_pidfd", lambda process: None)
    monkeypatch.setattr(lifetime, "_POLL_SECONDS", 0.01)
    assert not wait_for_parent(os.getppid(), 0.1)


@pytest.mark.parametrize("number", [0, 1])
def test_a_parent_in_another_namespace_is_never_gone(number: int) -> None:
    assert not wait_for_parent(number, 0.1)


def test_a_parent_that_was_gone_before_it_could_be_watched() -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    assert wait_for_parent(int(gone.stdout), 60)


CHILD = """
import asyncio, os, sys
from codex_shell_tool_mcp.server import lifetime
if sys.argv[1] == "poll":
    lifetime._pidfd = lambda process: None
    lifetime._POLL_SECONDS = 0.02
parent = os.getppid()
os.write(1, b"ready\\n")
asyncio.run(lifetime.parent_death(parent))
os.write(1, b"orphaned\\n")
"""

PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
time.sleep(60)
"""


@pytest.mark.parametrize("way", ["pidfd", "poll"])
def test_a_dying_parent_is_noticed(way: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD, way], stdout=subprocess.PIPE, env=sources.environment()
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        parent.kill()
        assert parent.stdout.readline() == b"orphaned\n"


SERVER = """
import asyncio, os, signal, sys
from codex_shell_tool_mcp.server import lifetime
async def main():
    ending = lifetime.Ending()
    with lifetime.ending_by_signals(ending):
        os.write(1, b"ready\\n")
        await ending.requested.wait()
        os.write(1, b"ending\\n")
        if sys.argv[1] == "slow":
            await asyncio.sleep(60)
    return ending.by_signal
ended_by = asyncio.run(main())
lifetime.die_of(ended_by)
"""


@pytest.mark.parametrize("number", lifetime.ENDING_SIGNALS)
def test_a_signal_ends_in_order_and_shows_in_the_status(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, "quick"], stdout=subprocess.PIPE, env=sources.environment()
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        server.send_signal(number)
        assert server.stdout.readline() == b"ending\n"
        assert server.wait(60) == -number


def test_a_second_signal_ends_at_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, "slow"], stdout=subprocess.PIPE, env=sources.environment()
    ) as server:
        assert server.stdout is not None
        server.stdout.readline()
        server.send_signal(signal.SIGTERM)
        assert server.stdout.readline() == b"ending\n"
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == -signal.SIGINT


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    """As under nohup(1)."""
    with subprocess.Popen(
        ["sh", "-c", 'trap \'\' HUP; exec "$0" -c "$1" quick', sys.executable, SERVER],
        stdout=subprocess.PIPE,
        env=sources.environment(),
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        server.send_signal(signal.SIGHUP)
        server.send_signal(signal.SIGTERM)
        assert server.stdout.readline() == b"ending\n"
        assert server.wait(60) == -signal.SIGTERM
