"""The environment in which a Python started by a test finds what the test itself runs against."""

from __future__ import annotations

import os
from pathlib import Path

import codex_shell_tool_mcp

_FOLDER = Path(codex_shell_tool_mcp.__file__).parents[1]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, the package's folder first on the module path, and ``more``."""
    path = os.pathsep.join(filter(None, (str(_FOLDER), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, **more}
