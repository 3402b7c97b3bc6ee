"""The table of shell variants holds, and mistakes in it are named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shell_tool_release.errors import ConfigurationError
from shell_tool_release.recipes.recipe import answers_file, runs_here
from shell_tool_release.variants import load_variants, variants_for
from shell_tool_release.workspace import find_workspace, host_platform

if TYPE_CHECKING:
    from pathlib import Path

ROW = {"target": "linux-x64", "shell": "bash", "variant": "gnu", "libc": "glibc", "baseline": "2.17", "zig": "z"}

ZIG = {
    "linux-x64": "x86_64-linux-{0}.{2}",
    "linux-arm64": "aarch64-linux-{0}.{2}",
    "darwin-x64": "x86_64-macos.{2}",
    "darwin-arm64": "aarch64-macos.{2}",
}
"""The compiler's name of each platform; the version stands behind what it is a version of."""


def write_table(folder: Path, *rows: dict[str, str]) -> Path:
    path = folder / "variants.toml"
    lines = ["\n".join(["[[variant]]", *(f'{name} = "{value}"' for name, value in row.items())]) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_both_shells_are_there_for_every_platform() -> None:
    """Four platforms, two shells: on Linux one for glibc and then a static one, on macOS one; twelve builds."""
    table = load_variants(find_workspace().variants_file)
    linux = [("gnu", "glibc", "2.17"), ("musl", "musl", "")]
    macos = [("macos", "macos", "11.0")]
    wanted = {"linux-x64": linux, "linux-arm64": linux, "darwin-x64": macos, "darwin-arm64": macos}
    for shell in ("bash", "zsh"):
        for target, variants in wanted.items():
            found = [row for row in table if (row.shell, row.target) == (shell, target)]
            assert [(row.variant, row.libc, row.baseline) for row in found] == variants
            assert [row.zig for row in found] == [ZIG[target].format(*variant).rstrip(".") for variant in variants]
    assert len(table) == 12


def test_every_row_can_be_built_somewhere() -> None:
    for row in load_variants(find_workspace().variants_file):
        assert runs_here(row) or answers_file(row).is_file()


def test_package_paths_are_unique() -> None:
    table = load_variants(find_workspace().variants_file)
    assert len({row.package_path for row in table}) == len(table)
    assert all(row.package_path == f"{row.target}/{row.shell}/{row.variant}/{row.shell}" for row in table)


def test_host_rows_are_chosen_in_table_order() -> None:
    table = load_variants(find_workspace().variants_file)
    chosen = variants_for(table, targets=(host_platform(),), shells=("bash",))
    assert list(chosen) == [row for row in table if row.target == host_platform() and row.shell == "bash"]
    assert chosen


def test_zsh_rows_are_allowed(tmp_path: Path) -> None:
    (row,) = load_variants(write_table(tmp_path, ROW | {"shell": "zsh"}))
    assert row.shell == "zsh"


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([ROW | {"target": "windows-x64"}], "windows-x64"),
        ([ROW | {"libc": "dietlibc"}], "dietlibc"),
        ([ROW | {"extra": "1"}], "row 1"),
        ([{name: value for name, value in ROW.items() if name != "zig"}], "zig"),
        ([ROW, ROW], "linux-x64-bash-gnu is there twice"),
    ],
)
def test_a_wrong_table_is_refused_by_name(tmp_path: Path, rows: list[dict[str, str]], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        load_variants(write_table(tmp_path, *rows))


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        load_variants(tmp_path / "nowhere.toml")


def test_a_target_without_rows_is_named(tmp_path: Path) -> None:
    table = load_variants(write_table(tmp_path, ROW))
    with pytest.raises(ConfigurationError, match="no shell variant for darwin-x64"):
        variants_for(table, targets=("darwin-x64",))
