"""Imports point one way, and what is trusted stays small (docs: the layering in the design)."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parents[2] / "src"
PACKAGE = "codex_shell_tool_mcp"
FILES = sorted((SOURCE / PACKAGE).rglob("*.py"))
RELEASE_FILES = sorted((SOURCE / "shell_tool_release").rglob("*.py"))

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "version": set(),
    "frozen_environment": {"errors"},
    "execpolicy": {"errors", "frozen_environment"},
    "process": {"errors"},
    "sandbox": {"errors"},
    "shells": {"errors"},
    "escalation": {"errors", "execpolicy", "process", "sandbox", "shells"},
    "server": {"errors", "version", "frozen_environment", "escalation", "execpolicy", "process", "sandbox", "shells"},
    "verify": {"errors"},
    "cli": {
        *("errors", "version", "frozen_environment", "server", "execpolicy", "shells", "sandbox", "escalation"),
        "verify",
    },
    "__main__": {"cli", "frozen_environment"},
    "__init__": set(),
}
"""Part → the parts it may import, besides itself."""

PURE = {
    "escalation/wire.py": {"errors"},
    "execpolicy/rules.py": {"errors", "execpolicy"},
    "execpolicy/decision.py": {"errors"},
    "sandbox/spec.py": {"errors"},
}
"""Modules that touch neither files nor processes nor sockets."""

IMPURE_STANDARD = {
    "asyncio",
    "ctypes",
    "fcntl",
    "multiprocessing",
    "resource",
    "select",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
}


@cache
def _imports(path: Path) -> tuple[tuple[str, bool], ...]:
    """Each imported module, and whether only type checkers see it."""
    tree = ast.parse(path.read_bytes())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    return tuple((name, id(node) in typing_only) for node in ast.walk(tree) for name in _names(node))


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute here"
        yield node.module or ""
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _part(module: str) -> str | None:
    """The part of our package that a module belongs to."""
    words = module.split(".")
    if words[0] != PACKAGE or len(words) == 1:
        return None
    return words[1]


def _owner(path: Path) -> str:
    relative = path.relative_to(SOURCE / PACKAGE)
    return relative.parts[0].removesuffix(".py")


def _parts_imported(path: Path) -> set[str]:
    found = {_part(module) for module, _ in _imports(path)} - {None, _owner(path)}
    return {part for part in found if part is not None}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE / PACKAGE)))
def test_arrows(path: Path) -> None:
    assert _owner(path) in MAY_IMPORT, "a new part needs its place in the order"
    assert _parts_imported(path) <= MAY_IMPORT[_owner(path)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE / PACKAGE)))
def test_only_the_server_knows_mcp(path: Path) -> None:
    tops = {module.split(".")[0] for module, _ in _imports(path)}
    if _owner(path) != "server":
        assert not tops & {"mcp", "mcp_types", "anyio", "pydantic"}
    if path.relative_to(SOURCE / PACKAGE).as_posix() != "execpolicy/parser.py":
        assert "starlark" not in tops


@pytest.mark.parametrize("name", PURE)
def test_pure_modules(name: str) -> None:
    path = SOURCE / PACKAGE / name
    parts = {_part(module) for module, _ in _imports(path)} - {None}
    assert parts <= PURE[name]
    standard = {module.split(".")[0] for module, typing_only in _imports(path) if not typing_only} - {PACKAGE}
    assert standard <= set(sys.stdlib_module_names)
    assert not standard & IMPURE_STANDARD


@pytest.mark.parametrize("path", RELEASE_FILES, ids=lambda path: path.name)
def test_the_release_code_takes_only_data_from_what_it_ships(path: Path) -> None:
    """It builds the server; it must not run it in its own process."""
    ours = {module for module, _ in _imports(path) if module.startswith(f"{PACKAGE}.")}
    allowed = f"{PACKAGE}.server.excluded"
    assert {
        module for module in ours if not f"{module}.".startswith(f"{allowed}.") and module != f"{PACKAGE}.server"
    } == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE / PACKAGE)))
def test_what_ships_does_not_know_the_release_code(path: Path) -> None:
    assert not any(module.startswith("shell_tool_release") for module, _ in _imports(path))


def test_a_wrong_arrow_would_be_seen(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(f"def late():\n    from {PACKAGE}.server import app\n    return app\n")
    assert {_part(module) for module, _ in _imports(wrong)} == {"server"}


def test_every_package_says_what_it_is() -> None:
    for path in [*FILES, *RELEASE_FILES]:
        assert ast.get_docstring(ast.parse(path.read_bytes())), f"{path.name} has no docstring"
        if path.name == "__init__.py":
            assert len(ast.parse(path.read_bytes()).body) == 1, f"{path} does more than say what it is"
