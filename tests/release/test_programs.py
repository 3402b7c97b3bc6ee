"""The table of programs in ``docs/releasing.md``: what it lists is what is built, and what it says was looked at.

Sizes and hashes are those of the run that wrote it: they change with every commit to the C code, and ``./run evidence``
says them for each release. What is current here is the form: every program, its baseline, and how it was verified.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shell_tool_release import programs, verified
from shell_tool_release.cache import file_sha256
from shell_tool_release.errors import BuildError
from shell_tool_release.npm import package_path
from shell_tool_release.options import TARGETS
from shell_tool_release.portable_python import TRIPLES
from shell_tool_release.programs import HEADINGS, MARKS, Row, looked_at, with_table
from shell_tool_release.shells import KINDS
from shell_tool_release.variants import load_variants
from shell_tool_release.workspace import Workspace, find_workspace, host_platform

ROOT = Path(__file__).parents[2]


def rows_in(text: str) -> list[list[str]]:
    """The cells of the table between the marks, without its headings."""
    part = text.split(MARKS[0])[1].split(MARKS[1], maxsplit=1)[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == list(HEADINGS)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_table_lists_what_is_built_with_its_baseline() -> None:
    listed = {cells[0].strip("`"): cells for cells in rows_in((ROOT / programs.DOCUMENT).read_text(encoding="utf-8"))}
    words = {"glibc": "glibc 2.17", "musl": "static (musl)", "macos": "macOS 11.0"}
    expected = {
        row.package_path: words[row.libc] for row in load_variants(find_workspace().variants_file) if row.shell in KINDS
    }
    for target in TARGETS:
        libc = "musl" if target.startswith("linux") else "macos"
        expected |= {f"{target}/bin/{name}": words[libc] for name in ("codex-execve-wrapper", "codex-shell-supervisor")}
    servers = {re.sub(r" \(\d+ files\)$", "", name): cells for name, cells in listed.items()}
    expected |= {f"{target}/server": "glibc 2.17" for target in TRIPLES}
    assert {name: cells[3] for name, cells in servers.items() if not name.endswith(".tgz")} == expected
    for name, cells in listed.items():
        assert int(cells[1].replace(",", "")) > 10_000, name
        assert re.fullmatch(r"`[0-9a-f]{16}`", cells[2]), name
        assert re.fullmatch(r"\d+ s", cells[4]), name
        assert "started" in cells[5] or "read" in cells[5] or name.endswith(".tgz"), name


def test_this_machines_programs_are_built_checked_and_started() -> None:
    rows = {row.artefact: row for row in looked_at(find_workspace(), (host_platform(),))}
    shell = rows[f"{host_platform()}/bash/{'macos' if host_platform().startswith('darwin') else 'gnu'}/bash"]
    assert shell.verified_on.endswith(": started")
    assert shell.size > 1_000_000


def test_this_machines_server_is_listed_as_a_whole() -> None:
    if host_platform() not in TRIPLES:
        pytest.skip("its server is frozen with the machine's own Python")
    row = programs._server(find_workspace(), host_platform())
    assert re.fullmatch(rf"{host_platform()}/server \(\d{{3}} files\)", row.artefact)
    assert row.verified_on.endswith(": started")
    assert row.built_in is not None
    assert row.built_in > 10, "a Python was built for it"


def test_a_package_that_nothing_was_tried_with_is_not_listed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workspace: Workspace
) -> None:
    monkeypatch.setenv("CODEX_BUILD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pyproject.toml").write_text((workspace.root / "pyproject.toml").read_text())
    place = Workspace(root=tmp_path)
    assert programs._package(place) == []
    path = package_path(place)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a package")
    with pytest.raises(BuildError, match=r"nothing was tried with .*\.tgz as it is; run: \./run smoke"):
        programs._package(place)
    verified.note(file_sha256(path), "Debian 13")
    verified.note(file_sha256(path), "Debian 12")
    (row,) = programs._package(place)
    assert (row.verified_on, row.size, row.built_in) == ("Debian 12; Debian 13", 9, None)


def test_a_program_that_does_something_else_is_named() -> None:
    with pytest.raises(BuildError, match="status 3"):
        programs._started(["sh", "-c", "exit 3"], host_platform(), b"", 0)
    with pytest.raises(BuildError, match="status 0"):
        programs._started(["echo", "another"], host_platform(), b"", 0)


def test_the_table_is_written_between_its_marks() -> None:
    row = Row(
        artefact="a/b", size=1234, sha256="f" * 64, baseline="glibc 2.17", built_in=None, verified_on="Linux: started"
    )
    text = with_table(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter", [row], "Said:")
    assert text.startswith(f"before\n{MARKS[0]}\n\nSaid:\n\n| artefact |")
    assert "old" not in text
    assert rows_in(text) == [["`a/b`", "1,234", f"`{'f' * 16}`", "glibc 2.17", "", "Linux: started"]]
    with pytest.raises(BuildError, match="must have the marks"):
        with_table("nothing", [row], "Said:")
