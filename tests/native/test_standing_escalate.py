"""Programs that the supervisor escalates by itself: those it was told to, as the server would have them run."""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.escalation import environ, wire
from codex_shell_tool_mcp.escalation.channel import send_message
from native.test_standing import Asked, answer_for, asked, tool
from support.service import PATIENCE

if TYPE_CHECKING:
    from typing import Any

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux has standing answers")

ESCALATE = wire.encode(wire.Escalate())


def escalating(path: Path | str, **changes: Any) -> wire.Standing:
    """The standing answer that escalates a program."""
    return answer_for(path, answer=wire.Escalate.TYPE, **changes)


def read_frame(stream: socket.socket) -> wire.Frame | None:
    """The next frame from the supervisor; ``None`` at the end, clean or not."""
    connection = wire.Connection(party=wire.Party.CLIENT, state="attached")
    while (event := connection.next_event()) is wire.NEED_DATA:
        try:
            data = stream.recv(connection.read_size())
        except ConnectionResetError:
            return None
        if not data:
            return None
        connection.receive_data(data)
    return event


def hand_over(stream: socket.socket) -> tuple[bytes, wire.Frame | None]:
    """Be the wrapper after ESCALATE; what the program prints, and what the supervisor says at its end."""
    reading, writing = os.pipe()
    send_message(stream, wire.encode(wire.Fds(total=1, numbers=(1,), descriptors=(writing,))), (writing,))
    send_message(stream, wire.encode(wire.Attributes(nice=os.nice(0))), ())
    os.close(writing)
    printed = b""
    while True:
        assert select.select([reading], [], [], PATIENCE)[0]
        part = os.read(reading, 65536)
        if not part:
            break
        printed += part
    os.close(reading)
    return printed, read_frame(stream)


def is_escalated(one: Asked, stream: socket.socket) -> tuple[bytes, wire.Frame | None]:
    assert stream.recv(len(ESCALATE)) == ESCALATE
    return hand_over(stream)


def test_an_answer_escalates_without_the_server_which_is_told() -> None:
    with asked() as one:
        one.call.send(escalating("/bin/sh", number=7, depth=2, words=(b"-c",)))
        for number in range(3):
            script = b"echo ran %d; exit %d" % (number, number)
            printed, end = is_escalated(one, one.ask(b"/bin/sh", b"-c", script))
            assert printed == b"ran %d\n" % number
            assert end == wire.Exit(outcome=wire.Outcome(kind=wire.EXITED, value=number))
        assert not select.select([one.call.control], [], [], 0.2)[0]  # nobody waits for that, so nobody is woken
        one.is_passed_on(one.ask(b"/bin/sh", b"-e"))
        one.call.process.terminate()
        told = [one.call.expect(wire.Taken) for _ in range(3)]
        assert [frame.number for frame in told] == [7] * 3
        assert [frame.argv[2] for frame in told] == [b"echo ran %d; exit %d" % (n, n) for n in range(3)]
        one.call.expect(wire.Finished)
        assert not [frame for frame in one.call.frames if isinstance(frame, wire.Started | wire.Ended | wire.Answered)]


def test_those_that_run_do_not_count_among_those_that_begin() -> None:
    """Whether they run is looked at when it matters: more than 64 that do not would be asked about."""
    nothing = wire.Fds(total=0, numbers=(), descriptors=())
    handed = wire.encode(nothing) + wire.encode(wire.Attributes(nice=os.nice(0)))
    with asked() as one:
        one.call.send(escalating("/bin/sleep"))
        for _ in range(70):
            stream = one.ask(b"/bin/sleep", b"1000")
            assert stream.recv(len(ESCALATE)) == ESCALATE
            send_message(stream, handed, ())


def test_the_environment_is_filtered_as_the_server_does() -> None:
    names = sorted(environ._DROPPED)
    prefixes = environ._DROPPED_PREFIXES
    entries = (
        *(name + b"=1" for name in names),
        *names,
        *(name + b"X=1" for name in names),
        *(b"X" + name + b"=1" for name in names),
        *(name[:-1] + b"=1" for name in names),
        *(name.lower() + b"=1" for name in names),
        *(prefix + rest for prefix in prefixes for rest in (b"", b"=", b"X=1", b"X")),
        *(prefix[:-1] + b"=2" for prefix in prefixes),
        *(b"A" + prefix + b"B=2" for prefix in prefixes),
        b"=x",
        b"\xff\xfe=\xfd",
        b"PATH=/bin:/usr/bin",
    )
    with asked() as one:
        one.call.send(escalating("/usr/bin/env"))
        printed, end = is_escalated(one, one.ask(b"/usr/bin/env", b"-0", env=entries))
        assert tuple(printed.split(b"\0")[:-1]) == environ.escalated_environment(entries)
        assert end == wire.Exit(outcome=wire.Outcome(kind=wire.EXITED, value=0))
        printed, _ = is_escalated(one, one.ask(b"/usr/bin/env", b"-0", env=(b"ENV=1",)))
        assert printed == b""


