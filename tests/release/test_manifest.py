"""The manifest of the real package: it names how every program was made, and ``verify`` finds what was changed."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp import verify
from shell_tool_release import manifest
from shell_tool_release.archives import unpack
from shell_tool_release.errors import BuildError
from shell_tool_release.workspace import host_platform

if TYPE_CHECKING:
    from pathlib import Path

    from shell_tool_release.npm import Package
    from shell_tool_release.workspace import Workspace

pytestmark = pytest.mark.timeout(900)  # freezing takes half a minute, minutes where six others do it too

SERVER = f"vendor/{host_platform()}/server/codex-exec-mcp-server"


@pytest.fixture(scope="module")
def unpacked(packed: tuple[Workspace, Package], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    unpack(packed[1].path, folder / "package", exact=True)
    return folder / "package"


def _verify(server: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([server, "verify", *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_both_know_the_same_form() -> None:
    assert manifest.FORMAT == verify.FORMAT


def test_a_file_listed_twice_is_an_error() -> None:
    entry = manifest.described("a", b"x", 0o644)
    with pytest.raises(BuildError, match="holds a twice"):
        manifest.document("1", [entry, entry], {})


def test_the_installed_server_verifies_its_own_package(unpacked: Path) -> None:
    done = _verify(unpacked / SERVER)
    assert (done.returncode, done.stderr) == (0, "")
    assert "all as they were made" in done.stdout


@pytest.mark.parametrize("end", ["bin/codex-execve-wrapper", "build.json", ".pyc", ".so", "package.json"])
def test_it_names_a_flipped_byte(end: str, unpacked: Path) -> None:
    files = json.loads((unpacked / "vendor" / "MANIFEST.json").read_bytes())["files"]
    path = next(row["path"] for row in files if row["path"].endswith(end) and "/server/codex" not in row["path"])
    before = (unpacked / path).read_bytes()
    # The last byte: the server that looks may need the file itself, and what follows the code is not executed.
    (unpacked / path).write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        found = verify.check(unpacked).differences
    finally:
        (unpacked / path).write_bytes(before)
    assert [(difference.path, difference.what[:17]) for difference in found] == [(path, "has other content")]


def test_it_names_what_is_missing_or_another_mode_or_new(unpacked: Path) -> None:
    platform = unpacked / "vendor" / host_platform()
    (platform / "build.json").rename(platform / "other.json")
    (platform / "bin" / "codex-shell-supervisor").chmod(0o644)
    try:
        done = _verify(unpacked / SERVER)
    finally:
        (platform / "other.json").rename(platform / "build.json")
        (platform / "bin" / "codex-shell-supervisor").chmod(0o755)
    assert done.returncode == 1
    below = f"vendor/{host_platform()}"
    assert f"  {below}/build.json is missing\n" in done.stdout
    assert f"  {below}/other.json is not part of the package\n" in done.stdout
    assert f"  {below}/bin/codex-shell-supervisor has mode 0644, should be 0755\n" in done.stdout
