"""The supervisor and its shell: start, environment, outcome, and the end of everything."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codex_shell_tool_mcp.escalation import wire
from codex_shell_tool_mcp.escalation.channel import receive_message, send_message
from codex_shell_tool_mcp.process import group as groups
from native.calls import MESSAGES, Call, is_alive, script, supervised, wait_until
from support.built import built
from support.service import PATIENCE

# ---- the shell ------------------------------------------------------------------------------------------------------


def test_shell_runs_and_its_exit_is_told() -> None:
    with script("echo hello; echo there >&2; exit 3") as call:
        pid = call.expect(wire.ShellStarted).pid
        assert pid != call.process.pid
        assert call.shell_exit() == wire.Outcome(kind=0, value=3)
        assert call.printed() == b"hello\nthere\n"
        assert call.end() == 0


def test_shell_that_dies_of_a_signal() -> None:
    with script("kill -KILL $$") as call:
        assert call.shell_exit() == wire.Outcome(kind=1, value=signal.SIGKILL)
        assert call.end() == 0


def test_shell_started_comes_first() -> None:
    with script(":") as call:
        assert isinstance(call._receive(), wire.ShellStarted)
        assert isinstance(call._receive(), wire.ShellExit)


def test_program_name_and_arguments() -> None:
    with supervised(["/bin/sh", "-odd name", "-c", 'echo "$0|$1|$#"', "a b", "--", ""]) as call:
        call.shell_exit()
        assert call.printed() == b"a b|--|2\n"


def test_environment_and_directory_are_the_callers(tmp_path: Path) -> None:
    read = "import os,sys; sys.stdout.buffer.write(open('/proc/self/environ','rb').read())"
    env = {"ODD": "\udcff\n", "CODEX_ESCALATE_SOCKET": "stale"}
    with supervised([sys.executable, "python", "-I", "-S", "-c", read], env=env, cwd=tmp_path) as call:
        call.shell_exit()
        entries = call.printed().split(b"\0")
        assert b"ODD=\xff\n" in entries
        assert [entry for entry in entries if entry.startswith(b"CODEX_ESCALATE_SOCKET=")] == [
            b"CODEX_ESCALATE_SOCKET=1023"
        ]
    with script("pwd; umask", cwd=tmp_path, setup=lambda: os.umask(0o031) and None) as call:
        call.shell_exit()
        assert call.printed() == f"{tmp_path}\n0031\n".encode()


@pytest.mark.parametrize(("limit", "number"), [(4096, 1023), (1024, 1023), (256, 254), (257, 256), (20, 19)])
def test_socket_is_moved_out_of_the_way(limit: int, number: int) -> None:
    def lower() -> None:
        import resource  # noqa: PLC0415 - runs in the child

        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, 4096))

    with script("echo $CODEX_ESCALATE_SOCKET; ulimit -Sn; ls /proc/self/fd", setup=lower) as call:
        call.shell_exit()
        lines = call.printed().split()
        assert lines[:2] == [b"%d" % number, b"%d" % limit]
        # The shell's own, the socket, and the one ls opens: nothing of the supervisor's.
        assert sorted(map(int, lines[2:])) == sorted([0, 1, 2, 3, number])


def test_no_number_left_for_the_socket() -> None:
    def lower() -> None:
        import resource  # noqa: PLC0415 - runs in the child

        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 4096))

    with script("echo must not run", setup=lower) as call:
        assert "descriptor limit" in call.expect(wire.ShellFailed).message
        assert call.end() == 0
        assert call.printed() == b""


def test_nothing_inherited_reaches_the_shell() -> None:
    """Nor what only names a file, for which poll(2) has no word."""
    inherited = (*os.pipe(), os.open("/", os.O_PATH | os.O_DIRECTORY))
    with script("ls /proc/self/fd", inherited=inherited) as call:
        call.shell_exit()
        assert sorted(map(int, call.printed().split())) == [0, 1, 2, 3, 1023]
    for number in inherited:
        os.close(number)


def test_signal_state_of_the_shell_is_the_default() -> None:
    def odd() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGRTMIN, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})

    with script("exec cat /proc/self/status", setup=odd) as call:
        call.shell_exit()
        assert re.findall(rb"^Sig(?:Blk|Ign|Cgt):\t(\w+)", call.printed(), re.MULTILINE) == [b"0" * 16] * 3


def test_shell_has_a_group_of_its_own_in_the_supervisors_session() -> None:
    with script("echo $$; exec cat /proc/self/stat") as call:
        call.shell_exit()
        shell, line = call.printed().split(b"\n")[:2]
        parent, group, session, terminal = line.rpartition(b")")[2].split()[1:5]
        assert (parent, session) == (b"%d" % call.process.pid,) * 2
        assert (group, terminal) == (shell, b"0")


def test_kill_0_in_a_script_spares_the_supervisor() -> None:
    with script("trap : TERM; kill 0; echo alive") as call:
        assert call.shell_exit() == wire.Outcome(kind=0, value=0)
        assert call.printed() == b"alive\n"
        assert call.end() == 0


def test_shell_gets_a_terminal_of_its_own() -> None:
    """Standard input that is a terminal nobody has becomes the call's controlling terminal, the shell in front."""
    master, slave = os.openpty()
    try:
        with script("ps -o tpgid=,pgid= -p $$; echo x > /dev/tty", stdin=slave) as call:
            call.shell_exit()
            foreground, group = call.printed().split()
            assert foreground == group
            shown = b""
            while len(shown) < 3:  # the kernel may bring them one by one
                shown += os.read(master, 100)
            assert shown == b"x\r\n"
    finally:
        os.close(master)
        os.close(slave)


