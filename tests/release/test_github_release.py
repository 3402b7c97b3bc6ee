"""``github_release.py`` against a ``gh`` that keeps releases in a folder and fails on demand."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from shell_tool_release import github_release
from shell_tool_release.github_release import GitHub, GitHubError, RefusedError, Release, draft, undraft
from shell_tool_release.handover import write_sums

GH = r"""#!/usr/bin/env python3
import json, os, pathlib, shutil, sys
root = pathlib.Path(os.environ["FAKE_GITHUB"])
state = json.loads((root / "state.json").read_text())
_, command, tag, *rest = sys.argv[1:]
assets = root / "assets"
state["calls"].append(sys.argv[2:])

def end(status, text=""):
    (root / "state.json").write_text(json.dumps(state))
    print(text, file=sys.stderr if status else sys.stdout)
    sys.exit(status)

if state["fail"].get(command):
    state["fail"][command] -= 1
    end(1, "HTTP 502: on demand")
release = state["release"]
if command == "create":
    if release is not None:
        end(1, "a release with the same tag name already exists")
    assert "--draft" in rest and "--verify-tag" in rest
    notes = pathlib.Path(rest[rest.index("--notes-file") + 1]).read_text() if "--notes-file" in rest else ""
    state["release"] = {"draft": True, "prerelease": "--prerelease" in rest, "latest": False, "notes": notes}
elif release is None:
    end(1, "release not found")
elif command == "view":
    end(0, json.dumps({"isDraft": release["draft"], "assets": [path.name for path in assets.iterdir()]}))
elif command == "download":
    for path in assets.iterdir():
        shutil.copy(path, rest[rest.index("--dir") + 1])
elif command == "upload":
    path = pathlib.Path(rest[0])
    data = path.read_bytes()
    (assets / path.name).write_bytes(data[:1] if path.name in state["cut"] else data)
elif command == "delete-asset":
    (assets / rest[0]).unlink()
elif command == "edit":
    release["draft"] = "--draft=false" not in rest
    release["latest"] = "--latest" in rest
    release["prerelease"] = "--prerelease" in rest
