"""What a wrapper hands on to the program it executes, and tells of it where that runs elsewhere: what the shell left.

Both wrappers; where it can be, the case is compared with an exec without any.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.escalation import wire
from codex_shell_tool_mcp.escalation.wire import Outcome
from support.built import built
from support.service import PATIENCE, Caller, calling
from wire.test_clients import KINDS, command_of, take_over, wait_until_caught

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from support.service import Service

pytestmark = [
    pytest.mark.timeout(900),  # the first to run may have to freeze
    pytest.mark.skipif(sys.platform != "linux", reason="what is compared is read from /proc; macOS has none"),
]

Setup = Callable[[], object]

COMPARED = ("Umask", "SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd", "NoNewPrivs", "Groups", "CapEff")
"""Lines of proc(5) ``status``."""


def execute(path: bytes, argv: Sequence[bytes], env: Sequence[bytes]) -> None:
    """execve(2) with exactly these strings, which Python's own does not take."""
    strings = [(ctypes.c_char_p * (len(given) + 1))(*given, None) for given in (argv, env)]
    ctypes.CDLL(None).execve(path, *strings)
    os._exit(99)


def exactly(
    kind: str, command: Sequence[bytes], env: Sequence[bytes] = (), before: Callable[[int], None] = lambda _: None
) -> AbstractContextManager[Caller]:
    """A wrapper with this environment, and nothing more but the socket's number, asked to run ``command``.

    ``before`` can open and close descriptors: nobody touches them after it.
    """
    head, executable = command_of(kind)

    def setup(number: int) -> None:
        before(number)
        execute(
            os.fsencode(executable),
            [*(os.fsencode(word) for word in head), *command],
            [*env, b"CODEX_ESCALATE_SOCKET=%d" % number],
        )

    return calling(["unused"], executable=executable, setup=setup)


def run(caller: Caller) -> tuple[int, bytes, bytes]:
    """Answer Run; how it ends."""
    service, _ = caller.ask()
    service.send(wire.Run())
    found = caller.outcome()
    service.close()
    return found


# ---- strings --------------------------------------------------------------------------------------------------------

ENVIRONMENTS = {
    "nothing": [],
    "C locale": [b"LC_ALL=C", b"LANG=C"],
    "no coercion": [b"PYTHONCOERCECLOCALE=0", b"LC_CTYPE=C"],
    "a locale there is not": [b"LC_ALL=xx_YY.EUC-JP"],
    "variables of Python": [b"PYTHONHOME=/nowhere", b"PYTHONPATH=/nowhere", b"PYTHONUTF8=0", b"PYTHONINSPECT=1"],
    "variables of the freezer": [b"LD_LIBRARY_PATH=/nowhere", b"_PYI_ARCHIVE_FILE=/nowhere", b"_MEIPASS2=/nowhere"],
    "not UTF-8": [b"\xff\xfe=\x80", b"A=\xe2\x82", b"\xc3\xa4=\xc3\xa4"],
    "twice": [b"A=1", b"B=2", b"A=3", b"LC_CTYPE=C", b"LC_CTYPE=POSIX"],
    "no equals sign": [b"A=1", b"NOTHING", b"", b"B=2", b"\xff"],
    "no name": [b"=", b"=x", b"==", b"A=="],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_environment_is_the_same_to_the_byte(kind: str, name: str) -> None:
    entries = ENVIRONMENTS[name]
    with exactly(kind, [b"/bin/cat", b"cat", b"/proc/self/environ"], entries) as caller:
        service, request = caller.ask()
        assert list(request.env[:-1]) == entries
        service.send(wire.Run())
        status, out, err = caller.outcome()
        service.close()
    assert (status, err) == (0, b"")
    assert out.split(b"\0")[:-2] == entries


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [b"", b"-cat", b"\xff\x80", b"a b\nc", b"codex-execve-ask:1"])
def test_arguments_are_the_same_to_the_byte(kind: str, name: bytes) -> None:
    argv = [name, b"/proc/self/cmdline", b"--", b"/dev/null", b"/proc/self/cmdline"]
    with exactly(kind, [b"/bin/cat", *argv]) as caller:
        status, out, err = run(caller)
    assert (status, err) == (0, b"")
    assert out == b"".join(word + b"\0" for word in argv) * 2