def test_output_ends_with_the_shell() -> None:
    """The supervisor keeps no copy of the pipe: its end is seen although the supervisor lives on."""
    with script("echo done; exec > /dev/null 2>&1; sleep 1000 &") as call:
        call.shell_exit()
        data = b""
        while more := os.read(call.output, 100):
            data += more
        assert data == b"done\n"
        assert call.process.poll() is None
        for number in (0, 1, 2):
            assert Path(f"/proc/{call.process.pid}/fd/{number}").readlink() == Path("/dev/null")
        assert Path(f"/proc/{call.process.pid}/cwd").readlink() == Path("/")


# ---- what cannot be started -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "number", "text"),
    [
        (["/no/such/shell", "sh"], 2, "/no/such/shell cannot be executed"),
        (["/etc/passwd", "sh"], 13, "/etc/passwd cannot be executed"),
        (["/no\nsuch", "sh"], 2, "/no?such cannot be executed"),
    ],
)
def test_shell_that_cannot_be_executed(command: list[str], number: int, text: str) -> None:
    with supervised(command) as call:
        failed = call.expect(wire.ShellFailed)
        assert (failed.errno, failed.message) == (number, text)
        assert call.end() == 0


def test_shell_path_that_is_not_utf8() -> None:
    with supervised([b"/no/\xff", b"sh"]) as call:
        failed = call.expect(wire.ShellFailed)
        assert failed.errno == 2
        assert "UTF-8" in failed.message


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--control", "0", "--socket", "1", "--", "/bin/sh", "sh"],
        ["--control", "99", "--socket", "98", "--", "/bin/sh", "sh"],
        ["--control", "CONTROL", "--", "/bin/sh", "sh"],
        ["--control", "CONTROL", "--socket", "SOCKET", "--", "/bin/sh"],
        ["--control", "CONTROL", "--socket", "SOCKET", "--writable"],
        ["--control", "CONTROL", "--socket", "SOCKET"],
        ["--control", "CONTROL", "--wait", "--", "/bin/sh", "sh"],
        ["--control", "CONTROL", "--restrict", "--wait"],
        ["--control", "CONTROL", "--socket", "SOCKET", "--wait"],
        ["--wait"],
        ["--control", "CONTROL", "--socket", "SOCKET", "--nonsense", "--", "/bin/sh", "sh"],
        ["--control", "CONTROL", "--socket", "SOCKET", "/bin/sh", "sh"],
        ["--probe", "x"],
    ],
)
def test_usage(arguments: list[str]) -> None:
    control, theirs = socket.socketpair()
    numbers = {"CONTROL": str(theirs.fileno()), "SOCKET": str(control.fileno())}
    done = subprocess.run(
        [built().supervisor, *(numbers.get(one, one) for one in arguments)],
        capture_output=True,
        check=False,
        timeout=PATIENCE,
        pass_fds=(control.fileno(), theirs.fileno()),
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"usage: codex-shell-supervisor ")
    control.close()
    theirs.close()


