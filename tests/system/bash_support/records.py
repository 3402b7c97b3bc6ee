"""What ``recorder.c`` wrote, as values."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

WRAPPER_VARIABLES = (b"EXEC_WRAPPER=", b"CODEX_ESCALATE_SOCKET=", b"BASH_EXEC_WRAPPER=")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One program's view of its start. ``rest``: cwd, umask, blocked and ignored signals, nice value, limits."""

    argv: tuple[bytes, ...]
    env: tuple[bytes, ...]
    descriptors: tuple[bytes, ...]
    rest: tuple[bytes, ...]

    def without_interception(self, inode: int) -> Record:
        """Minus the wrapper's variables and the descriptor of the socket ``inode``; inodes are not compared."""
        descriptors = (line.rsplit(b" ", 1) for line in self.descriptors)
        return replace(
            self,
            env=tuple(entry for entry in self.env if not entry.startswith(WRAPPER_VARIABLES)),
            descriptors=tuple(line for line, number in descriptors if int(number) != inode),
        )

    def value(self, name: bytes) -> bytes | None:
        """Value of the environment variable ``name``."""
        found = [entry[len(name) + 1 :] for entry in self.env if entry.startswith(name + b"=")]
        assert len(found) < 2, f"{name!r} is in the environment twice"
        return found[0] if found else None


class _Fields:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self) -> int:
        (value,) = struct.unpack_from("=I", self._data, self._at)
        self._at += 4
        assert isinstance(value, int)
        return value

    def field(self) -> bytes:
        length = self.number()
        self._at += length
        return self._data[self._at - length : self._at]

    def fields(self, count: int) -> tuple[bytes, ...]:
        return tuple(self.field() for _ in range(count))

    @property
    def more(self) -> bool:
        return self._at < len(self._data)


def parse_records(data: bytes) -> list[Record]:
    """All records of one run, in the order in which the programs started."""
    stream = _Fields(data)
    return [_record(_Fields(body)) for body in iter(lambda: stream.field() if stream.more else None, None)]


def _record(fields: _Fields) -> Record:
    argc, envc, open_count = fields.number(), fields.number(), fields.number()
    argv, env, descriptors = fields.fields(argc), fields.fields(envc), fields.fields(open_count)
    rest: list[bytes] = []
    while fields.more:
        rest.append(fields.field())
    return Record(argv=argv, env=env, descriptors=descriptors, rest=tuple(rest))


def read_records(path: Path) -> list[Record]:
    """The records in the file ``path``."""
    return parse_records(path.read_bytes())
