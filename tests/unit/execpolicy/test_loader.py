"""Finding rules files and reading them."""

from __future__ import annotations

import contextlib
import os
import pwd
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.errors import PolicyError, UsageError
from codex_shell_tool_mcp.execpolicy import loader
from codex_shell_tool_mcp.execpolicy.loader import (
    Layer,
    find_codex_home,
    load_layers,
    load_rules,
    read_rules,
    rules_files,
)
from codex_shell_tool_mcp.execpolicy.rules import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home" / "rules").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def no_system_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(loader, "SYSTEM_FOLDER", tmp_path / "etc")
    return tmp_path / "etc"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / "rules" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(folder: Path) -> list[str]:
    return [path.name for path in rules_files(Layer(name="user", folder=folder))]


def test_files_are_read_in_the_order_of_their_names(home: Path) -> None:
    for name in ("b.rules", "a.rules", "default.rules", "B.rules", "\N{LATIN SMALL LETTER E WITH ACUTE}.rules"):
        write(home, name, f'prefix_rule(["{name}"])')
    expected = ["B.rules", "a.rules", "b.rules", "default.rules", "\N{LATIN SMALL LETTER E WITH ACUTE}.rules"]
    policy = load_rules(home)
    assert [rule.program for rule in policy.prefix_rules] == expected
    assert policy.prefix_rules[0].source == f"{home}/rules/B.rules:1"


def test_only_regular_files_with_the_very_extension_count(home: Path) -> None:
    for name in ("a.rules", "b.RULES", "c.rule", "d.rules.bak", "rules", ".rules", "e.rules~", "f.x.rules", "..rules"):
        write(home, name, "")
    (home / "rules" / "directory.rules").mkdir()
    (home / "rules" / "link.rules").symlink_to("a.rules")
    (home / "rules" / "dangling.rules").symlink_to("missing")
    os.mkfifo(home / "rules" / "fifo.rules")
    write(home, "sub/g.rules", "")
    (home / "h.rules").write_text("")
    assert names(home) == ["..rules", "a.rules", "f.x.rules"]


def test_a_name_that_is_not_utf8_counts(home: Path) -> None:
    (home / "rules" / os.fsdecode(b"\xff.rules")).write_text('prefix_rule(["a"])')
    (rule,) = load_rules(home).prefix_rules
    assert rule.source == f"{home}/rules/\udcff.rules:1"


def test_a_link_as_the_rules_folder_is_followed(home: Path, tmp_path: Path) -> None:
    write(tmp_path / "dotfiles", "a.rules", "")
    (home / "rules").rmdir()
    (home / "rules").symlink_to(tmp_path / "dotfiles" / "rules")
    assert names(home) == ["a.rules"]


@pytest.mark.parametrize("missing", ["home", "rules"])
def test_a_missing_folder_has_no_rules(tmp_path: Path, missing: str) -> None:
    if missing == "rules":
        (tmp_path / "home").mkdir()
    assert load_rules(tmp_path / "home") == Policy()


def test_a_rules_folder_that_is_a_file_is_an_error(home: Path) -> None:
    (home / "rules").rmdir()
    (home / "rules").write_text("")
    with pytest.raises(PolicyError, match=r"/home/rules: the user layer's rules cannot be listed: Not a directory; "):
        load_rules(home)


