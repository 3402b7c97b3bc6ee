"""Debian packages, source and binary, by apt in a private state folder: no root, and nothing on the system changes.

API::

    download_source(package=, suites=, wanted=, scratch=) -> SourcePackage
    newest_source(package=, suites=, scratch=, download=) -> Newest
    download_packages(names=, suite=, architecture=, scratch=) -> list[Path]
    own_packages(names=, scratch=) -> list[Path]

Debian's hosts come from apt's own configuration. Whoever calls checks the hashes of what comes back.
Recipe: apt.conf(5) (Dir::State, Dir::Cache, Dir::Etc), sources.list(5) (deb822), apt-get(8) (--print-uris).

Signatures: the suite's index is verified with the Debian archive keyring of this machine. An old system may not know
the newest key yet, and then apt refuses the index. The second attempt reads it unverified. That is safe here, and only
here: from the index comes nothing but file names; the archive that is used has a hash locked in this project, and the
sources it gives another one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shell_tool_release.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_SECONDS = 240.0
_BASE = re.compile(r"^'(\S*/debian/)dists/[^']*/InRelease'", re.MULTILINE)
_LISTED = re.compile(r"^'[^']*' (\S+) \d+ SHA256:([0-9a-f]{64})", re.MULTILINE)
_KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
)


@dataclass(frozen=True, kw_only=True)
class SourcePackage:
    """The upstream archive and Debian's own, both as downloaded; ``patches`` None when they were not wanted."""

    archive: Path
    patches: Path | None
    suite: str


@dataclass(frozen=True, kw_only=True)
class _Apt:
    """apt with everything it writes below ``folder``."""

    folder: Path

    @property
    def downloads(self) -> Path:
        return self.folder / "dl"

    def run(self, *arguments: str) -> str:
        environ = dict(os.environ) | {"APT_CONFIG": str(self.folder / "apt.conf"), "LC_ALL": "C"}
        try:
            done = subprocess.run(
                ["apt-get", *arguments],
                cwd=self.downloads,
                env=environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
                encoding="utf-8",
                errors="replace",
            )
        except FileNotFoundError as error:
            message = "apt-get is not on this machine"
            raise SourceError(message) from error
        except subprocess.TimeoutExpired as error:
            message = f"apt-get {arguments[0]} took more than {_SECONDS:g} s"
            raise SourceError(message) from error
        if done.returncode != 0:
            message = f"apt-get {' '.join(arguments)} failed: {_reason(done.stderr)}"
            raise SourceError(message)
        return done.stdout

    def configure(self, *lines: str) -> None:
        """Write apt.conf; ``lines`` follow what is always there."""
        here = self.folder
        text = [
            f'Dir::State "{here}";',
            f'Dir::State::Lists "{here}/lists";',
            f'Dir::State::status "{here}/status";',
            f'Dir::Cache "{here}/cache";',
            # apt as root would drop to a user who cannot write here; for an ordinary user this has no effect
            'APT::Sandbox::User "root";',
            'Acquire::Languages "none";',
            'Acquire::Retries "3";',
            'Acquire::http::Timeout "10";',
            'Acquire::https::Timeout "10";',
            *lines,
        ]
        (here / "apt.conf").write_text("\n".join(text) + "\n", encoding="utf-8")


def _reason(stderr: str) -> str:
    marked = [line for line in stderr.splitlines() if line.startswith(("E:", "W:", "Err:"))]
    return (marked or stderr.strip().splitlines() or ["no message"])[0]


def download_source(
    *, package: str, suites: Sequence[str], wanted: Mapping[str, str], scratch: Path, patches: bool = True
) -> SourcePackage:
    """Download ``package`` from the first suite whose upstream archive is in ``wanted`` (name → SHA-256).

    Without ``patches`` Debian's own archive is not downloaded.

    SourceError says, per suite, why nothing came of it.
    """
    if shutil.which("apt-get") is None:
        message = "apt-get is not on this machine"
        raise SourceError(message)
    apt = _prepare(scratch)
    bases = _bases(apt)
    reasons: list[str] = []
    for base in bases:
        for suite in suites:
            try:
                archive, others = _in_suite(apt, base, suite, package, wanted, patches=patches)
            except SourceError as error:
                reasons.append(f"{suite}: {error}")
            else:
                return SourcePackage(archive=archive, patches=others, suite=suite)
    raise SourceError("; ".join(dict.fromkeys(reasons)))


@dataclass(frozen=True, kw_only=True)
class Newest:
    """A source package as an index lists it: file → SHA-256; ``files`` are the downloaded ones."""

    suite: str
    listed: Mapping[str, str]
    files: tuple[Path, ...]


