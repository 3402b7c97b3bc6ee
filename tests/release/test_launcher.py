"""The launcher: finds the server through every kind of link, becomes it, and says one clear line when it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from release.conftest import cannot

if TYPE_CHECKING:
    from collections.abc import Callable

    from shell_tool_release.workspace import Workspace

SERVER = """#!/bin/sh
echo "server $0"
echo "pid $$"
for word; do echo "argument <$word>"; done
"""

MACHINES = [
    ("Linux", "x86_64", "linux-x64"),
    ("Linux", "aarch64", "linux-arm64"),
    ("Darwin", "arm64", "darwin-arm64"),
    ("Darwin", "x86_64", "darwin-x64"),
]


@pytest.fixture(params=["dash", "busybox sh", "bash --posix"])
def shell(request: pytest.FixtureRequest) -> list[str]:
    words = str(request.param).split()
    if shutil.which(words[0]) is None:
        cannot(f"{words[0]} is not here")
    return words


@pytest.fixture
def launcher(workspace: Workspace) -> Path:
    return workspace.root / "packaging" / "npm" / "bin" / "codex-shell-tool-mcp"


@pytest.fixture
def make(launcher: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes an installed package, for the platforms named, at a place; returns the launcher in it."""

    def install(place: str, *platforms: str) -> Path:
        package = tmp_path / place
        (package / "bin").mkdir(parents=True)
        shutil.copy2(launcher, package / "bin" / launcher.name)
        for platform in platforms:
            server = package / "vendor" / platform / "server" / "codex-exec-mcp-server"
            server.parent.mkdir(parents=True)
            server.write_text(SERVER)
            server.chmod(0o755)
        return package / "bin" / launcher.name

    return install


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """An environment in which ``uname`` and ``sysctl`` tell of another machine."""

    def pretend(system: str, processor: str, *, translated: bool = False) -> dict[str, str]:
        folder = tmp_path / "tools"
        folder.mkdir(exist_ok=True)
        answers = f"case $1 in -s) echo {system} ;; -m) echo {processor} ;; esac"
        for name, script in (("uname", answers), ("sysctl", f"echo {int(translated)}")):
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
        return {"PATH": f"{folder}:{os.environ['PATH']}"}

    return pretend


@pytest.fixture
def here() -> str:
    system, processor = os.uname().sysname, os.uname().machine
    found = next((name for s, m, name in MACHINES if (s, m) == (system, processor)), None)
    if found is None:
        cannot(f"{system} on {processor} is no supported platform")
    return found


def _run(
    command: list[str], env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], **(env or {})}
    return subprocess.run(command, capture_output=True, text=True, env=environ, cwd=cwd, check=False, timeout=30)


@pytest.mark.parametrize("checker", ["sh -n", "dash -n", "busybox sh -n", "bash -n"])
def test_syntax(launcher: Path, checker: str) -> None:
    if shutil.which(checker.split(maxsplit=1)[0]) is None:
        cannot(f"{checker.split(maxsplit=1)[0]} is not here")
    done = _run([*checker.split(), str(launcher)])
    assert (done.returncode, done.stderr) == (0, "")


def test_becomes_the_server(shell: list[str], make: Callable[..., Path], here: str) -> None:
    """The same process: nothing stays between the client and the server, and arguments arrive as they are."""
    program = make("plain", here)
    with subprocess.Popen([*shell, program, "a b", "", "$c", "--x=*"], stdout=subprocess.PIPE, text=True) as started:
        said, _ = started.communicate(timeout=30)
    assert said.splitlines() == [
        f"server {program.parents[1]}/vendor/{here}/server/codex-exec-mcp-server",
        f"pid {started.pid}",
        "argument <a b>",
        "argument <>",
        "argument <$c>",
        "argument <--x=*>",
    ]


@pytest.mark.parametrize("place", ["with space/and  two", "quote'\"$HOME`x`", "new\nline/ends\n", "-dash", "ünï"])
def test_odd_places(shell: list[str], make: Callable[..., Path], here: str, place: str) -> None:
    program = make(place, here)
    done = _run([*shell, str(program)])
    assert done.stdout.startswith(f"server {program.parents[1]}/vendor/"), done.stderr


def test_through_links(shell: list[str], make: Callable[..., Path], here: str, tmp_path: Path) -> None:
    """As npm makes them: a relative link in ``.bin``, a link to that one on the PATH, a linked folder on the way."""
    program = make("store of pnpm/package", here)
    modules = tmp_path / "project/node_modules"
    (modules / ".bin").mkdir(parents=True)
    (modules / "package").symlink_to(program.parents[1])
    (modules / ".bin/command").symlink_to("../package/bin/codex-shell-tool-mcp")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/command").symlink_to(modules / ".bin/command")
    (tmp_path / "bin/again").symlink_to("command")
    expected = f"server {program.parents[1]}/vendor/{here}/server/codex-exec-mcp-server"
    for path in (modules / ".bin/command", tmp_path / "bin/command", tmp_path / "bin/again"):
        assert _run([*shell, str(path)]).stdout.splitlines()[:1] == [expected]
    for words, cwd in ((["./again"], tmp_path / "bin"), (["again"], tmp_path / "bin"), (["bin/again"], tmp_path)):
        assert _run([*shell, *words], cwd=cwd).stdout.splitlines()[:1] == [expected]