def test_probe_version_help() -> None:
    def run(option: str) -> str:
        done = subprocess.run(
            [built().supervisor, option], capture_output=True, check=True, text=True, timeout=PATIENCE
        )
        assert not done.stderr
        return done.stdout

    found = json.loads(run("--probe"))
    assert set(found) == {"landlock_abi", "seccomp", "platform"}
    assert found["platform"] == {"linux": "linux", "darwin": "macos"}[sys.platform]
    assert re.fullmatch(r"codex-shell-supervisor \S+\n", run("--version"))
    assert run("--help").startswith("usage: codex-shell-supervisor ")


def test_session_is_started_even_by_the_leader_of_a_group() -> None:
    with script("exec cat /proc/self/stat", setup=lambda: os.setpgid(0, 0)) as call:
        call.shell_exit()
        assert call.printed().rpartition(b")")[2].split()[3] == b"%d" % call.process.pid


# ---- the end --------------------------------------------------------------------------------------------------------

SURVIVORS = {
    "background": "sleep 1000 & echo $!",
    "several": "for i in 1 2 3 4 5; do sleep 1000 & echo $!; done",
    "nohup": "nohup sleep 1000 >/dev/null 2>&1 & echo $!",
    "new session": "setsid -f $SLEEP",
    "double fork": "( ( $SLEEP & ) & )",
    "deep": "sh -c 'sh -c \"setsid -f $SLEEP\" & wait; exit 0' &",
    "stopped": "sh -c 'echo $$; kill -STOP $$; sleep 1000' &",
    "ignoring": "sh -c 'trap \"\" TERM HUP INT; echo $$; while :; do sleep 1; done' &",
    "chain": "sh -c 'echo $$; $SLEEP; :' &",
}

HOW = ["END", "control closed", "SIGTERM", "SIGHUP", "SIGINT"]


def _survivors(call: Call, count: int) -> list[int]:
    wait_until(lambda: call.printed().count(b"\n") >= count, f"not started: {call.printed()!r}")
    return [int(line) for line in call.printed().split()]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", SURVIVORS)
def test_nothing_survives(name: str, how: str, tmp_path: Path) -> None:
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\necho $$\nexec sleep 1000\n")
    sleeper.chmod(0o755)
    with script(SURVIVORS[name] + "\nexit 0", env={"SLEEP": str(sleeper)}) as call:
        pids = _survivors(call, {"several": 5, "chain": 2}.get(name, 1))
        call.shell_exit()
        assert all(is_alive(pid) for pid in pids)
        if how == "END":
            # "ignoring" has a child most of the time.
            assert call.end() >= len(pids)
        elif how == "control closed":
            call.control.close()
        else:
            call.process.send_signal(signal.Signals[how])
            assert call.expect(wire.Finished).ended >= len(pids)  # without END
        assert call.process.wait(PATIENCE) == 0
        assert not any(is_alive(pid) for pid in pids)


def test_number_of_ended_processes() -> None:
    with script("for i in 1 2 3; do sleep 1000 & done; exit 0") as call:
        call.shell_exit()
        assert call.end() == 3
    with script("sleep 1000 & exec sleep 1000") as call:
        call.expect(wire.ShellStarted)
        wait_until(lambda: len(_children(call.process.pid, deep=True)) == 2, "not started")
        assert call.end() == 2  # the shell among them
        assert call.shell_exit() == wire.Outcome(kind=1, value=signal.SIGKILL)
    with script("true & true & exit 0") as call:
        call.shell_exit()
        wait_until(lambda: not _children(call.process.pid), "orphans are reaped")
        assert call.end() == 0


def _children(pid: int, *, deep: bool = False) -> list[int]:
    try:
        found = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return []
    return found + [other for one in found if deep for other in _children(one, deep=True)]


def test_many_processes_that_fork_on() -> None:
    """A tree that grows while it is ended."""
    grow = "grow() { while :; do ( sleep 0.01; : ) & sleep 0.002; done; }; for i in 1 2 3; do grow & done; wait"
    with script(grow) as call:
        wait_until(lambda: len(_session_members(call.process.pid)) >= 8, "it does not grow")
        assert call.end() >= 4
        assert not [pid for pid in _session_members(call.process.pid) if is_alive(pid)]


