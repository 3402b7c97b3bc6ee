"""What the parts of the package may weigh, so that a part that grows is named before the whole gets too large.

API::

    read(path) -> Budget
    Budget.exceeded(size, weights) -> list[str]      one text for each part, or the whole, that is too heavy
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shell_tool_release.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FILE = Path("packaging") / "npm" / "budgets.toml"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """All sizes are bytes after compression.

    Attributes:
        aim: What the package with all platforms should stay under.
        limit: What any package must stay under.
        unnamed: What a part without a row may weigh.
        parts: Part → what it may weigh on one platform.
    """

    aim: int
    limit: int
    unnamed: int
    parts: Mapping[str, int]

    def exceeded(self, size: int, weights: Iterable[tuple[str, str, int]]) -> list[str]:
        """Return what is too heavy: ``size`` is the package's, each weight is a platform, a part and its bytes."""
        found = [f"the package has {size:,} bytes, the limit is {self.limit:,}"] if size > self.limit else []
        for platform, part, packed in weights:
            allowed = self.parts.get(part, self.unnamed)
            if packed > allowed:
                known = "" if part in self.parts else " for a part without a row"
                found.append(f"{platform}/{part} has {packed:,} bytes packed, allowed are {allowed:,}{known}")
        return found


def read(path: Path) -> Budget:
    """Read the table; ConfigurationError says what does not hold."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        parts = {str(name): int(value) for name, value in table.pop("parts").items()}
        return Budget(**{name: int(value) for name, value in table.items()}, parts=parts)
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        message = f"the budgets of the package {path} cannot be read: {error}"
        raise ConfigurationError(message) from error
