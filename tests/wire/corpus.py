"""The golden frames: what each file in ``golden/`` says, and where in a session it may come.

``python tests/wire/corpus.py`` writes the files anew; a change there is a change of the protocol.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, replace
from pathlib import Path

from codex_shell_tool_mcp.escalation import wire
from codex_shell_tool_mcp.escalation.wire import Outcome, Party

GOLDEN = Path(__file__).with_name("golden")


@dataclass(frozen=True, kw_only=True)
class Golden:
    """One golden frame, the state in which ``sender`` may send it, and the state after it."""

    name: str
    sender: Party
    state: str
    after: str
    frame: wire.Frame

    @property
    def receiver(self) -> Party:
        """Who reads it."""
        return {
            Party.CLIENT: Party.SERVICE,
            Party.SERVICE: Party.CLIENT,
            Party.SERVER: Party.SUPERVISOR,
            Party.SUPERVISOR: Party.SERVER,
        }[self.sender]

    @property
    def path(self) -> Path:
        """Its file; the large one is compressed."""
        return GOLDEN / f"{self.name}.frame{'.gz' if self.name == 'request-large' else ''}"

    def read(self) -> bytes:
        """Its bytes."""
        data = self.path.read_bytes()
        return gzip.decompress(data) if self.path.suffix == ".gz" else data


def _client(name: str, state: str, after: str, frame: wire.Frame) -> Golden:
    return Golden(name=name, sender=Party.CLIENT, state=state, after=after, frame=frame)


def _service(name: str, state: str, after: str, frame: wire.Frame) -> Golden:
    return Golden(name=name, sender=Party.SERVICE, state=state, after=after, frame=frame)


def _server(name: str, state: str, after: str, frame: wire.Frame) -> Golden:
    return Golden(name=name, sender=Party.SERVER, state=state, after=after, frame=frame)


def _supervisor(name: str, state: str, after: str, frame: wire.Frame) -> Golden:
    return Golden(name=name, sender=Party.SUPERVISOR, state=state, after=after, frame=frame)


_REQUEST = wire.Request(
    file=b"/usr/bin/git",
    cwd=b"/srv/project",
    argv=(b"git", b"status", b""),
    env=(b"HOME=/home/user", b"ODD=\xff\xfe\n"),
    umask=0o027,
    program=40,
    cwd_descriptor=41,
)
_LIMITS = (wire.Limit(resource=7, soft=1024, hard=4096), wire.Limit(resource=0, soft=2**64 - 1, hard=2**64 - 1))
_STANDING = wire.Standing(
    generation=3,
    number=9,
    until=1_234_567_890_123,
    answer=wire.Run.TYPE,
    device=2049,
    inode=131_074,
    size=3_000_000,
    modified=1_700_000_000_123_456_789,
    changed=1_700_000_001_000_000_000,
    depth=1,
    file=b"/bin/git",
    resolved=b"/usr/bin/git",
)

CORPUS = (
    _client("request", "start", "asked", _REQUEST),
    _client(
        "request-bare",
        "start",
        "asked",
        wire.Request(file=b"./tool", cwd=b"", argv=(), env=(), umask=0, ask=True),
    ),
    _client(
        "request-large",
        "start",
        "asked",
        wire.Request(file=b"/bin/echo", cwd=b"/", argv=(b"echo", b"x" * (1 << 20), b"end"), env=(b"A=1",), program=40),
    ),
    _service("run", "asked", "running", wire.Run()),
    _service("escalate", "asked", "handing over", wire.Escalate()),
    _service("deny", "asked", "done", wire.Deny(reason="Execution forbidden by policy")),
    _service("deny-bare", "asked", "done", wire.Deny()),
    _service("error", "asked", "done", wire.Error(reason="the rules could not be read: käse")),
    _client("exec-failed", "running", "done", wire.ExecFailed(errno=2)),
    _client("fds", "handing over", "handed over", wire.Fds(total=3, numbers=(0, 1, 200), descriptors=(50, 51, 52))),
    _client("fds-none", "handing over", "handed over", wire.Fds(total=0, numbers=(), descriptors=())),
    _client("fds-part", "handing over", "handing over", wire.Fds(total=300, numbers=(0, 1), descriptors=(50, 51))),
    _client(
        "attributes",
        "handed over",
        "attached",
        wire.Attributes(controlling_terminal=True, nice=-5, blocked=1 << 1, ignored=1 << 12, limits=_LIMITS),
    ),
    _client("attributes-bare", "handed over", "attached", wire.Attributes()),
    _client("signal", "attached", "attached", wire.Signal(number=15)),
    _service("stopped", "attached", "attached", wire.Stopped(number=19)),
    _service("continued", "attached", "attached", wire.Continued()),
    _client("continued-client", "attached", "attached", wire.Continued()),
    _service("exit", "attached", "done", wire.Exit(outcome=Outcome(kind=0, value=3))),
    _service("exit-signal", "attached", "done", wire.Exit(outcome=Outcome(kind=1, value=9))),
    _service("exit-not-started", "attached", "done", wire.Exit(outcome=Outcome(kind=2, value=13))),
    _server(
        "spawn",
        "running",
        "running",
        wire.Spawn(
            session=7,
            size=3_000_000,
            modified=1_700_000_000_123_456_789,
            changed=1_700_000_001_000_000_000,
            path=b"/usr/bin/git",
            cwd=b"/srv/project",
            argv=(b"git", b"push"),
            env=(b"HOME=/home/user",),
            umask=0o022,
            by_path=True,
            stream=60,
            program=61,
            cwd_descriptor=62,
        ),
    ),
    _server(
        "spawn-bare", "running", "running", wire.Spawn(session=8, path=b"/bin/x", cwd=b"", argv=(), env=(), stream=60)
    ),
    _supervisor("started", "running", "running", wire.Started(session=7, pid=4242)),
    _supervisor("ended", "running", "running", wire.Ended(session=7, outcome=Outcome(kind=1, value=15))),
    _server(
        "start",
        "waiting",
        "start",
        wire.Start(
            cwd=b"/srv/project",
            argv=(b"--restrict", b"--", b"/bin/bash", b"bash", b"-c", b""),
            env=(b"HOME=/home/user", b"ODD=\xff\n"),
            output=60,
            rendezvous=61,
        ),
    ),
    _supervisor("idle", "shell ended", "waiting", wire.Idle()),
    _supervisor("shell-started", "start", "running", wire.ShellStarted(pid=4241)),
    _supervisor("shell-failed", "start", "failed", wire.ShellFailed(errno=38, message="Landlock: not supported")),
    _supervisor("shell-exit", "running", "shell ended", wire.ShellExit(outcome=Outcome(kind=0, value=255))),
    _server("end", "shell ended", "ending", wire.End()),
    _supervisor("finished", "ending", "done", wire.Finished(ended=2)),
    _supervisor("finished-unasked", "running", "done", wire.Finished(ended=1)),
    _server("keep", "shell ended", "keeping", wire.Keep()),
    _supervisor("kept", "keeping", "kept", wire.Kept(left=3)),
    _server("standing", "running", "running", _STANDING),
    _server(
        "standing-words",
        "running",
        "running",
        replace(_STANDING, number=10, answer=wire.Escalate.TYPE, depth=4, words=(b"status", b"")),
    ),
    _server("hold", "running", "running", wire.Hold(generation=3, until=1_234_567_890_123)),
    _supervisor("taken", "running", "running", wire.Taken(number=10, argv=(b"git", b"", b"\xff"))),
    _supervisor("answered", "running", "running", wire.Answered(total=2**40)),
)
"""Every frame of version 1, at least once."""


def write_all() -> None:
    """Write the golden files anew."""
    for golden in CORPUS:
        data = wire.encode(golden.frame)
        golden.path.write_bytes(gzip.compress(data, mtime=0) if golden.path.suffix == ".gz" else data)


if __name__ == "__main__":
    write_all()
