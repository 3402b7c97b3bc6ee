"""The question a person is asked: the original's text, and nothing in it can pretend to be something else."""

from __future__ import annotations

import shlex
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_shell_tool_mcp.server.prompt import MESSAGE_LIMIT, SCHEMA, command_text, message, quote, quote_path, visible


def test_the_originals_question() -> None:
    assert (
        message("/usr/bin/git", ("git", "init", "--quiet", "."), "/w")
        == "Allow agent to run `/usr/bin/git init --quiet .` in `/w`?"
    )


def test_without_arguments_only_the_file_is_named() -> None:
    assert message("/usr/bin/true", ("true",), "/w") == "Allow agent to run `/usr/bin/true` in `/w`?"
    assert message("/usr/bin/true", (), "/w") == "Allow agent to run `/usr/bin/true` in `/w`?"


def test_argv0_is_not_what_is_shown() -> None:
    assert "git" not in message("/bin/rm", ("git", "-rf"), "/w")


def test_a_directory_without_a_name() -> None:
    assert message("/bin/ls", ("ls",), None) == (
        "Allow agent to run `/bin/ls` in a directory that has no name any more?"
    )


def test_the_form() -> None:
    assert SCHEMA["type"] == "object"
    assert SCHEMA["title"] == "Execution Permission Request"
    assert SCHEMA["properties"] == {
        "reason": {"type": "string", "description": "Optional reason for allowing or denying execution"}
    }
    assert "required" not in SCHEMA


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("", "''"),
        ("plain", "plain"),
        ("a+b-c./:@]_Z9", "a+b-c./:@]_Z9"),
        ("a=b", "'a=b'"),
        ("a,b", "'a,b'"),
        ("100%", "'100%'"),
        ("~", "'~'"),
        ("*", "'*'"),
        ("!", "'!'"),
        ("two words", "'two words'"),
        ("ä", "'ä'"),
        ("it's", '"it\'s"'),
        ("a\\b", '"a\\\\b"'),
        ('say "it\'s"', '"say \\"it\'s\\""'),
        ("$HOME's", "'$HOME'\"'s\""),
        ("'$'", "\"'\"'$'\"'\""),
        ("^x", "'^x'"),
        ("x^", "x'^'"),
        ("`id`", "'`id`'"),
    ],
)
def test_quoting_is_the_originals(word: str, shown: str) -> None:
    assert quote(word) == shown
    assert shlex.split(shown) == [word]


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("a\nAllow agent to run `ls`?", r"$'a\nAllow agent to run `ls`?'"),
        ("\x1b[2Jgone", r"$'\e[2Jgone'"),
        ("\r", r"$'\r'"),
        ("tab\there", r"$'tab\there'"),
        ("\x07", r"$'\x07'"),
        ("\x7f", r"$'\x7f'"),
        ("\x9b31m", r"$'\u009b31m'"),
        ("a\u202egpj.exe", r"$'a\u202egpj.exe'"),
        ("zero\u200bwidth", r"$'zero\u200bwidth'"),
        ("\u2066x\u2069", r"$'\u2066x\u2069'"),
        ("nb\u00a0sp", r"$'nb\u00a0sp'"),
        ("\u3164", r"$'\u3164'"),
        ("\U000e0041", r"$'\U000e0041'"),
        ("\u2028", r"$'\u2028'"),
        (b"\xff\xfe".decode("utf-8", "surrogateescape"), r"$'\xff\xfe'"),
        ("it's\n\\", r"$'it\'s\n\\'"),
    ],
)
def test_what_is_not_seen_is_spelled_out(word: str, shown: str) -> None:
    assert quote(word) == shown


@given(st.text())
def test_nothing_unseen_is_left(word: str) -> None:
    shown = quote(word)
    assert all(character == " " or unicodedata.category(character)[0] not in "CZ" for character in shown)


@given(st.text(st.characters(categories=["L", "N", "P", "S", "M"])))
def test_a_shell_would_read_the_same_word(word: str) -> None:
    shown = quote(word)
    if not shown.startswith("$'"):
        assert shlex.split(shown) == [word]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/usr/bin/git", "/usr/bin/git"),
        ("/a~b=c,d%e", "/a~b=c,d%e"),
        ("/with space", "'/with space'"),
        ("/x` in `/safe`?", "'/x` in `/safe`?'"),
        ("/a\nb", r"$'/a\nb'"),
        ("/it's", '"/it\'s"'),
        ("", "''"),
    ],
)
def test_paths_cannot_end_their_place_in_the_sentence(path: str, shown: str) -> None:
    assert quote_path(path) == shown


def test_a_very_long_command_is_cut_and_says_so() -> None:
    text = command_text("/bin/echo", ("echo", *["x" * 100] * 1000, "secret"))
    assert len(text) < MESSAGE_LIMIT + 100
    assert "secret" not in text
    assert "[cut: 1001 arguments, " in text


def test_one_very_long_word_is_cut_and_says_so() -> None:
    text = command_text("/bin/echo", ("echo", "y" * 1_000_000, "z"))
    assert len(text) < MESSAGE_LIMIT + 100
    assert text.endswith("or more characters not shown]")


def test_a_log_line_stays_one_line() -> None:
    assert visible("/bin/a\nb") == r"/bin/a\nb"
    assert visible("/bin/é") == "/bin/é"


def test_a_link_is_shown_with_what_it_leads_to() -> None:
    assert message("/w/git", ("git", "x"), "/w", "/usr/bin/bash") == (
        "Allow agent to run `/w/git x` (the file `/usr/bin/bash`) in `/w`?"
    )
    assert message("/w/git", ("git",), "/w", "/w/git") == "Allow agent to run `/w/git` in `/w`?"
