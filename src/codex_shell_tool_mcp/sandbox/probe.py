"""What this host's kernel offers for confinement, as the supervisor finds it.

Only for reports: whether a sandbox can be applied is decided by applying it, each time.
"""

from __future__ import annotations

import json
import logging
import subprocess
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_LOG = logging.getLogger(__name__)

_SECONDS = 5.0
"""The supervisor answers in a millisecond."""


@dataclass(frozen=True, kw_only=True)
class HostSupport:
    """What there is.

    Attributes:
        landlock_abi: Landlock's version, 0 where there is none: before 3 a file outside can be truncated.
        seccomp: Whether system calls can be filtered.
    """

    landlock_abi: int
    seccomp: bool


@cache
def host_support(supervisor: Path) -> HostSupport | None:
    """Ask the supervisor; ``None`` if it does not say."""
    try:
        ran = subprocess.run(
            [supervisor, "--probe"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=True
        )
        said = json.loads(ran.stdout)
        return HostSupport(landlock_abi=int(said["landlock_abi"]), seccomp=bool(said["seccomp"]))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        _LOG.warning("%s --probe: %s", supervisor, error)
        return None
