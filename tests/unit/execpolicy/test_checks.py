"""Splitting examples into words: the rules of a POSIX shell, with comments."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_shell_tool_mcp.execpolicy.checks import split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("git status", ["git", "status"]),
        ("  git\t\nstatus  ", ["git", "status"]),
        ("a\rb", ["a\rb"]),
        ("'a b' \"c d\"", ["a b", "c d"]),
        ("a'b'\"c\"d", ["abcd"]),
        ("''", [""]),
        ('a "" b', ["a", "", "b"]),
        (r"a\ b", ["a b"]),
        (r"\'", ["'"]),
        ("a\\\nb", ["ab"]),
        (r'"\$\`\"\\"', ['$`"\\']),
        (r'"\a\n"', [r"\a\n"]),
        ('"a\\\nb"', ["ab"]),
        (r"'a\'", ["a\\"]),
        ("a # b\nc", ["a", "c"]),
        ("#a\nb", ["b"]),
        ("a#b", ["a#b"]),
        ("''#b", ["#b"]),
        ("a #", ["a"]),
        ("", []),
        (" \n", []),
        ("# x", []),
        ("é \N{NO-BREAK SPACE}", ["é", "\N{NO-BREAK SPACE}"]),
        ("'", None),
        ('"', None),
        ('"\\"', None),
        ("a\\", None),
        ("a 'b", None),
    ],
)
def test_split_words(text: str, words: list[str] | None) -> None:
    assert split_words(text) == words


@settings(deadline=None)
@given(st.lists(st.text()))
def test_quoted_words_come_back(words: list[str]) -> None:
    assert split_words(shlex.join(words)) == words


@settings(deadline=None)
@given(st.text(alphabet="ab '\"\\#\n$"))
def test_never_fails_and_agrees_with_the_standard_library_where_that_follows_posix(text: str) -> None:
    words = split_words(text)
    if "#" in text or "\\\n" in text:
        return  # shlex knows no comments within a word's reach and keeps escaped line ends
    try:
        expected = shlex.split(text)
    except ValueError:
        expected = None
    if expected is not None and "\\" not in text:
        assert words == expected
    assert (words is None) == (expected is None)
