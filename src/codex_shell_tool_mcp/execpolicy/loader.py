"""Finds rules files, reads them safely and makes one policy of them."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.errors import PolicyError, UsageError
from codex_shell_tool_mcp.execpolicy.isolation import Limits, RulesText, evaluate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from codex_shell_tool_mcp.execpolicy.rules import Policy

SYSTEM_FOLDER = Path("/etc/codex")
"""The administrator's layer."""

MAX_FILE_BYTES = 16 * 1024 * 1024
"""Larger files are refused unread; 100,000 rules take less."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One place rules come from; later layers are read later.

    The strictest rule counts whatever its layer, so the order matters for ``host_executable`` and network rules only.

    Attributes:
        name: What messages call it.
        folder: Its folder; the files are those of ``rules/`` in it. Need not exist.
    """

    name: str
    folder: Path


def find_codex_home(environ: Mapping[str, str]) -> Path:
    """The user's Codex folder: ``CODEX_HOME`` if set and not empty, else ``~/.codex``, which need not exist.

    Raises:
        UsageError: ``CODEX_HOME`` does not name a directory, or there is no home directory.
    """
    named = environ.get("CODEX_HOME")
    if not named:
        return Path(environ.get("HOME") or _account_home()) / ".codex"
    try:
        home = Path(named).resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as exc:
        raise UsageError(
            f"CODEX_HOME names {named}, which cannot be used: {_reason(exc)}; create it or unset CODEX_HOME"
        ) from exc
    if not home.is_dir():
        raise UsageError(f"CODEX_HOME names {named}, which is not a directory; name a directory or unset CODEX_HOME")
    return home


def default_layers(codex_home: Path) -> tuple[Layer, ...]:
    """The layers that always count: the administrator's, then the user's."""
    return (Layer(name="system", folder=SYSTEM_FOLDER), Layer(name="user", folder=codex_home))


def load_rules(codex_home: Path) -> Policy:
    """The policy of the system's and the user's rules files.

    Raises:
        PolicyError: A file cannot be read or does not hold; the text begins with its path.
    """
    return load_layers(default_layers(codex_home))


def load_layers(layers: Sequence[Layer], limits: Limits | None = None) -> Policy:
    """The policy of all rules files of ``layers``, in their order and by name within each.

    Raises:
        PolicyError: A file cannot be read or does not hold; the text begins with its path.
    """
    files = [file for layer in layers for file in rules_files(layer)]
    return evaluate([read_rules(file, follow_links=False) for file in files], limits)


def rules_files(layer: Layer) -> list[Path]:
    """The rules files of a layer: regular files in ``rules/`` with the extension ``rules``, sorted by name.

    Links are skipped, sub-directories not entered. A folder without ``rules/`` has none.

    Raises:
        PolicyError: ``rules`` is there but cannot be listed.
    """
    folder = layer.folder / "rules"
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name for entry in entries if _is_rules_name(entry.name) and entry.is_file(follow_symlinks=False)
            ]
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise PolicyError(
            f"{folder}: the {layer.name} layer's rules cannot be listed: {_reason(exc)}; "
            "make it a readable directory or remove it"
        ) from exc
    return [folder / name for name in sorted(names, key=os.fsencode)]


def read_rules(path: Path, *, follow_links: bool) -> RulesText:
    """The text of one rules file.

    Args:
        path: The file.
        follow_links: Whether the file itself may be a link: so for one named by the user, not for one found.

    Raises:
        PolicyError: It is no regular file, cannot be read, is too large, or is not UTF-8.
    """
    try:
        data = _read_regular(path, 0 if follow_links else os.O_NOFOLLOW)
    except OSError as exc:
        raise PolicyError(f"{path}: cannot be read: {_reason(exc)}; make it readable or remove it") from exc
    try:
        return RulesText(identifier=str(path), text=data.decode("utf-8"))
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        column = exc.start - data.rfind(b"\n", 0, exc.start)
        raise PolicyError(
            f"{path}:{line}:{column}: byte 0x{data[exc.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from exc


def _read_regular(path: Path, flags: int) -> bytes:
    # Not blocking: what was a file when it was listed may be a FIFO when it is opened.
    descriptor = os.open(path, flags | os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, f"larger than {MAX_FILE_BYTES} bytes")
    return data


def _is_rules_name(name: str) -> bool:
    stem, _, extension = name.rpartition(".")
    return extension == "rules" and stem != ""


def _account_home() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError as exc:
        raise UsageError("there is no home directory to look for .codex in; set HOME or CODEX_HOME") from exc


def _reason(exc: Exception) -> str:
    return exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
