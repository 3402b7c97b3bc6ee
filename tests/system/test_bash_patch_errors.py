"""Errors and odd states: stdout, stderr and status of patched bash equal stock's, and what nobody needs to be asked."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.built import built
from system.bash_support.responder import answering_run
from system.bash_support.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from system.bash_support.rig import Outcome

SETUP = r"""
mkdir folder; : > empty; : > nonexec
printf 'echo "plain: $0 $# $*"; echo "$BASH"; exit 3\n' > plain
printf '#!/nowhere/interpreter\n' > bad
printf '#!/nowhere/interpreter\r\n' > crlf
printf '#!%s/folder\n' "$PWD" > bad-folder
printf '#!%s/nonexec\n' "$PWD" > bad-nonexec
printf '#!\n echo only a mark\n' > bare
printf '#!/bin/sh' > no-newline
printf '#!%0300d\n' 0 > overlong
printf '#!./loop\n' > loop
printf '#!/bin/sh -u\necho "sh: $0 $*"\nexit 4\n' > good
printf '#!./good\n' > chain
printf '\000\001\002garbage\377' > garbage
printf '\177ELF\002\001\001\000\000\000\000\000\000\000\000\000\002\000\267\000' > half-elf
ln -s /nowhere dangling; ln -s circle circle
cp /bin/true no-loader
"$PYTHON" - <<'END'
data = open("no-loader", "rb").read()
at = data.index(b"/lib")
open("no-loader", "r+b").write(data[:at] + b"/LIB" + data[at + 4:])
machine = bytearray(data)
machine[18:20] = b"\xf3\x00" if machine[18] != 0xf3 else b"\x3e\x00"
open("foreign", "wb").write(machine)
open("truncated", "wb").write(data[:100])
END
cp "$RECORDER" unreadable
chmod 755 empty plain bad crlf bad-folder bad-nonexec bare no-newline overlong loop good chain
chmod 755 garbage half-elf no-loader foreign truncated
chmod 111 unreadable
"""


def scripts() -> dict[str, str]:
    """The scripts of ``same_as_stock.txt`` by their names."""
    text = (Path(__file__).parent / "bash_support" / "same_as_stock.txt").read_text(encoding="utf-8")
    sections = (section.partition("\n") for section in text.split("\n== ")[1:])
    return {name: script.strip("\n") for name, _, script in sections}


SAME = scripts()
NOT_INTERCEPTED: dict[bytes, bytes | None] = {b"EXEC_WRAPPER": None, b"CODEX_ESCALATE_SOCKET": None}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with Rig(folder=tmp_path / "rig") as made:
        yield made


def setup(rig: Rig) -> str:
    """The files of this module's tests, as commands."""
    return f"RECORDER={rig.recorder}; PYTHON={sys.executable}\n{SETUP}"


@pytest.mark.parametrize("name", SAME)
def test_same_as_stock(rig: Rig, name: str) -> None:
    """Intercepted by a simple wrapper and by the real one, and not intercepted at all."""
    stock, patched = rig.both(SAME[name], setup=setup(rig))
    assert stock.stdout + stock.stderr, "the script shows nothing"
    assert patched.visible == stock.visible

    rig.asked.clear()
    plain = rig.run(built().bash, SAME[name], setup=setup(rig), environ=NOT_INTERCEPTED)
    assert plain.visible == stock.visible
    assert not rig.asked

    rig.wrapper = built().wrapper
    with answering_run(rig.server):
        real = rig.run(built().bash, SAME[name], setup=setup(rig))
    assert real.visible == stock.visible


def decided(tmp_path: Path, decision: str, script: str, *, environ: dict[bytes, bytes | None] | None = None) -> Outcome:
    """What patched bash shows of ``script`` when the wrapper always decides so."""
    with Rig(folder=tmp_path / decision, decision=decision) as rig:
        return rig.run(built().bash, script, setup=setup(rig), environ=environ)


