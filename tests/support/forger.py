"""What a hostile script can do with the socket it inherits. Runs inside a call: standard library only.

``python forger.py MODE [ARGUMENT...]``; every mode prints what came of it.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import sys
import time
from pathlib import Path

RENDEZVOUS = int(os.environ["CODEX_ESCALATE_SOCKET"])

LONG = 100
"""Seconds: much longer than anything that a test would wait for."""


def send(descriptor: int, data: bytes, descriptors: tuple[int, ...] = ()) -> None:
    """One message by ``sendmsg``: all that the sandbox leaves."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=os.dup(descriptor)) as channel:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        channel.sendmsg([data], rights)


def hello(*, keep: bool = False) -> tuple[int, int]:
    """Introduce a stream; returns our end, and the far one if it is kept."""
    ours, theirs = (one.detach() for one in socket.socketpair())
    send(RENDEZVOUS, b"\x01", (theirs,))
    if not keep:
        os.close(theirs)
    return ours, theirs


def request(file: str, argv: list[str], flags: int = 0) -> bytes:
    """A REQUEST frame."""
    strings = b"".join(os.fsencode(text) + b"\0" for text in (file, str(Path.cwd()), *argv))
    payload = struct.pack("<BIII", flags, 0o22, len(argv), 0) + strings
    return struct.pack("<IB", len(payload) + 1, 1) + payload


def answer(stream: int) -> tuple[int, bytes]:
    """Type and payload of the answer; (0, b"") if the server closed."""
    data = b""
    while len(data) < 4 or len(data) < 4 + struct.unpack("<I", data[:4])[0]:
        try:
            part = os.read(stream, 65536)
        except ConnectionResetError:
            part = b""
        if not part:
            return 0, b""
        data += part
    return data[4], data[5:]


def hand_over(stream: int) -> None:
    """Play the wrapper after ESCALATE: stdout and stderr, no attributes of note."""
    fds = struct.pack("<II3I", 3, 3, 0, 1, 2)
    send(stream, struct.pack("<IB", len(fds) + 1, 7) + fds, (0, 1, 2))
    attributes = struct.pack("<IiQQI", 0, 0, 0, 0, 0)
    send(stream, struct.pack("<IB", len(attributes) + 1, 8) + attributes)


def claim(path: str, real: str, *arguments: str) -> None:
    """Ask for ``path`` with a descriptor of ``real`` (``memfd``: of an unnamed copy of the shell)."""
    if real == "memfd":
        memory = os.memfd_create("x")
        os.write(memory, Path("/bin/sh").read_bytes())
        real = f"/proc/self/fd/{memory}"
    program = os.open(real, os.O_PATH)
    stream, _ = hello()
    send(stream, request(path, ["x", *arguments], flags=1), (program,))
    kind, payload = answer(stream)
    print("answer", kind, payload.decode("utf-8", "replace"), flush=True)
    if kind == 3:
        hand_over(stream)
        print("then", answer(stream), flush=True)


def claim_directory(directory: str, file: str, real: str) -> None:
    """Ask for ``file`` with a descriptor of ``real``, and name a directory without handing one over."""
    strings = b"".join(os.fsencode(text) + b"\0" for text in (file, directory, file))
    payload = struct.pack("<BIII", 1, 0o22, 1, 0) + strings
    stream, _ = hello()
    send(stream, struct.pack("<IB", len(payload) + 1, 1) + payload, (os.open(real, os.O_PATH),))
    kind, _ = answer(stream)
    print("answer", kind, flush=True)
    if kind == 3:
        hand_over(stream)
        answer(stream)


def rewrite(tool: str) -> None:
    """Change ``tool`` after the answer, before the hand-over."""
    stream, _ = hello()
    send(stream, request(tool, [tool], flags=1), (os.open(tool, os.O_PATH),))
    kind, _ = answer(stream)
    with Path(tool).open("a") as file:
        file.write("echo EVIL\n")
    if kind == 3:
        hand_over(stream)
        print("then", answer(stream), flush=True)
    else:
        print("answer", kind)


