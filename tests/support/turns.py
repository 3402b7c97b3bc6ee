"""A lock between tests of several processes, which some share and some want alone."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def locked(path: Path, *, alone: bool) -> Iterator[None]:
    """Hold the lock. Who waits for it lets nobody overtake: else those who share it would always go first."""
    with path.open("w") as lock:
        with path.with_name(f"{path.name}.turn").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
