"""The built shells are what their table rows say, and the compiler's traps are avoided."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shell_tool_release import answers
from shell_tool_release.bash_suite import SuiteOptions, compare, exceptions, run_suite, script_names, suite_files
from shell_tool_release.binaries import check_binary, describe
from shell_tool_release.cache import cache_root
from shell_tool_release.errors import BuildError, ConfigurationError, PrerequisiteError
from shell_tool_release.recipes.recipe import ANSWERS, Recipe, answers_file, runs_here
from shell_tool_release.shells import ShellOptions, build_all, build_shell, build_shells, install_shells, plan
from shell_tool_release.sources import SourceOptions, bash_source
from shell_tool_release.toolchain import Step, SystemCompiler, ZigCompiler, build_environ, find_zig, run_step
from shell_tool_release.variants import load_variants
from shell_tool_release.workspace import find_workspace, host_platform
from support.built import built, host_rows

if TYPE_CHECKING:
    from shell_tool_release.variants import Shell

MUST_WORK = os.environ.get("CODEX_TEST_MUST_WORK") == "1"
DIFFERENT_FROM_CC = Path(__file__).parent / "config_h_differences.txt"


@pytest.fixture(scope="module")
def options() -> ShellOptions:
    """The host's rows of bash."""
    default = ShellOptions.default()
    rows = tuple(row for row in default.variants if row.shell == "bash")
    return replace(default, context=replace(default.context, quiet=True), variants=rows)


def run(bash: Path, script: str) -> str:
    environ = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run([bash, "--norc", "-c", script], capture_output=True, check=True, env=environ)
    return done.stdout.decode()


def test_every_host_variant_is_what_its_row_says(options: ShellOptions) -> None:
    for shell in build_shells(options):
        row = shell.recipe.variant
        check_binary(shell.path, target=row.target, libc=row.libc, baseline=row.baseline, forbidden=(str(Path.home()),))
        assert 900_000 < shell.path.stat().st_size < 1_600_000


@pytest.mark.parametrize("name", ["zsh", "zsh_musl", "zsh_stock", "zsh_stock_musl"])
def test_zsh_was_answered_and_has_its_modules(name: str) -> None:
    """What configure asks in C of 1989 was compiled, and all modules but those with libraries are in the one file."""
    zsh = getattr(built(), name)
    assert 1_300_000 < zsh.stat().st_size < 2_300_000
    config = (zsh.parent / "config.h").read_text(encoding="utf-8")
    assert "BROKEN_POSIX_SIGSUSPEND 1" not in config
    assert "BROKEN_KILL_ESRCH 1" not in config
    modules = (
        "zsh/regex zsh/stat zsh/mathfunc zsh/system zsh/zpty zsh/net/tcp zsh/net/socket zsh/zle zsh/termcap zsh/attr"
    )
    script = f"for m in {modules}; do zmodload $m || exit 9; done; print ${{+termcap}} $ZSH_VERSION"
    environ = {"PATH": "/usr/bin:/bin", "TERM": "xterm"}
    done = subprocess.run([zsh, "-f", "-c", script], capture_output=True, check=True, env=environ)
    assert done.stdout == b"1 5.9\n"


@pytest.mark.parametrize("name", ["bash", "bash_musl", "bash_stock", "bash_stock_musl"])
def test_a_natively_configured_shell_has_what_a_cross_configured_one_lacks(name: str) -> None:
    bash = getattr(built(), name)
    assert run(bash, "echo $BASH_VERSION").startswith(f"5.3.{SourceOptions.default().lock.level}(1)-release")
    assert run(bash, "cat <(echo pipe)") == "pipe\n"
    assert "SIGRTMIN+1" in run(bash, "trap -l") or host_platform().startswith("darwin")
    assert re.fullmatch(r"0x[0-9a-f.]+p[+-]\d+\n", run(bash, "printf '%a\\n' 1"))
    assert run(bash, "coproc cat; echo hi >&${COPROC[1]}; read -ru ${COPROC[0]} line; echo $line") == "hi\n"


def test_version_and_names_do_not_tell_the_build_machine(options: ShellOptions) -> None:
    for name in ("bash", "bash_musl"):
        text = getattr(built(), name).read_bytes()
        for secret in (str(Path.home()), str(cache_root()), str(find_workspace().root)):
            assert secret.encode() not in text


def test_a_second_build_only_looks(options: ShellOptions) -> None:
    build_shells(options)
    assert all(shell.reused for shell in build_shells(options))


