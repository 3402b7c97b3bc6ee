"""The sessions: their names, what they say of themselves, and the chain that makes a release."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import venv
from typing import TYPE_CHECKING, Any

import pytest

from codex_shell_tool_mcp.server.excluded import EXCLUDED_MODULES
from shell_tool_release import environments, options
from shell_tool_release.variants import load_variants

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


def test_what_has_no_wheel_is_built_from_its_locked_source(
    checkout: Path, installs: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Intel Macs: one is built, with the locked tools alone; one, which nothing runs, is not installed."""
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    environs: list[dict[str, str]] = []

    def run(command: list[str], **named: Any) -> None:
        installs.append(command)
        environs.append(named["env"])

    monkeypatch.setattr(subprocess, "run", run)
    text = (checkout / "pyproject.toml").read_text() + f'{environments.BUILD_TOOLS} = ["tool"]\n'
    (checkout / "pyproject.toml").write_text(text + '[project]\ndependencies = ["mcp", "starlark-pyo3"]\n')
    locks = checkout / environments.LOCKS
    locks.mkdir()
    (locks / "project.txt").write_text(
        "anyio==4 --hash=sha256:0\n"
        "cryptography==50.0.2 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\n"
        "mcp==2 --hash=sha256:3\nstarlark-pyo3==2026.1 \\\n    --hash=sha256:4\n"
    )
    (locks / f"{environments.BUILD_TOOLS}.txt").write_text("tool==1 --hash=sha256:5\n")
    folder = environments.ensure(checkout, "work", (environments.PROJECT, "some")).parents[1]
    tools, project, some = installs
    wheels_only = ["--only-binary", ":all:"]
    kept = folder / "project.txt"
    assert tools[-5:] == [*wheels_only, "--require-hashes", "--requirement", str(locks / "from-source.txt")]
    assert project[-9:] == [
        *wheels_only,
        *("--no-binary", "starlark-pyo3", "--no-build-isolation"),
        *("--no-deps", "--require-hashes", "--requirement", str(kept)),
    ]
    assert kept.read_text() == (
        "anyio==4 --hash=sha256:0\nmcp==2 --hash=sha256:3\nstarlark-pyo3==2026.1 \\\n    --hash=sha256:4\n"
    )
    assert "--no-binary" not in some
    assert ["MATURIN_PEP517_ARGS" in environ for environ in environs] == [False, True, False]
    assert environs[1]["MATURIN_PEP517_ARGS"] == "--locked"
    assert environs[1]["MACOSX_DEPLOYMENT_TARGET"] == environments.MACOS_FLOOR


def test_the_exceptions_are_dependencies_of_the_project(workspace: Workspace) -> None:
    """What is built has its source archive's hash in the lock; what is left out is not part of the frozen server."""
    lock = (workspace.root / environments.LOCKS / "project.txt").read_text()
    locked = {line.partition("==")[0] for line in lock.splitlines() if "==" in line}
    for names in environments.FROM_SOURCE.values():
        assert set(names) <= locked
    for names in environments.LEFT_OUT.values():
        assert set(names) <= locked & set(EXCLUDED_MODULES)
    baselines = {variant.baseline for variant in load_variants(workspace.variants_file) if variant.libc == "macos"}
    assert baselines == {environments.MACOS_FLOOR}


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
