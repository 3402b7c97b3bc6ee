"""Every error the release code raises on purpose, with the exit status a command line ends with.

::

    ReleaseError              1   base; its text names the thing and the next step
    ├── PrerequisiteError     2   something this machine must have is missing
    ├── ConfigurationError    3   a table, lock file or option of this project does not hold
    ├── SourceError           4   a source archive cannot be had from any place
    │   └── ChecksumError         what arrived is not what the lock names
    ├── PatchError            5   a patch does not apply exactly
    └── BuildError            6   a build step failed; the text names its log file
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable


class ReleaseError(Exception):
    """Base of all errors of this package; ``exit_code`` is the process's exit status."""

    exit_code: ClassVar[int] = 1


class PrerequisiteError(ReleaseError):
    """Something this machine must have is missing."""

    exit_code = 2


class ConfigurationError(ReleaseError):
    """A table, a lock file or an option does not hold."""

    exit_code = 3


class SourceError(ReleaseError):
    """A source archive cannot be had."""

    exit_code = 4


class ChecksumError(SourceError):
    """What arrived is not what the lock names."""


class PatchError(ReleaseError):
    """A patch does not apply exactly."""

    exit_code = 5


class BuildError(ReleaseError):
    """A build step failed."""

    exit_code = 6


def run_main(main: Callable[[], None]) -> int:
    """Call ``main`` and turn a :class:`ReleaseError` into one message on stderr; return the exit status."""
    try:
        main()
    except ReleaseError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0
