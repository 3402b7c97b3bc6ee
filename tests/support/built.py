"""The built binaries tests need: ``built().bash`` and so on, each built at its first use and cached across runs.

Environment variables win, for work on one part: CODEX_TEST_BASH, CODEX_TEST_BASH_MUSL, CODEX_TEST_BASH_STOCK,
CODEX_TEST_BASH_STOCK_MUSL, the same for ZSH, CODEX_TEST_WRAPPER, CODEX_TEST_FROZEN_WRAPPER, CODEX_TEST_SUPERVISOR.

Building takes minutes once, longer than a test may run: ``python -m support.built`` (PYTHONPATH=src:tests) does it
beforehand, and the nox session for tests calls it. With several workers one builds and the others wait, by the locks of
the cache.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from native import decoding
from shell_tool_release.errors import run_main
from shell_tool_release.freeze import WRAPPER, freeze
from shell_tool_release.native import NativeOptions, build_native
from shell_tool_release.recipes.recipe import Recipe
from shell_tool_release.shells import KINDS, BuiltShell, ShellOptions, build_all
from shell_tool_release.toolchain import SystemCompiler
from shell_tool_release.workspace import find_workspace
from system.bash_support import sanitised
from system.bash_support.programs import program

if TYPE_CHECKING:
    from collections.abc import Callable

    from shell_tool_release.variants import Shell, Variant


def _chosen(variable: str, otherwise: Callable[[], Path]) -> Path:
    """The file ``variable`` names (it must be executable), else what ``otherwise`` builds."""
    value = os.environ.get(variable)
    if not value:
        return otherwise()
    path = Path(value)
    if not os.access(path, os.X_OK):
        message = f"{variable}={value} is no executable file"
        raise FileNotFoundError(message)
    return path


class Built:
    """Paths of executables; an attribute builds what it names and what is built along with it."""

    @functools.cached_property
    def bash(self) -> Path:
        """Patched bash, the host's first variant (glibc on Linux)."""
        return _chosen("CODEX_TEST_BASH", lambda: self._bash[0].path)

    @functools.cached_property
    def bash_musl(self) -> Path:
        """Patched bash, linked statically with musl (Linux only; elsewhere the host's variant)."""
        return _chosen("CODEX_TEST_BASH_MUSL", lambda: self._bash[1].path)

    @functools.cached_property
    def bash_stock(self) -> Path:
        """Unpatched bash, same compiler and flags as :attr:`bash`."""
        return _chosen("CODEX_TEST_BASH_STOCK", lambda: self._bash[2].path)

    @functools.cached_property
    def bash_stock_musl(self) -> Path:
        """Unpatched bash, same compiler and flags as :attr:`bash_musl`."""
        return _chosen("CODEX_TEST_BASH_STOCK_MUSL", lambda: self._bash[3].path)

    @functools.cached_property
    def zsh(self) -> Path:
        """Patched zsh, the host's first variant (glibc on Linux)."""
        return _chosen("CODEX_TEST_ZSH", lambda: self._zsh[0].path)

    @functools.cached_property
    def zsh_musl(self) -> Path:
        """Patched zsh, linked statically with musl (Linux only; elsewhere the host's variant)."""
        return _chosen("CODEX_TEST_ZSH_MUSL", lambda: self._zsh[1].path)

    @functools.cached_property
    def zsh_stock(self) -> Path:
        """Unpatched zsh, same compiler and flags as :attr:`zsh`."""
        return _chosen("CODEX_TEST_ZSH_STOCK", lambda: self._zsh[2].path)

    @functools.cached_property
    def zsh_stock_musl(self) -> Path:
        """Unpatched zsh, same compiler and flags as :attr:`zsh_musl`."""
        return _chosen("CODEX_TEST_ZSH_STOCK_MUSL", lambda: self._zsh[3].path)

    @functools.cached_property
    def wrapper(self) -> Path:
        """The native execve wrapper."""
        return _chosen("CODEX_TEST_WRAPPER", lambda: self._natives["codex-execve-wrapper"])

    @functools.cached_property
    def supervisor(self) -> Path:
        """The native shell supervisor."""
        return _chosen("CODEX_TEST_SUPERVISOR", lambda: self._natives["codex-shell-supervisor"])

    @functools.cached_property
    def frozen_wrapper(self) -> Path:
        """The frozen Python wrapper."""
        return _chosen("CODEX_TEST_FROZEN_WRAPPER", lambda: freeze(find_workspace()).server / WRAPPER)

    @functools.cached_property
    def _bash(self) -> tuple[BuiltShell, ...]:
        return _four("bash")

    @functools.cached_property
    def _zsh(self) -> tuple[BuiltShell, ...]:
        return _four("zsh")

    @functools.cached_property
    def _natives(self) -> dict[str, Path]:
        return {native.name: native.path for native in build_native(replace(NativeOptions.default(), quiet=True))}


def host_rows(shell: Shell) -> tuple[Variant, ...]:
    """The host's rows of a shell, in the table's order."""
    return tuple(row for row in ShellOptions.default().variants if row.shell == shell)


def _four(shell: Shell) -> tuple[BuiltShell, ...]:
    """Patched glibc, patched musl, stock glibc, stock musl (a host with one variant has it twice)."""
    options, found = ShellOptions.default(), host_rows(shell)
    rows = (found[0], found[-1])
    recipes = [*map(options.recipe, rows), *(Recipe(variant=row, patch=None) for row in rows)]
    return build_all(recipes, replace(options.context, quiet=True))


def configure_only() -> tuple[Recipe, ...]:
    """Configurations that tests compare with the real builds: by the machine's compiler, and by recorded answers."""
    rows = host_rows("bash")
    crossed = [Recipe(variant=row, patch=None, cross=True, configure_only=True) for row in (*rows, *host_rows("zsh"))]
    if shutil.which("cc") is None:
        return tuple(crossed)
    return (Recipe(variant=rows[0], patch=None, compiler=SystemCompiler(), configure_only=True), *crossed)


@functools.cache
def built() -> Built:
    """The one :class:`Built` of this process."""
    return Built()


def main() -> None:
    """Build everything and print where it is."""
    here = built()
    shells = (f"{shell}{kind}" for shell in ("bash", "zsh") for kind in ("", "_musl", "_stock", "_stock_musl"))
    names = (*shells, "wrapper", "supervisor")
    sys.stdout.writelines(f"{name} {getattr(here, name)}\n" for name in names)
    build_all(configure_only(), ShellOptions.default().context)
    for name in ("recorder", "pass_wrapper"):
        program(name)
    decoding.driver()
    if sanitised.compiler() is not None:
        for shell in KINDS:
            sanitised.sanitised(shell)
        decoding.driver(sanitised=True)


if __name__ == "__main__":
    sys.exit(run_main(main))
