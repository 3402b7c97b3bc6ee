"""Publishes the real package to a registry of its own, the way the release workflow does, and uses it from there.

API::

    check(workspace, package, say)      BuildError at the first thing that is not as it should be

verdaccio keeps the packages, a stand-in gives the identity and exchanges it (``standin.py``), and what publishes is
``publish.py``, copied beside the tarball, with node 24's npm. No token is anywhere. Nothing leaves the machine.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mcp import ClientSession, StdioServerParameters, stdio_client

from shell_tool_release import publish
from shell_tool_release.cache import cache_root
from shell_tool_release.errors import BuildError, run_main
from shell_tool_release.npm import TarMember, package_path, tarball
from shell_tool_release.registry import Registry, node_tools, npm_environ
from shell_tool_release.standin import Fault, Publisher, StandIn, claims_of
from shell_tool_release.versions import npm_version
from shell_tool_release.workspace import find_workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shell_tool_release.workspace import Workspace

WORKFLOW = "release.yml"
ENVIRONMENT = "npm"
"""The workflow file that publishes and the environment of its job: what the trusted publisher of the package names."""

_SECONDS = 300.0
_CALL_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Said:
    """How a program ended and all it said."""

    status: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The registry, the stand-in before it, and the folders of one check."""

    registry: Registry
    service: StandIn
    tools: Path
    root: Path
    say: Callable[[str], object]
    steps: list[str] = field(default_factory=list)

    def environ(self, registry: str) -> dict[str, str]:
        """npm's environment, which reads nothing of this machine's settings."""
        home = self.root / "home"
        home.mkdir(exist_ok=True)
        # npm would wait for ten seconds and try again by itself; what is checked here is who tries again above it.
        return {**npm_environ(self.tools, home, registry), "HOME": str(home), "npm_config_fetch_retries": "0"}

    def publish(self, path: Path, tag: str, *options: str, sha256: str | None = None) -> Said:
        """Run ``publish.py`` as the workflow does: a file of its own, beside the tarball, in a job with an identity."""
        script = path.parent / "publish.py"
        shutil.copyfile(publish.__file__, script)
        command = [sys.executable, "-I", str(script), str(path), "--release-tag", tag, "--pause", "0.2"]
        command += ["--sha256", sha256 or hashlib.sha256(path.read_bytes()).hexdigest(), "--patience", "20", *options]
        return run(command, {**self.environ(self.service.url), **self.service.environ()}, path.parent)

    def count(self, kind: str) -> int:
        """How many requests of that kind there were so far."""
        return sum(request.kind == kind for request in self.service.requests)

    def done(self, text: str) -> None:
        """Say that a step was as it should be."""
        self.steps.append(text)
        self.say(f"ok   {text}")


