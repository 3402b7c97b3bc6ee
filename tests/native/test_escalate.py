"""Escalated programs end to end: the wrapper hands over, the supervisor runs, the shell notices nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from codex_shell_tool_mcp.escalation import wire
from codex_shell_tool_mcp.escalation.channel import send_message
from native.calls import (
    IDLE,
    OUTSIDE,
    TRAPS,
    Call,
    attached,
    decided,
    is_alive,
    is_program,
    script,
    supervised,
    unread,
    wait_until,
)
from support.processes import run_state
from support.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

CAT = "$W /bin/cat cat"


def through(text: str, count: int = 1, **how: Any) -> tuple[bytes, wire.Outcome]:
    """Output and outcome of a script, its first ``count`` execs escalated."""
    with script(text, **how) as call:
        for _ in range(count):
            call.escalate_next()
        outcome = call.shell_exit()
        for _ in range(count):
            call.expect(wire.Ended)
        output = call.printed()
        call.end()
    return output, outcome


# ---- what it inherits -----------------------------------------------------------------------------------------------


def test_runs_outside_and_its_exit_is_the_shells() -> None:
    with script(f"{OUTSIDE} 'echo $PPID; exit 7'; echo status $?") as call:
        call.escalate_next()
        started = call.expect(wire.Started)
        assert started.session == 1
        assert call.expect(wire.Ended) == wire.Ended(session=1, outcome=wire.Outcome(kind=0, value=7))
        assert call.shell_exit() == wire.Outcome(kind=0, value=0)
        assert call.printed().split() == [str(call.process.pid).encode(), b"status", b"7"]
        assert call.end() == 0


def test_arguments_and_environment_are_what_the_server_says() -> None:
    with script(f"{CAT} x") as call:
        service, request = call.accept()
        env = (b"A=1", b"ODD=\xff\n", b"NOEQUALS", b"")
        argv = (b"-odd", b"--", b"/proc/self/cmdline", b"/proc/self/environ")
        call.escalate(service, request, argv=argv, env=env)
        call.shell_exit()
        assert call.printed() == b"".join(text + b"\0" for text in (*argv, *env))


def test_descriptors_keep_their_numbers(tmp_path: Path) -> None:
    """All from 3 to 200, each with a file of its own."""
    numbers = [*range(3, 201), 255, 700]
    for number in numbers:
        (tmp_path / f"file{number}").write_text(f"{number}\n")
    opening = "".join(f"os.dup2(os.open('file{number}', os.O_RDONLY), 2000 + {number}); " for number in numbers)
    placing = "".join(f"os.dup2(2000 + {number}, {number}); os.close(2000 + {number}); " for number in numbers)
    raising = "import os, resource; resource.setrlimit(resource.RLIMIT_NOFILE, (4000, 4096))"
    code = f"{raising}; {opening} os.closerange(3, 1000); {placing}"
    report = "; ".join(f"read x < /proc/self/fd/{number}; echo $x" for number in numbers)
    program = f"{code} os.execv(os.environ['W'], ['w', '/bin/sh', 'sh', '-c', {report!r} + '; ls /proc/self/fd'])"
    # CODEX_ESCALATE_SOCKET (1023) is above what the program closes.
    with supervised([sys.executable, "python", "-I", "-S", "-c", program], cwd=tmp_path) as call:
        call.escalate_next()
        assert call.shell_exit() == wire.Outcome(kind=0, value=0), call.printed()
        lines = [int(line) for line in call.printed().split()]
        assert lines[: len(numbers)] == numbers
        # What ls itself opens takes the lowest free number, 201; the escalation socket is not handed on.
        assert sorted(lines[len(numbers) :]) == [0, 1, 2, *sorted([*numbers, 201])]
        assert call.end() == 0


def test_swapped_and_rotated_descriptors(tmp_path: Path) -> None:
    """Numbers that collide with the supervisor's own, whichever those are."""
    for name in "abcdef":
        (tmp_path / name).write_text(name)
    with script(f"exec 3<f 4<e 5<d 6<c 7<b 8<a 9<&3; {OUTSIDE} 'cat <&3 <&4; cat /dev/fd/5 /dev/fd/6 - <&7; cat <&8'",
                cwd=tmp_path) as call:  # fmt: skip
        call.escalate_next()
        call.shell_exit()
        assert call.printed() == b"edcba"


@pytest.mark.parametrize("limit", [16, 24])
def test_descriptors_under_a_low_limit(limit: int, tmp_path: Path) -> None:
    """Every number below the limit is taken in the program, and the limit is its own again."""
    (tmp_path / "file").write_text("x")
    take = "".join(f"exec {number}<file; " for number in range(3, 10))
    text = f"{take} ulimit -n {limit}; {OUTSIDE} 'ulimit -n; cat <&9'"
    output, outcome = through(text, cwd=tmp_path)
    assert (output, outcome.value) == (b"%d\nx" % limit, 0)