@pytest.fixture
def open_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home that anybody can reach: pytest's own folders are the owner's alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setattr(loader, "SYSTEM_FOLDER", Path(folder) / "etc")
        (Path(folder) / "home" / "rules").mkdir(parents=True)
        yield Path(folder) / "home"


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may read everything: be somebody else for a moment."""
    if os.geteuid() != 0:
        yield
        return
    nobody = pwd.getpwnam("nobody")
    group = os.getegid()
    os.setegid(nobody.pw_gid)
    os.seteuid(nobody.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


def test_a_rules_folder_that_cannot_be_listed_is_an_error(open_home: Path) -> None:
    (open_home / "rules").chmod(0)
    refused = r"/home/rules: the user layer's rules cannot be listed: Permission denied; "
    with ordinary_user(), pytest.raises(PolicyError, match=refused):
        load_rules(open_home)


def test_an_unreadable_file_is_an_error(open_home: Path) -> None:
    write(open_home, "a.rules", "").chmod(0)
    refused = r"/rules/a\.rules: cannot be read: Permission denied; make it readable"
    with ordinary_user(), pytest.raises(PolicyError, match=refused):
        load_rules(open_home)


def test_a_file_that_is_not_utf8_is_an_error_with_its_place(home: Path) -> None:
    (home / "rules" / "a.rules").write_bytes(b"# fine\n# caf\xe9\n")
    with pytest.raises(PolicyError, match=r"/rules/a\.rules:2:6: byte 0xe9 is not UTF-8; save the file as UTF-8$"):
        load_rules(home)


def test_a_byte_order_mark_is_an_error(home: Path) -> None:
    (home / "rules" / "a.rules").write_bytes(b'\xef\xbb\xbfprefix_rule(["a"])')
    with pytest.raises(PolicyError, match=r"/rules/a\.rules:1:1: .*without a byte order mark"):
        load_rules(home)


def test_a_file_that_does_not_hold_names_file_line_column_and_cure(home: Path) -> None:
    write(home, "a.rules", 'prefix_rule(["fine"])')
    bad = write(home, "b.rules", '\nprefix_rule(["git"], decision = "ask")')
    with pytest.raises(PolicyError) as caught:
        load_rules(home)
    assert str(caught.value) == f'{bad}:2:1: invalid decision: ask (write "allow", "prompt" or "forbidden")'


def test_a_huge_file_is_refused_unread(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "MAX_FILE_BYTES", 10)
    write(home, "a.rules", "#" * 10)
    write(home, "b.rules", "#" * 11)
    with pytest.raises(PolicyError, match=r"/rules/b\.rules: cannot be read: larger than 10 bytes"):
        load_rules(home)


def test_what_became_a_link_or_fifo_after_the_listing_is_not_read(home: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text('prefix_rule(["evil"])')
    link = home / "rules" / "a.rules"
    link.symlink_to(target)
    with pytest.raises(PolicyError, match=r"a\.rules: cannot be read: "):
        read_rules(link, follow_links=False)
    assert read_rules(link, follow_links=True).text == target.read_text()
    link.unlink()
    os.mkfifo(link)
    with pytest.raises(PolicyError, match=r"a\.rules: cannot be read: not a regular file"):
        read_rules(link, follow_links=True)
    with pytest.raises(PolicyError, match=r"rules: cannot be read: "):
        read_rules(home / "rules", follow_links=True)


def test_layers_add_up_and_the_later_host_executable_counts(home: Path, no_system_layer: Path) -> None:
    write(no_system_layer, "z.rules", 'prefix_rule(["git"], "forbidden")\nhost_executable("git", ["/system/git"])')
    write(home, "a.rules", 'prefix_rule(["git"])\nhost_executable("git", ["/user/git"])')
    policy = load_rules(home)
    assert [rule.decision.word for rule in policy.prefix_rules] == ["forbidden", "allow"]
    assert policy.host_executables == {"git": ("/user/git",)}
    reverse = load_layers([Layer(name="user", folder=home), Layer(name="system", folder=no_system_layer)])
    assert [rule.decision.word for rule in reverse.prefix_rules] == ["allow", "forbidden"]
    assert reverse.host_executables == {"git": ("/system/git",)}


def test_codex_home_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert find_codex_home({"CODEX_HOME": f"{tmp_path}/link/."}) == (tmp_path / "real").resolve()


@pytest.mark.parametrize("environ", [{}, {"CODEX_HOME": ""}])
def test_codex_home_by_default(environ: dict[str, str]) -> None:
    assert find_codex_home({"HOME": "/nonexistent/home", **environ}) == Path("/nonexistent/home/.codex")
    assert find_codex_home(environ) == Path(pwd.getpwuid(os.getuid()).pw_dir) / ".codex"


def test_codex_home_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match=r"CODEX_HOME names .*/missing, which cannot be used: No such file"):
        find_codex_home({"CODEX_HOME": f"{tmp_path}/missing"})
    with pytest.raises(UsageError, match=r"CODEX_HOME names .*/file, which is not a directory"):
        find_codex_home({"CODEX_HOME": f"{tmp_path}/file"})
    with pytest.raises(UsageError, match=r"CODEX_HOME names .*/loop, which cannot be used"):
        find_codex_home({"CODEX_HOME": f"{tmp_path}/loop"})
    with pytest.raises(UsageError, match=r"CODEX_HOME names a\x00b, which cannot be used"):
        find_codex_home({"CODEX_HOME": "a\0b"})


def test_no_home_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_uid: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(UsageError, match="set HOME or CODEX_HOME"):
        find_codex_home({})
