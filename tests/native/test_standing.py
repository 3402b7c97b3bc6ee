"""Answers that the supervisor gives itself: to what they were given for, and to nothing else."""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from codex_shell_tool_mcp.escalation import wire
from codex_shell_tool_mcp.escalation.channel import receive_message, send_message
from native.calls import Call, supervised, wait_until
from support.service import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has message-keeping sockets")

RUN = wire.encode(wire.Run())
HELLO = bytes((wire.VERSION,))

LEND = """
import array, os, socket
lender = socket.socket(fileno=0)
inherited = array.array("i", [int(os.environ["CODEX_ESCALATE_SOCKET"])])
lender.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, inherited)])
lender.recv(1)
"""
"""A script that gives the test the end of the rendezvous that it has inherited, and waits."""


@dataclass(kw_only=True)
class Asked:
    """A call, and what its scripts ask by: played by the test."""

    call: Call
    inner: socket.socket
    kept: list[socket.socket] = field(default_factory=list)

    def introduce(self, stream: socket.socket) -> None:
        """The datagram that brings a stream."""
        send_message(self.inner, HELLO, (stream.fileno(),))

    def ask(self, file: bytes, *words: bytes, program: str | None = None, **more: Any) -> socket.socket:
        """Ask as the wrapper does, with a descriptor of ``program`` (``file`` itself unless told)."""
        near, far = socket.socketpair()
        self.kept.append(near)
        near.settimeout(PATIENCE)
        opened = os.open(program or file, os.O_PATH)
        try:
            request = wire.Request(file=file, cwd=b"/", argv=(b"any", *words), env=(b"A=b",), program=opened)
            request = replace(request, **more)
            send_message(near, wire.encode(request), request.descriptors)
        finally:
            os.close(opened)
        self.introduce(far)
        far.close()
        return near

    def is_running(self) -> None:
        """The server, asked for the first time, has been told that the shell runs: now it may give standing answers."""
        self.is_passed_on(self.ask(b"/bin/sh"))
        self.call.frames.append(self.call.expect(wire.ShellStarted))

    def is_answered(self, stream: socket.socket) -> None:
        """The supervisor answers, once, and lets go; the server is not asked."""
        assert stream.recv(100) == RUN
        assert stream.recv(100) == b""
        stream.close()

    def is_passed_on(self, stream: socket.socket) -> wire.Request:
        """The server is asked, and its answer comes through."""
        service, request = self.call.accept()
        service.send(wire.Run())
        service.close()
        self.is_answered(stream)
        return request


