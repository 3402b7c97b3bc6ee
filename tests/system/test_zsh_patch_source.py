"""The patch of zsh applies exactly to the locked source, and catches every execve."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from shell_tool_release.errors import SourceError
from shell_tool_release.lock import load_zsh_lock
from shell_tool_release.sources import SourceOptions, patched_source, tree_digest
from shell_tool_release.workspace import find_workspace
from shell_tool_release.zsh_source import zsh_source

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("zsh") / "tree"
    applied = patched_source(zsh_source(SourceOptions.default()), find_workspace().zsh_patch, target)
    assert {offset for one in applied for offset in one.offsets} == {0}
    return target


def test_every_execve_is_decided(patched: Path) -> None:
    calls = {
        path.name: re.findall(r"(?<!\w)execv[pe]?e?\s*\((?!char|COMMAND|PATH)", path.read_text(encoding="latin-1"))
        for path in (patched / "Src").rglob("*.c")
    }
    assert {name: len(found) for name, found in calls.items() if found} == {"exec_wrapper.c": 2}
    assert (patched / "Src" / "exec.c").read_text(encoding="latin-1").count("exec_wrapper_execve(") == 6


def test_the_tree_is_the_locked_one() -> None:
    tree = zsh_source(SourceOptions.default())
    assert tree_digest(tree.path) == tree.digest == load_zsh_lock().tree
    assert (tree.path / "configure").stat().st_mode & 0o111
    assert not (tree.path / "ChangeLog").exists()


def test_another_archive_is_refused(tmp_path: Path) -> None:
    options = replace(SourceOptions.default(), cache=tmp_path, places=("debian",))
    lock = options.zsh
    kept = tmp_path / "downloads" / f"{lock.sha256[:16]}-{lock.package_archive}"
    kept.parent.mkdir()
    kept.write_bytes(b"something else")
    other = replace(options, zsh=replace(lock, suites=()))
    with pytest.raises(SourceError, match=r"zsh 5\.9 could be had from no place"):
        zsh_source(other)
