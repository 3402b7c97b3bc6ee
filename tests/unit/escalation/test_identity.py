"""Which file a descriptor is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.escalation import identity
from codex_shell_tool_mcp.escalation.identity import Kind

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("file", "cwd", "expected"),
    [
        ("/usr/bin/git", "/w", "/usr/bin/git"),
        ("./git", "/w", "/w/git"),
        ("git", "/w", "/w/git"),
        ("../x/./git", "/w/y", "/w/x/git"),
        ("/usr/bin/../bin/git", None, "/usr/bin/git"),
        ("tool", None, "/tool"),
        ("//usr/bin//git", "/w", "/usr/bin/git"),
    ],
)
def test_absolute(file: str, cwd: str | None, expected: str) -> None:
    assert identity.absolute(file, cwd) == expected


def test_path_of_follows_links(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to("real")
    descriptor = os.open(tmp_path / "link", os.O_RDONLY)
    try:
        assert identity.path_of(descriptor) == str((tmp_path / "real").resolve())
        (tmp_path / "real").unlink()
        assert identity.path_of(descriptor) is None
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("change", ["append", "touch"])
def test_fingerprint_sees_a_change_in_place(tmp_path: Path, change: str) -> None:
    file = tmp_path / "tool"
    file.write_text("one")
    descriptor = os.open(file, os.O_RDONLY)
    try:
        before = identity.fingerprint(descriptor)
        assert identity.fingerprint(descriptor) == before
        if change == "append":
            file.write_text("more than before")
        else:
            os.utime(file, ns=(1, -(10**18)))
            assert identity.fingerprint(descriptor).modified == 2**64 - 10**18
        assert identity.fingerprint(descriptor) != before
    finally:
        os.close(descriptor)


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="O_PATH is Linux's; elsewhere a file is told by its path")
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"#!/bin/sh\n", Kind.SCRIPT),
        (b"#! sh", Kind.SCRIPT),
        (b"#! \t\n/bin/sh\n", Kind.PLAIN),
        (b"#!", Kind.PLAIN),
        (b"\x7fELF", Kind.IMAGE),
        (b"\xcf\xfa\xed\xfe", Kind.IMAGE),
        (b"MZ\0garbage", Kind.IMAGE),
        (b"echo a\n\0", Kind.PLAIN),
        (b"", Kind.PLAIN),
        (b"#", Kind.PLAIN),
    ],
)
def test_kind_of(tmp_path: Path, content: bytes, expected: Kind) -> None:
    file = tmp_path / "tool"
    file.write_bytes(content)
    descriptor = os.open(file, os.O_PATH)
    try:
        assert identity.kind_of(descriptor) is expected
    finally:
        os.close(descriptor)


def test_a_folder_is_no_script(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        assert identity.kind_of(descriptor) is Kind.IMAGE
    finally:
        os.close(descriptor)


def test_roots_follow_their_links_and_hold_what_is_below(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to("real")
    real = tmp_path.resolve() / "real"
    roots = identity.Roots.of((tmp_path / "root",))
    assert roots.hold(str(real))
    assert roots.hold(str(real / "git"))
    assert not roots.hold(f"{real}istic")
    assert not roots.hold(str(real.parent))
    assert identity.Roots.of((real, real.parents[-1])).hold("/usr")
    assert not identity.Roots.of(()).hold("/usr")


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A folder that the sandbox can write and one that it cannot, which holds the program ``real``."""
    root, safe = tmp_path.resolve() / "root", tmp_path.resolve() / "safe"
    root.mkdir()
    safe.mkdir()
    (safe / "real").touch()
    (safe / "alias").symlink_to("real")
    (safe / "absolute").symlink_to(safe / "real")
    (safe / "loop").symlink_to("loop")
    (safe / "round").symlink_to("../root/back")
    (root / "back").symlink_to("../safe/real")
    (root / "git").symlink_to(safe / "real")
    (root / "tool").touch()
    (root / "safe").symlink_to(safe)
    (safe / "into").symlink_to(root)
    return root, safe


@pytest.mark.parametrize("name", ["safe/real", "safe/alias", "safe/absolute", "safe/../safe/alias"])
def test_names_out_of_reach_are_trusted(places: tuple[Path, Path], name: str) -> None:
    root, safe = places
    assert identity.name_is_trusted(str(root.parent / name), str(safe / "real"), identity.Roots.of((root,)))


@pytest.mark.parametrize(
    "name", ["root/git", "root/tool", "root/safe/real", "safe/into/git", "safe/round", "safe/loop"]
)
def test_names_within_reach_are_not(places: tuple[Path, Path], name: str) -> None:
    root, safe = places
    for resolved in (str(safe / "real"), os.path.realpath(root.parent / name), None):
        assert not identity.name_is_trusted(str(root.parent / name), resolved, identity.Roots.of((root,)))


def test_names_through_proc_are_not(places: tuple[Path, Path]) -> None:
    root, safe = places
    assert not identity.name_is_trusted(f"/proc/self/root{safe}/real", str(safe / "real"), identity.Roots.of((root,)))


def test_a_name_that_leads_elsewhere_by_now_is_not(places: tuple[Path, Path]) -> None:
    root, safe = places
    assert not identity.name_is_trusted(str(safe / "alias"), str(safe / "other"), identity.Roots.of((root,)))
