"""What hatchling runs for each artefact: wheels get this platform's programs, source archives get bash's source.

``CODEX_SHELL_TOOL_MCP_WHEEL`` names the platform a wheel is for (node's names; any can be built on any machine), or
``none`` for one without programs, which the server is frozen from. Without it a wheel is for the machine that builds
it: that is what ``pip install`` of a source archive does. The compiler is a wheel too, so no machine needs one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "CODEX_SHELL_TOOL_MCP_WHEEL"
NEEDED = ("requests", "tqdm", "ziglang")
"""Of the release group: what building the programs takes."""


class ProgramsHook(BuildHookInterface[Any]):
    """Adds what is built or fetched to what hatchling finds in the checkout."""

    PLUGIN_NAME = "custom"

    def _release(self) -> Any:
        source = str(Path(self.root) / "src")
        if source not in sys.path:
            sys.path.insert(0, source)
        from shell_tool_release import wheels  # noqa: PLC0415 - the lines above are its path

        return wheels

    def _programs_wanted(self) -> bool:
        return os.environ.get(VARIABLE) != "none"

    def dependencies(self) -> list[str]:
        """What pip installs beside hatchling before it builds: the compiler, unless no program is wanted."""
        if not self._programs_wanted() or self.target_name not in {"wheel", "sdist"}:
            return []
        self._release()
        from shell_tool_release import environments  # noqa: PLC0415 - its path was just set

        requirements = environments.requirements(Path(self.root), "release")
        return [line for line in requirements if line.startswith(NEEDED)]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fill in what is added; an editable installation gets nothing, for it runs from the checkout."""
        if version != "standard" or not self._programs_wanted():
            return
        wheels = self._release()
        from shell_tool_release.errors import ReleaseError  # noqa: PLC0415 - its path was just set

        try:
            if self.target_name == "sdist":
                build_data["force_include"] |= wheels.sdist_additions(Path(self.root))
            else:
                build_data |= wheels.wheel_additions(Path(self.root), os.environ.get(VARIABLE))
        except ReleaseError as error:
            self.app.abort(f"error: {error}")
