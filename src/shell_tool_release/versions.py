"""The rules of versions and tags: what a tag releases, under which npm tag, and whether it is published at all.

API::

    npm_version("1.2.3a4") -> "1.2.3-alpha.4", python_version the other way
    decide(release_version, release_tag, project) -> Decision     ConfigurationError
    python -m shell_tool_release.versions                         RELEASE_VERSION, RELEASE_TAG → GITHUB_OUTPUT

::

    X.Y.Z           published as latest
    X.Y.Z-alpha.N   published as alpha
    X.Y.Z-beta.N, X.Y.Z-rc.N        built, and a prerelease on GitHub, but not published

The tag is ``v`` and the version, and the version is the project's own, or nothing is built.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from shell_tool_release.errors import ConfigurationError, run_main
from shell_tool_release.publish import npm_tag
from shell_tool_release.workspace import find_workspace

# Python's words for what a version comes before, and npm's.
_KINDS = {"a": "alpha", "b": "beta", "rc": "rc"}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is released; ``npm_tag`` is None for a version that is not published."""

    version: str
    release_tag: str
    npm_tag: str | None

    def outputs(self) -> str:
        """One ``name=value`` a line, as GITHUB_OUTPUT wants it; no value can hold a newline."""
        values = {
            "version": self.version,
            "release-tag": self.release_tag,
            "npm-tag": self.npm_tag or "",
            "should-publish": str(self.npm_tag is not None).lower(),
            "prerelease": str("-" in self.version).lower(),
        }
        return "".join(f"{name}={value}\n" for name, value in values.items())


def npm_version(version: str) -> str:
    """Turn Python's version into npm's: ``1.2.3a4`` is ``1.2.3-alpha.4``; ConfigurationError for another form.

    ``b`` and ``rc`` are ``beta`` and ``rc``: built and offered as a prerelease, but not published (``versions.py``).
    """
    found = re.fullmatch(r"([0-9]+\.[0-9]+\.[0-9]+)(?:(a|b|rc)([0-9]+))?", version)
    if found is None:
        message = f"version {version!r} is neither X.Y.Z nor X.Y.ZaN (or bN, rcN); change it in pyproject.toml"
        raise ConfigurationError(message)
    return found[1] if found[2] is None else f"{found[1]}-{_KINDS[found[2]]}.{found[3]}"


def python_version(version: str) -> str:
    """Turn npm's version into Python's: ``1.2.3-alpha.4`` is ``1.2.3a4``; ConfigurationError for another form."""
    letters = {word: letter for letter, word in _KINDS.items()}
    found = re.fullmatch(rf"([0-9]+\.[0-9]+\.[0-9]+)(?:-({'|'.join(letters)})\.([0-9]+))?", version)
    if found is None:
        message = f"version {version!r} is neither X.Y.Z nor X.Y.Z-alpha.N (or -beta.N, -rc.N)"
        raise ConfigurationError(message)
    return found[1] if found[2] is None else f"{found[1]}{letters[found[2]]}{found[3]}"


def decide(release_version: str, release_tag: str, project: str) -> Decision:
    """Decide from the inputs of a release (each may be empty) and the version in ``pyproject.toml``.

    Raises:
        ConfigurationError: The tag, the version and the project do not name the same version, each in its own form.
    """
    own = npm_version(project)
    version = release_version or (release_tag.removeprefix("v") if release_tag else own)
    tag = release_tag or f"v{version}"
    if version != own:
        message = (
            f"the release is {version!r}, but the project is {own} ({project} in pyproject.toml); move the tag to the "
            "commit that has the version, or tag that version"
        )
        raise ConfigurationError(message)
    if tag != f"v{own}":
        message = f"the tag is {tag!r}, but the version is {own}; its tag is v{own}"
        raise ConfigurationError(message)
    return Decision(version=version, release_tag=tag, npm_tag=npm_tag(version))


def main() -> None:
    """Decide from the variables ``RELEASE_VERSION`` and ``RELEASE_TAG``, for the workflow and for a reader."""
    workspace = find_workspace()
    given = os.environ.get("RELEASE_VERSION", ""), os.environ.get("RELEASE_TAG", "")
    lines = decide(*given, workspace.version).outputs()
    sys.stdout.write(lines)
    if os.environ.get("GITHUB_OUTPUT"):
        with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as stream:
            stream.write(lines)


if __name__ == "__main__":
    sys.exit(run_main(main))
