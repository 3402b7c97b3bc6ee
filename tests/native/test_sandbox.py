"""The sandboxed half: each thing that must not work beside the nearest one that must."""

from __future__ import annotations

import ctypes
import json
import os
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from codex_shell_tool_mcp.escalation import wire
from native.calls import script, supervised
from support.built import built

if TYPE_CHECKING:
    from pathlib import Path


def _abilities() -> dict[str, object]:
    done = subprocess.run([built().supervisor, "--probe"], capture_output=True, check=True)
    return dict(json.loads(done.stdout))


@pytest.fixture(autouse=True)
def _needs_a_kernel() -> None:
    found = _abilities()
    if int(str(found["landlock_abi"])) >= 3 and found["seccomp"]:
        return
    reason = f"no Landlock of ABI 3, or no seccomp, here: {found}"
    if os.environ.get("CODEX_TEST_MUST_WORK"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path]:
    """A writable root and a directory beside it with a file in each."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for one in (inside, outside):
        one.mkdir()
        (one / "file").write_text("old\n")
        (one / "dir").mkdir()
    return inside, outside


def restricted(*writable: Path | str, network: bool = False) -> list[str]:
    options = ["--restrict", *(word for one in writable for word in ("--writable", str(one)))]
    return options if network else [*options, "--no-network"]


def run(text: str, options: list[str], **how: Any) -> tuple[int, bytes]:
    with script(text, options=options, **how) as call:
        outcome = call.shell_exit()
        output = call.printed()
        call.end()
    return outcome.value, output


def python(code: str, options: list[str], **how: Any) -> tuple[int, bytes]:
    with supervised([sys.executable, "python", "-I", "-S", "-c", code], options=options, **how) as call:
        outcome = call.shell_exit()
        output = call.printed()
        call.end()
    return outcome.value, output


# ---- writes ---------------------------------------------------------------------------------------------------------

WRITES = {
    "overwrite": "echo new > $X/file",
    "append": "echo new >> $X/file",
    "truncate": "truncate -s 0 $X/file",
    "create": "echo new > $X/created",
    "unlink": "rm -f $X/file",
    "mkdir": "mkdir $X/new",
    "rmdir": "rmdir $X/dir",
    "symlink": "ln -s target $X/link",
    "hard link": "ln $X/file $X/other",
    "rename": "mv $X/file $X/renamed",
    "fifo": "mkfifo $X/fifo",
    "socket": "$PYTHON -I -S -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"'$X/s'\")'",
    "deep": "echo new > $X/dir/created",
    "by link": "ln -sfn $X $I/to; echo new > $I/to/file",
    "by parent": "echo new > $I/../$(basename $X)/file",
    "by proc": "echo new > /proc/self/root$X/file",
}


@pytest.mark.parametrize("name", WRITES)
def test_write(name: str, place: tuple[Path, Path]) -> None:
    inside, outside = place
    for where, works in ((outside, False), (inside, True)):
        before = sorted(path.name for path in outside.rglob("*"))
        env = {"X": str(where), "I": str(inside), "PYTHON": sys.executable}
        status, output = run(WRITES[name], restricted(inside, network=True), env=env)
        assert (status == 0) == works, (where, output)
        assert sorted(path.name for path in outside.rglob("*")) == before
        assert (outside / "file").read_text() == "old\n"


def test_across_the_border(place: tuple[Path, Path]) -> None:
    """What is outside cannot be brought in by rename or link and be written there; copies can."""
    inside, outside = place
    env = {"I": str(inside), "O": str(outside)}
    for text in ("mv $O/file $I/stolen", "ln $O/file $I/linked", "mv $I/file $O/planted", "ln $I/file $O/linked"):
        assert run(text, restricted(inside), env=env)[0] != 0, text
        assert (outside / "file").exists()
        assert not (outside / "planted").exists()
    assert run("cp $O/file $I/copy && mv $I/copy $I/dir/moved", restricted(inside), env=env)[0] == 0


def test_reading_and_executing_stay_free(place: tuple[Path, Path]) -> None:
    assert run("cat $O/file; ls /etc >/dev/null; /bin/echo ran", restricted(), env={"O": str(place[1])}) == (
        0,
        b"old\nran\n",
    )


def test_several_roots_a_file_and_a_missing_one(place: tuple[Path, Path]) -> None:
    inside, outside = place
    options = restricted(inside, outside / "file", outside / "missing", "/no/such/root", outside / "file" / "below")
    env = {"I": str(inside), "O": str(outside)}
    assert run("echo a > $I/x; echo b > $O/file; : > $O/missing", options, env=env)[0] != 0
    assert (inside / "x").read_text() == "a\n"
    assert (outside / "file").read_text() == "b\n"
    assert not (outside / "missing").exists()


def test_devices() -> None:
    text = "for d in null zero tty; do : > /dev/$d || echo $d; done; echo end"
    assert run(text.replace(" tty", ""), restricted()) == (0, b"end\n")
    name = f"codex-native-{os.getpid()}"
    output = run(f"echo x > /dev/shm/{name}; ls /dev/shm | grep -c {name}", restricted())[1]
    assert output.split()[-1] == b"0"


def test_terminals_of_others() -> None:
    """A terminal by its name is somebody's window: what is written there may be typed on."""
    master, slave = os.openpty()
    name = os.ttyname(slave)
    assert run(f"echo x > {name} || echo refused", restricted())[1].endswith(b"refused\n")
    assert run(f"echo x > {name}", [])[0] == 0
    os.close(master)
    os.close(slave)


