"""``"background": "keep"``: what becomes of a call's processes when its shell has ended."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.server.approvals import NO_REQUEST
from support.marked import marking, processes, supervisors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.clients import Installation

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")

RULES = """
prefix_rule(pattern=["ls"], decision="forbidden", justification="not this")
prefix_rule(pattern=["env", "ESCALATED=1"], decision="allow")
prefix_rule(pattern=["env", "PENDING=1"], decision="prompt")
"""


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.fixture
def mark() -> Iterator[str]:
    with marking("background") as word:
        yield word


@pytest.fixture
def ruled(installation: Installation) -> Installation:
    installation.rules(RULES)
    return installation


def test_by_default_they_are_ended_and_it_is_said(installation: Installation, mark: str) -> None:
    script = f"export M={mark}; sleep 1000 & setsid -f sleep 1000; echo $?"
    with installation.raw() as server:
        for arguments in ({}, {"background": "end"}, {"background": None}):
            server.send(server.call(1, script, **arguments))
            told = server.result()
            assert (told["output"], told["ended_processes"]) == ("0\n", 2)
            assert "background_processes" not in told
            assert not processes(mark)


def test_kept_ones_go_on_until_they_end(installation: Installation, mark: str) -> None:
    """Their output goes nowhere, and does not hold them up: a pipe is full after 64 KiB, and writing to one that nobody
    reads is death."""
    script = f"""
    export M={mark}
    (until [ -e go ]; do sleep 0.01; done; head -c 1000000 /dev/zero; echo $? > status) &
    echo started; exit 3
    """
    with installation.raw() as server:
        server.send(server.call(1, script, background="keep"))
        told = server.result()
        assert (told["exit_code"], told["output"], told["timed_out"]) == (3, "started\n", False)
        assert told["background_processes"] in {1, 2}  # the loop, and a sleep of its
        assert "ended_processes" not in told
        assert processes(mark)
        server.send(server.call(2, "echo more"))
        assert server.result()["output"] == "more\n"
        assert processes(mark)
        (server.workdir / "go").touch()
        wait_for(lambda: supervisors(server.process.pid) == [], "the supervisor ends with the last of them")
        assert (server.workdir / "status").read_text() == "0\n"
        assert not processes(mark)


def test_nothing_to_keep(installation: Installation) -> None:
    with installation.raw() as server:
        for number in range(1, 20):  # more than are kept at once
            server.send(server.call(number, "echo $(echo hi)", background="keep"))
            told = server.result()
            assert told["output"] == "hi\n"
            assert not {"background_processes", "ended_processes"} & set(told)
        wait_for(lambda: supervisors(server.process.pid) == [], "a supervisor is left")


def test_the_rules_hold_as_long_as_they_live(ruled: Installation, mark: str) -> None:
    script = f"""
    export M={mark}
    (until [ -e go ]; do sleep 0.01; done; exec > told 2>&1
     ls; echo $?
     env ESCALATED=1 sh -c 'echo escalated $EXEC_WRAPPER'; env ESCALATED=1 sh -c 'kill -TERM $$'; echo $?
     env PENDING=1 true; echo $?; touch done) &
    """
    with ruled.raw(elicitation={}) as server:
        server.send(server.call(1, script, background="keep"))
        assert server.result()["background_processes"] >= 1
        (server.workdir / "go").touch()
        wait_for((server.workdir / "done").exists, "it does not go on")
        lines = [line for line in (server.workdir / "told").read_text().splitlines() if "Terminated" not in line]
        assert lines == [
            "Execution denied: Execution forbidden by policy: not this",
            "1",
            "escalated",
            "143",
            f"Execution denied: {NO_REQUEST}",
            "1",
        ]
        wait_for(lambda: supervisors(server.process.pid) == [], "a supervisor is left")


def test_a_question_that_is_open_when_the_call_is_answered(ruled: Installation, mark: str) -> None:
    script = f"export M={mark}; (env PENDING=1 true 2> told; sleep 1000) & until [ -e asked ]; do sleep 0.01; done"
    with ruled.raw(elicitation={}) as server:
        server.send(server.call(1, script, background="keep"))
        assert server.receive()["method"] == "elicitation/create"
        (server.workdir / "asked").touch()
        while "result" not in (message := server.receive()):
            assert message["method"] == "notifications/cancelled"  # of the question
        assert "background_processes" in str(message)
        told = server.workdir / "told"
        wait_for(lambda: "nobody can be asked" in told.read_text(), "it is not denied")


@pytest.mark.parametrize("how", ["stdin", "SIGTERM", "SIGKILL", "supervisor killed"])
def test_kept_ones_end_with_the_server(installation: Installation, mark: str, how: str) -> None:
    script = f"export M={mark}; sleep 1000 & setsid -f sleep 1000; nohup sleep 1000 > /dev/null 2>&1 &"
    with installation.raw() as server:
        server.send(server.call(1, script, background="keep"), server.call(2, script, background="keep"))
        assert [server.result()["background_processes"] for _ in range(2)] == [3, 3]
        wait_for(lambda: len(processes(mark)) == 6, "not all show: one that is being executed has no arguments yet")
        wait_for(lambda: len(supervisors(server.process.pid)) == 2, "there are not two supervisors")
        if how == "stdin":
            assert server.process.stdin is not None
            server.process.stdin.close()
        elif how == "supervisor killed":
            for pid in supervisors(server.process.pid):
                os.kill(pid, signal.SIGKILL)
        else:
            server.process.send_signal(signal.Signals[how])
        wait_for(lambda: not processes(mark), "something is left")
        if how == "supervisor killed":
            wait_for(lambda: supervisors(server.process.pid) == [], "not reaped")
            server.send(server.call(3, "echo alive"))
            assert server.result()["output"] == "alive\n"


@pytest.mark.parametrize("how", ["timeout", "cancelled"])
def test_a_call_that_does_not_end_by_itself_keeps_nothing(installation: Installation, mark: str, how: str) -> None:
    script = f"export M={mark}; setsid -f sleep 1000; sleep 1000"
    with installation.raw() as server:
        server.send(server.call(1, script, background="keep", timeout_ms=5_000 if how == "timeout" else 30_000))
        if how == "timeout":
            told = server.result()
            assert (told["timed_out"], told["ended_processes"]) == (True, 2)
            assert "background_processes" not in told
        else:
            wait_for(lambda: len(processes(mark)) == 2, "not started")
            server.send({"method": "notifications/cancelled", "params": {"requestId": 1}})
        wait_for(lambda: not processes(mark), "something is left")
        wait_for(lambda: supervisors(server.process.pid) == [], "a supervisor is left")


@pytest.mark.parametrize("background", ["end", "keep"])
def test_jobs_that_start_while_the_shell_ends(installation: Installation, mark: str, background: str) -> None:
    """None is overlooked: all are counted or ended."""
    script = f"export M={mark}; ( ( ( sleep 1000 & ) & ) & ) & exit 0"
    with installation.raw() as server:
        for number in range(1, 13):
            server.send(server.call(number, script, background=background))
            told = server.result()
            counted = told.get("background_processes" if background == "keep" else "ended_processes", 0)
            assert counted >= 1
        assert bool(processes(mark)) == (background == "keep")
        assert server.process.stdin is not None
        server.process.stdin.close()
        wait_for(lambda: not processes(mark), "something is left")


def test_no_more_than_so_many(installation: Installation, mark: str) -> None:
    script = f"export M={mark}; sleep 1000 & exit"
    with installation.raw() as server:
        server.send(*(server.call(number, script, background="keep") for number in range(1, 18)))
        answers = [server.receive()["result"] for _ in range(17)]
        (refused,) = [answer for answer in answers if answer["isError"]]
        assert "16 calls keep background processes already" in refused["content"][0]["text"]
        os.kill(next(pid for pid in processes(mark)), signal.SIGKILL)
        wait_for(lambda: len(supervisors(server.process.pid)) == 15, "its supervisor ends")
        server.send(server.call(18, script, background="keep"))
        assert server.result()["background_processes"] == 1
