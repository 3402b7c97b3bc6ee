"""Errors and odd states of patched zsh: who is asked, decisions, a wrapper that cannot be run, the private descriptor.

That all this shows what stock zsh shows is in ``behaviour/test_faithful_zsh.py``; ``test_bash_patch_errors.py`` has the
same of bash and says more.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.built import built
from system.bash_support.rig import Rig
from system.test_bash_patch_errors import NOT_INTERCEPTED, SETUP

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from system.bash_support.rig import Outcome


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with Rig(folder=tmp_path / "rig", kind="zsh") as made:
        yield made


def run(rig: Rig, script: str, *, environ: dict[bytes, bytes | None] | None = None) -> Outcome:
    """The script in patched zsh, with the files of SETUP."""
    files = f"RECORDER={rig.recorder}; PYTHON={sys.executable}\n{SETUP}"
    return rig.run(built().zsh, script, setup=files, environ=environ, options=("-f",))


def decided(tmp_path: Path, decision: str, script: str) -> Outcome:
    """What the script shows when the wrapper always decides so."""
    with Rig(folder=tmp_path / decision, kind="zsh", decision=decision) as rig:
        return run(rig, script)


class TestWhoIsAsked:
    def test_nobody_about_what_cannot_run(self, rig: Rig) -> None:
        run(rig, "path=(/nowhere ./folder); ./nowhere; ./folder; ./nonexec; ./bad; ./bad-nonexec; (exec ./bad); nope")
        assert rig.asked == []

    def test_once_about_what_is_found_on_the_path(self, rig: Rig) -> None:
        run(rig, "path=(/nowhere ./folder . /bin); unsetopt hash_cmds; good; =true; command -p true")
        assert rig.asked == ["run good", "run /bin/true", "run /bin/true"]

    def test_in_ask_mode_about_what_execve_may_refuse_and_then_about_sh(self, rig: Rig) -> None:
        run(rig, "./plain; (exec ./plain); ./chain; ./foreign; ./garbage")
        asked = rig.asked
        assert asked[:4] == ["ask ./plain", "run /bin/sh"] * 2
        assert asked[4:] == ["ask ./chain", "ask ./foreign", "ask ./garbage"]

    def test_about_an_interpreter_found_by_name(self, rig: Rig) -> None:
        run(rig, "printf '#!recorder\\n' > r; chmod +x r; rig=; ./r")
        assert rig.asked[-1] == f"run {rig.recorder}"

    def test_with_the_environment_cleared(self, rig: Rig) -> None:
        outcome = run(rig, 'unset EXEC_WRAPPER CODEX_ESCALATE_SOCKET; exec -c "$(whence -p recorder)"')
        (record,) = outcome.records
        assert record.value(b"EXEC_WRAPPER") == os.fsencode(str(rig.wrapper))
        assert {entry.partition(b"=")[0] for entry in record.env} == {b"EXEC_WRAPPER", b"CODEX_ESCALATE_SOCKET"}


class TestDecisions:
    def test_denied_in_place(self, tmp_path: Path) -> None:
        outcome = decided(tmp_path, "deny", "/bin/echo no; echo $?; ./good; echo $?; exec /bin/echo no")
        assert outcome.visible == (1, b"1\n1\n", b"Execution denied\n" * 3)

    def test_denied_when_asked(self, tmp_path: Path) -> None:
        """And no further folder of the path is tried, no sh, no handler."""
        script = "command_not_found_handler() { echo handler; }; path=(. . /bin); plain; echo $?; ./chain; echo $?"
        outcome = decided(tmp_path, "deny", script)
        assert outcome.visible == (0, b"1\n1\n", b"Execution denied\n" * 2)

    def test_denied_exec_ends_the_script_without_its_exit_trap(self, tmp_path: Path) -> None:
        outcome = decided(tmp_path, "deny", "trap 'echo trap' EXIT; exec ./plain; echo not reached")
        assert outcome.visible == (1, b"", b"Execution denied\n")

    @pytest.mark.parametrize("decision", ["silent", "chatty"])
    def test_only_the_one_byte_means_run(self, tmp_path: Path, decision: str) -> None:
        assert decided(tmp_path, decision, "./plain; echo $?; exec ./plain").visible == (0, b"0\n", b"")

    def test_only_of_a_wrapper_that_ends_well(self, tmp_path: Path) -> None:
        assert decided(tmp_path, "forged", "./plain; echo $?").visible == (0, b"3\n", b"")

    def test_not_by_what_else_is_written_to_the_pipe(self, tmp_path: Path) -> None:
        outcome = decided(tmp_path, "zero", "./plain; echo $?")
        assert outcome.stdout == b"126\n"
        assert b"zero: input/output error: ./plain not run" in outcome.stderr.lower()

    def test_escalated_when_asked(self, tmp_path: Path) -> None:
        outcome = decided(tmp_path, "escalate", "./chain a b; echo $?; (exec ./chain d >/dev/null); echo $?")
        assert outcome.visible == (0, b"sh: ./good ./chain a b\n4\n4\n", b"")

    def test_killed_when_asked(self, tmp_path: Path) -> None:
        script = r"""
