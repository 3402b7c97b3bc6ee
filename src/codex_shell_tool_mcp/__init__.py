"""An MCP server with one tool, shell, whose every exec is decided by rules."""
