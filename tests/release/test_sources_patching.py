"""Patches apply exactly or not at all; unified and context diffs mean the same."""

from __future__ import annotations

import difflib
import random
from typing import TYPE_CHECKING

import pytest

from shell_tool_release import patching
from shell_tool_release.errors import PatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def as_unified(path: str, old: list[str], new: list[str]) -> bytes:
    return "".join(difflib.unified_diff(old, new, f"a/{path}", f"b/{path}")).encode()


def as_context(path: str, old: list[str], new: list[str]) -> bytes:
    """Like GNU's official patches: the old name lies in another folder, the new one has none to strip."""
    return "".join(difflib.context_diff(old, new, f"../orig/{path}", path, "2025-07-01", "2025-07-02")).encode()


FORMATS: list[tuple[Callable[[str, list[str], list[str]], bytes], int]] = [(as_unified, 1), (as_context, 0)]


def numbered(count: int) -> list[str]:
    return [f"line {number}\n" for number in range(count)]


def edits(rng: random.Random, lines: list[str]) -> Iterator[str]:
    for line in lines:
        action = rng.random()
        if action < 0.08:
            continue
        if action < 0.16:
            yield f"new {rng.random()}\n"
        yield f"{line.rstrip()} changed\n" if action > 0.92 else line


@pytest.mark.parametrize(("render", "strip"), FORMATS)
@pytest.mark.parametrize("seed", range(30))
def test_generated_changes_arrive_byte_for_byte(
    tmp_path: Path, render: Callable[[str, list[str], list[str]], bytes], strip: int, seed: int
) -> None:
    rng = random.Random(seed)
    old = numbered(rng.randrange(1, 120))
    new = list(edits(rng, old)) or ["left\n"]
    if old == new:
        new.append("more\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file.c").write_text("".join(old), encoding="utf-8")
    text = b"Some prose first.\n\n" + render("sub/file.c", old, new)
    patching.apply(patching.parse(text, strip=strip), tmp_path)
    assert (tmp_path / "sub" / "file.c").read_text(encoding="utf-8") == "".join(new)


@pytest.mark.parametrize(("render", "strip"), FORMATS)
def test_a_hunk_elsewhere_is_found_and_its_distance_told(
    tmp_path: Path, render: Callable[[str, list[str], list[str]], bytes], strip: int
) -> None:
    old = numbered(40)
    new = [*old[:20], "inserted\n", *old[20:]]
    (tmp_path / "f").write_text("".join(["above\n"] * 7 + old), encoding="utf-8")
    (applied,) = patching.apply(patching.parse(render("f", old, new), strip=strip), tmp_path)
    assert applied.offsets == (7,)
    assert (tmp_path / "f").read_text(encoding="utf-8") == "".join(["above\n"] * 7 + new)


@pytest.mark.parametrize(("render", "strip"), FORMATS)
def test_changed_context_is_refused_and_nothing_written(
    tmp_path: Path, render: Callable[[str, list[str], list[str]], bytes], strip: int
) -> None:
    old = numbered(40)
    new = [*old[:5], "one\n", *old[5:30], "two\n", *old[30:]]
    present = "".join(old).replace("line 31\n", "line thirty-one\n")
    (tmp_path / "f").write_text(present, encoding="utf-8")
    with pytest.raises(PatchError, match=r"f: the hunk at line 28 .*nowhere"):
        patching.apply(patching.parse(render("f", old, new), strip=strip), tmp_path)
    assert (tmp_path / "f").read_text(encoding="utf-8") == present


def test_an_ambiguous_place_is_refused(tmp_path: Path) -> None:
    block = ["{\n", "  x;\n", "}\n"]
    text = as_unified("f", block, ["{\n", "  x;\n", "  y;\n", "}\n"])
    (tmp_path / "f").write_text("".join(["top\n", *block, "middle\n", *block]), encoding="utf-8")
    with pytest.raises(PatchError, match="in 2 places"):
        patching.apply(patching.parse(text, strip=1), tmp_path)


def test_a_new_file_is_made_once(tmp_path: Path) -> None:
    text = b"--- /dev/null\n+++ b/sub/new.h\n@@ -0,0 +1,2 @@\n+one\n+two\n"
    patches = patching.parse(text, strip=1)
    patching.apply(patches, tmp_path)
    assert (tmp_path / "sub" / "new.h").read_bytes() == b"one\ntwo\n"
    with pytest.raises(PatchError, match="is there already"):
        patching.apply(patches, tmp_path)


def test_missing_newline_and_carriage_returns_survive(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a\rb\r\nlast")
    text = b"--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\rb\r\n-last\n\\ No newline at end of file\n+new\n"
    patching.apply(patching.parse(text, strip=1), tmp_path)
    assert (tmp_path / "f").read_bytes() == b"a\rb\r\nnew\n"


@pytest.mark.parametrize("name", ["b/../../outside", "/etc/passwd", "b"])
def test_a_path_outside_is_refused(name: str) -> None:
    text = f"--- a/x\n+++ {name}\n@@ -1 +1 @@\n-a\n+b\n".encode()
    with pytest.raises(PatchError, match="names no file below"):
        patching.parse(text, strip=1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "no change was found"),
        (b"just prose\n", "no change was found"),
        (b"--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@\n a\n-b\n", "ends before its line counts"),
        (b"--- a/f\n+++ b/f\nprose\n", "has no hunk"),
        (b"*** x\t1\n--- f\t1\n***************\n*** 1,9 ****\n! a\n--- 1 ----\n! b\n", "another number of lines"),
    ],
)
def test_a_damaged_patch_is_refused(text: bytes, reason: str) -> None:
    with pytest.raises(PatchError, match=reason):
        patching.parse(text, strip=1 if text.startswith(b"---") else 0)
