"""The native programs: what the recipe says is what is compiled, and the result is what ships."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from shell_tool_release.binaries import describe
from shell_tool_release.errors import BuildError, ConfigurationError
from shell_tool_release.native import NativeOptions, build_native, install_native, read_recipes
from shell_tool_release.workspace import Workspace, find_workspace, host_platform

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = """
[flags]
compile = ["-Os", "-Wall", "-Werror", "-fno-sanitize=all"]
link = ["-s"]
[flags.linux]
compile = ["-DSYSTEM=1"]
link = ["-static"]
[flags.macos]
compile = ["-DSYSTEM=2"]
link = []
[binaries.tool]
sources = ["tool.c"]
linux = ["linux.c"]
macos = ["macos.c"]
"""
TOOL = r"""
#include <stdio.h>
#include "tool.h"
int main(void) { printf("%s %d %d\n", VERSION, SYSTEM, part()); return 0; }
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    native = tmp_path / "src" / "native"
    native.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n', encoding="utf-8")
    (native / "sources.toml").write_text(RECIPE, encoding="utf-8")
    (native / "tool.c").write_text(TOOL, encoding="utf-8")
    (native / "tool.h").write_text("int part(void);\n", encoding="utf-8")
    for name, value in (("linux.c", 10), ("macos.c", 20)):
        text = f'#include "tool.h"\nint part(void) {{ return {value}; }}\n'
        (native / name).write_text(text, encoding="utf-8")
    return Workspace(root=tmp_path)


@pytest.fixture
def options(workspace: Workspace) -> NativeOptions:
    return replace(NativeOptions.default(workspace), quiet=True)


def test_the_recipe_is_read_for_each_system(workspace: Workspace) -> None:
    (linux,) = read_recipes(workspace.native_sources / "sources.toml", "linux-arm64")
    (macos,) = read_recipes(workspace.native_sources / "sources.toml", "darwin-x64")
    assert (linux.sources, linux.compile_flags[-1], linux.link_flags) == (
        ("tool.c", "linux.c"),
        "-DSYSTEM=1",
        ("-s", "-static"),
    )
    assert (macos.sources, macos.compile_flags[-1], macos.link_flags) == (("tool.c", "macos.c"), "-DSYSTEM=2", ("-s",))


def test_the_projects_recipe_names_files_that_are_there() -> None:
    folder = find_workspace().native_sources
    for target in ("linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64"):
        recipes = read_recipes(folder / "sources.toml", target)
        assert {recipe.name for recipe in recipes} == {"codex-execve-wrapper", "codex-shell-supervisor"}
        assert all((folder / source).is_file() for recipe in recipes for source in recipe.sources)


def test_a_program_is_built_once_and_again_when_a_header_or_the_version_changes(
    workspace: Workspace, options: NativeOptions
) -> None:
    def build() -> tuple[bool, str]:
        (built,) = build_native(options)
        return built.reused, subprocess.run([built.path], capture_output=True, check=True, text=True).stdout

    (workspace.native_sources / "tool.h").write_text(
        f"int part(void);\n/* {os.urandom(8).hex()} */\n", encoding="utf-8"
    )
    system, part = (1, 10) if host_platform().startswith("linux") else (2, 20)
    assert build() == (False, f"1.2.3 {system} {part}\n")
    assert build() == (True, f"1.2.3 {system} {part}\n")
    with (workspace.native_sources / "tool.h").open("a", encoding="utf-8") as header:
        header.write("/* changed */\n")
    assert build()[0] is False


def test_the_version_is_compiled_in(workspace: Workspace) -> None:
    (workspace.root / "pyproject.toml").write_text('[project]\nversion = "9.8.7-alpha.1"\n', encoding="utf-8")
    (built,) = build_native(replace(NativeOptions.default(Workspace(root=workspace.root)), quiet=True))
    output = subprocess.run([built.path], capture_output=True, check=True, text=True).stdout
    assert output.startswith("9.8.7-alpha.1 ")


def test_a_compile_error_names_log_and_line(workspace: Workspace, options: NativeOptions) -> None:
    (workspace.native_sources / "tool.c").write_text("int main(void) { return undeclared; }\n", encoding="utf-8")
    with pytest.raises(BuildError, match=r"tool: exit status 1; whole log: .*tool\.log") as caught:
        build_native(options)
    assert "undeclared" in str(caught.value)


def test_a_damaged_recipe_is_named(workspace: Workspace) -> None:
    path = workspace.native_sources / "sources.toml"
    path.write_text(RECIPE.replace("[flags.macos]", "[flags.other]"), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"sources\.toml does not hold: KeyError: 'macos'"):
        read_recipes(path, "darwin-x64")


def test_an_unknown_platform_is_named(options: NativeOptions) -> None:
    with pytest.raises(ConfigurationError, match="no native programs for plan9-x64"):
        build_native(replace(options, targets=("plan9-x64",)))


def test_installed_programs_are_static_stripped_and_executable(tmp_path: Path) -> None:
    built = build_native(replace(NativeOptions.default(), quiet=True))
    paths = install_native(built, tmp_path / "vendor")
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        f"vendor/{host_platform()}/bin/codex-execve-wrapper",
        f"vendor/{host_platform()}/bin/codex-shell-supervisor",
    ]
    for path in paths:
        found = describe(path)
        assert f"{found.system}-{found.machine}" == host_platform()
        assert not found.symbols
        assert found.dynamic is (found.system == "darwin")
        assert path.stat().st_mode & 0o777 == 0o755
        assert path.stat().st_size < 200_000
