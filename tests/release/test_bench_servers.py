"""The benchmark's client and its servers: ours for a tiny loop, made-up ones that misbehave, and npm."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench import client as client_module
from bench import contenders, options, peer
from bench.__main__ import README
from bench.client import Client, Script
from bench.errors import BenchError
from bench.loops import LOOPS
from bench.measure import Plan, measure
from bench.subjects import Served, environment
from codex_shell_tool_mcp.sandbox.probe import host_support
from release.conftest import cannot
from shell_tool_release.workspace import Workspace, find_workspace
from support.built import built

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shell_tool_release.npm import Package

# --- ours ---


@pytest.fixture(scope="module")
def ours(workspace: Workspace) -> list[str]:
    """The command that starts this checkout's server."""
    python = Path(sys.executable)
    return contenders.server_command(python, workspace.root, contenders.built_programs(python, workspace.root))


@pytest.fixture
def confinement() -> None:
    """Skip where the kernel has no Landlock, unless CODEX_TEST_MUST_WORK is set."""
    support = host_support(built().supervisor)
    if sys.platform == "linux" and (support is None or support.landlock_abi <= 0):
        cannot("this kernel has no Landlock")


def test_it_drives_our_server(tmp_path: Path, ours: list[str]) -> None:
    """Tiny loops, side by side with its bash: run, escalated, a call, four at once, many by xargs."""
    loops = [
        replace(loop, quick=2, calls=1)
        for loop in LOOPS
        if loop.name in {"run", "escalate", "call", "parallel", "xargs"}
    ]
    with ExitStack() as stack:
        entrants = contenders.start({"ours": ours}, tmp_path, stack, confined=False)
        plan = Plan(entrants=entrants, loops=loops, rounds=1, quick=True, source=None, scratch=tmp_path)
        measured = measure(plan, lambda _: None)
    assert {(sample.loop, sample.subject) for sample in measured.samples} == {
        (loop.name, subject) for loop in loops for subject in ("plain", "ours")
    }
    assert sys.platform != "linux" or None not in {sample.processor for sample in measured.samples}
    assert entrants["ours"].bash == entrants["plain"].bash == built().bash


def test_it_measures_our_sandbox_too(tmp_path: Path, confinement: None, ours: list[str]) -> None:
    with ExitStack() as stack:
        entrants = contenders.start({"ours": ours}, tmp_path, stack, confined=True)
        assert list(entrants) == ["ours", "plain", "ours confined"]
        confined = entrants["ours confined"].subject
        for writes, status in ((True, 0), (False, 1)):
            confined.prepare(tmp_path, writes=writes)
            (answer,) = confined.run([Script(text="echo x 2>/dev/null >file", folder=tmp_path)])
            assert answer.exit_code == status


@pytest.mark.parametrize("rules", ["", 'prefix_rule(pattern=["true"], decision="forbidden")'])
def test_a_server_that_does_something_else_is_not_measured(tmp_path: Path, ours: list[str], rules: str) -> None:
    home = contenders.prepare_home(tmp_path)
    (home / ".codex" / "rules" / "default.rules").write_text(rules)
    with (
        Client.start(ours, environment(home), tmp_path) as client,
        pytest.raises(BenchError, match="does not do what is to be measured"),
    ):
        Served(client=client).check(home)


def test_a_checkout_without_an_environment_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="has no environment yet"):
        contenders.from_sources(tmp_path)


def test_programs_that_cannot_be_built_are_told_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="No module named 'shell_tool_release'"):
        contenders.built_programs(Path(sys.executable), tmp_path)


def test_a_package_that_is_not_there_is_told_with_the_way_to_it(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"\./run pack"):
        contenders.our_command(options.parse([]), Workspace(root=_checkout(tmp_path)), tmp_path)