def test_it_runs_where_and_as_the_caller_stands(tmp_path: Path) -> None:
    path = tool(tmp_path)
    path.write_text('#!/bin/sh\necho "$0|$PWD|$(umask)|$*|${EXEC_WRAPPER-unset}"\n')
    where = tmp_path / "where"
    where.mkdir()
    directory = os.open(where, os.O_PATH)
    with asked() as one:
        one.call.send(escalating(path))
        stream = one.ask(
            os.fsencode(path), b"a", b"b", cwd_descriptor=directory, umask=0o027, ask=True, env=(b"EXEC_WRAPPER=/x",)
        )
        printed, _ = is_escalated(one, stream)
        assert printed == os.fsencode(f"{path}|{where}|0027|a b|unset\n")
    os.close(directory)


def test_a_claim_to_be_another_program_is_not_escalated(tmp_path: Path) -> None:
    evil, link = tool(tmp_path, "evil"), tmp_path / "link"
    link.symlink_to("/bin/true")
    with asked() as one:
        one.call.send(escalating("/bin/true"))
        one.is_passed_on(one.ask(b"/bin/true", program=str(evil)))
        one.is_passed_on(one.ask(os.fsencode(evil), program="/bin/true"))
        one.is_passed_on(one.ask(os.fsencode(link)))
        one.is_passed_on(one.ask(b"/bin/./true"))


@pytest.mark.parametrize("how", ["written", "replaced", "led elsewhere"])
def test_what_changes_after_the_answer_is_not_run(tmp_path: Path, how: str) -> None:
    path, name = tool(tmp_path), tmp_path / "name"
    name.symlink_to(path)
    with asked() as one:
        one.call.send(escalating(name))
        stream = one.ask(os.fsencode(name))
        assert stream.recv(len(ESCALATE)) == ESCALATE
        evil = tool(tmp_path, "evil")
        evil.write_text("#!/bin/sh\necho EVIL\n")
        if how == "written":
            path.write_text("#!/bin/sh\necho EVIL\n")
        elif how == "replaced":
            evil.rename(path)
        else:
            name.unlink()
            name.symlink_to(evil)
        printed, end = hand_over(stream)
        assert printed == b""
        assert end == wire.Error(reason="it is no longer the file that was decided on")


def test_what_is_looked_at_and_what_is_taken_are_the_same() -> None:
    """A stream can be made to show something else than what comes first (socket(7), SO_PEEK_OFF)."""
    program = os.open("/bin/sh", os.O_PATH)

    def request(script: bytes) -> bytes:
        return wire.encode(
            wire.Request(file=b"/bin/sh", cwd=b"/", argv=(b"sh", b"-c", script), env=(), program=program)
        )

    with asked() as one:
        one.call.send(escalating("/bin/sh", depth=3, words=(b"-c", b"echo good")))
        near, far = socket.socketpair()
        one.kept.append(near)
        near.settimeout(PATIENCE)
        first = request(b"echo EVIL")
        far.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_PEEK_OFF", 42), len(first))
        send_message(near, first, (program,))
        send_message(near, request(b"echo good"), (program,))
        one.introduce(far)
        far.close()
        assert read_frame(near) is None
        near.close()
        printed, _ = is_escalated(one, one.ask(b"/bin/sh", b"-c", b"echo good"))
        assert printed == b"good\n"
        one.call.process.terminate()
        assert one.call.expect(wire.Taken).argv == (b"any", b"-c", b"echo good")
        one.call.expect(wire.Finished)
        assert not [frame for frame in one.call.frames if isinstance(frame, wire.Taken)]
    os.close(program)


def test_those_that_never_hand_over_are_bounded() -> None:
    with asked() as one:
        one.call.send(escalating("/bin/true"))
        begun = [one.ask(b"/bin/true") for _ in range(64)]
        for stream in begun:
            assert stream.recv(len(ESCALATE)) == ESCALATE
        one.is_passed_on(one.ask(b"/bin/true"))
        for stream in begun:
            stream.close()
        # They are noticed to be gone in a turn of their own: then there is room again.
        last = one.ask(b"/bin/cat")
        one.is_passed_on(last)
        assert is_escalated(one, one.ask(b"/bin/true"))[1] == wire.Exit(outcome=wire.Outcome(kind=0, value=0))


def test_words_are_told_as_far_as_they_are_recorded() -> None:
    with asked() as one:
        one.call.send(escalating("/bin/true"))
        is_escalated(one, one.ask(b"/bin/true", b"x" * 600, *[b"y"] * 80))
        one.call.process.terminate()
        told = one.call.expect(wire.Taken).argv
        assert len(told) == wire.MAX_TAKEN_WORDS
        assert told[1:3] == (b"x" * wire.MAX_TAKEN_BYTES, b"y")


def test_it_ends_with_the_call() -> None:
    with asked() as one:
        one.call.send(escalating("/bin/sleep"))
        stream = one.ask(b"/bin/sleep", b"600")
        assert stream.recv(len(ESCALATE)) == ESCALATE
        send_message(stream, wire.encode(wire.Fds(total=0, numbers=(), descriptors=())), ())
        send_message(stream, wire.encode(wire.Attributes(nice=os.nice(0))), ())
        one.is_passed_on(one.ask(b"/bin/cat"))
        one.call.send(wire.End())
        assert one.call.expect(wire.Finished).ended >= 1
