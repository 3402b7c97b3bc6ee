"""What was tried with exactly these bytes: sessions note it in the cache, and ``./run docs`` tells it.

API::

    note(sha256, where)         those bytes did on ``where`` all that they should
    told(sha256) -> list[str]   everything noted, in alphabetical order
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from shell_tool_release.cache import Lock, cache_root

if TYPE_CHECKING:
    from pathlib import Path


def note(sha256: str, where: str) -> None:
    """Add ``where`` to what is known of those bytes."""
    path = _path(sha256)
    with Lock(path.with_suffix(".lock")):
        path.write_text(json.dumps(sorted({*told(sha256), where})), encoding="utf-8")


def told(sha256: str) -> list[str]:
    """Everything noted of those bytes; nothing where there is no such note, or a broken one."""
    try:
        found = json.loads(_path(sha256).read_bytes())
    except (OSError, ValueError):
        return []
    return sorted(map(str, found)) if isinstance(found, list) else []


def _path(sha256: str) -> Path:
    return cache_root() / "verified" / f"{sha256}.json"
