"""The loader and the C library that are shipped for Linux systems without glibc.

API::

    shipped_glibc(target) -> ShippedGlibc      from the cache, else Debian's packages by apt
    install_glibc(target, folder)              glibc/ and its licences, into a platform's folder of the package

The launcher starts the server with them where the system's loader is not glibc's (Alpine, or nothing at all). They are
Debian's own builds, locked by hash (``data/glibc.lock.toml``) and unchanged. Their sources are Debian's source packages
of the same version, which the licence notes name; a user may put a changed library in their place.
"""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shell_tool_release import apt
from shell_tool_release.cache import Key, Lock, cache_root, entry, file_sha256
from shell_tool_release.errors import BuildError, ConfigurationError, SourceError, run_main
from shell_tool_release.licenses import Component, write_component
from shell_tool_release.workspace import host_platform

if TYPE_CHECKING:
    from collections.abc import Mapping

LOCK_FILE = Path(__file__).with_name("data") / "glibc.lock.toml"

_FORMAT = 2  # part of the key: raise when what is taken from the packages changes

_LIBRARIES = ("libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1", "libutil.so.1", "libgcc_s.so.1")
"""What a bundle may need, beside the loader: ``elf.check`` lets nothing else through."""

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60


@dataclass(frozen=True, kw_only=True)
class ShippedGlibc:
    """``libraries`` is the folder to ship as ``glibc/``, ``licenses`` holds the texts; both are in the cache."""

    libraries: Path
    licenses: Path
    loader: str
    version: str
    reused: bool


def shipped_glibc(target: str) -> ShippedGlibc:
    """Return the libraries for a Linux platform.

    Raises:
        ConfigurationError: Not a Linux platform.
        SourceError: apt could not get a package; the text says why.
        ChecksumError: One is not the one that is locked.
    """
    lock = _read_lock()
    packages = lock["packages"].get(target)
    if packages is None:
        message = f"no glibc is shipped for {target}, only for {', '.join(lock['packages'])}"
        raise ConfigurationError(message)
    key = Key.of("glibc", format=_FORMAT, target=target, libraries=_LIBRARIES, **packages)
    found = entry(cache_root(), key, lambda folder: _fill(folder, lock, packages))
    return ShippedGlibc(
        libraries=found.path / "glibc",
        licenses=found.path / "licenses",
        loader=packages["loader"],
        version=lock["version"],
        reused=found.reused,
    )


def install_glibc(target: str, folder: Path) -> None:
    """Copy the libraries to ``folder/glibc`` and their texts to ``folder/licenses``.

    Where there is no apt the package is made without, and that is said: it then needs the system's glibc.
    """
    try:
        shipped = shipped_glibc(target)
    except SourceError as error:
        sys.stderr.write(f"warning: the package gets no glibc/ for systems without glibc: {error}\n")
        return
    shutil.copytree(shipped.libraries, folder / "glibc")
    shutil.copytree(shipped.licenses, folder / "licenses", dirs_exist_ok=True)


def _read_lock() -> dict[str, Any]:
    try:
        return tomllib.loads(LOCK_FILE.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        message = f"the lock file {LOCK_FILE} does not hold: {error}"
        raise ConfigurationError(message) from error


def _fill(folder: Path, lock: Mapping[str, Any], packages: Mapping[str, Any]) -> None:
    contents: dict[str, bytes] = {}
    for path in _downloaded(lock["suite"], packages["architecture"], packages["files"]):
        contents |= _members(path)
    libraries = folder / "glibc"
    libraries.mkdir()
    for name in (packages["loader"], *_LIBRARIES):
        (libraries / name).write_bytes(_content(contents, f"lib/{packages['multiarch']}/{name}"))
        (libraries / name).chmod(0o755 if name == packages["loader"] else 0o644)
    _write_licenses(folder / "licenses", lock, contents)


def _content(contents: Mapping[str, bytes], name: str) -> bytes:
    if name not in contents:
        raise BuildError(f"{name} is in none of the packages that {LOCK_FILE.name} names")
    return contents[name]


def _downloaded(suite: str, architecture: str, files: Mapping[str, str]) -> list[Path]:
    from shell_tool_release.download import check  # noqa: PLC0415  (requests takes 0.1 s, a warm cache needs none of it)

    downloads = cache_root() / "downloads"
    places = {name: downloads / f"{sha256[:16]}-{name}" for name, sha256 in files.items()}
    with Lock(downloads / f"glibc-{architecture}.lock"):
        missing = [name for name, path in places.items() if not path.is_file() or file_sha256(path) != files[name]]
        if missing:
            with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache_root()) as scratch:
                names = [name.partition("_")[0] for name in missing]
                arrived = apt.download_packages(
                    names=names, suite=suite, architecture=architecture, scratch=Path(scratch)
                )
                for path in arrived:
                    check(path, files.get(path.name, "unknown"), f"Debian's {path.name}")
                    shutil.move(path, places[path.name])
    return list(places.values())


def _members(package: Path) -> dict[str, bytes]:
    """Regular files of a Debian package by their path (deb(5): an ar archive with a tar archive in it)."""
    data = package.read_bytes()
    at = len(_AR_MAGIC)
    while at + _AR_HEADER <= len(data):
        name, size = data[at : at + 16].rstrip(b" /"), int(data[at + 48 : at + 58])
        if name.startswith(b"data.tar"):
            return _files(data[at + _AR_HEADER : at + _AR_HEADER + size])
        at += _AR_HEADER + size + size % 2
    raise BuildError(f"{package.name} is no Debian package: it holds no data")


def _files(archive: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is not None:
                found[member.name.removeprefix("./")] = stream.read()
    return found


def _write_licenses(target: Path, lock: Mapping[str, Any], contents: Mapping[str, bytes]) -> None:
    """The copyright files of both, and the licences they name."""
    common = "usr/share/common-licenses"
    parts = (
        ("GNU C Library", lock["version"], "LGPL-2.1-or-later", "glibc", "libc6", "LGPL-2.1"),
        ("libgcc", lock["gcc_version"], "GPL-3.0-or-later WITH GCC-exception-3.1", "gcc-12", "gcc-12-base", "GPL-3"),
    )
    for name, version, words, source, package, text in parts:
        note = (
            f"in glibc/, for systems without one; unchanged, from Debian's package. Source: Debian's source package "
            f"{source}, version {version}. Put a changed one in its place to use it"
        )
        component = Component(name=name, version=version, license=words, note=note)
        texts = {
            "copyright": _content(contents, f"usr/share/doc/{package}/copyright"),
            text: _content(contents, f"{common}/{text}"),
            "SOURCE.md": source_offer(name, source, version, lock["suite"]).encode(),
        }
        write_component(target, component, texts)


def source_offer(name: str, package: str, version: str, suite: str) -> str:
    """Where the complete source of a library in ``glibc/`` is (LGPL-2.1, section 4; GPL-3, section 6)."""
    return f"""# The source of the {name} in this package

The files of it in `glibc/` are Debian's own, unchanged. Their complete corresponding source is Debian's source package
`{package}`, version `{version}` (of Debian's release {suite}): Debian hands it out, at no charge, beside the programs,
and keeps every version it ever had in its archive of snapshots:

    apt-get source {package}={version}

Who cannot get it there may ask for it through this project's page; it is sent for three years after the release that
the package is of, for no more than it costs to send. A changed library in the place of one in `glibc/` is used.
"""


def main() -> None:
    """Print where this platform's are."""
    sys.stdout.write(f"{shipped_glibc(host_platform()).libraries}\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
