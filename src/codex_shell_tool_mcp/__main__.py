"""``python -m codex_shell_tool_mcp``."""

from __future__ import annotations

import sys

from codex_shell_tool_mcp.cli import main

if __name__ == "__main__":
    sys.exit(main())
