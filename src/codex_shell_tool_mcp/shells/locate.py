"""Where this package's programs lie: the vendor folder and what is in it.

::

    vendor/<target>/server/codex-exec-mcp-server       the frozen server, with codex-execve-wrapper-py beside it
    vendor/<target>/bin/codex-execve-wrapper
    vendor/<target>/bin/codex-shell-supervisor
    vendor/<target>/<shell>/<variant>/<shell>
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.errors import MissingBinaryError
from codex_shell_tool_mcp.shells.catalog import ShellName, ShellProgram, choose_shell, host_target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VENDOR_VARIABLE = b"CODEX_SHELL_TOOL_MCP_VENDOR"
"""Names the vendor folder where the server is not part of one."""

_PACKAGE_DEPTH = 1
"""A wheel has the vendor folder in the package: ``codex_shell_tool_mcp/vendor``."""

_CHECKOUT_DEPTH = 3
"""``src/codex_shell_tool_mcp/shells/locate.py``: the checkout is this many folders above this file's own."""


@dataclass(frozen=True, kw_only=True)
class Programs:
    """The programs a call is made of; all absolute, all executable when they were looked for."""

    shell: ShellProgram
    wrapper: Path
    supervisor: Path


def vendor_folder(environ: Mapping[bytes, bytes], *, frozen: bool, executable: str = sys.executable) -> Path | None:
    """The vendor folder: around a frozen server, else the variable's, a wheel's, the checkout's; or ``None``."""
    if frozen:
        return Path(executable).resolve().parents[2]
    named = environ.get(VENDOR_VARIABLE)
    if named:
        return Path(os.fsdecode(named)).absolute()
    folders = Path(__file__).resolve().parents
    places = folders[_PACKAGE_DEPTH] / "vendor", folders[_CHECKOUT_DEPTH] / "vendor"
    return next((place for place in places if place.is_dir()), None)


def find_programs(
    *,
    bash: Path | None,
    execve: Path | None,
    supervisor: Path | None,
    environ: Mapping[bytes, bytes],
    frozen: bool,
    shell: ShellName = "bash",
    zsh: Path | None = None,
) -> Programs:
    """Find every program; the options win over the vendor folder.

    Raises:
        MissingBinaryError: One is missing or cannot be executed; the text lists where it was looked for.
    """
    vendor = vendor_folder(environ, frozen=frozen)
    folder = None if vendor is None else vendor / host_target()
    # Releases ship the native wrapper; where there is no native build the Python one does the same, slower.
    wrappers = ("bin/codex-execve-wrapper", "server/codex-execve-wrapper-py")
    return Programs(
        wrapper=_executable("--execve", execve, folder, wrappers),
        supervisor=_executable("--supervisor", supervisor, folder, ("bin/codex-shell-supervisor",)),
        shell=choose_shell(given={"bash": bash, "zsh": zsh}[shell], environ=environ, vendor=vendor, shell=shell),
    )


def _executable(option: str, given: Path | None, folder: Path | None, names: Sequence[str]) -> Path:
    """The program ``option`` is about: the one given, else the first of ``names`` in ``folder`` that is there."""
    found = [folder / name for name in names] if folder is not None else []
    places = found if given is None else [given.absolute()]
    for path in places:
        if path.is_file() and os.access(path, os.X_OK):
            return path
    tried = "; ".join(f"{path}: {_wrong(path)}" for path in places)
    name = Path(names[0]).name
    if given is not None:
        raise MissingBinaryError(f"{name} cannot be used: {option} is {tried}")
    raise MissingBinaryError(
        f"{name} not found: {tried or 'there is no vendor folder'}; build it with nox, reinstall the package, give its "
        f"path with {option}, or name the vendor folder with {VENDOR_VARIABLE.decode()}"
    )


def _wrong(path: Path) -> str:
    if not path.exists():
        return "no such file"
    return "a directory" if path.is_dir() else "not executable"
