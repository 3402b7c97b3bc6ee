"""Where the programs lie, frozen and not."""

from __future__ import annotations

from pathlib import Path

import pytest

from codex_shell_tool_mcp.errors import MissingBinaryError
from codex_shell_tool_mcp.shells import locate
from codex_shell_tool_mcp.shells.catalog import host_target, variants
from codex_shell_tool_mcp.shells.locate import Programs, find_programs, vendor_folder


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\nexit 40\n")
    path.chmod(mode)
    return path


@pytest.fixture
def vendor(tmp_path: Path) -> Path:
    folder = tmp_path / "vendor"
    target = folder / host_target()
    variant = next(row.variant for row in variants() if row.target == host_target())
    for name in (f"bash/{variant}/bash", "bin/codex-execve-wrapper", "bin/codex-shell-supervisor"):
        program(target / name)
    return folder


def find(vendor: Path, **options: Path | None) -> Programs:
    return find_programs(
        bash=options.get("bash"),
        execve=options.get("execve"),
        supervisor=options.get("supervisor"),
        environ={b"CODEX_SHELL_TOOL_MCP_VENDOR": bytes(vendor)},
        frozen=False,
    )


def test_everything_is_found(vendor: Path) -> None:
    target = vendor / host_target()
    found = find(vendor)
    assert found.wrapper == target / "bin/codex-execve-wrapper"
    assert found.supervisor == target / "bin/codex-shell-supervisor"
    assert found.shell.path.is_relative_to(target / "bash")


def test_options_win(vendor: Path, tmp_path: Path) -> None:
    own = program(tmp_path / "own")
    found = find(vendor, bash=own, execve=own, supervisor=own)
    assert (found.shell.path, found.wrapper, found.supervisor) == (own, own, own)


def test_options_work_without_a_vendor_folder(tmp_path: Path) -> None:
    own = program(tmp_path / "own")
    assert find(tmp_path / "missing", bash=own, execve=own, supervisor=own).wrapper == own


def test_a_relative_option_is_made_absolute(vendor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    assert find(vendor, execve=Path("own")).wrapper == tmp_path / "own"


def test_the_python_wrapper_stands_in_where_there_is_no_native_one(vendor: Path) -> None:
    target = vendor / host_target()
    (target / "bin/codex-execve-wrapper").unlink()
    python = program(target / "server/codex-execve-wrapper-py")
    assert find(vendor).wrapper == python


@pytest.mark.parametrize("name", ["codex-execve-wrapper", "codex-shell-supervisor"])
@pytest.mark.parametrize("damage", ["missing", "not executable", "a directory"])
def test_what_is_wrong_is_named(vendor: Path, name: str, damage: str) -> None:
    path = vendor / host_target() / "bin" / name
    if damage == "not executable":
        path.chmod(0o644)
    else:
        path.unlink()
    if damage == "a directory":
        path.mkdir()
    with pytest.raises(MissingBinaryError) as caught:
        find(vendor)
    assert f"{name} not found: {path}: {damage.replace('missing', 'no such file')}" in str(caught.value)
    assert "CODEX_SHELL_TOOL_MCP_VENDOR" in str(caught.value)


@pytest.mark.parametrize(
    ("option", "name"), [("execve", "codex-execve-wrapper"), ("supervisor", "codex-shell-supervisor")]
)
def test_an_option_that_does_not_work_is_named(vendor: Path, tmp_path: Path, option: str, name: str) -> None:
    own = program(tmp_path / "own", 0o644)
    with pytest.raises(MissingBinaryError, match=f"{name} cannot be used: --{option} is {own}: not executable"):
        find(vendor, **{option: own})


def test_a_frozen_server_looks_around_itself(tmp_path: Path) -> None:
    server = program(tmp_path / "pkg/vendor/linux-x64/server/codex-exec-mcp-server")
    (tmp_path / "link").symlink_to(server)
    for executable in (server, tmp_path / "link"):
        found = vendor_folder({b"CODEX_SHELL_TOOL_MCP_VENDOR": b"/elsewhere"}, frozen=True, executable=str(executable))
        assert found == tmp_path / "pkg/vendor"


def test_a_checkout_has_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = tmp_path / "src/codex_shell_tool_mcp/shells/locate.py"
    monkeypatch.setattr(locate, "__file__", str(module))
    assert vendor_folder({}, frozen=False) is None
    (tmp_path / "vendor").mkdir()
    assert vendor_folder({}, frozen=False) == tmp_path / "vendor"
    assert vendor_folder({b"CODEX_SHELL_TOOL_MCP_VENDOR": b""}, frozen=False) == tmp_path / "vendor"


def test_zsh_is_found_when_asked_for(vendor: Path, tmp_path: Path) -> None:
    variant = next(row.variant for row in variants() if (row.target, row.shell) == (host_target(), "zsh"))
    shipped = program(vendor / host_target() / "zsh" / variant / "zsh")
    own = program(tmp_path / "own")
    environ = {b"CODEX_SHELL_TOOL_MCP_VENDOR": bytes(vendor)}
    for zsh, path in ((None, shipped), (own, own)):
        found = find_programs(
            shell="zsh", bash=None, zsh=zsh, execve=None, supervisor=None, environ=environ, frozen=False
        )
        assert (found.shell.path, found.shell.shell) == (path, "zsh")
