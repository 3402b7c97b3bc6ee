"""The virtual environments of the pipeline: made once, installed into only when what they should hold changes.

``nox`` would make one environment a session; the sessions of a release need the same 1.2 GB, so they share one here.
Only the standard library is used: the bootstrap makes nox's own environment with this file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = ".nox"
CONSTRAINTS = Path("packaging") / "constraints.txt"
LOCKS = Path("packaging") / "locks"
"""One file a group: every distribution it needs with the hashes of its files (``./run refresh -- --lock``)."""

PROJECT = "project"
"""The group name that stands for the runtime dependencies of the project itself."""

FROM_SOURCE: dict[tuple[str, str], tuple[str, ...]] = {
    ("Darwin", "x86_64"): ("starlark-pyo3",),  # its authors make no wheels for Intel Macs since 2024.1.4
}
"""Runtime dependencies without a wheel, by ``uname``'s system and machine: built from the locked source archive.

They are built by the locked tools of :data:`BUILD_TOOLS` and the machine's Rust, whose packages the archive's own
``Cargo.lock`` fixes with their hashes. Everything else is installed from wheels, everywhere.
"""

LEFT_OUT: dict[tuple[str, str], tuple[str, ...]] = {
    ("Darwin", "x86_64"): ("cryptography",),  # no wheel since 49; a server on stdio never imports it (excluded.py)
}
"""Runtime dependencies without a wheel that nothing here runs, in the same form: not installed there."""

BUILD_TOOLS = "from-source"
"""The group name of what builds :data:`FROM_SOURCE`."""

MACOS_FLOOR = "11.0"
"""The oldest macOS that anything built for it runs on (``variants.toml`` says the same of the shells)."""


def ensure(root: Path, name: str, groups: tuple[str, ...]) -> Path:
    """Return the Python of environment ``name``, holding dependency ``groups`` of ``pyproject.toml`` as locked.

    Args:
        root: The checkout.
        name: Folder name below ``.nox``.
        groups: Names of dependency groups, or :data:`PROJECT`.

    Raises:
        subprocess.CalledProcessError: venv or pip failed; they said why.
    """
    folder = root / FOLDER / name
    python = folder / "bin" / "python"
    folder.parent.mkdir(exist_ok=True)
    with folder.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        _make(folder, python)
        for group in groups:
            _install(root, folder, python, group)
    return python


@dataclass(frozen=True)
class Wheels:
    """Wheels of another Python than the one that runs: ``machine`` as in their names, ``python`` as ``3.13``."""

    machine: str
    python: str

    def options(self) -> list[str]:
        """What tells pip: CPython, on any glibc since 2.17."""
        names = ["manylinux2014", "manylinux_2_17", "manylinux_2_12", "manylinux_2_5"]
        platforms = [word for name in names for word in ("--platform", f"{name}_{self.machine}")]
        return ["--implementation", "cp", "--python-version", self.python, *platforms]


def ensure_wheels(root: Path, name: str, groups: tuple[str, ...], wheels: Wheels) -> Path:
    """Return a folder of packages for another Python, holding ``groups`` as locked: to be named by ``PYTHONPATH``.

    Args:
        root: The checkout.
        name: Folder name below ``.nox``.
        groups: As for :func:`ensure`.
        wheels: What they are for. Conditions in requirements (``python_version < …``) are still those of this Python.

    Raises:
        subprocess.CalledProcessError: pip failed; it said why.
    """
    folder = root / FOLDER / name
    packages = folder / "packages"
    locks = [root / LOCKS / f"{group}.txt" for group in groups]
    contents = [lock.read_text(encoding="utf-8") for lock in locks]
    digest = hashlib.sha256(json.dumps([contents, wheels.options()]).encode()).hexdigest()
    stamp = folder / "installed"
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (stamp.exists() and stamp.read_text(encoding="utf-8") == digest):
            print(f"environment {name}: installing {', '.join(groups)}", flush=True)
            shutil.rmtree(packages, ignore_errors=True)
            options = [*wheels.options(), "--no-compile", "--target", str(packages), "--require-hashes"]
            named = [word for lock in locks for word in ("--requirement", str(lock))]
            subprocess.run([*_pip(Path(sys.executable)), *options, *named], check=True, env=_clean_environment())
            stamp.write_text(digest, encoding="utf-8")
    return packages


def _pip(python: Path) -> list[str]:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    # Wheels only: building one from source would need a compiler, which a release must not.
    return [*command, "--only-binary", ":all:"]


def without_wheel() -> tuple[str, ...]:
    """Names of the runtime dependencies that have to be built from source on this machine."""
    return FROM_SOURCE.get((platform.system(), platform.machine()), ())


def _source_options(names: tuple[str, ...]) -> list[str]:
    """What lets pip build ``names``, and nothing else, with the tools that are installed."""
    return ["--no-binary", ",".join(names), "--no-build-isolation"] if names else []


def _source_environment() -> dict[str, str]:
    """What fixes such a build: only locked crates, the oldest macOS, and no path of this machine in the library."""
    home = Path.home()
    cargo = os.environ.get("CARGO_HOME") or str(home / ".cargo")
    remapped = [f"--remap-path-prefix={path}={name}" for path, name in ((home, "home"), (cargo, "cargo"))]
    return {
        "MATURIN_PEP517_ARGS": "--locked",
        "MACOSX_DEPLOYMENT_TARGET": MACOS_FLOOR,
        "RUSTFLAGS": " ".join(remapped),
    }


def requirements(root: Path, group: str) -> list[str]:
    """Return the requirements of ``group``, with the groups it includes."""
    import tomllib  # noqa: PLC0415  (Python 3.11's: the bootstrap imports this file only after it has looked at the version)

    document = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    if group == PROJECT:
        return list(document["project"]["dependencies"])
    return _expand(document["dependency-groups"], group)


def _expand(groups: dict[str, list[Any]], name: str) -> list[str]:
    found: list[str] = []
    for entry in groups[name]:
        found += [entry] if isinstance(entry, str) else _expand(groups, entry["include-group"])
    return found


def _make(folder: Path, python: Path) -> None:
    """Make the environment, anew when the Python it was made with is another one by now."""
    stamp = folder / "made-with"
    wanted = json.dumps([sys.version, sys.base_prefix])
    if python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    venv.EnvBuilder(clear=True, with_pip=True, symlinks=True).create(folder)
    stamp.write_text(wanted, encoding="utf-8")


def _install(root: Path, folder: Path, python: Path, group: str) -> None:
    """Install ``group``, each file by its locked hash, unless the same requirements and locks are in already."""
    from_source = without_wheel() if group == PROJECT else ()
    if from_source:
        _install(root, folder, python, BUILD_TOOLS)
    wanted = requirements(root, group)
    constraints, lock = root / CONSTRAINTS, root / LOCKS / f"{group}.txt"
    locked = lock.read_bytes() if lock.is_file() else b""
    digest = hashlib.sha256(json.dumps(wanted).encode() + constraints.read_bytes() + locked).hexdigest()
    stamp = folder / f"installed-{group}"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == digest:
        return
    print(f"environment {folder.name}: installing {group}", flush=True)
    # A group that is not locked yet can be tried; a test wants a lock of every group that is committed.
    what = _locked(folder, lock, group) if locked else ["--constraint", str(constraints), *wanted]
    environ = _clean_environment() | (_source_environment() if from_source else {})
    subprocess.run([*_pip(python), *_source_options(from_source), *what], check=True, env=environ)
    stamp.write_text(digest, encoding="utf-8")


def _locked(folder: Path, lock: Path, group: str) -> list[str]:
    """What tells pip to install the lock's distributions, without those that this machine does without."""
    left_out = LEFT_OUT.get((platform.system(), platform.machine()), ()) if group == PROJECT else ()
    if not left_out:
        return ["--require-hashes", "--requirement", str(lock)]
    entries = re.split(r"(?m)^(?=\S)", lock.read_text(encoding="utf-8"))
    kept = folder / f"{group}.txt"
    kept.write_text("".join(entry for entry in entries if entry.partition("==")[0] not in left_out), encoding="utf-8")
    return ["--no-deps", "--require-hashes", "--requirement", str(kept)]


def _clean_environment() -> dict[str, str]:
    """Return the environment without what would make pip look at or write to another installation."""
    return {
        key: value
        for key, value in os.environ.items()
        if key not in {"PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_USER"}
    }
