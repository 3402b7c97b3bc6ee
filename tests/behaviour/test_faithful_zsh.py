"""Interception that nobody notices, for zsh: what scripts show equals stock zsh's, but for named exceptions.

The sections of ``NAMED_EXCEPTIONS.md`` hold for both shells; which scripts differ for them here is :data:`EXCEPTED`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.faithful import Mode, Stage, sections
from support.named_exceptions import named_exceptions

if TYPE_CHECKING:
    from collections.abc import Mapping

PROBES = sections(Path(__file__).parent / "same_everywhere_zsh.txt")
INTERCEPTED: tuple[Mode, ...] = ("run", "escalate")
EXCEPTED: Mapping[tuple[str, Mode], str] = {
    ("garbage", "escalate"): "exec-refused",
    ("no-loader", "escalate"): "exec-refused",
}
"""A script and a mode in which it differs, with the section that says why."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """One for all: each call gets the folder anew."""
    return Stage(folder=tmp_path_factory.mktemp("faithful") / "stage", kind="zsh")


@pytest.mark.parametrize("name", PROBES)
def test_same_as_stock(stage: Stage, name: str) -> None:
    stock = stage.run("stock", PROBES[name])
    assert stock.stdout + stock.stderr or stock.records or stock.status, "the script shows nothing"
    for mode in INTERCEPTED:
        ours = stage.run(mode, PROBES[name])
        if (name, mode) in EXCEPTED:
            assert ours.all != stock.all, f"{name} no longer differs under {mode}: take it out of EXCEPTED"
        else:
            assert ours.visible == stock.visible, mode
            assert ours.started == stock.started, mode


def test_a_mark_without_interpreter(stage: Stage) -> None:
    """Named exception bare-mark-in-zsh."""
    script = "./bare; echo $?"
    stock = stage.run("stock", script)
    assert stock.stdout == b"126\n"
    assert stage.run("run", script).all == stock.all
    assert stage.run("escalate", script).stdout == b"only a mark\n0\n"


def test_further_folders(stage: Stage) -> None:
    """Named exception further-folders-in-zsh."""
    script = "mkdir p q; cp garbage p/tool; cp good q/tool; path=($PWD/p $PWD/q $path); tool a; echo $?"
    stock = stage.run("stock", script)
    assert stock.stdout.endswith(b"/q/tool a\n4\n")
    assert stage.run("run", script).all == stock.all
    assert stage.run("escalate", script).stdout == b"126\n"


def test_a_name_that_an_exec_closes(stage: Stage) -> None:
    """Named exception name-that-an-exec-closes."""
    script = "zmodload zsh/system; sysopen -r -o cloexec -u v =recorder; /dev/fd/$v a; echo $?"
    assert stage.run("stock", script).stdout == b"2\n"
    assert stage.run("run", script).stdout == b"127\n"
    assert stage.run("escalate", script).stdout == b"126\n"


def test_exceptions_are_sections() -> None:
    assert set(EXCEPTED.values()) <= set(named_exceptions())
    assert {name for name, _ in EXCEPTED} <= set(PROBES)
