"""What is open where: nothing of the server's in any child, nothing of one call's in another, nothing left behind."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.built import built
from support.clients import Installation
from support.marked import waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.clients import Raw

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="/proc/PID/fd is Linux's; macOS does not list another's"
)

LIST = "ls -l /proc/self/fd | sed -n 's/.* \\([0-9]*\\) -> /\\1 /p'"
"""What a program has open, ``ls`` being that program: a line each, number and name."""

DIRECTORY = re.compile(r"/proc/\d+/fd")
"""What ``ls`` itself has open, of its own."""


def parsed(text: str) -> dict[int, str]:
    """Number → name, without what ``ls`` opened."""
    found = dict(line.split(" ", 1) for line in text.splitlines())
    return {int(number): name for number, name in found.items() if not DIRECTORY.fullmatch(name)}


def kinds(found: dict[int, str]) -> dict[int, str]:
    """The same, less what tells one pipe, socket or process from another."""
    return {number: re.sub(r":\[\d+\]$|(?<=^/proc/)\d+(?=/)", "", name) for number, name in found.items()}


def of_process(pid: int) -> dict[int, str]:
    """What another process has open."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found[int(entry.name)] = str(entry.readlink())
    return found


def stock(script: str, folder: Path) -> str:
    """What the script prints in the unpatched shell, its stdio as a call's: nothing in, one pipe out."""
    done = subprocess.run(
        [built().bash_stock, "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        check=True,
    )
    return done.stdout.decode()


@pytest.fixture(scope="module")
def foreign() -> Iterator[tuple[int, ...]]:
    """Descriptors of the server's parent, inheritable: a file, a pipe, both ends of a socketpair, one high number."""
    with ExitStack() as stack:
        numbers = [os.open("/dev/zero", os.O_RDONLY), *os.pipe(), *(one.detach() for one in socket.socketpair())]
        high = os.dup2(numbers[0], 900)
        for number in (*numbers, high):
            stack.callback(os.close, number)
            os.set_inheritable(number, True)
        yield (*numbers, high)


@pytest.fixture(scope="module")
def loaded(foreign: tuple[int, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raw]:
    """A server that was given those, and has them; ``ls`` is escalated."""
    home, workdir = (tmp_path_factory.mktemp(name) for name in ("home", "work"))
    installation = Installation(home=home, workdir=workdir)
    installation.rules('prefix_rule(pattern=["ls"], decision="allow")\n')
    with installation.raw(inherited=foreign) as server:
        assert set(foreign) <= set(of_process(server.process.pid)), "else nothing is tested"
        yield server


def printed(server: Raw, script: str) -> str:
    server.send(server.call(1, script))
    return str(server.result()["output"])


SCRIPTS = [
    LIST,
    f"exec 3</dev/null 7>file 12>&1; {LIST}; {LIST} <&3",
    f"{LIST} | cat",
    f"cat <({LIST})",
    f"echo $({LIST}; echo) | tr ' ' '\\n' | grep -v '^$' | paste -d ' ' - -",
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_escalated_program_has_what_stock_gives(loaded: Raw, script: str) -> None:
    theirs = [kinds(parsed(line)) for line in stock(script, loaded.workdir).splitlines()]
    assert [kinds(parsed(line)) for line in printed(loaded, script).splitlines()] == theirs


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_program_in_the_call_has_one_socket_more(loaded: Raw, script: str) -> None:
    """The one that the shell asks through; its number is in the environment."""
    script = script.replace("ls -l", "/bin/../bin/dir -l")  # not escalated
    number = int(printed(loaded, "echo $CODEX_ESCALATE_SOCKET"))
    ours = [kinds(parsed(line)) for line in printed(loaded, script).splitlines()]
    theirs = [kinds(parsed(line)) for line in stock(script, loaded.workdir).splitlines()]
    assert [line for line in ours if line != {number: "socket"}] == theirs
    assert {number: "socket"} in ours


def test_the_shell_and_the_supervisor_hold_only_their_own(loaded: Raw) -> None:
    shell = of_process_named(loaded, "$$")
    stdio = {0: "/dev/null", 1: "pipe", 2: "pipe"}
    sockets = {number: name for number, name in kinds(shell).items() if number > 2}
    assert {number: name for number, name in kinds(shell).items() if number <= 2} == stdio
    assert set(sockets.values()) == {"socket"}
    assert len({shell[number] for number in sockets}) == 1, "one socket, which bash keeps a copy of"
    supervisor = of_process_named(loaded, "$PPID")
    assert {supervisor[number] for number in (0, 1, 2)} == {"/dev/null"}
    # Pipes reach their end when the shell lets go, and nothing is the server's: not even what it got from its parent.
    others = {*shell.values(), *of_process(loaded.process.pid).values()}
    assert set(supervisor.values()) & others == {"/dev/null"}
    held = {name for name in kinds(supervisor).values() if "/codex-shell-" not in name}  # its control group
    assert held <= {"/dev/null", "/proc", "/proc//oom_score_adj", "pipe", "socket"}


def of_process_named(server: Raw, pid: str) -> dict[int, str]:
    """What a process of a running call has open, looked at from outside; the call goes on until then."""
    fifo = server.workdir / "fifo"
    os.mkfifo(fifo)
    try:
        server.send(server.call(1, f"echo {pid} $$ > fifo; read < fifo"))
        number, shell = map(int, fifo.read_text().split())
        held: dict[int, str] = {}
        while str(fifo) in held.values() or held != (held := of_process(shell)):
            time.sleep(0.1)  # until it holds no more what its redirection has put aside, and waits for a word
        found = of_process(number)
        fifo.write_text("go on\n")
        server.result()
    finally:
        fifo.unlink()
    return found


def at_rest(server: Raw) -> dict[int, str]:
    """What the server has open once everything of the last call is put away, and its supervisor waits."""
    held: dict[int, str] = {}
    for _ in range(1200):
        if waiting(server.process.pid) and held == (held := of_process(server.process.pid)):
            return held
        time.sleep(0.05)
    pytest.fail("the server does not come to rest")


def test_the_server_holds_two_sockets_and_a_pipe_a_call(loaded: Raw) -> None:
    """Control channel, rendezvous, output. The client's end of the rendezvous is closed, or its end would go unseen.

    The control channel stays, for the next call.
    """
    printed(loaded, ":")
    before = at_rest(loaded)
    fifo = loaded.workdir / "fifo"
    os.mkfifo(fifo)
    loaded.send(loaded.call(1, "echo $CODEX_ESCALATE_SOCKET $$ > fifo; read < fifo"))
    number, shell = map(int, fifo.read_text().split())
    during = of_process(loaded.process.pid)
    theirs = of_process(shell)[number]
    fifo.write_text("go on\n")
    loaded.result()
    fifo.unlink()
    new = [during[one] for one in during if before.get(one) != during[one]]
    assert sorted(re.sub(r":\[.*", "", name) for name in new) == ["pipe", "socket"]
    assert theirs not in during.values()
    assert at_rest(loaded) == before


def test_the_supervisor_that_waits_holds_nothing_of_a_call(loaded: Raw) -> None:
    """Neither of the one it had nor of the one that runs: the two calls at once make that there are two."""
    for number in range(2):
        os.mkfifo(loaded.workdir / f"fifo{number}")
    loaded.send(*(loaded.call(number, f"echo $$ $PPID > fifo{number}; read < fifo{number}") for number in range(2)))
    first, second = (tuple(map(int, (loaded.workdir / f"fifo{number}").read_text().split())) for number in range(2))
    (loaded.workdir / "fifo0").write_text("go on\n")
    loaded.result()
    at_rest(loaded)
    assert waiting(loaded.process.pid) == [first[1]]
    held = of_process(first[1])
    running = {name for pid in second for name in of_process(pid).values()}
    (loaded.workdir / "fifo1").write_text("go on\n")
    loaded.result()
    own = [name for name in kinds(held).values() if "/codex-shell-" not in name]  # its control group
    assert sorted(own) == [*["/dev/null"] * 3, "/proc", "/proc//oom_score_adj", "pipe", "pipe", "socket"]
    assert set(held.values()) & running <= {"/dev/null", "/proc"}
    for number in range(2):
        (loaded.workdir / f"fifo{number}").unlink()


def test_parallel_calls_have_none_of_each_others(loaded: Raw) -> None:
    """Twelve at once, each waiting until all run, then listing: no pipe or socket is in two of them."""
    count = 12
    for number in range(count):
        os.mkfifo(loaded.workdir / f"go{number}")
    script = "echo up > up{0}; read < go{0}; dir -l /proc/self/fd /proc/$$/fd /proc/$PPID/fd; ls -l /proc/self/fd"
    loaded.send(*(loaded.call(number, script.format(number)) for number in range(count)))
    for number in range(count):
        (loaded.workdir / f"go{number}").write_text("go\n")
    held: dict[int, set[str]] = {}
    for _ in range(count):
        answer = loaded.receive()
        output = json.loads(answer["result"]["content"][0]["text"])["output"]
        held[answer["id"]] = set(re.findall(r"(?:pipe|socket):\[\d+\]", output))
        assert not re.search(r"/dev/zero|/go\d+|anon_inode", output)
    assert all(len(names) >= 3 for names in held.values()), held
    for number, names in held.items():
        for other in range(number):
            assert not names & held[other]


def test_the_servers_stdio_is_private(loaded: Raw) -> None:
    """0 and 1 are the null device; the protocol's ends are elsewhere, and closed in whatever the server executes."""
    process = loaded.process
    assert process.stdin is not None
    assert process.stdout is not None
    held = of_process(process.pid)
    assert (held[0], held[1]) == ("/dev/null", "/dev/null")
    for stream in (process.stdin, process.stdout):
        name = str(Path(f"/proc/self/fd/{stream.fileno()}").readlink())
        (number,) = (one for one, other in held.items() if other == name)
        flags = Path(f"/proc/{process.pid}/fdinfo/{number}").read_text().split("flags:")[1].split()[0]
        assert number > 2
        assert int(flags, 8) & os.O_CLOEXEC
