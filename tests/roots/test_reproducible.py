"""The second of two builds is in another system."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from release.conftest import cannot
from release.test_reproducible import STEADY, checkout_that_runs
from shell_tool_release import builds, reproducible, roots
from shell_tool_release.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.roots, pytest.mark.timeout(1800)]  # a system is made first, by debootstrap

DEPENDS = {
    "the system": "cat /etc/debian_version",
    "the user": "id -un",
    "the folder": "pwd",
    "the umask": "umask",
    "the processors": "nproc",
    "the Python": "python3 --version",
    "what else is there": "ls /",
}


@pytest.fixture
def suite() -> str:
    """The system."""
    found, reason = builds.another_system()
    if reason:
        cannot(reason)
    return found


def _twice(root: Path, scratch: Path, script: str, suite: str) -> tuple[reproducible.Artefact, ...]:
    scratch.mkdir()
    clone = builds.Clone.of(checkout_that_runs(root, script))
    return reproducible.two_builds(clone, scratch, builds.circumstances(None, suite))


def test_the_same_in_both(tmp_path: Path, suite: str) -> None:
    (made,) = _twice(tmp_path / "checkout", tmp_path / "scratch", STEADY, suite)
    assert (made.name, made.size) == ("artefact", 9)


@pytest.mark.parametrize("what", DEPENDS)
def test_what_depends_on_the_system_is_named(what: str, tmp_path: Path, suite: str) -> None:
    script = f"{STEADY}; ({DEPENDS[what]}) >> dist/npm/artefact"
    with pytest.raises(BuildError, match=r"1 of 1 artefacts are not the same:\n  artefact: line \d is"):
        _twice(tmp_path / "checkout", tmp_path / "scratch", script, suite)


def test_a_build_that_fails_there_shows_its_log(tmp_path: Path, suite: str) -> None:
    script = f"test $(id -un) != {roots.USER} || {{ echo no such luck; exit 3; }}; {STEADY}"
    with pytest.raises(BuildError, match=r"the second build ended with status 3; log: .*second\.log\nno such luck"):
        _twice(tmp_path / "checkout", tmp_path / "scratch", script, suite)
