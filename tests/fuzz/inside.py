"""A hostile script: does random things with the socket it inherits. Runs inside a call: standard library only.

``python inside.py SEED SECONDS GOLDEN CANARY EVIL``: the folder of the golden frames, a program that the policy
escalates when its first word says so, and one that it never does. The same seed tries the same things in the same
order.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import resource
import select
import socket
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))
from support import forger

if TYPE_CHECKING:
    from collections.abc import Callable

RENDEZVOUS = forger.RENDEZVOUS
MOST_KEPT = 300
"""Streams kept open at a time."""

PATIENCE = 0.3
"""Seconds to wait for an answer that may never come."""


class Attacker:
    """One run of random acts."""

    def __init__(self, seed: int, golden: Path, canary: str, evil: str) -> None:
        """Nothing is done yet."""
        self.random = random.Random(seed)
        self.seed = seed
        self.canary = canary
        self.evil = evil
        self.frames = [path.read_bytes() for path in sorted(golden.glob("*.frame"))]
        self.kept: list[int] = []
        self.asked = 0
        self.counts: dict[str, int] = {}

    def run(self, seconds: float) -> None:
        """Act until the time is up; prints what was done."""
        acts: list[Callable[[], None]] = [
            self.datagram, self.datagram, self.session, self.session, self.session, self.ask, self.ask, self.ask,
            self.claim_other, self.half_open, self.drop_some, self.flags, self.circle, self.fork_storm,
        ]  # fmt: skip
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            act = self.random.choice(acts)
            self.counts[act.__name__] = self.counts.get(act.__name__, 0) + 1
            try:
                act()
            except (OSError, ValueError, OverflowError) as error:
                self.counts[f"{act.__name__} failed"] = self.counts.get(f"{act.__name__} failed", 0) + 1
                if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ETOOMANYREFS}:
                    self.drop_some()
        print(sorted(self.counts.items()), flush=True)
        if os.fork() == 0:
            self.until_the_end()

    def until_the_end(self) -> None:
        """Go on asking while the call ends, which it does because its shell has ended."""
        os.close(1)
        os.close(2)
        program = os.open(self.canary, os.O_PATH)
        whole = forger.request(self.canary, ["canary", "slow-1"], flags=1)
        while True:
            with contextlib.suppress(OSError):
                ours, _ = forger.hello()
                forger.send(ours, self.random.choice((whole, whole[:1], whole[:-1])), (program,))
                self.finish(ours)

    def descriptors(self, most: int) -> tuple[list[int], list[int]]:
        """Some descriptors of all kinds, and which of them to close after they were sent."""
        chance = self.random
        made: list[int] = []
        for _ in range(chance.choice((0, 0, 1, 1, 2, 3, chance.randrange(most + 1)))):
            kind = chance.randrange(8)
            if kind == 0:
                made += os.pipe()
            elif kind == 1:
                made += [one.detach() for one in socket.socketpair()]
            elif kind == 2:
                made.append(os.memfd_create("x"))
            elif kind == 3:
                made.append(os.open(chance.choice((self.canary, self.evil, "/bin/sh")), os.O_PATH))
            elif kind == 4:
                made.append(os.open(chance.choice(("/", ".", "/proc/self")), os.O_RDONLY | os.O_DIRECTORY))
            elif kind == 5:
                with select.epoll() as poller:
                    made.append(os.dup(poller.fileno()))
            elif kind == 6:
                made.append(os.dup(RENDEZVOUS))
            else:
                made.append(os.open("/dev/null", os.O_RDWR))
        return made[:most], made

    def send(self, stream: int, data: bytes, most: int = 253) -> None:
        """Bytes with some descriptors, or none."""
        sent, made = self.descriptors(most) if self.random.random() < 0.3 else ([], [])
        try:
            forger.send(stream, data, tuple(sent))
        finally:
            for one in made:
                os.close(one)

    def datagram(self) -> None:
        """Anything at the rendezvous."""
        version = self.random.choice((b"\x01", b"\x01", b"", b"\x00", b"\x02", b"\x01\x01"))
        self.send(RENDEZVOUS, version or self.random.randbytes(self.random.randrange(1, 70)))

    def damaged(self) -> bytes:
        """A few frames, some of them damaged."""
        chance = self.random
        data = bytearray()
        for _ in range(chance.randrange(1, 4)):
            frame = bytearray(chance.choice(self.frames))
            for _ in range(chance.choice((0, 0, 1, 1, 2, 5))):
                how = chance.randrange(5)
                at = chance.randrange(len(frame))
                if how == 0:
                    frame[at] = chance.randrange(256)
                elif how == 1:
                    del frame[at:]
                elif how == 2:
                    frame[at:at] = chance.randbytes(chance.randrange(1, 9))
                elif how == 3:
                    odd = chance.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(frame)))
                    frame[at : at + 4] = struct.pack("<I", odd)
                else:
                    frame[:4] = struct.pack("<I", max(len(frame) - 4, 0))
                frame = frame or bytearray(1)
            data += frame
        return bytes(data)

    def session(self) -> None:
        """A stream with frames on it, whole or dripping, right or damaged."""
        ours, _ = forger.hello()
        data = self.damaged()
        step = self.random.choice((1, 3, 100, len(data)))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for at in range(0, min(len(data), 200 * step), step):
                self.send(ours, data[at : at + step], 10)
        self.finish(ours)

    def ask(self) -> None:
        """A right question about the canary; after ESCALATE a hand-over that is right or is not."""
        self.question(self.canary, self.canary)

    def claim_other(self) -> None:
        """The canary's name with another program's descriptor, or the other way round."""
        self.question(*self.random.choice(((self.canary, self.evil), (self.evil, self.canary), (self.evil, self.evil))))

    def question(self, named: str, opened: str) -> None:
        """Ask, and play the wrapper."""
        chance = self.random
        self.asked += 1
        action = chance.choice(("escalate", "escalate", "deny", "run", "fail", "slow"))
        ours, _ = forger.hello()
        program = os.open(opened, os.O_PATH)
        words = ["canary", f"{action}-{self.seed}-{os.getpid()}-{self.asked}", *["w"] * chance.randrange(3)]
        forger.send(ours, forger.request(named, words, flags=1), (program,))
        os.close(program)
        if chance.random() < 0.2:
            self.finish(ours)  # gone, or babbling, before the answer
            return
        kind, _ = self.answer(ours)
        if kind == 3:
            self.hand_over(ours)
            if chance.random() < 0.5:
                self.answer(ours)  # its end
        self.finish(ours)

    def hand_over(self, stream: int) -> None:
        """What follows ESCALATE, mostly damaged."""
        chance = self.random
        how = chance.randrange(4)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if how < 2:
                forger.hand_over(stream)
            else:
                count = chance.choice((0, 1, 3, 253))
                numbers = [chance.choice((number, 0, 255, 0xFFFFFFFF, 1 << 20)) for number in range(count)]
                total = chance.choice((count, count + 1, 4096, 0xFFFFFFFF))
                body = b"\x07" + struct.pack(f"<II{count}I", total, chance.choice((count, 300)), *numbers)
                null = os.open("/dev/null", os.O_RDWR)
                forger.send(stream, struct.pack("<I", len(body)) + body, (null,) * chance.choice((count, 0, 1)))
                os.close(null)
            if how % 2:
                for _ in range(chance.randrange(4)):
                    self.send(stream, self.damaged(), 10)
                body = b"\x09" + struct.pack("<I", chance.choice((9, 19, 18, 15, 0, 65)))
                forger.send(stream, struct.pack("<I", len(body)) + body)

    def answer(self, stream: int) -> tuple[int, bytes]:
        """As forger's, but not for ever."""
        ready, _, _ = select.select([stream], [], [], PATIENCE)
        return forger.answer(stream) if ready else (0, b"")

    def finish(self, stream: int) -> None:
        """Close, or keep for later."""
        if self.random.random() < 0.2 and len(self.kept) < MOST_KEPT:
            self.kept.append(stream)
        else:
            os.close(stream)

    def half_open(self) -> None:
        """Streams that say nothing."""
        for _ in range(self.random.randrange(20)):
            self.finish(forger.hello()[0])

    def drop_some(self) -> None:
        """Close kept streams."""
        self.random.shuffle(self.kept)
        for _ in range(self.random.randrange(len(self.kept) + 1)):
            os.close(self.kept.pop())

    def flags(self) -> None:
        """Change the flags of descriptions that the server shares."""
        ours, theirs = forger.hello(keep=True)
        for one in (RENDEZVOUS, theirs):
            flags = fcntl.fcntl(one, fcntl.F_GETFL)
            fcntl.fcntl(one, fcntl.F_SETFL, flags ^ self.random.choice((os.O_NONBLOCK, os.O_ASYNC, os.O_APPEND)))
        fcntl.fcntl(RENDEZVOUS, fcntl.F_SETFL, 0)
        forger.send(ours, self.random.choice(self.frames)[:3])
        os.close(theirs)
        self.finish(ours)

    def circle(self) -> None:
        """A stream that carries its own ends, or the rendezvous: nothing refers to it but itself."""
        ours, theirs = (one.detach() for one in socket.socketpair())
        forger.send(ours, b"x", (ours, theirs, RENDEZVOUS))
        with contextlib.suppress(OSError):
            forger.send(RENDEZVOUS, b"\x01", (theirs,))
        os.close(ours)
        os.close(theirs)

    def fork_storm(self) -> None:
        """A few children that ask and die at once, by all means."""
        children = []
        for number in range(self.random.randrange(4)):
            pid = os.fork()
            if pid == 0:
                with contextlib.suppress(OSError):
                    self.random.seed(self.seed + number)
                    self.session()
                    self.ask()
                os._exit(0)
            children.append(pid)
        for pid in children:
            os.waitpid(pid, 0)


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    Attacker(int(sys.argv[1]), Path(sys.argv[3]), sys.argv[4], sys.argv[5]).run(float(sys.argv[2]))
