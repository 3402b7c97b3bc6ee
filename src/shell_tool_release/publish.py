#!/usr/bin/env python3
"""Publishes one finished tarball to npm as a trusted publisher: checks it, looks whether it is there, sends it.

This file is all of it, and the standard library all it needs: it travels beside the tarball into a job that has no
checkout, and ``./run publish_check`` runs the same file against a registry of its own. Without ``--publish`` it is a
dry run.

API::

    npm_tag(version) -> "latest" | "alpha" | None       None: a version of that form is not published
    offer(path, sha256, release_tag) -> Offer           the checked tarball; RefusedError
    publish(offer, npm, timing, really) -> str          what came of it; RefusedError, RegistryError

::

    python3 publish.py codex-shell-tool-mcp-npm-1.2.3.tgz --sha256 HEX --release-tag v1.2.3 [--publish]

Running it again is safe: bytes that are already there are success, other bytes under the same version are an error.
Exit status: 0 done, 2 wrong options, 3 refused (running it again cannot help), 4 npm or the registry failed.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME = "codex-shell-tool-mcp"
"""The package."""

IDENTITY = ("ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN")
"""What GitHub gives a job with ``id-token: write``; npm asks for its identity with them (npm's lib/utils/oidc.js)."""

_NUMBER = "(?:0|[1-9][0-9]*)"
_STABLE = re.compile(rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})")
_ALPHA = re.compile(rf"{_STABLE.pattern}-alpha\.{_NUMBER}")
_SECRET = re.compile(r"(?i)(NODE_AUTH_TOKEN|NPM_TOKEN|NPM_ID_TOKEN|npm_config_.*(auth|password|otp).*)")
_CODE = re.compile(r"^npm (?:error|ERR!) code (\S+)$", re.MULTILINE)

_NETWORK = {"EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ENOTFOUND", "EPIPE", "ERR_SOCKET_TIMEOUT", "ETIMEDOUT"}
PASSING = {"E408", "E409", "E429", "E500", "E502", "E503", "E504", *_NETWORK, "TLOG_CREATE_ENTRY_ERROR", "TIMEOUT"}
"""npm's codes that another attempt may cure. 409: two publishes met, or the transparency log has the entry already."""

_PUBLISHER = (
    "the trusted publisher of the package must name this repository, workflow file and environment, to the letter"
)
ADVICE = {
    "E401": f"the registry did not accept the identity: {_PUBLISHER}",
    "E403": f"the registry does not allow this: {_PUBLISHER}, and allow `npm publish`",
    "E404": f"no such package, or the identity was not accepted: the first version is published by hand; {_PUBLISHER}",
    "E413": "the package is too large for the registry",
    "E422": "the provenance was refused: package.json must name the repository of this workflow, to the letter",
    "ENEEDAUTH": f"npm got no token, see `npm verbose oidc`; the first version is published by hand; {_PUBLISHER}",
}
"""What to look at, by npm's code."""


class PublishError(Exception):
    """Base; the text says what is wrong and what to do."""

    exit_code: ClassVar[int] = 1


class RefusedError(PublishError):
    """This tarball must not be published under this tag; running it again cannot help."""

    exit_code = 3


class RegistryError(PublishError):
    """npm or the registry failed; running it again may help and is safe."""

    exit_code = 4


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A checked tarball: its bytes, and under which version and npm tag they are to be known."""

    file: str
    data: bytes
    version: str
    tag: str

    @property
    def integrity(self) -> str:
        """What the registry says of these bytes (Subresource Integrity, SHA-512)."""
        return "sha512-" + base64.b64encode(hashlib.sha512(self.data).digest()).decode()


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How often and how long, in seconds; the defaults are for npm's own registry."""

    attempts: int = 3
    pause: float = 15.0  # before the second attempt; doubles
    patience: float = 300.0  # a version that was accepted can take minutes until it is shown
    look_seconds: float = 90.0
    publish_seconds: float = 900.0  # 50 MB over a slow line, and npm's own retries


@dataclass(frozen=True, kw_only=True)
class Done:
    """How an npm command ended; ``code`` is npm's error code, empty on success."""

    code: str
    output: str


def say(text: str) -> None:
    """One line for the log, at once."""
    print(f"publish: {text}", flush=True)


def npm_tag(version: str) -> str | None:
    """``X.Y.Z`` → ``latest``, ``X.Y.Z-alpha.N`` → ``alpha``; anything else is not published (None)."""
    if _STABLE.fullmatch(version):
        return "latest"
    return "alpha" if _ALPHA.fullmatch(version) else None


