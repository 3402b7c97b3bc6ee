"""Sockets for the wire format: frames and their descriptors over asyncio, and the per-exec rendezvous."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.errors import RemoteProtocolError
from codex_shell_tool_mcp.escalation import wire

if TYPE_CHECKING:
    from collections.abc import Callable

_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
"""Received descriptors are close-on-exec from the start where the kernel can do that (unix(7))."""

_NOSIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)

_SCM_PIDFD = 4
"""unix(7): a peer that sets SO_PASSPIDFD on our end has the kernel give us a descriptor with every message."""

_IN_FLIGHT = {errno.ETOOMANYREFS, errno.ENOBUFS}
"""Too many descriptors of this user are on their way through sockets: passes by itself."""

IN_FLIGHT_PATIENCE = 5.0
"""Seconds to retry while they are."""

FLOOD_PAUSE = 0.01
"""Seconds of rest after a datagram that was dropped, so that a flood of them starves nobody."""


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> tuple[tuple[int, ...], bool]:
    """The descriptors of a received message, all close-on-exec, and whether nothing else came with it."""
    received, pure = array.array("i"), True
    for level, kind, data in ancillary:
        pure = pure and (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        if level == socket.SOL_SOCKET and kind in {socket.SCM_RIGHTS, _SCM_PIDFD}:
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
    sock: socket.socket, size: int, most: int = wire.MAX_DESCRIPTORS_PER_FRAME
) -> tuple[bytes, tuple[int, ...]]:
    """One ``recvmsg`` of at most ``size`` bytes with at most ``most`` descriptors. Never waits.

    MSG_DONTWAIT: the peer of a socketpair made elsewhere can take O_NONBLOCK off our end, whose flags it shares.

    Raises:
        RemoteProtocolError: More or other things came along, or the kernel dropped some; all that came is closed.
        BlockingIOError: Nothing there yet.
    """
    room = socket.CMSG_SPACE(most * array.array("i").itemsize)
    data, ancillary, flags, _ = sock.recvmsg(size, room, _CLOEXEC | socket.MSG_DONTWAIT)
    descriptors, pure = _descriptors(ancillary)
    if flags & socket.MSG_CTRUNC or not pure or len(descriptors) > most:
        close_all(descriptors)
        raise RemoteProtocolError("descriptors were lost on the way")
    return data, descriptors


def send_message(sock: socket.socket, data: bytes | memoryview, descriptors: tuple[int, ...]) -> int:
    """One ``sendmsg`` that never waits; returns how many bytes went."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    return sock.sendmsg([data], ancillary, _NOSIGNAL | socket.MSG_DONTWAIT)


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
    """A stream socket that speaks one side of the wire format. Owns the socket."""

    def __init__(self, sock: socket.socket, connection: wire.Connection, *, most: int) -> None:
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
            while (event := self.connection.next_event()) is wire.NEED_DATA:
                data, descriptors = await self._read(self.connection.read_size())
                self.connection.receive_data(data, descriptors)
                if not data:
                    close_all(self.connection.unclaimed())
                    return None
        except RemoteProtocolError:
            close_all(self.connection.unclaimed())
            raise
        return event

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
                    if error.errno not in _IN_FLIGHT or loop.time() > give_up:
                        raise
                    await asyncio.sleep(FLOOD_PAUSE)

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

    async def accept(self) -> socket.socket:
        """The next exec's stream. Whatever else arrives is dropped and closed: any descendant can write here."""
        loop = asyncio.get_running_loop()
        while True:
            stream = None
            try:
                stream = _stream(*receive_message(self.socket, 2, most=1))
            except BlockingIOError:
                await _ready(loop.add_reader, loop.remove_reader, self.socket.fileno())
                continue
            except RemoteProtocolError:
                pass
            if stream is not None:
                return stream
            await asyncio.sleep(FLOOD_PAUSE)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


def _stream(data: bytes, descriptors: tuple[int, ...]) -> socket.socket | None:
    """The stream a datagram carries, or ``None`` (everything closed) if it is not a good one."""
    if data != bytes((wire.VERSION,)) or len(descriptors) != 1:
        close_all(descriptors)
        return None
    try:
        stream = socket.socket(fileno=descriptors[0])
    except OSError:  # not a socket
        close_all(descriptors)
        return None
    if stream.family != socket.AF_UNIX or stream.type != socket.SOCK_STREAM:
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