class TestWhoIsAsked:
    def test_nobody_about_what_cannot_run(self, rig: Rig) -> None:
        rig.run(
            built().bash, "./nowhere; ./folder; ./nonexec; ./bad; ./bad-nonexec; (exec ./bad); nope", setup=setup(rig)
        )
        assert rig.asked == []

    def test_the_wrapper_in_place_about_images_and_their_scripts(self, rig: Rig) -> None:
        rig.run(built().bash, "/bin/true; ./good; (exec -a x /bin/true)", setup=setup(rig))
        assert rig.asked == ["run /bin/true", "run ./good", "run /bin/true"]

    def test_the_wrapper_in_ask_mode_about_everything_else(self, rig: Rig) -> None:
        files = ["plain", "chain", "bare", "garbage", "half-elf", "no-loader", "foreign", "empty", "overlong"]
        if os.geteuid() != 0:
            files.append("unreadable")  # root may read it, so it counts as any image
        rig.run(built().bash, "".join(f"./{name}; " for name in files), setup=setup(rig))
        asked = [line for line in rig.asked if line.startswith("ask ")]
        assert asked == [f"ask ./{name}" for name in files]

    def test_an_exec_that_the_shell_would_survive(self, rig: Rig) -> None:
        script = "(exec /bin/true); shopt -s execfail; (exec /bin/true); exec /bin/true"
        rig.run(built().bash, script, setup=setup(rig))
        assert rig.asked == ["run /bin/true", "run /bin/true", "ask /bin/true"]

    def test_every_program_of_a_script_without_mark(self, rig: Rig) -> None:
        script = r"""
unset EXEC_WRAPPER; printf 'unset EXEC_WRAPPER; /bin/true; ./b\n' > a; printf '/bin/false\n' > b; chmod +x a b
./a"""
        rig.run(built().bash, script)
        assert rig.asked == [f"run {_which('chmod')}", "ask ./a", "run /bin/true", "ask ./b", "run /bin/false"]


def _which(name: str) -> str:
    found = shutil.which(name, path="/usr/bin:/bin")
    assert found
    return found


