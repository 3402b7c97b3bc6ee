"""Where calls can have control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from codex_shell_tool_mcp.process import group

MOUNTS = """\
22 1 0:21 / /proc rw - proc proc rw
35 24 0:30 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu
41 31 0:38 /some/where /elsewhere rw,relatime - cgroup2 cgroup2 rw
42 31 0:38 / /sys/fs/cg\\040roup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate
"""


def test_the_mount_of_the_whole_hierarchy() -> None:
    assert group._mount_point(MOUNTS) == Path("/sys/fs/cg roup")
    assert group._mount_point("\n".join(MOUNTS.splitlines()[:3])) is None


@pytest.mark.parametrize(
    ("files", "limited"),
    [
        ({}, False),
        ({"memory.max": "max\n", "cpu.max": "max 100000\n"}, False),
        ({"memory.max": "1073741824\n"}, True),
        ({"memory.max": "max\n", "cpu.max": "50000 100000\n"}, True),
        ({"pids.max": "500\n"}, True),
    ],
)
def test_limits(files: dict[str, str], limited: bool, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert group._is_limited(tmp_path) is limited


def test_each_call_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "place", lambda: Path("/groups"))
    first, second = group.new_group(), group.new_group()
    assert first != second
    assert first is not None
    assert first.parent == Path("/groups")
    monkeypatch.setattr(group, "place", lambda: None)
    assert group.new_group() is None


def test_a_group_that_is_not_there(tmp_path: Path) -> None:
    group.kill_group(tmp_path / "none")
    group.remove_group(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    group.remove_group(tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


def test_groups_of_the_dead_are_removed(tmp_path: Path) -> None:
    kept = [tmp_path / f"codex-shell-{os.getpid()}-1", tmp_path / "codex-shell-0-2" / "busy", tmp_path / "other-0-1"]
    for folder in (*kept, tmp_path / "codex-shell-0-1"):
        folder.mkdir(parents=True)
    group._remove_stale(tmp_path)
    assert all(folder.is_dir() for folder in kept)
    assert not (tmp_path / "codex-shell-0-1").exists()
