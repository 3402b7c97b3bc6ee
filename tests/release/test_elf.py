"""Stripping and checking a bundle's libraries: nothing that is loaded changes, and what would not load is refused."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from shell_tool_release import elf
from shell_tool_release.binaries import describe
from shell_tool_release.cache import cache_root
from shell_tool_release.errors import BuildError
from shell_tool_release.toolchain import ZigCompiler, find_zig

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="bundles of other systems hold no ELF")

SOURCE = """\
#include <math.h>
static int hidden(int a) { return a + 40; }
int answer(void) { return hidden(2); }
double root(double a) { return sqrt(a); }
"""
TARGETS = {"linux-x64": "x86_64-linux-gnu", "linux-arm64": "aarch64-linux-gnu"}


def _library(folder: Path, target: str, *flags: str, glibc: str = "2.17", source: str = SOURCE) -> Path:
    (folder / "library.c").write_text(source)
    compiler = ZigCompiler(zig=find_zig(), target=f"{TARGETS[target]}.{glibc}")
    path = folder / f"{target}.so"
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "ZIG_GLOBAL_CACHE_DIR": str(cache_root() / "zig"),
        "ZIG_LOCAL_CACHE_DIR": str(folder / "zig-local"),
    }
    command = [*compiler.command(), "-shared", "-fPIC", "-g", "-o", str(path), str(folder / "library.c"), "-lm", *flags]
    subprocess.run(command, check=True, env=environ)
    return path


@pytest.mark.parametrize("target", list(TARGETS))
def test_stripped_for_any_machine(tmp_path: Path, target: str) -> None:
    path = _library(tmp_path, target)
    before = path.read_bytes()
    assert describe(path).symbols
    elf.strip(path)
    after = path.read_bytes()
    assert not describe(path).symbols
    assert len(after) < len(before) / 2, "information for debuggers is most of it"
    assert b"hidden" not in after
    elf.check(path, target, (2, 17))
    elf.strip(path)
    assert path.read_bytes() == after, "nothing is left to strip"


def test_what_is_loaded_stays(tmp_path: Path) -> None:
    """Each segment byte for byte but the header's word on sections, and the library works."""
    machine = "linux-x64" if os.uname().machine == "x86_64" else "linux-arm64"
    path = _library(tmp_path, machine)
    before = bytearray(path.read_bytes())
    elf.strip(path)
    after = bytearray(path.read_bytes())
    for data in (before, after):
        data[40:48] = bytes(8)
        data[60:64] = bytes(4)
    offset, size, count = struct.unpack_from("<Q", before, 32)[0], *struct.unpack_from("<HH", before, 54)
    for index in range(count):
        _, _, start, _, _, length = struct.unpack_from("<IIQQQQ", before, offset + index * size)
        assert after[start : start + length] == before[start : start + length]
    assert ctypes.CDLL(str(path)).answer() == 42


def test_tools_can_read_it(tmp_path: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not here")
    path = _library(tmp_path, "linux-x64")
    elf.strip(path)
    said = subprocess.run(["readelf", "-W", "-S", "-s", path], capture_output=True, text=True, check=True)
    assert said.stderr == ""
    assert ".shstrtab" in said.stdout
    assert " answer" in said.stdout
    assert ".debug_info" not in said.stdout


@pytest.mark.parametrize(
    ("target", "flags", "glibc", "said"),
    [
        ("linux-arm64", (), "2.17", "it is for linux-arm64, not linux-x64"),
        ("linux-x64", (), "2.38", "it needs glibc 2.38, the oldest supported is 2.17"),
        ("linux-x64", ("-Wl,-rpath,/somewhere",), "2.17", "it looks for libraries in /somewhere"),
    ],
)
def test_what_would_not_load_everywhere_is_refused(
    tmp_path: Path, target: str, flags: tuple[str, ...], glibc: str, said: str
) -> None:
    # strlcpy(3) is new in glibc 2.38.
    newer = "#include <string.h>\nsize_t copied(char *a, const char *b) { return strlcpy(a, b, 9); }\n"
    path = _library(tmp_path, target, *flags, glibc=glibc, source=newer if glibc == "2.38" else SOURCE)
    elf.strip(path)
    with pytest.raises(BuildError, match=said):
        elf.check(path, "linux-x64", (2, 17))


def test_an_unexpected_library_and_symbols_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = _library(tmp_path / "other", "linux-x64", "-Wl,-soname,libother.so.1")
    user = "int answer(void);\nint twice(void) { return 2 * answer(); }\n"
    path = _library(tmp_path, "linux-x64", str(other), source=user)
    with pytest.raises(BuildError, match=r"it needs libother\.so\.1, which is not on every system; it is not stripped"):
        elf.check(path, "linux-x64", (2, 17))
