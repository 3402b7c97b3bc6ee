"""macOS: the shell is started through ``/usr/bin/sandbox-exec`` with a profile written here.

The profile language is Apple's and not documented; the operations named are those of ``sandbox-exec(1)``'s own example
profiles in ``/usr/share/sandbox``. Paths are passed as parameters, never pasted into the text.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from codex_shell_tool_mcp.sandbox.spec import Restrictions

SANDBOX_EXEC = b"/usr/bin/sandbox-exec"
"""By its full path: one found on PATH could be anything."""

_BASE = """\
(version 1)
(deny default)
(allow process-exec)
(allow process-fork)
(allow signal (target same-sandbox))
(allow process-info* (target same-sandbox))
(allow sysctl-read)
(allow ipc-posix-sem)
(allow iokit-open (iokit-registry-entry-class "RootDomainUserClient"))
(allow mach-lookup
  (global-name "com.apple.system.opendirectoryd.libinfo")
  (global-name "com.apple.PowerManagement.control"))
(allow pseudo-tty)
(allow file-read* file-write* file-ioctl (literal "/dev/ptmx"))
(allow file-read* file-write* (require-all (regex #"^/dev/ttys[0-9]+") (extension "com.apple.sandbox.pty")))
(allow file-ioctl (regex #"^/dev/ttys[0-9]+"))
(allow file-read*)
(allow file-write-data (require-all (path "/dev/null") (vnode-type CHARACTER-DEVICE)))
"""
"""What every program needs, and reading everything."""

_NETWORK = """\
(allow network-outbound)
(allow network-inbound)
(allow network-bind)
(allow system-socket)
(allow mach-lookup
  (global-name "com.apple.bsd.dirhelper")
  (global-name "com.apple.dnssd.service")
  (global-name "com.apple.networkd")
  (global-name "com.apple.ocspd")
  (global-name "com.apple.SecurityServer")
  (global-name "com.apple.SystemConfiguration.configd")
  (global-name "com.apple.SystemConfiguration.DNSConfiguration")
  (global-name "com.apple.system.opendirectoryd.membership")
  (global-name "com.apple.trustd.agent"))
"""
"""Sockets, and the services that names and certificates are looked up with."""


def _parameter(index: int) -> str:
    return f"WRITABLE_ROOT_{index}"


def profile(restrictions: Restrictions) -> str:
    """The profile's text."""
    parts = [_BASE]
    if restrictions.write_everywhere:
        parts.append('(allow file-write* (regex #"^/"))\n')
    elif restrictions.writable:
        roots = " ".join(f'(subpath (param "{_parameter(i)}"))' for i in range(len(restrictions.writable)))
        parts.append(f"(allow file-write* {roots})\n")
    if restrictions.network:
        parts.append(_NETWORK)
    return "".join(parts)


def _canonical(root: Path) -> Path:
    """Links resolved, for the kernel compares real paths (``/tmp`` is ``/private/tmp``)."""
    try:
        return root.resolve()
    except OSError:  # a loop of links: nothing can be written there either
        return root


def describe(restrictions: Restrictions) -> str:  # noqa: ARG001 - see Backend
    """Apple's own name for it."""
    return "seatbelt"


def supervisor_arguments(restrictions: Restrictions) -> list[bytes]:  # noqa: ARG001 - see Backend
    """None: the sandbox program applies it."""
    return []


def wrap(restrictions: Restrictions, shell_argv: Sequence[bytes]) -> list[bytes]:
    """The sandbox program's command; ``shell_argv[1]``, the shell's ``argv[0]``, cannot be passed through it."""
    parameters = [
        b"-D%s=%s" % (_parameter(index).encode(), os.fsencode(_canonical(root)))
        for index, root in enumerate(restrictions.writable)
    ]
    return [
        *(SANDBOX_EXEC, b"sandbox-exec", b"-p", profile(restrictions).encode()),
        *(*parameters, b"--", shell_argv[0], *shell_argv[2:]),
    ]


def markers() -> dict[bytes, bytes]:
    """The original's."""
    return {b"CODEX_SANDBOX": b"seatbelt"}