def test_closed_standard_descriptors() -> None:
    program = "import os\nfor n in (0, 1, 2):\n    try: os.fstat(n)\n    except OSError: os.write(9, b'%d' % n)"
    text = f"{sys.executable} -I -S -c 'pass'; exec 9>&1; $W {sys.executable} python -I -S -c \"$CODE\" 0<&- 1>&- 2>&-"
    output, outcome = through(text, env={"CODE": program})
    assert (output, outcome.value) == (b"012", 0)


def test_pipes_of_a_pipeline_reach_their_end() -> None:
    """The wrapper keeps no copy: `head` ends `yes` by SIGPIPE, `cat` sees the end when a program closes its output."""
    output, outcome = through("$W /usr/bin/yes yes | head -n 2; echo $?")
    assert (output, outcome.value) == (b"y\ny\n0\n", 0)
    with script(f"{OUTSIDE} 'echo early; exec >&-; sleep 1000' | (cat; echo end of file)") as call:
        call.escalate_next()
        call.wait_for(b"early\nend of file\n")
        assert call.process.poll() is None
        assert call.end() >= 2


def test_fifo_opened_by_the_shell(tmp_path: Path) -> None:
    """Process substitution by hand: what the shell has opened is the program's too."""
    output, _ = through("mkfifo p; (echo through > p) & exec 5<p; $W /bin/sh sh -c 'cat <&5'; wait", cwd=tmp_path)
    assert output == b"through\n"


def test_directory_that_is_gone_and_umask(tmp_path: Path) -> None:
    text = f"mkdir d; cd d; rmdir ../d; umask 0137; {OUTSIDE} 'umask; ls -d . ; ls | wc -l; readlink /proc/self/cwd'"
    output, _ = through(text, cwd=tmp_path)
    assert output.endswith(f"0137\n.\n0\n{tmp_path}/d (deleted)\n".encode())  # dash complains before


def test_directory_without_a_descriptor(tmp_path: Path) -> None:
    with script(f"{OUTSIDE} pwd") as call:
        service, request = call.accept()
        call.escalate(service, request, cwd=os.fsencode(tmp_path), cwd_descriptor=None)
        call.shell_exit()
        assert call.printed() == os.fsencode(tmp_path) + b"\n"
    with script(f"{OUTSIDE} pwd; echo $?") as call:
        service, request = call.accept()
        call.escalate(service, request, cwd=b"", cwd_descriptor=None)
        call.shell_exit()
        assert b"not run: its directory could not be entered: No such file or directory\n126\n" in call.printed()


def _setup(code: str, *command: str) -> list[str]:
    program = f"import os, resource, signal, sys\n{code}\nos.execv(os.environ['W'], ['w', *{list(command)!r}])"
    return [sys.executable, "python", "-I", "-S", "-c", program]


SETUP = """
os.nice(4)
signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR2, signal.SIGTERM, signal.SIGRTMIN + 2})
for number in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGRTMIN + 5):
    signal.signal(number, signal.SIG_IGN)
for number, limit in ((resource.RLIMIT_NOFILE, (50, 70)), (resource.RLIMIT_CORE, (0, 0)),
                      (resource.RLIMIT_CPU, (77, 99)), (resource.RLIMIT_FSIZE, (1 << 30, -1)),
                      (resource.RLIMIT_STACK, (4 << 20, 16 << 20))):
    resource.setrlimit(number, limit)
"""


def test_attributes_are_the_callers() -> None:
    """As a plain exec from the same state, seen in /proc/self."""
    files = ("/proc/self/status", "/proc/self/limits", "/proc/self/stat")
    kept = "Umask|SigBlk|SigIgn|SigCgt|Groups|Uid|Gid|CapEff|NoNewPrivs|Seccomp"

    def read(output: bytes) -> dict[str, object]:
        text = output.decode()
        return {
            "status": re.findall(rf"^(?:{kept}):.*$", text, re.MULTILINE),
            "limits": re.findall(r"^Max .*$", text, re.MULTILINE),
            "nice": text.rpartition(")")[2].split()[16],
        }  # fmt: skip

    with supervised(_setup(SETUP, "/bin/cat", "cat", *files)) as call:
        call.escalate_next()
        assert call.shell_exit().value == 0
        escalated = read(call.printed())
    with supervised(_setup(SETUP, "/bin/cat", "cat", *files)) as call:
        service, _ = call.accept()
        service.send(wire.Run())
        assert call.shell_exit().value == 0
        plain = read(call.printed())
    assert escalated == plain
    assert escalated["nice"] == str(min(os.nice(0) + 4, 19))
    assert len(escalated["limits"]) > 10  # type: ignore[arg-type]


