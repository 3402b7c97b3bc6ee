"""The lock that keeps floods of descriptors from other tests."""

from __future__ import annotations

import fcntl
import multiprocessing
import time
from typing import TYPE_CHECKING

from support.turns import locked

if TYPE_CHECKING:
    from pathlib import Path


def note(folder: Path, word: str, *, alone: bool) -> None:
    with locked(folder / "lock", alone=alone), (folder / "log").open("a") as log:
        log.write(f"{word}\n")


def somebody_waits(folder: Path) -> bool:
    with (folder / "lock.turn").open("w") as turn:
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_who_wants_it_alone_waits_for_the_others_and_is_not_overtaken(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with locked(tmp_path / "lock", alone=False):
        note(tmp_path, "shared", alone=False)
        flood = context.Process(target=note, args=(tmp_path, "alone"), kwargs={"alone": True})
        flood.start()
        while not somebody_waits(tmp_path):
            time.sleep(0.01)
        late = context.Process(target=note, args=(tmp_path, "late"), kwargs={"alone": False})
        late.start()
        late.join(0.3)
        assert (tmp_path / "log").read_text() == "shared\n"
    for process in (flood, late):
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "log").read_text() == "shared\nalone\nlate\n"
