"""Stops and continues of escalated programs: the program's, the wrapper's, and the shell's view of both."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from codex_shell_tool_mcp.escalation import wire
from native.calls import Call, attached, is_alive, supervised, wait_until
from support.processes import run_state
from system.bash_support.programs import program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CATCHES = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)

SAYS = {signal.SIGUSR1: b"got SIGUSR1", signal.SIGUSR2: b"got SIGUSR2"}


@dataclass(kw_only=True)
class Pair:
    """A wrapper and its program, and the terminal that they share, if they do."""

    call: Call
    wrapper: int
    child: int
    master: int = -1

    def told(self, text: bytes) -> int:
        """How often the program has said so."""
        return self.call.printed().count(text)

    def wait_for_stop(self) -> None:
        """Wait until both are stopped."""
        wait_until(lambda: (run_state(self.wrapper), run_state(self.child)) == ("T", "T"), "not stopped")

    def wait_for_count(self, text: bytes, count: int) -> None:
        """Wait until the program has said so, so often."""
        wait_until(lambda: self.told(text) >= count, f"{text!r} was not said {count} times")

    def stop(self) -> None:
        """Type ^Z."""
        os.write(self.master, b"\x1a")

    def group(self, number: signal.Signals) -> None:
        """Send a signal to both, as a shell does to its job."""
        os.killpg(os.getpgid(self.wrapper), number)

    def both_go_on(self) -> None:
        """See that the wrapper passes signals on, and again: by then it has read what had waited for it."""
        for number, text in SAYS.items():
            count = self.told(text) + 1
            os.kill(self.wrapper, number)
            self.wait_for_count(text, count)


@contextlib.contextmanager
def running(*catches: int, **how: Any) -> Iterator[Pair]:
    """A program that says which of these signals it gets."""
    numbers = " ".join(str(int(number)) for number in catches)
    with attached(f"exec {program('signal_teller')} '{numbers}'", **how) as (call, wrapper, child):
        call.wait_for(b"ready")
        yield Pair(call=call, wrapper=wrapper, child=child)


@contextlib.contextmanager
def sharing(*catches: int) -> Iterator[Pair]:
    """On a terminal: the program is in the wrapper's process group."""
    master, slave = os.openpty()
    try:
        with running(*catches, stdin=slave) as pair:
            assert os.getpgid(pair.child) == os.getpgid(pair.wrapper) == os.tcgetpgrp(master)
            pair.master = master
            yield pair
    finally:
        os.close(master)
        os.close(slave)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Without a terminal: the program is in a process group of its own."""
    with running(*CATCHES) as pair:
        assert os.getpgid(pair.child) == pair.child
        yield pair


@pytest.fixture
def shared() -> Iterator[Pair]:
    """On a terminal."""
    with sharing(*CATCHES) as pair:
        yield pair


@pytest.fixture(params=["pair", "shared"])
def either(request: pytest.FixtureRequest) -> Pair:
    """Without a terminal, and on one."""
    pair = request.getfixturevalue(request.param)
    assert isinstance(pair, Pair)
    return pair


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU])
def test_stop_and_continue_travel(number: signal.Signals, either: Pair) -> None:
    os.kill(either.child, number)
    either.wait_for_stop()
    os.kill(either.wrapper, signal.SIGCONT)
    either.call.wait_for(b"got SIGCONT\n")
    either.both_go_on()
    assert either.told(b"got SIGCONT") == 1


def test_stop_sent_to_the_wrapper_reaches_the_program(either: Pair) -> None:
    os.kill(either.wrapper, signal.SIGTSTP)
    either.wait_for_stop()
    os.kill(either.wrapper, signal.SIGCONT)
    either.call.wait_for(b"got SIGCONT\n")
    either.both_go_on()


def test_program_continued_by_somebody_else_takes_the_wrapper_along(either: Pair) -> None:
    os.kill(either.child, signal.SIGSTOP)
    either.wait_for_stop()
    os.kill(either.child, signal.SIGCONT)
    wait_until(lambda: run_state(either.wrapper) != "T", "the wrapper stays stopped")
    either.call.wait_for(b"got SIGCONT\n")
    either.both_go_on()
    assert either.told(b"got SIGCONT") == 1  # once, although the wrapper was continued too


def test_stopped_again_and_again(either: Pair) -> None:
    for turn in range(5):
        os.kill(either.child, signal.SIGSTOP)
        either.wait_for_stop()
        os.kill(either.wrapper if turn % 2 else either.child, signal.SIGCONT)
        either.both_go_on()
    assert either.told(b"got SIGCONT") == 5


def test_stopped_and_continued_at_once(either: Pair) -> None:
    """By whoever knows the program: what the wrapper reads of it is over."""
    for turn in range(1, 21):
        os.kill(either.child, signal.SIGSTOP)
        os.kill(either.child, signal.SIGCONT)
        either.wait_for_count(b"got SIGCONT", turn)
    either.both_go_on()
    assert run_state(either.child) != "T"
    assert either.told(b"got SIGCONT") == 20


def test_stopped_and_continued_all_the_time(either: Pair) -> None:
    """As programs do that limit the processor time of others; more often than a socket holds messages."""
    for _ in range(400):
        os.kill(either.child, signal.SIGSTOP)
        time.sleep(0.002)
        os.kill(either.child, signal.SIGCONT)
        time.sleep(0.002)
    either.both_go_on()
    assert run_state(either.child) != "T"


def test_stopped_anew_while_the_wrapper_is_stopped(either: Pair) -> None:
    """It is one stop to the shell, whose SIGCONT to the wrapper ends it."""
    os.kill(either.child, signal.SIGSTOP)
    either.wait_for_stop()
    os.kill(either.child, signal.SIGCONT)
    os.kill(either.child, signal.SIGSTOP)
    time.sleep(0.2)  # whoever is to be woken for the SIGCONT between is by then
    either.wait_for_stop()
    os.kill(either.wrapper, signal.SIGCONT)
    either.both_go_on()


def test_stopped_and_continued_at_once_by_the_wrapper(either: Pair) -> None:
    """In the order of the signals: the last one counts."""
    for _ in range(20):
        os.kill(either.wrapper, signal.SIGTSTP)
        os.kill(either.wrapper, signal.SIGCONT)
        either.both_go_on()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP])
def test_killed_while_stopped(number: signal.Signals, either: Pair) -> None:
    """The wrapper is woken, to end the same way."""
    os.kill(either.child, number)
    either.wait_for_stop()
    os.kill(either.child, signal.SIGKILL)
    assert either.call.shell_exit() == wire.Outcome(kind=wire.SIGNALLED, value=signal.SIGKILL)


def test_job_control_sees_stops() -> None:
    """What the shell's wait reports: stopped by that signal, then continued, then the exit status."""
    code = """
import os, signal
pid = os.spawnv(os.P_NOWAIT, os.environ['W'], ['w', '/bin/sh', 'sh', '-c', 'kill -TSTP $$; exit 9'])
_, status = os.waitpid(pid, os.WUNTRACED)
print(os.WIFSTOPPED(status), os.WSTOPSIG(status), flush=True)
os.kill(pid, signal.SIGCONT)
_, status = os.waitpid(pid, 0)
print(os.WEXITSTATUS(status))
"""
    with supervised([sys.executable, "python", "-I", "-S", "-c", code]) as call:
        call.escalate_next()
        call.shell_exit()
        assert call.printed().split() == [b"True", b"%d" % signal.SIGTSTP, b"9"]


