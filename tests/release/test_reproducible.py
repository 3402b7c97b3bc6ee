"""Two builds under different circumstances: what depends on one is named. A small checkout stands in for ours."""

from __future__ import annotations

import getpass
import hashlib
import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from shell_tool_release import builds, evidence, reproducible
from shell_tool_release.errors import BuildError, PrerequisiteError
from shell_tool_release.npm import TarMember, tarball
from shell_tool_release.workspace import Workspace

STEADY = "mkdir -p dist/npm && echo the same > dist/npm/artefact"
"""A build that depends on nothing."""

DEPENDS = {
    "the folder": "pwd",
    "the user's home": 'echo "$HOME"',
    "the umask": "umask",
    "the locale": 'echo "$LC_ALL"',
    "the time zone": "date +%Z",
    "the hash seed": 'echo "$PYTHONHASHSEED"',
    "SOURCE_DATE_EPOCH": 'echo "$SOURCE_DATE_EPOCH"',
    "the time of its files": "stat -c %Y run",
    "the cache": 'echo "$CODEX_BUILD_CACHE"',
    "chance": "cat /proc/sys/kernel/random/uuid",
}


def checkout_that_runs(root: Path, script: str) -> Workspace:
    """A checkout of git whose ``./run`` is ``script``."""
    root.mkdir()
    (root / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (root / "run").write_text(f"#!/bin/sh\nset -e\n{script}\n")
    (root / "run").chmod(0o755)
    (root / ".gitignore").write_text("/dist/\n/ignored\n")
    (root / "ignored").write_text("not part of a clone")
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    return Workspace(root=root)


def _scratch(tmp_path: Path) -> Path:
    """A folder for the builds that another user can reach."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to(Path(tempfile.gettempdir()) / f"pytest-of-{getpass.getuser()}"):
            folder.chmod(folder.stat().st_mode | 0o011)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return scratch


def _twice(checkout: Workspace, scratch: Path) -> tuple[reproducible.Artefact, ...]:
    return reproducible.two_builds(builds.Clone.of(checkout), scratch, builds.circumstances(builds.another_user()))


def test_the_same_each_time(tmp_path: Path) -> None:
    made = _twice(checkout_that_runs(tmp_path / "checkout", STEADY), _scratch(tmp_path))
    sha256 = hashlib.sha256(b"the same\n").hexdigest()
    assert made == (reproducible.Artefact(name="artefact", size=9, sha256=sha256),)
    assert reproducible.table(made).splitlines()[2] == f"| `artefact` | 9 | `{sha256}` |"


@pytest.mark.parametrize("what", DEPENDS)
def test_what_depends_on_circumstances_is_named(what: str, tmp_path: Path) -> None:
    checkout = checkout_that_runs(tmp_path / "checkout", f"{STEADY}; ({DEPENDS[what]}) >> dist/npm/artefact")
    with pytest.raises(BuildError, match=r"1 of 1 artefacts are not the same:\n  artefact: line \d is"):
        _twice(checkout, _scratch(tmp_path))


def test_the_other_build_has_one_processor(tmp_path: Path) -> None:
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor is all there is")
    checkout = checkout_that_runs(tmp_path / "checkout", f"{STEADY}; nproc >> dist/npm/artefact")
    before = os.sched_getaffinity(0)
    with pytest.raises(BuildError, match=f"'{len(before)}' and '1'"):
        _twice(checkout, _scratch(tmp_path))
    assert os.sched_getaffinity(0) == before


def test_the_other_build_is_another_users(tmp_path: Path) -> None:
    if builds.another_user() is None:
        pytest.skip("only root can become another user")
    checkout = checkout_that_runs(tmp_path / "checkout", f"{STEADY}; id -un >> dist/npm/artefact")
    with pytest.raises(BuildError, match="'root' and 'nobody'"):
        _twice(checkout, _scratch(tmp_path))


def test_every_artefact_is_compared(tmp_path: Path) -> None:
    script = 'mkdir -p dist/a dist/b; echo x > dist/a/one; echo "$TZ" > dist/b/two; echo "$TZ" > "dist/b/for $LC_ALL"'
    with pytest.raises(BuildError) as caught:
        _twice(checkout_that_runs(tmp_path / "checkout", script), _scratch(tmp_path))
    lines = str(caught.value).splitlines()
    assert lines[0] == "3 of 4 artefacts are not the same:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["for C", "for C.UTF-8", "two"]


def test_what_is_not_committed_to_a_clone_is_not_built(tmp_path: Path) -> None:
    checkout = checkout_that_runs(tmp_path / "checkout", f"test ! -e ignored; {STEADY}")
    assert _twice(checkout, _scratch(tmp_path))


def test_both_are_built_from_the_same_state(tmp_path: Path) -> None:
    """Whoever goes on working in the checkout while the first build runs does not change the second."""
    root = tmp_path / "checkout"
    script = f"mkdir -p dist/npm; cat state > dist/npm/artefact; echo later > {root}/state 2>/dev/null || true"
    checkout = checkout_that_runs(root, script)
    (root / "state").write_text("now\n")
    assert _twice(checkout, _scratch(tmp_path))[0].size == 4
    assert (root / "state").read_text() == "later\n"


def test_what_was_broken_off_goes_on(tmp_path: Path) -> None:
    """In a folder that is kept a finished build is not made again, and one that failed keeps what it has."""
    script = f'{STEADY}; echo "$TZ" >> ../built; test "$TZ" = UTC || test -e ../mended || {{ touch ../kept; exit 3; }}'
    checkout, scratch = checkout_that_runs(tmp_path / "checkout", script), _scratch(tmp_path)
    with pytest.raises(BuildError, match="the second build ended with status 3"):
        _twice(checkout, scratch)
    second = scratch / "second" / "another" / "folder" / "with" / "a" / "longer" / "name"
    assert (second / "kept").exists()
    (second / "mended").touch()
    assert [one.name for one in _twice(checkout, scratch)] == ["artefact"]
    assert (scratch / "first" / "one" / "built").read_text() == "UTC\n"
    assert (second / "built").read_text() == "KIR-14\n" * 2
    (checkout.root / "pyproject.toml").write_text('[project]\nversion = "1.2.4"\n')
    with pytest.raises(BuildError, match="holds builds of other files than this checkout has; remove it"):
        _twice(checkout, scratch)


def test_a_clone_says_what_it_is_of(tmp_path: Path) -> None:
    checkout = checkout_that_runs(tmp_path / "checkout", STEADY)
    assert builds.Clone.of(checkout).commit == "none and changes that are not committed"
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    git = ["git", "-C", str(checkout.root)]
    subprocess.run([*git, *identity, "commit", "--quiet", "-m", "x"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    clone = builds.Clone.of(checkout)
    assert clone.commit == head
    assert clone.digest == builds.Clone.of(checkout).digest
    (checkout.root / "run").chmod(0o644)
    assert builds.Clone.of(checkout).digest != clone.digest
    with pytest.raises(BuildError, match="is no checkout of git"):
        builds.Clone.of(Workspace(root=tmp_path))


def test_a_build_that_fails_shows_its_log(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"the first build ended with status 3; log: .*first\.log\nno such luck"):
        _twice(checkout_that_runs(tmp_path / "checkout", "echo no such luck; exit 3"), _scratch(tmp_path))


def test_nothing_built_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="holds no artefacts"):
        _twice(checkout_that_runs(tmp_path / "checkout", "mkdir dist"), _scratch(tmp_path))


def test_what_was_published_is_compared_with_a_build(tmp_path: Path) -> None:
    checkout = checkout_that_runs(tmp_path / "checkout", f"{STEADY}; echo more > dist/npm/unpublished")
    published = tmp_path / "published"
    published.mkdir()
    (published / "artefact").write_text("the same\n")
    scratch = _scratch(tmp_path)
    assert [one.name for one in reproducible.rebuilt(builds.Clone.of(checkout), published, scratch)] == ["artefact"]
    (published / "artefact").write_text("the sane\n")
    with pytest.raises(BuildError, match="artefact: line 1 is 'the sane' and 'the same'"):
        reproducible.rebuilt(builds.Clone.of(checkout), published, tmp_path / "scratch")
    (published / "artefact").write_text("the same\n")
    (published / "implant").write_text("x")
    with pytest.raises(BuildError, match="implant: only the first has it"):
        reproducible.rebuilt(builds.Clone.of(checkout), published, tmp_path / "scratch")


def _published(tmp_path: Path, server: bytes) -> Path:
    folder = tmp_path / "published"
    folder.mkdir(exist_ok=True)
    members = [TarMember(name="package.json", data=b"{}")]
    members += [TarMember(name="vendor/linux-x64/server/program", data=server, mode=0o755)]
    members += [TarMember(name="vendor/darwin-arm64/server/program", data=b"made elsewhere", mode=0o755)]
    (folder / "package.tgz").write_bytes(tarball(members))
    (folder / "package.tgz.MANIFEST.json").write_text("{}")
    (folder / "wheel.whl").write_text("wheel\n")
    names = ("package.tgz", "package.tgz.MANIFEST.json", "wheel.whl")
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(sums))
    return folder


REBUILDS = """mkdir -p dist/python vendor/linux-x64/server; echo wheel > dist/python/wheel.whl
printf server > vendor/linux-x64/server/program; chmod 755 vendor/linux-x64/server/program"""


def test_a_published_release_is_compared_by_what_this_machine_makes(tmp_path: Path) -> None:
    """The server of another platform is not; a changed one of this is named down to the file."""
    checkout, scratch = checkout_that_runs(tmp_path / "checkout", REBUILDS), _scratch(tmp_path)
    published = _published(tmp_path, b"server")
    made = reproducible.rebuilt(builds.Clone.of(checkout), published, scratch)
    assert [one.name for one in made] == ["wheel.whl", "package.tgz: vendor/linux-x64"]
    made = reproducible.rebuilt(builds.Clone.of(checkout), published, tmp_path / "scratch", platform_only=True)
    assert [one.name for one in made] == ["package.tgz: vendor/linux-x64"]
    published = _published(tmp_path, b"implant")
    with pytest.raises(BuildError, match=r"package\.tgz: vendor/linux-x64: server/program: line 1 is 'implant' and 's"):
        reproducible.rebuilt(builds.Clone.of(checkout), published, scratch)


def test_published_files_must_be_what_the_sums_say(tmp_path: Path) -> None:
    published = _published(tmp_path, b"server")
    reproducible.check_sums(reproducible.artefacts(published))
    (published / "wheel.whl").write_text("another\n")
    with pytest.raises(BuildError, match=r"wheel\.whl is not what SHA256SUMS says"):
        reproducible.check_sums(reproducible.artefacts(published))
    (published / "wheel.whl").write_text("wheel\n")
    (published / "more").write_text("x")
    with pytest.raises(BuildError, match="more is not what SHA256SUMS says: it has no line"):
        reproducible.check_sums(reproducible.artefacts(published))


def test_a_package_of_other_platforms_only_cannot_be_compared(tmp_path: Path) -> None:
    (tmp_path / "vendor").mkdir()
    with pytest.raises(BuildError, match="holds no platform that was built here"):
        reproducible.compare_package(_published(tmp_path, b"server") / "package.tgz", tmp_path / "vendor")


def test_the_table_is_written_between_its_marks() -> None:
    made = (reproducible.Artefact(name="a", size=1, sha256="0" * 64),)
    text = "before\n" + "\nold\n".join(reproducible.MARKS) + "\nafter\n"
    said = reproducible.told("1.2.3", "abc", builds.circumstances("nobody"), made)
    new = reproducible.with_table(text, said)
    assert new.startswith(f"before\n{reproducible.MARKS[0]}\n\nVersion 1.2.3, commit abc, built twice")
    assert "\n- the second time by nobody, on " in new
    assert "with 1 processor, umask 077, `C`, `KIR-14`, `PYTHONHASHSEED=99`, an empty cache\n" in new
    assert new.endswith(f"| `a` | 1 | `{'0' * 64}` |\n\n{reproducible.MARKS[1]}\nafter\n")
    assert reproducible.with_table(new, said) == new
    with pytest.raises(BuildError, match="marks"):
        reproducible.with_table("no marks", said)


def test_the_document_has_the_marks(workspace: Workspace) -> None:
    text = (workspace.root / reproducible.DOCUMENT).read_text()
    assert reproducible.with_table(text, "other") != text


def test_a_python_that_nobody_may_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "MINIMUM_PYTHON", (9, 0))
    with pytest.raises(PrerequisiteError, match="install python3"):
        builds.common_python(None)


def test_the_circumstances_differ_in_everything() -> None:
    first, second = builds.circumstances("nobody", "trixie")
    assert (second.user, second.suite) == (None, "trixie")
    second = replace(second, user="nobody")
    same = [name for name in vars(first) if getattr(first, name) == getattr(second, name)]
    assert same == []
    assert replace(first, name="x") != first


def _package(root: Path, content: bytes) -> Workspace:
    (root / "dist" / "npm").mkdir(parents=True)
    members = [
        TarMember(name="package.json", data=b"{}"),
        TarMember(name="vendor/MANIFEST.json", data=content),
        TarMember(name="sbom/codex-shell-tool-mcp.cdx.json", data=b"bill"),
    ]
    (root / "dist" / "npm" / "package.tgz").write_bytes(tarball(members))
    return Workspace(root=root)


def test_sums_are_of_every_artefact_and_manifest(tmp_path: Path) -> None:
    place = _package(tmp_path, b"manifest")
    written = evidence.write(place)
    names = ["package.tgz.MANIFEST.json", "package.tgz.cdx.json", "SHA256SUMS"]
    assert [path.name for path in written] == names
    lines = {line.split("  ")[1]: line.split("  ")[0] for line in written[-1].read_text().splitlines()}
    assert lines["package.tgz.MANIFEST.json"] == hashlib.sha256(b"manifest").hexdigest()
    assert lines["package.tgz"] == hashlib.sha256((place.dist / "npm" / "package.tgz").read_bytes()).hexdigest()
    assert set(lines) == {"package.tgz", *names[:2]}
    folder = tmp_path / "all"
    folder.mkdir()
    for path in (*written, place.dist / "npm" / "package.tgz"):
        (folder / path.name).write_bytes(path.read_bytes())
    subprocess.run(["sha256sum", "--strict", "--check", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)


def test_a_package_without_manifest_gets_no_sums(tmp_path: Path) -> None:
    (tmp_path / "dist" / "npm").mkdir(parents=True)
    (tmp_path / "dist" / "npm" / "package.tgz").write_bytes(tarball([TarMember(name="package.json", data=b"{}")]))
    with pytest.raises(BuildError, match="neither manifest nor bill"):
        evidence.write(Workspace(root=tmp_path))


def test_nothing_to_sum_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="holds no package"):
        evidence.write(Workspace(root=tmp_path))
