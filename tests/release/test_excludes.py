"""What is left out of the frozen server: each name would be in it otherwise, none of it is, and nothing needs it."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.server.excluded import EXCLUDED_MODULES
from shell_tool_release.freeze import LEFT_OUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shell_tool_release.vendor import Parts

pytestmark = pytest.mark.timeout(900)  # freezing takes half a minute, minutes where six others do it too

START = ("codex_shell_tool_mcp.cli", "codex_shell_tool_mcp.server.stdio")


def _below(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


@cache
def _file(module: str) -> Path | None:
    """The Python source of a module, found without running its packages."""
    top, *rest = module.split(".")
    if top == "__main__":  # this process, whatever it is
        return None
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    place = Path(spec.origin)
    if not rest:
        return place
    stem = place.parent.joinpath(*rest)
    return next((path for path in (stem / "__init__.py", stem.with_suffix(".py")) if path.is_file()), None)


def _imports(module: str, path: Path) -> Iterator[str]:
    """Every module named by an import statement anywhere in the file."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, node.module] if node.module else above)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@pytest.fixture(scope="module")
def reached() -> set[str]:
    """All modules that the server's code names directly or through what it imports, with nothing left out."""
    seen: set[str] = set()
    todo = list(START)
    while todo:
        module = todo.pop()
        parents = [module.rsplit(".", count)[0] for count in range(module.count(".") + 1)]
        for name in parents:
            if name in seen:
                continue
            path = _file(name)
            if path is None and name.split(".")[0] not in sys.builtin_module_names and _file(name.split(".")[0]):
                continue  # a class or a function, not a module
            seen.add(name)
            if path is not None:
                todo += _imports(name, path)
    return seen


@pytest.fixture(scope="module")
def listing(parts: Parts) -> dict[str, list[str]]:
    document = json.loads(parts.frozen.listing.read_text())
    return {
        "members": [name.removesuffix(".pyc").replace("/", ".") for name, _ in document["members"]],
        "excluded": document["excluded"],
    }


@pytest.mark.parametrize("name", EXCLUDED_MODULES)
def test_the_server_would_drag_it_in(name: str, reached: set[str]) -> None:
    """Else the line in ``server/excluded.py`` says nothing any more and can go."""
    if (
        _file(name.split(".", maxsplit=1)[0]) is None
        and importlib.util.find_spec(name.split(".", maxsplit=1)[0]) is None
    ):
        pytest.fail(f"{name} is not installed here: the SDK does not depend on it any more")
    assert any(_below(module, (name,)) for module in reached)


@pytest.mark.parametrize("name", LEFT_OUT)
def test_the_freezer_met_it(name: str, listing: dict[str, list[str]]) -> None:
    """Else the line in ``freeze.py`` says nothing any more and can go."""
    assert any(_below(module, (name,)) for module in listing["excluded"])


@pytest.mark.parametrize("name", [*EXCLUDED_MODULES, *LEFT_OUT])
def test_it_is_not_in_the_bundle(name: str, parts: Parts, listing: dict[str, list[str]]) -> None:
    assert [module for module in listing["members"] if _below(module, (name,))] == []
    files = [path.relative_to(parts.frozen.server / "_internal") for path in parts.frozen.server.rglob("*.pyc")]
    assert [path for path in files if _below(".".join(path.with_suffix("").parts), (name,))] == []


def test_no_module_of_the_server_is_missing(parts: Parts) -> None:
    """Every module of ours can be imported in the bundle (the smoke test runs the paths a session takes)."""
    root = parts.frozen.server / "_internal" / "codex_shell_tool_mcp"
    source = _file("codex_shell_tool_mcp")
    assert source is not None
    ours = {path.relative_to(source.parent).with_suffix("") for path in source.parent.rglob("*.py")}
    frozen = {path.relative_to(root).with_suffix("") for path in root.rglob("*.pyc")}
    left_out = {path.as_posix() for path in ours - frozen}
    assert left_out <= {"__main__"}


def test_the_server_answers_without_any_of_them(parts: Parts, tmp_path: Path) -> None:
    """``initialize`` and ``tools/list`` in the frozen program, whose imports are all done by then."""
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    messages: list[dict[str, object]] = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
    ]
    native = {program.name: program.path for program in parts.native}
    command = [
        *(str(parts.frozen.server / "codex-exec-mcp-server"), "--bash", str(parts.shells[0].path)),
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
