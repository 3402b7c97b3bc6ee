"""Builds bash, one build per row of the table of variants, each in its own folder, all in parallel, cached.

API (callable by nox sessions)::

    build_shells(ShellOptions(...)) -> tuple[BuiltShell, ...]
    build_shell(Recipe, ...)                                  one build: any compiler, patched or not
    install_shells(built, vendor)                             vendor/<target>/bash/<variant>/bash
    python -m shell_tool_release.shells [--target T ...] [--variant V] [--stock] [--install]

A row that can run here is configured natively (no ``--host``): a cross-configured bash guesses, and is another bash (no
named pipes, no real-time signals). Other rows answer configure's run-time questions from ``data/answers/``, recorded by
a native configure; ``python -m shell_tool_release.answers`` records them again.

The key of a build holds the tree, the patch, the compiler, the answers and the very commands that are run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shell_tool_release.binaries import check_binary
from shell_tool_release.cache import Key, cache_root, entry, file_sha256, sweep
from shell_tool_release.errors import BuildError, ConfigurationError, PrerequisiteError, run_main
from shell_tool_release.sources import SourceOptions, SourceTree, bash_source, patched_source
from shell_tool_release.toolchain import (
    Compiler,
    Step,
    ZigCompiler,
    build_environ,
    find_zig,
    run_step,
)
from shell_tool_release.variants import Variant, load_variants, variants_for
from shell_tool_release.workspace import Workspace, cpu_count, find_workspace, host_platform

if TYPE_CHECKING:
    from collections.abc import Sequence

ANSWERS = Path(__file__).parent / "data" / "answers"
_FORMAT = 1  # part of the key: raise when what a build leaves behind changes
_KEPT = ("bash", "config.h", "config.cache")
_TRIPLES = {
    ("linux-x64", "glibc"): "x86_64-pc-linux-gnu",
    ("linux-x64", "musl"): "x86_64-pc-linux-musl",
    ("linux-arm64", "glibc"): "aarch64-unknown-linux-gnu",
    ("linux-arm64", "musl"): "aarch64-unknown-linux-musl",
    ("darwin-x64", "macos"): "x86_64-apple-darwin20",
    ("darwin-arm64", "macos"): "aarch64-apple-darwin20",
}
_BUILD_TARGETS = {  # programs that run during a cross build: static, so that they run on any such machine
    "linux-x64": "x86_64-linux-musl",
    "linux-arm64": "aarch64-linux-musl",
    "darwin-x64": "x86_64-macos.11.0",
    "darwin-arm64": "aarch64-macos.11.0",
}
_FIXED_ANSWERS = (
    # What configure would take from the build machine's folders and installed locales (it tries en_US.UTF-8),
    # although the answer is for the user's machine.
    "bash_cv_mail_dir=/var/mail",
    "bash_cv_dev_fd=standard",
    "bash_cv_dev_stdin=present",
    "bash_cv_wcwidth_broken=no",
)
_FNMATCH_ANSWERS = {"glibc": "yes", "musl": "no", "macos": "no"}  # does fnmatch(3) know [[=a=]] in a UTF-8 locale
_CFLAGS = "-O2 -fno-ident -fno-sanitize=undefined"
_LDFLAGS = "-s"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One build. ``patch`` None: as upstream has it. ``compiler`` None: zig for the row's target.

    ``cross`` True asks for answers from the file even where the row could run. ``extra`` are more arguments for
    configure (``CFLAGS=...`` given there wins); with ``symbols`` the result is not stripped.
    """

    variant: Variant
    patch: Path | None
    level: int | None = None
    compiler: Compiler | None = None
    cross: bool = False
    configure_only: bool = False
    symbols: bool = False
    extra: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name for log files and progress."""
        marks = ("" if self.patch else "-stock", "-cross" if self.cross else "", "-configure" * self.configure_only)
        return self.variant.label + "".join(marks)


@dataclass(frozen=True, kw_only=True)
class BuiltShell:
    """A finished build; ``path`` is in the cache and must not be written."""

    recipe: Recipe
    path: Path
    config_h: Path
    config_cache: Path
    reused: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a build does, as data: hashed into its key and then run."""

    configure: Step
    make: tuple[Step, ...]
    cross: bool
    answers: Path | None
    compiler: Compiler
    build_compiler: Compiler | None


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """Where builds happen and with how many processes each."""

    cache: Path
    sources: SourceOptions
    jobs: int = 2
    quiet: bool = False

    def say(self, text: str) -> None:
        """Progress on stderr."""
        if not self.quiet:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


@dataclass(frozen=True, kw_only=True)
class ShellOptions:
    """All builds of one run; ``patch`` None builds bash as it comes."""

    context: BuildContext
    variants: tuple[Variant, ...]
    patch: Path | None

    @classmethod
    def default(cls, workspace: Workspace | None = None) -> ShellOptions:
        """The host's rows, patched, in the user's cache folder."""
        place = workspace or find_workspace()
        cache = cache_root()
        sources = replace(SourceOptions.default(), cache=cache)
        table = load_variants(place.variants_file)
        return cls(
            context=BuildContext(cache=cache, sources=sources, jobs=cpu_count()),
            variants=variants_for(table, targets=(host_platform(),), shells=("bash",)),
            patch=place.bash_patch,
        )


