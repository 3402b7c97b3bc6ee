"""Where things are: the checkout, what is built from it, and the version in ``pyproject.toml``.

API::

    Workspace(root)          paths of one checkout
    find_workspace() -> Workspace
    Workspace.version        str, from pyproject.toml
    host_platform() -> str   "linux-x64" | "linux-arm64" | "darwin-x64" | "darwin-arm64" (node's own names)
"""

from __future__ import annotations

import os
import platform
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from shell_tool_release.errors import ConfigurationError

_MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """One checkout; nothing here touches the disk but :attr:`version`."""

    root: Path

    @property
    def bash_patch(self) -> Path:
        """The patch that gives bash its exec hook."""
        return self.root / "patches" / "bash-exec-wrapper.patch"

    @property
    def zsh_patch(self) -> Path:
        """The patch that gives zsh the same hook."""
        return self.root / "patches" / "zsh-exec-wrapper.patch"

    @property
    def native_sources(self) -> Path:
        """Folder of the C sources and their ``sources.toml``."""
        return self.root / "src" / "native"

    @property
    def third_party(self) -> Path:
        """Sources of what is built, which a source archive of a release carries; no such folder in a checkout."""
        return self.root / "third_party"

    @property
    def variants_file(self) -> Path:
        """The one table of shell variants, shipped with the server too."""
        return self.root / "src" / "codex_shell_tool_mcp" / "shells" / "variants.toml"

    @property
    def vendor(self) -> Path:
        """What the package ships, laid out as it ships; build output, never committed."""
        return self.root / "vendor"

    @property
    def dist(self) -> Path:
        """Finished artefacts."""
        return self.root / "dist"

    @property
    def build(self) -> Path:
        """Logs and intermediate files of this checkout."""
        return self.root / "build"

    @cached_property
    def version(self) -> str:
        """Version of the project."""
        document = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))
        version = document.get("project", {}).get("version")
        if not isinstance(version, str):
            message = f"{self.root / 'pyproject.toml'} has no project.version; add it"
            raise ConfigurationError(message)
        return version


def find_workspace(start: Path | None = None) -> Workspace:
    """Return the checkout that holds ``start`` (default: this file); ConfigurationError when there is none."""
    here = (start or Path(__file__)).resolve()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "src" / "shell_tool_release").is_dir():
            return Workspace(root=folder)
    message = f"{here} is in no checkout of this project; run from a clone (pyproject.toml and src/ are needed)"
    raise ConfigurationError(message)


def host_platform() -> str:
    """Return this machine's platform in node's names; ConfigurationError when no release can be built here."""
    system = platform.system().lower()
    machine = _MACHINES.get(platform.machine().lower())
    if system not in {"linux", "darwin"} or machine is None:
        message = f"this is {system}-{platform.machine()}; releases are built on Linux or macOS, x86_64 or arm64"
        raise ConfigurationError(message)
    return f"{system}-{machine}"


def cpu_count() -> int:
    """Cores this process may use, at least 1."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS has no affinity
        return os.cpu_count() or 1