def test_root_that_is_a_link_by_now(place: tuple[Path, Path]) -> None:
    """The server names real paths: a link was put there since."""
    inside, outside = place
    for path in (inside / "link", inside / "link" / "dir"):
        (inside / "link").unlink(missing_ok=True)
        (inside / "link").symlink_to(outside)
        assert failure(restricted(path)).errno == 40
    assert run("echo new > $I/dir/x", restricted(inside / "dir"), env={"I": str(inside)})[0] == 0


def test_root_cannot_make_devices(place: tuple[Path, Path]) -> None:
    """Through a device file of its own root could write a whole disk."""
    inside = place[0]
    assert run("mknod $I/disk b 8 0 || mknod $I/mem c 1 1", restricted(inside), env={"I": str(inside)})[0] != 0
    assert run("mknod $I/fifo p", restricted(inside), env={"I": str(inside)})[0] == 0


def test_escalated_program_is_outside(place: tuple[Path, Path]) -> None:
    """The same exec, once run in the sandbox and once escalated out of it."""
    outside = place[1]
    text = (
        "$W /bin/sh sh -c 'grep -E \"NoNewPrivs|Seccomp:\" /proc/self/status; echo new > $O/file; echo $?' 2>/dev/null"
    )
    with script(text, options=restricted(), env={"O": str(outside)}) as call:
        service, _ = call.accept()
        service.send(wire.Run())
        call.shell_exit()
        assert call.printed().split() == [b"NoNewPrivs:", b"1", b"Seccomp:", b"2", b"2"]
    assert (outside / "file").read_text() == "old\n"
    with script(text, options=restricted(), env={"O": str(outside)}) as call:
        call.escalate_next()
        call.shell_exit()
        assert call.printed().split() == [b"NoNewPrivs:", b"0", b"Seccomp:", b"0", b"0"]
    assert (outside / "file").read_text() == "new\n"


def test_signals_of_an_escalated_program_work_from_inside(tmp_path: Path) -> None:
    """The shell cannot signal what is outside the domain, but its wrapper, which passes it on."""
    program = "trap 'echo got; exit 3' TERM; echo ready >&3; while :; do sleep 0.05; done"
    text = 'mkfifo p; exec 3<>p; $W /bin/sh sh -c "$P" & read x <&3; kill $!; wait $!; echo $x $?'
    with script(text, options=restricted(tmp_path), cwd=tmp_path, env={"P": program}) as call:
        call.escalate_next()
        call.shell_exit()
        assert call.printed().split() == [b"got", b"ready", b"3"]
        assert call.end() == 0


