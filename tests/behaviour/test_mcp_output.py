"""What a call gives back of what was printed: all of it, in order, bounded, and never mistaken for a failure."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.clients import Installation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.clients import Raw

MARKER = re.compile(r"\n\[\.\.\. (\d+) bytes of output left out \.\.\.\]\n")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raw]:
    """One server for all tests that do not harm it; ``tac`` is escalated."""
    installation = make(tmp_path_factory.mktemp("output"))
    installation.rules('prefix_rule(pattern=["tac"], decision="allow")\n')
    with installation.raw() as server:
        yield server


def make(folder: Path) -> Installation:
    """A server of its own in ``folder``."""
    for name in ("home", "work"):
        (folder / name).mkdir()
    return Installation(home=folder / "home", workdir=folder / "work")


def output(server: Raw, script: str, **arguments: object) -> str:
    """What a script that must succeed prints."""
    server.send(server.call(1, script, **arguments))
    found = server.result()
    assert (found["exit_code"], found["timed_out"]) == (0, False), found
    return str(found["output"])


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exec > >(tee log) 2>&1; echo one; echo two >&2; /bin/echo three", "one\ntwo\nthree\n"),
        ("exec > >(while read -r line; do echo got $line; done); echo a; /bin/echo b", "got a\ngot b\n"),
        ("exec 2> >(tac >&2); echo a >&2; echo b >&2", "b\na\n"),  # escalated
    ],
)  # fmt: skip
def test_what_comes_after_the_shells_end_is_there(shared: Raw, script: str, expected: str) -> None:
    assert output(shared, script) == expected


def test_order_of_both_streams_and_all_programs_is_kept(shared: Raw) -> None:
    each = "echo o$n; echo e$n >&2; /bin/echo p$n >&2; echo t$n | tac"
    expected = "".join(f"o{n}\ne{n}\np{n}\nt{n}\n" for n in range(20))
    assert output(shared, f"for n in {{0..19}}; do {each}; done") == expected


@pytest.mark.parametrize(
    "words", ["permission denied", "Operation not permitted (seccomp)", "sandbox: denied", "Error: failed"]
)
@pytest.mark.parametrize("status", [1, 2, 101, 126, 127, 137, 159])
def test_a_failed_command_is_a_result_whatever_it_says(shared: Raw, words: str, status: int) -> None:
    shared.send(shared.call(1, f"echo '{words}' >&2; exit {status}"))
    found = shared.result()  # not an error
    assert (found["exit_code"], found["output"], found["timed_out"]) == (status, f"{words}\n", False)


def test_any_bytes_are_text(shared: Raw) -> None:
    assert output(shared, r"printf 'a\xffb\xe2\x82\0c\x1b[0m\u20ac'") == "a\ufffdb\ufffd\0c\x1b[0m€"


def test_a_timeout_keeps_what_was_printed(shared: Raw) -> None:
    shared.send(shared.call(1, "seq 200000; echo last; sleep 1000", timeout_ms=6000))
    found = shared.result()
    assert (found["exit_code"], found["timed_out"]) == (124, True)
    text = str(found["output"])
    assert text.startswith("1\n2\n3\n")
    assert text.endswith("\n200000\nlast\n")
    marker = MARKER.search(text)
    assert marker
    assert len(MARKER.sub("", text)) == 1024 * 1024
    assert int(marker[1]) == sum(len(f"{n}\n") for n in range(1, 200_001)) + len("last\n") - 1024 * 1024


def test_a_flood_is_cut_short_by_the_timeout(shared: Raw) -> None:
    shared.send(shared.call(1, "yes", timeout_ms=400), shared.call(2, "echo meanwhile"))
    answers = {message["id"]: message["result"] for message in (shared.receive(), shared.receive())}
    assert set(answers) == {1, 2}
    assert '"timed_out":true' in answers[1]["content"][0]["text"]
    assert '"output":"meanwhile\\n"' in answers[2]["content"][0]["text"]


def test_the_limit_is_an_option(tmp_path: Path) -> None:
    installation = make(tmp_path)
    installation.options += ("--max-output-bytes", "10")
    found = installation.shell("echo 123456789; exit 3")
    assert (found["exit_code"], found["output"]) == (3, "123456789\n")
    found = installation.shell("echo 1234; echo 5678; echo 90")
    assert found["output"] == "1234\n\n[... 3 bytes of output left out ...]\n8\n90\n"


def peak(server: Raw) -> int:
    """The most memory the server ever had, in bytes (proc(5), VmHWM)."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def test_memory_does_not_grow_with_the_volume(tmp_path: Path) -> None:
    """200 MB cost the server no more memory than 2 MB, of which as much is kept."""
    with make(tmp_path).raw() as server:
        for megabytes in (2, 2):
            assert MARKER.search(output(server, f"yes 0123456789abcde | head -c {megabytes}000000"))
        before = peak(server)
        text = output(server, "yes 0123456789abcde | head -c 200000000")
        assert f"{200_000_000 - 1024 * 1024} bytes of output left out" in text
        assert peak(server) - before < 8_000_000
