"""What is left when a call ends while execs are just being asked about: nothing."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from codex_shell_tool_mcp.escalation import answering, wire
from codex_shell_tool_mcp.escalation.channel import Rendezvous, send_message
from codex_shell_tool_mcp.escalation.policy import Deny, EscalateAction, ExecRequest

if TYPE_CHECKING:
    from codex_shell_tool_mcp.escalation.supervision import Supervision


class EndsTheCall:
    """A policy that has the call end at the very moment it is asked."""

    def __init__(self) -> None:
        self.serving: asyncio.Task[None] | None = None

    def decide_at_once(self, request: ExecRequest) -> EscalateAction | None:
        """As an ImmediateEscalationPolicy; the task for what takes longer is made right after this."""
        assert self.serving is not None
        self.serving.cancel()
        return None

    async def determine_action(self, request: ExecRequest) -> EscalateAction:
        """As an EscalationPolicy."""
        return Deny()


async def _ask_at_the_end() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    near, far = socket.socketpair()
    program = os.open("/bin/sh", os.O_RDONLY)
    request = wire.Request(file=b"/bin/sh", cwd=b"/", argv=(b"sh",), env=(), program=program)
    send_message(near, wire.encode(request), request.descriptors)
    send_message(theirs, bytes((wire.VERSION,)), (far.fileno(),))
    far.close()
    os.close(program)
    policy = EndsTheCall()
    supervision = cast("Supervision", SimpleNamespace(rendezvous=Rendezvous(ours), catch_up=lambda: None))
    server = answering.EscalateServer(policy=policy, supervision=supervision, writable=None, shell=Path("/bin/sh"))
    policy.serving = asyncio.create_task(server.serve())
    await asyncio.wait([policy.serving])
    assert near.recv(1) == b"", "unanswered, and closed"
    for one in (near, theirs, ours):
        one.close()


def test_an_exec_asked_about_at_the_end_leaves_nothing_open() -> None:
    """Its task is cancelled before its first step, so nothing that the task itself would do to clean up is done."""
    asyncio.run(_ask_at_the_end())
    before = sorted(Path("/dev/fd").iterdir())
    asyncio.run(_ask_at_the_end())
    assert sorted(Path("/dev/fd").iterdir()) == before
    assert answering._Open.count == 0
