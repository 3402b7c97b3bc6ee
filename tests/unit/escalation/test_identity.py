"""Which file a descriptor is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.escalation import identity

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
            os.utime(file, ns=(1, 1))
        assert identity.fingerprint(descriptor) != before
    finally:
        os.close(descriptor)


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="O_PATH is Linux's; elsewhere scripts are told by their path")
@pytest.mark.parametrize(
    ("content", "expected"), [(b"#!/bin/sh\n", True), (b"\x7fELF", False), (b"", False), (b"#", False)]
)
def test_is_script(tmp_path: Path, content: bytes, expected: bool) -> None:
    file = tmp_path / "tool"
    file.write_bytes(content)
    descriptor = os.open(file, os.O_PATH)
    try:
        assert identity.is_script(descriptor) is expected
    finally:
        os.close(descriptor)


def test_is_below_follows_the_links_of_the_roots(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to("real")
    inside = str(tmp_path.resolve() / "real" / "git")
    assert identity.is_below(inside, (tmp_path / "root",))
    assert not identity.is_below(f"{inside}x/../../other", (tmp_path / "elsewhere",))
    assert not identity.is_below(str(tmp_path.resolve() / "realistic"), (tmp_path / "root",))
