"""A tiny copy of the places bash's source comes from: a two-file "bash", served over HTTP with faults on demand."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import http.server
import io
import os
import subprocess
import tarfile
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from shell_tool_release.lock import BashLock, DebianPlace, GitPlace, GnuPlace, LeftOut

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANIFEST = b"# files\nsupport\td\nMANIFEST\tf\nshell.c\t\tf\npatchlevel.h\tf\nsupport/run.sh\tf\t755\ndoc/FAQ\tf\n"
BASE = {
    "MANIFEST": MANIFEST,
    "shell.c": b"".join(b"int line_%d;\n" % number for number in range(30)),
    "patchlevel.h": b"#define PATCHLEVEL 0\n",
    "support/run.sh": b"#!/bin/sh\necho run\n",
}
NOT_SOURCE = {"doc/FAQ": b"questions\n", "autom4te.cache/requests": b"generated\n"}


def at_level(level: int) -> dict[str, bytes]:
    """Files of the tiny bash at a patch level: each patch changes one line and the level."""
    files = dict(BASE)
    for number in range(1, level + 1):
        files["shell.c"] = files["shell.c"].replace(b"line_%d;" % (number * 7), b"patched_%d;" % (number * 7))
        files["patchlevel.h"] = b"#define PATCHLEVEL %d\n" % number
    return files


def digest(files: dict[str, bytes]) -> str:
    """Tree hash, computed here from its definition and not by the code under test."""
    lines = [f"{hashlib.sha256(text).hexdigest()}  {path}\n" for path, text in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def official_patch(number: int) -> bytes:
    """Like GNU's: prose, then context diffs against the level before."""
    old, new = at_level(number - 1), at_level(number)
    text = f"BASH PATCH REPORT\n\nPatch-ID: bash53-{number:03d}\n\n"
    for path in ("shell.c", "patchlevel.h"):
        sides = (old[path].decode().splitlines(keepends=True), new[path].decode().splitlines(keepends=True))
        text += "".join(difflib.context_diff(*sides, f"../bash-5.3-patched/{path}", path, "2025-01-01", "2025-01-02"))
    return text.encode()


def archive(files: dict[str, bytes], compression: str = "gz") -> bytes:
    """A release archive of ``files`` and of some that are no source."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{compression}") as tar:  # type: ignore[call-overload]
        for path, text in sorted((NOT_SOURCE | files).items()):
            member = tarfile.TarInfo(f"bash-5.3/{path}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return stream.getvalue()


@dataclass(kw_only=True)
class Mirror:
    """Files by URL path, and faults: answers to give before the right one, per path."""

    files: dict[str, bytes]
    faults: dict[str, list[str]] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


class _Handler(http.server.BaseHTTPRequestHandler):
    mirror: Mirror

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.mirror.requests.append((self.path, wanted))
        text = self.mirror.files.get(self.path)
        faults = self.mirror.faults.get(self.path)
        fault = faults.pop(0) if faults else ""
        if fault.isdigit() or text is None:
            self.send_error(int(fault or 404))
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and fault != "no range" else 0
        if start >= len(text) > 0:
            self.send_error(416)
            return
        self._send(text, start, cut=fault == "cut")

    def _send(self, text: bytes, start: int, *, cut: bool) -> None:
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(text) - 1}/{len(text)}")
        self.send_header("Content-Length", str(len(text) - start))
        self.end_headers()
        body = text[start:]
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def serve(mirror: Mirror) -> Iterator[Mirror]:
    """Serve ``mirror`` on a port of its own; sets ``mirror.url``."""
    handler = type("Handler", (_Handler,), {"mirror": mirror})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    mirror.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield mirror
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def tiny_mirror() -> Mirror:
    """GNU's layout with the tiny bash and three official patches."""
    files = {"/gnu/bash/bash-5.3.tar.gz": archive(BASE)}
    for number in (1, 2, 3):
        files[f"/gnu/bash/bash-5.3-patches/bash53-{number:03d}"] = official_patch(number)
    return Mirror(files=files)


def tiny_lock(mirror: Mirror) -> BashLock:
    """A lock for the tiny bash: levels 1 and 3, places that lead nowhere but to ``mirror``."""
    prefix = "/gnu/bash/bash-5.3-patches/"
    hashes = {path: hashlib.sha256(text).hexdigest() for path, text in mirror.files.items()}
    return BashLock(
        version="5.3",
        level=3,
        epoch=1_700_000_000,
        trees={1: digest(at_level(1)), 3: digest(at_level(3))},
        left_out=(LeftOut(path="doc/", exception="", reason="test"),),
        gnu=GnuPlace(
            urls=(f"{mirror.url}/gnu/bash/",),
            archive="bash-5.3.tar.gz",
            sha256=hashes["/gnu/bash/bash-5.3.tar.gz"],
            patch_folder="bash-5.3-patches/",
            patches={path.removeprefix(prefix): value for path, value in hashes.items() if path.startswith(prefix)},
        ),
        git=GitPlace(urls=("file:///nonexistent/bash.git",), branch="master", commit="0" * 40, level=1),
        debian=DebianPlace(package="no-such-package", suites=(), patch="p{number}", archives={}, patch_archives={}),
    )


def git_repository(folder: Path, lock: BashLock) -> BashLock:
    """Make a git repository of the tiny bash, one commit a level; returns ``lock`` with it as its git place."""
    environ = dict(os.environ) | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    environ |= {
        f"GIT_{role}_{what}": "release@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, env=environ, check=True, capture_output=True)
        return done.stdout.decode().strip()

    folder.mkdir()
    git("init", "--quiet", "--initial-branch=master")
    commits = []
    for level in (1, 2, 3):
        for path, text in (NOT_SOURCE | at_level(level)).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(text)
        git("add", "--all")
        git("commit", "--quiet", "--message", f"level {level}")
        commits.append(git("rev-parse", "HEAD"))
    return replace(lock, git=replace(lock.git, urls=(folder.as_uri(),), commit=commits[0]))
