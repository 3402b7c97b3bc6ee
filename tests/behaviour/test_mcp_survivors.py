"""However a call ends, nothing it has started is left: each way to end, each way to stay behind.

All ways to stay behind are tried in one call, for each is looked for by itself, before the end and after.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.marked import marking, processes, supervisors, waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.clients import Installation, Raw

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")

RULES = """
prefix_rule(pattern=["env", "ESCALATED=1"], decision="allow")
prefix_rule(pattern=["env", "PENDING=1"], decision="prompt")
"""

KINDS = {
    "pending approval": "env PENDING=1 sleep 1000 &",
    "grandchild": "sh -c 'sleep 1001; :' &",
    "setsid": "setsid -f sleep 1002",
    "nohup": "nohup sleep 1003 > /dev/null 2>&1 &",
    "double fork": "( ( sleep 1004 & ) & )",
    "background job": "sleep 1005 &",
    "escalated child": "env ESCALATED=1 sleep 1006 &",
    "escalated child's own": "env ESCALATED=1 sh -c 'setsid -f sleep 1007' &",
    "stopped": "sh -c 'kill -STOP $$; exec sleep 1008' &",
    "plain child": "sleep 1009",
}
"""Kind → how a script makes one. What is pending stops the clock, so it comes first; the last one is waited for."""

ANSWERED_WITHIN, LIMIT = 5, 5000
"""Seconds for the approval, during which the clock stands still; milliseconds for the rest of a call that times out."""


def started(mark: str) -> bytes:
    """The arguments of what the script has started: that, unlike the shell, has the mark in its environment."""
    arguments = b""
    for folder in processes(mark).values():
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                arguments += (folder / "cmdline").read_bytes().replace(b"\0", b" ") + b"\n"
    return arguments


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def script(mark: str, *left_out: str) -> str:
    lines = [line for kind, line in KINDS.items() if kind not in left_out]
    return "\n".join((f"export LIFETIME_MARK={mark}", *lines))


def all_there(mark: str, *left_out: str) -> bool:
    """Whether one of each kind runs; the pending one as what asks for it."""
    seen = started(mark)
    return all(f"sleep {1000 + number}".encode() in seen for number, kind in enumerate(KINDS) if kind not in left_out)


def assert_nothing_left(mark: str) -> None:
    wait_for(lambda: not processes(mark), "something is left")
    assert not processes(mark)  # nor does it come back


@pytest.fixture
def mark() -> Iterator[str]:
    with marking("lifetime") as word:
        yield word


@pytest.fixture
def asking(installation: Installation) -> Installation:
    installation.rules(RULES)
    return installation


@contextlib.contextmanager
def busy(installation: Installation, mark: str, *left_out: str, ending: str = "") -> Iterator[Raw]:
    """A server in the middle of a call that has started all kinds, with a client that never answers a question."""
    with installation.raw(elicitation={}) as server:
        server.send(server.call(1, f"{script(mark, *left_out)}\n{ending}"))
        wait_for(lambda: all_there(mark, *left_out), "not all has started")
        yield server


def the_only_one(server: Raw) -> int:
    """The supervisor of the one call; another one may be starting, to wait for the next."""
    wait_for(lambda: len(supervisors(server.process.pid)) == 1, "there is not one supervisor")
    return supervisors(server.process.pid)[0]


def answer(server: Raw) -> dict[str, Any]:
    """The answer to the call; requests for approval and their cancellation are passed over."""
    while True:
        message = server.receive()
        if message.get("id") == 1 and "method" not in message:
            return message


def result(server: Raw) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(answer(server)["result"]["content"][0]["text"])
    return told


def test_timeout(asking: Installation, mark: str) -> None:
    asking.options += ("--approval-timeout", str(ANSWERED_WITHIN))
    with asking.raw(elicitation={}) as server:
        server.send(server.call(1, script(mark), timeout_ms=LIMIT))
        told = result(server)
        assert (told["timed_out"], told["exit_code"]) == (True, 124)
        assert told["ended_processes"] >= len(KINDS) - 1  # all but the one whose time for an answer was up
        assert "Nobody answered the request for approval" in told["output"]
        assert_nothing_left(mark)


def test_cancellation(asking: Installation, mark: str) -> None:
    with busy(asking, mark) as server:
        server.send({"method": "notifications/cancelled", "params": {"requestId": 1}})
        assert_nothing_left(mark)
        assert server.process.poll() is None
        wait_for(lambda: supervisors(server.process.pid) == [], "a supervisor is left")


def test_end_of_stdin(asking: Installation, mark: str) -> None:
    with busy(asking, mark) as server:
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.process.wait(60) == 0
        assert_nothing_left(mark)


CLIENT = """
import json, subprocess, sys, time
command, messages = json.load(open(sys.argv[1]))
server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
for message in messages:
    server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\\n")
    server.stdin.flush()
    if message.get("id") == 0:
        server.stdout.readline()
