"""One conformance suite for both wrappers, the native and the Python one, against a service driven by hand.

The Python one is tested as it ships, frozen; where that is not the same program (its entry point), unfrozen as well.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from codex_shell_tool_mcp.escalation import client, wire
from codex_shell_tool_mcp.escalation.wire import Outcome
from support.built import built
from support.service import Caller, Service, calling

SOURCE = str(Path(__file__).parents[2] / "src").encode()


pytestmark = pytest.mark.timeout(900)  # the first to run may have to freeze

Start = Callable[..., AbstractContextManager[Caller]]


def command_of(kind: str, name: str | None = None) -> tuple[list[str | bytes], str]:
    """What starts a wrapper under ``name`` as its argv[0], up to the file it is asked about; and the executable."""
    if kind in {"native", "frozen"}:
        wrapper = str(built().wrapper if kind == "native" else built().frozen_wrapper)
        return [name or wrapper], wrapper
    # Python's own argv[0] is set by what freezes it; here, by hand.
    code = f"import sys; sys.argv[0] = {name or 'codex-execve-wrapper'!r}; from {client.__name__} import main; main()"
    return [sys.executable, "-c", code], sys.executable


KINDS = ["frozen", "native"]


@pytest.fixture(params=KINDS)
def start(request: pytest.FixtureRequest) -> Start:
    """Starts the wrapper, asked to run ``command`` (file, argv0, arguments)."""

    def starter(
        *command: str | bytes, name: str | None = None, inherited: tuple[int, ...] = ()
    ) -> AbstractContextManager[Caller]:
        head, executable = command_of(request.param, name)
        env = {b"PYTHONPATH": SOURCE, b"ODD": b"\xff\xfe"}
        return calling([*head, *command], executable=executable, env=env, inherited=inherited)

    return starter


def test_run_executes_in_place_with_arguments_and_environment_unchanged(start: Start) -> None:
    with start("/bin/sh", "odd name", "-c", 'printf "%s|" "$0" "$@" "$ODD"', "zero", b"\xfe", "") as caller:
        service, request = caller.ask()
        assert request.file == b"/bin/sh"
        assert request.argv == (b"odd name", b"-c", b'printf "%s|" "$0" "$@" "$ODD"', b"zero", b"\xfe", b"")
        assert b"ODD=\xff\xfe" in request.env
        assert os.path.samestat(os.fstat(service.received[0]), Path("/bin/sh").stat())
        assert request.cwd == os.fsencode(Path.cwd())
        service.send(wire.Run())
        assert service.receive() is None, "the stream ends with the exec"
        service.close()
        assert caller.outcome() == (0, b"zero|\xfe||\xff\xfe|", b"")


@pytest.mark.parametrize(
    ("answer", "status", "stderr"),
    [
        (wire.Deny(reason="no käse"), 1, "Execution denied: no käse\n".encode()),
        (wire.Deny(), 1, b"Execution denied\n"),
        (wire.Error(reason="broken"), 126, b"codex-execve-wrapper: /bin/echo: not run: broken\n"),
    ],
)
def test_refusals(start: Start, answer: wire.Frame, status: int, stderr: bytes) -> None:
    with start("/bin/echo", "echo", "ran") as caller:
        service, _ = caller.ask()
        service.send(answer)
        service.close()
        assert caller.outcome() == (status, b"", stderr)


@pytest.mark.parametrize(
    "garbage", [b"", b"\x01\0\0\0\xff", b"\xff\xff\xff\xff", b"\x01\0\0\0\x0c", b"\x02\0\0\0\x02\0"]
)
def test_a_lost_or_broken_server_stops_the_exec(start: Start, garbage: bytes) -> None:
    with start("/bin/echo", "echo", "ran") as caller:
        service, _ = caller.ask()
        service.send_raw(garbage)
        service.close()
        status, out, err = caller.outcome()
        assert (status, out) == (126, b"")
        assert err.startswith(b"codex-execve-wrapper: /bin/echo: not run: ")
        assert err.count(b"\n") == 1


def test_a_failed_exec_is_reported_to_the_server_and_as_the_shell_would(start: Start, tmp_path: Path) -> None:
    with start(str(tmp_path / "missing"), "missing") as caller:
        service, request = caller.ask()
        assert request.program is None
        service.send(wire.Run())
        assert service.receive() == wire.ExecFailed(errno=2)
        service.close()
        assert caller.outcome()[0] == 127


def test_a_request_larger_than_any_socket_buffer(start: Start) -> None:
    arguments = [f"{number:0100000d}" for number in range(12)]
    with start("/bin/true", "true", *arguments) as caller:
        service, request = caller.ask()
        assert [len(argument) for argument in request.argv[1:]] == [100000] * 12
        service.send(wire.Run())
        assert service.receive() is None
        service.close()
        assert caller.outcome()[0] == 0


def test_ask_mode_answers_with_one_byte_and_runs_nothing(start: Start) -> None:
    read_end, write_end = os.pipe()
    with start("/bin/echo", "echo", "ran", name=f"codex-execve-ask:{write_end}", inherited=(write_end,)) as caller:
        os.close(write_end)
        service, request = caller.ask()
        assert request.ask
        service.send(wire.Run())
        service.close()
        assert caller.outcome() == (0, b"", b"")
        assert os.read(read_end, 10) == b"R"
        os.close(read_end)


def test_ask_mode_says_that_it_ran_elsewhere(start: Start) -> None:
    read_end, write_end = os.pipe()
    with start("/bin/echo", "echo", "ran", name=f"codex-execve-ask:{write_end}", inherited=(write_end,)) as caller:
        os.close(write_end)
        service, _ = caller.ask()
        numbers, _ = take_over(service)
        assert set(numbers) == {0, 1, 2}, "the answer's descriptor is not handed over"
        service.send(wire.Exit(outcome=Outcome(kind=wire.EXITED, value=5)))
        service.close()
        assert caller.outcome() == (5, b"", b"")
        assert os.read(read_end, 10) == b"E"
        os.close(read_end)


def take_over(service: Service) -> tuple[dict[int, int], wire.Attributes]:
    """Play the supervisor up to the attributes; returns number → received descriptor."""
    numbers: dict[int, int] = {}
    service.send(wire.Escalate())
    while isinstance(frame := service.receive(), wire.Fds):
        numbers.update(zip(frame.numbers, frame.descriptors, strict=True))
    assert isinstance(frame, wire.Attributes)
    return numbers, frame


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome(kind=wire.EXITED, value=7), 7),
        (Outcome(kind=wire.SIGNALLED, value=signal.SIGTERM), -signal.SIGTERM),
        (Outcome(kind=wire.SIGNALLED, value=signal.SIGKILL), -signal.SIGKILL),
        (Outcome(kind=wire.NOT_STARTED, value=2), 127),
        (Outcome(kind=wire.NOT_STARTED, value=13), 126),
    ],
)
def test_escalate_ends_as_the_child_did(start: Start, outcome: Outcome, status: int) -> None:
    with start("/bin/echo", "echo", "ran") as caller:
        service, _ = caller.ask()
        numbers, attributes = take_over(service)
        assert set(numbers) == {0, 1, 2}, "the socket, the stream and what Python opened are not handed over"
        assert os.path.samestat(os.fstat(numbers[1]), os.fstat(caller.output()))
        assert {limit.resource for limit in attributes.limits} >= {0, 7}
        service.send(wire.Exit(outcome=outcome))
        service.close()
        assert caller.outcome()[:2] == (status, b"")


def test_signals_are_forwarded(start: Start) -> None:
    with start("/bin/echo", "echo", "ran") as caller:
        service, _ = caller.ask()
        take_over(service)
        wait_until_caught(caller, signal.SIGUSR1)
        caller.process.send_signal(signal.SIGUSR1)
        assert service.receive() == wire.Signal(number=signal.SIGUSR1)
        service.send(wire.Exit(outcome=Outcome(kind=wire.EXITED, value=0)))
        service.close()
        assert caller.outcome()[0] == 0


def wait_until_caught(caller: Caller, number: int) -> None:
    """Wait until it handles signals: before, one ends it as it would the program."""
    bit = 1 << (number - 1)
    while True:
        text = Path(f"/proc/{caller.process.pid}/status").read_text()
        masks = {line.split(":")[0]: int(line.split()[1], 16) for line in text.splitlines() if line.startswith("Sig")
                 and "/" not in line}  # fmt: skip
        if masks["SigCgt"] & bit and not masks["SigBlk"] & bit:
            return


@pytest.mark.parametrize(
    ("value", "cause"), [(None, b"not set"), ("x", b"not a number"), ("0", b"not a socket"), ("999", b"not a socket")]
)
@pytest.mark.parametrize("kind", [*KINDS, "python"])
def test_without_a_socket_nothing_runs(kind: str, value: str | None, cause: bytes) -> None:
    environment = {**os.environ, "PYTHONPATH": os.fsdecode(SOURCE)}
    environment.pop("CODEX_ESCALATE_SOCKET", None)
    if value is not None:
        environment["CODEX_ESCALATE_SOCKET"] = value
    head, executable = command_of(kind)
    done = subprocess.run(
        [*head, "/bin/echo", "echo", "ran"],
        executable=executable,
        env=environment,
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout) == (126, b"")
    assert cause in done.stderr


@pytest.mark.parametrize("kind", [*KINDS, "python"])
def test_too_few_arguments(kind: str) -> None:
    head, executable = command_of(kind)
    environment = {"PYTHONPATH": os.fsdecode(SOURCE)}
    done = subprocess.run(
        [*head, "/bin/echo"], executable=executable, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 126
    assert done.stderr.startswith(b"usage:")
