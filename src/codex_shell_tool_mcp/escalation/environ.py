"""What an escalated program may take over from the script's environment.

The script chose that environment, and outside the sandbox a single variable can run code of the script's choosing in a
program the user approved. What is dropped here makes a *loader* or a *shell* do that, before the program's first line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

WRAPPER_VARIABLES = frozenset({b"EXEC_WRAPPER", b"CODEX_ESCALATE_SOCKET", b"BASH_EXEC_WRAPPER"})
"""Ours: an escalated program is not intercepted again. The last is the original's older name, always stripped."""

SANDBOX_MARKERS = frozenset({b"CODEX_SANDBOX", b"CODEX_SANDBOX_NETWORK_DISABLED"})
"""They tell a program that it is confined; an escalated one is not."""

_LOADER_PREFIXES = (b"LD_", b"DYLD_")
"""ld.so(8), dyld(1): libraries to load first, where to look for the others."""

_LOADER = frozenset({b"GCONV_PATH", b"GLIBC_TUNABLES", b"LOCPATH", b"NLSPATH", b"HOSTALIASES", b"RESOLV_HOST_CONF"})
"""glibc: what ld.so(8) itself drops for set-user-ID programs, for the same reason."""

_SHELL = frozenset(
    {b"BASH_ENV", b"ENV", b"SHELLOPTS", b"BASHOPTS", b"PS4", b"PROMPT_COMMAND", b"IFS", b"CDPATH", b"GLOBIGNORE"}
)
"""bash(1): files a shell reads and code it runs before its script, and how it splits the script's words."""

_ZSH = frozenset({b"ZDOTDIR", b"FPATH", b"NULLCMD", b"READNULLCMD", b"PROMPT4"})
"""zshparam(1): where zsh finds the files it reads before any script, and functions; commands of its redirections."""

_SHELL_FUNCTION_PREFIX = b"BASH_FUNC_"
"""bash(1): exported functions, which replace commands."""


_DROPPED = WRAPPER_VARIABLES | SANDBOX_MARKERS | _LOADER | _SHELL | _ZSH
_DROPPED_PREFIXES = (*_LOADER_PREFIXES, _SHELL_FUNCTION_PREFIX)


def escalated_environment(entries: Iterable[bytes]) -> tuple[bytes, ...]:
    """The entries (``NAME=value``) that an escalated program is started with, in order.

    An entry without ``=`` is kept: execve(2) takes it, no program reads it.
    """
    return tuple(
        entry
        for entry in entries
        if not entry.startswith(_DROPPED_PREFIXES) and entry.partition(b"=")[0] not in _DROPPED
    )