time.sleep(1000)
"""


def test_killed_client(asking: Installation, mark: str) -> None:
    about = {"name": "x", "version": "1"}
    hello = {"protocolVersion": "2025-06-18", "capabilities": {"elicitation": {}}, "clientInfo": about}
    given = {"command": script(mark), "workdir": str(asking.workdir), "login": False}
    messages = (
        {"id": 0, "method": "initialize", "params": hello},
        {"method": "notifications/initialized"},
        {"id": 1, "method": "tools/call", "params": {"name": "shell", "arguments": given}},
    )
    plan = asking.home / "plan"
    plan.write_text(json.dumps((asking.command(), messages)))
    with subprocess.Popen([sys.executable, "-I", "-c", CLIENT, plan], env=asking.environment()) as client:
        try:
            wait_for(lambda: all_there(mark), "not all has started")
        finally:
            client.kill()
    assert_nothing_left(mark)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signal_to_the_server(asking: Installation, mark: str, number: signal.Signals) -> None:
    with busy(asking, mark) as server:
        server.process.send_signal(number)
        assert server.process.wait(60) == -number
        assert_nothing_left(mark)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signal_to_the_supervisor(asking: Installation, mark: str, number: signal.Signals) -> None:
    """Scripts without a sandbox and escalated programs can send one; the server ends what is left and reaps it."""
    with busy(asking, mark) as server:
        supervisor = the_only_one(server)
        os.kill(supervisor, number)
        assert_nothing_left(mark)
        told = answer(server)["result"]
        assert told["isError"] == (number == signal.SIGKILL)
        assert "killed" in str(told) or '"exit_code":137' in str(told)
        wait_for(lambda: supervisors(server.process.pid) == [], "not reaped")
        server.send(server.call(1, "echo alive"))
        assert result(server)["output"] == "alive\n"


@pytest.mark.parametrize("how", ["cancelled", "killed"])
def test_stopped_supervisor(asking: Installation, mark: str, how: str) -> None:
    with busy(asking, mark) as server:
        supervisor = the_only_one(server)
        os.kill(supervisor, signal.SIGSTOP)
        if how == "killed":
            server.process.kill()
        else:
            server.send({"method": "notifications/cancelled", "params": {"requestId": 1}})
        assert_nothing_left(mark)
        wait_for(lambda: not Path(f"/proc/{supervisor}/cmdline").exists(), "the supervisor is left")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP])
def test_signal_to_a_supervisor_that_waits(asking: Installation, number: signal.Signals) -> None:
    """The next call has another one, or it goes on."""
    with asking.raw() as server:
        for _ in range(3):
            server.send(server.call(1, "echo hi"))
            assert result(server)["output"] == "hi\n"
            wait_for(lambda: len(waiting(server.process.pid)) == 1, "it does not wait")
            (pid,) = waiting(server.process.pid)
            os.kill(pid, number)
            if number != signal.SIGSTOP:
                wait_for(lambda: not waiting(server.process.pid), "it is still there")
        server.process.terminate()
        server.process.wait(60)
        wait_for(lambda: not Path(f"/proc/{pid}/cmdline").exists(), "the supervisor is left")


def test_the_same_supervisor_has_one_call_after_the_other(asking: Installation, mark: str) -> None:
    """Until a call leaves something that has to be ended."""
    with asking.raw() as server:

        def told(script: str, **arguments: Any) -> dict[str, Any]:
            server.send(server.call(1, script, **arguments))
            return result(server)

        first, second = (told("echo $PPID; env ESCALATED=1 true; exit 3") for _ in range(2))
        assert first["output"] == second["output"]
        assert first["exit_code"] == second["exit_code"] == 3
        assert told(f"echo $PPID; M={mark} sleep 1000 & exit 4")["ended_processes"] == 1
        assert told("echo $PPID")["output"] != first["output"]
        assert told(f"echo $PPID; M={mark} sleep 1000", timeout_ms=500)["timed_out"]
        last = told("echo $PPID; true & exit 5", background="keep")
        assert last["exit_code"] == 5
        wait_for(lambda: supervisors(server.process.pid) == [], "one is left that has no call")
        assert_nothing_left(mark)
        assert int(first["output"]) not in waiting(server.process.pid)


def test_shell_that_ends(asking: Installation, mark: str) -> None:
    """In order: what it leaves is ended, and the result says how much that was."""
    ending = "until [ -e go ]; do sleep 0.01; done"
    with busy(asking, mark, "plain child", ending=ending) as server:
        (server.workdir / "go").touch()
        told = result(server)
        assert (told["timed_out"], told["exit_code"]) == (False, 0)
        assert told["ended_processes"] >= len(KINDS) - 1
        assert_nothing_left(mark)


def test_confined(confined: Installation, mark: str) -> None:
    """In the sandbox it is no different."""
    confined.rules(RULES)
    with busy(confined, mark) as server:
        server.process.kill()
        assert_nothing_left(mark)