def offer(path: Path, sha256: str, release_tag: str) -> Offer:
    """Read the tarball once and check it against what the build job said; the same bytes are published later.

    Raises:
        RefusedError: Another hash, a tag whose versions are not published, or a tarball of another name or version.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RefusedError(f"{path} cannot be read ({error.strerror}); was the artefact downloaded?") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise RefusedError(f"{path.name} is not what was built: its SHA-256 is {found}, the build job said {sha256}")
    version = release_tag.removeprefix("v")
    tag = npm_tag(version)
    if release_tag != f"v{version}" or tag is None:
        raise RefusedError(f"the tag {release_tag!r} is neither vX.Y.Z nor vX.Y.Z-alpha.N; nothing is published for it")
    if path.name != f"{NAME}-npm-{version}.tgz":
        raise RefusedError(f"{path.name} does not belong to the tag {release_tag}")
    _check_package_json(_package_json(path.name, data), version)
    return Offer(file=path.name, data=data, version=version, tag=tag)


def _package_json(name: str, data: bytes) -> dict[str, Any]:
    """npm drops the top folder, whatever its name, and reads the last entry: two would be one for us, one for npm."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            found = [member for member in archive if PurePosixPath(member.name).parts[1:] == ("package.json",)]
            stream = archive.extractfile(found[0]) if len(found) == 1 else None
            document = json.loads(stream.read()) if stream else None
    except (tarfile.TarError, zlib.error, EOFError, ValueError, OSError) as error:
        raise RefusedError(f"{name} cannot be read as a package: {error}") from error
    if not isinstance(document, dict):
        raise RefusedError(f"{name} holds no single package.json")
    return document


def _check_package_json(document: Mapping[str, Any], version: str) -> None:
    said = document.get("name"), document.get("version")
    if said != (NAME, version):
        raise RefusedError(f"the package calls itself {said[0]}@{said[1]}, the tag says {NAME}@{version}")
    # npm takes where to publish to, and as what, from here; a package that runs scripts is not what was tested.
    if set(document.get("publishConfig") or {}) - {"access"} or "scripts" in document or document.get("private"):
        raise RefusedError("package.json has scripts, is private, or says where to publish to; it must not")


class Npm:
    """npm, run without any secret of this machine. It chooses the registry; no address stands here."""

    def __init__(self, timing: Timing, environ: Mapping[str, str]) -> None:
        self._timing = timing
        self._environ = {name: value for name, value in environ.items() if not _SECRET.fullmatch(name)}

    def integrity(self, version: str) -> str | None:
        """What the registry says of the bytes of ``version``; None if it has no such version."""
        found = self._look(f"{NAME}@{version}", "dist.integrity")
        return found if isinstance(found, str) and found else None

    def tagged(self, tag: str) -> str | None:
        """The version ``tag`` points to; None if to none."""
        found = self._look(NAME, "dist-tags")
        said = found.get(tag) if isinstance(found, dict) else None
        return said if isinstance(said, str) else None

    def _look(self, spec: str, field: str) -> Any:
        """``npm view``; None when the registry says 404, RegistryError when it says nothing of use time and again."""
        pause = self._timing.pause / 4
        for attempt in range(1, self._timing.attempts + 3):
            command = ["view", spec, field, "--json", "--loglevel", "silent"]
            done = self._run(command, self._timing.look_seconds, echo=False)
            if done.code == "E404":
                return None
            if not done.code:
                with suppress(ValueError):
                    return json.loads(done.output) if done.output.strip() else None
            say(f"npm view {spec} {field}: {done.code or 'no JSON'} (attempt {attempt})")
            time.sleep(pause)
            pause *= 2
        raise RegistryError(f"the registry does not say what it knows of {spec} ({done.code}); run this again later")

    def publish(self, path: Path, tag: str, *, really: bool) -> Done:
        """``npm publish`` of a file, which sends its bytes as they are and runs nothing of it."""
        # verbose: why a token exchange failed is said at no other level.
        options = ["--tag", tag, "--access", "public", "--loglevel", "verbose", "--ignore-scripts"]
        dry = [] if really else ["--dry-run"]
        return self._run(["publish", str(path), *options, *dry], self._timing.publish_seconds, echo=True)

    def _run(self, arguments: Sequence[str], seconds: float, *, echo: bool) -> Done:
        with tempfile.TemporaryDirectory() as empty:  # npm takes settings from the folder it is started in
            try:
                npm = subprocess.Popen(
                    ["npm", *arguments],
                    cwd=empty,
                    env=self._environ,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT if echo else None,
                    start_new_session=True,
                    encoding="utf-8",
                    errors="replace",
                )
            except OSError as error:
                raise RegistryError(f"npm cannot be started ({error.strerror}); the job must set up Node 24") from error
            return _attend(npm, seconds, echo=echo)


def _attend(npm: subprocess.Popen[str], seconds: float, *, echo: bool) -> Done:
    """Read what npm says until it ends, or end it; one that hangs must not hold up the job."""
    late = threading.Event()

    def end() -> None:
        late.set()
        with suppress(ProcessLookupError):
            os.killpg(npm.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, end)
    timer.start()
    lines = []
    assert npm.stdout is not None
    try:
        for line in npm.stdout:
            lines.append(line)
            if echo:
                print(line, end="", flush=True)
        npm.wait()
    finally:
        timer.cancel()
        if npm.poll() is None:
            end()
            npm.wait()
        npm.stdout.close()
    output = "".join(lines)
    return Done(code=_error_code(npm.returncode, output, late=late.is_set()), output=output)


