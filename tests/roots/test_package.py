"""The packed package in Debian 11, 12, 13 and without glibc: installed, started, and doing what it is for.

As root and as an ordinary user. Sandboxes are the kernel's own, so nothing here may be skipped for want of one.
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from mcp_types import ElicitResult

from shell_tool_release import roots, smoke
from shell_tool_release.cache import cache_root
from shell_tool_release.toolchain import ZigCompiler, build_environ, find_zig
from shell_tool_release.versions import npm_version
from shell_tool_release.workspace import find_workspace, host_platform
from support.clients import Client, state

if TYPE_CHECKING:
    from pathlib import Path

    from roots.conftest import Installed

pytestmark = [pytest.mark.roots, pytest.mark.timeout(1800)]  # the first test of a system makes it

RULES = """\
prefix_rule(pattern=["touch", "/work/outside/allowed"], decision="allow")
prefix_rule(pattern=["touch", "/work/outside/asked"], decision="prompt")
prefix_rule(pattern=["mkdir"], decision="forbidden", justification="folders are made by people")
"""


def test_it_starts_and_is_whole(server: Installed) -> None:
    said = server.run(server.launcher, "--version")
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout == f"codex-exec-mcp-server {find_workspace().version}\n"
    verified = server.run(server.launcher, "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert npm_version(find_workspace().version) in (
        server.here(server.prefix / "lib/node_modules/codex-shell-tool-mcp/package.json").read_text()
    )


def test_rules_are_tried_without_a_server(server: Installed) -> None:
    server.rules(RULES)
    rules = f"{roots.WORK}/home/.codex/rules/default.rules"
    checked = server.run(server.launcher, "execpolicy", "check", "--rules", rules, "mkdir", "folder")
    assert checked.returncode == 0, checked.stderr
    assert '"decision":"forbidden"' in checked.stdout.replace(" ", "")


@pytest.mark.parametrize("mode", ["read-only", "workspace-write"])
def test_a_session(server: Installed, mode: str) -> None:
    """Greeting, tool, and one call each that runs, is refused by the sandbox, is escalated, asked about and denied."""
    server.rules(RULES)
    server.options = ("--sandbox", mode)
    asked: list[str] = []
    answers = ["accept", "decline"]

    async def elicit(params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action=answers.pop(0))  # type: ignore[arg-type]

    async def work(client: Client) -> None:
        (tool,) = (await client.session.list_tools()).tools
        assert tool.name == "shell"
        await runs(client)
        await is_confined(client, mode)
        await is_escalated(client)
        await is_denied(client)

    async def runs(client: Client) -> None:
        ran = await client.shell("id -u; for n in b a; do echo $n; done | sort; exit 3")
        assert (ran["output"], ran["exit_code"]) == (f"{server.place.uid}\na\nb\n", 3)
        assert ran["sandbox"]["policy"] == mode
        assert ran["sandbox"]["enforced_by"] == "landlock and seccomp"

    async def is_escalated(client: Client) -> None:
        did = await client.shell("touch /work/outside/allowed /work/outside/more; touch /work/outside/asked")
        assert (did["output"], did["exit_code"]) == ("", 0)
        assert [decision["action"] for decision in did["decisions"]] == ["escalate", "escalate"]

    async def is_denied(client: Client) -> None:
        did = await client.shell("touch /work/outside/asked; mkdir folder")
        assert re.fullmatch("Execution denied: .*\nExecution denied: .*made by people\n", did["output"]), did
        assert [decision["action"] for decision in did["decisions"]] == ["deny", "deny"]

    server.use(work, elicit)
    touched = [server.place.shared / "outside" / name for name in ("allowed", "asked", "more")]
    assert {path.stat().st_uid for path in touched} == {server.place.uid}
    assert len(asked) == 2
    assert asked[0].startswith("Allow agent to run `")
    assert "touch /work/outside/asked`" in asked[0]


async def is_confined(client: Client, mode: str) -> None:
    """The same script with the sandbox and without: what is refused there would be possible."""
    script = "echo x >inside; echo x >/work/outside/file; echo x >/tmp/file; exec 3<>/dev/tcp/127.0.0.1/9"
    confined = (await client.shell(f"{{ {script}; }} 2>&1 | sed 's/.*: //'"))["output"].splitlines()
    refused = {"read-only": 3, "workspace-write": 1}[mode]
    assert confined[:-1].count("Permission denied") == refused, confined
    assert {"Permission denied", "Operation not permitted"} & set(confined[-1:]), confined
    await client.update(state("danger-full-access"))
    free = (await client.shell(f"{{ {script}; }} 2>&1 | sed 's/.*: //'"))["output"].splitlines()
    assert set(free) == {"Connection refused"}, free
    kinds = {"read-only": state("read-only"), "workspace-write": state("workspace-write", "/work/project")}
    await client.update(kinds[mode])


def everything_escalated(server: Installed, names: list[str]) -> None:
    """Rules by which these programs run outside the sandbox."""
    server.rules("".join(f'prefix_rule(pattern=["{name}"], decision="allow")\n' for name in names))


OURS = {"CODEX_ESCALATE_SOCKET", "CODEX_SANDBOX_NETWORK_DISABLED", "EXEC_WRAPPER"}
"""What a sandboxed program finds beside its own variables (docs/protocol.md)."""


@pytest.mark.parametrize("escalated", [False, True], ids=["in the sandbox", "escalated"])
def test_nothing_of_the_server_reaches_what_it_starts(server: Installed, escalated: bool) -> None:
    """No variable, and no library: not by the loader's variables, and not by what the loader itself was given."""
    if escalated:
        everything_escalated(server, ["env", "cat"])

    async def work(client: Client) -> None:
        found = await client.shell("env; echo ==; cat /proc/self/maps /proc/self/environ | tr '\\0' '\\n'")
        assert bool(found.get("decisions")) is escalated
        variables, _, rest = found["output"].partition("==\n")
        names = {line.partition("=")[0] for line in variables.splitlines()}
        given = {"PATH", "HOME", "LANG", "PWD", "OLDPWD", "SHLVL", "_"}
        assert names - given == (set() if escalated else OURS)
        others = [line for line in rest.splitlines() if line.partition("=")[0] not in OURS]
        assert not [line for line in others if "prefix/lib" in line]
        assert not [line for line in others if line.startswith(smoke.LEAKS)]

    server.use(work)