# ---- on a terminal --------------------------------------------------------------------------------------------------


def test_terminal_signals_come_once(shared: Pair) -> None:
    """^C and ^Z come from the kernel, to both, once; a person's kill goes to one process, and is forwarded."""
    os.write(shared.master, b"\x03")
    shared.call.wait_for(b"got SIGINT\n")
    time.sleep(0.3)  # a second one would have come
    assert shared.told(b"got SIGINT") == 1
    assert shared.call.process.poll() is None
    os.kill(shared.wrapper, signal.SIGINT)
    shared.wait_for_count(b"got SIGINT", 2)
    shared.stop()
    shared.wait_for_stop()
    shared.group(signal.SIGCONT)
    shared.both_go_on()
    os.kill(shared.wrapper, signal.SIGKILL)
    wait_until(lambda: not is_alive(shared.child), "the program lives")
    assert shared.call.end() == 0


def test_a_signal_to_the_job_comes_twice_on_a_terminal() -> None:
    """Named exception group-signals. The wrapper cannot know that it was sent to both; these signals are counted."""
    with sharing(*CATCHES, 50) as pair:
        os.killpg(os.getpgid(pair.wrapper), 50)
        pair.wait_for_count(b"got 50", 2)
        pair.both_go_on()
        assert pair.told(b"got 50") == 2


def test_a_group_that_is_stopped_and_continued_as_one(shared: Pair) -> None:
    """``kill -STOP %1; fg``: the kernel stops the wrapper, which reads of the program's stop when both go on."""
    for turn in range(1, 6):
        shared.group(signal.SIGSTOP)
        shared.wait_for_stop()
        time.sleep(0.05)  # the supervisor tells of it
        shared.group(signal.SIGCONT)
        shared.both_go_on()
        assert shared.told(b"got SIGCONT") == turn


@contextlib.contextmanager
def _supervisor_late(pair: Pair) -> Iterator[None]:
    """What happens meanwhile it sees all at once, and after the wrapper has."""
    os.kill(pair.call.process.pid, signal.SIGSTOP)
    try:
        yield
        time.sleep(0.05)  # the wrapper does what it has to
    finally:
        os.kill(pair.call.process.pid, signal.SIGCONT)


def test_a_job_that_is_stopped_and_continued_before_the_supervisor_looks(shared: Pair) -> None:
    """``kill -TSTP %1; kill -CONT %1``: the stop that the wrapper forwards comes late, and goes with the SIGCONT."""
    for _ in range(5):
        with _supervisor_late(shared):
            shared.group(signal.SIGTSTP)
            time.sleep(0.02)  # the wrapper has forwarded it
            shared.group(signal.SIGCONT)
        shared.both_go_on()
        assert run_state(shared.child) != "T"