def test_the_key_covers_every_input(tmp_path: Path, options: ShellOptions) -> None:
    """A changed patch, level, flag, compiler or row is another build; a number of processes is not."""
    from shell_tool_release import shells  # noqa: PLC0415  (the key is private: it has no other way to be seen)

    row = options.variants[0]
    tree = bash_source(options.context.sources)
    patch = tmp_path / "other.patch"
    patch.write_text("changed", encoding="utf-8")
    base = options.recipe(row)

    def digest(recipe: Recipe, jobs: int = 2) -> str:
        return shells._key(recipe, plan(recipe, jobs), tree, {}).digest

    changed = [
        replace(base, patch=None),
        replace(base, patch=patch),
        replace(base, extra=("CFLAGS=-O1",)),
        replace(base, symbols=True),
        replace(base, cross=True),
        replace(base, variant=replace(row, zig=row.zig.replace("2.17", "2.28"))),
        replace(base, compiler=ZigCompiler(zig=replace(find_zig(), version="0.0.1"), target=row.zig)),
    ]
    digests = [digest(recipe) for recipe in changed]
    older = bash_source(replace(options.context.sources, level=3))
    digests.append(shells._key(base, plan(base, 2), older, {}).digest)
    assert len({*digests, digest(base)}) == len(changed) + 2
    assert digest(base, jobs=1) == digest(base, jobs=7)


KEYS = """
from shell_tool_release import shells
from shell_tool_release.shells import KINDS, ShellOptions
from shell_tool_release.variants import load_variants
options = ShellOptions.default()
sources = options.context.sources
for row in load_variants(options.workspace.variants_file):
    recipe = options.recipe(row)
    key = shells._key(recipe, shells.plan(recipe, 2), shells.source(recipe, sources), KINDS[row.shell].others(sources))
    print(row.label, key.digest)
"""


def in_checkout(root: Path, *arguments: str) -> list[str]:
    """What this Python prints with the modules of a checkout."""
    environ = os.environ | {"PYTHONPATH": str(root / "src")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environ, stdout=subprocess.PIPE, check=True, text=True
    )
    return done.stdout.splitlines()


