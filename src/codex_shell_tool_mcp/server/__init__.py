"""The MCP side: the only package that imports the MCP SDK."""