def runs_here(variant: Variant) -> bool:
    """Whether this machine can execute the row's programs."""
    if variant.target != host_platform():
        return False
    return variant.libc != "glibc" or _has_glibc()


def _has_glibc() -> bool:
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (ValueError, OSError):  # another libc does not know the name
        return False


def plan(recipe: Recipe, jobs: int) -> Plan:
    """Turn a recipe into commands; ConfigurationError when a cross row has no answers."""
    variant = recipe.variant
    compiler = recipe.compiler or ZigCompiler(zig=find_zig(), target=variant.zig)
    cross = recipe.cross or not runs_here(variant)
    arguments = ["../src/configure", "--without-bash-malloc", "--cache-file=config.cache"]
    arguments += [*_FIXED_ANSWERS, f"bash_cv_fnmatch_equiv_fallback={_FNMATCH_ANSWERS[variant.libc]}"]
    arguments += ["--enable-static-link"] if variant.static else []
    arguments += ["CC=cc", "AR=ar", "RANLIB=ranlib", f"CFLAGS={_CFLAGS}"]
    arguments += [] if recipe.symbols else [f"LDFLAGS={_LDFLAGS}"]
    arguments += _system_arguments(variant, cross=cross)
    arguments += recipe.extra
    build_compiler = ZigCompiler(zig=find_zig(), target=_BUILD_TARGETS[host_platform()]) if cross else None
    return Plan(
        configure=Step(name=f"{recipe.label}: configure", command=tuple(arguments)),
        make=() if recipe.configure_only else _make_steps(recipe, jobs),
        cross=cross,
        answers=answers_file(variant) if cross else None,
        compiler=compiler,
        build_compiler=build_compiler,
    )


def _system_arguments(variant: Variant, *, cross: bool) -> list[str]:
    """Names of the machines: bash shows them (MACHTYPE), and configure runs what it compiles if there is only one."""
    triple = _TRIPLES[variant.target, variant.libc]
    if not cross:
        return [f"--build={triple}", "CC_FOR_BUILD=cc"]
    # A vendor no machine has, so that configure takes the two for different machines even where they are one.
    return [f"--host={triple}", "--build=x86_64-build-linux-gnu", "CC_FOR_BUILD=cc-build"]


def _make_steps(recipe: Recipe, jobs: int) -> tuple[Step, ...]:
    make = ("make", f"-j{jobs}", "SIZE=:")  # size(1) is for the reader of a log only
    steps = [Step(name=f"{recipe.label}: make", command=(*make, "bash"))]
    if recipe.variant.libc == "macos":
        # Apple's linker and zig's refuse two definitions of a symbol, and libreadline.a brings bash's helpers again.
        libraries = ("lib/readline/libreadline.a", "lib/readline/libhistory.a")
        steps.insert(0, Step(name=f"{recipe.label}: libraries", command=(*make, *libraries)))
        doubles = ("xmalloc.o", "xfree.o", "tilde.o", "savestring.o", "shell.o")
        for library in libraries:
            drop = Step(name=f"{recipe.label}: doubles", command=("ar", "d", library, *doubles))
            steps.insert(-1, drop)
    return tuple(steps)


def answers_file(variant: Variant) -> Path:
    """File with answers to configure's run-time questions for a row."""
    system = variant.target.split("-", maxsplit=1)[0]
    name = "darwin" if system == "darwin" else f"{system}-{variant.libc}"
    path = ANSWERS / f"{name}.cache"
    if not path.is_file():
        message = f"{variant.label} cannot run here and has no answers for configure: {path} is missing"
        raise ConfigurationError(message)
    return path


def build_shell(recipe: Recipe, context: BuildContext) -> BuiltShell:
    """Build one shell, or return the cached build; BuildError names the log and shows its end."""
    tree = bash_source(replace(context.sources, level=recipe.level or context.sources.level))
    todo = plan(recipe, context.jobs)
    key = _key(recipe, todo, tree)
    started = time.monotonic()

    def build(folder: Path) -> None:
        log = context.cache / "logs" / f"{recipe.label}-{key.name[:8]}.log"
        _build(folder, recipe, todo, tree, context, log)

    found = entry(context.cache, key, build)
    how = "from the cache" if found.reused else f"built in {time.monotonic() - started:.0f} s"
    context.say(f"{recipe.label}: {how}")
    return BuiltShell(
        recipe=recipe,
        path=found.path / "bash",
        config_h=found.path / "config.h",
        config_cache=found.path / "config.cache",
        reused=found.reused,
    )


