"""What an escalated program takes over."""

from __future__ import annotations

import pytest

from codex_shell_tool_mcp.escalation.environ import escalated_environment

DROPPED = (
    b"EXEC_WRAPPER=/w",
    b"BASH_EXEC_WRAPPER=/w",
    b"CODEX_ESCALATE_SOCKET=63",
    b"CODEX_SANDBOX_NETWORK_DISABLED=1",
    b"LD_PRELOAD=/x.so",
    b"LD_AUDIT=/x.so",
    b"LD_ANYTHING=",
    b"DYLD_INSERT_LIBRARIES=/x.dylib",
    b"GCONV_PATH=/x",
    b"GLIBC_TUNABLES=x",
    b"BASH_ENV=/x",
    b"ZDOTDIR=/x",
    b"FPATH=/x",
    b"NULLCMD=/x",
    b"READNULLCMD=/x",
    b"PROMPT4=$(/x)",
    b"ENV=/x",
    b"SHELLOPTS=xtrace",
    b"PS4=$(x)",
    b"PROMPT_COMMAND=x",
    b"BASH_FUNC_git%%=() { evil; }",
)
KEPT = (
    b"PATH=/bin",
    b"HOME=/home/user",
    b"LANG=C",
    b"ODD=\xff",
    b"LDFLAGS=-s",
    b"ENVIRONMENT=x",
    b"=odd",
    b"bare",
    b"",
)


@pytest.mark.parametrize("entry", DROPPED)
def test_dropped(entry: bytes) -> None:
    assert escalated_environment((b"A=1", entry, b"B=2")) == (b"A=1", b"B=2")


def test_everything_else_is_kept_in_order() -> None:
    assert escalated_environment(KEPT) == KEPT
