"""The table of dangerous commands: every row's own examples, and how words are compared with it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.execpolicy import danger
from codex_shell_tool_mcp.execpolicy.danger import Row, row_of, table, unwrapped

if TYPE_CHECKING:
    from collections.abc import Sequence


def danger_of(command: Sequence[str]) -> Row | None:
    return row_of(unwrapped(command))


ROWS = table().rows
MATCH = [(row, example) for row in ROWS for example in row.match]
NOT_MATCH = [(row, example) for row in ROWS for example in row.not_match]


@pytest.mark.parametrize(("row", "example"), MATCH, ids=[example for _, example in MATCH])
def test_what_a_row_fits(row: Row, example: str) -> None:
    found = danger_of(shlex.split(example))
    assert found is not None
    assert found.why == row.why


@pytest.mark.parametrize(("row", "example"), NOT_MATCH, ids=[example for _, example in NOT_MATCH])
def test_what_no_row_fits(row: Row, example: str) -> None:
    assert danger_of(shlex.split(example)) is None


def test_every_row_has_examples_of_both_kinds() -> None:
    for row in ROWS:
        assert row.match, row.why
        assert row.not_match, row.why
        assert row.programs


def test_every_row_is_needed() -> None:
    """Each fits an example of its own that no other row fits."""
    for row in ROWS:
        others = tuple(other for other in ROWS if other is not row)
        without = danger.Table(rows=others, programs=table().programs)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(danger, "table", lambda without=without: without)
            assert any(danger_of(shlex.split(example)) is None for example in row.match), row.match


@pytest.mark.parametrize(
    "command",
    [
        "sudo -u me env -i A=1 nice -n 3 rm -rf x",
        "timeout -k 1 5 rm -rf x",
        "find . -name x -exec rm -rf {} ;",
        "find . -delete -exec echo {} ;",
        "xargs -0 -n1 git push --force",
        "env -- rm -f x",
        "sudo -- rm -f x",
        "stdbuf -oL rm -f x",
    ],
)
def test_what_runs_it_does_not_matter(command: str) -> None:
    assert danger_of(shlex.split(command))


@pytest.mark.parametrize(
    "command", ["", "sudo", "env A=1", "timeout 5", "find . -exec", "sudo -u", "xargs", "env -u rm x", "-rf", "rm"]
)
def test_what_runs_nothing(command: str) -> None:
    assert danger_of(shlex.split(command)) is None


def test_odd_words() -> None:
    assert danger_of([]) is None
    assert danger_of([""]) is None
    assert danger_of(["rm", "", "-", "--", "-f"]) is None
    assert danger_of(["rm", "\udcff", "-f"])


def test_long_commands_take_no_long_time() -> None:
    """A limit, not a clock: with one more step for each pair of words these would not end in the test's time."""
    assert danger_of(["env"] * 100_000) is None
    assert danger_of(["sudo"] * 3_000 + ["rm", "-f"])
    assert danger_of(["git", *["-c"] * 100_000]) is None


@pytest.mark.parametrize("name", ["x*", "--", "*"])
def test_a_program_that_could_not_be_looked_for_is_refused(name: str) -> None:
    row = Row(programs=(name,), why="x", match=(), not_match=())
    with pytest.raises(ValueError, match="must"):
        danger.Table(rows=(row,), programs={})
