"""Finding rules files and reading them."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from codex_shell_tool_mcp.errors import PolicyError, UsageError
from codex_shell_tool_mcp.execpolicy import files, loader
from codex_shell_tool_mcp.execpolicy.files import links_on_the_way
from codex_shell_tool_mcp.execpolicy.layers import FileRules, combined
from codex_shell_tool_mcp.execpolicy.loader import (
    Found,
    Layer,
    Places,
    default_layers,
    find_codex_home,
    load_layers,
    project_layers,
    read_all,
    read_layer,
    read_rules,
)
from codex_shell_tool_mcp.execpolicy.rules import Policy
from codex_shell_tool_mcp.execpolicy.settings import UserConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
    return [text.identifier.rpartition("/")[2] for text in read_layer(Layer(name="user", folder=folder), {})]


def load_rules(folder: Path) -> Policy:
    return load_layers(default_layers(folder))


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
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 10)
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


# What others could have written ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["home/rules/a.rules", "home/rules", "home"])
def test_what_everybody_can_write_is_refused(home: Path, name: str) -> None:
    write(home, "a.rules", 'prefix_rule(["a"])')
    path = home.parent / name
    path.chmod(path.stat().st_mode | 0o002)
    with pytest.raises(
        PolicyError, match=rf"^{path}: refused, for every user of this machine can write it .* chmod o-w"
    ):
        load_rules(home)


def test_a_home_that_everybody_can_write_matters_only_with_rules_in_it(home: Path) -> None:
    (home / "rules").rmdir()
    home.chmod(0o777)
    assert load_rules(home) == Policy()


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says what the accounts' database says of this user and the files' group."""

    def set_up(*, name: str = "me", primary: bool = True, members: tuple[str, ...] = ()) -> None:
        gid = os.getegid()
        account = pwd.struct_passwd(("me", "x", os.geteuid(), gid if primary else gid + 1, "", "/", "/bin/sh"))
        monkeypatch.setattr(pwd, "getpwuid", lambda _: account)
        monkeypatch.setattr(grp, "getgrgid", lambda number: grp.struct_group((name, "x", number, list(members))))

    return set_up


@pytest.mark.parametrize("members", [(), ("me",)])
def test_what_the_owners_private_group_can_write_is_read(
    home: Path, group: Callable[..., None], members: tuple[str, ...]
) -> None:
    group(members=members)
    write(home, "a.rules", 'prefix_rule(["a"])').chmod(0o664)
    assert load_rules(home).prefix_rules


@pytest.mark.parametrize("other", [{"name": "staff"}, {"primary": False}, {"members": ("me", "you")}])
def test_what_a_group_of_others_can_write_is_refused(
    home: Path, group: Callable[..., None], other: dict[str, Any]
) -> None:
    group(**other)
    write(home, "a.rules", 'prefix_rule(["a"])').chmod(0o664)
    with pytest.raises(PolicyError, match=r"a\.rules: refused, for the group \w+ can write it .* chmod g-w"):
        load_rules(home)


def test_a_group_nobody_knows_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_number: int) -> None:
        raise KeyError

    monkeypatch.setattr(grp, "getgrgid", unknown)
    write(home, "a.rules", "").chmod(0o620)
    with pytest.raises(PolicyError, match=rf"for the group {os.getegid()} can write it"):
        load_rules(home)


def test_what_is_named_on_the_command_line_is_guarded_too_but_not_in_check(home: Path) -> None:
    path = write(home, "a.rules", "")
    path.chmod(0o646)
    with pytest.raises(PolicyError, match="refused"):
        read_all(Places(codex_home=home.parent / "none", files=(path,)), Found())
    assert read_rules(path, follow_links=True).text == ""


# Projects -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with rules in its root and below."""
    root = tmp_path / "project"
    (root / ".git").mkdir(parents=True)
    write(root / ".codex", "root.rules", 'prefix_rule(["root"])\nprefix_rule(["x"], "forbidden")')
    write(root / "sub" / ".codex", "sub.rules", 'prefix_rule(["sub"])')
    (root / "sub" / "deep").mkdir()
    return root


def trust(home: Path, *paths: Path, level: str = "trusted", first: str = "") -> None:
    text = first + "".join(f'[projects."{path}"]\ntrust_level = "{level}"\n' for path in paths)
    (home / "config.toml").write_text(text)


def read(home: Path, cwd: Path | None, *files: Path) -> Found:
    found = Found()
    read_all(Places(codex_home=home, cwd=cwd, files=files), found)
    return found


def read_names(found: Found) -> list[str]:
    return [text.identifier.rpartition("/")[2] for text in found.texts]


def test_a_projects_layers_from_its_root_to_the_directory(home: Path, project: Path) -> None:
    write(home, "user.rules", "")
    assert read_names(read(home, project / "sub" / "deep")) == ["user.rules", "root.rules", "sub.rules"]
    assert read_names(read(home, project)) == ["user.rules", "root.rules"]
    assert read_names(read(home, None)) == ["user.rules"]