def test_a_continue_before_the_stop_does_not_undo_it(shared: Pair) -> None:
    """``kill -CONT %1`` of a job that runs, then ^Z."""
    with _supervisor_late(shared):
        shared.group(signal.SIGCONT)
        time.sleep(0.05)  # the wrapper has forwarded it
        shared.stop()
    shared.wait_for_stop()
    time.sleep(0.1)  # nobody undoes it
    shared.wait_for_stop()
    shared.group(signal.SIGCONT)
    shared.both_go_on()


def test_a_stop_right_behind_a_continue_stays(shared: Pair) -> None:
    """The supervisor sees neither the one nor the other by itself, and the wrapper's answer is to the stop before."""
    shared.stop()
    shared.wait_for_stop()
    with _supervisor_late(shared):
        shared.group(signal.SIGCONT)
        shared.wait_for_count(b"got SIGCONT", 1)
        time.sleep(0.05)  # the wrapper has answered
        shared.stop()
        wait_until(lambda: run_state(shared.child) == "T", "not stopped")
    shared.wait_for_stop()
    time.sleep(0.1)  # nobody undoes it
    shared.wait_for_stop()
    shared.group(signal.SIGCONT)
    shared.both_go_on()
    assert shared.told(b"got SIGCONT") == 2


def test_stopped_as_one_and_continued_alone(shared: Pair) -> None:
    """The kernel has stopped the wrapper; the supervisor sees no stop of the program any more."""
    for turn in range(1, 6):
        with _supervisor_late(shared):
            shared.group(signal.SIGSTOP)
            shared.wait_for_stop()
            os.kill(shared.child, signal.SIGCONT)
        shared.both_go_on()
        assert shared.told(b"got SIGCONT") == turn


def test_what_came_to_the_program_alone_is_not_taken_for_the_wrappers_later(shared: Pair) -> None:
    with _supervisor_late(shared):
        os.kill(shared.child, signal.SIGSTOP)
        os.kill(shared.child, signal.SIGCONT)
    time.sleep(3)  # longer than the supervisor waits for the wrapper's (sessions.c, LOOK_LATE_MS)
    os.kill(shared.wrapper, signal.SIGCONT)
    shared.wait_for_count(b"got SIGCONT", 2)


@contextlib.contextmanager
def _hardly_running(pids: list[int]) -> Iterator[None]:
    """They get what another leaves of a processor, which is next to nothing: milliseconds pass before each step."""
    processor = {max(os.sched_getaffinity(0))}
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"]) as busy:
        try:
            os.sched_setaffinity(busy.pid, processor)
            for pid in pids:
                os.sched_setaffinity(pid, processor)
                os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
            yield
        finally:
            busy.kill()


SLOW: dict[str, Callable[[Pair], list[int]]] = {
    "nobody": lambda _: [],
    "wrapper": lambda pair: [pair.wrapper],
    "supervisor": lambda pair: [pair.call.process.pid],
    "both": lambda pair: [pair.wrapper, pair.call.process.pid],
    "program": lambda pair: [pair.child],
}


@pytest.fixture(params=SLOW)
def slow(request: pytest.FixtureRequest, shared: Pair) -> Iterator[Pair]:
    """One of them is slower than the person who types."""
    with _hardly_running(SLOW[request.param](shared)):
        yield shared


def test_a_stop_before_it_goes_on_again(slow: Pair) -> None:
    """The wrapper is stopped by the second ^Z itself, before it could leave its first stop.

    The program is told of the first SIGCONT only if it has run before that ^Z.
    """
    for turn in range(1, 9):
        before = slow.told(b"got SIGCONT")
        slow.stop()
        slow.wait_for_stop()
        slow.group(signal.SIGCONT)
        slow.stop()
        slow.wait_for_stop()
        slow.group(signal.SIGCONT)
        slow.both_go_on()
        assert before < slow.told(b"got SIGCONT") <= before + 2, turn


def test_continued_once_however_slow(slow: Pair) -> None:
    """Each ^Z once the program has gone on, whether or not the others have."""
    for turn in range(1, 9):
        slow.stop()
        slow.wait_for_stop()
        slow.group(signal.SIGCONT)
        slow.wait_for_count(b"got SIGCONT", turn)
    slow.both_go_on()
    assert slow.told(b"got SIGCONT") == 8


def test_continued_alone_once_however_slow(either: Pair) -> None:
    """The wrapper has not stopped yet when the program goes on, so that it needs no SIGCONT, which it would pass on."""
    with _hardly_running([either.wrapper]):
        for turn in range(1, 9):
            os.kill(either.child, signal.SIGSTOP)
            time.sleep(0.003)
            os.kill(either.child, signal.SIGCONT)
            either.wait_for_count(b"got SIGCONT", turn)
        either.both_go_on()
    assert either.told(b"got SIGCONT") == 8


def test_a_program_that_catches_the_terminals_stop_goes_on() -> None:
    with sharing(*CATCHES, signal.SIGTSTP) as pair:
        for turn in range(1, 6):
            pair.stop()
            pair.wait_for_count(b"got SIGTSTP", turn)
            pair.both_go_on()
