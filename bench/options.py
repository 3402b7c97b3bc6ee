"""The command line: arguments to frozen options."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.loops import LOOPS

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS = 15
QUICK_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asked for.

    Attributes:
        quick: Small loops, none that takes minutes.
        only: Names of the loops to run.
        rounds: How often each is run.
        checkout: A checkout whose server is measured, not frozen; else the package.
        package: The npm package; ``None``: the one of this checkout.
        peer: Whether the original takes part.
        confined: Whether ours is measured in its sandbox as well.
        write: Whether the table goes into the README.
        json: File for every single measurement.
    """

    quick: bool
    only: tuple[str, ...]
    rounds: int
    checkout: Path | None
    package: Path | None
    peer: bool
    confined: bool
    write: bool
    json: Path | None

    @property
    def is_full(self) -> bool:
        """Whether this measures what the table in the README promises: everything, of what ships."""
        everything = not self.quick and self.only == NAMES and self.rounds >= ROUNDS and self.peer and self.confined
        return everything and self.checkout is None


NAMES = tuple(loop.name for loop in LOOPS)


def parse(argv: Sequence[str] | None = None) -> Options:
    """Read the command line. Ends the process for ``--help`` and what it does not know."""
    found = _parser().parse_args(argv)
    return Options(
        quick=found.quick,
        only=found.only,
        rounds=found.rounds or (QUICK_ROUNDS if found.quick else ROUNDS),
        checkout=found.checkout,
        package=found.package,
        peer=not found.no_peer,
        confined=not found.no_confined,
        write=found.write,
        json=found.json,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure our server side by side with the npm build of the original."
    )
    parser.add_argument("--quick", action="store_true", help="small loops, few rounds, nothing that takes minutes")
    parser.add_argument(
        "--only", type=_loops, default=NAMES, metavar="LOOP,...", help=f"only these loops, of {','.join(NAMES)}"
    )
    parser.add_argument(
        "--rounds",
        type=_positive,
        metavar="N",
        help=f"default: {ROUNDS}, with --quick {QUICK_ROUNDS}; a loop may stop earlier",
    )
    ours = parser.add_mutually_exclusive_group()
    ours.add_argument("--checkout", type=Path, metavar="DIR", help="measure that checkout's server, not frozen")
    ours.add_argument("--package", type=Path, metavar="TGZ", help="npm package to measure (default: that of dist/npm)")
    parser.add_argument("--no-peer", action="store_true", help="leave the original out: no ratios to it")
    parser.add_argument("--no-confined", action="store_true", help="leave out ours under its own sandbox")
    parser.add_argument("--write", action="store_true", help="put the table into bench/README.md after a full run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single measurement to FILE")
    return parser


def _loops(text: str) -> tuple[str, ...]:
    wanted = set(text.split(","))
    if unknown := wanted - set(NAMES):
        raise argparse.ArgumentTypeError(f"no loop is named {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in wanted)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} rounds measure nothing")
    return value
