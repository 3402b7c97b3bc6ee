"""Compares what npm and the Python index hand out with the files of a release, without fetching or running any.

API::

    compare(folder, npm, index) -> list[str]        what was found the same; BuildError names what is not
    index_hashes(version) -> set[str] | None        SHA-256 of all files the Python index has of a version

``folder`` is what the release page has. Who installs gets the registries' bytes: they must be the attested ones, all
of them, and nothing beside them.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from shell_tool_release import publish
from shell_tool_release.errors import BuildError, PrerequisiteError, SourceError, run_main
from shell_tool_release.reproducible import artefacts, check_sums
from shell_tool_release.versions import python_version

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_Answer = TypeVar("_Answer")

PATIENCE = 900.0
"""Seconds until a version that was just published must be shown."""

PAUSE = 20.0
_SECONDS = 180.0
_NOT_THERE = ("there is no version of", "was not found in the package registry")
"""What uv says of a version that the index does not have."""

_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_PACKAGE = re.compile(rf"{re.escape(publish.NAME)}-npm-(.+)\.tgz")


def compare(
    folder: Path,
    npm: Callable[[str], str | None],
    index: Callable[[str], set[str] | None],
    patience: float = PATIENCE,
) -> list[str]:
    """Return what is the same.

    Args:
        folder: The files of the release page.
        npm: Version → what npm says of its bytes (Subresource Integrity), or None if it has no such version.
        index: Version in Python's form → SHA-256 of each file the index has, or None.
        patience: Seconds that a registry may take to show the version.

    Raises:
        BuildError: A registry has other bytes, lacks a file or has one more; or the folder is not what its sums say.
    """
    files = artefacts(folder)
    check_sums(files)
    packages = [(match[1], files[name]) for name in files if (match := _PACKAGE.fullmatch(name))]
    if len(packages) != 1:
        raise BuildError(f"{folder} holds {len(packages)} npm packages, not one; is it the files of a release?")
    version, package = packages[0]
    if publish.npm_tag(version) is None:
        return [f"{version} is of a form that is not published"]
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    there = _shown(f"npm has no {publish.NAME}@{version}", lambda: npm(version), patience)
    if there != integrity:
        raise BuildError(f"npm has other bytes of {publish.NAME}@{version}: {there}, released were {integrity}")
    wanted = {_sha256(path): name for name, path in files.items() if name.endswith((".whl", ".tar.gz"))}
    form = python_version(version)
    hashes = _shown(f"the Python index has no {publish.NAME} {form}", lambda: index(form), patience)
    if hashes != wanted.keys():
        missing = [f"{wanted[sha256]} is not there" for sha256 in sorted(wanted.keys() - hashes)]
        more = [f"a file with SHA-256 {sha256} is in no release" for sha256 in sorted(hashes - wanted.keys())]
        raise BuildError(f"the Python index has other files of {form}: {'; '.join([*missing, *more])}")
    return [f"npm: {package.name}", *(f"Python index: {name}" for name in sorted(wanted.values()))]


def _shown(missing: str, ask: Callable[[], _Answer | None], patience: float) -> _Answer:
    deadline = time.monotonic() + patience
    while (answer := ask()) is None:
        if time.monotonic() > deadline:
            raise BuildError(f"{missing}, after {patience:g} s")
        time.sleep(min(PAUSE, patience))
    return answer


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def index_hashes(version: str) -> set[str] | None:
    """Return the SHA-256 of each file the Python index has of ``version``, or None if it has no such version.

    Raises:
        PrerequisiteError: uv is not here.
        SourceError: The index could not be asked; uv says why.
    """
    program = Path(sysconfig.get_path("scripts")) / "uv"
    if not program.is_file():
        raise PrerequisiteError(f"uv is not beside {sys.executable}; run: ./run published, which installs it")
    with tempfile.TemporaryDirectory(prefix="index-") as cache:  # what an earlier run saw may be older
        options = ["--no-deps", "--generate-hashes", "--no-header", "--no-annotate", "--quiet", "--cache-dir", cache]
        done = subprocess.run(
            [str(program), "pip", "compile", "--universal", "--python-version", "3.11", *options, "-"],
            input=f"{publish.NAME}=={version}\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
    if done.returncode == 0:
        return set(_HASH.findall(done.stdout))
    if any(words in done.stderr for words in _NOT_THERE):
        return None
    raise SourceError(f"the Python index does not say what it has of {version}: {done.stderr.strip()[-1000:]}")


def main(argv: Sequence[str] | None = None) -> None:
    """Compare the files in a folder with what the registries have."""
    parser = argparse.ArgumentParser(
        prog="python -m shell_tool_release.published", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", type=Path, help="the files of a release, as its page has them")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds until it is shown (%(default)s)")
    arguments = parser.parse_args(argv)
    npm = publish.Npm(publish.Timing(), os.environ)
    try:
        same = compare(arguments.folder, npm.integrity, index_hashes, arguments.patience)
    except publish.PublishError as error:
        raise SourceError(str(error)) from error
    sys.stdout.writelines(f"{line}\n" for line in same)


if __name__ == "__main__":
    sys.exit(run_main(main))