# ---- the network ----------------------------------------------------------------------------------------------------

FAMILIES = ["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG", "AF_BLUETOOTH", "AF_CAN"]


@pytest.mark.parametrize("family", [name for name in FAMILIES if hasattr(socket, name)])
@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM", "SOCK_RAW", "SOCK_SEQPACKET"])
def test_no_sockets(family: str, kind: str) -> None:
    code = f"""
import errno, socket
try:
    socket.socket(socket.{family}, socket.{kind})
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    assert python(code, restricted()) == (0, b"EPERM\n")


def test_unix_socketpairs_work_and_named_sockets_do_not(tmp_path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s"))
    server.listen()
    code = f"""
import os, socket
flags = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_STREAM | flags):
    a, b = socket.socketpair(socket.AF_UNIX, kind)
    a.sendmsg([b'through'])
    print(b.recvmsg(9)[0])
for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_DGRAM | flags):
    try:
        socket.socketpair(socket.AF_UNIX, kind)
    except PermissionError:
        print('refused')
for call in (lambda: a.connect({str(tmp_path / "s")!r}), lambda: a.bind({str(tmp_path / "t")!r}), lambda: a.listen(),
             a.getsockname, lambda: a.shutdown(2), lambda: a.send(b'x'), lambda: a.setsockopt(1, 2, 1),
             lambda: a.getsockopt(1, 3)):
    try:
        call()
        print('works')
    except PermissionError:
        pass
"""
    assert python(code, restricted(tmp_path)) == (0, b"b'through'\n" * 3 + b"refused\n" * 3)
    server.close()


def test_network_only(place: tuple[Path, Path]) -> None:
    """--no-network alone: the file system is as it was."""
    code = f"""
import socket
open({str(place[1] / "file")!r}, 'w').write('new')
try:
    socket.socket()
except PermissionError:
    print('refused')
"""
    assert python(code, ["--no-network"]) == (0, b"refused\n")
    assert (place[1] / "file").read_text() == "new"


def test_network_allowed() -> None:
    """With --restrict alone the network works."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    code = f"import socket; c = socket.create_connection(('127.0.0.1', {server.getsockname()[1]})); print('connected')"
    assert python(code, restricted(network=True)) == (0, b"connected\n")
    server.close()


def test_no_options_no_sandbox() -> None:
    status, output = run("grep -E 'NoNewPrivs|Seccomp:' /proc/self/status", [])
    assert (status, output.split()) == (0, [b"NoNewPrivs:", b"0", b"Seccomp:", b"0"])


@pytest.mark.parametrize("options", [["--restrict"], ["--no-network"], ["--restrict", "--no-network"]])
def test_marks_of_the_sandbox(options: list[str]) -> None:
    status, output = run("grep -E 'NoNewPrivs|Seccomp:' /proc/self/status", options)
    assert (status, output.split()) == (0, [b"NoNewPrivs:", b"1", b"Seccomp:", b"2"])


# ---- through other processes, and past the filter -------------------------------------------------------------------

CALLS = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
}  # fmt: skip


@pytest.mark.parametrize("options", [["--restrict"], ["--no-network"]])
@pytest.mark.parametrize("name", CALLS)
def test_system_calls_that_are_refused(name: str, options: list[str]) -> None:
    number = CALLS[name][os.uname().machine == "aarch64"]
    code = (
        "import ctypes; c = ctypes.CDLL(None, use_errno=True);"
        f"print(c.syscall({number}, 0, 0, 0, 0, 0, 0), ctypes.get_errno())"
    )
    assert python(code, options) == (0, b"-1 1\n")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="another architecture has no x32 and no int 0x80")
