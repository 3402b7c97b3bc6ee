"""What a client may ask for, and what it comes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from codex_shell_tool_mcp.errors import SandboxError
from codex_shell_tool_mcp.sandbox.spec import (
    DangerFullAccess,
    ExternalSandbox,
    ReadOnly,
    RestrictedReads,
    SandboxPolicy,
    SandboxState,
    SandboxStateError,
    WorkspaceWrite,
    default_state,
    has_network,
    markers,
    parse_state,
    restrictions,
    writable_roots,
)

HERE = Path("/here")


def state(policy: object, **more: object) -> SandboxState:
    return parse_state({"sandboxPolicy": policy, "sandboxCwd": "/w", **more}, HERE)


@pytest.mark.parametrize(
    ("raw", "policy"),
    [
        ({"type": "danger-full-access"}, DangerFullAccess()),
        ({"type": "danger-full-access", "future": 1}, DangerFullAccess()),
        ({"type": "read-only"}, ReadOnly()),
        ({"type": "read-only", "network_access": True}, ReadOnly(network=True)),
        ({"type": "read-only", "access": {"type": "full-access"}}, ReadOnly()),
        (
            {"type": "read-only", "access": {"type": "restricted", "readable_roots": ["/a"]}},
            ReadOnly(reads=RestrictedReads(readable_roots=(Path("/a"),))),
        ),
        ({"type": "external-sandbox"}, ExternalSandbox()),
        ({"type": "external-sandbox", "network_access": "restricted"}, ExternalSandbox()),
        ({"type": "external-sandbox", "network_access": "enabled"}, ExternalSandbox(network=True)),
        ({"type": "workspace-write"}, WorkspaceWrite()),
        (
            {
                "type": "workspace-write",
                "writable_roots": ["/a/../b", "//c/./d/"],
                "network_access": True,
                "exclude_tmpdir_env_var": True,
                "exclude_slash_tmp": True,
                "read_only_access": {"type": "restricted", "include_platform_defaults": False},
            },
            WorkspaceWrite(
                writable_roots=(Path("/b"), Path("/c/d")),
                network=True,
                exclude_tmpdir_env_var=True,
                exclude_slash_tmp=True,
                reads=RestrictedReads(include_platform_defaults=False),
            ),
        ),
    ],
)
def test_policies(raw: dict[str, object], policy: SandboxPolicy) -> None:
    assert state(raw).policy == policy


@pytest.mark.parametrize(
    ("given", "cwd"), [("/w", "/w"), ("/w/./a/..", "/w"), ("sub", "/here/sub"), (".", "/here"), ("/", "/")]
)
def test_the_anchor_is_made_absolute(given: str, cwd: str) -> None:
    parsed = parse_state({"sandboxPolicy": {"type": "read-only"}, "sandboxCwd": given}, HERE)
    assert parsed.cwd == Path(cwd)


@pytest.mark.parametrize(
    ("fields", "bubblewrap"),
    [
        ({}, None),
        ({"useLinuxSandboxBwrap": True}, True),
        ({"useLinuxSandboxBwrap": False}, False),
        ({"useLegacyLandlock": True}, False),
        ({"useLegacyLandlock": False}, True),
        ({"useLegacyLandlock": True, "useLinuxSandboxBwrap": True}, False),
    ],
)
def test_both_spellings_of_the_mechanism(fields: dict[str, object], bubblewrap: bool | None) -> None:
    assert state({"type": "read-only"}, **fields).bubblewrap is bubblewrap


def test_a_whole_state_of_each_generation() -> None:
    policy = {"type": "workspace-write", "writable_roots": ["/w"], "network_access": False}
    old = state(policy, codexLinuxSandboxExe="/path/helper", useLinuxSandboxBwrap=False)
    new = state(policy, codexLinuxSandboxExe=None, useLegacyLandlock=True)
    assert old == new


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({}, "sandboxPolicy: missing"),
        ({"sandboxPolicy": "read-only"}, "sandboxPolicy: expected an object"),
        ({"sandboxPolicy": {"type": "read-only"}}, "sandboxCwd: missing"),
        ({"sandboxPolicy": {"type": "read-only"}, "sandboxCwd": 1}, "sandboxCwd: expected a path"),
        ({"sandboxPolicy": {"type": "read-only"}, "sandboxCwd": ""}, "sandboxCwd: expected a path"),
        ({"sandboxPolicy": {"type": "read-only"}, "sandboxCwd": "/\0"}, "sandboxCwd: expected a path"),
        ({"sandboxPolicy": {"type": "read-only"}, "sandboxCwd": "/\ud800"}, "sandboxCwd: holds half"),
    ],
)
def test_bad_states_are_refused(raw: dict[str, object], text: str) -> None:
    with pytest.raises(SandboxStateError) as caught:
        parse_state(raw, HERE)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        ({}, "sandboxPolicy.type: expected one of danger-full-access, external-sandbox, read-only, workspace-write"),
        ({"type": "new-and-strict"}, "sandboxPolicy.type: expected one of"),
        ({"type": ["read-only"]}, "sandboxPolicy.type: expected one of"),
        ({"type": "read_only"}, "sandboxPolicy.type: expected one of"),
        ({"type": "read-only", "network_access": "enabled"}, "sandboxPolicy.network_access: expected true or false"),
        ({"type": "read-only", "access": {"type": "some"}}, "sandboxPolicy.access: expected an object of type"),
        ({"type": "read-only", "access": None}, "sandboxPolicy.access: expected an object of type"),
        ({"type": "external-sandbox", "network_access": True}, "sandboxPolicy.network_access: expected"),
        ({"type": "workspace-write", "network_access": 1}, "sandboxPolicy.network_access: expected true or false"),
        ({"type": "workspace-write", "writable_roots": "/w"}, "sandboxPolicy.writable_roots: expected a list"),
        ({"type": "workspace-write", "writable_roots": ["w"]}, "sandboxPolicy.writable_roots: expected absolute"),
        ({"type": "workspace-write", "writable_roots": ["~/w"]}, "sandboxPolicy.writable_roots: expected absolute"),
        ({"type": "workspace-write", "writable_roots": [3]}, "sandboxPolicy.writable_roots: expected a path"),
        (
            {"type": "workspace-write", "read_only_access": {"type": "restricted", "readable_roots": ["x"]}},
            "sandboxPolicy.read_only_access.readable_roots: expected absolute",
        ),
    ],
)
def test_bad_policies_are_refused(policy: dict[str, object], text: str) -> None:
    with pytest.raises(SandboxStateError) as caught:
        state(policy)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("field", ["useLinuxSandboxBwrap", "useLegacyLandlock"])
def test_bad_preferences_are_refused(field: str) -> None:
    with pytest.raises(SandboxStateError, match=f"{field}: expected true or false"):
        state({"type": "read-only"}, **{field: "yes"})


def test_writable_roots_in_order() -> None:
    policy = WorkspaceWrite(writable_roots=(Path("/a"), Path("/b")))
    assert writable_roots(policy, Path("/w"), {b"TMPDIR": b"/t/../u"}) == tuple(
        map(Path, ("/a", "/b", "/w", "/tmp", "/u"))
    )


def test_temporary_directories_can_be_left_out() -> None:
    policy = WorkspaceWrite(exclude_slash_tmp=True, exclude_tmpdir_env_var=True)
    assert writable_roots(policy, Path("/w"), {b"TMPDIR": b"/t"}) == (Path("/w"),)


def test_an_empty_tmpdir_is_none_and_a_relative_one_is_anchored() -> None:
    policy = WorkspaceWrite(exclude_slash_tmp=True)
    assert writable_roots(policy, Path("/w"), {b"TMPDIR": b""}) == (Path("/w"),)
    assert writable_roots(policy, Path("/w"), {b"TMPDIR": b"t"}) == (Path("/w"), Path.cwd() / "t")


def test_a_tmpdir_that_is_not_utf8_keeps_its_bytes() -> None:
    roots = writable_roots(WorkspaceWrite(exclude_slash_tmp=True), Path("/w"), {b"TMPDIR": b"/t\xff"})
    assert bytes(roots[-1]) == b"/t\xff"


def test_what_each_policy_comes_to() -> None:
    def of(policy: SandboxPolicy) -> tuple[bool, tuple[Path, ...], bool]:
        found = restrictions(default_state(policy, Path("/w")), {})
        return found.write_everywhere, found.writable, found.network

    assert of(DangerFullAccess()) == (True, (), True)
    assert of(ExternalSandbox()) == (True, (), True)
    assert of(ReadOnly()) == (False, (), False)
    assert of(ReadOnly(network=True)) == (False, (), True)
    assert of(WorkspaceWrite(exclude_slash_tmp=True)) == (False, (Path("/w"),), False)
    assert of(WorkspaceWrite(exclude_slash_tmp=True, network=True)) == (False, (Path("/w"),), True)


@pytest.mark.parametrize("policy", [ReadOnly(reads=RestrictedReads()), WorkspaceWrite(reads=RestrictedReads())])
def test_restricted_reads_are_refused_not_ignored(policy: SandboxPolicy) -> None:
    with pytest.raises(SandboxError, match="limits what may be read, which this server cannot"):
        restrictions(default_state(policy, Path("/w")), {})


@pytest.mark.parametrize(
    ("policy", "network"),
    [
        (DangerFullAccess(), True),
        (ExternalSandbox(), False),
        (ExternalSandbox(network=True), True),
        (ReadOnly(), False),
        (ReadOnly(network=True), True),
        (WorkspaceWrite(), False),
        (WorkspaceWrite(network=True), True),
    ],
)
def test_the_network_marker(policy: SandboxPolicy, network: bool) -> None:
    assert has_network(policy) is network
    assert markers(policy) == ({} if network else {b"CODEX_SANDBOX_NETWORK_DISABLED": b"1"})
