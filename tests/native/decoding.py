"""The C codec's test driver, built here, and what it is to print for a frame."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.escalation import wire
from shell_tool_release.native import NativeOptions, read_recipes
from shell_tool_release.toolchain import find_zig
from shell_tool_release.workspace import find_workspace
from support.compiling import compiled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HERE = Path(__file__).parent

DESCRIBING = (HERE / "describe_frames.c", find_workspace().native_sources / "frames.c")
"""The C codec, and what says in text what it makes of bytes."""

_SANITISERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./=:-")


def sanitising_compiler() -> str | None:
    """A compiler with AddressSanitizer, which zig's wheel has not."""
    return next((name for name in ("gcc", "clang") if shutil.which(name)), None)


def _command(*, sanitised: bool) -> tuple[str, ...]:
    """The compiler and its flags: those of the release, or the sanitisers."""
    if sanitised:
        compiler = sanitising_compiler()
        assert compiler is not None
        return (compiler, "-std=c11", *_SANITISERS)
    native = NativeOptions.default()
    recipe = read_recipes(native.workspace.native_sources / "sources.toml", native.targets[0])[0]
    target = "x86_64" if native.targets[0].endswith("x64") else "aarch64"
    system = "linux-musl" if native.targets[0].startswith("linux") else "macos.11.0"
    flags = (flag for flag in recipe.compile_flags if flag not in {"-Wconversion", "-Wshadow"})
    return (str(find_zig().binary), "cc", "-target", f"{target}-{system}", *flags)


@functools.cache
def driver(*, sanitised: bool = False) -> Path:
    """The driver, from the cache of builds."""
    return compiled("decode_frames", _command(sanitised=sanitised), (HERE / "decode_frames.c", *DESCRIBING), (HERE,))


def decode(data: bytes, reader: str, *, chunk: int = 65536, sanitised: bool = False) -> tuple[int, list[str]]:
    """Exit status and lines of the driver."""
    done = subprocess.run(
        [driver(sanitised=sanitised), str(chunk), reader],
        input=data,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert not done.stderr, done.stderr.decode(errors="replace")
    return done.returncode, done.stdout.decode().splitlines()


def _bytes(text: bytes) -> str:
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in text)


def _list(items: Iterable[str]) -> str:
    return ",".join(items) + ";"


def _strings(texts: Iterable[bytes]) -> str:
    return _list(_bytes(text) for text in texts)


def _request(frame: wire.Request | wire.Spawn) -> str:
    flags = (frame.program is not None) + 2 * (frame.cwd_descriptor is not None)
    if isinstance(frame, wire.Request):
        flags, file = flags + 4 * frame.ask, frame.file
    else:
        flags, file = flags + 4 * frame.by_path, frame.path
    return (
        f" flags={flags} umask={frame.umask} file={_bytes(file)} cwd={_bytes(frame.cwd)}"
        f" argv={_strings(frame.argv)} env={_strings(frame.env)}"
    )


def _attributes(frame: wire.Attributes) -> str:
    limits = _list(f"{one.resource}:{one.soft}:{one.hard}" for one in frame.limits)
    return (
        f"flags={int(frame.controlling_terminal)} nice={frame.nice} blocked={frame.blocked} ignored={frame.ignored}"
        f" limits={limits}"
    )


def _outcome(outcome: wire.Outcome) -> str:
    return f"kind={outcome.kind} value={outcome.value}"


_SHOWN: dict[type, tuple[str, Callable[..., str]]] = {
    wire.Request: ("REQUEST", lambda f: f"descriptors={len(f.descriptors)}{_request(f)}"),
    wire.Run: ("RUN", lambda f: ""),
    wire.Escalate: ("ESCALATE", lambda f: ""),
    wire.Deny: ("DENY", lambda f: f"reason={_bytes(f.reason.encode())}"),
    wire.Error: ("ERROR", lambda f: f"reason={_bytes(f.reason.encode())}"),
    wire.ExecFailed: ("EXEC_FAILED", lambda f: f"number={f.errno}"),
    wire.Fds: ("FDS", lambda f: f"total={f.total} numbers={_list(map(str, f.numbers))}"),
    wire.Attributes: ("ATTRIBUTES", _attributes),
    wire.Signal: ("SIGNAL", lambda f: f"number={f.number}"),
    wire.Stopped: ("STOPPED", lambda f: f"number={f.number}"),
    wire.Continued: ("CONTINUED", lambda f: ""),
    wire.Exit: ("EXIT", lambda f: _outcome(f.outcome)),
    wire.Spawn: (
        "SPAWN",
        lambda f: (
            f"descriptors={len(f.descriptors)} session={f.session}"
            f" size={f.size} modified={f.modified} changed={f.changed}{_request(f)}"
        ),
    ),
    wire.Started: ("STARTED", lambda f: f"session={f.session} pid={f.pid}"),
    wire.Ended: ("ENDED", lambda f: f"session={f.session} {_outcome(f.outcome)}"),
    wire.ShellStarted: ("SHELL_STARTED", lambda f: f"number={f.pid}"),
    wire.ShellFailed: ("SHELL_FAILED", lambda f: f"errno={f.errno} message={_bytes(f.message.encode())}"),
    wire.ShellExit: ("SHELL_EXIT", lambda f: _outcome(f.outcome)),
    wire.End: ("END", lambda f: ""),
    wire.Finished: ("FINISHED", lambda f: f"number={f.ended}"),
    wire.Keep: ("KEEP", lambda f: ""),
    wire.Kept: ("KEPT", lambda f: f"number={f.left}"),
    wire.Standing: (
        "STANDING",
        lambda f: (
            f"generation={f.generation} number={f.number} until={f.until} answer={f.answer} device={f.device}"
            f" inode={f.inode} size={f.size} modified={f.modified} changed={f.changed} depth={f.depth}"
            f" file={_bytes(f.file)} resolved={_bytes(f.resolved)} words={_strings(f.words)}"
        ),
    ),
    wire.Hold: ("HOLD", lambda f: f"generation={f.generation} until={f.until}"),
    wire.Taken: ("TAKEN", lambda f: f"number={f.number} argv={_strings(f.argv)}"),
    wire.Answered: ("ANSWERED", lambda f: f"total={f.total}"),
    wire.Idle: ("IDLE", lambda f: ""),
    wire.Start: (
        "START",
        lambda f: f"descriptors={len(f.descriptors)} cwd={_bytes(f.cwd)} argv={_strings(f.argv)} env={_strings(f.env)}",
    ),
}


def shown(frame: wire.Frame) -> str:
    """The line the driver prints for a frame."""
    name, fields = _SHOWN[type(frame)]
    return f"{name} {fields(frame)}".strip()
