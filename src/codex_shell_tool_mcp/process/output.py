"""What a call prints: read as it comes, its first and last parts kept, in the order written."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import fcntl
import os

CHUNK = 64 * 1024
"""Bytes of one read while little has come: what a pipe holds unless told otherwise (pipe(7))."""

PIPE_SIZE = 256 * 1024
"""Bytes the pipe is to hold, and of one read once much has come. 50 MB then take as long as a bare loop of reads; with
64 KiB a fifth to a half longer. Not more: a user's pipes may hold 64 MiB in all (pipe(7), pipe-user-pages-soft)."""

QUIET = 0.25
"""Seconds without output after which a pipe that is still open is given up: a background job holds it."""

PATIENCE = 1.0
"""Seconds to go on reading at most once the shell has ended."""

_CHARACTER = 4
"""Bytes of the longest character in UTF-8."""


class Ends:
    """The first and the last half of ``limit`` bytes of a stream; memory is bounded by that, whatever goes through."""

    def __init__(self, limit: int) -> None:
        """Keep at most ``limit`` bytes, 1 or more."""
        self._last = limit // 2
        self._first = limit - self._last
        self._head = bytearray()
        self._ring = bytearray()
        self._at = 0
        self._total = 0

    def read(self, descriptor: int) -> int:
        """One read(2) from ``descriptor``; returns how many bytes came, 0 at the end.

        Raises:
            OSError: As read(2): ``BlockingIOError`` if there is nothing yet.
        """
        room = self._first - len(self._head)
        if room > 0:
            data = os.read(descriptor, min(room, CHUNK))
            self._head += data
            count = len(data)
        else:
            count = self._read_on(descriptor)
        self._total += count
        return count

    def _read_on(self, descriptor: int) -> int:
        """Read over the oldest bytes of the ring, which is at least a chunk, so that small limits read no slower."""
        if not self._ring:
            self._ring = bytearray(max(self._last, CHUNK))
        with memoryview(self._ring) as ring:
            count = os.readv(descriptor, [ring[self._at : self._at + PIPE_SIZE]])
        self._at = (self._at + count) % len(self._ring)
        return count

    def _tail(self) -> bytes:
        size = min(self._total - len(self._head), self._last)
        start = self._at - size
        return bytes(self._ring[start:] + self._ring[: self._at] if start < 0 else self._ring[start : self._at])

    def text(self) -> str:
        """What was kept, decoded; in place of what was not, a line that says how much. No character is cut in two."""
        tail = self._tail()
        if len(self._head) + len(tail) == self._total:
            return (bytes(self._head) + tail).decode("utf-8", "replace")
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        first = decoder.decode(bytes(self._head))  # less a character whose end is not there
        last = _from_character(tail)
        kept = len(self._head) - len(decoder.getstate()[0]) + len(last)
        return f"{first}\n[... {self._total - kept} bytes of output left out ...]\n{last.decode('utf-8', 'replace')}"


def _from_character(data: bytes) -> bytes:
    """``data`` less the end of a character whose beginning is not there."""
    start = 0
    while start < min(len(data), _CHARACTER - 1) and data[start] & 0xC0 == 0x80:
        start += 1
    return data[start:]


class OutputCapture:
    """Reads a pipe, whose read end it owns. One read a turn of the loop: a flood keeps no other call waiting."""

    def __init__(self, descriptor: int, limit: int) -> None:
        """Start reading on the running loop; of what comes at most ``limit`` bytes are kept (see :class:`Ends`)."""
        os.set_blocking(descriptor, False)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with contextlib.suppress(OSError):  # over the user's allowance: it works with the size it has
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self._descriptor = descriptor
        self._kept = Ends(limit)
        self._changed = asyncio.Event()
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._loop.add_reader(descriptor, self._on_readable)

    @property
    def is_over(self) -> bool:
        """Whether nothing more can come."""
        return self._ended

    async def drain(self) -> None:
        """Read on until the end, :data:`QUIET` seconds of silence, or :data:`PATIENCE` in all."""
        start = self._loop.time()
        while not self._ended:
            now = self._loop.time()
            left = min(max(self._last, start) + QUIET, start + PATIENCE) - now
            if left <= 0:
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def close(self) -> None:
        """Stop reading."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            self._ended = True

    def discard(self) -> None:
        """Forget what was kept, and keep nothing more; reading goes on, so that nobody is held up."""
        self._kept = Ends(1)

    def text(self) -> str:
        """What was kept, with a line in the middle that says how much was not."""
        return self._kept.text()

    def _on_readable(self) -> None:
        try:
            count = self._kept.read(self._descriptor)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if count:
            self._last = self._loop.time()
        else:
            self.close()
        self._changed.set()
