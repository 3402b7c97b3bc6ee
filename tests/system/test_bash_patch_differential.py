"""Thousands of generated commands through stock and patched bash: every program must receive the same bytes.

Both shells get the same environment, the wrapper's variables and its socket included, so that a difference is the
patch's. What may differ, and is left out, are those two variables and that one descriptor.

The test can fail. Tried by hand: with a patch that, like the original's, moves the arguments two slots on in the vector
it was given instead of in a new one, the first batches of the plain test lose arguments and variables, and the
sanitised one ends with `heap-buffer-overflow ... in execve_wrapper` at the first command.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from support.built import built
from system.bash_support.commands import SETUP, Generator
from system.bash_support.responder import answering_run
from system.bash_support.rig import Rig
from system.bash_support.sanitised import ENVIRON, sanitised, sanitiser_reports, without_reports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from system.bash_support.rig import Outcome

SEED = int(os.environ.get("CODEX_TEST_SEED", "20260"))
COMMANDS = int(os.environ.get("CODEX_TEST_COMMANDS", "3200"))
IN_A_BATCH = 100
IN_A_SANITISED_BATCH = 60  # such a shell forks slowly
PARTS = 4  # so that the workers share them


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with Rig(folder=tmp_path / "rig") as made:
        yield made


def run_batch(rig: Rig, shell: Path, seed: int, commands: int) -> Outcome:
    """The batch of ``seed`` in ``shell``."""
    batch = Generator(seed).batch(commands)
    own = {b"RECORDER": os.fsencode(rig.recorder), b"SHELL_PATH": os.fsencode(rig.shell)}
    setup = f"RECORDER={rig.recorder}; SHELL_PATH={rig.shell}\n{SETUP}"
    return rig.run(shell, batch.script, environ={**batch.environ, **own}, setup=setup)


def assert_equal(stock: Outcome, patched: Outcome, inode: int, seed: int) -> None:
    """Both outcomes are the same, but for what interception adds."""
    hint = f"CODEX_TEST_SEED={SEED}, batch seed {seed}"
    assert len(patched.records) == len(stock.records), hint
    for number, (one, other) in enumerate(zip(stock.records, patched.records, strict=True)):
        assert other.without_interception(inode) == one.without_interception(inode), f"{hint}, record {number}"
    assert patched.stdout == stock.stdout, hint
    assert patched.stderr == stock.stderr, hint
    assert patched.status == stock.status, hint


def assert_intercepted(patched: Outcome, rig: Rig) -> None:
    """Every program got the private values, and the socket under the number it was told."""
    for record in patched.records:
        assert record.value(b"EXEC_WRAPPER") == os.fsencode(str(rig.wrapper))
        number = record.value(b"CODEX_ESCALATE_SOCKET")
        sockets = {line.split()[0] for line in record.descriptors if line.endswith(b" %d" % rig.inode)}
        assert sockets == {number}
        assert record.value(b"BASH_EXEC_WRAPPER") is None


@pytest.mark.parametrize("part", range(PARTS))
def test_programs_receive_the_same_bytes(rig: Rig, part: int) -> None:
    batches = -(-COMMANDS // (IN_A_BATCH * PARTS))
    for seed in range(SEED + part * batches, SEED + (part + 1) * batches):
        print(f"batch seed {seed}")
        stock = run_batch(rig, built().bash_stock, seed, IN_A_BATCH)
        patched = run_batch(rig, built().bash, seed, IN_A_BATCH)
        assert len(stock.records) > IN_A_BATCH * 0.9, "the generated commands hardly run anything"
        assert_equal(stock, patched, rig.inode, seed)
        assert_intercepted(patched, rig)


def test_both_ways_of_running_the_wrapper_are_exercised(rig: Rig) -> None:
    run_batch(rig, built().bash, SEED, IN_A_BATCH)
    asked = rig.asked
    assert sum(line.startswith("run ") for line in asked) > IN_A_BATCH / 2
    assert sum(line.startswith("ask ") for line in asked) > IN_A_BATCH / 20


def test_static_shell(rig: Rig) -> None:
    for seed in range(SEED, SEED + 2):
        stock = run_batch(rig, built().bash_stock_musl, seed, IN_A_BATCH)
        patched = run_batch(rig, built().bash_musl, seed, IN_A_BATCH)
        assert_equal(stock, patched, rig.inode, seed)
        assert_intercepted(patched, rig)


def test_with_the_real_wrapper(tmp_path: Path) -> None:
    with Rig(folder=tmp_path / "rig", wrapper=built().wrapper) as rig:
        for seed in range(SEED, SEED + 3):
            stock = run_batch(rig, built().bash_stock, seed, IN_A_BATCH)
            with answering_run(rig.server) as requests:
                patched = run_batch(rig, built().bash, seed, IN_A_BATCH)
            assert_equal(stock, patched, rig.inode, seed)
            assert_intercepted(patched, rig)
            assert len(requests) >= len(patched.records)


@pytest.mark.timeout(600)  # builds bash when the cache is empty
def test_under_address_and_undefined_behaviour_sanitisers(rig: Rig) -> None:
    rig.environ = ENVIRON
    stock_shell, patched_shell = sanitised("bash")
    for seed in range(SEED, SEED + 2):
        stock = run_batch(rig, stock_shell, seed, IN_A_SANITISED_BATCH)
        patched = run_batch(rig, patched_shell, seed, IN_A_SANITISED_BATCH)
        assert sanitiser_reports(patched) == sanitiser_reports(stock)
        assert_equal(without_reports(stock), without_reports(patched), rig.inode, seed)
