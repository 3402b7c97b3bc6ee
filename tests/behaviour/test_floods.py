"""Floods by one call, while another goes on: what is asserted is their order, never how long anything takes."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING

import pytest

from behaviour.test_escalation import Table, _async_call, call
from behaviour.test_hostile import FORGER
from codex_shell_tool_mcp.errors import ShellToolError
from codex_shell_tool_mcp.escalation import answering, channel
from codex_shell_tool_mcp.escalation.policy import Escalate
from codex_shell_tool_mcp.sandbox.spec import ReadOnly

if TYPE_CHECKING:
    import socket
    from pathlib import Path

pytestmark = pytest.mark.flood

TEN = "".join(f"{number}\n" for number in range(1, 11))


async def _flooded(script: str, attackers: int, workdir: Path, opened: int) -> tuple[str, list[str]]:
    """Another call's output, made while the flood held ``opened`` streams, and the attackers' outputs."""
    stop = workdir / "stop"
    flood = [
        asyncio.ensure_future(_async_call(script, Table(), workdir, timeout=60, sandbox=ReadOnly()))
        for _ in range(attackers)
    ]
    while answering._Open.count < opened:
        await asyncio.sleep(0.01)
    other = await _async_call("for i in {1..10}; do /bin/echo $i; done", Table(), workdir, timeout=60)
    assert not any(one.done() for one in flood), "the flood was to go on until it is told to stop"
    stop.touch()
    return other.output, [(await one).output for one in flood]


def test_ten_thousand_half_open_handshakes(tmp_path: Path) -> None:
    script = f"{FORGER} half_open_until {tmp_path}/stop 10000 40"
    output, (said,) = asyncio.run(_flooded(script, 1, tmp_path, 40))
    assert output == TEN
    assert int(said.split()[1]) >= 10_000


@pytest.mark.parametrize(("attackers", "opened"), [(1, answering.MAX_SESSIONS), (4, answering.MAX_OPEN)])
def test_handshakes_that_are_kept_half_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attackers: int, opened: int
) -> None:
    """As many as the server holds for one call; with several calls, more than it holds for all together."""
    monkeypatch.setattr(answering, "HALF_OPEN_DEADLINE", 1000)  # none makes room by being given up
    script = f"{FORGER} half_open_until {tmp_path}/stop 0 900 & while [ ! -e {tmp_path}/stop ]; do :; done"
    output, _ = asyncio.run(_flooded(script, attackers, tmp_path, opened))
    assert output == TEN


FLOODED = f"coproc FLOOD {{ exec {FORGER} in_flight 11; }}; read -r <&${{FLOOD[0]}}; "
"""11 descriptors in flight; the execs after it have a limit of 10, for each is measured by its own (unix(7))."""


def test_descriptors_in_flight_are_waited_for(tmp_path: Path) -> None:
    script = (
        f"{FLOODED} (ulimit -n 10; exec /bin/echo executed) & waiting=$!; read -rt 0.5 <> <(:);"
        " echo released; echo >&${FLOOD[1]}; wait $waiting; echo $?"
    )
    assert call(script, Table(), tmp_path, sandbox=ReadOnly()).output == "released\nexecuted\n0\n"


def test_descriptors_that_stay_in_flight_give_a_clear_line(tmp_path: Path) -> None:
    table = Table()
    result = call(f"{FLOODED} (ulimit -n 10; /bin/echo executed); echo $?", table, tmp_path, sandbox=ReadOnly())
    assert result.output == (
        "codex-execve-wrapper: /bin/echo: not run:"
        " too many descriptors of this user are on their way through sockets; try again\n126\n"
    )
    assert [request.file for request in table.asked] == [FORGER.split()[0]]


HANDED_OVER, STARTED_WITH = 3, 2
"""Descriptors of a SPAWN: stream, program, directory; and of a START: output, rendezvous."""


@pytest.mark.parametrize("refusals", [3, 10**9])
def test_a_call_waits_for_descriptors_in_flight_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    """Played as below."""
    left, really_send = iter(range(refusals)), channel.send_message

    def send(sock: socket.SocketType, data: bytes | memoryview, descriptors: tuple[int, ...]) -> int:
        if len(descriptors) == STARTED_WITH and next(left, None) is not None:
            raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
        return really_send(sock, data, descriptors)

    monkeypatch.setattr(channel, "send_message", send)
    monkeypatch.setattr(channel, "IN_FLIGHT_PATIENCE", 0.2 if refusals > 3 else 1000)
    if refusals > 3:
        with pytest.raises(ShellToolError, match="could not be started: too many descriptors of this user are on"):
            call("echo hi", Table(), tmp_path)
    else:
        assert call("echo hi", Table(), tmp_path).output == "hi\n"


@pytest.mark.parametrize(("refusals", "output"), [(3, "executed\n0\n"), (10**9, None)])
def test_the_server_waits_for_descriptors_in_flight_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int, output: str | None
) -> None:
    """The kernel's refusal is played here: for the real one the server must not be root, nor this machine shared."""
    left, really_send = iter(range(refusals)), channel.send_message

    def send(sock: socket.SocketType, data: bytes | memoryview, descriptors: tuple[int, ...]) -> int:
        if len(descriptors) == HANDED_OVER and next(left, None) is not None:
            raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
        return really_send(sock, data, descriptors)

    monkeypatch.setattr(channel, "send_message", send)
    monkeypatch.setattr(channel, "IN_FLIGHT_PATIENCE", 0.2 if output is None else 1000)
    result = call("/bin/echo executed; echo $?", Table(actions={"echo": Escalate()}), tmp_path)
    assert result.output == (
        output
        or "codex-execve-wrapper: /bin/echo: not run: it cannot be handed over:"
        " too many descriptors of this user are on their way through sockets; try again\n126\n"
    )
