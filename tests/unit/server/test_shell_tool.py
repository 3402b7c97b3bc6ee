"""The tool as data: schema, arguments, working directory, result."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.escalation.params import ExecRecord, ExecResult
from codex_shell_tool_mcp.escalation.policy import Deny, Escalate, EscalateAction, ExecRequest, Run
from codex_shell_tool_mcp.server import shell_tool

if TYPE_CHECKING:
    from pathlib import Path


def test_the_schema_is_the_originals_on_the_wire() -> None:
    assert shell_tool.INPUT_SCHEMA["title"] == "ExecParams"
    assert shell_tool.INPUT_SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert shell_tool.INPUT_SCHEMA["required"] == ["command", "workdir"]
    properties = shell_tool.INPUT_SCHEMA["properties"]
    assert isinstance(properties, dict)
    without_texts = {
        name: {key: value for key, value in column.items() if key != "description"}
        for name, column in properties.items()
    }
    assert without_texts == {
        # Ours.
        "background": {"type": "string", "enum": ["end", "keep"], "nullable": True},
        "command": {"type": "string"},
        "workdir": {"type": "string"},
        "login": {"type": "boolean", "nullable": True},
        "timeout_ms": {"type": "integer", "format": "uint64", "minimum": 0, "nullable": True},
    }


def test_defaults() -> None:
    call = shell_tool.parse_arguments({"command": "ls", "workdir": "/"})
    assert (call.command, call.workdir, call.timeout_ms, call.login) == ("ls", "/", 10_000, True)
    assert call.keep is False


@pytest.mark.parametrize(("given", "keep"), [(None, False), ("end", False), ("keep", True)])
def test_background(given: str | None, keep: bool) -> None:
    assert shell_tool.parse_arguments({"command": "", "workdir": "/", "background": given}).keep is keep


@pytest.mark.parametrize(("given", "login"), [(None, True), (True, True), (False, False)])
def test_only_false_is_no_login(given: bool | None, login: bool) -> None:
    assert shell_tool.parse_arguments({"command": "", "workdir": "/", "login": given}).login is login


@pytest.mark.parametrize(("given", "limit"), [(None, 10_000), (0, 0), (2**64 - 1, 2**64 - 1)])
def test_limits(given: int | None, limit: int) -> None:
    assert shell_tool.parse_arguments({"command": "", "workdir": "/", "timeout_ms": given}).timeout_ms == limit


def test_unknown_arguments_are_ignored() -> None:
    assert shell_tool.parse_arguments({"command": "a", "workdir": "/", "sandbox": "off"}).command == "a"


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"command": None}, "`command`: expected a string, got null"),
        ({"command": 5}, "`command`: expected a string, got the number 5"),
        ({"command": ["ls"]}, "`command`: expected a string, got an array"),
        ({"command": "a\0b"}, "`command`: holds a NUL character"),
        ({"command": "\ud800"}, "`command`: holds half of a surrogate pair"),
        ({"workdir": {}}, "`workdir`: expected a string, got an object"),
        ({"workdir": True}, "`workdir`: expected a string, got the boolean true"),
        ({"workdir": "/\0"}, "`workdir`: holds a NUL character"),
        ({"timeout_ms": -1}, "`timeout_ms`: expected 0 to 18446744073709551615, got -1"),
        ({"timeout_ms": 2**64}, "`timeout_ms`: expected 0 to 18446744073709551615"),
        ({"timeout_ms": 1.5}, "`timeout_ms`: expected an integer of milliseconds, got the number 1.5"),
        ({"timeout_ms": "10"}, "`timeout_ms`: expected an integer of milliseconds, got a string"),
        ({"timeout_ms": True}, "`timeout_ms`: expected an integer of milliseconds, got the boolean true"),
        ({"login": "yes"}, "`login`: expected true, false or null, got a string"),
        ({"background": "stay"}, '`background`: expected "end", "keep" or null, got \'stay\''),
        ({"background": True}, '`background`: expected "end", "keep" or null, got the boolean true'),
        ({"background": ["keep"]}, '`background`: expected "end", "keep" or null, got an array'),
        ({"login": 0}, "`login`: expected true, false or null, got the number 0"),
    ],
)
def test_wrong_arguments_are_named(changed: dict[str, object], text: str) -> None:
    with pytest.raises(shell_tool.ArgumentsError) as caught:
        shell_tool.parse_arguments({"command": "ls", "workdir": "/", **changed})
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("name", ["command", "workdir"])
def test_missing_arguments_are_named(name: str) -> None:
    raw = {"command": "ls", "workdir": "/"}
    del raw[name]
    with pytest.raises(shell_tool.ArgumentsError, match=f"missing field `{name}`"):
        shell_tool.parse_arguments(raw)


def test_a_good_workdir(tmp_path: Path) -> None:
    assert shell_tool.checked_workdir(str(tmp_path)) == tmp_path


def test_a_link_to_a_directory_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert shell_tool.checked_workdir(str(tmp_path / "link")) == tmp_path / "link"


@pytest.mark.parametrize("relative", [".", "", "a/b", "~", "~/x"])
def test_a_relative_workdir_is_refused(relative: str) -> None:
    with pytest.raises(shell_tool.WorkdirError, match="is relative: give the absolute path") as caught:
        shell_tool.checked_workdir(relative)
    assert repr(relative) in str(caught.value)


def test_a_missing_workdir_is_refused(tmp_path: Path) -> None:
    with pytest.raises(shell_tool.WorkdirError, match=r"gone.*No such file.*give the absolute path"):
        shell_tool.checked_workdir(str(tmp_path / "gone"))


def test_a_file_is_no_workdir(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(shell_tool.WorkdirError, match="file' is not a directory"):
        shell_tool.checked_workdir(str(tmp_path / "file"))
    with pytest.raises(shell_tool.WorkdirError, match="Not a directory"):
        shell_tool.checked_workdir(str(tmp_path / "file" / "below"))


def test_a_too_long_workdir_is_refused() -> None:
    with pytest.raises(shell_tool.WorkdirError, match="too long"):
        shell_tool.checked_workdir("/" + "x" * 5000)


def test_a_closed_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.X_OK)  # root may enter any
    with pytest.raises(shell_tool.WorkdirError, match="cannot be entered"):
        shell_tool.checked_workdir(str(tmp_path))


def record(action: EscalateAction, *argv: str) -> ExecRecord:
    request = ExecRequest(file="x", program="/usr/bin/x", resolved=None, argv=argv, cwd="/")
    return ExecRecord(request=request, action=action)


def test_the_result_is_the_originals_with_additions_behind() -> None:
    result = ExecResult(exit_code=3, output="ä\n", duration=1.25, timed_out=False)
    text = shell_tool.result_text(result, {"policy": "read-only"})
    assert text == (
        '{"exit_code":3,"output":"ä\\n","duration":{"secs":1,"nanos":250000000},"timed_out":false,'
        '"sandbox":{"policy":"read-only"}}'
    )


def test_a_clock_that_went_backwards_does_no_harm() -> None:
    result = ExecResult(exit_code=0, output="", duration=-1.0, timed_out=False)
    assert json.loads(shell_tool.result_text(result, {}))["duration"] == {"secs": 0, "nanos": 0}


def test_what_was_not_simply_run_is_told() -> None:
    records = (
        record(Run(), "x"),
        record(Run(rule="heuristics"), "x", "asked"),
        record(Escalate(rule="default.rules:3"), "x", "a b"),
        record(Deny(reason="no", rule="default.rules:4"), "x"),
        record(Deny(), "x"),
    )
    result = ExecResult(
        exit_code=0, output="", duration=0.0, timed_out=True, ended_processes=2, records=records, decided=5
    )
    told = json.loads(shell_tool.result_text(result, {}))
    assert told["timed_out"] is True
    assert told["ended_processes"] == 2
    assert told["decisions"] == [
        {"command": "/usr/bin/x asked", "action": "run", "rule": "heuristics"},
        {"command": "/usr/bin/x 'a b'", "action": "escalate", "rule": "default.rules:3"},
        {"command": "/usr/bin/x", "action": "deny", "rule": "default.rules:4", "reason": "no"},
        {"command": "/usr/bin/x", "action": "deny"},
    ]


def test_a_flood_of_decisions_is_counted_not_told() -> None:
    records = (record(Deny(), "x"),) * (shell_tool.RECORDS_SHOWN + 7)
    result = ExecResult(exit_code=0, output="", duration=0.0, timed_out=False, records=records, decided=len(records))
    told = json.loads(shell_tool.result_text(result, {}))
    assert len(told["decisions"]) == shell_tool.RECORDS_SHOWN
    assert told["decisions_left_out"] == 7


def test_bytes_that_are_no_text_do_not_break_the_answer() -> None:
    odd = b"\xff".decode("utf-8", "surrogateescape")
    result = ExecResult(
        exit_code=0, output="", duration=0.0, timed_out=False, records=(record(Deny(reason=odd), "x", odd),), decided=1
    )
    told = json.loads(shell_tool.result_text(result, {}))
    assert told["decisions"][0]["command"] == r"/usr/bin/x $'\xff'"
    assert told["decisions"][0]["reason"] == "?"


def test_schema_names_the_shell() -> None:
    assert shell_tool.input_schema("bash") == shell_tool.INPUT_SCHEMA
    properties = shell_tool.input_schema("zsh")["properties"]
    assert isinstance(properties, dict)
    assert properties["command"]["description"] == "The zsh string to execute."
    assert properties["login"]["description"] == "Launch zsh with -lc instead of -c: defaults to true."
    assert "bash" not in str(properties)