class TestDecisions:
    def test_denied_in_place(self, tmp_path: Path) -> None:
        outcome = decided(tmp_path, "deny", "/bin/echo no; echo $?; ./good; echo $?; exec /bin/echo no")
        assert outcome.visible == (1, b"1\n1\n", b"Execution denied\n" * 3)

    def test_denied_when_asked(self, tmp_path: Path) -> None:
        script = "trap 'echo trap' EXIT; ./plain; echo $?; ./garbage; echo $?; (exec ./chain); echo $?"
        outcome = decided(tmp_path, "deny", script)
        assert outcome.visible == (0, b"1\n1\n1\ntrap\n", b"Execution denied\n" * 3)

    def test_denied_exec_ends_the_script_without_its_exit_trap(self, tmp_path: Path) -> None:
        """As it does in place: to the script, the exec happened."""
        outcome = decided(tmp_path, "deny", "trap 'echo trap' EXIT; exec ./plain; echo not reached")
        assert outcome.visible == (1, b"", b"Execution denied\n")

    def test_denied_exec_that_the_shell_survives(self, tmp_path: Path) -> None:
        outcome = decided(tmp_path, "deny", "shopt -s execfail; exec /bin/echo no; echo $?; exec ./plain; echo $?")
        assert outcome.visible == (0, b"1\n1\n", b"Execution denied\n" * 2)

    @pytest.mark.parametrize("decision", ["silent", "chatty"])
    def test_only_the_one_byte_means_run(self, tmp_path: Path, decision: str) -> None:
        outcome = decided(
            tmp_path, decision, "./plain; echo $?; shopt -s execfail; exec ./plain; echo $?; exec /bin/echo no"
        )
        assert outcome.visible == (0, b"0\n0\n", b"")

    def test_escalated_when_asked(self, tmp_path: Path) -> None:
        script = (
            "./chain a b; echo $?; ./good c; echo $?; (exec ./chain d >/dev/null); echo $?; exec ./chain e >/dev/null"
        )
        outcome = decided(tmp_path, "escalate", script)
        assert outcome.visible == (4, b"sh: ./good ./chain a b\n4\nsh: ./good c\n4\n4\n", b"")

    def test_only_of_a_wrapper_that_ends_well(self, tmp_path: Path) -> None:
        outcome = decided(tmp_path, "forged", "./plain; echo $?; shopt -s execfail; exec ./plain; echo $?")
        assert outcome.visible == (0, b"3\n3\n", b"")

    def test_not_by_what_else_is_written_to_the_pipe(self, tmp_path: Path) -> None:
        outcome = decided(tmp_path, "zero", "./plain; echo $?; shopt -s execfail; exec ./plain; echo $?")
        assert outcome.stdout == b"126\n126\n"
        assert outcome.stderr.count(b"zero: Input/output error: ") == 2

    def test_escalated_exec_is_no_failure_to_survive(self, tmp_path: Path) -> None:
        script = "shopt -s execfail; trap 'echo trap' EXIT; exec ./good a >file; echo not reached"
        assert decided(tmp_path, "escalate", script).visible == (4, b"", b"")

    def test_killed_when_asked(self, tmp_path: Path) -> None:
        script = r"""
printf '#!/bin/sh\nulimit -c 0; kill -$2 $$\n' > s; printf '#!./s\n' > t; chmod +x s t
ulimit -c unlimited; for s in KILL TERM SEGV PIPE; do ./t $s; echo $?; done
ls | grep core; shopt -s execfail; exec ./t SEGV; echo not reached"""
        outcome = decided(tmp_path, "escalate", script)
        assert outcome.stdout == b"137\n143\n139\n141\n"
        assert outcome.status == -signal.SIGSEGV
        assert all(text in outcome.stderr for text in (b"Killed", b"Terminated", b"Segmentation fault"))
        assert b"dumped" not in outcome.stderr


