"""Sockets for the wire format: frames and their descriptors over asyncio, and the per-exec rendezvous."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import os
import socket
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from codex_shell_tool_mcp.errors import RemoteProtocolError
from codex_shell_tool_mcp.escalation import wire

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

# As plain numbers: combining members of an enumeration costs more than the call they are for.
_CLOEXEC = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
"""Received descriptors are close-on-exec from the start where the kernel can do that (unix(7))."""

_RECEIVING = _CLOEXEC | int(socket.MSG_DONTWAIT)
_SENDING = int(getattr(socket, "MSG_NOSIGNAL", 0)) | int(socket.MSG_DONTWAIT)
_TRUNCATED = int(socket.MSG_CTRUNC)
_SOCKET_LEVEL, _SCM_RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)
_UNIX, _STREAM = int(socket.AF_UNIX), int(socket.SOCK_STREAM)

_ROOM = tuple(socket.CMSG_SPACE(most * array.array("i").itemsize) for most in range(wire.MAX_DESCRIPTORS_PER_FRAME + 1))
"""Ancillary room for that many descriptors."""

_SCM_PIDFD = 4
"""unix(7): a peer that sets SO_PASSPIDFD on our end has the kernel give us a descriptor with every message."""

IN_FLIGHT = {errno.ETOOMANYREFS, errno.ENOBUFS}
"""Too many descriptors of this user are on their way through sockets (unix(7)): passes by itself."""

TOO_MANY_IN_FLIGHT = "too many descriptors of this user are on their way through sockets; try again"
"""What a script is told when it does not pass: the wrapper's words."""

IN_FLIGHT_PATIENCE = 5.0
"""Seconds to retry while they are."""

FLOOD_PAUSE = 0.01
"""Seconds of rest after a datagram that was dropped, so that a flood of them starves nobody."""

TURN = 0.002
"""Seconds after which a call that is asked about one exec after the other lets the rest of the server have its turn."""

_WHOLE = 16 * 1024 if sys.platform == "linux" else 0
"""Bytes that Linux sends through a stream socket in one piece or not at all (unix_stream_sendmsg: up to 32 KiB)."""

_FRAMES_AT_ONCE = 4096
"""Bytes read at once where frames are small: three hundred of them."""

_HELLO = bytes((wire.VERSION,))

FIRST_READ = 64 * 1024
"""Bytes of a request that are read at once: argv and environment of nearly every exec."""


LARGE = 64 * 1024
"""Bytes of a frame that is taken apart on the event loop: a millisecond."""

MANY = 1024
"""Strings of a request that is dealt with on the event loop: a few milliseconds."""

_WORKER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large")
"""One thread for all that is large: several would only take the interpreter from the event loop more often."""


