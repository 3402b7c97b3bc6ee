"""How the server ends, what it leaves behind (nothing), and that nobody else can speak on its stdout."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.clients import Installation, Raw
from support.marked import waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


def marked(mark: str) -> list[int]:
    """Processes with ``mark`` in their arguments or environment, this one and its ancestors left out."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def mark() -> str:
    """An argument of sleep(1) that no other test uses."""
    return f"4{os.getpid()}.{time.monotonic_ns() % 10**9}"


@contextlib.contextmanager
def busy(installation: Installation, mark: str) -> Iterator[Raw]:
    """A server in the middle of a call: a foreground child, a background one and one in a session of its own."""
    with installation.raw() as server:
        server.send(server.call(1, f"sleep {mark} & setsid sleep {mark} & sleep {mark}"))
        wait_for(lambda: len(marked(mark)) == 3)
        yield server


def test_it_ends_when_stdin_does(installation: Installation) -> None:
    with installation.raw() as server:
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.process.wait(60) == 0
        assert server.rest() == b""


def test_it_ends_when_stdin_does_before_anything_was_said(installation: Installation) -> None:
    with installation.raw(shake_hands=False) as server:
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.process.wait(60) == 0


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_it(installation: Installation, number: signal.Signals) -> None:
    with installation.raw() as server:
        server.process.send_signal(number)
        assert server.process.wait(60) == -number


def test_the_end_of_stdin_ends_running_calls(installation: Installation, mark: str) -> None:
    with busy(installation, mark) as server:
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.process.wait(60) == 0
        assert marked(mark) == []


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_running_calls(installation: Installation, mark: str, number: signal.Signals) -> None:
    with busy(installation, mark) as server:
        server.process.send_signal(number)
        assert server.process.wait(60) == -number
        assert marked(mark) == []
        # Whoever still listens is told: no call is left without an answer.
        answer = json.loads(server.rest())
        assert (answer["id"], answer["error"]["message"]) == (1, "Connection closed")


def test_even_a_killed_server_leaves_nothing(installation: Installation, mark: str) -> None:
    with busy(installation, mark) as server:
        server.process.kill()
        server.process.wait(60)
        wait_for(lambda: not marked(mark))


def test_a_client_that_stops_reading_ends_it(installation: Installation) -> None:
    with installation.raw() as server:
        assert server.process.stdout is not None
        server.process.stdout.close()
        server.send(server.call(1, "echo nobody hears this"))
        assert server.process.wait(60) == 0


PARENT = """
import json, subprocess, sys
server = subprocess.Popen(json.loads(sys.argv[1]), stdin=int(sys.argv[2]), stdout=subprocess.PIPE)
print(server.stdout.readline().decode(), server.pid, flush=True)
server.wait()
"""


def test_it_ends_when_its_parent_dies(installation: Installation) -> None:
    """Though somebody else still holds the other end of its stdin."""
    source, sink = os.pipe()
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}
    os.write(sink, json.dumps(message).encode() + b"\n")
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, json.dumps(installation.command()), str(source)],
        env=installation.environment(),
        pass_fds=(source,),
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        assert json.loads(parent.stdout.readline())["id"] == 0
        pid = int(parent.stdout.readline())
        parent.kill()
    try:
        wait_for(lambda: not _is_running(pid))
    finally:
        os.close(source)
        os.close(sink)


def _is_running(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z"


def test_ignored_signals_stay_ignored(installation: Installation) -> None:
    """As under nohup(1)."""
    command = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *installation.command()]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=installation.environment(),
        stderr=subprocess.DEVNULL,
    ) as process:
        server = Raw(process=process, workdir=installation.workdir)
        server.shake_hands({})
        process.send_signal(signal.SIGHUP)
        server.send(server.call(1, "echo alive"))
        assert server.result()["output"] == "alive\n"
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM


def test_a_script_cannot_reach_the_protocol(installation: Installation) -> None:
    """Its parents' stdout is not the protocol, nor is any descriptor it has."""
    installation.rules('prefix_rule(pattern=["sh"], decision="allow")\n')
    forged = '{"jsonrpc":"2.0","id":99,"result":{"forged":true}}'
    script = f"""
    pid=$$
    while [ "$pid" -gt 1 ]; do
        for fd in 0 1; do (echo '{forged}' > /proc/$pid/fd/$fd) 2>/dev/null; done
        read -r _ _ _ pid _ < <(sed 's/([^)]*)/x/' /proc/$pid/stat)
        case $(readlink /proc/$pid/exe) in *python*|*codex-exec-mcp-server*) break;; esac
    done
    (echo '{forged}' > /proc/$pid/fd/1) && echo reached $pid
    sh -c 'for fd in /proc/self/fd/*; do readlink $fd; done'
    for fd in /proc/self/fd/*; do readlink $fd; done
    """
    with installation.raw() as server:
        server.send(server.call(1, script))
        answer = server.receive()
        assert answer["id"] == 1
        output = json.loads(answer["result"]["content"][0]["text"])["output"]
        assert f"reached {server.process.pid}" in output
        pipes = {
            str(Path(f"/proc/self/fd/{stream.fileno()}").readlink())
            for stream in (server.process.stdin, server.process.stdout)
            if stream
        }
        assert not pipes & set(output.splitlines())
        server.send(server.call(2, "echo alive"))
        assert server.receive()["id"] == 2


def test_the_servers_own_stdio_is_the_null_device(installation: Installation) -> None:
    with installation.raw() as server:
        links = [str(Path(f"/proc/{server.process.pid}/fd/{number}").readlink()) for number in (0, 1)]
    assert links == ["/dev/null", "/dev/null"]


def test_stdout_holds_messages_only_however_loud_the_log(installation: Installation) -> None:
    installation.environ["CODEX_LOG"] = "trace"
    installation.rules('prefix_rule(pattern=["ls"], decision="forbidden")\n')
    with installation.raw() as server:
        server.write(b"garbage\n")
        server.send(server.call(1, "ls; echo hi"), server.call(2, 'echo "$(id)"'), {"id": 3, "method": "no/such"})
        seen = {server.receive()["id"] for _ in range(3)}
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.rest() == b""
    assert seen == {1, 2, 3}
    log = installation.log.read_text()
    assert "INFO" in log
    assert "a line that is no JSON-RPC message was ignored: b'garbage" in log


def test_nothing_is_logged_unless_something_is_wrong(installation: Installation) -> None:
    installation.shell("echo hi; ls /nonexistent; exit 3")
    assert installation.log.read_text() == ""


def test_no_descriptor_is_left_after_calls(installation: Installation) -> None:
    with installation.raw() as server:

        def descriptors() -> int:
            return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))

        server.send(server.call(1, "ls > /dev/null"))
        server.result()
        wait_for(lambda: waiting(server.process.pid))  # and everything of the call is put away
        before = descriptors()
        for number in range(2, 12):
            server.send(server.call(number, "ls | cat > /dev/null", timeout_ms=30_000 if number % 2 else 0))
            server.result()
        wait_for(lambda: waiting(server.process.pid) and descriptors() <= before)


def test_stdin_that_is_closed_is_an_error(installation: Installation) -> None:
    command = ["sh", "-c", 'exec "$@" <&-', "sh", *installation.command()]
    ran = subprocess.run(command, env=installation.environment(), capture_output=True, check=False)
    assert ran.returncode == 2
    assert b"stdin or stdout is closed" in ran.stderr
