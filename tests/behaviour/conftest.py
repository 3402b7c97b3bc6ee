"""Fixtures of the tests that go through a real server."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.sandbox.probe import host_support
from support.built import built
from support.clients import Installation

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """A server without confinement, its rules and its working directory in the test's own folder."""
    home, workdir = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    workdir.mkdir()
    return Installation(home=home, workdir=workdir)


@pytest.fixture
def confined(installation: Installation) -> Installation:
    """One that confines scripts; skipped where the kernel has no Landlock, unless CODEX_TEST_MUST_WORK is set."""
    if sys.platform == "linux" and not _has_landlock() and not os.environ.get("CODEX_TEST_MUST_WORK"):
        pytest.skip("this kernel has no Landlock")
    installation.options = ("--sandbox", "read-only")
    return installation


def _has_landlock() -> bool:
    support = host_support(built().supervisor)
    return support is not None and support.landlock_abi > 0
