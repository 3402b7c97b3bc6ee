"""The preflight: everything that is missing at once, before anything is installed, on too old a Python as well."""

from __future__ import annotations

import ast
import builtins
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from shell_tool_release import bootstrap, cache, preflight

if TYPE_CHECKING:
    from shell_tool_release.workspace import Workspace

OLD_PYTHON_FILES = ("preflight.py", "bootstrap.py", "__init__.py")


@pytest.fixture
def nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has nothing at all."""
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **named: Any) -> Any:
        if name in {"venv", "ensurepip"}:
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    answers = {"Py_ENABLE_SHARED": 1, "INSTSONAME": "libpython.so", "LIBDIR": "/nowhere", "MULTIARCH": "none"}
    monkeypatch.setattr(sysconfig, "get_config_var", answers.get)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(preflight, "MINIMUM_PYTHON", (99, 0))


def test_this_machine_lacks_nothing(workspace: Workspace) -> None:
    assert preflight.problems(workspace.root, preflight.cache_folder()) == []


@pytest.mark.usefixtures("nothing_here")
def test_everything_is_told_at_once(tmp_path: Path) -> None:
    found = preflight.problems(tmp_path / "checkout", tmp_path / "cache")
    needs = {problem.need for problem in found} - {""}
    wanted = set(preflight.PACKAGES) - ({"objdump"} if sys.platform == "darwin" else {"libpython", "cargo"})
    assert needs == wanted
    text = preflight.report(found)
    assert text.startswith(f"This machine lacks {len(found)} things for the build:\n")
    for words in (
        "Python 99.0",
        "venv",
        "objdump",
        "git",
        "make",
        "node 18",
        "npm",
        "GB of free",
        "written",
    ):
        assert words in text
    assert text.splitlines()[-3:] == [
        f"  {preflight.install_line(manager, [problem.need for problem in found if problem.need])}"
        for manager in ("apt", "dnf", "brew")
    ]


def test_only_what_is_missing_is_named() -> None:
    assert preflight.install_line("apt", ["git", "npm"]) == "sudo apt-get install -y git npm"
    assert preflight.install_line("brew", ["node", "npm"]) == "brew install node"
    assert preflight.install_line("brew", ["objdump", "git"]) == "brew install git"
    text = preflight.report([preflight.Problem("", "a folder that can be written")])
    assert text == "This machine lacks one thing for the build:\n  - a folder that can be written"


@pytest.mark.usefixtures("nothing_here")
@pytest.mark.parametrize(("machine", "needed"), [("x86_64", True), ("arm64", False)])
def test_an_intel_mac_needs_rust(machine: str, needed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert any(problem and problem.need == "cargo" for problem in preflight._tools()) is needed


def test_an_old_node_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    node = tmp_path / "node"
    node.write_text("#!/bin/sh\necho v12.22.12\n")
    node.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert preflight._node() == preflight.Problem("node", f"node 18 or newer: {node} is v12.22.12")
    node.write_text("#!/bin/sh\necho v18.0.0\n")
    assert preflight._node() is None


@pytest.mark.parametrize(
    "environ",
    [
        {"HOME": "/h"},
        {"HOME": "/h", "XDG_CACHE_HOME": "/x"},
        {"HOME": "/h", "XDG_CACHE_HOME": "relative"},
        {"HOME": "/h", "XDG_CACHE_HOME": "/x", "CODEX_BUILD_CACHE": "/c"},
    ],
)
def test_it_looks_at_the_folder_that_will_be_used(environ: dict[str, str]) -> None:
    assert preflight.cache_folder(environ) == cache._chosen_root(environ)


@pytest.mark.parametrize("name", OLD_PYTHON_FILES)
def test_an_old_python_can_read_it(workspace: Workspace, name: str) -> None:
    """Python 3.9's grammar, and at module level nothing imported that came later."""
    source = (workspace.root / "src" / "shell_tool_release" / name).read_text()
    tree = ast.parse(source, feature_version=(3, 9))
    late = {"tomllib"}
    imported = {
        alias.name for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
    }
    assert not imported & late
    assert "from __future__ import annotations" in source or name == "__init__.py"


def test_readme_names_the_packages(workspace: Workspace) -> None:
    readme = (workspace.root / "README.md").read_text()
    for manager in preflight.INSTALL:
        needs = [need for need in preflight.PACKAGES if need != "python" or manager != "apt"]
        assert preflight.install_line(manager, [need for need in needs if need != "cargo"]) in readme
    assert f"`{preflight.install_line('brew', ['cargo'])}`" in readme


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ([], ["--list"]),
        (["release"], ["--session", "release"]),
        (["lint", "tests", "--", "-k", "wire"], ["--session", "lint", "tests", "--", "-k", "wire"]),
        (["-l"], ["-l"]),
    ],
)
def test_run_needs_no_nox_options(words: list[str], arguments: list[str]) -> None:
    assert bootstrap.nox_arguments(words) == arguments


def test_run_says_that_python_is_missing(workspace: Workspace, tmp_path: Path) -> None:
    for tool in ("dirname", "sh"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    done = subprocess.run(
        ["sh", str(workspace.root / "run"), "release"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("run: python3 is not here. Install it (apt: python3-venv")


def test_help_needs_nothing(workspace: Workspace) -> None:
    done = subprocess.run([workspace.root / "run", "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, bootstrap.USAGE)
    assert Path(sys.executable).exists()