class TestWrapperThatCannotBeRun:
    """One line that names the cause, status 126, and nothing is executed: not even in the shell's own ways."""

    SCRIPT = r"""
/bin/touch in-place; echo $?
printf 'touch native\n' > plain-file; builtin true; : > made
./plain; echo $?; x=$(/bin/echo out); echo "$x $?"; (exec /bin/touch execed); echo $?
./nowhere; echo $?
shopt -s execfail; exec /bin/touch survived; echo $?; exec ./plain; echo $?
echo *
"""

    @staticmethod
    def lines(rig: Rig, cause: str) -> list[bytes]:
        return [
            f"script: line {line}: EXEC_WRAPPER: {cause}: {command} not run".encode()
            for line, command in (
                (2, "/bin/touch"),
                (4, "./plain"),
                (4, "/bin/echo"),
                (4, "/bin/touch"),
                (6, "/bin/touch"),
                (6, f"{rig.home}/plain"),  # the exec builtin completes the path
            )
        ]

    def outcome(self, rig: Rig, environ: dict[bytes, bytes | None]) -> Outcome:
        return rig.run(
            built().bash, self.SCRIPT, setup="printf 'echo run > native\n' > plain; chmod +x plain", environ=environ
        )

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            ("rm -f W", "No such file or directory"),
            ("rm -f W; : > W", "Permission denied"),
            ("rm -f W; mkdir W", "Permission denied"),
            ("printf garbage > W", "Exec format error"),
            ("printf '#!/nowhere\n' > W", "No such file or directory"),
            ("rm -f W; ln -s W W", "Too many levels of symbolic links"),
        ],
    )
    def test_wrapper(self, rig: Rig, make: str, reason: str) -> None:
        subprocess.run(["/bin/sh", "-ec", make.replace("W", str(rig.wrapper))], check=True)
        outcome = self.outcome(rig, {})
        lines = outcome.stderr.splitlines()
        assert lines.pop(4) == b"script: line 5: ./nowhere: No such file or directory"
        assert lines == self.lines(rig, f"{rig.wrapper}: {reason}")
        assert outcome.stdout == b"126\n126\n 126\n126\n127\n126\n126\nmade plain plain-file script\n"

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (None, "not set"),
            (b"", "not the number of a descriptor above 2"),
            (b"abc", "not the number of a descriptor above 2"),
            (b"-1", "not the number of a descriptor above 2"),
            (b"+NUMBER", "not the number of a descriptor above 2"),
            (b" NUMBER", "not the number of a descriptor above 2"),
            (b"NUMBERx", "not the number of a descriptor above 2"),
            (b"NUMBER\n", "not the number of a descriptor above 2"),
            (b"1", "not the number of a descriptor above 2"),
            (b"99999999999999999999", "not the number of a descriptor above 2"),
            (b"4294968319", "not the number of a descriptor above 2"),
            (b"777", "not an open descriptor"),
            (b"500", "not a socket"),
        ],
    )
    def test_socket(self, rig: Rig, value: bytes | None, reason: str) -> None:
        number = str(rig.number).encode()
        outcome = self.outcome(rig, {b"CODEX_ESCALATE_SOCKET": value and value.replace(b"NUMBER", number)})
        lines = outcome.stderr.splitlines()
        assert (
            lines.pop(4) == f"script: line 5: EXEC_WRAPPER: CODEX_ESCALATE_SOCKET: {reason}: ./nowhere not run".encode()
        )
        assert lines == self.lines(rig, f"CODEX_ESCALATE_SOCKET: {reason}")
        assert outcome.stdout == b"126\n126\n 126\n126\n126\n126\n126\nmade plain plain-file script\n"
        assert rig.asked == []

    def test_limits_of_the_wrapper_are_those_of_the_command(self, rig: Rig) -> None:
        script = "ulimit -s 256; set -- $(printf '%0100000d' 0); /bin/true $1 $1 $1; echo $?; ./plain $1 $1 $1; echo $?"
        stock, patched = rig.both(script, setup=setup(rig))
        assert patched.visible == stock.visible
        assert b"Argument list too long" in stock.stderr