def test_descriptors_of_the_program_are_the_callers_only(tmp_path: Path) -> None:
    """Nothing of the supervisor's, of other sessions, or of the server's."""
    other = "exec 4>&1; $W /bin/sleep sleep 1000 & "
    with script(f"{other} {OUTSIDE} 'ls -l /proc/self/fd'") as call:
        for service, request in (call.accept(), call.accept()):
            call.escalate(service, request)
        call.shell_exit()
        links = dict(re.findall(r"(\d+) -> (.*)$", call.printed().decode(), re.MULTILINE))
        assert {"0", "1", "2", "4"} <= set(links)
        extra = {number: link for number, link in links.items() if int(number) > 2 and number != "4"}
        assert list(extra.values()) == [next(link for link in extra.values() if link.startswith("/proc/"))]
        assert links["1"] == links["2"] == links["4"]


def test_o_path_descriptors_and_the_socket_are_not_handed_over() -> None:
    code = """
os.set_inheritable(os.open('/etc', os.O_PATH), True)
number = int(os.environ['CODEX_ESCALATE_SOCKET'])
os.dup2(number, 30)
os.dup2(os.open('/etc', os.O_RDONLY), 31)
"""
    with supervised(_setup(code, "/bin/ls", "ls", "/proc/self/fd")) as call:
        call.escalate_next()
        call.shell_exit()
        assert set(map(int, call.printed().split())) <= {0, 1, 2, 3, 31}


@pytest.mark.parametrize("number", [1022, 1024, 1025, 1087, 1088, 2047, 4095])
def test_a_descriptor_of_any_number_is_found(number: int) -> None:
    """Up to 1023 they are found without /proc; there is one above, or there is none."""
    code = f"resource.setrlimit(resource.RLIMIT_NOFILE, (5000, 5000)); os.dup2(0, {number})"
    with supervised(_setup(code, "/bin/ls", "ls", "/proc/self/fd")) as call:
        call.escalate_next()
        assert call.shell_exit().value == 0
        assert set(map(int, call.printed().split())) == {0, 1, 2, 3, number}


@pytest.mark.parametrize("number", [40, 900, 1500])
def test_a_descriptor_above_the_limit_is_found(number: int) -> None:
    """It was opened before the limit was lowered, which poll(2) then keeps to."""
    code = f"os.dup2(0, {number}); resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))"
    text = f"ls /proc/self/fd/{number} && ulimit -n"
    raised = "resource.setrlimit(resource.RLIMIT_NOFILE, (5000, 5000));"
    with supervised(_setup(f"{raised} {code}", "/bin/sh", "sh", "-c", text)) as call:
        call.escalate_next()
        call.shell_exit()
        assert call.printed().split() == [b"/proc/self/fd/%d" % number, b"32"]


