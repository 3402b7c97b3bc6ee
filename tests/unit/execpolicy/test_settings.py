"""The two TOML files: what is read of them, and that every error names its place and a cure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.errors import PolicyError
from codex_shell_tool_mcp.execpolicy import settings as toml
from codex_shell_tool_mcp.execpolicy.decision import Decision
from codex_shell_tool_mcp.execpolicy.settings import parse_requirements, parse_user_config
from support.messages import fixed_parts

if TYPE_CHECKING:
    from pathlib import Path


def test_the_users_configuration(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    config = parse_user_config(
        "c.toml",
        'model = "x"\nproject_root_markers = [".hg", "root"]\n'
        '[projects."/a"]\ntrust_level = "trusted"\n[projects."/b"]\ntrust_level = "untrusted"\n[projects."/c"]\nx = 1\n'
        f'[projects."{tmp_path}/link"]\ntrust_level = "trusted"\n',
    )
    assert config.root_markers == (".hg", "root")
    assert config.written == {f"{tmp_path}/real": f"{tmp_path}/link"}
    assert config.trust == {"/a": True, "/b": False, f"{tmp_path}/link": True, f"{tmp_path}/real": True}


def test_an_empty_configuration() -> None:
    config = parse_user_config("c.toml", "")
    assert (config.trust, config.root_markers) == ({}, (".git",))
    assert parse_user_config("c.toml", "project_root_markers = []").root_markers == ()


BAD_CONFIGURATIONS = [
    ("a = 1\nb =", "c.toml:2:"),
    ("a = [1,\n", "c.toml:2:1: "),
    (
        '# project_root_markers = 1\nproject_root_markers = ".git"',
        "c.toml:2:1: project_root_markers is no list of st",
    ),
    ("a = 1\nprojects = 3", "c.toml:2:1: projects is no table of tables"),
    ("[projects]\na = 1", "c.toml:1:2: projects is no table of tables"),
]


@pytest.mark.parametrize(("text", "message"), BAD_CONFIGURATIONS)
def test_a_configuration_that_does_not_hold(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_user_config("c.toml", text)
    assert str(caught.value).startswith(message)
    assert re.search(r" \([^()]+\)$", str(caught.value))


REQUIREMENTS = """
# pattern = not this one
[rules]
prefix_rules = [
    { pattern = [ { token = "git" }, { any_of = ["push", "fetch"] } ], decision = "prompt", justification = "net" },
    { pattern = [{ any_of = ["dd", "mkfs"] }], decision = "forbidden" },
]
"""


def test_requirements() -> None:
    rules = parse_requirements("r.toml", REQUIREMENTS).prefix_rules
    assert [(rule.program, rule.rest, rule.decision, rule.justification, rule.source) for rule in rules] == [
        ("git", (("push", "fetch"),), Decision.PROMPT, "net", "r.toml:5"),
        ("dd", (), Decision.FORBIDDEN, None, "r.toml:6"),
        ("mkfs", (), Decision.FORBIDDEN, None, "r.toml:6"),
    ]


@pytest.mark.parametrize("text", ["", "[other]\nx = 1"])
def test_no_requirements(text: str) -> None:
    assert parse_requirements("r.toml", text).prefix_rules == ()


def entry(text: str) -> str:
    good = '{ pattern = [{ token = "a" }], decision = "prompt" }'
    return f"[rules]\nprefix_rules = [\n  {good},\n  {text},\n]"


BAD_REQUIREMENTS = [
    ("[rules", "r.toml:1:"),
    ("rules = 1", "r.toml:1:1: rules needs a list prefix_rules"),
    ("[rules]", "r.toml:1:2: rules needs a list prefix_rules"),
    ("[rules]\nprefix_rules = []", "r.toml:1:2: rules needs a list prefix_rules"),
    (entry("3"), "r.toml:3:5: an entry of prefix_rules is no table"),
    (entry('{ pattern = [], decision = "prompt" }'), "r.toml:4:5: pattern cannot be empty"),
    (entry('{ pattern = [{ token = "a" }] }'), "r.toml:4:5: decision is missing"),
    (
        entry('{ pattern = [{ token = "a" }], decision = "allow" }'),
        "r.toml:4:5: decision must be prompt or forbidden (g",
    ),
    (entry('{ pattern = [{ token = "a" }], decision = 1 }'), "r.toml:4:5: decision must be prompt or forbidden"),
    (entry('{ pattern = ["a"], decision = "prompt" }'), "r.toml:4:5: a place of the pattern needs either token or"),
    (entry('{ pattern = [{}], decision = "prompt" }'), "r.toml:4:5: a place of the pattern needs either token or"),
    (
        entry('{ pattern = [{ token = "a", any_of = ["b"] }], decision = "prompt" }'),
        "r.toml:4:5: a place of the pattern needs either token or",
    ),
    (entry('{ pattern = [{ any_of = [] }], decision = "prompt" }'), "r.toml:4:5: any_of cannot be empty"),
    (entry('{ pattern = [{ token = " " }], decision = "prompt" }'), "r.toml:4:5: a token of the pattern must be"),
    (
        entry('{ pattern = [{ any_of = ["a", 1] }], decision = "prompt" }'),
        "r.toml:4:5: a token of the pattern must",
    ),
    (
        entry('{ pattern = [{ token = "a" }], decision = "prompt", justification = " " }'),
        "r.toml:4:5: justification cannot be empty",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD_REQUIREMENTS)
def test_requirements_that_do_not_hold(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_requirements("r.toml", text)
    assert str(caught.value).startswith(message)
    assert re.search(r" \(.+\)$", str(caught.value))


def test_every_error_of_the_two_files_was_seen_with_what_to_write_instead() -> None:
    said = []
    for read, table in ((parse_user_config, BAD_CONFIGURATIONS), (parse_requirements, BAD_REQUIREMENTS)):
        for text, _ in table:
            with pytest.raises(PolicyError) as caught:
                read("x.toml", text)
            said.append(str(caught.value))
    sites = fixed_parts(toml, "ValueError", "PolicyError") + fixed_parts(toml, "_error", most=2)
    assert len(sites) > 10
    for line, parts in sites:
        assert any(all(part in message for part in parts) for message in said), f"settings.py:{line}: {parts}"
