"""What the fuzz targets are made of, compiled here; and what of it this machine lacks."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from native.decoding import DESCRIBING
from native.decoding import HERE as NATIVE_TESTS
from shell_tool_release.native import read_recipes
from shell_tool_release.toolchain import find_zig
from shell_tool_release.workspace import find_workspace, host_platform
from support.compiling import compiled

if TYPE_CHECKING:
    from collections.abc import Sequence

INSTALL = {
    "apt-get": "sudo apt-get install -y clang libclang-rt-dev llvm",
    "dnf": "sudo dnf install -y clang compiler-rt llvm",
    "brew": "brew install llvm (and put its bin folder first on PATH: Apple's clang has no libFuzzer)",
}
"""Package manager → what installs clang with libFuzzer."""

_SANITISERS = ("-std=gnu11", "-g", "-O1", "-D_GNU_SOURCE", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all")

_EMPTY_TARGET = (
    "#include <stddef.h>\nint LLVMFuzzerTestOneInput(const void *d, size_t n) { return d == NULL && n > 0; }\n"
)


def library() -> Path:
    """The C codec as a shared library for this very Python, by the compiler of the release."""
    command = (str(find_zig().binary), "cc", "-std=c11", "-O2", "-g", "-shared", "-fPIC")
    return compiled("libdescribe_frames.so", command, DESCRIBING, (NATIVE_TESTS,))


def frames_fuzzer() -> Path:
    """The libFuzzer program of the C codec."""
    command = ("clang", *_SANITISERS, "-fsanitize=fuzzer,address,undefined")
    target = Path(__file__).with_name("frames_target.c")
    return compiled("fuzz_frames", command, (target, *DESCRIBING), (NATIVE_TESTS,))


def sanitised_natives() -> dict[str, Path]:
    """Wrapper and supervisor with AddressSanitizer and UndefinedBehaviorSanitizer, by name."""
    folder = find_workspace().native_sources
    command = ("clang", *_SANITISERS, "-fsanitize=address,undefined", '-DVERSION="sanitised"')
    recipes = read_recipes(folder / "sources.toml", host_platform())
    return {one.name: compiled(one.name, command, [folder / source for source in one.sources]) for one in recipes}


@functools.cache
def _has_libfuzzer() -> bool:
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "target.c"
        source.write_text(_EMPTY_TARGET)
        command = ["clang", "-fsanitize=fuzzer,address,undefined", "-o", f"{scratch}/target", str(source)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def lacks(targets: Sequence[str]) -> list[str]:
    """What this machine lacks for these targets, each with the next step; empty if nothing."""
    found = []
    if {"c", "server"} & set(targets):
        lines = [line for manager, line in INSTALL.items() if shutil.which(manager)] or list(INSTALL.values())
        install = "; install with: " + " or ".join(lines)
        if shutil.which("clang") is None:
            found.append(f"clang: it builds the targets with the sanitisers{install}")
        elif not _has_libfuzzer():
            found.append(f"clang's run-time libraries (libFuzzer, AddressSanitizer): this clang has none{install}")
    if "python" in targets and importlib.util.find_spec("atheris") is None:
        found.append(
            "atheris: it fuzzes the Python codec; it is in the dependency group fuzz where there is a wheel of it"
            " (Linux on x86-64, CPython 3.11 to 3.13), else leave that target out: --only c --only server"
        )
    return found
