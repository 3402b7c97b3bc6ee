"""stdio as a stream of messages, on private descriptors that no child can reach.

The SDK's own transport reads in a worker thread that cannot be abandoned, so a server told to end by a signal would
wait for its client's next line. Here pipes and sockets, which every client uses, are read and written on the event loop
itself, where that cannot block: two threads less that every call has to wake. What is read from a file or a terminal,
and what has to wait for its reader, goes through a daemon thread.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import queue
import select
import stat
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

_CHUNK = 64 * 1024
"""Bytes of one read: what a pipe holds (pipe(7))."""

_AT_ONCE = select.PIPE_BUF
"""Bytes that a pipe or socket takes without waiting once poll(2) says that it takes any (pipe(7))."""

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


def _is_channel(descriptor: int) -> bool:
    """Whether it is a pipe or a socket: poll(2) tells the truth about these."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


class _LinesOnLoop:
    """Reads lines on the event loop; ``None`` after the last one."""

    def __init__(self, descriptor: int, lines: asyncio.Queue[bytes | None]) -> None:
        self._descriptor = descriptor
        self._lines = lines
        self._begun = bytearray()
        self._loop = asyncio.get_running_loop()
        self._listening = False
        self._over = False
        self.taken()

    def taken(self) -> None:
        """There is room for one more line."""
        if not self._listening and not self._over and self._lines.qsize() < _READ_AHEAD:
            self._listening = True
            self._loop.add_reader(self._descriptor, self._on_readable)

    def stop(self) -> None:
        """Read no more."""
        self._over = True
        self._pause()

    def _pause(self) -> None:
        if self._listening:
            self._listening = False
            self._loop.remove_reader(self._descriptor)

    def _on_readable(self) -> None:
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            _LOG.error("stdin: %s", error)
            data = b""
        first, *others = data.split(b"\n")
        self._begun += first
        for other in others:
            self._lines.put_nowait(bytes(self._begun))
            self._begun[:] = other
        too_long = len(self._begun) >= MAX_MESSAGE
        if too_long:
            _LOG.error("a message is longer than %d bytes; ending", MAX_MESSAGE)
        if not data or too_long:
            self._end(last=not too_long)
        elif self._lines.qsize() >= _READ_AHEAD:
            self._pause()

    def _end(self, *, last: bool) -> None:
        self.stop()
        if last and self._begun:
            self._lines.put_nowait(bytes(self._begun))
        self._lines.put_nowait(None)


class _LinesInThread:
    """The same in a daemon thread, for what only a read can tell whether it would block."""

    def __init__(self, descriptor: int, lines: asyncio.Queue[bytes | None]) -> None:
        self._descriptor = descriptor
        self._lines = lines
        self._room = threading.Semaphore(_READ_AHEAD)
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), name="stdin", daemon=True).start()

    def taken(self) -> None:
        """There is room for one more line."""
        self._room.release()

    def stop(self) -> None:
        """The thread ends with the process."""

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


class Incoming(_Stream):
    """What the client sends, until it closes its end or :meth:`end` is called."""

    def __init__(self, descriptor: int) -> None:
        """Start reading on the running loop."""
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._over = False
        self._source = (_LinesOnLoop if _is_channel(descriptor) else _LinesInThread)(descriptor, self._lines)

    def end(self) -> None:
        """Behave as if the client had closed its end."""
        self._over = True
        self._source.stop()
        self._lines.put_nowait(None)

    async def aclose(self) -> None:
        """See :meth:`end`."""
        self.end()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        line = None if self._over else await self._lines.get()
        if line is None or self._over:
            self._over = True
            raise StopAsyncIteration
        self._source.taken()
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
        self._waiting = 0
        self._poll = select.poll()
        if _is_channel(descriptor):
            self._poll.register(descriptor, select.POLLOUT)
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
        rest = self._write_at_once(text.encode() + b"\n")
        if rest:
            written: asyncio.Future[None] = self._loop.create_future()
            self._waiting += 1
            self._jobs.put((rest, written))
            await written

    async def aclose(self) -> None:
        """Write what is waiting, within bounds."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        with anyio.move_on_after(_FLUSH_SECONDS, shield=True):
            await self._done.wait()

    def _write_at_once(self, data: bytes) -> bytes:
        """Write what goes without waiting for the client, or for what has to; what is left.

        Raises:
            anyio.BrokenResourceError: The other end is closed.
        """
        if self._waiting or len(data) > _AT_ONCE or not self._poll.poll(0):
            return data
        try:
            return data[os.write(self._descriptor, data) :]
        except BlockingIOError:
            return data
        except OSError as error:
            self._break(error)
            raise anyio.BrokenResourceError from None

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
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # whoever shares it has set O_NONBLOCK
                self._wait_for_room()
            except OSError as error:
                return error
        return None

    def _wait_for_room(self) -> None:
        room = select.poll()
        room.register(self._descriptor, select.POLLOUT)
        room.poll()

    def _break(self, error: OSError) -> None:
        _LOG.info("stdout: %s", error)
        self._broken.set()

    def _settle(self, written: asyncio.Future[None], error: OSError | None) -> None:
        self._waiting -= 1
        if error is not None:
            self._break(error)
        if written.done():
            return
        if error is None:
            written.set_result(None)
        else:
            written.set_exception(anyio.BrokenResourceError())
