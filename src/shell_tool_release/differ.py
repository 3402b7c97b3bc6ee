"""Finds the first difference between two artefacts, inside the archives they are made of.

API::

    first_difference(one, other) -> Difference | None      files or folders

Knows tar, gzip, xz, bzip2 and zip (so wheels and Python's library archive), one inside the other, to any depth that a
release has. For an ELF program it names the section, for a text the line.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_GZIP_HEADER = {3: "flags", 4: "time", 5: "time", 6: "time", 7: "time", 8: "level", 9: "system"}
"""Byte → what it says (RFC 1952)."""

_TAR_FIELDS = ("mode", "uid", "gid", "uname", "gname", "mtime", "type", "linkname", "size")
_ZIP_FIELDS = ("date_time", "external_attr", "compress_type", "create_system", "create_version", "flag_bits", "extra")
_SHOWN = 16
_NO_ARCHIVE = (OSError, EOFError, ValueError, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """``where`` is the way in, archive by archive; ``what`` is what is not the same there, the first's value first."""

    where: tuple[str, ...]
    what: str

    def __str__(self) -> str:
        return f"{' > '.join(self.where)}: {self.what}"


def first_difference(one: Path, other: Path) -> Difference | None:
    """Compare two files, or two folders with all that is in them (names, the owner's modes and content)."""
    if one.is_dir() and other.is_dir():
        return _folders(one, other)
    where = (one.name,) if one.name == other.name else (f"{one.name} and {other.name}",)
    return next(_differences(where, one.read_bytes(), other.read_bytes()), None)


def _folders(one: Path, other: Path) -> Difference | None:
    names = [{path.relative_to(root).as_posix(): path for path in root.rglob("*")} for root in (one, other)]
    for name in sorted(names[0].keys() | names[1].keys()):
        pair = [found.get(name) for found in names]
        if pair[0] is None or pair[1] is None:
            return Difference(where=(name,), what=_only(first=pair[0] is not None))
        modes = [path.lstat().st_mode for path in pair if path is not None]
        kinds = [(stat.S_IFMT(mode), bool(mode & stat.S_IXUSR)) for mode in modes]
        if kinds[0] != kinds[1]:
            return Difference(where=(name,), what=f"mode {modes[0]:o} and {modes[1]:o}")
        if pair[0].is_file():
            found = next(_differences((name,), pair[0].read_bytes(), pair[1].read_bytes()), None)
            if found:
                return found
    return None


def _only(*, first: bool) -> str:
    return f"only the {'first' if first else 'second'} has it"


def _differences(where: tuple[str, ...], one: bytes, other: bytes) -> Iterator[Difference]:
    """Differences between two contents, the first one first; at least one if they are not equal."""
    if one == other:
        return
    kinds = [_kind(data) for data in (one, other)]
    if kinds[0] is not None and kinds[0] is kinds[1]:
        with suppress(*_NO_ARCHIVE):  # it only begins like one: what differs is told byte by byte
            yield from kinds[0](where, one, other)
    yield _bytes(where, one, other)


def _kind(data: bytes) -> Callable[[tuple[str, ...], bytes, bytes], Iterator[Difference]] | None:
    if data[257:262] == b"ustar":
        return _tar
    kinds = {b"\x1f\x8b": _gzip, b"PK\x03\x04": _zip, b"\xfd7zXZ": _xz, b"BZh": _bzip2}
    return next((compare for magic, compare in kinds.items() if data.startswith(magic)), None)


def _gzip(where: tuple[str, ...], one: bytes, other: bytes) -> Iterator[Difference]:
    yield from _differences((*where, "gzip"), gzip.decompress(one), gzip.decompress(other))
    for at, name in _GZIP_HEADER.items():
        if one[at] != other[at]:
            yield Difference(where=(*where, "gzip header"), what=f"{name}: byte {at} is {one[at]} and {other[at]}")
    yield Difference(where=where, what="the same content is compressed in two ways")


def _xz(where: tuple[str, ...], one: bytes, other: bytes) -> Iterator[Difference]:
    yield from _differences((*where, "xz"), lzma.decompress(one), lzma.decompress(other))
    yield Difference(where=where, what="the same content is compressed in two ways")


