"""What is measured: scripts as data. Each runs in plain bash and through every server, letter for letter the same.

API::

    LOOPS: tuple[Loop, ...]
    RULES                     the rules both servers get
"""

from __future__ import annotations

from dataclasses import dataclass

RULES = """\
prefix_rule(pattern=["true", "escalated"], decision="allow")
prefix_rule(pattern=["true", "forbidden"], decision="forbidden")
prefix_rule(pattern=["printenv", "--"], decision="allow")
"""
"""``/bin/true`` is matched by none and runs; ``/bin/true escalated``, the same program, is escalated."""

END = "the end"
"""Last line of a script that could break off unnoticed."""


@dataclass(frozen=True, kw_only=True)
class Loop:
    """One thing to measure.

    Attributes:
        name: Word for the command line.
        title: Row of the table.
        script: With ``{count}``, ``{bash}`` (the bash that runs it) and ``{source}`` (bash's source) to be filled in.
        count: Units in one call; ``quick``: in a quick run, 0 leaves it out there.
        unit: What one of them is, in the table.
        calls: How many calls make one measurement, one after the other.
        at_once: How many calls are under way at the same time.
        output: What the last line must be; ``None``: any.
        writes: Whether it needs a folder to write to.
        in_seconds: Told whole, not per unit.
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
    ends: str | None = END
    writes: bool = False
    in_seconds: bool = False
    rounds: int = 1000


def _repeat(command: str) -> str:
    return f"for ((i = 0; i < {{count}}; i++)); do {command}; done; echo {END}"


LOOPS = (
    Loop(name="run", title="Run: `/bin/true`, no rule", script=_repeat("/bin/true"), count=1000, quick=300),
    Loop(
        name="escalate",
        title="Escalate: `/bin/true`, allowed",
        script=_repeat("/bin/true escalated"),
        count=500,
        quick=200,
    ),
    Loop(name="call", title="a call of `:`", script=":", count=1, quick=1, unit="call", calls=100, ends=None),
    Loop(name="parallel", title="4 loops of Run at once", script=_repeat("/bin/true"), count=250, quick=100, at_once=4),
)