def test_found_on_the_path(make: Callable[..., Path], here: str, tmp_path: Path) -> None:
    program = make("package", here)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/command").symlink_to(program)
    done = _run(["sh", "-c", "command"], {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CDPATH": str(tmp_path)})
    assert done.stdout == "", "the shell's own builtin was meant to win: the test would test nothing"
    (tmp_path / "bin/start-it").symlink_to(program)
    done = _run(["start-it"], {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CDPATH": str(tmp_path)})
    assert done.stdout.startswith(f"server {program.parents[1]}/vendor/")


@pytest.mark.parametrize(("system", "processor", "platform"), MACHINES)
def test_each_platform(
    make: Callable[..., Path], machine: Callable[..., dict[str, str]], system: str, processor: str, platform: str
) -> None:
    if system == "Linux" and not Path(_loader(processor)).exists():
        cannot_load = make("package", platform)
        own = cannot_load.parents[1] / "vendor" / platform / "glibc" / Path(_loader(processor)).name
        expected = (
            f"codex-shell-tool-mcp: the server needs glibc, which this system does not have (no {_loader(processor)}), "
            f"nor this package (no {own})\n"
        )
        done = _run(["sh", str(cannot_load)], machine(system, processor))
        assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)
        return
    done = _run(["sh", str(make("package", platform))], machine(system, processor))
    assert f"/vendor/{platform}/server/" in done.stdout


def _loader(processor: str) -> str:
    return "/lib64/ld-linux-x86-64.so.2" if processor == "x86_64" else "/lib/ld-linux-aarch64.so.1"


LOADER = """#!/bin/sh
echo "loader $0"
for word; do echo "argument <$word>"; done
env | grep ^LD_ && echo "a variable tells of it"
exit 0
"""


def test_without_glibc_the_packages_own_loads_the_server(
    shell: list[str], make: Callable[..., Path], machine: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    """On a machine whose loader is not there: an arm64 one, as far as this one can tell."""
    if Path(_loader("aarch64")).exists():
        pytest.skip("this machine has that loader")
    program = make("with space", "linux-arm64")
    folder = program.parents[1] / "vendor" / "linux-arm64"
    own = folder / "glibc" / "ld-linux-aarch64.so.1"
    own.parent.mkdir()
    own.write_text(LOADER)
    environ = machine("Linux", "aarch64")
    said = _run([*shell, str(program)], environ)
    assert (said.returncode, said.stderr) == (1, said.stderr)
    assert f"the loader cannot be executed: {own}" in said.stderr
    own.chmod(0o755)
    assert _run([*shell, str(program), "a b", ""], environ).stdout.splitlines() == [
        f"loader {own}",
        "argument <--library-path>",
        f"argument <{own.parent}>",
        f"argument <{folder / 'server' / 'codex-exec-mcp-server'}>",
        "argument <a b>",
        "argument <>",
    ]


def test_under_rosetta_the_native_build_is_taken(
    make: Callable[..., Path], machine: Callable[..., dict[str, str]]
) -> None:
    program = make("package", "darwin-arm64", "darwin-x64")
    assert "/darwin-arm64/" in _run(["sh", str(program)], machine("Darwin", "x86_64", translated=True)).stdout
    assert "/darwin-x64/" in _run(["sh", str(program)], machine("Darwin", "x86_64")).stdout


@pytest.mark.parametrize(
    ("system", "processor"), [("FreeBSD", "amd64"), ("Linux", "riscv64"), ("MINGW64_NT-10.0", "x86_64")]
)
def test_unsupported_platforms(
    shell: list[str], make: Callable[..., Path], machine: Callable[..., dict[str, str]], system: str, processor: str
) -> None:
    done = _run([*shell, str(make("package", "linux-x64"))], machine(system, processor))
    line = f"unsupported platform: {system} on {processor}; Linux and macOS on x86_64 or arm64 are supported"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"codex-shell-tool-mcp: {line}\n")


def test_a_platform_that_is_not_in_the_package(
    make: Callable[..., Path], machine: Callable[..., dict[str, str]]
) -> None:
    program = make("package", "linux-arm64", "linux-x64")
    done = _run(["sh", str(program)], machine("Darwin", "arm64"))
    assert (done.returncode, done.stdout) == (1, "")
    where = program.parents[1] / "vendor"
    line = f"this package has no build for darwin-arm64; it has: linux-arm64 linux-x64 (in {where})"
    assert done.stderr == f"codex-shell-tool-mcp: {line}\n"


def test_a_server_that_is_missing_or_cannot_be_executed(make: Callable[..., Path], here: str) -> None:
    program = make("package", here)
    server = program.parents[1] / "vendor" / here / "server" / "codex-exec-mcp-server"
    server.chmod(0o644)
    done = _run(["sh", str(program)])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"codex-shell-tool-mcp: the server cannot be executed: {server};")
    server.unlink()
    done = _run(["sh", str(program)])
    assert done.returncode == 1
    assert done.stderr.startswith(f"codex-shell-tool-mcp: the server is missing from this package: {server};")


def test_another_vendor_folder_can_be_named(make: Callable[..., Path], here: str) -> None:
    bare, other = make("bare"), make("other", here)
    done = _run(["sh", str(bare)], {"CODEX_SHELL_TOOL_MCP_VENDOR": str(other.parents[1] / "vendor")})
    assert done.stdout.startswith(f"server {other.parents[1]}/vendor/")


def test_a_ring_of_links_ends(shell: list[str], make: Callable[..., Path], tmp_path: Path) -> None:
    program = make("package")
    script = program.read_text().replace("self=$0", f"self='{tmp_path}/one'")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    done = _run([*shell, "-c", script])
    assert done.returncode == 1
    assert "too many symbolic links" in done.stderr
