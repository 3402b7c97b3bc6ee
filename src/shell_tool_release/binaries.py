"""Looks at built executables without running them: what system, what libraries, how new a one, and paths in them.

API::

    describe(path) -> Description
    check_binary(path, target=, libc=, baseline=, forbidden=)     BuildError names everything that does not hold

Source: ELF-64 Object File Format 1.5 and the GNU symbol versions of the Linux Standard Base, for ELF;
:mod:`shell_tool_release.macho` reads the other. ``readelf`` says the same, which a test checks where it is there.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from shell_tool_release import macho
from shell_tool_release.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_GLIBC = re.compile(r"GLIBC_(\d+)\.(\d+)(?:\.\d+)?")
_ELF_MACHINES = {62: "x64", 183: "arm64"}
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_SHT_SYMTAB = 2
_DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 1, 5, 15, 29
_DT_VERNEED, _DT_VERNEEDNUM = 0x6FFFFFFE, 0x6FFFFFFF
_ALLOWED = {
    "glibc": {"libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1", "libutil.so.1"},
    "musl": set[str](),
    "macos": {"/usr/lib/libSystem.B.dylib"},
}
"""Libraries that each system of its kind has had since the baseline."""

_BUILD_PATHS = re.compile(
    # Where people and machines that build have their files. What a shell has in it of its own is let through.
    rb"(?:/home/|/root/|/Users/|/github/|/__w/|/private/|/var/folders/|/builds?/|/mnt/|/workspace|"
    rb"/tmp/(?!zsh|sh-))[\x21-\x7e]{2,}|/(?:[\w.-]+/)+(?:ziglang|zig-local|zig-cache|site-packages)/[\x21-\x7e]*"
)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a file says of itself.

    Attributes:
        system: As node calls it.
        machine: As node calls it, else the format's number.
        dynamic: Whether anything is loaded into it when it starts.
        needs: The highest glibc version or the oldest macOS; (0, 0) if none.
        libraries: What it asks for by name, in its order.
        search: Folders of its own in which libraries are looked for (RPATH); none is wanted.
        symbols: Whether it has a table of symbols for debuggers.
        signature: On macOS: whether its signature is there, and is right for its bytes.
    """

    system: Literal["linux", "darwin"]
    machine: str
    dynamic: bool
    needs: tuple[int, int]
    libraries: tuple[str, ...]
    search: tuple[str, ...]
    symbols: bool
    signature: macho.Signature = "none"

    @property
    def signed(self) -> bool:
        """Whether macOS accepts the signature."""
        return self.signature == "valid"


def describe(path: Path) -> Description:
    """Read the headers; BuildError when it is neither ELF-64 nor Mach-O-64, little-endian, or is damaged."""
    data = path.read_bytes()
    try:
        if data[:6] == b"\x7fELF\x02\x01":
            return _elf(data)
        if data[:4] == macho.MAGIC:
            found = macho.read(data)
            return Description(
                system="darwin",
                machine=found.machine,
                dynamic=True,
                needs=found.minimum,
                libraries=found.libraries,
                search=found.search,
                symbols=found.local_symbols > 0,
                signature=found.signature,
            )
    except (struct.error, IndexError, ValueError) as error:
        message = f"{path} is a damaged executable: {error}"
        raise BuildError(message) from error
    message = f"{path} is no 64-bit executable"
    raise BuildError(message)


def _elf(data: bytes) -> Description:
    machine = struct.unpack_from("<H", data, 18)[0]
    ph_offset, sh_offset = struct.unpack_from("<QQ", data, 32)
    ph_size, ph_count, sh_size, sh_count = struct.unpack_from("<HHHH", data, 54)
    segments = [struct.unpack_from("<IIQQQQ", data, ph_offset + index * ph_size) for index in range(ph_count)]
    sections = {struct.unpack_from("<I", data, sh_offset + index * sh_size + 4)[0] for index in range(sh_count)}
    dynamic = _Dynamic(data, segments)
    return Description(
        system="linux",
        machine=_ELF_MACHINES.get(machine, str(machine)),
        dynamic=any(segment[0] in {_PT_INTERP, _PT_DYNAMIC} for segment in segments),
        needs=max(dynamic.versions(), default=(0, 0)),
        libraries=dynamic.strings(_DT_NEEDED),
        search=(*dynamic.strings(_DT_RPATH), *dynamic.strings(_DT_RUNPATH)),
        symbols=_SHT_SYMTAB in sections,
    )


