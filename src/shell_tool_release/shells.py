"""Builds the shells, one build per row of the table of variants, each in its own folder, several at a time, cached.

API (callable by nox sessions)::

    build_shells(ShellOptions(...)) -> tuple[BuiltShell, ...]
    build_shell(Recipe, ...)                                  one build: any compiler, patched or not
    install_shells(built, vendor)                             vendor/<target>/<shell>/<variant>/<shell>
    python -m shell_tool_release.shells [--target T ...] [--shell S] [--variant V] [--stock] [--keep-going] [--install]

A row that can run here is configured natively (no ``--host``): a cross-configured bash guesses, and is another bash (no
named pipes, no real-time signals). Other rows answer configure's run-time questions from ``data/answers/``, recorded by
a native configure; ``python -m shell_tool_release.answers`` records them again. How each shell is built is said in
:mod:`shell_tool_release.recipes`.

The key of a build holds the tree, the patch, the compiler, the answers and the very commands that are run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from shell_tool_release import options as choice
from shell_tool_release.binaries import check_binary
from shell_tool_release.cache import Key, cache_root, entry, file_sha256, sweep
from shell_tool_release.errors import BuildError, PrerequisiteError, run_main
from shell_tool_release.jobs import Job, Outcome, made_table, results, run_jobs
from shell_tool_release.recipes import bash, zsh
from shell_tool_release.recipes.recipe import Recipe
from shell_tool_release.sources import SourceOptions, patched_source
from shell_tool_release.toolchain import build_environ, run_step
from shell_tool_release.variants import load_variants, variants_for
from shell_tool_release.workspace import Workspace, cpu_count, find_workspace, host_platform

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from shell_tool_release.recipes.recipe import Kind, Plan
    from shell_tool_release.sources import SourceTree
    from shell_tool_release.variants import Shell, Variant

_FORMAT = 1  # part of the key: raise when what a build leaves behind changes
KINDS: Mapping[Shell, Kind] = {"bash": bash.KIND, "zsh": zsh.KIND}


@dataclass(frozen=True, kw_only=True)
class BuiltShell:
    """A finished build; ``path`` is in the cache and must not be written."""

    recipe: Recipe
    path: Path
    config_h: Path
    config_cache: Path
    reused: bool


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """Where builds happen, with how many processes in all, and whether the rest goes on after one failed."""

    cache: Path
    sources: SourceOptions
    jobs: int = 2
    quiet: bool = False
    keep_going: bool = False

    def say(self, text: str) -> None:
        """Progress on stderr."""
        if not self.quiet:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


@dataclass(frozen=True, kw_only=True)
class ShellOptions:
    """All builds of one run; without ``patched`` the shells are built as they come."""

    context: BuildContext
    workspace: Workspace
    variants: tuple[Variant, ...]
    patched: bool = True

    @classmethod
    def default(cls, workspace: Workspace | None = None) -> ShellOptions:
        """The host's rows, patched, in the user's cache folder."""
        place = workspace or find_workspace()
        cache = cache_root()
        rows = variants_for(load_variants(place.variants_file), targets=(host_platform(),), shells=KINDS)
        sources = replace(SourceOptions.default(), cache=cache)
        return cls(context=BuildContext(cache=cache, sources=sources, jobs=cpu_count()), workspace=place, variants=rows)

    def recipe(self, variant: Variant) -> Recipe:
        """What is built for a row."""
        patch = KINDS[variant.shell].patch(self.workspace)
        return Recipe(variant=variant, patch=patch if self.patched else None)

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """What is built for all rows, in their order."""
        return tuple(map(self.recipe, self.variants))


def plan(recipe: Recipe, jobs: int) -> Plan:
    """Turn a recipe into commands; ConfigurationError when a cross row has no answers."""
    return KINDS[recipe.variant.shell].plan(recipe, jobs)


def source(recipe: Recipe, sources: SourceOptions) -> SourceTree:
    """The tree a recipe is built from."""
    return KINDS[recipe.variant.shell].source(sources, recipe.level)


def build_shell(recipe: Recipe, context: BuildContext) -> BuiltShell:
    """Build one shell, or return the cached build; BuildError names the log and shows its end."""
    tree, todo = source(recipe, context.sources), plan(recipe, context.jobs)
    others = KINDS[recipe.variant.shell].others(context.sources)
    key = _key(recipe, todo, tree, others)

    def build(folder: Path) -> None:
        log = context.cache / "logs" / f"{recipe.label}-{key.name[:8]}.log"
        _build(folder, recipe, todo, {"src": tree, **others}, context, log)

    found = entry(context.cache, key, build)
    return BuiltShell(
        recipe=recipe,
        path=found.path / Path(todo.program).name,
        config_h=found.path / "config.h",
        config_cache=found.path / "config.cache",
        reused=found.reused,
    )


def _key(recipe: Recipe, todo: Plan, tree: SourceTree, others: Mapping[str, SourceTree]) -> Key:
    commands = [word for step in todo.steps for word in step.command if not word.startswith("-j")]
    more = {"others": {name: other.digest for name, other in others.items()}} if others else {}
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
        commands=commands,
        **more,
    )


def _build(
    folder: Path, recipe: Recipe, todo: Plan, trees: Mapping[str, SourceTree], context: BuildContext, log: Path
) -> None:
    work = Path(tempfile.mkdtemp(prefix="build-", dir=context.cache))
    log.parent.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    try:
        for name, tree in trees.items():
            patched_source(tree, recipe.patch if name == "src" else None, work / name)
        tools = _tools(work, todo)
        epoch = trees["src"].epoch
        environ = build_environ(folder=work, cache=context.cache, epoch=epoch, tools=tools)
        for step in todo.steps:
            context.say(f"{step.name} …")
            run_step(step, cwd=work / "obj", environ=environ, log=log)
        for name in todo.kept if recipe.configure_only else (todo.program, *todo.kept):
            if (work / "obj" / name).is_file():
                shutil.copy2(work / "obj" / name, folder / Path(name).name)
        if not recipe.configure_only:
            _check(folder / Path(todo.program).name, recipe, todo, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _tools(work: Path, todo: Plan) -> Path:
    """Make the folders ``obj`` and ``tools``, with the answers and the compilers in them."""
    objects, tools = work / "obj", work / "tools"
    objects.mkdir()
    tools.mkdir()
    todo.compiler.install(tools)
    if todo.build_compiler is not None:
        todo.build_compiler.install(tools, suffix="-build")
    if todo.answers is not None:
        shutil.copyfile(todo.answers, objects / "config.cache")
    return tools


def _check(program: Path, recipe: Recipe, todo: Plan, work: Path) -> None:
    """The build is what its row says, and starts where it can run."""
    if recipe.compiler is None and not recipe.symbols:
        variant = recipe.variant
        check_binary(
            program,
            target=variant.target,
            libc=variant.libc,
            baseline=variant.baseline,
            forbidden=(str(work), str(Path.home())),
        )
    if not todo.cross:
        done = subprocess.run([program, *todo.trial.arguments], capture_output=True, check=False)
        if done.stdout != todo.trial.stdout:
            message = f"{recipe.label}: the built shell does not start: {done.stderr.decode(errors='replace')}"
            raise BuildError(message)


def build_shells(options: ShellOptions) -> tuple[BuiltShell, ...]:
    """Build all rows; BuildError tells of each that failed."""
    return build_all(options.recipes, options.context)


def build_all(recipes: Sequence[Recipe], context: BuildContext) -> tuple[BuiltShell, ...]:
    """Build several recipes side by side, sharing the context's processes; BuildError tells of each that failed."""
    return results(try_all(recipes, context))


