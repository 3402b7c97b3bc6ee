"""What was measured, where: in words that name no machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from bench import peer
from shell_tool_release.workspace import cpu_count

if TYPE_CHECKING:
    from bench.options import Options
    from shell_tool_release.workspace import Workspace


def describe(options: Options, workspace: Workspace) -> str:
    """One line each: what was compared, and the machine."""
    what = "from the sources of a checkout" if options.checkout else "the npm package, as it ships"
    original = f", the original {peer.VERSION} from npm" if options.peer else ""
    return f"Ours {workspace.version}{_commit(workspace)} ({what}){original}. {_machine()}."


def _commit(workspace: Workspace) -> str:
    """Which commit it is, or nothing where that is not known."""
    command = ["git", "-C", str(workspace.root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, text=True)
    except OSError:
        return ""
    return f" at {done.stdout.strip()}" if done.returncode == 0 else ""


def _machine() -> str:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    system = f"{platform.system()} {platform.release()}"
    return f"{_processor()}, {cpu_count()} cores, {system}; load before: {load}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
