"""What is new upstream is found, agreed on by every place, locked exactly, and told."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

from shell_tool_release import environments, refresh
from shell_tool_release.errors import BuildError, SourceError
from shell_tool_release.lock import LOCK_FILE, load_lock
from support.mirror import Mirror, at_level, digest, serve, tiny_lock, tiny_mirror

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shell_tool_release.lock import BashLock
    from shell_tool_release.workspace import Workspace

MUST_WORK = os.environ.get("CODEX_TEST_MUST_WORK") == "1"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """GNU's server with three patches; no proxy of this machine may answer for it, and apt is not asked."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("shell_tool_release.apt.shutil.which", lambda _: None)
    with serve(tiny_mirror()) as served:
        yield served


def _at_one(mirror: Mirror) -> BashLock:
    """A lock that knows the first patch only."""
    lock = tiny_lock(mirror)
    gnu = replace(lock.gnu, patches={"bash53-001": lock.gnu.patches["bash53-001"]})
    return replace(lock, level=1, trees={1: lock.trees[1]}, gnu=gnu)


def test_new_patches_are_found_at_gnu(mirror: Mirror, tmp_path: Path) -> None:
    found = refresh.bash_changes(_at_one(mirror), tmp_path, apply=False)
    assert [(change.before, change.after, change.locked) for change in found] == [("5.3.1", "5.3.3", True)]
    assert [line.split(":")[0] for line in found[0].notes.splitlines()] == ["  - 002", "  - 003"]


def test_nothing_new_is_no_change(mirror: Mirror, tmp_path: Path) -> None:
    assert refresh.bash_changes(tiny_lock(mirror), tmp_path, apply=False) == []


def test_no_place_that_answers_is_told(mirror: Mirror, tmp_path: Path) -> None:
    lock = _at_one(mirror)
    lock = replace(lock, gnu=replace(lock.gnu, urls=("http://127.0.0.1:9/gnu/bash/",)))
    with pytest.raises(SourceError, match="apt-get is not on this machine"):
        refresh.bash_changes(lock, tmp_path, apply=False)


def test_the_tree_is_the_one_the_patches_make(mirror: Mirror, tmp_path: Path) -> None:
    lock = _at_one(mirror)
    new = refresh.patches_at_gnu(lock, tmp_path)
    assert refresh.agreed_tree(lock, [new], 3, tmp_path) == digest(at_level(3))


def test_places_that_disagree_are_an_error(mirror: Mirror, tmp_path: Path) -> None:
    lock = _at_one(mirror)
    new = refresh.patches_at_gnu(lock, tmp_path)
    other = replace(new, place="elsewhere", delivery=replace(new.delivery, patches=new.delivery.patches[:2]))
    with pytest.raises(BuildError, match=r"patch level 3: gnu gives \w+, elsewhere gives \w+; look at both"):
        refresh.agreed_tree(lock, [new, other], 3, tmp_path)