FORKERS = {
    # Each forks on and on until the limit is reached; whoever dies makes room for another.
    "a crowd": "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
    # Each forks once and ends: nobody is there long enough to be killed by number.
    "comets": "import os\nfor _ in range(4):\n if not os.fork():\n  os.setsid()\n  while True:\n"
    "   try: os.fork() and os._exit(0)\n   except OSError: pass",
}
LIMITED = """
import os, resource, sys
if os.getuid() == 0:
    os.setresuid(65534, 65534, 65534)  # there is no limit for root
def is_ours(one):
    try:
        return one.isdigit() and os.stat("/proc/" + one).st_uid == os.getuid()
    except OSError:
        return False
running = sum(map(is_ours, os.listdir("/proc")))
resource.setrlimit(resource.RLIMIT_NPROC, (running + 100, running + 100))
print("forking", flush=True)
exec(sys.argv[1])
"""


@pytest.mark.parametrize("name", FORKERS)
def test_processes_that_fork_as_fast_as_they_can(name: str) -> None:
    code = f"{FORKERS[name]}\n# {time.monotonic_ns()} of {os.getpid()}"  # others may run the same test just now
    with supervised([sys.executable, "python", "-I", "-S", "-c", LIMITED, code]) as call:
        call.wait_for(b"forking\n")
        wait_until(lambda: len(_running(code)) >= 4, "no crowd gathers")
        call.control.shutdown(socket.SHUT_WR)
        assert call.expect(wire.Finished).ended >= 2
        assert call.process.wait(PATIENCE) == 0
        assert not _running(code)


def _running(argument: str) -> list[Path]:
    """Living processes with this argument, by their folders in proc(5)."""
    return [one for one in Path("/proc").glob("[0-9]*") if argument.encode() in _arguments_of(one)]