LEASES = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
program, wrapper = sys.argv[1], os.environ["W"]
fcntl.fcntl(os.open(program, os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_WRLCK)
if os.fork() == 0:
    os.execv(wrapper, ["w", program, "leased"])
if os.fork() == 0:
    os.execv(wrapper, ["w", "/bin/echo", "echo", "served"])
os.wait()
os.wait()
"""


def test_a_program_that_takes_its_time_to_start_holds_nobody_up(tmp_path: Path) -> None:
    """The kernel has an exec wait for whoever holds a lease on the file (fcntl(2)), usually 45 seconds."""
    program = tmp_path / "leased"
    shutil.copy("/bin/true", program)
    with supervised([sys.executable, "python", "-I", "-S", "-c", LEASES, str(program)]) as call:
        asked = [call.accept() for _ in range(2)]
        asked.sort(key=lambda one: one[1].file == b"/bin/echo")
        for service, request in asked:
            call.escalate(service, request)
        call.wait_for(b"served\n")
        children = Path(f"/proc/{call.process.pid}/task/{call.process.pid}/children").read_text().split()
        assert any(is_program(int(child), "codex-shell-sup") for child in children)  # it still waits
        assert call.end() >= 2


def test_how_readily_it_is_killed_is_the_callers() -> None:
    """And not the supervisor's: the kernel sets it for all who share their memory."""
    file = "/proc/self/oom_score_adj"
    mine = Path(file).read_text()
    text = f"$W /bin/cat cat {file}; echo 777 >{file}; $W /bin/cat cat {file}; $W /bin/cat cat {file}"
    with script(text) as call:
        for _ in range(3):
            call.escalate_next()
        call.shell_exit()
        assert call.printed().decode() == f"{mine}777\n777\n"
        assert Path(f"/proc/{call.process.pid}/oom_score_adj").read_text() == mine
        assert call.end() == 0


def test_what_one_program_ignores_the_next_does_not() -> None:
    """The supervisor's own notes are not touched by a child in its memory."""
    ignored = f"{OUTSIDE} 'grep SigIgn /proc/self/status'"
    with script(f"(trap '' INT USR1; {ignored}); {ignored}; (trap '' QUIT; {ignored}); {ignored}") as call:
        for _ in range(4):
            call.escalate_next()
        call.shell_exit()
        masks = [int(word, 16) for word in call.printed().split()[1::2]]
        usual = masks[1]
        assert masks == [
            usual | 1 << (signal.SIGINT - 1) | 1 << (signal.SIGUSR1 - 1),
            usual,
            usual | 1 << (signal.SIGQUIT - 1),
            usual,
        ]


@pytest.mark.flood
def test_more_descriptors_than_can_be_handed_over() -> None:
    code = """
resource.setrlimit(resource.RLIMIT_NOFILE, (5000, 5000))
for number in range(1100, 4999):
    os.dup2(0, number)
for number in range(100, 1000):
    os.dup2(0, number)
"""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard >= 5000 or hard == resource.RLIM_INFINITY
    with supervised(_setup(code, "/bin/true", "true")) as call:
        call.escalate_next()
        assert call.shell_exit().value == 126
        assert b"more than 4096 descriptors" in call.printed()
        assert call.expect(wire.Ended).outcome.kind == 2


@pytest.mark.flood
def test_most_descriptors_that_can_be_handed_over() -> None:
    """In parts of 253, each right."""
    code = """
resource.setrlimit(resource.RLIMIT_NOFILE, (5000, 5000))
for number in [*range(100, 1000), *range(1100, 4100)]:
    os.dup2(0, number)
read, write = os.pipe()
os.dup2(read, 4100)
os.dup2(write, 4101)
os.close(read)
os.close(write)
"""
    with supervised(
        _setup(code, "/bin/sh", "sh", "-c", "ls /proc/self/fd | wc -l; ls -l /proc/self/fd | grep -c pipe")
    ) as call:
        call.escalate_next()
        assert call.shell_exit().value == 0
        assert call.printed().split() == [b"3906", b"4"]


# ---- how it ends ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3, 6, 9, 11, 13, 14, 15, 24, 31, 34, 40, 64])
def test_end_by_signal_is_reproduced(number: int) -> None:
    with script(f"ulimit -c 0; exec {OUTSIDE} 'kill -{number} $$'") as call:
        call.escalate_next()
        outcome = wire.Outcome(kind=1, value=number)
        assert call.shell_exit() == outcome
        assert call.expect(wire.Ended).outcome == outcome


@pytest.mark.parametrize("value", [0, 1, 126, 127, 128, 255])
def test_exit_code_is_reproduced(value: int) -> None:
    with script(f"exec {OUTSIDE} 'exit {value}'") as call:
        call.escalate_next()
        assert call.shell_exit() == wire.Outcome(kind=0, value=value)


@pytest.mark.parametrize(
    ("content", "mode", "by_path", "number", "status"),
    [
        (b"", 0o755, True, errno.ENOEXEC, 126),
        (b"#!/bin/sh\n", 0o644, True, errno.EACCES, 126),
        (b"#!/no/such/interpreter\n", 0o755, True, errno.ENOENT, 127),
        (b"#!/no/such/interpreter\n", 0o755, False, errno.ENOENT, 127),
        (b"\x7fELF", 0o755, False, errno.ENOEXEC, 126),
    ],
)
def test_program_that_cannot_be_started(
    tmp_path: Path, content: bytes, mode: int, by_path: bool, number: int, status: int
) -> None:
    tool = tmp_path / "tool"
    tool.write_bytes(content)
    tool.chmod(mode)
    with script(f"$W {tool} tool; echo $?") as call:
        call.escalate_next(by_path=by_path)
        assert call.expect(wire.Ended).outcome == wire.Outcome(kind=2, value=number)
        call.shell_exit()
        assert call.printed() == f"{tool}: {os.strerror(number)}\n{status}\n".encode()
        assert not [frame for frame in call.frames if isinstance(frame, wire.Started)]
        assert call.end() == 0


def test_script_by_path_keeps_its_name_and_by_descriptor_runs(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text('#!/bin/sh\necho "$0 $1"\n')
    tool.chmod(0o755)
    with script("cd /; $W $T tool x", env={"T": str(tool)}) as call:
        call.escalate_next(by_path=True)
        call.shell_exit()
        assert call.printed() == f"{tool} x\n".encode()
    with script("cd /; $W $T tool x", env={"T": str(tool)}) as call:
        call.escalate_next()
        call.shell_exit()
        assert re.fullmatch(rb"/dev/fd/\d+ x\n", call.printed())


def test_script_that_was_replaced_is_not_run(tmp_path: Path) -> None:
    """By path: only the very file that was decided on."""
    tool = tmp_path / "tool"
    for name in ("tool", "other"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name}\n")
        (tmp_path / name).chmod(0o755)
    with script(f"$W {tool} tool; echo $?") as call:
        service, request = call.accept()
        (tmp_path / "other").rename(tool)
        call.escalate(service, request, by_path=True)
        call.shell_exit()
        assert b"not run: it is no longer the file that was decided on\n126\n" in call.printed()
        assert call.expect(wire.Ended).outcome.kind == 2


def test_program_that_was_replaced_is_the_one_that_was_opened(tmp_path: Path) -> None:
    """By descriptor: what was decided on runs, whatever the path means by now."""
    tool = tmp_path / "tool"
    tool.symlink_to("/bin/echo")
    with script(f"$W {tool} tool decided") as call:
        service, request = call.accept()
        tool.unlink()
        tool.symlink_to("/bin/false")
        call.escalate(service, request)
        assert call.shell_exit().value == 0
        assert call.printed() == b"decided\n"


@pytest.mark.parametrize("by_path", [False, True])
@pytest.mark.parametrize("change", ["append", "overwrite", "touch", "mode"])
def test_program_that_was_changed_in_place_is_not_run(tmp_path: Path, change: str, by_path: bool) -> None:
    """The descriptor stays the same file through that; its size and times do not."""
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho decided\n")
    tool.chmod(0o755)
    for changes in (False, True):
        with script(f"$W {tool} tool; echo $?") as call:
            service, request = call.accept()
            before = decided(request.program)
            if changes:
                if change == "append":
                    with tool.open("a") as file:
                        file.write("echo more\n")
                elif change == "overwrite":
                    tool.write_text("#!/bin/sh\necho replace\n")
                    os.utime(tool, ns=(0, before["modified"]))
                elif change == "touch":
                    tool.touch()
                else:
                    tool.chmod(0o700)
            call.escalate(service, request, by_path=by_path, **before)
            call.shell_exit()
            if changes:
                assert b"not run: it is no longer the file that was decided on\n126\n" in call.printed()
                assert call.expect(wire.Ended).outcome.kind == 2
            else:
                assert call.printed() == b"decided\n0\n"


def test_path_without_a_descriptor() -> None:
    with script(f"{CAT} /dev/null; echo $?") as call:
        service, request = call.accept()
        call.escalate(service, request, program=None, path=b"/bin/echo", argv=(b"echo", b"by path"))
        call.shell_exit()
        assert call.printed() == b"by path\n0\n"


# ---- signals ----------------------------------------------------------------------------------------------------


def test_signals_are_forwarded() -> None:
    with attached(TRAPS) as (call, wrapper, _):
        call.wait_for(b"ready\n")
        for name in ("HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "TERM", "CONT", "WINCH"):
            os.kill(wrapper, signal.Signals[f"SIG{name}"])
            call.wait_for(f"got {name}\n".encode())
        os.kill(wrapper, 50)
        call.wait_for(b"got 50\n")
        assert call.printed().count(b"got") == 10


def test_ignored_signals_stay_ignored_and_are_still_forwarded() -> None:
    """A background job's SIGINT: ignored unless the program wants it. dash cannot un-ignore, Python can."""
    program = (
        f'exec {sys.executable} -I -S -c "import signal,os,time;'
        "print(signal.getsignal(signal.SIGINT)==signal.SIG_IGN,flush=True);"
        "signal.signal(signal.SIGINT,lambda *_:(os.write(1,b'caught'),os._exit(5)));"
        "print('ready',flush=True);time.sleep(100)\""
    )
    with attached(program, before="trap '' INT;") as (call, wrapper, _):
        call.wait_for(b"True\nready\n")
        os.kill(wrapper, signal.SIGINT)
        assert call.shell_exit() == wire.Outcome(kind=0, value=5)


@pytest.mark.parametrize("number", [signal.SIGKILL])
def test_wrapper_that_is_killed_takes_the_program_along(number: signal.Signals) -> None:
    program = "sh -c 'echo $$; exec sleep 1000' & echo $!; wait"
    with attached(program) as (call, wrapper, child):
        wait_until(lambda: call.printed().count(b"\n") == 2, "not started")
        grandchild = int(call.printed().split()[0])
        os.kill(wrapper, number)
        wait_until(lambda: not is_alive(child) and not is_alive(grandchild), "the program lives")
        assert call.expect(wire.Ended).outcome == wire.Outcome(kind=1, value=signal.SIGKILL)
        assert call.shell_exit() == wire.Outcome(kind=1, value=number)
        assert call.end() == 0


def test_another_sessions_terminal() -> None:
    """A terminal that the script made for itself: the program cannot join that session, so signals are forwarded."""
    code = """
import os, pty, sys, time
pid, master = pty.fork()
if pid == 0:
    os.execv(os.environ['W'], ['w', '/bin/sh', 'sh', '-c', "trap 'echo got int; exit 4' INT; " + os.environ['IDLE']])
seen = b''
while b'ready' not in seen:
    seen += os.read(master, 100)
os.write(master, b'\\x03')
while b'got int' not in seen:
    seen += os.read(master, 100)
print(os.WEXITSTATUS(os.waitpid(pid, 0)[1]))
"""
    with supervised([sys.executable, "python", "-I", "-S", "-c", code], env={"IDLE": IDLE}) as call:
        call.escalate_next()
        call.shell_exit()
        assert call.printed() == b"4\n"


# ---- many, and misbehaving ------------------------------------------------------------------------------------------


def test_many_at_once(tmp_path: Path) -> None:
    count = 40
    text = "mkfifo p; exec 3<>p\n"
    text += "".join(f"{OUTSIDE} 'read x <&3; exit {number}' &\npid{number}=$!\n" for number in range(count))
    text += "".join(f"wait $pid{number}; echo $?\n" for number in range(count))
    with script(text, cwd=tmp_path) as call:
        for _ in range(count):
            call.escalate_next()
        assert len({call.expect(wire.Started).pid for _ in range(count)}) == count
        writer = os.open(tmp_path / "p", os.O_WRONLY)
        os.write(writer, b"x\n" * count)
        os.close(writer)
        call.shell_exit()
        assert [int(line) for line in call.printed().split()] == list(range(count))
        assert {call.expect(wire.Ended).session for _ in range(count)} == set(range(1, count + 1))
        assert call.end() == 0


def test_session_that_was_handed_over_twice_at_once_in_drips() -> None:
    """SPAWN byte by byte, its descriptors on the first."""
    with script(f"{OUTSIDE} 'exit 5'") as call:
        service, request = call.accept()
        call.frames.append(call.expect(wire.ShellStarted))
        spawn = wire.Spawn(
            **decided(request.program), session=1, path=request.file, cwd=request.cwd, argv=request.argv,
            env=request.env[:3], umask=request.umask,
            stream=service.stream.fileno(), program=request.program, cwd_descriptor=request.cwd_descriptor,
        )  # fmt: skip
        data = call.connection.send(spawn)
        send_message(call.control, data[:1], spawn.descriptors)
        for byte in data[1:]:
            send_message(call.control, bytes((byte,)), ())
        service.close()
        assert call.shell_exit().value == 5


@contextlib.contextmanager
def forged(path: bytes = b"/bin/echo", argument: bytes = b"hi") -> Iterator[tuple[Call, Service, wire.Connection]]:
    """A call whose escalated client is the test itself: the stream's near end, right after ESCALATE."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with script("exec sleep 1000") as call:
        call.expect(wire.ShellStarted)
        call.connection.state = "running"
        program = os.open(path, os.O_PATH)
        cwd = os.open("/", os.O_PATH)
        call.send(
            wire.Spawn(session=9, path=path, cwd=b"/", argv=(b"x", argument), env=(), stream=far.fileno(),
                       program=program, cwd_descriptor=cwd, **decided(program))
        )  # fmt: skip
        for descriptor in (program, cwd):
            os.close(descriptor)
        far.close()
        service = Service(stream=near)
        client = wire.Connection(party=wire.Party.CLIENT, state="asked")
        service.connection = client
        assert service.receive() == wire.Escalate()
        yield call, service, client
        near.close()


def fds(total: int, *numbers: int) -> bytes:
    return struct.pack(f"<IBII{len(numbers)}I", 9 + 4 * len(numbers), 7, total, len(numbers), *numbers)


ATTRIBUTES = wire.encode(wire.Attributes(nice=os.nice(0)))  # whatever this process has: users cannot have less


def _report_of(child: int) -> Path:
    """Where a child that has not exec'd yet tells why it cannot: the last pipe that it can write to."""
    folder, about = Path(f"/proc/{child}/fd"), Path(f"/proc/{child}/fdinfo")
    pipes = [int(link.name) for link in folder.iterdir() if str(link.readlink()).startswith("pipe:")]
    writable = [n for n in pipes if re.search(r"^flags:\s+\d*1\n", (about / str(n)).read_text(), re.MULTILINE)]
    return folder / str(max(writable))


def test_half_a_report_is_no_exec(tmp_path: Path) -> None:
    """What the child works with is given back when it has exec'd, and not before, whoever writes into its pipe."""
    program = tmp_path / "leased"
    shutil.copy("/bin/echo", program)
    holder = (
        "import fcntl, os, signal, sys; signal.signal(signal.SIGIO, signal.SIG_IGN);"
        "fcntl.fcntl(os.open(sys.argv[1], os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_WRLCK);"
        "print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-I", "-S", "-c", holder, str(program)]
    with (
        forged(os.fsencode(program)) as (call, service, _),
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holding,
    ):
        assert holding.stdout is not None
        assert holding.stdout.readline() == b"\n"
        send_message(service.stream, fds(0), ())
        send_message(service.stream, ATTRIBUTES, ())
        children = Path(f"/proc/{call.process.pid}/task/{call.process.pid}/children")
        wait_until(lambda: len(children.read_text().split()) > 1, "no child")
        child = int(children.read_text().split()[1])
        wait_until(lambda: run_state(child) == "S" and is_program(child, "codex-shell-sup"), "it does not wait")
        with _report_of(child).open("wb", buffering=0) as report:
            report.write(b"x")
        assert call.expect(wire.Ended).outcome.kind == 2
        assert not is_alive(child)
        assert not [frame for frame in call.frames if isinstance(frame, wire.Started)]
        holding.communicate()
        call.end()


def test_forged_client_that_behaves(tmp_path: Path) -> None:
    out = os.open(tmp_path / "out", os.O_CREAT | os.O_WRONLY)
    with forged() as (call, service, client):
        send_message(service.stream, fds(1, 1), (out,))
        send_message(service.stream, ATTRIBUTES, ())
        client.state = "attached"
        assert service.receive() == wire.Exit(outcome=wire.Outcome(kind=0, value=0))
        assert call.expect(wire.Ended) == wire.Ended(session=9, outcome=wire.Outcome(kind=0, value=0))
    os.close(out)
    assert (tmp_path / "out").read_bytes() == b"hi\n"


@pytest.mark.parametrize(
    ("pieces", "problem"),
    [
        ([(ATTRIBUTES, 0)], "a frame out of turn"),
        ([(wire.encode(wire.Signal(number=9)), 0)], "a frame out of turn"),
        ([(fds(1, 1), 0)], "do not match their announcement"),
        ([(fds(1, 1), 2)], "do not match their announcement"),
        ([(fds(2, 1, 1), 2)], "do not match their announcement"),
        ([(fds(2, 1), 1), (fds(2, 1), 1)], "comes twice"),
        ([(fds(2, 1), 1), (fds(3, 2), 1)], "a total that changed"),
        ([(fds(2, 1), 1), (fds(2, 2, 3), 2)], "more descriptors than announced"),
        ([(fds(4097, 1), 1)], "wrong size"),
        ([(fds(1, 0x80000000), 1)], "too high"),
        ([(fds(1, 1)[:3], 0), (fds(1, 1)[3:], 1)], "middle of a frame"),
        ([(fds(1, 1)[:6], 1), (fds(1, 1)[6:], 1)], "middle of a frame"),
        ([(fds(0), 0), (fds(0), 0)], "a frame out of turn"),
        ([(fds(0), 0), (ATTRIBUTES, 1)], "descriptors where none belong"),
        ([(fds(0), 0), (ATTRIBUTES[:-1] + b"\x01", 0)], "attributes that cannot be"),
        ([(b"\xff" * 50, 0)], "a frame of a length that cannot be"),
        ([(struct.pack("<IB", 1, 77), 0)], "a frame of unknown type"),
        ([(struct.pack("<IB", 6_000_000, 8), 0)], "a frame out of turn"),
        ([(struct.pack("<IB", 6_000_000, 7), 0)], "a payload of the wrong size"),
    ],
)
def test_forged_client_that_does_not(pieces: list[tuple[bytes, int]], problem: str) -> None:
    """Each ends its own session with an ERROR; the call goes on."""
    null = os.open("/dev/null", os.O_RDWR)
    with forged() as (call, service, client):
        for data, count in pieces:
            send_message(service.stream, data, (null,) * count)
            wait_until(lambda: unread(service.stream) == 0, "not taken: the next piece would come with it")
        client.state = "attached"
        answer = service.receive()
        assert isinstance(answer, wire.Error)
        assert problem in answer.reason
        assert call.expect(wire.Ended).outcome.kind == 2
        assert call.process.poll() is None
        # Nothing received is left; a session ends by being told, then what it had is closed.
        wait_until(lambda: len(os.listdir(f"/proc/{call.process.pid}/fd")) == 8, "something is left")  # noqa: PTH208
        assert call.end() == 1
    os.close(null)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<IBI", 5, 9, 0),
        struct.pack("<IBI", 5, 9, 65),
        ATTRIBUTES,
        fds(0),
        b"\xff" * 9,
        b"\0\0\0\0",
        wire.encode(wire.Continued()),  # of no stop
    ],
)
def test_forged_client_that_breaks_off_later(data: bytes) -> None:
    """Its program is ended with its session, and that is told once."""
    with forged(b"/bin/sleep", b"1000") as (call, service, client):
        send_message(service.stream, fds(0) + ATTRIBUTES, ())
        child = call.expect(wire.Started).pid
        send_message(service.stream, data, ())
        client.state = "attached"
        answer = service.receive()
        assert isinstance(answer, wire.Error)
        assert answer.reason.startswith("protocol error: ")
        assert call.expect(wire.Ended).outcome == wire.Outcome(kind=1, value=signal.SIGKILL)
        assert not is_alive(child)
        assert call.end() == 1
        assert not [frame for frame in call.frames if isinstance(frame, wire.Ended)]


def test_limits_that_cannot_be_set() -> None:
    odd = wire.Attributes(nice=os.nice(0), limits=(wire.Limit(resource=30, soft=1, hard=1),))
    with forged() as (call, service, client):
        send_message(service.stream, fds(0) + wire.encode(odd), ())
        client.state = "attached"
        answer = service.receive()
        assert isinstance(answer, wire.Error)
        assert answer.reason.startswith("its resource limits could not be set")
        assert call.expect(wire.Ended).outcome == wire.Outcome(kind=2, value=errno.EINVAL)


def test_client_that_leaves_before_it_hands_over() -> None:
    with forged() as (call, service, _):
        service.stream.close()
        assert call.expect(wire.Ended).outcome == wire.Outcome(kind=2, value=errno.ECONNRESET)
        assert call.end() == 1


def test_client_that_asks_for_credentials_with_each_message() -> None:
    """SO_PASSCRED set by whoever made the stream takes room from descriptors; it only ends that session."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with script("exec sleep 1000") as call:
        call.expect(wire.ShellStarted)
        call.send(wire.Spawn(session=1, path=b"/bin/true", cwd=b"/", argv=(b"true",), env=(), stream=far.fileno()))
        far.close()
        near.sendall(fds(0) + ATTRIBUTES)
        assert call.expect(wire.Ended).outcome.kind == 2
        assert call.end() == 1
    near.close()


def test_client_that_drips_runs_out_of_time() -> None:
    """Ten seconds for the hand-over, whatever keeps coming; other sessions do not notice."""
    begun = time.monotonic()
    with forged() as (call, service, client):
        client.state = "attached"
        drips = iter(fds(3, 1, 2, 3)[:-1])
        while not select.select([service.stream], [], [], 0.7)[0]:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its time is up this very moment
                send_message(service.stream, bytes((next(drips),)), ())
        answer = service.receive()
        assert isinstance(answer, wire.Error)
        assert "in time" in answer.reason
        assert time.monotonic() - begun > 9
        assert call.expect(wire.Ended).outcome == wire.Outcome(kind=2, value=errno.ETIMEDOUT)


def test_client_that_floods_does_not_hold_up_the_others() -> None:
    with forged() as (call, service, _):
        send_message(service.stream, fds(0), ())
        sleeper = wire.encode(wire.Signal(number=signal.SIGWINCH)) * 2000
        send_message(service.stream, ATTRIBUTES, ())
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            send_message(service.stream, sleeper[:60_000], ())
        assert call.expect(wire.Ended).session == 9
        begun = time.monotonic()
        assert call.end() == 1
        assert time.monotonic() - begun < 8, "a hand-over has ten seconds: nothing waits for that"


def test_ask_mode_is_escalated_without_its_descriptor() -> None:
    code = """
import os
read, write = os.pipe()
os.set_inheritable(write, True)
script = 'ls /proc/self/fd | wc -l; exit 6'
pid = os.spawnv(os.P_NOWAIT, os.environ['W'], [f'codex-execve-ask:{write}', '/bin/sh', 'sh', '-c', script])
os.close(write)
print(os.WEXITSTATUS(os.waitpid(pid, 0)[1]), os.read(read, 9))
"""
    with supervised([sys.executable, "python", "-I", "-S", "-c", code]) as call:
        service, request = call.accept()
        assert request.ask
        call.escalate(service, request)
        call.shell_exit()
        assert call.printed() == b"4\n6 b'E'\n"


def test_end_takes_escalated_programs_along() -> None:
    with attached("sh -c 'setsid -f sh -c \"echo \\$\\$; exec sleep 1000\"'; echo up; exec sleep 1000") as (
        call,
        wrapper,
        child,
    ):
        wait_until(lambda: call.printed().count(b"\n") == 2, "not started")
        far = next(int(line) for line in call.printed().split() if line != b"up")
        assert is_alive(far)
        assert call.end() == 3
        assert not any(is_alive(pid) for pid in (far, wrapper, child))
        assert call.expect(wire.Ended).outcome.kind == 1


def test_sessions_in_the_middle_are_told_at_the_end() -> None:
    with forged() as (call, service, _):
        assert call.end() == 1
        assert call.expect(wire.Ended).outcome == wire.Outcome(kind=2, value=errno.ECANCELED)
        assert service.stream.recv(10) == b""


def test_soak() -> None:
    """A few hundred escalations: memory and descriptors of the supervisor stay flat."""
    loop = f"i=0; while [ $i -lt 300 ]; do {OUTSIDE} 'exit 0'; i=$((i + 1)); done; exec sleep 1000"

    def size(call: Call) -> tuple[int, int]:
        folder = Path(f"/proc/{call.process.pid}")
        # Written to: what is only read comes and goes with the page cache, and statm may be 64 pages behind (proc(5)).
        (written,) = re.findall(r"Private_Dirty: *(\d+) kB", (folder / "smaps_rollup").read_text())
        return int(written), len(list((folder / "fd").iterdir()))

    with script(loop) as call:
        shell = call.expect(wire.ShellStarted).pid
        call.connection.state = "running"
        sizes = []
        for turn in range(300):
            call.escalate_next()
            call.expect(wire.Started)
            call.expect(wire.Ended)
            if turn in {99, 299}:
                sizes.append(size(call))
        assert sizes[1][0] - sizes[0][0] <= 8  # kB
        assert abs(sizes[1][1] - sizes[0][1]) <= 1  # a stream may be there still
        # Told of its program's end after the server, the last wrapper lives on for a moment; then the shell goes on.
        wait_until(lambda: is_program(shell, "sleep"), "the shell does not come to its end")
        assert call.end() == 1