# ---- attributes of the process --------------------------------------------------------------------------------------


def _ignore(*numbers: int) -> Setup:
    return lambda: [signal.signal(number, signal.SIG_IGN) for number in numbers]


def _limit(number: int, soft: int, hard: int) -> Setup:
    return lambda: resource.setrlimit(number, (soft, hard))


SETUPS: dict[str, Setup] = {
    "as usual": lambda: None,
    "ignored": _ignore(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGUSR1, signal.SIGRTMIN + 3),
    "one that Python ignores": _ignore(signal.SIGXFSZ),
    "blocked": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGRTMIN}),
    "umask": lambda: os.umask(0o137),
    "few descriptors": _limit(resource.RLIMIT_NOFILE, 20, 77),
    "limits": lambda: [_limit(resource.RLIMIT_CORE, 0, 5)(), _limit(resource.RLIMIT_STACK, 4_000_000, -1)()],
    "nice": lambda: os.nice(3),
}

STATE = [b"cat", b"/proc/self/status", b"/proc/self/limits", b"/proc/self/stat"]


def state(setup: Setup, start: Callable[[Callable[[int], None]], bytes]) -> list[bytes]:
    """What `cat` says of the process it is, without what differs each time."""
    lines = start(lambda _: (setup(), None)[1]).splitlines()
    nice = lines[-1].rpartition(b")")[2].split()[16]
    return [nice, *(line for line in lines[:-1] if line.partition(b":")[0].decode() in COMPARED or b"Max " in line)]


def stock(setup: Callable[[int], None]) -> bytes:
    """Without a wrapper."""
    done = subprocess.run(
        STATE,
        executable="/bin/cat",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=lambda: setup(0),
    )
    return done.stdout


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SETUPS)
def test_the_program_finds_the_process_as_the_shell_left_it(kind: str, name: str) -> None:
    head, executable = command_of(kind)

    def through(setup: Callable[[int], None]) -> bytes:
        with calling([*head, "/bin/cat", *STATE], executable=executable, setup=setup) as caller:
            status, out, err = run(caller)
        assert (status, err) == (0, b"")
        return out

    assert state(SETUPS[name], through) == state(SETUPS[name], stock)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SETUPS)
def test_the_supervisor_is_told_the_same(kind: str, name: str) -> None:
    head, executable = command_of(kind)
    nice, *lines = state(SETUPS[name], stock)
    masks = {line.partition(b":")[0]: int(line.split()[1], 16) for line in lines if line.startswith(b"Sig")}
    setup = SETUPS[name]
    with calling([*head, "/bin/cat", *STATE], executable=executable, setup=lambda _: (setup(), None)[1]) as caller:
        service, request = caller.ask()
        _, told = take_over(service)
        ends(caller, service)
    assert (told.ignored, told.blocked, told.nice) == (masks[b"SigIgn"], masks[b"SigBlk"], int(nice))
    assert f"Umask:\t{request.umask:04o}".encode() in lines
    assert not told.controlling_terminal
    shown = {limit.resource: (limit.soft, limit.hard) for limit in told.limits}
    for title, number in ((b"Max open files", resource.RLIMIT_NOFILE), (b"Max stack size", resource.RLIMIT_STACK)):
        (words,) = (line[len(title) :].split()[:2] for line in lines if line.startswith(title))
        assert shown[number] == tuple(2**64 - 1 if word == b"unlimited" else int(word) for word in words)


def ends(caller: Caller, service: Service, outcome: Outcome | None = None) -> int:
    """Tell the wrapper that its program has ended; its own status."""
    service.send(wire.Exit(outcome=outcome or Outcome(kind=wire.EXITED, value=0)))
    service.close()  # with it our copies of its stdout and stderr
    return caller.outcome()[0]


# ---- descriptors ----------------------------------------------------------------------------------------------------


