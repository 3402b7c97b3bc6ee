"""Reads the one table of shell variants, ``src/codex_shell_tool_mcp/shells/variants.toml``.

API::

    load_variants(path) -> tuple[Variant, ...]
    variants_for(table, targets=..., shells=...) -> tuple[Variant, ...]
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, cast, get_args

from shell_tool_release.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

Target = Literal["linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64"]
Shell = Literal["bash", "zsh"]
Libc = Literal["glibc", "musl", "macos"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One build of one shell; the fields are the table's columns."""

    target: Target
    shell: Shell
    variant: str
    libc: Libc
    baseline: str
    zig: str

    @property
    def label(self) -> str:
        """Unique name, used for log files and messages."""
        return f"{self.target}-{self.shell}-{self.variant}"

    @property
    def package_path(self) -> str:
        """Path of the executable below ``vendor/``."""
        return f"{self.target}/{self.shell}/{self.variant}/{self.shell}"

    @property
    def static(self) -> bool:
        """Whether the executable needs no shared library."""
        return self.libc == "musl"


_CLOSED = {"target": get_args(Target), "shell": get_args(Shell), "libc": get_args(Libc)}


def load_variants(path: Path) -> tuple[Variant, ...]:
    """Read the table; ConfigurationError names the row that does not hold."""
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8")).get("variant", [])
    except (OSError, tomllib.TOMLDecodeError) as error:
        message = f"the table of shell variants {path} cannot be read: {error}"
        raise ConfigurationError(message) from error
    table = tuple(_variant(path, number, row) for number, row in enumerate(rows, start=1))
    labels = [variant.label for variant in table]
    for label in labels:
        if labels.count(label) > 1:
            message = f"{path}: {label} is there twice; variants of one target and shell need different names"
            raise ConfigurationError(message)
    return table


def _variant(path: Path, number: int, row: object) -> Variant:
    names = [field.name for field in fields(Variant)]
    if not isinstance(row, dict) or sorted(row) != sorted(names) or not all(isinstance(v, str) for v in row.values()):
        message = f"{path}: row {number} must have exactly these texts: {', '.join(names)}"
        raise ConfigurationError(message)
    for name, allowed in _CLOSED.items():
        if row[name] not in allowed:
            message = f"{path}: row {number}: {name} = {row[name]!r}; known are {', '.join(allowed)}"
            raise ConfigurationError(message)
    return Variant(
        target=cast("Target", row["target"]),
        shell=cast("Shell", row["shell"]),
        variant=row["variant"],
        libc=cast("Libc", row["libc"]),
        baseline=row["baseline"],
        zig=row["zig"],
    )


def variants_for(
    table: tuple[Variant, ...], *, targets: Collection[str], shells: Collection[str] | None = None
) -> tuple[Variant, ...]:
    """Rows of these targets (and shells), in table order; ConfigurationError when a target has none."""
    known = {variant.target for variant in table}
    for target in targets:
        if target not in known:
            message = f"no shell variant for {target}; the table has {', '.join(sorted(known))}"
            raise ConfigurationError(message)
    return tuple(row for row in table if row.target in targets and (shells is None or row.shell in shells))
