"""Real scripts through real shells, wrapper and supervisor, decided by plain policies: no MCP anywhere.

Every test of this file runs in bash and in zsh.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.errors import MissingBinaryError, ShellToolError, UsageError
from codex_shell_tool_mcp.escalation.params import ExecParams, ExecResult
from codex_shell_tool_mcp.escalation.policy import Deny, Escalate, EscalateAction, ExecRequest, Run
from codex_shell_tool_mcp.escalation.server import run_escalate_server
from codex_shell_tool_mcp.execpolicy.rules import Policy
from codex_shell_tool_mcp.sandbox.spec import DangerFullAccess, ReadOnly, SandboxState, WorkspaceWrite
from codex_shell_tool_mcp.shells.catalog import ShellProgram
from support.built import built

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from codex_shell_tool_mcp.escalation.stopwatch import Stopwatch
    from codex_shell_tool_mcp.shells.catalog import ShellName

Decide = "Callable[[ExecRequest], EscalateAction]"


KIND: ShellName = "bash"
"""What :func:`call` runs scripts with; :func:`kind` changes it for a test of this file."""


@pytest.fixture(autouse=True, params=["bash", "zsh"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ShellName:
    """The shell of a test."""
    chosen: ShellName = request.param
    monkeypatch.setattr(sys.modules[__name__], "KIND", chosen)
    return chosen


def shell_program() -> ShellProgram:
    """The program of :data:`KIND`."""
    return ShellProgram(path=getattr(built(), KIND), variant="gnu", shell=KIND)


@dataclass(kw_only=True)
class Table:
    """A policy that decides by basename; ``asked`` is what it saw. What is not listed runs.

    It decides at once, like the product's, unless it is ``patient`` or a subclass has another ``determine_action``.
    """

    actions: Mapping[str, EscalateAction] = field(default_factory=dict)
    default: EscalateAction = field(default_factory=Run)
    hook: Callable[[ExecRequest], None] | None = None
    patient: bool = False
    asked: list[ExecRequest] = field(default_factory=list)

    def create_policy(self, policy: Policy, stopwatch: Stopwatch) -> Table:
        """As an EscalationPolicyFactory."""
        return self

    async def determine_action(self, request: ExecRequest) -> EscalateAction:
        """As an EscalationPolicy."""
        return self._decide(request)

    def decide_at_once(self, request: ExecRequest) -> EscalateAction | None:
        """As an ImmediateEscalationPolicy."""
        if self.patient or type(self).determine_action is not Table.determine_action:
            return None
        return self._decide(request)

    def _decide(self, request: ExecRequest) -> EscalateAction:
        self.asked.append(request)
        if self.hook is not None:
            self.hook(request)
        return self.actions.get(Path(request.program).name, self.default)


def call(
    script: str,
    table: Table,
    workdir: Path,
    *,
    sandbox: DangerFullAccess | ReadOnly | WorkspaceWrite | None = None,
    timeout: float | None = 30,
    env: Mapping[bytes, bytes] | None = None,
) -> ExecResult:
    """Run one script to its end."""
    binaries = built()
    return asyncio.run(
        run_escalate_server(
            ExecParams(
                command=script,
                workdir=workdir,
                login=False,
                env={
                    b"PATH": os.environb[b"PATH"],
                    b"HOME": os.fsencode(workdir),
                    b"LC_ALL": b"C.UTF-8",
                    **(env or {}),
                },
            ),
            SandboxState(policy=sandbox or DangerFullAccess(), cwd=workdir),
            shell_program(),
            binaries.wrapper,
            Policy(),
            table,
            timeout,
            supervisor=binaries.supervisor,
        )
    )


def script_file(path: Path, text: str) -> Path:
    """An executable script."""
    path.write_text(text)
    path.chmod(0o755)
    return path


def canary(folder: Path) -> Path:
    """A program that says whether it runs confined (NoNewPrivs, as the sandbox sets it) and what it was given."""
    return script_file(
        folder / "canary",
        '#!/bin/bash\ngrep NoNewPrivs /proc/self/status; echo "$0|$#|$*|$PWD|$(umask)|${EXEC_WRAPPER-unset}"\n',
    )


def test_run_and_record(tmp_path: Path) -> None:
    table = Table()
    result = call("/bin/echo one; /bin/echo two >&2; exit 3", table, tmp_path)
    assert (result.exit_code, result.output, result.timed_out) == (3, "one\ntwo\n", False)
    assert [record.request.argv for record in result.records] == [("/bin/echo", "one"), ("/bin/echo", "two")]
    assert result.decided == 2


def test_builtins_are_not_asked_about(tmp_path: Path) -> None:
    table = Table()
    assert call("echo one; cd /; printf two; [ -d / ]", table, tmp_path).output == "one\ntwo"
    assert table.asked == []


def test_deny_is_a_line_and_status_1(tmp_path: Path) -> None:
    table = Table(actions={"touch": Deny(reason="not here")})
    result = call("touch x; echo $?; ls", table, tmp_path)
    assert result.output == "Execution denied: not here\n1\n"


def test_a_policy_that_cannot_decide_stops_the_exec(tmp_path: Path) -> None:
    def refuse(request: ExecRequest) -> None:
        raise ShellToolError("no idea")

    result = call("/bin/echo ran; echo $?", Table(hook=refuse), tmp_path)
    assert result.output == "codex-execve-wrapper: /bin/echo: not run: no idea\n126\n"


def test_escalated_programs_run_outside_with_what_the_caller_had(tmp_path: Path) -> None:
    tool = canary(tmp_path)
    (tmp_path / "sub").mkdir()
    confined = WorkspaceWrite(exclude_slash_tmp=True, exclude_tmpdir_env_var=True)
    script = f"cd sub; umask 027; {tool} 'a  b' ''; ../canary x"
    inside = call(script, Table(), tmp_path, sandbox=confined)
    outside = call(script, Table(actions={"canary": Escalate()}), tmp_path, sandbox=confined)
    wrapper = built().wrapper
    assert inside.output.splitlines() == [
        "NoNewPrivs:\t1",
        f"{tool}|2|a  b |{tmp_path}/sub|0027|{wrapper}",
        "NoNewPrivs:\t1",
        f"../canary|1|x|{tmp_path}/sub|0027|{wrapper}",
    ]
    assert [line for line in outside.output.splitlines() if line.startswith("NoNew")] == ["NoNewPrivs:\t0"] * 2
    # Below a writable root a script is run from a sealed copy, under the name of its descriptor.
    shown = re.sub("/dev/fd/[0-9]+", "COPY", outside.output)
    assert f"COPY|2|a  b |{tmp_path}/sub|0027|unset" in shown
    assert f"COPY|1|x|{tmp_path}/sub|0027|unset" in shown
    kept = call(f"cd sub; {tool} x", Table(actions={"canary": Escalate()}), tmp_path, sandbox=ReadOnly())
    assert f"{tool}|1|x|{tmp_path}/sub" in kept.output


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("/bin/sh -c 'exit 7'; echo $?", "7\n"),
        ("/bin/sh -c 'kill -9 $$'; echo $?", "137\n"),
        ("echo in | /bin/cat", "in\n"),
        ("/bin/cat <(echo substituted)", "substituted\n"),
        ("echo kept > f; exec 3<f; /bin/cat <&3; /bin/cat /dev/fd/9 9<f", "kept\nkept\n"),
        ("exec -a name /bin/sh -c 'echo $0'", "name\n"),
        ("(trap '' INT; /bin/sh -c 'kill -INT $$; echo alive')", "alive\n"),
        ("ulimit -n 77; /bin/sh -c 'ulimit -n'", "77\n"),
        ("/bin/sh -c 'echo err >&2' 2>&1 | /bin/cat", "err\n"),
    ],
)
def test_escalated_programs_behave_as_if_the_shell_had_started_them(tmp_path: Path, script: str, expected: str) -> None:
    table = Table(default=Escalate())
    result = call(script, table, tmp_path)
    assert table.asked
    assert expected in result.output


def test_environment_that_runs_code_does_not_reach_an_escalated_program(tmp_path: Path) -> None:
    (tmp_path / "evil").write_text("echo EVIL\n")
    script = f"export BASH_ENV={tmp_path}/evil KEPT=1; /bin/bash -c 'echo $KEPT ${{BASH_ENV-unset}}'"
    assert "EVIL" in call(script, Table(), tmp_path).output
    assert call(script, Table(actions={"bash": Escalate()}), tmp_path).output == "1 unset\n"


def test_relative_programs_are_those_of_the_callers_directory(tmp_path: Path) -> None:
    script_file(tmp_path / "tool", "#!/bin/sh\necho wrong\n")
    (tmp_path / "sub").mkdir()
    script_file(tmp_path / "sub" / "tool", "#!/bin/sh\necho right\n")
    table = Table(actions={"tool": Escalate()})
    assert call("cd sub && ./tool", table, tmp_path).output == "right\n"
    assert table.asked[0].program == table.asked[0].resolved == str(tmp_path / "sub" / "tool")


@pytest.mark.parametrize("how", ["replaced", "written to", "directory swapped"])
def test_a_file_changed_while_it_is_decided_is_not_run_outside(tmp_path: Path, how: str) -> None:
    (tmp_path / "bin").mkdir()
    tool = script_file(tmp_path / "bin" / "tool", "#!/bin/sh\necho approved\n")

    def swap(request: ExecRequest) -> None:
        if how == "written to":
            tool.write_text("#!/bin/sh\necho EVIL\n")
        elif how == "replaced":
            script_file(tmp_path / "new", "#!/bin/sh\necho EVIL\n").rename(tool)
        else:
            (tmp_path / "bin").rename(tmp_path / "old")
            (tmp_path / "bin").mkdir()
            script_file(tmp_path / "bin" / "tool", "#!/bin/sh\necho EVIL\n")

    result = call("bin/tool; echo $?", Table(actions={"tool": Escalate()}, hook=swap), tmp_path)
    assert "EVIL" not in result.output
    assert not result.output.endswith("\n0\n")


def test_a_script_without_interpreter_line_is_run_as_the_shell_does_and_stays_decided(
    tmp_path: Path, kind: ShellName
) -> None:
    """By this bash itself; zsh hands it to sh, which is asked about."""
    script_file(tmp_path / "plain", 'echo "$0:$1:$BASH_VERSION"; /bin/echo inner\n')
    table = Table()
    assert re.fullmatch(
        {"bash": r"\./plain:arg:5\.3\..*\ninner\n", "zsh": r"\./plain:arg:.*\ninner\n"}[kind],
        call("./plain arg", table, tmp_path).output,
    )
    names = [Path(request.program).name for request in table.asked]
    assert names == {"bash": ["plain", "echo"], "zsh": ["plain", "sh"]}[kind]
    denied = call("./plain arg; echo $?", Table(actions={"plain": Deny(reason="no")}), tmp_path)
    assert denied.output == "Execution denied: no\n1\n"


def test_unsetting_everything_changes_nothing(tmp_path: Path, kind: ShellName) -> None:
    close = {"bash": 'eval "exec $i>&-"', "zsh": "exec {i}>&-"}[kind]
    script = f"unset EXEC_WRAPPER CODEX_ESCALATE_SOCKET; for i in {{3..1023}}; do {close}; done; /bin/echo ran"
    assert "Execution denied" in call(script, Table(actions={"echo": Deny()}), tmp_path).output


def test_writes_are_confined_and_their_twins_work(tmp_path: Path) -> None:
    work, outside = tmp_path / "work", tmp_path / "outside"
    work.mkdir()
    outside.mkdir()
    confined = WorkspaceWrite(exclude_slash_tmp=True, exclude_tmpdir_env_var=True)
    result = call(f"echo a > in; echo b > {outside}/x; echo c > /dev/null; cat in", Table(), work, sandbox=confined)
    assert "permission denied" in result.output.lower()
    assert result.output.endswith("a\n")
    assert not list(outside.iterdir())


@pytest.fixture
def seconds() -> str:
    """Some time to sleep, which no other test has: by it processes are found."""
    return f"98{os.getpid()}.{time.monotonic_ns() % 10**9}"


def test_timeout_keeps_the_output_and_leaves_nothing(tmp_path: Path, seconds: str) -> None:
    script = f"S={seconds}; echo begun; setsid -f sleep $S ; nohup sleep $S >/dev/null 2>&1 & /bin/sleep $S"
    begun = time.monotonic()
    result = call(script, Table(actions={"sleep": Escalate()}), tmp_path, timeout=5)
    assert (result.exit_code, result.timed_out) == (124, True)
    assert "begun" in result.output
    assert time.monotonic() - begun < 60, "nothing may wait for the sleeps"
    assert not survivors(seconds)


def test_a_background_job_does_not_hold_the_output_nor_survive(tmp_path: Path, seconds: str) -> None:
    result = call(f"sleep {seconds} & echo started", Table(), tmp_path)
    assert (result.output, result.exit_code, result.ended_processes) == ("started\n", 0, 1)
    assert not survivors(seconds)


def test_cancelling_ends_the_call(tmp_path: Path, seconds: str) -> None:
    async def scenario() -> None:
        marker = tmp_path / "started"
        running = asyncio.ensure_future(asyncio.to_thread(lambda: None))
        await running
        task = asyncio.ensure_future(_async_call(f"touch {marker}; sleep {seconds}", Table(), tmp_path))
        while not marker.exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert not survivors(seconds)


def test_a_pending_decision_ends_with_its_asker(tmp_path: Path) -> None:
    """The wrapper is killed while a person is asked: the question is withdrawn."""

    @dataclass
    class Slow:
        cancelled: bool = False

        def create_policy(self, policy: Policy, stopwatch: Stopwatch) -> Slow:
            return self

        async def determine_action(self, request: ExecRequest) -> EscalateAction:
            if Path(request.program).name != "true":
                return Run()
            (tmp_path / "asked").touch()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled = True
                raise
            return Run()

    slow = Slow()
    script = "/bin/true & until [ -e asked ]; do sleep 0.01; done; kill -9 $!; wait $!; echo $?"
    assert call(script, slow, tmp_path).output.endswith("137\n")  # type: ignore[arg-type]
    assert slow.cancelled


def test_a_killed_supervisor_is_an_error_and_leaves_nothing(tmp_path: Path, seconds: str) -> None:
    async def scenario() -> None:
        marker = tmp_path / "pid"
        task = asyncio.ensure_future(
            _async_call(f"echo $PPID > {marker}.new; mv {marker}.new {marker}; sleep {seconds}", Table(), tmp_path)
        )
        while not marker.exists():
            await asyncio.sleep(0.01)
        os.kill(int(marker.read_text()), signal.SIGKILL)
        with pytest.raises(ShellToolError, match="supervisor"):
            await task

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert not survivors(seconds)


def test_no_descriptor_of_the_server_reaches_a_script(tmp_path: Path) -> None:
    secret = os.open("/dev/zero", os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        listed = call("ls -l /proc/self/fd | sed 's/.* //;1d'", Table(), tmp_path).output.split()
        escalated = call("ls -l /proc/self/fd | sed 's/.* //;1d'", Table(default=Escalate()), tmp_path).output.split()
    finally:
        os.close(secret)
    assert not [name for name in (*listed, *escalated) if "zero" in name]
    assert sum(name.startswith("socket:") for name in listed) == 1
    assert not [name for name in escalated if name.startswith("socket:")]


def test_calls_run_in_parallel(tmp_path: Path) -> None:
    async def scenario() -> list[ExecResult]:
        return await asyncio.gather(
            *(_async_call(f"/bin/echo {n}; /bin/sleep 0.2", Table(), tmp_path) for n in range(6))
        )

    assert [result.output for result in asyncio.run(scenario())] == [f"{n}\n" for n in range(6)]


def test_bad_directories_and_binaries_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        call(":", Table(), tmp_path / "nowhere")
    with pytest.raises(UsageError, match="too long"):
        call(":" + " " * 200_000, Table(), tmp_path)
    with pytest.raises(MissingBinaryError, match="no-supervisor"):
        asyncio.run(_async_call(":", Table(), tmp_path, supervisor=tmp_path / "no-supervisor"))


async def _async_call(
    script: str,
    table: object,
    workdir: Path,
    *,
    supervisor: Path | None = None,
    timeout: float = 30,
    sandbox: DangerFullAccess | ReadOnly | None = None,
) -> ExecResult:
    binaries = built()
    return await run_escalate_server(
        ExecParams(command=script, workdir=workdir, login=False, env={b"PATH": os.environb[b"PATH"]}),
        SandboxState(policy=sandbox or DangerFullAccess(), cwd=workdir),
        shell_program(),
        binaries.wrapper,
        Policy(),
        table,  # type: ignore[arg-type]
        timeout,
        supervisor=supervisor or binaries.supervisor,
    )


def survivors(argument: str) -> list[str]:
    """Processes with this argument that are still there after a while."""
    give_up = time.monotonic() + 20
    while True:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if argument.encode() in words:
                found.append(entry.name)
        if not found or time.monotonic() > give_up:
            return found
        time.sleep(0.02)


def test_the_shell_knows_its_own_path(tmp_path: Path, kind: ShellName) -> None:
    """What a script starts by it is intercepted as well: it is the patched shell, not the machine's."""
    table = Table(actions={"true": Deny(reason="seen")})
    itself = {"bash": '"$BASH"', "zsh": '"$ZSH_ARGZERO"'}[kind]
    result = call(f"echo {itself}; {itself} -c /bin/true", table, tmp_path)
    assert result.output.splitlines() == [str(getattr(built(), kind)), "Execution denied: seen"]
