"""The frozen bundle: complete, the same each time, and without anything that npm or another host would trip over."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from shell_tool_release import elf, environments, licenses
from shell_tool_release.archives import load_archives
from shell_tool_release.errors import BuildError
from shell_tool_release.freeze import LEFT_OUT, digest, freeze
from shell_tool_release.licenses import Component, Member, read_components, write_component
from shell_tool_release.portable_python import GLIBC, build_python
from shell_tool_release.vendor import glibc_floor
from shell_tool_release.workspace import host_platform

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


def test_libraries_load_on_every_glibc(frozen: Frozen) -> None:
    """Stripped, for this machine, and asking for nothing that not every system with glibc 2.17 or newer has."""
    if sys.platform == "darwin":
        pytest.skip("macOS bundles hold the machine's own Python")
    libraries = elf.files(frozen.server / "_internal")
    names = {path.name.partition(".")[0] for path in libraries}
    assert names == {"libpython3", "_pydantic_core", "starlark"}, "every other library is one more thing to load"
    for path in elf.files(frozen.server):
        elf.check(path, host_platform(), GLIBC)
    assert glibc_floor(frozen.server) == "2.17"


def test_the_python_is_ours(frozen: Frozen) -> None:
    if sys.platform == "darwin":
        pytest.skip("macOS bundles hold the machine's own Python")
    version = load_archives()["cpython"].version
    assert frozen.python == version
    library = frozen.server / "_internal" / f"libpython{version.rpartition('.')[0]}.so.1.0"
    assert f"{version}\0".encode() in library.read_bytes()


def test_no_library_of_this_machine_is_in_the_builds_variables(frozen: Frozen) -> None:
    """Which pkg-config would have named: the bundle would be another one on a machine with other libraries."""
    if sys.platform == "darwin":
        pytest.skip("macOS bundles hold the machine's own Python")
    names = ("HAVE_NCURSESW", "HAVE_PANELW", "HAVE_UUID_H", "HAVE_UUID_GENERATE_TIME_SAFE")
    asking = f"import sysconfig; print([sysconfig.get_config_var(name) for name in {names}])"
    program = build_python(host_platform(), quiet=True).program
    done = subprocess.run([program, "-I", "-c", asking], capture_output=True, check=True, text=True)
    assert done.stdout == "[0, 0, 0, 0]\n"


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
    ours = {"codex_shell_tool_mcp", f"python{frozen.python.rpartition('.')[0]}"}
    unknown = {
        top for top in tops - ours - set(sys.stdlib_module_names) if not any(top.startswith(name[:8]) for name in names)
    }
    assert unknown == set()
    assert {"cpython", "mcp", "pydantic", "anyio"} <= names
    assert ("pyinstaller" in names) == (sys.platform == "darwin"), "on Linux its boot program is not shipped"


def test_notices_of_what_is_compiled_in_are_there(frozen: Frozen) -> None:
    """CPython holds code of others whose licences want their notice; wheels of Rust name their crates."""
    if sys.platform == "linux":
        words = (frozen.licenses / "CPython" / "license.rst").read_text()
        assert {"libmpdec", "mimalloc", "SipHash24", "strtod and dtoa"} <= set(words.splitlines())
    for part, crate in (("pydantic_core", "regex"), ("starlark-pyo3", "starlark")):
        lines = (frozen.licenses / part / licenses.COMPILED_IN).read_text().splitlines()
        assert any(line.startswith(f"{crate} ") and line.count(": ") == 1 for line in lines[2:]), part
        assert len(lines) > 50


def test_a_distributions_bill_becomes_a_text(tmp_path: Path) -> None:
    """Names, versions and licences, sorted, each once, whatever form the licence has."""
    bill = {
        "components": [
            {"name": "b", "version": "1", "licenses": [{"expression": "MIT OR Apache-2.0"}]},
            {"name": "a", "version": "2", "licenses": [{"license": {"id": "Zlib"}}]},
            {"name": "a", "version": "2", "licenses": [{"license": {"id": "Zlib"}}]},
            {"name": "c"},
        ]
    }
    files = {"METADATA": "Metadata-Version: 2.4\nName: thing\nVersion: 1\nLicense-Expression: MIT\n"}
    files |= {"licenses/LICENSE": "words", "sboms/thing.cyclonedx.json": json.dumps(bill)}
    for name, text in files.items():
        (tmp_path / "site" / "thing-1.dist-info" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / "thing-1.dist-info" / name).write_text(text)
    (tmp_path / "site" / "thing.py").touch()
    record = [f"thing-1.dist-info/{name},," for name in (*files, "RECORD")]
    (tmp_path / "site" / "thing-1.dist-info" / "RECORD").write_text("\n".join([*record, "thing.py,,"]))
    member = Member(name="thing.pyc", source=str(tmp_path / "site" / "thing.py"))
    (tmp_path / "of-python").mkdir()
    place = {"site_packages": tmp_path / "site", "target": tmp_path / "texts"}
    licenses.collect([member], portable=(tmp_path / "python", tmp_path / "of-python"), **place)
    (part,) = read_components(tmp_path / "texts")
    assert part.files == ("LICENSE", licenses.COMPILED_IN)
    lines = (tmp_path / "texts" / "thing" / licenses.COMPILED_IN).read_text().splitlines()
    assert lines[2:] == ["a 2: Zlib", "b 1: MIT OR Apache-2.0", "c without version: no licence stated"]


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
    """Where the frozen server's packages are installed."""
    if sys.platform == "darwin":
        return next((workspace.root / ".nox" / "freeze" / "lib").glob("python3*/site-packages"))
    return workspace.root / ".nox" / f"freeze-{host_platform()}" / "packages"


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
            assert re.split(r"[\[<>=]", requirement)[0].strip().lower() in locked


def test_the_list_of_what_is_left_out_holds_each_name_once() -> None:
    assert len(set(LEFT_OUT)) == len(LEFT_OUT)
