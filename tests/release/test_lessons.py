"""``docs/lessons.md``: each line names tests, and they exist."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "lessons.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if re.match(r"\| ([0-9]+|[0-9a-f]{9}\b)", line)]
BROKE = {
    *("40d14c075", "d8a7a6395", "865e225bd", "6b5b9a687", "ee191dbe8", "a2c86e5d8", "46baedd7c", "ac2090caf"),
    *("77222492f", "a748600c4", "2a624661e", "35e03a071", "f7699e048", "7b34cad1b", "83d7c4450", "b4b476300"),
    *("4d9ae3a29", "d29129f35", "2945667dc", "b654b7a9a", "e6c4f548a", "48f203120", "58a59a2da", "9cf7a0728"),
    *("fca5629e3", "e6eb6be68", "fcf16e97a", "3241c1c6c", "15ede607a", "26d9bddc5", "c4bb7db15", "fffc92a77"),
    *("2a68b74b9", "dc1a568dc", "74e112ea0"),
}
"""Commits of the original's history that mended the release, or broke it."""


def named(row: str) -> list[str]:
    """The tests in a row's last column."""
    return re.findall(r"`([^`]+)`", row.strip("| ").rsplit("|", 1)[1])


@functools.cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / file).read_bytes())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_every_line_names_tests_that_exist(row: str) -> None:
    tests = named(row)
    assert tests
    for test in tests:
        file, _, name = test.partition("::")
        assert name in names_in(file) or (name == "*" and names_in(file)), f"{test} is not there"


def test_every_lesson_and_every_breakage_has_its_line() -> None:
    numbers = [int(found[1]) for row in ROWS if (found := re.match(r"\| (\d{1,2}) \|", row))]
    assert numbers == list(range(1, 13))
    commits = [commit for row in ROWS for commit in re.findall(r"\b[0-9a-f]{9}\b", row.split("|")[1])]
    assert len(commits) == len(set(commits))
    assert set(commits) == BROKE
