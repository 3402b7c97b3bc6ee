"""The C wrapper up to the answer: what it asks, what it does on each answer, and that it never runs anything else."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.escalation import wire
from codex_shell_tool_mcp.escalation.channel import receive_message
from native.calls import MESSAGES
from support.built import built
from support.service import PATIENCE, Caller, Service, calling

if TYPE_CHECKING:
    from pathlib import Path

NOT_RUN = 126


def wrapper() -> str:
    return str(built().wrapper)


def setting_up(setup: str, *command: str) -> list[str]:
    """``command`` started in a process that ``setup``, some Python, has changed before."""
    program = f"import os, resource, signal, sys\n{setup}\nos.execv(sys.argv[1], sys.argv[2:])"
    return [sys.executable, "-I", "-S", "-c", program, command[0], *command]


def not_run(caller: Caller, file: str = "/bin/echo") -> str:
    """The cause it gives: one line, status 126, nothing run."""
    status, out, err = caller.outcome()
    assert (status, out) == (NOT_RUN, b"")
    assert err.endswith(b"\n")
    assert err.count(b"\n") == 1
    before = f"codex-execve-wrapper: {file}: not run: "
    assert err.decode().startswith(before)
    return err.decode()[len(before) : -1]


# ---- RUN ------------------------------------------------------------------------------------------------------------

SETUP = """
os.umask(0o027)
os.nice(3)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM, signal.SIGRTMIN + 3})
for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGRTMAX):
    signal.signal(ignored, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_NOFILE, (60, 80))
resource.setrlimit(resource.RLIMIT_CORE, (0, 4096))
for number in (9, 33):
    os.dup2(0, number)
os.set_inheritable(os.open("/dev/zero", os.O_RDONLY), False)
"""

REPORT = "cat /proc/self/status /proc/self/limits /proc/self/stat; ls -l /proc/self/fd"


def _state(report: bytes) -> dict[str, object]:
    """What of a process's own report an exec hands on."""
    text = report.decode()
    wanted = "Umask|SigBlk|SigIgn|SigCgt|NoNewPrivs|Seccomp"
    stat_line = next(line for line in text.splitlines() if re.match(r"\d+ \(cat\)", line))
    return {
        "status": re.findall(rf"^(?:{wanted}):.*$", text, re.MULTILINE),
        "limits": re.findall(r"^Max .*$", text, re.MULTILINE),
        "nice": stat_line.rpartition(")")[2].split()[16],
        "descriptors": [
            re.sub(r"\[\d+\]|/proc/\d+", "", one) for one in re.findall(r"(\d+ -> .*)$", text, re.MULTILINE)
        ],
    }


def test_run_is_exact() -> None:
    """Dispositions, mask, limits, umask, nice value and descriptors are those of a plain exec."""
    with calling(setting_up(SETUP, "/bin/sh", "-c", REPORT)) as caller:
        plain = caller.outcome()[1]
    with calling(setting_up(SETUP, wrapper(), "/bin/sh", "sh", "-c", REPORT)) as caller:
        service, _ = caller.ask()
        service.send(wire.Run())
        assert service.receive() is None  # the stream was close-on-exec
        status, wrapped, err = caller.outcome()
        assert (status, err) == (0, b"")
    assert _state(wrapped) == _state(plain)
    assert _state(plain)["status"]
    assert len(_state(plain)["limits"]) > 10  # type: ignore[arg-type]


def test_run_hands_on_arguments_and_environment(tmp_path: Path) -> None:
    arguments = [b"", b"\xff\xfe", b"two words", b"-x", "\N{SNOWMAN}".encode(), b"\n"]
    env = {b"ODD": b"\xff\n", b"EMPTY": b""}
    with calling([wrapper().encode(), b"/bin/cat", b"cat", *arguments], env=env) as caller:
        service, request = caller.ask()
        assert request.argv == (b"cat", *arguments)
        assert {b"ODD=\xff\n", b"EMPTY="} <= set(request.env)
        assert len(request.env) == len(set(request.env))
    command = [wrapper().encode(), b"/bin/cat", b"odd name", b"--", b"/proc/self/cmdline", b"/proc/self/environ"]
    with calling(command, env=env) as caller:
        service, request = caller.ask()
        service.send(wire.Run())
        expected = b"".join(text + b"\0" for text in (*request.argv, *request.env))
        assert caller.outcome() == (0, expected, b"")