def run(command: Sequence[str], environ: Mapping[str, str], folder: Path) -> Said:
    """Run a program to its end, with its whole output as text."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=_SECONDS,
        check=False,
    )
    return Said(status=done.returncode, text=done.stdout)


def rewritten(package: Path, version: str, folder: Path) -> Path:
    """Write the same package under another version into ``folder``; lightly compressed, which is quick."""
    target = folder / f"{publish.NAME}-npm-{version}.tgz"
    with (
        tarfile.open(package) as source,
        gzip.open(target, "wb", compresslevel=1) as stream,
        tarfile.open(fileobj=stream, mode="w") as copy,
    ):
        for member in source:
            content = source.extractfile(member)
            data = content.read() if content else b""
            if member.name == "package/package.json":
                data = json.dumps({**json.loads(data), "version": version}).encode()
                member.size = len(data)
            copy.addfile(member, io.BytesIO(data))
    return target


def small(version: str, folder: Path, text: str = "") -> Path:
    """Write a package of the same name with next to nothing in it, where only the way there is checked."""
    document = {"name": publish.NAME, "version": version, "description": text}
    target = folder / f"{publish.NAME}-npm-{version}.tgz"
    target.write_bytes(tarball([TarMember(name="package.json", data=json.dumps(document).encode())]))
    return target


def check(workspace: Workspace, package: Path, say: Callable[[str], object]) -> None:
    """Publish, install, repeat, tamper and fail; BuildError names the step and shows what was said."""
    version = npm_version(workspace.version)
    publisher = Publisher(
        package=publish.NAME, repository="owner/repository", workflow=WORKFLOW, environment=ENVIRONMENT
    )
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="publish-check-")))
        tools = node_tools(root / "tools")
        registry = stack.enter_context(Registry(workspace, cache_root(), root, tools))
        claims = claims_of(publisher, f"v{version}")
        service = stack.enter_context(StandIn(upstream=registry, publisher=publisher, claims=claims))
        trial = Trial(registry=registry, service=service, tools=tools, root=root, say=say)
        stable = Path(shutil.copy2(package, root)) if publish.npm_tag(version) == "latest" else None
        release = version.partition("-")[0]
        stable = stable or rewritten(package, release, root)
        _first_version(trial)
        _alpha(trial, rewritten(package, f"{release}-alpha.1", root), f"v{release}-alpha.1")
        _stable(trial, stable, f"v{release}")
        for tag, wanted in (("alpha", f"{release}-alpha.1"), ("latest", release)):
            _use(trial, tag, wanted)
        _refusals(trial, stable, release)
        _identities(trial, release)
        _bad_registry(trial, release)


def _first_version(trial: Trial) -> None:
    """Trusted publishing cannot make a package; a person does that once, with a name and nothing in it."""
    said = trial.publish(small("0.0.0-alpha.0", trial.root), "v0.0.0-alpha.0", "--publish")
    _expect(said, 4, "published by hand", "there is no such package yet")
    trial.done("a package that does not exist yet cannot be published by a workflow, and the error says so")
    bootstrap = small("0.0.0-bootstrap.0", trial.root)
    direct = f"http://127.0.0.1:{trial.registry.port}/"
    environ = trial.environ(direct)
    with Path(environ["npm_config_userconfig"]).open("a", encoding="utf-8") as settings:
        settings.write(f"{direct.removeprefix('http:')}:_authToken=a-person\n")  # verdaccio wants some word, any word
    _expect(run(["npm", "publish", str(bootstrap), "--tag", "bootstrap"], environ, trial.root), 0)


def _alpha(trial: Trial, path: Path, tag: str) -> None:
    said = trial.publish(path, tag)
    _expect(said, 0, "dry run: would publish")
    if trial.count("publish"):
        _fail("a dry run published", said)
    trial.done("without --publish nothing is sent")
    before = len(trial.service.requests)
    _expect(trial.publish(path, tag, "--publish"), 0, f"published {publish.NAME}@{tag[1:]} as alpha")
    _identity_was_exchanged(trial, before)
    trial.done(f"{tag}: the real package published as alpha with an exchanged identity, no token given")
    sent = trial.count("publish")
    said = trial.publish(path, tag, "--publish")
    _expect(said, 0, "already published with these bytes")
    if trial.count("publish") != sent:
        _fail("the second run sent the package again", said)
    trial.done(f"{tag} again: success, and nothing is sent")


def _identity_was_exchanged(trial: Trial, before: int) -> None:
    """In order: the identity for this registry, its exchange for this package, the package with what came of it."""
    made = [request for request in trial.service.requests[before:] if request.kind != "read"]
    problems = []
    if [request.kind for request in made] != ["identity", "exchange", "publish"]:
        problems.append("not one identity, one exchange and one publish")
    elif made[0].audience != "npm:127.0.0.1":
        problems.append(f"npm asked for an identity for {made[0].audience!r}")
    elif not made[1].path.endswith(f"/oidc/token/exchange/package/{publish.NAME}"):
        problems.append(f"npm exchanged at {made[1].path}")
    elif made[1].token.count(".") != 2 or made[2].token not in trial.service.issued:
        problems.append("what npm sent is not what it was given")
    if problems:
        raise BuildError(f"{problems[0]}: {[(request.method, request.path, request.status) for request in made]}")


def _stable(trial: Trial, path: Path, tag: str) -> None:
    """With a registry that is at odds with another publish at first, and then slow to show what it has."""
    trial.service.faults["publish"].append(Fault(status=409))
    trial.service.hide_after_publish = 2
    said = trial.publish(path, tag, "--publish")
    _expect(said, 0, "E409 (attempt 1", f"published {publish.NAME}@{tag[1:]} as latest")
    trial.done(f"{tag}: published as latest, though the registry answered 409 first and showed it late")


def _use(trial: Trial, tag: str, version: str) -> None:
    """A user's first call: npx fetches the package, starts the server, and a script runs in it."""
    home = trial.root / f"user-{tag}"
    home.mkdir()
    environ = {**npm_environ(trial.tools, home, trial.service.url), "HOME": str(home)}
    spec = f"{publish.NAME}@{tag}"
    value = asyncio.run(asyncio.wait_for(_call(["-y", spec], environ, home, f"echo used {tag}"), _CALL_SECONDS))
    documents = [json.loads(path.read_bytes()) for path in home.glob("npm-cache/_npx/*/node_modules/*/package.json")]
    if value["exit_code"] != 0 or value["output"] != f"used {tag}\n" or documents[0]["version"] != version:
        raise BuildError(f"npx {spec}: {documents} answered {value}")
    trial.done(f"npx {spec} is {version}, and its tool ran a script")


