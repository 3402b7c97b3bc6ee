"""Thousands of generated commands through stock and patched zsh: every program must receive the same bytes.

As ``test_bash_patch_differential.py``, which says more, in zsh's language.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from support.built import built
from system.bash_support.commands import SETUP, ZshGenerator
from system.bash_support.responder import answering_run
from system.bash_support.rig import Rig
from system.bash_support.sanitised import ENVIRON, sanitised, sanitiser_reports, without_reports
from system.test_bash_patch_differential import (
    COMMANDS,
    IN_A_BATCH,
    IN_A_SANITISED_BATCH,
    SEED,
    assert_equal,
    assert_intercepted,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from system.bash_support.rig import Outcome

PARTS = 2  # so that the workers share them


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with Rig(folder=tmp_path / "rig", kind="zsh") as made:
        yield made


def run_batch(rig: Rig, shell: Path, seed: int, commands: int = IN_A_BATCH) -> Outcome:
    """The batch of ``seed`` in ``shell``."""
    batch = ZshGenerator(seed).batch(commands)
    own = {b"RECORDER": os.fsencode(rig.recorder), b"SHELL_PATH": os.fsencode(rig.shell)}
    setup = f"RECORDER={rig.recorder}; SHELL_PATH={rig.shell}\n{SETUP}"
    return rig.run(shell, batch.script, environ={**batch.environ, **own}, setup=setup, options=("-f",))


@pytest.mark.parametrize("part", range(PARTS))
def test_programs_receive_the_same_bytes(rig: Rig, part: int) -> None:
    batches = max(1, COMMANDS // (2 * IN_A_BATCH * PARTS))
    for seed in range(SEED + part * batches, SEED + (part + 1) * batches):
        print(f"batch seed {seed}")
        stock = run_batch(rig, built().zsh_stock, seed)
        patched = run_batch(rig, built().zsh, seed)
        assert len(stock.records) > IN_A_BATCH * 0.8, "the generated commands hardly run anything"
        assert_equal(stock, patched, rig.inode, seed)
        assert_intercepted(patched, rig)


def test_both_ways_of_running_the_wrapper_are_exercised(rig: Rig) -> None:
    run_batch(rig, built().zsh, SEED)
    asked = rig.asked
    assert sum(line.startswith("run ") for line in asked) > IN_A_BATCH / 2
    assert sum(line.startswith("ask ") for line in asked) > IN_A_BATCH / 20


def test_static_shell(rig: Rig) -> None:
    stock = run_batch(rig, built().zsh_stock_musl, SEED)
    patched = run_batch(rig, built().zsh_musl, SEED)
    assert_equal(stock, patched, rig.inode, SEED)
    assert_intercepted(patched, rig)


def test_with_the_real_wrapper(tmp_path: Path) -> None:
    with Rig(folder=tmp_path / "rig", kind="zsh", wrapper=built().wrapper) as rig:
        for seed in range(SEED, SEED + 2):
            stock = run_batch(rig, built().zsh_stock, seed)
            with answering_run(rig.server) as requests:
                patched = run_batch(rig, built().zsh, seed)
            assert_equal(stock, patched, rig.inode, seed)
            assert_intercepted(patched, rig)
            assert len(requests) >= len(patched.records)


@pytest.mark.timeout(600)  # builds zsh when the cache is empty
def test_under_address_and_undefined_behaviour_sanitisers(rig: Rig) -> None:
    rig.environ = ENVIRON
    stock_shell, patched_shell = sanitised("zsh")
    for seed in range(SEED, SEED + 2):
        stock = run_batch(rig, stock_shell, seed, IN_A_SANITISED_BATCH)
        patched = run_batch(rig, patched_shell, seed, IN_A_SANITISED_BATCH)
        assert sanitiser_reports(patched) == sanitiser_reports(stock)
        assert_equal(without_reports(stock), without_reports(patched), rig.inode, seed)