class TestPrivateDescriptor:
    """Interception survives what a script does to its variables and descriptors."""

    @pytest.mark.parametrize(
        "script",
        [
            "unset EXEC_WRAPPER CODEX_ESCALATE_SOCKET BASH_EXEC_WRAPPER",
            "EXEC_WRAPPER=/bin/false CODEX_ESCALATE_SOCKET=0",
            "export EXEC_WRAPPER= CODEX_ESCALATE_SOCKET=",
            "export -n EXEC_WRAPPER CODEX_ESCALATE_SOCKET",
            "readonly EXEC_WRAPPER=x; declare -r CODEX_ESCALATE_SOCKET=3",
            "exec N>&-",
            "exec N<&-",
            "exec N>file",
            "exec N<>file; echo x >&N",
            "exec N>&1",
            "exec 7>&N-; exec 7>&-",
            "exec N>&1-; exec 1>&N",
            "v=N; exec {v}>&-",
            "a=(N); exec {a[0]}>&-",
            "exec N<<<here",
            "exec N<<END\nhere\nEND",
            "exec 5>&N; exec N>&- 5>&-",
            ": N>file; { :; } N<script; f() { :; } N>&1; f",
            "for i in 1 2 3; do { exec N>&-; } 3>file; exec 1022>&- 1021<script; done",
            "(exec N>&-); exec N>&-; exec 1022>&-",
            'for ((i = 3; i < 1100; i++)); do ((i == 500)) || eval "exec $i>&-"; done',
            'for ((i = 1100; i > 2; i--)); do ((i == 500)) || eval "exec $i>&-"; done',
            'for ((i = 900; i < 1100; i++)); do eval "exec $i>file"; done',
            "ulimit -Sn 100; exec N>&-",
            'ulimit -Sn 600; for i in {590..599}; do eval "exec $i<script"; done; exec N>&-',
            "source ./sourced N>&-",
            "eval 'exec N>&-' N>file",
            'coproc cat N>&-; exec N>&-; eval "exec ${COPROC[1]}>&-"; wait',
            "while read -r x; do exec N>&-; break; done <script",
        ],
    )
    def test_interception_goes_on(self, rig: Rig, script: str) -> None:
        script = script.replace("N", str(rig.number))
        rig.asked.clear()
        outcome = rig.run(
            built().bash,
            f'exec 2>errors\n{script}\nrecorder 1; ./plain 2; exec -c "$RECORDER" 3',
            setup="""
printf 'recorder plain\n' > plain; chmod +x plain; : > sourced""",
            environ={b"RECORDER": os.fsencode(rig.recorder)},
        )
        assert len(outcome.records) == 3, (outcome, (rig.home / "errors").read_text())
        for record in outcome.records:
            assert record.value(b"EXEC_WRAPPER") == os.fsencode(str(rig.wrapper))
            sockets = [line.split()[0] for line in record.descriptors if line.endswith(b" %d" % rig.inode)]
            assert sockets == [record.value(b"CODEX_ESCALATE_SOCKET")]
        assert rig.asked[-4:] == [f"run {rig.recorder}", "ask ./plain", f"run {rig.recorder}", f"run {rig.recorder}"]

    def test_the_number_is_the_scripts_to_use(self, rig: Rig) -> None:
        """As if there had been no descriptor of that number."""
        script = """
exec N>file; echo written >&N; /bin/cat file; /bin/echo by a child >&N; exec N>&-; /bin/cat file
{ echo x >&N; } 2>/dev/null; echo $?
{ echo for a group >&N; } N>file; /bin/cat file; { echo x >&N; } 2>/dev/null; echo $?
/bin/cat N<file <&N
"""
        script = script.replace("N", str(rig.number))
        stock = rig.run(built().bash_stock, f"exec {rig.number}>&-\n{script}")
        patched = rig.run(built().bash, script)
        assert patched.visible == stock.visible

    def test_nothing_leaks(self, rig: Rig) -> None:
        if sys.platform != "linux":
            pytest.skip("counts descriptors in /proc")
        script = """
count() { set -- /proc/$$/fd/*; echo $#; }
count; for i in 1 2 3 4 5; do { { :; } N>file; } N>&1; f() { :; } N<script; f; : N>&-; exec N>file N>&-; done; count
for fd in /proc/$$/fd/*; do [ -S $fd ] && echo $fd; done"""
        outcome = rig.run(built().bash, script.replace("N", str(rig.number)))
        (before, after, socket) = outcome.stdout.decode().split()
        assert after == before
        assert socket.rsplit("/", 1)[1] != str(rig.number)

    def test_no_number_is_free_for_it(self, rig: Rig) -> None:
        script = f"ulimit -n 10; exec {rig.number}>&-; echo $?; recorder still"
        outcome = rig.run(built().bash, script)
        assert outcome.stderr == b"script: line 1: 0: Too many open files\n"  # bash names 0 whenever closing fails
        assert outcome.stdout == b"1\n"
        assert [record.argv for record in outcome.records] == [(b"recorder", b"still")]

    def test_lost_in_another_way(self, rig: Rig) -> None:
        """BASH_XTRACEFD closes its descriptor. What the script puts there instead must not be asked."""
        script = "BASH_XTRACEFD=N; unset BASH_XTRACEFD; /bin/echo no; echo $?; exec N<file; ./plain; echo $?"
        outcome = rig.run(built().bash, script.replace("N", str(rig.number)), setup=f"{setup(rig)}: > file")
        cause = b"script: line 1: EXEC_WRAPPER: CODEX_ESCALATE_SOCKET: closed by the script: "
        assert outcome.visible == (0, b"126\n126\n", cause + b"/bin/echo not run\n" + cause + b"./plain not run\n")
        assert rig.asked == []