def _checkout(folder: Path) -> Path:
    (folder / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    return folder


def _bench(packed: tuple[Workspace, Package], scratch: Path, *arguments: str) -> subprocess.Popen[str]:
    """The program itself, in this checkout, measuring the package, with ``scratch`` for all it writes."""
    if shutil.which("npm") is None:
        cannot("npm is not here")
    (scratch / "tmp").mkdir()
    command = [sys.executable, "-m", "bench", "--no-peer", "--no-confined", "--quick", "--package", str(packed[1].path)]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=find_workspace().root,
        env={**os.environ, "PYTHONPATH": "src", "TMPDIR": str(scratch / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(900)  # freezing takes half a minute, minutes where six others do it too
def test_it_measures_the_package_as_it_ships(tmp_path: Path, packed: tuple[Workspace, Package]) -> None:
    before = README.read_text()
    process = _bench(
        packed, tmp_path, "--only", "run", "--rounds", "1", "--write", "--json", str(tmp_path / "all.json")
    )
    said, progress = process.communicate()
    assert process.returncode == 0, progress
    assert "(the npm package, as it ships)" in said
    samples = json.loads((tmp_path / "all.json").read_text())
    assert [sample["subject"] for sample in samples] == ["ours", "plain"]
    assert "not everything was measured" in progress
    assert README.read_text() == before
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.timeout(900)
def test_ended_early_it_leaves_nothing(tmp_path: Path, packed: tuple[Workspace, Package]) -> None:
    process = _bench(packed, tmp_path, "--only", "run", "--rounds", "1000")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("round 1: run")
    process.terminate()
    _, said = process.communicate()
    assert process.returncode == 1
    assert said.endswith("ended by SIGTERM; nothing was written\n")
    assert list((tmp_path / "tmp").iterdir()) == []


# --- servers that misbehave ---

SERVER = """
import json, os, sys
def say(**message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
def text(value, **more):
    return {"content": [{"type": "text", "text": json.dumps(value)}], **more}
waiting = []
for line in sys.stdin:
    message = json.loads(line)
    number, params = message.get("id"), message.get("params", {})
    if message["method"] == "initialize":
        say(id=number, result={"clientInfo": params["clientInfo"]})
    elif message["method"] == "tools/call":
        command = params["arguments"]["command"]
        said = {"exit_code": 0, "output": command, "timed_out": command == "slow"}
        if command == "ask":
            say(id=1, method="elicitation/create", params={})
        elif command == "refuse":
            say(id=number, error={"code": -32603, "message": "no such shell"})
        elif command == "fail":
            say(id=number, result=text("it failed", isError=True))
        elif command == "die":
            sys.exit("out of luck")
        elif command == "stay":
            os.set_blocking(0, True)
            say(id=number, result=text(said))
            while True:
                os.read(0, 1) or __import__("time").sleep(60)
        else:
            say(method="notifications/message", params={})
            waiting.append((number, said))
            if not command.endswith("more"):
                for number, said in reversed(waiting):
                    say(id=number, result=text(said))
                waiting = []
"""


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Client]:
    """A client of a server that does what the script says."""
    with Client.start([sys.executable, "-I", "-c", SERVER], {}, tmp_path) as client:
        yield client


def _call(client: Client, *texts: str) -> list[str]:
    return [answer.output for answer in client.call([Script(text=text, folder=Path("/")) for text in texts])]


def test_answers_come_in_the_order_of_the_scripts(odd: Client) -> None:
    assert _call(odd, "1 more", "2 more", "3") == ["1 more", "2 more", "3"]
    assert _call(odd, "again") == ["again"]


def test_long_answers_come_whole(odd: Client) -> None:
    assert _call(odd, "x" * 3_000_000) == ["x" * 3_000_000]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ask", "asks for elicitation/create"),
        ("refuse", "no such shell"),
        ("fail", "it failed"),
        ("die", "out of luck"),
        ("slow", "timed out"),
    ],
)
def test_what_goes_wrong_is_told(odd: Client, text: str, reason: str) -> None:
    with pytest.raises(BenchError, match=reason):
        _call(odd, text)


def test_after_a_failed_call_the_next_has_its_own_answer(odd: Client) -> None:
    with pytest.raises(BenchError, match="no such shell"):
        _call(odd, "1 more", "refuse", "3")
    assert _call(odd, "next") == ["next"]


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no rules here"):
        Client.start([sys.executable, "-I", "-c", "raise SystemExit('no rules here')"], {}, tmp_path)


def test_a_server_that_stays_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PATIENCE", 0.1)
    client = Client.start([sys.executable, "-I", "-c", SERVER], {}, tmp_path)
    assert _call(client, "stay") == ["stay"]
    client.close()
    assert client.process.returncode == -signal.SIGKILL


# --- npm ---


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An npm package of one command."""
    description = {"name": "some-package", "version": "1.0.0", "bin": {peer.COMMAND: "run.sh"}}
    members = {
        "package/package.json": json.dumps(description).encode(),
        "package/run.sh": b"#!/bin/sh\necho it runs\n",
    }
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            archive.addfile(member, io.BytesIO(data))
    return path


def test_integrity_is_in_npms_own_form(tmp_path: Path) -> None:
    """The value of ``printf abc | openssl dgst -sha512 -binary | base64``."""
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    known = "sha512-3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw=="
    assert peer.integrity(path) == known


def _fake_npm(folder: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An npm that delivers ``package`` whatever it is asked for, and notes everything it is asked."""
    program = folder / "npm"
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >>{folder}/asked\n[ "$1" != pack ] || cp {package} ./package.tgz\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_other_bytes_under_the_same_name_are_refused(
    tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tools := tmp_path / "tools").mkdir()
    _fake_npm(tools, package, monkeypatch)
    with pytest.raises(BenchError, match="npm delivered another"):
        peer.installed_peer(tmp_path / "cache")
    assert (tools / "asked").read_text().splitlines() == ["pack --silent @openai/codex-shell-tool-mcp@0.97.0"]
    assert not list((tmp_path / "cache").rglob("*.tgz"))


def test_the_right_bytes_are_installed_once(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tools := tmp_path / "tools").mkdir()
    _fake_npm(tools, package, monkeypatch)
    monkeypatch.setattr(peer, "INTEGRITY", peer.integrity(package))
    places = {peer.installed_peer(tmp_path / "cache") for _ in range(2)}
    assert len(places) == 1
    asked = [line.split()[0] for line in (tools / "asked").read_text().splitlines()]
    assert asked == ["pack", "install"]


def test_npm_installs_it_offline(tmp_path: Path, package: Path) -> None:
    if shutil.which("npm") is None:
        cannot("npm is not here")
    (folder := tmp_path / "installed").mkdir()
    peer.install(package, folder)
    done = subprocess.run([peer.launcher(folder)], capture_output=True, check=True, text=True)
    assert done.stdout == "it runs\n"


def test_npm_that_fails_or_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match="npm is not there"):
        peer.install(tmp_path / "package.tgz", tmp_path)
    (tmp_path / "npm").write_text("#!/bin/sh\necho disk full >&2\nexit 3\n")
    (tmp_path / "npm").chmod(0o755)
    with pytest.raises(BenchError, match="status 3"):
        peer.install(tmp_path / "package.tgz", tmp_path)
