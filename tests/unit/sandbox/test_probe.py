"""Asking the supervisor what the host offers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.sandbox.probe import HostSupport, host_support

if TYPE_CHECKING:
    from pathlib import Path


def supervisor(folder: Path, script: str) -> Path:
    path = folder / "supervisor"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_an_answer(tmp_path: Path) -> None:
    path = supervisor(tmp_path, """[ "$1" = --probe ] && echo '{"landlock_abi":7,"seccomp":true,"platform":"linux"}'""")
    assert host_support(path) == HostSupport(landlock_abi=7, seccomp=True)


@pytest.mark.parametrize(
    "script", ["echo nonsense", "echo '{}'", "echo '[]'", "exit 1", "echo '{\"landlock_abi\":null}'"]
)
def test_no_usable_answer(tmp_path: Path, script: str) -> None:
    assert host_support(supervisor(tmp_path, script)) is None


def test_no_supervisor(tmp_path: Path) -> None:
    assert host_support(tmp_path / "missing") is None
