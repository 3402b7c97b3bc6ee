"""The C library that is shipped: the locked files, whole, with their licences; and what comes of another one."""

from __future__ import annotations

import re
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from release.conftest import cannot
from shell_tool_release import apt, glibc
from shell_tool_release.binaries import describe
from shell_tool_release.cache import VARIABLE, cache_root
from shell_tool_release.errors import ChecksumError, ConfigurationError, SourceError
from shell_tool_release.glibc import install_glibc, shipped_glibc
from shell_tool_release.licenses import read_components

if TYPE_CHECKING:
    from pathlib import Path

TARGETS = ("linux-x64", "linux-arm64")


@pytest.fixture(autouse=True)
def _needs_apt() -> None:
    if sys.platform == "darwin":
        pytest.skip("macOS packages ship no glibc")
    if shutil.which("apt-get") is None:
        cannot("apt-get is not here")


@pytest.mark.parametrize("target", TARGETS)
def test_complete(target: str) -> None:
    shipped = shipped_glibc(target)
    names = {path.name for path in shipped.libraries.iterdir()}
    assert names == {shipped.loader, *glibc._LIBRARIES}
    assert shipped.loader.startswith("ld-linux-")
    for path in shipped.libraries.iterdir():
        found = describe(path)
        assert f"{found.system}-{found.machine}" == target
        assert {*found.libraries} <= names
        assert not found.symbols


@pytest.mark.parametrize("target", TARGETS)
def test_licences_say_where_the_source_is(target: str) -> None:
    parts = {part.name: part for part in read_components(shipped_glibc(target).licenses)}
    assert set(parts) == {"GNU C Library", "libgcc"}
    for part, text in (("GNU C Library", "LGPL-2.1"), ("libgcc", "GPL-3")):
        assert {"copyright", text, "SOURCE.md"} == {*parts[part].files}
        assert parts[part].version in parts[part].note
        offer = (shipped_glibc(target).licenses / parts[part].folder / "SOURCE.md").read_text()
        assert re.search(rf"^    apt-get source (glibc|gcc-12)={re.escape(parts[part].version)}$", offer, re.MULTILINE)
        assert "three years" in offer
    words = (shipped_glibc(target).licenses / "GNU-C-Library" / "LGPL-2.1").read_text()
    assert "GNU LESSER GENERAL PUBLIC LICENSE" in words


def test_another_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = list(glibc._read_lock()["packages"]["linux-x64"]["files"])
    kept = [next((cache_root() / "downloads").glob(f"*-{name}")) for name in names if shipped_glibc("linux-x64")]
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))

    def arrived(*, names: list[str], suite: str, architecture: str, scratch: Path) -> list[Path]:
        places = [scratch / path.name.partition("-")[2] for path in kept]
        for path, place in zip(kept, places, strict=True):
            shutil.copyfile(path, place)
        places[0].write_bytes(places[0].read_bytes() + b"x")
        return places

    monkeypatch.setattr(apt, "download_packages", arrived)
    with pytest.raises(ChecksumError, match=r"libc6_.*refused"):
        shipped_glibc("linux-x64")


def test_without_apt_the_package_is_made_without_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(SourceError, match="apt-get is not on this machine"):
        shipped_glibc("linux-x64")
    install_glibc("linux-x64", tmp_path / "folder")
    assert "warning: the package gets no glibc/" in capsys.readouterr().err
    assert not (tmp_path / "folder").exists()


def test_macos_gets_none() -> None:
    with pytest.raises(ConfigurationError, match="no glibc is shipped for darwin-x64"):
        shipped_glibc("darwin-x64")
