#!/usr/bin/env python3
"""Makes the release on GitHub in two steps: a draft with all files before anything is published, visible after it.

Like ``publish.py`` one file of the standard library that runs where there is no checkout; it talks to GitHub by ``gh``.
Both steps can be run as often as one likes: they look at what is there, and do what is left to do.

API::

    draft(release, gh) -> str           a draft that holds exactly these files; RefusedError, GitHubError
    undraft(release, gh) -> str         the draft, still with exactly these files, becomes visible

::

    python3 github_release.py draft|undraft v1.2.3 FOLDER --sums-sha256 HEX [--notes FILE] [--prerelease]

FOLDER holds the files and their SHA256SUMS, whose own hash the build job told. Exit status: 0 done, 2 wrong options,
3 refused (running it again cannot help), 4 GitHub failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SUMS = "SHA256SUMS"
ATTEMPTS = 3
SECONDS = 900.0
"""For one command of ``gh``: 150 MB over a slow line."""

_TAG = re.compile(r"v[0-9]+\.[0-9]+\.[0-9]+(?:-(?:alpha|beta|rc)\.[0-9]+)?")
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._+-]*)")


class ReleaseError(Exception):
    """Base; the text says what is wrong and what to do."""

    exit_code: ClassVar[int] = 1


class RefusedError(ReleaseError):
    """This must not be released; running it again cannot help."""

    exit_code = 3


class GitHubError(ReleaseError):
    """GitHub or ``gh`` failed; running it again may help and is safe."""

    exit_code = 4


@dataclass(frozen=True, kw_only=True)
class Release:
    """What is to be on GitHub; ``files`` is name → SHA-256 and includes ``SHA256SUMS`` itself."""

    tag: str
    folder: Path
    files: Mapping[str, str]
    prerelease: bool
    notes: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What GitHub has under the tag; ``files`` is name → SHA-256."""

    draft: bool
    files: Mapping[str, str]


def say(text: str) -> None:
    """One line for the log, at once."""
    print(f"release: {text}", flush=True)