def _bzip2(where: tuple[str, ...], one: bytes, other: bytes) -> Iterator[Difference]:
    yield from _differences((*where, "bzip2"), bz2.decompress(one), bz2.decompress(other))
    yield Difference(where=where, what="the same content is compressed in two ways")


def _tar(where: tuple[str, ...], one: bytes, other: bytes) -> Iterator[Difference]:
    with tarfile.open(fileobj=io.BytesIO(one)) as first, tarfile.open(fileobj=io.BytesIO(other)) as second:
        members = [{member.name: member for member in archive} for archive in (first, second)]
        yield from _names(where, *members)
        for name in (name for name in members[0] if name in members[1]):
            pair = (members[0][name], members[1][name])
            streams = [archive.extractfile(member) for archive, member in zip((first, second), pair, strict=True)]
            data = [b"" if stream is None else stream.read() for stream in streams]
            yield from _differences((*where, name), data[0], data[1])
            yield from _fields((*where, name), _TAR_FIELDS, *pair)
            yield from _fields((*where, name), ("pax_headers",), *pair)


def _zip(where: tuple[str, ...], one: bytes, other: bytes) -> Iterator[Difference]:
    with zipfile.ZipFile(io.BytesIO(one)) as first, zipfile.ZipFile(io.BytesIO(other)) as second:
        members = [{info.filename: info for info in archive.infolist()} for archive in (first, second)]
        yield from _names(where, *members)
        for name in (name for name in members[0] if name in members[1]):
            pair = (members[0][name], members[1][name])
            yield from _differences((*where, name), first.read(pair[0]), second.read(pair[1]))
            yield from _fields((*where, name), (*_ZIP_FIELDS, "compress_size"), *pair)


def _names(where: tuple[str, ...], one: Mapping[str, object], other: Mapping[str, object]) -> Iterator[Difference]:
    for name in sorted(one.keys() ^ other.keys()):
        yield Difference(where=(*where, name), what=_only(first=name in one))
    if one.keys() == other.keys():
        for number, pair in enumerate(zip(one, other, strict=True), start=1):
            if pair[0] != pair[1]:
                yield Difference(where=where, what=f"entry {number} is {pair[0]} and {pair[1]}: another order")
                return


def _fields(where: tuple[str, ...], names: tuple[str, ...], one: object, other: object) -> Iterator[Difference]:
    for name in names:
        values = getattr(one, name), getattr(other, name)
        if values[0] != values[1]:
            shown = [f"{value:o}" if name == "mode" else repr(value) for value in values]
            yield Difference(where=where, what=f"{name} is {shown[0]} and {shown[1]}")


def _bytes(where: tuple[str, ...], one: bytes, other: bytes) -> Difference:
    at = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    if at is None:
        sizes = f"{len(one)} and {len(other)} bytes"
        return Difference(where=where, what=f"{sizes}: the longer one begins with the shorter")
    if b"\0" not in one[:4096] + other[:4096]:
        line = one.count(b"\n", 0, at)
        texts = [data.split(b"\n")[line][:200].decode(errors="replace") for data in (one, other)]
        return Difference(where=where, what=f"line {line + 1} is {texts[0]!r} and {texts[1]!r}")
    shown = [data[at : at + _SHOWN].hex(" ") for data in (one, other)]
    section = _section(one, at)
    place = f"byte {at}{f' (section {section})' if section else ''}"
    return Difference(where=where, what=f"from {place} on: {shown[0]} and {shown[1]}")


def _section(data: bytes, at: int) -> str:
    """The section of an ELF-64 file that byte ``at`` is in; empty where there is none."""
    if data[:6] != b"\x7fELF\x02\x01":
        return ""
    try:
        table = struct.unpack_from("<Q", data, 40)[0]
        size, count, names = struct.unpack_from("<HHH", data, 58)
        headers = [struct.unpack_from("<IIQQQQ", data, table + index * size) for index in range(count)]
        strings = headers[names][4]
        for name, kind, _, _, offset, length in headers:
            if kind != 8 and offset <= at < offset + length:  # 8: no bytes in the file
                start = strings + name
                return data[start : data.index(b"\0", start)].decode(errors="replace")
    except (struct.error, IndexError, ValueError):
        return ""
    return ""
