"""Choosing a shell: the table, trials, overrides, and errors that list every place."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from codex_shell_tool_mcp.errors import MissingBinaryError
from codex_shell_tool_mcp.shells import catalog
from codex_shell_tool_mcp.shells.catalog import OVERRIDDEN, ShellProgram, choose_shell, host_target, trial, variants

PATCHED = "#!/bin/sh\nexit 40\n"
UNPATCHED = "#!/bin/sh\nexit 41\n"
WRONG_LIBC = "#!/bin/sh\necho 'version GLIBC_2.99 not found' >&2\nexit 1\n"


def program(path: Path, text: str = PATCHED, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def vendor(tmp_path: Path) -> Path:
    return tmp_path / "vendor"


def shell_at(vendor: Path, variant: str) -> Path:
    return vendor / "linux-x64" / "bash" / variant / "bash"


def choose(vendor: Path | None, given: Path | None = None, environ: dict[bytes, bytes] | None = None) -> ShellProgram:
    return choose_shell(given=given, environ=environ or {}, vendor=vendor, target="linux-x64")


def test_the_table_has_every_target_of_the_package() -> None:
    found = {(row.target, row.variant) for row in variants()}
    assert found >= {("linux-x64", "gnu"), ("linux-x64", "musl"), ("linux-arm64", "gnu"), ("linux-arm64", "musl")}
    assert {row.target for row in variants()} == {"linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64"}
    assert all(row.zig for row in variants())


@pytest.mark.parametrize(
    ("system", "machine", "target"),
    [
        ("linux", "x86_64", "linux-x64"),
        ("linux", "aarch64", "linux-arm64"),
        ("darwin", "x86_64", "darwin-x64"),
        ("darwin", "arm64", "darwin-arm64"),
        ("linux", "AMD64", "linux-x64"),
    ],
)
def test_targets(system: str, machine: str, target: str) -> None:
    assert host_target(system, machine) == target


@pytest.mark.parametrize(("system", "machine"), [("linux", "riscv64"), ("freebsd14", "amd64"), ("win32", "AMD64")])
def test_hosts_nothing_is_built_for(system: str, machine: str) -> None:
    with pytest.raises(MissingBinaryError, match=f"nothing is built for {system} on {machine}; there are darwin-arm64"):
        host_target(system, machine)


def test_gnu_comes_first(vendor: Path) -> None:
    program(shell_at(vendor, "gnu"))
    program(shell_at(vendor, "musl"))
    assert choose(vendor) == ShellProgram(path=shell_at(vendor, "gnu"), variant="gnu")


@pytest.mark.parametrize("text", [WRONG_LIBC, "#!/lib64/ld-linux-nowhere.so.2\n", UNPATCHED])
def test_musl_where_gnu_does_not_run(vendor: Path, text: str) -> None:
    program(shell_at(vendor, "gnu"), text)
    program(shell_at(vendor, "musl"))
    assert choose(vendor) == ShellProgram(path=shell_at(vendor, "musl"), variant="musl")


def test_the_error_lists_every_place_and_what_is_wrong_there(vendor: Path) -> None:
    program(shell_at(vendor, "gnu"), WRONG_LIBC)
    with pytest.raises(MissingBinaryError) as caught:
        choose(vendor)
    text = str(caught.value)
    assert f"{shell_at(vendor, 'gnu')}: cannot run here: version GLIBC_2.99 not found" in text
    assert f"{shell_at(vendor, 'musl')}: no such file" in text
    assert "--bash" in text
    assert "CODEX_BASH_PATH" in text


def test_no_vendor_folder() -> None:
    with pytest.raises(MissingBinaryError, match="there is no vendor folder"):
        choose(None)


def test_the_option_beats_the_variable_beats_the_table(tmp_path: Path, vendor: Path) -> None:
    program(shell_at(vendor, "gnu"))
    option, variable = program(tmp_path / "option"), program(tmp_path / "variable")
    environ = {b"CODEX_BASH_PATH": bytes(variable)}
    assert choose(vendor, option, environ) == ShellProgram(path=option, variant=OVERRIDDEN)
    assert choose(vendor, None, environ) == ShellProgram(path=variable, variant=OVERRIDDEN)
    assert choose(vendor, None, {b"CODEX_BASH_PATH": b""}).variant == "gnu"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "a directory"),
        (lambda path: program(path, mode=0o644), "not executable"),
        (lambda path: program(path, UNPATCHED), "runs, but without our patch: rules would not see what it starts"),
        (lambda path: program(path, "#!/nowhere/interpreter\n"), "its program interpreter (libc) is missing"),
        (lambda path: program(path, "\x7fELF garbage"), "cannot run here: [Errno 8]"),
        (lambda path: program(path, "#!/bin/sh\nexit 3\n"), "cannot run here: status 3"),
    ],
)
def test_one_that_was_named_is_never_replaced(tmp_path: Path, vendor: Path, make: object, text: str) -> None:
    program(shell_at(vendor, "gnu"))
    named = tmp_path / "named"
    make(named)  # type: ignore[operator]
    for given, environ, origin in (
        (named, {}, "--bash"),
        (None, {b"CODEX_BASH_PATH": bytes(named)}, "CODEX_BASH_PATH"),
    ):
        with pytest.raises(MissingBinaryError) as caught:
            choose(vendor, given, environ)
        assert f"no usable shell: {origin} is {named}: " in str(caught.value)
        assert text in str(caught.value)


def test_a_shell_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_TRIAL_SECONDS", 0.2)
    wrong = trial(program(tmp_path / "slow", "#!/bin/sh\nexec sleep 30\n"))
    assert wrong is not None
    assert "timed out" in wrong


def test_a_stock_shell_is_recognised() -> None:
    wrong = trial(Path("/bin/bash"))
    assert wrong == "runs, but without our patch: rules would not see what it starts"


def test_the_trial_reads_nobodys_start_up_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "read"
    rc = program(tmp_path / "rc", f"touch {marker}\n")
    monkeypatch.setenv("BASH_ENV", str(rc))
    monkeypatch.setenv("ENV", str(rc))
    trial(Path("/bin/bash"))
    assert not marker.exists()
    subprocess.run(["/bin/bash", "-c", ":"], check=True)
    assert marker.exists()  # or the test would show nothing


class TestZsh:
    """The same rules, with its own option, variable and rows."""

    def zsh_at(self, vendor: Path, variant: str) -> Path:
        return vendor / "linux-x64" / "zsh" / variant / "zsh"

    def choose(
        self, vendor: Path | None, given: Path | None = None, environ: dict[bytes, bytes] | None = None
    ) -> ShellProgram:
        return choose_shell(given=given, environ=environ or {}, vendor=vendor, target="linux-x64", shell="zsh")

    def test_its_rows_in_order(self, vendor: Path) -> None:
        program(shell_at(vendor, "gnu"))
        program(self.zsh_at(vendor, "gnu"), WRONG_LIBC)
        program(self.zsh_at(vendor, "musl"))
        assert self.choose(vendor) == ShellProgram(path=self.zsh_at(vendor, "musl"), variant="musl", shell="zsh")

    def test_its_variable_and_not_bashs(self, vendor: Path, tmp_path: Path) -> None:
        own = program(tmp_path / "own")
        found = self.choose(vendor, environ={b"CODEX_ZSH_PATH": bytes(own), b"CODEX_BASH_PATH": b"/nowhere"})
        assert found == ShellProgram(path=own, variant=OVERRIDDEN, shell="zsh")

    def test_its_option_wins(self, vendor: Path, tmp_path: Path) -> None:
        own = program(tmp_path / "own")
        assert self.choose(vendor, given=own, environ={b"CODEX_ZSH_PATH": b"/nowhere"}).path == own

    def test_what_is_wrong_is_told_with_its_names(self, vendor: Path, tmp_path: Path) -> None:
        with pytest.raises(MissingBinaryError, match=r"no usable shell: --zsh is .*/gone: no such file"):
            self.choose(vendor, given=tmp_path / "gone")
        with pytest.raises(MissingBinaryError, match=r"/zsh/gnu/zsh: no such file; .* with --zsh or CODEX_ZSH_PATH$"):
            self.choose(vendor)

    def test_who_runs_plain_scripts(self, tmp_path: Path) -> None:
        assert ShellProgram(path=tmp_path, variant="gnu").of_plain_scripts == tmp_path
        assert ShellProgram(path=tmp_path, variant="gnu", shell="zsh").of_plain_scripts == Path("/bin/sh")