def test_the_lock_is_changed_exactly(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line changed, one line a tree, one a patch, at their places; the rest is as it was, comments and all."""
    lock = load_lock()
    text = f"number {lock.level + 1}".encode()
    new = refresh.patches_at_gnu(_at_one(mirror), tmp_path)
    gnu = replace(new, texts={lock.level + 1: text})
    debian = replace(new, place="debian", archives={"bash_5.3-9.debian.tar.xz": "1" * 64})
    path = tmp_path / "sources.lock.toml"
    before = LOCK_FILE.read_text()
    path.write_text(refresh.relocked(before, lock, lock.level + 1, "0" * 64, [gnu, debian]))
    after = load_lock(path)
    assert (after.level, after.tree(after.level)) == (lock.level + 1, "0" * 64)
    assert after.gnu.patches == {
        **lock.gnu.patches,
        f"bash53-{lock.level + 1:03d}": hashlib.sha256(text).hexdigest(),
    }
    assert after.debian.patch_archives == {**lock.debian.patch_archives, "bash_5.3-9.debian.tar.xz": "1" * 64}
    assert len(path.read_text().splitlines()) == len(before.splitlines()) + 3
    assert set(before.splitlines()) - set(path.read_text().splitlines()) == {
        line for line in before.splitlines() if line.startswith(f"level = {lock.level} ")
    }


def test_a_lock_without_the_lines_is_an_error(mirror: Mirror, tmp_path: Path) -> None:
    new = refresh.patches_at_gnu(_at_one(mirror), tmp_path)
    with pytest.raises(BuildError, match="has no line like"):
        refresh.relocked("[bash]\n", load_lock(), 99, "0" * 64, [new])


def test_debians_patches_make_the_locked_tree(tmp_path: Path) -> None:
    """The real thing: from level 3 on everything is found again, and the tree is the one that is locked."""
    lock = load_lock()
    if shutil.which("apt-get") is None:
        if MUST_WORK:
            pytest.fail("apt-get is not here, but everything must work")
        pytest.skip("apt-get is not on this machine")
    try:
        new = refresh.patches_at_debian(replace(lock, level=3), tmp_path)
    except SourceError as error:
        if MUST_WORK:
            raise
        pytest.skip(f"no Debian archive can be reached: {error}")
    if new.level != lock.level:
        pytest.skip(f"Debian has level {new.level} by now: ./run refresh")
    assert list(new.texts) == list(range(4, lock.level + 1))
    assert refresh.agreed_tree(lock, [new], lock.level, tmp_path) == lock.tree(lock.level)
    assert "describes itself nowhere" not in refresh.subject(new.texts[lock.level])


def test_what_a_patch_says_of_itself() -> None:
    gnu = (
        b"Patch-ID: bash53-016\n\nBug-Description:\n\nA command that is long\ncrashes the shell. It is bad.\n\nPatch\n"
    )
    assert refresh.subject(gnu) == "A command that is long crashes the shell"
    assert refresh.subject(b"nothing") == "(it describes itself nowhere)"


def test_versions_of_other_systems_are_left_out() -> None:
    text = (
        "one==1.0 \\\n    --hash=sha256:00\nTwo_x==2.0 ; sys_platform == 'win32' \\\n"
        "three==3 ; python_full_version < '3.12'\nfour==4 ; sys_platform == 'darwin'\n"
    )
    assert refresh.versions(text) == {"one": "1.0", "three": "3", "four": "4"}


def test_the_text_says_what_changed_and_what_is_run_again() -> None:
    report = refresh.Report(
        changes=(
            refresh.Change(part="bash", name="bash", before="5.3.15", after="5.3.16", notes="  - 016: it crashed"),
            refresh.Change(part="cpython", name="cpython", before="3.13.5", after="3.13.9", locked=False),
            refresh.Change(part="dependency", name="mcp", before="2.3.0", after="2.4.0"),
        ),
        unreachable=("zsh: no such host",),
    )
    assert report.sessions == ("release", "tests", "suite", "lint")
    text = refresh.description(report)
    for line in (
        "## Bash\n\n- bash: 5.3.15 → 5.3.16\n  - 016: it crashed\n",
        "- cpython: 3.13.5 → 3.13.9 (not locked yet)\n",
        "- mcp: 2.3.0 → 2.4.0\n",
        "## Not looked at\n\n- zsh: no such host\n",
        "`./run release tests suite lint`",
    ):
        assert line in text


def test_what_nothing_was_locked_for_is_not_run_again() -> None:
    change = refresh.Change(part="bash", name="bash", before="1", after="2", locked=False)
    assert refresh.Report(changes=(change,)).sessions == ()


def test_every_group_is_locked_with_hashes(workspace: Workspace) -> None:
    """Else: ./run refresh -- --lock. Each requirement is there in a version that serves, and each file has its hash."""
    pinned = refresh.versions((workspace.root / environments.CONSTRAINTS).read_text())
    groups = refresh.environment_groups(workspace)
    assert {path.stem for path in (workspace.root / environments.LOCKS).iterdir()} == set(groups)
    for group in groups:
        text = (workspace.root / environments.LOCKS / f"{group}.txt").read_text()
        locked = refresh.versions(text)
        assert locked.items() <= pinned.items(), group
        for line in environments.requirements(workspace.root, group):
            wanted = Requirement(line)
            name = re.sub(r"[-_.]+", "-", wanted.name).lower()
            assert wanted.specifier.contains(locked[name], prereleases=True), f"{group}: {line}"
        for entry in re.split(r"\n(?=\S)", text.strip()):
            assert "--hash=sha256:" in entry, f"{group}: {entry}"


@pytest.mark.parametrize("machine", list(refresh._BUILD_MACHINES))
def test_a_machine_that_builds_finds_every_wheel(machine: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the named exceptions: ``mcp`` needs one that is left out, and one that is built, on Intel Macs."""
    no_wheel = {"starlark-pyo3", "cryptography"} if machine == ("Darwin", "x86_64") else set()

    def uv(options: list[str], wanted: list[str]) -> subprocess.CompletedProcess[str]:
        if "--universal" in options:
            pins = Path(options[options.index("--constraint") + 1]).read_text()
            return subprocess.CompletedProcess(["uv"], 0, pins, "")
        built = options[options.index("--no-binary") + 1].split(",") if "--no-binary" in options else []
        missing = [line for line in wanted if line.partition("==")[0] in no_wheel - set(built)]
        assert options[options.index("--python-platform") + 1] == refresh._BUILD_MACHINES[machine]
        return subprocess.CompletedProcess(["uv"], 1 if missing else 0, "", f"no wheel: {missing}")

    monkeypatch.setattr(refresh, "_uv", uv)
    pins = ["cryptography==50", "mcp==2", "starlark-pyo3==2026.1"]
    refresh._want_wheels(machine, ["mcp"], pins)
    no_wheel.add("mcp")
    with pytest.raises(SourceError, match=rf"a build on {' '.join(machine)} could not .*mcp==2"):
        refresh._want_wheels(machine, ["mcp"], pins)