def test_request_tells_where_and_what(tmp_path: Path) -> None:
    (tmp_path / "tool").symlink_to("/bin/echo")
    with calling([*setting_up("os.umask(0o013)", wrapper(), "./tool", "t")], cwd=str(tmp_path)) as caller:
        service, request = caller.ask()
        assert (request.file, request.cwd, request.umask, request.ask) == (
            b"./tool",
            os.fsencode(tmp_path),
            0o013,
            False,
        )
        assert request.program is not None
        assert request.cwd_descriptor is not None
        assert os.path.sameopenfile(request.program, os.open("/bin/echo", os.O_PATH))
        assert os.path.samestat(os.fstat(request.cwd_descriptor), tmp_path.stat())
        for descriptor in (request.program, request.cwd_descriptor):
            assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_PATH
        service.close()


def test_request_without_a_file() -> None:
    with calling([wrapper(), "/nowhere/at/all", "x"]) as caller:
        service, request = caller.ask()
        assert request.program is None
        assert request.cwd_descriptor is not None
        service.send(wire.Run())
        assert service.receive() == wire.ExecFailed(errno=2)
        assert caller.outcome() == (127, b"", b"/nowhere/at/all: No such file or directory\n")


def test_directory_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    with calling(setting_up(f"os.rmdir({str(gone)!r})", wrapper(), "/bin/echo", "echo", "hi"), cwd=str(gone)) as caller:
        service, request = caller.ask()
        assert request.cwd == b""
        assert request.cwd_descriptor is not None
        assert stat.S_ISDIR(os.fstat(request.cwd_descriptor).st_mode)
        service.send(wire.Run())
        assert caller.outcome() == (0, b"hi\n", b"")


def test_directory_with_a_very_long_name(tmp_path: Path) -> None:
    setup = "for _ in range(30):\n    os.mkdir('d' * 200)\n    os.chdir('d' * 200)"
    with calling(setting_up(setup, wrapper(), "/bin/echo", "echo", "hi"), cwd=str(tmp_path)) as caller:
        service, request = caller.ask()
        assert request.cwd == b""
        service.send(wire.Run())
        assert caller.outcome()[0] == 0
    subprocess.run(["rm", "-rf", tmp_path], check=True)  # deeper than Python's own can go


@pytest.mark.parametrize(
    ("content", "mode", "number", "status"),
    [(b"", 0o755, 8, NOT_RUN), (b"#!/bin/sh\n", 0o644, 13, NOT_RUN), (b"#!/no/such/interpreter\n", 0o755, 2, 127)],
)  # fmt: skip
def test_exec_that_fails(tmp_path: Path, content: bytes, mode: int, number: int, status: int) -> None:
    tool = tmp_path / "tool"
    tool.write_bytes(content)
    tool.chmod(mode)
    with calling([wrapper(), str(tool), "tool"]) as caller:
        service, _ = caller.ask()
        service.send(wire.Run())
        assert service.receive() == wire.ExecFailed(errno=number)
        assert caller.outcome() == (status, b"", f"{tool}: {os.strerror(number)}\n".encode())


# ---- DENY and ERROR -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("", "Execution denied"),
        ("no käse", "Execution denied: no käse"),
        ("x" * 65536, "Execution denied: " + "x" * 65536),
    ],
    ids=["bare", "reason", "longest"],
)
def test_deny(reason: str, said: str) -> None:
    with calling([wrapper(), "/bin/echo", "echo", "hi"]) as caller:
        service, _ = caller.ask()
        service.send(wire.Deny(reason=reason))
        assert caller.outcome() == (1, b"", said.encode() + b"\n")


@pytest.mark.parametrize(
    ("reason", "said"), [("", "the server could not decide"), ("rules are broken", "rules are broken")]
)
def test_error(reason: str, said: str) -> None:
    with calling([wrapper(), "/bin/echo", "echo", "hi"]) as caller:
        service, _ = caller.ask()
        service.send(wire.Error(reason=reason))
        assert not_run(caller) == said


