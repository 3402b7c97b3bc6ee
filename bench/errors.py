"""What can go wrong in a measurement."""

from __future__ import annotations

from shell_tool_release.errors import ReleaseError


class BenchError(ReleaseError):
    """A server cannot be started, or did not do what it was to be measured at; the text says which and what it said."""
