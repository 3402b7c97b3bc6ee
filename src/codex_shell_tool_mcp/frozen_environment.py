"""The environment this process was really started with, without what Python and the freezer put into it.

For a tool that runs other programs nothing is worse than a leaked ``LD_LIBRARY_PATH``: every command then loads the
bundle's libraries. The freezer's boot program sets it (the original value goes to ``LD_LIBRARY_PATH_ORIG``), and marks
its own with ``_PYI_*``; CPython sets ``LC_CTYPE`` when it coerces the C locale (PEP 538).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_SEARCH_PATHS = (b"LD_LIBRARY_PATH", b"DYLD_LIBRARY_PATH", b"DYLD_FRAMEWORK_PATH", b"DYLD_FALLBACK_LIBRARY_PATH")
_BUNDLE = b"_PYI_APPLICATION_HOME_DIR"
_PREFIXES = (b"_PYI_", b"PYINSTALLER_")
_NAMES = frozenset({b"_MEIPASS2"})


def is_frozen() -> bool:
    """Whether this is the frozen program."""
    return bool(getattr(sys, "frozen", False))


def own_command() -> list[str]:
    """The command line that starts this frozen program once more.

    On a system without glibc the launcher starts it by a loader of the package's; the program cannot be executed alone.
    """
    try:
        by_loader = Path("/proc/self/exe").readlink().name.startswith("ld-linux")
        words = Path("/proc/self/cmdline").read_bytes().split(b"\0") if by_loader else []
    except OSError:  # macOS has no /proc
        words = []
    before = next((at for at, word in enumerate(words) if os.path.realpath(word) == os.fsencode(sys.executable)), 0)
    return [*map(os.fsdecode, words[:before]), sys.executable]


def started_with() -> dict[bytes, bytes]:
    """The environment of the process as the kernel got it, before Python changed it; Python's own view elsewhere."""
    try:
        entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return dict(os.environb)
    found: dict[bytes, bytes] = {}
    for entry in entries:
        name, separator, value = entry.partition(b"=")
        if separator and name:
            found.setdefault(name, value)  # getenv(3) takes the first of several
    return found


def clean(environb: Mapping[bytes, bytes], frozen: bool) -> dict[bytes, bytes]:
    """An environment without what the freezer's boot program put in; unchanged when not ``frozen``."""
    if not frozen:
        return dict(environb)
    # Only a one-file bundle names its folder in the environment; the freezer's runtime knows both kinds.
    bundle = environb.get(_BUNDLE) or os.fsencode(getattr(sys, "_MEIPASS", ""))
    kept = {
        name: value for name, value in environb.items() if not name.startswith(_PREFIXES) and name not in _NAMES
    }  # fmt: skip
    for name in _SEARCH_PATHS:
        _restore(kept, name, bundle)
    return kept


def _restore(environment: dict[bytes, bytes], name: bytes, bundle: bytes) -> None:
    """Put back one search path, which the boot program made ``BUNDLE`` or ``BUNDLE:BEFORE``.

    It saved what was before under ``..._ORIG``; a variable of that name that says something else is the user's own.
    """
    value, saved = environment.get(name), environment.get(name + b"_ORIG")
    entries = value.split(b":") if value is not None and bundle else []
    before = [entry for entry in entries if not _is_below(entry, bundle)]
    if len(before) == len(entries):
        return  # nothing of the bundle's in it
    if before:
        environment[name] = b":".join(before)
    else:
        del environment[name]
    if saved is not None and saved == environment.get(name, b""):
        environment[name] = environment.pop(name + b"_ORIG")


def _is_below(entry: bytes, bundle: bytes) -> bool:
    if not entry:
        return False  # the loader takes it for the working directory
    entry, bundle = os.path.realpath(entry), os.path.realpath(bundle)
    return entry == bundle or entry.startswith(bundle + b"/")


def scrub(frozen: bool) -> None:
    """Clean this process's own environment, so that whatever it starts without naming one gets a clean one."""
    wanted = clean(os.environb, frozen)
    for name in set(os.environb) - set(wanted):
        del os.environb[name]
    os.environb.update(wanted)