def odd_descriptors(rendezvous: int) -> None:
    """0 is closed, 9 and 200 are open, 201 is an O_PATH one, 202 the escalation socket once more."""
    os.set_inheritable(rendezvous, True)
    os.close(0)
    os.dup2(1, 9)
    os.dup2(1, 200)
    os.dup2(os.open("/", os.O_PATH), 201)
    os.dup2(rendezvous, 202)


@pytest.mark.parametrize("kind", KINDS)
def test_run_leaves_descriptors_alone(kind: str) -> None:
    with exactly(kind, [b"/bin/ls", b"ls", b"/proc/self/fd"], before=odd_descriptors) as caller:
        service, request = caller.ask()
        number = int(request.env[0].partition(b"=")[2])
        service.send(wire.Run())
        status, out, _err = caller.outcome()
        service.close()
    # 0 is what `ls` opens itself.
    assert (status, {int(word) for word in out.split()}) == (0, {0, 1, 2, 9, 200, 201, 202, number})


@pytest.mark.parametrize("kind", KINDS)
def test_escalate_hands_over_what_an_exec_keeps(kind: str) -> None:
    with exactly(kind, [b"/bin/true", b"true"], before=odd_descriptors) as caller:
        service, _ = caller.ask()
        numbers, _attributes = take_over(service)
        assert set(numbers) == {1, 2, 9, 200}
        # Only the program holds them now: the reader of a pipe would wait for ever else.
        folder = Path(f"/proc/{caller.process.pid}/fd")
        give_up = time.monotonic() + PATIENCE
        while held := {entry.name for entry in folder.iterdir()} & {"1", "9", "200"}:
            assert time.monotonic() < give_up, held
        assert ends(caller, service) == 0


# ---- signals and the end --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def escalated(kind: str, setup: Setup = lambda: None) -> Iterator[tuple[Caller, Service]]:
    """A wrapper whose program runs elsewhere, as it believes, and that catches signals by now."""
    head, executable = command_of(kind)
    command = [*head, "/bin/true", "true"]
    with calling(command, executable=executable, setup=lambda _: (setup(), None)[1]) as caller:
        service, _ = caller.ask()
        take_over(service)
        wait_until_caught(caller, signal.SIGCONT)
        yield caller, service


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGSEGV, signal.SIGCHLD, signal.SIGRTMIN + 5, 33]
)
def test_it_dies_of_the_signal_its_program_died_of(kind: str, number: int, tmp_path: Path) -> None:
    with escalated(kind, _ignore(signal.SIGINT, signal.SIGPIPE)) as (caller, service):
        status = ends(caller, service, Outcome(kind=wire.SIGNALLED, value=number))
    assert status == (128 + number if number == signal.SIGCHLD else -number)


@pytest.mark.parametrize("kind", KINDS)
def test_signals_are_forwarded_even_ignored_ones(kind: str) -> None:
    sent = [signal.SIGUSR1, signal.SIGINT, signal.SIGTERM, signal.SIGWINCH, signal.SIGPIPE, signal.SIGRTMIN + 4]
    with escalated(kind, _ignore(signal.SIGUSR1, signal.SIGINT)) as (caller, service):
        for number in sent:
            caller.process.send_signal(number)
            assert service.receive() == wire.Signal(number=number)
        assert ends(caller, service) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP])
def test_it_stops_and_continues_with_its_program(kind: str, number: int) -> None:
    with escalated(kind) as (caller, service):
        for _turn in range(2):
            service.send(wire.Stopped(number=number))
            _, status = os.waitpid(caller.process.pid, os.WUNTRACED)
            # Its process group is orphaned here, so the terminal's signals cannot stop it: SIGSTOP does.
            assert (os.WIFSTOPPED(status), os.WSTOPSIG(status)) == (True, signal.SIGSTOP)
            caller.process.send_signal(signal.SIGCONT)
            assert service.receive() == wire.Continued()
        caller.process.send_signal(signal.SIGCONT)  # no answer, as it was not stopped
        assert service.receive() == wire.Signal(number=signal.SIGCONT)
        assert ends(caller, service) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP])
