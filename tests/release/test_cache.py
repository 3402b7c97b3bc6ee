"""The build cache: whole entries or none, built once, checked at each use."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from typing import TYPE_CHECKING

import pytest

from shell_tool_release.cache import VARIABLE, Key, cache_root, entry, file_sha256, holding, seconds, sweep
from shell_tool_release.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

KEY = Key.of("things", flags=["-O2"], version=1)


def build_hello(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_text("hello", encoding="utf-8")


def build_never(folder: Path) -> None:
    raise AssertionError(folder)


def test_an_entry_is_built_once(tmp_path: Path) -> None:
    first = entry(tmp_path, KEY, build_hello)
    second = entry(tmp_path, KEY, build_never)
    assert (first.reused, second.reused) == (False, True)
    assert first.path == second.path
    assert (second.path / "sub" / "file").read_text(encoding="utf-8") == "hello"


def test_an_entry_is_found_by_what_it_holds(tmp_path: Path) -> None:
    made = entry(tmp_path, KEY, build_hello).path
    digest = file_sha256(made / "sub" / "file")
    (tmp_path / KEY.kind / "broken").mkdir()
    (tmp_path / KEY.kind / "broken" / "entry.json").write_text("{")
    assert holding(tmp_path, KEY.kind, "sub/file", digest) == made
    assert seconds(made) is not None
    assert holding(tmp_path, KEY.kind, "file", digest) is None
    assert holding(tmp_path, KEY.kind, "sub/file", "0" * 64) is None
    assert holding(tmp_path, "others", "sub/file", digest) is None


def test_any_change_of_inputs_is_another_entry() -> None:
    inputs = {"flags": ["-O2"], "version": 1}
    changed: list[dict[str, object]] = [{"flags": ["-O1"]}, {"version": 2}, {"patch": None}]
    digests = {Key.of("things", **(inputs | change)).digest for change in changed}
    assert len(digests | {KEY.digest}) == 4
    assert Key.of("things", **inputs).digest == KEY.digest


@pytest.mark.parametrize("damage", ["change", "remove", "add", "record"])
def test_a_damaged_entry_is_built_again(tmp_path: Path, damage: str) -> None:
    path = entry(tmp_path, KEY, build_hello).path
    match damage:
        case "change":
            (path / "sub" / "file").write_text("hullo", encoding="utf-8")
        case "remove":
            (path / "sub" / "file").unlink()
        case "add":
            (path / "more").write_text("x", encoding="utf-8")
        case _:
            (path / "entry.json").write_text("{}", encoding="utf-8")
    again = entry(tmp_path, KEY, build_hello)
    assert not again.reused
    assert [file.name for file in again.path.rglob("*") if file.is_file()].count("file") == 1
    assert not (again.path / "more").exists()


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        build_hello(folder)
        message = "no"
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="no"):
        entry(tmp_path, KEY, fail)
    assert [path.name for path in (tmp_path / "things").iterdir()] == [f"{KEY.name}.lock"]
    assert not entry(tmp_path, KEY, build_hello).reused


def test_the_inputs_are_recorded_for_the_reader(tmp_path: Path) -> None:
    path = entry(tmp_path, KEY, build_hello).path
    record = json.loads((path / "entry.json").read_text(encoding="utf-8"))
    assert record["inputs"] == {"flags": ["-O2"], "version": 1}


def slow_build(root: Path, log: Path) -> None:
    def build(folder: Path) -> None:
        with log.open("a", encoding="utf-8") as stream:
            stream.write("built\n")
        time.sleep(0.3)
        build_hello(folder)

    entry(root, KEY, build)


def test_of_several_processes_one_builds(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=slow_build, args=(tmp_path, tmp_path / "log")) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert (tmp_path / "log").read_text(encoding="utf-8") == "built\n"


def test_leftovers_of_killed_builds_are_swept_after_a_day(tmp_path: Path) -> None:
    entry(tmp_path, KEY, build_hello)
    stale = [tmp_path / "build-abc", tmp_path / "things" / "fetch-abc", tmp_path / "things" / f"{KEY.name}.abcdefgh"]
    fresh = tmp_path / "build-now"
    for folder in [*stale, fresh]:
        folder.mkdir()
    stale.append(tmp_path / "logs" / "old.log")
    stale[-1].parent.mkdir()
    stale[-1].touch()
    for folder in stale:
        os.utime(folder, (time.time() - 90_000,) * 2)
    sweep(tmp_path)
    assert not any(folder.exists() for folder in stale)
    assert fresh.exists()
    assert entry(tmp_path, KEY, build_never).reused


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({VARIABLE: "{}/chosen", "XDG_CACHE_HOME": "{}/xdg"}, "chosen"),
        ({"XDG_CACHE_HOME": "{}/xdg", "HOME": "{}/home"}, "xdg/codex-shell-tool-mcp"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "{}/home"}, "home/.cache/codex-shell-tool-mcp"),
        ({"HOME": "{}/home"}, "home/.cache/codex-shell-tool-mcp"),
    ],
)
def test_the_folder_follows_the_platforms_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], expected: str
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    root = cache_root({name: value.format(tmp_path) for name, value in environ.items()})
    assert root == tmp_path / expected
    assert root.is_dir()


def test_on_macos_the_library_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_root({"HOME": str(tmp_path)}) == tmp_path / "Library" / "Caches" / "codex-shell-tool-mcp"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=rf"{tmp_path}/file/below cannot be written .*set {VARIABLE}"):
        cache_root({VARIABLE: str(tmp_path / "file" / "below")})