def test_the_roots_markers_are_the_users(home: Path, project: Path) -> None:
    (project / "sub" / "marker").touch()
    trust(home, first='project_root_markers = ["marker"]\n')
    assert read_names(read(home, project / "sub" / "deep")) == ["sub.rules"]
    trust(home, first="project_root_markers = []\n")
    assert read_names(read(home, project / "sub" / "deep")) == []
    assert read_names(read(home, project / "sub")) == ["sub.rules"]


def test_without_a_marker_the_directory_is_the_root(home: Path, project: Path) -> None:
    (project / ".git").rmdir()
    assert read_names(read(home, project / "sub")) == ["sub.rules"]


def test_the_users_folder_is_no_project(tmp_path: Path) -> None:
    home = tmp_path / ".codex"
    write(home, "user.rules", "")
    found = read(home, tmp_path)
    assert read_names(found) == ["user.rules"]
    (tmp_path / "link").symlink_to(".codex")
    assert read_names(read(tmp_path / "link", tmp_path)) == ["user.rules"]


def test_a_project_nobody_trusts_is_read_and_said_so(home: Path, project: Path) -> None:
    found = read(home, project)
    (reason,) = found.distrusted.values()
    assert reason == (
        f'the project {project} is not trusted: if you trust it, write trust_level = "trusted" below '
        f'[projects."{project}"] in {home}/config.toml'
    )
    assert [text.keeps_hosts for text in found.texts] == [False]


@pytest.mark.parametrize("level", ["untrusted", "Trusted", "yes", ""])
def test_other_words_are_no_trust(home: Path, project: Path, level: str) -> None:
    trust(home, project, level=level)
    assert len(read(home, project).distrusted) == 1


def test_trust_of_the_directory_or_the_root(home: Path, project: Path) -> None:
    trust(home, project)
    assert read(home, project / "sub").distrusted == {}
    trust(home, project / "sub")
    assert list(read(home, project / "sub").distrusted) == [str(project / ".codex/rules/root.rules")]
    # The nearest word counts.
    (home / "config.toml").write_text(
        f'[projects."{project}"]\ntrust_level = "trusted"\n[projects."{project}/sub"]\ntrust_level = "untrusted"'
    )
    assert list(read(home, project / "sub").distrusted) == [str(project / "sub/.codex/rules/sub.rules")]


def test_trust_of_a_parent_is_no_trust(home: Path, project: Path) -> None:
    trust(home, project.parent, Path("/"))
    assert len(read(home, project).distrusted) == 1


def worktree(project: Path, name: str) -> Path:
    """A worktree of the project beside it, as git makes it."""
    administrative = project / ".git" / "worktrees" / name
    administrative.mkdir(parents=True)
    tree = project.parent / name
    write(tree / ".codex", "tree.rules", 'prefix_rule(["tree"])')
    (tree / ".git").write_text(f"gitdir: {administrative}\n")
    (administrative / "gitdir").write_text(f"{tree / '.git'}\n")
    return tree


def test_a_worktree_has_the_trust_of_its_main_repository(home: Path, project: Path) -> None:
    tree = worktree(project, "tree")
    assert read(home, tree).distrusted
    trust(home, project)
    assert read(home, tree).distrusted == {}


def test_a_folder_that_only_claims_to_be_a_worktree_is_not_trusted(home: Path, project: Path, tmp_path: Path) -> None:
    worktree(project, "tree")
    trust(home, project)
    evil = tmp_path / "evil"
    write(evil / ".codex", "evil.rules", 'prefix_rule(["bash"])')
    (evil / ".git").write_text(f"gitdir: {project}/.git/worktrees/tree\n")
    assert len(read(home, evil).distrusted) == 1
    (evil / ".git").write_text(f"gitdir: {project}/.git\n")
    assert len(read(home, evil).distrusted) == 1


def test_no_links_in_a_project(home: Path, project: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "evil.rules", 'prefix_rule(["evil"])')
    (project / ".codex/rules/link.rules").symlink_to(tmp_path / "elsewhere/rules/evil.rules")
    assert read_names(read(home, project)) == ["root.rules"]
    (project / ".codex").rename(project / "kept")
    (project / ".codex").symlink_to(tmp_path / "elsewhere")
    assert read_names(read(home, project)) == []
    (project / ".codex").unlink()
    (project / ".codex").mkdir()
    (project / ".codex/rules").symlink_to(tmp_path / "elsewhere/rules")
    with pytest.raises(
        PolicyError, match=r"/project/\.codex/rules: the project layer's rules cannot be listed: Not a dir"
    ):
        read(home, project)


def test_the_way_to_a_project_is_resolved_by_whoever_names_it_and_never_here(home: Path, project: Path) -> None:
    (project.parent / "link").symlink_to(project)
    trust(home, project)
    found = read(home, project.parent / "link" / "sub")
    assert read_names(found) == ["root.rules", "sub.rules"]
    assert len(found.distrusted) == 2
    assert read(home, (project.parent / "link" / "sub").resolve()).distrusted == {}