def newest_source(*, package: str, suites: Sequence[str], scratch: Path, download: bool) -> Newest:
    """What the first suite that has ``package`` lists of it; SourceError says, per suite, why nothing came of it.

    What is listed may be locked, so only an index that this machine's keyring verifies counts.
    """
    if shutil.which("apt-get") is None:
        message = "apt-get is not on this machine"
        raise SourceError(message)
    apt = _prepare(scratch)
    reasons: list[str] = []
    for base in _bases(apt):
        for suite in suites:
            try:
                _read_index(apt, base, suite, None, verified=True)
                listed = dict(_LISTED.findall(apt.run("source", "--print-uris", package)))
                if download:
                    apt.run("source", "--download-only", "--tar-only", package)
                    apt.run("source", "--download-only", "--diff-only", package)
            except SourceError as error:
                reasons.append(f"{suite}: {error}")
                continue
            return Newest(suite=suite, listed=listed, files=tuple(sorted(apt.downloads.glob(f"{package}_*"))))
    raise SourceError("; ".join(dict.fromkeys(reasons)))


def download_packages(*, names: Sequence[str], suite: str, architecture: str, scratch: Path) -> list[Path]:
    """Download binary packages of any Debian architecture (``amd64``, ``arm64``); SourceError says why not."""
    if shutil.which("apt-get") is None:
        message = "apt-get is not on this machine"
        raise SourceError(message)
    apt = _prepare(scratch)
    reasons: list[str] = []
    for base in _bases(apt):
        try:
            _update(apt, base, suite, architecture)
            apt.run("download", *names)
        except SourceError as error:
            reasons.append(str(error))
        else:
            return sorted(apt.downloads.glob("*.deb"))
    raise SourceError("; ".join(dict.fromkeys(reasons)))


def own_packages(*, names: Sequence[str], scratch: Path) -> list[Path]:
    """Download packages as this machine would install them, from its own sources and verified as they say.

    SourceError says why not.
    """
    if shutil.which("apt-get") is None:
        message = "apt-get is not on this machine"
        raise SourceError(message)
    apt = _prepare(scratch)
    apt.run("update", "-o", "APT::Update::Error-Mode=any")
    apt.run("download", *names)
    return sorted(apt.downloads.glob("*.deb"))


def _prepare(folder: Path) -> _Apt:
    for name in ("lists/partial", "cache/archives/partial", "parts", "dl"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    apt = _Apt(folder=folder)
    apt.configure()
    return apt


def _bases(apt: _Apt) -> tuple[str, ...]:
    """Base addresses of the Debian archives this machine is configured with."""
    bases = tuple(dict.fromkeys(_BASE.findall(apt.run("update", "--print-uris"))))
    if not bases:
        message = "apt is configured with no Debian archive"
        raise SourceError(message)
    return bases


def _in_suite(
    apt: _Apt, base: str, suite: str, package: str, wanted: Mapping[str, str], *, patches: bool
) -> tuple[Path, Path | None]:
    _update(apt, base, suite)
    listed = dict(_LISTED.findall(apt.run("source", "--print-uris", package)))
    archive = next((name for name, sha256 in listed.items() if wanted.get(name) == sha256), None)
    if archive is None:
        message = f"its {_upstream(listed)} is not locked"
        raise SourceError(message)
    apt.run("source", "--download-only", "--tar-only", package)
    if not patches:
        return _arrived(apt.downloads / archive), None
    others = next((name for name in listed if ".debian.tar." in name), None)
    if others is None:
        message = f"no archive of patches beside {archive}"
        raise SourceError(message)
    apt.run("source", "--download-only", "--diff-only", package)
    return _arrived(apt.downloads / archive), _arrived(apt.downloads / others)


def _upstream(names: Iterable[str]) -> str:
    return next((name for name in names if ".orig.tar." in name), "upstream archive")


def _arrived(path: Path) -> Path:
    if not path.is_file():
        message = f"apt said it downloaded {path.name}, but it is not there"
        raise SourceError(message)
    return path


def _update(apt: _Apt, base: str, suite: str, architecture: str | None = None) -> None:
    """Read the suite's index, of sources or of an architecture's packages; verified if this machine's keyring can."""
    try:
        _read_index(apt, base, suite, architecture, verified=True)
    except SourceError:
        _read_index(apt, base, suite, architecture, verified=False)


def _read_index(apt: _Apt, base: str, suite: str, architecture: str | None, *, verified: bool) -> None:
    keyring = next((path for path in _KEYRINGS if path.is_file()), None)
    signed = [f"Signed-By: {keyring}"] if verified and keyring else []
    unverified = [] if verified else ["Trusted: yes"]
    kind = ["Types: deb", f"Architectures: {architecture}"] if architecture else ["Types: deb-src"]
    source = [*kind, f"URIs: {base}", f"Suites: {suite}", "Components: main", *signed, *unverified]
    (apt.folder / "parts" / "private.sources").write_text("\n".join(source) + "\n", encoding="utf-8")
    other = [f'APT::Architecture "{architecture}";', f'APT::Architectures {{ "{architecture}"; }};']
    apt.configure(
        'Dir::Etc::SourceList "/dev/null";',
        f'Dir::Etc::SourceParts "{apt.folder}/parts";',
        'APT::Update::Error-Mode "any";',  # else a suite that cannot be read is only a warning
        *(other if architecture else ()),
    )
    apt.run("update")
