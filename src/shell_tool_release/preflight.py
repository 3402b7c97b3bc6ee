"""What a machine needs before a release can be built on it: looked at all at once, before anything is installed.

Only the standard library is used, and nothing newer than Python 3.9's syntax: this file has to run on a Python that is
too old in order to say so.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

MINIMUM_PYTHON = (3, 11)
MINIMUM_NODE = 18
"""What ``engines`` in ``packaging/npm/package.json`` says: the smoke test installs the package with this node."""

FREE_BYTES = 3 * 1024**3
"""Room for the environments (1.3 GB, most of it the compiler), the sources and three builds of a shell."""

PACKAGES: dict[str, dict[str, str]] = {
    "python": {"apt": "python3", "dnf": "python3", "brew": "python"},
    "venv": {"apt": "python3-venv", "dnf": "python3", "brew": "python"},
    "libpython": {"apt": "", "dnf": "", "brew": "python"},
    "objdump": {"apt": "binutils", "dnf": "binutils", "brew": ""},
    "git": {"apt": "git", "dnf": "git", "brew": "git"},
    "make": {"apt": "make", "dnf": "make", "brew": "make"},
    "node": {"apt": "nodejs", "dnf": "nodejs", "brew": "node"},
    "npm": {"apt": "npm", "dnf": "nodejs-npm", "brew": "node"},
    "cargo": {"apt": "", "dnf": "", "brew": "rust"},
}
"""Need → package by package manager; empty where the system has it anyway, or does not need it. The README's lines come
from here."""

INSTALL: dict[str, str] = {
    "apt": "sudo apt-get install -y",
    "dnf": "sudo dnf install -y",
    "brew": "brew install",
}


class Problem(NamedTuple):
    """One thing that is missing. ``need`` is a key of :data:`PACKAGES`, or empty where no package helps."""

    need: str
    text: str


def install_line(manager: str, needs: Sequence[str]) -> str:
    """Return the one command that installs ``needs`` with ``manager`` (``apt``, ``dnf`` or ``brew``)."""
    wanted = dict.fromkeys(PACKAGES[need][manager] for need in needs)
    return " ".join([INSTALL[manager], *(name for name in wanted if name)])


def problems(root: Path, cache: Path) -> list[Problem]:
    """Everything that is missing for a release built in ``root`` with downloads kept in ``cache``."""
    found = [_python(), _venv(), _libpython(), *_tools(), _node(), _writable(root), _writable(cache), _room(root)]
    return [problem for problem in found if problem is not None]


def report(found: Sequence[Problem]) -> str:
    """Turn ``found`` into the text a user reads: every missing thing, then the line that installs what packages can."""
    lines = [f"This machine lacks {_count(len(found))} for the build:"]
    lines += ["  - " + problem.text for problem in found]
    needs = [problem.need for problem in found if problem.need]
    if needs:
        lines += ["Install with:"] + ["  " + install_line(manager, needs) for manager in _managers()]
    return "\n".join(lines)


def cache_folder(environ: dict[str, str] | None = None) -> Path:
    """Return where sources and builds will be kept: the rule of ``cache.py``, which an old Python cannot import."""
    env = dict(os.environ) if environ is None else environ
    if env.get("CODEX_BUILD_CACHE"):
        return Path(env["CODEX_BUILD_CACHE"]).expanduser().absolute()
    home = Path(env.get("HOME") or Path.home())
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "codex-shell-tool-mcp"
    base = env.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else home / ".cache") / "codex-shell-tool-mcp"


def _count(number: int) -> str:
    return "one thing" if number == 1 else f"{number} things"


def _managers() -> list[str]:
    """Package managers to show a line for: the one that is here, or all where none is."""
    programs = {"apt": "apt-get", "dnf": "dnf", "brew": "brew"}
    here = [manager for manager, program in programs.items() if shutil.which(program)]
    return here or list(programs)


def _python(version: tuple[int, ...] | None = None) -> Problem | None:
    version = tuple(sys.version_info[:3]) if version is None else version
    if version[:2] >= MINIMUM_PYTHON:
        return None
    text = "Python {}.{} or newer: {} is {}".format(
        MINIMUM_PYTHON[0], MINIMUM_PYTHON[1], sys.executable, ".".join(map(str, version))
    )
    return Problem("python", text + " (another one can be named by the variable PYTHON)")


def _venv() -> Problem | None:
    """Debian ships ``venv`` without the ``ensurepip`` it needs, in two packages, so both are imported."""
    for module in ("venv", "ensurepip"):
        try:
            __import__(module)
        except ImportError:
            return Problem("venv", f"Python's module {module}: it makes the virtual environment")
    return None


def _libpython() -> Problem | None:
    """On macOS the shared libpython becomes part of the frozen server; on Linux one is built for that."""
    if sys.platform != "darwin":
        return None
    name = str(sysconfig.get_config_var("INSTSONAME") or "")
    if sysconfig.get_config_var("PYTHONFRAMEWORK"):
        return None
    if any((place / name).exists() for place in _library_folders()):
        return None
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return Problem("libpython", f"a Python built with --enable-shared: {sys.executable} is not")
    return Problem("libpython", f"the shared library {name}: it becomes part of the frozen server")


def _library_folders() -> list[Path]:
    """Folders that can hold libpython; empty where the interpreter has no shared build at all."""
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return []
    base = str(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    multiarch = str(sysconfig.get_config_var("MULTIARCH") or "")
    return [Path(base), Path(base) / multiarch, Path(sys.base_prefix) / "lib", Path("/usr/lib") / multiarch]


def _tools() -> list[Problem | None]:
    wanted = {
        "git": "git: it applies the patch, and the smoke test works in a repository",
        "make": "make: it builds the shells",
        "npm": "npm: the smoke test installs the package",
    }
    if sys.platform != "darwin":
        wanted["objdump"] = "objdump: the freezer reads with it what a library needs"
    elif platform.machine() == "x86_64":
        wanted["cargo"] = "cargo (Rust): for Intel Macs the rules language has no wheel, so it is built from its source"
    return [Problem(tool, text) for tool, text in wanted.items() if shutil.which(tool) is None]


def _node() -> Problem | None:
    program = shutil.which("node")
    if program is None:
        return Problem("node", f"node {MINIMUM_NODE} or newer: npm needs it")
    said = (
        subprocess.run([program, "--version"], stdout=subprocess.PIPE, check=False, timeout=30).stdout.decode().strip()
    )
    found = re.match(r"v(\d+)\.", said)
    if found and int(found.group(1)) >= MINIMUM_NODE:
        return None
    return Problem("node", "node {} or newer: {} is {}".format(MINIMUM_NODE, program, said or "mute"))


def _existing(folder: Path) -> Path:
    """The nearest folder above ``folder``, itself included, that exists."""
    return next(place for place in [folder, *folder.parents] if place.exists())


def _writable(folder: Path) -> Problem | None:
    place = _existing(folder)
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return None
    return Problem("", f"a folder that can be written: {place} cannot (for {folder})")


def _room(folder: Path) -> Problem | None:
    free = shutil.disk_usage(_existing(folder)).free
    if free >= FREE_BYTES:
        return None
    gigabytes = 1024.0**3
    return Problem("", f"{FREE_BYTES / gigabytes:.1f} GB of free disk for {folder}: {free / gigabytes:.1f} GB are")
