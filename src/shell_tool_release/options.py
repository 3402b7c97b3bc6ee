"""What the steps of a release understand on their command lines, so that one line works for all of them.

API::

    parser(module, documentation) -> ArgumentParser     with --target and --keep-going
    targets(arguments) -> tuple[Target, ...]            this machine's platform unless others were asked for
    split(words) -> tuple[list[str], list[str]]         what of a line is for the steps, and what is for somebody else

``./run release -- --target all --keep-going`` hands the same words to each step; a step leaves aside what is not
its own.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, get_args

from shell_tool_release.errors import ConfigurationError
from shell_tool_release.variants import Target
from shell_tool_release.workspace import host_platform

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TARGETS: tuple[Target, ...] = get_args(Target)


def parser(module: str, documentation: str | None) -> argparse.ArgumentParser:
    """Return a parser with what is common to all steps."""
    about = (documentation or module).splitlines()[0]
    made = argparse.ArgumentParser(prog=f"python -m shell_tool_release.{module}", description=about)
    made.add_argument(
        "--target",
        action="append",
        metavar="PLATFORM",
        help=f"{', '.join(TARGETS)}, or all; may be repeated (default: this machine's)",
    )
    made.add_argument("--keep-going", action="store_true", help="do the rest after a failure and tell at the end")
    return made


def targets(arguments: argparse.Namespace) -> tuple[Target, ...]:
    """Return the platforms asked for, in the table's order; ConfigurationError for one that is not known."""
    asked: Iterable[str] = arguments.target or (host_platform(),)
    chosen = {name for text in asked for name in (TARGETS if text == "all" else (text,))}
    unknown = sorted(chosen - set(TARGETS))
    if unknown:
        message = f"no platform {', '.join(unknown)}; known are {', '.join(TARGETS)} and all"
        raise ConfigurationError(message)
    return tuple(name for name in TARGETS if name in chosen)


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell the words that :func:`parser` understands from the others: ``./run bench -- --only run`` builds first."""
    known, others = parser("release", None).parse_known_args(words)
    ours = [word for target in known.target or () for word in ("--target", target)]
    return [*ours, *(["--keep-going"] if known.keep_going else [])], others