def try_all(recipes: Sequence[Recipe], context: BuildContext) -> tuple[Outcome[BuiltShell], ...]:
    """Build several recipes side by side and return what came of each; PrerequisiteError when nothing can be built."""
    if shutil.which("make") is None:
        message = "make is not on this machine; install it (Debian: apt install make)"
        raise PrerequisiteError(message)
    if not recipes:
        return ()
    sweep(context.cache)
    for one in {(recipe.variant.shell, recipe.level): recipe for recipe in recipes}.values():
        source(one, context.sources)  # once, before the crowd
    workers = min(len(recipes), context.jobs)
    share = replace(context, jobs=max(1, -(-context.jobs // workers)))
    jobs = [Job(name=recipe.label, run=partial(build_shell, recipe, share)) for recipe in recipes]
    return run_jobs(jobs, workers=workers, keep_going=context.keep_going, say=context.say)


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
    parser = choice.parser("shells", __doc__)
    parser.add_argument("--shell", action="append", choices=sorted(KINDS), help="only these shells")
    parser.add_argument("--variant", action="append", help="only these variants of the targets")
    parser.add_argument("--stock", action="store_true", help="without our patch")
    parser.add_argument("--jobs", type=int, default=cpu_count(), help="processes in all (default: one a core)")
    parser.add_argument("--install", action="store_true", help="copy the results to vendor/")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Build the host's rows, or those asked for, and say what came of each."""
    arguments = _arguments(argv)
    workspace = find_workspace()
    default = ShellOptions.default(workspace)
    chosen = variants_for(
        load_variants(workspace.variants_file),
        targets=choice.targets(arguments),
        shells=arguments.shell or KINDS,
    )
    options = replace(
        default,
        context=replace(default.context, jobs=arguments.jobs, keep_going=arguments.keep_going),
        variants=tuple(row for row in chosen if not arguments.variant or row.variant in arguments.variant),
        patched=not arguments.stock,
    )
    outcomes = try_all(options.recipes, options.context)
    sys.stdout.write(f"{made_table(outcomes)}\n")
    built = results(outcomes)
    if arguments.install:
        install_shells(built, workspace.vendor)


if __name__ == "__main__":
    sys.exit(run_main(main))
