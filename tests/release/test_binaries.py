"""What a built executable may be: each thing that must not ship is noticed, in real files that were spoilt a little."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from release.conftest import cannot
from shell_tool_release import macho
from shell_tool_release.binaries import build_paths, check_binary, describe
from shell_tool_release.cache import cache_root
from shell_tool_release.errors import BuildError
from shell_tool_release.native import NativeOptions, build_native
from shell_tool_release.toolchain import Step, ZigCompiler, build_environ, find_zig, run_step
from support.built import built

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = "#include <stdio.h>\nint main(void) { puts(TEXT); return 0; }\n"


@pytest.fixture(scope="module")
def mac_wrapper() -> Path:
    """The wrapper for macOS on arm64."""
    options = replace(NativeOptions.default(), targets=("darwin-arm64",), quiet=True)
    return next(one.path for one in build_native(options) if one.name == "codex-execve-wrapper")


def compiled(folder: Path, zig_target: str, *flags: str, text: str = "hello") -> Path:
    """A small program; ``flags`` come last."""
    (folder / "main.c").write_text(PROGRAM, encoding="utf-8")
    command = (
        *ZigCompiler(zig=find_zig(), target=zig_target).command(),
        *("-O1", f'-DTEXT="{text}"', "main.c", "-o", "program", *flags),
    )
    environ = build_environ(folder=folder, cache=cache_root(), epoch=0)
    run_step(Step(name="compile", command=command), cwd=folder, environ=environ, log=folder / "log")
    return folder / "program"


def check(path: Path, *, target: str = "linux-x64", libc: str = "glibc", baseline: str = "2.17") -> None:
    check_binary(path, target=target, libc=libc, baseline=baseline, forbidden=())


def test_readelf_says_the_same() -> None:
    """Another reader of the same headers, where there is one."""
    if shutil.which("readelf") is None:
        cannot("readelf is not here (Debian: apt install binutils)")
    for program in (built().bash, built().bash_musl, built().wrapper):
        told = readelf(program)
        found = describe(program)
        assert (found.libraries, found.needs, found.dynamic) == told


def readelf(program: Path) -> tuple[tuple[str, ...], tuple[int, int], bool]:
    """Libraries, newest glibc and whether it is dynamic, according to readelf(1)."""

    def say(option: str) -> list[str]:
        command = ["readelf", "--wide", option, str(program)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    libraries = tuple(line.split("[")[1].rstrip("]") for line in say("--dynamic") if "(NEEDED)" in line)
    names = [word for line in say("--version-info") for word in line.split() if word.startswith("GLIBC_")]
    versions = [tuple(map(int, name.removeprefix("GLIBC_").split(".")[:2])) for name in names]
    needs = max(versions, default=(0, 0))
    dynamic = any(line.split()[:1] in (["INTERP"], ["DYNAMIC"]) for line in say("--segments"))
    return libraries, (needs[0], needs[1]), dynamic


def test_a_symbol_newer_than_the_baseline_is_refused(tmp_path: Path) -> None:
    program = compiled(tmp_path, "x86_64-linux-gnu.2.34", "-s")
    with pytest.raises(BuildError, match=r"it needs glibc 2\.34, the oldest supported is 2\.17"):
        check(program)
    check(program, baseline="2.34")


def test_an_unexpected_library_or_a_search_path_is_refused(tmp_path: Path) -> None:
    library = tmp_path / "libodd.so"
    library.write_bytes(
        compiled(tmp_path, "x86_64-linux-gnu.2.17", "-s", "-shared", "-fPIC", "-Wl,-soname,libodd.so").read_bytes()
    )
    program = compiled(
        tmp_path, "x86_64-linux-gnu.2.17", "-s", "-Wl,--no-as-needed", str(library), "-Wl,-rpath,/opt/odd"
    )
    with pytest.raises(BuildError, match=r"it asks for libodd\.so, which.*; it looks for libraries in /opt/odd"):
        check(program)


def test_symbols_for_debuggers_are_refused(tmp_path: Path) -> None:
    program = compiled(tmp_path, "x86_64-linux-gnu.2.17", "-g")
    with pytest.raises(BuildError, match="it is not stripped"):
        check(program)
    (tmp_path / "mac").mkdir()
    with pytest.raises(BuildError, match="it is not stripped"):
        check(compiled(tmp_path / "mac", "aarch64-macos.11.0"), target="darwin-arm64", libc="macos", baseline="11.0")


@pytest.mark.parametrize(
    "path",
    [
        "/home/somebody/project/main.c",
        "/root/project/x",
        "/Users/somebody/x",
        "/github/workspace/x",
        "/__w/project/x",
        "/tmp/build-abc/src",
        "/private/var/folders/zz",
        "/usr/lib/python3/site-packages/ziglang/lib",
    ],
)
def test_a_path_of_the_build_machine_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(BuildError, match="it holds the path /"):
        check(compiled(tmp_path, "x86_64-linux-gnu.2.17", "-s", text=path))


def test_a_shells_own_paths_are_let_through() -> None:
    own = b"/tmp\0/tmp/zsh\0/usr/local/share/zsh\0/var/tmp/\0/etc/profile\0/usr/local/bin:/usr/bin:.\0/dev/tcp/*/*\0"
    assert build_paths(own) == []


def test_a_program_for_macos_is_read(mac_wrapper: Path) -> None:
    found = describe(mac_wrapper)
    assert (found.system, found.machine, found.needs) == ("darwin", "arm64", (11, 0))
    assert found.libraries == ("/usr/lib/libSystem.B.dylib",)
    assert not found.symbols
    assert found.signed
    assert macho.read(mac_wrapper.read_bytes()).adhoc
    check(mac_wrapper, target="darwin-arm64", libc="macos", baseline="11.0")
    with pytest.raises(BuildError, match=r"it needs macos 11\.0, the oldest supported is 10\.15"):
        check(mac_wrapper, target="darwin-arm64", libc="macos", baseline="10.15")


def test_a_byte_changed_after_signing_is_noticed(mac_wrapper: Path, tmp_path: Path) -> None:
    """A late strip(1) did that to others: macOS ends such a program without a word."""
    data = bytearray(mac_wrapper.read_bytes())
    data[len(data) // 2] ^= 1
    spoilt = tmp_path / "spoilt"
    spoilt.write_bytes(data)
    assert describe(spoilt).signature == "broken"
    with pytest.raises(BuildError, match="its signature is not that of its bytes"):
        check(spoilt, target="darwin-arm64", libc="macos", baseline="11.0")


def test_a_missing_signature_is_noticed(mac_wrapper: Path, tmp_path: Path) -> None:
    data = bytearray(mac_wrapper.read_bytes())
    for command, at, _ in macho._commands(bytes(data)):
        if command == macho._LC_CODE_SIGNATURE:
            struct.pack_into("<I", data, at, 0x26)  # LC_FUNCTION_STARTS: something else of the same form
    unsigned = tmp_path / "unsigned"
    unsigned.write_bytes(data)
    with pytest.raises(BuildError, match="it is not signed, so macOS on arm64 kills it"):
        check(unsigned, target="darwin-arm64", libc="macos", baseline="11.0")


def test_another_library_on_macos_is_noticed(mac_wrapper: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    data = mac_wrapper.read_bytes()
    assert data.count(b"libSystem.B.dylib") == 1
    other.write_bytes(data.replace(b"libSystem.B.dylib", b"libcurses.B.dylib"))
    with pytest.raises(BuildError, match=r"it asks for /usr/lib/libcurses\.B\.dylib"):
        check(other, target="darwin-arm64", libc="macos", baseline="11.0")


def test_a_damaged_file_is_named(mac_wrapper: Path, tmp_path: Path) -> None:
    for original in (mac_wrapper, built().bash):
        for length in (20, 200):
            cut = tmp_path / "cut"
            cut.write_bytes(original.read_bytes()[:length])
            with pytest.raises(BuildError, match=r"cut is a damaged executable"):
                describe(cut)
