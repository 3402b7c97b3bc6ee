"""Rules that change while a server runs: when they are read anew, and what counts meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from codex_shell_tool_mcp.errors import PolicyError
from codex_shell_tool_mcp.execpolicy import live, loader
from codex_shell_tool_mcp.execpolicy.isolation import evaluate_files
from codex_shell_tool_mcp.execpolicy.live import LOOK_SECONDS, MAX_HELD, SETTLE_SECONDS, LiveRules

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from codex_shell_tool_mcp.execpolicy.isolation import RulesText
    from codex_shell_tool_mcp.execpolicy.layers import FileRules


@dataclass
class World:
    """A home with rules, live ones, and a clock that only moves when told to."""

    home: Path
    now: float = 100.0
    during_sleep: list[Callable[[], None]] = field(default_factory=list)
    slept: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.rules = LiveRules(self.home, clock=lambda: self.now, sleep=self.sleep)

    @property
    def folder(self) -> Path:
        return self.home / "rules"

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += 1
        if self.during_sleep:
            self.during_sleep.pop(0)()

    def write(self, name: str, *programs: str, decision: str = "forbidden") -> Path:
        path = self.folder / name
        path.write_text("".join(f'prefix_rule(["{program}"], "{decision}")\n' for program in programs))
        return path

    def programs(self, cwd: Path | None = None, *, stale: bool | None = None) -> str:
        """What is in force after as much time as a look needs; asserts whether there was something to do."""
        self.now += LOOK_SECONDS
        is_stale = self.rules.is_stale(cwd)
        if is_stale:
            assert self.rules.refresh(cwd) is None
        assert stale is None or is_stale is stale
        return " ".join(rule.program for rule in self.rules.in_force(cwd).policy.prefix_rules)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(loader, "SYSTEM_FOLDER", tmp_path / "etc")
    return World(tmp_path / "home")


def test_nothing_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write("a.rules", "a")
    assert world.programs(stale=True) == "a"
    monkeypatch.setattr(live, "evaluate_files", pytest.fail)
    assert world.programs(stale=False) == "a"
    assert world.rules.refresh(None) is None
    assert world.programs(stale=False) == "a"


def test_changes_are_seen(world: World) -> None:
    path = world.write("a.rules", "a")
    assert world.programs() == "a"
    world.write("a.rules", "a", "b")
    assert world.programs(stale=True) == "a b"
    world.write("0.rules", "zero")
    assert world.programs(stale=True) == "zero a b"
    path.rename(world.folder / "c.rules")
    world.now += SETTLE_SECONDS
    world.programs()
    world.now += SETTLE_SECONDS
    assert world.programs() == "zero a b"
    assert world.programs(stale=False) == "zero a b"


def test_files_are_not_looked_at_more_often_than_that(world: World) -> None:
    world.write("a.rules", "a")
    world.programs()
    world.write("a.rules", "b")
    assert not world.rules.is_stale(None)
    world.now += LOOK_SECONDS
    assert world.rules.is_stale(None)
    assert world.rules.is_stale(None), "until it is read, whoever asks and how often"


def test_what_begins_looks_however_recent_the_last_look(world: World) -> None:
    world.rules.look_again(None)
    world.write("a.rules", "a")
    world.programs()
    world.write("a.rules", "b")
    world.rules.look_again(None)
    assert world.rules.is_stale(None)


def test_a_bad_file_at_the_start_is_an_error(world: World) -> None:
    (world.folder / "a.rules").write_text("prefix_rule(")
    with pytest.raises(PolicyError, match=r"/home/rules/a\.rules:1:"):
        world.rules.refresh(None)
    world.write("a.rules", "a")
    assert world.programs() == "a"


@pytest.mark.parametrize("bad", ["syntax", "bytes", "mode", "folder"])
def test_a_bad_file_later_leaves_the_last_good_set(world: World, bad: str) -> None:
    path = world.write("a.rules", "a")
    assert world.programs() == "a"
    if bad == "syntax":
        path.write_text('\nprefix_rule(["b"], "ask")')
    elif bad == "bytes":
        path.write_bytes(b"\xff")
    elif bad == "mode":
        path.chmod(0o666)
    else:
        world.folder.rename(world.home / "moved")
        world.folder.write_text("")
    world.now += LOOK_SECONDS
    assert world.rules.is_stale(None)
    failure = world.rules.refresh(None)
    assert failure is not None
    assert str(world.folder) in failure
    # Said once: until something changes again there is nothing to do.
    assert world.programs(stale=False) == "a"
    if bad == "folder":
        world.folder.unlink()
        world.folder.mkdir()
    else:
        path.unlink()
    world.write("a.rules", "b")
    assert world.programs(stale=True) == "b"


def test_a_bad_file_keeps_everything_else_as_it_was_too(world: World) -> None:
    world.write("a.rules", "a")
    world.programs()
    world.write("b.rules", "b")
    (world.folder / "c.rules").write_text("prefix_rule([])")
    world.now += LOOK_SECONDS
    assert world.rules.is_stale(None)
    assert "c.rules:1:1: invalid pattern element" in (world.rules.refresh(None) or "")
    assert world.programs() == "a"
    (world.folder / "c.rules").unlink()
    assert world.programs(stale=True) == "a b"


def test_a_file_that_vanishes_counts_until_it_has_been_gone_for_a_while(world: World) -> None:
    world.write("a.rules", "a")
    path = world.write("b.rules", "b")
    world.write("c.rules", "c")
    world.programs()
    path.unlink()
    world.write("d.rules", "d")
    assert world.programs(stale=True) == "a b c d"
    world.now += SETTLE_SECONDS / 2
    assert world.programs(stale=False) == "a b c d"
    world.now += SETTLE_SECONDS / 2
    assert world.programs(stale=True) == "a c d"
    assert world.programs(stale=False) == "a c d"


def test_a_file_that_is_emptied_counts_until_it_has_been_so_for_a_while(world: World) -> None:
    path = world.write("a.rules", "a")
    world.programs()
    path.write_text("\n")
    assert world.programs(stale=True) == "a"
    world.now += SETTLE_SECONDS
    assert world.programs(stale=True) == ""


def test_a_file_that_comes_back_counts_as_it_then_is(world: World) -> None:
    path = world.write("a.rules", "a")
    world.programs()
    path.unlink()
    assert world.programs() == "a"
    world.write("a.rules", "b")
    assert world.programs(stale=True) == "b"
    world.now += SETTLE_SECONDS
    assert world.programs(stale=False) == "b"


def test_a_whole_folder_that_vanishes_settles_too(world: World) -> None:
    world.write("a.rules", "a")
    world.programs()
    world.folder.rename(world.home / "moved")
    assert world.programs() == "a"
    world.now += SETTLE_SECONDS
    assert world.programs() == ""


def test_what_is_still_being_written_is_waited_for(world: World) -> None:
    """An editor that writes in place: what is there in between is valid, and would forbid nothing."""
    path = world.write("a.rules", "a", "b")
    world.programs()
    path.write_text('prefix_rule(["a"], "forbidden")\n')

    def write_the_rest() -> None:
        world.write("a.rules", "a", "b", "c")

    world.during_sleep = [write_the_rest]
    assert world.programs(stale=True) == "a b c"
    assert world.slept == 2


def test_what_never_comes_to_rest_is_read_nevertheless(world: World) -> None:
    path = world.write("a.rules", "a")
    world.programs()

    def again() -> None:
        path.write_text(path.read_text() + "#")
        world.during_sleep.append(again)

    world.during_sleep = [again]
    world.write("a.rules", "b")
    assert world.programs(stale=True) == "b"
    assert 0 < world.slept < 100


def test_the_start_waits_for_nothing(world: World) -> None:
    world.write("a.rules", "a")
    world.programs()
    assert world.slept == 0


# Projects and what scripts can write ----------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / ".git").mkdir(parents=True)
    (root / ".codex" / "rules").mkdir(parents=True)
    (root / ".codex/rules/p.rules").write_text('prefix_rule(["loose"])\nprefix_rule(["tight"], "forbidden")\n')
    return root


def trust(world: World, project: Path) -> None:
    (world.home / "config.toml").write_text(f'[projects."{project}"]\ntrust_level = "trusted"\n')


def test_each_directory_has_its_own_set(world: World, project: Path) -> None:
    world.write("a.rules", "a")
    assert world.programs() == "a"
    assert world.programs(project) == "a tight"
    assert world.programs() == "a"


def test_the_same_files_are_evaluated_once_for_all_directories(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that names another directory for each call does not wait for the rules' own process each time."""
    evaluated: list[int] = []

    def evaluate(texts: Sequence[RulesText]) -> tuple[FileRules, ...]:
        evaluated.append(len(texts))
        return evaluate_files(texts)

    monkeypatch.setattr(live, "evaluate_files", evaluate)
    world.write("user.rules", "rm")
    assert [world.programs(tmp_path / name, stale=True) for name in "abc"] == ["rm"] * 3
    assert evaluated == [1]
    world.write("user.rules", "rm", "mv")
    assert [world.programs(tmp_path / name, stale=True) for name in "abc"] == ["rm mv"] * 3
    assert evaluated == [1, 1]


