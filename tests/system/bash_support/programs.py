"""The C programs of this folder, compiled once and kept in the user's cache folder."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from shell_tool_release.cache import Key, cache_root, entry, file_sha256
from shell_tool_release.toolchain import SystemCompiler, find_zig

_HERE = Path(__file__).parent


def _compiler() -> tuple[tuple[str, ...], str]:
    """Command and identity: zig for a static program where it can make one, else the system's compiler."""
    if sys.platform == "linux":
        zig = find_zig()
        return (str(zig.binary), "cc", "-target", f"{platform.machine()}-linux-musl", "-static"), f"zig {zig.version}"
    return ("cc",), SystemCompiler().identity


@functools.cache
def program(name: str) -> Path:
    """Path of the compiled ``NAME.c``; static on Linux, so that it starts fast and runs with any environment."""
    source = _HERE / f"{name}.c"
    command, identity = _compiler()
    options = ("-O2", "-fno-sanitize=undefined", "-Wall", "-Wextra", "-Werror")
    key = Key.of("test-program", name=name, source=file_sha256(source), compiler=identity, options=options)

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as local:  # zig mixes up builds that share one
            caches = {"ZIG_GLOBAL_CACHE_DIR": str(cache_root() / "zig"), "ZIG_LOCAL_CACHE_DIR": local}
            arguments = [*command, *options, "-o", str(folder / name), str(source)]
            subprocess.run(arguments, env={**os.environ, **caches}, check=True, timeout=300)

    return entry(cache_root(), key, build).path / name


def wrapper_deciding(decision: str, folder: Path) -> Path:
    """A copy of pass_wrapper in ``folder`` under the name that makes it decide so, with an empty log beside it."""
    wrapper = folder / decision
    shutil.copyfile(program("pass_wrapper"), wrapper)
    wrapper.chmod(0o755)
    (folder / f"{decision}.log").touch()
    return wrapper
