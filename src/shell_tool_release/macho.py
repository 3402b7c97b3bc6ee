"""Reads Mach-O executables: oldest system, libraries, and whether the signature is that of the bytes.

API::

    read(data) -> MachO        ValueError or struct.error when the file does not hold together

Sources: <mach-o/loader.h>, <mach-o/nlist.h> and the kernel's <kern/cs_blobs.h>. The signature's numbers are big-endian.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"\xcf\xfa\xed\xfe"
MAGIC_OF_SEVERAL, MAGIC_OF_SEVERAL_64 = b"\xca\xfe\xba\xbe", b"\xca\xfe\xba\xbf"
"""How a file begins that holds the code of several machines (<mach-o/fat.h>); no such file is shipped."""

_MACHINES = {0x01000007: "x64", 0x0100000C: "arm64"}
_LC_SYMTAB, _LC_LOAD_DYLIB, _LC_LOAD_WEAK_DYLIB, _LC_REEXPORT_DYLIB = 0x2, 0xC, 0x80000018, 0x8000001F
_LC_RPATH, _LC_CODE_SIGNATURE, _LC_VERSION_MIN, _LC_BUILD_VERSION = 0x8000001C, 0x1D, 0x24, 0x32
_DYLIBS = {_LC_LOAD_DYLIB, _LC_LOAD_WEAK_DYLIB, _LC_REEXPORT_DYLIB}
_PLATFORM_MACOS = 1
_N_STAB, _N_EXT, _N_TYPE, _N_UNDF = 0xE0, 0x01, 0x0E, 0x00
_SUPER_BLOB, _CODE_DIRECTORY, _SHA256 = 0xFADE0CC0, 0xFADE0C02, 2

Signature = Literal["none", "valid", "broken"]


@dataclass(frozen=True, kw_only=True)
class MachO:
    """What a program says of itself.

    Attributes:
        machine: In node's name.
        minimum: Oldest macOS it runs on.
        libraries: What it asks for, by the whole name.
        search: Its folders for libraries.
        local_symbols: How many symbols it has that are for debuggers only.
        signature: ``valid`` if each page has the hash that the signature says.
        adhoc: Whether it is signed without a certificate.
    """

    machine: str
    minimum: tuple[int, int]
    libraries: tuple[str, ...]
    search: tuple[str, ...]
    local_symbols: int
    signature: Signature
    adhoc: bool


def read(data: bytes) -> MachO:
    """Read a 64-bit little-endian Mach-O file."""
    minimum, signature, adhoc, local = (0, 0), "none", False, 0
    libraries: list[str] = []
    search: list[str] = []
    for command, at, size in _commands(data):
        if command == _LC_BUILD_VERSION:
            platform, version = struct.unpack_from("<II", data, at + 8)
            minimum = _version(version) if platform == _PLATFORM_MACOS else minimum
        elif command == _LC_VERSION_MIN:
            minimum = _version(struct.unpack_from("<I", data, at + 8)[0])
        elif command in _DYLIBS:
            libraries.append(_text(data, at, size))
        elif command == _LC_RPATH:
            search.append(_text(data, at, size))
        elif command == _LC_SYMTAB:
            local = _local_symbols(data, *struct.unpack_from("<III", data, at + 8))
        elif command == _LC_CODE_SIGNATURE:
            offset, length = struct.unpack_from("<II", data, at + 8)
            valid, adhoc = _check(data, offset, length)
            signature = "valid" if valid else "broken"
    return MachO(
        machine=_MACHINES.get(struct.unpack_from("<I", data, 4)[0], "another machine"),
        minimum=minimum,
        libraries=tuple(libraries),
        search=tuple(search),
        local_symbols=local,
        signature=signature,  # type: ignore[arg-type]
        adhoc=adhoc,
    )


def _commands(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Each load command with its place and size."""
    at = 32
    for _ in range(struct.unpack_from("<I", data, 16)[0]):
        command, size = struct.unpack_from("<II", data, at)
        if size < 8:
            message = f"a load command of {size} bytes at {at}"
            raise ValueError(message)
        yield command, at, size
        at += size


def _version(packed: int) -> tuple[int, int]:
    return packed >> 16, (packed >> 8) & 0xFF


def _text(data: bytes, at: int, size: int) -> str:
    start = at + int(struct.unpack_from("<I", data, at + 8)[0])
    return data[start : at + size].split(b"\0", 1)[0].decode()


def _local_symbols(data: bytes, offset: int, count: int, names: int) -> int:
    """Symbols that neither come from a library nor are there for one: what ``strip -x`` takes away.

    The linker's own, for the jumps that it puts between far functions, are not counted: it keeps them.
    """
    found = 0
    for index in range(count):
        name, kind = struct.unpack_from("<IB", data, offset + index * 16)
        local = kind & _N_STAB or (not kind & _N_EXT and kind & _N_TYPE != _N_UNDF)
        found += bool(local) and not _string(data, names + name).endswith(b"__thunk")
    return found


def _string(data: bytes, at: int) -> bytes:
    return data[at : data.index(b"\0", at)]


def _check(data: bytes, offset: int, length: int) -> tuple[bool, bool]:
    """Whether the signature at ``offset`` is that of the bytes before it, and whether it is an ad-hoc one."""
    blob = data[offset : offset + length]
    magic, _, count = struct.unpack_from(">III", blob)
    if magic != _SUPER_BLOB:
        return False, False
    for index in range(count):
        place = struct.unpack_from(">II", blob, 12 + index * 8)[1]
        if struct.unpack_from(">I", blob, place)[0] == _CODE_DIRECTORY:
            return _pages_match(data, offset, blob[place:])
    return False, False


def _pages_match(data: bytes, end: int, directory: bytes) -> tuple[bool, bool]:
    flags, hashes, _, _, slots, limit = struct.unpack_from(">IIIIII", directory, 12)
    hash_size, hash_type, _, page_shift = struct.unpack_from(">BBBB", directory, 36)
    page = 1 << page_shift
    if hash_type != _SHA256 or limit != end or slots != -(-limit // page):
        return False, bool(flags & 0x2)
    match = all(
        hashlib.sha256(data[index * page : min(limit, (index + 1) * page)]).digest()[:hash_size]
        == directory[hashes + index * hash_size : hashes + (index + 1) * hash_size]
        for index in range(slots)
    )
    return match, bool(flags & 0x2)
