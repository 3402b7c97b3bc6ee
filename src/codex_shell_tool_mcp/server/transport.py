"""stdio as a stream of messages, on private descriptors that no child can reach.

The SDK's own transport reads in a worker thread that cannot be abandoned, so a server told to end by a signal would
wait for its client's next line. Here each direction has a daemon thread of its own.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter
from pydantic import ValidationError

if TYPE_CHECKING:
    from types import TracebackType

_LOG = logging.getLogger(__name__)

MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes of one line. A script cannot be longer than 128 KiB; what is far longer is no client."""

_READ_AHEAD = 64
"""Messages read and not yet taken: a bound on memory, not on the client."""

_FLUSH_SECONDS = 2.0
"""How long the last answers may take to be written when the server ends; the client may have stopped reading."""


@dataclass(frozen=True, kw_only=True)
class Wire:
    """The descriptors the client is at the other end of."""

    incoming: int
    outgoing: int


def claim_stdio() -> Wire:
    """Take 0 and 1 for the protocol: duplicates that are closed on exec; 0 and 1 themselves become the null device.

    From here on nothing this process or a child prints can get into the protocol, and none can read from it.

    Raises:
        OSError: stdin or stdout is closed.
    """
    wire = Wire(
        incoming=fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3),
        outgoing=fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3),
    )
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in (0, 1):
        os.dup2(null, number)
    os.close(null)
    return wire


class _Stream:
    """The part of the SDK's stream protocols that both directions share."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        raise NotImplementedError


class Incoming(_Stream):
    """What the client sends, until it closes its end or :meth:`end` is called."""

    def __init__(self, descriptor: int) -> None:
        """Start reading on the running loop."""
        self._descriptor = descriptor
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._room = threading.Semaphore(_READ_AHEAD)
        self._over = False
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), name="stdin", daemon=True).start()

    def end(self) -> None:
        """Behave as if the client had closed its end."""
        self._over = True
        self._lines.put_nowait(None)

    async def aclose(self) -> None:
        """See :meth:`end`; the thread ends with the process."""
        self.end()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        line = None if self._over else await self._lines.get()
        if line is None or self._over:
            self._over = True
            raise StopAsyncIteration
        self._room.release()
        return _parsed(line)

    async def receive(self) -> SessionMessage | Exception:
        """The next message.

        Raises:
            anyio.EndOfStream: There is none.
        """
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise anyio.EndOfStream from None

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            with open(self._descriptor, "rb", closefd=False) as file:
                while line := file.readline(MAX_MESSAGE):
                    if len(line) == MAX_MESSAGE:
                        _LOG.error("a message is longer than %d bytes; ending", MAX_MESSAGE)
                        break
                    self._room.acquire()
                    loop.call_soon_threadsafe(self._lines.put_nowait, line)
            loop.call_soon_threadsafe(self._lines.put_nowait, None)
        except OSError as error:
            _LOG.error("stdin: %s", error)
            loop.call_soon_threadsafe(self._lines.put_nowait, None)
        except RuntimeError:
            return  # the loop is closed: the server has ended


def _parsed(line: bytes) -> SessionMessage | Exception:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValidationError as error:
        _LOG.warning("a line that is no JSON-RPC message was ignored: %r", line[:200])
        return error


class Outgoing(_Stream):
    """What the server sends, in order, each message written before the next is taken."""

    def __init__(self, descriptor: int, broken: asyncio.Event) -> None:
        """Start writing; ``broken`` is set when the client no longer reads."""
        self._descriptor = descriptor
        self._broken = broken
        self._jobs: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        self._closed = False
        threading.Thread(target=self._write, name="stdout", daemon=True).start()

    async def send(self, item: SessionMessage, /) -> None:
        """Write one message.

        Raises:
            anyio.ClosedResourceError: This end is closed.
            anyio.BrokenResourceError: The other end is.
        """
        if self._closed:
            raise anyio.ClosedResourceError
        text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
        written: asyncio.Future[None] = self._loop.create_future()
        self._jobs.put((text.encode() + b"\n", written))
        await written

    async def aclose(self) -> None:
        """Write what is waiting, within bounds."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        with anyio.move_on_after(_FLUSH_SECONDS, shield=True):
            await self._done.wait()

    def _write(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                data, written = job
                self._loop.call_soon_threadsafe(self._settle, written, self._write_all(data))
            self._loop.call_soon_threadsafe(self._done.set)
        except RuntimeError:
            return  # the loop is closed: the server has ended

    def _write_all(self, data: bytes) -> OSError | None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            return error
        return None

    def _settle(self, written: asyncio.Future[None], error: OSError | None) -> None:
        if error is not None:
            _LOG.info("stdout: %s", error)
            self._broken.set()
        if written.done():
            return
        if error is None:
            written.set_result(None)
        else:
            written.set_exception(anyio.BrokenResourceError())
