"""What the tests of the package share: the parts of a release, and a package made of them in a folder of its own."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, NoReturn

import pytest

from shell_tool_release.cache import cache_root
from shell_tool_release.npm import Package, pack
from shell_tool_release.vendor import Parts, assemble, build_parts
from shell_tool_release.workspace import Workspace, find_workspace, host_platform

if TYPE_CHECKING:
    from pathlib import Path

    from shell_tool_release.freeze import Frozen

SHIPPED = ("CHANGELOG.md", "LICENSE", "NOTICE", "README.md", "pyproject.toml", "packaging", "patches")


def cannot(reason: str) -> NoReturn:
    """Skip, or fail where everything must work."""
    if os.environ.get("CODEX_TEST_MUST_WORK"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def workspace() -> Workspace:
    """The checkout."""
    return find_workspace()


@pytest.fixture(scope="session")
def parts(workspace: Workspace) -> Parts:
    """Everything a release ships, from the cache; minutes when it is empty (``./run tests`` fills it first)."""
    return build_parts(workspace, host_platform())


@pytest.fixture(scope="session")
def frozen(parts: Parts) -> Frozen:
    """The frozen server of this machine's platform."""
    assert parts.frozen is not None
    return parts.frozen


@pytest.fixture(scope="session")
def packed(workspace: Workspace, parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Package]:
    """A package and the workspace it was packed in, which is not the checkout."""
    root = tmp_path_factory.mktemp("release")
    for name in SHIPPED:
        copy_any(workspace.root / name, root / name)
    place = Workspace(root=root)
    assemble(place, host_platform(), parts)
    return place, pack(place, cache=cache_root())


def copy_any(source: Path, target: Path) -> None:
    """Copy a file or a folder."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)
