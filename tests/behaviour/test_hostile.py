"""Scripts that attack the channel they inherit: each attack fails, and its nearest benign twin still works."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from behaviour.test_escalation import Table, _async_call, call, script_file
from codex_shell_tool_mcp.escalation.policy import Deny, Escalate, ExecRequest, Run
from codex_shell_tool_mcp.sandbox.spec import ReadOnly, WorkspaceWrite

if TYPE_CHECKING:
    from codex_shell_tool_mcp.escalation.policy import EscalateAction

FORGER = f"{Path(sys.executable).resolve()} {Path(__file__).parents[1] / 'support' / 'forger.py'}"
CONFINED = WorkspaceWrite(exclude_slash_tmp=True, exclude_tmpdir_env_var=True)


class ByPath(Table):
    """Escalates one absolute path, runs everything else."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    async def determine_action(self, request: ExecRequest) -> EscalateAction:
        """As an EscalationPolicy."""
        self.asked.append(request)
        return Escalate() if request.program == self.path else Run()


@pytest.mark.parametrize("real", ["memfd", "./evil"])
def test_a_descriptor_of_another_file_is_not_run_under_an_allowed_name(tmp_path: Path, real: str) -> None:
    script_file(tmp_path / "evil", "#!/bin/sh\necho EVIL\n")
    table = ByPath("/bin/echo")
    result = call(f"{FORGER} claim /bin/echo {real} -c 'echo EVIL'", table, tmp_path, sandbox=CONFINED)
    assert "EVIL" not in result.output
    forged = table.asked[-1]
    assert forged.resolved != "/bin/echo"
    assert forged.program != "/bin/echo" or "answer 5" in result.output


def test_the_twin_with_the_right_descriptor_is_run(tmp_path: Path) -> None:
    echo = os.path.realpath("/bin/echo")
    result = call(f"{FORGER} claim {echo} {echo} ran", ByPath(echo), tmp_path, sandbox=CONFINED)
    assert result.output.startswith("answer 3")
    assert "ran\n" in result.output


def test_a_file_changed_after_the_answer_is_not_run(tmp_path: Path) -> None:
    tool = script_file(tmp_path / "tool", "#!/bin/sh\necho approved\n")
    result = call(f"{FORGER} rewrite {tool}; true", Table(actions={"tool": Escalate()}), tmp_path)
    assert "EVIL" not in result.output
    assert "no longer the file that was decided on" in result.output


@pytest.mark.flood
@pytest.mark.parametrize(
    "attack",
    [
        "block",
        "flood 3000 1",
        "flood 300 200",
        "half_open 300",
        "lengths",
        "long_path 20000",
        "long_path 4000",
        "largest",
        "linger 300",
    ],
)
def test_other_calls_stay_responsive(tmp_path: Path, attack: str) -> None:
    """While one sandboxed call attacks, another one runs ten execs, and the attack ends at its own limit."""

    async def scenario() -> tuple[str, float, bool]:
        attacking = asyncio.ensure_future(_attack(f"{FORGER} {attack}", tmp_path))
        await asyncio.sleep(0.5)
        begun = time.monotonic()
        other = await _async_call("for i in {1..10}; do /bin/echo $i; done", Table(), tmp_path)
        took = time.monotonic() - begun
        return other.output, took, (await attacking)

    output, took, ended = asyncio.run(scenario())
    assert output == "".join(f"{number}\n" for number in range(1, 11))
    assert took < 30, "a liberal bound: what blocked the server did so for as long as the attacker liked"
    assert ended


async def _attack(script: str, workdir: Path) -> bool:
    begun = time.monotonic()
    await _async_call(script, Table(), workdir, timeout=3, sandbox=ReadOnly())
    return time.monotonic() - begun < 50