def checked_files(folder: Path, sums_sha256: str) -> dict[str, str]:
    """Return name → SHA-256 of the files in ``folder``, which are exactly those of a ``SHA256SUMS`` with that hash."""
    try:
        sums = (folder / SUMS).read_bytes()
    except OSError as error:
        raise RefusedError(
            f"{folder / SUMS} cannot be read ({error.strerror}); was the artefact downloaded?"
        ) from error
    if hashlib.sha256(sums).hexdigest() != sums_sha256:
        raise RefusedError(f"{SUMS} is not what the build job made")
    lines = [_LINE.fullmatch(line) for line in sums.decode().splitlines()]
    wanted = {line[2]: line[1] for line in lines if line}
    if len(wanted) != len(lines) or not wanted:
        raise RefusedError(f"{SUMS} has lines that are not a hash and a name")
    found = {path.name: _sha256(path) for path in folder.iterdir() if path.name != SUMS}
    if found != wanted:
        raise RefusedError(f"what is in {folder} is not what {SUMS} lists: {_difference(found, wanted)}")
    return {**wanted, SUMS: sums_sha256}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _difference(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """The names that differ, with how."""
    texts = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    texts += [f"{name} does not belong" for name in sorted(found.keys() - wanted.keys())]
    texts += [f"{name} has other bytes" for name in sorted(found.keys() & wanted.keys()) if found[name] != wanted[name]]
    return ", ".join(texts)


class GitHub:
    """``gh``, with the repository and the token of the job's environment."""

    def __init__(self, pause: float = 10.0) -> None:
        self._pause = pause

    def look(self, tag: str) -> Seen | None:
        """What is under ``tag``, with the hashes of its files as GitHub serves them."""
        text = self._run(["release", "view", tag, "--json", "isDraft,assets"], absent="release not found")
        if text is None:
            return None
        document: dict[str, Any] = json.loads(text)
        with tempfile.TemporaryDirectory() as folder:
            if document["assets"]:
                self._run(["release", "download", tag, "--dir", folder, "--clobber"])
            files = {path.name: _sha256(path) for path in Path(folder).iterdir()}
        return Seen(draft=bool(document["isDraft"]), files=files)

    def create(self, release: Release) -> None:
        """Make an empty draft; the tag must be there."""
        notes = ["--notes-file", str(release.notes)] if release.notes else ["--notes", ""]
        kind = ["--prerelease"] if release.prerelease else []
        command = ["release", "create", release.tag, "--draft", "--verify-tag", "--title", release.tag]
        self._run([*command, *notes, *kind], attempts=1)

    def upload(self, tag: str, path: Path) -> None:
        """Put one file into the release, in place of one of that name."""
        self._run(["release", "upload", tag, str(path), "--clobber"])

    def remove(self, tag: str, name: str) -> None:
        """Take one file out of the release."""
        self._run(["release", "delete-asset", tag, name, "--yes"], absent="not found")

    def show(self, release: Release) -> None:
        """Make the draft visible."""
        kind = ["--prerelease"] if release.prerelease else ["--prerelease=false", "--latest"]
        self._run(["release", "edit", release.tag, "--draft=false", *kind])

    def _run(self, arguments: Sequence[str], absent: str = "", attempts: int = ATTEMPTS) -> str | None:
        """Run ``gh``; None when it says ``absent``, GitHubError when it fails time and again."""
        said = ""
        for attempt in range(1, attempts + 1):
            try:
                done = subprocess.run(
                    ["gh", *arguments],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    encoding="utf-8",
                    errors="replace",
                    timeout=SECONDS,
                    check=False,
                )
            except FileNotFoundError as error:
                raise GitHubError("gh is not on this machine; GitHub's runners have it") from error
            except subprocess.TimeoutExpired:
                said = f"no end after {SECONDS:g} s"
            else:
                if done.returncode == 0:
                    return done.stdout
                said = done.stderr.strip()
                if absent and absent in said:
                    return None
            say(f"gh {arguments[0]} {arguments[1]}: {said} (attempt {attempt} of {attempts})")
            time.sleep(self._pause if attempt < attempts else 0)
        raise GitHubError(f"gh {arguments[0]} {arguments[1]} failed: {said}; running this again is safe")


def draft(release: Release, gh: GitHub) -> str:
    """Make the draft, or bring the one that is there up to date.

    Raises:
        RefusedError: The release is visible already and holds other files.
        GitHubError: GitHub failed, or does not hold what was sent.
    """
    seen = gh.look(release.tag)
    if seen is not None and not seen.draft:
        if seen.files != release.files:
            difference = _difference(seen.files, release.files)
            raise RefusedError(f"{release.tag} is released with other files ({difference}); release a new version")
        return f"{release.tag} is released with exactly these files; nothing to do"
    if seen is None:
        gh.create(release)
        seen = Seen(draft=True, files={})
    for name in sorted(seen.files.keys() - release.files.keys()):
        gh.remove(release.tag, name)
    for name in sorted(release.files):
        if seen.files.get(name) != release.files[name]:
            gh.upload(release.tag, release.folder / name)
    _hold(release, gh)
    return f"{release.tag} is a draft with {len(release.files)} files"


def _hold(release: Release, gh: GitHub) -> bool:
    """Whether the release is a draft still; GitHubError unless it holds exactly its files."""
    seen = gh.look(release.tag)
    if seen is None:
        raise GitHubError(f"there is no release {release.tag}; run the job that drafts it again")
    if seen.files != release.files:
        difference = _difference(seen.files, release.files)
        raise GitHubError(
            f"{release.tag} does not hold what was built ({difference}); run the job that drafts it again"
        )
    return seen.draft


def undraft(release: Release, gh: GitHub) -> str:
    """Make the draft visible, if it still holds exactly its files."""
    if not _hold(release, gh):
        return f"{release.tag} is visible already; nothing to do"
    gh.show(release)
    if _hold(release, gh):
        raise GitHubError(f"{release.tag} is a draft still; run this again")
    return f"{release.tag} is released"


def main(argv: Sequence[str] | None = None) -> int:
    """Do one of the two steps; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("draft", "undraft"))
    parser.add_argument("tag")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sums-sha256", required=True, help=f"what the build job said of {SUMS}")
    parser.add_argument("--notes", type=Path, help="a file with the text of the release")
    parser.add_argument("--prerelease", action=argparse.BooleanOptionalAction, default=False)
    options = parser.parse_args(argv)
    try:
        if not _TAG.fullmatch(options.tag):
            raise RefusedError(f"{options.tag!r} is no tag of a release")
        release = Release(
            tag=options.tag,
            folder=options.folder,
            files=checked_files(options.folder, options.sums_sha256),
            prerelease=options.prerelease,
            notes=options.notes,
        )
        say((draft if options.step == "draft" else undraft)(release, GitHub()))
    except ReleaseError as error:
        sys.stdout.flush()
        print(f"release: error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
