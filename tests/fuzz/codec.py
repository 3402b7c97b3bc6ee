"""Both codecs on the same bytes: what each makes of them, as text, and the ways in which they may differ.

The C codec is loaded into this process (``describe_frames.c`` as a shared library), so that a fuzzer can compare the
two some thousand times a second.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.errors import RemoteProtocolError
from codex_shell_tool_mcp.escalation import wire
from fuzz.inputs import CONTROL_STATES, EXEC_STATES, RIGHT, Input
from native.decoding import shown

if TYPE_CHECKING:
    from pathlib import Path

    from codex_shell_tool_mcp.escalation.wire import Party

_READERS = {"client": 0, "service": 1, "server": 2, "supervisor": 3}

UNFINISHED = "error: the end in the middle of a frame"

BY_HEAD = {
    "error: a frame of unknown type",
    "error: a frame out of turn",
    "error: a payload of the wrong size",
}
"""Refusals for which the C codec needs only the head; the Python one may still wait for the rest of the frame."""


class _Place(ctypes.Structure):
    _fields_ = (("reader", ctypes.c_uint), ("state", ctypes.c_uint))


class CCodec:
    """The C codec."""

    def __init__(self, library: Path) -> None:
        """Load it."""
        self._library = ctypes.CDLL(str(library))
        self._library.describe.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, _Place]
        self._library.description.argtypes = [ctypes.POINTER(ctypes.c_size_t)]
        self._library.description.restype = ctypes.c_void_p

    def lines(self, data: bytes, chunk: int, place: tuple[Party, str]) -> list[str]:
        """Its description of ``data``."""
        party, state = place
        states = EXEC_STATES if party.value in {"client", "service"} else CONTROL_STATES
        offset = 0 if states is EXEC_STATES else len(EXEC_STATES)
        self._library.describe(data, len(data), chunk, _Place(_READERS[party.value], offset + states.index(state)))
        size = ctypes.c_size_t()
        start = self._library.description(ctypes.byref(size))
        return ctypes.string_at(start, size.value).decode("ascii").splitlines()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the Python codec made of some bytes.

    Attributes:
        lines: As the C codec's, an error without its text.
        given: Descriptors that came along.
        taken: Those that came out, with frames or as unclaimed.
    """

    lines: list[str]
    given: list[int]
    taken: list[int]


def read(case: Input, place: tuple[Party, str], counts: list[int]) -> Reading:
    """Feed the Python codec as a channel does.

    Args:
        case: What comes.
        place: Who reads.
        counts: How many descriptors belong to each frame, as far as is known.

    Raises:
        Exception: Anything but the one error that a peer can cause: a bug.
    """
    connection = wire.Connection(party=place[0], state=place[1])
    lines: list[str] = []
    given: list[int] = []
    taken: list[int] = []
    at = frames = 0
    first = True
    try:
        while True:
            event = connection.next_event()
            if event is not wire.NEED_DATA:
                lines.append(shown(event))
                taken += event.descriptors
                frames, first = frames + 1, True
                continue
            piece = case.received[at : at + min(case.chunk, connection.read_size())]
            if not piece:
                break
            number = _number(case, counts, frames) if first else 0
            brought = tuple(range(1000 + len(given), 1000 + len(given) + number))
            given += brought
            connection.receive_data(piece, brought)
            at, first = at + len(piece), False
        lines.append(f"state {connection.state.replace(' ', '-')}" if first else UNFINISHED)
    except RemoteProtocolError:
        lines.append("error")
    taken += connection.unclaimed()
    return Reading(lines=lines, given=given, taken=taken)


def _number(case: Input, counts: list[int], frame: int) -> int:
    if case.descriptors != RIGHT:
        return case.descriptors
    return counts[frame] if frame < len(counts) else 0


_COUNT = re.compile(r"(?:REQUEST|SPAWN|START) descriptors=(\d+)|FDS total=\d+ numbers=([^;]*);")


def counts_of(lines: list[str]) -> list[int]:
    """How many descriptors belong to each of the C codec's frames."""
    found = []
    for line in lines:
        match = _COUNT.match(line)
        if match is None:
            found.append(0)
        elif match[1] is not None:
            found.append(int(match[1]))
        else:
            found.append(len(match[2].split(",")) if match[2] else 0)
    return found


def difference(c: list[str], python: list[str]) -> str | None:
    """What the two codecs do not agree on; ``None`` if nothing."""
    if c == python or (c[:-1] == python[:-1] and _same_end(c[-1], python[-1])):
        return None
    # The C codec leaves it to the supervisor to see that no number comes twice over all parts.
    shorter = len(python) - 1
    if python[-1] == "error" and c[:shorter] == python[:-1] and _repeats(c[: shorter + 1]):
        return None
    return f"C:\n{chr(10).join(c)}\nPython:\n{chr(10).join(python)}"


def _same_end(c: str, python: str) -> bool:
    if c.startswith("error: ") and c != UNFINISHED:
        return python == "error" or (python == UNFINISHED and c in BY_HEAD)
    return False


def _repeats(lines: list[str]) -> bool:
    numbers = [
        number
        for line in lines
        if line.startswith("FDS ")
        for number in line.partition("numbers=")[2].rstrip(";").split(",")
    ]
    return len(numbers) != len(set(numbers))
