"""The package: its bytes depend on its content only, and its content is what is said."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from release.conftest import cannot, copy_any
from shell_tool_release import budgets, npm
from shell_tool_release.cache import file_sha256
from shell_tool_release.errors import BuildError, ConfigurationError
from shell_tool_release.npm import Package, TarMember, pack, package_json, tarball
from shell_tool_release.versions import npm_version
from shell_tool_release.workspace import Workspace, host_platform

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def small(workspace: Workspace, tmp_path: Path) -> Workspace:
    """A checkout whose vendor folder holds two small files."""
    root = tmp_path / "checkout"
    root.mkdir()
    for name in ("CHANGELOG.md", "LICENSE", "NOTICE", "README.md", "pyproject.toml", "packaging", "patches"):
        copy_any(workspace.root / name, root / name)
    platform = root / "vendor" / "linux-x64"
    (platform / "server").mkdir(parents=True)
    (platform / "server" / "program").write_text("#!/bin/sh\n")
    (platform / "server" / "program").chmod(0o755)
    (platform / "build.json").write_text('{"platform": "linux-x64"}')
    return Workspace(root=root)


def _members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return {member.name: member for member in archive.getmembers()}


def _read(path: Path, name: str) -> bytes:
    with tarfile.open(path) as archive:
        stream = archive.extractfile(name)
        assert stream is not None
        return stream.read()


def test_bytes_do_not_depend_on_modes_times_or_folder(small: Workspace, tmp_path: Path) -> None:
    first = pack(small)
    copy_any(small.root, tmp_path / "elsewhere")
    second_place = Workspace(root=tmp_path / "elsewhere")
    for path in second_place.root.rglob("*"):
        if path.is_file():
            path.chmod(0o700 if path.stat().st_mode & 0o100 else 0o600)
            os.utime(path, (1, 1))
    assert pack(second_place).sha256 == first.sha256


def test_bytes_depend_on_content(small: Workspace) -> None:
    first = pack(small)
    (small.vendor / "linux-x64" / "server" / "program").write_text("#!/bin/sh\n:\n")
    assert pack(small).sha256 != first.sha256


def test_entries_are_npms(small: Workspace) -> None:
    package = pack(small)
    assert package.path.name == f"codex-shell-tool-mcp-npm-{npm_version(small.version)}.tgz"
    members = _members(package.path)
    names = list(members)
    assert names[0] == "package/package.json"
    assert names == sorted(names, key=lambda name: npm.place(name.removeprefix("package/")))
    assert {member.mode for member in members.values()} == {0o755, 0o644}
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members.values()} == {(0, 0, "", "", npm.MTIME)}
    assert all(member.isreg() for member in members.values())
    executable = {name for name, member in members.items() if member.mode == 0o755}
    assert executable == {"package/bin/codex-shell-tool-mcp", "package/vendor/linux-x64/server/program"}
    header = package.path.read_bytes()[:10]
    assert header[4:8] == b"\0\0\0\0"
    assert header[3] == 0, "the header names a file or carries a comment"


def test_manifest_lists_every_file_of_the_package(small: Workspace) -> None:
    package = pack(small)
    manifest = json.loads(_read(package.path, "package/vendor/MANIFEST.json"))
    listed = {f"package/{entry['path']}" for entry in manifest["files"]}
    assert listed == set(_members(package.path)) - {"package/vendor/MANIFEST.json"}
    program = next(entry for entry in manifest["files"] if entry["path"].endswith("program"))
    assert program["mode"] == "0755"
    assert program["sha256"] == file_sha256(small.root / program["path"])


def test_a_symbolic_link_is_an_error(small: Workspace) -> None:
    (small.vendor / "linux-x64" / "server" / "link").symlink_to("program")
    with pytest.raises(BuildError, match=r"server/link is neither file nor folder"):
        pack(small)


def test_an_empty_vendor_folder_is_an_error(small: Workspace) -> None:
    (small.vendor / "linux-x64" / "build.json").unlink()
    with pytest.raises(BuildError, match=r"run: \./run vendor"):
        pack(small)


def test_a_part_over_its_budget_is_named(small: Workspace) -> None:
    budget = budgets.read(small.root / budgets.FILE)
    bash = small.vendor / "linux-x64" / "bash" / "gnu" / "bash"
    bash.parent.mkdir(parents=True)
    bash.write_bytes(os.urandom(budget.parts["bash/gnu"] + 1000))
    (small.vendor / "linux-x64" / "server" / "new").write_bytes(os.urandom(budget.unnamed + 1000))
    with pytest.raises(BuildError, match=r"grew over its budget .*budgets\.toml") as caught:
        pack(small)
    assert re.search(r"linux-x64/bash/gnu has \d{3},\d{3} bytes packed, allowed are 650,000[;$]", f"{caught.value};")
    assert re.search(r"linux-x64/server/new has 6\d,\d{3} bytes packed.*for a part without a row", str(caught.value))


def test_a_package_over_the_limit_is_an_error(small: Workspace) -> None:
    table = small.root / budgets.FILE
    table.write_text(re.sub(r"^limit = [\d_]+", "limit = 10_000", table.read_text(), flags=re.MULTILINE))
    with pytest.raises(BuildError, match=r"the package has [\d,]+ bytes, the limit is 10,000"):
        pack(small)


def test_the_limits_are_those_that_were_promised(workspace: Workspace) -> None:
    budget = budgets.read(workspace.root / budgets.FILE)
    assert (budget.aim, budget.limit) == (45_000_000, 55_000_000)


def test_damaged_budgets_are_named(tmp_path: Path) -> None:
    (tmp_path / "budgets.toml").write_text("aim = 1\n[parts]\n")
    with pytest.raises(ConfigurationError, match=r"budgets\.toml cannot be read"):
        budgets.read(tmp_path / "budgets.toml")


def test_the_same_file_of_another_platform_costs_little(small: Workspace) -> None:
    """gzip remembers 32 KiB: what is the same has to lie side by side, which it would not if sorted by name."""
    names = [f"vendor/{platform}/server/{number}" for platform in ("linux-arm64", "linux-x64") for number in range(20)]
    content = {number: os.urandom(20_000) for number in range(20)}
    members = [TarMember(name=name, data=content[int(name.rsplit("/", 1)[1])]) for name in names]
    alone = len(tarball(members[:20]))
    assert len(tarball(members)) < alone * 1.05


def test_a_platform_that_is_not_whole_is_left_out_and_named(small: Workspace) -> None:
    other = small.vendor / "darwin-arm64"
    (other / "bash" / "macos").mkdir(parents=True)
    (other / "bash" / "macos" / "bash").write_text("x")
    (other / "build.json").write_text('{"platform": "darwin-arm64", "missing": ["server"]}')
    package = pack(small)
    assert package.platforms == ("linux-x64",)
    assert package.left_out == {"darwin-arm64": ("server",)}
    assert not [name for name in _members(package.path) if "darwin" in name]
    assert json.loads(_read(package.path, "package/package.json"))["os"] == ["linux"]
    (small.vendor / "linux-x64" / "build.json").unlink()
    with pytest.raises(BuildError, match="holds no whole platform: darwin-arm64 has no server"):
        pack(small)


def test_paths_over_ustars_limit_survive(tmp_path: Path) -> None:
    name = "a" * 120 + "/" + "b" * 120
    path = tmp_path / "long.tgz"
    path.write_bytes(tarball([TarMember(name=name, data=b"x"), TarMember(name="package.json", data=b"{}")]))
    assert list(_members(path)) == ["package/package.json", f"package/{name}"]
    assert gzip.decompress(path.read_bytes())[:21] == b"package/package.json\0"


def test_the_second_time_comes_from_the_cache(
    small: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pack(small, cache=tmp_path / "cache")
    monkeypatch.setattr(npm, "tarball", lambda _: pytest.fail("packed again"))
    first.path.unlink()
    assert pack(small, cache=tmp_path / "cache") == first
    assert file_sha256(first.path) == first.sha256


def test_parts_are_weighed() -> None:
    members = [
        TarMember(name="vendor/linux-x64/server/_internal/starlark/starlark.so", data=b"a" * 1000),
        TarMember(name="vendor/linux-x64/server/_internal/starlark/__init__.pyc", data=b"b" * 10),
        TarMember(name="vendor/linux-x64/server/_internal/asyncio/tasks.pyc", data=b"c" * 100),
        TarMember(name="vendor/linux-x64/bash/gnu/bash", data=b"d" * 50),
        TarMember(name="vendor/MANIFEST.json", data=b"{}"),
        TarMember(name="README.md", data=b"x"),
    ]
    weights = {weight.part: weight.unpacked for weight in npm.weigh(members)}
    assert weights == {"server: starlark": 1010, "server: standard library": 100, "bash/gnu": 50}


def test_package_json_says_what_is_inside(workspace: Workspace) -> None:
    document = json.loads(package_json(workspace, ["linux-x64", "linux-arm64", "darwin-arm64"], "owner/repository"))
    assert document["name"] == "codex-shell-tool-mcp"
    assert document["version"] == npm_version(workspace.version)
    assert document["os"] == ["darwin", "linux"]
    assert document["cpu"] == ["arm64", "x64"]
    assert document["bin"] == {"codex-shell-tool-mcp": "bin/codex-shell-tool-mcp"}
    assert document["repository"]["url"] == "git+https://github.com/owner/repository.git"
    # npm 12 runs no install scripts, and a package without dependencies installs without a registry.
    assert not document.keys() & {"scripts", "dependencies", "optionalDependencies", "devDependencies"}


def test_no_repository_is_named_unless_told(workspace: Workspace) -> None:
    assert "repository" not in json.loads(package_json(workspace, ["linux-x64"], None))
    with pytest.raises(ConfigurationError, match="OWNER/REPO"):
        package_json(workspace, ["linux-x64"], "https://host/owner/repository")


@pytest.mark.parametrize(
    ("python", "npm_form"),
    [("1.2.3", "1.2.3"), ("0.10.0a4", "0.10.0-alpha.4"), ("1.2.3b1", "1.2.3-beta.1"), ("1.2.3rc2", "1.2.3-rc.2")],
)
def test_versions(python: str, npm_form: str) -> None:
    assert npm_version(python) == npm_form


@pytest.mark.parametrize("version", ["1.2", "1.2.3c1", "1.2.3.dev0", "1.2.3-alpha.4", "v1.2.3", "1.2.3\n"])
def test_other_versions_are_refused(version: str) -> None:
    with pytest.raises(ConfigurationError, match="neither"):
        npm_version(version)


def test_the_real_package(packed: tuple[Workspace, Package]) -> None:
    """What a user downloads holds every part and every licence text, and nothing of this machine."""
    place, package = packed
    names = {name.removeprefix("package/") for name in _members(package.path)}
    platform = f"vendor/{host_platform()}"
    wanted = {
        "bin/codex-shell-tool-mcp",
        "patches/bash-exec-wrapper.patch",
        "LICENSE",
        "NOTICE",
        f"{platform}/server/codex-exec-mcp-server",
        f"{platform}/server/codex-execve-wrapper-py",
        f"{platform}/bin/codex-execve-wrapper",
        f"{platform}/bin/codex-shell-supervisor",
        f"{platform}/licenses/GNU-bash/COPYING",
        f"{platform}/licenses/starlark-pyo3/LICENSE",
    }
    assert wanted <= names
    assert package.files < 2000
    notices = _read(package.path, "package/THIRD_PARTY_NOTICES.md").decode()
    for part in ("GNU bash", "musl", "CPython", "pydantic", "starlark-pyo3"):
        assert f"| {part} |" in notices
    for path in (place.vendor / host_platform()).rglob("*"):
        if path.is_file():
            assert str(place.root.parent).encode() not in path.read_bytes(), path


def test_npm_reads_the_package_as_it_was_written(packed: tuple[Workspace, Package]) -> None:
    if shutil.which("npm") is None:
        cannot("npm is not here")
    _, package = packed
    command = ["npm", "pack", "--dry-run", "--json", "--ignore-scripts", str(package.path)]
    said = subprocess.run(command, capture_output=True, check=True, cwd=package.path.parent, timeout=100).stdout
    listing = json.loads(said)
    entry = listing[0] if isinstance(listing, list) else next(iter(listing.values()))
    assert {(file["path"], file["size"], file["mode"]) for file in entry["files"]} == {
        (name.removeprefix("package/"), member.size, member.mode) for name, member in _members(package.path).items()
    }
