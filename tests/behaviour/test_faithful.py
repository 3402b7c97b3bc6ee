"""Interception that nobody notices: what scripts show equals stock bash's, but for ``NAMED_EXCEPTIONS.md``."""

from __future__ import annotations

import ast
import difflib
import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from behaviour.test_escalation import Table, call, script_file
from codex_shell_tool_mcp.escalation.policy import Escalate
from codex_shell_tool_mcp.sandbox.spec import WorkspaceWrite
from support.built import built
from support.faithful import Mode, Outcome, Stage, sections
from support.named_exceptions import TESTS, NamedException, named_exceptions
from system.bash_support.records import Record, read_records

if TYPE_CHECKING:
    from collections.abc import Mapping

TABLES = (
    Path(__file__).parent / "same_everywhere.txt",
    TESTS / "system" / "bash_support" / "same_as_stock.txt",
)
PROBES = {name: script for table in TABLES for name, script in sections(table).items()}
EXCEPTIONS = named_exceptions()
INTERCEPTED: tuple[Mode, ...] = ("run", "escalate")


def excepted() -> Mapping[str, set[str]]:
    """The modes in which a probe is known to differ, by its name."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for one in EXCEPTIONS.values():
        for probe in one.probes:
            found[probe] |= one.modes
    return found


EXCEPTED = excepted()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """One for all: each call gets the folder anew."""
    return Stage(folder=tmp_path_factory.mktemp("faithful") / "stage")


@pytest.mark.parametrize("name", PROBES)
def test_same_as_stock(stage: Stage, name: str) -> None:
    stock = stage.run("stock", PROBES[name])
    assert stock.stdout + stock.stderr or stock.records or stock.status, "the script shows nothing"
    for mode in INTERCEPTED:
        ours = stage.run(mode, PROBES[name])
        if mode in EXCEPTED.get(name, ()):
            assert ours.all != stock.all, f"{name} no longer differs under {mode}: take it out of NAMED_EXCEPTIONS.md"
        else:
            assert ours.visible == stock.visible, mode
            assert ours.started == stock.started, mode


# ---- the named exceptions -------------------------------------------------------------------------------------------


def shown(stage: Stage, outcome: Outcome) -> list[str]:
    """What a script showed, without the names of the test's folder."""
    text = (outcome.visible[1] + outcome.visible[2]).decode(errors="backslashreplace")
    return [*text.replace(str(stage.folder), "FOLDER").replace(str(built().wrapper), "WRAPPER").splitlines()]


def difference(stage: Stage, stock: Outcome, ours: Outcome) -> tuple[str, ...]:
    """The lines that differ, stock's with ``-`` and ours with ``+``."""
    lines = difflib.unified_diff(shown(stage, stock), shown(stage, ours), lineterm="", n=0)
    return tuple(line for line in list(lines)[2:] if not line.startswith("@@"))


@pytest.mark.parametrize("name", [name for name, one in EXCEPTIONS.items() if one.script])
def test_named_exception(stage: Stage, name: str) -> None:
    """It differs as the file says, and only in the modes it says."""
    one = EXCEPTIONS[name]
    assert one.script
    stock = stage.run("stock", one.script)
    for mode in INTERCEPTED:
        ours = stage.run(mode, one.script)
        assert difference(stage, stock, ours) == (one.diff if mode in one.modes else ()), mode


@pytest.mark.parametrize("one", EXCEPTIONS.values(), ids=lambda one: one.name)
def test_each_exception_is_proved(one: NamedException) -> None:
    assert one.modes <= set(INTERCEPTED)
    assert one.modes
    assert one.script or one.probes or one.test, "nothing shows it"
    assert bool(one.script) == bool(one.diff)
    assert set(one.probes) <= set(PROBES)
    if one.test is not None:
        path, _, function = one.test.partition("::")
        tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
        found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
        assert f"exception {one.name}" in (ast.get_docstring(found[0]) or "")


def test_no_exception_without_a_section() -> None:
    """Tests that say they show one name it right."""
    said = set()
    for path in TESTS.rglob("test_*.py"):
        said |= set(re.findall(r"Named exception ([a-z-]+)", path.read_text(encoding="utf-8")))
    assert said == {one.name for one in EXCEPTIONS.values() if one.test}