@contextmanager
def asked() -> Iterator[Asked]:
    """A supervisor that stands between the test, as the script, and the test, as the server."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "python", "-c", LEND]
        with supervised(command, options=["--standing"], stdin=theirs.fileno()) as call:
            _, (inner,) = _lent(ours)
            one = Asked(call=call, inner=socket.socket(fileno=inner))
            try:
                one.is_running()
                yield one
            finally:
                for stream in (*one.kept, one.inner):
                    stream.close()


def _lent(ours: socket.socket) -> tuple[bytes, tuple[int, ...]]:
    ours.settimeout(PATIENCE)
    data, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
    numbers = array.array("i")
    for _, _, rights in ancillary:
        numbers.frombytes(rights)
    return data, tuple(numbers)


def answer_for(path: Path | str, **changes: Any) -> wire.Standing:
    """The standing answer for a program as it is now, any arguments, for long."""
    status = Path(path).stat()
    made = wire.Standing(
        generation=1,
        number=1,
        until=time.monotonic_ns() + 3600 * 10**9,
        answer=wire.Run.TYPE,
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        modified=status.st_mtime_ns,
        changed=status.st_ctime_ns,
        depth=1,
        file=os.fsencode(path),
        resolved=os.path.realpath(os.fsencode(path)),
    )
    return replace(made, **changes)


def tool(folder: Path, name: str = "tool") -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_shell_that_asks_nothing_is_told_of_once_at_its_end() -> None:
    """That it runs wakes the server only where something depends on it."""
    reading, writing = os.pipe()
    with supervised(["/bin/sh", "sh", "-c", "echo up; read go"], options=["--standing"], stdin=reading) as call:
        os.close(reading)
        call.wait_for(b"up\n")
        assert not select.select([call.control], [], [], 0.2)[0]
        os.close(writing)
        call.shell_exit()
        assert [type(frame) for frame in call.frames] == [wire.ShellStarted]


def test_what_has_no_answer_is_passed_on_as_it_came() -> None:
    with asked() as one:
        stream = one.ask(b"/bin/sh", b"-c", b"\xff")
        service, request = one.call.accept()
        assert (request.file, request.argv, request.env) == (b"/bin/sh", (b"any", b"-c", b"\xff"), (b"A=b",))
        assert request.program is not None
        assert os.path.samestat(Path("/bin/sh").stat(), os.fstat(request.program))
        service.send(wire.Deny(reason="no"))
        assert stream.recv(100) == wire.encode(wire.Deny(reason="no"))


def test_what_has_one_is_answered_and_counted() -> None:
    with asked() as one:
        one.call.send(answer_for("/bin/sh"))
        for words in ((), (b"-c",), (b"\xff", b"") * 40):
            one.is_answered(one.ask(b"/bin/sh", *words))
        one.is_passed_on(one.ask(b"/bin/cat"))
        one.call.process.terminate()
        assert one.call.expect(wire.Answered).total == 3


def test_a_real_wrapper_is_answered() -> None:
    loop = '"$W" /bin/sh sh -c :; i=0; while [ $i -lt 20 ]; do "$W" /bin/true true $i || exit 9; i=$((i+1)); done'
    with supervised(["/bin/sh", "sh", "-c", loop], options=["--standing"]) as call:
        service, _ = call.accept()
        call.frames.append(call.expect(wire.ShellStarted))
        call.send(answer_for("/bin/true"))
        service.send(wire.Run())
        assert call.shell_exit() == wire.Outcome(kind=wire.EXITED, value=0)
        assert [frame.total for frame in call.frames if isinstance(frame, wire.Answered)] == [20]
        assert call.end() == 0


def test_words_count_as_far_as_they_were_looked_at() -> None:
    words: tuple[bytes, ...]
    with asked() as one:
        one.call.send(answer_for("/bin/sh", depth=3, words=(b"a", b"b")))
        one.call.send(answer_for("/bin/cat", depth=3, words=(b"a",)))
        for words in ((b"a", b"b"), (b"a", b"b", b"c")):
            one.is_answered(one.ask(b"/bin/sh", *words))
        one.is_answered(one.ask(b"/bin/cat", b"a"))
        for words in ((), (b"a",), (b"a", b"c"), (b"ab",), (b"a", b""), (b"b", b"a")):
            one.is_passed_on(one.ask(b"/bin/sh", *words))
        for words in ((), (b"a", b"b"), (b"a", b""), (b"b",)):
            one.is_passed_on(one.ask(b"/bin/cat", *words))


def test_a_name_forged_for_another_program_is_passed_on(tmp_path: Path) -> None:
    """And the other way round; so is what only seems to be the program, or comes without one."""
    evil = tool(tmp_path)
    with asked() as one:
        one.call.send(answer_for("/bin/true"))
        one.is_passed_on(one.ask(b"/bin/true", program=str(evil)))
        one.is_passed_on(one.ask(os.fsencode(evil), program="/bin/true"))
        one.is_passed_on(one.ask(b"//bin/true", program="/bin/true"))
        one.is_passed_on(one.ask(b"/bin/tru", program="/bin/true"))
        directory = os.open("/", os.O_PATH)
        one.is_answered(one.ask(b"/bin/true", cwd_descriptor=directory))
        one.is_passed_on(_without_program(one, directory))
        os.close(directory)
        one.is_answered(one.ask(b"/bin/true"))


def _without_program(one: Asked, directory: int) -> socket.socket:
    """A request whose only descriptor is said to be the directory: which would be taken for the program."""
    near, far = socket.socketpair()
    near.settimeout(PATIENCE)
    one.kept.append(near)
    request = wire.Request(file=b"/bin/true", cwd=b"/", argv=(b"any",), env=(), cwd_descriptor=directory)
    program = os.open("/bin/true", os.O_PATH)
    send_message(near, wire.encode(request), (program,))
    os.close(program)
    one.introduce(far)
    far.close()
    return near


@pytest.mark.parametrize("change", ["written", "touched", "replaced", "mode", "linked elsewhere"])
def test_a_program_that_changed_is_passed_on(tmp_path: Path, change: str) -> None:
    path = tool(tmp_path)
    with asked() as one:
        one.call.send(answer_for(path))
        one.is_answered(one.ask(os.fsencode(path)))
        if change == "written":
            path.write_text("#!/bin/sh\n# more\n")
        elif change == "touched":
            os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        elif change == "replaced":
            tool(tmp_path, "new").rename(path)
        elif change == "mode":
            path.chmod(0o700)
        else:
            (tmp_path / "other").hardlink_to(path)
        one.is_passed_on(one.ask(os.fsencode(path)))


def test_the_same_file_by_another_of_its_names_is_passed_on(tmp_path: Path) -> None:
    """Rules may speak of that name: a link that led to the one leads to the other now."""
    first, second, link = tool(tmp_path), tmp_path / "second", tmp_path / "link"
    second.hardlink_to(first)
    link.symlink_to(first)
    with asked() as one:
        one.call.send(answer_for(link, resolved=os.fsencode(first)))
        one.is_answered(one.ask(os.fsencode(link)))
        link.unlink()
        link.symlink_to(second)
        one.is_passed_on(one.ask(os.fsencode(link)))
        one.is_passed_on(one.ask(os.fsencode(first)))


def test_answers_hold_no_longer_than_they_were_said_to() -> None:
    with asked() as one:
        one.call.send(answer_for("/bin/true", until=time.monotonic_ns()))
        one.is_passed_on(one.ask(b"/bin/true"))
        one.call.send(wire.Hold(generation=1, until=time.monotonic_ns() + 10**12))
        one.is_answered(one.ask(b"/bin/true"))
        one.call.send(wire.Hold(generation=1, until=0))
        one.is_passed_on(one.ask(b"/bin/true"))


def test_another_generation_ends_all_answers() -> None:
    with asked() as one:
        later = time.monotonic_ns() + 10**12
        one.call.send(answer_for("/bin/true"))
        one.call.send(answer_for("/bin/cat", generation=2))
        one.is_passed_on(one.ask(b"/bin/true"))
        one.is_answered(one.ask(b"/bin/cat"))
        one.call.send(wire.Hold(generation=3, until=later))
        one.is_passed_on(one.ask(b"/bin/cat"))
        one.call.send(wire.Hold(generation=2, until=later))
        one.is_passed_on(one.ask(b"/bin/cat"))


def test_what_is_not_a_whole_request_is_passed_on() -> None:
    whole = wire.encode(wire.Request(file=b"/bin/true", cwd=b"/", argv=(b"true",), env=(), program=0))
    with asked() as one:
        one.call.send(answer_for("/bin/true"))
        for sent in (whole[:-1], whole + b"x", whole[:3], whole[:4] + b"\x07" + whole[5:], b""):
            near, far = socket.socketpair()
            one.kept.append(near)
            program = os.open("/bin/true", os.O_PATH)
            if sent:
                send_message(near, sent, (program,))
            one.introduce(far)
            far.close()
            service = _stream(one.call)
            near.settimeout(PATIENCE)
            send_message(near, whole[-1:], ())
            data, descriptors = receive_message(service, len(sent)) if sent else (b"", ())
            data += receive_message(service, 4096)[0]
            assert data == sent + whole[-1:], "whatever it is, the server gets all of it"
            assert len(descriptors) == bool(sent)
            for descriptor in (program, *descriptors):
                os.close(descriptor)
            service.close()
        one.is_answered(one.ask(b"/bin/true"))


def _stream(call: Call) -> socket.socket:
    call.rendezvous.settimeout(PATIENCE)
    data, descriptors = _lent(call.rendezvous)
    assert data == HELLO
    return socket.socket(fileno=descriptors[0])


def test_a_request_too_large_to_be_looked_at_is_passed_on() -> None:
    with asked() as one:
        one.call.send(answer_for("/bin/true"))
        near, far = socket.socketpair()
        one.kept.append(near)
        near.settimeout(PATIENCE)
        program = os.open("/bin/true", os.O_PATH)
        large = wire.Request(file=b"/bin/true", cwd=b"/", argv=(b"x" * 100_000,), env=(), program=program)
        data = memoryview(wire.encode(large))
        sent = send_message(near, data, (program,))
        os.close(program)
        one.introduce(far)
        far.close()
        service = _stream(one.call)
        while sent < len(data):
            receive_message(service, 65536)
            sent += send_message(near, data[sent:], ())
        service.close()


def test_a_request_in_pieces_is_passed_on_or_answered_but_never_lost() -> None:
    with asked() as one:
        one.call.send(answer_for("/bin/true"))
        program = os.open("/bin/true", os.O_PATH)
        whole = wire.encode(wire.Request(file=b"/bin/true", cwd=b"/", argv=(b"true",), env=(), program=program))
        near, far = socket.socketpair()
        one.kept.append(near)
        near.settimeout(PATIENCE)
        send_message(near, whole[:7], (program,))
        one.introduce(far)
        far.close()
        send_message(near, whole[7:], ())
        service, _ = one.call.accept()
        service.send(wire.Run())
        assert near.recv(9) == RUN
        os.close(program)


def test_what_is_no_stream_is_passed_on_for_the_server_to_judge() -> None:
    with asked() as one:
        one.call.send(answer_for("/bin/true"))
        reading, writing = os.pipe()
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = os.open("/bin/true", os.O_PATH)
        request = wire.Request(file=b"/bin/true", cwd=b"/", argv=(b"true",), env=(), program=program)
        send_message(near, wire.encode(request), (program,))
        for strange in (reading, far.fileno()):
            send_message(one.inner, HELLO, (strange,))
            one.call.rendezvous.settimeout(PATIENCE)
            data, (descriptor,) = _lent(one.call.rendezvous)
            assert data == HELLO
            assert os.path.samestat(os.fstat(descriptor), os.fstat(strange))
            os.close(descriptor)
        near.close()
        far.close()
        for descriptor in (reading, writing, program):
            os.close(descriptor)
        one.is_answered(one.ask(b"/bin/true"))


def test_bad_datagrams_are_dropped_and_the_next_good_one_is_served() -> None:
    with asked() as one:
        one.call.send(answer_for("/bin/true"))
        for data, count in ((b"", 0), (b"\x02", 1), (HELLO, 0), (HELLO, 2), (HELLO * 2, 1), (b"", 1), (HELLO, 200)):
            descriptors = tuple(os.dup(0) for _ in range(count))
            send_message(one.inner, data, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
        one.is_answered(one.ask(b"/bin/true"))
        one.is_passed_on(one.ask(b"/bin/cat"))


def test_the_supervisor_keeps_no_descriptor_of_what_it_answered_or_passed_on() -> None:
    with asked() as one:
        folder = Path(f"/proc/{one.call.process.pid}/fd")
        one.call.send(answer_for("/bin/true"))
        one.is_answered(one.ask(b"/bin/true"))
        before = len(list(folder.iterdir()))
        for _ in range(20):
            one.is_answered(one.ask(b"/bin/true"))
            one.is_passed_on(one.ask(b"/bin/cat"))
            send_message(one.inner, b"xx", (0, 1))
        one.is_answered(one.ask(b"/bin/true"))
        assert len(list(folder.iterdir())) == before


@pytest.mark.flood
def test_a_server_that_takes_nothing_holds_requests_up_and_loses_none() -> None:
    with asked() as one:
        count = 600  # more than two sockets hold
        program = os.open("/bin/cat", os.O_PATH)
        one.inner.setblocking(False)
        waiting: list[socket.socket] = []
        taken = 0
        while len(waiting) < count:
            near, far = socket.socketpair()
            request = wire.Request(file=b"/bin/cat", cwd=b"/", argv=(b"%d" % len(waiting),), env=(), program=program)
            send_message(near, wire.encode(request), (program,))
            while True:
                try:
                    one.introduce(far)
                    break
                except BlockingIOError:  # both are full: the server begins to take
                    _take_in_order(one.call, taken)
                    taken += 1
            far.close()
            waiting.append(near)
        assert taken > 0, "the sockets hold more than was thought: raise the count"
        while taken < count:
            _take_in_order(one.call, taken)
            taken += 1
        os.close(program)
        for near in waiting:
            near.close()


def _take_in_order(call: Call, number: int) -> None:
    service, request = call.accept()
    assert request.argv == (b"%d" % number,)
    service.close()


def test_more_answers_than_there_is_room_for_are_not_kept(tmp_path: Path) -> None:
    with asked() as one:
        path = tool(tmp_path)
        for number in range(1100):
            select.select([], [one.call.control], [], PATIENCE)
            one.call.send(answer_for(path, number=number + 1, depth=2, words=(b"%d" % number,)))
        one.is_answered(one.ask(os.fsencode(path), b"1023"))
        one.is_passed_on(one.ask(os.fsencode(path), b"1024"))
        one.call.send(answer_for(path, generation=2))
        one.is_answered(one.ask(os.fsencode(path), b"1024"))


def test_without_the_option_the_script_asks_the_server_itself() -> None:
    with supervised(["/bin/sh", "sh", "-c", '"$W" /bin/true true']) as call:
        call.frames.append(call.expect(wire.ShellStarted))
        call.send(answer_for("/bin/true"))
        service, _ = call.accept()
        service.send(wire.Run())
        assert call.shell_exit().value == 0
        assert call.end() == 0


@pytest.mark.parametrize("flaw", [b"\x04", b"\x00"])
def test_an_answer_that_cannot_stand_ends_the_call(flaw: bytes) -> None:
    with asked() as one:
        good = wire.encode(answer_for("/bin/true"))
        at = 5 + struct.calcsize("<IIQ")
        one.call.control.sendall(good[:at] + flaw + good[at + 1 :])
        assert one.call.process.wait(PATIENCE) == 1


def test_the_shells_end_is_noticed_when_nobody_is_left_to_ask() -> None:
    """A supervisor that went on polling a socket without another end would never rest."""
    alone = "import os; os.close(int(os.environ['CODEX_ESCALATE_SOCKET'])); os.execv('/bin/sleep', ['sleep', '600'])"
    with supervised([sys.executable, "python", "-c", alone], options=["--standing"]) as call:
        sleeping = call.expect(wire.ShellStarted)  # nobody can ask any more, so that is told as it is learnt
        wait_until(lambda: b"sleep" in Path(f"/proc/{sleeping.pid}/comm").read_bytes(), "no sleep")
        before = _processor_time(call.process.pid)
        time.sleep(0.3)
        assert _processor_time(call.process.pid) - before < 10
        assert call.end() == 1


def _processor_time(pid: int) -> int:
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
