"""The patch fits bash's source exactly at every locked level, and the steps in patches/README.md work as written."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from shell_tool_release import patching
from shell_tool_release.sources import SourceOptions, bash_source, git_repository, patched_source
from shell_tool_release.workspace import find_workspace
from system.bash_support.rig import Rig

if TYPE_CHECKING:
    from pathlib import Path

PATCH = find_workspace().bash_patch
README = PATCH.parent / "README.md"
LEVELS = sorted(SourceOptions.default().lock.trees)
GIT = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}


def test_the_lock_knows_the_base_and_the_newest_level() -> None:
    assert {3, SourceOptions.default().lock.level} <= set(LEVELS)


@pytest.mark.parametrize("level", LEVELS)
def test_applies_exactly(tmp_path: Path, level: int) -> None:
    tree = bash_source(replace(SourceOptions.default(), level=level))
    applied = patched_source(tree, PATCH, tmp_path / "tree")
    assert {one.path for one in applied} == set(changed_files())
    check = ["git", "apply", "--check", "--whitespace=error-all", str(PATCH)]
    fresh = tmp_path / "fresh"
    patched_source(tree, None, fresh)
    subprocess.run(["git", "init", "--quiet"], cwd=fresh, env={**os.environ, **GIT}, check=True)  # else git skips files
    done = subprocess.run(check, cwd=fresh, env={**os.environ, **GIT}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def changed_files() -> list[str]:
    """What the patch touches."""
    return [one.path for one in patching.parse(PATCH.read_bytes(), strip=1)]


def test_is_small() -> None:
    """Few lines in few of bash's files, so that it fits the next version too."""
    inside = [one for one in patching.parse(PATCH.read_bytes(), strip=1) if not one.creates]
    assert sorted(one.path for one in inside) == ["Makefile.in", "execute_cmd.c", "redir.c", "shell.c"]
    text = PATCH.read_text(encoding="utf-8")
    of_existing = "".join(part for part in text.split("diff --git ")[1:] if "new file mode" not in part)
    assert len(re.findall(r"^[-+](?![-+])", of_existing, re.MULTILINE)) < 45


def readme_steps() -> str:
    """The commands of the section `Build it by hand`."""
    section = README.read_text(encoding="utf-8").split("## Build it by hand")[1]
    found = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert found
    return found[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_steps_of_the_readme(tmp_path: Path) -> None:
    """Clone, checkout, git apply, configure, make: on a repository made from the locked source at the base's level."""
    repository = tmp_path / "upstream.git"
    commit = git_repository(replace(SourceOptions.default(), level=3), repository)
    lock = SourceOptions.default().lock
    steps = readme_steps()
    for upstream, local in (
        ("https://git.savannah.gnu.org/git/bash.git", str(repository)),
        (" bash\n", " upstream\n"),
        (lock.git.commit, commit),
        ("PATH/TO/bash-exec-wrapper.patch", str(PATCH)),
        ("\nmake\n", "\nmake -j2\n"),
    ):
        assert upstream in steps
        steps = steps.replace(upstream, local)
    with (tmp_path / "log").open("wb") as log:
        done = subprocess.run(
            ["/bin/sh", "-exc", steps],
            cwd=tmp_path,
            env={**os.environ, **GIT},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    output = (tmp_path / "log").read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, output[-4000:]
    assert [line for line in output.splitlines() if "warning:" in line and "exec_wrapper" in line] == []

    with Rig(folder=tmp_path / "rig") as rig:
        outcome = rig.run(
            tmp_path / "upstream" / "bash",
            'recorder "$BASH_VERSION"; ./plain',
            setup="printf 'recorder 2\n' > plain; chmod +x plain",
        )
        assert [record.argv[1] for record in outcome.records] == [b"5.3.3(1)-release", b"2"]
        assert rig.asked == [f"run {rig.recorder}", "ask ./plain", f"run {rig.recorder}"]