async def _call(arguments: list[str], environ: dict[str, str], folder: Path, command: str) -> dict[str, object]:
    server = StdioServerParameters(command="npx", args=arguments, env=environ, cwd=folder)
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        called = await session.call_tool("shell", {"command": command, "workdir": str(folder), "login": False})
        text = "".join(part.text for part in called.content if part.type == "text")
        if called.is_error:
            raise BuildError(f"the tool of npx {' '.join(arguments)} failed: {text}")
        value = json.loads(text)
        assert isinstance(value, dict)
        return value


def _refusals(trial: Trial, stable: Path, release: str) -> None:
    """None of these reaches the registry with a package."""
    sent = trial.count("publish")
    elsewhere = trial.root / "tampered"
    elsewhere.mkdir()
    other = small(release, elsewhere, "other bytes")
    built = hashlib.sha256(stable.read_bytes()).hexdigest()
    _expect(trial.publish(other, f"v{release}", "--publish", sha256=built), 3, "is not what was built")
    trial.done("a tarball swapped between the jobs is refused by its hash")
    _expect(trial.publish(other, f"v{release}", "--publish"), 3, "is published with other bytes")
    trial.done("other bytes under a published version are refused")
    _expect(trial.publish(stable, "v9.9.9", "--publish"), 3, "does not belong to the tag")
    for tag in (f"v{release}-beta.1", f"v{release}\n", release, f"v{release}-alpha", "v1.2", f"v{release}-alpha.01"):
        _expect(trial.publish(stable, tag, "--publish"), 3, "is neither vX.Y.Z nor vX.Y.Z-alpha.N")
    trial.done("tags of another version or form are refused")
    older = small("0.0.1", trial.root)
    _expect(trial.publish(older, "v0.0.1", "--publish"), 3, "would move back")
    trial.done("latest does not move back to an older version")
    if trial.count("publish") != sent:
        raise BuildError("a package that was refused was sent to the registry")


def _identities(trial: Trial, release: str) -> None:
    """Another workflow file or environment than the trusted publisher's gets no token, and the log says why."""
    path, tag = small(f"{release}-alpha.2", trial.root), f"v{release}-alpha.2"
    for name, value in (
        ("workflow_ref", "owner/repository/.github/workflows/shell-tool-mcp.yml@refs/tags/v1.2.3"),
        ("environment", "another"),
        ("repository", "another/repository"),
    ):
        right = trial.service.claims[name]
        trial.service.claims[name] = value
        said = trial.publish(path, tag, "--publish")
        trial.service.claims[name] = right
        _expect(said, 4, "no trusted publisher: ", "(ENEEDAUTH)", "to the letter")
    trial.done("another workflow, environment or repository gets no token, and npm's reason is in the log")


def _bad_registry(trial: Trial, release: str) -> None:
    """Errors of a registry are tried again, and believed only when the version is not there after them."""
    path, tag = small(f"{release}-alpha.3", trial.root), f"v{release}-alpha.3"
    trial.service.faults["publish"] += [Fault(status=503)] * 3
    _expect(trial.publish(path, tag, "--publish"), 4, "(attempt 3 of 3)", "could not be published (E503)")
    _expect(trial.publish(path, tag, "--publish"), 0, "published ")
    trial.done("a registry that is down fails the run, and the next run publishes")
    path, tag = small(f"{release}-alpha.4", trial.root), f"v{release}-alpha.4"
    trial.service.faults["publish"].append(Fault(status=500, taken=True))
    _expect(trial.publish(path, tag, "--publish"), 0, "the registry has it all the same", "published ")
    trial.done("an error for a version that was taken is success")
    path, tag = small(f"{release}-alpha.5", trial.root), f"v{release}-alpha.5"
    trial.service.faults["read"] += [Fault(status=502)] * 2
    _expect(trial.publish(path, tag, "--publish"), 0, "npm view", "published ")
    trial.done("a registry that cannot say what it has is asked again")


def _expect(said: Said, status: int, *texts: str) -> None:
    missing = [text for text in texts if text not in said.text]
    if said.status != status or missing:
        _fail(f"status {said.status} instead of {status}, without {missing}", said)


def _fail(problem: str, said: Said) -> NoReturn:
    raise BuildError(f"publish check: {problem}; it said:\n{said.text}")


def main() -> None:
    """Check with the package in ``dist/npm``."""
    workspace = find_workspace()
    package = package_path(workspace)
    if not package.exists():
        raise BuildError(f"{package} is not there; run: ./run pack")
    os.umask(0o022)
    check(workspace, package, lambda line: print(line, flush=True))
    print(f"published, installed and refused as it should be: {package.name}")


if __name__ == "__main__":
    sys.exit(run_main(main))