class TestSetLater:
    """A shell that was started without: the variable takes effect once it is exported, as it stands."""

    @pytest.mark.parametrize(
        ("script", "asked"),
        [
            ("export EXEC_WRAPPER=W; R a; ./plain", 2),
            ("EXEC_WRAPPER=W R a; R b", 1),
            ("export EXEC_WRAPPER=W; (unset EXEC_WRAPPER; R a); EXEC_WRAPPER= R b; R c", 1),
            ("EXEC_WRAPPER=W; R a", 0),
            ("export EXEC_WRAPPER=' W'; R a", 0),
            ("export EXEC_WRAPPER='\tW'; R a", 0),
            ("export EXEC_WRAPPER=; R a", 0),
            ("export EXEC_WRAPPER=W; (exec -c R a); R b", 1),
            ("export EXEC_WRAPPER=W; shopt -s execfail; exec R a", 1),
        ],
    )
    def test_used_when_exported(self, rig: Rig, script: str, asked: int) -> None:
        script = (
            script.replace("W", str(rig.wrapper))
            .replace("R ", f"{rig.recorder} ")
            .replace(f"EXEC_{rig.wrapper}RAPPER", "EXEC_WRAPPER")
        )
        outcome = rig.run(built().bash, script, setup=setup(rig), environ=NOT_INTERCEPTED)
        assert outcome.stderr == b""
        assert len(rig.asked) == asked
        assert outcome.records

    def test_environment_is_passed_as_it_stands(self, rig: Rig) -> None:
        script = f"export BASH_EXEC_WRAPPER=old CODEX_ESCALATE_SOCKET=odd EXEC_WRAPPER={rig.wrapper}; recorder"
        record = rig.run(built().bash, script, environ=NOT_INTERCEPTED).records[0]
        assert record.value(b"CODEX_ESCALATE_SOCKET") == b"odd"
        assert record.value(b"BASH_EXEC_WRAPPER") == b"old"

    def test_blank_from_the_start_is_unset(self, rig: Rig) -> None:
        for value in (b"", b" ", b" /nowhere", b"\t/nowhere"):
            outcome = rig.run(
                built().bash, "recorder", environ={b"EXEC_WRAPPER": value, b"CODEX_ESCALATE_SOCKET": b"x"}
            )
            assert outcome.records[0].value(b"EXEC_WRAPPER") == value


