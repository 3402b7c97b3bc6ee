"""The escalation server is not bound to MCP: it works with another policy factory where the SDK cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from support import sources
from support.built import built

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import asyncio, json, os, sys
from pathlib import Path

class NoSdk:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mcp", "mcp_types", "pydantic", "anyio"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoSdk())
try:
    import mcp
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("mcp can be imported: the test shows nothing")

from codex_shell_tool_mcp.escalation.params import ExecParams
from codex_shell_tool_mcp.escalation.policy import Deny, Escalate, Run
from codex_shell_tool_mcp.escalation.server import run_escalate_server
from codex_shell_tool_mcp.execpolicy.rules import Policy
from codex_shell_tool_mcp.sandbox.spec import DangerFullAccess, SandboxState
from codex_shell_tool_mcp.shells.catalog import ShellProgram

shell, wrapper, supervisor, workdir = map(Path, sys.argv[1:])

class ByName:
    def create_policy(self, policy, stopwatch):
        assert isinstance(policy, Policy)
        assert stopwatch.remaining() <= 30
        return self

    async def determine_action(self, request):
        name = os.path.basename(request.program)
        return {"touch": Deny(reason="not today"), "id": Escalate()}.get(name, Run())

result = asyncio.run(run_escalate_server(
    ExecParams(command="touch made; id -u; ls", workdir=workdir, login=False, env=dict(os.environb)),
    SandboxState(policy=DangerFullAccess(), cwd=workdir),
    ShellProgram(path=shell, variant="gnu"),
    wrapper,
    Policy(),
    ByName(),
    30.0,
    supervisor=supervisor,
))
print(json.dumps([result.exit_code, result.output, [type(record.action).__name__ for record in result.records]]))
"""


def test_a_plain_factory_where_the_sdk_cannot_be_imported(tmp_path: Path) -> None:
    binaries = built()
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, binaries.bash, binaries.wrapper, binaries.supervisor, tmp_path],
        env=sources.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    exit_code, output, actions = json.loads(ran.stdout)
    assert exit_code == 0
    first, second = output.splitlines()
    assert first == "Execution denied: not today"
    assert second.isdigit()
    assert actions == ["Deny", "Escalate", "Run"]
    assert list(tmp_path.iterdir()) == []
