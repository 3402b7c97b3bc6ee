"""arm64's frozen server, made on this machine and driven under qemu: start, rules, verify, protocol, whole calls.

qemu-user 7.2 lacks PR_SET_CHILD_SUBREAPER, without which the supervisor starts nothing. So calls are made twice: with
the package's own supervisor, to see that the server then says what is wrong and runs nothing, and with this machine's,
which starts and confines arm64's shell. On an arm64 machine nothing is emulated, and the package's own does all of it.
"""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from release.conftest import SHIPPED, cannot, copy_any
from shell_tool_release import emulation
from shell_tool_release.archives import unpack
from shell_tool_release.cache import cache_root
from shell_tool_release.npm import pack
from shell_tool_release.vendor import assemble, build_parts
from shell_tool_release.workspace import Workspace, find_workspace
from support.built import built
from support.clients import Client, Installation, state

if TYPE_CHECKING:
    from pathlib import Path

    from mcp_types import ElicitResult

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(1800)]  # a Python is built where the cache is empty

TARGET = "linux-arm64"
EMULATED = platform.machine() != "aarch64"
RULES = """\
prefix_rule(pattern=["touch", "allowed"], decision="allow")
prefix_rule(pattern=["touch", "asked"], decision="prompt")
prefix_rule(pattern=["mkdir"], decision="forbidden", justification="folders are made by people")
"""


@dataclass(kw_only=True)
class Arm64(Installation):
    """The unpacked package's server for arm64, started as the launcher would on such a machine."""

    vendor: Path
    own_glibc: bool = False
    own_supervisor: bool = False

    @property
    def start(self) -> list[str]:
        """The server; by the package's own loader as on a system without glibc, or by the system's."""
        server, glibc = self.vendor / "server" / "codex-exec-mcp-server", self.vendor / "glibc"
        if not self.own_glibc:
            return [str(server)]
        return [str(glibc / "ld-linux-aarch64.so.1"), "--library-path", str(glibc), str(server)]

    def command(self) -> list[str]:
        """As the base's; the static shell, because calls have an environment that names qemu no glibc."""
        options = ["--bash", str(self.vendor / "bash" / "musl" / "bash")]
        if EMULATED and not self.own_supervisor:
            options += ["--supervisor", str(built().supervisor)]
        return emulation.inside([*self.start, *options, *self.options])

    def environment(self) -> dict[str, str]:
        """As the base's, with arm64's glibc unless the package's own is to be used."""
        where = {} if self.own_glibc else {"QEMU_LD_PREFIX": str(emulation.SYSROOT)}
        return {**super().environment(), **where}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the server's program with other words."""
        return subprocess.run(
            emulation.inside([*self.start, *words]),
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """arm64's folder in a package that was packed and unpacked again."""
    if reason := emulation.needed():
        cannot(reason)
    workspace, root = find_workspace(), tmp_path_factory.mktemp("arm64")
    for name in SHIPPED:
        copy_any(workspace.root / name, root / name)
    place = Workspace(root=root)
    assemble(place, TARGET, build_parts(workspace, TARGET))
    package = pack(place, cache=cache_root())
    assert package.platforms == (TARGET,)
    unpack(package.path, root / "unpacked", exact=True)
    return root / "unpacked" / "vendor" / TARGET


@pytest.fixture(params=[False, True], ids=["the system's glibc", "the package's glibc"])
def server(request: pytest.FixtureRequest, vendor: Path, tmp_path: Path) -> Arm64:
    """The server, by the system's loader and by the package's own."""
    home, workdir = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    workdir.mkdir()
    return Arm64(home=home, workdir=workdir, vendor=vendor, own_glibc=request.param)


def test_it_starts(server: Arm64) -> None:
    said = server.run("--version")
    assert (said.stdout, said.stderr) == (f"codex-exec-mcp-server {find_workspace().version}\n", "")


def test_the_package_is_what_its_manifest_lists(server: Arm64) -> None:
    assert server.run("verify").returncode == 0
    path = server.vendor / "server" / "_internal" / "added"
    path.write_text("x")
    try:
        found = server.run("verify")
    finally:
        path.unlink()
    assert found.returncode == 1
    assert f"{TARGET}/server/_internal/added" in found.stdout + found.stderr


def test_rules_are_tried(server: Arm64) -> None:
    """This loads the one large library, Starlark's, and evaluates in a child of the server's own."""
    server.rules(RULES)
    rules = str(server.home / "rules" / "default.rules")
    done = server.run("execpolicy", "check", "--rules", rules, "mkdir", "folder")
    assert done.returncode == 0, done.stderr
    assert '"decision":"forbidden"' in done.stdout.replace(" ", "")


def test_a_broken_rule_is_named_and_nothing_is_served(server: Arm64) -> None:
    server.rules('prefix_rule(pattern=["x"], decision="perhaps")\n')
    done = server.run("--bash", str(server.vendor / "bash" / "musl" / "bash"))
    assert done.returncode == 3
    assert "default.rules:1" in done.stderr


def test_a_session_below_this_machines_supervisor(server: Arm64) -> None:
    """All else is arm64's: what runs, what the sandbox refuses, what is escalated, asked about and denied."""
    server.rules(RULES)
    server.options = ("--sandbox", "read-only")
    asked: list[str] = []

    async def elicit(params: Any) -> ElicitResult:
        from mcp_types import ElicitResult  # noqa: PLC0415 - only here

        asked.append(params.message)
        return ElicitResult(action="accept" if len(asked) == 1 else "decline")

    async def work(client: Client) -> None:
        (tool,) = (await client.session.list_tools()).tools
        assert tool.name == "shell"
        did = await client.shell("echo $MACHTYPE; echo b | sort; echo x >refused; exit 3")
        assert did["output"].splitlines()[:2] == ["aarch64-unknown-linux-musl", "b"], did
        assert did["exit_code"] == 3
        assert did["sandbox"]["enforced_by"] == "landlock and seccomp"
        did = await client.shell("touch allowed; touch asked; touch asked; mkdir folder")
        assert [decision["action"] for decision in did["decisions"]] == ["escalate", "escalate", "deny", "deny"]
        assert did["output"].count("Execution denied: ") == 2
        await client.update(state("danger-full-access"))
        assert (await client.shell("echo x >written"))["exit_code"] == 0

    server.use(work, elicit)
    assert sorted(path.name for path in server.workdir.iterdir()) == ["allowed", "asked", "written"]
    assert len(asked) == 2


@pytest.mark.skipif(not EMULATED, reason="here the package's own supervisor can do all of it")
def test_without_what_its_supervisor_needs_nothing_runs(server: Arm64) -> None:
    """The package as it is, in qemu: every call fails and says why; the server lives on."""
    server.own_supervisor = True

    async def work(client: Client) -> None:
        for kind in ("read-only", "danger-full-access"):
            await client.update(state(kind))
            for _ in range(2):
                did = await client.call("touch ran")
                assert did.is_error
                assert "X" in did.content[0].text

    server.use(work)
    assert list(server.workdir.iterdir()) == []


@pytest.mark.skipif(EMULATED, reason="qemu-user has no PR_SET_CHILD_SUBREAPER, no seccomp and no Landlock")
def test_its_own_supervisor_confines(server: Arm64) -> None:
    server.own_supervisor = True
    server.options = ("--sandbox", "read-only")
    did = server.shell("echo x >refused || echo no; uname -m")
    assert did["output"].endswith("no\naarch64\n")
    assert did["sandbox"]["enforced_by"] == "landlock and seccomp"