# ---- nobody there, or nobody sensible -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (None, "CODEX_ESCALATE_SOCKET is not set"),
        ("", "CODEX_ESCALATE_SOCKET is not a number"),
        ("x", "CODEX_ESCALATE_SOCKET is not a number"),
        ("-1", "CODEX_ESCALATE_SOCKET is not a number"),
        ("1 ", "CODEX_ESCALATE_SOCKET is not a number"),
        ("99999999999", "CODEX_ESCALATE_SOCKET is not a number"),
        ("2147483647", "descriptor 2147483647, named by CODEX_ESCALATE_SOCKET, is not a socket"),
        ("77", "descriptor 77, named by CODEX_ESCALATE_SOCKET, is not a socket"),
        ("0", "descriptor 0, named by CODEX_ESCALATE_SOCKET, is not a socket"),
    ],
)
def test_no_socket(value: str | None, cause: str) -> None:
    setup = (
        "del os.environ['CODEX_ESCALATE_SOCKET']"
        if value is None
        else f"os.environ['CODEX_ESCALATE_SOCKET'] = {value!r}"
    )
    with calling(setting_up(setup, wrapper(), "/bin/echo", "echo", "hi")) as caller:
        assert not_run(caller) == cause


def test_server_gone_before() -> None:
    read_end, write_end = os.pipe()
    waits = setting_up(f"os.read({read_end}, 1)", wrapper(), "/bin/echo", "echo", "hi")
    with calling(waits, inherited=(read_end,)) as caller:
        os.close(read_end)
        caller.rendezvous.close()
        os.close(write_end)
        assert not_run(caller) == "the server is gone"


@pytest.mark.parametrize("when", ["accepted", "asked", "half an answer"])
def test_server_gone(when: str) -> None:
    with calling([wrapper(), "/bin/echo", "echo", "hi"]) as caller:
        service = caller.accept()
        if when != "accepted":
            service.receive()
        if when == "half an answer":
            service.send_raw(wire.encode(wire.Run())[:3])
        service.close()
        assert not_run(caller) == "the server closed the connection without an answer"


def test_server_gone_while_a_long_question_is_sent() -> None:
    with calling([wrapper(), "/bin/echo", "echo", *["x" * 100_000] * 15]) as caller:
        service = caller.accept()
        service.close()
        assert not_run(caller) == "the server closed the connection without an answer"


def test_answer_before_the_whole_question_was_read() -> None:
    """A server that refuses the question may close at once: its reason still arrives."""
    with calling([wrapper(), "/bin/echo", "echo", *["x" * 100_000] * 15]) as caller:
        service = caller.accept()
        service.send_raw(wire.encode(wire.Error(reason="too long")))
        service.stream.shutdown(socket.SHUT_RD)
        assert not_run(caller) == "too long"


