"""Libraries of a frozen bundle: stripped here, for no machine has a ``strip`` for all platforms, and checked.

API::

    files(folder) -> list[Path]            every ELF file below it
    strip(path)                            without symbols and notes for debuggers, in place
    check(path, target, glibc)             BuildError unless every glibc since ``glibc`` can load it

Source: ELF-64 Object File Format 1.5.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from shell_tool_release import manifest
from shell_tool_release.binaries import describe
from shell_tool_release.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC = b"\x7fELF\x02\x01"
_SHF_ALLOC = 2
_SHT_STRTAB, _SHT_NOBITS = 3, 8
_SECTION = struct.Struct("<IIQQQQIIQQ")
_ALIGNMENT = 8

_EVERYWHERE = frozenset(
    {
        *("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1", "libgcc_s.so.1"),
        *("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"),
    }
)
"""What a manylinux2014 wheel may need (PEP 599) of what is needed here."""


def files(folder: Path) -> list[Path]:
    """Every ELF file below ``folder``, sorted."""
    found = []
    for path in manifest.files(folder):
        with path.open("rb") as stream:
            if stream.read(len(_MAGIC)) == _MAGIC:
                found.append(path)
    return found


def strip(path: Path) -> None:
    """Cut off all sections that are not loaded; BuildError when they are not the last ones."""
    data = path.read_bytes()
    header_offset = struct.unpack_from("<Q", data, 40)[0]
    count, names_index = struct.unpack_from("<HH", data, 60)
    sections = [_SECTION.unpack_from(data, header_offset + index * _SECTION.size) for index in range(count)]
    kept = [section for section in sections[1:] if section[2] & _SHF_ALLOC]
    if kept != sections[1 : 1 + len(kept)]:
        # Symbols name their sections by number, so none may be taken out from between.
        raise BuildError(f"{path} cannot be stripped: its loaded sections are not the first ones")
    path.write_bytes(_without(data, [sections[0], *kept], sections[names_index]))


def _without(data: bytes, kept: list[tuple[int, ...]], old_names: tuple[int, ...]) -> bytes:
    """The file with the sections ``kept`` and a new section of their names."""
    names = bytearray(b"\0")
    table = []
    for section in kept:
        start = old_names[4] + section[0]
        name = data[start : data.index(b"\0", start) + 1]
        table.append((len(names) if len(name) > 1 else 0, *section[1:]))
        names += name if len(name) > 1 else b""
    names_name = len(names)
    names += b".shstrtab\0"
    loaded = data[: _loaded_size(data, kept)]
    table.append((names_name, _SHT_STRTAB, 0, 0, len(loaded), len(names), 0, 0, 1, 0))
    body = bytearray(loaded + names)
    body += bytes(-len(body) % _ALIGNMENT)
    struct.pack_into("<Q", body, 40, len(body))
    struct.pack_into("<HH", body, 60, len(table), len(table) - 1)
    return bytes(body) + b"".join(_SECTION.pack(*row) for row in table)


def _loaded_size(data: bytes, kept: list[tuple[int, ...]]) -> int:
    """Bytes from the start of the file that a segment or a section needs."""
    offset = struct.unpack_from("<Q", data, 32)[0]
    size, count = struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<IIQQQQ", data, offset + index * size) for index in range(count)]
    ends: list[int] = [segment[2] + segment[5] for segment in segments]
    ends += [section[4] + section[5] for section in kept if section[1] != _SHT_NOBITS]
    return max(ends)


def check(path: Path, target: str, glibc: tuple[int, int]) -> None:
    """Return if ``path`` is for ``target`` and every system with this glibc or a newer one can load it."""
    found = describe(path)
    wrong = []
    if f"{found.system}-{found.machine}" != target:
        wrong.append(f"it is for {found.system}-{found.machine}, not {target}")
    if found.needs > glibc:
        wrong.append(f"it needs glibc {found.needs[0]}.{found.needs[1]}, the oldest supported is {glibc[0]}.{glibc[1]}")
    wrong += [f"it needs {name}, which is not on every system" for name in sorted({*found.libraries} - _EVERYWHERE)]
    wrong += [f"it looks for libraries in {folder}" for folder in found.search]
    if found.symbols:
        wrong.append("it is not stripped")
    if wrong:
        raise BuildError(f"{path}: {'; '.join(wrong)}")