def test_a_release_that_changes_only_python_rebuilds_no_shell(tmp_path: Path) -> None:
    """Each Python file is another: all twelve shells have the same keys, and this machine's come from the cache."""
    root, other = find_workspace().root, tmp_path / "checkout"
    for name in ("src", "patches"):
        shutil.copytree(root / name, other / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", other)
    for path in (other / "src").rglob("*.py"):
        path.write_text(f"{path.read_text(encoding='utf-8')}\n_ANOTHER_RELEASE = True\n", encoding="utf-8")
    keys = in_checkout(other, "-c", KEYS)
    assert len(keys) == 12
    assert keys == in_checkout(root, "-c", KEYS)
    table = in_checkout(other, "-m", "shell_tool_release.shells")[1:]
    assert [line.split()[0] for line in table] == [row.label for row in (*host_rows("bash"), *host_rows("zsh"))]
    assert all("from the cache" in line for line in table)
    with (other / "patches" / "zsh-exec-wrapper.patch").open("a", encoding="utf-8") as patch:
        patch.write("another patch\n")
    changed = [
        line.split()[0] for line, before in zip(in_checkout(other, "-c", KEYS), keys, strict=True) if line != before
    ]
    assert changed == [row.label for row in load_variants(find_workspace().variants_file) if row.shell == "zsh"]


def test_one_source_beside_two_configurations_gives_two_objects(tmp_path: Path) -> None:
    """zig once answered with another build folder's object for the same source with another config.h."""
    source = tmp_path / "src"
    source.mkdir()
    (source / "one.c").write_text('#include "config.h"\nint value = VALUE;\n', encoding="utf-8")
    objects = []
    for value in (111, 222):
        folder = tmp_path / str(value)
        (folder / "obj").mkdir(parents=True)
        (folder / "obj" / "config.h").write_text(f"#define VALUE {value}\n", encoding="utf-8")
        environ = build_environ(folder=folder, cache=cache_root(), epoch=0)
        assert environ["ZIG_LOCAL_CACHE_DIR"].startswith(str(folder))
        compiler = ZigCompiler(zig=find_zig(), target="x86_64-linux-musl")
        command = (*compiler.command(), "-c", "-I.", "../../src/one.c", "-o", "one.o")
        run_step(Step(name="compile", command=command), cwd=folder / "obj", environ=environ, log=folder / "log")
        objects.append((folder / "obj" / "one.o").read_bytes())
    assert struct.pack("<I", 111) in objects[0]
    assert struct.pack("<I", 222) in objects[1]


def configuration(path: Path) -> dict[str, str]:
    """Macros of a config.h: name → value, "" for one that is defined empty; undefined ones are left out."""
    found = re.findall(r"^#define (\w+)(?:[ \t]+(.*?))?[ \t]*$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(found)


@pytest.mark.timeout(900)  # configures once; cached afterwards
def test_config_h_equals_a_native_compilers_but_for_a_named_list(options: ShellOptions) -> None:
    if shutil.which("cc") is None or not host_platform().startswith("linux"):
        if MUST_WORK:
            pytest.fail("a C compiler is needed to compare with, and everything must work")
        pytest.skip("no C compiler on this machine to compare with")
    row = options.variants[0]
    ours, native = (
        configuration(build_shell(recipe, options.context).config_h)
        for recipe in (
            Recipe(variant=row, patch=None),
            Recipe(variant=row, patch=None, compiler=SystemCompiler(), configure_only=True),
        )
    )
    different = {name for name in ours.keys() | native.keys() if ours.get(name) != native.get(name)}
    named = dict(
        line.split(maxsplit=1)
        for line in DIFFERENT_FROM_CC.read_text(encoding="utf-8").splitlines()
        if line[:1] not in "# "
    )
    assert different <= named.keys()


@pytest.mark.timeout(900)  # configures once; cached afterwards
@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_answers_make_a_cross_configure_find_what_a_native_one_finds(
    options: ShellOptions, number: int, shell: Shell
) -> None:
    row = host_rows(shell)[number]
    native = build_shell(Recipe(variant=row, patch=None), options.context)
    cross = build_shell(Recipe(variant=row, patch=None, cross=True, configure_only=True), options.context)
    assert configuration(cross.config_h) == configuration(native.config_h)


def test_the_answers_are_up_to_date(options: ShellOptions) -> None:
    found = answers.recorded(replace(options, variants=(*host_rows("bash"), *host_rows("zsh"))))
    if host_platform().startswith("linux"):
        assert {path.name for path in found} >= {"linux-glibc.cache", "zsh-linux-glibc.cache", "zsh-linux-musl.cache"}
    for path, text in found.items():
        assert path.read_text(encoding="utf-8") == text, f"run python -m shell_tool_release.answers ({path})"


def test_answers_written_by_hand_are_all_that_a_native_configure_finds_by_running() -> None:
    """A question that has no answer would be guessed; so every one of Linux's is answered for macOS too."""
    names = {
        file: set(re.findall(r"^(\w+)=", (ANSWERS / f"{file}.cache").read_text(encoding="utf-8"), re.MULTILINE))
        for file in ("zsh-darwin", "zsh-linux-glibc")
    }
    elsewhere = {
        "ac_cv_func_getpgrp_void": "found by compiling",
        "zsh_cv_func_tgetent_accepts_null": "given with the command: it is of bash's library",
        "zsh_cv_func_tgetent_zero_success": "the same",
        "zsh_cv_sys_superroot": "found by looking for a folder that only one old system has",
    }
    assert names["zsh-linux-glibc"] - names["zsh-darwin"] == elsewhere.keys()
    assert names["zsh-darwin"] <= names["zsh-linux-glibc"]


def test_answers_hold_only_what_was_found_by_running() -> None:
    text = "ac_cv_header_x=${ac_cv_header_x=yes}\nbash_cv_b=${bash_cv_b=no}\nac_cv_func_mmap=${ac_cv_func_mmap=yes}\n"
    kept = [line for line in answers.record(text, "test").splitlines() if not line.startswith("#")]
    assert kept == ["ac_cv_func_mmap=${ac_cv_func_mmap=yes}", "bash_cv_b=${bash_cv_b=no}"]
    with pytest.raises(ConfigurationError, match="holds no answers"):
        answers.record("ac_cv_header_x=yes\n", "test")


def test_rows_of_other_machines_are_cross_built_with_answers() -> None:
    for row in load_variants(find_workspace().variants_file):
        todo = plan(Recipe(variant=row, patch=None), 2)
        words = todo.configure.command
        assert todo.cross is not runs_here(row)
        assert any(word.startswith("--host=") for word in words) is todo.cross
        if row.shell == "bash":
            assert ("CC_FOR_BUILD=cc" in words) is not todo.cross
            assert ("--enable-static-link" in words) is (row.libc == "musl")
        assert todo.answers == (answers_file(row) if todo.cross else None)


def test_a_failing_build_names_its_log_and_shows_the_end(tmp_path: Path, options: ShellOptions) -> None:
    recipe = Recipe(variant=options.variants[-1], patch=None, configure_only=True, extra=(f"CC={tmp_path}/nothing",))
    with pytest.raises(BuildError, match=r"configure: exit status 77; whole log: \S+\.log") as caught:
        build_shell(recipe, options.context)
    log = re.search(r"whole log: (\S+)", str(caught.value))
    assert log is not None
    assert "C compiler cannot create executables" in Path(log[1]).read_text(encoding="utf-8")
    assert "C compiler cannot create executables" in str(caught.value)


def test_make_is_asked_for_by_name(options: ShellOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PrerequisiteError, match="make is not on this machine"):
        build_all([Recipe(variant=options.variants[0], patch=None)], options.context)


def test_shells_are_installed_where_the_table_says(tmp_path: Path, options: ShellOptions) -> None:
    shells = build_shells(options)
    for path, row in zip(install_shells(shells, tmp_path), options.variants, strict=True):
        assert path == tmp_path / row.package_path
        assert path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"target": "linux-riscv64"}, "not linux-riscv64"),
        ({"libc": "musl", "baseline": ""}, "not linked statically"),
        ({"baseline": "2.5"}, r"needs glibc 2\.\d+, the oldest supported is 2\.5"),
        ({"forbidden": ("GNU long options",)}, "holds the path GNU long options"),
    ],
)
def test_a_wrong_binary_is_refused(change: dict[str, object], reason: str) -> None:
    if not host_platform().startswith("linux"):
        pytest.skip("the samples are Linux programs")
    asked: dict[str, object] = {"target": host_platform(), "libc": "glibc", "baseline": "2.17", "forbidden": ()}
    with pytest.raises(BuildError, match=reason):
        check_binary(built().bash_stock, **(asked | change))  # type: ignore[arg-type]