async def beside_the_loop(work: Callable[[], _T]) -> _T:
    """Do what takes long where it keeps nobody else waiting. It is done to its end, also when this is cancelled."""
    working = asyncio.get_running_loop().run_in_executor(_WORKER, work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait((working,))
        raise


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> tuple[tuple[int, ...], bool]:
    """The descriptors of a received message, all close-on-exec, and whether nothing else came with it."""
    received, pure = array.array("i"), True
    for level, kind, data in ancillary:
        pure = pure and level == _SOCKET_LEVEL and kind == _SCM_RIGHTS
        if level == _SOCKET_LEVEL and kind in (_SCM_RIGHTS, _SCM_PIDFD):
            received.frombytes(data[: len(data) - len(data) % received.itemsize])
    for descriptor in received if not _CLOEXEC else ():
        os.set_inheritable(descriptor, False)
    return tuple(received), pure


def close_all(descriptors: tuple[int, ...]) -> None:
    """Close what was received and is not wanted."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def receive_message(
    sock: socket.SocketType, size: int, most: int = wire.MAX_DESCRIPTORS_PER_FRAME
) -> tuple[bytes, tuple[int, ...]]:
    """One ``recvmsg`` of at most ``size`` bytes with at most ``most`` descriptors. Never waits.

    MSG_DONTWAIT: the peer of a socketpair made elsewhere can take O_NONBLOCK off our end, whose flags it shares.

    Raises:
        RemoteProtocolError: More or other things came along, or the kernel dropped some; all that came is closed.
        BlockingIOError: Nothing there yet.
    """
    data, ancillary, flags, _ = sock.recvmsg(size, _ROOM[most], _RECEIVING)
    descriptors, pure = _descriptors(ancillary) if ancillary else ((), True)
    if flags & _TRUNCATED or not pure or len(descriptors) > most:
        close_all(descriptors)
        raise RemoteProtocolError("descriptors were lost on the way")
    return data, descriptors


def send_message(sock: socket.SocketType, data: bytes | memoryview, descriptors: tuple[int, ...]) -> int:
    """One ``sendmsg`` that never waits; returns how many bytes went."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    return sock.sendmsg([data], ancillary, _SENDING)


def send_at_once(sock: socket.SocketType, data: bytes) -> None:
    """Send a few bytes without waiting.

    Raises:
        OSError: They do not fit, for the peer has filled the socket, or it is gone.
    """
    if sock.send(data, _SENDING) != len(data):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _ready(add: Callable[..., None], remove: Callable[[int], object], descriptor: int) -> None:
    future = asyncio.get_running_loop().create_future()
    add(descriptor, _resolve, future)
    try:
        await future
    finally:
        remove(descriptor)


class Channel:
    """A stream socket that speaks one side of the wire format. Owns the socket.

    Attributes:
        listen_now: Once it listens: takes what is there already, before the loop would.
    """

    listen_now: Callable[[], None]

    def __init__(self, sock: socket.SocketType, connection: wire.Connection, *, most: int) -> None:
        """Take over ``sock``, which becomes non-blocking; no message may bring more than ``most`` descriptors."""
        sock.setblocking(False)
        self._most = most
        self.socket = sock
        self.connection = connection
        self._sending = asyncio.Lock()

    async def receive(self) -> wire.Frame | None:
        """The next frame, or ``None`` when the peer has closed.

        Raises:
            RemoteProtocolError: The peer broke the format. Nothing received is left open but what earlier frames gave.
        """
        try:
            while (event := await self._next_event()) is wire.NEED_DATA:
                data, descriptors = await self._read(self.connection.read_size())
                self.connection.receive_data(data, descriptors)
                if not data:
                    close_all(self.connection.unclaimed())
                    return None
        except RemoteProtocolError:
            close_all(self.connection.unclaimed())
            raise
        return event

    async def _next_event(self) -> wire.Frame | wire.NeedData:
        """The next frame; a large one, which can hold a million strings, is taken apart beside the loop."""
        if self.connection.read_size() or self.connection.buffered() <= LARGE:
            return self.connection.next_event()
        parsing = asyncio.ensure_future(beside_the_loop(self.connection.next_event))
        try:
            return await asyncio.shield(parsing)
        except asyncio.CancelledError:
            await asyncio.wait((parsing,))
            event = None if parsing.exception() else parsing.result()
            if event is not None and event is not wire.NEED_DATA:
                close_all(event.descriptors)
            raise

    def listen(self, take: Callable[[wire.Frame], None]) -> asyncio.Future[None]:
        """Give every frame to ``take`` as it comes, for a peer that sends no descriptors.

        Returns:
            Done when the session is, or the peer has closed; fails as :meth:`receive` does. Whoever cancels it lets the
            loop have a turn before the channel is closed.
        """
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        descriptor = self.socket.fileno()

        def on_readable() -> None:
            if over.done():
                return
            try:
                if not self._take_what_is_there(take):
                    return
                over.set_result(None)
            except Exception as error:  # noqa: BLE001 - handed to whoever waits; the loop would only log it
                over.set_exception(error)
            loop.remove_reader(descriptor)

        def on_done(_: asyncio.Future[None]) -> None:
            if over.cancelled():
                loop.remove_reader(descriptor)

        loop.add_reader(descriptor, on_readable)
        over.add_done_callback(on_done)
        self.listen_now = on_readable
        return over

    def _take_what_is_there(self, take: Callable[[wire.Frame], None]) -> bool:
        """Take the frames that are there; whether they were the last ones."""
        try:
            data, descriptors = receive_message(self.socket, _FRAMES_AT_ONCE, self._most)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        if descriptors:
            close_all(descriptors)
            raise RemoteProtocolError("descriptors where none belong")
        self.connection.receive_data(data)
        while (event := self.connection.next_event()) is not wire.NEED_DATA:
            take(event)
        return not data or self.connection.state == "done"

    async def send(self, frame: wire.Frame) -> None:
        """Send a frame; its descriptors stay open here."""
        loop = asyncio.get_running_loop()
        async with self._sending:
            rest, descriptors = memoryview(self.connection.send(frame)), frame.descriptors
            give_up = loop.time() + IN_FLIGHT_PATIENCE
            while rest:
                try:
                    rest, descriptors = rest[send_message(self.socket, rest, descriptors) :], ()
                except BlockingIOError:
                    await _ready(loop.add_writer, loop.remove_writer, self.socket.fileno())
                except OSError as error:
                    if error.errno not in IN_FLIGHT or loop.time() > give_up:
                        raise
                    await asyncio.sleep(FLOOD_PAUSE)

    def send_at_once(self, frame: wire.Frame) -> bool:
        """Send a small frame if that needs no waiting; else nothing of it is sent.

        Raises:
            LocalProtocolError: As :meth:`send`.
            OSError: The peer is gone.
        """
        if self._sending.locked():
            return False
        data = self.connection.send(frame)
        if len(data) > _WHOLE:
            return False
        try:
            sent = send_message(self.socket, data, frame.descriptors)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in IN_FLIGHT:
                return False
            raise
        if sent != len(data):
            self.end()
            raise ConnectionAbortedError(errno.ECONNABORTED, "half a frame was sent")
        return True

    def end(self) -> None:
        """Close our direction: the peer sees the end, even of a frame that was half sent."""
        self.connection.end()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    async def readable(self) -> None:
        """Return once the peer has sent something or closed."""
        loop = asyncio.get_running_loop()
        await _ready(loop.add_reader, loop.remove_reader, self.socket.fileno())

    def close(self) -> None:
        """Close the socket and whatever was received without being given out."""
        close_all(self.connection.unclaimed())
        self.socket.close()

    async def _read(self, size: int) -> tuple[bytes, tuple[int, ...]]:
        while True:
            try:
                return receive_message(self.socket, size, self._most)
            except BlockingIOError:
                await self.readable()
            except ConnectionResetError:
                return b"", ()


class Rendezvous:
    """The server's end of a call's datagram socketpair: each good datagram brings one stream."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over ``sock``, which becomes non-blocking."""
        sock.setblocking(False)
        self.socket = sock
        self._loop = asyncio.get_running_loop()
        self._rest: asyncio.TimerHandle | None = None
        self._broken: asyncio.Future[None] = self._loop.create_future()

    async def serve(self, take: Callable[[socket.SocketType], None], busy: Callable[[], bool]) -> None:
        """Give every exec's stream to ``take`` as it comes, until cancelled. Nothing comes while ``busy``.

        Whatever else arrives is dropped and closed: any descendant can write here.

        Raises:
            OSError: The socket cannot be read any more.
        """
        self._take, self._busy = take, busy
        self._listen()
        try:
            await self._broken
        finally:
            self._pause()

    def close(self) -> None:
        """Close the socket."""
        self._pause()
        self.socket.close()

    def _listen(self) -> None:
        self._rest = None
        self._loop.add_reader(self.socket.fileno(), self._on_readable)

    def _pause(self) -> None:
        if self.socket.fileno() >= 0:
            self._loop.remove_reader(self.socket.fileno())
        if self._rest is not None:
            self._rest.cancel()

    def _on_readable(self) -> None:
        """Take what is there, but not for longer than a turn: what is left is announced again in the next one."""
        end = self._loop.time() + TURN
        try:
            while self._take_one() and self._loop.time() < end:
                continue
        except BlockingIOError:
            pass
        except Exception as error:  # noqa: BLE001 - handed to whoever serves; the loop would only log it
            self._pause()
            if not self._broken.done():
                self._broken.set_exception(error)

    def _take_one(self) -> bool:
        """Take one datagram. False, and a rest, if it was none to take or there are too many."""
        stream = None
        if not self._busy():
            with contextlib.suppress(RemoteProtocolError):
                stream = _stream(*receive_message(self.socket, 2, most=1))
        if stream is None:
            self._pause()
            self._rest = self._loop.call_later(FLOOD_PAUSE, self._listen)
            return False
        self._take(stream)
        return True


def _stream(data: bytes, descriptors: tuple[int, ...]) -> socket.SocketType | None:
    """The stream a datagram carries, or ``None`` (everything closed) if it is not a good one.

    Not a ``socket.socket``: of that, every attribute and every call that makes one costs more than the kernel's part.
    """
    if data != _HELLO or len(descriptors) != 1:
        close_all(descriptors)
        return None
    try:
        stream = socket.SocketType(fileno=descriptors[0])
    except OSError:  # not a socket
        close_all(descriptors)
        return None
    if stream.family != _UNIX or stream.type != _STREAM:
        stream.close()
        return None
    return stream


def peer_pid(sock: socket.socket) -> int | None:
    """Process that made the peer (SO_PEERCRED, unix(7)); ``None`` where the host does not say."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    credentials = sock.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[0])