def block() -> None:
    """Keep the far end and take O_NONBLOCK off it, which the server shares; send one byte."""
    ours, theirs = hello(keep=True)
    for _ in range(50):
        fcntl.fcntl(theirs, fcntl.F_SETFL, 0)
        time.sleep(0.005)
    send(ours, b"\x05")
    time.sleep(LONG)


def flood(count: str, descriptors: str) -> None:
    """Bad datagrams, each with descriptors."""
    null = os.open("/dev/null", os.O_RDONLY)
    for _ in range(int(count)):
        send(RENDEZVOUS, b"\x02", (null,) * int(descriptors))


def half_open(count: str) -> None:
    """Streams that never say anything, kept open."""
    kept = [hello()[0] for _ in range(int(count))]
    print("opened", len(kept), flush=True)
    time.sleep(LONG)


def half_open_until(stop: str, count: str, keep: str) -> None:
    """At least ``count`` handshakes with a few bytes of a frame, and on until the file ``stop`` is there.

    The first ``keep`` streams stay open, the others are closed in the middle of their frame.
    """
    kept: list[int] = []
    made = 0
    while made < int(count) or not Path(stop).exists():
        stream, _ = hello()
        os.write(stream, b"\xff\x00\x00")
        made += 1
        if len(kept) < int(keep):
            kept.append(stream)
        else:
            os.close(stream)
    print("opened", made, flush=True)


def in_flight(count: str) -> None:
    """Put descriptors on their way that nobody takes, say so, and leave them there until a line comes."""
    ends = [one.detach() for one in socket.socketpair()]
    for at in range(0, int(count), 200):
        send(ends[0], b"x", (0,) * min(200, int(count) - at))
    print("in flight", flush=True)
    sys.stdin.readline()


def lengths() -> None:
    """Frames that announce too much, or nothing."""
    for length in (0xFFFFFFFF, 0, 7_000_000):
        stream, _ = hello()
        send(stream, struct.pack("<I", length) + b"\x01")
        print(length, answer(stream), flush=True)


def long_path(size: str) -> None:
    """A path longer than any."""
    stream, _ = hello()
    send(stream, request("/" + "a/" * (int(size) // 2), ["x"], flags=1), (os.open("/bin/true", os.O_PATH),))
    print("answer", answer(stream)[0], flush=True)


def largest() -> None:
    """A request as large as the kernel could ever make one, and larger."""
    for size in (6_000_000, 6_350_000):
        stream, _ = hello()
        data = memoryview(request("/bin/true", ["x" * 100_000] * (size // 100_000) + ["y" * (size % 100_000)], 1))
        send(stream, bytes(data[:1000]), (os.open("/bin/true", os.O_PATH),))
        try:
            rest = data[1000:]
            while rest:
                rest = rest[os.write(stream, rest) :]
        except (BrokenPipeError, ConnectionResetError):
            pass
        print(size, answer(stream)[0], flush=True)


def linger(count: str) -> None:
    """Take RUN many times and never close."""
    kept = []
    for _ in range(int(count)):
        stream, _ = hello()
        send(stream, request("/bin/true", ["x"]))
        assert answer(stream)[0] == 2
        kept.append(stream)
    print("held", len(kept), flush=True)
    time.sleep(LONG)


def press() -> None:
    """Write the permitting byte into whatever descriptor a wrapper of this call answers on, in ask mode."""
    while True:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
                if words[0].startswith(b"codex-execve-ask:") and os.getsid(int(process.name)) == os.getsid(0):
                    number = int(words[0].partition(b":")[2])
                    os.write(os.open(process / "fd" / str(number), os.O_WRONLY), b"R")
                    print("pressed", flush=True)
                    return
            except OSError:
                continue


if __name__ == "__main__":
    {
        "claim": claim,
        "claim_directory": claim_directory,
        "rewrite": rewrite,
        "block": block,
        "flood": flood,
        "half_open": half_open,
        "half_open_until": half_open_until,
        "in_flight": in_flight,
        "lengths": lengths,
        "long_path": long_path,
        "largest": largest,
        "linger": linger,
        "press": press,
    }[sys.argv[1]](*sys.argv[2:])  # type: ignore[operator]