def _key(recipe: Recipe, todo: Plan, tree: SourceTree) -> Key:
    jobs = [word for step in todo.make for word in step.command if not word.startswith("-j")]
    return Key.of(
        "shell",
        format=_FORMAT,
        label=recipe.label,
        tree=tree.digest,
        epoch=tree.epoch,
        patch=file_sha256(recipe.patch) if recipe.patch else None,
        compiler=todo.compiler.identity,
        build_compiler=todo.build_compiler.identity if todo.build_compiler else None,
        answers=file_sha256(todo.answers) if todo.answers else None,
        commands=[*todo.configure.command, *jobs],
    )


def _build(folder: Path, recipe: Recipe, todo: Plan, tree: SourceTree, context: BuildContext, log: Path) -> None:
    work = Path(tempfile.mkdtemp(prefix="build-", dir=context.cache))
    log.parent.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    try:
        patched_source(tree, recipe.patch, work / "src")
        objects, tools = work / "obj", work / "tools"
        objects.mkdir()
        tools.mkdir()
        todo.compiler.install(tools)
        if todo.build_compiler is not None:
            todo.build_compiler.install(tools, suffix="-build")
        if todo.answers is not None:
            shutil.copyfile(todo.answers, objects / "config.cache")
        environ = build_environ(folder=work, cache=context.cache, epoch=tree.epoch, tools=tools)
        for step in (todo.configure, *todo.make):
            context.say(f"{step.name} …")
            run_step(step, cwd=objects, environ=environ, log=log)
        for name in _KEPT:
            if (objects / name).is_file():
                shutil.copy2(objects / name, folder / name)
        if not recipe.configure_only:
            _check(folder / "bash", recipe, todo, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check(bash: Path, recipe: Recipe, todo: Plan, work: Path) -> None:
    """The build is what its row says, and starts where it can run."""
    if recipe.compiler is None and not recipe.symbols:
        variant = recipe.variant
        check_binary(
            bash,
            target=variant.target,
            libc=variant.libc,
            baseline=variant.baseline,
            forbidden=(str(work), str(Path.home())),
        )
    if not todo.cross:
        done = subprocess.run([bash, "--norc", "-c", "echo started"], capture_output=True, check=False)
        if done.stdout != b"started\n":
            message = f"{recipe.label}: the built shell does not start: {done.stderr.decode(errors='replace')}"
            raise BuildError(message)


def build_shells(options: ShellOptions) -> tuple[BuiltShell, ...]:
    """Build all rows at once; the first failure is raised after the others have ended."""
    recipes = [Recipe(variant=variant, patch=options.patch) for variant in options.variants]
    return build_all(recipes, options.context)


def build_all(recipes: Sequence[Recipe], context: BuildContext) -> tuple[BuiltShell, ...]:
    """Build several recipes in parallel, sharing the context's processes."""
    if shutil.which("make") is None:
        message = "make is not on this machine; install it (Debian: apt install make)"
        raise PrerequisiteError(message)
    if not recipes:
        return ()
    sweep(context.cache)
    for level in {recipe.level for recipe in recipes}:
        bash_source(replace(context.sources, level=level or context.sources.level))  # once, before the crowd
    workers = min(len(recipes), context.jobs)
    share = replace(context, jobs=max(1, -(-context.jobs // workers)))
    with ThreadPoolExecutor(max_workers=workers) as pool:
        return tuple(pool.map(lambda recipe: build_shell(recipe, share), recipes))


def install_shells(built: Sequence[BuiltShell], vendor: Path) -> tuple[Path, ...]:
    """Copy the shells to their places in the package below ``vendor``; returns where they are."""
    installed = []
    for shell in built:
        target = vendor / shell.recipe.variant.package_path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(shell.path, target)
        target.chmod(0o755)
        installed.append(target)
    return tuple(installed)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m shell_tool_release.shells", description=__doc__.splitlines()[0])
    parser.add_argument("--target", action="append", help="platform in node's names (default: this machine's)")
    parser.add_argument("--variant", action="append", help="only these variants of the targets")
    parser.add_argument("--stock", action="store_true", help="without our patch")
    parser.add_argument("--jobs", type=int, default=cpu_count(), help="processes in all (default: one a core)")
    parser.add_argument("--install", action="store_true", help="copy the results to vendor/")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Build the host's rows, or those asked for, and print where they are."""
    arguments = _arguments(argv)
    workspace = find_workspace()
    options = ShellOptions.default(workspace)
    table = load_variants(workspace.variants_file)
    chosen = variants_for(table, targets=arguments.target or (host_platform(),), shells=("bash",))
    built = build_shells(
        replace(
            options,
            context=replace(options.context, jobs=arguments.jobs),
            variants=tuple(row for row in chosen if not arguments.variant or row.variant in arguments.variant),
            patch=None if arguments.stock else options.patch,
        )
    )
    paths = install_shells(built, workspace.vendor) if arguments.install else [shell.path for shell in built]
    sys.stdout.writelines(f"{path}\n" for path in paths)


if __name__ == "__main__":
    sys.exit(run_main(main))