@pytest.mark.parametrize(
    "instructions",
    [
        # mov eax, 0x40000000 + 39 (getpid); syscall: the x32 calls have numbers of their own
        b"\xb8\x27\x00\x00\x40\x0f\x05\xc3",
        # mov eax, 20 (getpid of i386); int 0x80
        b"\xb8\x14\x00\x00\x00\xcd\x80\xc3",
    ],
)
def test_foreign_system_calls_kill(instructions: bytes) -> None:
    """Named exception old-machine-code."""
    code = f"""
import ctypes, mmap
memory = mmap.mmap(-1, 4096, prot=7)
memory.write({instructions!r})
ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
print('survived')
"""
    status, output = python(code, ["--restrict"])
    assert (status, output) == (31, b"")  # SIGSYS
    status, output = python(code, [])
    assert b"survived" in output or status in {4, 11, 31}  # without a filter the kernel decides


def test_typing_on_a_terminal_is_refused() -> None:
    """TIOCSTI and TIOCLINUX, also with upper bits set that the kernel ignores; other requests work."""
    code = """
import ctypes, os
c = ctypes.CDLL(None, use_errno=True)
for request in (0x5412, 0x541C, 0x5412 + (1 << 32)):
    print(c.ioctl(0, ctypes.c_ulong(request), b'x'), ctypes.get_errno())
print(os.isatty(0))
"""
    master, slave = os.openpty()
    assert python(code, ["--restrict"], stdin=slave) == (0, b"-1 1\n-1 1\n-1 1\nTrue\n")
    os.close(master)
    os.close(slave)


def test_processes_outside_cannot_be_reached(place: tuple[Path, Path]) -> None:
    abi = int(str(_abilities()["landlock_abi"]))
    target = subprocess.Popen(["/bin/sleep", "1000"], env={"SECRET": "x"})
    text = (
        f"kill -0 {target.pid} && echo signalled; kill -0 $$ && echo self; cat /proc/{target.pid}/environ;"
        f" head -c 1 /proc/{target.pid}/mem; ls /proc/{target.pid}/fd; cat /proc/$$/environ | grep -c ."
    )
    output = run(text + " 2>/dev/null", restricted())[1]
    target.kill()
    target.wait()
    assert b"SECRET" not in output
    assert b"self" in output
    if abi >= 6:
        assert b"signalled" not in output


def test_abstract_socket_outside_cannot_be_reached() -> None:
    abi = int(str(_abilities()["landlock_abi"]))
    name = f"\0h5-{os.getpid()}"
    server = socket.socket(socket.AF_UNIX)
    server.bind(name)
    server.listen()
    code = f"""
import socket
try:
    socket.socket(socket.AF_UNIX).connect({name!r})
    print('connected')
except PermissionError:
    print('refused')
s = socket.socket(socket.AF_UNIX); s.bind({name + "i"!r}); s.listen()
socket.socket(socket.AF_UNIX).connect({name + "i"!r}); print('own')
"""
    expected = b"refused\nown\n" if abi >= 6 else b"connected\nown\n"
    assert python(code, restricted(network=True)) == (0, expected)
    server.close()


def test_nothing_can_be_mounted(place: tuple[Path, Path]) -> None:
    """Not even in namespaces of its own, where another root could be laid over the one that is restricted."""
    env = {"I": str(place[0])}
    text = "{} sh -c 'mount -t tmpfs none $I/dir && echo MOUNTED; mount --bind / $I/dir && echo BOUND'; echo end"
    for before in ("", "unshare -m", "unshare -Urm", "unshare -Um"):
        output = run(text.format(before), restricted(place[0]), env=env)[1]
        assert b"MOUNTED" not in output
        assert b"BOUND" not in output
        assert output.endswith(b"end\n")


