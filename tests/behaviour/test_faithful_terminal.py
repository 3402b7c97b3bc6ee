"""Job control on a terminal: the same dialogue with a stock shell, with every exec run, and with every exec escalated.

In bash and in zsh, which say the same in other words.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import socket
import struct
import termios
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.escalation import wire
from native.calls import Call, supervised, wait_until
from support.built import built
from support.processes import members, run_state
from system.bash_support.programs import program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from codex_shell_tool_mcp.shells.catalog import ShellName
    from support.faithful import Mode

PATIENCE = 60.0
PROMPT = b"ps1> "

CATCHES = (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH, signal.SIGCONT)

PROGRAMS = (b"./prog", b"./asked")
"""In place of the shell's process, and in ask mode: a script whose interpreter is one."""

INTERACTIVE: Mapping[ShellName, str] = {
    "bash": "--norc --noediting -i",
    "zsh": "-f -i +Z +o promptsp +o promptcr +o notify",  # of jobs it tells before a prompt, not amid what is typed
}
STOPPED: Mapping[ShellName, bytes] = {"bash": b"Stopped", "zsh": b"suspended"}


@dataclass(kw_only=True)
class Terminal:
    """A terminal with a shell on it: wait for what it shows, type."""

    master: int
    kind: ShellName
    seen: bytes = b""
    whole: bytes = b""

    def wait_for(self, *texts: bytes) -> None:
        """Wait for each text, one after the other; what was shown before it is passed over."""
        for text in texts:
            self._read_until(lambda: text in self.seen, repr(text))  # noqa: B023 - called at once
            self.seen = self.seen.partition(text)[2]

    def wait_for_count(self, text: bytes, count: int) -> None:
        """Wait until it was shown so often, before or behind what else is waited for."""
        self._read_until(lambda: self.whole.count(text) >= count, f"{text!r}, {count} times")

    def _read_until(self, condition: Callable[[], bool], what: str) -> None:
        give_up = time.monotonic() + PATIENCE
        while not condition():
            # A shell that shows something all the time is not waited for either.
            left = give_up - time.monotonic()
            ready = left > 0 and select.select([self.master], [], [], left)[0]
            assert ready, f"waited for {what}; the terminal shows {self.text()}"
            data = os.read(self.master, 4096)
            self.seen += data
            self.whole += data

    def text(self) -> str:
        """What it shows, to be read."""
        return self.whole[-10_000:].decode(errors="replace")

    def front(self, line: bytes) -> None:
        """Type ``fg``, and wait until the job has the terminal: only then keys are its own."""
        self.wait_for(PROMPT)
        shell = os.tcgetpgrp(self.master)
        self.type(line + b"\n")
        wait_until(lambda: os.tcgetpgrp(self.master) != shell, "the job does not come to the front")

    def stop(self) -> None:
        """Type ^Z, and see the shell say that its job is stopped, and that it is.

        A wrapper that has not run since the last SIGCONT is stopped by the ^Z itself. So the shell may see that while a
        program that has not run either would still read what is typed next.
        """
        group = os.tcgetpgrp(self.master)
        self.type(b"\x1a")
        self.wait_for(STOPPED[self.kind])
        wait_until(lambda: all(run_state(pid) == "T" for pid in members(group)), "the job goes on")

    def type(self, text: bytes) -> None:
        """Type."""
        os.write(self.master, text)

    def command(self, line: bytes) -> None:
        """Type a command at the prompt, and see it echoed."""
        self.wait_for(PROMPT)
        self.type(line + b"\n")
        self.wait_for(line + b"\r\n")

    def resize(self) -> None:
        """As if the window got another size."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 132, 0, 0))


def answer_all(call: Call, mode: Mode, stop: int) -> None:
    """Answer every exec until nobody is left to ask, or ``stop`` is closed elsewhere."""
    while True:
        ready, _, _ = select.select([call.rendezvous.fileno(), stop], [], [])
        if stop in ready or not call.rendezvous.recv(1, socket.MSG_PEEK):
            return
        service, request = call.accept_any()  # a key may kill who asks
        if request is None:
            service.close()
        elif mode == "escalate":
            call.escalate(service, request)
        else:
            service.answer(wire.Run())


@contextlib.contextmanager
def answering(call: Call, mode: Mode) -> Iterator[None]:
    """Answer execs in a thread."""
    stop, stopper = os.pipe()
    thread = threading.Thread(target=answer_all, args=(call, mode, stop))
    thread.start()
    try:
        yield
    finally:
        os.close(stopper)
        thread.join()
        os.close(stop)


@pytest.fixture(params=["bash", "zsh"])
def kind(request: pytest.FixtureRequest) -> ShellName:
    """The shell on the terminal."""
    chosen: ShellName = request.param
    return chosen


@pytest.fixture(params=["stock", "run", "escalate"])
def terminal(request: pytest.FixtureRequest, tmp_path: Path, kind: ShellName) -> Iterator[Terminal]:
    """An interactive shell in a call that has a controlling terminal."""
    mode: Mode = request.param
    catches = " ".join(str(int(number)) for number in CATCHES)
    for name, text in (("prog", f"#!{program('signal_teller')} {catches}\n"), ("asked", "#!./prog\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    master, slave = pty.openpty()
    shell = getattr(built(), f"{kind}_stock" if mode == "stock" else kind)
    env = {"B": str(shell), "EXEC_WRAPPER": str(built().wrapper), "PS1": PROMPT.decode(), "TERM": "dumb", "LC_ALL": "C"}
    start = f'exec "$B" {INTERACTIVE[kind]} >/dev/tty 2>&1'
    try:
        with (
            supervised(["/bin/sh", "sh", "-c", start], env=env, cwd=tmp_path, stdin=slave) as call,
            answering(call, mode),
        ):
            shown = Terminal(master=master, kind=kind)
            yield shown
            shown.command(b"exit 3")
            assert call.shell_exit() == wire.Outcome(kind=0, value=3)
            assert call.end() == 0
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("line", PROGRAMS)
def test_keys_reach_the_program_once(terminal: Terminal, line: bytes) -> None:
    terminal.command(line)
    terminal.wait_for(b"ready in front")
    for key, name in ((b"\x03", b"SIGINT"), (b"\x1c", b"SIGQUIT")):
        terminal.type(key)
        terminal.wait_for(b"got " + name)
    terminal.resize()
    terminal.wait_for(b"got SIGWINCH")
    terminal.type(b"text\n")
    terminal.wait_for(b"read text")
    terminal.type(b"quit\n")
    terminal.command(b"echo status $?")
    terminal.wait_for(b"status 5")
    for name in (b"SIGINT", b"SIGQUIT", b"SIGWINCH"):
        assert terminal.whole.count(b"got " + name) == 1


def test_stopped_continued_in_front_and_behind(terminal: Terminal) -> None:
    terminal.command(b"./prog")
    terminal.wait_for(b"ready in front")
    for _ in range(2):
        terminal.stop()
        terminal.command(b"fg")
        terminal.wait_for(b"got SIGCONT")
        terminal.type(b"text\n")
        terminal.wait_for(b"read text")
    terminal.stop()
    terminal.command(b"bg")
    terminal.wait_for_count(b"got SIGCONT", 3)  # then it reads from the terminal, which stops it
    terminal.command(b"until jobs -l | grep -q 'tty input'; do sleep 0.02; done; jobs -l")
    terminal.wait_for(b"(tty input)")
    terminal.command(b"fg")
    terminal.wait_for(b"got SIGCONT")
    terminal.type(b"quit\n")
    terminal.command(b"echo status $?")
    terminal.wait_for(b"status 5")
    assert terminal.whole.count(b"got SIGCONT") == 4, terminal.text()


def test_stopped_and_continued_by_kill(terminal: Terminal) -> None:
    """SIGSTOP, which the kernel gives to the whole job, and nobody catches."""
    terminal.command(b"/bin/sleep 1000 &")
    for _ in range(2):
        terminal.command(b"kill -STOP %1; until jobs | grep -Eqi 'stopped|suspended'; do sleep 0.02; done; sleep 0.1")
        terminal.command(b"kill -CONT %1; until jobs | grep -qi running; do sleep 0.02; done; sleep 0.1; jobs")
        terminal.wait_for(b"unning")
    terminal.front(b"fg")
    terminal.type(b"\x03")
    terminal.command(b"echo status $?")
    terminal.wait_for(b"status 130")


def test_output_from_behind_stops_where_that_is_wanted(terminal: Terminal) -> None:
    terminal.command(b"stty tostop")
    terminal.command(b"/bin/echo from behind &")
    terminal.command(b"until jobs -l | grep -q 'tty output'; do sleep 0.02; done; jobs -l")
    terminal.wait_for(b"(tty output)")
    terminal.command(b"fg; stty -tostop; echo status $?")
    terminal.wait_for(b"from behind", b"status 0")


@pytest.mark.parametrize(("key", "status"), [(b"\x03", b"130"), (b"\x1c", b"131")])
def test_keys_kill(terminal: Terminal, key: bytes, status: bytes) -> None:
    """One program, and a whole pipeline."""
    terminal.command(b"ulimit -c 0")
    for line in (b"/bin/sh -c 'echo up; exec sleep 1000'", b"/bin/sh -c 'echo up; exec sleep 1000' | cat"):
        terminal.command(line)
        terminal.wait_for(b"up\r\n")
        terminal.type(key)
        terminal.command(b"echo status $?")
        terminal.wait_for(b"status " + status)


def test_programs_have_the_terminal(terminal: Terminal) -> None:
    terminal.command(b"/bin/sh -c 'echo to the terminal > /dev/tty; stty size; [ -t 0 ] && tty' | cat")
    terminal.wait_for(b"to the terminal", b"/dev/pts/")
    terminal.command(b"cat")
    terminal.type(b"echoed\n")
    terminal.wait_for(b"echoed\r\nechoed\r\n")
    terminal.type(b"\x04")
    terminal.command(b"echo status $?")
    terminal.wait_for(b"status 0")
