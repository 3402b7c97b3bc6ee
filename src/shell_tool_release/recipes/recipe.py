"""What a build of any shell is made of: the recipe that is asked for, the plan it becomes, and what both need to know.

API::

    Recipe(variant=, patch=)              one build: any compiler, patched or not
    Plan(configure=, make=, ...)          what that build does, as data: hashed into its key and then run
    Kind(plan=, source=, patch=)          what :mod:`shell_tool_release.shells` must know of a shell
    runs_here(variant) -> bool            configured natively, or with recorded answers
    answers_file(variant) -> Path
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from shell_tool_release.errors import ConfigurationError
from shell_tool_release.toolchain import ZigCompiler, find_zig
from shell_tool_release.workspace import host_platform

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shell_tool_release.sources import SourceOptions, SourceTree
    from shell_tool_release.toolchain import Compiler, Step
    from shell_tool_release.variants import Variant
    from shell_tool_release.workspace import Workspace

ANSWERS = Path(__file__).parents[1] / "data" / "answers"
CFLAGS = "-O2 -fno-ident -fno-sanitize=undefined"
LDFLAGS: Mapping[str, str] = {"glibc": "-s", "musl": "-s", "macos": "-s -Wl,-x"}
"""By libc. Stripped by the linker, never afterwards: that would break the signature that macOS asks for. There ``-s``
leaves the local symbols, which ``-x`` does not."""
TRIPLES = {
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
class Trial:
    """How a finished shell shows that it starts: its arguments and what it must print."""

    arguments: tuple[str, ...]
    stdout: bytes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a build does, as data: hashed into its key and then run in the folder ``obj`` beside ``src``.

    Attributes:
        configure: The command whose run-time questions ``answers`` answer (the file becomes ``config.cache``).
        make: What follows, in order; empty when only the configuration is wanted.
        cross: Configured for a machine that this one is not taken for.
        answers: File with answers, for a cross build.
        compiler: What ``cc``, ``ar`` and ``ranlib`` are.
        build_compiler: What ``cc-build`` is, where programs must run on this machine.
        program: The result, below ``obj``.
        kept: What else is kept for those who look at a build, below ``obj``.
        trial: How the result is tried where it can run.
        before: What is done before ``configure``.
    """

    configure: Step
    make: tuple[Step, ...]
    cross: bool
    answers: Path | None
    compiler: Compiler
    build_compiler: Compiler | None
    program: str
    kept: tuple[str, ...]
    trial: Trial
    before: tuple[Step, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        """All commands in the order in which they are run."""
        return (*self.before, self.configure, *self.make)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is different from shell to shell.

    Attributes:
        plan: A recipe's plan; the number is how many processes its make may use.
        source: The locked tree, at a patch level (None: the lock's own).
        patch: The patch that gives this shell its exec hook.
        others: Other trees the plan needs; each is copied beside ``src`` by its name.
    """

    plan: Callable[[Recipe, int], Plan]
    source: Callable[[SourceOptions, int | None], SourceTree]
    patch: Callable[[Workspace], Path]
    others: Callable[[SourceOptions], Mapping[str, SourceTree]] = field(default=lambda _: {})


def build_compiler() -> ZigCompiler:
    """The compiler of programs that run here during a cross build."""
    return ZigCompiler(zig=find_zig(), target=_BUILD_TARGETS[host_platform()])


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


def answers_name(variant: Variant) -> str:
    """What a row's answers hold for: a system and libc; the name says which shell asked, but for bash."""
    system = variant.target.split("-", maxsplit=1)[0]
    name = "darwin" if system == "darwin" else f"{system}-{variant.libc}"
    return name if variant.shell == "bash" else f"{variant.shell}-{name}"


def answers_file(variant: Variant) -> Path:
    """File with answers to configure's run-time questions for a row."""
    path = ANSWERS / f"{answers_name(variant)}.cache"
    if not path.is_file():
        message = f"{variant.label} cannot run here and has no answers for configure: {path} is missing"
        raise ConfigurationError(message)
    return path