def test_a_stop_that_is_over_is_answered_only(kind: str, number: int) -> None:
    """It was continued itself before it read of the stop; or its program goes on, as it reads next."""
    with escalated(kind) as (caller, service):
        caller.process.send_signal(signal.SIGSTOP)
        os.waitpid(caller.process.pid, os.WUNTRACED)
        service.send(wire.Stopped(number=number))
        caller.process.send_signal(signal.SIGCONT)
        assert service.receive() == wire.Continued()
        service.send_raw(wire.encode(wire.Stopped(number=number)) + wire.encode(wire.Continued()))
        assert service.receive() == wire.Continued()
        caller.process.send_signal(signal.SIGUSR1)
        assert service.receive() == wire.Signal(number=signal.SIGUSR1)
        assert ends(caller, service) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_right_behind_a_stop_is_an_end(kind: str) -> None:
    with escalated(kind) as (caller, service):
        end = wire.Exit(outcome=Outcome(kind=wire.SIGNALLED, value=signal.SIGKILL))
        service.send_raw(wire.encode(wire.Stopped(number=signal.SIGTSTP)) + wire.encode(end))
        service.close()
        assert caller.outcome()[0] == -signal.SIGKILL


# ---- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("text", "mode", "number", "status"),
    [("no line\n", 0o755, 8, 126), ("", 0o644, 13, 126), ("#!/no\n", 0o755, 2, 127)],
)
def test_a_failed_exec(kind: str, text: str, mode: int, number: int, status: int, tmp_path: Path) -> None:
    file = tmp_path / "odd\tname"
    file.write_text(text)
    file.chmod(mode)
    with exactly(kind, [os.fsencode(file), b"x"]) as caller:
        service, _ = caller.ask()
        service.send(wire.Run())
        assert service.receive() == wire.ExecFailed(errno=number)
        found = caller.outcome()
        service.close()
    assert found == (status, b"", os.fsencode(file).replace(b"\t", b"?") + b": " + os.strerror(number).encode() + b"\n")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("file", "number", "status"), [(b"", 2, 127), (b"x" * 4096, 36, 126)])
def test_paths_the_kernel_takes_not_are_not_asked_about(kind: str, file: bytes, number: int, status: int) -> None:
    with exactly(kind, [file, b"x"]) as caller:
        found, out, err = caller.outcome()
    assert (found, out) == (status, b"")
    assert err.startswith(file[:100])
    assert err.endswith(os.strerror(number).encode() + b"\n") or len(file) > 1000, "a long line may be cut"


@pytest.mark.parametrize("kind", KINDS)
def test_two_answers_are_none(kind: str) -> None:
    with exactly(kind, [b"/bin/echo", b"echo", b"ran"]) as caller:
        service, _ = caller.ask()
        service.send_raw(b"\x01\0\0\0\x02" * 2)
        status, out, err = caller.outcome()
        service.close()
    assert (status, out) == (126, b"")
    assert b"the server broke the protocol" in err


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_has_to_read_what_it_says(kind: str) -> None:
    """A denial into a pipe that is closed is a denial, not a death by SIGPIPE."""
    with exactly(kind, [b"/bin/echo", b"echo", b"ran"]) as caller:
        service, _ = caller.ask()
        assert caller.process.stderr is not None
        caller.process.stderr.close()
        service.send(wire.Deny(reason="no"))
        assert caller.process.wait(PATIENCE) == 1
        service.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["codex-execve-ask:", "codex-execve-ask:99", "codex-execve-ask:99999999999"])
def test_ask_mode_without_a_descriptor_runs_nothing(kind: str, name: str) -> None:
    head, executable = command_of(kind, name)
    with calling([*head, "/bin/echo", "echo", "ran"], executable=executable) as caller:
        status, out, err = caller.outcome()
    assert (status, out) == (126, b"")
    assert b"without an open descriptor for the answer" in err


def test_the_frozen_one_is_the_one_that_ships() -> None:
    """Small: not the freezer's boot program, which has changed the process before ours runs."""
    assert built().frozen_wrapper.stat().st_size < 20_000
