"""What is left out of the frozen server: each name would be in it otherwise, none of it is, and nothing needs it.

That the SDK really imports each name of the server's own list is tested in ``tests/unit/server/test_stdio_only.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.server.excluded import EXCLUDED_MODULES
from shell_tool_release.freeze import LEFT_OUT

if TYPE_CHECKING:
    from pathlib import Path

    from shell_tool_release.freeze import Frozen
    from shell_tool_release.vendor import Parts
    from shell_tool_release.workspace import Workspace

pytestmark = pytest.mark.timeout(900)  # freezing takes half a minute, minutes where six others do it too


def _below(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


@pytest.fixture(scope="module")
def listing(frozen: Frozen) -> dict[str, list[str]]:
    document = json.loads(frozen.listing.read_text())
    return {
        "members": [name.removesuffix(".pyc").replace("/", ".") for name, _ in document["members"]],
        "excluded": document["excluded"],
    }


@pytest.mark.parametrize("name", LEFT_OUT)
def test_the_freezer_met_it(name: str, listing: dict[str, list[str]]) -> None:
    """Else the line in ``freeze.py`` says nothing any more and can go."""
    assert any(_below(module, (name,)) for module in listing["excluded"])


@pytest.mark.parametrize("name", [*EXCLUDED_MODULES, *LEFT_OUT])
def test_it_is_not_in_the_bundle(name: str, frozen: Frozen, listing: dict[str, list[str]]) -> None:
    assert [module for module in listing["members"] if _below(module, (name,))] == []
    files = [path.relative_to(frozen.server / "_internal") for path in frozen.server.rglob("*.pyc")]
    assert [path for path in files if _below(".".join(path.with_suffix("").parts), (name,))] == []


def test_no_module_of_the_server_is_missing(frozen: Frozen, workspace: Workspace) -> None:
    """Every module of ours can be imported in the bundle (the smoke test runs the paths a session takes)."""
    root = frozen.server / "_internal" / "codex_shell_tool_mcp"
    source = workspace.root / "src" / "codex_shell_tool_mcp"
    ours = {path.relative_to(source).with_suffix("") for path in source.rglob("*.py")}
    there = {path.relative_to(root).with_suffix("") for path in root.rglob("*.pyc")}
    left_out = {path.as_posix() for path in ours - there}
    assert left_out <= {"__main__"}


def test_the_server_answers_without_any_of_them(parts: Parts, frozen: Frozen, tmp_path: Path) -> None:
    """``initialize`` and ``tools/list`` in the frozen program, whose imports are all done by then."""
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    messages: list[dict[str, object]] = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
    ]
    native = {program.name: program.path for program in parts.native}
    command = [
        *(str(frozen.server / "codex-exec-mcp-server"), "--bash", str(parts.shells[0].path)),
        *("--execve", str(native["codex-execve-wrapper"]), "--supervisor", str(native["codex-shell-supervisor"])),
    ]
    with subprocess.Popen(
        command,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CODEX_HOME": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        answers = []
        for message in messages:
            server.stdin.write(json.dumps(message) + "\n")
            server.stdin.flush()
            if "id" in message:
                answers.append(json.loads(server.stdout.readline()))
        _, errors = server.communicate(timeout=60)
    assert [answer["id"] for answer in answers] == [1, 2]
    assert [tool["name"] for tool in answers[1]["result"]["tools"]] == ["shell"]
    assert (server.returncode, errors) == (0, "")
