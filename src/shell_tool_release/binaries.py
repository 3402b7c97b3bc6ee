"""Looks at built executables without running them: ELF and Mach-O headers, the glibc they need, paths in them.

API::

    describe(path) -> Description
    check_binary(path, libc=, baseline=, forbidden=)     BuildError names what does not hold

Source: ELF-64 Object File Format 1.5; <mach-o/loader.h>.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from shell_tool_release.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_GLIBC = re.compile(rb"\bGLIBC_(\d+)\.(\d+)(?:\.\d+)?\x00")
_ELF_MACHINES = {62: "x64", 183: "arm64"}
_MACHO_MACHINES = {0x01000007: "x64", 0x0100000C: "arm64"}
_PT_INTERP = 3
_PT_DYNAMIC = 2
_SHT_SYMTAB = 2
_LC_BUILD_VERSION = 0x32
_LC_CODE_SIGNATURE = 0x1D


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a file says of itself; ``needs`` is the highest glibc version or the oldest macOS, (0, 0) if none."""

    system: Literal["linux", "darwin"]
    machine: str
    dynamic: bool
    needs: tuple[int, int]
    symbols: bool
    signed: bool


def describe(path: Path) -> Description:
    """Read the headers; BuildError when it is neither ELF-64 nor Mach-O-64, little-endian."""
    data = path.read_bytes()
    if data[:6] == b"\x7fELF\x02\x01":
        return _elf(data)
    if data[:4] == b"\xcf\xfa\xed\xfe":
        return _macho(data)
    message = f"{path} is no 64-bit executable"
    raise BuildError(message)


def _elf(data: bytes) -> Description:
    machine = struct.unpack_from("<H", data, 18)[0]
    ph_offset, sh_offset = struct.unpack_from("<QQ", data, 32)
    ph_size, ph_count, sh_size, sh_count = struct.unpack_from("<HHHH", data, 54)
    segments = {struct.unpack_from("<I", data, ph_offset + index * ph_size)[0] for index in range(ph_count)}
    sections = {struct.unpack_from("<I", data, sh_offset + index * sh_size + 4)[0] for index in range(sh_count)}
    versions = [(int(major), int(minor)) for major, minor in _GLIBC.findall(data)]
    return Description(
        system="linux",
        machine=_ELF_MACHINES.get(machine, str(machine)),
        dynamic=bool(segments & {_PT_INTERP, _PT_DYNAMIC}),
        needs=max(versions, default=(0, 0)),
        symbols=_SHT_SYMTAB in sections,
        signed=False,
    )


def _macho(data: bytes) -> Description:
    machine, _, _, count = struct.unpack_from("<IIII", data, 4)
    needs, signed, at = (0, 0), False, 32
    for _ in range(count):
        command, size = struct.unpack_from("<II", data, at)
        if command == _LC_BUILD_VERSION:
            version = struct.unpack_from("<I", data, at + 12)[0]
            needs = (version >> 16, (version >> 8) & 0xFF)
        signed = signed or command == _LC_CODE_SIGNATURE
        at += size
    return Description(
        system="darwin",
        machine=_MACHO_MACHINES.get(machine, str(machine)),
        dynamic=True,
        needs=needs,
        symbols=False,
        signed=signed,
    )


def check_binary(path: Path, *, target: str, libc: str, baseline: str, forbidden: Iterable[str]) -> None:
    """Return if the file is what its table row says and holds none of the ``forbidden`` texts.

    ``target`` is a platform in node's names, ``libc`` and ``baseline`` as in the table of variants.
    """
    found = describe(path)
    wrong: list[str] = []
    if f"{found.system}-{found.machine}" != target:
        wrong.append(f"it is for {found.system}-{found.machine}, not {target}")
    if libc == "musl" and found.dynamic:
        wrong.append("it is not linked statically")
    if libc != "musl" and found.needs > _version(baseline):
        wrong.append(f"it needs {libc} {found.needs[0]}.{found.needs[1]}, the oldest supported is {baseline}")
    if found.symbols:
        wrong.append("it is not stripped")
    if target == "darwin-arm64" and not found.signed:
        wrong.append("it is not signed, so macOS on arm64 kills it")
    data = path.read_bytes()
    wrong += [f"it holds the path {text}" for text in forbidden if text.encode() in data]
    if wrong:
        message = f"{path}: {'; '.join(wrong)}"
        raise BuildError(message)


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)
