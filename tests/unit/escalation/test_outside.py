"""What is executed outside for a request, and by which name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from codex_shell_tool_mcp.errors import ShellToolError
from codex_shell_tool_mcp.escalation import identity, wire
from codex_shell_tool_mcp.escalation.outside import Execution, execution
from codex_shell_tool_mcp.escalation.policy import ExecRequest

SHELL = Path("/bin/sh")


def executed(
    folder: Path,
    content: bytes,
    *,
    file: str = "./tool",
    writable: tuple[Path, ...] | None = None,
    shell: Path = SHELL,
    held_cwd: bool = True,
) -> tuple[Execution, bytes, int]:
    """How ``folder/tool`` is executed when called ``file``, what its descriptor holds, how many are open then."""
    (folder / "tool").write_bytes(content)
    (folder / "tool").chmod(0o755)
    program = os.open(folder / "tool", os.O_PATH)
    cwd = os.open(folder, os.O_PATH)
    try:
        name = identity.absolute(file, str(folder))
        roots = None if writable is None else identity.Roots.of(writable)
        trusted = roots is None or identity.name_is_trusted(name, str(folder / "tool"), roots)
        request = wire.Request(
            file=os.fsencode(file), cwd=os.fsencode(folder), argv=(b"zero", b"one"), env=(b"A=1", b"LD_PRELOAD=x"),
            umask=0, program=program, cwd_descriptor=cwd if held_cwd else None,
        )  # fmt: skip
        asked = ExecRequest(
            file=file, program=name, resolved=str(folder / "tool"), argv=("zero", "one"), cwd=str(folder),
            writable_by_sandbox=not trusted,
        )  # fmt: skip
        with execution(request, asked, shell, roots) as what:
            assert what.request.program is not None
            held = Path(f"/proc/self/fd/{what.request.program}").read_bytes()
            assert what.decided == identity.fingerprint(what.request.program)
        return what, held, len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    finally:
        os.close(program)
        os.close(cwd)


def test_an_image_is_executed_by_the_callers_name(tmp_path: Path) -> None:
    what, held, _ = executed(tmp_path, b"\x7fELF")
    assert (what.path, what.by_path, held) == (b"./tool", True, b"\x7fELF")
    assert what.request.argv == (b"zero", b"one")
    assert what.request.env == (b"A=1",)


def test_an_image_that_the_sandbox_can_write_is_executed_by_descriptor(tmp_path: Path) -> None:
    what, _, _ = executed(tmp_path, b"\x7fELF", writable=(tmp_path,))
    assert not what.by_path


def test_a_script_keeps_its_name_and_is_copied_where_the_sandbox_can_write(tmp_path: Path) -> None:
    what, _, _ = executed(tmp_path, b"#!/bin/sh\n", writable=(tmp_path / "other",))
    assert (what.path, what.by_path) == (b"./tool", True)
    what, held, _ = executed(tmp_path, b"#!/bin/sh\n", writable=(tmp_path,))
    assert (what.by_path, held) == (False, b"#!/bin/sh\n")


def test_a_plain_script_is_run_by_the_shell(tmp_path: Path) -> None:
    what, _, _ = executed(tmp_path, b"echo a\n")
    assert (what.path, what.by_path) == (b"/bin/sh", True)
    assert what.request.argv == (b"/bin/sh", b"--", b"./tool", b"one")


def test_a_plain_script_that_the_sandbox_can_write_is_copied_with_an_interpreter_line(tmp_path: Path) -> None:
    what, held, _ = executed(tmp_path, b"echo a\n", writable=(tmp_path,))
    assert (what.by_path, held) == (False, b"#!/bin/sh\necho a\n")
    assert what.request.argv == (b"zero", b"one")


@pytest.mark.parametrize("shell", ["/with blank/sh", "/" + "x" * 120, "/line\nbreak"])
def test_a_shell_that_fits_in_no_interpreter_line_is_named(tmp_path: Path, shell: str) -> None:
    with pytest.raises(ShellToolError, match="give the script an interpreter line"):
        executed(tmp_path, b"echo a\n", writable=(tmp_path,), shell=Path(shell))


def test_a_shell_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShellToolError, match="/nowhere cannot be opened"):
        executed(tmp_path, b"echo a\n", shell=Path("/nowhere"))


@pytest.mark.parametrize(
    ("file", "roots", "path"),
    [
        ("./tool", ("w",), "./tool"),
        ("sub/../tool", ("w",), "FOLDER/tool"),
        ("sub/../tool", None, "sub/../tool"),
        ("../FOLDER_NAME/tool", ("w",), "../FOLDER_NAME/tool"),
        ("FOLDER/w/../tool", ("w",), "FOLDER/tool"),
        ("FOLDER//./tool", ("w",), "FOLDER//./tool"),
    ],
)
def test_only_a_name_that_was_looked_at_is_used(
    tmp_path: Path, file: str, roots: tuple[str, ...] | None, path: str
) -> None:
    """A `..` behind a folder that the sandbox can replace leads wherever that leads."""

    def filled(text: str) -> str:
        return text.replace("FOLDER_NAME", tmp_path.name).replace("FOLDER", str(tmp_path))

    for name in ("sub", "w"):
        (tmp_path / name).mkdir()
    writable = None if roots is None else tuple(tmp_path / root for root in roots)
    what, _, _ = executed(tmp_path, b"\x7fELF", file=filled(file), writable=writable)
    assert (os.fsdecode(what.path), what.by_path) == (filled(path), True)


def test_a_name_that_starts_from_a_folder_the_sandbox_can_move_is_not_used(tmp_path: Path) -> None:
    inner = tmp_path / "w" / "inner"
    inner.mkdir(parents=True)
    program, cwd = os.open("/bin/sh", os.O_PATH), os.open(inner, os.O_PATH)
    real = os.path.realpath("/bin/sh")
    up = "../" * len(inner.parts)
    try:
        request = wire.Request(
            file=up.encode(), cwd=bytes(inner), argv=(), env=(), umask=0, program=program, cwd_descriptor=cwd
        )
        asked = ExecRequest(file=f"{up}{real[1:]}", program=real, resolved=real, argv=(), cwd=str(inner))
        with execution(request, asked, SHELL, identity.Roots.of((tmp_path / "w",))) as what:
            assert what.path == os.fsencode(real)
    finally:
        os.close(program)
        os.close(cwd)


def test_a_directory_that_is_only_named_starts_no_name(tmp_path: Path) -> None:
    what, _, _ = executed(tmp_path, b"\x7fELF", held_cwd=False)
    assert what.path == bytes(tmp_path / "tool")


def test_nothing_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for content in (b"#!/bin/sh\n", b"echo a\n"):
        for writable in (None, (tmp_path,)):
            assert (
                executed(tmp_path, content, writable=writable)[2] == before + 2
            )  # program and directory are open meanwhile


def test_a_file_that_could_not_be_opened_is_refused() -> None:
    request = wire.Request(file=b"x", cwd=b"/", argv=(), env=(), umask=0)
    asked = ExecRequest(file="x", program="/x", resolved=None, argv=(), cwd="/")
    with (
        pytest.raises(ShellToolError, match="no file of that name could be opened"),
        execution(request, asked, SHELL, None),
    ):
        pass