class TestSignals:
    """While the wrapper is asked or runs the program elsewhere, the shell's process stands for the program."""

    # The program tells where it is; its interpreter is a script, so it is asked about.
    SETUP = """
printf '#!/bin/sh\ntrap "echo got USR1 >>got" USR1\necho $$ > pid\nwhile :; do sleep 0.05; done\n' > long
printf '#!./long\n' > asked; chmod +x long asked
until_() { for i in {1..1200}; do eval "$1" && return 0; sleep 0.05; done; return 1; }
started() { until_ '[ -s pid ]'; }
gone() { until_ '! kill -0 $(cat pid) 2>/dev/null'; }
"""

    @pytest.mark.parametrize("signal_name", ["TERM", "HUP", "INT", "KILL"])
    def test_kills_the_program(self, tmp_path: Path, signal_name: str) -> None:
        script = f"{self.SETUP}\nset -m; ./asked & started; kill -{signal_name} $!; wait $!; echo $?; gone && echo gone"
        outcome = decided(tmp_path, "escalate", script)
        number = signal.Signals[f"SIG{signal_name}"]
        assert outcome.stdout == b"%d\ngone\n" % (128 + number)

    def test_is_caught_by_the_program(self, tmp_path: Path) -> None:
        script = (
            f"{self.SETUP}\n./asked & started; kill -USR1 $!; until_ '[ -s got ]'; kill $!; wait $!; cat got; echo $?"
        )
        outcome = decided(tmp_path, "escalate", script)
        assert outcome.stdout == b"got USR1\n0\n"

    @pytest.mark.parametrize("target", ["%1", "$!"])
    def test_stops_and_continues(self, tmp_path: Path, target: str) -> None:
        script = f"""{self.SETUP}
set -m; ./asked & started; kill -TSTP {target}; until_ 'jobs -s | grep -q .'; jobs -s | sed 's/.*] *//'
kill -CONT {target}; until_ 'jobs -r | grep -q .'; jobs -r | sed 's/.*] *//'
kill {target}; wait $!; echo $?; gone && echo gone"""
        outcome = decided(tmp_path, "escalate", script)
        state = [line.split()[:2] for line in outcome.stdout.decode().splitlines()]
        assert state == [["+", "Stopped"], ["+", "Running"], ["143"], ["gone"]]

    def test_that_comes_while_asking_is_the_programs(self, tmp_path: Path) -> None:
        script = """
exec {never}<> <(:)
asked() { until [ -s "$EXEC_WRAPPER.log" ]; do read -t 0.01 -u $never; done; }
go() { : > "$EXEC_WRAPPER.go"; wait $1; echo $?; /bin/rm "$EXEC_WRAPPER.go"; : > "$EXEC_WRAPPER.log"; }
printf 'echo started\n' > plain
./plain & asked; kill -USR1 $!; go $!
(trap '' USR1; exec ./plain) & asked; kill -USR1 $!; go $!
"""
        outcome = decided(tmp_path, "held", script)
        assert outcome.stdout == b"138\nstarted\n0\n"

    def test_children_that_end_while_asking_are_not_forgotten(self, tmp_path: Path) -> None:
        script = "shopt -s execfail; (sleep 0.1; exit 7) & exec ./garbage; sleep 0.2; wait $!; echo $?; jobs"
        outcome = decided(tmp_path, "slow", script)
        assert outcome.stdout == b"7\n"

    def test_of_the_terminal_reach_the_program_once(self, tmp_path: Path) -> None:
        with Rig(folder=tmp_path / "rig", decision="escalate") as rig:
            rig.run(
                built().bash,
                ":",
                setup="""
printf '#!/bin/sh\ntrap "echo got INT" INT\necho ready\n' > long
printf 'until read x && [ "$x" ]; do :; done\necho "read $x"; exit 5\n' >> long
printf '#!./long\n' > asked; chmod +x long asked""",
            )
            transcript = talk(
                rig,
                [
                    (b"$ ", b"./asked\n"),
                    (b"ready", b"\x03"),
                    (b"got INT", b"\x1a"),
                    (b"Stopped", b"fg\n"),
                    (b"./asked", b"text\n"),
                    (b"read text", b"echo status $?\n"),
                    (b"status 5", b"exec ./asked\n"),
                    (b"ready", b"more\n"),
                    (b"read more", b""),
                ],
                status=5,
            )
        assert transcript.count(b"got INT") == 1


def talk(rig: Rig, dialogue: list[tuple[bytes, bytes]], *, status: int) -> bytes:
    """An interactive shell on a terminal of its own: wait for each text, type the answer, see it end."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(rig.home)
        os.set_inheritable(rig.number, True)
        environ = {**rig.base_environ, b"PS1": b"$ ", b"TERM": b"dumb"}
        os.execve(rig.shell, ["bash", "--norc", "--noediting", "-i"], environ)
    seen, whole = b"", b""
    try:
        for expected, answer in dialogue:
            deadline = time.monotonic() + 60
            while expected not in seen:
                ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
                assert ready, f"waited for {expected!r}; the terminal shows {whole!r}"
                data = os.read(terminal, 4096)
                seen += data
                whole += data
            seen = seen.split(expected, 1)[1]
            time.sleep(0.1)  # the shell hands the terminal over after it has started the program
            os.write(terminal, answer)
        _, ended = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(ended) == status
    finally:
        os.close(terminal)
    return whole
