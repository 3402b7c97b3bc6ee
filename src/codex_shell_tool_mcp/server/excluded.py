"""What the MCP SDK drags in and a server on stdio never runs. Imports nothing: the freezer reads these names too.

The SDK's low-level server module imports its HTTP transports, their authorisation and telemetry whatever transport is
used; its package imports the whole client. Measured with mcp 2.3.0: 1.1 s of start-up and 11 MB of the package.
"""

PLACEHOLDERS = (
    "importlib.metadata",  # pydantic asks it for plugins and for the version of a package that checks e-mail addresses
    "mcp.server.auth",  # OAuth of the HTTP transports
    "mcp.server.streamable_http",  # HTTP transport
    "mcp.server.streamable_http_manager",
    "mcp.server.transport_security",  # Host and Origin checks of the HTTP transports
    "mcp_types._v2026_07_28",  # messages of the protocol generation without server requests: approvals need them
    "opentelemetry",  # spans nobody exports; these names do nothing (see no_telemetry.py), all others raise when used
    "ssl",  # asyncio and anyio name its types; nothing here opens a TLS connection, and its libraries weigh 5 MB
    "starlette",  # web framework of the HTTP transports
)
"""Imported by modules this server does run, so something must stand in: importing works, using raises."""

ABSENT = (
    "_hashlib",  # OpenSSL's hashes; hashlib falls back to its own
)
"""Optional for their importers, who handle that they are missing."""

UNREACHED = (
    "click",
    "cryptography",
    "httpx2",
    "idna",
    "mcp.client",
    "mcp.server.mcpserver",
    "mcp.server.sse",
    "python_multipart",
    "sse_starlette",
    "uvicorn",
)
"""Imported only by the packages ``mcp`` and ``mcp.server`` themselves, whose own code is not run, or by those above."""

EXCLUDED_MODULES: tuple[str, ...] = (*PLACEHOLDERS, *ABSENT, *UNREACHED)
"""Every name, with all modules below it, that is not part of the frozen program."""
