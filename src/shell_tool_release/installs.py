"""Installs the package in every way people do, with each package manager, and calls the tool each time.

API::

    WAYS                                      what is tried, as data
    try_all(workspace, package, say)          one Outcome for each
    python -m shell_tool_release.installs     the package in dist/npm/; a table at the end

npm 10, 11 and 12 and pnpm are locked in ``packaging/installers``. Everything happens below a folder whose name has
spaces and a letter that is not ASCII in it. The registry is one on loopback that holds nothing but the package;
``--offline`` makes npm and pnpm fail where they would ask it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from shell_tool_release import verified
from shell_tool_release.cache import cache_root, file_sha256
from shell_tool_release.errors import BuildError, run_main
from shell_tool_release.jobs import Job, results, run_jobs, table
from shell_tool_release.npm import package_path
from shell_tool_release.registry import Registry, installed, node_tools, npm_environ
from shell_tool_release.versions import npm_version
from shell_tool_release.workspace import cpu_count, find_workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from shell_tool_release.jobs import Outcome
    from shell_tool_release.workspace import Workspace

COMMAND = "codex-shell-tool-mcp"
FOLDER = "a folder with späces"
SECONDS = 180.0
"""For one command; npm takes a few seconds where nothing else runs."""

Manager = Literal["npm10", "npm11", "npm12", "pnpm"]


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to get from the package to a running server.

    Attributes:
        name: For people.
        managers: Those it is tried with.
        steps: Commands that come first, with the registry there.
        start: The command that is the server.

    ``{file}``, ``{version}``, ``{prefix}`` are put in; ``npm`` and ``pnpm`` are the manager's own.
    """

    name: str
    managers: tuple[Manager, ...]
    steps: tuple[tuple[str, ...], ...]
    start: tuple[str, ...]


_NPM: tuple[Manager, ...] = ("npm10", "npm11", "npm12")
_PNPM: tuple[Manager, ...] = ("pnpm",)
_BIN = f"./node_modules/.bin/{COMMAND}"
_NAMED = f"{COMMAND}@{{version}}"

WAYS: tuple[Way, ...] = (
    Way(name="npx", managers=_NPM, steps=(), start=("npx", "--yes", _NAMED)),
    Way(name="npx, a file", managers=_NPM, steps=(), start=("npx", "--yes", "--package={file}", COMMAND)),
    Way(
        name="global",
        managers=_NPM,
        steps=(("npm", "install", "--global", "--prefix", "{prefix}", "{file}"),),
        start=(f"{{prefix}}/bin/{COMMAND}",),
    ),
    Way(name="node_modules/.bin", managers=_NPM, steps=(("npm", "install", "{file}"),), start=(_BIN,)),
    Way(name="npm exec", managers=_NPM, steps=(("npm", "install", _NAMED),), start=("npm", "exec", "--", COMMAND)),
    Way(
        name="offline, from the cache",
        managers=_NPM,
        steps=(("npm", "install", _NAMED), ("rm", "-r", "node_modules"), ("npm", "install", "--offline", _NAMED)),
        start=(_BIN,),
    ),
    # The first start has no input, so the server ends at once; npm asks for more of a package here than to install it.
    Way(
        name="npx, offline",
        managers=_NPM,
        steps=(("npx", "--yes", _NAMED),),
        start=("npx", "--offline", "--yes", _NAMED),
    ),
    Way(name="dlx", managers=_PNPM, steps=(), start=("pnpm", "dlx", _NAMED)),
    Way(name="global", managers=_PNPM, steps=(("pnpm", "add", "--global", "{file}"),), start=(COMMAND,)),
    Way(name="node_modules/.bin", managers=_PNPM, steps=(("pnpm", "add", "{file}"),), start=(_BIN,)),
    Way(name="pnpm exec", managers=_PNPM, steps=(("pnpm", "add", _NAMED),), start=("pnpm", "exec", COMMAND)),
    Way(
        name="offline, from the store",
        managers=_PNPM,
        steps=(("pnpm", "add", _NAMED), ("rm", "-r", "node_modules"), ("pnpm", "install", "--offline")),
        start=(_BIN,),
    ),
)


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """What all trials of one manager share: its programs, and where they may write."""

    tools: Path
    home: Path
    file: Path
    version: str
    registry: str

    def words(self, command: Sequence[str]) -> list[str]:
        """A way's command with what is particular to this run."""
        put_in = {"file": str(self.file), "version": self.version, "prefix": str(self.home / "prefix")}
        return [word.format(**put_in) for word in command]

    def environ(self) -> dict[str, str]:
        """Nothing of this machine's own settings; ``HOME`` and all caches are below the trial's folder."""
        made = npm_environ(self.tools, self.home, self.registry)
        pnpm_home = str(self.home / "pnpm-home")
        more = {"HOME": str(self.home), "PNPM_HOME": pnpm_home, "XDG_DATA_HOME": str(self.home / "data")}
        more |= {"XDG_CACHE_HOME": str(self.home / "xdg"), "CODEX_HOME": str(self.home / ".codex"), "CI": "true"}
        return {**made, **more, "PATH": f"{self.tools}:{pnpm_home}:{os.environ.get('PATH', os.defpath)}"}


