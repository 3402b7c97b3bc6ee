"""Sources: whatever place they come from, the same files, and nothing that is not locked."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shell_tool_release import download, places, sources
from shell_tool_release.errors import ChecksumError, ConfigurationError, SourceError
from shell_tool_release.lock import LOCK_FILE, BashLock, load_lock
from shell_tool_release.sources import SourceOptions, bash_source, tree_digest
from shell_tool_release.workspace import find_workspace
from support.mirror import Mirror, archive, at_level, digest, git_repository, serve, tiny_lock, tiny_mirror

if TYPE_CHECKING:
    from collections.abc import Iterator

MUST_WORK = os.environ.get("CODEX_TEST_MUST_WORK") == "1"
ARCHIVE = "/gnu/bash/bash-5.3.tar.gz"


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve(tiny_mirror()) as served:
        yield served


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries are counted, not waited for; a proxy of this machine must not answer for the mirror."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def options(cache: Path, lock: BashLock, *where: str) -> SourceOptions:
    return SourceOptions(cache=cache, lock=lock, places=where or ("gnu",))


def contents(tree: Path) -> dict[str, bytes]:
    return {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def test_gnu_archive_and_context_patches_give_the_locked_tree(tmp_path: Path, mirror: Mirror) -> None:
    tree = bash_source(options(tmp_path, tiny_lock(mirror)))
    assert contents(tree.path) == at_level(3)
    assert tree.digest == digest(at_level(3)) == tree_digest(tree.path)
    assert (tree.version, tree.level) == ("5.3", 3)


def test_modes_and_times_come_from_the_manifest_and_the_lock(tmp_path: Path, mirror: Mirror) -> None:
    tree = bash_source(options(tmp_path, tiny_lock(mirror)))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tree.path.rglob("*") if path.is_file()}
    assert modes == {"MANIFEST": 0o644, "shell.c": 0o644, "patchlevel.h": 0o644, "run.sh": 0o755}
    assert {path.stat().st_mtime for path in tree.path.rglob("*")} == {1_700_000_000}


def test_a_second_use_asks_no_place(tmp_path: Path, mirror: Mirror) -> None:
    chosen = options(tmp_path, tiny_lock(mirror))
    first = bash_source(chosen)
    asked = len(mirror.requests)
    assert bash_source(chosen) == first
    assert len(mirror.requests) == asked == 4


def test_downloads_are_reused_for_another_level(tmp_path: Path, mirror: Mirror) -> None:
    lock = tiny_lock(mirror)
    bash_source(options(tmp_path, lock))
    asked = len(mirror.requests)
    tree = bash_source(replace(options(tmp_path, lock), level=1))
    assert contents(tree.path) == at_level(1)
    assert len(mirror.requests) == asked


def test_a_damaged_cache_entry_is_made_again(tmp_path: Path, mirror: Mirror) -> None:
    chosen = options(tmp_path, tiny_lock(mirror))
    tree = bash_source(chosen)
    (tree.path / "shell.c").write_bytes(b"int evil;\n")
    assert contents(bash_source(chosen).path) == at_level(3)


@pytest.mark.parametrize("level", [1, 3])
def test_git_gives_the_same_tree(tmp_path: Path, mirror: Mirror, level: int) -> None:
    lock = git_repository(tmp_path / "upstream", tiny_lock(mirror))
    tree = bash_source(replace(options(tmp_path / "cache", lock, "git"), level=level))
    assert contents(tree.path) == at_level(level)


def test_git_without_the_level_says_so(tmp_path: Path, mirror: Mirror) -> None:
    lock = git_repository(tmp_path / "upstream", tiny_lock(mirror))
    lock = replace(lock, trees={**lock.trees, 9: digest(at_level(3))})
    with pytest.raises(SourceError, match=r"git: .*no commit of master .* is at patch level 9"):
        bash_source(replace(options(tmp_path / "cache", lock, "git"), level=9))


def test_passing_errors_are_tried_again(tmp_path: Path, mirror: Mirror) -> None:
    mirror.faults[ARCHIVE] = ["503", "429", "500"]
    bash_source(options(tmp_path, tiny_lock(mirror)))
    assert [path for path, _ in mirror.requests].count(ARCHIVE) == 4


def test_a_lasting_error_ends_after_the_attempts(tmp_path: Path, mirror: Mirror) -> None:
    mirror.faults[ARCHIVE] = ["503"] * 20
    with pytest.raises(SourceError, match=r"answered 503 \(after 4 attempts\)"):
        bash_source(options(tmp_path, tiny_lock(mirror)))
    assert len(mirror.requests) == download.ATTEMPTS


def test_a_missing_file_is_not_tried_again(tmp_path: Path, mirror: Mirror) -> None:
    mirror.faults[ARCHIVE] = ["404"] * 20
    with pytest.raises(SourceError, match="answered 404"):
        bash_source(options(tmp_path, tiny_lock(mirror)))
    assert len(mirror.requests) == 1


def test_a_cut_download_is_continued(tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_CHUNK", 1)  # a chunk that is cut is lost; of so small a file that would be all
    mirror.faults[ARCHIVE] = ["cut"]
    bash_source(options(tmp_path, tiny_lock(mirror)))
    half = len(mirror.files[ARCHIVE]) // 2
    assert [wanted for path, wanted in mirror.requests if path == ARCHIVE] == [None, f"bytes={half}-"]


def test_a_server_that_cannot_continue_starts_over(tmp_path: Path, mirror: Mirror) -> None:
    mirror.faults[ARCHIVE] = ["cut", "no range"]
    tree = bash_source(options(tmp_path, tiny_lock(mirror)))
    assert contents(tree.path) == at_level(3)


def test_the_half_of_another_file_is_thrown_away(tmp_path: Path, mirror: Mirror) -> None:
    lock = tiny_lock(mirror)
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    part = downloads / f"{lock.gnu.sha256[:16]}-bash-5.3.tar.gz.part"
    part.write_bytes(b"x" * 100)
    bash_source(options(tmp_path, lock))
    assert [wanted for path, wanted in mirror.requests if path == ARCHIVE] == ["bytes=100-", None]


def test_a_part_longer_than_the_file_is_thrown_away(tmp_path: Path, mirror: Mirror) -> None:
    lock = tiny_lock(mirror)
    part = tmp_path / "downloads" / f"{lock.gnu.sha256[:16]}-bash-5.3.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 100_000)
    assert contents(bash_source(options(tmp_path, lock)).path) == at_level(3)


def test_a_wrong_archive_is_refused_and_kept_aside(tmp_path: Path, mirror: Mirror) -> None:
    lock = tiny_lock(mirror)
    mirror.files[ARCHIVE] = archive(at_level(0) | {"shell.c": b"int evil;\n"})
    with pytest.raises(SourceError, match=r"SHA-256 is \w{64}, locked is \w{64}; refused, kept as .*\.bad") as caught:
        bash_source(options(tmp_path, lock))
    aside = next((tmp_path / "downloads").glob("*.bad"))
    assert str(aside) in str(caught.value)
    assert aside.read_bytes() == mirror.files[ARCHIVE]
    assert not list((tmp_path / "downloads").glob("*.gz"))
    assert not list(tmp_path.glob("source/*/bash-5.3"))


def test_a_wrong_tree_is_refused_and_listed(tmp_path: Path, mirror: Mirror) -> None:
    lock = replace(tiny_lock(mirror), trees={3: "0" * 64})
    with pytest.raises(SourceError, match=r"tree hash is \w{64}, locked is 0{64}; refused, its files are listed"):
        bash_source(options(tmp_path, lock))
    (listing,) = (tmp_path / "downloads").glob("*.files.bad")
    assert "  support/run.sh\n" in listing.read_text(encoding="utf-8")


def test_the_next_place_serves_when_one_gives_rubbish(
    tmp_path: Path, mirror: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = git_repository(tmp_path / "upstream", tiny_lock(mirror))
    mirror.files[ARCHIVE] = b"<html>please log in</html>"
    tree = bash_source(options(tmp_path / "cache", lock, "gnu", "git"))
    assert contents(tree.path) == at_level(3)
    assert "refused" in capsys.readouterr().err


def test_the_second_server_serves_when_the_first_is_down(tmp_path: Path, mirror: Mirror) -> None:
    lock = tiny_lock(mirror)
    lock = replace(lock, gnu=replace(lock.gnu, urls=("http://127.0.0.1:9/gnu/bash/", *lock.gnu.urls)))
    assert contents(bash_source(options(tmp_path, lock)).path) == at_level(3)


def test_no_reachable_place_is_one_message_with_every_reason(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    lock = tiny_lock(mirror)
    urls = ("http://127.0.0.1:9/gnu/", "http://name.invalid/gnu/")
    git = ("https://127.0.0.1:9/bash.git",)
    lock = replace(lock, gnu=replace(lock.gnu, urls=urls), git=replace(lock.git, urls=git))
    with pytest.raises(SourceError) as caught:
        bash_source(options(tmp_path, lock, *sources.PLACE_NAMES))
    lines = str(caught.value).splitlines()
    assert lines[0] == "bash 5.3 (patch level 3) could be had from no place. Tried, in this order:"
    assert [line.split(":")[0].strip() for line in lines[1:6]] == ["cache", "carried", "gnu", "git", "debian"]
    text = str(caught.value)
    for expected in (
        "http://127.0.0.1:9/gnu/bash-5.3.tar.gz: connection refused",
        "http://name.invalid/gnu/bash-5.3.tar.gz: the host name does not resolve",
        "https://127.0.0.1:9/bash.git: not reachable (Connection refused)",
        "apt-get is not on this machine",
        "https_proxy",
    ):
        assert expected in text


def test_no_file_outside_the_manifest_or_above_the_folder_arrives(tmp_path: Path, mirror: Mirror) -> None:
    lock = tiny_lock(mirror)
    escaping = archive(at_level(3) | {"../../evil": b"x", "extra.c": b"x"})
    path = tmp_path / "a.tar.gz"
    path.write_bytes(escaping)
    tree = tmp_path / "deep" / "tree"
    sources.unpack(places.Delivery(archive=path, patches=(), strip=0), lock, tree)
    assert contents(tree) == at_level(3)
    assert not list(tmp_path.rglob("evil"))


def test_a_level_that_is_not_locked_is_refused(tmp_path: Path, mirror: Mirror) -> None:
    with pytest.raises(ConfigurationError, match="patch level 2 is not locked; locked are 1, 3"):
        bash_source(replace(options(tmp_path, tiny_lock(mirror)), level=2))


def test_the_projects_lock_is_whole() -> None:
    lock = load_lock()
    assert (lock.version, lock.level) == ("5.3", 15)
    assert sorted(lock.trees) == [3, 15]
    assert sorted(lock.gnu.patches) == [f"bash53-{number:03d}" for number in range(1, 16)]
    assert lock.git.commit == "a8a1c2fac029404d3f42cd39f5a20f24b6e4fe4b"
    assert all(rule.reason for rule in lock.left_out)


def test_a_damaged_lock_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lock.toml"
    path.write_text(LOCK_FILE.read_text(encoding="utf-8").replace('15 = "', '15 = "x'), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="is no SHA-256"):
        load_lock(path)


@pytest.mark.parametrize("level", [3, 15])
def test_our_patch_applies_exactly_at_both_levels(level: int) -> None:
    tree = bash_source(replace(SourceOptions.default(), level=level))
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "tree"
        applied = sources.patched_source(tree, find_workspace().bash_patch, copy)
        assert {change.path for change in applied} >= {"execute_cmd.c"}
        before = contents(tree.path)
        changed = {path for path, text in contents(copy).items() if before.get(path) != text}
    assert changed == {change.path for change in applied}


def test_debians_package_gives_the_locked_tree(tmp_path: Path) -> None:
    """The real thing, from the hosts apt is configured with."""
    if shutil.which("apt-get") is None:
        if MUST_WORK:
            pytest.fail("apt-get is not here, but everything must work")
        pytest.skip("apt-get is not on this machine")
    before = system_state()
    try:
        tree = bash_source(SourceOptions(cache=tmp_path, lock=load_lock(), level=3, places=("debian",)))
    except SourceError as error:
        if MUST_WORK or isinstance(error.__cause__, ChecksumError):
            raise
        pytest.skip(f"no Debian archive can be reached: {error}")
    assert tree_digest(tree.path) == load_lock().tree(3)
    assert system_state() == before


def system_state() -> list[tuple[str, float]]:
    """What apt would have changed on the system."""
    watched = [Path("/var/lib/apt/lists"), Path("/var/cache/apt"), Path("/etc/apt"), Path("/etc/apt/sources.list.d")]
    return [(str(path), path.stat().st_mtime) for path in watched if path.exists()]
