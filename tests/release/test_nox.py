"""The sessions: their names, what they say of themselves, and the chain that makes a release."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import venv
from typing import TYPE_CHECKING, Any

import pytest

from shell_tool_release import environments, options

if TYPE_CHECKING:
    from pathlib import Path

    from shell_tool_release.workspace import Workspace

CHAIN = ["patch", "shells", "native", "freeze", "vendor", "pack", "smoke", "release"]
NAMES = {
    *CHAIN,
    "tests",
    "slow",
    "lint",
    "suite",
    "matrix",
    "suite_zsh",
    "stock",
    "bench",
    "fuzz",
    "soak",
    "roots",
    "fresh",
    "wheels",
    "cibuildwheel",
    "evidence",
    "published",
    "reproducible",
    "refresh",
    "try_wheel",
    "publish_check",
    "installs",
    "docs",
    "version",
    "handover",
    "assemble",
    "try_package",
    "offer",
    "workflows",
}


@pytest.fixture(scope="module")
def sessions() -> dict[str, Any]:
    """Each session's function by name, as nox sees them."""
    from nox.registry import _REGISTRY  # noqa: PLC0415

    root = environments.__file__.rsplit("/src/", 1)[0]
    spec = importlib.util.spec_from_file_location("noxfile_of_the_project", f"{root}/noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    _REGISTRY.clear()
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    found = dict(_REGISTRY)
    _REGISTRY.clear()
    return found


def test_names(sessions: dict[str, Any]) -> None:
    assert set(sessions) == NAMES


def test_each_explains_itself(workspace: Workspace) -> None:
    """In ``nox -l``, in one line that is more than its name."""
    command = [sys.executable, "-m", "nox", "--noxfile", str(workspace.root / "noxfile.py"), "--list", "--json"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ)).stdout
    for session in json.loads(said):
        assert len(session["description"].split()) > 4, session["name"]


def _order(sessions: dict[str, Any], name: str) -> list[str]:
    before = [step for need in sessions[name].requires for step in _order(sessions, need)]
    return list(dict.fromkeys([*before, name]))


def test_release_is_the_whole_chain(sessions: dict[str, Any]) -> None:
    assert _order(sessions, "release") == CHAIN


def test_sessions_are_a_few_lines(workspace: Workspace) -> None:
    text = (workspace.root / "noxfile.py").read_text()
    for body in re.split(r"^@nox\.session.*\n", text, flags=re.MULTILINE)[1:]:
        assert len(body.strip().splitlines()) <= 10


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one group of requirements."""
    (tmp_path / "packaging").mkdir()
    (tmp_path / environments.CONSTRAINTS).write_text("# nothing\n")
    (tmp_path / "pyproject.toml").write_text('[dependency-groups]\nsome = ["thing>=1"]\n')
    return tmp_path


@pytest.fixture
def installs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """pip's command lines; pip itself is not run, nor installed into the environments, which takes seconds each."""
    commands: list[list[str]] = []
    bare = functools.partial(venv.EnvBuilder, with_pip=False, clear=True, symlinks=True)
    monkeypatch.setattr(venv, "EnvBuilder", lambda **_: bare())
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command))
    return commands


def test_an_environment_is_made_and_filled_once(checkout: Path, installs: list[list[str]]) -> None:
    python = environments.ensure(checkout, "work", ("some",))
    assert len(installs) == 1
    assert installs[0][:4] == [str(python), "-m", "pip", "install"]
    assert installs[0][-5:] == [
        *("--only-binary", ":all:", "--constraint", str(checkout / environments.CONSTRAINTS)),
        "thing>=1",
    ]
    stray = python.parents[1] / "stray"
    stray.touch()
    assert environments.ensure(checkout, "work", ("some",)) == python
    assert len(installs) == 1
    assert stray.exists()


def test_a_locked_group_is_installed_by_its_hashes(checkout: Path, installs: list[list[str]]) -> None:
    lock = checkout / environments.LOCKS / "some.txt"
    lock.parent.mkdir()
    lock.write_text("thing==1 --hash=sha256:0\n")
    environments.ensure(checkout, "work", ("some",))
    assert installs[0][-5:] == ["--only-binary", ":all:", "--require-hashes", "--requirement", str(lock)]
    lock.write_text("thing==1 --hash=sha256:1\n")
    environments.ensure(checkout, "work", ("some",))
    assert len(installs) == 2


@pytest.mark.parametrize("file", [str(environments.CONSTRAINTS), "pyproject.toml"])
def test_changed_versions_are_installed(checkout: Path, installs: list[list[str]], file: str) -> None:
    environments.ensure(checkout, "work", ("some",))
    text = (checkout / file).read_text()
    (checkout / file).write_text(text.replace("thing>=1", "thing>=2").replace("nothing", "thing==2"))
    environments.ensure(checkout, "work", ("some",))
    assert len(installs) == 2


def test_another_python_makes_it_anew(checkout: Path, installs: list[list[str]]) -> None:
    folder = environments.ensure(checkout, "work", ("some",)).parents[1]
    stray = folder / "stray"
    stray.touch()
    (folder / "made-with").write_text("another one")
    environments.ensure(checkout, "work", ("some",))
    assert not stray.exists()
    assert len(installs) == 2


def test_a_failed_installation_is_tried_again(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = functools.partial(venv.EnvBuilder, with_pip=False)
    monkeypatch.setattr(venv, "EnvBuilder", lambda **_: bare())  # so pip cannot work
    for _ in range(2):
        with pytest.raises(subprocess.CalledProcessError):
            environments.ensure(checkout, "work", ("some",))


def test_words_of_a_line_that_builds_first_reach_who_they_are_for() -> None:
    words = ["--only", "run", "--target", "all", "--keep-going", "--rounds", "5"]
    assert options.split(words) == (["--target", "all", "--keep-going"], ["--only", "run", "--rounds", "5"])
    assert options.split([]) == ([], [])
