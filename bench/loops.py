"""What is measured: scripts as data. Each runs in plain bash and through every server, letter for letter the same.

API::

    LOOPS: tuple[Loop, ...]
    RULES                     the rules both servers get
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

RULES = """\
prefix_rule(pattern=["true", "escalated"], decision="allow")
prefix_rule(pattern=["true", "forbidden"], decision="forbidden")
prefix_rule(pattern=["printenv", "--"], decision="allow")
prefix_rule(pattern=["rm", ["-f", "-rf"]], decision="allow")
"""
"""``/bin/true`` is matched by none and runs; ``/bin/true escalated``, the same program, is escalated.

``rm -f``, of which a configure is full, both servers ask a person about unless a rule allows it.
"""

END = "the end"
"""Last line of a script that could break off unnoticed."""

OUTPUT_BYTES = 50_000_000
KEPT = 1 << 20
"""How much of the output both servers keep, in bytes."""


@dataclass(frozen=True, kw_only=True)
class Loop:
    """One thing to measure.

    Attributes:
        name: Word for the command line.
        title: Row of the table.
        script: Its marks are filled in by :meth:`text`.
        count: Units in one call; ``quick``: in a quick run, 0 leaves the loop out there.
        unit: What one of them is, in the table; a loop of one unit is told in seconds.
        calls: How many calls make one measurement, one after the other.
        at_once: How many calls are under way at the same time.
        output: Pattern at the end of the output; "": any.
        writes: Whether it needs a folder to write to.
        compiles: Whether it needs a C compiler, and bash's source.
        rounds: At most this many rounds: some take minutes.
    """

    name: str
    title: str
    script: str
    count: int
    quick: int
    unit: str = "exec"
    calls: int = 1
    at_once: int = 1
    output: str = rf"^{END}\n\Z"
    writes: bool = False
    compiles: bool = False
    rounds: int = 1000

    @property
    def in_seconds(self) -> bool:
        """Whether its time is told whole, in seconds."""
        return self.unit == "whole"

    def text(self, words: Mapping[str, str]) -> str:
        """The script, with ``{count}``, ``{bash}`` (the bash that runs it) and ``{source}`` (bash's) filled in."""
        return re.sub(r"\{(count|bash|source)\}", lambda mark: words[mark[1]], self.script)

    def is_whole(self, output: str) -> bool:
        """Whether this output is one of a script that ran to its end."""
        return re.search(self.output, output[-KEPT:], re.MULTILINE) is not None


def _repeat(command: str) -> str:
    return f"for ((i = 0; i < {{count}}; i++)); do {command}; done; echo {END}"


LOOPS = (
    Loop(name="run", title="Run: `/bin/true`, no rule", script=_repeat("/bin/true"), count=300, quick=120),
    Loop(
        name="escalate",
        title="Escalate: `/bin/true`, allowed",
        script=_repeat("/bin/true escalated"),
        count=200,
        quick=80,
    ),
    Loop(name="call", title="a call of `:`", script=":", count=1, quick=1, unit="call", calls=40, output=""),
    Loop(name="parallel", title="4 loops of Run at once", script=_repeat("/bin/true"), count=100, quick=40, at_once=4),
    Loop(
        name="xargs",
        title="`xargs -P 8`, each starts this bash, which starts `/bin/true`",
        # xargs itself asks nobody before it starts something; a patched bash does, whoever started it.
        script=f"seq {{count}} | xargs -P 8 -n 1 '{{bash}}' -c /bin/true && echo {END}",
        count=160,
        quick=80,
    ),
    Loop(
        name="output",
        title="50 MB of output",
        script=f"yes 'one line of output, as long as those of many a program are' | head -c {OUTPUT_BYTES}",
        count=1,
        quick=1,
        unit="whole",
        output=r"one line of output",
    ),
    Loop(
        name="configure",
        title="bash's own `configure`, run by this bash",
        script=(
            "CONFIG_SHELL='{bash}' '{bash}' '{source}/configure' --without-bash-malloc >log 2>&1 || tail log; "
            f"test -s config.h && test -s Makefile && echo {END}"
        ),
        count=1,
        quick=0,
        unit="whole",
        writes=True,
        compiles=True,
        rounds=3,
    ),
)
