"""The frozen bundle: complete, the same each time, and without anything that npm or another host would trip over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from shell_tool_release import environments, licenses
from shell_tool_release.errors import BuildError
from shell_tool_release.freeze import LEFT_OUT, digest, freeze
from shell_tool_release.licenses import Component, Member, read_components, write_component
from shell_tool_release.vendor import glibc_floor

if TYPE_CHECKING:
    from pathlib import Path

    from shell_tool_release.freeze import Frozen
    from shell_tool_release.workspace import Workspace

pytestmark = pytest.mark.timeout(900)  # freezing takes half a minute, minutes where six others do it too


def test_a_second_time_comes_from_the_cache(workspace: Workspace, frozen: Frozen) -> None:
    again = freeze(workspace)
    assert again.reused
    assert again.server == frozen.server


def test_both_programs_share_one_folder(frozen: Frozen) -> None:
    assert sorted(path.name for path in frozen.server.iterdir()) == [
        "_internal",
        "codex-exec-mcp-server",
        "codex-execve-wrapper-py",
    ]
    assert (frozen.server / "_internal" / "codex_shell_tool_mcp" / "shells" / "variants.toml").is_file()
    assert (frozen.server / "_internal" / "codex_shell_tool_mcp" / "escalation" / "wire.pyc").is_file()


def test_no_symbolic_links(frozen: Frozen) -> None:
    assert [path for path in frozen.server.rglob("*") if path.is_symlink()] == []


def test_it_starts_without_any_python(frozen: Frozen, workspace: Workspace) -> None:
    """From an empty environment and another folder; PYTHON* variables and the folder's modules do not reach it."""
    for environ in ({}, {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere", "PYTHONSTARTUP": "/nowhere"}):
        done = subprocess.run(
            [frozen.server / "codex-exec-mcp-server", "--version"],
            env=environ,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, f"codex-exec-mcp-server {workspace.version}\n", "")


def test_the_wrapper_starts(frozen: Frozen) -> None:
    done = subprocess.run([frozen.server / "codex-execve-wrapper-py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (126, "")
    assert done.stderr.startswith("usage: ")


def test_stripped(frozen: Frozen) -> None:
    if sys.platform == "darwin":
        pytest.skip("stripping breaks signatures on macOS, so nothing is stripped there")
    from shell_tool_release.binaries import describe  # noqa: PLC0415

    libraries = [path for path in frozen.server.rglob("*") if path.name.endswith(".so") or ".so." in path.name]
    assert len(libraries) > 10, "how many of its own Python has as libraries differs"
    assert [path.name for path in libraries if describe(path).symbols] == []


def test_the_oldest_glibc_is_told(frozen: Frozen) -> None:
    if sys.platform == "darwin":
        pytest.skip("macOS has no glibc")
    major, minor = map(int, glibc_floor(frozen.server).split("."))
    here = tuple(map(int, str(os.confstr("CS_GNU_LIBC_VERSION")).split()[1].split(".")))
    assert (2, 17) <= (major, minor) <= here


def test_no_path_of_the_build_is_in_it(frozen: Frozen, workspace: Workspace) -> None:
    words = [str(workspace.root).encode(), str(frozen.server.parents[1]).encode()]
    found = [path for path in frozen.server.rglob("*") if path.is_file() and any(w in path.read_bytes() for w in words)]
    assert found == []


def test_the_digest_sees_names_modes_and_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("x")
    seen = {digest(tmp_path)}
    file.chmod(0o755)
    seen.add(digest(tmp_path))
    file.write_text("y")
    seen.add(digest(tmp_path))
    file.rename(tmp_path / "b")
    seen.add(digest(tmp_path))
    assert len(seen) == 4


def test_every_shipped_distribution_has_its_text(frozen: Frozen) -> None:
    """Each package folder in the bundle belongs to a part with a text."""
    names = {part.name.lower().replace("-", "_") for part in read_components(frozen.licenses)}
    members = json.loads(frozen.listing.read_text())["members"]
    tops = {name.split("/")[0] for name, _ in members if "/" in name and name.endswith((".pyc", ".so"))}
    ours = {"codex_shell_tool_mcp", "python3." + str(sys.version_info[1])}
    unknown = {
        top for top in tops - ours - set(sys.stdlib_module_names) if not any(top.startswith(name[:8]) for name in names)
    }
    assert unknown == set()
    assert {"cpython", "pyinstaller", "mcp", "pydantic", "anyio"} <= names


def test_a_part_without_a_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"no licence text found for thing 1"):
        write_component(tmp_path, Component(name="thing", version="1", license="MIT"), {})


def test_a_library_of_no_package_is_an_error(tmp_path: Path, frozen: Frozen, workspace: Workspace) -> None:
    library = tmp_path / "libthing.so.1"
    library.write_bytes(b"\x7fELF")
    with pytest.raises(BuildError, match=r"libthing\.so\.1, which would be shipped; it belongs to no known package"):
        licenses.collect(
            [Member(name=library.name, source=str(library))],
            site_packages=_site_packages(workspace),
            target=tmp_path / "texts",
        )


def _site_packages(workspace: Workspace) -> Path:
    """Of the environment that freezes: there the frozen server's packages are."""
    return next((workspace.root / ".nox" / "freeze" / "lib").glob("python3*/site-packages"))


def test_requirements_follow_included_groups(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["z"]\n[dependency-groups]\na = ["x", {include-group = "b"}]\nb = ["y"]\n'
    )
    assert environments.requirements(tmp_path, "a") == ["x", "y"]
    assert environments.requirements(tmp_path, environments.PROJECT) == ["z"]


def test_every_requirement_is_locked(workspace: Workspace) -> None:
    lines = (workspace.root / environments.CONSTRAINTS).read_text().splitlines()
    locked = {line.split("==")[0].lower().replace("_", "-") for line in lines if line and not line.startswith("#")}
    assert all("==" in line for line in lines if line and not line.startswith("#"))
    for group in (environments.PROJECT, "run", "freeze", "release", "test", "lint"):
        for requirement in environments.requirements(workspace.root, group):
            name = requirement.split(">")[0].split("=")[0].split("<")[0].strip().lower()
            assert name in locked


def test_the_list_of_what_is_left_out_holds_each_name_once() -> None:
    assert len(set(LEFT_OUT)) == len(LEFT_OUT)