end(0)
"""


class Fake:
    """GitHub with one release at most."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "assets").mkdir(parents=True)
        self.set(release=None, fail={}, cut=[], calls=[])

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.root / "state.json").read_text())
        return state

    def set(self, **values: Any) -> None:
        path = self.root / "state.json"
        path.write_text(json.dumps({**(self.state() if path.exists() else {}), **values}))

    def assets(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.root / "assets").iterdir()}

    def commands(self) -> list[str]:
        return [call[0] for call in self.state()["calls"]]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake(tmp_path / "github")
    program = tmp_path / "bin" / "gh"
    program.parent.mkdir()
    program.write_text(GH.replace("/usr/bin/env python3", f"{sys.executable} -IS"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setenv("FAKE_GITHUB", str(made.root))
    return made


def _folder(tmp_path: Path, package: str = "package") -> tuple[Path, str]:
    folder = tmp_path / "release"
    folder.mkdir(exist_ok=True)
    for name, text in {"package.tgz": package, "more.whl": "wheel"}.items():
        (folder / name).write_text(text)
    return folder, hashlib.sha256(write_sums(folder).read_bytes()).hexdigest()


def _release(tmp_path: Path, *, prerelease: bool = False, package: str = "package") -> Release:
    folder, sums = _folder(tmp_path, package)
    notes = tmp_path / "notes.md"
    notes.write_text("what is new\n")
    files = github_release.checked_files(folder, sums)
    return Release(tag="v1.2.3", folder=folder, files=files, prerelease=prerelease, notes=notes)


def _bytes(release: Release) -> dict[str, bytes]:
    return {name: (release.folder / name).read_bytes() for name in release.files}


QUICK = GitHub(pause=0.01)


def test_it_is_one_file_of_the_standard_library() -> None:
    tree = ast.parse(Path(github_release.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module is not None}
    assert {name.partition(".")[0] for name in names | froms} <= sys.stdlib_module_names


@pytest.mark.parametrize("prerelease", [False, True])
def test_a_draft_with_all_files_and_then_the_release(tmp_path: Path, fake: Fake, prerelease: bool) -> None:
    release = _release(tmp_path, prerelease=prerelease)
    assert "is a draft with 3 files" in draft(release, QUICK)
    assert fake.assets() == _bytes(release)
    said = fake.state()["release"]
    assert said == {"draft": True, "prerelease": prerelease, "latest": False, "notes": "what is new\n"}
    assert "is released" in undraft(release, QUICK)
    said = fake.state()["release"]
    assert (said["draft"], said["prerelease"], said["latest"]) == (False, prerelease, not prerelease)


def test_both_steps_can_be_repeated(tmp_path: Path, fake: Fake) -> None:
    release = _release(tmp_path)
    draft(release, QUICK)
    before = len(fake.commands())
    draft(release, QUICK)
    assert not {"create", "upload", "edit", "delete-asset"} & set(fake.commands()[before:])
    undraft(release, QUICK)
    before = len(fake.commands())
    assert "nothing to do" in undraft(release, QUICK)
    assert "nothing to do" in draft(release, QUICK)
    assert not {"create", "upload", "edit", "delete-asset"} & set(fake.commands()[before:])
    assert fake.state()["release"]["draft"] is False


def test_a_draft_that_was_interrupted_is_completed(tmp_path: Path, fake: Fake) -> None:
    """Some files missing, one cut short, one of an earlier build that is not made any more."""
    release = _release(tmp_path)
    draft(release, QUICK)
    (fake.root / "assets" / "more.whl").unlink()
    (fake.root / "assets" / "package.tgz").write_text("pack")
    (fake.root / "assets" / "stale.txt").write_text("stale")
    draft(release, QUICK)
    assert fake.assets() == _bytes(release)


def test_a_new_build_replaces_what_is_in_the_draft(tmp_path: Path, fake: Fake) -> None:
    draft(_release(tmp_path), QUICK)
    release = _release(tmp_path, package="another")
    draft(release, QUICK)
    assert fake.assets() == _bytes(release)


def test_a_visible_release_is_never_changed(tmp_path: Path, fake: Fake) -> None:
    release = _release(tmp_path)
    draft(release, QUICK)
    undraft(release, QUICK)
    before = fake.assets()
    other = _release(tmp_path, package="another")
    with pytest.raises(RefusedError, match=r"released with other files .*package\.tgz has other bytes"):
        draft(other, QUICK)
    assert fake.assets() == before


def test_what_is_not_drafted_is_not_made_visible(tmp_path: Path, fake: Fake) -> None:
    with pytest.raises(GitHubError, match="there is no release"):
        undraft(_release(tmp_path), QUICK)


def test_a_draft_that_was_changed_meanwhile_is_not_made_visible(tmp_path: Path, fake: Fake) -> None:
    release = _release(tmp_path)
    draft(release, QUICK)
    (fake.root / "assets" / "package.tgz").write_text("swapped")
    with pytest.raises(GitHubError, match=r"package\.tgz has other bytes"):
        undraft(release, QUICK)
    assert fake.state()["release"]["draft"] is True


def test_what_arrived_cut_is_noticed(tmp_path: Path, fake: Fake) -> None:
    fake.set(cut=["package.tgz"])
    with pytest.raises(GitHubError, match=r"package\.tgz has other bytes"):
        draft(_release(tmp_path), QUICK)


@pytest.mark.parametrize("command", ["view", "upload", "download", "edit"])
def test_what_passes_is_tried_again(tmp_path: Path, fake: Fake, command: str) -> None:
    release = _release(tmp_path)
    fake.set(fail={command: 2})
    draft(release, QUICK)
    undraft(release, QUICK)
    assert fake.state()["release"]["draft"] is False
    assert fake.state()["fail"][command] == 0


@pytest.mark.parametrize("command", ["view", "upload"])
def test_what_does_not_pass_is_an_error_that_says_to_run_again(tmp_path: Path, fake: Fake, command: str) -> None:
    release = _release(tmp_path)
    fake.set(fail={command: 3})
    with pytest.raises(GitHubError, match=f"gh release {command} failed: HTTP 502.*again is safe"):
        draft(release, QUICK)
    draft(release, QUICK)
    assert fake.assets() == _bytes(release)


def test_files_are_exactly_what_was_built(tmp_path: Path) -> None:
    folder, sums = _folder(tmp_path)
    assert set(github_release.checked_files(folder, sums)) == {"package.tgz", "more.whl", "SHA256SUMS"}
    with pytest.raises(RefusedError, match="not what the build job made"):
        github_release.checked_files(folder, "0" * 64)
    (folder / "extra").touch()
    with pytest.raises(RefusedError, match="extra does not belong"):
        github_release.checked_files(folder, sums)
    (folder / "extra").unlink()
    (folder / "package.tgz").write_text("swapped")
    with pytest.raises(RefusedError, match=r"package\.tgz has other bytes"):
        github_release.checked_files(folder, sums)
    (folder / "package.tgz").unlink()
    with pytest.raises(RefusedError, match=r"package\.tgz is missing"):
        github_release.checked_files(folder, sums)


@pytest.mark.parametrize("line", ["", "no hash", f"{'0' * 64}  ../outside", f"{'0' * 64}  -rf"])
def test_sums_that_are_no_sums_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "SHA256SUMS").write_text(line and f"{line}\n")
    sums = hashlib.sha256((tmp_path / "SHA256SUMS").read_bytes()).hexdigest()
    with pytest.raises(RefusedError, match="lines that are not"):
        github_release.checked_files(tmp_path, sums)


@pytest.mark.parametrize("tag", ["1.2.3", "v1.2.3\n", "--repo=other", "v1.2", "latest"])
def test_a_tag_of_another_form_is_refused(
    tmp_path: Path, fake: Fake, tag: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, sums = _folder(tmp_path)
    assert github_release.main(["draft", "--sums-sha256", sums, "--", tag, str(folder)]) == 3
    assert "no tag of a release" in capfd.readouterr().err
    assert fake.commands() == []


def test_the_command_line(tmp_path: Path, fake: Fake) -> None:
    folder, sums = _folder(tmp_path)
    assert github_release.main(["draft", "v1.2.3-rc.1", str(folder), "--sums-sha256", sums, "--prerelease"]) == 0
    assert fake.state()["release"]["prerelease"] is True
    assert github_release.main(["undraft", "v1.2.3-rc.1", str(folder), "--sums-sha256", sums, "--prerelease"]) == 0
    assert fake.state()["release"] == {"draft": False, "prerelease": True, "latest": False, "notes": ""}


def test_without_gh_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitHubError, match="gh is not on this machine"):
        draft(_release(tmp_path), QUICK)