def _error_code(status: int, output: str, *, late: bool) -> str:
    if status == 0:
        return ""
    if late:
        return "TIMEOUT"
    with suppress(ValueError, AttributeError):  # `npm view --json` puts its error there
        return str(json.loads(output)["error"]["code"])
    found = _CODE.findall(output)
    return found[-1] if found else f"status {status}"


def publish(what: Offer, npm: Npm, timing: Timing, *, really: bool) -> str:
    """Make ``what`` known under its version and tag, or with ``really`` false only find out whether that would work.

    Raises:
        RefusedError: The version is there with other bytes, or ``latest`` would move back.
        RegistryError: npm or the registry failed in a way that another attempt did not cure.
    """
    if _is_there(what, npm):
        return f"{NAME}@{what.version} is already published with these bytes; nothing to do"
    _check_order(what, npm)
    with tempfile.TemporaryDirectory() as private:
        path = Path(private) / what.file
        path.write_bytes(what.data)  # what was checked, whatever becomes of the file it was read from
        if not really:
            done = npm.publish(path, what.tag, really=False)
            if done.code:
                raise RegistryError(f"npm would not publish {what.file} ({done.code}); its reason stands above")
            return f"dry run: would publish {NAME}@{what.version} as {what.tag} ({what.integrity}); --publish does it"
        _send(what, path, npm, timing)
    _settle(what, npm, timing)
    return f"published {NAME}@{what.version} as {what.tag}"


def _is_there(what: Offer, npm: Npm) -> bool:
    """Whether the registry has exactly these bytes; RefusedError if it has others."""
    known = npm.integrity(what.version)
    if known is not None and known != what.integrity:
        raise RefusedError(
            f"{NAME}@{what.version} is published with other bytes ({known}, these are {what.integrity}); a version "
            "cannot be replaced: find out where it came from, and release a new one"
        )
    return known is not None


def _check_order(what: Offer, npm: Npm) -> None:
    """``latest`` must not move back: who installs without a version would get an older one."""
    ours, known = _STABLE.fullmatch(what.version), _STABLE.fullmatch(npm.tagged("latest") or "")
    if ours and known and tuple(map(int, ours.groups())) < tuple(map(int, known.groups())):
        raise RefusedError(f"`latest` is {known[0]}, newer than {what.version}; it would move back")


def _send(what: Offer, path: Path, npm: Npm, timing: Timing) -> None:
    """``npm publish`` until it worked, or until the registry has the bytes whatever npm said."""
    pause = timing.pause
    for attempt in range(1, timing.attempts + 1):
        done = npm.publish(path, what.tag, really=True)
        if not done.code:
            return
        say(f"npm publish: {done.code} (attempt {attempt} of {timing.attempts})")
        time.sleep(pause if attempt < timing.attempts or done.code in PASSING else 0)
        if _is_there(what, npm):  # registries answer errors for what they have taken (npm/cli#7376)
            say("the registry has it all the same")
            return
        if done.code not in PASSING:
            break
        pause *= 2
    advice = ADVICE.get(done.code, "npm's reason stands above; running this again is safe")
    raise RegistryError(f"{what.file} could not be published ({done.code}): {advice}")


def _settle(what: Offer, npm: Npm, timing: Timing) -> None:
    """Wait until the registry shows what it has accepted, under its tag."""
    deadline = time.monotonic() + timing.patience
    while not (_is_there(what, npm) and npm.tagged(what.tag) == what.version):
        if time.monotonic() > deadline:
            raise RegistryError(
                f"npm accepted {NAME}@{what.version}, but the registry has not shown it as {what.tag} for "
                f"{timing.patience:g} s; run this again later: it then only looks"
            )
        time.sleep(min(timing.pause / 3, 5.0))


def _identity(environ: Mapping[str, str]) -> None:
    """Publishing is done with the identity of a workflow and with nothing else."""
    if environ.get("GITHUB_ACTIONS") != "true" or not all(environ.get(name) for name in IDENTITY):
        raise RefusedError(
            "--publish works only in a GitHub job with the permission `id-token: write`; there is no other way to "
            "publish, but for the very first version (docs/releasing.md)"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Publish, or say what would be done; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tarball", type=Path)
    parser.add_argument("--sha256", required=True, help="what the build job said of the tarball")
    parser.add_argument("--release-tag", required=True, help="the git tag, vX.Y.Z or vX.Y.Z-alpha.N")
    parser.add_argument("--publish", action="store_true", help="do it; a dry run without")
    defaults = Timing()
    parser.add_argument("--pause", type=float, default=defaults.pause, help="seconds between attempts (%(default)s)")
    parser.add_argument("--patience", type=float, default=defaults.patience, help="seconds until shown (%(default)s)")
    options = parser.parse_args(argv)
    timing = Timing(pause=options.pause, patience=options.patience)
    try:
        what = offer(options.tarball, options.sha256, options.release_tag)
        if options.publish:
            _identity(os.environ)
        say(publish(what, Npm(timing, os.environ), timing, really=options.publish))
    except PublishError as error:
        sys.stdout.flush()
        print(f"publish: error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a cancelled job: npm is ended on the way out
    sys.exit(main())