def _arguments_of(entry: Path) -> list[bytes]:
    try:
        return (entry / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _session_members(session: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == session:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
    return found


def test_supervisor_that_is_killed_takes_the_shell_along() -> None:
    with script("echo $$; exec sleep 1000") as call:
        shell = _survivors(call, 1)[0]
        call.process.kill()
        call.process.wait(PATIENCE)
        wait_until(lambda: not is_alive(shell), "the shell lives")


def test_end_before_the_shell_has_started() -> None:
    with script("exec sleep 1000") as call:
        call.send(wire.End())
        call.expect(wire.Finished)
        assert call.process.wait(PATIENCE) == 0


def test_process_that_cannot_be_killed_does_not_hold_up_the_end() -> None:
    """A zombie of a stranger's, a name full of parentheses: the list of processes is read right."""
    name = "a) Z 1 (b"
    code = (
        f"import ctypes,time; ctypes.CDLL(None).prctl(15, {name.encode()!r}); print('ok', flush=True); time.sleep(1000)"
    )
    with script(f'{sys.executable} -I -S -c "$CODE" & exit 0', env={"CODE": code}) as call:
        call.shell_exit()
        call.wait_for(b"ok\n")
        assert call.end() == 1


def test_a_stopped_supervisor_goes_on_when_its_parent_dies() -> None:
    """Else a script that stops it, and kills the server, would be rid of both."""
    start = (
        "import os,subprocess,sys,time\n"
        "supervisor = subprocess.Popen(sys.argv[1:], pass_fds=(int(sys.argv[3]), int(sys.argv[5])))\n"
        "print(supervisor.pid, flush=True)\ntime.sleep(1000)"
    )
    control, theirs = socket.socketpair()
    rendezvous, client = socket.socketpair(socket.AF_UNIX, MESSAGES)
    numbers = (theirs.fileno(), client.fileno())
    arguments = ["--control", str(numbers[0]), "--socket", str(numbers[1]), "--", "/bin/sleep", "sleep", "1000"]
    with (
        subprocess.Popen(
            [sys.executable, "-c", start, built().supervisor, *arguments], pass_fds=numbers, stdout=subprocess.PIPE
        ) as parent,
        control,
        rendezvous,
    ):
        assert parent.stdout is not None
        supervisor = int(parent.stdout.readline())
        theirs.close()
        client.close()
        wait_until(lambda: len(_children(supervisor)) == 1, "not started")
        os.kill(supervisor, signal.SIGSTOP)
        control.shutdown(socket.SHUT_WR)
        parent.kill()
        wait_until(lambda: not is_alive(supervisor), "it is still stopped")


# ---- one that waits -------------------------------------------------------------------------------------------------


def _catches(pid: int, number: int) -> bool:
    caught = re.search(r"^SigCgt:\t(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert caught is not None
    return bool(int(caught[1], 16) >> (number - 1) & 1)


def test_what_is_told_to_one_that_waits(tmp_path: Path) -> None:
    with supervised([], waiting=True) as call:
        call.start("--", "/bin/sh", "name", "-c", 'echo "$0|$1|$PWD|$A|$HOME"', "zero", "one", cwd=str(tmp_path))
        assert call.expect(wire.ShellStarted)
        assert call.shell_exit() == wire.Outcome(kind=0, value=0)
        assert call.printed().decode() == f"zero|one|{tmp_path}|1|\n"
        assert call.end() == 0


def test_the_shell_of_one_that_waits_is_as_any_other() -> None:
    """Its session, group, signals, descriptors and environment."""
    text = (
        "import os; print(os.getsid(0), os.getpgrp() == os.getpid(), sorted(map(int, os.listdir('/proc/self/fd'))));"
        "print(sorted(os.environ)); of = ('SigB', 'SigI', 'SigC', 'Cap', 'NoNew');"
        "print(*(line for line in open('/proc/self/status') if line.startswith(of)))"
    )
    command = [sys.executable, "python", "-I", "-S", "-c", text]
    told = []
    for waiting in (False, True):
        with supervised(command, waiting=waiting) as call:
            if waiting:
                env = tuple(b"%s=%s" % pair for pair in os.environb.items() if pair[0] != b"W")
                call.start("--", *command, env=(*env, b"W=" + os.fsencode(built().wrapper)))
            call.shell_exit()
            told.append(call.printed().replace(b"%d" % call.process.pid, b"SUPERVISOR"))
    assert told[0].startswith(b"SUPERVISOR True [0, 1, 2, 3, 1023]")
    assert told[0] == told[1]


def test_one_that_waits_confines_as_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with supervised([], waiting=True) as call:
        text = f"echo x > {tmp_path}/in/a; echo x > {tmp_path}/b"
        call.start("--restrict", "--writable", str(tmp_path / "in"), "--", "/bin/sh", "sh", "-c", text)
        call.shell_exit()
    assert [path.name for path in tmp_path.rglob("[ab]")] == ["a"]


@pytest.mark.parametrize("how", HOW)
def test_one_that_waits_ends_as_any_other(how: str) -> None:
    with supervised([], waiting=True) as call:
        if how == "END":
            assert call.end() == 0
        elif how == "control closed":
            call.control.close()
        else:
            wait_until(lambda: _catches(call.process.pid, signal.SIGTERM), "it is not ready")
            call.process.send_signal(signal.Signals[how])
            assert call.expect(wire.Finished).ended == 0
        assert call.process.wait(PATIENCE) == 0


def test_a_directory_that_one_that_waits_cannot_enter(tmp_path: Path) -> None:
    with supervised([], waiting=True) as call:
        call.start("--", "/bin/sh", "sh", "-c", "echo hi", cwd=str(tmp_path / "gone"))
        failed = call.expect(wire.ShellFailed)
        assert (failed.errno, failed.message) == (errno.ENOENT, "its directory cannot be entered")
        assert call.end() == 0
        assert call.printed() == b""


@pytest.mark.parametrize(
    "argv",
    [(), ("--",), ("--", "/bin/sh"), ("/bin/sh", "sh"), ("--nonsense", "--", "/bin/sh", "sh"), ("--writable",),
     ("--control", "3", "--", "/bin/sh", "sh"), ("--wait",), ("--group", "/x", "--", "/bin/sh", "sh")],
)  # fmt: skip
def test_a_start_that_makes_no_sense(argv: tuple[str, ...]) -> None:
    with supervised([], waiting=True) as call:
        call.start(*argv)
        assert call.process.wait(PATIENCE) == 1


def test_one_that_waits_runs_one_shell_after_the_other(tmp_path: Path) -> None:
    """Each has its own pipe, rendezvous, directory, environment and sandbox; nothing of one is left to the next."""
    script = 'echo "$PWD $A"; echo $(ls /proc/self/fd); "$W" /bin/true true; echo x > b; echo $?'
    wrapper = b"W=" + os.fsencode(built().wrapper)
    with supervised([], waiting=True) as call:
        held = []
        for number in range(1, 5):
            where = tmp_path / str(number)
            where.mkdir()
            confined = ("--restrict",) if number % 2 else ()
            call.start(*confined, "--", "/bin/sh", "sh", "-c", script, cwd=str(where), env=(b"A=%d" % number, wrapper))
            service, _ = call.accept()
            service.send(wire.Run())
            assert call.shell_exit() == wire.Outcome(kind=0, value=0)
            lines = call.printed().decode().splitlines()
            assert lines[:2] == [f"{where} {number}", "0 1 1023 2 3"]
            assert (lines[-1] == "0") is (where / "b").exists() is (number % 2 == 0)
            call.expect(wire.Idle)
            assert call.connection.state == "waiting"
            held.append(sorted(os.readlink(entry) for entry in Path(f"/proc/{call.process.pid}/fd").iterdir()))  # noqa: PTH115
        assert held == held[:1] * 4  # the very same
        assert call.end() == 0


def test_one_that_has_something_left_waits_for_no_other() -> None:
    with supervised([], waiting=True) as call:
        call.start("--", "/bin/sh", "sh", "-c", "sleep 1000 & sleep 1000 &")
        call.shell_exit()
        assert call.end() == 2


def test_one_that_waits_again_when_the_last_has_ended() -> None:
    with supervised([], waiting=True) as call:
        call.start("--", "/bin/sh", "sh", "-c", "sleep 0.2 &")
        call.shell_exit()
        call.expect(wire.Idle)
        call.start("--", "/bin/sh", "sh", "-c", "kill -TERM $$")
        assert call.shell_exit() == wire.Outcome(kind=1, value=signal.SIGTERM)
        call.expect(wire.Idle)
        assert call.end() == 0


@pytest.mark.parametrize("late", [wire.Keep(), wire.Spawn(session=1, path=b"/x", cwd=b"", argv=(), env=(), stream=0)])
def test_what_comes_too_late_ends_one_that_waits(late: wire.Frame) -> None:
    with supervised([], waiting=True) as call:
        call.start("--", "/bin/sh", "sh", "-c", ":")
        call.expect(wire.Idle)
        send_message(call.control, wire.encode(late), late.descriptors)
        assert call.expect(wire.Finished).ended == 0
        assert call.process.wait(PATIENCE) == 1


def test_an_answer_that_comes_too_late_stands_in_no_later_call(tmp_path: Path) -> None:
    """It may cross IDLE on the way, and names what the next call may ask for as well."""
    program = Path("/bin/true").resolve()
    status = program.stat()
    late = wire.Standing(
        generation=1,
        number=1,
        until=time.monotonic_ns() + 60 * 10**9,
        answer=wire.Run.TYPE,
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        modified=status.st_mtime_ns,
        changed=status.st_ctime_ns,
        depth=1,
        file=os.fsencode(program),
        resolved=os.fsencode(program),
    )
    ask = f'"$W" {program} true'
    asks_twice = f'"$W" /bin/sh sh -c :; {ask}; echo $?'
    env = (b"W=" + os.fsencode(built().wrapper),)
    with supervised([], waiting=True) as call:
        for in_time in (True, False):
            call.start("--standing", "--", "/bin/sh", "sh", "-c", asks_twice if in_time else ask, env=env)
            if in_time:
                service, _ = call.accept()
                call.expect(wire.ShellStarted)
                call.send(late)
                service.send(wire.Run())
                call.expect(wire.ShellExit)  # nobody had to be asked
                assert call.printed() == b"0\n"
            else:
                service, _ = call.accept()
                service.send(wire.Deny(reason=""))
                assert call.shell_exit().value == 1
            call.expect(wire.Idle)
            call.send(late)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_start_with_other_descriptors(count: int) -> None:
    with supervised([], waiting=True) as call:
        data = struct.pack("<II", 4, 0) + b"/\0--\0/bin/sh\0sh\0-c\0"
        send_message(call.control, struct.pack("<IB", len(data) + 1, wire.Start.TYPE) + data, (0,) * count)
        assert call.process.wait(PATIENCE) == 1


def test_one_that_waits_is_started_once() -> None:
    with supervised([], waiting=True) as call:
        call.start("--", "/bin/sh", "sh", "-c", "exec sleep 1000")
        call.connection.state = "waiting"
        call.start("--", "/bin/sh", "sh", "-c", "exec sleep 1000")
        assert call.process.wait(PATIENCE) == 1


# ---- what is kept ---------------------------------------------------------------------------------------------------


def test_what_is_kept_goes_on() -> None:
    with script("sleep 1000 & setsid -f sleep 1000") as call:
        call.shell_exit()
        call.send(wire.Keep())
        assert call.expect(wire.Kept).left == 2
        children = _children(call.process.pid)
        assert len(children) == 2
        for pid in children:
            os.kill(pid, signal.SIGTERM)
        assert call.expect(wire.Finished).ended == 0
        assert call.process.wait(PATIENCE) == 0


def test_nothing_is_left_to_keep() -> None:
    """Where nothing is left, FINISHED comes along with SHELL_EXIT, and nobody has to say END."""
    with script("true & wait") as call:
        call.shell_exit()
        assert call.expect(wire.Finished).ended == 0
        assert call.process.wait(PATIENCE) == 0


def test_what_ends_before_it_could_be_kept() -> None:
    with script("sleep 0.2 & exit 0") as call:
        call.shell_exit()
        assert call.connection.state == "shell ended"  # SHELL_EXIT did not wait for it
        assert call.expect(wire.Finished).ended == 0
        assert call.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("how", HOW)
def test_what_is_kept_can_be_ended(how: str) -> None:
    with script("sleep 1000 & echo $!; setsid -f sh -c 'echo $$; exec sleep 1000'") as call:
        pids = _survivors(call, 2)
        call.shell_exit()
        call.send(wire.Keep())
        assert call.expect(wire.Kept).left == 2
        if how == "END":
            assert call.end() == 2
        elif how == "control closed":
            call.control.close()
        else:
            call.process.send_signal(signal.Signals[how])
            assert call.expect(wire.Finished).ended == 2
        assert call.process.wait(PATIENCE) == 0
        assert not any(is_alive(pid) for pid in pids)


def test_what_is_kept_is_still_asked_about() -> None:
    with script("(sleep 0.3; \"$W\" /bin/sh sh -c 'echo escalated') & exit 0") as call:
        call.shell_exit()
        call.send(wire.Keep())
        assert call.expect(wire.Kept).left >= 1
        call.escalate_next()
        call.wait_for(b"escalated\n")
        assert call.expect(wire.Ended).outcome == wire.Outcome(kind=0, value=0)
        assert call.expect(wire.Finished).ended == 0


def test_keep_while_the_shell_runs_is_an_offence() -> None:
    with script("exec sleep 1000") as call:
        call.expect(wire.ShellStarted)
        send_message(call.control, wire.encode(wire.Keep()), ())
        assert call.process.wait(PATIENCE) == 1


# ---- the control group ----------------------------------------------------------------------------------------------


@pytest.fixture
def group() -> Path:
    """Where a group can be made. Root has a place, and so has a user whose session's groups are its own; who tests in
    neither case cannot have one, and calls do without."""
    place = groups.place()
    if place is None:
        pytest.skip("this process's control group is not its own")
    return place / f"codex-shell-test-{os.getpid()}"


def test_all_that_a_call_starts_is_in_its_group(group: Path) -> None:
    with script(
        'cat /proc/self/cgroup; setsid -f cat /proc/self/cgroup; "$W" /bin/cat cat /proc/self/cgroup; sleep 1000 &',
        options=["--group", str(group)],
    ) as call:
        call.escalate_next()
        call.shell_exit()
        wait_until(lambda: call.printed().count(b"0::") == 3, "not all have told")
        wait_until(lambda: len(_children(call.process.pid)) == 1, "more than the last one is left")
        lines = [line for line in call.printed().splitlines() if line.startswith(b"0::")]
        assert all(line.endswith(group.name.encode()) for line in lines)
        assert group.name not in Path(f"/proc/{call.process.pid}/cgroup").read_text()
        assert group.is_dir()
        assert call.end() == 1
        assert not group.exists()


def test_the_group_is_ended_as_one(group: Path) -> None:
    text = "for i in 1 2 3; do setsid -f sh -c 'echo $$; sleep 1000'; done; sleep 1000 & echo $!"
    with script(text, options=["--group", str(group)]) as call:
        pids = _survivors(call, 4)
        call.shell_exit()
        wait_until(lambda: len(_children(call.process.pid, deep=True)) == 7, "the shells, and what they wait for")
        assert call.end() == 7
        assert not any(is_alive(pid) for pid in pids)
        assert not group.exists()


def test_a_group_that_cannot_be_made_is_done_without(tmp_path: Path) -> None:
    for place in (tmp_path / "no" / "such", tmp_path / "ordinary"):
        with script("sleep 1000 & echo hi", options=["--group", str(place)]) as call:
            call.shell_exit()
            assert call.end() == 1
            assert call.printed() == b"hi\n"
        assert not place.exists()


# ---- the control channel --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 40, struct.pack("<I", 0), struct.pack("<IB", 1, 33), struct.pack("<IB", 30, 32) + b"\xff" * 29,
     struct.pack("<IB", 2, 38) + b"\0"],
)  # fmt: skip
def test_garbage_from_the_server_ends_everything(data: bytes) -> None:
    with script("echo $$; exec sleep 1000") as call:
        shell = _survivors(call, 1)[0]
        call.control.sendall(data)
        assert call.process.wait(PATIENCE) == 1
        assert not is_alive(shell)


def test_end_in_drips() -> None:
    with script("sleep 1000 &") as call:
        call.shell_exit()
        for byte in call.connection.send(wire.End()):
            send_message(call.control, bytes((byte,)), ())
            time.sleep(0.01)
        assert call.expect(wire.Finished).ended == 1


def test_descriptors_where_none_belong_end_everything() -> None:
    for data, split in ((wire.encode(wire.End()), 0), (wire.encode(wire.End()), 2)):
        with script("exec sleep 1000") as call:
            call.expect(wire.ShellStarted)
            if split:
                send_message(call.control, data[:split], ())
                time.sleep(0.05)
            send_message(call.control, data[split:], (0,))
            assert call.process.wait(PATIENCE) == (0 if not split else 1) or call.process.returncode == 1


def test_server_that_does_not_read_is_waited_for_but_not_blocked_on() -> None:
    """SHELL_EXIT and FINISHED stay queued while the channel is full."""
    with script("exec sleep 1000") as call:
        call.expect(wire.ShellStarted)
        call.send(wire.End())
        time.sleep(0.2)
        assert call.expect(wire.Finished).ended == 1


def test_descriptors_of_a_supervisor_at_rest() -> None:
    with script("exec sleep 1000") as call:
        call.expect(wire.ShellStarted)
        links = [os.readlink(entry) for entry in Path(f"/proc/{call.process.pid}/fd").iterdir()]  # noqa: PTH115
        assert sorted(re.sub(r"\[.*", "", link) for link in links) == sorted(
            ["/dev/null"] * 3 + ["/proc", f"/proc/{call.process.pid}/oom_score_adj", "pipe:", "pipe:", "socket:"]
        )


def test_stream_of_a_stranger() -> None:
    """SPAWN with something that is no stream ends that session, not the call."""
    with script("exec sleep 1000") as call:
        call.expect(wire.ShellStarted)
        null = os.open("/dev/null", os.O_RDWR)
        call.send(wire.Spawn(session=5, path=b"/bin/true", cwd=b"/", argv=(b"true",), env=(), stream=null))
        os.close(null)
        ended = call.expect(wire.Ended)
        assert (ended.session, ended.outcome.kind) == (5, 2)
        assert call.end() == 1


def test_rendezvous_reaches_the_server() -> None:
    """The moved socket is the one we made."""
    send = (
        "import os,socket; s=socket.socket(fileno=int(os.environ['CODEX_ESCALATE_SOCKET']));"
        "a,b=socket.socketpair(); socket.send_fds(s,[b'\\x01'],[b.fileno()])"
    )
    with supervised([sys.executable, "python", "-I", "-S", "-c", send]) as call:
        call.shell_exit()
        data, descriptors = receive_message(call.rendezvous, 16)
        assert (data, len(descriptors)) == (b"\x01", 1)
        assert fcntl.fcntl(descriptors[0], fcntl.F_GETFD)
        os.close(descriptors[0])