def test_names_of_probes_are_distinct() -> None:
    assert len(PROBES) == sum(len(sections(table)) for table in TABLES)


# ---- exceptions that a script alone does not show -------------------------------------------------------------------


def test_run_adds_two_variables_and_a_descriptor(stage: Stage) -> None:
    """Named exception interception. Against bash started by hand, with no supervisor and no variables around it."""
    script = "recorder a; ./good b"
    ours = stage.run("run", script)
    stage.prepare("stock", script)
    environment = {**stage.environment(), b"OLDPWD": bytes(stage.folder)}  # as in _START
    with (stage.folder / "records").open("wb") as records, (stage.folder / "stdout").open("wb") as stdout:
        subprocess.run(
            ["bash", "-c", f'exec 500>&{records.fileno()} {records.fileno()}>&-; exec "$TESTED_SHELL" ./script'],
            env=environment,
            cwd=stage.work,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stdout,
            pass_fds=(records.fileno(),),
            check=False,
        )
    (plain,) = read_records(stage.folder / "records")
    (record,) = ours.records
    assert (stage.folder / "stdout").read_bytes() == ours.stdout
    assert set(record.env) - set(plain.env) == {
        b"EXEC_WRAPPER=" + bytes(built().wrapper),
        b"CODEX_ESCALATE_SOCKET=1023",
    }
    assert set(plain.env) <= set(record.env)
    assert (record.argv, record.rest) == (plain.argv, plain.rest)
    assert numbers(record) - numbers(plain) == {b"1023"}
    assert numbers(plain) <= numbers(record)


def numbers(record: Record) -> set[bytes]:
    """Open descriptors."""
    return {line.split()[0] for line in record.descriptors}


def test_core_files(stage: Stage) -> None:
    """Named exception core-dumped. Where this machine writes core files; else both say the same."""
    script = "ulimit -c unlimited 2>/dev/null; /bin/sh -c 'kill -SEGV $$'; echo $?; exec /bin/sh -c 'kill -ABRT $$'"
    stock, ours = stage.run("stock", script), stage.run("escalate", script)
    assert ours.visible[:2] == stock.visible[:2]
    assert b"Segmentation fault" in ours.stderr
    assert b"dumped" not in ours.stderr
    assert ours.visible[2].split() == stock.visible[2].replace(b"(core dumped)", b"").split()


def test_scripts_from_a_copy(tmp_path: Path) -> None:
    """Named exception name-of-a-copy."""
    script_file(tmp_path / "marked", '#!/bin/bash\necho "$0 $LINENO $1"\n')
    script_file(tmp_path / "plain", 'echo "$0 $LINENO $1"\n')
    confined = WorkspaceWrite(exclude_slash_tmp=True, exclude_tmpdir_env_var=True)
    script = "./marked a; ./plain b"
    assert call(script, Table(), tmp_path, sandbox=confined).output == "./marked 2 a\n./plain 1 b\n"
    escalated = call(script, Table(default=Escalate()), tmp_path, sandbox=confined).output
    assert re.fullmatch(r"/dev/fd/\d+ 2 a\n/dev/fd/\d+ 2 b\n", escalated)


def test_personality_is_not_carried_over(stage: Stage) -> None:
    """Named exception process-state."""
    script = """setarch -R "$BASH" -c 'cat /proc/self/personality'"""
    assert stage.run("stock", script).stdout == b"00040000\n"
    assert stage.run("run", script).stdout == b"00040000\n"
    assert stage.run("escalate", script, names=frozenset({"cat"})).stdout == b"00000000\n"


def test_room_for_arguments(stage: Stage) -> None:
    """Named exception largest-arguments. How long one may be, found by halving."""
    script = """ulimit -s 512; low=0; high=131072  # execve(2): a quarter of the stack
while ((high - low > 1)); do ((middle = (low + high) / 2)); printf -v x %0${middle}d 0
(exec /bin/true $x) 2>/dev/null && low=$middle || high=$middle; done; echo $low"""
    stock, run, escalate = (int(stage.run(mode, script).stdout) for mode in ("stock", *INTERCEPTED))
    assert 0 < stock - run < 1000
    assert 0 < stock - escalate < 1000