def try_all(workspace: Workspace, package: Path, say: Callable[[str], None]) -> tuple[Outcome[str], ...]:
    """Try every way with every manager it is for; an outcome's result is what the tool answered."""
    root = workspace.build / "installs" / FOLDER
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    file = root / package.name
    shutil.copyfile(package, file)
    node = node_tools(root / "node")
    cache = cache_root()
    managers = installed(workspace.root / "packaging" / "installers", cache, root, node)
    version = npm_version(workspace.version)
    with Registry(workspace, cache, root, node) as registry:
        url = f"http://127.0.0.1:{registry.port}"
        _publish(node, root, file, version, url)
        jobs = []
        for manager in (*_NPM, *_PNPM):
            tools = _tools(root / manager / "tools", node, managers / "node_modules" / manager)
            for number, way in enumerate(way for way in WAYS if manager in way.managers):
                home = root / manager / str(number)
                setting = _Setting(tools=tools, home=home, file=file, version=version, registry=url)
                jobs.append(Job(name=f"{manager}: {way.name}", run=partial(_try, way, setting)))
        return run_jobs(jobs, workers=cpu_count(), keep_going=True, say=say)


def _publish(node: Path, root: Path, file: Path, version: str, url: str) -> None:
    environ = npm_environ(node, root, url)
    with (root / "npmrc").open("a", encoding="utf-8") as settings:
        settings.write(f"//{url.partition('//')[2]}/:_authToken=anything\n")  # the registry takes any, npm sends none
    tag = ["--tag", "alpha"] if "-" in version else []
    _run([str(node / "npm"), "publish", str(file), "--loglevel", "error", *tag], environ, root)


def _tools(folder: Path, node: Path, manager: Path) -> Path:
    """A folder for PATH with node and one manager's programs."""
    folder.mkdir(parents=True)
    (folder / "node").symlink_to((node / "node").resolve())
    scripts = {"pnpm": "pnpm.cjs"} if manager.name == "pnpm" else {"npm": "npm-cli.js", "npx": "npx-cli.js"}
    for name, script in scripts.items():
        program = folder / name
        words = shlex.join([str(folder / "node"), str(manager / "bin" / script)])
        program.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    return folder


def _try(way: Way, setting: _Setting) -> str:
    """Do a way's steps and call the tool; BuildError says what did not work."""
    project = setting.home / "project"
    (setting.home / ".codex").mkdir(parents=True)
    project.mkdir()
    (project / "package.json").write_text('{"name": "project", "private": true}\n', encoding="utf-8")
    for step in way.steps:
        _run(setting.words(step), setting.environ(), project)
    return call(setting.words(way.start), project, setting.environ())


def _run(command: Sequence[str], environ: Mapping[str, str], folder: Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"{shlex.join(command)}: status {done.returncode}\n{done.stdout[-2000:]}")


def call(command: Sequence[str], folder: Path, environ: Mapping[str, str]) -> str:
    """Start a server, call its tool once, end its input, and return what the tool's command printed.

    Raises:
        BuildError: It said something else than the protocol, answered otherwise, or did not end with its input.
    """
    told = folder / "stderr.txt"
    with (
        told.open("wb") as errors,
        subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environ),
            executable=shutil.which(command[0], path=environ["PATH"]) or str(folder / command[0]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        ) as server,
    ):
        watchdog = threading.Timer(SECONDS, _end, (server.pid,))
        watchdog.start()
        try:
            said = _talk(server)
        finally:
            watchdog.cancel()
    try:
        text = json.loads(said[-1])["result"]["content"][0]["text"]
        return str(json.loads(text)["output"]).strip()
    except (ValueError, KeyError, IndexError, TypeError) as error:
        why = told.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise BuildError(f"{shlex.join(command)} answered {said} and said {why!r}") from error


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _talk(server: subprocess.Popen[bytes]) -> list[bytes]:
    """Everything on standard output up to the answer to the call; what is no JSON ends it as well."""
    assert server.stdin is not None
    assert server.stdout is not None
    said: list[bytes] = []
    with suppress(BrokenPipeError), server.stdin:  # one that ended at once reads nothing; what it said is told
        server.stdin.write(_conversation())
        server.stdin.flush()
        for line in server.stdout:
            said.append(line)
            if not line.startswith(b"{") or json.loads(line).get("id") == 2:
                break
    server.wait()
    return said


SCRIPT = "echo $((6 * 7)) in $BASH_VERSION"
ANSWER = "42 in 5.3"


def _conversation() -> bytes:
    """All a client says."""
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "installs", "version": "1"}}
    arguments = {"command": SCRIPT, "workdir": "/", "login": False}
    messages: tuple[dict[str, Any], ...] = (
        {"id": 1, "method": "initialize", "params": client},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {"name": "shell", "arguments": arguments}},
    )
    return "".join(json.dumps({"jsonrpc": "2.0", **message}) + "\n" for message in messages).encode()


def main() -> None:
    """Try the package in ``dist/npm`` in every way and print what came of each."""
    workspace = find_workspace()
    package = package_path(workspace)
    if not package.exists():
        raise BuildError(f"{package} is not there; run: ./run pack")
    outcomes = try_all(workspace, package, lambda text: print(text, file=sys.stderr))
    rows = [("manager", "way", "seconds", "answer")]
    for outcome in outcomes:
        manager, _, way = outcome.name.partition(": ")
        rows.append((manager, way, f"{outcome.seconds:.1f}", outcome.result or "FAILED"))
    sys.stdout.write(f"{table(rows)}\n")
    wrong = [outcome.name for outcome in outcomes if not (outcome.result or ANSWER).startswith(ANSWER)]
    results(outcomes)
    if wrong:
        raise BuildError(f"answered otherwise than {ANSWER!r}: {', '.join(wrong)}")
    verified.note(file_sha256(package), "npm 10, 11, 12 and pnpm")


if __name__ == "__main__":
    sys.exit(run_main(main))