def _frame(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack("<IB", len(payload) + 1, kind) + payload


@pytest.mark.parametrize(
    "answer",
    [
        b"\xff" * 64,
        b"\0" * 64,
        struct.pack("<IB", 0xFFFFFFFF, 2),
        struct.pack("<IB", 65538, 4),
        _frame(2, b"\0"),
        _frame(2) + _frame(2),
        _frame(2) + b"\0",
        _frame(3, b"\0"),
        _frame(4, b"\xff"),
        _frame(5, b"\xc0\x80"),
        _frame(12, struct.pack("<BI", 0, 0)),
        _frame(10, struct.pack("<I", 19)),
        _frame(1, b"x" * 20),
        _frame(0),
        _frame(99),
    ],
)
def test_answer_that_is_none(answer: bytes) -> None:
    with calling([wrapper(), "/bin/echo", "echo", "hi"]) as caller:
        service, _ = caller.ask()
        service.send_raw(answer)
        assert not_run(caller).startswith("the server broke the protocol: ")


@pytest.mark.parametrize("answer", [wire.Run(), wire.Deny(reason="no")])
def test_answer_in_drips(answer: wire.Frame) -> None:
    with calling([wrapper(), "/bin/echo", "echo", "hi"]) as caller:
        service, _ = caller.ask()
        for byte in wire.encode(answer):
            service.send_raw(bytes((byte,)))
            time.sleep(0.01)
        assert caller.outcome()[0] == (0 if isinstance(answer, wire.Run) else 1)


# ---- the rendezvous -------------------------------------------------------------------------------------------------


def test_long_question_to_a_slow_server() -> None:
    arguments = [b"%07d" % number + b"x" * 120_000 for number in range(15)]
    with calling([wrapper().encode(), b"/bin/echo", b"echo", *arguments]) as caller:
        service = caller.accept()
        time.sleep(0.1)
        request = service.receive()
        assert isinstance(request, wire.Request)
        assert request.argv == (b"echo", *arguments)
        service.send(wire.Run())
        assert caller.outcome() == (0, b" ".join(arguments) + b"\n", b"")


def test_question_from_scattered_strings() -> None:
    """Environment strings that do not lie one behind the other: what a shell that builds them itself may pass on."""
    env = {b"V%05d" % number: b"x" * (number % 50) for number in range(5000)}
    with calling([wrapper(), "/bin/echo", "echo"], env=env) as caller:
        _, request = caller.ask()
        assert {name + b"=" + value for name, value in env.items()} <= set(request.env)


@pytest.mark.parametrize("kind", {socket.SOCK_DGRAM, MESSAGES})
def test_rendezvous_without_waiting_that_is_full(kind: socket.SocketKind) -> None:
    """A script can make the shared description non-blocking, and fill it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    theirs.setblocking(False)
    sent = 0
    try:
        while True:
            sent += theirs.send(b"zz") // 2
    except BlockingIOError:
        pass
    setup = f"os.environ['CODEX_ESCALATE_SOCKET'] = '{theirs.fileno()}'"
    with calling(setting_up(setup, wrapper(), "/bin/echo", "echo", "hi"), inherited=(theirs.fileno(),)) as caller:
        time.sleep(0.3)
        assert caller.process.poll() is None
        for _ in range(sent):
            assert ours.recv(16) == b"zz"
        assert select.select([ours], [], [], PATIENCE)[0]
        data, descriptors = receive_message(ours, 16)
        service = Service(stream=socket.socket(fileno=descriptors[0]))
        assert data == b"\x01"
        assert isinstance(service.receive(), wire.Request)
        service.send(wire.Run())
        assert caller.outcome() == (0, b"hi\n", b"")
        service.close()
    ours.close()
    theirs.close()


# ---- hard circumstances ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_closed_standard_descriptors(closed: tuple[int, ...]) -> None:
    """Ours never take their numbers, and the program finds them closed."""
    setup = "".join(f"os.close({number}); " for number in closed)
    program = """
import os
closed = 0
for number in (0, 1, 2):
    try:
        os.fstat(number)
    except OSError:
        closed += 1 << number
os._exit(closed)
"""
    python = (sys.executable, "python", "-I", "-S", "-c", program)
    with calling(setting_up(setup, wrapper(), *python)) as caller:
        service, _ = caller.ask()
        service.send(wire.Run())
        assert caller.outcome() == (sum(1 << number for number in closed), b"", b"")
    with calling(setting_up(setup, wrapper(), "/bin/sh", "sh")) as caller:
        service, _ = caller.ask()
        service.send(wire.Deny(reason="no"))
        assert service.receive() is None  # what it has to say does not land in the stream
        assert caller.outcome()[0] == 1


def test_soft_descriptor_limit_too_low() -> None:
    setup = "resource.setrlimit(resource.RLIMIT_NOFILE, (4, 100))"
    with calling(setting_up(setup, wrapper(), "/bin/sh", "sh", "-c", "ulimit -Sn; ulimit -Hn")) as caller:
        service, request = caller.ask()
        assert request.program is not None
        assert request.cwd_descriptor is not None
        service.send(wire.Run())
        assert caller.outcome() == (0, b"4\n100\n", b"")


def test_hard_descriptor_limit_too_low() -> None:
    setup = "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))"
    with calling(setting_up(setup, wrapper(), "/bin/echo", "echo", "hi")) as caller:
        assert "descriptor limit" in not_run(caller)


def test_stderr_that_nobody_reads_is_no_signal() -> None:
    setup = """
read, write = os.pipe()
os.close(read)
os.dup2(write, 2)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
"""
    with calling(setting_up(setup, wrapper(), "/bin/echo", "echo", "hi")) as caller:
        service, _ = caller.ask()
        service.send(wire.Deny(reason="no"))
        assert caller.outcome()[0] == 1
    with calling(setting_up(setup, wrapper(), "/bin/echo", "echo", "hi")) as caller:
        caller.accept().close()
        assert caller.outcome()[0] == NOT_RUN


def test_signal_while_it_waits_for_the_answer() -> None:
    """Nothing is caught before the answer: it dies like any program, and nothing was run."""
    with calling([wrapper(), "/bin/echo", "echo", "hi"]) as caller:
        service, _ = caller.ask()
        caller.process.send_signal(signal.SIGTERM)
        assert service.receive() is None
        assert caller.outcome() == (-signal.SIGTERM, b"", b"")


@pytest.mark.parametrize("file", ["--help", "--version", "-x", "--"])
def test_first_argument_is_never_an_option(file: str) -> None:
    with calling([wrapper(), file, "name"]) as caller:
        service, request = caller.ask()
        assert request.file == file.encode()
        service.send(wire.Run())
        assert caller.outcome() == (127, b"", f"{file}: No such file or directory\n".encode())


@pytest.mark.parametrize(
    ("file", "number", "status"), [("", 2, 127), ("/" + "x" * 4095, 36, NOT_RUN), ("./" * 3000 + "x", 36, NOT_RUN)]
)
def test_path_that_no_kernel_takes(file: str, number: int, status: int) -> None:
    """Nobody is asked: it ends as its execve would."""
    done = subprocess.run([wrapper(), file, "x"], capture_output=True, check=False, timeout=PATIENCE)
    assert done.returncode == status
    assert done.stdout == b""
    if len(file) < 900:
        assert done.stderr == f"{file}: {os.strerror(number)}\n".encode()


def test_longest_path() -> None:
    file = "/" + "./" * 2042 + "bin/echo"[:10]
    assert 4090 <= len(file) <= 4095
    with calling([wrapper(), file, "echo", "hi"]) as caller:
        service, request = caller.ask()
        assert request.file == file.encode()
        assert request.program is not None
        service.send(wire.Run())
        assert caller.outcome() == (0, b"hi\n", b"")


@pytest.mark.parametrize("arguments", [[], ["/bin/echo"]])
def test_too_few_arguments(arguments: list[str]) -> None:
    done = subprocess.run([wrapper(), *arguments], capture_output=True, check=False, timeout=PATIENCE)
    assert done.returncode == NOT_RUN
    assert (done.stdout, done.stderr) == (b"", b"usage: codex-execve-wrapper FILE ARGV0 [ARG...]\n")


def test_message_is_one_line_whatever_the_file_is_called() -> None:
    with calling([wrapper(), "/no\nsuch\x1b[31m", "x"]) as caller:
        caller.accept().close()
        assert not_run(caller, "/no?such?[31m")


# ---- ask mode -------------------------------------------------------------------------------------------------------


def _asking(number: int, *rest: str) -> list[str]:
    return [f"codex-execve-ask:{number}", *rest]


def test_ask_mode_run() -> None:
    read_end, write_end = os.pipe()
    command = _asking(write_end, "/bin/echo", "echo", "hi")
    with calling(command, executable=wrapper(), inherited=(write_end,)) as caller:
        os.close(write_end)
        service, request = caller.ask()
        assert request.ask
        service.send(wire.Run())
        assert caller.outcome() == (0, b"", b"")
        assert os.read(read_end, 16) == b"R"
        assert os.read(read_end, 16) == b""
    os.close(read_end)


@pytest.mark.parametrize(
    ("answer", "status"), [(wire.Deny(reason="no"), 1), (wire.Error(reason="no"), NOT_RUN), (None, NOT_RUN)]
)
def test_ask_mode_otherwise(answer: wire.Frame | None, status: int) -> None:
    read_end, write_end = os.pipe()
    with calling(_asking(write_end, "/bin/echo", "echo"), executable=wrapper(), inherited=(write_end,)) as caller:
        os.close(write_end)
        service, _ = caller.ask()
        if answer is not None:
            service.send(answer)
        service.close()
        assert caller.outcome()[:2] == (status, b"")
        assert os.read(read_end, 16) == b""
    os.close(read_end)


def test_ask_mode_nobody_listens() -> None:
    read_end, write_end = os.pipe()
    with calling(_asking(write_end, "/bin/echo", "echo"), executable=wrapper(), inherited=(write_end,)) as caller:
        os.close(write_end)
        os.close(read_end)
        service, _ = caller.ask()
        service.send(wire.Run())
        assert "the shell does not listen" in not_run(caller)


@pytest.mark.parametrize("number", ["", "x", "7x", "-1", "876"])
def test_ask_mode_without_a_descriptor(number: str) -> None:
    with calling([f"codex-execve-ask:{number}", "/bin/echo", "echo"], executable=wrapper()) as caller:
        assert "answer" in not_run(caller)


# ---- the binary -----------------------------------------------------------------------------------------------------


def test_small_and_static() -> None:
    """One is loaded for each exec."""
    image = built().wrapper.read_bytes()
    assert len(image) <= 40 * 1024
    if sys.platform == "linux":
        offset, size, count = struct.unpack_from("<Q", image, 32)[0], *struct.unpack_from("<HH", image, 54)
        kinds = [struct.unpack_from("<I", image, offset + size * index)[0] for index in range(count)]
        assert kinds
        assert 3 not in kinds  # PT_INTERP: it would need a loader
