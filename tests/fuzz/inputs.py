"""What the codec targets take, so that one corpus serves both, and the first inputs: the golden frames.

Byte 0: whose end, in which state (:data:`PLACES`). Byte 1: lowest seven bits how many bytes come at a time; the
highest: the rest is frames without their lengths, with :data:`SEPARATOR` between them. Byte 2: how many descriptors
come with each frame, :data:`RIGHT` for as many as belong to it (only the Python codec sees descriptors). The rest: what
is received.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.escalation import wire
from codex_shell_tool_mcp.escalation.wire import Party
from wire.corpus import CORPUS, Golden

if TYPE_CHECKING:
    from pathlib import Path

SEPARATOR = b"\xf7NXT"
FRAMED = 0x80
RIGHT = 0xFF
"""As many descriptors as belong to the frame."""

EXEC_STATES, CONTROL_STATES = tuple(wire.EXEC_SESSION), tuple(wire.CONTROL_CHANNEL)
"""In the order of ``enum session_state``: a test sees to that."""

PLACES: tuple[tuple[Party, str] | None, ...] = (
    *((party, state) for party in (Party.CLIENT, Party.SERVICE) for state in EXEC_STATES),
    *((party, state) for party in (Party.SERVER, Party.SUPERVISOR) for state in CONTROL_STATES),
    None,  # the C decoder without a state table
)


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input, taken apart.

    Attributes:
        place: Who reads in which state; ``None`` for a decoder without state table.
        chunk: Bytes at a time, at least 1.
        descriptors: As byte 2 says.
        received: What comes.
    """

    place: tuple[Party, str] | None
    chunk: int
    descriptors: int
    received: bytes

    @classmethod
    def of(cls, data: bytes) -> Input | None:
        """Take an input apart; ``None`` if it is too short to be one."""
        if len(data) < 4:
            return None
        received = data[3:]
        if data[1] & FRAMED:
            received = b"".join(struct.pack("<I", len(piece)) + piece for piece in received.split(SEPARATOR))
        return cls(
            place=PLACES[data[0] % len(PLACES)],
            chunk=data[1] & ~FRAMED or 1,
            descriptors=data[2],
            received=received,
        )


def seeds() -> dict[str, bytes]:
    """The golden frames as inputs, alone and whole sessions of them, each framed and raw."""
    made = {}
    small = [golden for golden in CORPUS if golden.name != "request-large"]
    for golden in small:
        place = PLACES.index((golden.receiver, golden.state))
        made[golden.name] = bytes((place, FRAMED | 7, RIGHT)) + golden.read()[4:]
        made[f"{golden.name}-raw"] = bytes((place, 64, RIGHT)) + golden.read()
    for name, names in _SESSIONS.items():
        frames = [_named(one) for one in names]
        place = PLACES.index((frames[0].receiver, frames[0].state))
        made[name] = bytes((place, FRAMED | 5, RIGHT)) + SEPARATOR.join(one.read()[4:] for one in frames)
    bodies = [golden.read()[4:] for golden in small]
    made["everything"] = bytes((PLACES.index(None), FRAMED, RIGHT)) + SEPARATOR.join(bodies)
    return made


_SESSIONS = {
    "session-client": ("stopped", "continued", "exit"),
    "session-service": ("fds", "attributes", "signal", "continued-client"),
    "session-server": ("shell-started", "started", "ended", "shell-exit"),
    "session-supervisor": ("spawn", "spawn-bare", "spawn"),
}


def _named(name: str) -> Golden:
    return next(golden for golden in CORPUS if golden.name == name)


def write_seeds(folder: Path) -> None:
    """Write the first inputs of a corpus."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in seeds().items():
        (folder / name).write_bytes(data)


_WORDS = (SEPARATOR, *(bytes((number,)) for number in wire._FRAMES), bytes(4), b"\xff" * 4, bytes(2))

DICTIONARY = "".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in _WORDS)
"""For libFuzzer's ``-dict``."""
