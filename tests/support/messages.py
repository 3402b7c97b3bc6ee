"""What a module's errors say, read from its source: so that a test can tell that each was seen."""

from __future__ import annotations

import ast
import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType


def fixed_parts(module: ModuleType, *callables: str, most: int | None = None) -> list[tuple[int, list[str]]]:
    """Of each call of one of ``callables`` in ``module``: its line, and the parts of its texts that are always alike.

    Args:
        module: Whose source is read.
        callables: Names of exceptions, or of functions that make them.
        most: Arguments that are looked at, from the last.
    """
    found = []
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in callables:
            arguments = node.args if most is None else node.args[-most:]
            found.append((node.lineno, [text for argument in arguments for text in _texts(argument)]))
    return found


def _texts(node: ast.expr) -> list[str]:
    """The constant texts of an expression, but not those inside what is formatted."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return [text for value in node.values if isinstance(value, ast.Constant) for text in _texts(value)]
    return []