class _Dynamic:
    """The dynamic section: what is asked of the loader."""

    def __init__(self, data: bytes, segments: list[tuple[int, ...]]) -> None:
        self._data = data
        self._loads = [(address, size, offset) for kind, _, offset, address, _, size in segments if kind == _PT_LOAD]
        place = next(((offset, size) for kind, _, offset, _, _, size in segments if kind == _PT_DYNAMIC), (0, 0))
        self._entries = list(struct.iter_unpack("<QQ", data[place[0] : place[0] + place[1] // 16 * 16]))

    def _value(self, tag: int) -> int:
        return next((value for name, value in self._entries if name == tag), 0)

    def _offset(self, address: int) -> int:
        for start, size, offset in self._loads:
            if start <= address < start + size:
                return address - start + offset
        message = f"address {address:#x} is in no segment"
        raise ValueError(message)

    def _string(self, position: int) -> str:
        start = self._offset(self._value(_DT_STRTAB)) + position
        return self._data[start : self._data.index(b"\0", start)].decode()

    def strings(self, tag: int) -> tuple[str, ...]:
        """Texts of all entries of one kind."""
        return tuple(self._string(value) for name, value in self._entries if name == tag)

    def versions(self) -> list[tuple[int, int]]:
        """The glibc versions of all symbols asked for (section .gnu.version_r)."""
        found: list[tuple[int, int]] = []
        count = self._value(_DT_VERNEEDNUM)
        at = self._offset(self._value(_DT_VERNEED)) if count else 0
        for _ in range(count):
            _, names, _, first, following = struct.unpack_from("<HHIII", self._data, at)
            one = at + first
            for _ in range(names):
                _, _, _, name, then = struct.unpack_from("<IHHII", self._data, one)
                version = _GLIBC.fullmatch(self._string(name))
                found += [(int(version[1]), int(version[2]))] if version else []
                one += then
            at += following
        return found


def check_binary(path: Path, *, target: str, libc: str, baseline: str, forbidden: Iterable[str]) -> None:
    """Return if the file is what its table row says and holds no path of the machine that built it.

    Args:
        path: The executable.
        target: A platform in node's names.
        libc: As in the table of variants.
        baseline: As in the table of variants.
        forbidden: Texts that may not be in it, beside what is known to be a build machine's path.

    Raises:
        BuildError: Everything that is wrong, in one text.
    """
    found = describe(path)
    data = path.read_bytes()
    wrong = [*_wrong_kind(found, target, libc, baseline), *_wrong_libraries(found, libc)]
    wrong += [f"it holds the path {text}" for text in forbidden if text.encode() in data]
    wrong += [f"it holds the path {text}" for text in sorted(set(build_paths(data)))]
    if wrong:
        message = f"{path}: {'; '.join(wrong)}"
        raise BuildError(message)


def build_paths(data: bytes) -> list[str]:
    """Texts that look like a path of the machine on which ``data`` was made."""
    return [text.decode("ascii", "replace") for text in _BUILD_PATHS.findall(data)]


def _wrong_kind(found: Description, target: str, libc: str, baseline: str) -> list[str]:
    checks = {
        f"it is for {found.system}-{found.machine}, not {target}": f"{found.system}-{found.machine}" != target,
        "it is not linked statically": libc == "musl" and found.dynamic,
        f"it needs {libc} {found.needs[0]}.{found.needs[1]}, the oldest supported is {baseline}": (
            libc != "musl" and found.needs > _version(baseline)
        ),
        "it does not say on which macOS it runs": libc == "macos" and found.needs == (0, 0),
        "it is not stripped": found.symbols,
        "it is not signed, so macOS on arm64 kills it": target == "darwin-arm64" and found.signature == "none",
        "its signature is not that of its bytes, so macOS kills it": found.signature == "broken",
    }
    return [text for text, holds in checks.items() if holds]


def _wrong_libraries(found: Description, libc: str) -> list[str]:
    unexpected = sorted(set(found.libraries) - _ALLOWED[libc] - _loader(found))
    wrong = [f"it asks for {name}, which not every system of its kind has" for name in unexpected]
    return wrong + [f"it looks for libraries in {folder}" for folder in found.search]


def _loader(found: Description) -> set[str]:
    """The loader's own name, which a program may ask for as well (thread-local storage on arm64)."""
    names = {("linux", "x64"): "ld-linux-x86-64.so.2", ("linux", "arm64"): "ld-linux-aarch64.so.1"}
    name = names.get((found.system, found.machine))
    return {name} if name and found.dynamic else set()


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)
