"""The differ names a difference that is known, however deep it lies, and nothing where there is none."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

from shell_tool_release.differ import first_difference

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def _tar(files: Mapping[str, bytes], *, mode: int = 0o644, mtime: int = 0) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size, header.mode, header.mtime = len(data), mode, mtime
            archive.addfile(header, io.BytesIO(data))
    return out.getvalue()


def _zip(files: Mapping[str, bytes], *, year: int = 2000, mode: int = 0o644) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0))
            info.external_attr = mode << 16
            archive.writestr(info, data)
    return out.getvalue()


def _compare(tmp_path: Path, one: bytes, other: bytes, name: str = "artefact") -> str | None:
    for folder, data in (("one", one), ("other", other)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(data)
    found = first_difference(tmp_path / "one" / name, tmp_path / "other" / name)
    return None if found is None else str(found)


def test_equal_files_have_none(tmp_path: Path) -> None:
    assert _compare(tmp_path, _tar({"a": b"x"}), _tar({"a": b"x"})) is None


CASES: dict[str, tuple[bytes, bytes, str]] = {
    "a line": (b"same\none\n", b"same\ntwo\n", "artefact: line 2 is 'one' and 'two'"),
    "a byte": (b"\0\1\2\3", b"\0\1\7\3", "artefact: from byte 2 on: 02 03 and 07 03"),
    "an end": (b"\0\1", b"\0\1\2", "artefact: 2 and 3 bytes: the longer one begins with the shorter"),
    "a file in a tar": (
        _tar({"a": b"1", "b": b"x"}),
        _tar({"a": b"1", "b": b"y"}),
        "artefact > b: line 1 is 'x' and 'y'",
    ),
    "a mode in a tar": (_tar({"a": b""}), _tar({"a": b""}, mode=0o755), "artefact > a: mode is 644 and 755"),
    "a time in a tar": (_tar({"a": b""}), _tar({"a": b""}, mtime=7), "artefact > a: mtime is 0 and 7"),
    "one file more": (_tar({"a": b""}), _tar({"a": b"", "b": b""}), "artefact > b: only the second has it"),
    "one file less": (_tar({"a": b"", "b": b""}), _tar({"a": b""}), "artefact > b: only the first has it"),
    "the order": (
        _tar({"a": b"", "b": b""}),
        _tar({"b": b"", "a": b""}),
        "artefact: entry 1 is a and b: another order",
    ),
    "a file in a zip": (_zip({"a": b"x"}), _zip({"a": b"y"}), "artefact > a: line 1 is 'x' and 'y'"),
    "a date in a zip": (
        _zip({"a": b""}),
        _zip({"a": b""}, year=2001),
        "artefact > a: date_time is (2000, 1, 1, 0, 0, 0) and (2001, 1, 1, 0, 0, 0)",
    ),
    "a time in gzip": (
        gzip.compress(b"x", mtime=0),
        gzip.compress(b"x", mtime=9),
        "artefact > gzip header: time: byte 4 is 0 and 9",
    ),
    "a level": (
        gzip.compress(b"abc" * 9999, 1, mtime=0)[:8] + b"\0" + gzip.compress(b"abc" * 9999, 1, mtime=0)[9:],
        gzip.compress(b"abc" * 9999, 9, mtime=0)[:8] + b"\0" + gzip.compress(b"abc" * 9999, 9, mtime=0)[9:],
        "artefact: the same content is compressed in two ways",
    ),
    "in xz": (lzma.compress(b"x"), lzma.compress(b"y"), "artefact > xz: line 1 is 'x' and 'y'"),
    "in bzip2": (bz2.compress(b"x"), bz2.compress(b"y"), "artefact > bzip2: line 1 is 'x' and 'y'"),
    "a zip in a tar in gzip": (
        gzip.compress(_tar({"package/library.zip": _zip({"module.pyc": b"\0\1"})}), mtime=0),
        gzip.compress(_tar({"package/library.zip": _zip({"module.pyc": b"\0\2"})}), mtime=0),
        "artefact > gzip > package/library.zip > module.pyc: from byte 1 on: 01 and 02",
    ),
    "what only looks like an archive": (
        b"PK\x03\x04\0one",
        b"PK\x03\x04\0two",
        "artefact: from byte 5 on: 6f 6e 65 and 74 77 6f",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_known_difference_is_named(case: str, tmp_path: Path) -> None:
    one, other, expected = CASES[case]
    assert _compare(tmp_path, one, other) == expected


def test_the_section_of_a_program_is_named(tmp_path: Path) -> None:
    from support.built import built  # noqa: PLC0415 - it may build

    data = built().wrapper.read_bytes()
    at = data.index(b"CODEX_ESCALATE_SOCKET")
    found = _compare(tmp_path, data, data[:at] + b"D" + data[at + 1 :])
    assert found is not None
    assert f"byte {at} (section .rodata" in found


def test_folders(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text("x")
    assert first_difference(tmp_path / "one", tmp_path / "other") is None
    (tmp_path / "other" / "deep" / "file").chmod(0o755)
    assert str(first_difference(tmp_path / "one", tmp_path / "other")) == "deep/file: mode 100644 and 100755"
    (tmp_path / "other" / "deep" / "file").chmod(0o644)
    (tmp_path / "other" / "deep" / "file").write_text("y")
    assert str(first_difference(tmp_path / "one", tmp_path / "other")) == "deep/file: line 1 is 'x' and 'y'"
    (tmp_path / "one" / "deep" / "another").write_text("")
    assert str(first_difference(tmp_path / "one", tmp_path / "other")) == "deep/another: only the first has it"
