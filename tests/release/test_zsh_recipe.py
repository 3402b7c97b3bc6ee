"""What zsh's configure would leave to chance is put in order, for every folder the compiler is in."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from release.conftest import cannot
from shell_tool_release.recipes import zsh
from shell_tool_release.sources import SourceOptions
from shell_tool_release.zsh_source import zsh_source

if TYPE_CHECKING:
    from pathlib import Path

HEADERS = ("signum-arch.h", "signum-generic.h", "signal.h", "sigcontext.h", "sigset.h")


def _ordered(folder: Path, configure: str) -> subprocess.CompletedProcess[str]:
    (folder / "src").mkdir()
    (folder / "obj").mkdir()
    (folder / "src" / "configure").write_text(configure)
    command = ["sh", "-ec", zsh._ORDER]
    return subprocess.run(command, cwd=folder / "obj", capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def configure() -> str:
    """Upstream's."""
    return (zsh_source(SourceOptions.default()).path / "configure").read_text()


def test_headers_are_in_one_order_whatever_the_awk_and_the_folder(configure: str, tmp_path: Path) -> None:
    awks = [awk for awk in ("mawk", "gawk", "busybox awk") if shutil.which(awk.partition(" ")[0])]
    if not awks:
        cannot("no awk is here, which a build needs")
    done = _ordered(tmp_path, configure)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "src" / "configure").read_text()
    assert text.count("for (var in files)") == text.count("for (var in files) print var }' | LC_ALL=C sort") == 4
    # The lines that list signals' headers, as they stand in it now.
    pipe = re.search(r"^(\$AWK '\{ if \(\$1 ~ /sig/\).*?)`\"$", text, re.MULTILINE | re.DOTALL)
    assert pipe is not None
    folders = ("/a", "/another/folder/with/a/longer/name", *(f"/place-{number}" for number in range(20)))
    orders = set()
    for awk, folder in itertools.product(awks, folders):
        lines = "".join(f"{folder}/{name}\n" for name in HEADERS)
        script = ["sh", "-ec", f"AWK='{awk}'\n{pipe[1]}"]
        done = subprocess.run(script, input=lines, capture_output=True, text=True, check=True)
        orders.add(done.stdout.replace(folder, ""))
    (order,) = orders
    assert order.index("signum-generic.h") < order.index("signum-arch.h"), "SIGABRT is called ABRT, not IOT"


def test_a_configure_that_lists_them_otherwise_is_not_built(configure: str, tmp_path: Path) -> None:
    assert _ordered(tmp_path, configure.replace("print var }'", "print(var) }'", 1)).returncode != 0
