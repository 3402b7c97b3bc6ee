"""Compiles the boot programs of the frozen bundle: small C programs that start Python from the folder beside them.

API::

    compile_program(program, target, python, defines, work)     program: SERVER or WRAPPER
    SOURCES                                                     what goes into them, for cache keys
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from shell_tool_release.cache import cache_root
from shell_tool_release.errors import BuildError
from shell_tool_release.lock import load_lock
from shell_tool_release.portable_python import GLIBC, TRIPLES
from shell_tool_release.toolchain import ZigCompiler, build_environ, find_zig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shell_tool_release.portable_python import PortablePython

_HERE = Path(__file__).parent
SERVER, WRAPPER = _HERE / "server_boot.c", _HERE / "wrapper_boot.c"
SOURCES = (SERVER, WRAPPER, _HERE / "boot.h")


def compile_program(
    program: Path, target: Path, python: PortablePython, defines: Mapping[str, str], work: Path
) -> None:
    """Compile ``program`` into ``target`` for the platform of ``python``; BuildError shows what the compiler said."""
    compiler = ZigCompiler(zig=find_zig(), target=f"{TRIPLES[python.target]}.{GLIBC[0]}.{GLIBC[1]}")
    command = [*compiler.command(), "-std=c11", "-D_GNU_SOURCE", "-Os", "-s", "-Wall", "-Wextra", "-Werror"]
    command += ["-fno-sanitize=all", "-Wl,--build-id=none", f"-ffile-prefix-map={_HERE}=src"]
    command += [f'-D{key}="{value}"' for key, value in {"LIBRARY": python.library.name, **defines}.items()]
    command += ["-isystem", str(python.headers), "-o", str(target), str(program), "-ldl"]
    environ = build_environ(folder=work, cache=cache_root(), epoch=load_lock().epoch)
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        said = done.stdout.decode(errors="replace")
        raise BuildError(f"{program.name} cannot be compiled for {python.target}:\n{said}")
