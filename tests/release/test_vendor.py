"""The vendor folder: exactly the layout that ships, made anew each time, with a licence text for every part."""

from __future__ import annotations

import json
import subprocess
import tomllib
from typing import TYPE_CHECKING

import pytest
from packaging.licenses import canonicalize_license_expression

from shell_tool_release import manifest
from shell_tool_release.binaries import describe
from shell_tool_release.cache import file_sha256
from shell_tool_release.errors import BuildError
from shell_tool_release.licenses import read_components
from shell_tool_release.variants import load_variants, variants_for
from shell_tool_release.vendor import assemble, read_builds
from shell_tool_release.workspace import Workspace, host_platform

if TYPE_CHECKING:
    from pathlib import Path

    from shell_tool_release.npm import Package
    from shell_tool_release.vendor import Parts

pytestmark = pytest.mark.timeout(900)  # freezing takes half a minute, minutes where six others do it too


@pytest.fixture
def platform(packed: tuple[Workspace, Package]) -> Path:
    place, _ = packed
    return place.vendor / host_platform()


def test_layout(platform: Path, workspace: Workspace) -> None:
    shells = ["bash", "zsh"] if host_platform() == "linux-x64" else ["bash"]
    glibc = {"glibc"} if host_platform().startswith("linux") else set()
    assert {path.name for path in platform.iterdir()} == {"server", "bin", *shells, *glibc, "licenses", "build.json"}
    assert {path.name for path in (platform / "bin").iterdir()} == {"codex-execve-wrapper", "codex-shell-supervisor"}
    rows = variants_for(load_variants(workspace.variants_file), targets=(host_platform(),))
    files = [path for shell in shells for path in (platform / shell).rglob("*") if path.is_file()]
    assert {path.relative_to(platform.parent).as_posix() for path in files} == {row.package_path for row in rows}


def test_every_variant_that_can_be_chosen_is_there(platform: Path) -> None:
    """The server's own table, read in the package, against the package's files."""
    table = platform / "server" / "_internal" / "codex_shell_tool_mcp" / "shells" / "variants.toml"
    rows = variants_for(load_variants(table), targets=(host_platform(),))
    for row in rows:
        shell = platform.parent / row.package_path
        assert shell.stat().st_mode & 0o777 == 0o755
        script = "echo $BASH_VERSION$ZSH_VERSION"
        done = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.startswith({"bash": "5.3.", "zsh": "5.9"}[row.shell])


def test_the_native_programs_are_static(platform: Path) -> None:
    if host_platform().startswith("darwin"):
        pytest.skip("macOS has no static programs")
    for program in (platform / "bin").iterdir():
        assert not describe(program).dynamic


def test_modes(platform: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in manifest.files(platform)} == {0o755, 0o644}


def test_it_is_made_anew(packed: tuple[Workspace, Package], parts: Parts) -> None:
    place, _ = packed
    stray = place.vendor / host_platform() / "server" / "left-over"
    stray.write_text("from another build")
    assemble(place, host_platform(), parts)
    assert not stray.exists()


def test_licences_name_where_bashs_source_is(platform: Path) -> None:
    components = {part.name: part for part in read_components(platform / "licenses")}
    bash = components["GNU bash"]
    assert bash.license == "GPL-3.0-or-later"
    assert "bash-5.3 with its official patches" in bash.note
    assert "patches/bash-exec-wrapper.patch in this package" in bash.note
    assert b"GNU GENERAL PUBLIC LICENSE" in (platform / "licenses" / bash.folder / "COPYING").read_bytes()
    for part in components.values():
        for name in part.files:
            assert (platform / "licenses" / part.folder / name).stat().st_size > 100


def _identifiers(expression: str) -> set[str]:
    """The licences an SPDX expression names, with their exceptions."""
    canonical = canonicalize_license_expression(expression)
    assert " OR " not in canonical, "who gets the package must keep to all of them"
    return set(canonical.split(" AND "))


def test_the_packages_licence_names_all_that_is_in_it(platform: Path, workspace: Workspace) -> None:
    """The npm package's as npm shows it; a wheel's, which holds shells and natives alone."""
    parts = {part.name: part.license for part in read_components(platform / "licenses")}
    # A linking exception that has no name of its own; the licence itself is libc's too.
    del parts["glibc start files"]
    stated = json.loads((workspace.root / "packaging" / "npm" / "package.json").read_text())["license"]
    wanted = {"Apache-2.0"}.union(*map(_identifiers, parts.values()))
    assert _identifiers(stated) == wanted
    project = tomllib.loads((workspace.root / "pyproject.toml").read_text())["project"]["license"]
    in_wheels = {name: parts[name] for name in ("GNU bash", "zsh", "musl", "zig run-time library")}
    assert _identifiers(project) == {"Apache-2.0"}.union(*map(_identifiers, in_wheels.values()))


def test_the_build_is_recorded(platform: Path) -> None:
    record = json.loads((platform / "build.json").read_text())
    assert record["platform"] == host_platform()
    assert record["bash"]["version"] == "5.3"
    assert record["parts"]["mcp"].startswith("2.")
    assert read_builds(platform.parent) == {host_platform(): record}


def test_it_is_recorded_how_each_program_was_made(platform: Path, workspace: Workspace) -> None:
    """Which source, patch, compiler, flags and baseline: for every program there is, and for nothing else."""
    programs = json.loads((platform / "build.json").read_text())["programs"]
    there = {
        path.relative_to(platform).as_posix()
        for folder in ("bin", "bash", "zsh")
        for path in (platform / folder).rglob("*")
        if path.is_file()
    }
    assert set(programs) == there | {"server"}
    for path in there - {path for path in there if path.startswith("bin/")}:
        made = programs[path]
        assert made["compiler"].startswith("zig ")
        assert len(made["tree"]) == 64
        assert made["baseline"] or made["libc"] == "musl"
        assert any(word.startswith("CFLAGS=") for word in made["commands"])
    bash = next(made for path, made in programs.items() if path.startswith("bash/"))
    assert bash["patch"] == file_sha256(workspace.bash_patch)
    for path in there - {path for path in there if not path.startswith("bin/")}:
        made = programs[path]
        assert made["compiler"].startswith("zig ")
        assert made["files"]["text.c"] == file_sha256(workspace.native_sources / "text.c")
    assert len(programs["server"]["wheel"]) == 64


def test_a_socket_or_a_link_cannot_ship(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(BuildError, match="neither file nor folder"):
        manifest.files(tmp_path)


def test_nothing_is_committed_below_vendor(workspace: Workspace) -> None:
    command = ["git", "-C", str(workspace.root), "ls-files", "--cached", "--others", "--exclude-standard", "vendor"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if said.returncode:
        pytest.skip("this is no git checkout (a source archive)")
    assert said.stdout.split() == ["vendor/README.md"]
