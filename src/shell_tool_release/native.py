"""Builds the static native programs (execve wrapper, shell supervisor) with ``zig cc``, cached like the shells.

API (callable by nox sessions)::

    build_native(NativeOptions(...)) -> tuple[BuiltNative, ...]
    install_native(built, vendor)                vendor/<target>/bin/<name>
    read_recipes(path, target) -> tuple[NativeRecipe, ...]
    python -m shell_tool_release.native [--target T ...] [--keep-going] [--install]

What belongs to which program, and with what flags, is said by ``src/native/sources.toml``. On Linux the programs are
linked with musl, statically; on macOS they run on 11.0 and later.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shell_tool_release import options as choice
from shell_tool_release.binaries import check_binary
from shell_tool_release.cache import Key, cache_root, entry, file_sha256
from shell_tool_release.errors import BuildError, ConfigurationError, run_main
from shell_tool_release.jobs import Job, Outcome, made_table, results, run_jobs
from shell_tool_release.lock import load_lock
from shell_tool_release.toolchain import Step, ZigCompiler, build_environ, find_zig, run_step
from shell_tool_release.workspace import Workspace, cpu_count, find_workspace, host_platform

if TYPE_CHECKING:
    from collections.abc import Sequence

_FORMAT = 1  # part of the key: raise when what a build leaves behind changes
_ZIG_TARGETS = {
    "linux-x64": "x86_64-linux-musl",
    "linux-arm64": "aarch64-linux-musl",
    "darwin-x64": "x86_64-macos.11.0",
    "darwin-arm64": "aarch64-macos.11.0",
}


@dataclass(frozen=True, kw_only=True)
class NativeRecipe:
    """One program on one system: sources (below the native folder) and flags for the compiler and the linker."""

    name: str
    sources: tuple[str, ...]
    compile_flags: tuple[str, ...]
    link_flags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class BuiltNative:
    """A finished program; ``path`` is in the cache and must not be written."""

    name: str
    target: str
    path: Path
    reused: bool


@dataclass(frozen=True, kw_only=True)
class NativeOptions:
    """All programs for some platforms (node's names)."""

    cache: Path
    workspace: Workspace
    targets: tuple[str, ...]
    quiet: bool = False
    keep_going: bool = False

    def say(self, text: str) -> None:
        """Progress on stderr."""
        if not self.quiet:
            sys.stderr.write(text + "\n")

    @classmethod
    def default(cls, workspace: Workspace | None = None) -> NativeOptions:
        """This machine's platform, in the user's cache folder."""
        return cls(cache=cache_root(), workspace=workspace or find_workspace(), targets=(host_platform(),))


def read_recipes(path: Path, target: str) -> tuple[NativeRecipe, ...]:
    """Read ``sources.toml`` for a platform; ConfigurationError names what does not hold."""
    system = "macos" if target.startswith("darwin") else "linux"
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        flags = document["flags"]
        return tuple(_recipe(name, table, flags, system) for name, table in document["binaries"].items())
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        message = f"{path} does not hold: {type(error).__name__}: {error}"
        raise ConfigurationError(message) from error


def _recipe(name: str, table: dict[str, Any], flags: dict[str, Any], system: str) -> NativeRecipe:
    return NativeRecipe(
        name=name,
        sources=(*table["sources"], *table[system]),
        compile_flags=(*flags["compile"], *flags[system]["compile"]),
        link_flags=(*flags["link"], *flags[system]["link"]),
    )


def build_native(options: NativeOptions) -> tuple[BuiltNative, ...]:
    """Build every program for every platform asked for; BuildError names the log and shows its end."""
    return results(try_native(options))


def try_native(options: NativeOptions) -> tuple[Outcome[BuiltNative], ...]:
    """Build every program for every platform asked for, several at a time, and return what came of each."""
    jobs: list[Job[BuiltNative]] = []
    for target in options.targets:
        if target not in _ZIG_TARGETS:
            message = f"no native programs for {target}; known are {', '.join(_ZIG_TARGETS)}"
            raise ConfigurationError(message)
        recipes = read_recipes(options.workspace.native_sources / "sources.toml", target)
        jobs += [
            Job(name=f"{target} {recipe.name}", run=partial(_build_one, recipe, target, options)) for recipe in recipes
        ]
    return run_jobs(jobs, workers=cpu_count(), keep_going=options.keep_going, say=options.say)


def _build_one(recipe: NativeRecipe, target: str, options: NativeOptions) -> BuiltNative:
    compiler = ZigCompiler(zig=find_zig(), target=_ZIG_TARGETS[target])
    folder = options.workspace.native_sources
    version = options.workspace.version
    command = (
        *recipe.compile_flags,
        f'-DVERSION="{version}"',
        "-ffile-prefix-map=src=src/native",
        "-o",
        recipe.name,
        *(f"src/{source}" for source in recipe.sources),
        *recipe.link_flags,
    )
    headers = sorted(path.name for path in folder.glob("*.h"))
    key = Key.of(
        "native",
        format=_FORMAT,
        target=target,
        compiler=compiler.identity,
        command=command,
        files={name: file_sha256(folder / name) for name in (*recipe.sources, *headers)},
    )

    def build(place: Path) -> None:
        options.say(f"{target} {recipe.name}: compile …")
        _compile(place, recipe, target, (*compiler.command(), *command), options)

    found = entry(options.cache, key, build)
    return BuiltNative(name=recipe.name, target=target, path=found.path / recipe.name, reused=found.reused)


def _compile(place: Path, recipe: NativeRecipe, target: str, command: tuple[str, ...], options: NativeOptions) -> None:
    log = options.cache / "logs" / f"{target}-{recipe.name}.log"
    log.parent.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=options.cache) as scratch:
        work = Path(scratch)
        shutil.copytree(options.workspace.native_sources, work / "src")
        environ = build_environ(folder=work, cache=options.cache, epoch=load_lock().epoch)
        run_step(Step(name=f"{target} {recipe.name}", command=command), cwd=work, environ=environ, log=log)
        shutil.copy2(work / recipe.name, place / recipe.name)
        _check(place / recipe.name, target, (str(work), str(Path.home())))


def _check(program: Path, target: str, forbidden: tuple[str, ...]) -> None:
    libc, baseline = ("musl", "") if target.startswith("linux") else ("macos", "11.0")
    check_binary(program, target=target, libc=libc, baseline=baseline, forbidden=forbidden)
    if target == host_platform():
        done = subprocess.run([program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode < 0:
            message = f"{program.name} was built but dies of signal {-done.returncode} at its start"
            raise BuildError(message)


def install_native(built: Sequence[BuiltNative], vendor: Path) -> tuple[Path, ...]:
    """Copy the programs to their places in the package below ``vendor``; returns where they are."""
    installed = []
    for native in built:
        target = vendor / native.target / "bin" / native.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(native.path, target)
        target.chmod(0o755)
        installed.append(target)
    return tuple(installed)


def main(argv: Sequence[str] | None = None) -> None:
    """Build the host's programs, or those asked for, and say what came of each."""
    parser = choice.parser("native", __doc__)
    parser.add_argument("--install", action="store_true", help="copy the results to vendor/")
    arguments = parser.parse_args(argv)
    options = replace(NativeOptions.default(), targets=choice.targets(arguments), keep_going=arguments.keep_going)
    outcomes = try_native(options)
    sys.stdout.write(f"{made_table(outcomes)}\n")
    built = results(outcomes)
    if arguments.install:
        install_native(built, options.workspace.vendor)


if __name__ == "__main__":
    sys.exit(run_main(main))