def test_a_project_may_be_trusted_by_way_of_links_which_the_trust_then_rests_on(
    home: Path, project: Path, tmp_path: Path
) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to(project.parent)
    trust(home, tmp_path / "one" / "project")
    found = read(home, project)
    assert found.distrusted == {}
    (rests_on,) = found.rests_on.values()
    assert rests_on == (str(home / "config.toml"), str(tmp_path / "one"), str(tmp_path / "two"))


def test_links_that_lead_nowhere_or_round_are_found_too(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "nowhere").symlink_to("../x/./y")
    assert set(links_on_the_way(f"{tmp_path}/round/x")) == {f"{tmp_path}/round"}
    assert links_on_the_way(f"{tmp_path}//./nowhere/z") == [f"{tmp_path}/nowhere"]
    assert links_on_the_way(f"{tmp_path}/a/../nowhere") == [f"{tmp_path}/nowhere"]
    assert links_on_the_way("/\0") == []


def test_a_broken_configuration_is_an_error(home: Path, project: Path) -> None:
    (home / "config.toml").write_text("x = \n")
    with pytest.raises(PolicyError, match=r"/home/config\.toml:1:5: .* \(the file is TOML"):
        read(home, project)


def test_a_configuration_that_others_can_write_is_refused(home: Path, project: Path) -> None:
    trust(home, project)
    (home / "config.toml").chmod(0o646)
    with pytest.raises(PolicyError, match=r"config\.toml: refused"):
        read(home, project)


# Order, command line, requirements ------------------------------------------------------------------------------------


def test_the_order_of_all_layers(home: Path, project: Path, no_system_layer: Path, tmp_path: Path) -> None:
    for folder, name in ((no_system_layer, "system"), (home, "user"), (tmp_path, "named")):
        write(folder, f"{name}.rules", "")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "rules/named.rules")
    found = read(home, project / "sub", link)
    assert read_names(found) == ["system.rules", "user.rules", "root.rules", "sub.rules", "link"]
    assert str(link) not in found.distrusted


def test_a_named_file_that_is_missing_is_an_error(home: Path) -> None:
    with pytest.raises(PolicyError, match=r"/gone: cannot be read: No such file"):
        read(home, None, home / "gone")


def test_the_administrators_requirements(home: Path, no_system_layer: Path) -> None:
    no_system_layer.mkdir()
    (no_system_layer / "requirements.toml").write_text(
        '[rules]\nprefix_rules = [{ pattern = [{ token = "dd" }], decision = "forbidden" }]'
    )
    requirements = read(home, None).requirements
    assert isinstance(requirements, FileRules)
    (rule,) = combined([requirements]).prefix_rules
    assert (rule.program, rule.source) == ("dd", f"{no_system_layer}/requirements.toml:2")


def test_everything_looked_at_is_noted(home: Path, project: Path, no_system_layer: Path) -> None:
    """Whatever appears or changes of these is noticed."""
    user = write(home, "user.rules", "")
    seen = read(home, project / "sub" / "deep").seen
    assert seen[str(user)] is not None
    for missing in (
        home / "config.toml",
        no_system_layer / "requirements.toml",
        no_system_layer / "rules",
        project / "sub/deep/.codex",
    ):
        assert seen[str(missing)] is None
    assert not files.changed(seen)
    for path in (no_system_layer / "rules", project / "sub/deep/.codex"):
        before = read(home, project / "sub" / "deep").seen
        path.mkdir(parents=True)
        assert files.changed(before)
    for text in ("#", "##", "#"):
        before = read(home, project).seen
        user.write_text(text)
        assert files.changed(before)
    before = read(home, project).seen
    user.rename(home / "rules" / "other.rules")
    assert files.changed(before)


def test_layers_of_a_directory_that_is_gone(home: Path, tmp_path: Path) -> None:
    assert project_layers(tmp_path / "gone", home, UserConfig(), {}) == []


def test_a_projects_files_are_few_and_small_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = loader.Layer(name="project", folder=tmp_path, links=False)
    (tmp_path / "rules").mkdir()
    for name in "ab":
        with (tmp_path / "rules" / f"{name}.rules").open("wb") as file:
            file.truncate(files.MAX_PROJECT_BYTES // 2 + 1)
    with pytest.raises(PolicyError, match=r"b\.rules: cannot be read: larger than \d+ bytes, or all files"):
        loader.read_layer(layer, {})
    monkeypatch.setattr(loader, "MAX_FILES", 1)
    with pytest.raises(PolicyError, match="more than 1 files"):
        loader.read_layer(layer, {})


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "No such file or directory; name a file that is there"),
        ("folder", "Is a directory; name a file, not a folder"),
        ("fifo", "not a regular file; put a file there, or remove it"),
        ("link", "Too many levels of symbolic links; put the file itself there, no link"),
        ("huge", "larger than 16777216 bytes; write fewer or shorter rules, or remove it"),
    ],
)
def test_each_way_not_to_be_readable_has_its_cure(kind: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.rules"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(path)
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises(PolicyError) as caught:
        read_rules(path, follow_links=True)
    assert str(caught.value) == f"{path}: cannot be read: {says}"