def test_an_untrusted_projects_notes_say_what_does_not_count(world: World, project: Path) -> None:
    world.programs(project)
    (note,) = world.rules.in_force(project).notes
    assert note.startswith(
        f"{project}/.codex/rules/p.rules: 1 allow rule in it do not count: the project {project} is not"
    )


def test_trust_given_or_taken_while_running_counts(world: World, project: Path) -> None:
    assert world.programs(project) == "tight"
    trust(world, project)
    assert world.programs(project, stale=True) == "loose tight"
    assert world.rules.in_force(project).notes == ()
    (world.home / "config.toml").write_text("")
    assert world.programs(project, stale=True) == "tight"


def test_a_bad_project_that_was_never_good_is_an_error(world: World, project: Path) -> None:
    world.write("a.rules", "a")
    world.programs()
    (project / ".codex/rules/p.rules").write_text("prefix_rule(")
    with pytest.raises(PolicyError, match=r"/project/\.codex/rules/p\.rules:1:"):
        world.rules.refresh(project)
    assert world.programs() == "a"


def test_what_scripts_can_write_may_only_tighten(world: World, project: Path) -> None:
    trust(world, project)
    assert world.programs(project) == "loose tight"
    world.rules.opened([str(project)])
    assert world.programs(project, stale=True) == "tight"
    (note,) = world.rules.in_force(project).notes
    assert "do not count: scripts can write it" in note
    assert world.programs(project, stale=False) == "tight"
    world.rules.opened([str(project / "sub")])
    assert world.programs(project, stale=False) == "tight"


