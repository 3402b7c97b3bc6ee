"""Linux: the supervisor's sandboxed half applies Landlock (writes) and seccomp (network) itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from codex_shell_tool_mcp.sandbox.spec import Restrictions

_SLASH_TMP = Path("/tmp")  # noqa: S108 - the policy language's own name for it


def describe(restrictions: Restrictions) -> str:
    """Which of the two are needed."""
    needed = {"landlock": not restrictions.write_everywhere, "seccomp": not restrictions.network}
    return " and ".join(name for name, is_needed in needed.items() if is_needed)


def supervisor_arguments(restrictions: Restrictions) -> list[bytes]:
    """The supervisor's options. A root that cannot be reached is left out: nothing can be written below it.

    ``/tmp`` is a link on some hosts, and nobody but root can change that. Any other root was resolved when it was
    named: one that leads through a link by now was replaced by a script, and the supervisor refuses it.
    """
    options: list[bytes] = []
    if not restrictions.write_everywhere:
        options.append(b"--restrict")
        for root in restrictions.writable:
            place = os.path.realpath(root) if root == _SLASH_TMP else os.fspath(root)
            if os.access(place, os.F_OK):
                options += [b"--writable", os.fsencode(place)]
    if not restrictions.network:
        options.append(b"--no-network")
    return options


def wrap(restrictions: Restrictions, shell_argv: Sequence[bytes]) -> list[bytes]:  # noqa: ARG001 - see Backend
    """The command itself."""
    return list(shell_argv)


def markers() -> dict[bytes, bytes]:
    """None: the original sets none on Linux."""
    return {}
