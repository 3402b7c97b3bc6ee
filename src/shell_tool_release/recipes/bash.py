"""How bash is built: which commands, with which answers, for one row of the table of variants."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shell_tool_release.recipes.recipe import (
    CFLAGS,
    LDFLAGS,
    TRIPLES,
    Kind,
    Plan,
    Trial,
    answers_file,
    build_compiler,
    runs_here,
)
from shell_tool_release.sources import bash_source
from shell_tool_release.toolchain import Step, ZigCompiler, find_zig

if TYPE_CHECKING:
    from shell_tool_release.recipes.recipe import Recipe
    from shell_tool_release.sources import SourceOptions, SourceTree
    from shell_tool_release.variants import Variant

_FIXED_ANSWERS = (
    # What configure would take from the build machine's folders and installed locales (it tries en_US.UTF-8),
    # although the answer is for the user's machine.
    "bash_cv_mail_dir=/var/mail",
    "bash_cv_dev_fd=standard",
    "bash_cv_dev_stdin=present",
    "bash_cv_wcwidth_broken=no",
)
_FNMATCH_ANSWERS = {"glibc": "yes", "musl": "no", "macos": "no"}  # does fnmatch(3) know [[=a=]] in a UTF-8 locale


def plan(recipe: Recipe, jobs: int) -> Plan:
    """Turn a recipe into commands; ConfigurationError when a cross row has no answers."""
    variant = recipe.variant
    compiler = recipe.compiler or ZigCompiler(zig=find_zig(), target=variant.zig)
    cross = recipe.cross or not runs_here(variant)
    arguments = ["../src/configure", "--without-bash-malloc", "--cache-file=config.cache"]
    arguments += [*_FIXED_ANSWERS, f"bash_cv_fnmatch_equiv_fallback={_FNMATCH_ANSWERS[variant.libc]}"]
    arguments += ["--enable-static-link"] if variant.static else []
    arguments += ["CC=cc", "AR=ar", "RANLIB=ranlib", f"CFLAGS={CFLAGS}"]
    arguments += [] if recipe.symbols else [f"LDFLAGS={LDFLAGS[variant.libc]}"]
    arguments += _system_arguments(variant, cross=cross)
    arguments += recipe.extra
    return Plan(
        configure=Step(name=f"{recipe.label}: configure", command=tuple(arguments)),
        make=() if recipe.configure_only else _make_steps(recipe, jobs),
        cross=cross,
        answers=answers_file(variant) if cross else None,
        compiler=compiler,
        build_compiler=build_compiler() if cross else None,
        program="bash",
        kept=("config.h", "config.cache"),
        trial=Trial(arguments=("--norc", "-c", "echo started"), stdout=b"started\n"),
    )


def _system_arguments(variant: Variant, *, cross: bool) -> list[str]:
    """Names of the machines: bash shows them (MACHTYPE), and configure runs what it compiles if there is only one."""
    triple = TRIPLES[variant.target, variant.libc]
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


def _source(options: SourceOptions, level: int | None) -> SourceTree:
    return bash_source(replace(options, level=level or options.level))


KIND = Kind(plan=plan, source=_source, patch=lambda workspace: workspace.bash_patch)