SYSTEMS_OWN = (
    "openssl version",
    "python3 -c 'import ssl, ctypes; print(ssl.OPENSSL_VERSION, ctypes.CDLL(None).gnu_get_libc_version)'",
    "locale",
    "git --version",
)


@pytest.mark.parametrize("escalated", [False, True], ids=["in the sandbox", "escalated"])
def test_the_systems_own_programs_work(server: Installed, escalated: bool, tmp_path: Path) -> None:
    """Each says the same through the tool and without it; they load libraries that a frozen server could shadow."""
    commands = (
        SYSTEMS_OWN if server.has_glibc else ("busybox | head -n 1", "ls /bin /etc", *musl_program(server, tmp_path))
    )
    if escalated:
        everything_escalated(server, ["openssl", "python3", "locale", "git", "busybox", "ls", "hello"])

    async def work(client: Client) -> None:
        for command in commands:
            alone = server.run("sh", "-c", command)
            assert (alone.returncode, bool(alone.stdout)) == (0, True), alone.stderr
            did = await client.shell(command)
            expected = re.sub(r"0x[0-9a-f]+", "", alone.stderr + alone.stdout)
            assert (re.sub(r"0x[0-9a-f]+", "", did["output"]), did["exit_code"]) == (expected, 0)
            assert bool(did.get("decisions")) is escalated

    server.use(work)


def musl_program(server: Installed, folder: Path) -> list[str]:
    """A program of the system's own kind, linked with its musl; none where the system has no C library at all."""
    if server.system.name != "musl":
        return []
    source, program = folder / "hello.c", server.place.shared / "home" / "hello"
    source.write_text('#include <stdio.h>\nint main(void) { return puts("hello from musl") < 0; }\n')
    machine = {"linux-x64": "x86_64", "linux-arm64": "aarch64"}[host_platform()]
    compiler = ZigCompiler(zig=find_zig(), target=f"{machine}-linux-musl").command()
    environ = build_environ(folder=folder, cache=cache_root(), epoch=1)
    subprocess.run([*compiler, "-dynamic", "-s", "-o", str(program), str(source)], check=True, env=environ)
    assert f"ld-musl-{machine}".encode() in program.read_bytes()
    return ["/work/home/hello"]


def test_every_shell_of_the_package(server: Installed) -> None:
    """Each runs, and asks; one that needs glibc says so where there is none, and the other kind is the default."""
    server.rules(RULES)
    shells = sorted(
        path for kind in ("bash", "zsh") for path in server.here(server.platform_folder).glob(f"{kind}/*/*")
    )
    assert [path.name for path in shells] == ["bash", "bash", "zsh", "zsh"]
    for path in shells:
        there = server.platform_folder / path.relative_to(server.here(server.platform_folder))
        server.options = ("--sandbox", "workspace-write", f"--{path.name}", str(there))
        if path.parent.name == "gnu" and not server.has_glibc:
            refused = server.run(server.launcher, *server.options)
            assert refused.returncode == 4
            assert "its program interpreter (libc) is missing" in refused.stderr
            continue
        did = server.shell("echo $((6 * 7)) $BASH_VERSION$ZSH_VERSION; touch /work/outside/allowed; mkdir folder")
        version = "5.3" if path.name == "bash" else "5.9"
        assert re.match(rf"42 {version}.*\nExecution denied: .*people\n$", did["output"]), did
        assert [decision["action"] for decision in did["decisions"]] == ["escalate", "deny"]


def test_nothing_stays_behind(server: Installed) -> None:
    """The server ends with its input, whatever its scripts have left running."""

    async def work(client: Client) -> None:
        await client.shell("(sleep 300 &) ; echo", background="keep")

    server.use(work)
    assert server.log.read_text() == ""


def test_an_older_python_is_told_what_the_build_lacks(system: tuple[roots.System, Path], tmp_path: Path) -> None:
    """Debian 11 can use the package, not build it: its Python is 3.9, and ``./run`` says so before it begins."""
    described, root = system
    if described.name != "bullseye":
        return
    place = roots.Place(root=root, shared=tmp_path, mounts={find_workspace().root: roots.NODE})
    words = place.inside([f"{roots.NODE}/run", "release"])
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 2
    assert "Python 3.11" in done.stderr
    assert list(tmp_path.iterdir()) == []
