"""The version; equal to ``pyproject.toml``'s, which a test checks. Reading it from metadata costs 25 ms of start-up."""

VERSION = "0.1.0"
