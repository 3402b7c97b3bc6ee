"""Tries the finished package as a user would: npm installs it, ``npx`` starts it, a real MCP client does a real job.

API::

    smoke(workspace, package, say, shells) -> Outcome   BuildError lists every step that was not as it should be
    job(shell) -> tuple[Step, ...]                      the steps, as data: the same for each shell
    measure_start(command, place, starts)               milliseconds from start to the answer of ``initialize``
    python -m shell_tool_release.smoke [--shell S ...]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp_types import ElicitResult, Request, RequestParams

from shell_tool_release import verified
from shell_tool_release.cache import file_sha256
from shell_tool_release.errors import BuildError, run_main
from shell_tool_release.npm import package_path
from shell_tool_release.variants import Shell
from shell_tool_release.workspace import find_workspace, host_platform

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from mcp.client.session import ClientRequestContext
    from mcp_types import CallToolResult, ElicitRequestParams

    from shell_tool_release.workspace import Workspace

COMMAND = "codex-shell-tool-mcp"
SHELLS: tuple[Shell, ...] = get_args(Shell)
STARTS = 3
NPX_STARTS = 2
"""How often the start is measured; the median is told. Most of npx's is npm's own."""

GOAL_MS = 700
"""What the start is to stay under; told beside the measurement, not asserted: it depends on what else runs here."""

RULES = """\
prefix_rule(pattern=["git", ["add", "commit"]], decision="allow")
prefix_rule(pattern=["git", ["init", "clean"]], decision="prompt")
prefix_rule(pattern=["git", "push"], decision="forbidden", justification="a person pushes")
"""

LEAKS = ("LD_LIBRARY_PATH", "DYLD_", "_PYI_", "_MEIPASS", "PYTHON", "BASH_EXEC_WRAPPER")
"""Variables, or beginnings of their names, that only the frozen server can have put into a command's environment."""