def test_root_keeps_the_files_but_not_the_machine() -> None:
    """Capabilities that reach past any sandbox are dropped for good; those over files stay."""
    kinds = "Eff|Prm|Inh|Bnd" if os.geteuid() == 0 else "Eff|Prm|Inh"

    def held(options: list[str]) -> set[int]:
        output = run(f"grep -E '^Cap({kinds})' /proc/self/status", options)[1].decode()
        values = [int(value, 16) for value in re.findall(r"Cap\w+:\s+(\w+)", output)]
        assert len(values) == kinds.count("|") + 1
        return {number for number in range(64) if any(value >> number & 1 for value in values)}

    before, after = held([]), held(restricted())
    assert before - after == before & {16, 17, 19, 21, 22, 25, 26, 27, 32, 33, 34, 38, 39, 40}


# ---- fails closed ---------------------------------------------------------------------------------------------------


def failure(options: list[str], setup: object = None) -> wire.ShellFailed:
    with script("echo must not run", options=options, setup=setup) as call:
        failed = call.expect(wire.ShellFailed)
        assert call.end() == 0
        assert call.printed() == b""
    return failed


def test_root_that_cannot_be_opened(tmp_path: Path) -> None:
    failed = failure(restricted("/" + "x" * 5000))
    assert failed.errno == 36
    assert failed.message.startswith("Landlock: /xxx")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    failed = failure(restricted(loop))
    assert (failed.errno, failed.message) == (
        40, f"Landlock: {loop} cannot be made writable; leave it out or make it accessible",
    )  # fmt: skip


def _nested() -> None:
    """Sixteen Landlock domains inside each other: the kernel takes no more."""
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(38, 1, 0, 0, 0)
    attributes = (ctypes.c_uint64 * 1)(1 << 6)  # making character devices: in nobody's way
    ruleset = library.syscall(444, attributes, 8, 0)
    while library.syscall(446, ruleset, 0) == 0:
        pass
    os.close(ruleset)


def test_one_sandbox_too_many() -> None:
    failed = failure(restricted(), _nested)
    assert failed.errno == 7
    assert "could not be applied" in failed.message


def _deny(*calls: int) -> object:
    """A filter that refuses system calls with ENOSYS, as a kernel without them would."""

    def setup() -> None:
        library = ctypes.CDLL(None, use_errno=True)
        program = [(0x20, 0, 0, 0)]
        for call in calls:
            program += [(0x15, 0, 1, call), (0x06, 0, 0, 0x00050000 | 38)]
        program.append((0x06, 0, 0, 0x7FFF0000))
        packed = b"".join(
            code.to_bytes(2, "little") + bytes((true, false)) + value.to_bytes(4, "little")
            for code, true, false, value in program
        )
        buffer = ctypes.create_string_buffer(packed)

        class Fprog(ctypes.Structure):
            _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

        library.prctl(38, 1, 0, 0, 0)
        if library.prctl(22, 2, ctypes.byref(Fprog(len(program), ctypes.addressof(buffer))), 0, 0) != 0:
            os._exit(99)

    return setup


def test_kernel_without_landlock() -> None:
    failed = failure(restricted(), _deny(444))
    assert failed.errno == 0
    assert failed.message.startswith("Landlock: not supported by this kernel (ABI 0); ")
    assert re.search(r"Use such a kernel, another sandbox, or ", failed.message)


def test_rules_that_cannot_be_added(tmp_path: Path) -> None:
    assert failure(restricted(tmp_path), _deny(445)).errno == 38


def test_rules_that_cannot_be_applied() -> None:
    assert failure(restricted(), _deny(446)).errno == 38


def test_kernel_without_seccomp() -> None:
    number = {"x86_64": 317, "aarch64": 277}[os.uname().machine]
    for options in (["--restrict"], ["--no-network"]):
        failed = failure(options, _deny(number))
        assert failed.errno == 38
        assert failed.message.startswith("seccomp: ")


def test_kernel_without_prctl() -> None:
    number = {"x86_64": 157, "aarch64": 167}[os.uname().machine]
    # The supervisor itself needs prctl: without it, it says so before there is a shell at all.
    assert "reaper" in failure(["--no-network"], _deny(number)).message