def test_what_is_no_executable_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text", encoding="utf-8")
    with pytest.raises(BuildError, match="is no 64-bit executable"):
        describe(tmp_path / "text")


QUICK = ("run-case", "run-comsub-posix", "run-dollars", "run-func", "run-ifs", "run-nquote", "run-posix2", "run-redir")


def test_bashs_own_tests_say_the_same_of_patched_and_stock_bash(options: ShellOptions) -> None:
    """Some quick scripts; ``python -m shell_tool_release.bash_suite`` runs all, against stock bash built by cc."""
    files = suite_files(bash_source(options.context.sources), options.context.cache)
    for patched, stock in ((built().bash, built().bash_stock), (built().bash_musl, built().bash_stock_musl)):
        one, other = (
            run_suite(SuiteOptions(bash=bash, files=files, scripts=QUICK, jobs=4)) for bash in (patched, stock)
        )
        assert compare(one, other) == ()
        assert {outcome.status for outcome in one.values()} == {"passed"}


def test_the_suite_notices_a_broken_shell(tmp_path: Path, options: ShellOptions) -> None:
    files = suite_files(bash_source(options.context.sources), options.context.cache)
    broken = tmp_path / "bash"
    broken.write_text("#!/bin/sh\necho nonsense\n", encoding="utf-8")
    outcomes = run_suite(SuiteOptions(bash=broken, files=files, scripts=("run-case",)))
    assert outcomes["run-case"].status == "failed"


def test_a_script_that_hangs_is_ended_with_all_it_started(tmp_path: Path, options: ShellOptions) -> None:
    files = suite_files(bash_source(options.context.sources), options.context.cache)
    hanging = tmp_path / "bash"
    mark = f"60.{int.from_bytes(os.urandom(4)):010d}"  # a length of sleep nobody else uses
    hanging.write_text(f"#!/bin/sh\nsleep {mark} &\nexec sleep {mark}\n", encoding="utf-8")
    outcomes = run_suite(SuiteOptions(bash=hanging, files=files, scripts=("run-case",), seconds=0.5))
    assert outcomes["run-case"].status == "timed out"
    assert not [command for command in running_commands() if mark in command]


def running_commands() -> list[str]:
    """Command lines of all processes, from proc(5), or from ps(1) where there is no /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.append((path / "cmdline").read_text(encoding="utf-8", errors="replace"))
    return (
        found
        or subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, check=True, text=True).stdout.splitlines()
    )


def test_named_suite_differences_name_scripts_of_the_suite(options: ShellOptions) -> None:
    files = suite_files(bash_source(options.context.sources), options.context.cache)
    for libc in ("glibc", "musl"):
        assert set(exceptions(libc)) <= set(script_names(files))
        assert all(reason for reason in exceptions(libc).values())


def test_an_unknown_suite_script_is_named(options: ShellOptions) -> None:
    files = suite_files(bash_source(options.context.sources), options.context.cache)
    with pytest.raises(ConfigurationError, match="no script run-nothing"):
        run_suite(SuiteOptions(bash=built().bash_stock, files=files, scripts=("run-nothing",)))