Answer = Literal["accept", "decline"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One tool call and what must come of it.

    Attributes:
        command: The script.
        output: Pattern that the whole output matches.
        exit_code: The script's status.
        actions: Each decision told in the result: ``escalate`` or ``deny`` (what is simply run is not told).
        answer: What the user says when asked; ``None``: nobody may be asked.
    """

    command: str
    output: str
    exit_code: int = 0
    actions: tuple[str, ...] = ()
    answer: Answer | None = None


_JOB: tuple[Step, ...] = (
    Step(command="git init --quiet . && ls -d .git", output=r"\.git\n", actions=("escalate",), answer="accept"),
    Step(
        command="echo one > file && git add file && git commit --quiet -m 'first commit'",
        output="",
        actions=("escalate", "escalate"),
    ),
    Step(command="git log --format=%s | head -n 1", output="first commit\n"),
    Step(command="printf 'b\\na\\nb\\n' | sort | uniq -c | tr -s ' '", output=" 1 a\n 2 b\n"),
    Step(command="echo 'echo script got $1' > script && chmod +x script && ./script this", output="script got this\n"),
    Step(
        command="git push; echo status $?",
        output=r"Execution denied: .*a person pushes\nstatus 1\n",
        actions=("deny",),
    ),
    Step(
        command="touch keep && git clean -fdx; echo status $?; ls keep",
        output=r"Execution denied: .*\nstatus 1\nkeep\n",
        actions=("deny",),
        answer="decline",
    ),
    Step(command="exit 3", output="", exit_code=3),
    Step(command="env | cut -d= -f1 | grep -E '^(" + "|".join(LEAKS) + ")'", output="", exit_code=1),
    Step(command="sleep 30 & echo started", output="started\n"),
    Step(command='echo x >"$HOME/outside" || echo refused', output="(.*\n)+refused\n"),
)


def job(shell: Shell) -> tuple[Step, ...]:
    """What is done in a session of ``shell``; the first step shows that it is that shell."""
    shows = Step(command='echo "${BASH_VERSION:+bash}${ZSH_VERSION:+zsh}"', output=f"{shell}\n")
    return (shows, *_JOB)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of one step; ``problems`` is empty if it was as it should be."""

    step: Step
    exit_code: int | None
    output: str
    decisions: tuple[Mapping[str, str], ...]
    asked: tuple[str, ...]
    sandbox: Mapping[str, Any]
    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The whole trial; times are milliseconds from start to the answer of ``initialize``."""

    results: tuple[Result, ...]
    npx_ms: tuple[float, ...]
    direct_ms: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Place:
    """The folders of one trial: nothing of the user's own is read or changed."""

    root: Path
    installed: Path = field(init=False)
    home: Path = field(init=False)

    def __post_init__(self) -> None:
        for name in ("installed", "home"):
            object.__setattr__(self, name, self.root / name)

    def repository(self, shell: Shell) -> Path:
        """Where the job of ``shell`` is done."""
        return self.root / f"repository-{shell}"

    def environ(self) -> dict[str, str]:
        """What the server is started with: the user's PATH and nothing else of theirs."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.home),
            "CODEX_HOME": str(self.home / ".codex"),
            "LANG": "C.UTF-8",
            "npm_config_cache": str(self.root / "npm-cache"),
            "npm_config_update_notifier": "false",
        }


def smoke(
    workspace: Workspace, package: Path, say: Callable[[str], object], shells: Sequence[Shell] = SHELLS
) -> Outcome:
    """Install ``package`` into an empty folder, do the job of each of ``shells`` there and measure the start.

    Raises:
        BuildError: npm failed, or a step was not as it should be; every such step is listed.
    """
    place = prepare(workspace.build / "smoke")
    _install(place, package)
    results = _do_jobs(place, f"the package {package.name}", say, shells)
    launcher = place.installed / "node_modules" / ".bin" / COMMAND
    return Outcome(
        results=results,
        npx_ms=measure_start(["npx", COMMAND], place, NPX_STARTS),
        direct_ms=measure_start([str(launcher)], place, STARTS),
    )


def _do_jobs(place: Place, what: str, say: Callable[[str], object], shells: Sequence[Shell]) -> tuple[Result, ...]:
    """The job of each shell, side by side, through ``npx``; said in the order of ``shells``."""
    said: dict[Shell, list[str]] = {shell: [] for shell in shells}
    with ThreadPoolExecutor(len(shells)) as pool:
        jobs = [pool.submit(do_job, place, ["npx", COMMAND], said[shell].append, what, shell) for shell in shells]
    for text in itertools.chain(*said.values()):
        say(text)
    failed = [error for job in jobs if (error := job.exception()) is not None]
    if len(failed) > 1 and all(isinstance(error, BuildError) for error in failed):
        raise BuildError("\n".join(map(str, failed)))
    return tuple(itertools.chain(*(job.result() for job in jobs)))


def do_job(
    place: Place, command: Sequence[str], say: Callable[[str], object], what: str, shell: Shell = SHELLS[0]
) -> tuple[Result, ...]:
    """Do the job of ``shell``, in an empty repository, through the server that ``command`` starts.

    The first of :data:`SHELLS` is asked for by no option: it must be what the server uses of itself.

    Raises:
        BuildError: A step was not as it should be; every such step is listed, after the name ``what``.
    """
    _empty(place.repository(shell))
    options = [] if shell == SHELLS[0] else ["--shell", shell]
    results = asyncio.run(_run_job(place, [*command, *options], shell))
    say(f"A session of {shell}:\n{transcript(results)}")
    bad = [f"  {result.step.command}\n    {problem}" for result in results for problem in result.problems]
    if bad:
        raise BuildError("\n".join([f"{what} does not do its job with {shell}:", *bad]))
    return results


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def prepare(root: Path) -> Place:
    """Make the folders of a trial anew below ``root``."""
    shutil.rmtree(root, ignore_errors=True)
    place = Place(root=root)
    for folder in (place.installed, place.home / ".codex" / "rules"):
        folder.mkdir(parents=True)
    (place.home / ".codex" / "rules" / "smoke.rules").write_text(RULES, encoding="utf-8")
    identity = "[user]\n\tname = smoke test\n\temail = smoke-test@invalid\n[init]\n\tdefaultBranch = main\n"
    (place.home / ".gitconfig").write_text(identity, encoding="utf-8")
    return place


def _install(place: Place, package: Path) -> None:
    """``--offline``: a package without dependencies needs no registry, and must never start to need one.

    By a lock: without one npm unpacks the package twice before it installs it, to look what it is.
    """
    for name, value in _lock(package).items():
        (place.installed / name).write_text(json.dumps(value), encoding="utf-8")
    command = ["npm", "ci", "--offline", "--no-audit", "--no-fund", "--loglevel", "error"]
    done = subprocess.run(
        command, cwd=place.installed, env=place.environ(), capture_output=True, check=False, text=True
    )
    if done.returncode:
        raise BuildError(f"npm could not install {package} (status {done.returncode}):\n{done.stdout}{done.stderr}")


def _lock(package: Path) -> dict[str, object]:
    """What a project that needs the package consists of: its ``package.json`` and ``package-lock.json`` (npm's pages of
    these names); npm itself compares the package with the hash."""
    try:
        with tarfile.open(package, "r:gz") as archive:
            member = archive.extractfile("package/package.json")
            described = json.load(member) if member is not None else {}
        name, version = described["name"], described["version"]
        digest = hashlib.sha512(package.read_bytes()).digest()
    except (OSError, EOFError, tarfile.TarError, KeyError, ValueError) as error:
        raise BuildError(f"npm could not install {package}, which is no package: {error}; run: ./run pack") from error
    project = {"dependencies": {name: f"file:{package}"}}
    locked = {
        "version": version,
        "resolved": f"file:{package}",
        "integrity": f"sha512-{base64.b64encode(digest).decode()}",
        **{key: described[key] for key in ("bin", "engines", "os", "cpu") if key in described},
    }
    lock = {"lockfileVersion": 3, "packages": {"": project, f"node_modules/{name}": locked}}
    return {"package.json": project, "package-lock.json": lock}


async def _run_job(place: Place, command: Sequence[str], shell: Shell) -> tuple[Result, ...]:
    """One session of ``shell`` with the server that ``command`` starts, all steps in turn."""
    repository = place.repository(shell)
    answers: list[Answer | None] = [None]
    asked: list[str] = []

    async def on_question(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:  # noqa: ARG001
        asked.append(params.message)
        return ElicitResult(action=answers[0] or "cancel")

    program, *arguments = command
    server = StdioServerParameters(command=program, args=arguments, env=place.environ(), cwd=place.installed)
    async with (
        stdio_client(server) as (read, write),
        ClientSession(read, write, read_timeout_seconds=60, elicitation_callback=on_question) as session,
    ):
        await session.initialize()
        await session.send_request(_sandbox_state(repository), RequestParams)
        results = []
        for step in job(shell):
            answers[0] = step.answer
            asked.clear()
            call = {"command": step.command, "workdir": str(repository), "login": False}
            called = await session.call_tool("shell", call)
            results.append(_judge(step, called, tuple(asked)))
        return tuple(results)


class _StateParams(RequestParams, extra="allow"):
    """The state as a plain object."""


def _sandbox_state(repository: Path) -> Request[_StateParams, str]:
    """Scripts may write in the repository only, not even in the folders for temporary files, and reach no network."""
    policy = {
        "type": "workspace-write",
        "network_access": False,
        "exclude_tmpdir_env_var": True,
        "exclude_slash_tmp": True,
    }
    params = _StateParams.model_validate({"sandboxPolicy": policy, "sandboxCwd": str(repository)})
    return Request[_StateParams, str](method="codex/sandbox-state/update", params=params)


def _judge(step: Step, called: CallToolResult, asked: tuple[str, ...]) -> Result:
    text = "".join(part.text for part in called.content if part.type == "text")
    if called.is_error:
        problems = (f"the call failed: {text}",)
        return Result(step=step, exit_code=None, output=text, decisions=(), asked=asked, sandbox={}, problems=problems)
    value = json.loads(text)
    decisions = tuple(value.get("decisions", ()))
    actions = tuple(decision["action"] for decision in decisions)
    checks = {
        f"exit code {value['exit_code']}, not {step.exit_code}": value["exit_code"] == step.exit_code,
        f"output {value['output']!r}, not {step.output!r}": re.fullmatch(step.output, value["output"]) is not None,
        f"decisions {actions}, not {step.actions}": actions == step.actions,
        f"asked {len(asked)} times: {asked}": len(asked) == (0 if step.answer is None else 1),
    }
    return Result(
        step=step,
        exit_code=value["exit_code"],
        output=value["output"],
        decisions=decisions,
        asked=asked,
        sandbox=value.get("sandbox", {}),
        problems=tuple(problem for problem, holds in checks.items() if not holds),
    )


def transcript(results: Sequence[Result]) -> str:
    """What was run, what was decided by which rule, and what came of it."""
    lines = []
    for result in results:
        lines.append(f"$ {result.step.command}")
        for decision in result.decisions:
            rule = decision.get("rule", "no rule")
            lines.append(f"    {decision['action']:<9} {decision['command']}   [{rule}]")
        if not result.decisions:
            lines.append("    run       in the sandbox   [no rule]")
        lines += [f"    asked     {question}   [{result.step.answer}]" for question in result.asked]
        lines.append(f"    exit {result.exit_code}")
        lines += [f"    | {line}" for line in result.output.splitlines()]
    sandbox = json.dumps(dict(results[0].sandbox), sort_keys=True) if results else "{}"
    return "\n".join([*lines, f"sandbox: {sandbox}"])


def measure_start(command: Sequence[str], place: Place, starts: int) -> tuple[float, ...]:
    """Milliseconds from start to the answer of ``initialize``, ``starts`` times."""
    return tuple(_one_start(command, place) for _ in range(starts))


def _one_start(command: Sequence[str], place: Place) -> float:
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "smoke", "version": "1"}}
    request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client}
    started = time.perf_counter()
    with subprocess.Popen(
        command, cwd=place.installed, env=place.environ(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        # A server that ended at once reads nothing; what it said instead is told below.
        with suppress(BrokenPipeError):
            server.stdin.write(json.dumps(request).encode() + b"\n")
            server.stdin.flush()
        answer = server.stdout.readline()
        seconds = time.perf_counter() - started
        with suppress(BrokenPipeError):
            server.stdin.close()
        server.wait(30)
    if b'"serverInfo"' not in answer:
        raise BuildError(f"{' '.join(command)} did not answer initialize but said {answer!r}")
    return seconds * 1000


def times(name: str, milliseconds: Sequence[float]) -> str:
    """One line: median and range."""
    low, middle, high = min(milliseconds), statistics.median(milliseconds), max(milliseconds)
    return f"start to initialize, {name}: {middle:.0f} ms ({low:.0f} to {high:.0f}, {len(milliseconds)} times)"


def _shells(argv: Sequence[str] | None) -> tuple[Shell, ...]:
    parser = argparse.ArgumentParser(prog="python -m shell_tool_release.smoke", description=__doc__.splitlines()[0])
    parser.add_argument("--shell", action="append", choices=SHELLS, help="only these shells (default: each)")
    asked = parser.parse_args(argv).shell or SHELLS
    return tuple(shell for shell in SHELLS if shell in asked)


def main(argv: Sequence[str] | None = None) -> None:
    """Try the package in ``dist/npm`` and print the transcripts and the times."""
    shells = _shells(argv)
    workspace = find_workspace()
    package = package_path(workspace)
    if not package.exists():
        raise BuildError(f"{package} is not there; run: ./run pack")
    outcome = smoke(workspace, package, print, shells)
    sys.stdout.write(f"{times('direct', outcome.direct_ms)}; the goal is {GOAL_MS} ms\n")
    sys.stdout.write(f"{times('npx', outcome.npx_ms)}\n")
    verified.note(file_sha256(package), f"{platform.system()} {platform.machine()}: npm and npx")
    done = f"{len(outcome.results)} steps as they should be, by {' and '.join(shells)}"
    sys.stdout.write(f"{done}, on {host_platform()}: {package.name}\n")


if __name__ == "__main__":
    sys.exit(run_main(main))
