"""The tool ``shell`` as data: its schema, its arguments checked, its result as text. Knows nothing of MCP."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.errors import UsageError
from codex_shell_tool_mcp.escalation.params import DEFAULT_TIMEOUT_MS
from codex_shell_tool_mcp.escalation.policy import Deny, Escalate, Run
from codex_shell_tool_mcp.server.prompt import command_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from codex_shell_tool_mcp.escalation.params import ExecRecord, ExecResult
    from codex_shell_tool_mcp.shells.catalog import ShellName

NAME = "shell"

DESCRIPTION = "Runs a shell command and returns its output. You MUST provide the workdir as an absolute path."

INPUT_SCHEMA: dict[str, object] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "ExecParams",
    "type": "object",
    "properties": {
        "background": {
            "description": "What becomes of processes that still run when the shell has ended: 'end' (the default) "
            "ends them, 'keep' lets them go on, their further output dropped, until they end or this server does.",
            "enum": ["end", "keep"],
            "nullable": True,
            "type": "string",
        },
        "command": {"description": "The bash string to execute.", "type": "string"},
        "login": {
            "description": "Launch Bash with -lc instead of -c: defaults to true.",
            "nullable": True,
            "type": "boolean",
        },
        "timeout_ms": {
            "description": "The timeout for the command in milliseconds.",
            "format": "uint64",
            "minimum": 0,
            "nullable": True,
            "type": "integer",
        },
        "workdir": {
            "description": "The working directory to execute the command in. Must be an absolute path.",
            "type": "string",
        },
    },
    "required": ["command", "workdir"],
}
"""As the original puts it on the wire: optional values are one type plus ``nullable``."""


def input_schema(shell: ShellName) -> dict[str, object]:
    """What the tool takes, naming the shell that runs the scripts; for bash it is :data:`INPUT_SCHEMA`."""
    if shell == "bash":
        return dict(INPUT_SCHEMA)
    text = json.dumps(INPUT_SCHEMA).replace("bash", shell).replace("Bash", shell)
    made: dict[str, object] = json.loads(text)
    return made


MAX_TIMEOUT_MS = 2**64 - 1
"""``uint64``, as the schema says."""

RECORDS_SHOWN = 50
"""Decisions told in a result: the model reads every one of them."""


class ArgumentsError(UsageError):
    """The arguments are not what the schema asks for; the text names the one that is wrong."""


class WorkdirError(UsageError):
    """The working directory cannot be used; the text says what to give instead."""


@dataclass(frozen=True, kw_only=True)
class ShellCall:
    """The arguments of one call.

    Attributes:
        command: The script; holds no NUL and can be encoded as UTF-8.
        workdir: As given; see :func:`checked_workdir`.
        timeout_ms: Limit in milliseconds; 0 expires at once.
        login: Whether the shell is a login shell (``-lc``).
        keep: Whether what still runs when the shell has ended goes on.
    """

    command: str
    workdir: str
    timeout_ms: int = DEFAULT_TIMEOUT_MS
    login: bool = True
    keep: bool = False


def parse_arguments(raw: Mapping[str, object]) -> ShellCall:
    """Check the arguments; unknown ones are ignored.

    Raises:
        ArgumentsError: One is missing or has another type than the schema says.
    """
    return ShellCall(
        command=_text(raw, "command"),
        workdir=_text(raw, "workdir"),
        timeout_ms=_timeout(raw),
        login=_login(raw),
        keep=_keep(raw),
    )


def _text(raw: Mapping[str, object], name: str) -> str:
    if name not in raw:
        raise ArgumentsError(f"missing field `{name}`")
    value = raw[name]
    if not isinstance(value, str):
        raise ArgumentsError(f"`{name}`: expected a string, got {_kind(value)}")
    if "\0" in value:
        raise ArgumentsError(f"`{name}`: holds a NUL character, which no command line or path can")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ArgumentsError(f"`{name}`: holds half of a surrogate pair, which is no text") from None
    return value


def _timeout(raw: Mapping[str, object]) -> int:
    value = raw.get("timeout_ms")
    if value is None:
        return DEFAULT_TIMEOUT_MS
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentsError(f"`timeout_ms`: expected an integer of milliseconds, got {_kind(value)}")
    if not 0 <= value <= MAX_TIMEOUT_MS:
        raise ArgumentsError(f"`timeout_ms`: expected 0 to {MAX_TIMEOUT_MS}, got {value}")
    return value


def _login(raw: Mapping[str, object]) -> bool:
    value = raw.get("login")
    if value is not None and not isinstance(value, bool):
        raise ArgumentsError(f"`login`: expected true, false or null, got {_kind(value)}")
    return value is not False


def _keep(raw: Mapping[str, object]) -> bool:
    value = raw.get("background")
    if value is not None and value not in ("end", "keep"):
        shown = repr(value) if isinstance(value, str) else _kind(value)
        raise ArgumentsError(f'`background`: expected "end", "keep" or null, got {shown}')
    return value == "keep"


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {value}"
    names: dict[type, str] = {str: "a string", list: "an array", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def checked_workdir(workdir: str) -> Path:
    """The working directory, if a shell can be started there.

    A relative one is refused (the original took it relative to the server's own directory, which nobody sees).

    Raises:
        WorkdirError: It is relative, missing, no directory, or cannot be entered.
    """
    if not workdir.startswith("/"):
        raise WorkdirError(f"workdir {workdir!r} is relative: give the absolute path of an existing directory")
    try:
        is_directory = stat.S_ISDIR(os.stat(workdir).st_mode)  # noqa: PTH116 - once, and before every call
    except OSError as error:
        raise WorkdirError(
            f"workdir {workdir!r} cannot be used ({error.strerror}): give the absolute path of an existing directory"
        ) from None
    if not is_directory:
        raise WorkdirError(f"workdir {workdir!r} is not a directory: give the absolute path of an existing directory")
    if not os.access(workdir, os.X_OK):
        raise WorkdirError(f"workdir {workdir!r} cannot be entered: give a directory this user may enter")
    return Path(workdir)


def result_text(result: ExecResult, sandbox: Mapping[str, object]) -> str:
    """A call's result as the tool's text: JSON, the original's four keys first and in its order.

    Added: ``sandbox`` (what was enforced), and only where there is something to say ``ended_processes`` (how many were
    still running at the end and were ended), ``background_processes`` (how many go on) and ``decisions`` (what was
    not simply run, with the rule that decided).
    """
    seconds, fraction = divmod(max(result.duration, 0.0), 1)
    value: dict[str, object] = {
        "exit_code": result.exit_code,
        "output": result.output,
        "duration": {"secs": int(seconds), "nanos": min(int(fraction * 1_000_000_000), 999_999_999)},
        "timed_out": result.timed_out,
        "sandbox": dict(sandbox),
    }
    if result.ended_processes:
        value["ended_processes"] = result.ended_processes
    if result.background_processes:
        value["background_processes"] = result.background_processes
    told = [_decision(record) for record in result.records if _is_worth_telling(record)]
    if told:
        value["decisions"] = told[:RECORDS_SHOWN]
    if len(told) > RECORDS_SHOWN:
        value["decisions_left_out"] = len(told) - RECORDS_SHOWN
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace").decode()


def _is_worth_telling(record: ExecRecord) -> bool:
    return not isinstance(record.action, Run) or record.action.rule is not None


def _decision(record: ExecRecord) -> dict[str, str]:
    words = {Run: "run", Escalate: "escalate", Deny: "deny"}
    told = {
        "command": command_text(record.request.program, record.request.argv),
        "action": words[type(record.action)],
    }
    if record.action.rule is not None:
        told["rule"] = record.action.rule
    if isinstance(record.action, Deny) and record.action.reason:
        told["reason"] = record.action.reason
    return told
