"""``./run``: look at the machine, make nox's environment, become nox.

Run as a file by whatever ``python3`` there is; so, like ``preflight``, in Python 3.9's syntax, and the rest is imported
only after the version was looked at.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
USAGE = """usage: ./run SESSION... [-- ARGUMENT...]   e.g. ./run release
       ./run [NOX OPTION...]              without any: the list of sessions
"""


def nox_arguments(arguments: list[str]) -> list[str]:
    """Turn the words after ``./run`` into nox's: session names need no ``-s``."""
    if not arguments:
        return ["--list"]
    return arguments if arguments[0].startswith("-") else ["--session", *arguments]


def main(arguments: list[str]) -> int:
    """Run nox with ``arguments`` in place of this process; return a status only if it could not be."""
    if arguments[:1] in (["-h"], ["--help"]):
        sys.stdout.write(USAGE)
        return 0
    sys.path.insert(0, str(ROOT / "src"))
    from shell_tool_release import preflight  # noqa: PLC0415  (the path to it was just set)

    found = preflight.problems(ROOT, preflight.cache_folder())
    if found:
        sys.stderr.write(preflight.report(found) + "\n")
        return 1
    from shell_tool_release import environments  # noqa: PLC0415  (needs the Python that was just checked)

    try:
        python = environments.ensure(ROOT, "run", ("run",))
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"run: {error.cmd[:4]} failed with status {error.returncode}; its reason stands above\n")
        return 1
    command = [str(python), "-m", "nox", "--noxfile", str(ROOT / "noxfile.py"), *nox_arguments(arguments)]
    os.execv(command[0], command)  # noqa: S606 - a program and its arguments, never a shell's words
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