def test_the_users_own_files_are_no_exception(world: World) -> None:
    world.write("a.rules", "a", decision="allow")
    world.rules.opened([str(world.home.parent)])
    assert world.programs() == ""
    world.write("b.rules", "b")
    assert world.programs() == "b"


def test_links_do_not_hide_where_a_file_lies(world: World, tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    world.folder.rename(inside)
    world.folder.symlink_to(inside)
    (inside / "a.rules").write_text('prefix_rule(["a"])')
    assert world.programs() == "a"
    outside.symlink_to(inside)
    world.rules.opened([str(outside)])
    assert world.programs() == ""


def test_a_folder_that_only_begins_alike_is_another(world: World) -> None:
    world.write("a.rules", "a", decision="allow")
    world.rules.opened([str(world.home)[:-1], str(world.home / "rules" / "a"), str(world.home / "other")])
    assert world.programs() == "a"


def test_sets_of_many_directories_are_not_all_kept(world: World, tmp_path: Path) -> None:
    world.write("a.rules", "a")
    for number in range(MAX_HELD + 5):
        (tmp_path / str(number)).mkdir()
        assert world.programs(tmp_path / str(number), stale=True) == "a"
    assert len(world.rules._held) == MAX_HELD
    assert world.programs(tmp_path / str(MAX_HELD + 4), stale=False) == "a"


def test_trust_that_scripts_can_give_does_not_count(world: World, project: Path) -> None:
    world.rules.opened([str(world.home)])
    assert world.programs(project) == "tight"
    trust(world, project)
    assert world.programs(project, stale=True) == "tight"
    (note,) = world.rules.in_force(project).notes
    assert "which decides whether it is trusted" in note


def test_a_bad_file_that_only_tightens_keeps_nothing_else_as_it_was(world: World, project: Path) -> None:
    """Else a script could keep the user from forbidding anything."""
    world.write("a.rules", "a", decision="allow")
    world.rules.opened([str(project)])
    assert world.programs(project) == "a tight"
    for bad in (b"prefix_rule(", b"\xff"):
        (project / ".codex/rules/p.rules").write_bytes(bad)
        world.write("a.rules", "b", bad[:1].hex())
        world.now += LOOK_SECONDS
        assert world.rules.is_stale(project)
        assert "p.rules" in (world.rules.refresh(project) or "")
        assert world.programs(project, stale=False) == f"b {bad[:1].hex()} tight"


def test_what_scripts_write_for_ever_is_let_be_for_a_while(world: World, project: Path) -> None:
    path = project / ".codex/rules/p.rules"
    world.rules.opened([str(project)])
    assert world.programs(project) == "tight"
    path.write_text('prefix_rule(["x"], "forbidden")')

    def slow() -> None:
        world.now += live.SLOW_SECONDS

    world.during_sleep.append(slow)
    assert world.programs(project, stale=True) == "x"
    path.write_text('prefix_rule(["yy"], "forbidden")')
    assert world.programs(project, stale=False) == "x"
    world.write("a.rules", "a")  # the user's own count at once
    assert world.programs(project, stale=True) == "a yy"
    path.write_text('prefix_rule(["zzz"], "forbidden")')
    assert world.programs(project, stale=True) == "a zzz"


def test_a_directory_that_a_script_replaces_by_a_link_gets_nothing_of_where_that_leads(
    world: World, project: Path, tmp_path: Path
) -> None:
    """The client works in one project; the script puts a link to another, which the user trusts, in its place."""
    trust(world, project)
    workspace = tmp_path / "space" / "here"
    workspace.mkdir(parents=True)
    world.rules.opened([str(tmp_path / "space")])
    assert world.programs(workspace) == ""
    workspace.rmdir()
    workspace.symlink_to(project)
    world.write("touched.rules")
    assert world.programs(workspace, stale=True) == "tight"
    assert world.programs(project) == "loose tight", "its own scripts cannot write there"


def test_a_trusted_directory_that_a_script_replaces_by_a_link_bestows_no_trust(
    world: World, project: Path, tmp_path: Path
) -> None:
    """The user trusts where the script writes, not the project of somebody else that lies beside it."""
    workspace = tmp_path / "space" / "here"
    workspace.mkdir(parents=True)
    trust(world, workspace)
    assert world.programs(project) == "tight"
    world.rules.opened([str(tmp_path / "space")])
    workspace.rmdir()
    workspace.symlink_to(project)
    world.write("touched.rules")
    assert world.programs(project, stale=True) == "tight"
    assert "which decides whether it is trusted" in world.rules.in_force(project).notes[0]


def test_a_link_that_scripts_can_move_is_no_way_to_rules_that_allow(world: World, tmp_path: Path) -> None:
    """Neither end of it lies where they can write."""
    inside, safe = tmp_path / "space" / "link", tmp_path / "safe"
    inside.parent.mkdir()
    world.folder.rename(safe)
    inside.symlink_to(safe)
    world.folder.symlink_to(inside)
    (safe / "a.rules").write_text('prefix_rule(["a"])\nprefix_rule(["b"], "forbidden")')
    assert world.programs() == "a b"
    world.rules.opened([str(inside.parent)])
    assert world.programs() == "b"
