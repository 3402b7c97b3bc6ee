"""``verify`` names every difference between a package and its manifest, and nothing that an installer may do."""

from __future__ import annotations

import hashlib
import json
import os
import py_compile
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp import cli, verify
from codex_shell_tool_mcp.errors import PackageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT = {
    "package.json": (b"{}\n", 0o644),
    "bin/codex-shell-tool-mcp": (b"#!/bin/sh\n", 0o755),
    "module.py": (b"VALUE = 1\n", 0o644),
    "vendor/linux-x64/bash/gnu/bash": (bytes(range(256)) * 64, 0o755),
    "vendor/linux-x64/server/server": (b"\x7fELF server", 0o755),
    "vendor/linux-x64/server/_internal/library.so": (b"\x7fELF library", 0o755),
    "vendor/linux-x64/build.json": (b"{}", 0o644),
    "vendor/linux-x64/licenses/GNU-bash/COPYING": (b"licence", 0o644),
}
BASH = "vendor/linux-x64/bash/gnu/bash"
README = "vendor/linux-x64/licenses/GNU-bash/COPYING"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A package as an installer leaves it."""
    folder = tmp_path / "package"
    rows = []
    for path, (data, mode) in CONTENT.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        (folder / path).chmod(mode)
        row = {"path": path, "size": len(data), "mode": f"{mode:04o}", "sha256": hashlib.sha256(data).hexdigest()}
        rows.append(row)
    document = {"format": 2, "version": "1.2.3", "builds": {}, "files": rows}
    (folder / "vendor" / "MANIFEST.json").write_text(json.dumps(document))
    for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        place.chmod(0o755)
    (folder / "vendor" / "MANIFEST.json").chmod(0o644)
    return folder


def _differences(root: Path) -> dict[str, str]:
    return {difference.path: difference.what for difference in verify.check(root).differences}


def _chmod(root: Path, programs: int, others: int) -> None:
    """The modes that an installer gives to all files."""
    for path, (_, mode) in CONTENT.items():
        (root / path).chmod(programs if mode == 0o755 else others)
    (root / "vendor" / "MANIFEST.json").chmod(others)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_package_as_it_was_made(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(root)]) == 0
    said = capsys.readouterr().out
    assert f"{root}: version 1.2.3, {len(CONTENT)} files, all as they were made" in said
    assert hashlib.sha256((root / "vendor" / "MANIFEST.json").read_bytes()).hexdigest() in said


@pytest.mark.parametrize("path", CONTENT)
def test_a_flipped_bit_is_named(path: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _flip(root / path)
    assert cli.main(["verify", str(root)]) == 1
    assert f"  {path} has other content (the same size)" in capsys.readouterr().out
    assert list(_differences(root)) == [path]


@pytest.mark.parametrize("path", CONTENT)
def test_a_missing_file_is_named(path: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / path).unlink()
    assert cli.main(["verify", str(root)]) == 1
    assert f"  {path} is missing\n" in capsys.readouterr().out


@pytest.mark.parametrize("mode", [0o644, 0o700, 0o777, 0o4755, 0o2755, 0o555, 0o000])
def test_a_changed_mode_of_a_program_is_named(mode: int, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / BASH).chmod(mode)
    assert cli.main(["verify", str(root)]) == 1
    assert f"  {BASH} has mode {mode:04o}, should be 0755" in capsys.readouterr().out


@pytest.mark.parametrize("mode", [0o755, 0o600, 0o666, 0o444, 0o664])
def test_a_changed_mode_of_another_file_is_named(mode: int, root: Path) -> None:
    (root / README).chmod(mode)
    assert _differences(root) == {README: f"has mode {mode:04o}, should be 0644"}


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077, 0o027])
def test_an_installers_umask_is_no_difference(umask: int, root: Path) -> None:
    _chmod(root, 0o777 & ~umask, 0o666 & ~umask)
    assert _differences(root) == {}
    (root / BASH).chmod(0o777 & ~umask & ~0o111)
    assert list(_differences(root)) == [BASH]


def test_pips_modes_are_no_difference(root: Path) -> None:
    """It always gives programs all three execute bits, whatever the umask."""
    _chmod(root, 0o711, 0o600)
    assert _differences(root) == {}


def test_a_package_that_everybody_may_change_is_named(root: Path) -> None:
    _chmod(root, 0o777, 0o666)
    (root / "vendor").chmod(0o777)
    found = _differences(root)
    assert set(found) == {*CONTENT, "vendor", "vendor/MANIFEST.json"}
    assert found["vendor"] == "is a folder with mode 0777: every user may change what is in it"


@pytest.mark.parametrize("mode", [0o666, 0o755, 0o600])
def test_the_manifests_own_mode_is_compared(mode: int, root: Path) -> None:
    (root / "vendor" / "MANIFEST.json").chmod(mode)
    assert _differences(root) == {"vendor/MANIFEST.json": f"has mode {mode:04o}, should be 0644"}


@pytest.mark.parametrize("mode", [0o777, 0o1777])
@pytest.mark.parametrize("path", [".", "vendor/linux-x64"])
def test_a_folder_that_everybody_may_write_to_is_named(path: str, mode: int, root: Path) -> None:
    """Also the package's own, and one in which users may not delete each other's files: they may add some."""
    (root / path).chmod(mode)
    what = f"is a folder with mode {mode:04o}: every user may change what is in it"
    assert _differences(root) == {path: what}


@pytest.mark.parametrize("name", [b"\xff", b"x\x1b[2J\nall as they were made", b"\xe2\x80\xae"])
def test_a_name_cannot_write_the_report(name: bytes, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.close(os.open(os.path.join(os.fsencode(root), name), os.O_CREAT | os.O_WRONLY, 0o644))  # noqa: PTH118 - bytes
    assert cli.main(["verify", str(root)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith(" is not part of the package")
    assert all(line.isprintable() and line.isascii() for line in lines)
    assert len(lines) == 4


def test_a_version_cannot_write_the_report(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = root / "vendor" / "MANIFEST.json"
    manifest.write_text(manifest.read_text().replace('"1.2.3"', '"1\\n\\u001b[2J"'))
    assert cli.main(["verify", str(root)]) == 0
    assert "version 1\\n\\x1b[2J, " in capsys.readouterr().out.splitlines()[0]


def _link(path: Path) -> None:
    target = path.parents[5] / "elsewhere"
    path.rename(target)
    path.symlink_to(target)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("change", "what"),
    [(_link, "is a symbolic link"), (_pipe, "is no regular file"), (_folder, "is a folder, not a file")],
)
def test_what_is_no_file_any_more_is_named(change: Callable[[Path], None], what: str, root: Path) -> None:
    change(root / BASH)
    assert _differences(root) == {BASH: what}


def test_a_linked_folder_hides_nothing(root: Path, tmp_path: Path) -> None:
    (root / "vendor" / "linux-x64").rename(tmp_path / "moved")
    (root / "vendor" / "linux-x64").symlink_to(tmp_path / "moved")
    found = _differences(root)
    assert found["vendor/linux-x64"] == "is a symbolic link"
    assert found[BASH] == "is missing"


@pytest.mark.parametrize("path", ["vendor/linux-x64/server/_internal/more.so", ".hidden", "node_modules/x/index.js"])
def test_an_additional_file_is_named(path: str, root: Path) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text("x")
    assert _differences(root) == {path: "is not part of the package"}


def test_a_socket_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("socket")
        assert _differences(root) == {"socket": "is no regular file"}


@pytest.mark.parametrize("level", [0, 1, 2])
def test_what_python_compiles_is_compared_with_its_source(level: int, root: Path) -> None:
    compiled = Path(str(py_compile.compile(str(root / "module.py"), optimize=level, doraise=True)))
    assert _differences(root) == {}
    other = root.parent / "module.py"
    other.write_text("VALUE = 2\n")
    py_compile.compile(str(other), cfile=str(compiled), optimize=level, doraise=True)
    path = compiled.relative_to(root).as_posix()
    assert _differences(root) == {path: "is not what module.py compiles to"}
    compiled.write_bytes(compiled.read_bytes()[:20])
    assert _differences(root) == {path: "is not what module.py compiles to"}


def test_what_another_python_compiled_is_said_not_to_be_looked_at(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may hold anything: this Python never runs it, and cannot read it."""
    compiled = root / "__pycache__" / "module.cpython-399.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"another form")
    assert cli.main(["verify", str(root)]) == 0
    said = capsys.readouterr().out
    assert "another Python compiled and runs them: 1 file, __pycache__/module.cpython-399.pyc\n" in said
    # A name of this Python's is what it runs, whatever the first bytes are.
    compiled.rename(compiled.with_name(f"module.{sys.implementation.cache_tag}.pyc"))
    assert list(_differences(root).values()) == ["is not what module.py compiles to"]


