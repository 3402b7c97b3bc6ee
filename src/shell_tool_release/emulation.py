"""Runs programs for arm64 Linux on another machine: qemu-user, registered in a namespace of this process alone.

API::

    needed() -> str | None              what is missing here, with the next step; None when programs can run
    inside(command) -> list[str]        the command line that runs ``command`` where arm64 programs just work
    SYSROOT                             where arm64's glibc is, for programs that are not static

binfmt_misc belongs to the user namespace that mounted it since Linux 6.7, so nothing of the machine changes.
Sources: the kernel's admin-guide/binfmt-misc.rst; qemu's linux-user/main.c (QEMU_LD_PREFIX).
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

QEMU = "qemu-aarch64-static"
SYSROOT = Path("/usr/aarch64-linux-gnu")
_MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
_REGISTER = """\
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc || exit 97
printf %s "$1" >/proc/sys/fs/binfmt_misc/register || exit 98
shift
exec "$@"
"""


def needed() -> str | None:
    """What must be installed or newer before arm64 programs run here."""
    if platform.machine() == "aarch64":
        return None
    if shutil.which(QEMU) is None:
        return f"{QEMU} is not here (Debian: apt install qemu-user-static)"
    if not (SYSROOT / "lib" / "ld-linux-aarch64.so.1").exists():
        return f"{SYSROOT} holds no glibc for arm64 (Debian: apt install libc6-arm64-cross)"
    tried = subprocess.run(inside(["true"]), capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"no private binfmt_misc (Linux 6.7 and user namespaces are needed): {tried.stderr.strip()}"
    return None


def inside(command: Sequence[str]) -> list[str]:
    """The command line: ``F`` opens qemu now, whatever the program's root is later; ``P`` keeps argv[0]."""
    if platform.machine() == "aarch64":
        return list(command)
    entry = f":qemu-aarch64:M::{_MAGIC}:{_MASK}:{shutil.which(QEMU) or QEMU}:FP"
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _REGISTER, "sh", entry, *command]