@pytest.mark.flood
def test_descriptors_of_the_server_stay_flat(tmp_path: Path) -> None:
    call(":", Table(), tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for attack in ("lengths", "flood 50 3", "long_path 9000"):
        call(f"{FORGER} {attack}", Table(), tmp_path, sandbox=ReadOnly())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_one_exec_that_fails_to_be_decided_does_not_take_the_call_with_it(tmp_path: Path) -> None:
    def bug(request: ExecRequest) -> None:
        if request.program.endswith("/false"):
            raise ValueError("a bug")

    result = call("/bin/echo one; /bin/false; echo $?; /bin/echo two", Table(hook=bug), tmp_path)
    assert result.output.splitlines()[0] == "one"
    assert result.output.splitlines()[-2:] == ["126", "two"]


def test_a_permission_forged_in_ask_mode_is_none(tmp_path: Path) -> None:
    script_file(tmp_path / "plain", "echo RAN\n")

    class Slow(Table):
        async def determine_action(self, request: ExecRequest) -> EscalateAction:
            while request.program.endswith("/plain") and not (tmp_path / "done").exists():
                await asyncio.sleep(0.01)
            return await super().determine_action(request)

    denied = Slow(actions={"plain": Deny(reason="no")})
    result = call(f"({FORGER} press; : > done) & ./plain; echo $?; wait", denied, tmp_path)
    assert "pressed" in result.output
    assert "RAN" not in result.output
    assert "Execution denied: no\n1\n" in result.output


def test_an_exec_that_would_survive_a_failure_ends_the_shell_when_it_ran_elsewhere(tmp_path: Path) -> None:
    escalated = Table(actions={"sh": Escalate()})
    assert call("shopt -s execfail; exec /bin/sh -c 'exit 5'; echo on", escalated, tmp_path).exit_code == 5
    denied = call("shopt -s execfail; exec /bin/sh -c 'exit 5'; echo on", Table(actions={"sh": Deny()}), tmp_path)
    assert denied.output.endswith("on\n")


def test_a_writable_root_replaced_by_a_link_is_refused(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    confined = WorkspaceWrite(writable_roots=(root,), exclude_slash_tmp=True, exclude_tmpdir_env_var=True)
    assert call(f"echo x > {root}/f", Table(), tmp_path / "outside", sandbox=confined).exit_code == 0
    (root / "f").unlink()
    root.rmdir()
    root.symlink_to(outside)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(Exception, match="cannot be made writable"):
        call(f"echo x > {outside}/owned", Table(), other, sandbox=confined)
    assert not (outside / "owned").exists()


def test_a_confined_shell_reads_no_bashrc(tmp_path: Path) -> None:
    """bash asks whether its stdin is a network connection; the system call filter must not make it believe so."""
    (tmp_path / ".bashrc").write_text("echo read by mistake\n")
    assert call("echo $-", Table(), tmp_path, sandbox=CONFINED).output.strip() in {"hBc", "hc"}
    assert call("BASH_ENV=$HOME/.bashrc $BASH -c :", Table(), tmp_path, sandbox=CONFINED).output == "read by mistake\n"


@pytest.mark.parametrize("interpreter", ["", "#!/bin/sh\n"])
def test_a_directory_that_is_only_named_is_not_where_a_program_is_looked_for(tmp_path: Path, interpreter: str) -> None:
    """By its name the directory is outside; followed, it is the script's own. What runs is what was decided.

    The twin hands its directory over: the very same name then is what ``$0`` says.
    """
    work = tmp_path / "work"
    for folder in (work / "a" / "b", work / "outside" / "bin", tmp_path / "outside" / "bin"):
        folder.mkdir(parents=True)
    (work / "link").symlink_to(work / "a" / "b")
    tool = script_file(tmp_path / "outside" / "bin" / "tool", f"{interpreter}echo honest $0\n")
    script_file(work / "outside" / "bin" / "tool", f"{interpreter}echo EVIL\n")
    attack = f"{FORGER} claim_directory {work}/link/../../outside bin/tool {tool}"
    assert call(attack, ByPath(str(tool)), work, sandbox=CONFINED).output == f"answer 3\nhonest {tool}\n"
    twin = call("cd ../outside; bin/tool", ByPath(str(tool)), work, sandbox=CONFINED)
    assert twin.output == "honest bin/tool\n"