def test_what_was_compiled_from_nothing_is_additional(root: Path) -> None:
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "other.cpython-311.pyc").write_bytes(b"x")
    assert _differences(root) == {"__pycache__/other.cpython-311.pyc": "is not part of the package"}


def test_every_difference_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _flip(root / "package.json")
    (root / BASH).unlink()
    (root / "more").write_text("x")
    (root / README).chmod(0o755)
    assert cli.main(["verify", str(root)]) == 1
    said = capsys.readouterr().out
    assert "4 differences:" in said
    assert [line.split()[0] for line in said.splitlines()[1:5]] == sorted(["package.json", BASH, "more", README])


def test_the_manifest_is_anchored(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who changes a file and its line in the manifest is found by the release's SHA256SUMS."""
    manifest = root / "vendor" / "MANIFEST.json"
    anchor = hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert cli.main(["verify", "--manifest-sha256", anchor, str(root)]) == 0
    before = hashlib.sha256((root / BASH).read_bytes()).hexdigest()
    _flip(root / BASH)
    manifest.write_text(manifest.read_text().replace(before, hashlib.sha256((root / BASH).read_bytes()).hexdigest()))
    assert cli.main(["verify", str(root)]) == 0
    assert cli.main(["verify", "--manifest-sha256", anchor, str(root)]) == 1
    assert f"should be {anchor}" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["", "vendor"])