printf '#!/bin/sh\nulimit -c 0; kill -$2 $$\n' > s; printf '#!./s\n' > t; chmod +x s t
for s in KILL TERM SEGV PIPE; do ./t $s; echo $?; done; exec ./t SEGV"""
        outcome = decided(tmp_path, "escalate", script)
        assert outcome.stdout == b"137\n143\n139\n141\n"
        assert outcome.status == -signal.SIGSEGV

    def test_a_signal_that_comes_while_asking_is_the_programs(self, tmp_path: Path) -> None:
        script = """
zmodload zsh/zselect
asked() { until [[ -s $EXEC_WRAPPER.log ]]; do zselect -t 1; done }
go() { : > $EXEC_WRAPPER.go; wait $1; echo $?; /bin/rm $EXEC_WRAPPER.go; : >| $EXEC_WRAPPER.log }
printf 'echo started\n' > plain
./plain & asked; kill -USR1 $!; go $!
(trap '' USR1; exec ./plain) & asked; kill -USR1 $!; go $!"""
        assert decided(tmp_path, "held", script).stdout == b"138\nstarted\n0\n"


class TestWrapperThatCannotBeRun:
    SCRIPT = """
/bin/touch in-place; echo $?
./plain; echo $?; x=$(/bin/echo out); echo "$x $?"; (exec /bin/touch execed); echo $?
./nowhere; echo $?; nowhere-to-be-found; echo $?
exec ./plain"""

    @staticmethod
    def lines(cause: str) -> list[bytes]:
        commands = ((2, "/bin/touch"), (3, "./plain"), (3, "/bin/echo"), (3, "/bin/touch"))
        refused = [f"script:{line}: EXEC_WRAPPER: {cause}: {command} not run".encode() for line, command in commands]
        return [
            *refused,
            b"script:4: no such file or directory: ./nowhere",
            b"script:4: command not found: nowhere-to-be-found",
            f"script:5: EXEC_WRAPPER: {cause}: ./plain not run".encode(),
        ]

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            ("rm -f W", "no such file or directory"),
            ("rm -f W; : > W", "permission denied"),
            ("printf garbage > W", "exec format error"),
            ("printf '#!/nowhere\n' > W", "no such file or directory"),
        ],
    )
    def test_wrapper(self, rig: Rig, make: str, reason: str) -> None:
        subprocess.run(["/bin/sh", "-ec", make.replace("W", str(rig.wrapper))], check=True)
        outcome = run(rig, self.SCRIPT)
        assert outcome.stderr.splitlines() == self.lines(f"{rig.wrapper}: {reason}")
        assert (outcome.status, outcome.stdout) == (126, b"126\n126\n 126\n126\n127\n127\n")

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (None, "not set"),
            (b"", "not the number of a descriptor above 2"),
            (b"-1", "not the number of a descriptor above 2"),
            (b"1", "not the number of a descriptor above 2"),
            (b"NUMBERx", "not the number of a descriptor above 2"),
            (b"99999999999999999999", "not the number of a descriptor above 2"),
            (b"777", "not an open descriptor"),
            (b"500", "not a socket"),
        ],
    )
    def test_socket(self, rig: Rig, value: bytes | None, reason: str) -> None:
        number = str(rig.number).encode()
        outcome = run(rig, self.SCRIPT, environ={b"CODEX_ESCALATE_SOCKET": value and value.replace(b"NUMBER", number)})
        assert outcome.stderr.splitlines() == self.lines(f"CODEX_ESCALATE_SOCKET: {reason}")
        assert rig.asked == []


class TestPrivateDescriptor:
    @pytest.mark.parametrize(
        "script",
        [
            "unset EXEC_WRAPPER CODEX_ESCALATE_SOCKET BASH_EXEC_WRAPPER",
            "EXEC_WRAPPER=/bin/false CODEX_ESCALATE_SOCKET=0",
            "export EXEC_WRAPPER= CODEX_ESCALATE_SOCKET=",
            "typeset -r EXEC_WRAPPER=x; typeset -i CODEX_ESCALATE_SOCKET=3",
            "v=N; exec {v}>&-",
            "v=N; exec {v}>&-; exec {v}>&-; v=1022; exec {v}>&-",
            "for v in {3..1100}; do ((v == 500)) || exec {v}>&-; done",
            "for v in {1100..3}; do ((v == 500)) || exec {v}>&-; done",
            "exec 5>&N; exec 5>&-; print -u N x",
            "zmodload zsh/net/socket; (zsocket -l s; zsocket -a -d N 3) 2>/dev/null; zsocket -l -d N s2",
            "zmodload zsh/system; syswrite -o N x",
            "limit -s descriptors 100; v=N; exec {v}>&-",
            "coproc { read x }; exec 5>&p; v=N; exec {v}>&-; exec 5>&-",
            "emulate sh; exec 3>&- 4>&- 5>&-",
        ],
    )
    def test_interception_goes_on(self, rig: Rig, script: str) -> None:
        script = script.replace("N", str(rig.number))
        outcome = run(
            rig,
            f"R={rig.recorder}; exec 2>errors\n{script}\necho recorder 2 > plain; recorder 1; ./plain; exec -c $R 3",
        )
        assert [record.argv[-1] for record in outcome.records] == [b"1", b"2", b"3"]
        for record in outcome.records[::2]:
            assert record.value(b"EXEC_WRAPPER") == os.fsencode(str(rig.wrapper))
            number = record.value(b"CODEX_ESCALATE_SOCKET")
            assert number in {line.split()[0] for line in record.descriptors if line.endswith(b" %d" % rig.inode)}
        assert rig.asked[-4:] == [f"run {rig.recorder}", "ask ./plain", "run /bin/sh", f"run {rig.recorder}"]


class TestSetLater:
    @pytest.mark.parametrize(
        ("script", "asked"),
        [
            ("export EXEC_WRAPPER=W; R a; ./plain", 3),
            ("EXEC_WRAPPER=W R a; R b", 1),
            ("EXEC_WRAPPER=W; R a", 0),
            ("export EXEC_WRAPPER=' W'; R a", 0),
            ("export EXEC_WRAPPER=; R a", 0),
            ("export EXEC_WRAPPER=W; (unset EXEC_WRAPPER; R a); R b", 1),
        ],
    )
    def test_used_when_exported(self, rig: Rig, script: str, asked: int) -> None:
        names = {"=W": f"={rig.wrapper}", "=' W": f"=' {rig.wrapper}", " R ": f" {rig.recorder} "}
        for short, path in names.items():
            script = script.replace(short, path)
        outcome = run(rig, script, environ=NOT_INTERCEPTED)
        assert outcome.stderr == b""
        assert len(rig.asked) == asked
        assert outcome.records
