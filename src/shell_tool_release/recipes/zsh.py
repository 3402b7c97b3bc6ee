"""How zsh is built: which commands, with which answers, for one row of the table of variants.

All modules that need nothing but libc are linked into the one file (``config.modules``: upstream's own place to choose,
between configure and make). Terminals are reached through bash's termcap library, so that no ncurses is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shell_tool_release.recipes.recipe import (
    CFLAGS,
    LDFLAGS,
    TRIPLES,
    Kind,
    Plan,
    Trial,
    answers_file,
    runs_here,
)
from shell_tool_release.sources import bash_source
from shell_tool_release.toolchain import Step, ZigCompiler, find_zig
from shell_tool_release.zsh_source import zsh_source

if TYPE_CHECKING:
    from shell_tool_release.recipes.recipe import Recipe
    from shell_tool_release.variants import Libc, Variant

_OPTIONS = (
    "--disable-dynamic",
    "--disable-gdbm",
    "--disable-pcre",
    "--disable-cap",
    "--enable-multibyte",
    "--with-tcsetpgrp",  # configure tries it on its own terminal, and has none
    "--with-term-lib=termcap",
    "--prefix=/usr",  # $fpath is where the systems have their functions; Debian's folders are added to it
)
_DEBIAN_FUNCTIONS = ("Chpwd", "Exceptions", "MIME", "Math", "Misc", "Prompts", "VCS_Info", "VCS_Info/Backends", "Zle")
_ETC: dict[Libc, str] = {"glibc": "/etc/zsh", "musl": "/etc/zsh", "macos": "/etc"}
"""Where the start-up files for all users are: as Debian, Alpine, Arch have it, and as Apple has it."""

_OLD_C = "-Wno-error=implicit-int -Wno-error=implicit-function-declaration"
"""configure's questions are in the C of 1989 (``main() {``). A compiler that refuses that answers no to all, and zsh
would work around a broken sigsuspend(2) with a pause(2) that loses signals: some commands were waited for for ever.
"""

_LEFT_OUT = ("cap", "clone", "curses", "db/gdbm", "example", "pcre", "newuser")
"""Modules that are not linked: those with libraries of their own, those that start another shell, and samples."""
_LEFT_OUT_MACOS = ("attr", "zftp")

_TERMCAP = """\
mkdir termcap && cd termcap && cp ../../bash/lib/termcap/*.[ch] .
sed 's/^static char \\*term_entry;/static char *term_entry = "";/' termcap.c > changed && mv changed termcap.c
grep -q '^static char .term_entry = "";' termcap.c
for header in FCNTL STDLIB STRING SYS_FILE UNISTD; do echo "#define HAVE_${header}_H 1"; done > config.h
for name in termcap tparam; do cc "$@" -DHAVE_CONFIG_H -D__private_extern__= -I. -c $name.c; done
ar rc libtermcap.a termcap.o tparam.o && ranlib libtermcap.a
"""
"""The library asks about no terminal through a null pointer, and zsh asks before there is one (``${+termcap}``)."""

_ORDER = """\
sed -e "/~ \\/sig\\//,/END {/s/print var }'\\`/print var }' | LC_ALL=C sort -r\\`/" \
    -e "s/print var }'\\`/print var }' | LC_ALL=C sort\\`/" ../src/configure > ordered
test "$(grep -c "print var }' | LC_ALL=C sort" ordered)" = 4
cat ordered > ../src/configure
"""
"""configure lists the headers that define signals, errors and limits in the order of an awk's hash table: another one
for each awk, and for each folder that the headers are in. Of two names of one signal that decides: ``ABRT``, not
``IOT``, is what users know, so the general header comes before the machine's.
"""

_FIXED_ANSWERS = (
    # What configure would take from the build machine's files, although the answer is for the user's machine.
    "zsh_cv_cs_path=/bin:/usr/bin",
    "zsh_cv_path_utmp=no",
    "zsh_cv_path_utmpx=no",
    "zsh_cv_path_wtmp=no",
    "zsh_cv_path_wtmpx=no",
    # It asks about a terminal that /etc/termcap may have. Of bash's library these hold.
    "zsh_cv_func_tgetent_accepts_null=yes",
    "zsh_cv_func_tgetent_zero_success=no",
)
_DEV_FD: dict[Libc, str] = {"glibc": "/proc/self/fd", "musl": "/proc/self/fd", "macos": "/dev/fd"}

_CONFIGURE = 'exec ../src/configure "$@" CPPFLAGS="-I$PWD/termcap" LDFLAGS="$0 -L$PWD/termcap"'
"""Absolute paths, since the compiler runs in many folders; LDFLAGS come as ``$0``."""


def plan(recipe: Recipe, jobs: int) -> Plan:
    """Turn a recipe into commands; ConfigurationError when a cross row has no answers."""
    variant = recipe.variant
    cross = recipe.cross or not runs_here(variant)
    cflags = next((word.removeprefix("CFLAGS=") for word in recipe.extra if word.startswith("CFLAGS=")), CFLAGS)
    cflags = f"{cflags} {_OLD_C}"
    ldflags = [] if recipe.symbols else [LDFLAGS[variant.libc]]
    ldflags += [word.removeprefix("LDFLAGS=") for word in recipe.extra if word.startswith("LDFLAGS=")]
    ldflags += ["-static"] if variant.static else []
    arguments = [*_OPTIONS, "--cache-file=config.cache", *_folders(variant), *_system(variant, cross=cross)]
    arguments += [*_FIXED_ANSWERS, f"zsh_cv_sys_path_dev_fd={_DEV_FD[variant.libc]}"]
    arguments += ["CC=cc", "AR=ar", "RANLIB=ranlib", f"CFLAGS={cflags}"]
    arguments += [word for word in recipe.extra if not word.startswith(("CFLAGS=", "LDFLAGS="))]
    termcap = Step(name=f"{recipe.label}: termcap", command=("sh", "-ec", _TERMCAP, "termcap", *cflags.split()))
    order = Step(name=f"{recipe.label}: order of headers", command=("sh", "-ec", _ORDER))
    return Plan(
        before=(termcap, order),
        configure=Step(
            name=f"{recipe.label}: configure", command=("sh", "-ec", _CONFIGURE, " ".join(ldflags), *arguments)
        ),
        make=() if recipe.configure_only else _make_steps(recipe, jobs),
        cross=cross,
        answers=answers_file(variant) if cross else None,
        compiler=recipe.compiler or ZigCompiler(zig=find_zig(), target=variant.zig),
        build_compiler=None,
        program="Src/zsh",
        kept=("config.h", "config.cache", "config.modules"),
        trial=Trial(arguments=("-f", "-c", "zmodload zsh/system && print started"), stdout=b"started\n"),
    )


def _folders(variant: Variant) -> list[str]:
    functions = ",".join(f"/usr/share/zsh/functions/{name}" for name in _DEBIAN_FUNCTIONS)
    more = [f"--enable-additional-fpath=/usr/share/zsh/vendor-functions,{functions}"] if variant.libc != "macos" else []
    return [f"--enable-etcdir={_ETC[variant.libc]}", *more]


def _system(variant: Variant, *, cross: bool) -> list[str]:
    """Names of the machines: zsh shows them (MACHTYPE), and configure runs what it compiles if there is only one."""
    triple = TRIPLES[variant.target, variant.libc]
    if not cross:
        return [f"--build={triple}"]
    # A vendor no machine has, so that configure takes the two for different machines even where they are one.
    return [f"--host={triple}", "--build=x86_64-build-linux-gnu"]


def _make_steps(recipe: Recipe, jobs: int) -> tuple[Step, ...]:
    names = "|".join((*_LEFT_OUT, *(_LEFT_OUT_MACOS if recipe.variant.libc == "macos" else ())))
    unlinked = f"/^name=zsh[/]({names.replace('/', '[/]')}) /s/ link=[a-z]+/ link=no/"
    choose = f"sed -E '{unlinked}; t; s/ link=no/ link=static/'"
    return (
        Step(
            name=f"{recipe.label}: modules",
            command=("sh", "-ec", f"{choose} config.modules > chosen\nmv chosen config.modules"),
        ),
        Step(name=f"{recipe.label}: make", command=("make", "-C", "Src", f"-j{jobs}")),
    )


KIND = Kind(
    plan=plan,
    source=lambda options, _: zsh_source(options),
    patch=lambda workspace: workspace.zsh_patch,
    others=lambda options: {"bash": bash_source(options)},
)