def test_it_is_found_from_where_users_are(place: str, root: Path) -> None:
    assert verify.find_package(root / place) == root


def test_it_is_found_in_a_project(root: Path, tmp_path: Path) -> None:
    project = tmp_path / "project" / "node_modules"
    project.mkdir(parents=True)
    root.rename(project / "codex-shell-tool-mcp")
    assert verify.find_package(tmp_path / "project") == project / "codex-shell-tool-mcp"


def test_no_package_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(tmp_path)]) == PackageError.exit_code
    assert f"no package is at {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("not json", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"format": 3}', "has form 3"),
        ('{"format": 2, "files": []}', "version"),
        ('{"format": 2, "version": "1", "files": [{"path": "../x"}]}', "leads out of the package"),
        ('{"format": 2, "version": "1", "files": [{"path": "/x"}]}', "leads out of the package"),
        (
            '{"format": 2, "version": "1", "files": [{"path": "x", "size": 1, "mode": "4755", "sha256": "'
            + "0" * 64
            + '"}]}',
            "not described",
        ),
    ],
)
def test_a_manifest_that_cannot_be_used_is_an_error(text: str, what: str, root: Path) -> None:
    (root / "vendor" / "MANIFEST.json").write_text(text)
    with pytest.raises(PackageError, match=what):
        verify.check(root)


def test_the_anchor_is_a_hash() -> None:
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        verify.main(["--manifest-sha256", "abc"], frozen=False)


def test_a_file_that_cannot_be_read_is_named(root: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (root / BASH).chmod(0o311)
    assert verify.check(root).differences[0].what == "cannot be read: Permission denied"
