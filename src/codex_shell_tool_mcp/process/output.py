"""What a call prints: read as it comes, kept up to a limit, in the order written."""

from __future__ import annotations

import asyncio
import os
from collections import deque

DEFAULT_LIMIT = 1024 * 1024
"""Bytes kept of a call's output (the original's limit)."""

CHUNK = 64 * 1024
"""One read: what a pipe holds (pipe(7))."""

QUIET = 0.25
"""Seconds without output after which a pipe that is still open is given up: a background job holds it."""

PATIENCE = 1.0
"""Seconds to go on reading at most once the shell has ended."""


class OutputCapture:
    """Reads a pipe, whose read end it owns. Of any volume only the first and the last half of the limit are kept."""

    def __init__(self, descriptor: int, limit: int = DEFAULT_LIMIT) -> None:
        """Start reading on the running loop; ``limit`` is in bytes."""
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._half = limit // 2
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._total = 0
        self._changed = asyncio.Event()
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._loop.add_reader(descriptor, self._on_readable)

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

    def text(self) -> str:
        """What was kept, with a line in the middle that says how much was not."""
        tail = b"".join(self._tail)
        dropped = self._total - len(self._head) - len(tail)
        if not dropped:
            return (bytes(self._head) + tail).decode("utf-8", "replace")
        marker = f"\n[... {dropped} bytes of output left out ...]\n"
        return bytes(self._head).decode("utf-8", "replace") + marker + tail.decode("utf-8", "replace")

    def _on_readable(self) -> None:
        try:
            data = os.read(self._descriptor, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._last = self._loop.time()
            self._keep(data)
        else:
            self.close()
        self._changed.set()

    def _keep(self, data: bytes) -> None:
        self._total += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail.append(data)
            self._tail_size += len(data)
            self._trim()

    def _trim(self) -> None:
        while self._tail_size > self._half:
            excess = self._tail_size - self._half
            oldest = self._tail.popleft()
            self._tail_size -= len(oldest)
            if len(oldest) > excess:
                self._tail.appendleft(oldest[excess:])
                self._tail_size += len(oldest) - excess
