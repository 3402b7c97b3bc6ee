"""A server that answers Run to everything, for tests of the shell and the real wrapper alone."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.escalation import wire
from codex_shell_tool_mcp.escalation.channel import close_all, receive_message
from support.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator


def _answer(server: socket.socket, requests: list[wire.Request]) -> None:
    data, descriptors = receive_message(server, 16)
    if data != bytes((wire.VERSION,)) or len(descriptors) != 1:
        close_all(descriptors)
        return
    service = Service(stream=socket.socket(fileno=descriptors[0]))
    try:
        request = service.receive()
        if isinstance(request, wire.Request):
            requests.append(request)
            service.answer(wire.Run())
            assert service.receive() is None, "the exec failed"
    finally:
        service.close()


@contextmanager
def answering_run(server: socket.socket) -> Iterator[list[wire.Request]]:
    """Answer in a thread, one exec after the other; yields the requests seen so far."""
    requests: list[wire.Request] = []
    problems: list[BaseException] = []
    stop_reader, stop_writer = socket.socketpair()

    def serve() -> None:
        try:
            while True:
                ready, _, _ = select.select([server, stop_reader], [], [])
                if server in ready:
                    _answer(server, requests)
                else:
                    return
        except BaseException as problem:  # noqa: BLE001  (raised again below, in the test's thread)
            problems.append(problem)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield requests
    finally:
        stop_writer.send(b"x")
        thread.join()
        stop_reader.close()
        stop_writer.close()
    assert not problems, problems
