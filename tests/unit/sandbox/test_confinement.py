"""What is started for a state, on each platform; and that nothing unknown runs open."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from codex_shell_tool_mcp.errors import SandboxError
from codex_shell_tool_mcp.sandbox import confinement, linux, macos
from codex_shell_tool_mcp.sandbox.spec import (
    DangerFullAccess,
    ExternalSandbox,
    ReadOnly,
    RestrictedReads,
    Restrictions,
    SandboxPolicy,
    WorkspaceWrite,
    default_state,
)

COMMAND = [b"/vendor/bash", b"bash", b"-lc", b"true"]


def apply(policy: SandboxPolicy, workdir: Path = Path("/")) -> confinement.Confinement:
    return confinement.apply(default_state(policy, workdir), COMMAND, {})


@pytest.mark.parametrize("platform", ["linux", "darwin", "freebsd14"])
@pytest.mark.parametrize("policy", [DangerFullAccess(), ExternalSandbox(), ExternalSandbox(network=True)])
def test_no_confinement_where_none_is_asked(
    policy: SandboxPolicy, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    confined = apply(policy)
    assert not confined.supervisor_options
    assert list(confined.shell_argv) == COMMAND
    assert confined.writable is None
    restricted = policy == ExternalSandbox()
    assert confined.markers == ({b"CODEX_SANDBOX_NETWORK_DISABLED": b"1"} if restricted else {})


def test_linux_hands_it_to_the_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    policy = WorkspaceWrite(writable_roots=(tmp_path / "missing",), exclude_slash_tmp=True)
    confined = apply(policy, tmp_path)
    assert list(confined.supervisor_options) == [b"--restrict", b"--writable", bytes(tmp_path), b"--no-network"]
    assert list(confined.shell_argv) == COMMAND
    assert confined.writable == (tmp_path / "missing", tmp_path)
    assert confined.markers == {b"CODEX_SANDBOX_NETWORK_DISABLED": b"1"}


def test_linux_leaves_out_what_cannot_be_reached(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    roots = (tmp_path / "loop", tmp_path / "file" / "below", Path("/" + "x" * 5000), tmp_path / "file")
    options = linux.supervisor_arguments(Restrictions(write_everywhere=False, writable=roots, network=True))
    assert options == [b"--restrict", b"--writable", bytes(tmp_path / "file")]


def test_linux_read_only_has_no_writable_place() -> None:
    assert linux.supervisor_arguments(Restrictions(write_everywhere=False, writable=(), network=True)) == [
        b"--restrict"
    ]
    assert linux.supervisor_arguments(Restrictions(write_everywhere=True, writable=(), network=False)) == [
        b"--no-network"
    ]


def test_macos_wraps_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    confined = apply(WorkspaceWrite(exclude_slash_tmp=True), tmp_path / "link")
    program, name, flag, text, parameter, *rest = confined.shell_argv
    assert (program, name, flag) == (b"/usr/bin/sandbox-exec", b"sandbox-exec", b"-p")
    assert parameter == b"-DWRITABLE_ROOT_0=" + bytes((tmp_path / "real").resolve())
    assert rest == [b"--", b"/vendor/bash", b"-lc", b"true"]
    assert b"network-outbound" not in text
    assert not confined.supervisor_options
    assert confined.markers == {b"CODEX_SANDBOX": b"seatbelt", b"CODEX_SANDBOX_NETWORK_DISABLED": b"1"}


def _rules(text: str) -> list[str]:
    """The profile's top-level expressions; fails on unbalanced brackets."""
    found, depth, start = [], 0, 0
    in_string = False
    for index, character in enumerate(text):
        if character == '"':
            in_string = not in_string
        if in_string:
            continue
        if character == "(":
            start = index if depth == 0 else start
            depth += 1
        elif character == ")":
            depth -= 1
            assert depth >= 0
            if depth == 0:
                found.append(re.sub(r"\s+", " ", text[start : index + 1]))
    assert depth == 0
    assert not in_string
    return found


def test_a_profile_denies_first() -> None:
    rules = _rules(macos.profile(Restrictions(write_everywhere=False, writable=(), network=False)))
    assert rules[:2] == ["(version 1)", "(deny default)"]
    assert all(rule.startswith("(allow ") for rule in rules[2:])
    assert "(allow file-read*)" in rules


def test_a_read_only_profile_writes_to_terminals_and_null_only() -> None:
    text = macos.profile(Restrictions(write_everywhere=False, writable=(), network=False))
    writes = [rule for rule in _rules(text) if "file-write" in rule]
    assert all("/dev/" in rule for rule in writes)
    assert not any("network" in rule or "system-socket" in rule for rule in _rules(text))


def test_a_profile_names_each_writable_root_by_its_parameter() -> None:
    roots = (Path('/odd"path'), Path("/b"))
    text = macos.profile(Restrictions(write_everywhere=False, writable=roots, network=True))
    assert '(allow file-write* (subpath (param "WRITABLE_ROOT_0")) (subpath (param "WRITABLE_ROOT_1")))' in _rules(text)
    assert "odd" not in text
    assert "(allow network-outbound)" in _rules(text)


def test_a_profile_for_the_network_alone() -> None:
    rules = _rules(macos.profile(Restrictions(write_everywhere=True, writable=(), network=False)))
    assert '(allow file-write* (regex #"^/"))' in rules


@pytest.mark.parametrize("policy", [ReadOnly(), WorkspaceWrite()])
def test_an_unknown_platform_refuses(policy: SandboxPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "freebsd14")
    with pytest.raises(SandboxError, match="no sandbox is known for freebsd14"):
        apply(policy)


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_what_cannot_be_enforced_refuses(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(SandboxError, match="limits what may be read"):
        apply(ReadOnly(reads=RestrictedReads()))


def test_reports_say_who_enforces_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")

    def report(policy: SandboxPolicy) -> dict[str, object]:
        return confinement.report(default_state(policy, Path("/w")), {})

    assert report(DangerFullAccess()) == {"policy": "danger-full-access", "enforced_by": "nobody"}
    assert report(ExternalSandbox()) == {"policy": "external-sandbox", "enforced_by": "somebody else"}
    assert report(ReadOnly()) == {
        "policy": "read-only",
        "enforced_by": "landlock and seccomp",
        "writable": [],
        "network": False,
    }
    assert report(WorkspaceWrite(exclude_slash_tmp=True, network=True)) == {
        "policy": "workspace-write",
        "enforced_by": "landlock",
        "writable": ["/w"],
        "network": True,
    }


def test_macos_reports_its_own_name() -> None:
    assert macos.describe(Restrictions(write_everywhere=False, writable=(), network=False)) == "seatbelt"
